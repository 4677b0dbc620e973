"""Data sets in one .npz file, laid out as Keras' mnist.npz is.

Arrays: x_train, y_train, x_test, y_test, and optionally x_validation with y_validation. The file is
a zip archive of .npy files: every header is checked before memory is allocated.

Shapes: N images, H rows, W columns, C channels (1 or 3): N H W, N H W C or N C H W.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import io
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.files import RawPixels, check_unpacked, damage, data_file
from sparring.data.grey_levels import all_but_black, no_grey_levels, rounded
from sparring.data.images import Dataset
from sparring.data.labels import check_label_array, whole_labels
from sparring.data.splits import Labelled, assemble, one_label_each
from sparring.data.streamed import DATA_MEMORY, too_large
from sparring.errors import DataError

_LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name (PKWARE's APPNOTE, 4.3.7)."""
_ENCRYPTED = 1
"""The bit of a member's flags that says so (4.4.4)."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""As NumPy compresses; others may take gigabytes for a few bytes."""
_PIECE = 32 << 20
"""Bytes that are unpacked at a time."""
AGAIN = "Write it again with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)."


class Member(NamedTuple):
    """The header of one array."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    in_columns: bool
    """Whether its first dimension runs fastest (Fortran order)."""
    header: int
    """Bytes of the member before its numbers."""
    size: int
    """Bytes of its numbers."""
    offset: int | None
    """Bytes of the archive before its numbers; `None` if compressed or in Fortran order."""


class Archive:
    """An open .npz file."""

    def __init__(self, path: Path, file: io.BufferedIOBase, archive: zipfile.ZipFile) -> None:
        self._path, self._file, self._zip = path, file, archive
        self.names = tuple(
            name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")
        )

    def member(self, name: str) -> Member:
        """The checked header of an array. Raises `DataError` if the array does not match it."""
        about = self._zip.getinfo(f"{name}.npy")
        where = f"{name} of {self._path}"
        self._check_packing(about, where)
        with self._reading(where):
            with self._zip.open(about) as member:
                shape, in_columns, dtype = _header(cast("io.BufferedIOBase", member))
                header = member.tell()
            begin = _begin(self._file, about) + header
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise DataError(f"{where} holds Python objects, which could run code. {AGAIN}")
        if size != about.file_size - header:
            raise DataError(
                f"{where} is damaged: its header announces {size:,} bytes of {dtype} of shape "
                f"{shape}; it holds {about.file_size - header:,}. {AGAIN}"
            )
        plain = about.compress_type == zipfile.ZIP_STORED and not in_columns
        return Member(name, dtype, shape, in_columns, header, size, begin if plain else None)

    def pieces(self, member: Member) -> Iterator[np.ndarray]:
        """An array in pieces along its first dimension. Raises `DataError` for damaged bytes."""
        count, *inner = member.shape
        size = math.prod(inner) * member.dtype.itemsize
        at_once = count if member.in_columns else max(1, _PIECE // max(size, 1))
        with (
            self._reading(f"{member.name} of {self._path}"),
            self._zip.open(f"{member.name}.npy") as file,
        ):
            file.read(member.header)
            for start in range(0, count, at_once):
                rows = min(at_once, count - start)
                content = file.read(rows * size)
                if len(content) != rows * size:
                    raise EOFError("its numbers end too early")
                numbers = np.frombuffer(content, dtype=member.dtype)
                if member.in_columns:
                    yield numbers.reshape(member.shape[::-1]).transpose()
                else:
                    yield numbers.reshape(rows, *inner)
            file.read(1)  # compares the checksum

    def _check_packing(self, about: zipfile.ZipInfo, where: str) -> None:
        if about.compress_type not in _METHODS or about.flag_bits & _ENCRYPTED:
            how = "encrypted" if about.flag_bits & _ENCRYPTED else "packed in another way"
            raise DataError(f"{where} is {how}; arrays must be stored or deflated. {AGAIN}")
        check_unpacked(where, about.compress_size, about.file_size)

    @contextmanager
    def _reading(self, where: str) -> Iterator[None]:
        with damage(f"{where} must be a plain array of numbers, undamaged", AGAIN):
            yield


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An .npz file. Raises `DataError` if it is none."""
    with data_file(path) as file:
        with damage(f"{path} must be a whole zip archive of arrays, undamaged", AGAIN):
            if not zipfile.is_zipfile(file):  # it raises for some damaged directories
                raise DataError(f"{path} is no whole zip archive, as .npz files are. {AGAIN}")
            archive = zipfile.ZipFile(file)
        with archive:
            yield Archive(path, cast("io.BufferedIOBase", file), archive)


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its header is of the unknown version {version}")
    shape, in_columns, dtype = readers[version](file)
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError(f"its header announces the shape {shape}")
    return shape, in_columns, dtype


def _begin(file: io.BufferedIOBase, about: zipfile.ZipInfo) -> int:
    """Offset of a member's bytes, after its own header."""
    file.seek(about.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return about.header_offset + _LOCAL_HEADER + name + extra


_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_validation", "y_validation")
_CHANNELS = (1, 3)

_NAMED = 20
_AT_ONCE = 16 << 20


def load_npz(path: Path, *, data_memory: int = DATA_MEMORY) -> Dataset:
    """The data set of an .npz file; nothing in the file is ever executed.

    Without validation arrays, the last twelfth of the training images is held out. Images of more
    than `data_memory` bytes are streamed. Raises `DataError` for a missing, damaged or unsuitable
    array, or one that cannot be streamed.
    """
    with open_archive(path) as archive:
        names = _checked_names(archive.names, path)
        members = {name: archive.member(name) for name in names}
        for part in _parts(members):
            _check_pair(members[f"x_{part}"], members[f"y_{part}"], path)
            _check_order(members[f"x_{part}"], path, data_memory)
        size = sum(math.prod(members[f"x_{part}"].shape) for part in _parts(members))
        parts = {
            part: Labelled(
                pixels=(
                    _levels(archive, members[f"x_{part}"], path)
                    if size <= data_memory
                    else _streamed(members[f"x_{part}"], path, size, data_memory)
                ),
                labels=_labels(archive, members[f"y_{part}"], path),
                pixels_from=f"x_{part} of {path}",
                labels_from=f"y_{part} of {path}",
            )
            for part in _parts(members)
        }
    return assemble(path.stem, parts["train"], parts["test"], parts.get("validation"))


def _parts(members: Mapping[str, Member]) -> list[str]:
    return [part for part in ("train", "test", "validation") if f"x_{part}" in members]


def _check_pair(images: Member, labels: Member, path: Path) -> None:
    pixels_from, labels_from = f"{images.name} of {path}", f"{labels.name} of {path}"
    _layout(images.shape, pixels_from)
    if images.dtype.kind != "f" and images.dtype != np.uint8:
        raise no_grey_levels(images.dtype, pixels_from)
    check_label_array(labels.dtype, labels.shape, labels_from)
    if labels.shape[0] != images.shape[0]:
        raise one_label_each(labels.shape[0], labels_from, images.shape[0], pixels_from)


def _check_order(images: Member, path: Path, data_memory: int) -> None:
    """Refuse large images in Fortran order, which cannot be read in pieces."""
    if images.in_columns and images.size > data_memory:
        where = f"{images.name} of {path}"
        raise too_large(where, images.size, data_memory, "Save numpy.ascontiguousarray of it")


def _levels(archive: Archive, member: Member, path: Path) -> UInt8[Tensor, " N C H W"]:
    """Images as grey levels N C H W."""
    where = f"{member.name} of {path}"
    shape = _image_shape(member.shape, where)
    levels = np.empty((member.shape[0], *shape), dtype=np.uint8)
    start = 0
    for piece in archive.pieces(member):
        found = rounded(piece, where) if member.dtype.kind == "f" else piece
        if _layout(member.shape, where) == "last":
            found = found.transpose(0, 3, 1, 2)
        levels[start : start + len(piece)] = found.reshape(-1, *shape)
        start += len(piece)
    if member.dtype == np.uint8 and levels.max() == 1:
        raise all_but_black(where)
    return torch.from_numpy(levels)


def _labels(archive: Archive, member: Member, path: Path) -> Int64[Tensor, " N"]:
    return whole_labels(np.concatenate(list(archive.pieces(member))), f"{member.name} of {path}")


def _streamed(member: Member, path: Path, size: int, data_memory: int) -> RawPixels:
    where = f"{member.name} of {path}"
    if member.offset is None or member.dtype != np.uint8:
        raise too_large(where, size, data_memory, "Save unsigned bytes with numpy.savez")
    return _where_they_lie(path, member, where)


def _where_they_lie(path: Path, member: Member, where: str) -> RawPixels:
    count = member.shape[0]
    pixels = RawPixels(
        path=path.resolve(),
        offset=member.offset or 0,
        count=count,
        image_shape=_image_shape(member.shape, where),
        channels_last=_layout(member.shape, where) == "last",
    )
    at_once = max(1, _AT_ONCE // math.prod(pixels.image_shape))
    for start in range(0, count, at_once):
        if pixels.read(torch.arange(start, min(count, start + at_once))).max() > 1:
            return pixels
    raise all_but_black(where)


def _checked_names(found: Iterable[str], path: Path) -> list[str]:
    """The arrays to read. Raises `DataError` if one is missing."""
    names = set(found)
    wanted = _REQUIRED if names.isdisjoint(_OPTIONAL) else (*_REQUIRED, *_OPTIONAL)
    missing = [name for name in wanted if name not in names]
    if missing:
        listed = ", ".join(sorted(names)[:_NAMED]) or "none"
        raise DataError(
            f"{path} lacks the arrays {', '.join(missing)}; it has {listed}. Save all of "
            f"{', '.join(wanted)}."
        )
    return list(wanted)


def _layout(shape: tuple[int, ...], where: str) -> Literal["grey", "first", "last"]:
    """The place of the channels in an array of images."""
    first = len(shape) == 4 and shape[1] in _CHANNELS
    last = len(shape) == 4 and shape[3] in _CHANNELS
    if 0 in shape or len(shape) not in (3, 4) or (len(shape) == 4 and first == last):
        reason = ": this could be either of the last two" if first and last else ""
        raise DataError.expected(
            "Images must be N H W, N H W C or N C H W, not empty, with 1 or 3 channels C",
            f"shape {shape}{reason} ({where})",
            "Reshape the array; grey images need no dimension for channels.",
        )
    if len(shape) == 3:
        return "grey"
    return "last" if last else "first"


def _image_shape(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    """Channels, rows and columns."""
    layout = _layout(shape, where)
    if layout == "grey":
        return 1, shape[1], shape[2]
    channels, rows, columns = shape[1:] if layout == "first" else (shape[3], *shape[1:3])
    return channels, rows, columns
