"""Parquet files and data sets saved to disk: the same pictures, whichever way they are kept."""

import io
import json
import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.idx_files import pixels_of
from data.pictures import CLASSES, picture
from sparring.cli.main import main
from sparring.data import StreamedSet, load_dataset, open_dataset
from sparring.data import files as data_files
from sparring.errors import DataError

NAMES = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}


def encoded(number: int, **shape: int) -> bytes:
    content = io.BytesIO()
    picture(number, **shape).save(content, "PNG")
    return content.getvalue()


def table(numbers: range, *, named: bool = True, **columns: Any) -> pa.Table:
    """Rows of pictures by number, sorted by class as such data sets often are."""
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]
    labels = sorted(place % 3 for place in range(len(numbers)))
    made = pa.table({"image": images, "label": labels, **columns})
    return made.replace_schema_metadata({"huggingface": json.dumps(NAMES)}) if named else made


def parquet(path: Path, numbers: range, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(numbers, **more), path, row_group_size=5)
    return path


def saved(folder: Path, numbers: range, shards: int = 2) -> None:
    """As `datasets` 4 writes it: Arrow streams and what lists them."""
    folder.mkdir(parents=True)
    whole, names = table(numbers), [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    size = -(-len(whole) // shards)
    for place, name in enumerate(names):
        part = whole.slice(place * size, size)
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, part.schema) as to,
        ):
            to.write_table(part, max_chunksize=4)
    state = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_text(json.dumps(state))


def saved_dict(root: Path) -> Path:
    for part, numbers in (("train", range(24)), ("test", range(24, 30))):
        saved(root / part, numbers)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return root


def parquet_folder(root: Path, below: str = "", middle: str = "-00000-of-00001") -> Path:
    parquet(root / below / f"train{middle}.parquet", range(24))
    parquet(root / below / f"test{middle}.parquet", range(24, 30))
    return root


KEPT = {
    "parquet": parquet_folder,
    "parquet in data/": lambda root: parquet_folder(root, "data"),
    "short names": lambda root: parquet_folder(root, middle=""),
    "folders": lambda root: (
        (
            parquet(root / "train" / "0.parquet", range(24)),
            parquet(root / "test" / "0.parquet", range(24, 30)),
        )
        and root
    ),
    "saved to disk": saved_dict,
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("data_memory", [0, 1 << 20])
def test_every_picture_is_read_once_with_its_label(tmp_path, kind, data_memory):
    data = load_dataset(str(KEPT[kind](tmp_path / "pets")), data_memory=data_memory)
    assert data.is_streamed == (data_memory == 0)
    assert (data.name, data.image_shape, data.class_names) == ("pets", (3, 6, 5), CLASSES)
    assert tuple(map(len, (data.train, data.validation, data.test))) == (21, 3, 6)
    rows = {number: sorted(n % 3 for n in range(24))[number] for number in range(24)}
    rows |= {24 + number: sorted(n % 3 for n in range(6))[number] for number in range(6)}
    known = {np.asarray(picture(number)).tobytes(): rows[number] for number in rows}
    seen = []
    for part in (data.train, data.validation, data.test):
        for image, label in zip(pixels_of(part), part.labels.tolist(), strict=True):
            content = image.permute(1, 2, 0).numpy().tobytes()
            assert known[content] == label
            seen.append(content)
    assert sorted(seen) == sorted(known)


def relabelled(path: Path, numbers: range, labels: Sequence[int], names: Sequence[str]) -> None:
    """A file that numbers the classes in its own way, as encoding each split by itself does."""
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]
    about = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    made = pa.table({"image": images, "label": list(labels)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made.replace_schema_metadata({"huggingface": json.dumps(about)}), path)


@pytest.mark.parametrize("fewer", ["test", "validation"])
def test_labels_are_those_of_the_names_though_a_file_numbers_fewer(tmp_path, fewer):
    parquet(tmp_path / "train.parquet", range(24))
    parquet(tmp_path / "test.parquet", range(24, 30))
    others = [1, 2, 2, 1, 2, 1]
    relabelled(tmp_path / f"{fewer}.parquet", range(24, 30), [at - 1 for at in others], CLASSES[1:])
    data = load_dataset(str(tmp_path))
    assert data.class_names == CLASSES
    known = {
        np.asarray(picture(number)).tobytes(): at
        for number, at in zip(range(24, 30), others, strict=True)
    }
    part = getattr(data, fewer)
    for image, label in zip(pixels_of(part), part.labels.tolist(), strict=True):
        assert known[image.permute(1, 2, 0).numpy().tobytes()] == label


@pytest.mark.parametrize(
    ("labels", "names", "complaint"),
    [
        (
            [0, 1, 0, 1, 0, 1],
            ("frog", "toad"),
            "test.parquet has classes that .* does not",
        ),
        ([0, 1, 2, 1, 0, 1], CLASSES[1:], "row 2 of .*test.parquet must be one of its 2 named"),
    ],
)
def test_classes_that_no_name_joins_are_refused(tmp_path, labels, names, complaint):
    parquet(tmp_path / "train.parquet", range(24))
    relabelled(tmp_path / "test.parquet", range(24, 30), labels, names)
    with pytest.raises(DataError, match=complaint):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("cifar-train.parquet", "cifar-test.parquet"),
        ("training_set.parquet", "testing_set.parquet"),
        ("train/cats.parquet", "test/train_like.parquet"),
        ("Train0.parquet", "TEST0.parquet"),
    ],
)
def test_a_part_is_what_the_folder_says_or_else_the_file(tmp_path, train, test):
    parquet(tmp_path / train, range(24))
    parquet(tmp_path / test, range(24, 30))
    data = load_dataset(str(tmp_path))
    assert tuple(map(len, (data.train, data.validation, data.test))) == (21, 3, 6)


@pytest.mark.parametrize(
    ("names", "unclear"),
    [
        (("train.parquet", "eval.parquet"), "eval.parquet"),
        (("train-1.parquet", "test-1.parquet", "more.parquet"), "more.parquet"),
        (("cifartrain.parquet", "cifartest.parquet"), "cifartest.parquet, cifartrain.parquet"),
        (("train-or-test.parquet", "test.parquet"), "train-or-test.parquet"),
    ],
)
def test_files_of_no_known_part_are_not_mixed_with_others(tmp_path, names, unclear):
    for place, name in enumerate(names):
        parquet(tmp_path / name, range(24 * place, 24 * place + 24))
    with pytest.raises(DataError, match=f"named after one part.*; got {unclear}. Rename"):
        load_dataset(str(tmp_path))


def test_the_only_folder_may_be_a_configurations_as_the_hub_has_them(tmp_path):
    parquet(tmp_path / "default" / "train" / "0000.parquet", range(12))
    parquet(tmp_path / "default" / "test" / "0000.parquet", range(12, 18))
    (tmp_path / "README.md").write_text("a card")
    found = load_dataset(tmp_path)
    assert (len(found.train) + len(found.validation), len(found.test)) == (12, 6)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError):
        load_dataset(tmp_path)


def test_the_only_folder_of_test_images_is_no_configuration(tmp_path):
    parquet(tmp_path / "test" / "part" / "0000.parquet", range(12))
    with pytest.raises(DataError):
        load_dataset(tmp_path)


def test_files_that_say_nothing_are_one_set(tmp_path):
    parquet(tmp_path / "cats.parquet", range(18))
    parquet(tmp_path / "dogs.parquet", range(18, 36))
    data = load_dataset(str(tmp_path))
    assert tuple(map(len, (data.train, data.validation, data.test))) == (27, 3, 6)


def test_saved_splits_of_other_names_are_not_left_out_in_silence(tmp_path):
    saved_dict(tmp_path)
    saved(tmp_path / "dev", range(30, 36))
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "dev"]}))
    with pytest.raises(DataError, match=r"named after one part.*; got dev\. Rename"):
        load_dataset(str(tmp_path))


def test_one_file_or_one_saved_split_is_dealt_into_all_parts(tmp_path):
    one = load_dataset(str(parquet(tmp_path / "pets.parquet", range(36))))
    saved(tmp_path / "saved", range(36))
    other = load_dataset(str(tmp_path / "saved"))
    assert tuple(map(len, (one.train, one.validation, one.test))) == (27, 3, 6)
    for name in ("train", "validation", "test"):
        assert torch.equal(pixels_of(getattr(one, name)), pixels_of(getattr(other, name)))


def test_streamed_tables_are_read_by_another_process_while_their_maker_lives(tmp_path):
    data = open_dataset(str(parquet_folder(tmp_path / "pets")))
    again = pickle.loads(pickle.dumps(data.train))
    assert torch.equal(pixels_of(again), pixels_of(data.train))


def test_pictures_may_be_bytes_alone_and_labels_without_names(tmp_path):
    rows = pa.table(
        {"picture": [encoded(n) for n in range(12)], "target": [n % 2 for n in range(12)]}
    )
    pq.write_table(rows, tmp_path / "a.parquet")
    assert load_dataset(str(tmp_path / "a.parquet")).class_names == ("0", "1")


def test_pictures_are_resized_if_asked(tmp_path):
    assert load_dataset(str(parquet_folder(tmp_path)), image_size=4).image_shape == (3, 4, 4)


def test_sparring_data_describes_them(tmp_path, capsys):
    assert main(["data", str(parquet_folder(tmp_path / "pets")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "tables of pictures"
    assert [of_class["name"] for of_class in found["classes"]] == list(CLASSES)
    assert found["classes"][0] == {"name": "cat", "train": 7, "validation": 1, "test": 2}


def spoilt(kind: str, root: Path) -> None:
    path = parquet_folder(root) / "train-00000-of-00001.parquet"
    columns = {
        "sizes": {"image": [{"bytes": encoded(n, rows=5 + n % 2)} for n in range(24)]},
        "damage": {"image": [{"bytes": b"hello"}] * 24},
        "nothing": {"image": [{"bytes": None, "path": None}] * 24},
        "path": {"image": [{"bytes": None, "path": "gone.png"}] * 24},
        "two labels": {"fine": list(range(24)), "coarse": list(range(24))},
        "unlabelled": {"label": [None] * 23 + [1]},
        "negative": {"label": [-1] * 24},
        "words": {"label": ["cat", "dog"] * 12},
        "fractions": {"label": [0.0, 1.0] * 12},
        "no pictures": {"image": ["a.png"] * 24},
        "two pictures": {"mask": [{"bytes": b"hello"}] * 24},
    }
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif kind == "no train":
        path.rename(path.with_name("test-1.parquet"))
    else:
        rows = table(range(24)).to_pydict() | columns[kind]
        if kind == "two labels":
            del rows["label"]
        pq.write_table(pa.table(rows), path)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("torn", r"train-0.*must be a whole file that pyarrow can read"),
        ("no train", r"has no part named train, only test-0.*Rename"),
        ("sizes", r"one size.*12 colour, 5 x 5 \(row 0 of .*image_size=5"),
        ("damage", r"row 0 of .*train.* is no whole picture"),
        ("nothing", r"row 0 of .* has no picture"),
        ("path", r"gone\.png, the picture of row 0 of .*No such file"),
        (
            "two labels",
            r"called label if there are several; found: image \(struct<.*fine \(int64\).* "
            r"Rename the one of fine, coarse that holds the classes to label",
        ),
        ("words", r"label \(string\)\. Number the classes in label 0, 1, .*store .* as integers"),
        ("fractions", r"label \(double\)\. Number the classes in label 0, 1, "),
        ("no pictures", r"Store each picture as an encoded file"),
        ("two pictures", r"Leave out all but one of image, mask"),
        ("unlabelled", r"row 0 of .* has no label"),
        ("negative", r"got -1 for image 0 \(train of"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, kind, complaint):
    spoilt(kind, tmp_path)
    with pytest.raises(DataError, match=complaint):
        load_dataset(str(tmp_path))


def test_damaged_lists_of_a_saved_set_are_named(tmp_path):
    saved_dict(tmp_path)
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json must list _data_files"):
        load_dataset(str(tmp_path))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    root = parquet_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"not installed.*pip install 'sparring\[parquet\]'"):
        load_dataset(str(root))


def rows_naming(path: Path, named: Sequence[str | None], **more: Any) -> Path:
    """A table whose rows name files instead of holding pictures."""
    images = [{"bytes": None, "path": name} for name in named]
    pq.write_table(pa.table({"image": images, "label": [n % 2 for n in range(len(named))]}), path)
    return path


def test_rows_may_name_pictures_in_the_folder_of_the_table(tmp_path):
    names = [f"below/{number}.png" for number in range(12)]
    (tmp_path / "below").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(number))
    data = load_dataset(str(rows_naming(tmp_path / "a.parquet", names)))
    assert data.image_shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("pipe.png", r"pipe\.png, the picture of row 0 .*must be a regular file, not a pipe"),
        ("folder.png", r"cannot be read: "),
        ("circle.png", r"symbolic links"),
        ("../outside.png", r"row 0 of .* must name files in .*got \.\./outside"),
        ("below/../../outside.png", r"must name files in "),
        ("/etc/passwd", r"must name files in .*got /etc/passwd"),
        ("/dev/zero", r"must name files in "),
        ("a\0b", r"cannot be read: "),
        ("a" * 5000, r"cannot be read: File name too long"),
    ],
)
def test_rows_that_name_anything_else_are_refused(tmp_path, name, complaint):
    (tmp_path / "outside.png").write_bytes(encoded(0))
    root = tmp_path / "set"
    (root / "folder.png").mkdir(parents=True)
    os.mkfifo(root / "pipe.png")
    (root / "circle.png").symlink_to("circle.png")
    with pytest.raises(DataError, match=complaint):
        load_dataset(str(rows_naming(root / "a.parquet", [name] * 12)))


def test_saved_sets_name_files_in_their_own_folder(tmp_path):
    saved_dict(tmp_path / "set")
    state = {"_data_files": [{"filename": "../../elsewhere.arrow"}]}
    (tmp_path / "set" / "train" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"state\.json must name files in "):
        load_dataset(str(tmp_path / "set"))


@pytest.mark.parametrize(
    "state",
    ["[" * 10_000, "{", "[]", '{"_data_files": 3}', '{"_data_files": [3]}', "\xff"],
)
def test_lists_of_any_content_are_told_in_a_sentence(tmp_path, state):
    saved_dict(tmp_path)
    (tmp_path / "train" / "state.json").write_text(state, encoding="latin-1")
    with pytest.raises(DataError, match=r"state\.json must list _data_files"):
        load_dataset(str(tmp_path))


def test_pipes_are_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"must be a regular file, not a pipe"):
        load_dataset(str(tmp_path))
    saved_dict(tmp_path / "set")
    (tmp_path / "set" / "train" / "data-00000-of-00002.arrow").unlink()
    os.mkfifo(tmp_path / "set" / "train" / "data-00000-of-00002.arrow")
    with pytest.raises(DataError, match=r"must be a regular file, not a pipe"):
        load_dataset(str(tmp_path / "set"))


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_tables_that_unpack_to_far_more_are_refused(tmp_path, monkeypatch, use_dictionary):
    monkeypatch.setattr(data_files, "_SMALL", 4 << 20)
    images = [encoded(0) + bytes(100_000)] * 160
    rows = pa.table({"image": images, "label": [n % 2 for n in range(160)]})
    path = tmp_path / "a.parquet"
    pq.write_table(rows, path, compression="zstd", use_dictionary=use_dictionary)
    with pytest.raises(DataError, match=r"at most 200 times"):
        load_dataset(str(path))


@settings(derandomize=True, max_examples=100)
@given(
    is_arrow=st.booleans(),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")
def test_any_damage_is_told_in_a_sentence(tmp_path_factory, is_arrow, place, value, cut):
    root = tmp_path_factory.mktemp("tables")
    if is_arrow:
        saved(root / "set", range(36), shards=1)
        path = root / "set" / "data-00000-of-00001.arrow"
    else:
        path = parquet(root / "set" / "a.parquet", range(36))
    content = bytearray(path.read_bytes())
    spot = int(place * len(content))
    content[spot] = value
    path.write_bytes(content[:spot] if cut else content)
    try:
        load_dataset(str(root / "set"))
    except DataError as error:
        assert len(str(error)) < 1000


def test_names_of_classes_may_be_anything_that_json_holds(tmp_path):
    names = ["\udce9", "a\x1b[31m", "c" * 500]
    path = tmp_path / "a.parquet"
    about = {"info": {"features": {"label": {"names": names}}}}
    rows = table(range(36)).replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(rows, path)
    assert load_dataset(str(path)).class_names == tuple(names)
    for wrong in (3, "abc", ["a", 3, "c"], None):
        about = {"info": {"features": {"label": {"names": wrong}}}}
        rows = rows.replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(rows, path)
        assert load_dataset(str(path)).class_names == ("0", "1", "2")


def test_a_copy_that_cannot_be_written_or_is_gone_is_told(tmp_path, monkeypatch):
    path = str(parquet(tmp_path / "a.parquet", range(36)))
    data = open_dataset(path)
    assert isinstance(data.train, StreamedSet)
    data.train.pixels._path.unlink()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DataError, match=r"the copy of the pictures of .*No such file"):
        data.train.batch(torch.arange(1))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"copied to a temporary file: No such.*TMPDIR"):
        open_dataset(path)
