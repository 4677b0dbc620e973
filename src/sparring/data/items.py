"""Items given in Python: pairs of an image and its label, in the forms in which they are held.

Shapes: N images, C channels (1 or 3), H rows, W columns.
Units:  pixels are grey levels 0 to 255 as unsigned bytes, or floats in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sparring.data.grey_levels import grey_levels
from sparring.data.labels import whole_label
from sparring.data.pictures import picture_levels
from sparring.errors import DataError, SparringError, cause

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
_LABEL_KEYS = ("label", "labels", "class", "target", "y")
"""Names of the image and of the label in items that are dicts, as Hugging Face's are."""
_CHANNELS = (1, 3)
_MOST = 1 << 28
"""Items: labels of more alone would take gigabytes."""


@runtime_checkable
class Items(Protocol):
    """What `torch.utils.data.Dataset` with a length is: pairs of an image and its label."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> object:
        """An image and its class: a PIL image or a tensor of 1 or 3 channels, and a number."""
        ...


@dataclass(frozen=True, slots=True)
class _Columns:
    """Images and labels that are held apart."""

    images: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> object:
        return self.images[index], self.labels[index]


def as_items(given: object, part: str) -> Items:
    """What was given for a part, as items by number; at least one.

    A pair of images and labels, each in one array or list, is taken apart. Raises `DataError` for
    what has no items by number, such as a path, a `DataLoader` or a generator.
    """
    remedy = _remedy(given)
    if remedy or not isinstance(given, Items):
        raise DataError(
            "Data must have a length and items by number, as torch.utils.data.Dataset has; got a "
            f"{type(given).__name__} ({part}). {remedy or 'list(…) makes a list of an iterable'}."
        )
    items = _taken_apart(given, part)
    try:
        count = len(items)
    except Exception as error:
        raise DataError(
            f"Data must have a length; asking for it raised {cause(error)} ({part}). "
            "Give the data set a __len__."
        ) from error
    if not count:
        raise DataError(f"There must be at least one image; got none in {part}.")
    if count > _MOST:
        raise DataError(
            f"There must be at most {_MOST:,} images; got {count:,} in {part}. Check its __len__."
        )
    return items


def read_item(
    items: Items, place: int, part: str, image_size: int | None
) -> tuple[UInt8[Tensor, " C H W"], int]:
    """The image and the label at this place. Raises `DataError` for what is neither."""
    where = f"item {place} of {part}"
    try:
        item = items[place]
    except SparringError:
        raise
    except Exception as error:  # the data set is the caller's
        raise DataError(
            f"Every item must be readable; {where} raised {cause(error)}. Mend the data set."
        ) from error
    image, label = _pair(item, where)
    return _levels(image, where, image_size), whole_label(label, where)


def _remedy(given: object) -> str:
    """What to give instead, for what is often given and has no items."""
    if given is None:
        return "Give a data set"
    if isinstance(given, str | bytes | Path):
        return "load_dataset(path) reads what lies at a path"
    if isinstance(given, DataLoader):
        return "Its items are batches: give its data set, loader.dataset"
    if isinstance(given, IterableDataset):
        return "list(…) makes a list of its items"
    if isinstance(given, Mapping):
        return f"Give one of its values, or the pair of its images and labels ({_some_keys(given)})"
    return ""


def _taken_apart(given: Items, part: str) -> Items:
    """Items of a pair of images and labels; any other data set as it is."""
    if not (isinstance(given, tuple | list) and len(given) == 2):
        return given
    images, labels = given
    if not (_is_column(labels) and _may_be_images(images)):
        return given
    if len(images) != len(labels):
        raise DataError(
            f"There must be one label for each image; got {len(labels)} labels for {len(images)} "
            f"images ({part}). Take both from the same data set and the same part of it."
        )
    return _Columns(images, labels)


def _is_column(labels: object) -> bool:
    if isinstance(labels, np.ndarray | Tensor):
        return labels.ndim in (1, 2)
    return isinstance(labels, list | tuple) and all(
        isinstance(label, int | float | np.generic) or getattr(label, "ndim", None) == 0
        for label in labels
    )


def _may_be_images(images: object) -> bool:
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim > 2
    return isinstance(images, list | tuple) and not any(
        isinstance(image, int | float) for image in images
    )


def _pair(item: object, where: str) -> tuple[object, object]:
    if isinstance(item, Mapping):
        images, labels = (
            [key for key in names if key in item] for names in (_IMAGE_KEYS, _LABEL_KEYS)
        )
        if len(images) == len(labels) == 1:
            return item[images[0]], item[labels[0]]
        raise DataError(
            f"Items that are dicts must hold one image (under {', '.join(_IMAGE_KEYS)}) and one "
            f"label (under {', '.join(_LABEL_KEYS)}); got {_some_keys(item)} ({where}). "
            "Rename its keys, or give pairs (image, label)."
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        found = type(item).__name__
        count = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"Items must be pairs of an image and its label; got a {found}{count} ({where})."
            " Give a data set whose items are (image, label)."
        )
    return item[0], item[1]


def _levels(image: object, where: str, image_size: int | None) -> UInt8[Tensor, " C H W"]:
    if isinstance(image, Image.Image):
        return picture_levels(image, image_size=image_size, name=where)
    pixels = _as_array(image, where)
    if image_size is not None:
        raise DataError(
            f"image_size must be left out where items are tensors, because only pictures are "
            f"resized; got {image_size}. Resize them in the data set."
        )
    pixels = _channels_first(pixels, isinstance(image, Tensor), where)
    if pixels.dtype != np.uint8:  # one dark image of bytes alone says nothing about its unit
        pixels = grey_levels(pixels, where)
    return torch.from_numpy(np.array(pixels, order="C"))


def _as_array(image: object, where: str) -> np.ndarray:
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


def _channels_first(pixels: np.ndarray, is_tensor: bool, where: str) -> np.ndarray:
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


def _some_keys(found: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(found)[:10])) or "nothing"
