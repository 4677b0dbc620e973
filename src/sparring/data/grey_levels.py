"""Pixels as grey levels, whatever the unit, type and layout of the arrays that hold them.

Shapes: N images, C channels (1 or 3), H rows, W columns. Units: grey levels 0 to 255.
"""

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from sparring.errors import DataError, cause
from sparring.records.text import kind_text

_LEVEL_TOLERANCE = 1e-3
"""Far above the rounding of a 32-bit float's level / 255 times 255 (about 2e-5)."""
_IMAGES_AT_ONCE = 1024
"""Images of a piece; a conversion in pieces takes little memory."""


def grey_levels(pixels: np.ndarray, where: str) -> Shaped[np.ndarray, " ..."]:
    """Bytes, or floats in [0, 1], as bytes. Raises `DataError`, with `where`, for others."""
    if pixels.dtype.kind == "f":
        return rounded(np.atleast_1d(pixels), where)
    if pixels.dtype != np.uint8:
        raise no_grey_levels(pixels.dtype, where)
    if pixels.size and pixels.max() == 1:
        raise all_but_black(where)
    return pixels


def no_grey_levels(dtype: np.dtype, where: str) -> DataError:
    """The error for pixels of another type."""
    rule = "Pixels must be unsigned bytes (0 to 255) or floats in [0, 1]"
    if dtype.kind == "b":
        do = "Multiply 0/1 images by 255: (x * 255).astype('uint8')."
    elif dtype.kind in "iu":
        do = "If x.min() >= 0 and x.max() <= 255, use x.astype('uint8'), which wraps other values."
    else:
        do = "Convert them to grey levels."
    return DataError.expected(rule, f"{dtype} ({where})", do)


def all_but_black(where: str) -> DataError:
    """The error for bytes that are all 0 or 1."""
    return DataError(
        f"No pixel is above 1 ({where}); unsigned bytes are grey levels from 0 to 255. Multiply "
        "0/1 images by 255."
    )


def rounded(pixels: Float[np.ndarray, " N ..."], where: str) -> UInt8[np.ndarray, " N ..."]:
    """Float pixels in [0, 1] as the grey levels that they are, or a `DataError`."""
    levels = np.empty(pixels.shape, dtype=np.uint8)
    for start in range(0, len(pixels), _IMAGES_AT_ONCE):
        piece = pixels[start : start + _IMAGES_AT_ONCE]
        if np.isnan(piece).any():
            raise DataError(f"Pixels are NaN ({where}). Find the images with numpy.isnan(x).")
        low, high = float(piece.min(initial=0)), float(piece.max(initial=0))
        if low < 0 or high > 1:
            raise DataError.expected(
                "Float pixels must lie in [0, 1]",
                f"values from {low:g} to {high:g} ({where})",
                "Divide grey levels by 255; a normalisation belongs into the model's first layer.",
            )
        # The product of 16-bit floats would itself be rounded to a level.
        scaled = piece.astype(np.float64) * 255
        nearest = np.round(scaled)
        worst = float(np.abs(scaled - nearest).max(initial=0))
        if worst >= _LEVEL_TOLERANCE:
            raise DataError.expected(
                "Float pixels must be whole grey levels divided by 255",
                f"one {worst:.3g} levels away from the nearest ({where})",
                "To round them, pass (x * 255).round().astype('uint8').",
            )
        levels[start : start + _IMAGES_AT_ONCE] = nearest
    return levels


_CHANNELS = (1, 3)


def as_array(image: object, where: str) -> np.ndarray:
    """A tensor, or anything that NumPy converts by `__array__`."""
    if not hasattr(image, "__array__"):
        raise DataError.expected(
            "Images must be PIL images, tensors or NumPy arrays",
            f"{kind_text(image)} ({where})",
            "numpy.array makes an array of lists.",
        )
    try:
        if isinstance(image, Tensor):
            # NumPy has no bfloat16.
            image = image.float() if image.dtype == torch.bfloat16 else image
            return image.numpy(force=True)
        return np.asarray(image)
    except Exception as error:  # sparse, quantised and meta tensors, others' arrays
        raise DataError(
            f"Reading an image raised {cause(error)} ({where}). Give a dense tensor or array."
        ) from error


def channels_first(pixels: np.ndarray, is_tensor: bool, where: str) -> np.ndarray:
    """Pixels as C H W; if both could be meant, tensors have channels first."""
    shape = pixels.shape
    if len(shape) == 2:
        shape = (1, *shape)
        pixels = pixels[None]
    first = len(shape) == 3 and shape[0] in _CHANNELS
    last = len(shape) == 3 and shape[2] in _CHANNELS
    if 0 in shape or not (first or last) or (first and last and not is_tensor):
        reason = ": this could be either of the last two" if first and last else ""
        raise DataError.expected(
            "Images must be H W, C H W or H W C, not empty, with 1 or 3 channels C",
            f"shape {shape} ({where}){reason}",
            "Permute the dimensions, or give a tensor C H W.",
        )
    return pixels if first else pixels.transpose(2, 0, 1)
