"""Opening data files: regular ones only, and what is wrong with one in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sparring.errors import DataError, SparringError
from sparring.records.bytes import bytes_text
from sparring.records.files import open_regular

LARGEST = 1 << 44
"""Bytes of a data file, 16 TiB: they are read piece by piece."""
_SMALL = 256 << 20
_UNLIKELY = 200
"""Times its size that a large file of images or labels does not unpack to, unless on purpose."""


@contextmanager
def data_file(path: Path, *, at_most: int = LARGEST, name: str | None = None) -> Iterator[BinaryIO]:
    """A data file, open for reading; `name` is what messages call it.

    Raises `DataError` for what is not there, not a regular file, or larger than `at_most` bytes.
    """
    try:
        file = open_regular(path, at_most)
    except (OSError, ValueError) as error:  # a path that holds a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{name or path} must be a readable file; got: {reason}. "
            "Check the path, where a link leads, and its permissions."
        ) from error
    with file:
        yield file


@contextmanager
def damage(must: str, remedy: str) -> Iterator[None]:
    """Turn whatever a parser raises for damaged bytes into a `DataError`.

    It reads "<must>; got: <reason>. <remedy>". Parsers of others raise errors of any kind for bytes
    that they did not expect.
    """
    try:
        yield
    except SparringError:
        raise
    except Exception as error:
        raise DataError(f"{must}; got: {told(error)}. {remedy}") from error


def told(error: BaseException) -> str:
    """An error in a few words: its first line, or else its type."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    reason = getattr(error, "strerror", None) or str(error)
    lines = reason.strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def check_unpacked(where: str, stored: int, unpacked: int) -> None:
    """Refuse data that unpack to far more than they take on disk. Raises `DataError`.

    No images do that; files made to fill the memory of their reader do.
    """
    if unpacked > _SMALL and unpacked > _UNLIKELY * stored:
        raise DataError(
            f"Compressed data must not unpack to more than {_UNLIKELY} times their size; {where} "
            f"unpacks from {bytes_text(stored)} to {bytes_text(unpacked)}, so that it holds almost "
            "nothing but repetition. Save it again without compression if that is meant."
        )
