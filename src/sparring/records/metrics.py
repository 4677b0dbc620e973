"""The log of a run: one JSON object a line, readable while it grows and after any crash."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, cast

from sparring.errors import RunError
from sparring.records.codec import shown
from sparring.records.files import (
    LARGEST_LOG,
    open_regular,
    parse_json,
    read_content,
    run_errors,
    write_atomically,
)

_TEXTS = frozenset({"event", "worker", "staleness_of_trainers"})
"""Columns of text in a run's log."""
_COUNT = (0, 1e15)
_BOUNDS = {
    "accuracy": (0, 1),
    **dict.fromkeys(("seconds", "step", "images", "staleness", "workers", "ready"), _COUNT),
    **dict.fromkeys(("leased", "_behind", "_in_flight", "_waiting"), _COUNT),
    **dict.fromkeys(("loss", "eps", "learning_rate", "per_second"), (-1e100, 1e100)),
}
"""Least and largest number of columns in a run's log, by the ends of their names."""

Row = dict[str, int | float | str | None]
"""One line of measurements by name, units in the name; `None` where a number was not finite."""


@dataclass(frozen=True, slots=True)
class MetricsLog:
    """A file of rows; a row that a crash tore is as if never written."""

    path: Path
    """The file; it need not exist yet."""

    def append(self, row: Mapping[str, int | float | str | None]) -> None:
        """Add a row as one line, visible to readers at once.

        An infinite or NaN number is stored as null, because JSON has neither.
        Raises `RunError` if the file cannot be written.
        """
        line = json.dumps({name: _storable(value) for name, value in row.items()}) + "\n"
        with run_errors("write", self.path), open_regular(self.path, LARGEST_LOG, "ab+") as file:
            _mend(file)
            file.write(line.encode())

    def rows(self) -> list[Row]:
        """All rows, oldest first; none if the file does not exist. A torn last line is left out.

        Raises `RunError` if the file cannot be read or a line other than the last is damaged.
        """
        content = read_content(self.path, LARGEST_LOG) if os.path.lexists(self.path) else b""
        *lines, tail = content.split(b"\n")
        rows = [self._row(number, line) for number, line in enumerate(lines, start=1)]
        last = _parsed(tail)
        return rows if last is None else [*rows, last]

    def measurements(self) -> list[Row]:
        """As `rows`, where every column of a run's log holds what it can hold.

        Raises `RunError` also for a share outside [0, 1], a count or time below 0, a number that
        can be none of them, or a text in the place of a number.
        """
        rows = self.rows()
        for line, row in enumerate(rows, start=1):
            for name, value in row.items():
                if not _possible(name, value):
                    raise RunError(
                        f"{name} in {self.path} cannot be {shown(value)}, as row {line} has it; "
                        "the file is damaged. Remove that line."
                    )
        return rows

    def truncate(self, step: int) -> list[Row]:
        """Keep the rows up to a step, and those without a `step`; return them.

        The file is replaced as a whole. Raises `RunError` if it cannot be read or written.
        """
        kept = [row for row in self.rows() if _step(row) <= step]
        if self.path.exists():
            with run_errors("write", self.path):
                write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def _row(self, number: int, line: bytes) -> Row:
        row = _parsed(line)
        if row is None:
            raise RunError(
                f"each line of {self.path} must be a JSON object of numbers and texts, as sparring "
                f"wrote it; line {number} is damaged. Remove that line."
            )
        return row


def number(row: Row, name: str) -> float:
    """A measurement of a row; 0 where it was not finite or not taken."""
    value = row.get(name)
    return value if isinstance(value, int | float) else 0.0


def _possible(name: str, value: int | float | str | None) -> bool:
    """Whether a run's log can have such a value in the column of this name."""
    if name in _TEXTS:
        return isinstance(value, str)
    bounds = next((ends for end, ends in _BOUNDS.items() if name.endswith(end)), None)
    if value is None or bounds is None:
        return True
    return isinstance(value, int | float) and bounds[0] <= value <= bounds[1]


def _parsed(line: bytes) -> Row | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and all(_is_measurement(value) for value in row.values())
    return _renamed(cast("Row", row)) if whole else None


def _renamed(row: Row) -> Row:
    """A row with the names of today."""
    if "loss" in row and "accuracy" in row:
        row["training_accuracy"] = row.pop("accuracy")
    return row


def _is_measurement(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)


def _step(row: Row) -> float:
    step = row.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _storable(value: int | float | str | None) -> int | float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mend(file: BinaryIO) -> None:
    """Complete a last line that lacks only its end, and cut one that is torn."""
    size = file.seek(0, SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    tail = file.read().rpartition(b"\n")[2]
    if _parsed(tail) is None:
        file.truncate(size - len(tail))
    else:
        file.write(b"\n")
