"""Images as PNG in the text of a page.

Pixels: a byte each, row by row from the top, channels together.
"""

import struct
import zlib
from base64 import b64decode, b64encode

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}
"""Channels, and what a PNG calls them: grey, and red with green and blue."""


def data_uri(pixels: str, height: int, width: int, channels: int = 1) -> str:
    """Pixels in base64 as the address of an image that a page holds itself."""
    content = _png(b64decode(pixels), height, width, channels)
    return f"data:image/png;base64,{b64encode(content).decode()}"


def _png(pixels: bytes, height: int, width: int, channels: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    length = width * channels
    rows = b"".join(b"\0" + pixels[row * length :][:length] for row in range(height))
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
