"""Standard output and error of a command: what is written there, and what if it cannot be.

Text from files is printed without control characters. A closed or full standard output is one
error; standard error, which carries progress, may fail without a word.
"""

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sparring.errors import UNPRINTABLE, OutputNotWritten, printable


def printable_json(text: str, encoding: str) -> str:
    """JSON text of the same values without control characters, for a stream of this encoding."""
    text = UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    return text


@contextmanager
def standard_streams() -> Iterator[None]:
    """Check what is written to standard output while the block lasts.

    What the encoding lacks is escaped. A descriptor that was closed is taken by the null device, so
    that no other file gets its number.
    """
    given = sys.stdout, sys.stderr, logging.lastResort
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _take_closed_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Checked(sys.stdout or _Closed())
    sys.stderr = sys.stderr or io.StringIO()
    logging.lastResort = _Warnings(logging.WARNING)
    try:
        yield
    finally:
        sys.stdout, sys.stderr, logging.lastResort = given


def tell(message: str) -> None:
    """A line on standard error, if that can be written."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def leave(stream: Any) -> None:
    """Give what is still buffered somewhere to go, or Python complains on its way out."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flush_errors() -> None:
    """Write what is left for standard error, or let it go."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        leave(sys.stderr)


class _Closed(io.StringIO):
    """A stream whose descriptor was closed before the process began."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _Checked:
    """A stream whose failure raises `OutputNotWritten`, unlike that of other files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _failures():
            return self._stream.write(text)

    def flush(self) -> None:
        with _failures():
            self._stream.flush()


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputNotWritten(
            f"standard output cannot be written: {error.strerror or error}. "
            "Send it to an open file or pipe with room, or leave the redirection out."
        ) from error


class _Warnings(logging.Handler):
    """Prints what the library warns of where nothing else takes it."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(printable(record.getMessage()))


def _take_closed_descriptors() -> None:
    """Open the null device in the place of closed descriptors 0 to 2."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
