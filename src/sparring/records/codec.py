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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from cattrs import Converter
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote

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


def sentences(error: Exception, path: str = "") -> Iterator[str]:
    """What is wrong, setting by setting, each named by its dotted path below `path`.

    Raises `error`, or the part of it at fault, if it is no fault of the JSON.
    """
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from sentences(part, _place(part, path))
    elif isinstance(error, ForbiddenExtraKeysError):
        yield from (_unknown(name, error.cl, path) for name in sorted(error.extra_fields))
    elif isinstance(error, Refusal):
        yield f"{path or 'the whole'} {error}"
    elif isinstance(error, ValueError):
        yield f"{path}: {error}" if path else str(error)
    elif isinstance(error, KeyError) and _is_missing(error, path):
        yield f"{path} must be given, because it has no default; got nothing."
    else:
        raise error


def _place(error: Exception, path: str) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f"{path}.{note.name}".removeprefix(".")
        if isinstance(note, IterableValidationNote):
            return f"{path}[{note.index}]"
    return path


def _is_missing(error: KeyError, path: str) -> bool:
    return error.args == (path.rpartition(".")[2],)


def _unknown(name: str, cls: type, path: str) -> str:
    prefix = f"{path}." if path else ""
    near = nearest_setting(name, cls)
    fact = f"{prefix}{name} is not a setting of {cls.__name__}"
    if near is not None:
        return f"{fact}.{did_you_mean(f'{prefix}{near}')}"
    return f"{fact}, which has {', '.join(setting_types(cls)) or 'none'}."


Record = TypeVar("Record")
_Structure = Callable[[Any, Any], Any]

_LARGEST = sys.float_info.max
"""Converting a larger integer to float raises instead of giving infinity."""

_FRACTION = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")


def to_json(record: object) -> dict[str, object]:
    """Record as JSON values: `from_json` of the record's class gives an equal record back.

    Raises `ConfigError` for an infinite or NaN number, because JSON has none.
    """
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"only a record has a JSON form; got a {type(record).__name__}.")
    return _CONVERTER.unstructure(record)


def from_json(
    cls: type[Record] | UnionType | GenericAlias, data: object, where: str = "", path: str = ""
) -> Record:
    """Value of type `cls` from JSON values; numbers may be fractions such as "8/255".

    `where` names the file or option the values came from, `path` their dotted place in it.
    Raises `ConfigError` that lists every wrong setting, one a line.
    """
    try:
        return _CONVERTER.structure(data, cast("type[Record]", cls))
    except (ConfigError, ExceptionGroup) as error:
        prefix = f"{where}: " if where else ""
        lines = [prefix + sentence for sentence in sentences(error, path)]
        raise ConfigError("\n".join(lines)) from error


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise Refusal("text", value)
    return value


def _truth(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise Refusal("true or false", value)
    return value


def _byte_count(value: object, _: object) -> int:
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


def _integer(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal("an integer", value)
    return value


def _number(value: object, _: object) -> float:
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


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ConfigError(
            f"a stored number must be finite, because JSON has no other; got {value}."
        )
    return value


def _literal(hint: object) -> _Structure:
    choices = get_args(hint)
    listed = ", ".join(str(choice) for choice in choices)

    def structure(value: object, _: object) -> object:
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        near = nearest(str(value), [str(choice) for choice in choices])
        raise Refusal(f"one of {listed}", value, did_you_mean(near))

    return structure


def _record(cls: type, converter: Converter) -> _Structure:
    structure_fields = converter.gen_structure_attrs_fromdict(cls)
    wanted = f"an object with the settings of {cls.__name__}"
    listed = ", ".join(setting_types(cls)) or "none"

    def structure(value: object, _: object) -> object:
        if not isinstance(value, Mapping):
            raise Refusal(f"{wanted} ({listed})", value)
        return structure_fields(value, cls)

    return structure


def _optional(hint: object, converter: Converter) -> _Structure:
    (inner,) = (member for member in members(hint) if member is not type(None))

    def structure(value: object, _: object) -> object:
        if value is None:
            return None
        try:
            return converter.structure(value, cast("type[object]", inner))
        except Refusal as refusal:
            raise Refusal(f"{refusal.wanted}, or null", value, refusal.hint) from None

    return structure


def _tagged(hint: object, converter: Converter) -> _Structure:
    classes = kinds(hint)
    listed = ", ".join(classes)
    classes |= {name: cls for cls in classes.values() for name in getattr(cls, "former_kinds", ())}
    first = default_kind(hint)

    def structure(value: object, _: object) -> object:
        if value is None and type(None) in members(hint):
            return None
        if not isinstance(value, Mapping) or ("kind" not in value and not first):
            raise Refusal(f'an object with its "kind", which is one of {listed}', value)
        kind = value.get("kind", first)
        if not isinstance(kind, str) or kind not in classes:
            near = did_you_mean(nearest(str(kind), classes))
            raise Refusal(f"of a kind that exists ({listed})", kind, near)
        settings = {name: part for name, part in value.items() if name != "kind"}
        return converter.structure(settings, classes[kind])

    return structure


def _tagged_form(hint: object, converter: Converter) -> Callable[[Any], Any]:
    def unstructure(value: object) -> object:
        if value is None:
            return None
        kind = type(value).__name__
        tag = {} if kind == default_kind(hint) else {"kind": kind}
        return {**tag, **converter.unstructure(value)}

    return unstructure


def _tuple(hint: object, converter: Converter) -> _Structure:
    parts = get_args(hint)

    def structure(value: object, _: object) -> tuple[object, ...]:
        if not isinstance(value, list | tuple):
            raise Refusal("a list", value)
        types = parts[:1] * len(value) if Ellipsis in parts else parts
        if len(types) != len(value):
            raise Refusal(f"a list of {len(types)} values", value)
        built, errors = [], []
        for index, (item, part) in enumerate(zip(value, types, strict=True)):
            try:
                built.append(converter.structure(item, part))
            except (ConfigError, ExceptionGroup) as error:
                error.add_note(IterableValidationNote(f"at index {index}", index, part))
                errors.append(error)
        if errors:
            raise ExceptionGroup("while reading a list", errors)
        return tuple(built)

    return structure


def _tuple_form(hint: object, converter: Converter) -> Callable[[Any], Any]:
    parts = get_args(hint)

    def unstructure(value: tuple[object, ...]) -> list[object]:
        types = parts[:1] * len(value) if Ellipsis in parts else parts
        return [converter.unstructure(item, part) for item, part in zip(value, types, strict=True)]

    return unstructure


def _is_optional(hint: object) -> bool:
    alternatives = members(hint)
    return len(alternatives) == 2 and type(None) in alternatives


def _is_tuple(hint: object) -> bool:
    return get_origin(hint) is tuple


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for cls, hook in ((str, _text), (bool, _truth), (int, _integer), (float, _number)):
        converter.register_structure_hook(cls, hook)
    factories: list[tuple[Callable[[Any], bool], Callable[..., _Structure]]] = [
        (lambda hint: get_origin(hint) is Literal, lambda hint, _: _literal(hint)),
        (lambda hint: isinstance(hint, type) and is_dataclass(hint), _record),
        (_is_tuple, _tuple),
        (_is_byte_count, lambda *_: _byte_count),
        (_is_optional, _optional),
        (is_tagged, _tagged),
    ]
    for applies, factory in factories:
        converter.register_structure_hook_factory(applies, factory)
    converter.register_unstructure_hook(float, _finite)
    converter.register_unstructure_hook_factory(is_tagged, _tagged_form)
    converter.register_unstructure_hook_factory(_is_tuple, _tuple_form)
    return converter


_CONVERTER = _converter()


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
    value = _value(text)
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


def _value(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
