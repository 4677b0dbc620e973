"""Why JSON cannot become a record: one sentence for each setting that is wrong."""

import json
from collections.abc import Iterator

from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from sparring.errors import ConfigError
from sparring.records.kinds import setting_types
from sparring.records.spelling import did_you_mean, nearest_setting

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
    hint = did_you_mean(None if near is None else f"{prefix}{near}")
    known = ", ".join(setting_types(cls)) or "no settings"
    return f"{prefix}{name} is not a setting of {cls.__name__}, which has {known}.{hint}"
