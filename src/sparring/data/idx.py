"""IDX files, the format of MNIST and its relatives, and folders with the four files of a data set.

An IDX file is two zero bytes, a byte for the type of its numbers (8: unsigned bytes), a byte
for the number of dimensions, each dimension as a big-endian 32-bit number, then the numbers
themselves, the last dimension running fastest.

Known names in a folder: `train-images-idx3-ubyte` and `t10k-labels-idx1-ubyte` as published, the
same with a dot before `idx`, `test` for `t10k`, anything ending in a hyphen in front (EMNIST's
`emnist-balanced-train-images-idx3-ubyte`), each with or without `.gz`.

Shapes: N images, H rows, W columns. Units: grey levels 0 to 255.
"""

import gzip
import io
import math
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product, zip_longest
from pathlib import Path
from typing import IO, NamedTuple, cast

import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from sparring.data.files import RawPixels, check_unpacked, data_file, told, visible
from sparring.data.images import Dataset
from sparring.data.splits import Labelled, assemble, one_label_each
from sparring.data.streamed import DATA_MEMORY, too_large
from sparring.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = 8
_FETCH_AGAIN = "Fetch the file again from where it came from."
_PIECE = 1 << 20
"""Bytes of one read, so that no more is allocated than the file holds."""


class IdxHeader(NamedTuple):
    """The header of an IDX file."""

    shape: tuple[int, ...]
    is_gzipped: bool
    stored: int
    """Bytes of the file."""

    @property
    def begin(self) -> int:
        """Bytes of the header."""
        return 4 + 4 * len(self.shape)

    @property
    def numbers(self) -> int:
        """Numbers in all."""
        return math.prod(self.shape)


def read_header(path: Path, num_dimensions: int) -> IdxHeader:
    """Read the header only.

    Raises `DataError` for another or an empty file, or one that is not as long as it says.
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
    """The images of an IDX file. Raises `DataError` for a damaged or another file."""
    return _read(path, read_header(path, 3))


def read_labels(path: Path) -> Int64[Tensor, " N"]:
    """The labels of an IDX file. Raises `DataError` for a damaged or another file."""
    return _read(path, read_header(path, 1)).to(torch.int64)


def read_content(path: Path, at_most: int) -> bytes:
    """The bytes of a file, unpacked if it is gzipped.

    Raises `DataError` for a damaged file, or for more than `at_most` bytes.
    """
    content = b"".join(_pieces(path, at_most + 1))
    if len(content) > at_most:
        raise DataError(f"{path} holds more than {at_most:,} bytes. {_FETCH_AGAIN}")
    return content


def have_same_content(one: Path, other: Path) -> bool:
    """Whether two files are equal, unpacked. Raises `DataError` as `read_content`."""
    pieces = zip_longest(_pieces(one), _pieces(other))
    return all(piece == of_other for piece, of_other in pieces)


def parse_idx(
    content: bytes | bytearray, path: Path, num_dimensions: int
) -> Shaped[Tensor, " ..."]:
    """The unsigned bytes of an IDX file. Raises `DataError`, with `path`, for other content."""
    start = 4 + 4 * num_dimensions
    shape = _shape(bytes(content[:start]), path, num_dimensions)
    _check_length(path, shape, len(content), str(len(content)))
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def _read(path: Path, header: IdxHeader) -> Shaped[Tensor, " ..."]:
    expected = header.begin + header.numbers
    content = bytearray()
    for piece in _pieces(path, expected + 1):
        content += piece
    found = "more" if len(content) > expected else str(len(content))
    _check_length(path, header.shape, len(content), found)
    return torch.frombuffer(content, dtype=torch.uint8, offset=header.begin).reshape(header.shape)


def _pieces(path: Path, at_most: int | None = None) -> Iterator[bytes]:
    """The first `at_most` bytes of a file, unpacked, in pieces."""
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
    """A file that unpacks on reading; its size on disk, and whether it is gzipped."""
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
                f"{path} is truncated: its gzip stream ends after {stored} bytes. {_FETCH_AGAIN}"
            ) from error
        except (OSError, ValueError, struct.error, zlib.error) as error:
            raise DataError(
                f"{path} is a corrupt gzip stream ({told(error)}). {_FETCH_AGAIN}"
            ) from error


def _shape(begin: bytes, path: Path, num_dimensions: int) -> tuple[int, ...]:
    """The dimensions that a file's first bytes announce."""
    start = 4 + 4 * num_dimensions
    _check_magic(begin[:4], path, num_dimensions)
    if len(begin) < start:
        raise DataError(
            f"{path} is truncated: it holds {len(begin)} bytes, its header alone {start}. "
            f"{_FETCH_AGAIN}"
        )
    shape = struct.unpack(f">{num_dimensions}I", begin[4:])
    if 0 in shape:
        raise DataError(f"{path} is empty: its header announces {_announced(shape)} numbers.")
    return shape


def _announced(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_length(path: Path, shape: tuple[int, ...], found: int, told: str) -> None:
    expected = 4 + 4 * len(shape) + math.prod(shape)
    if found != expected:
        verdict = "is truncated" if found < expected else "has trailing bytes"
        raise DataError(
            f"{path} {verdict}: its header announces {_announced(shape)} numbers, {expected} bytes "
            f"in all (unpacked); it holds {told}. {_FETCH_AGAIN}"
        )


def _check_magic(magic: bytes, path: Path, num_dimensions: int) -> None:
    if len(magic) < 4 or magic[:2] != b"\0\0":
        found = magic.hex(" ") or "nothing"
        raise DataError(
            f"{path} is no IDX file: its first bytes are {found}, not "
            f"00 00 {_UNSIGNED_BYTES:02x} {num_dimensions:02x}."
        )
    if magic[2] != _UNSIGNED_BYTES:
        raise DataError(
            f"{path} holds numbers of type 0x{magic[2]:02x}. Write it again as unsigned bytes "
            "(IDX type 0x08)."
        )
    if magic[3] != num_dimensions:
        kind = {1: "labels", 3: "images"}
        raise DataError(
            f"{path} has {magic[3]} dimension(s), a file of {kind[num_dimensions]} has "
            f"{num_dimensions}. Are the files of images and labels swapped?"
        )


_NAME = re.compile(
    r"(?P<prefix>(?:.+-)?)(?P<part>train|t10k|test)-"
    r"(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(?:\.gz)?"
)
_PARTS = {"train": "train", "t10k": "test", "test": "test"}
_STANDARD = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
_DIMENSIONS = {"images": 3, "labels": 1}
_LISTED = 20
"""Names in a message."""


def is_idx_folder(folder: Path) -> bool:
    """Whether a file has a name of IDX data sets."""
    return any(_NAME.fullmatch(path.name) and path.is_file() for path in visible(folder))


def load_folder(folder: Path, *, data_memory: int = DATA_MEMORY) -> Dataset:
    """The data set of a folder with four IDX files, gzipped or not; other files are ignored.

    A file beside its own gzipped copy counts once. The last twelfth of the training images is held
    out for validation. Images of more than `data_memory` bytes are streamed. Raises `DataError` if
    a file is missing, ambiguous, damaged, or gzipped and too large.
    """
    files = _find(folder)
    headers = {role: read_header(path, _DIMENSIONS[role[1]]) for role, path in files.items()}
    size = sum(headers[part, "images"].numbers for part in ("train", "test"))
    parts = {}
    for part in ("train", "test"):
        images, labels = files[part, "images"], files[part, "labels"]
        header = headers[part, "images"]
        _check_pair(images, header, labels, headers[part, "labels"])
        if size > data_memory:
            pixels = _streamed(images, header, size, data_memory)
        else:
            pixels = read_images(images).unsqueeze(1)
        parts[part] = Labelled(
            pixels=pixels,
            labels=read_labels(labels),
            pixels_from=str(images),
            labels_from=str(labels),
        )
    return assemble(folder.resolve().name, parts["train"], parts["test"])


def listing(folder: Path) -> str:
    """The entries of a folder, for a message."""
    return _listing(visible(folder))


def _check_pair(images: Path, of_images: IdxHeader, labels: Path, of_labels: IdxHeader) -> None:
    if of_images.shape[0] != of_labels.shape[0]:
        raise one_label_each(of_labels.shape[0], str(labels), of_images.shape[0], str(images))


def _streamed(path: Path, header: IdxHeader, size: int, data_memory: int) -> RawPixels:
    if header.is_gzipped:
        raise too_large(str(path), size, data_memory, "Unpack the files (gunzip)")
    num_images, rows, columns = header.shape
    return RawPixels(
        path=path.resolve(), offset=header.begin, count=num_images, image_shape=(1, rows, columns)
    )


def _find(folder: Path) -> dict[tuple[str, str], Path]:
    """The four files by part and kind."""
    candidates: dict[tuple[str, str], list[Path]] = defaultdict(list)
    entries = visible(folder)
    for path in entries:
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            role = _PARTS[match["part"]], match["kind"][:6]
            candidates[role].append(path)
    missing = [
        _STANDARD[role]
        for role in product(("train", "test"), ("images", "labels"))
        if role not in candidates
    ]
    if missing:
        raise DataError(
            f"{', '.join(missing)} (.gz or not) is missing in {folder}; it holds "
            f"{_listing(entries)}. Give the folder of all four IDX files, or an .npz file."
        )
    files = {role: _only(paths, folder) for role, paths in candidates.items()}
    prefixes = {match["prefix"] for p in files.values() if (match := _NAME.fullmatch(p.name))}
    if len(prefixes) > 1:
        raise _ambiguous(folder, list(files.values()))
    return files


def _only(paths: list[Path], folder: Path) -> Path:
    """The only file; a file and its gzipped copy count as one."""
    first, *others = paths
    if not others:
        return first
    copies = {path.name.removesuffix(".gz") for path in paths}
    if len(copies) > 1 or not have_same_content(first, others[0]):
        raise _ambiguous(folder, paths)
    return first


def _ambiguous(folder: Path, paths: list[Path]) -> DataError:
    return DataError(
        f"{folder} holds the IDX files of several data sets: {_listing(paths)}. Keep each data set "
        "in a folder of its own, and each file once."
    )


def _listing(paths: list[Path]) -> str:
    """Names for a message, folders with a slash, a few of them."""
    names = [path.name + "/" * path.is_dir() for path in sorted(paths)]
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) + more) or "nothing"
