"""What a type annotation says about records: which classes may stand there, and their fields."""

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Union, get_args, get_origin, get_type_hints


def members(hint: object) -> tuple[object, ...]:
    """Alternatives of a union, `None` included; any other type is its own only alternative."""
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(part for member in get_args(hint) for part in members(member))
    return (hint,)


def kinds(hint: object) -> dict[str, type]:
    """Record classes that may stand where `hint` does, by class name; empty if others may too."""
    classes = [member for member in members(hint) if member is not type(None)]
    if not all(isinstance(member, type) and is_dataclass(member) for member in classes):
        return {}
    return {member.__name__: member for member in classes if isinstance(member, type)}


def is_tagged(hint: object) -> bool:
    """Whether values of this type need a `kind` in JSON to tell their class."""
    return len(kinds(hint)) > 1


def setting_types(cls: type) -> dict[str, object]:
    """Type of each setting of a record class, in order of declaration."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def settings_below(cls: type) -> Iterator[str]:
    """Dotted names of all settings of a record class and of the records inside it."""
    for name, hint in setting_types(cls).items():
        yield name
        for inner in kinds(hint).values():
            yield from (f"{name}.{below}" for below in settings_below(inner))
