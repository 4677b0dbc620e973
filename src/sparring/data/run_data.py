"""The data set of a run: its identity, and how it is found and compared again.

The identity is the same for the same images and labels. It covers every label, and every pixel of
sets of up to `WHOLE` bytes of pixels; of pictures in files or tables the encoded bytes, up to
`WHOLE_FILES` of them. Of larger sets it covers a sample: `SAMPLE` images, evenly spaced; of encoded
pictures the name and size of each, and its first and last `ENDS` bytes, where PNG has its
checksums. It does not depend on paths, times or order of files, or on how much is held in memory.

The run's data.json holds the identity and the path of the data from the run's folder; config.json
holds their absolute path. A project that is moved with its data still works; other data are
refused.

Shapes: N images of a set.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from sparring.data.images import Dataset, Images, ImageSet, numbered
from sparring.data.pictures import AS_IS, Conversion
from sparring.data.source import GIVEN, absolute, is_path, open_dataset, takes_conversion
from sparring.data.streamed import AT_ONCE, DATA_MEMORY, THREADS, StreamedSet, pixel_bytes, within
from sparring.errors import ConfigError, DataError
from sparring.records import RunDirectory
from sparring.records.run import DataIdentity, PartIdentity

Item = TypeVar("Item")
Found = TypeVar("Found")

WHOLE = 4 << 30
"""Bytes of pixels up to which every pixel counts."""
WHOLE_FILES = 1 << 30
"""Bytes of encoded pictures up to which every byte counts."""
SAMPLE = 4096
"""Images of a sample."""
ENDS = 4096
"""Bytes of each end of a picture of a larger set."""


@runtime_checkable
class Encoded(Protocol):
    """Pictures whose encoded bytes can be read without decoding them."""

    def encoded_size(self, place: int) -> int:
        """Bytes of the picture. Raises `DataError` if it is gone."""
        ...

    def encoded(self, place: int, start: int, stop: int) -> bytes:
        """Some of its bytes. Raises `DataError` if they cannot be read."""
        ...

    def encoded_name(self, place: int) -> str:
        """Its name within the set."""
        ...


def identity(dataset: Dataset, *, decoded: bool = False) -> DataIdentity:
    """The identity of a data set; `decoded` uses pixels even if encoded bytes are available.

    Data from Python need that: they may be in memory one time and streamed the next.
    Raises `DataError` for images that cannot be read.
    """
    return DataIdentity(
        shape=dataset.image_shape,
        classes=dataset.num_classes,
        train=_part(dataset.train, decoded=decoded),
        validation=_part(dataset.validation, decoded=decoded),
        test=_part(dataset.test, decoded=decoded),
    )


def _part(images: Images, *, decoded: bool) -> PartIdentity:
    labels = hashlib.sha256(images.labels.to(torch.int64).contiguous().numpy().data)
    if isinstance(images, StreamedSet) and isinstance(images.pixels, Encoded) and not decoded:
        pixels = _of_encoded(images.pixels, images.places)
    else:
        pixels = _of_pixels(images)
    return PartIdentity(images=len(images), labels=labels.hexdigest(), pixels=pixels)


def _of_pixels(images: Images) -> str:
    found = hashlib.sha256()
    whole = pixel_bytes(images) <= WHOLE
    if whole and isinstance(images, ImageSet):
        found.update(images.pixels.contiguous().numpy().data)
        return found.hexdigest()
    count = len(images) if whole else min(SAMPLE, len(images))
    places = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    for some in places.split(AT_ONCE):
        found.update(images.levels(some).contiguous().numpy().data)
    return found.hexdigest()


def _of_encoded(pixels: Encoded, places: Int64[Tensor, " N"]) -> str:
    each = places.tolist()
    sizes = _on_threads(pixels.encoded_size, each)
    whole = sum(sizes) <= WHOLE_FILES

    def digest(pair: tuple[int, int]) -> bytes:
        place, size = pair
        if whole:
            return hashlib.sha256(pixels.encoded(place, 0, size)).digest()
        ends = pixels.encoded(place, 0, min(ENDS, size))
        ends += pixels.encoded(place, max(0, size - ENDS), size)
        about = f"{pixels.encoded_name(place)}\0{size}\0".encode(errors="surrogateescape")
        return hashlib.sha256(about + ends).digest()

    pairs = list(zip(each, sizes, strict=True))
    return hashlib.sha256(b"".join(_on_threads(digest, pairs))).hexdigest()


def _on_threads(do: Callable[[Item], Found], given: Sequence[Item]) -> list[Found]:
    """Map in order, on some threads."""

    def of_some(start: int) -> list[Found]:
        return [do(one) for one in given[start : start + AT_ONCE]]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(chain.from_iterable(pool.map(of_some, range(0, len(given), AT_ONCE))))


_NAMED = 10
"""Classes in a message."""


def given_name(dataset: Dataset) -> str:
    """The name in a run's settings of data that were passed in Python."""
    return GIVEN + dataset.name


def new_data(
    source: str,
    given: Dataset | None,
    conversion: Conversion = AS_IS,
    *,
    data_memory: int = DATA_MEMORY,
) -> tuple[Dataset, DataIdentity]:
    """The data of a new run, in memory if they fit, and their identity.

    Raises `DataError` as `load_dataset`, and `ConfigError` if the settings name other data than
    `given`.
    """
    if given is not None:
        _check_given(source, given)
        return given, identity(given, decoded=True)
    opened = open_dataset(source, conversion, data_memory=data_memory)
    return within(data_memory, opened), identity(opened)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """What a run stored about its data."""

    run: Path
    source: str
    """Path or name in config.json."""
    conversion: Conversion
    data_memory: int
    """Bytes."""
    class_names: tuple[str, ...]
    """Empty if the run stored none."""
    stored: DataIdentity | None
    """The identity; `None` if the run stored none."""

    @classmethod
    def of(cls, run: RunDirectory) -> "RunData":
        """Raises `RunError` or `ConfigError` if the run's files are missing or damaged."""
        return cls(
            run=run.path.resolve(),
            source=run.section("data", str),
            conversion=conversion_of(run),
            data_memory=run.section_or("data_memory", int, DATA_MEMORY),
            class_names=run.class_names(),
            stored=run.read_data(),
        )

    def find(self, given: Dataset | None = None) -> tuple[Dataset, DataIdentity]:
        """The run's data, or the `given` ones if they equal them; and their identity.

        Pictures are decoded when they are needed. Raises `DataError` for missing or other data,
        `ConfigError` for `given` data of another name.
        """
        if given is not None:
            _check_given(self.source, given)
            found = identity(given, decoded=True)
            self._check(given, found, given_name(given))
            return given, found
        refused: DataError | None = None
        for place in self.places():
            try:
                dataset = self.open(place)
                found = identity(dataset)
                self._check(dataset, found, place)
            except DataError as error:
                refused = refused or error
            else:
                return dataset, found
        assert refused is not None  # `places` is not empty
        raise refused

    def load(self, given: Dataset | None = None) -> tuple[Dataset, DataIdentity]:
        """As `find`, in memory if they fit."""
        dataset, found = self.find(given)
        return (dataset if given is not None else within(self.data_memory, dataset)), found

    def open(self, source: str, *, converted: bool = True) -> Dataset:
        """Data at another place, read like the run's own. Raises `DataError`."""
        return open_dataset(
            source, self.conversion if converted else AS_IS, data_memory=self.data_memory
        )

    def places(self) -> list[str]:
        """The data's path, and that relative to the run. Raises `DataError` if both are missing."""
        if self.stored is None or self.stored.path is None or not is_path(self.source):
            return [self.source]
        beside = os.path.normpath(self.run / self.stored.path)
        known = dict.fromkeys([self.source, beside])
        there = [place for place in known if os.path.exists(place)]  # noqa: PTH110 - any text
        if not there:
            raise DataError(
                f"The data of {self.run} are not at {' nor at '.join(known)}. Put them back, or "
                f"write their path into {RunDirectory(self.run).data}."
            )
        return there

    def _check(self, dataset: Dataset, found: DataIdentity, place: str) -> None:
        """Refuse other data than the run's, if it stored an identity."""
        check_classes(self, dataset)
        if self.stored is None or self.stored.digest == found.digest:
            return
        raise DataError(
            f"{place} holds other data than {self.run} was trained on; different are "
            f"{'; '.join(self.stored.differences(found))}. The run's data have "
            f"{self.stored.words}; these have {found.words}. To evaluate on other data: sparring "
            "evaluate RUN --data PATH (in Python other_data=)."
        )


def dataset_of(run: RunDirectory, given: Dataset | None = None) -> Dataset:
    """The data that a run was trained on. Raises what `RunData.of` and `RunData.find` raise."""
    return RunData.of(run).find(given)[0]


def other_data(run: RunDirectory, other: Dataset | Path | str) -> tuple[Dataset, DataIdentity]:
    """Other data to evaluate a run on.

    Raises `DataError` if they cannot be read, or do not have the run's classes and image shape.
    Classes without names are taken by their numbers (see `taken_by_number`).
    """
    run_data = RunData.of(run)
    if isinstance(other, Dataset):
        dataset, found = other, identity(other, decoded=True)
    else:
        source = str(other)
        dataset = run_data.open(source, converted=takes_conversion(source))
        found = identity(dataset)
    own = run_data.stored or run_data.find()[1]
    if (found.shape, found.classes) != (own.shape, own.classes):
        raise DataError.expected(
            f"the network takes images of shape {own.shape} in {own.classes} classes",
            f"{found.shape} in {found.classes} classes from {dataset.name}",
        )
    by_number, names = numbered(found.classes), run_data.class_names
    if dataset.class_names != by_number:
        check_classes(run_data, dataset)
    elif names != by_number and set(names) == set(by_number):
        raise DataError(
            f"{dataset.name} numbers its classes {_some(by_number)}, but {run_data.run} was "
            f"trained on folders of these names in the order {', '.join(names[:_NAMED])}, so that "
            "the same label means two classes. Put the images into class folders of these names."
        )
    return dataset, found


def taken_by_number(run: RunDirectory, dataset: Dataset) -> str | None:
    """A caveat for other data that only number their classes, where the run has names."""
    names = run.class_names()
    by_number = numbered(dataset.num_classes)
    if not names or names == dataset.class_names or dataset.class_names != by_number:
        return None
    return (
        f"the data only number their classes: label 0 is taken for {names[0]}, label 1 for "
        f"{names[1]}, and so on"
    )


def is_its_own(run: RunDirectory, found: DataIdentity) -> bool:
    """Whether these are the data that the run was trained on, as far as it stored them."""
    stored = run.read_data()
    return stored is not None and stored.digest == found.digest


def store_identity(run: RunDirectory, source: str, found: DataIdentity) -> None:
    """Write a run's data.json. Raises `RunError` if that fails."""
    path = None
    if is_path(source):
        with suppress(ValueError):  # another drive
            path = os.path.relpath(absolute(source), run.path.resolve())
    run.write_data(replace(found, path=path))


def conversion_of(run: RunDirectory) -> Conversion:
    """How the run's pictures are converted."""
    return Conversion(
        image_size=run.section_or("image_size", int | None, None),
        channels=run.section_or("channels", str | None, None),
    )


def check_classes(run: RunData, dataset: Dataset) -> None:
    """Refuse data with other classes than the run's, if it stored them. Raises `DataError`."""
    before = run.class_names
    if before and before != dataset.class_names:
        raise DataError(
            f"The classes of {dataset.name} are {_some(dataset.class_names)}; {run.run} was "
            f"trained on {_some(before)}. Put the class folders back as they were."
        )


def _some(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:_NAMED])
    return f"{len(names)} ({listed}{', …' if len(names) > _NAMED else ''})"


def _check_given(source: str, given: Dataset) -> None:
    if source != given_name(given):
        raise ConfigError.expected(
            f"data must be what the run was trained on, {source}", given_name(given)
        )
