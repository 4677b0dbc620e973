"""IDX files, the format MNIST and its relatives come in.

An IDX file is two zero bytes, a byte for the type of its numbers (8: unsigned bytes), a byte
for the number of dimensions, each dimension as a big-endian 32-bit number, then the numbers
themselves, the last dimension running fastest.

Shapes: N images, H rows, W columns. Units: grey levels 0 to 255.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from sparring.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = 8
_FETCH_AGAIN = "Fetch the file again from where it came from."


def read_content(path: Path) -> bytes:
    """The bytes of a file, uncompressed if it is gzipped, whatever its name says.

    Raises `DataError` if it cannot be read or its gzip stream is damaged or cut short.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} must be a readable file; got: {error.strerror}. "
            "Check the path and its permissions."
        ) from error
    if not raw.startswith(_GZIP_MAGIC):
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError as error:
        raise DataError(
            f"{path} must hold a whole gzip stream; it ends too early, after {len(raw)} bytes: "
            f"the file is truncated. {_FETCH_AGAIN}"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} must hold one intact gzip stream; it is corrupt ({error}). {_FETCH_AGAIN}"
        ) from error


def read_images(path: Path) -> UInt8[Tensor, " N H W"]:
    """The images of an IDX file, gzipped or not.

    Raises `DataError` if the file is not a whole IDX file of unsigned bytes in three dimensions.
    """
    return parse_idx(read_content(path), path, 3)


def read_labels(path: Path) -> Int64[Tensor, " N"]:
    """The labels of an IDX file, gzipped or not.

    Raises `DataError` if the file is not a whole IDX file of unsigned bytes in one dimension.
    """
    return parse_idx(read_content(path), path, 1).to(torch.int64)


def is_gzipped(path: Path) -> bool:
    """Whether a file is compressed, whatever its name says. Raises `DataError` if unreadable."""
    return _beginning(path, 2, gzipped=False) == _GZIP_MAGIC


def image_file_shape(path: Path) -> tuple[int, int, int]:
    """Images, rows and columns that the header of an IDX file of images announces.

    Cost: reading the header. Raises `DataError` if it is no such file.
    """
    header = _beginning(path, 16, gzipped=is_gzipped(path))
    _check_magic(header[:4], path, 3)
    if len(header) < 16:
        raise _truncated_header(path, 16, len(header))
    num_images, rows, columns = struct.unpack(">3I", header[4:])
    return num_images, rows, columns


def _beginning(path: Path, count: int, *, gzipped: bool) -> bytes:
    """The first bytes of a file."""
    try:
        with gzip.open(path) if gzipped else path.open("rb") as file:
            return file.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} must be a readable file; got: {error}. Check the path and its permissions."
        ) from error


def parse_idx(content: bytes, path: Path, num_dimensions: int) -> Shaped[Tensor, " ..."]:
    """The numbers of an IDX file, as unsigned bytes of `num_dimensions` dimensions.

    Raises `DataError` naming `path` if `content` is anything else, is empty, or is longer or
    shorter than its own header says.
    """
    start = 4 + 4 * num_dimensions
    _check_magic(content[:4], path, num_dimensions)
    if len(content) < start:
        raise _truncated_header(path, start, len(content))
    shape = struct.unpack(f">{num_dimensions}I", content[4:start])
    announced = " x ".join(map(str, shape))
    if 0 in shape:
        raise DataError(
            f"{path} must hold at least one number; its header announces {announced}. "
            "Give a file with data in it."
        )
    expected = start + math.prod(shape)
    if len(content) != expected:
        verdict = "truncated" if len(content) < expected else "followed by trailing bytes"
        raise DataError(
            f"{path} must hold exactly {expected} bytes (uncompressed), because its header "
            f"announces {announced} numbers; it holds {len(content)}: the data are {verdict}. "
            f"{_FETCH_AGAIN}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


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
