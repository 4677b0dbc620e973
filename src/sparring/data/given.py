"""Data sets of anything that has images and labels by number, handed over in Python.

Shapes: N images of a set, B images of a batch, C channels (1 or 3), H rows, W columns.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import math
import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.grey_levels import all_but_black
from sparring.data.hold_out import VALIDATION, dealt
from sparring.data.images import Dataset, Images, ImageSet, numbered
from sparring.data.items import Items, as_items, read_item
from sparring.data.labels import (
    PartLabels,
    check_judged,
    check_labels,
    never_trained,
    num_classes_of,
    some,
    untrained,
)
from sparring.data.streamed import DATA_MEMORY, StreamedSet
from sparring.errors import ConfigError, DataError
from sparring.records.typed import typed

MOST_CLASSES = 1_000_000
"""More than any data set has."""


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
        image, label = read_item(self.items, place, self.part, self.image_size)
        if image.shape != self.image_shape:
            raise DataError(
                f"All images must have one shape, because one network sees them all; got "
                f"{tuple(image.shape)} for item {place} of {self.part}, and {self.image_shape} "
                "before. Resize them; image_size does it to PIL images."
            )
        return image, label


@typed
def dataset_from(  # noqa: PLR0913 - the parts, what is known of them by keyword
    *,
    train: Items | Iterable[object],
    test: Items | Iterable[object],
    validation: Items | Iterable[object] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    name: str = "data",
    image_size: int | None = None,
    data_memory: int = DATA_MEMORY,
) -> Dataset:
    """A data set of anything like `torch.utils.data.Dataset`: items are pairs of image and label.

    An item is (image, label), or a dict with one of each under names such as image and label. An
    image is a PIL image, or a tensor or NumPy array H W, C H W or H W C of unsigned bytes or of
    floats in [0, 1] that are whole grey levels / 255. A label is a whole number from 0. A pair
    (images, labels) of arrays or lists is taken apart. An item must be the same whenever
    it is asked for: leave random changes to the setting `augmentation`. Without `validation` a
    twelfth of every class of train is held out. The classes are `class_names`, or `num_classes` of
    them, or else 0 up to the largest training label. Every class must have images to train on; for
    one that only `class_names` or `num_classes` name, a warning says that it has none. Runs call
    the data "given:" and their `name`, and need them again to be resumed or replayed. Pixels of
    more than `data_memory` bytes are streamed: items are then asked for again, by several threads
    at once.
    Cost: every item once. Raises `DataError` for items that are none of this, and `ConfigError` for
    other arguments that mean nothing.
    """
    known = _class_names(class_names, num_classes)
    given = {"train": train, "test": test, "validation": validation}
    items = {
        part: as_items(of_part, part)
        for part, of_part in given.items()
        if of_part is not None or part != "validation"
    }
    channels, rows, columns = read_item(items["train"], 0, "train", image_size)[0].shape
    shape = (channels, rows, columns)
    pixels = {
        part: GivenPixels(items=of_part, part=part, image_shape=shape, image_size=image_size)
        for part, of_part in items.items()
    }
    size = sum(len(part) for part in pixels.values()) * math.prod(shape)
    read = {part: _read(of_part, held=size <= data_memory) for part, of_part in pixels.items()}
    classes = _num_classes(read, known)
    names = known or numbered(classes)
    places = {part: torch.arange(len(found.labels)) for part, found in read.items()}
    if validation is None:
        keys = list(map(str, range(len(read["train"].labels))))
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


def images_from(
    data: object,
    *,
    num_classes: int | None = None,
    data_memory: int = DATA_MEMORY,
) -> Images:
    """A set of images from anything that `dataset_from` takes for one of its parts.

    The classes are `num_classes`, or else 0 up to the largest label.
    Cost: every item once. Raises `DataError` for items that are no images with labels.
    """
    items = as_items(data, "data")
    channels, rows, columns = read_item(items, 0, "data", None)[0].shape
    pixels = GivenPixels(items=items, part="data", image_shape=(channels, rows, columns))
    size = len(pixels) * channels * rows * columns
    read = _read(pixels, held=size <= data_memory)
    count = num_classes or max(2, int(read.labels.max()) + 1)
    check_labels(read.labels, count, "data")
    return read.as_set(torch.arange(len(read.labels)), count)


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
    brightest = 0
    levels = torch.empty((count if held else 0, *pixels.image_shape), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for place, (image, label) in enumerate(_all(pixels)):
        labels[place] = label
        brightest = max(brightest, int(image.max()))
        if held:
            levels[place] = image
    if brightest == 1:
        raise all_but_black(pixels.part)
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


def _num_classes(read: Mapping[str, _Read], names: tuple[str, ...]) -> int:
    """How many classes there are, all labels checked; a warning for any that is never trained on.

    Naming classes that have no images is allowed on purpose: a network with more outputs may be
    wanted.
    """
    train, *others = (PartLabels(found.labels, part) for part, found in read.items())
    if not names:
        return num_classes_of(train, others)
    for part in (train, *others):
        check_labels(part.labels, len(names), part.where)
    missing = [names[label] for label in untrained(train.labels, len(names))]
    for part in others if missing else ():
        check_judged(train, part, names)
    if missing:
        remedy = "Leave them out of class_names or num_classes if that is not meant"
        warnings.warn(never_trained(missing, remedy=remedy), stacklevel=3)
    return len(names)


def _class_names(class_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes, as far as they were named or counted; none if they were not."""
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise ConfigError(
            f"class_names must be a list of texts; got {class_names!r:.200}. Give one name for "
            "each class, in order of the labels."
        )
    names = tuple(class_names)
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ConfigError(f"class_names must differ; got {some(twice)} more than once.")
    if num_classes is None:
        return names
    if isinstance(num_classes, bool) or not isinstance(num_classes, SupportsIndex):
        raise ConfigError(f"num_classes must be a whole number; got {num_classes!r:.200}.")
    count = operator.index(num_classes)
    if not 2 <= count <= MOST_CLASSES:
        raise ConfigError(
            f"num_classes must lie in 2 to {MOST_CLASSES:,}, because a classifier tells classes "
            f"apart; got {count}."
        )
    if names and len(names) != count:
        raise ConfigError(
            f"There must be one name for each class; got {len(names)} names in class_names and "
            f"num_classes = {count}. Leave out num_classes."
        )
    return names or numbered(count)
