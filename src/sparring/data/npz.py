"""Data sets in one .npz file, laid out as Keras' mnist.npz is.

Arrays: x_train, y_train, x_test, y_test, and optionally x_validation with y_validation.
Shapes: N images, H rows, W columns, C channels (1 or 3): N H W, N H W C or N C H W.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from sparring.data.images import Dataset
from sparring.data.split import Labelled, assemble
from sparring.errors import DataError

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_validation", "y_validation")
_CHANNELS = (1, 3)

_LEVEL_TOLERANCE = 1e-3
"""Grey levels: far above the rounding of a 32-bit float's level / 255 times 255 (about 2e-5)."""

_IMAGES_AT_ONCE = 1024
"""Floats are converted in pieces, so that they never take twice their memory."""


def load_npz(path: Path) -> Dataset:
    """The data set of an .npz file; nothing in the file is ever executed.

    Without validation arrays, the last twelfth of the training images is held out.
    Raises `DataError` if the file is damaged, an array is missing or not what it must be, or
    float pixels are not whole grey levels.
    """
    arrays = _read_arrays(path)
    parts = {part: _part(arrays, part, path) for part in ("train", "test")}
    validation = _part(arrays, "validation", path) if _OPTIONAL[0] in arrays else None
    return assemble(path.stem, parts["train"], parts["test"], validation)


def _read_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays we know of; the others are left unread."""
    again = "Write it again with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)."
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} must be an .npz file, which is a whole zip archive; it is not one: truncated, "
            f"or another kind of file. {again}"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_names(set(archive.files), path)
            wanted = [name for name in (*_REQUIRED, *_OPTIONAL) if name in archive.files]
            return {name: archive[name] for name in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} must hold plain arrays of numbers, undamaged; reading them failed: {error}. "
            f"Arrays of Python objects are refused because they could run code. {again}"
        ) from error


def _check_names(names: set[str], path: Path) -> None:
    """Refuse an archive without the arrays we need, or with half a validation set."""
    wanted = _REQUIRED if names.isdisjoint(_OPTIONAL) else (*_REQUIRED, *_OPTIONAL)
    missing = [name for name in wanted if name not in names]
    if missing:
        found = ", ".join(sorted(names)) or "none"
        raise DataError(
            f"{path} must hold the arrays {', '.join(wanted)}; missing: {', '.join(missing)}; "
            f"found: {found}. Save the arrays under these names."
        )


def _part(arrays: Mapping[str, np.ndarray], part: str, path: Path) -> Labelled:
    """Images and labels of one part, checked."""
    x, y = f"x_{part}", f"y_{part}"
    return Labelled(
        pixels=_channels_first(_grey_levels(arrays[x], f"{x} of {path}"), f"{x} of {path}"),
        labels=_whole_labels(arrays[y], f"{y} of {path}"),
        pixels_from=f"{x} of {path}",
        labels_from=f"{y} of {path}",
    )


def _whole_labels(labels: np.ndarray, where: str) -> Int64[Tensor, " N"]:
    """Labels as a list of whole numbers; a column of them (Keras' CIFAR-10) is one too."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            "Labels must be whole numbers in one dimension, one for each image; got "
            f"{labels.dtype} of shape {labels.shape} ({where}). Turn one-hot rows into classes "
            "with y.argmax(axis=1), and floats with y.astype('int64')."
        )
    return torch.from_numpy(labels.astype(np.int64))


def _channels_first(pixels: Shaped[np.ndarray, " ..."], where: str) -> UInt8[Tensor, " N C H W"]:
    """Pixels with the channels before the rows, wherever they were."""
    first = pixels.ndim == 4 and pixels.shape[1] in _CHANNELS
    last = pixels.ndim == 4 and pixels.shape[3] in _CHANNELS
    if pixels.size == 0 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and first == last):
        reason = "this could be either of the last two" if first and last else "this is none"
        raise DataError(
            "Images must be N H W, N H W C or N C H W with 1 or 3 channels C, and not empty; "
            f"got shape {pixels.shape}: {reason} ({where}). Reshape the array; grey images need "
            "no dimension for channels."
        )
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif last:
        pixels = pixels.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _grey_levels(pixels: np.ndarray, where: str) -> Shaped[np.ndarray, " ..."]:
    """Pixels as unsigned bytes, whichever of the two units they came in."""
    if pixels.dtype.kind == "f":
        return _rounded(np.atleast_1d(pixels), where)
    if pixels.dtype != np.uint8:
        raise DataError(
            "Pixels must be unsigned bytes (0 to 255) or floats in [0, 1]; "
            f"got {pixels.dtype} ({where}). If they are grey levels, use x.astype('uint8')."
        )
    if pixels.size and pixels.max() == 1:
        raise DataError(
            "Pixels held as unsigned bytes must be grey levels 0 to 255, which are divided by 255; "
            f"got none above 1, so that every image would be all but black ({where}). "
            "Multiply 0/1 images by 255."
        )
    return pixels


def _rounded(pixels: Float[np.ndarray, " N ..."], where: str) -> UInt8[np.ndarray, " N ..."]:
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
