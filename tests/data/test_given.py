"""Data sets handed over in Python."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from PIL import Image

from data.idx_files import pixels_of
from data.pictures import picture
from sparring.data import dataset_from
from sparring.errors import DataError

LEVELS = torch.randint(
    0, 256, (24, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@dataclass(frozen=True)
class Pairs(torch.utils.data.Dataset):
    """Images of LEVELS, made into whatever the test wants."""

    make: Any = torch.clone
    count: int = 24
    label: Any = int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> object:
        return self.make(LEVELS[index]), self.label(index % 3)


def as_picture(levels: torch.Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


MAKERS = {
    "bytes": torch.clone,
    "floats": lambda levels: levels / 255,
    "doubles": lambda levels: levels.double() / 255,
    "pictures": as_picture,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("data_memory", [0, 1 << 20])
def test_every_kind_of_item_gives_the_same_images(kind, data_memory):
    items = Pairs(MAKERS[kind])
    data = dataset_from(train=items, test=replace(items, count=6), data_memory=data_memory)
    assert data.is_streamed == (data_memory == 0)
    assert (data.image_shape, data.num_classes, data.name) == ((3, 6, 5), 3, "data")
    assert torch.equal(pixels_of(data.test), LEVELS[:6])
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (len(data.train), len(data.validation)) == (21, 3)
    seen = torch.cat([pixels_of(data.train), pixels_of(data.validation)])
    assert sorted(map(bytes, seen.flatten(1).numpy())) == sorted(
        map(bytes, LEVELS.flatten(1).numpy())
    )
    for part in (data.train, data.validation):
        for image, label in zip(pixels_of(part), part.labels, strict=True):
            (place,) = [n for n in range(24) if torch.equal(LEVELS[n], image)]
            assert place % 3 == label


def test_grey_images_need_no_channel():
    items = Pairs(lambda levels: levels[0])
    data = dataset_from(train=items, test=items, validation=items, name="mine")
    assert (data.image_shape, len(data.train), data.name) == ((1, 6, 5), 24, "mine")


def test_more_classes_than_there_are_labels_may_be_said():
    items = Pairs()
    assert dataset_from(train=items, test=items, num_classes=7).class_names == tuple("0123456")
    named = dataset_from(train=items, test=items, class_names=("a", "b", "c"))
    assert (named.num_classes, named.class_names) == (3, ("a", "b", "c"))


def test_pictures_may_be_resized():
    items = Pairs(as_picture)
    assert dataset_from(train=items, test=items, image_size=4).image_shape == (3, 4, 4)


def different(levels: torch.Tensor) -> torch.Tensor:
    return levels[:, : 5 if torch.equal(levels, LEVELS[4]) else 6]


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        (Pairs(count=0), r"at least one image; got none in train"),
        (
            Pairs(lambda levels: levels.numpy()),
            r"PIL images or tensors; got a ndarray \(item 0 of train\)",
        ),
        (Pairs(lambda levels: levels[:2]), r"1 or 3 channels C; got shape \(2, 6, 5\) \(item 0"),
        (Pairs(lambda levels: levels.int()), r"unsigned bytes.*got int32 \(item 0 of train"),
        (Pairs(lambda levels: levels * 1.0), r"must lie in \[0, 1\].*\(item 0 of train"),
        (Pairs(different), r"one shape.*got \(3, 5, 5\) for item 4 of train, and \(3, 6, 5\)"),
        (Pairs(label=str), r"whole numbers, counted from 0; got a str \(item 0"),
        (Pairs(label=lambda label: label - 1), r"0 to 1, .*got -1 for image 0 \(train"),
        ([LEVELS[0]], r"pairs of an image and its label; got a Tensor"),
        (Pairs(lambda levels: torch.rand(3, 2, 2).round()), r"the same whenever it is asked for"),
    ],
)
def test_what_no_item_can_be_is_said(items, complaint):
    torch.manual_seed(0)
    with pytest.raises(DataError, match=complaint):
        dataset_from(train=items, test=Pairs(count=3))


def test_labels_of_the_test_set_are_classes_of_the_training_set():
    with pytest.raises(DataError, match=r"0 to 2.*got 5 for image 0 \(test"):
        dataset_from(train=Pairs(), test=Pairs(count=1, label=lambda _: 5))


def test_tensors_are_not_resized():
    with pytest.raises(DataError, match=r"image_size must be left out where items are tensors"):
        dataset_from(train=Pairs(), test=Pairs(), image_size=4)


def test_a_picture_of_a_mode_without_range_names_its_item():
    items = Pairs(lambda _: picture(0, channels=1).convert("F"))
    with pytest.raises(DataError, match=r"item 0 of train cannot be used.*mode F"):
        dataset_from(train=items, test=items)
