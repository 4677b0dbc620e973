"""What lies in a folder, but for what systems leave there, and names of parts."""

import unicodedata
from pathlib import Path
from types import MappingProxyType

from sparring.errors import DataError

PARTS = MappingProxyType(
    {
        "train": "train",
        "test": "test",
        "validation": "validation",
        "valid": "validation",
        "val": "validation",
    }
)
"""Names in lower case that say which part something is."""
_LEFT_BY_SYSTEMS = frozenset(
    {
        "__MACOSX",
        "Thumbs.db",
        "desktop.ini",
        "Icon\r",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    }
)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, but for hidden entries and what systems leave there.

    Data sets, training and prediction all list folders by this function. Raises `DataError` if the
    folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"{folder} must be a readable folder; got: {error.strerror}. Check its permissions."
        ) from error
    return [
        path
        for path in entries
        if not path.name.startswith(".") and path.name not in _LEFT_BY_SYSTEMS
    ]


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one; false for what may not be looked at."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def part_of(name: str) -> str | None:
    """The part that a folder of this name is, whatever its capitals; none if it is no part."""
    return PARTS.get(name.lower())


def same_name(name: str) -> str:
    """A form that names have in common which look the same.

    One system stores an accent with its letter and another behind it (Unicode's NFC and NFD).
    """
    return unicodedata.normalize("NFC", name)
