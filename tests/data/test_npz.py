import contextlib
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.idx_files import pixels_of, small_arrays
from sparring.data import load_dataset
from sparring.data.npz import load_npz
from sparring.errors import DataError


def saved(path, **changes):
    """An .npz file of the small data set with some arrays changed, or left out where None."""
    arrays = {k: v for k, v in (small_arrays() | changes).items() if v is not None}
    np.savez(path / "toy.npz", **arrays)  # pyright: ignore[reportArgumentType] - none is a flag
    return str(path / "toy.npz")


def test_what_was_saved_is_read(tmp_path):
    arrays = small_arrays()
    data = load_dataset(saved(tmp_path))
    x = torch.cat([pixels_of(data.train), pixels_of(data.validation)])[:, 0]
    y = torch.cat([data.train.labels, data.validation.labels])
    assert (data.name, data.image_shape, data.num_classes) == ("toy", (1, 4, 5), 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (22, 2, 6)
    assert np.array_equal(x.numpy(), arrays["x_train"])
    assert np.array_equal(y.numpy(), arrays["y_train"])
    assert np.array_equal(pixels_of(data.test)[:, 0].numpy(), arrays["x_test"])
    assert np.array_equal(data.test.labels.numpy(), arrays["y_test"])


def test_a_given_validation_set_is_used_and_nothing_is_held_out(tmp_path):
    arrays = small_arrays()
    data = load_dataset(
        saved(tmp_path, x_validation=arrays["x_test"][:3], y_validation=arrays["y_test"][:3])
    )
    assert (len(data.train), len(data.validation)) == (24, 3)
    assert np.array_equal(pixels_of(data.validation)[:, 0].numpy(), arrays["x_test"][:3])


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first_or_last(tmp_path, channels):
    random = np.random.default_rng(1)
    x = random.integers(0, 256, (24, channels, 4, 5), dtype=np.uint8)
    first = load_dataset(saved(tmp_path, x_train=x, x_test=x[:6]))
    last = load_dataset(
        saved(tmp_path, x_train=x.transpose(0, 2, 3, 1), x_test=x[:6].transpose(0, 2, 3, 1))
    )
    assert first.image_shape == last.image_shape == (channels, 4, 5)
    assert torch.equal(pixels_of(first.train), pixels_of(last.train))
    assert np.array_equal(pixels_of(last.test).numpy(), x[:6])


@settings(derandomize=True, max_examples=20)
@given(dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 1000))
def test_float_grey_levels_are_read_as_the_levels_they_are(tmp_path_factory, dtype, seed):
    folder = tmp_path_factory.mktemp("npz")
    levels = np.random.default_rng(seed).integers(0, 256, (24, 4, 5), dtype=np.uint8)
    data = load_dataset(saved(folder, x_train=levels.astype(dtype) / dtype(255)))
    assert np.array_equal(pixels_of(data.train)[:, 0].numpy(), levels[:22])


def test_floats_are_checked_and_converted_beyond_the_first_piece(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2500, 2, 2), dtype=np.uint8)
    y = np.arange(2500) % 3
    small = {"x_test": x[:3], "y_test": y[:3], "y_train": y}
    data = load_dataset(saved(tmp_path, x_train=x / 255, **small))
    assert np.array_equal(pixels_of(data.train)[:, 0].numpy(), x[: len(data.train)])
    spoilt = x / 255
    spoilt[-1] = np.nan
    with pytest.raises(DataError, match=r"NaN"):
        load_dataset(saved(tmp_path, x_train=spoilt, **small))


def test_labels_may_be_a_column_of_any_whole_numbers(tmp_path):
    labels = small_arrays()["y_train"].astype(np.int32)[:, None]
    assert load_dataset(saved(tmp_path, y_train=labels)).train.labels[:4].tolist() == [0, 1, 2, 0]


X = small_arrays()["x_train"]
Y = small_arrays()["y_train"].astype(np.int64)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"y_test": None}, r"lacks the arrays y_test; it has x_test, x_tr"),
        ({"x_validation": X}, r"lacks the arrays y_validation"),
        ({"y_validation": Y}, r"lacks the arrays x_validation"),
        ({"x_train": X.astype(np.int64)}, r"unsigned bytes.*got int64 \(x_train.*astype"),
        ({"x_train": X > 127}, r"unsigned bytes.*got bool \(x_train.*by 255"),
        (
            {"x_train": (X > 127).astype(np.uint8)},
            r"No pixel is above 1.*Multiply 0/1 images by 255",
        ),
        ({"x_train": X / 255 - 0.5}, r"Float pixels must lie in \[0, 1\].*from -0\.5.*normalis"),
        ({"x_train": X.astype(np.float32)}, r"must lie in \[0, 1\].*to 255.*Divide grey levels"),
        ({"x_train": np.full(X.shape, np.inf)}, r"must lie in \[0, 1\].*to inf"),
        ({"x_test": np.full((6, 4, 5), np.nan)}, r"Pixels are NaN \(x_test of"),
        ({"x_train": X / 256}, r"whole grey levels.*levels away from the nearest \(x_train"),
        ({"x_train": (X / 255).astype(np.float16)}, r"whole grey levels.*To round them"),
        ({"x_train": X[0]}, r"N H W, N H W C or N C H W.*got shape \(4, 5\) "),
        ({"x_train": X[:, None, None]}, r"got shape \(24, 1, 1, 4, 5\)"),
        ({"x_train": np.stack([X, X], 1)}, r"got shape \(24, 2, 4, 5\) "),
        ({"x_train": X[:, None, :, :3]}, r"\(24, 1, 4, 3\): this could be either"),
        ({"x_train": X[:0], "y_train": Y[:0]}, r"not empty, .*got shape \(0, 4, 5\)"),
        ({"x_train": np.uint8(3)}, r"got shape \(\)"),
        ({"x_train": np.float32(0.2)}, r"Images must be N H W"),
        ({"y_train": Y / 1}, r"whole numbers.*got float64.*y == y\.round\(\) holds for all"),
        ({"y_train": Y == 1}, r"got bool.*y\.astype\('int64'\) makes 0 of False"),
        ({"y_train": Y.astype(str)}, r"got <U.*numpy\.unique\(y, return_inverse=True\)"),
        ({"y_train": np.eye(3, dtype=int)[Y]}, r"got int64 of shape \(24, 3\).*y\.argmax"),
        ({"x_train": X.astype(np.int16) - 9}, r"got int16.*If x\.min\(\) >= 0 and x\.max"),
        ({"y_train": Y[:-1]}, r"23 labels in y_train.*24 images in x_train"),
        ({"y_train": Y - 1}, r"0 to 1.*got -1 for image 0 \(y_train.*8 such"),
        ({"y_train": Y * 0 - 1}, r"must lie in 0 to 0.*got -1"),
        ({"y_train": Y * 0}, r"Every training label is 0 \(y_train"),
        ({"y_train": Y + 1}, r"0 to 3.*without any: 0 \(y_train.*Number the classes 0, 1"),
        ({"y_train": Y * 10**12}, r"without any: 1, 2, 3, 4, 5, … \(y_train"),
        ({"y_train": [*np.sort(Y)[:22].tolist(), 3, 3]}, r"without any: 3.*last 2 of the 24.*shuf"),
        ({"y_test": Y[:6] + 1}, r"0 to 2.*got 3 for image 2 \(y_test of"),
        ({"x_validation": X, "y_validation": Y + 1}, r"0 to 2.*got 3.*y_validation"),
        ({"x_test": X[:6, :3]}, r"one shape.*train: 1 x 4 x 5.*test: 1 x 3 x 5.*'toy'"),
        ({"x_train": X[:1], "y_train": Y[:1] + 1}, r"without any: 0, 1.*last 1 of the 1"),
    ],
)
def test_a_malformed_array_is_refused_by_name_and_reason(tmp_path, changes, complaint):
    with pytest.raises(DataError, match=complaint):
        load_dataset(saved(tmp_path, **changes))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the file was executed",))


def test_python_objects_in_a_file_are_refused_and_never_run(tmp_path):
    trap = np.empty(24, dtype=object)
    trap[:] = [Trap() for _ in range(24)]
    with pytest.raises(DataError, match=r"holds Python objects, which could run code"):
        load_dataset(saved(tmp_path, y_train=trap))


def test_a_file_that_is_no_zip_archive_is_refused(tmp_path):
    single = io.BytesIO()
    np.save(single, X)
    whole = tmp_path / "whole.npz"
    np.savez(whole, allow_pickle=False, **small_arrays())
    for content in (b"", b"hello", single.getvalue(), whole.read_bytes()[:-40]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.npz is no whole zip archive"):
            load_dataset(str(tmp_path / "bad.npz"))


def test_a_flipped_byte_is_noticed(tmp_path):
    source = saved(tmp_path)
    content = bytearray((tmp_path / "toy.npz").read_bytes())
    content[content.index(X.tobytes()) + 5] ^= 1
    (tmp_path / "toy.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x_train of .* undamaged; got Bad CRC"):
        load_dataset(source)


def npy(header: str, numbers: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """An .npy file with this header, whatever it says."""
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + numbers


def archive_with(path: Path, content: bytes, name: str = "x_train", **how: Any) -> str:
    """The small data set with one array replaced by these bytes."""
    saved(path, **{name: None})
    with zipfile.ZipFile(path / "toy.npz", "a", **how) as archive:
        archive.writestr(f"{name}.npy", content)
    return str(path / "toy.npz")


SHAPED = "{{'descr': '{}', 'fortran_order': False, 'shape': {}}}"
PLAIN = npy(SHAPED.format("|u1", "(24, 4, 5)"), X.tobytes())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy("{"),
        npy("'unclosed"),
        npy("(" * 500),
        npy("{'descr': '|u1'}"),
        npy("[1, 2]"),
        npy(SHAPED.format("|u1", "(10**11,)")),
        npy(SHAPED.format("|u1", "(100000000000, 4, 5)")),
        npy(SHAPED.format("|u1", "(-24, 4, 5)")),
        npy(SHAPED.format("|u1", "(True, 4, 5)")),
        npy(SHAPED.format("|u1", "24")),
        npy(SHAPED.format("|u1", f"({'1' * 5000},)")),
        npy(SHAPED.format("|u1", "(1,)" * 3)),
        npy(SHAPED.format("|V0", "(24, 4, 5)")),
        npy(SHAPED.format("<U99999999999", "(24, 4, 5)")),
        npy(SHAPED.format("|O", "(24, 4, 5)")),
        npy("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (480,)}", X.tobytes()),
        npy(SHAPED.format("|u1", "(24, 4, 5)"), X.tobytes(), b"\2\0")[:40],
        npy(SHAPED.format("|u1", "(24, 4, 5)"), X.tobytes(), b"\3\0"),
        npy(SHAPED.format("|u1", "(24, 4, 5)"), X.tobytes(), b"\x09\0"),
        PLAIN[:-1],
        PLAIN + b"!",
    ],
)
def test_a_header_that_is_not_what_follows_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"x_train|plain arrays"):
        load_dataset(archive_with(tmp_path, content))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(tmp_path, method):
    with pytest.raises(
        DataError, match=r"packed in another way; arrays must be stored or deflated"
    ):
        load_dataset(archive_with(tmp_path, PLAIN, compression=method))


@pytest.mark.parametrize("flag", [1, 1 << 5, 1 << 6, 1 << 13])
def test_encrypted_and_patched_members_are_refused_or_read(tmp_path, flag):
    path = Path(saved(tmp_path))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        spot = content.index(signature) + place
        content[spot : spot + 2] = struct.pack("<H", flag)
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        load_dataset(str(path))


def test_an_array_that_unpacks_to_gigabytes_is_refused_before_it_is(tmp_path):
    header = npy(SHAPED.format("|u1", "(24, 4096, 4096)"))
    path = tmp_path / "toy.npz"
    saved(tmp_path, x_train=None)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x_train.npy", "w") as member,
    ):
        member.write(header)
        for _ in range(24):
            member.write(bytes(4096 * 4096))
    with pytest.raises(DataError, match=r"unpacks from .*KiB to 384MiB; at most 200 times"):
        load_dataset(str(path))
    with pytest.raises(DataError, match=r"at most 200 times"):
        load_dataset(str(path), data_memory=1 << 20)


@pytest.mark.parametrize("name", ["y_train", "y_test"])
def test_labels_that_are_not_as_many_as_images_are_not_unpacked(tmp_path, name):
    header = npy(SHAPED.format("|u1", f"({1 << 40},)"))
    with pytest.raises(DataError, match=r"is damaged: its header announces"):
        load_dataset(archive_with(tmp_path, header, name))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("layout", ["N H W", "N H W C", "N C H W"])
def test_the_order_of_numbers_in_the_file_does_not_matter(tmp_path, dtype, layout):
    levels = np.random.default_rng(0).integers(2, 256, (24, 3, 4, 5), dtype=np.uint8)
    shaped = {"N H W": levels[:, 0], "N H W C": levels.transpose(0, 2, 3, 1), "N C H W": levels}
    x = shaped[layout] if dtype == np.uint8 else shaped[layout] / np.float32(255)
    found = [
        pixels_of(load_dataset(saved(tmp_path, x_train=order(x), x_test=x[:6])).train)
        for order in (np.ascontiguousarray, np.asfortranarray)
    ]
    expected = levels[:22, :1] if layout == "N H W" else levels[:22]
    assert all(np.array_equal(pixels.numpy(), expected) for pixels in found)


def test_images_in_columns_must_fit_into_memory(tmp_path):
    x = np.asfortranarray(X / 255)
    with pytest.raises(DataError, match=r"more than data_memory, 1KiB.*ascontiguousarray"):
        load_dataset(saved(tmp_path, x_train=x), data_memory=1024)


@settings(derandomize=True, max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_any_damage_is_told_in_a_sentence(tmp_path_factory, place, value, cut):
    path = tmp_path_factory.mktemp("npz") / "toy.npz"
    np.savez_compressed(path, allow_pickle=False, **small_arrays())
    content = bytearray(path.read_bytes())
    spot = int(place * len(content))
    content[spot] = value
    path.write_bytes(content[:spot] if cut else content)
    try:
        load_dataset(str(path))
    except DataError as error:
        assert len(str(error)) < 900


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "a.npz"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"cannot be read: it must be a regular"):
        load_npz(path)
