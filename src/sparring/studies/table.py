"""A study's table, table.jsonl: the rows of its measurements.

The rows of a measurement are complete once a last one follows, with its seconds, the digest of what
was measured, and the environment. Rows of measurements that a study no longer needs are kept and
ignored.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from sparring.errors import RunError
from sparring.records import (
    Environment,
    MetricsLog,
    Row,
    from_json,
    run_errors,
    write_atomically,
)
from sparring.records.metrics import number
from sparring.studies.study import Measurement, Measurements

WHERE = tuple(item.name for item in fields(Environment))
"""Columns of a last row that describe the environment."""


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A study's table, in a file that may be missing."""

    path: Path
    """The file, a row a line."""

    def add(
        self,
        measurement: Measurement,
        rows: Sequence[Row],
        seconds: float,
        environment: Environment,
    ) -> None:
        """Write a measurement's rows and its last row."""
        log = MetricsLog(self.path)
        about: Row = {"measurement": measurement.name}
        for row in rows:
            log.append({**about, **row})
        made: Row = {"seconds": seconds, "subject": measurement.subject}
        log.append({**about, **made, **{name: getattr(environment, name) for name in WHERE}})

    def missing(self, wanted: Sequence[Measurement]) -> list[Measurement]:
        """The measurements that are missing, or are of other weights or settings."""
        there = {(row["measurement"], row.get("subject")) for row in self._ends()}
        return [each for each in wanted if (each.name, each.subject) not in there]

    def clear(self, measurements: Sequence[Measurement]) -> None:
        """Remove the rows of these, and incomplete ones."""
        rows = self._rows()
        names = {each.name for each in measurements}
        whole = {row["measurement"] for row in rows if "seconds" in row} - names
        kept = [row for row in rows if row["measurement"] in whole]
        if len(kept) < len(rows):
            with run_errors("write", self.path):
                write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def found(self, wanted: Sequence[Measurement]) -> Measurements:
        """The rows of these, in their order, whichever was complete first."""
        place = {each.name: at for at, each in enumerate(wanted)}
        rows = [row for row in self._rows() if row["measurement"] in place and "seconds" not in row]
        return Measurements(rows=sorted(rows, key=lambda row: place[str(row["measurement"])]))

    def seconds(self, wanted: Sequence[Measurement]) -> float:
        """The duration of these."""
        return sum(number(row, "seconds") for row in self._ends(wanted))

    def environments(self, wanted: Sequence[Measurement]) -> tuple[Environment, ...]:
        """The environments of these, each once, in order of the first."""
        columns = ({name: row.get(name) for name in WHERE} for row in self._ends(wanted))
        seen = (from_json(Environment, each, where=str(self.path)) for each in columns)
        return tuple(dict.fromkeys(seen))

    def names(self) -> tuple[str, ...]:
        """The complete measurements, in order."""
        return tuple(dict.fromkeys(str(row["measurement"]) for row in self._ends()))

    def _rows(self) -> list[Row]:
        """All rows. Raises `RunError` for one without a measurement or with damaged seconds."""
        rows = MetricsLog(self.path).rows()
        for line, row in enumerate(rows, start=1):
            took = row.get("seconds", 0.0)
            timed = isinstance(took, int | float) and took >= 0
            if not (isinstance(row.get("measurement"), str) and timed):
                raise RunError(
                    f"row {line} of {self.path} is damaged. Remove it and run the study again."
                )
        return rows

    def _ends(self, wanted: Sequence[Measurement] | None = None) -> Iterator[Row]:
        """The last rows, of all measurements or of these."""
        names = None if wanted is None else {each.name for each in wanted}
        for row in self._rows():
            if "seconds" in row and (names is None or row["measurement"] in names):
                yield row
