"""Files of a run: written whole or not at all, read within limits, locked and temporary ones.

The name of a temporary file or folder ends in eight hexadecimal digits and `.tmp`. One that has no
lock was left by a process that was killed, and is removed by the next one. Where there are no locks
(Windows, some network file systems), it stays.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn, cast

from safetensors import SafetensorError, safe_open

from sparring.errors import ConfigError, NoRoom, RunError


@contextmanager
def exclusive_lock(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder for this process while the block lasts; `what` says for a message what it does.

    The operating system releases the lock when the process ends; no file is left. Windows and some
    file systems have no locks. Raises `RunError` if another process holds the lock.
    """
    if sys.platform == "win32":  # folders cannot be opened there
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        if locked(place) is False:
            raise RunError.expected(
                f"only one process at a time may {what}",
                f"another one in {folder}",
                "Wait for its end, or stop it.",
            )
        yield
    finally:
        os.close(place)


def locked(place: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed. Returns success; `None` without locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(place, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


_NAME = re.compile(r"(\..+\.|sparring-)[0-9a-f]{8}\.tmp")


def new_file(folder: Path, prefix: str) -> tuple[BinaryIO, Path]:
    """A new file and its path, locked until it is closed."""
    while True:
        path = folder / f"{prefix}{secrets.token_hex(4)}.tmp"
        file = path.open("xb")
        try:
            if locked(file.fileno(), wait=True) is None or path.exists():
                return file, path
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        file.close()  # another process removed it before it had its lock


def temporary_file() -> tuple[BinaryIO, Path]:
    """A new file in the system's temporary folder, as `new_file`."""
    folder = Path(tempfile.gettempdir())
    clear_abandoned(folder)
    return new_file(folder, "sparring-")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's temporary folder that lasts as long as the block."""
    above = Path(tempfile.gettempdir())
    clear_abandoned(above)
    with new_folder(above, "sparring-", mode=0o700) as path:
        yield path


@contextmanager
def folder_unless_empty(path: Path) -> Iterator[None]:
    """Make a folder and those above it; those that were not there and stay empty are removed."""
    made = []
    for each in (path, *path.parents):
        if each.exists():
            break
        made.append(each)
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # one that holds something
            for each in made:
                each.rmdir()


@contextmanager
def new_folder(above: Path, prefix: str, *, mode: int = 0o777) -> Iterator[Path]:
    """A new folder, locked while the block lasts and removed after it."""
    path, place = _made(above, prefix, mode)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if place is not None:
            os.close(place)


def _made(above: Path, prefix: str, mode: int) -> tuple[Path, int | None]:
    """A new folder and the handle of its lock; `None` on Windows."""
    while True:
        path = above / f"{prefix}{secrets.token_hex(4)}.tmp"
        path.mkdir(mode=mode)
        if sys.platform == "win32":
            return path, None
        try:
            place = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # another process removed it before it had its lock
            continue
        locked(place, wait=True)
        if path.exists():
            return path, place
        os.close(place)


def clear_abandoned(folder: Path) -> None:
    """Remove temporary files and folders that killed processes left in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _remove(Path(entry.path))


def _remove(path: Path) -> None:
    place = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(place)
        own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if not own or not locked(place):
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        elif stat.S_ISREG(found.st_mode):
            path.unlink()
    finally:
        os.close(place)


_REASONS = {
    errno.EACCES: "permission was denied. Choose a folder you may use, or change its permissions.",
    errno.EPERM: "permission was denied. Choose a folder you may use, or change its permissions.",
    errno.EROFS: "the file system is read-only. Choose a folder on another one.",
    errno.ENOSPC: "the disk is full. Free some space, or choose a folder on another disk.",
    errno.EDQUOT: "your disk quota is used up. Free some space, or choose another disk.",
    errno.EFBIG: "files may not become so large here. Raise the limit (ulimit -f).",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another path.",
    errno.EEXIST: "a file of this name is in the way. Choose another path.",
    errno.EISDIR: "a folder of this name is in the way. Choose another path.",
    errno.ENOENT: "it, or the folder it belongs in, does not exist. Check the path.",
    errno.ENAMETOOLONG: "the path is too long. Choose a shorter one.",
}

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

LARGEST_JSON = 256 << 20
"""Bytes of a JSON file, far more than any written file has."""
LARGEST_LOG = 1 << 32
"""Bytes of a file of rows, which is read row by row."""
LARGEST_TENSORS = 1 << 42
"""Bytes of a file of tensors, of which only the header and its tensors are read."""
DEEPEST_JSON = 64
"""Levels of nesting, far more than any written file has."""
MOST_VALUES = 8_000_000
"""Values in a JSON file, of about a hundred bytes of memory each."""
LARGEST_INTEGER = 1 << 64
"""Bound of integers in JSON, above every seed, size and count."""
_TOO_DEEP = f"it is nested more than {DEEPEST_JSON} levels deep"


@contextmanager
def run_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into a `RunError` that reads "cannot <action> <path>".

    A full disk is a `NoRoom`.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}.")
        kind = NoRoom if error.errno in _NO_ROOM else RunError
        raise kind(f"cannot {action} {path}: {reason}") from error


def from_home(path: Path | str) -> Path:
    """The path, with `~` or `~name` at its beginning as that user's home folder.

    Raises `ConfigError` if there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError.expected(
            "a path with ~ at its beginning must name a user's home folder",
            str(path),
            "A file of such a name has to be named by its whole path.",
        ) from error


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write a file so that it has the old or the new content at any time, also after a crash.

    Removes temporary files of killed processes in the folder. After an `OSError`, the old content
    remains, without a temporary file.
    """
    path = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    clear_abandoned(path.parent)
    file, temporary = new_file(path.parent, f".{path.name}.")
    try:
        with file:  # its lock is kept until it has its name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write JSON values atomically, indented or, with `None`, on one line.

    Raises `RunError` if the file cannot be written.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    with run_errors("write", path):
        write_atomically(path, text + "\n")


def open_regular(path: Path | str, at_most: int, mode: Literal["rb", "ab+"] = "rb") -> BinaryIO:
    """Open a regular file of at most `at_most` bytes for reading, without ever waiting for it.

    Every file that a user names or that stands in a run is opened here; with the mode `ab+`, to
    read and extend it. Raises `OSError`, with a sentence in `strerror`, for a folder, a named pipe,
    a device, a socket, a larger file or a name with a null character.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a path must have no null character")

    flags = os.O_RDONLY if mode == "rb" else os.O_RDWR | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    place = os.open(path, flags, 0o666)
    try:
        found = os.fstat(place)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it must be a regular file, not a pipe, device or socket")
        if found.st_size > at_most:
            raise OSError(
                errno.EINVAL, f"it has {found.st_size:,} bytes, where at most {at_most:,} are read"
            )
        return os.fdopen(place, mode)
    except BaseException:
        os.close(place)
        raise


def read_content(path: Path, at_most: int) -> bytes:
    """The bytes of a regular file. Raises `RunError` if it cannot be read."""
    with run_errors("read", path), open_regular(path, at_most) as file:
        return file.read()


def parse_json(content: bytes | str) -> object:
    """JSON values from UTF-8 text.

    Raises `ValueError` for what is no JSON, or is nested too deeply, has too many values, one name
    twice in an object, or a number that is not finite or an integer of more than 64 bits.
    """
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    if text.count(",") + 4 * (text.count("[") + text.count("{")) > MOST_VALUES:
        raise ValueError(f"it has more than about {MOST_VALUES:,} values")
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level = [value]
    for _ in range(DEEPEST_JSON + 1):
        if not level:
            return value
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    raise ValueError(_TOO_DEEP)


def _integer(text: str) -> int:
    if len(text) > len(str(LARGEST_INTEGER)) or abs(int(text)) >= LARGEST_INTEGER:
        raise ValueError(f"an integer has more than 64 bits: {text[:24]}…")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is too large: {text[:24]}")
    return value


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice[:60]!r} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(
    parse_int=_integer,
    parse_float=_number,
    parse_constant=_not_json,
    object_pairs_hook=_object,
)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, its first 16 digits. Raises `RunError` if it cannot be read.

    Cost: 10 ms for the weights of the paper's network, once for each file.
    """
    with run_errors("read", path):
        return _file_digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: Path, changed: int) -> str:
    with open_regular(path, LARGEST_TENSORS) as file:
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()[:16]


def tensors_header(path: Path) -> tuple[dict[str, str], int] | None:
    """Metadata of a safetensors file, and the bytes of its numbers in single precision.

    `None` if it is missing or damaged.
    """
    try:
        open_regular(path, LARGEST_TENSORS).close()  # safetensors opens by name only
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            shapes = [one.get_shape() for one in tensors if "F" in one.get_dtype()]
    except (OSError, SafetensorError):
        return None
    return dict(about), sum(4 * math.prod(shape) for shape in shapes)


def read_json(path: Path) -> object:
    """Read JSON values. Raises `RunError` if the file cannot be read or is damaged."""
    content = read_content(path, LARGEST_JSON)
    try:
        return parse_json(content)
    except ValueError as error:
        raise RunError(
            f"{path} must hold JSON; it is damaged ({error}). Restore the file or use another run."
        ) from error
