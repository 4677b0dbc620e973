"""Files that `torch.save` wrote: read without running code in them, and checked by a schema.

A schema is made of the kinds below. Each accepts a value or raises `ValueError`, which names the
value's place and the fault. A file is accepted as a whole or not at all.
"""

import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from sparring.errors import cause
from sparring.records.files import LARGEST_TENSORS, open_regular


@runtime_checkable
class Kind(Protocol):
    """The allowed values at one place of a file."""

    def check(self, value: object, place: str) -> None:
        """Raise `ValueError` unless the value is allowed at this place."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers(Kind):
    """A tensor."""

    dtype: torch.dtype
    shape: tuple[int | None, ...]
    """Its sizes; `None` for any."""
    least: float = -math.inf
    most: float = math.inf
    finite: bool = False
    """Whether every number must be finite."""

    @classmethod
    def like(cls, tensor: Tensor, *, finite: bool = False) -> "Numbers":
        """Tensors of the same type and shape."""
        return cls(dtype=tensor.dtype, shape=tuple(tensor.shape), finite=finite)

    @override
    def check(self, value: object, place: str) -> None:
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
            raise ValueError(f"{place} must be a tensor, not {_kind(value)}")
        if value.dtype != self.dtype or not self._fits(value.shape):
            raise ValueError(
                f"{place} must be {self.dtype} of shape {_sizes(self.shape)}, not {value.dtype} of "
                f"shape {_sizes(value.shape)}"
            )
        if self.finite and not value.isfinite().all():
            raise ValueError(f"{place} must be finite, and holds numbers that are not")
        limited = math.isfinite(self.least) or math.isfinite(self.most)
        if limited and not ((value >= self.least) & (value <= self.most)).all():
            raise ValueError(
                f"{place} must lie in {self.least:g} to {self.most:g}, and holds numbers outside"
            )

    def _fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.shape) and all(
            wanted in (None, found) for wanted, found in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Number(Kind):
    """An integer or, if not `whole`, a finite number."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False

    @override
    def check(self, value: object, place: str) -> None:
        types = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, types) or value != value:
            raise ValueError(
                f"{place} must be {'an integer' if self.whole else 'a number'}, not {_kind(value)}"
            )
        if not self.least <= value <= self.most or abs(value) == math.inf:
            raise ValueError(f"{place} must lie in {self.least:g} to {self.most:g}")


@dataclass(frozen=True, slots=True)
class Same(Kind):
    """One number or text, or `None`, and no other value."""

    value: int | str | None

    @override
    def check(self, value: object, place: str) -> None:
        if type(value) is not type(self.value) or value != self.value:
            raise ValueError(f"{place} must be {self.value!r}")


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A text."""

    @override
    def check(self, value: object, place: str) -> None:
        if not isinstance(value, str):
            raise ValueError(f"{place} must be a text, not {_kind(value)}")


@dataclass(frozen=True, slots=True)
class Anything(Kind):
    """Any value, which is checked later."""

    @override
    def check(self, value: object, place: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Maybe(Kind):
    """A value of some kind, or `None`."""

    kind: Kind

    @override
    def check(self, value: object, place: str) -> None:
        if value is not None:
            self.kind.check(value, place)


@dataclass(frozen=True, slots=True)
class Items(Kind):
    """A list with one item of each of these kinds, in their order."""

    kinds: Sequence[Kind]

    @override
    def check(self, value: object, place: str) -> None:
        if not isinstance(value, list):
            raise ValueError(f"{place} must be a list, not {_kind(value)}")
        if len(value) != len(self.kinds):
            raise ValueError(f"{place} must have {len(self.kinds)} items, not {len(value)}")
        for number, (item, kind) in enumerate(zip(value, self.kinds, strict=True)):
            kind.check(item, f"{place}[{number}]")


@dataclass(frozen=True, slots=True)
class Each(Kind):
    """A list of any number of items of one kind."""

    kind: Kind

    @override
    def check(self, value: object, place: str) -> None:
        number = len(value) if isinstance(value, list) else 0
        Items([self.kind] * number).check(value, place)


@dataclass(frozen=True, slots=True)
class Fields(Kind):
    """A mapping with a value of its kind under each name, and no other names."""

    kinds: Mapping[Any, Kind]
    optional: Mapping[Any, Kind] = field(default_factory=dict)
    """Names that may be missing."""

    @override
    def check(self, value: object, place: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must hold values by name, not {_kind(value)}")
        known = {**self.kinds, **self.optional}
        for name in self.kinds:
            if name not in value:
                raise ValueError(f"{place} lacks {name}")
        for name, found in value.items():
            if name in known:
                known[name].check(found, f"{place}.{name}")
            else:
                raise ValueError(f"{place} has {str(name)[:60]!r}, which belongs to something else")


def tensors_like(tensors: Mapping[str, Tensor], finite: Sequence[str] = ()) -> Fields:
    """Tensors of the same names, types and shapes; those under the names `finite` are finite."""
    wanted = frozenset(finite)
    return Fields(
        {name: Numbers.like(each, finite=name in wanted) for name, each in tensors.items()}
    )


def read_saved(path: Path) -> object:
    """The content of a file by `torch.save`; no code in it runs.

    Checksums are compared, so that a file is read whole or not at all. Raises `OSError` if it
    cannot be opened, `ValueError` if it is damaged or something else.
    """
    with open_regular(path, LARGEST_TENSORS) as file:
        _check_archive(file)
        file.seek(0)
        return _loaded(file)


def _loaded(file: IO[bytes]) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever PyTorch raises on bytes that it cannot read
        raise ValueError(_fault(error)) from error


def _fault(error: Exception) -> str:
    """What is wrong with a file that PyTorch cannot load."""
    said = str(error)
    if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL ([\w.]+)", said)):
        return f"it holds a {named[1]}, which only code can restore"
    if isinstance(error, pickle.UnpicklingError | EOFError) or "PytorchStreamReader" in said:
        return "it was not written by torch.save, or is damaged"
    return cause(error)


def _check_archive(file: IO[bytes]) -> None:
    """Refuse an archive with compressed members, whose size is not limited, or damaged ones.

    PyTorch's first format is no archive.
    """
    try:
        if not zipfile.is_zipfile(file):  # it raises for some damaged directories
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(each.compress_type != zipfile.ZIP_STORED for each in members):
                raise ValueError("a part of it is compressed, which PyTorch never writes")
            if archive.testzip() is not None:
                raise ValueError("a checksum differs")
    except ValueError:
        raise
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(cause(error)) from error
    except (struct.error, IndexError, KeyError, OverflowError) as error:
        raise ValueError("its directory is damaged") from error


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _sizes(shape: Sequence[int | None]) -> str:
    return "x".join("any" if size is None else str(size) for size in shape) or "one number"
