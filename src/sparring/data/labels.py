"""Checks of labels, the same for every reader.

A label is a whole number from 0. Every class has images to train on, also those of other parts.

Shapes: N images.
"""

import operator
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sparring.errors import DataError
from sparring.records.text import kind_text

_NAMED = 5
"""Classes named in a message."""
_LARGEST = (1 << 63) - 1
_ONE_HOT = "Turn one-hot rows into classes with y.argmax(axis=1)"
_NUMBERED = "Number the classes: names, y = numpy.unique(y, return_inverse=True)"
_AGAIN = "Number the classes 0, 1, 2, … without gaps, in all parts"


class PartLabels(NamedTuple):
    """Labels of one part, not checked yet."""

    labels: Int64[Tensor, " N"]
    where: str
    """Where they were read, for messages."""


def whole_label(label: object, where: str) -> int:
    """A whole number of any type as an `int`. Raises `DataError`, with `where`, for others."""
    array = _as_array(label)
    if array is not None and (array.dtype.kind not in "iu" or array.size != 1):
        remedy = _ONE_HOT if array.size != 1 else _whole("label", array.dtype, "int(label)")
        raise _no_label(f"{array.dtype} of shape {array.shape}", where, remedy)
    if array is not None:
        number = int(array.reshape(-1)[0])
    elif isinstance(label, SupportsIndex) and not isinstance(label, bool):
        number = operator.index(label)
    else:
        raise _no_label(kind_text(label), where, "Number the classes")
    if not -_LARGEST <= number <= _LARGEST:
        raise _no_label("a number of more than 64 bits", where, _AGAIN)
    return number


def whole_labels(labels: np.ndarray, where: str) -> Int64[Tensor, " N"]:
    """Labels of one dimension, or of one column as in Keras' CIFAR-10."""
    check_label_array(labels.dtype, labels.shape, where)
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def check_label_array(dtype: np.dtype, shape: tuple[int, ...], where: str) -> None:
    """Refuse an array that cannot be labels by its type or shape. Raises `DataError`."""
    is_column = len(shape) == 2 and shape[1] == 1
    if dtype.kind not in "iu" or not (len(shape) == 1 or is_column):
        rule = "Labels must be whole numbers in one dimension"
        is_flat = len(shape) == 1 or is_column
        remedy = _whole("y", dtype, "y.astype('int64')") if is_flat else _ONE_HOT
        raise DataError.expected(rule, f"{dtype} of shape {shape} ({where})", f"{remedy}.")


def _whole(name: str, dtype: np.dtype, cast: str) -> str:
    """How labels of this type become whole numbers, without a cast that loses anything."""
    if dtype.kind == "b":
        return f"{cast} makes 0 of False and 1 of True"
    if dtype.kind == "f":
        return f"If {name} == {name}.round() holds for all, use {cast}; else number the classes"
    return _NUMBERED


def num_classes_of(
    train: PartLabels,
    others: Iterable[PartLabels] = (),
    *,
    names: Sequence[str] = (),
    num_train: int | None = None,
) -> int:
    """The number of `names`, or else one more than the largest training label.

    The first `num_train` labels are trained on, by default all. Raises `DataError` for fewer than
    two classes, a label that is no class, or a class without images to train on.
    """
    num_classes = len(names) or max(int(train.labels.max()) + 1, 1)
    check_labels(train.labels, num_classes, train.where)
    if num_classes < 2:
        raise DataError(
            f"Every training label is 0 ({train.where}); at least two classes are needed."
        )
    missing = untrained(train.labels[:num_train], num_classes)
    if missing:
        raise DataError(
            never_trained(
                [names[label] if names else str(label) for label in missing],
                scope="" if names else f" from 0 to {num_classes - 1}",
                where=f" ({train.where})",
                remedy=_remedy(train.labels, num_train, missing, named=bool(names)),
            )
        )
    for part in others:
        check_labels(part.labels, num_classes, part.where)
    return num_classes


def check_labels(labels: Int64[Tensor, " N"], num_classes: int, where: str) -> None:
    """Raise `DataError` naming `where` and the first label outside 0 to num_classes - 1."""
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if not len(outside):
        return
    first = int(outside[0])
    label = int(labels[first])
    remedy = (
        "Leave out images without a label, which many data sets mark by -1"
        if label < 0
        else "Renumber the labels, or give the training set images of every class"
    )
    raise DataError.expected(
        f"Labels must lie in 0 to {num_classes - 1}",
        f"{label} for image {first} ({where}; {len(outside)} such in all)",
        f"{remedy}.",
    )


def untrained(labels: Int64[Tensor, " N"], num_classes: int) -> tuple[int, ...]:
    """The first classes without an image."""
    present = set(labels.unique().tolist())
    return tuple(islice((c for c in range(num_classes) if c not in present), _NAMED + 1))


def check_judged(train: PartLabels, other: PartLabels, names: Sequence[str]) -> None:
    """Raise `DataError` if `other` has a class that is not trained on."""
    known = set(train.labels.unique().tolist())
    unknown = [names[int(label)] for label in other.labels.unique() if int(label) not in known]
    if unknown:
        raise DataError(only_elsewhere(other.where, unknown))


def never_trained(names: Sequence[str], *, scope: str = "", where: str = "", remedy: str) -> str:
    """The message about classes without images to train on."""
    return (
        f"Every class{scope} must have images to train on; without any: {some(names)}{where}. "
        f"{remedy}."
    )


def only_elsewhere(part: str, names: Sequence[str], remedy: str = "") -> str:
    """The message about classes that train does not have."""
    remedy = remedy or "Give train images of it, or leave those images out"
    return f"Every class of {part} must be one of train's; only in {part}: {some(names)}. {remedy}."


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _remedy(
    labels: Int64[Tensor, " N"], num_train: int | None, missing: Sequence[int], *, named: bool
) -> str:
    num_train = len(labels) if num_train is None else num_train
    if not set(missing).isdisjoint(labels[num_train:].tolist()):
        return (
            f"The last {len(labels) - num_train} of the {len(labels)} training images are held out "
            "for validation: shuffle images and labels together if they are sorted by class"
        )
    if named:
        return "Add images of them, or leave out their names and renumber the labels"
    return _AGAIN + (": if they count from 1, subtract 1" if missing == (0,) else "")


def _as_array(label: object) -> np.ndarray | None:
    """An array or tensor as an array; `None` for anything else."""
    if isinstance(label, np.ndarray | np.generic):
        return np.asarray(label)
    if isinstance(label, Tensor):
        label = label.detach()
        label = label.to_dense() if label.layout != torch.strided else label
        exact = label.dtype != torch.bfloat16  # which NumPy does not know
        try:
            return (label if exact else label.float()).cpu().numpy()
        except (RuntimeError, TypeError):  # a meta tensor, for one, has no value
            return np.array(str(label.dtype))
    return None


def _no_label(found: str, where: str, remedy: str) -> DataError:
    return DataError.expected("Labels must be whole numbers", f"{found} ({where})", f"{remedy}.")
