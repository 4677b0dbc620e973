"""What tells a model, an attack or a threat of your own from others: its code, and what it holds.

A stopped evaluation is resumed, and a stored one replaced, only by one of the same. Numbers, text,
tensors, containers, functions with what they close over and the globals that they read, and objects
of your own classes count. Of code in other modules than that of its caller only the kind does; of
objects of other libraries, but for networks, threats and dataclasses, only the class.
"""

import dis
import functools
import hashlib
import sys
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparring.attacks import Threat
from sparring.attacks.threat import itself
from sparring.models.weights import content_digest

PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""Classes whose values are known by their text."""
METHODS = (FunctionType, classmethod, staticmethod, property)
"""What holds code of a class."""
CODE = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
"""What holds code by itself."""
READS_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
"""Instructions of functions and of class bodies in them."""
TEXT = (np.generic, torch.dtype, torch.device, range)
"""Classes of libraries whose values are known by their text, too."""


def digest(settings: object, *tensors: Tensor) -> str:
    """What an evaluation of these settings, images and labels is known by."""
    found = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        found.update(_bytes(tensor))
    return found.hexdigest()


def identity(value: object) -> object:
    """Plain values and tuples that are equal for equals, also in another process.

    Cost: that of reading all that it holds, weights included.
    """
    return _Reader().read(value)


def same_threat(one: Threat, other: Threat) -> bool:
    """Whether two threats have equal code and contents; `==` of your own may fail on tensors."""
    return identity(itself(one)) == identity(itself(other))


class _Reader:
    """Reads a value once; where it comes again, its number stands for it."""

    def __init__(self, seen: "Mapping[int, tuple[int, object]] | None" = None) -> None:
        self._seen = dict(seen or {})  # with the object itself, so that its id is kept

    def read(self, value: object) -> object:
        if type(value) in PLAIN or isinstance(value, TEXT):
            return repr(value)
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = len(self._seen), value
        if isinstance(value, Tensor | np.ndarray):
            return self._numbers(value)
        if isinstance(value, Mapping | Set | list | tuple):
            return self._container(value)
        if isinstance(value, FunctionType | MethodType | functools.partial):
            return self._called(value)
        return self._object(value)

    def _numbers(self, value: "Tensor | NDArray[Any]") -> object:
        """Type, shape and content of an array, also of one of text or objects."""
        kind = str(value.dtype), tuple(value.shape)
        if isinstance(value, np.ndarray):
            content = self.read(value.tolist()) if value.dtype.hasobject else value.tobytes()
        elif value.is_meta:
            content = b""
        else:
            content = _bytes(value if value.layout is torch.strided else value.to_dense())
        if isinstance(content, bytes):
            return *kind, hashlib.sha256(content).hexdigest()
        return *kind, content

    def _container(self, value: object) -> object:
        if isinstance(value, Mapping):
            return [(self.read(key), self.read(one)) for key, one in value.items()]
        if isinstance(value, Set):
            # Each by itself: in another process the order is another.
            return sorted(repr(_Reader(self._seen).read(one)) for one in value)
        assert isinstance(value, list | tuple)  # `read` sends nothing else here
        return [self.read(one) for one in value]

    def _called(self, value: "FunctionType | MethodType | functools.partial[Any]") -> object:
        """A function: its code, defaults, what it closes over and names in its own module."""
        if isinstance(value, functools.partial):
            return self.read([value.func, value.args, value.keywords])
        if isinstance(value, MethodType):
            return self.read([value.__func__, value.__self__])
        if not _is_own(value.__module__):
            return value.__module__, value.__qualname__
        names = sorted(_names(value.__code__) & value.__globals__.keys())
        used = [(name, self._named(value.__globals__[name], value.__module__)) for name in names]
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        held = self.read([value.__defaults__, value.__kwdefaults__, cells])
        return value.__qualname__, _instructions(value.__code__), held, used

    def _named(self, value: object, module: str | None) -> object:
        """A global: what it holds, but of code in other modules only the kind."""
        if isinstance(value, CODE) and getattr(value, "__module__", None) != module:
            return type(value).__qualname__
        return self.read(value)

    def _object(self, value: object) -> object:
        """Its class, with the methods of your own classes, and what it holds."""
        kind = type(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, nn.Module):
            kinds = dict.fromkeys(type(part) for part in value.modules())
            own = {name: one for name, one in vars(value).items() if type(one) in PLAIN}
            own.pop("training", None)
            weights = content_digest(value.state_dict())
            return repr(value), [self._class(one) for one in kinds], self.read(own), weights
        if is_dataclass(value):
            held = {one.name: getattr(value, one.name, None) for one in fields(value)}
        elif _is_own(kind.__module__) or Threat in kind.__mro__:
            slots = [one for base in kind.__mro__ for one in getattr(base, "__slots__", ())]
            held = {one: getattr(value, one) for one in slots if hasattr(value, one)}
            held |= getattr(value, "__dict__", {})
        else:
            held = {}
        return self._class(kind), self.read(held)

    def _class(self, kind: type) -> object:
        found = [f"{kind.__module__}.{kind.__qualname__}"]
        for base in kind.__mro__:
            if _is_own(base.__module__):
                found += [
                    (name, self.read(getattr(one, "__func__", getattr(one, "fget", one))))
                    for name, one in vars(base).items()
                    if isinstance(one, METHODS) or (type(one) in PLAIN and name != "__module__")
                ]
        return found


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises where a name has no value yet
    except ValueError:
        return False
    return True


def _is_own(module: str | None) -> bool:
    """Whether code of this module may be yours: not Python's, and not installed as a package."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return top not in ("sparring", "torch", "numpy") and "site-packages" not in file


def _names(code: CodeType) -> set[str]:
    """Names of the globals that code reads, also in functions inside it."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    own = (one.argval for one in dis.get_instructions(code) if one.opname in READS_GLOBALS)
    return set(own).union(*(_names(each) for each in inner))


def _instructions(code: CodeType) -> object:
    constants = [
        _instructions(each)
        if isinstance(each, CodeType)
        else sorted(map(repr, each))
        if isinstance(each, frozenset)
        else repr(each)
        for each in code.co_consts
    ]
    return code.co_code, code.co_names, constants


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
