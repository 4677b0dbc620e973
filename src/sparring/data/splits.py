"""From images and labels to the parts of a data set, holding out images where it has no such part.

Shapes: N images, C channels, H rows, W columns. Units: grey levels 0 to 255.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.images import Dataset, Images, ImageSet
from sparring.data.labels import PartLabels, num_classes_of
from sparring.data.streamed import Pixels, StreamedSet
from sparring.errors import DataError
from sparring.records.seeds import derive_seed

VALIDATION = 12
"""One in twelve: 5,000 of MNIST's 60,000, which leaves the paper's 55,000 to train on."""
TEST = 6
"""One in six: 10,000 for 50,000, as in CIFAR-10."""


def mixed(keys: Sequence[str]) -> Int64[Tensor, " N"]:
    """All images in an order that looks random and depends on nothing but their keys.

    So the first images of a set that is stored class by class are of all classes.
    Cost: a microsecond an image.
    """
    return torch.tensor(
        sorted(range(len(keys)), key=lambda place: (derive_seed("held out", keys[place]), place)),
        dtype=torch.int64,
    )


def dealt(
    labels: Int64[Tensor, " N"], keys: Sequence[str], one_in: Sequence[int], names: Sequence[str]
) -> list[Int64[Tensor, " M"]]:
    """Images to hold out, for each n in `one_in` the n-th part of every class; then the rest.

    Of every class at least one image goes to each. Which ones depends on their keys alone, in the
    order of `mixed`: a further image changes nothing about where the others are, but for as many as
    the shares grow. Raises `DataError`, with the class's name, for one that has too few images.
    """
    order = mixed(keys)
    dealt: list[list[Tensor]] = [[] for _ in range(len(one_in) + 1)]
    for label in labels.unique().tolist():
        own = order[labels[order] == label]
        if len(own) <= len(one_in):
            raise DataError(
                f"Every class must have at least {len(one_in) + 1} images here, because of each "
                f"some are held out for {' and '.join(('validation', 'test')[: len(one_in)])}; "
                f"{names[label]} has {len(own)}. Give it more images, leave the class out, or say "
                "yourself which images are held out (folders train, validation and test)."
            )
        ends = [0]
        for share in one_in:
            ends.append(ends[-1] + max(1, len(own) // share))
        for part, (start, stop) in zip(dealt, pairwise([*ends, len(own)]), strict=True):
            part.append(own[start:stop])
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return [torch.cat(part)[places[torch.cat(part)].argsort()] for part in dealt]


_UNLIKELY = 1e-9
"""Chance below which images are not taken to be in an order without meaning."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labelled:
    """Images and labels as read, before anyone knows the classes.

    Raises `DataError` if there are none, or not as many labels as images.
    """

    pixels: UInt8[Tensor, " N C H W"] | Pixels
    """Grey levels, 0 to 255, or where they can be read."""

    labels: Int64[Tensor, " M"]
    """Labels, of any value yet."""

    pixels_from: str
    """Where the pixels were read, for messages."""

    labels_from: str
    """Where the labels were read, for messages."""

    def __post_init__(self) -> None:
        """Refuse images and labels that do not pair up."""
        if len(self.pixels) != len(self.labels):
            raise one_label_each(
                len(self.labels), self.labels_from, len(self.pixels), self.pixels_from
            )
        if not len(self.pixels):
            raise DataError(f"There must be at least one image; got none in {self.pixels_from}.")

    def as_set(self, num_classes: int, start: int = 0, stop: int | None = None) -> Images:
        """The images from `start` up to `stop`, now that the classes are known."""
        if not isinstance(self.pixels, Tensor):
            return StreamedSet(
                pixels=self.pixels,
                places=torch.arange(len(self.labels))[start:stop],
                labels=self.labels[start:stop],
                num_classes=num_classes,
            )
        return ImageSet(
            pixels=self.pixels[start:stop].contiguous(),
            labels=self.labels[start:stop],
            num_classes=num_classes,
        )


def one_label_each(labels: int, labels_from: str, images: int, images_from: str) -> DataError:
    """Why images and labels that do not pair up are refused."""
    return DataError(
        f"There must be one label for each image; got {labels} labels in {labels_from} for "
        f"{images} images in {images_from}. Take both from the same data set and the same part of "
        "it."
    )


def assemble(
    name: str, train: Labelled, test: Labelled, validation: Labelled | None = None
) -> Dataset:
    """The data set of these parts; without `validation`, the last twelfth of `train` is held out.

    The classes are 0 up to the largest training label. At least one image is held out.
    Raises `DataError` if a class has no image left to train on, if what is held out lacks classes
    because images are sorted by class, if there are fewer than two classes, if a test or validation
    label is no class, or if image shapes differ.
    """
    num_held_out = 0 if validation is not None else max(1, len(train.labels) // VALIDATION)
    num_train = len(train.labels) - num_held_out
    num_classes = num_classes_of(
        PartLabels(train.labels, train.labels_from),
        [PartLabels(p.labels, p.labels_from) for p in (test, validation) if p is not None],
        num_train=num_train,
    )
    if num_held_out:
        _check_held_out_by_chance(train, num_classes, num_train)
    return Dataset(
        name=name,
        train=train.as_set(num_classes, 0, num_train),
        validation=(
            train.as_set(num_classes, num_train)
            if validation is None
            else validation.as_set(num_classes)
        ),
        test=test.as_set(num_classes),
    )


def _check_held_out_by_chance(train: Labelled, num_classes: int, num_train: int) -> None:
    """Refuse to watch a run by images that lack most classes, since they are sorted by class.

    M images drawn of all lack given classes, s of all images, with a chance of (1 - s)^M at most,
    and some set of that size with 2^classes times that.
    """
    held_out = train.labels[num_train:]
    there = torch.bincount(held_out, minlength=num_classes) > 0
    lacking = 1 - float(there[train.labels].double().mean())
    log_chance = len(held_out) * math.log1p(-lacking) + num_classes * math.log(2)
    if log_chance >= math.log(_UNLIKELY):
        return
    raise DataError(
        "Images must be in no order of their classes, because the last "
        f"{len(held_out)} of the {len(train.labels)} training images are held out for validation; "
        f"those show {int(there.sum())} of {num_classes} classes ({train.labels_from}). Shuffle "
        "images and labels together, or give an .npz file with x_validation and y_validation."
    )
