"""Records to JSON and back: exact and strict, with one sentence for each setting that is wrong.

A record is any frozen dataclass; its fields may be records, unions of records, `Literal`, tuples,
`str`, `int`, `float`, `bool`, or any of these or `None`. A member of a union carries its class
name under `kind`: `{"kind": "Stale", "staleness": 64}`. Nothing needs to be registered. `override`
changes settings by their dotted names, such as `attack.loss=margin`.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import GenericAlias, MappingProxyType, UnionType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from sparring.errors import ConfigError
from sparring.records.files import parse_json
from sparring.records.text import BYTES, bytes_from, did_you_mean, nearest
from sparring.records.typed import (
    default_kind,
    is_tagged,
    kinds,
    members,
    setting_types,
    settings_below,
)


def nearest_setting(name: str, cls: type) -> str | None:
    """Setting of a record class most like it, or that of such a name deeper inside."""
    below = {each.rpartition(".")[2]: each for each in reversed([*settings_below(cls)])}
    own = setting_types(cls)
    inner = nearest(name, below)
    return below.get(name) or nearest(name, own) or (None if inner is None else below[inner])


LONGEST_ECHO = 60
"""Characters of a refused value that a message repeats: enough to find it, one line of text."""


class Refusal(ConfigError):
    """A value that is not what must stand at its place, told without naming the place."""

    def __init__(self, wanted: str, value: object, hint: str = "") -> None:
        """`wanted` completes "must be"; `hint` is a closing sentence with a space before it."""
        super().__init__(f"must be {wanted}; got {shown(value)}.{hint}")
        self.wanted = wanted
        self.value = value
        self.hint = hint


def shown(value: object) -> str:
    """Value as JSON, shortened for a message."""
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= LONGEST_ECHO else f"{text[: LONGEST_ECHO - 1]}…"


Record = TypeVar("Record")

_LARGEST = sys.float_info.max
"""Converting a larger integer to float raises instead of giving infinity."""

_FRACTION = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")


def to_json(record: object) -> dict[str, object]:
    """Record as JSON values: `from_json` of the record's class gives an equal record back.

    Raises `ConfigError` for an infinite or NaN number, because JSON has none.
    """
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"only a record has a JSON form; got a {type(record).__name__}.")
    return cast("dict[str, object]", _form(type(record), record))


def _form(hint: object, value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError.expected("a stored number must be finite", value)
    if isinstance(value, tuple):
        return [_form(part, item) for part, item in zip(_parts(hint, value), value, strict=True)]
    if not is_dataclass(value):
        return value
    kind = type(value).__name__
    tag = {"kind": kind} if is_tagged(hint) and kind != default_kind(hint) else {}
    inner = setting_types(type(value)).items()
    return {**tag, **{name: _form(part, getattr(value, name)) for name, part in inner}}


def from_json(
    cls: type[Record] | UnionType | GenericAlias, data: object, where: str = "", path: str = ""
) -> Record:
    """Value of type `cls` from JSON values; numbers may be fractions such as "8/255".

    `where` names the file or option the values came from, `path` their dotted place in it.
    Raises `ConfigError` that lists every wrong setting, one a line.
    """
    wrong: list[str] = []
    value = _read(cls, data, path, wrong)
    if wrong:
        prefix = f"{where}: " if where else ""
        raise ConfigError("\n".join(prefix + sentence for sentence in wrong))
    return cast("Record", value)


def _read(hint: object, value: object, path: str, wrong: list[str]) -> object:
    """The value; what is wrong with it is added to `wrong`, in a sentence that names its place."""
    try:
        return _typed(hint, value, path, wrong)
    except Refusal as refusal:
        wrong.append(f"{path or 'the whole'} {refusal}")
    except ValueError as error:
        wrong.append(f"{path}: {error}" if path else str(error))
    return None


def _typed(hint: object, value: object, path: str, wrong: list[str]) -> object:
    """As `_read`, but raises `Refusal` where the value itself is of another type."""
    if hint in _PLAIN:
        return _PLAIN[hint](value)
    if _is_byte_count(hint):
        return _byte_count(value)
    alternatives = members(hint)
    if value is None and type(None) in alternatives:
        return None
    if is_tagged(hint):
        return _record(*_kind(hint, value), path, wrong)
    (inner,) = (one for one in alternatives if one is not type(None))
    if inner == hint:
        return _structured(hint, value, path, wrong)
    try:
        return _typed(inner, value, path, wrong)
    except Refusal as refusal:
        optional = ", or null" if type(None) in alternatives else ""
        raise Refusal(f"{refusal.wanted}{optional}", value, refusal.hint) from None


def _structured(hint: Any, value: object, path: str, wrong: list[str]) -> object:
    """As `_typed`, for a record, a tuple, a `Literal` or a `dict` of anything."""
    if get_origin(hint) is Literal:
        return _choice(get_args(hint), value)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise Refusal("a list", value)
        each = zip(_parts(hint, value), value, strict=True)
        return tuple(_read(part, one, f"{path}[{n}]", wrong) for n, (part, one) in enumerate(each))
    if is_dataclass(hint):
        return _record(hint, value, path, wrong)
    if not isinstance(value, dict):
        raise Refusal("an object", value)
    return value


def _parts(hint: object, values: Sequence[object]) -> tuple[object, ...]:
    """The type of each item of a tuple of this type."""
    parts = next((get_args(one) for one in members(hint) if get_origin(one) is tuple), ())
    if Ellipsis in parts:
        return parts[:1] * len(values)
    if len(parts) != len(values):
        raise Refusal(f"a list of {len(parts)} values", values)
    return parts


def _choice(choices: Sequence[object], value: object) -> object:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    near = nearest(str(value), [str(choice) for choice in choices])
    raise Refusal(f"one of {', '.join(map(str, choices))}", value, did_you_mean(near))


def _kind(hint: object, value: object) -> tuple[type, Mapping[str, object]]:
    """The record class that a tagged value names, and its settings."""
    classes, first = kinds(hint), default_kind(hint)
    listed = ", ".join(classes)
    if not isinstance(value, Mapping) or ("kind" not in value and not first):
        raise Refusal(f'an object with its "kind", which is one of {listed}', value)
    kind = value.get("kind", first)
    former = {old: cls for cls in classes.values() for old in getattr(cls, "former_kinds", ())}
    found = {**former, **classes}.get(kind) if isinstance(kind, str) else None
    if found is None:
        near = did_you_mean(nearest(str(kind), classes))
        raise Refusal(f"of a kind that exists ({listed})", kind, near)
    return found, {name: part for name, part in value.items() if name != "kind"}


def _record(cls: Any, value: object, path: str, wrong: list[str]) -> object:
    types = setting_types(cls)
    if not isinstance(value, Mapping):
        listed = ", ".join(types) or "none"
        raise Refusal(f"an object with the settings of {cls.__name__} ({listed})", value)
    before, prefix = len(wrong), f"{path}." if path else ""
    read = {
        name: _read(part, value[name], prefix + name, wrong)
        for name, part in types.items()
        if name in value
    }
    needed = [one.name for one in fields(cls) if one.init and _is_needed(one)]
    wrong += [
        f"{prefix}{name} must be given, because it has no default; got nothing."
        for name in needed
        if name not in value
    ]
    wrong += [_unknown(str(name), cls, prefix) for name in sorted(value.keys() - types.keys())]
    return None if len(wrong) > before else cls(**read)


def _is_needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _unknown(name: str, cls: type, prefix: str) -> str:
    near = nearest_setting(name, cls)
    fact = f"{prefix}{name} is not a setting of {cls.__name__}"
    if near is not None:
        return f"{fact}.{did_you_mean(f'{prefix}{near}')}"
    return f"{fact}, which has {', '.join(setting_types(cls)) or 'none'}."


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Refusal("text", value)
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise Refusal("true or false", value)
    return value


def _byte_count(value: object) -> int:
    if isinstance(value, str):
        try:
            return bytes_from(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal("a number of bytes, such as 4096, 64MiB or 2GB", value)
    return value


def _is_byte_count(hint: object) -> bool:
    return get_origin(hint) is Annotated and BYTES in get_args(hint)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal("an integer", value)
    return value


def _number(value: object) -> float:
    if isinstance(value, str) and (fraction := _FRACTION.fullmatch(value)):
        above, below = map(float, fraction.groups())
        quotient = above / below if below else math.inf
    elif isinstance(value, int | float) and not isinstance(value, bool):
        quotient = float(value) if abs(value) <= _LARGEST else math.inf
    else:
        raise Refusal("a number, such as 0.3 or 8/255", value)
    if not math.isfinite(quotient):
        raise Refusal("a finite number", value)
    return quotient


_PLAIN: Mapping[object, Callable[[object], object]] = MappingProxyType(
    {str: _text, bool: _truth, int: _integer, float: _number}
)


def override(record: Record, assignments: Sequence[str]) -> Record:
    """Record with settings replaced, each assignment reading `dotted.name=value`; later ones win.

    A value is JSON (`3`, `null`, `{"kind": "Stale"}`), a fraction (`8/255`) or plain text.
    Setting `kind` keeps the settings that the new kind shares with the old one.
    Raises `ConfigError` for an unknown name, with the nearest one, or a value that cannot be.
    """
    settings = to_json(record)
    assigned: set[str] = set()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals):
            raise ConfigError(
                f"--set must be followed by name=value; got {shown(assignment)}. "
                "Write for example --set attack.steps=8."
            )
        _assign(settings, type(record), name, text, assigned)
        assigned.add(name)
    return from_json(type(record), settings, where="--set")


def _assign(
    settings: dict[str, object], cls: type, name: str, text: str, assigned: Iterable[str]
) -> None:
    *above, last = name.split(".")
    holder, classes = settings, kinds(cls)
    for depth, part in enumerate(above, start=1):
        classes = _classes_of(part, holder, classes)
        inner = holder.get(part)
        if inner is None:
            inner = holder[part] = {}
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set: {'.'.join(above[:depth])} is one value without settings inside; "
                f"got {name}. Set it as a whole."
            )
        holder = inner
    value = _parsed(text)
    if last == "kind" and isinstance(value, str) and value in classes:
        kept = {"kind", *setting_types(classes[value])}
        kept.update(other.split(".")[len(above)] for other in assigned if _is_below(other, above))
        for lost in holder.keys() - kept:
            del holder[lost]
    holder[last] = value


def _is_below(name: str, above: list[str]) -> bool:
    return name.startswith(".".join((*above, "")))


def _classes_of(part: str, holder: dict[str, object], classes: dict[str, type]) -> dict[str, type]:
    kind = holder.get("kind", next(iter(classes), None))
    names = list(classes) if len(classes) == 1 else [kind]
    for name in names:
        if isinstance(name, str) and name in classes:
            return kinds(setting_types(classes[name]).get(part))
    return {}


def _parsed(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
