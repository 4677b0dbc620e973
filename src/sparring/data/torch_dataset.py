"""Data sets from Python: any `torch.utils.data.Dataset`, list or arrays of images with labels.

Shapes: N images of a set, B images of a batch, C channels (1 or 3), H rows, W columns.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import math
import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from sparring.data.splits import VALIDATION, dealt, one_label_each
from sparring.data.streamed import DATA_MEMORY, StreamedSet
from sparring.errors import ConfigError, DataError, SparringError, cause
from sparring.records.checks import at_least
from sparring.records.text import kind_text
from sparring.records.typed import typed

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
_LABEL_KEYS = ("label", "labels", "class", "target", "y")
"""Names of the image and of the label in items that are dicts, as Hugging Face's are."""
_MOST = 1 << 28
"""Items."""


@runtime_checkable
class Items(Protocol):
    """Images with labels, as a `torch.utils.data.Dataset` with a length holds them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object:
        """An image and its class: a PIL image or a tensor of 1 or 3 channels, and a number."""
        ...


@dataclass(frozen=True, slots=True)
class _Columns:
    """Images and labels in two arrays or lists."""

    images: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> object:
        return self.images[index], self.labels[index]


def as_items(given: object, part: str) -> Items:
    """A part as items by number, also if it is a pair of all images and all labels.

    Raises `DataError` for a path, a `DataLoader`, a generator and anything else without items.
    """
    remedy = _remedy(given)
    if remedy or not isinstance(given, Items):
        raise DataError.expected(
            "Data must have a length and items by number, as torch.utils.data.Dataset",
            f"{kind_text(given)} ({part})",
            f"{remedy or 'list(…) makes a list of an iterable'}.",
        )
    items = _taken_apart(given, part)
    try:
        count = len(items)
    except Exception as error:
        raise DataError(f"The length of {part} raised {cause(error)}.") from error
    if not count:
        raise DataError(f"There is no image in {part}.")
    if count > _MOST:
        raise DataError(f"{part} has {count:,} images, more than {_MOST:,}. Check its __len__.")
    return items


def read_item(
    items: Items, place: int, part: str, conversion: Conversion = AS_IS
) -> tuple[UInt8[Tensor, " C H W"], int]:
    """An image and its label. Raises `DataError` for anything else."""
    where = f"item {place} of {part}"
    try:
        item = items[place]
    except SparringError:
        raise
    except Exception as error:  # the data set is the caller's
        raise DataError(f"{where} raised {cause(error)}. Fix the data set.") from error
    image, label = pair(item, where)
    return _levels(image, where, conversion), whole_label(label, where)


def _remedy(given: object) -> str:
    """Advice for common things without items; empty for others."""
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
    """Items of a pair of images and labels; anything else unchanged."""
    if not (isinstance(given, tuple | list) and len(given) == 2):
        return given
    images, labels = given
    if not (_is_column(labels) and _may_be_images(images)):
        return given
    if len(images) != len(labels):
        raise one_label_each(len(labels), part, len(images), part)
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


def pair(item: object, where: str) -> tuple[Any, Any]:
    """The image and the label of an item. Raises `DataError` for anything else."""
    if isinstance(item, Mapping):
        images, labels = (
            [key for key in names if key in item] for names in (_IMAGE_KEYS, _LABEL_KEYS)
        )
        if len(images) == len(labels) == 1:
            return item[images[0]], item[labels[0]]
        raise DataError.expected(
            f"Items that are dicts must hold one image (under {', '.join(_IMAGE_KEYS)}) and one "
            f"label (under {', '.join(_LABEL_KEYS)})",
            f"{_some_keys(item)} ({where})",
            "Rename its keys, or give pairs (image, label).",
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        found = type(item).__name__
        count = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        rule = "Items must be pairs (image, label)"
        do = "Pass for example train=(images, labels), test=(images, labels)."
        raise DataError.expected(rule, f"a {found}{count} ({where})", do)
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
    if pixels.dtype != np.uint8:  # one dark image does not show its unit
        pixels = grey_levels(pixels, where)
    return torch.from_numpy(np.array(pixels, order="C"))


def _some_keys(found: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(found)[:10])) or "nothing"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ItemPixels:
    """The images of items, read when they are needed."""

    items: Items = field(repr=False)
    part: str
    """For messages."""
    image_shape: tuple[int, int, int]
    """Channels, rows and columns of one image."""
    conversion: Conversion = AS_IS

    def __len__(self) -> int:
        return len(self.items)

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at these places. Raises `DataError` for one of another shape."""
        images = torch.empty((len(places), *self.image_shape), dtype=torch.uint8)
        for row, place in enumerate(places.tolist()):
            images[row] = self.one(place)[0]
        return images

    def one(self, place: int) -> tuple[UInt8[Tensor, " C H W"], int]:
        """An image and its label. Raises `DataError` for one of another shape."""
        image, label = read_item(self.items, place, self.part, self.conversion)
        if image.shape != self.image_shape:
            raise DataError(
                f"item {place} of {self.part} has shape {tuple(image.shape)}, the first one "
                f"{self.image_shape}. Convert them; image_size and channels do it for PIL images."
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
    (images, labels) of arrays or lists is a part as well. An item must be the same each time: leave
    random changes to the setting `augmentation`. Without `validation` a twelfth of every class of
    train is held out. The classes are `class_names`, or `num_classes` of them, or else 0 up to the
    largest training label. Every class must have images to train on; if `class_names` or
    `num_classes` add others, there is a warning. `image_size` and `channels` convert PIL images as
    `load_dataset` does. Runs call the data "given:" and their `name`; pass the data again to resume
    or replay. Pixels of more than `data_memory` bytes are streamed: items are then read again, by
    several threads at once.
    Cost: every item once. Raises `DataError` for other items, `ConfigError` for other arguments.
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
    """A set of images from anything that `dataset_from` takes for a part.

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
    """Labels, and pixels if they are held in memory."""

    pixels: ItemPixels
    labels: Int64[Tensor, " N"]
    held: UInt8[Tensor, " N C H W"] | None

    def as_set(self, places: Int64[Tensor, " M"], num_classes: int) -> Images:
        labels = self.labels[places]
        if self.held is not None:
            return ImageSet(pixels=self.held[places], labels=labels, num_classes=num_classes)
        return StreamedSet(
            pixels=self.pixels, places=places, labels=labels, num_classes=num_classes
        )


def _read(pixels: ItemPixels, *, held: bool) -> _Read:
    """Read every item once."""
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
            f"item 0 of {pixels.part} is another one each time; runs are repeatable bit for bit. "
            "Leave random changes to the setting augmentation."
        )
    yield first
    for place in range(1, len(pixels)):
        yield pixels.one(place)


def _num_classes(read: Mapping[str, _Read], names: tuple[str, ...]) -> int:
    """The number of classes, all labels checked; warns of classes without images to train on."""
    train, *others = (PartLabels(found.labels, part) for part, found in read.items())
    if not names:
        return num_classes_of(train, others)
    largest = int(train.labels.max())
    if largest >= len(names):
        raise ConfigError.expected(
            "class_names, or num_classes, must cover every label of the training images",
            f"{len(names)} classes and labels up to {largest}",
            "Add names, or leave both out.",
        )
    for part in (train, *others):
        check_labels(part.labels, len(names), part.where)
    missing = [names[label] for label in untrained(train.labels, len(names))]
    for part in others if missing else ():
        check_judged(train, part, names)
    if missing:
        remedy = "Leave them out of class_names or num_classes if you did not mean them"
        warnings.warn(never_trained(missing, remedy=remedy), stacklevel=3)
    return len(names)


def _class_names(class_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes; empty if neither names nor a number were given."""
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise ConfigError.expected("class_names must be a list of texts", f"{class_names!r:.200}")
    names = tuple(class_names)
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ConfigError(f"class_names must differ; got {some(twice)} more than once.")
    if num_classes is None:
        return names
    if isinstance(num_classes, bool) or not isinstance(num_classes, SupportsIndex):
        raise ConfigError.expected("num_classes must be a whole number", f"{num_classes!r:.200}")
    count = operator.index(num_classes)
    at_least("num_classes", count, 2)
    if names and len(names) != count:
        rule, found = (
            "num_classes must be the number of class_names",
            f"{count} and {len(names)} names",
        )
        raise ConfigError.expected(rule, found, "Leave out num_classes.")
    return names or numbered(count)
