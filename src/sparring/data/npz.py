"""Data sets in one .npz file, laid out as Keras' mnist.npz is.

Arrays: x_train, y_train, x_test, y_test, and optionally x_validation with y_validation.
Shapes: N images, H rows, W columns, C channels (1 or 3): N H W, N H W C or N C H W.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from sparring.data.grey_levels import all_but_black, grey_levels
from sparring.data.images import Dataset
from sparring.data.npz_members import Member, find_member
from sparring.data.raw_pixels import RawPixels
from sparring.data.split import Labelled, assemble
from sparring.data.streamed import DATA_MEMORY, too_large
from sparring.errors import DataError

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_validation", "y_validation")
_CHANNELS = (1, 3)

_IMAGES = ("x_train", "x_test", "x_validation")
_AGAIN = "Write it again with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)."

_IMAGES_AT_ONCE = 1024
"""Images of one read."""


def load_npz(path: Path, *, data_memory: int = DATA_MEMORY) -> Dataset:
    """The data set of an .npz file; nothing in the file is ever executed.

    Without validation arrays, the last twelfth of the training images is held out. Images of more
    than `data_memory` bytes are streamed. Raises `DataError` if the file is damaged, an array is
    missing or not what it must be, float pixels are not whole grey levels, or images are to be
    streamed that are compressed or no unsigned bytes.
    """
    streamed = _streamed(path, data_memory)
    arrays = _read_arrays(path, leave=set(streamed))
    parts = {
        part: _part(arrays, streamed.get(f"x_{part}"), part, path)
        for part in ("train", "test", "validation")
        if f"y_{part}" in arrays
    }
    return assemble(path.stem, parts["train"], parts["test"], parts.get("validation"))


def _streamed(path: Path, data_memory: int) -> Mapping[str, RawPixels]:
    """The arrays of images where they lie, if they take too much memory."""
    if not zipfile.is_zipfile(path):
        return {}
    with _reading(path):
        members = {name: member for name in _IMAGES if (member := find_member(path, name))}
    size = sum(math.prod(member.shape) for member in members.values())
    if size <= data_memory:
        return {}
    pixels = {}
    for name, member in members.items():
        where = f"{name} of {path}"
        if member.offset is None or member.dtype != np.uint8:
            raise too_large(where, size, data_memory, "Save unsigned bytes with numpy.savez")
        pixels[name] = _where_they_lie(path, member, where)
    return pixels


def _where_they_lie(path: Path, member: Member, where: str) -> RawPixels:
    layout = _layout(member.shape, where)
    count, *shape = member.shape if layout != "grey" else (member.shape[0], 1, *member.shape[1:])
    if layout == "last":
        shape = [shape[2], *shape[:2]]
    channels, rows, columns = shape
    pixels = RawPixels(
        path=path.resolve(),
        offset=member.offset or 0,
        count=count,
        image_shape=(channels, rows, columns),
        channels_last=layout == "last",
    )
    for start in range(0, count, _IMAGES_AT_ONCE):
        if pixels.read(torch.arange(start, min(count, start + _IMAGES_AT_ONCE))).max() > 1:
            return pixels
    raise all_but_black(where)


def _read_arrays(path: Path, leave: Set[str]) -> Mapping[str, np.ndarray]:
    """The arrays we know of; the others are left unread, as are some of them."""
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} must be an .npz file, which is a whole zip archive; it is not one: truncated, "
            f"or another kind of file. {_AGAIN}"
        )
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        _check_names(set(archive.files), path)
        wanted = [name for name in (*_REQUIRED, *_OPTIONAL) if name in archive.files]
        return {name: archive[name] for name in wanted if name not in leave}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} must hold plain arrays of numbers, undamaged; reading them failed: {error}. "
            f"Arrays of Python objects are refused because they could run code. {_AGAIN}"
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


def _part(
    arrays: Mapping[str, np.ndarray], streamed: RawPixels | None, part: str, path: Path
) -> Labelled:
    """Images and labels of one part, checked."""
    x, y = f"x_{part}", f"y_{part}"
    where = f"{x} of {path}"
    return Labelled(
        pixels=streamed or _channels_first(grey_levels(arrays[x], where), where),
        labels=_whole_labels(arrays[y], f"{y} of {path}"),
        pixels_from=where,
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


def _layout(shape: tuple[int, ...], where: str) -> Literal["grey", "first", "last"]:
    """Where the channels are in an array of images of this shape."""
    first = len(shape) == 4 and shape[1] in _CHANNELS
    last = len(shape) == 4 and shape[3] in _CHANNELS
    if 0 in shape or len(shape) not in (3, 4) or (len(shape) == 4 and first == last):
        reason = "this could be either of the last two" if first and last else "this is none"
        raise DataError(
            "Images must be N H W, N H W C or N C H W with 1 or 3 channels C, and not empty; "
            f"got shape {shape}: {reason} ({where}). Reshape the array; grey images need "
            "no dimension for channels."
        )
    if len(shape) == 3:
        return "grey"
    return "last" if last else "first"


def _channels_first(pixels: Shaped[np.ndarray, " ..."], where: str) -> UInt8[Tensor, " N C H W"]:
    """Pixels with the channels before the rows, wherever they were."""
    layout = _layout(pixels.shape, where)
    if layout == "grey":
        pixels = pixels[:, None]
    elif layout == "last":
        pixels = pixels.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels))
