"""Data sets of anything that has images and labels by number, handed over in Python.

Shapes: N images of a set, B images of a batch, C channels (1 or 3), H rows, W columns.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from sparring.data.grey_levels import grey_levels
from sparring.data.hold_out import VALIDATION, dealt
from sparring.data.images import Dataset, Images, ImageSet, check_labels, numbered
from sparring.data.pictures import picture_levels
from sparring.data.streamed import DATA_MEMORY, StreamedSet
from sparring.errors import DataError
from sparring.records.typed import typed


@runtime_checkable
class Items(Protocol):
    """What `torch.utils.data.Dataset` with a length is: pairs of an image and its label."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> object:
        """An image and its class: a PIL image or a tensor of 1 or 3 channels, and a number."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GivenPixels:
    """The images of items, asked for when they are needed."""

    items: Items
    """Where they are."""
    part: str
    """What messages call them."""
    image_shape: tuple[int, int, int]
    """Channels, rows and columns of one image."""
    image_size: int | None = None
    """As for `read_picture`."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at these places. Raises `DataError` for one of another shape."""
        images = torch.empty((len(places), *self.image_shape), dtype=torch.uint8)
        for row, place in enumerate(places.tolist()):
            images[row] = self.one(place)[0]
        return images

    def one(self, place: int) -> tuple[UInt8[Tensor, " C H W"], int]:
        """An image and its label."""
        where = f"item {place} of {self.part}"
        image, label = _item(self.items, place, where, self.image_size)
        if image.shape != self.image_shape:
            raise DataError(
                f"All images must have one shape, because one network sees them all; got "
                f"{tuple(image.shape)} for {where}, and {self.image_shape} before. Resize them; "
                "image_size does it to PIL images."
            )
        return image, label


@typed
def dataset_from(  # noqa: PLR0913 - the parts, what is known of them by keyword
    *,
    train: Items,
    test: Items,
    validation: Items | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    name: str = "data",
    image_size: int | None = None,
    data_memory: int = DATA_MEMORY,
) -> Dataset:
    """A data set of anything like `torch.utils.data.Dataset`: items are pairs of image and label.

    An image is a PIL image, or a tensor C H W or H W of unsigned bytes or of floats in [0, 1] that
    are whole grey levels / 255; a label is a whole number from 0. An item must be the same whenever
    it is asked for: leave random changes to the setting `augmentation`. Without `validation` a
    twelfth of every class of train is held out. `num_classes` is by default one more than the
    largest training label. Runs call the data "given:" and their `name`, and must be given them
    again by whoever goes on with them. Pixels of more than `data_memory` bytes are streamed: items
    are then asked for again, by several threads at once.
    Cost: every item once. Raises `DataError` for items that are none of this.
    """
    given = {"train": train, "test": test, "validation": validation}
    shape = _first_shape(train, image_size)
    pixels = {
        part: GivenPixels(items=items, part=part, image_shape=shape, image_size=image_size)
        for part, items in given.items()
        if items is not None
    }
    size = sum(len(part) for part in pixels.values()) * shape[0] * shape[1] * shape[2]
    read = {part: _read(of_part, held=size <= data_memory) for part, of_part in pixels.items()}
    classes = num_classes or len(class_names) or max(int(read["train"].labels.max()) + 1, 1)
    for part, found in read.items():
        check_labels(found.labels, classes, part)
    names = tuple(class_names) or numbered(classes)
    places = {part: torch.arange(len(found.labels)) for part, found in read.items()}
    if validation is None:
        keys = list(map(str, range(len(train))))
        held_out, rest = dealt(read["train"].labels, keys, [VALIDATION], names)
        places |= {"train": rest.sort().values, "validation": held_out}
        read["validation"] = read["train"]
    sets = {part: found.as_set(places[part], classes) for part, found in read.items()}
    return Dataset(
        name=name,
        train=sets["train"],
        validation=sets["validation"],
        test=sets["test"],
        class_names=names,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Read:
    """Labels, and pixels where they are held."""

    pixels: GivenPixels
    labels: Int64[Tensor, " N"]
    held: UInt8[Tensor, " N C H W"] | None

    def as_set(self, places: Int64[Tensor, " M"], num_classes: int) -> Images:
        """Some of the images."""
        labels = self.labels[places]
        if self.held is not None:
            return ImageSet(pixels=self.held[places], labels=labels, num_classes=num_classes)
        return StreamedSet(
            pixels=self.pixels, places=places, labels=labels, num_classes=num_classes
        )


def _read(pixels: GivenPixels, *, held: bool) -> _Read:
    """Every item once."""
    count = len(pixels)
    if not count:
        raise DataError(f"There must be at least one image; got none in {pixels.part}.")
    levels = torch.empty((count if held else 0, *pixels.image_shape), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for place, (image, label) in enumerate(_all(pixels)):
        labels[place] = label
        if held:
            levels[place] = image
    return _Read(pixels=pixels, labels=labels, held=levels if held else None)


def _all(pixels: GivenPixels) -> Iterator[tuple[Tensor, int]]:
    first = pixels.one(0)
    if not torch.equal(first[0], pixels.one(0)[0]):
        raise DataError(
            f"An item must be the same whenever it is asked for, because runs are repeatable bit "
            f"for bit; item 0 of {pixels.part} was not. Take random changes out of it, and use the "
            "setting augmentation."
        )
    yield first
    for place in range(1, len(pixels)):
        yield pixels.one(place)


def _first_shape(items: Items, image_size: int | None) -> tuple[int, int, int]:
    if not len(items):
        raise DataError("There must be at least one image; got none in train.")
    channels, rows, columns = _item(items, 0, "item 0 of train", image_size)[0].shape
    return channels, rows, columns


def _item(
    items: Items, place: int, where: str, image_size: int | None
) -> tuple[UInt8[Tensor, " C H W"], int]:
    item = items[place]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            f"Items must be pairs of an image and its label; got a {type(item).__name__} ({where})."
            " Give a data set whose items are (image, label)."
        )
    image, label = item
    return _levels(image, where, image_size), _label(label, where)


def _levels(image: object, where: str, image_size: int | None) -> UInt8[Tensor, " C H W"]:
    if isinstance(image, Image.Image):
        return picture_levels(image, image_size=image_size, name=where)
    if not isinstance(image, Tensor):
        raise DataError(
            f"Images must be PIL images or tensors; got a {type(image).__name__} ({where}). "
            "torch.from_numpy makes a tensor of an array."
        )
    if image_size is not None:
        raise DataError(
            f"image_size must be left out where items are tensors, because only pictures are "
            f"resized; got {image_size}. Resize them in the data set."
        )
    image = image[None] if image.dim() == 2 else image
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise DataError(
            f"Tensors must be H W or C H W with 1 or 3 channels C; got shape "
            f"{tuple(image.shape)} ({where}). Permute the dimensions."
        )
    if image.dtype == torch.uint8:  # one dark image alone says nothing about its unit
        return image.contiguous()
    return torch.from_numpy(np.ascontiguousarray(grey_levels(image.detach().cpu().numpy(), where)))


def _label(label: object, where: str) -> int:
    if isinstance(label, SupportsIndex) and not isinstance(label, bool):
        return operator.index(label)
    raise DataError(
        f"Labels must be whole numbers, counted from 0; got a {type(label).__name__} ({where}). "
        "Number the classes."
    )
