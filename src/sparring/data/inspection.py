"""What a data set is and what may be wrong with it, before hours are spent on it.

Units: counts are in images, pixels lie in [0, 1].
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from sparring.data.class_folders import ClassFolders, find_class_folders
from sparring.data.images import Dataset
from sparring.data.picture_files import class_of, differing, label_by_class, parts_of
from sparring.data.pictures import Kind, read_picture
from sparring.data.reader import THREADS
from sparring.data.source import open_dataset, source_kind
from sparring.data.streamed import DATA_MEMORY
from sparring.data.tally import Duplicates, Measured, PixelRange, Tally, measured
from sparring.errors import DataError

PARTS = ("train", "validation", "test")
_AT_ONCE = 1024
"""Images between two looks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCounts:
    """Images of one class."""

    name: str
    """Its name."""
    train: int
    """Images to train on."""
    validation: int
    """Images that steer training."""
    test: int
    """Images that it is judged by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindCount:
    """How many images are alike in size and channels."""

    channels: int
    """1 or 3."""
    rows: int
    """Pixels from top to bottom."""
    columns: int
    """Pixels from left to right."""
    images: int
    """How many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was found."""

    source: str
    """What was looked at."""
    kind: str
    """What it is, such as class folders."""
    classes: tuple[ClassCounts, ...]
    """The classes, in order of their numbers."""
    kinds: tuple[KindCount, ...]
    """Sizes and channels, the most common first."""
    pixels: tuple[PixelRange, ...]
    """By channel, of the images with the most common number of channels, all parts together."""
    pixel_bytes: int
    """Memory that all pixels would take."""
    data_memory: int
    """Memory that they may take."""
    duplicates: Duplicates
    """Images that are there twice."""
    aside: tuple[str, ...]
    """Files that are no pictures by their endings; hidden ones are not listed."""
    problems: tuple[str, ...]
    """Reasons this data set cannot be trained on; empty if there are none."""

    @property
    def is_streamed(self) -> bool:
        """Whether it would be streamed."""
        return self.pixel_bytes > self.data_memory

    @property
    def num_images(self) -> int:
        """Images in all, of known classes."""
        return sum(found.train + found.validation + found.test for found in self.classes)

    @property
    def untested(self) -> tuple[str, ...]:
        """Classes without a test image: nothing will be known of them."""
        return tuple(found.name for found in self.classes if not found.test)


def inspect_data(
    source: str, *, image_size: int | None = None, data_memory: int = DATA_MEMORY
) -> Inspection:
    """Look at every image of a data set.

    Damaged pictures, and whatever else keeps class folders from being trained on, are listed as
    problems. Cost: decoding every image. Raises `DataError` if nothing can be said of it at all.
    """
    kind = source_kind(source)
    tally = Tally()
    if kind == "class folders":
        found = find_class_folders(Path(source).expanduser())
        problems = [*found.problems, *_look_at_files(found, image_size, tally)]
        names, aside = found.classes, found.aside
    else:
        dataset = open_dataset(source, image_size=image_size, data_memory=data_memory)
        _look_at_images(dataset, tally)
        problems, names, aside = [], dataset.class_names, ()
    counts = Counter((part, label) for part, label in tally.seen)
    return Inspection(
        source=source,
        kind=kind,
        classes=tuple(
            ClassCounts(name=name, **{part: counts[part, label] for part in PARTS})
            for label, name in enumerate(names)
        ),
        kinds=tuple(
            KindCount(**kind._asdict(), images=count) for kind, count in tally.kinds.most_common()
        ),
        pixels=tally.pixel_ranges(),
        pixel_bytes=tally.pixel_bytes,
        data_memory=data_memory,
        duplicates=tally.duplicates(names),
        aside=aside,
        problems=tuple(problems),
    )


def _look_at_images(dataset: Dataset, tally: Tally) -> None:
    for part in PARTS:
        images = getattr(dataset, part)
        for start in range(0, len(images), _AT_ONCE):
            places = torch.arange(start, min(start + _AT_ONCE, len(images)))
            for place, levels in zip(places.tolist(), images.levels(places), strict=True):
                name = f"{part} image {place}"
                tally.add(part, int(images.labels[place]), name, measured(levels))


def _look_at_files(found: ClassFolders, image_size: int | None, tally: Tally) -> Iterator[str]:
    files, parts = _files(found)

    def look(file: str) -> Measured | DataError:
        try:
            return measured(read_picture(found.root / file, image_size=image_size))
        except DataError as error:
            return error

    label_of = label_by_class(found)
    example: dict[Kind, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for file, part, seen in zip(files, parts, pool.map(look, files), strict=True):
            if isinstance(seen, DataError):
                yield str(seen)
                continue
            tally.add(part, label_of.get(class_of(file), -1), file, seen)
            example.setdefault(seen.kind, file)
    if len(tally.kinds) > 1:
        yield differing(tally.kinds, example)
    try:
        parts_of(found, files)
    except DataError as error:
        yield str(error)


def _files(found: ClassFolders) -> tuple[list[str], list[str]]:
    """Every file and its part: that of its folder, where nothing can be held out yet."""
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
