"""Objects of a user's own code, by their names in settings, and whether that code may run.

`package.module:name` is imported as in Python, or else from the current folder.
`path/to/file.py:name` imports the file and the modules beside it, without installation
(`projects`). `root/./path/to/file.py:name` names the folder in which its project begins.

Code in stored settings runs without consent only if this user stored them by training on this
machine. Training seals its code in RUN/trust.json by a random key in the user's state folder. To
type the code, or pass it in Python, is consent.
"""

import builtins
import functools
import hashlib
import hmac
import importlib
import json
import os
import secrets
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import NamedTuple

from sparring.errors import ConfigError, OwnCodeFailed, RunError
from sparring.records.files import open_regular, parse_json, read_json, write_json
from sparring.records.projects import ROOT, Project, module_of, readable, running, shared_spec
from sparring.records.text import did_you_mean, nearest, one_line

STANDARD = {*sys.stdlib_module_names, *sys.builtin_module_names}
"""Modules without factories."""
CLOSED = ("sparring", "torch")
"""Packages of which only subclasses of `FACTORIES` are factories."""
FACTORIES = (("torch.nn.modules.module", "Module"), ("torch.optim.optimizer", "Optimizer"))
"""Modules and names of base classes."""
NEVER = "names of Python's standard library are never run as factories"
LONGEST_REASON = 400
"""Most characters of a user's exception in a message."""


def imported(reference: str, wanted: str) -> object:
    """The object that `reference` names; messages call it `wanted`.

    Runs the module's code, once a process. Raises `ConfigError` if there is no such module, file or
    name, if the module's code fails, or if the object is no factory.
    """
    check_reference(reference, wanted)
    place = _parsed(reference, wanted)
    with own_code(f"{wanted} is in {place.shown}, whose code failed", reference):
        module = _module(place, wanted)
        found = getattr(module, place.name, place)
    if found is place:
        there = [known for known in vars(module) if not known.startswith("_")]
        hint = did_you_mean(nearest(place.name, there))
        raise ConfigError(f"{wanted} must be in {place.shown}; it has no {place.name}.{hint}")
    _check_factory(found, place, wanted)
    return found


def check_reference(reference: str, wanted: str) -> None:
    """Raise `ConfigError` for what can name no factory; nothing is imported."""
    place = _parsed(reference, wanted)
    parts = place.module.split(".") if place.file is None else []
    closed = None if place.file is None else _closed_folder(place.file)
    if STANDARD.intersection(parts[:1]) or closed == "Python":
        yours = f" A file {parts[0]}.py of yours is ./{parts[0]}.py." if len(parts) == 1 else ""
        raise ConfigError(
            f"{wanted} must not be {one_line(reference)}: {NEVER}, not even with --trust-code. "
            f"Name one of your own, such as nets.py:small.{yours}"
        )
    if closed is not None or "__main__" in parts:
        raise ConfigError(
            f"{wanted} must not be {one_line(reference)}, a part of {closed or 'a program'}. "
            "Name one of your own, such as nets.py:small."
        )


def anchored(reference: str) -> str:
    """The same reference, independent of the current folder: files by their whole paths."""
    place = _parsed(reference, "the factory")
    file, root = place.file, place.root
    if file is None:
        root = Path.cwd()
        file = _file_below(root, place.module)
        installed = shared_spec(place.module, apart_from=("", str(root)))
        if file is None or (installed is not None and installed.origin == str(file)):
            return reference
    if root is None or root not in file.parent.parents:
        return f"{file}:{place.name}"
    return f"{root}{ROOT}{file.relative_to(root)}:{place.name}"


def located(reference: str) -> str:
    """The place of a reference's code, in words; nothing is imported."""
    place = _parsed(reference, "the factory")
    if place.file is not None:
        return f"the file {place.file}"
    spec = shared_spec(place.module)
    file = spec.origin if spec is not None else _file_below(Path.cwd(), place.module)
    return f"the module {place.module}, {file or 'which is not found here'}"


def arguments(words: Sequence[str], where: str) -> dict[str, object]:
    """Arguments by name from words name=value; a value is JSON or else plain text.

    Raises `ConfigError` for other words.
    """
    found: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier()):
            raise ConfigError.expected(
                f"{where} must read name=value", one_line(repr(word)), "Write for example width=64."
            )
        try:
            found[name] = parse_json(text)
        except ValueError:
            found[name] = text
    return found


@contextmanager
def own_code(failed: str, reference: str) -> Iterator[None]:
    """Run a user's code; its exceptions become a `ConfigError` that begins with `failed`."""
    place = _parsed(reference, "the factory")
    project = None if place.file is None else module_of(place.file, place.root)[0]
    try:
        with running(project):
            yield
    except (KeyboardInterrupt, _Missing):
        raise
    except BaseException as error:  # SystemExit, and what user code derives from BaseException
        raise OwnCodeFailed(f"{failed}: {reason(error)}.{_hidden(project, place)}") from error


def reason(error: BaseException) -> str:
    """An exception of a user's code, in one line of limited length."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a message may be code, too
        text = "its message cannot be shown"
    name = one_line(type(error).__name__, LONGEST_REASON)
    text = one_line(readable(text[: 2 * LONGEST_REASON]), LONGEST_REASON).rstrip(".")
    return f"{name}: {text}" if text else name


class _Missing(ConfigError):
    """There is no such module or file."""


class _Place(NamedTuple):
    """A parsed reference."""

    module: str
    """The module's name in Python; for a file, its own name."""
    name: str
    file: Path | None
    root: Path | None
    """The folder in which the file's project begins, if it is given."""

    @property
    def shown(self) -> str:
        """The module or file, for a message."""
        return self.module if self.file is None else one_line(str(self.file), LONGEST_REASON)


def _parsed(reference: str, wanted: str) -> _Place:
    place, colon, name = reference.rpartition(":")
    is_file = place.endswith(".py")
    named = is_file or all(map(str.isidentifier, place.split(".")))
    if not (colon and place and named and name.isidentifier()) or "\0" in place:
        raise ConfigError.expected(
            f"{wanted} must read package.module:name or file.py:name",
            one_line(repr(reference)),
            "Write for example nets.py:small.",
        )
    if not is_file:
        return _Place(place, name, None, None)
    before, marked, below = place.partition(ROOT)
    try:
        file = Path(place).expanduser().resolve()
        if marked and below:
            root = Path(before).expanduser().resolve()
        else:
            root = None if Path(place).expanduser().is_absolute() else Path.cwd()
    except (OSError, RuntimeError) as error:  # links in a circle; an unknown ~user
        raise ConfigError(
            f"{wanted} must be in a file that exists; there is no {one_line(place)} "
            f"({reason(error)}). Check the path."
        ) from error
    return _Place(file.stem, name, file, root)


def _module(place: _Place, wanted: str) -> ModuleType:
    """The module, imported; raises what its code raises, and `_Missing`."""
    file, root = place.file, place.root
    top = place.module.partition(".")[0]
    if file is None and (top in sys.modules or shared_spec(top) is not None):
        try:
            return importlib.import_module(place.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
                raise
            raise _not_found(place.module, wanted) from error
    if file is None:
        file, root = _file_below(Path.cwd(), place.module), Path.cwd()
    if file is None:
        raise _not_found(place.module, wanted)
    if not file.exists():
        raise _Missing(f"{wanted} must be in a file that exists; there is no {place.shown}.")
    if not file.is_file():
        raise _Missing(f"{wanted} must be in a regular file; {place.shown} is none.")
    return importlib.import_module(module_of(file, root)[1])


def _not_found(module: str, wanted: str) -> _Missing:
    return _Missing(
        f"{wanted} must be in a module that Python finds from {Path.cwd()}; there is no module "
        f"{module}. Install it, go to its folder, or give the file: path/to/file.py:name."
    )


def _file_below(folder: Path, module: str) -> Path | None:
    """The file of a module in a folder, as Python would find it there; nothing runs."""
    base = folder.joinpath(*module.split("."))
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((file.resolve() for file in files if file.is_file()), None)


def _closed_folder(file: Path) -> str | None:
    """The owner of a file's folder, if its names are no factories by their files."""
    paths = sysconfig.get_paths()
    library = [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib")]
    apart = {"site-packages", "dist-packages"}
    for folder in library:
        if folder in file.parents and not apart & set(file.relative_to(folder).parts):
            return "Python"
    for name in CLOSED:
        spec = shared_spec(name)
        if spec is not None and Path(spec.origin or "/").resolve().parent in file.parents[:-1]:
            return f"{name} (write it as module:name)"
    return None


def _check_factory(found: object, place: _Place, wanted: str) -> None:
    """Refuse an object that a user's module only imports from a closed one."""
    while isinstance(found, functools.partial):
        found = found.func
    if not isinstance(found, type | FunctionType | BuiltinFunctionType):
        return
    home = str(getattr(found, "__module__", None)).partition(".")[0]
    if home in STANDARD and _is_defined_there(found):
        raise ConfigError(
            f"{wanted} must not be {place.name} of {place.shown}: it is "
            f"{found.__module__}.{found.__name__}, and {NEVER}. Name a function or class of your "
            "own."
        )
    if place.file is None and place.module.partition(".")[0] in CLOSED and not _is_factory(found):
        raise ConfigError(
            f"{wanted} must not be {place.name} of {place.module}: only its subclasses of "
            "torch.nn.Module and torch.optim.Optimizer are factories. Write your own function, "
            "such as nets.py:small."
        )


def _is_defined_there(found: type | FunctionType | BuiltinFunctionType) -> bool:
    module = sys.modules.get(found.__module__, builtins)
    return getattr(module, found.__name__, None) is found


def _is_factory(found: object) -> bool:
    """Whether it is a class of networks or optimizers, without importing PyTorch."""
    bases = found.__mro__ if isinstance(found, type) else ()
    return any((base.__module__, base.__name__) in FACTORIES for base in bases)


def _hidden(project: Project | None, place: _Place) -> str:
    """A sentence on the project's files that have the names of installed modules."""
    if project is None:
        return ""
    files = [file for file in project.hidden.values() if file != str(place.file)]
    return "".join(
        f" There, import {Path(file).stem} means {file}, which has the name of an installed "
        "module: rename it."
        for file in files
    )


SEAL = "trust.json"
"""File in a run or an export that proves that this user trained with its code."""
KEY = Path("sparring", "trust.key")
"""In the user's state folder."""
KEY_BYTES = 32


class Code(NamedTuple):
    """Code that settings name."""

    factory: str
    """package.module:name or path/to/file.py:name."""
    arguments: tuple[str, ...]


def named_code(settings: object) -> tuple[Code, ...]:
    """All code that JSON values of settings name, without repetition."""
    return tuple(dict.fromkeys(_codes(settings)))


def check_trusted(file: Path, codes: tuple[Code, ...], *, trust_code: bool) -> None:
    """Raise `ConfigError` if code in `file` must not run; nothing is imported.

    Without `trust_code`, code needs a seal beside the file.
    """
    for code in codes:
        check_reference(code.factory, f"{file}: the factory")
    if not trust_code and (foreign := _unsealed(file.parent, codes)):
        code = foreign[0]
        raise ConfigError(
            f"{file} names code that would run: {one_line(code.factory.rpartition(':')[2])} of "
            f"{one_line(located(code.factory), 400)}. It was not sealed by you on this machine, "
            "and code can do all that you can. Read it, and if you trust it, add --trust-code (in "
            "Python trust_code=True)."
        )


def seal(folder: Path, codes: tuple[Code, ...]) -> None:
    """Seal the code of a new run in its folder.

    Writes nothing without code, or if the state folder cannot be written (`unsealed`). Raises
    `RunError` if `folder` cannot be written.
    """
    if codes and (key := _key(make=True)) is not None:
        write_json(folder / SEAL, [_sealed(key, code) for code in codes])


def copy_seal(run: Path, into: Path) -> None:
    """Copy the seal of a run into an export, if there is one. Raises `RunError`."""
    with suppress(RunError):
        seals = read_json(run / SEAL)
        if isinstance(seals, list) and all(isinstance(each, str) for each in seals):
            write_json(into / SEAL, seals)


def unsealed(folder: Path, codes: tuple[Code, ...]) -> str | None:
    """Why other commands need --trust-code for this code; `None` if they do not."""
    if not _unsealed(folder, codes):
        return None
    return (
        f"the run could not be sealed, because {_key_file()} cannot be written, or is open to "
        "other users: other commands will need --trust-code for its code. Set XDG_STATE_HOME to a "
        "folder of your own before you train."
    )


def _codes(value: object) -> Iterator[Code]:
    if isinstance(value, dict):
        factory, words = value.get("factory"), value.get("arguments") or ()
        if isinstance(factory, str):
            yield Code(factory, tuple(map(str, words)) if isinstance(words, list | tuple) else ())
        for inner in value.values():
            yield from _codes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _codes(inner)


def _unsealed(folder: Path, codes: tuple[Code, ...]) -> list[Code]:
    if not codes:
        return []
    seals: object = None
    with suppress(RunError):
        seals = read_json(folder / SEAL)
    key = _key(make=False)
    if key is None or not isinstance(seals, list):
        return list(codes)
    found = [each.encode() for each in seals if isinstance(each, str)]
    return [code for code in codes if not _is_among(_sealed(key, code).encode(), found)]


def _is_among(wanted: bytes, found: list[bytes]) -> bool:
    return any([hmac.compare_digest(wanted, each) for each in found])


def _sealed(key: bytes, code: Code) -> str:
    return hmac.new(key, json.dumps(code).encode(), hashlib.sha256).hexdigest()


def _key_file() -> Path:
    """In the user's state folder, by the XDG base directory specification."""
    stated = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (stated if stated.is_absolute() else Path.home() / ".local" / "state") / KEY
    except RuntimeError:  # no home: a path that nothing can be written to
        return Path(os.devnull) / KEY


def _key(*, make: bool) -> bytes | None:
    """The user's key; `None` if it cannot be made or read, or other users may know it."""
    path = _key_file()
    if make and not os.path.lexists(path):
        with suppress(OSError):
            _make_key(path)
    return _read_key(path)


def _read_key(path: Path) -> bytes | None:
    try:
        with open_regular(path, KEY_BYTES) as file:
            found = os.fstat(file.fileno())
            key = file.read()
    except OSError:
        return None
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        return None
    return key if len(key) == KEY_BYTES else None


def _make_key(path: Path) -> None:
    """Write a new key, unless another process did so first. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()
