"""The settings of a run, read off the records: names, defaults, docstrings."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from sphinx.pycode import ModuleAnalyzer

from sparring.records.typed import kinds, setting_types
from sparring.training import TrainConfig


class Setting(NamedTuple):
    """One row of a table."""

    name: str
    """As config.json has it."""
    default: str
    """As config.json has it, or the class of a record; "needed" where there is none."""
    about: str
    """Its docstring."""


class Group(NamedTuple):
    """The settings of one record."""

    title: str
    """Its class, as `kind` in config.json names it."""
    about: str
    """The first paragraph of its docstring, and where it may stand."""
    settings: tuple[Setting, ...]
    """Its fields."""


def setting_groups() -> Iterator[Group]:
    """`TrainConfig`, then every record that may stand in a setting, each once."""
    places: dict[type, list[str]] = {TrainConfig: []}
    waiting = [TrainConfig]
    for record in waiting:
        for name, hint in setting_types(record).items():
            for inner in _records(hint):
                if inner not in places:
                    waiting.append(inner)
                places.setdefault(inner, []).append(name)
    for record in waiting:
        yield _group(record, list(dict.fromkeys(places[record])))


def _records(hint: object) -> Iterator[type]:
    """Records that may stand there, in a list of them too."""
    found = kinds(hint)
    if found:
        yield from found.values()
    else:
        for part in get_args(hint):
            yield from _records(part)


def _group(record: type, places: list[str]) -> Group:
    about = " ".join((record.__doc__ or "").partition("\n\n")[0].split()).replace("`", "")
    where = f" Stands in: {', '.join(places)}." if places else ""
    return Group(record.__name__, about + where, tuple(_settings(record)))


def _settings(record: type) -> Iterator[Setting]:
    said = _docstrings(record)
    for field in dataclasses.fields(record):
        if field.init:
            about = " ".join(said.get(field.name, "").split()).replace("`", "")
            yield Setting(field.name, _default(field), about)


def _docstrings(record: type) -> dict[str, str]:
    """Of every field, those of base classes included."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__[:-1]):
        analyzer = ModuleAnalyzer.for_module(base.__module__)
        for (owner, name), lines in analyzer.find_attr_docs().items():
            if owner == base.__name__:
                found[name] = " ".join(lines)
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "needed"
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    return json.dumps(value)
