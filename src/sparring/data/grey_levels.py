"""Pixels as grey levels, whatever the unit, type and layout of the arrays that hold them.

Shapes: N images, C channels (1 or 3), H rows, W columns. Units: grey levels 0 to 255.
"""

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from sparring.errors import DataError, cause

_LEVEL_TOLERANCE = 1e-3
"""Grey levels: far above the rounding of a 32-bit float's level / 255 times 255 (about 2e-5)."""
_IMAGES_AT_ONCE = 1024
"""Floats are converted in pieces, so that they never take twice their memory."""


def grey_levels(pixels: np.ndarray, where: str) -> Shaped[np.ndarray, " ..."]:
    """Pixels as unsigned bytes, whether they came as bytes or as floats in [0, 1].

    Raises `DataError`, with `where`, for anything else.
    """
    if pixels.dtype.kind == "f":
        return rounded(np.atleast_1d(pixels), where)
    if pixels.dtype != np.uint8:
        raise no_grey_levels(pixels.dtype, where)
    if pixels.size and pixels.max() == 1:
        raise all_but_black(where)
    return pixels


def no_grey_levels(dtype: np.dtype, where: str) -> DataError:
    """Why pixels of another type are refused."""
    return DataError(
        "Pixels must be unsigned bytes (0 to 255) or floats in [0, 1]; "
        f"got {dtype} ({where}). If they are grey levels, use x.astype('uint8')."
    )


def all_but_black(where: str) -> DataError:
    """Why bytes that are 0 or 1 are refused."""
    return DataError(
        "Pixels held as unsigned bytes must be grey levels 0 to 255, which are divided by 255; "
        f"got none above 1, so that every image would be all but black ({where}). "
        "Multiply 0/1 images by 255."
    )


def rounded(pixels: Float[np.ndarray, " N ..."], where: str) -> UInt8[np.ndarray, " N ..."]:
    """Float pixels in [0, 1] as the grey levels that they are, or a `DataError`."""
    levels = np.empty(pixels.shape, dtype=np.uint8)
    for start in range(0, len(pixels), _IMAGES_AT_ONCE):
        piece = pixels[start : start + _IMAGES_AT_ONCE]
        if np.isnan(piece).any():
            raise DataError(
                f"Pixels must be numbers; got NaN ({where}). "
                "Find the images with numpy.isnan(x), and mend or leave them out."
            )
        low, high = float(piece.min(initial=0)), float(piece.max(initial=0))
        if low < 0 or high > 1:
            raise DataError(
                "Float pixels must lie in [0, 1], because attacks and eps are in these units; "
                f"got values from {low:g} to {high:g} ({where}). Undo any normalisation (it is "
                "the model's first layer), or divide grey levels by 255."
            )
        # In the array's own precision a 16-bit float would be rounded to a level by the product.
        scaled = piece.astype(np.float64) * 255
        nearest = np.round(scaled)
        worst = float(np.abs(scaled - nearest).max(initial=0))
        if worst >= _LEVEL_TOLERANCE:
            raise DataError(
                "Float pixels must be whole grey levels divided by 255, because images are held "
                f"as one byte a pixel; got one {worst:.3g} levels away from the nearest ({where}). "
                "If rounding does your images no harm, save (x * 255).round().astype('uint8')."
            )
        levels[start : start + _IMAGES_AT_ONCE] = nearest
    return levels


_CHANNELS = (1, 3)


def as_array(image: object, where: str) -> np.ndarray:
    """An image that is an array, or can be made one without a copy of every pixel in Python."""
    if not hasattr(image, "__array__"):
        raise DataError(
            "Images must be PIL images, tensors or NumPy arrays; got a "
            f"{type(image).__name__} ({where}). numpy.array makes an array of lists."
        )
    try:
        if isinstance(image, Tensor):
            # NumPy has no bfloat16.
            image = image.detach().float() if image.dtype == torch.bfloat16 else image.detach()
            return image.cpu().numpy(force=True)
        return np.asarray(image)
    except Exception as error:  # sparse, quantised and meta tensors, others' arrays
        raise DataError(
            f"Images must be dense tensors or arrays of numbers; reading one raised "
            f"{cause(error)} ({where}). Give a plain tensor of its pixels."
        ) from error


def channels_first(pixels: np.ndarray, is_tensor: bool, where: str) -> np.ndarray:
    """Pixels as C H W; tensors have their channels first where both could be meant."""
    shape = pixels.shape
    if len(shape) == 2:
        shape = (1, *shape)
        pixels = pixels[None]
    first = len(shape) == 3 and shape[0] in _CHANNELS
    last = len(shape) == 3 and shape[2] in _CHANNELS
    if 0 in shape or not (first or last) or (first and last and not is_tensor):
        reason = ": this could be either of the last two" if first and last else ""
        raise DataError(
            "Images must be H W, C H W or H W C, not empty, with 1 or 3 channels C; got shape "
            f"{shape} ({where}){reason}. Permute the dimensions, or give a tensor C H W."
        )
    return pixels if first else pixels.transpose(2, 0, 1)
