"""Objects that a user's own code defines, found by the name that a stored setting gives them.

`package.module:name` is imported as Python would, the folder one stands in included; with
`path/to/file.py:name` the file itself is, so that it need not be installed anywhere.
"""

import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from sparring.errors import ConfigError
from sparring.records.spelling import did_you_mean, nearest


def imported(reference: str, wanted: str) -> object:
    """What `reference` names; `wanted` says in a message what it should be.

    Runs the module's code, once a process. Raises `ConfigError` if there is no such module, file or
    name, or if the module's own code fails.
    """
    place, colon, name = reference.rpartition(":")
    if not (colon and place and name.isidentifier()):
        raise ConfigError(
            f"{wanted} must be given as package.module:name or as file.py:name; got {reference!r}. "
            "Write for example nets.py:small."
        )
    module = _from_file(Path(place), wanted) if place.endswith(".py") else _module(place, wanted)
    try:
        return getattr(module, name)
    except AttributeError as error:
        there = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(
            f"{wanted} must be a name in {place}; it has no {name}."
            f"{did_you_mean(nearest(name, there))}"
        ) from error


def anchored(reference: str) -> str:
    """The same reference, a file's place counted from the root, so that it holds anywhere."""
    place, _, name = reference.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else reference


def arguments(words: Sequence[str], where: str) -> dict[str, object]:
    """Arguments by name from words that read name=value, a value being JSON or else plain text.

    Raises `ConfigError` for a word that is none.
    """
    found: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier()):
            raise ConfigError(
                f"{where} must read name=value, because they are arguments by name; got {word!r}. "
                "Write for example width=64."
            )
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _module(name: str, wanted: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, unlike an installed command
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _failing(name, wanted, error) from error
        raise ConfigError(
            f"{wanted} must be in a module that Python finds from {Path.cwd()}; there is no module "
            f"{error.name}. Install it, go to its folder, or give the file: path/to/file.py:name."
        ) from error
    except Exception as error:
        raise _failing(name, wanted, error) from error


def _from_file(path: Path, wanted: str) -> ModuleType:
    path = path.expanduser().resolve()
    name = f"{path.stem}_{blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ConfigError(f"{wanted} must be in a file that exists; there is no {path}.")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{wanted} must be in a Python file; {path} is none.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes of it can then be pickled
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failing(str(path), wanted, error) from error
    return module


def _failing(place: str, wanted: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{wanted} is in {place}, whose own code must run; it failed: "
        f"{type(error).__name__}: {error}. --debug shows where."
    )
