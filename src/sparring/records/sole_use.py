"""One process at a time in a folder: what two wrote at once would be neither's."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.errors import RunError


@contextmanager
def sole_use(folder: Path, what: str) -> Iterator[None]:
    """Keep a folder to this process while the block lasts; `what` is done there, in words.

    The lock is the operating system's: it ends with the process, however that ends, and leaves no
    file. Windows, and file systems without locks, keep nobody out. Raises `RunError` if another
    process has the folder.
    """
    if sys.platform == "win32":  # folders cannot be opened there
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        if locked(place) is False:
            raise RunError(
                f"only one process at a time may {what}, because two would write over each other; "
                f"another one is at it in {folder}. Wait until it has ended, or stop it."
            )
        yield
    finally:
        os.close(place)


def locked(place: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder: whether that succeeded; `None` where there are no locks.

    The lock ends when the file is closed, however the process ends.
    """
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
