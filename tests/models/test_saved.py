"""A file of tensors is accepted as a whole or refused with a sentence."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.data import load_dataset
from sparring.errors import DataError
from sparring.models.saved import (
    Anything,
    Fields,
    Items,
    Maybe,
    Number,
    Numbers,
    Same,
    Text,
    read_saved,
    tensors_like,
)

PAIR = Numbers(dtype=torch.float32, shape=(2,), least=0, most=1, finite=True)

REFUSED = {
    "another type": (PAIR, torch.zeros(2, dtype=torch.float64), "must be torch.float32"),
    "another shape": (PAIR, torch.zeros(3), "of shape 3"),
    "another rank": (PAIR, torch.zeros(1, 2), "of shape 1x2"),
    "not finite": (PAIR, torch.tensor([0, float("nan")]), "finite"),
    "below": (PAIR, torch.tensor([0, -1.0]), "lie in 0 to 1"),
    "above": (PAIR, torch.tensor([0, 2.0]), "lie in 0 to 1"),
    "sparse": (PAIR, torch.zeros(2).to_sparse(), "a tensor"),
    "without numbers": (PAIR, torch.zeros(2, device="meta"), "a tensor"),
    "no tensor": (PAIR, [0.0, 1.0], "a tensor, not a value of type list"),
    "nothing": (PAIR, None, "not nothing"),
    "a truth": (Number(whole=True), True, "an integer"),
    "a fraction": (Number(whole=True), 1.5, "an integer"),
    "NaN": (Number(), float("nan"), "a number"),
    "infinity": (Number(), float("inf"), "lie in"),
    "too small": (Number(least=1), 0, "lie in 1 to inf"),
    "another value": (Same(1), True, "must be 1"),
    "no text": (Text(), b"a", "a text"),
    "no list": (Items([Text()]), ("a",), "a list"),
    "too few": (Items([Text()]), [], "1 items, not 0"),
    "a wrong item": (Items([Text(), Text()]), ["a", 1], r"it\[1\]"),
    "no mapping": (Fields({}), [], "by name"),
    "a name too few": (Fields({"a": Text()}), {}, "lacks a"),
    "a name too many": (Fields({}), {"b": 1}, "has 'b'"),
    "a wrong field": (Fields({"a": Fields({"b": Text()})}), {"a": {"b": 1}}, r"it\.a\.b"),
    "a wrong option": (Fields({}, {"a": Text()}), {"a": 1}, r"it\.a"),
    "a wrong maybe": (Maybe(Text()), 1, "a text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_schema_has_not_is_refused_with_its_place(name: str) -> None:
    kind, value, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        kind.check(value, "it")


def test_what_the_schema_has_is_accepted() -> None:
    state = {"w": torch.ones(2), "n": 3, "s": 0.5, "l": ["a"], "m": None, "x": object()}
    kinds = {"w": PAIR, "n": Number(whole=True), "s": Number(), "l": Items([Text()])}
    Fields({**kinds, "m": Maybe(PAIR), "x": Anything()}, {"o": Text()}).check(state, "it")
    network = torch.nn.BatchNorm1d(2).state_dict()
    tensors_like(network, list(network)).check(network, "it")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "file.pt"
    torch.save({"w": torch.arange(64.0), "n": 1}, path)
    return path.read_bytes()


@given(data=st.data())
def test_a_file_with_a_bit_flipped_is_refused_or_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, saved: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(saved)
    place = data.draw(st.integers(0, len(saved) - 1))
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(damaged)
    try:
        found = read_saved(path)
    except ValueError as error:
        assert str(error)
        assert len(str(error)) < 250
    else:
        assert isinstance(found, dict)
        assert torch.equal(found["w"], torch.arange(64.0))
        assert found["n"] == 1


def on_two_disks(saved: bytes) -> bytes:
    """An archive whose 64-bit locator says that it spans two disks."""
    place = saved.rindex(b"PK\x06\x07")
    return saved[: place + 16] + (2).to_bytes(4, "little") + saved[place + 20 :]


def test_an_archive_of_two_disks_is_refused(tmp_path: Path, saved: bytes) -> None:
    for name, read in (("file.pt", read_saved), ("file.npz", load_dataset)):
        (tmp_path / name).write_bytes(on_two_disks(saved))
        with pytest.raises((ValueError, DataError), match=r"\w"):
            read(tmp_path / name)


def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / "plain.pt").write_bytes(saved)
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match="compressed"):
        read_saved(tmp_path / "packed.pt")


def test_a_pipe_is_no_file_of_tensors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular file"):
        read_saved(tmp_path / "pipe")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(Path("x"), tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"."):
        read_saved(tmp_path / "code.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = 3\n", "it was not written by torch.save, or is damaged"),
        (b"", "it was not written by torch.save, or is damaged"),
        (pickle.dumps({"a": Path("x")}, protocol=2), "it holds a pathlib.*only code can restore"),
    ],
)
def test_another_file_is_refused_in_a_few_words(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{reason}$"):
        read_saved(tmp_path / "a.py")
