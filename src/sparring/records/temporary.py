"""Temporary files and folders: locked while their process lives, removed by the next one.

A name ends in eight hexadecimal digits and `.tmp`. Whatever has such a name and no lock was left by
a process that was killed. Where there are no locks (Windows, some network file systems), what was
left stays.
"""

import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sparring.records.sole_use import locked

_NAME = re.compile(r"(\..+\.|sparring-)[0-9a-f]{8}\.tmp")


def new_file(folder: Path, prefix: str) -> tuple[BinaryIO, Path]:
    """A new file to write, and its path; it is this process's own until it is closed."""
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
def new_folder(above: Path, prefix: str, *, mode: int = 0o777) -> Iterator[Path]:
    """A new folder, this process's own while the block lasts; removed after it if still there."""
    path, place = _made(above, prefix, mode)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if place is not None:
            os.close(place)


def _made(above: Path, prefix: str, mode: int) -> tuple[Path, int | None]:
    """A new folder, and the handle that holds its lock; none on Windows."""
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
    """Remove from a folder what processes that were killed have left there."""
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
