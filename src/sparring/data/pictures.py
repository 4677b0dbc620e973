"""One image from a picture file, whatever the file holds, as a network takes it.

- Grey pictures (1 bit, 8 bits, 16 bits rounded to 8) have one channel, all others three: palettes
  and CMYK become RGB by Pillow's own conversion, without colour profiles.
- Transparency is laid over white, as viewers show it.
- A camera's note that the picture is turned (EXIF orientation) is followed.
- Of several frames or pages the first is taken.

Shapes: C channels (1 or 3), H rows, W columns. Units: grey levels 0 to 255.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sparring.errors import DataError
from sparring.records.ranges import at_least

SUFFIXES = frozenset(
    f".{ending}"
    for ending in "png jpg jpeg jpe jfif bmp gif webp tif tiff ppm pgm pbm pnm avif jp2".split()  # noqa: SIM905
)
"""Endings of files that are taken for pictures, in lower case."""

_GREY = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
_TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap rows and columns (EXIF 2.32, tag 0x0112)."""
_ORIENTATION = 0x0112
_16_BITS = 257
"""65,535 / 255: what a level of 8 bits is in 16."""
_LAYOUT = MappingProxyType({1: "L", 3: "RGB"})


class Kind(NamedTuple):
    """What a picture becomes, as far as its header tells."""

    channels: int
    rows: int
    columns: int

    def __str__(self) -> str:
        """As messages and tables show it: columns by rows, as people say it of pictures."""
        return f"{'grey' if self.channels == 1 else 'colour'}, {self.columns} x {self.rows}"


def read_picture(
    source: Path | bytes,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    name: str | None = None,
) -> UInt8[Tensor, " C H W"]:
    """The picture of a file, or of a file's bytes, in one channel if it is grey and three if not.

    With `image_size` its shorter side is resized to that, bilinearly over all pixels that fall
    together, and a square is cut from the middle. With `channels` (1 or 3) it is turned grey or
    repeated where it has the other number. `name` is what messages call bytes.
    Cost: decoding it. Raises `DataError` that says what is wrong with the file.
    """
    if image_size is not None:
        at_least("image_size", image_size, 1)
    with _naming(source, name), Image.open(_readable(source)) as opened:
        _check_mode(opened)
        picture = ImageOps.exif_transpose(_flat(opened))
        if channels is not None and _channels(picture) != channels:
            picture = picture.convert(_LAYOUT[channels])
        return _tensor(picture if image_size is None else _square(picture, image_size))


def picture_levels(
    picture: Image.Image, *, image_size: int | None = None, name: str = "the picture"
) -> UInt8[Tensor, " C H W"]:
    """As `read_picture`, of a picture that Pillow holds open already."""
    with _naming(b"", name):
        _check_mode(picture)
        flat = ImageOps.exif_transpose(_flat(picture))
        return _tensor(flat if image_size is None else _square(flat, image_size))


def read_kind(
    source: Path | bytes, *, image_size: int | None = None, name: str | None = None
) -> Kind:
    """What `read_picture` would give, without decoding: a header says nothing of damage behind it.

    Cost: opening the file. Raises `DataError` if it is no picture, or one that cannot be used.
    """
    with _naming(source, name), Image.open(_readable(source)) as opened:
        _check_mode(opened)
        columns, rows = opened.size
        # Asking a PNG for its EXIF data would decode it; Pillow turns a TIFF's size by itself.
        noted = opened.format != "TIFF" and (opened.format != "PNG" or "exif" in opened.info)
        if noted and opened.getexif().get(_ORIENTATION) in _TURNED:
            columns, rows = rows, columns
        if image_size is not None:
            columns = rows = image_size
        return Kind(channels=_channels(opened), rows=rows, columns=columns)


def _readable(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _channels(picture: Image.Image) -> int:
    return 1 if picture.mode in _GREY else 3


def _check_mode(picture: Image.Image) -> None:
    if picture.mode not in _GREY | _COLOUR:
        raise DataError(
            f"its pixels must be grey levels or colours of 8 bits, or grey of 16; they are of "
            f"Pillow's mode {picture.mode}, whose range is not known. Convert it to PNG"
        )


def _flat(picture: Image.Image) -> Image.Image:
    """In mode L or RGB, nothing transparent."""
    picture.load()  # which turns a TIFF
    orientation = picture.getexif().get(_ORIENTATION)
    flat = _opaque(picture)
    if orientation is not None and flat is not picture:
        flat.getexif()[_ORIENTATION] = orientation
    return flat


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((levels + _16_BITS // 2) // _16_BITS).astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        layout = _LAYOUT[_channels(picture)]
        return Image.alpha_composite(white, seen).convert(layout)
    layout = _LAYOUT[_channels(picture)]
    return picture if picture.mode == layout else picture.convert(layout)


def _square(picture: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size`, and the middle of the longer one."""
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
def _naming(source: Path | bytes, name: str | None) -> Iterator[None]:
    """Turn whatever reading a picture raises into a `DataError` that names it."""
    called = name or (str(source) if isinstance(source, Path) else "the picture")
    try:
        yield
    except DataError as error:
        raise DataError(f"{called} cannot be used: {error} or leave it out.") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(
            f"{called} must be a readable file; got: {error.strerror}. "
            "Check the path, where a link leads, and permissions."
        ) from error
    except _DAMAGE as error:
        raise DataError(
            f"{called} must be a whole picture that Pillow can read; got: {_why(error)}. "
            "Fetch the file again, or leave it out."
        ) from error


_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for files that are damaged, or too large to be pictures (its own limit)."""


def _why(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is of no kind that Pillow knows"
    return str(error).rstrip(".") or type(error).__name__
