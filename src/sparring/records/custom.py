"""Objects of your own in settings: made by a factory that is named, or passed in Python.

A setting that takes one, such as the optimizer, holds a `Custom` record, which config.json stores
whole, or a `PythonObject`, of which it stores the name alone: pass such an object again to resume.
"""

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from sparring.errors import ConfigError, OwnCodeFailed, SparringError
from sparring.records.own_code import arguments, imported, own_code, reason
from sparring.records.text import few, kind_text, one_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Custom:
    """An object of your own, made by a factory: a class or function of yours."""

    factory: str
    """package.module:name or path/to/file.py:name."""
    arguments: tuple[str, ...] = ()
    """Passed to the factory by name, each as name=value; a value is JSON or else plain text."""

    former_kinds: ClassVar = ("OwnObjective",)
    """Other names of the record in stored settings."""

    def given(self, **more: object) -> Self:
        """The same with these arguments in place of those of their names."""
        kept = [word for word in self.arguments if word.partition("=")[0] not in more]
        added = [f"{name}={json.dumps(value)}" for name, value in more.items()]
        return replace(self, arguments=(*kept, *added))

    def call(self, *positional: object) -> object:
        """What the factory returns for its arguments, after these. Raises `ConfigError`."""
        factory, shown = imported(self.factory, "the factory"), one_line(self.factory)
        if not callable(factory):
            raise ConfigError.expected(f"{shown} must be a class or a function", kind_text(factory))
        words = arguments(self.arguments, "arguments")
        if lacking := missing_arguments(factory, positional, words):
            raise ConfigError.expected(
                f"{shown} must be a class or a function that returns the object",
                f"one that also needs {few(lacking)}",
                f"If it is itself the object, write a function without arguments that returns it, "
                f"and name that one. Otherwise give {few(lacking)} a default, or a value in the "
                "setting's arguments.",
            )
        with own_code(f"the factory {shown} failed", self.factory):
            return factory(*positional, **words)


def missing_arguments(
    factory: Callable[..., object], positional: Sequence[object], words: Mapping[str, object]
) -> list[str]:
    """Names of the arguments that this call lacks; empty if the factory has no signature."""
    try:
        signature = inspect.signature(factory)
        given = signature.bind_partial(*positional, **words).arguments
    except (TypeError, ValueError):  # the call itself says what is wrong
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, one in signature.parameters.items()
        if one.default is one.empty and one.kind not in optional and name not in given
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonObject:
    """An object that was passed in Python. Only its name is stored; pass it again to resume."""

    name: str
    """That of the function, or of the object's class."""
    implied: ClassVar = True
    """Left out of lists of what may be passed."""
    value: Any = field(default=None, init=False, compare=False, repr=False)
    """The object; `None` after it was read from a file or sent to another process."""

    @classmethod
    def of(cls, value: object) -> "PythonObject":
        """The record of an object."""
        found = cls(name=getattr(value, "__qualname__", type(value).__qualname__))
        object.__setattr__(found, "value", value)
        return found

    def copied(self) -> "PythonObject":
        """The same with a copy of the object, if it can be copied."""
        try:
            return PythonObject.of(deepcopy(self.value))
        except Exception:  # of an object that is not sparring's
            return self

    def __reduce__(self) -> tuple[Callable[[str], "PythonObject"], tuple[str]]:
        return _named, (self.name,)


def _named(name: str) -> PythonObject:
    return PythonObject(name=name)


def made(setting: Any, name: str) -> Any:
    """The object that the setting of this name stands for; another record stands for itself.

    A factory makes one object a process, until `forget_made`. Raises `ConfigError`.
    """
    if isinstance(setting, PythonObject):
        if setting.value is None:
            raise ConfigError(
                f"{name} of the run, {setting.name}, was passed as a Python object, which is not "
                f"stored. Pass it again: given={{{name!r}: ...}}. On the command line train "
                "a new run with file.py:name in its place, from sparring train --config RUN"
            )
        return setting.value
    if not isinstance(setting, Custom):
        return setting
    found = made_once(setting)
    if not callable(found):
        raise ConfigError.expected(
            f"what {setting.factory} makes for {name} must be callable",
            kind_text(found),
            "Give it a method __call__, or let the factory return a function.",
        )
    return found


@functools.cache
def made_once(setting: Custom) -> object:
    """What a factory makes for its arguments, once a process. Raises `ConfigError`."""
    return setting.call()


def forget_made() -> None:
    """Let factories make new objects; those that were made may have a state."""
    made_once.cache_clear()


@contextmanager
def own_errors(what: str) -> Iterator[None]:
    """Turn whatever code of your own raises in the block into `OwnCodeFailed`, which names it."""
    try:
        yield
    except (SparringError, MemoryError):
        raise
    except Exception as error:  # not sparring's code
        raise OwnCodeFailed(f"{what} failed: {reason(error)}.") from error


def is_own(setting: object) -> bool:
    """Whether a setting holds an object of your own."""
    return isinstance(setting, Custom | PythonObject)
