"""IDX files, the format MNIST and its relatives come in.

An IDX file is two zero bytes, a byte for the type of its numbers (8: unsigned bytes), a byte
for the number of dimensions, each dimension as a big-endian 32-bit number, then the numbers
themselves, the last dimension running fastest.

Shapes: N images, H rows, W columns. Units: grey levels 0 to 255.
"""

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import IO, NamedTuple, cast

import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from sparring.data.opening import check_unpacked, data_file, told
from sparring.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = 8
_FETCH_AGAIN = "Fetch the file again from where it came from."
_PIECE = 1 << 20
"""Bytes of one read: what a header announces is never allocated before it is there."""


class IdxHeader(NamedTuple):
    """What an IDX file says of itself."""

    shape: tuple[int, ...]
    is_gzipped: bool
    stored: int
    """Bytes of the file."""

    @property
    def begin(self) -> int:
        """Bytes before the numbers."""
        return 4 + 4 * len(self.shape)

    @property
    def numbers(self) -> int:
        """How many numbers it announces."""
        return math.prod(self.shape)


def read_header(path: Path, num_dimensions: int) -> IdxHeader:
    """What the header of an IDX file announces; the numbers are not read.

    Raises `DataError` if it is no such file, empty, or not as long as it says, as far as that can
    be seen without unpacking it.
    """
    with _unpacked(path) as (file, stored, is_gzipped):
        begin = file.read(4 + 4 * num_dimensions)
    shape = _shape(begin, path, num_dimensions)
    header = IdxHeader(shape=shape, is_gzipped=is_gzipped, stored=stored)
    if is_gzipped:
        check_unpacked(str(path), stored, header.numbers)
    else:
        _check_length(path, shape, stored, str(stored))
    return header


def read_images(path: Path) -> UInt8[Tensor, " N H W"]:
    """The images of an IDX file, gzipped or not.

    Raises `DataError` if the file is not a whole IDX file of unsigned bytes in three dimensions.
    """
    return _read(path, read_header(path, 3))


def read_labels(path: Path) -> Int64[Tensor, " N"]:
    """The labels of an IDX file, gzipped or not.

    Raises `DataError` if the file is not a whole IDX file of unsigned bytes in one dimension.
    """
    return _read(path, read_header(path, 1)).to(torch.int64)


def read_content(path: Path, at_most: int) -> bytes:
    """The bytes of a file, uncompressed if it is gzipped, whatever its name says.

    Raises `DataError` if it cannot be read, its gzip stream is damaged or cut short, or there are
    more than `at_most` bytes.
    """
    content = b"".join(_pieces(path, at_most + 1))
    if len(content) > at_most:
        raise DataError(
            f"{path} must hold at most {at_most:,} bytes; it holds more. {_FETCH_AGAIN}"
        )
    return content


def have_same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same, uncompressed. Raises `DataError` as `read_content`."""
    pieces = zip_longest(_pieces(one), _pieces(other))
    return all(piece == of_other for piece, of_other in pieces)


def parse_idx(
    content: bytes | bytearray, path: Path, num_dimensions: int
) -> Shaped[Tensor, " ..."]:
    """The numbers of an IDX file, as unsigned bytes of `num_dimensions` dimensions.

    Raises `DataError` naming `path` if `content` is anything else, is empty, or is longer or
    shorter than its own header says.
    """
    start = 4 + 4 * num_dimensions
    shape = _shape(bytes(content[:start]), path, num_dimensions)
    _check_length(path, shape, len(content), str(len(content)))
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def _read(path: Path, header: IdxHeader) -> Shaped[Tensor, " ..."]:
    """The numbers that the header announces."""
    expected = header.begin + header.numbers
    content = bytearray()
    for piece in _pieces(path, expected + 1):
        content += piece
    found = "more" if len(content) > expected else str(len(content))
    _check_length(path, header.shape, len(content), found)
    return torch.frombuffer(content, dtype=torch.uint8, offset=header.begin).reshape(header.shape)


def _pieces(path: Path, at_most: int | None = None) -> Iterator[bytes]:
    """A file's bytes, uncompressed, in pieces of one size; the first `at_most` of them."""
    left = at_most
    with _unpacked(path) as (file, _, _):
        while left is None or left > 0:
            piece = file.read(_PIECE if left is None else min(_PIECE, left))
            if not piece:
                return
            left = None if left is None else left - len(piece)
            yield piece


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[IO[bytes], int, bool]]:
    """A file that unpacks while it is read; its size on disk, and whether it is gzipped."""
    with data_file(path) as file:
        stored = file.seek(0, io.SEEK_END)
        file.seek(0)
        is_gzipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        try:
            unpacked = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzipped else file
            yield unpacked, stored, is_gzipped
        except EOFError as error:
            raise DataError(
                f"{path} must hold a whole gzip stream; it ends too early, after {stored} bytes: "
                f"the file is truncated. {_FETCH_AGAIN}"
            ) from error
        except (OSError, ValueError, struct.error, zlib.error) as error:
            raise DataError(
                f"{path} must hold one intact gzip stream; it is corrupt ({told(error)}). "
                f"{_FETCH_AGAIN}"
            ) from error


def _shape(begin: bytes, path: Path, num_dimensions: int) -> tuple[int, ...]:
    """The dimensions that a file's first bytes announce."""
    start = 4 + 4 * num_dimensions
    _check_magic(begin[:4], path, num_dimensions)
    if len(begin) < start:
        raise _truncated_header(path, start, len(begin))
    shape = struct.unpack(f">{num_dimensions}I", begin[4:])
    if 0 in shape:
        raise DataError(
            f"{path} must hold at least one number; its header announces {_announced(shape)}. "
            "Give a file with data in it."
        )
    return shape


def _announced(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_length(path: Path, shape: tuple[int, ...], found: int, told: str) -> None:
    """Refuse a file that is longer or shorter than its header says."""
    expected = 4 + 4 * len(shape) + math.prod(shape)
    if found != expected:
        verdict = "truncated" if found < expected else "followed by trailing bytes"
        raise DataError(
            f"{path} must hold exactly {expected} bytes (uncompressed), because its header "
            f"announces {_announced(shape)} numbers; it holds {told}: the data are {verdict}. "
            f"{_FETCH_AGAIN}"
        )


def _truncated_header(path: Path, start: int, found: int) -> DataError:
    return DataError(
        f"{path} must begin with a header of {start} bytes; it holds {found} bytes "
        f"in all: the file is truncated. {_FETCH_AGAIN}"
    )


def _check_magic(magic: bytes, path: Path, num_dimensions: int) -> None:
    """Refuse what does not begin as an IDX file of unsigned bytes does."""
    if len(magic) < 4 or magic[:2] != b"\0\0":
        found = magic.hex(" ") or "nothing"
        raise DataError(
            f"{path} must be an IDX file, whose first bytes are "
            f"00 00 {_UNSIGNED_BYTES:02x} {num_dimensions:02x}; they are {found}. "
            "Is it another kind of file, saved under this name?"
        )
    if magic[2] != _UNSIGNED_BYTES:
        raise DataError(
            f"{path} must hold unsigned bytes (IDX type 0x08), because pixels are grey levels "
            f"0 to 255 and labels small counts; its type is 0x{magic[2]:02x}. "
            "Write the file again as unsigned bytes."
        )
    if magic[3] != num_dimensions:
        kind = {1: "labels", 3: "images"}
        raise DataError(
            f"{path} must have {num_dimensions} dimension(s), as a file of "
            f"{kind[num_dimensions]} has; it has {magic[3]}. "
            "Are the files of images and labels swapped?"
        )
