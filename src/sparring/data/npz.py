"""Data sets in one .npz file, laid out as Keras' mnist.npz is.

Arrays: x_train, y_train, x_test, y_test, and optionally x_validation with y_validation.
Shapes: N images, H rows, W columns, C channels (1 or 3): N H W, N H W C or N C H W.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.grey_levels import all_but_black, no_grey_levels, rounded
from sparring.data.images import Dataset
from sparring.data.labels import check_label_array, whole_labels
from sparring.data.npz_members import Archive, Member, open_archive
from sparring.data.raw_pixels import RawPixels
from sparring.data.split import Labelled, assemble, one_label_each
from sparring.data.streamed import DATA_MEMORY, too_large
from sparring.errors import DataError

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_validation", "y_validation")
_CHANNELS = (1, 3)

_NAMED = 20
"""Names in a message."""
_AT_ONCE = 16 << 20
"""Bytes of one read."""


def load_npz(path: Path, *, data_memory: int = DATA_MEMORY) -> Dataset:
    """The data set of an .npz file; nothing in the file is ever executed.

    Without validation arrays, the last twelfth of the training images is held out. Images of more
    than `data_memory` bytes are streamed. Raises `DataError` if the file is damaged, an array is
    missing or not what it must be, float pixels are not whole grey levels, or images are to be
    streamed that are compressed or no unsigned bytes.
    """
    with open_archive(path) as archive:
        names = _checked_names(archive.names, path)
        members = {name: archive.member(name) for name in names}
        for part in _parts(members):
            _check_pair(members[f"x_{part}"], members[f"y_{part}"], path)
            _check_order(members[f"x_{part}"], path, data_memory)
        size = sum(math.prod(members[f"x_{part}"].shape) for part in _parts(members))
        parts = {
            part: Labelled(
                pixels=(
                    _levels(archive, members[f"x_{part}"], path)
                    if size <= data_memory
                    else _streamed(members[f"x_{part}"], path, size, data_memory)
                ),
                labels=_labels(archive, members[f"y_{part}"], path),
                pixels_from=f"x_{part} of {path}",
                labels_from=f"y_{part} of {path}",
            )
            for part in _parts(members)
        }
    return assemble(path.stem, parts["train"], parts["test"], parts.get("validation"))


def _parts(members: Mapping[str, Member]) -> list[str]:
    return [part for part in ("train", "test", "validation") if f"x_{part}" in members]


def _check_pair(images: Member, labels: Member, path: Path) -> None:
    """Refuse images and labels of the wrong kind, by their headers."""
    pixels_from, labels_from = f"{images.name} of {path}", f"{labels.name} of {path}"
    _layout(images.shape, pixels_from)
    if images.dtype.kind != "f" and images.dtype != np.uint8:
        raise no_grey_levels(images.dtype, pixels_from)
    check_label_array(labels.dtype, labels.shape, labels_from)
    if labels.shape[0] != images.shape[0]:
        raise one_label_each(labels.shape[0], labels_from, images.shape[0], pixels_from)


def _check_order(images: Member, path: Path, data_memory: int) -> None:
    """Refuse images that could only be read all at once, and take too much memory for that."""
    if images.in_columns and images.size > data_memory:
        where = f"{images.name} of {path}"
        raise too_large(where, images.size, data_memory, "Save numpy.ascontiguousarray of it")


def _levels(archive: Archive, member: Member, path: Path) -> UInt8[Tensor, " N C H W"]:
    """Images as grey levels with the channels before the rows, wherever they were."""
    where = f"{member.name} of {path}"
    shape = _image_shape(member.shape, where)
    levels = np.empty((member.shape[0], *shape), dtype=np.uint8)
    start = 0
    for piece in archive.pieces(member):
        found = rounded(piece, where) if member.dtype.kind == "f" else piece
        if _layout(member.shape, where) == "last":
            found = found.transpose(0, 3, 1, 2)
        levels[start : start + len(piece)] = found.reshape(-1, *shape)
        start += len(piece)
    if member.dtype == np.uint8 and levels.max() == 1:
        raise all_but_black(where)
    return torch.from_numpy(levels)


def _labels(archive: Archive, member: Member, path: Path) -> Int64[Tensor, " N"]:
    return whole_labels(np.concatenate(list(archive.pieces(member))), f"{member.name} of {path}")


def _streamed(member: Member, path: Path, size: int, data_memory: int) -> RawPixels:
    """Images where they lie in the file."""
    where = f"{member.name} of {path}"
    if member.offset is None or member.dtype != np.uint8:
        raise too_large(where, size, data_memory, "Save unsigned bytes with numpy.savez")
    return _where_they_lie(path, member, where)


def _where_they_lie(path: Path, member: Member, where: str) -> RawPixels:
    count = member.shape[0]
    pixels = RawPixels(
        path=path.resolve(),
        offset=member.offset or 0,
        count=count,
        image_shape=_image_shape(member.shape, where),
        channels_last=_layout(member.shape, where) == "last",
    )
    at_once = max(1, _AT_ONCE // math.prod(pixels.image_shape))
    for start in range(0, count, at_once):
        if pixels.read(torch.arange(start, min(count, start + at_once))).max() > 1:
            return pixels
    raise all_but_black(where)


def _checked_names(found: Iterable[str], path: Path) -> list[str]:
    """The arrays to read. Refuses an archive that lacks one, or has half a validation set."""
    names = set(found)
    wanted = _REQUIRED if names.isdisjoint(_OPTIONAL) else (*_REQUIRED, *_OPTIONAL)
    missing = [name for name in wanted if name not in names]
    if missing:
        listed = ", ".join(sorted(names)[:_NAMED]) or "none"
        raise DataError(
            f"{path} must hold the arrays {', '.join(wanted)}; missing: {', '.join(missing)}; "
            f"found: {listed}. Save the arrays under these names."
        )
    return list(wanted)


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


def _image_shape(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    """Channels, rows and columns of the images in an array of this shape."""
    layout = _layout(shape, where)
    if layout == "grey":
        return 1, shape[1], shape[2]
    channels, rows, columns = shape[1:] if layout == "first" else (shape[3], *shape[1:3])
    return channels, rows, columns
