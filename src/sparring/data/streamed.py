"""Images that do not fit into memory, read by a few threads, ahead of time where possible.

Shapes: N images of a set, B images of a batch, C channels, H rows, W columns.
Units:  grey levels 0 to 255; pixels of a batch lie in [0, 1].
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.images import Batch, Dataset, Images, ImageSet, Indexed, check_labelled
from sparring.errors import DataError
from sparring.records.text import bytes_text

THREADS = 4
"""Most threads that read; decoding releases the GIL."""
PIECE = 16
"""Images of one task of a thread."""
KEPT = 2
"""Tickets that are kept, as a multiple of those that are read ahead."""


class _Place(NamedTuple):
    """Where an image is, or will be."""

    piece: Future[Tensor]
    row: int


class Reader:
    """Reads ahead, and keeps the images of the newest `KEPT` times (`tickets` + 1) tickets.

    It belongs to one thread; a process that is forked with it reads for itself. Without tickets it
    reads only the images that are taken.
    """

    def __init__(
        self, read: Callable[[Int64[Tensor, " B"]], UInt8[Tensor, " B C H W"]], *, tickets: int
    ) -> None:
        self._read, self._tickets = read, tickets
        self._room = 0
        self._kept: OrderedDict[int, _Place] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def expect(self, places: Int64[Tensor, " B"]) -> None:
        """Begin to read the images at these places. Cost: a few microseconds an image."""
        self._room = max(self._room, KEPT * (self._tickets + 1) * len(places))
        self._kept.update(self._begin(places))
        self._forget()

    def take(self, places: Int64[Tensor, " B"], *, into: UInt8[Tensor, " B C H W"]) -> None:
        """Copy the images at these places. Raises the errors of reading them."""
        begun = self._begin(places)
        if self._room:
            self._kept.update(begun)
        for row, place in enumerate(places.tolist()):
            found = begun.get(place) or self._kept[place]
            into[row] = found.piece.result()[found.row]
        self._forget()

    def _forget(self) -> None:
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)

    def _begin(self, places: Int64[Tensor, " B"]) -> dict[int, _Place]:
        """Start to read what is neither kept nor being read."""
        if self._process != os.getpid():  # forked, without the threads that would read
            self._process, self._pool = os.getpid(), None
            self._kept.clear()
        missing = [place for place in dict.fromkeys(places.tolist()) if place not in self._kept]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sparring reads")
        begun = {}
        for start in range(0, len(missing), PIECE):
            places_of = missing[start : start + PIECE]
            piece = self._pool.submit(self._read, torch.tensor(places_of))
            begun |= {place: _Place(piece, row) for row, place in enumerate(places_of)}
        return begun


AHEAD = 4
"""Tickets that are read ahead."""
AT_ONCE = 256
"""Images that are converted at a time, to save memory."""
DATA_MEMORY = 4 << 30
"""Bytes of pixels that are held in memory by default."""


@runtime_checkable
class Pixels(Protocol):
    """Pixels that can be read in any order, also in another process: it pickles."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        ...

    def __len__(self) -> int: ...

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at these places; thread-safe. Raises `DataError` if one cannot be read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class StreamedSet(Indexed):
    """Images with their labels, read when they are needed, those of the next tickets ahead.

    They equal those of an `ImageSet` bit for bit. A pickled copy in another process reads for
    itself, nothing ahead. Raises what `ImageSet` raises.
    """

    pixels: Pixels

    places: Int64[Tensor, " N"]
    """Which of those images are the set's, in its order."""

    labels: Int64[Tensor, " N"]
    """Classes, 0 to num_classes - 1."""

    num_classes: int
    """Number of classes, at least 2."""

    reads_ahead: int = AHEAD
    """Tickets ahead for which `expect` is worth calling."""

    _reader: Reader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_labelled(len(self.places), self.labels, self.num_classes)
        object.__setattr__(self, "_reader", Reader(self.pixels.read, tickets=self.reads_ahead))

    def __reduce__(self) -> tuple[object, ...]:
        return _elsewhere, (self.pixels, self.places, self.labels, self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        return self.pixels.image_shape

    def expect(self, indices: Int64[Tensor, " B"]) -> None:
        """Begin to read these images; errors are raised when they are used."""
        self._reader.expect(self.places[indices])

    def levels(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at `indices` as grey levels. Raises `DataError` if one cannot be read."""
        images = torch.empty((len(indices), *self.image_shape), dtype=torch.uint8)
        for start in range(0, len(indices), AT_ONCE):
            piece = self.places[indices[start : start + AT_ONCE]]
            self._reader.take(piece, into=images[start : start + AT_ONCE])
        return images

    def batch(self, indices: Int64[Tensor, " B"]) -> Batch:
        """As `ImageSet.batch`. Raises `DataError` if an image cannot be read."""
        images = torch.empty((len(indices), *self.image_shape))
        for start in range(0, len(indices), AT_ONCE):
            levels = self.levels(indices[start : start + AT_ONCE])
            images[start : start + AT_ONCE] = levels.to(torch.float32).div_(255)
        return Batch(images=images, labels=self.labels[indices])

    def in_memory(self) -> ImageSet:
        """The same set, held in memory. Cost: one read of every image, and a byte a pixel."""
        pixels = self.levels(torch.arange(len(self)))
        return ImageSet(pixels=pixels, labels=self.labels, num_classes=self.num_classes)


def _elsewhere(pixels: Pixels, places: Tensor, labels: Tensor, num_classes: int) -> StreamedSet:
    return StreamedSet(
        pixels=pixels, places=places, labels=labels, num_classes=num_classes, reads_ahead=0
    )


def pixel_bytes(images: Images) -> int:
    """Memory that a set's pixels take."""
    channels, rows, columns = images.image_shape
    return len(images) * channels * rows * columns


def within(data_memory: int, dataset: Dataset) -> Dataset:
    """The data set, in memory if its pixels take at most `data_memory` bytes.

    Raises `DataError` if an image cannot be read.
    """
    parts = (dataset.train, dataset.validation, dataset.test)
    if sum(map(pixel_bytes, parts)) > data_memory:
        return dataset
    train, validation, test = map(_held, parts)
    return replace(dataset, train=train, validation=validation, test=test)


def too_large(what: str, size: int, data_memory: int, remedy: str) -> DataError:
    """The error for pixels that neither fit into memory nor can be streamed."""
    return DataError(
        f"{what} holds {bytes_text(size)} of pixels that cannot be streamed, more than "
        f"data_memory, {bytes_text(data_memory)}. {remedy}, or raise data_memory "
        f"(--set data_memory={bytes_text(size + size // 8)})."
    )


def _held(images: Images) -> Images:
    return images.in_memory() if isinstance(images, StreamedSet) else images
