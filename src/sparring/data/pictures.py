"""One image from a picture file of any format, as a network takes it.

- Grey pictures (1 bit, 8 bits, 16 bits rounded to 8) have one channel, all others three: palettes
  and CMYK become RGB by Pillow's own conversion, without colour profiles.
- A `Conversion` to "rgb" repeats the channel of a grey picture; one to "grey" takes Pillow's luma
  of colours, (299 R + 587 G + 114 B) / 1000.
- Transparency is laid over white, as viewers show it.
- A note that the picture is turned is followed: EXIF orientation, else that of an XMP packet.
- Of several frames or pages the first is taken.

Shapes: C channels (1 or 3), H rows, W columns. Units: grey levels 0 to 255.
"""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sparring.data.files import data_file, told
from sparring.errors import DataError
from sparring.records.checks import at_least, choice

_SIGNATURE = 8
"""Bytes before the first chunk (PNG, third edition, 5.2)."""
_NOTES = frozenset({b"eXIf", b"iTXt", b"zTXt", b"tEXt"})
"""Chunks that may hold the orientation."""
_MOST = 1_000_000
"""Chunks: a picture of 67 million pixels has fewer."""


def has_notes_behind_pixels(file: BufferedIOBase | None) -> bool:
    """Whether an open PNG file holds text or EXIF data after its pixels.

    Cost: two short reads a chunk. Raises `DataError` for more than `_MOST` chunks.
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
    raise DataError(f"it has more than {_MOST:,} chunks. Save it again")


SUFFIXES = frozenset(
    f".{ending}"
    for ending in "png jpg jpeg jpe jfif bmp gif webp tif tiff ppm pgm pbm pnm avif jp2".split()  # noqa: SIM905
)
"""Lower-case endings of picture files."""

_GREY = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the formats that are read; some others start programs."""
_ORIENTATION = 0x0112
_UPRIGHT = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
"""The transposition of each orientation (EXIF 2.32, tag 0x0112)."""
_TURNED = frozenset({5, 6, 7, 8})
"""Orientations that swap rows and columns."""
LARGEST_PICTURE = 1 << 26
"""Pixels, 67 million: decoding takes some 500 MB."""
LARGEST_FILE = 1 << 30
_LARGE = 1 << 23
"""Pixels above which one picture is decoded at a time."""
_ONE_LARGE = threading.Lock()
_THINNEST = 64
"""Largest ratio of the sides of a picture of which a square is cut."""
_BITS_PER_SAMPLE = 258
"""The TIFF tag."""
_LAYOUT = MappingProxyType({1: "L", 3: "RGB"})
Channels = Literal["rgb", "grey"]
"""What all pictures of a data set can be converted to."""
NUM_CHANNELS: MappingProxyType[Channels, int] = MappingProxyType({"rgb": 3, "grey": 1})


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """How pictures are converted when they are read. Raises `ConfigError` for other values."""

    image_size: int | None = None
    """The shorter side is resized to it, bilinearly, and the middle square taken; `None`: as is."""
    channels: Channels | None = None
    """What every picture becomes; `None`: grey pictures stay grey, all others become RGB."""

    def __post_init__(self) -> None:
        if self.image_size is not None:
            at_least("image_size", self.image_size, 1)
        if self.channels is not None:
            choice("channels", self.channels, NUM_CHANNELS)


AS_IS = Conversion()


class Kind(NamedTuple):
    """Shape of a decoded picture, as its header says."""

    channels: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{'grey' if self.channels == 1 else 'colour'}, {self.columns} x {self.rows}"


def read_picture(
    source: Path | bytes, conversion: Conversion = AS_IS, *, name: str | None = None
) -> UInt8[Tensor, " C H W"]:
    """Decode a file or its bytes; `name` is what messages call bytes.

    Raises `DataError` for a damaged file.
    """
    with _opened(source, name, conversion) as opened, _memory_for(opened):
        return _converted(opened, conversion)


def picture_levels(
    picture: Image.Image, conversion: Conversion = AS_IS, *, name: str = "the picture"
) -> UInt8[Tensor, " C H W"]:
    """As `read_picture`, of an open PIL image."""
    with _naming(name):
        _check(picture, conversion.image_size)
        return _converted(picture, conversion)


def _converted(opened: Image.Image, conversion: Conversion) -> UInt8[Tensor, " C H W"]:
    picture = _flat(opened)
    if conversion.channels is not None:
        layout = _LAYOUT[NUM_CHANNELS[conversion.channels]]
        picture = picture if picture.mode == layout else picture.convert(layout)
    if conversion.image_size is not None:
        picture = _square(picture, conversion.image_size)
    return _tensor(picture)


def read_kind(
    source: Path | bytes, conversion: Conversion = AS_IS, *, name: str | None = None
) -> Kind:
    """The shape that `read_picture` would give, from the header only.

    Raises `DataError` if it is no picture, or one that cannot be used.
    """
    with _opened(source, name, conversion) as opened:
        columns, rows = opened.size
        if (_orientation(opened) in _TURNED) != _is_size_turned(opened):
            columns, rows = rows, columns
        if conversion.image_size is not None:
            columns = rows = conversion.image_size
        channels = NUM_CHANNELS[conversion.channels] if conversion.channels else _channels(opened)
        return Kind(channels=channels, rows=rows, columns=columns)


@contextmanager
def _opened(
    source: Path | bytes, name: str | None, conversion: Conversion
) -> Iterator[Image.Image]:
    """A picture whose header has been checked."""
    called = name or (str(source) if isinstance(source, Path) else "the picture")
    if isinstance(source, bytes):
        with _naming(called), Image.open(io.BytesIO(source), formats=_FORMATS) as opened:
            _check(opened, conversion.image_size)
            yield opened
        return
    with (
        data_file(source, at_most=LARGEST_FILE, name=called) as file,
        _naming(called),
        Image.open(file, formats=_FORMATS) as opened,
    ):
        _check(opened, conversion.image_size)
        yield opened


def _channels(picture: Image.Image) -> int:
    return 1 if picture.mode in _GREY else 3


def _memory_for(opened: Image.Image) -> AbstractContextManager[object]:
    """A lock for large pictures, of which one is decoded at a time."""
    columns, rows = opened.size
    return _ONE_LARGE if columns * rows > _LARGE else nullcontext()


def _check(picture: Image.Image, image_size: int | None) -> None:
    """Check the header. Raises `DataError` that `_naming` completes."""
    if picture.mode not in _GREY | _COLOUR:
        raise DataError(
            f"its pixels are of Pillow's mode {picture.mode}, whose range is not known. Convert it "
            "to 8 bits, or 16 bits of grey"
        )
    columns, rows = picture.size
    if columns * rows > LARGEST_PICTURE:
        raise DataError(
            f"it is {columns:,} x {rows:,}, more than {LARGEST_PICTURE:,} pixels. Make it smaller"
        )
    if not columns * rows:
        raise DataError(f"it has no pixels: {columns} x {rows}. Save it again")
    shorter, longer = sorted(picture.size)
    if image_size is not None and longer > _THINNEST * shorter:
        raise DataError(
            f"it is {columns:,} x {rows:,}; image_size needs sides of at most {_THINNEST} to 1. "
            "Cut it yourself"
        )
    if image_size is not None and longer * image_size * image_size > LARGEST_PICTURE * shorter:
        raise DataError(
            f"resized to image_size {image_size:,}, its {columns:,} x {rows:,} become more than "
            f"{LARGEST_PICTURE:,} pixels. Give a smaller one"
        )


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 if there is none.

    It must be read before the pixels are decoded: Pillow then changes that of a TIFF.
    """
    if picture.format == "PNG" and has_notes_behind_pixels(getattr(picture, "fp", None)):
        picture.load()
    # PNG's own method would decode the pixels to look behind them.
    found: Any = Image.Image.getexif(picture).get(_ORIENTATION)
    return int(found) if found in _UPRIGHT else 1


def _is_size_turned(opened: Image.Image) -> bool:
    """Whether Pillow gives the upright size before decoding, as of a TIFF."""
    return opened.format == "TIFF" and getattr(opened, "tag_v2", {}).get(_ORIENTATION) in _TURNED


def _flat(picture: Image.Image) -> Image.Image:
    """Upright, opaque, in mode L or RGB."""
    orientation = _orientation(picture)
    _shorten_key(picture)
    picture.load()  # which turns a TIFF
    flat = _opaque(picture)
    if orientation == 1 or picture.format == "TIFF":
        return flat
    return flat.transpose(_UPRIGHT[orientation])


def _shorten_key(picture: Image.Image) -> None:
    """Cut the transparent colour of 16-bit pixels to the 8 bits that Pillow decodes them to.

    Before decoding: later nothing says how many bits there were.
    """
    key, tiles = picture.info.get("transparency"), getattr(picture, "tile", ())
    if isinstance(key, tuple) and tiles and ";16" in str(tiles[0][-1]):
        picture.info["transparency"] = tuple(level >> 8 for level in key)


def _most(picture: Image.Image) -> int:
    """White of a picture of more than 8 bits: a TIFF may have 12, which Pillow leaves as such."""
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, 16)
    return (1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        levels, most = np.asarray(picture).astype(np.uint32), _most(picture)
        levels[levels == picture.info.get("transparency")] = most
        return Image.fromarray(((255 * levels + most // 2) // most).astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        layout = _LAYOUT[_channels(picture)]
        return Image.alpha_composite(white, seen).convert(layout)
    layout = _LAYOUT[_channels(picture)]
    return picture if picture.mode == layout else picture.convert(layout)


def _square(picture: Image.Image, size: int) -> Image.Image:
    columns, rows = picture.size
    shorter = min(columns, rows)
    columns, rows = (max(size, round(side * size / shorter)) for side in (columns, rows))
    resized = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    left, top = (columns - size) // 2, (rows - size) // 2
    return resized.crop((left, top, left + size, top + size))


def _tensor(picture: Image.Image) -> UInt8[Tensor, " C H W"]:
    levels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return levels[None] if levels.dim() == 2 else levels.permute(2, 0, 1).contiguous()


@contextmanager
def _naming(called: str) -> Iterator[None]:
    """Turn any error of reading a picture into a `DataError` that names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{called} cannot be used: {error} or leave it out.") from error
    except Exception as error:  # Pillow raises errors of any kind for bytes it did not expect
        raise DataError(
            f"{called} is no whole picture that Pillow can read: {_why(error)}. Fetch the file "
            "again, or leave it out."
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format, or damaged at its beginning"
    return told(error)


# `_check` refuses too large pictures.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
