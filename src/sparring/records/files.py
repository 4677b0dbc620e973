"""Files of a run: written whole or not at all, and failures told in a sentence."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    data = content.encode() if isinstance(content, str) else content
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


def read_json(path: Path) -> object:
    """Read JSON values. Raises `RunError` if the file cannot be read or is damaged."""
    with run_errors("read", path):
        content = path.read_bytes()
    try:
        return json.loads(content)
    except ValueError as error:
        raise RunError(
            f"{path} must hold JSON, as sparring wrote it; it is damaged ({error}). "
            "Restore the file or use another run."
        ) from error
