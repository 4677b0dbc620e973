"""Files of a run: written whole or not at all, and failures told in a sentence."""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from sparring.errors import RunError

_REASONS = {
    errno.EACCES: "permission was denied. Choose a folder you may use, or change its permissions.",
    errno.EPERM: "permission was denied. Choose a folder you may use, or change its permissions.",
    errno.EROFS: "the file system is read-only. Choose a folder on another one.",
    errno.ENOSPC: "the disk is full. Free some space, or choose a folder on another disk.",
    errno.EDQUOT: "your disk quota is used up. Free some space, or choose another disk.",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another path.",
    errno.EEXIST: "a file of this name is in the way. Choose another path.",
    errno.EISDIR: "a folder of this name is in the way. Choose another path.",
    errno.ENOENT: "it, or the folder it belongs in, does not exist. Check the path.",
    errno.ENAMETOOLONG: "the path is too long. Choose a shorter one.",
}


LARGEST_JSON = 256 << 20
"""Bytes of a JSON file., far more than any file that is written has."""
DEEPEST_JSON = 64
"""Levels of nesting, far more than any file that is written has."""
_TOO_DEEP = f"it is nested more than {DEEPEST_JSON} levels deep"


@contextmanager
def run_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into a `RunError` that reads "cannot <action> <path>"."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}.")
        raise RunError(f"cannot {action} {path}: {reason}") from error


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part.

    Raises `OSError` as it came, with the old content and no temporary file left.
    """
    path = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write JSON values atomically, indented for people or, with none, on one line.

    Raises `RunError` if the file cannot be written.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    with run_errors("write", path):
        write_atomically(path, text + "\n")


def open_regular(path: Path | str, at_most: int) -> BinaryIO:
    """Open a regular file of at most `at_most` bytes for reading, without ever waiting for it.

    Every file that a user names or that stands in a run is opened here. Raises `OSError`, with a
    sentence in `strerror`, for a folder, a named pipe, a device, a socket or a larger file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it must be a regular file, not a pipe, device or socket")
        if found.st_size > at_most:
            raise OSError(
                errno.EFBIG, f"it has {found.st_size:,} bytes, where at most {at_most:,} are read"
            )
    except BaseException:
        file.close()
        raise
    return file


def parse_json(content: bytes | str) -> object:
    """JSON values from text. Raises `ValueError` if it is no JSON, or nested too deeply."""
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level = [value]
    for _ in range(DEEPEST_JSON):
        if not level:
            return value
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    raise ValueError(_TOO_DEEP)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, its first 16 digits. Raises `RunError` if it cannot be read.

    Cost: 10 ms for the weights of the paper's network, once for each file.
    """
    with run_errors("read", path):
        return _file_digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_json(path: Path) -> object:
    """Read JSON values. Raises `RunError` if the file cannot be read or is damaged."""
    with run_errors("read", path), open_regular(path, LARGEST_JSON) as file:
        content = file.read()
    try:
        return parse_json(content)
    except ValueError as error:
        raise RunError(
            f"{path} must hold JSON, as sparring wrote it; it is damaged ({error}). "
            "Restore the file or use another run."
        ) from error
