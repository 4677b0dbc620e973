"""Where an array lies in an .npz file, which is a zip archive of .npy files, and its numbers.

Every header is checked against the archive's own before memory is taken for what it announces.
"""

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from sparring.data.opening import check_unpacked, damage, data_file
from sparring.errors import DataError

_LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name (PKWARE's APPNOTE, 4.3.7)."""
_ENCRYPTED = 1
"""The bit of a member's flags that says so (4.4.4)."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How NumPy compresses. Others may take gigabytes to unpack a few bytes."""
_PIECE = 32 << 20
"""Bytes of an array that are unpacked at a time."""
AGAIN = "Write it again with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)."


class Member(NamedTuple):
    """One array of the archive, as its header tells."""

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
    """Bytes of the archive before its numbers; none if they do not lie there in C order as such."""


class Archive:
    """An .npz file that is open."""

    def __init__(self, path: Path, file: io.BufferedIOBase, archive: zipfile.ZipFile) -> None:
        self._path, self._file, self._zip = path, file, archive
        self.names = tuple(
            name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")
        )

    def member(self, name: str) -> Member:
        """The array of this name, its header checked. Cost: reading that.

        Raises `DataError` if its bytes are not what the header announces, or could run code.
        """
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
            raise DataError(
                f"{self._path} must hold plain arrays of numbers, because arrays of Python objects "
                f"could run code; {name} holds objects. {AGAIN}"
            )
        if size != about.file_size - header:
            raise DataError(
                f"{where} must hold what its header announces, {size:,} bytes of {dtype} of shape "
                f"{shape}; it holds {about.file_size - header:,}: the file is damaged. {AGAIN}"
            )
        plain = about.compress_type == zipfile.ZIP_STORED and not in_columns
        return Member(name, dtype, shape, in_columns, header, size, begin if plain else None)

    def pieces(self, member: Member) -> Iterator[np.ndarray]:
        """The numbers of an array of one dimension or more, some of its first dimension at a time.

        Raises `DataError` for damaged bytes.
        """
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
            file.read(1)  # at its end the checksum is compared

    def _check_packing(self, about: zipfile.ZipInfo, where: str) -> None:
        if about.compress_type not in _METHODS or about.flag_bits & _ENCRYPTED:
            how = "encrypted" if about.flag_bits & _ENCRYPTED else "packed in another way"
            raise DataError(
                f"Arrays must be stored or deflated, as NumPy writes them; {where} is {how}. "
                f"{AGAIN}"
            )
        check_unpacked(where, about.compress_size, about.file_size)

    @contextmanager
    def _reading(self, where: str) -> Iterator[None]:
        with damage(f"{where} must be a plain array of numbers, undamaged", AGAIN):
            yield


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An .npz file. Raises `DataError` if it is none."""
    with data_file(path) as file:
        if not zipfile.is_zipfile(file):
            raise DataError(
                f"{path} must be an .npz file, which is a whole zip archive; it is not one: "
                f"truncated, or another kind of file. {AGAIN}"
            )
        with damage(f"{path} must be a whole zip archive of arrays, undamaged", AGAIN):
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
    """Where a member's bytes begin: behind its own header, whose length only it knows."""
    file.seek(about.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return about.header_offset + _LOCAL_HEADER + name + extra
