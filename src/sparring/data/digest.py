"""The digest of a data set: the same for the same images and labels, wherever they lie.

It covers every label, and every pixel of sets of up to `WHOLE` bytes of pixels; of pictures in
files or tables the encoded bytes, up to `WHOLE_FILES` of them. Of larger sets it covers a sample:
`SAMPLE` images, evenly spaced; of encoded pictures the name and size of each, and its first and
last `ENDS` bytes, where PNG has its checksums. It does not depend on where a data set lies, on the
time or order of its files, or on how much of it is held in memory.

Shapes: N images of a set.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from sparring.data.images import Dataset, Images, ImageSet
from sparring.data.reader import THREADS
from sparring.data.streamed import AT_ONCE, StreamedSet, pixel_bytes
from sparring.records.data_identity import DataIdentity, PartIdentity

Given = TypeVar("Given")
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


def _on_threads(do: Callable[[Given], Found], given: Sequence[Given]) -> list[Found]:
    """What comes of each, in order."""

    def of_some(start: int) -> list[Found]:
        return [do(one) for one in given[start : start + AT_ONCE]]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(chain.from_iterable(pool.map(of_some, range(0, len(given), AT_ONCE))))
