"""Data sets from Python: any `torch.utils.data.Dataset`, list or arrays of images with labels.

Shapes: N images of a set, B images of a batch, C channels (1 or 3), H rows, W columns.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import math
import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sparring.data.grey_levels import all_but_black, as_array, channels_first, grey_levels
from sparring.data.images import Dataset, Images, ImageSet, numbered
from sparring.data.labels import (
    PartLabels,
    check_judged,
    check_labels,
    never_trained,
    num_classes_of,
    some,
    untrained,
    whole_label,
)
from sparring.data.pictures import AS_IS, Channels, Conversion, picture_levels
from sparring.data.splits import VALIDATION, dealt
from sparring.data.streamed import DATA_MEMORY, StreamedSet
from sparring.errors import ConfigError, DataError, SparringError, cause
from sparring.records.typed import typed

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
_LABEL_KEYS = ("label", "labels", "class", "target", "y")
"""Names of the image and of the label in items that are dicts, as Hugging Face's are."""
_MOST = 1 << 28
"""Items: labels of more alone would take gigabytes."""


@runtime_checkable
class Items(Protocol):
    """What `torch.utils.data.Dataset` with a length is: pairs of an image and its label."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> object:
        """An image and its class: a PIL image or a tensor of 1 or 3 channels, and a number."""
        ...


@dataclass(frozen=True, slots=True)
class _Columns:
    """Images and labels that are held apart."""

    images: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> object:
        return self.images[index], self.labels[index]


def as_items(given: object, part: str) -> Items:
    """What was given for a part, as items by number; at least one.

    A pair of images and labels, each in one array or list, is taken apart. Raises `DataError` for
    what has no items by number, such as a path, a `DataLoader` or a generator.
    """
    remedy = _remedy(given)
    if remedy or not isinstance(given, Items):
        raise DataError(
            "Data must have a length and items by number, as torch.utils.data.Dataset has; got a "
            f"{type(given).__name__} ({part}). {remedy or 'list(…) makes a list of an iterable'}."
        )
    items = _taken_apart(given, part)
    try:
        count = len(items)
    except Exception as error:
        raise DataError(
            f"Data must have a length; asking for it raised {cause(error)} ({part}). "
            "Give the data set a __len__."
        ) from error
    if not count:
        raise DataError(f"There must be at least one image; got none in {part}.")
    if count > _MOST:
        raise DataError(
            f"There must be at most {_MOST:,} images; got {count:,} in {part}. Check its __len__."
        )
    return items


def read_item(
    items: Items, place: int, part: str, conversion: Conversion = AS_IS
) -> tuple[UInt8[Tensor, " C H W"], int]:
    """The image and the label at this place. Raises `DataError` for what is neither."""
    where = f"item {place} of {part}"
    try:
        item = items[place]
    except SparringError:
        raise
    except Exception as error:  # the data set is the caller's
        raise DataError(
            f"Every item must be readable; {where} raised {cause(error)}. Mend the data set."
        ) from error
    image, label = _pair(item, where)
    return _levels(image, where, conversion), whole_label(label, where)


def _remedy(given: object) -> str:
    """What to give instead, for what is often given and has no items."""
    if given is None:
        return "Give a data set"
    if isinstance(given, str | bytes | Path):
        return "load_dataset(path) reads what lies at a path"
    if isinstance(given, DataLoader):
        return "Its items are batches: give its data set, loader.dataset"
    if isinstance(given, IterableDataset):
        return "list(…) makes a list of its items"
    if isinstance(given, Mapping):
        return f"Give one of its values, or the pair of its images and labels ({_some_keys(given)})"
    return ""


def _taken_apart(given: Items, part: str) -> Items:
    """Items of a pair of images and labels; any other data set as it is."""
    if not (isinstance(given, tuple | list) and len(given) == 2):
        return given
    images, labels = given
    if not (_is_column(labels) and _may_be_images(images)):
        return given
    if len(images) != len(labels):
        raise DataError(
            f"There must be one label for each image; got {len(labels)} labels for {len(images)} "
            f"images ({part}). Take both from the same data set and the same part of it."
        )
    return _Columns(images, labels)


def _is_column(labels: object) -> bool:
    if isinstance(labels, np.ndarray | Tensor):
        return labels.ndim in (1, 2)
    return isinstance(labels, list | tuple) and all(
        isinstance(label, int | float | np.generic) or getattr(label, "ndim", None) == 0
        for label in labels
    )


def _may_be_images(images: object) -> bool:
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim > 2
    return isinstance(images, list | tuple) and not any(
        isinstance(image, int | float) for image in images
    )


def _pair(item: object, where: str) -> tuple[object, object]:
    if isinstance(item, Mapping):
        images, labels = (
            [key for key in names if key in item] for names in (_IMAGE_KEYS, _LABEL_KEYS)
        )
        if len(images) == len(labels) == 1:
            return item[images[0]], item[labels[0]]
        raise DataError(
            f"Items that are dicts must hold one image (under {', '.join(_IMAGE_KEYS)}) and one "
            f"label (under {', '.join(_LABEL_KEYS)}); got {_some_keys(item)} ({where}). "
            "Rename its keys, or give pairs (image, label)."
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        found = type(item).__name__
        count = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"Items must be pairs of an image and its label; got a {found}{count} ({where})."
            " Give a data set whose items are (image, label)."
        )
    return item[0], item[1]


def _levels(image: object, where: str, conversion: Conversion) -> UInt8[Tensor, " C H W"]:
    if isinstance(image, Image.Image):
        return picture_levels(image, conversion, name=where)
    pixels = as_array(image, where)
    if conversion != AS_IS:
        raise DataError(
            f"image_size and channels convert PIL images only; got {type(image).__name__} "
            f"({where}). Convert such items in the data set."
        )
    pixels = channels_first(pixels, isinstance(image, Tensor), where)
    if pixels.dtype != np.uint8:  # one dark image of bytes alone says nothing about its unit
        pixels = grey_levels(pixels, where)
    return torch.from_numpy(np.array(pixels, order="C"))


def _some_keys(found: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(found)[:10])) or "nothing"


MOST_CLASSES = 1_000_000
"""More than any data set has."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ItemPixels:
    """The images of items, asked for when they are needed."""

    items: Items
    """Where they are."""
    part: str
    """What messages call them."""
    image_shape: tuple[int, int, int]
    """Channels, rows and columns of one image."""
    conversion: Conversion = AS_IS
    """How PIL images are converted."""

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
        image, label = read_item(self.items, place, self.part, self.conversion)
        if image.shape != self.image_shape:
            raise DataError(
                f"All images must have one shape, because one network sees them all; got "
                f"{tuple(image.shape)} for item {place} of {self.part}, and {self.image_shape} "
                "before. Convert them; image_size and channels do it to PIL images."
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
    channels: Channels | None = None,
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
    conversion = Conversion(image_size=image_size, channels=channels)
    planes, rows, columns = read_item(items["train"], 0, "train", conversion)[0].shape
    shape = (planes, rows, columns)
    pixels = {
        part: ItemPixels(items=of_part, part=part, image_shape=shape, conversion=conversion)
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
    channels, rows, columns = read_item(items, 0, "data")[0].shape
    pixels = ItemPixels(items=items, part="data", image_shape=(channels, rows, columns))
    size = len(pixels) * channels * rows * columns
    read = _read(pixels, held=size <= data_memory)
    count = num_classes or max(2, int(read.labels.max()) + 1)
    check_labels(read.labels, count, "data")
    return read.as_set(torch.arange(len(read.labels)), count)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Read:
    """Labels, and pixels where they are held."""

    pixels: ItemPixels
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


def _read(pixels: ItemPixels, *, held: bool) -> _Read:
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


def _all(pixels: ItemPixels) -> Iterator[tuple[Tensor, int]]:
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
