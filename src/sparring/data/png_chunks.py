"""What stands where in a PNG file, without decoding it."""

import struct
from io import BufferedIOBase

from sparring.errors import DataError

_SIGNATURE = 8
"""Bytes before the first chunk (PNG, third edition, 5.2)."""
_NOTES = frozenset({b"eXIf", b"iTXt", b"zTXt", b"tEXt"})
"""Chunks that may say how the picture is turned."""
_MOST = 1_000_000
"""Chunks: a picture of 67 million pixels has fewer."""


def has_notes_behind_pixels(file: BufferedIOBase | None) -> bool:
    """Whether a PNG file holds text or EXIF data behind its pixels; false once it is closed.

    Cost: two short reads a chunk. Leaves the file where it was. Raises `DataError` for more chunks
    than a picture has.
    """
    if file is None or file.closed:
        return False
    before = file.tell()
    try:
        return _has_notes(file)
    finally:
        file.seek(before)


def _has_notes(file: BufferedIOBase) -> bool:
    file.seek(_SIGNATURE)
    seen_pixels = False
    for _ in range(_MOST):
        header = file.read(8)
        if len(header) < 8:
            return False
        length, name = struct.unpack(">I4s", header)
        if name == b"IEND":
            return False
        if name in _NOTES and seen_pixels:
            return True
        seen_pixels = seen_pixels or name == b"IDAT"
        file.seek(length + 4, 1)
    raise DataError(f"a PNG must have at most {_MOST:,} chunks; it has more. Save it again")
