"""Whether the code that stored settings name may run here.

Settings in a run, a bundle or a file may name a factory, which is code. It runs without being asked
for only where training on this machine, by this user, stored the settings: training seals the code
that it was told to run, by a key outside of all runs, and a run folder of other origin has no such
seal. Code that is typed or passed in Python needs none: that is consent.

    KEY of the user's state folder   random, made by the first training that runs own code
    RUN/trust.json                   a seal for each code that the settings name
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sparring.errors import ConfigError, RunError
from sparring.records.files import open_regular, read_json, write_json
from sparring.records.imported import check_reference, located
from sparring.records.wording import one_line

SEAL = "trust.json"
"""In a run or a bundle: that this user trained with its code."""
KEY = Path("sparring", "trust.key")
"""In the user's state folder."""
KEY_BYTES = 32


class Code(NamedTuple):
    """Code that settings name."""

    factory: str
    """package.module:name or path/to/file.py:name."""
    arguments: tuple[str, ...]
    """What it is called with."""


def named_code(settings: object) -> tuple[Code, ...]:
    """All code that JSON values of settings name, without repetition."""
    return tuple(dict.fromkeys(_codes(settings)))


def check_trusted(file: Path, codes: tuple[Code, ...], *, trust_code: bool) -> None:
    """Raise `ConfigError` for code that is named in `file` and must not run; nothing is imported.

    Without `trust_code`, that is all code without a seal beside the file.
    """
    for code in codes:
        check_reference(code.factory, f"{file}: the factory")
    if not trust_code and (foreign := _unsealed(file.parent, codes)):
        code = foreign[0]
        raise ConfigError(
            f"{file} names code that would run: {one_line(code.factory.rpartition(':')[2])} of "
            f"{one_line(located(code.factory), 400)}. Nothing says that this was trained here by "
            "you, and code from elsewhere can do all that you can. Read it, and if you trust it, "
            "add --trust-code (in Python trust_code=True)."
        )


def seal(folder: Path, codes: tuple[Code, ...]) -> None:
    """Leave in a new run's folder that its code was asked for here; nothing if it names none.

    Without a state folder that can be written, nothing is left (`unsealed`). Raises `RunError` if
    `folder` cannot be written.
    """
    if codes and (key := _key(make=True)) is not None:
        write_json(folder / SEAL, [_sealed(key, code) for code in codes])


def copy_seal(run: Path, into: Path) -> None:
    """Let a bundle have the seal of its run, if that has one. Raises `RunError`."""
    with suppress(RunError):
        seals = read_json(run / SEAL)
        if isinstance(seals, list) and all(isinstance(each, str) for each in seals):
            write_json(into / SEAL, seals)


def unsealed(folder: Path, codes: tuple[Code, ...]) -> str | None:
    """Why other commands will not run this code by themselves; none if they will."""
    if not _unsealed(folder, codes):
        return None
    return (
        f"nothing outside of this run says that you trained it, because {_key_file()} cannot be "
        "written, or is open to other users: other commands will need --trust-code for its code. "
        "Set XDG_STATE_HOME to a folder of your own before you train."
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
    """The user's key; none if there is none, or it cannot be made, or others could know it."""
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
    """Write a new key, unless another process was first. Raises `OSError`."""
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
