"""Files and folders of data sets: listed, opened, and read where pixels lie in them as plain bytes.

Shapes: B images of a batch, C channels, H rows, W columns. Units: grey levels 0 to 255.
"""

import math
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.errors import DataError, SparringError
from sparring.records.files import open_regular
from sparring.records.text import bytes_text

PARTS = MappingProxyType(
    {
        "train": "train",
        "test": "test",
        "validation": "validation",
        "valid": "validation",
        "val": "validation",
    }
)
"""Names in lower case that say which part something is."""
_LEFT_BY_SYSTEMS = frozenset(
    {
        "__MACOSX",
        "Thumbs.db",
        "desktop.ini",
        "Icon\r",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    }
)


def visible(folder: Path) -> list[Path]:
    """A folder's entries by name, without hidden ones and those that systems leave there.

    Raises `DataError` if the folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    return [
        path
        for path in entries
        if not path.name.startswith(".") and path.name not in _LEFT_BY_SYSTEMS
    ]


def is_folder(path: Path) -> bool:
    """Whether there is a readable folder, or a link to one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def part_of(name: str) -> str | None:
    """The part that a folder of this name is, in any capitals; `None` if it is no part."""
    return PARTS.get(name.lower())


def same_name(name: str) -> str:
    """The NFC form of a name; systems store accents in two ways that look the same."""
    return unicodedata.normalize("NFC", name)


LARGEST = 1 << 44
"""Bytes of a data file, 16 TiB: they are read piece by piece."""
_SMALL = 256 << 20
_UNLIKELY = 200
"""Most times its size that a large file may unpack to."""


@contextmanager
def data_file(path: Path, *, at_most: int = LARGEST, name: str | None = None) -> Iterator[BinaryIO]:
    """A data file, open for reading; `name` is what messages call it.

    Raises `DataError` if it is missing, not a regular file, or larger than `at_most` bytes.
    """
    try:
        file = open_regular(path, at_most)
    except (OSError, ValueError) as error:  # a path that holds a null byte is a ValueError
        raise DataError(
            f"{name or path} cannot be read: {told(error)}. Check the path, where a link leads, "
            "and its permissions."
        ) from error
    with file:
        yield file


@contextmanager
def damage(must: str, remedy: str) -> Iterator[None]:
    """Turn any error of a parser into a `DataError` "<must>; got: <reason>. <remedy>"."""
    try:
        yield
    except SparringError:
        raise
    except Exception as error:
        raise DataError.expected(must, told(error), remedy) from error


def told(error: BaseException) -> str:
    """The first line of an error, or its type."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    reason = getattr(error, "strerror", None) or str(error)
    lines = reason.strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def check_unpacked(where: str, stored: int, unpacked: int) -> None:
    """Refuse files that are made to fill the memory of their reader. Raises `DataError`."""
    if unpacked > _SMALL and unpacked > _UNLIKELY * stored:
        raise DataError(
            f"{where} unpacks from {bytes_text(stored)} to {bytes_text(unpacked)}; at most "
            f"{_UNLIKELY} times its size is allowed. Save it without compression if that is meant."
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawPixels:
    """Unsigned bytes in an uncompressed file, read image by image."""

    path: Path
    offset: int
    """Bytes before the first image."""
    count: int
    image_shape: tuple[int, int, int]
    """Channels, rows and columns of one image."""
    channels_last: bool = False
    """Whether an image lies there as rows, columns, channels."""

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at these places. Cost: a read each. Raises `DataError` if the file is gone."""
        size = math.prod(self.image_shape)
        images = bytearray(size * len(places))
        view = memoryview(images)
        try:
            with open_regular(self.path, LARGEST) as file:
                for row, place in enumerate(places.tolist()):
                    here = view[row * size : (row + 1) * size]
                    if os.preadv(file.fileno(), [here], self.offset + place * size) != size:
                        raise OSError(f"it ends before image {place}")
        except OSError as error:
            raise DataError(
                f"{self.path} changed while images were read from it: {error.strerror or error}. "
                "Put it back."
            ) from error
        levels = torch.frombuffer(images, dtype=torch.uint8)
        channels, rows, columns = self.image_shape
        if self.channels_last:
            return levels.view(-1, rows, columns, channels).permute(0, 3, 1, 2).contiguous()
        return levels.view(-1, channels, rows, columns)
