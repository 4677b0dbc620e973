"""Settings changed from the command line: `attack.loss=margin` on top of a record."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from sparring.errors import ConfigError
from sparring.records.codec import from_json, shown, to_json
from sparring.records.files import parse_json
from sparring.records.typed import kinds, setting_types

Record = TypeVar("Record")
_Object = dict[str, object]


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


def _assign(settings: _Object, cls: type, name: str, text: str, assigned: Iterable[str]) -> None:
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


def _classes_of(part: str, holder: _Object, classes: dict[str, type]) -> dict[str, type]:
    kind = holder.get("kind")
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
