"""The data set of a run: its identity, and how it is found and compared again.

The identity is the same for the same images and labels, wherever they lie. It covers every label,
and every pixel of sets of up to `WHOLE` bytes of pixels; of pictures in files or tables the encoded
bytes, up to `WHOLE_FILES` of them. Of larger sets it covers a sample: `SAMPLE` images, evenly
spaced; of encoded pictures the name and size of each, and its first and last `ENDS` bytes, where
PNG has its checksums. It does not depend on the time or order of files, or on how much of the set
is held in memory.

The run's data.json holds the identity and where the data lie from the run's folder; config.json
holds their whole path. A project that was moved with its data works on; other data are refused.

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
"""Bytes of pixels up to which every pixel counts; some seconds."""
WHOLE_FILES = 1 << 30
"""Bytes of encoded pictures up to which every byte counts; some seconds."""
SAMPLE = 4096
"""Images of a larger set that count."""
ENDS = 4096
"""Bytes of each end of a picture of a larger set that count."""


@runtime_checkable
class Encoded(Protocol):
    """Pictures whose encoded bytes can be read without decoding them."""

    def encoded_size(self, place: int) -> int:
        """Bytes of the picture at this place. Raises `DataError` if it is gone."""
        ...

    def encoded(self, place: int, start: int, stop: int) -> bytes:
        """Some of its bytes. Raises `DataError` if they cannot be read."""
        ...

    def encoded_name(self, place: int) -> str:
        """What it is called within the set."""
        ...


def identity(dataset: Dataset, *, decoded: bool = False) -> DataIdentity:
    """What a data set is known by.

    `decoded` looks at pixels also where encoded bytes are at hand: for data from Python, which may
    be held in memory one time and streamed the next.
    Cost: one read of what the digest covers. Raises `DataError` for images that cannot be read.
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
    """What comes of each, in order."""

    def of_some(start: int) -> list[Found]:
        return [do(one) for one in given[start : start + AT_ONCE]]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(chain.from_iterable(pool.map(of_some, range(0, len(given), AT_ONCE))))


_NAMED = 10
"""Classes in a message: enough to see which is new or gone."""


def given_name(dataset: Dataset) -> str:
    """What a run calls data that were passed to it in Python."""
    return GIVEN + dataset.name


def new_data(
    source: str,
    given: Dataset | None,
    conversion: Conversion = AS_IS,
    *,
    data_memory: int = DATA_MEMORY,
) -> tuple[Dataset, DataIdentity]:
    """The data of a new run, in memory if they fit, and what they are known by.

    Raises `DataError` as `load_dataset` does, and `ConfigError` for `given` data of another name
    than the settings have.
    """
    if given is not None:
        _check_given(source, given)
        return given, identity(given, decoded=True)
    opened = open_dataset(source, conversion, data_memory=data_memory)
    return within(data_memory, opened), identity(opened)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """What a run says about its data, enough to find them again in any process."""

    run: Path
    """The run's folder."""
    source: str
    """What config.json calls them."""
    conversion: Conversion
    """How pictures are converted."""
    data_memory: int
    """Bytes of pixels that are held in memory."""
    class_names: tuple[str, ...]
    """Names of the classes; none of runs that stored none."""
    stored: DataIdentity | None
    """What they are known by; none of runs that stored none."""

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
        """The data, or those that are `given`, compared with the run's; and what they are known by.

        Pictures are decoded when they are used. Raises `DataError` for data that are missing or
        that are not the run's, `ConfigError` for `given` data of another name.
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
        assert refused is not None  # there is a place at least
        raise refused

    def load(self, given: Dataset | None = None) -> tuple[Dataset, DataIdentity]:
        """As `find`, in memory if they fit."""
        dataset, found = self.find(given)
        return (dataset if given is not None else within(self.data_memory, dataset)), found

    def open(self, source: str, *, converted: bool = True) -> Dataset:
        """Data at another place, read as the run reads its own. Raises `DataError`."""
        return open_dataset(
            source, self.conversion if converted else AS_IS, data_memory=self.data_memory
        )

    def places(self) -> list[str]:
        """Where they may lie: where they were, and where they lie from the run's folder.

        Raises `DataError` if there is nothing at either.
        """
        if self.stored is None or self.stored.path is None or not is_path(self.source):
            return [self.source]
        beside = os.path.normpath(self.run / self.stored.path)
        known = dict.fromkeys([self.source, beside])
        there = [place for place in known if os.path.exists(place)]  # noqa: PTH110 - any text
        if not there:
            raise DataError(
                f"There are no data at {' nor at '.join(known)}, where those of {self.run} were. "
                f"Put them back, or write into {RunDirectory(self.run).data} (path) where they lie "
                "now."
            )
        return there

    def _check(self, dataset: Dataset, found: DataIdentity, place: str) -> None:
        """Refuse other data than the run's; runs that stored nothing are taken at their word."""
        check_classes(self, dataset)
        if self.stored is None or self.stored.digest == found.digest:
            return
        raise DataError(
            f"{place} holds other data than {self.run} was trained on; different are "
            f"{'; '.join(self.stored.differences(found))}. The run's data have "
            f"{self.stored.words}; these have {found.words}. Put the run's data back. To judge the "
            "network on others: sparring evaluate RUN --data PATH (in Python other_data=)."
        )


def dataset_of(run: RunDirectory, given: Dataset | None = None) -> Dataset:
    """The data of a run, those that it was trained on; pictures are decoded when they are used.

    Raises what `RunData.of` and `RunData.find` raise.
    """
    return RunData.of(run).find(given)[0]


def other_data(run: RunDirectory, other: Dataset | Path | str) -> tuple[Dataset, DataIdentity]:
    """Data that a run is to be judged on, though it was not trained on them.

    Raises `DataError` if they cannot be read, or have other classes or images of another shape
    than the network takes.
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
        raise DataError(
            f"The network takes images of shape {own.shape} (channels, rows, columns) in "
            f"{own.classes} classes; those of {dataset.name} have shape {found.shape} in "
            f"{found.classes} classes. Judge it on data that fit."
        )
    if dataset.class_names != numbered(found.classes):
        check_classes(run_data, dataset)
    return dataset, found


def store_identity(run: RunDirectory, source: str, found: DataIdentity) -> None:
    """Write what a run's data are known by, and where they lie from its folder.

    Raises `RunError` if it cannot be written.
    """
    path = None
    if is_path(source):
        with suppress(ValueError):  # another drive: there is no way from here to there
            path = os.path.relpath(absolute(source), run.path.resolve())
    run.write_data(replace(found, path=path))


def conversion_of(run: RunDirectory) -> Conversion:
    """How the run's pictures are converted."""
    return Conversion(
        image_size=run.section_or("image_size", int | None, None),
        channels=run.section_or("channels", str | None, None),
    )


def check_classes(run: RunData, dataset: Dataset) -> None:
    """Refuse data whose classes are not those that the run was trained on. Raises `DataError`.

    Runs that stored no names are taken at their word.
    """
    before = run.class_names
    if before and before != dataset.class_names:
        raise DataError(
            f"The classes of {dataset.name} must be those that {run.run} was trained on, because "
            f"the network's outputs are numbered by them; they were {_some(before)}, and are "
            f"{_some(dataset.class_names)}. Put the class folders back as they were."
        )


def _some(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:_NAMED])
    return f"{len(names)} ({listed}{', …' if len(names) > _NAMED else ''})"


def _check_given(source: str, given: Dataset) -> None:
    if source != given_name(given):
        raise ConfigError(
            f"data must be left out, or be what the run was trained on, {source}; got a data set "
            f"of the name {given.name}, which runs call {given_name(given)}. Give that one, under "
            "the name that it had."
        )
