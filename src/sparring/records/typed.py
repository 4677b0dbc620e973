"""Whether arguments and settings have the annotated types.

A type annotation also says which record classes may stand at a place, and which settings they have.
"""

import functools
import inspect
import numbers
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import InitVar, fields, is_dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from typing_extensions import get_protocol_members

from sparring.errors import ConfigError
from sparring.records.text import did_you_mean, kind_text, nearest, with_article


def members(hint: object) -> tuple[object, ...]:
    """Alternatives of a union, `None` included; any other type is its own only alternative."""
    if isinstance(hint, InitVar):
        return members(hint.type)
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(part for member in get_args(hint) for part in members(member))
    return (hint,)


@functools.cache
def kinds(hint: object) -> dict[str, type]:
    """Record classes that may stand where `hint` does, by class name; empty if others may too.

    Of a protocol these are the records of its own package that inherit it: others are not stored.
    """
    alternatives = (member for member in members(hint) if member is not type(None))
    classes = [one for member in alternatives for one in _implementations(member)]
    if not all(isinstance(member, type) and is_dataclass(member) for member in classes):
        return {}
    return {member.__name__: member for member in classes if isinstance(member, type)}


def _is_code(hint: object) -> bool:
    """Whether a type is that of something to call, which no file can hold."""
    return get_origin(hint) is Callable or getattr(hint, "_is_protocol", False)


def _implementations(member: object) -> Sequence[object]:
    """Record classes that a type stands for; another type itself."""
    if get_origin(member) is Callable:
        return []
    if not (isinstance(member, type) and getattr(member, "_is_protocol", False)):
        return [member]
    package, _, _ = member.__module__.partition(".")
    records = (one for one in member.__subclasses__() if is_dataclass(one))
    public = (one for one in records if not one.__name__.startswith("_"))
    return [one for one in public if _is_part_of(package, one)]


def _is_part_of(package: str, cls: type) -> bool:
    """Whether a package defines a class; your own files have module names below `projects`."""
    own = cls.__module__.startswith(f"{__package__}.projects.")
    return cls.__module__.partition(".")[0] == package and not own


def is_tagged(hint: object) -> bool:
    """Whether values of this type need a `kind` in JSON to tell their class."""
    return len(kinds(hint)) > 1


UNTAGGED = "the first kind is stored without its name"
"""Marks a union that was one record class once, as stored settings still have it."""


@functools.cache
def default_kind(hint: object) -> str | None:
    """The kind of a record that is stored without it; `None` where every kind is stored."""
    return next(iter(kinds(hint))) if UNTAGGED in get_args(hint) else None


@functools.cache
def setting_types(cls: type) -> dict[str, object]:
    """Type of each setting of a record class, in order of declaration."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def settings_below(cls: type) -> Iterator[str]:
    """Dotted names of all settings of a record class and of the records inside it."""
    for name, hint in setting_types(cls).items():
        yield name
        for inner in kinds(hint).values():
            yield from (f"{name}.{below}" for below in settings_below(inner))


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_WORDS: Mapping[object, str] = types.MappingProxyType(
    {
        bool: "True or False",
        int: "an integer",
        float: "a number",
        str: "text",
        Path: "a path",
        type(None): "None",
    }
)
LARGEST = sys.float_info.max
"""A larger integer is no float."""
_NUMBERS = ((int, numbers.Integral), (float, numbers.Real))


def typed(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The same function, which refuses arguments that are not of the types of its annotations.

    Raises `ConfigError` also for an argument that is missing or unknown. Annotations of other
    libraries, such as shapes, count for the class of the value alone. Numbers of another library,
    such as NumPy's, become Python's own.
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__call__").removesuffix(".__init__")
    kinds_of = {one.kind: one.name for one in signature.parameters.values()}
    others = kinds_of.get(inspect.Parameter.VAR_KEYWORD, "")

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        hints = _hints(function)
        more = _spread(hints.get(others))
        try:
            bound = signature.bind(*args, **kwargs)
            if more and (unknown := bound.arguments.get(others, {}).keys() - more.keys()):
                raise TypeError(f"got an unexpected keyword argument '{min(unknown)}'")
        except TypeError as error:
            known = [one for one in signature.parameters if one not in ("self", others)]
            call_as = f"{name}({_needed(signature)})"
            raise _other_arguments(call_as, [*known, *more], kwargs, error) from error
        _check(bound.arguments, hints)
        _check(bound.arguments.get(others, {}), more)
        return function(*bound.args, **bound.kwargs)

    return call


def _check(given: dict[str, Any], hints: Mapping[str, object]) -> None:
    """Check the type of each argument, and make numbers Python's own."""
    for name, value in given.items():
        hint = hints.get(name, object)
        if get_origin(hint) is not Unpack:
            check_type(name, hint, value)
            given[name] = _plain(hint, value)


def _spread(hint: object) -> Mapping[str, object]:
    """Types by keyword of `**changes: Unpack[Changes]`."""
    return _hints(get_args(hint)[0]) if get_origin(hint) is Unpack else {}


def typed_record(cls: type[Result]) -> type[Result]:
    """The same record class, whose constructor is `typed`; stands above `dataclass`."""
    cls.__init__ = typed(cls.__init__)
    return cls


def check_type(name: str, hint: object, value: object) -> None:
    """Refuse a value that an annotation does not allow. Raises `ConfigError`."""
    if _fits(hint, value):
        return
    for one in members(hint):
        for place, inner, item in _items(one, value):
            check_type(f"{name}[{place!r}]", inner, item)
    raise ConfigError(f"{name} must be {_wanted(hint)}; got {_got(value)}.{_advice(hint, value)}")


def _other_arguments(
    call_as: str, known: Sequence[str], given: Mapping[str, object], error: TypeError
) -> ConfigError:
    near = [nearest(one, known) for one in given if one not in known]
    hint = did_you_mean(next((one for one in near if one), None)) or f" Call {call_as}."
    return ConfigError(
        f"{call_as.partition('(')[0]}() was called with other arguments than it has: {error}. It "
        f"takes {', '.join(known) or 'none'}.{hint}"
    )


def _needed(signature: inspect.Signature) -> str:
    """The arguments that a call cannot leave out, as they are typed."""
    needed = (one for one in signature.parameters.values() if one.name != "self")
    return ", ".join(
        f"{one.name}=..." if one.kind is inspect.Parameter.KEYWORD_ONLY else one.name
        for one in needed
        if one.default is inspect.Parameter.empty and one.kind is not inspect.Parameter.VAR_KEYWORD
    )


def _plain(hint: object, value: object) -> object:
    """A number as Python's own kind of it."""
    if isinstance(value, numbers.Number) and not isinstance(value, int | float):
        for plain, kind in _NUMBERS:
            if plain in members(hint) and isinstance(value, kind):
                return plain(value)  # pyright: ignore[reportArgumentType]
    return value


def _fits(hint: object, value: object) -> bool:
    alternatives = members(hint)
    if len(alternatives) > 1:
        return any(_fits(one, value) for one in alternatives)
    hint = next(iter(alternatives), hint)
    for plain, kind in _NUMBERS:
        if hint is plain:
            finite = not isinstance(value, int) or abs(value) <= LARGEST or plain is int
            return isinstance(value, kind) and not isinstance(value, bool) and finite
    origin = get_origin(hint)
    if _is_code(hint) and isinstance(value, type) and is_dataclass(value):
        return False  # the class of a record, which was meant to be called
    if origin is Literal:
        return any(type(one) is type(value) and one == value for one in get_args(hint))
    if origin is not None:
        long = origin is tuple and Ellipsis not in get_args(hint)
        return (
            _is_a(origin, value)
            and not (long and len(get_args(hint)) != len(value))  # pyright: ignore[reportArgumentType]
            and all(_fits(inner, item) for _, inner, item in _items(hint, value))
        )
    return _is_a(getattr(hint, "array_type", hint), value)


def _is_a(kind: object, value: object) -> bool:
    if kind is Sequence and isinstance(value, str | bytes):
        return False
    if isinstance(value, type) and getattr(kind, "_is_protocol", False):
        return False  # its methods are those of its instances
    if any(one is kind for one in inspect.getmro(type(value))):
        return True  # without a look at attributes, which may run code
    try:
        return not isinstance(kind, type) or isinstance(value, kind)
    except TypeError:  # of a protocol that cannot be looked for
        return True


def _items(hint: object, value: object) -> Iterator[tuple[object, object, object]]:
    """Place, type and value of each item, where an annotation says what they must be."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, tuple):
        kinds = parts[:1] * len(value) if Ellipsis in parts else parts
        if len(kinds) == len(value):
            yield from zip(range(len(value)), kinds, value, strict=True)
    elif origin is Sequence and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from ((place, parts[0], item) for place, item in enumerate(value))
    elif origin is Mapping and isinstance(value, Mapping):
        yield from ((key, parts[1], item) for key, item in value.items())


def _wanted(hint: object) -> str:
    alternatives = members(hint)
    if len(alternatives) > 1:
        some = [one for one in alternatives if not getattr(one, "implied", False)]
        code = "an object of your own" if any(map(is_dataclass, some)) else None
        words = ((code if _is_code(one) else None) or _wanted(one) for one in some)
        return " or ".join(dict.fromkeys(words))
    hint = next(iter(alternatives), hint)
    if hint in _WORDS:
        return _WORDS[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (tuple, Sequence):
        return f"a {'tuple' if origin is tuple else 'sequence'}, each item {_wanted(parts[0])}"
    if origin is Callable:
        return "a function" if parts[-1:] == (float,) else "a network or a function"
    if known := kinds(hint):
        return " or ".join(known)
    kind = getattr(hint, "array_type", origin or hint)
    name = getattr(kind, "__name__", str(kind))
    return with_article(name)


def _got(value: object) -> str:
    if value is None or isinstance(value, bool | numbers.Number | str):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:59]}…"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple | set | frozenset | dict):
        return f"a {type(value).__name__} of {len(value)}"
    name = getattr(value, "__name__", None)
    return f"the function {name}" if name else kind_text(value)


def _advice(hint: object, value: object) -> str:
    """What to do, as a closing sentence with a space before it; empty where it is plain."""
    for part in ("run", "network"):
        if (inner := getattr(value, part, None)) is not None and _fits(hint, inner):
            return f" Pass its .{part}."
    kinds = members(hint)
    return _lacking(kinds, value) or _advice_on_record(kinds, value) or _plain_advice(hint, value)


def _lacking(kinds: Sequence[object], value: object) -> str:
    """What an object of your own lacks, of the type that is nearest; what to do with its class."""
    own = value if isinstance(value, type) else type(value)
    codes = [one for one in kinds if _is_code(one)]
    known = any(_is_part_of(package, own) for package in ("builtins", __name__.partition(".")[0]))
    if not codes or (known and not isinstance(value, type)):
        return ""
    there = {name for base in own.__mro__ for name in vars(base)} | {
        *getattr(value, "__dict__", ())
    }
    code = min(codes, key=lambda one: len(_needed_of(one).keys() - there))
    lacks = [name for name in _needed_of(code) if name not in there]
    if not lacks:
        return f" Pass an object: {own.__name__}(...)." if isinstance(value, type) else ""
    if known:
        return ""
    inherit = "" if not isinstance(code, type) else f"inherit {code.__name__} and "
    return f" {own.__name__} lacks {', '.join(lacks)}: {inherit}add {_it(lacks)}."


def _it(things: Sequence[object]) -> str:
    return "it" if len(things) == 1 else "them"


def _needed_of(code: object) -> Mapping[str, None]:
    """The names that code must have, in order: those without a default, or else all."""
    if not isinstance(code, type):
        return {"__call__": None}
    wanted = getattr(code, "__abstractmethods__", None) or get_protocol_members(code)
    return dict.fromkeys(name for name in vars(code) if name in wanted)


def _advice_on_record(kinds: Sequence[object], value: object) -> str:
    """Which records to pass in place of the value."""
    records: list[Any] = [
        each
        for one in kinds
        for each in _implementations(one)
        if is_dataclass(each) and not getattr(each, "implied", False)
    ]
    if records and callable(value) and not isinstance(value, type):
        return " Call it, and pass what it returns."
    if isinstance(value, float):
        records = [one for one in records if _first_setting(one) is float] or records
    calls = (_example(one, value) for one in records)
    return f" Pass {' or '.join(dict.fromkeys(calls))}." if records else ""


def _plain_advice(hint: object, value: object) -> str:
    kinds = members(hint)
    if isinstance(value, list | tuple) and any(get_origin(one) is Mapping for one in kinds):
        return " Pass a dict with a name for each: {'a': ..., 'b': ...}."
    is_number = isinstance(value, int | float)
    if is_number and any(
        get_origin(one) is Callable and get_args(one)[-1] is float for one in kinds
    ):
        return f" Pass lambda _: {value:g} for this number throughout."
    if "Tensor" in _wanted(hint):
        return " Pass one tensor: torch.as_tensor(...), or torch.stack(...) of several."
    if isinstance(value, str):
        return _advice_for_text(kinds, value)
    if isinstance(value, Path) and str in kinds:
        return " Pass str(...) of it."
    return " Pass value.item()." if hasattr(value, "item") and {int, float} & set(kinds) else ""


def _example(record: Any, value: object) -> str:
    """A call that makes such a record; with the number itself, where its first setting is one."""
    is_number = _first_setting(record) is float and isinstance(value, float)
    number = f"{value:g}" if is_number else "..."
    return getattr(record, "example", f"{record.__name__}({number})")


def _first_setting(record: Any) -> object:
    return next(iter(setting_types(record).values()), None)


def _advice_for_text(kinds: Sequence[object], value: str) -> str:
    words = [one for kind in kinds for one in get_args(kind) if isinstance(one, str)]
    if words:
        return did_you_mean(nearest(value, words))
    if any(get_origin(kind) is Sequence for kind in kinds):
        return f" Pass [{value!r}]."
    return " Pass the number itself, without quotes." if {int, float} & set(kinds) else ""


@functools.cache
def _hints(function: Callable[..., Any]) -> Mapping[str, object]:
    """Types by argument; none for an annotation whose names only a type checker sees."""
    try:
        return get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError:
        return {}
