"""Where an array lies in an .npz file, which is a zip archive of .npy files."""

import io
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

_LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name (PKWARE's APPNOTE, 4.3.7)."""


class Member(NamedTuple):
    """One array of the archive, as its header tells."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None
    """Bytes of the archive before its numbers; none if they do not lie there in C order as such."""


def find_member(path: Path, name: str) -> Member | None:
    """The array of this name; none if there is none. Cost: reading its header.

    Raises what `zipfile` and NumPy raise for damaged files.
    """
    with zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            return None
        about = archive.getinfo(f"{name}.npy")
        with archive.open(about) as file:
            shape, in_columns, dtype = _header(cast("io.BufferedIOBase", file))
            header = file.tell()
    begin = _begin(path, about) + header
    plain = about.compress_type == zipfile.ZIP_STORED and not in_columns
    return Member(dtype=dtype, shape=shape, offset=begin if plain else None)


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _begin(path: Path, about: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its own header, whose length only it knows."""
    with path.open("rb") as file:
        file.seek(about.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return about.header_offset + _LOCAL_HEADER + name + extra
