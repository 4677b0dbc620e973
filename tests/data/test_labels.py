"""One check of labels, whichever reader they come from."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.idx_files import write_folder
from sparring.data import Dataset, dataset_from, load_dataset
from sparring.errors import DataError

Labels = list[int]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(2, 256, (count, 4, 4), np.uint8)


def from_npz(folder: Path, train: Labels, test: Labels) -> Dataset:
    x_train, x_test = images(len(train)), images(len(test))
    np.savez(folder / "a.npz", x_train=x_train, y_train=train, x_test=x_test, y_test=test)
    return load_dataset(str(folder / "a.npz"))


def from_idx(folder: Path, train: Labels, test: Labels) -> Dataset:
    parts = {"train": np.array(train), "test": np.array(test)}
    arrays = {f"y_{part}": labels for part, labels in parts.items()}
    arrays |= {f"x_{part}": images(len(labels)) for part, labels in parts.items()}
    return load_dataset(str(write_folder(folder, arrays)))


def from_items(folder: Path, train: Labels, test: Labels) -> Dataset:
    return dataset_from(train=(images(len(train)), train), test=(images(len(test)), test))


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def from_tables(folder: Path, train: Labels, test: Labels) -> Dataset:
    for part, labels in (("train", train), ("test", test)):
        rows = {"image": [png(pixels) for pixels in images(len(labels))], "label": labels}
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")
    return load_dataset(str(folder))


READERS: dict[str, Callable[[Path, Labels, Labels], Dataset]] = {
    "npz": from_npz,
    "IDX": from_idx,
    "items": from_items,
    "tables": from_tables,
}
TURNS = [0, 1, 2] * 24


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("train", "test", "complaint"),
    [
        ([n + 1 for n in TURNS], TURNS, r"from 0 to 3 must have images.*without any: 0 .*subtract"),
        ([n * 4 for n in TURNS], TURNS, r"0 to 8 must have.*without any: 1, 2, 3, 5, 6, … \("),
        ([0] * 72, [0], r"at least two classes"),
        (TURNS, [0, 3, 1, 4], r"Labels must lie in 0 to 2.*got 3 for image 1 .*2 such"),
        (TURNS, [200], r"Labels must lie in 0 to 2.*got 200 for image 0"),
    ],
)
def test_every_reader_refuses_the_same_labels_in_the_same_words(
    tmp_path, reader, train, test, complaint
):
    with pytest.raises(DataError, match=complaint):
        READERS[reader](tmp_path, train, test)


@pytest.mark.parametrize("reader", ["npz", "items", "tables"])  # IDX has no negative numbers
@pytest.mark.parametrize("part", [0, 1])
def test_every_reader_refuses_images_without_a_label(tmp_path, reader, part):
    labels = [TURNS, TURNS[:6]]
    labels[part] = [*labels[part][:-1], -1]
    with pytest.raises(DataError, match=r"got -1 for image .*Leave out images without a label"):
        READERS[reader](tmp_path, *labels)


@settings(derandomize=True, max_examples=25)
@given(
    reader=st.sampled_from(sorted(READERS)),
    classes=st.sets(st.integers(0, 6), min_size=1),
    test=st.lists(st.integers(0, 7), min_size=1, max_size=4),
)
def test_labels_are_taken_exactly_if_they_count_the_classes_from_0(
    tmp_path_factory, reader, classes, test
):
    folder = tmp_path_factory.mktemp("labels")
    train = sorted(classes) * 60
    right = classes == set(range(max(classes) + 1)) and len(classes) > 1 and set(test) <= classes
    try:
        data = READERS[reader](folder, train, test)
    except DataError:
        assert not right
    else:
        assert right
        assert data.num_classes == len(classes)
        assert sorted(data.test.labels.tolist()) == sorted(test)
        both = torch.cat([data.train.labels, data.validation.labels])
        assert sorted(both.tolist()) == sorted(train)


def test_a_class_that_a_table_names_must_have_images(tmp_path):
    rows = pa.table({"image": [png(p) for p in images(72)], "label": TURNS})
    names = '{"info": {"features": {"label": {"names": ["a", "b", "c", "d"]}}}}'
    rows = rows.replace_schema_metadata({"huggingface": names})
    pq.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"Every class must have images.*without any: d \(train"):
        load_dataset(str(tmp_path / "a.parquet"))
