"""Labelled images as training and evaluation see them.

Shapes: N images of a set, B images of a batch, C channels, H rows, W columns.
Units:  stored pixels are grey levels 0 to 255; pixels of a batch lie in [0, 1].
"""

import operator
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any, ClassVar, NamedTuple, Protocol, SupportsIndex, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from sparring.data.labels import check_labels
from sparring.errors import ConfigError, DataError
from sparring.records.text import count_text, counted, kind_text
from sparring.records.typed import typed_record


class Batch(NamedTuple):
    """Some images of a set, ready for a model, with their labels."""

    images: Float32[Tensor, " B C H W"]
    """Pixels in [0, 1]: grey level / 255."""

    labels: Int64[Tensor, " B"]
    """Classes, counted from 0."""


@runtime_checkable
class Images(Protocol):
    """A set of labelled images, in memory or streamed."""

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Classes, 0 to num_classes - 1."""
        ...

    @property
    def num_classes(self) -> int:
        """At least 2."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        ...

    @property
    def reads_ahead(self) -> int:
        """Tickets ahead for which `expect` is worth calling; 0 in memory."""
        ...

    def __len__(self) -> int: ...

    def expect(self, indices: Int64[Tensor, " B"]) -> None:
        """Begin to read these images, which are needed soon."""
        ...

    def levels(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at `indices` as grey levels."""
        ...

    def batch(self, indices: Int64[Tensor, " B"]) -> Batch:
        """The same as 32-bit floats in [0, 1], grey level / 255 rounded once, and their labels."""
        ...


Several = slice | Tensor | np.ndarray | Sequence[int]
"""What names several images of a set: a slice, numbers, or a mask of one truth value an image."""
_AT_ONCE = 256
_STRIP = 12
"""Images of a set that a notebook shows."""


class Indexed:
    """Items by number, as `torch.utils.data.DataLoader` takes them."""

    __slots__ = ()

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> tuple[Float32[Tensor, " C H W"], int]: ...

    @overload
    def __getitem__(self, index: Several, /) -> Batch: ...

    def __getitem__(self: Any, index: Any, /) -> Any:
        """An image in [0, 1] and its class; of a slice or of several numbers, a `Batch`.

        Raises `IndexError` for a number outside the set.
        """
        places = _places(index, len(self))
        batch = self.batch(places.reshape(-1))
        return batch if places.ndim else (batch.images[0], int(batch.labels[0]))

    def __getitems__(self: Images, indices: Sequence[int], /) -> list[tuple[Tensor, int]]:
        """The items of one batch, for `DataLoader`."""
        images, labels = self.batch(_places(indices, len(self)))
        return list(zip(images, labels.tolist(), strict=True))

    def __iter__(self: Images) -> Iterator[tuple[Float32[Tensor, " C H W"], int]]:
        for places in torch.arange(len(self)).split(_AT_ONCE):
            images, labels = self.batch(places)
            yield from zip(images, labels.tolist(), strict=True)

    def __repr__(self: Images) -> str:
        return f"{type(self).__name__}({counted(len(self), 'image')} {_about(self)})"

    def _repr_html_(self: Images) -> str:
        return f"<p>{escape(repr(self))}</p>{_strip(self)}"


def _places(index: Any, count: int) -> Int64[Tensor, " *N"]:
    """Which images an index names, counted from the first; without a dimension if it is one."""
    if isinstance(index, slice):
        return torch.arange(*index.indices(count))
    try:
        several = isinstance(index, Tensor | np.ndarray | list | tuple | range)
        places = torch.as_tensor(index) if several else torch.tensor(operator.index(index))
    except (TypeError, ValueError, RuntimeError):
        places = torch.empty(0, 0)
    if places.dtype == torch.bool and places.shape == (count,):
        return places.nonzero().flatten()
    if places.dtype == torch.bool and places.ndim == 1:
        raise ConfigError.expected(
            f"a mask must have a boolean for each of {counted(count, 'image')}",
            f"{len(places):,}",
            "Make it of the labels of the same set, such as images.labels == 3.",
        )
    if places.shape == (0,):
        return places.long()
    if places.ndim > 1 or places.is_floating_point() or places.dtype == torch.bool:
        rule = "an index of images must be a whole number, a slice, or a list or array of numbers"
        raise ConfigError.expected(rule, kind_text(index))
    places = places.long()
    outside = places[(places < -count) | (places >= count)].flatten()
    if len(outside):
        raise IndexError(f"there is no image {int(outside[0])}: the set has {count:,}")
    return torch.where(places < 0, places + count, places)


def _about(images: Images) -> str:
    size = "x".join(map(str, images.image_shape))
    return f"{size}, {count_text(images.num_classes)} classes"


def _strip(images: Images) -> str:
    """The first images side by side, for a notebook; empty if they are neither grey nor RGB."""
    row = images.levels(torch.arange(min(_STRIP, len(images)))).permute(2, 0, 3, 1).flatten(1, 2)
    if row.shape[2] not in (1, 3):
        return ""
    content = BytesIO()
    Image.fromarray(row.squeeze(2).cpu().numpy()).save(content, "PNG")
    source = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
    style = "height:56px;max-width:100%;image-rendering:pixelated"
    return f'<img alt="The first images" style="{style}" src="{source}">'


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ImageSet(Indexed):
    """Images with their labels, held in memory as grey levels: one byte a pixel.

    Raises `DataError` if it is empty, if images and labels differ in number, or if a label
    is no class.
    """

    pixels: UInt8[Tensor, " N C H W"]
    """Grey levels, 0 to 255."""

    labels: Int64[Tensor, " N"]
    """Classes, 0 to num_classes - 1."""

    num_classes: int
    """Number of classes, at least 2."""

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise DataError.expected(
                "pixels must be torch.uint8 of shape (images, channels, rows, columns)",
                f"{self.pixels.dtype} of shape {tuple(self.pixels.shape)}",
                "Of pixels in [0, 1] pass (255 * pixels).round().to(torch.uint8).",
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise DataError.expected(
                "labels must be torch.int64 of shape (images,)",
                f"{self.labels.dtype} of shape {tuple(self.labels.shape)}",
                "Pass labels.long().",
            )
        check_labelled(len(self.pixels), self.labels, self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        channels, rows, columns = self.pixels.shape[1:]
        return channels, rows, columns

    @property
    def reads_ahead(self) -> int:
        """Nothing is read ahead."""
        return 0

    def expect(self, indices: Int64[Tensor, " B"]) -> None:
        """Nothing to do."""

    def levels(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at `indices` as grey levels; a copy."""
        return self.pixels[indices]

    def batch(self, indices: Int64[Tensor, " B"]) -> Batch:
        """The images at `indices` as 32-bit floats in [0, 1], and their labels; a copy.

        Raises `IndexError` for an index outside the set.
        """
        images = self.pixels[indices].to(torch.float32).div_(255)
        return Batch(images=images, labels=self.labels[indices])

    def subset(self, start: int, stop: int) -> "ImageSet":
        """The images from `start` up to but without `stop`; a view, nothing is copied.

        Raises `DataError` unless 0 <= start < stop <= len(self).
        """
        if not 0 <= start < stop <= len(self):
            rule = f"a subset must lie within the {len(self)} images and hold at least one"
            raise DataError.expected(rule, f"images {start} to {stop}")
        return ImageSet(
            pixels=self.pixels[start:stop],
            labels=self.labels[start:stop],
            num_classes=self.num_classes,
        )


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Dataset:
    """One classification task: images for training, validation and test.

    Raises `DataError` if the three sets differ in image shape or number of classes, or if there is
    not one name for each class.
    """

    example: ClassVar = "sparring.dataset_from(train=..., test=...)"

    name: str
    """Such as mnist."""

    train: Images
    """For updates of the weights."""

    validation: Images
    """For choices during training; never trained on."""

    test: Images
    """For the evaluation only."""

    class_names: tuple[str, ...] = ()
    """A name for each class, in order of its number; by default the numbers."""

    held_out: tuple[str, ...] = ()
    """Of validation and test, what was taken out of the training images for lack of its own."""

    def __post_init__(self) -> None:
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        kinds = {name: (*s.image_shape, s.num_classes) for name, s in sets.items()}
        if len(set(kinds.values())) > 1:
            found = "; ".join(
                f"{name}: {c} x {h} x {w}, {k} classes" for name, (c, h, w, k) in kinds.items()
            )
            rule = "all images of a data set must have one shape and the same classes"
            raise DataError.expected(rule, f"{found} in {self.name!r}")
        if not self.class_names:
            object.__setattr__(self, "class_names", numbered(self.num_classes))
        if len(self.class_names) != self.num_classes:
            names = f"{len(self.class_names)} names for {self.num_classes} classes"
            raise DataError.expected("there must be one name for each class", names)

    @property
    def num_classes(self) -> int:
        """At least 2."""
        return self.train.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        return self.train.image_shape

    def __repr__(self) -> str:
        sets = {"training": self.train, "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{count_text(len(images))} {name}" for name, images in sets.items())
        return f"Dataset({self.name}: {counts} images {_about(self.train)})"

    def _repr_html_(self) -> str:
        names = escape(", ".join(self.class_names[:20]))
        return f"<p>{escape(repr(self))}</p><p>Classes: {names}</p>{_strip(self.train)}"

    @property
    def is_streamed(self) -> bool:
        """Whether training images are read when they are needed."""
        return not isinstance(self.train, ImageSet)


def numbered(num_classes: int) -> tuple[str, ...]:
    """The numbers as names of the classes."""
    return tuple(map(str, range(num_classes)))


def check_labelled(num_images: int, labels: Int64[Tensor, " N"], num_classes: int) -> None:
    """Refuse a set without images, labels for all, or two classes. Raises `DataError`."""
    if num_images != len(labels) or not num_images:
        rule = "a set must hold at least one image and one label for each"
        raise DataError.expected(
            rule, f"{counted(num_images, 'image')} and {counted(len(labels), 'label')}"
        )
    if num_classes < 2:
        raise DataError.expected("num_classes must be 2 or more", num_classes)
    check_labels(labels, num_classes, "the labels of a set of images")


def first_images(images: Images, count: int) -> Tensor:
    """The first `count` images, or all if there are fewer, in [0, 1]."""
    return images.batch(torch.arange(min(count, len(images))))[0]


def sample(images: Images, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images, in [0, 1], and their labels: the same ones at every call.

    They are the first ones; of a set that is sorted by class, some at even distances.
    """
    places = torch.arange(min(count, len(images)))
    if _is_sorted(images.labels):
        places = places * len(images) // len(places)
    return images.batch(places)


def _is_sorted(labels: Tensor) -> bool:
    """Whether the label changes along a set less than half as often as in a random order."""
    shares = labels.bincount().double() / len(labels)
    expected = (len(labels) - 1) * (1 - float(shares.square().sum()))
    return int((labels.diff() != 0).sum()) < expected / 2
