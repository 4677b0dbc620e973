"""Sets that are read when they are needed: the same bits as in memory, and no more memory."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.idx_files import STANDARD, pixels_of, small_arrays, write_folder
from data.pictures import write_pictures
from sparring.data import Images, ImageSet, StreamedSet, load_dataset
from sparring.data.streamed import KEPT, Reader
from sparring.errors import DataError


def npz(path, **changes):
    arrays = {name: array for name, array in (small_arrays() | changes).items()}
    np.savez(path / "toy.npz", allow_pickle=False, **arrays)
    return str(path / "toy.npz")


def colour(path, *, last: bool) -> str:
    random = np.random.default_rng(1)
    x = random.integers(0, 256, (24, 3, 4, 5), dtype=np.uint8)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x
    return npz(path, x_train=x, x_test=x[:6])


SOURCES = {
    "class folders": lambda path: str(write_pictures(path, {"train": 8, "test": 2})),
    "IDX": lambda path: str(write_folder(path / "toy", small_arrays())),
    "npz": npz,
    "npz N C H W": lambda path: colour(path, last=False),
    "npz N H W C": lambda path: colour(path, last=True),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_streamed_set_has_the_bits_of_the_same_set_in_memory(tmp_path, kind):
    source = SOURCES[kind](tmp_path)
    held, streamed = load_dataset(source), load_dataset(source, data_memory=100)
    assert (held.is_streamed, streamed.is_streamed) == (False, True)
    assert held.class_names == streamed.class_names
    for name in ("train", "validation", "test"):
        one, other = getattr(held, name), getattr(streamed, name)
        assert torch.equal(pixels_of(one), pixels_of(other))
        assert torch.equal(one.labels, other.labels)
        order = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))
        chosen = torch.cat([order, order[:2]])
        assert all(map(torch.equal, one.batch(chosen), other.batch(chosen)))


@pytest.mark.parametrize("kind", SOURCES)
def test_in_another_process_it_reads_for_itself_and_nothing_ahead(tmp_path, kind):
    train = load_dataset(SOURCES[kind](tmp_path), data_memory=0).train
    train.expect(torch.arange(4))
    again = pickle.loads(pickle.dumps(train))
    assert again.reads_ahead == 0
    assert torch.equal(pixels_of(again), pixels_of(train))


def test_data_memory_is_the_least_that_all_parts_take(tmp_path):
    source = npz(tmp_path)
    size = 30 * 4 * 5
    assert not load_dataset(source, data_memory=size).is_streamed
    assert load_dataset(source, data_memory=size - 1).is_streamed


def test_pictures_too_are_held_up_to_the_last_byte(tmp_path):
    source = str(write_pictures(tmp_path, {"train": 3, "test": 1}))
    size = 12 * 3 * 6 * 5
    assert not load_dataset(source, data_memory=size).is_streamed
    assert load_dataset(source, data_memory=size - 1).is_streamed


@pytest.mark.parametrize("name", ["x_train", "x_test"])
def test_what_cannot_be_read_piece_by_piece_must_fit(tmp_path, name):
    floats = small_arrays()[name] / 255
    with pytest.raises(
        DataError, match=rf"{name} of .*600B of pixels .* more than data_memory, 9B.*savez, or"
    ):
        load_dataset(npz(tmp_path, **{name: floats}), data_memory=9)


def test_compressed_files_must_fit(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", allow_pickle=False, **small_arrays())
    with pytest.raises(DataError, match=r"small\.npz holds 600B of pixels.*data_memory=675B"):
        load_dataset(str(tmp_path / "small.npz"), data_memory=599)
    assert len(load_dataset(str(tmp_path / "small.npz"), data_memory=675).train) == 22
    names = {key: f"{name}.gz" for key, name in STANDARD.items()}
    folder = write_folder(tmp_path / "toy", small_arrays(), names)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz holds.*gunzip"):
        load_dataset(str(folder), data_memory=599)


def test_bytes_that_are_nought_or_one_are_refused_where_they_are_streamed_too(tmp_path):
    x = small_arrays()["x_train"] // 128
    with pytest.raises(DataError, match=r"No pixel is above 1.*Multiply 0/1 images by 255"):
        load_dataset(npz(tmp_path, x_train=x), data_memory=0)


def test_a_truncated_file_is_found_before_training(tmp_path):
    folder = write_folder(tmp_path / "toy", small_arrays())
    path = folder / STANDARD["x_train"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is truncated"):
        load_dataset(str(folder), data_memory=0)


def test_a_file_that_changes_under_training_is_named(tmp_path):
    folder = write_folder(tmp_path / "toy", small_arrays())
    train = load_dataset(str(folder), data_memory=0).train
    (folder / STANDARD["x_train"]).write_bytes(b"")
    train.expect(torch.arange(4))
    with pytest.raises(DataError, match=r"train-images.* changed while .*ends before image"):
        train.batch(torch.arange(4))


class Recorded:
    """Answers with the places as pixels, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, places: Tensor) -> Tensor:
        self.asked += places.tolist()
        self.threads.add(threading.get_ident())
        return places.to(torch.uint8)[:, None, None, None]


def taken(reader: Reader, places: Tensor) -> list[int]:
    images = torch.empty(len(places), 1, 1, 1, dtype=torch.uint8)
    reader.take(places, into=images)
    return images.flatten().tolist()


def test_what_is_expected_is_read_once_by_others_and_not_again_when_it_is_taken():
    read = Recorded()
    reader = Reader(read, tickets=1)
    reader.expect(torch.arange(40))
    reader.expect(torch.arange(20, 60))
    assert taken(reader, torch.arange(59, -1, -1)) == list(range(59, -1, -1))
    assert sorted(read.asked) == list(range(60))
    assert threading.get_ident() not in read.threads


def test_no_more_is_kept_than_a_few_tickets():
    read = Recorded()
    reader = Reader(read, tickets=2)
    for start in range(0, 200, 10):
        reader.expect(torch.arange(start, start + 10))
        taken(reader, torch.arange(start, start + 10))
    assert sorted(read.asked) == list(range(200))
    taken(reader, torch.arange(200 - KEPT * 3 * 10, 200))
    assert len(read.asked) == 200
    taken(reader, torch.arange(0, 1))
    assert len(read.asked) == 201


def test_who_expects_nothing_keeps_nothing():
    read = Recorded()
    reader = Reader(read, tickets=0)
    assert taken(reader, torch.tensor([3, 3, 5])) == [3, 3, 5]
    taken(reader, torch.tensor([3]))
    assert sorted(read.asked) == [3, 3, 5]


def test_both_kinds_of_set_are_what_training_needs(tmp_path):
    source = npz(tmp_path)
    for memory, cls in ((1 << 20, ImageSet), (0, StreamedSet)):
        train = load_dataset(source, data_memory=memory).train
        assert isinstance(train, cls)
        assert isinstance(train, Images)


@pytest.mark.process
def test_a_forked_process_reads_for_itself_though_images_were_read_before(tmp_path):
    train: Any = load_dataset(SOURCES["class folders"](tmp_path), data_memory=0).train
    image, label = train[0]
    train.expect(torch.arange(8))
    loader = DataLoader(train, batch_size=4, num_workers=1, timeout=60)
    images, labels = zip(*loader, strict=True)
    assert torch.equal(images[0][0], image)
    assert int(labels[0][0]) == int(label)
    assert torch.equal(torch.cat(images), torch.stack([train[at][0] for at in range(len(train))]))
