"""The parts of a data set; images are held out where it has no validation or test part.

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
from sparring.records.text import counted
from sparring.seeds import derive_seed

VALIDATION = 12
"""One in twelve, as the paper: 5,000 of MNIST's 60,000."""
TEST = 6
"""One in six: 10,000 for 50,000, as in CIFAR-10."""


def mixed(keys: Sequence[str]) -> Int64[Tensor, " N"]:
    """A pseudo-random order that depends on the keys only, so that classes are mixed."""
    return torch.tensor(
        sorted(range(len(keys)), key=lambda place: (derive_seed("held out", keys[place]), place)),
        dtype=torch.int64,
    )


def dealt(
    labels: Int64[Tensor, " N"], keys: Sequence[str], one_in: Sequence[int], names: Sequence[str]
) -> list[Int64[Tensor, " M"]]:
    """Images to hold out, for each n in `one_in` the n-th part of every class; then the rest.

    At least one image of every class goes to each. They depend on the keys only, so that a further
    image moves hardly any other. Raises `DataError` for a class with too few images.
    """
    order = mixed(keys)
    dealt: list[list[Tensor]] = [[] for _ in range(len(one_in) + 1)]
    for label in labels.unique().tolist():
        own = order[labels[order] == label]
        if len(own) <= len(one_in):
            parts = " and ".join(("validation", "test")[: len(one_in)])
            raise DataError(
                f"Class {names[label]} has {counted(len(own), 'image')}; some are held out for "
                f"{parts}, so it "
                f"needs at least {len(one_in) + 1}. Add images, leave the class out, or make "
                "folders train, validation and test."
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
"""Chance below which images are taken to be sorted by class."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labelled:
    """Images and labels as read. Raises `DataError` unless each image has one label."""

    pixels: UInt8[Tensor, " N C H W"] | Pixels
    """Grey levels, or where they can be read."""

    labels: Int64[Tensor, " M"]
    """Not checked yet."""

    pixels_from: str
    """Where the pixels were read, for messages."""

    labels_from: str
    """Where the labels were read, for messages."""

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise one_label_each(
                len(self.labels), self.labels_from, len(self.pixels), self.pixels_from
            )
        if not len(self.pixels):
            raise DataError(f"There is no image in {self.pixels_from}.")

    def as_set(self, num_classes: int, start: int = 0, stop: int | None = None) -> Images:
        """The images from `start` up to `stop`."""
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
    """The error for images and labels that do not pair up."""
    found = f"{counted(labels, 'label')} in {labels_from} for {counted(images, 'image')} in "
    found += images_from
    return DataError.expected("There must be one label for each image", found)


def assemble(
    name: str, train: Labelled, test: Labelled, validation: Labelled | None = None
) -> Dataset:
    """The data set of these parts; without `validation`, the last twelfth of `train` is held out.

    The classes are 0 up to the largest training label. Raises `DataError` for labels as
    `num_classes_of` does, for images sorted by class, or if image shapes differ.
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
    """Refuse a validation set that lacks classes because images are sorted by class.

    M images drawn at random lack given classes, a share s of all images, with a chance of at most
    (1 - s)^M, and any set of classes with at most 2^classes times that.
    """
    held_out = train.labels[num_train:]
    there = torch.bincount(held_out, minlength=num_classes) > 0
    lacking = 1 - float(there[train.labels].double().mean())
    log_chance = len(held_out) * math.log1p(-lacking) + num_classes * math.log(2)
    if log_chance >= math.log(_UNLIKELY):
        return
    raise DataError(
        f"The last {len(held_out)} of the {len(train.labels)} training images, which are held out "
        f"for validation, show {int(there.sum())} of {num_classes} classes ({train.labels_from}). "
        "Shuffle images and labels together, or add x_validation and y_validation to an .npz file."
    )
