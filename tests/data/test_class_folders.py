import os
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.idx_files import pixels_of
from data.pictures import CLASSES, picture, write_pictures
from sparring.data import Dataset, ImageSet, StreamedSet, load_dataset, open_dataset
from sparring.data.inspection import inspect_data
from sparring.errors import DataError
from sparring.models.weights import read_weights, save_weights
from sparring.prediction.predict import picture_files
from sparring.records import read_json, write_json

PARTS = {"train": 24, "test": 3, "validation": 2}


def files_of(part: object) -> list[str]:
    assert isinstance(part, StreamedSet)
    files = part.pixels.files  # pyright: ignore[reportAttributeAccessIssue]
    return [files[int(place)] for place in part.places]


def test_every_picture_is_read_once_with_the_class_of_its_folder(tmp_path):
    root = write_pictures(tmp_path / "pets", PARTS)
    data = open_dataset(str(root))
    assert (data.name, data.image_shape, data.num_classes) == ("pets", (3, 6, 5), 3)
    assert data.class_names == CLASSES
    for name, count in PARTS.items():
        part = getattr(data, name)
        files = files_of(part)
        assert sorted(files) == sorted(str(p.relative_to(root)) for p in root.glob(f"{name}/*/*"))
        assert len(part) == 3 * count
        for row, file in enumerate(files):
            expected = np.asarray(Image.open(root / file)).transpose(2, 0, 1)
            assert np.array_equal(part.levels(torch.tensor([row]))[0].numpy(), expected)
            assert data.class_names[int(part.labels[row])] == Path(file).parent.name


def test_the_folder_of_validation_may_be_called_val(tmp_path):
    root = write_pictures(tmp_path, {"train": 2, "test": 1, "val": 1})
    assert len(load_dataset(str(root)).validation) == 3


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ({"train": 24, "test": 3}, (66, 6, 9)),
        ({"": 24}, (54, 6, 12)),
        ({"": 3}, (3, 3, 3)),
        ({"train": 2, "test": 1}, (3, 3, 3)),
    ],
)
def test_a_twelfth_of_every_class_is_held_out_and_a_sixth_where_nothing_is(tmp_path, counts, sizes):
    data = open_dataset(str(write_pictures(tmp_path, counts)))
    parts = (data.train, data.validation, data.test)
    assert tuple(map(len, parts)) == sizes
    for part in parts:
        assert len(set(part.labels.bincount().tolist())) == 1
    files = [file for part in parts for file in files_of(part)]
    assert len(set(files)) == sum(sizes) == len(files)


def test_what_is_held_out_depends_on_names_alone(tmp_path):
    one, other = (write_pictures(tmp_path / name, {"": 12}) for name in ("one", "other"))
    for path in other.glob("*/*"):
        picture(int(path.stem) + 1000).save(path)
        os.utime(path, (0, int(path.stem)))
    for part in ("train", "validation", "test"):
        first, second = (getattr(open_dataset(str(root)), part) for root in (one, other))
        assert files_of(first) == files_of(second)


def test_a_new_picture_moves_no_other_into_training_from_the_test_set(tmp_path):
    root = write_pictures(tmp_path, {"": 18})
    before = set(files_of(open_dataset(str(root)).train))
    picture(99).save(root / "cat" / "new.png")
    after = open_dataset(str(root))
    moved = before - set(files_of(after.train))
    assert len(moved) <= 1
    assert all(Path(file).parent.name == "cat" for file in moved)


def test_the_first_images_of_a_part_are_of_all_classes(tmp_path):
    data = open_dataset(str(write_pictures(tmp_path, {"train": 40, "test": 20})))
    for part in (data.train, data.test):
        assert set(part.labels[:30].tolist()) == {0, 1, 2}


def test_classes_are_numbered_by_name_in_code_points(tmp_path):
    names = ("9", "10", "Zebra", "ant", "élan")
    data = load_dataset(str(write_pictures(tmp_path, {"": 3}, classes=names)))
    assert data.class_names == ("10", "9", "Zebra", "ant", "élan")


def test_hundreds_of_classes(tmp_path):
    names = tuple(f"class {number:03d}" for number in range(300))
    data = load_dataset(
        str(write_pictures(tmp_path, {"": 3}, classes=names, rows=2, columns=2, channels=1))
    )
    assert (data.num_classes, data.class_names, len(data.test)) == (300, names, 300)


def test_hidden_files_and_what_systems_leave_are_no_pictures(tmp_path):
    root = write_pictures(tmp_path, {"train": 2, "test": 1})
    before = len(open_dataset(str(root)).train)
    (root / "train" / "cat" / "._000.png").write_bytes(b"\0\5\26\7")
    (root / "train" / "cat" / "Thumbs.db").touch()
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "__MACOSX").mkdir()
    (root / ".DS_Store").touch()
    data = open_dataset(str(root))
    assert (len(data.train), data.class_names) == (before, CLASSES)


def test_links_to_files_and_folders_are_followed(tmp_path):
    stored = write_pictures(tmp_path / "stored", {"": 3})
    root = tmp_path / "linked"
    for name in CLASSES[:2]:
        (root / name).mkdir(parents=True)
        for path in (stored / name).iterdir():
            (root / name / path.name).symlink_to(path)
    (root / CLASSES[2]).symlink_to(stored / CLASSES[2])
    one, other = (load_dataset(str(folder)) for folder in (stored, root))
    assert torch.equal(pixels_of(one.train), pixels_of(other.train))


def test_pictures_of_all_sizes_are_cut_to_squares_of_one(tmp_path):
    root = write_pictures(tmp_path, {"train": 3, "test": 1}, rows=7)
    picture(50, rows=9, columns=30).save(root / "train" / "cat" / "wide.png")
    data = load_dataset(str(root), image_size=4)
    assert data.image_shape == (3, 4, 4)
    assert isinstance(data.train, ImageSet)


def truncate(root: Path) -> None:
    path = root / "train" / "cat" / "001.png"
    path.write_bytes(path.read_bytes()[:70])


def hold_out_twice(root: Path) -> None:
    shutil.copytree(root / "test", root / "val")
    shutil.copytree(root / "test", root / "validation")


def leave_one_class(root: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(root / "train" / name)


def empty_the_test_set(root: Path) -> None:
    for path in root.glob("test/*/*"):
        path.unlink()


BROKEN = {
    "truncated": truncate,
    "no picture": lambda root: (root / "train/cat/note.png").write_text("hello"),
    "dangling": lambda root: (root / "train/cat/gone.png").symlink_to("/nowhere.png"),
    "size": lambda root: picture(1, rows=9).save(root / "train/dog/tall.png"),
    "grey": lambda root: picture(1, channels=1).save(root / "train/dog/grey.png"),
    "empty class": lambda root: (root / "train/bird").mkdir(),
    "unknown class": lambda root: shutil.copytree(root / "train/cat", root / "test/lynx"),
    "nested": lambda root: shutil.copytree(root / "train/cat", root / "train/cat/more"),
    "no test": lambda root: (root / "test").rename(root / "holdout"),
    "both": hold_out_twice,
    "one class": leave_one_class,
    "empty test": empty_the_test_set,
}


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("truncated", r"001\.png is no whole picture.*: .*[Tt]runcated"),
        ("no picture", r"note\.png is no whole picture.*unknown format.*sparring data "),
        ("dangling", r"gone\.png cannot be read: No such file.*where a link leads"),
        ("size", r"one size.*12 colour, 5 x 6 \(.*\); 1 colour, 5 x 9 \(train/dog/tall.*size=5 re"),
        (
            "grey",
            r"same channels.*1 grey, 5 x 6 \(train/dog/grey.png\).*--channels rgb \(",
        ),
        ("empty class", r"Every class must have images.*without any: bird"),
        ("unknown class", r"Every class of test must be one of train's.*only in test: lynx"),
        ("nested", r"train/cat/more is a folder inside a class"),
        (
            "no test",
            r"There is no folder test.*only holdout, train.*Rename .*Or give .*/train alone",
        ),
        ("both", r"validation and val in .* both name the validation set"),
        ("one class", r"at least two classes.*are cat\."),
        ("empty test", r"There is no picture in .*test\."),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, kind, complaint):
    root = write_pictures(tmp_path, {"train": 3, "test": 1})
    BROKEN[kind](root)
    with pytest.raises(DataError, match=complaint):
        load_dataset(str(root))


def test_a_folder_without_pictures_says_what_it_should_hold(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"there is no picture .* in the folders .*such as cat/1\.png"
    ):
        load_dataset(str(tmp_path))


def test_a_class_of_too_few_pictures_to_hold_some_out_is_named(tmp_path):
    root = write_pictures(tmp_path, {"": 3})
    (root / "dog" / "003.png").unlink()
    with pytest.raises(DataError, match=r"Class dog has 2 images.*validation and test.*at least 3"):
        load_dataset(str(root))


def test_a_data_set_names_every_class():
    part = ImageSet(
        pixels=torch.zeros(2, 1, 2, 2, dtype=torch.uint8), labels=torch.arange(2), num_classes=2
    )
    toy = Dataset(name="toy", train=part, validation=part, test=part)
    assert toy.class_names == ("0", "1")
    with pytest.raises(DataError, match=r"one name for each class; got 3 names for 2 classes"):
        replace(toy, class_names=("a", "b", "c"))


def renamed(root: Path, **names: str) -> Path:
    for old, new in names.items():
        (root / old).rename(root / new)
    return root


@pytest.mark.parametrize("capitals", [str.upper, str.title, str.lower])
@pytest.mark.parametrize("validation", ["validation", "valid", "val"])
def test_parts_may_have_any_capitals_and_usual_name(tmp_path, capitals, validation):
    root = write_pictures(tmp_path, {"train": 3, "test": 2, "validation": 1})
    names = {"train": "train", "test": "test", "validation": validation}
    renamed(root, **{old: capitals(new) for old, new in names.items()})
    data = open_dataset(str(root))
    assert tuple(map(len, (data.train, data.validation, data.test))) == (9, 3, 6)
    found = inspect_data(str(root))
    assert (found.problems, found.aside) == ((), ())


@pytest.mark.parametrize(("in_train", "in_test"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_that_look_the_same_are_the_same_class(tmp_path, in_train, in_test):
    root = write_pictures(tmp_path, {"train": 12, "test": 2})
    for part, form in (("train", in_train), ("test", in_test)):
        (root / part / "ähre").rename(root / part / unicodedata.normalize(form, "ähre"))
    data = load_dataset(str(root))
    assert unicodedata.normalize(in_train, "ähre") in data.class_names
    for part in ("train", "validation", "test"):
        streamed = open_dataset(str(root))
        files = files_of(getattr(streamed, part))
        labels = getattr(streamed, part).labels.tolist()
        for file, label in zip(files, labels, strict=True):
            name = unicodedata.normalize("NFC", Path(file).parent.name)
            assert unicodedata.normalize("NFC", data.class_names[label]) == name
    counts = {of.name: (of.train, of.validation, of.test) for of in inspect_data(str(root)).classes}
    assert set(counts.values()) == {(11, 1, 2)}


def loose_pictures(part: str, root: Path) -> None:
    for path in list((root / part).glob("*/*")):
        path.rename(root / part / path.name)
    for path in (root / part).iterdir():
        if path.is_dir():
            path.rmdir()


def two_forms_of_one_name(root: Path) -> None:
    copied = root / "train" / unicodedata.normalize("NFD", "ähre")
    shutil.copytree(root / "train" / "ähre", copied)


MISTAKEN = {
    "loose test": lambda root: loose_pictures("test", root),
    "loose train": lambda root: loose_pictures("train", root),
    "all loose": lambda root: (loose_pictures("train", root), loose_pictures("test", root)),
    "empty test": lambda root: (shutil.rmtree(root / "test"), (root / "test").mkdir()),
    "no train": lambda root: shutil.rmtree(root / "train"),
    "train twice": lambda root: shutil.copytree(root / "train", root / "TRAIN"),
    "valid and val": lambda root: [
        shutil.copytree(root / "test", root / name) for name in ("valid", "val")
    ],
    "two forms": two_forms_of_one_name,
    "capitals": lambda root: (root / "test/cat").rename(root / "test/Cat"),
    "circle": lambda root: (root / "train/cat/more").symlink_to(root / "train"),
    "circle of files": lambda root: (root / "train/cat/a.png").symlink_to("a.png"),
    "pipe": lambda root: os.mkfifo(root / "train/cat/a.png"),
}


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("loose test", r"test has no class folders but 3 pictures"),
        ("loose train", r"train has no class folders but 9 pictures"),
        ("all loose", r"train has no class folders but 9 pictures"),
        ("empty test", r"test has no class folders but 0 pictures\. Move"),
        ("no train", r"There is no folder train in .*, only test\."),
        ("train twice", r"TRAIN and train in .* both name the train set"),
        ("valid and val", r"valid and val in .* both name the validation set"),
        ("two forms", r"Two folders of .*train look the same, ähre"),
        ("capitals", r"only in test: Cat\. Rename Cat to cat, as train has it"),
        ("circle", r"train/cat/more is a folder inside a class"),
        ("circle of files", r"a\.png cannot be read: Too many levels of symbolic"),
        ("pipe", r"a\.png cannot be read: it must be a regular file, not a pipe"),
    ],
)
def test_what_is_mistaken_in_a_folder_is_named_by_data_and_training_alike(
    tmp_path, kind, complaint
):
    root = write_pictures(tmp_path, {"train": 3, "test": 1})
    MISTAKEN[kind](root)
    with pytest.raises(DataError, match=complaint):
        open_dataset(str(root))
    problems = inspect_data(str(root)).problems
    assert re.search(complaint, problems[0])


def test_a_class_may_be_called_as_a_part_is(tmp_path):
    root = write_pictures(tmp_path, {"": 3}, classes=("bus", "car", "train"))
    assert load_dataset(str(root)).class_names == ("bus", "car", "train")


LEFT = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".cache", "$RECYCLE.BIN")


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("where", ["", "train", "train/cat"])
def test_hidden_folders_are_left_aside_by_data_training_and_prediction(tmp_path, name, where):
    root = write_pictures(tmp_path / "pets", {"train": 3, "test": 1})
    before = [*map(len, (open_dataset(str(root)).train, picture_files([root])[0]))]
    shutil.copytree(root / "test" / "cat", root / where / name)
    for file in ("._0.png", ".x.png", "Thumbs.db", "desktop.ini"):
        (root / where / file).write_bytes(b"no picture")
    assert [*map(len, (open_dataset(str(root)).train, picture_files([root])[0]))] == before
    found = inspect_data(str(root))
    assert (found.problems, found.aside) == ((), ())


def test_prediction_follows_links_but_not_in_circles(tmp_path):
    root = write_pictures(tmp_path / "pets", {"": 2})
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "cats").symlink_to(root / "cat")
    found, unread = picture_files([root])
    assert (len(found), unread) == (8, [])


NAMES = {
    "Latin-1": os.fsdecode(b"caf\xe9"),
    "control characters": "a\x1b[31m\x07b",
    "line break": "a\nb",
    "half a pair": os.fsdecode(b"\xff\xfe"),
    "right to left": "\u202ecat",
    "long": "c" * 200,
    "braces": "{0} %s [red]:x:[]",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_of_a_class_or_file_can_be_read_hashed_stored_and_told(tmp_path, name):
    root = write_pictures(tmp_path / name, {"train": 14, "test": 2})
    (root / "train" / "cat").rename(root / "train" / name)
    (root / "test" / "cat").rename(root / "test" / name)
    for path in list((root / "train" / name).iterdir()):
        path.rename(path.with_name(name + path.name))
    data = open_dataset(str(root))
    assert name in data.class_names
    assert len(load_dataset(str(root)).train) == 3 * 13
    found = inspect_data(str(root))
    assert (found.problems, name in [of.name for of in found.classes]) == ((), True)
    write_json(tmp_path / "names.json", list(data.class_names))
    assert read_json(tmp_path / "names.json") == list(data.class_names)
    next((root / "train" / name).iterdir()).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"is no whole picture"):
        open_dataset(str(root))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_weights_are_read_from_a_folder_of_any_name(tmp_path, name):
    path = tmp_path / name / "weights.safetensors"
    path.parent.mkdir()
    save_weights({"a": torch.arange(3.0)}, path, about={"b": "c"})
    weights, about = read_weights(path)
    assert torch.equal(weights["a"], torch.arange(3.0))
    assert about == {"b": "c"}


def test_one_grey_picture_among_colour_ones_is_converted_and_no_other_changes(tmp_path):
    root = write_pictures(tmp_path, {"train": 3, "test": 1})
    before = load_dataset(root)
    picture(1, channels=1).save(root / "test/dog/grey.png")
    data = load_dataset(root, channels="rgb")
    assert data.image_shape == (3, 6, 5)
    assert torch.equal(data.train.levels(torch.arange(6)), before.train.levels(torch.arange(6)))
    assert load_dataset(root, channels="grey").image_shape == (1, 6, 5)
