"""Pixels that lie in a file as plain bytes, one image after the other.

Shapes: B images of a batch, C channels, H rows, W columns. Units: grey levels 0 to 255.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.opening import LARGEST
from sparring.errors import DataError
from sparring.records.files import open_regular


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawPixels:
    """Unsigned bytes in an uncompressed file, read image by image: nothing is kept or mapped."""

    path: Path
    """The file."""
    offset: int
    """Bytes before the first image."""
    count: int
    """Number of images."""
    image_shape: tuple[int, int, int]
    """Channels, rows and columns of one image."""
    channels_last: bool = False
    """Whether an image lies there as rows, columns, channels."""

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """The images at these places. Cost: a read each. Raises `DataError` if the file is gone."""
        size = math.prod(self.image_shape)
        images = bytearray(size * len(places))
        view = memoryview(images)
        try:
            with open_regular(self.path, LARGEST) as file:
                for row, place in enumerate(places.tolist()):
                    here = view[row * size : (row + 1) * size]
                    if os.preadv(file.fileno(), [here], self.offset + place * size) != size:
                        raise OSError(f"it ends before image {place}")
        except OSError as error:
            raise DataError(
                f"{self.path} must stay as it was while images are read from it; got: "
                f"{error.strerror or error}. Put it back."
            ) from error
        levels = torch.frombuffer(images, dtype=torch.uint8)
        channels, rows, columns = self.image_shape
        if self.channels_last:
            return levels.view(-1, rows, columns, channels).permute(0, 3, 1, 2).contiguous()
        return levels.view(-1, channels, rows, columns)
