"""Labelled images as training and evaluation see them.

Shapes: N images of a set, B images of a batch, C channels, H rows, W columns.
Units:  stored pixels are grey levels 0 to 255; pixels of a batch lie in [0, 1].
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from sparring.errors import DataError


class Batch(NamedTuple):
    """Some images of a set, ready for a model, with their labels."""

    images: Float32[Tensor, " B C H W"]
    """Pixels in [0, 1]: grey level / 255."""

    labels: Int64[Tensor, " B"]
    """Classes, counted from 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
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
        """Refuse a set that no classifier could be trained or judged on."""
        if len(self.pixels) != len(self.labels) or not len(self.pixels):
            raise DataError(
                "A set of images must hold at least one image and one label for each; "
                f"got {len(self.pixels)} images and {len(self.labels)} labels."
            )
        if self.num_classes < 2:
            raise DataError(
                "A classifier needs at least two classes to tell apart; "
                f"got num_classes = {self.num_classes}. Labels count the classes from 0."
            )
        check_labels(self.labels, self.num_classes, "the labels of a set of images")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def batch(self, indices: Int64[Tensor, " B"]) -> Batch:
        """The images at `indices`, in that order, as 32-bit floats in [0, 1], and their labels.

        Pixels are grey level / 255, rounded once. The batch shares no memory with the set.
        Cost: one gather of B images. Raises `IndexError` for an index outside the set.
        """
        images = self.pixels[indices].to(torch.float32).div_(255)
        return Batch(images=images, labels=self.labels[indices])

    def subset(self, start: int, stop: int) -> "ImageSet":
        """The images from `start` up to but without `stop`; a view, nothing is copied.

        Raises `DataError` unless 0 <= start < stop <= len(self).
        """
        if not 0 <= start < stop <= len(self):
            raise DataError(
                f"A subset must lie within the {len(self)} images and hold at least one; "
                f"got images {start} to {stop}."
            )
        return ImageSet(
            pixels=self.pixels[start:stop],
            labels=self.labels[start:stop],
            num_classes=self.num_classes,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """One classification task: images to train on, to steer training by, and to judge it by.

    Raises `DataError` if the three sets differ in image shape or in number of classes.
    """

    name: str
    """What people call it, such as mnist."""

    train: ImageSet
    """What the weights are fitted to."""

    validation: ImageSet
    """What choices during training may look at; never trained on."""

    test: ImageSet
    """What only the evaluation may look at."""

    def __post_init__(self) -> None:
        """Refuse sets that do not belong to one task."""
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        kinds = {name: (*s.pixels.shape[1:], s.num_classes) for name, s in sets.items()}
        if len(set(kinds.values())) > 1:
            found = "; ".join(
                f"{name}: {c} x {h} x {w}, {k} classes" for name, (c, h, w, k) in kinds.items()
            )
            raise DataError(
                "All images of a data set must have one shape (channels x rows x columns) and "
                f"one set of classes, because one model sees them all; got {found} in the data "
                f"set {self.name!r}. Resize the images or separate the data sets."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, at least 2."""
        return self.train.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        channels, rows, columns = self.train.pixels.shape[1:]
        return channels, rows, columns


def check_labels(labels: Int64[Tensor, " N"], num_classes: int, where: str) -> None:
    """Raise `DataError` naming `where` and the first label outside 0 to num_classes - 1."""
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"Labels must lie in 0 to {num_classes - 1}, because the classes are counted from 0 "
            f"and the training labels have {num_classes} of them; got {int(labels[first])} for "
            f"image {first} ({where}; {len(outside)} such in all). Renumber the labels, or give "
            "the training set images of every class."
        )
