"""Statistics of a data set, and its problems.

Shapes: C channels, H rows, W columns. Units: counts are in images, pixels lie in [0, 1].
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sparring.data.class_folders import (
    ClassFolders,
    class_of,
    differing,
    find_class_folders,
    label_by_class,
    parts_of,
)
from sparring.data.images import Dataset
from sparring.data.pictures import AS_IS, Conversion, Kind, read_picture
from sparring.data.source import open_dataset, source_kind
from sparring.data.streamed import DATA_MEMORY, THREADS
from sparring.errors import DataError

_EXAMPLES = 5
"""Pairs of duplicates that are named."""


class Measured(NamedTuple):
    """Statistics of one image; those of the levels by channel."""

    kind: Kind
    digest: bytes
    least: list[int]
    largest: list[int]
    total: list[int]
    squares: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelRange:
    """Pixels of one channel, in [0, 1]."""

    least: float
    largest: float
    mean: float
    std: float
    """Standard deviation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """Images with equal pixels."""

    train_test: int
    """Test images that are also trained on."""
    train_test_examples: tuple[str, ...]
    contradicting: int
    """Images of one part that occur again with another label."""
    contradicting_examples: tuple[str, ...]


def measured(levels: UInt8[Tensor, " C H W"]) -> Measured:
    """Cost: about 50 microseconds, and a nanosecond a pixel."""
    array = np.ascontiguousarray(levels.numpy())
    flat = array.reshape(len(array), -1)
    return Measured(
        kind=Kind(*array.shape),
        digest=blake2b(array.tobytes(), digest_size=16, key=repr(array.shape).encode()).digest(),
        least=flat.min(1).tolist(),
        largest=flat.max(1).tolist(),
        total=flat.sum(1, dtype=np.int64).tolist(),
        squares=np.einsum("cp,cp->c", flat, flat, dtype=np.int64).tolist(),
    )


class Statistics:
    """Statistics of the images so far."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.seen: list[tuple[str, int]] = []
        """Part and label of every image; -1 for an unknown class."""
        self._names: dict[bytes, list[tuple[str, int, str]]] = defaultdict(list)
        self._ranges: dict[int, _Sums] = {}

    def add(self, part: str, label: int, name: str, image: Measured) -> None:
        """Add an image."""
        self.kinds[image.kind] += 1
        self.seen.append((part, label))
        self._names[image.digest].append((part, label, name))
        sums = self._ranges.setdefault(image.kind.channels, _Sums(image.kind.channels))
        sums.add(image)

    @property
    def pixel_bytes(self) -> int:
        """Memory that all pixels take."""
        return sum(math.prod(kind) * count for kind, count in self.kinds.items())

    def pixel_ranges(self) -> tuple[PixelRange, ...]:
        """By channel, of the images with the most common number of channels."""
        if not self.kinds:
            return ()
        channels: Counter[int] = Counter()
        for kind, count in self.kinds.items():
            channels[kind.channels] += count
        return tuple(self._ranges[channels.most_common(1)[0][0]].ranges())

    def duplicates(self, classes: Sequence[str]) -> Duplicates:
        """Images that should not occur twice, and do."""
        leaked = list(self._leaked())
        contradicting = list(self._contradicting(classes))
        return Duplicates(
            train_test=len(leaked),
            train_test_examples=tuple(leaked[:_EXAMPLES]),
            contradicting=len(contradicting),
            contradicting_examples=tuple(contradicting[:_EXAMPLES]),
        )

    def _leaked(self) -> Iterator[str]:
        for same in self._names.values():
            trained = [name for part, _, name in same if part == "train"]
            for part, _, name in same if trained else ():
                if part == "test":
                    yield f"{name} is {trained[0]}"

    def _contradicting(self, classes: Sequence[str]) -> Iterator[str]:
        for same in self._names.values():
            first: dict[str, tuple[int, str]] = {}
            for part, label, name in same:
                known, earlier = first.setdefault(part, (label, name))
                if known != label:
                    yield (
                        f"{earlier} ({_called(known, classes)}) is {name} "
                        f"({_called(label, classes)})"
                    )


class _Sums:
    """Sums over pixels, by channel."""

    def __init__(self, channels: int) -> None:
        self.least, self.largest = [255] * channels, [0] * channels
        self.total, self.squares = [0] * channels, [0] * channels
        self.pixels = 0

    def add(self, image: Measured) -> None:
        self.pixels += image.kind.rows * image.kind.columns
        for channel in range(image.kind.channels):
            self.least[channel] = min(self.least[channel], image.least[channel])
            self.largest[channel] = max(self.largest[channel], image.largest[channel])
            self.total[channel] += image.total[channel]
            self.squares[channel] += image.squares[channel]

    def ranges(self) -> Iterator[PixelRange]:
        for channel, total in enumerate(self.total):
            mean = total / self.pixels
            variance = self.squares[channel] / self.pixels - mean**2
            yield PixelRange(
                least=self.least[channel] / 255,
                largest=self.largest[channel] / 255,
                mean=mean / 255,
                std=math.sqrt(max(0.0, variance)) / 255,
            )


def _called(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else "of no known class"


PARTS = ("train", "validation", "test")
_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCounts:
    """Images of one class, by part."""

    name: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KindCount:
    """The number of images of one size and number of channels."""

    channels: int
    """1 or 3."""
    rows: int
    columns: int
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Statistics and problems of a data set."""

    source: str
    kind: str
    """Such as class folders."""
    classes: tuple[ClassCounts, ...]
    """In order of their numbers."""
    kinds: tuple[KindCount, ...]
    """Sizes and channels, the most common first."""
    pixels: tuple[PixelRange, ...]
    """By channel, of the images with the most common number of channels, all parts together."""
    pixel_bytes: int
    """Memory that all pixels would take."""
    data_memory: int
    """Bytes of pixels that are held in memory."""
    duplicates: Duplicates
    aside: tuple[str, ...]
    """Visible files that are no pictures by their endings."""
    problems: tuple[str, ...]
    """Reasons this data set cannot be trained on; empty if there are none."""

    @property
    def is_streamed(self) -> bool:
        """Whether training would stream it."""
        return self.pixel_bytes > self.data_memory

    @property
    def num_images(self) -> int:
        """Images in all, of known classes."""
        return sum(found.train + found.validation + found.test for found in self.classes)

    @property
    def untested(self) -> tuple[str, ...]:
        """Classes without a test image."""
        return tuple(found.name for found in self.classes if not found.test)


def inspect_data(
    source: str, conversion: Conversion = AS_IS, *, data_memory: int = DATA_MEMORY
) -> Inspection:
    """Read every image of a data set; damage and other reasons against training are `problems`.

    Cost: decoding every image. Raises `DataError` if there is no data set.
    """
    kind = source_kind(source)
    statistics = Statistics()
    if kind == "class folders":
        found = find_class_folders(Path(source).expanduser())
        problems = [*found.problems, *_look_at_files(found, conversion, statistics)]
        names, aside = found.classes, found.aside
    else:
        dataset = open_dataset(source, conversion, data_memory=data_memory)
        _look_at_images(dataset, statistics)
        problems, names, aside = [], dataset.class_names, ()
    counts = Counter((part, label) for part, label in statistics.seen)
    return Inspection(
        source=source,
        kind=kind,
        classes=tuple(
            ClassCounts(name=name, **{part: counts[part, label] for part in PARTS})
            for label, name in enumerate(names)
        ),
        kinds=tuple(
            KindCount(**kind._asdict(), images=count)
            for kind, count in statistics.kinds.most_common()
        ),
        pixels=statistics.pixel_ranges(),
        pixel_bytes=statistics.pixel_bytes,
        data_memory=data_memory,
        duplicates=statistics.duplicates(names),
        aside=aside,
        problems=tuple(problems),
    )


def _look_at_images(dataset: Dataset, statistics: Statistics) -> None:
    for part in PARTS:
        images = getattr(dataset, part)
        for start in range(0, len(images), _AT_ONCE):
            places = torch.arange(start, min(start + _AT_ONCE, len(images)))
            for place, levels in zip(places.tolist(), images.levels(places), strict=True):
                name = f"{part} image {place}"
                statistics.add(part, int(images.labels[place]), name, measured(levels))


def _look_at_files(
    found: ClassFolders, conversion: Conversion, statistics: Statistics
) -> Iterator[str]:
    files, parts = _files(found)

    def look(file: str) -> Measured | DataError:
        try:
            return measured(read_picture(found.root / file, conversion))
        except DataError as error:
            return error

    label_of = label_by_class(found)
    example: dict[Kind, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for file, part, seen in zip(files, parts, pool.map(look, files), strict=True):
            if isinstance(seen, DataError):
                yield str(seen)
                continue
            statistics.add(part, label_of.get(class_of(file), -1), file, seen)
            example.setdefault(seen.kind, file)
    if len(statistics.kinds) > 1:
        yield differing(statistics.kinds, example)
    try:
        parts_of(found, files)
    except DataError as error:
        yield str(error)


def _files(found: ClassFolders) -> tuple[list[str], list[str]]:
    """Every file and its part."""
    pairs = [
        (file, part)
        for part, classes in found.parts.items()
        for of_class in classes.values()
        for file in of_class
    ]
    files = [file for file, _ in pairs]
    try:
        part_of = {
            int(place): part for part, places in parts_of(found, files).items() for place in places
        }
    except DataError:
        part_of = dict(enumerate(part for _, part in pairs))
    return files, [part_of[place] for place in range(len(files))]
