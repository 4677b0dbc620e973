"""What a data set is known by, stored with a run and compared by everything that uses it again."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sparring.records.codec import to_json

_SHOWN = 12
"""Characters of a digest in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartIdentity:
    """One part of a data set."""

    images: int
    """How many there are."""
    labels: str
    """SHA-256 of their labels, in order."""
    pixels: str
    """SHA-256 of what they show, in order; of large sets of a sample (`sparring.data.digest`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataIdentity:
    """A whole data set: equal for equal images and labels, wherever they lie."""

    shape: tuple[int, int, int]
    """Channels, rows and columns of an image."""
    classes: int
    """Number of classes."""
    train: PartIdentity
    """The images to train on."""
    validation: PartIdentity
    """The images that a run watches itself by."""
    test: PartIdentity
    """The images that evaluations judge by."""
    path: str | None = None
    """Where the data lie, from the run's folder; none for bundled data and data from Python."""

    @property
    def digest(self) -> str:
        """SHA-256 of all but the path."""
        text = json.dumps(to_json(replace(self, path=None)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def words(self) -> str:
        """Sizes and digest for a message."""
        parts = f"{self.train.images:,} + {self.validation.images:,} + {self.test.images:,}"
        return f"{parts} images, digest {self.digest[:_SHOWN]}"

    def differences(self, other: "DataIdentity") -> Iterator[str]:
        """What is not the same, in words, most telling first."""
        if self.shape != other.shape:
            yield f"the shape of the images ({_shape(self.shape)} then, {_shape(other.shape)} now)"
        if self.classes != other.classes:
            yield f"the number of classes ({self.classes} then, {other.classes} now)"
        for name in ("train", "validation", "test"):
            one, another = getattr(self, name), getattr(other, name)
            if one.images != another.images:
                yield f"the number of {name} images ({one.images:,} then, {another.images:,} now)"
                continue
            if one.labels != another.labels:
                yield f"the labels of the {name} images"
            if one.pixels != another.pixels:
                yield f"the pixels of the {name} images"


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
