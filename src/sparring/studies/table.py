"""A study's one tidy table: the rows of its measurements, and what each of them was made of.

After a measurement's rows comes one that says that they are all there: what it took, of which
weights or settings it was made, and where. Rows of measurements that a study no longer asks for,
those of an earlier stop for one, are kept and not told of.
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
"""Columns of a last row that say where it was made."""


@dataclass(frozen=True, slots=True)
class StudyTable:
    """The table in a file, which need not exist yet."""

    path: Path
    """The file, a row a line."""

    def add(
        self,
        measurement: Measurement,
        rows: Sequence[Row],
        seconds: float,
        environment: Environment,
    ) -> None:
        """A measurement's rows, and last the one that says that they are all there."""
        log = MetricsLog(self.path)
        about: Row = {"measurement": measurement.name}
        for row in rows:
            log.append({**about, **row})
        made: Row = {"seconds": seconds, "subject": measurement.subject}
        log.append({**about, **made, **{name: getattr(environment, name) for name in WHERE}})

    def lacks(self, wanted: Sequence[Measurement]) -> list[Measurement]:
        """Those that are not there, or only of other weights or settings than there are now."""
        there = {(row["measurement"], row.get("subject")) for row in self._ends()}
        return [each for each in wanted if (each.name, each.subject) not in there]

    def clear(self, measurements: Sequence[Measurement]) -> None:
        """Take out what is there of these, and rows that a crash left without their last one."""
        rows = self._rows()
        names = {each.name for each in measurements}
        whole = {row["measurement"] for row in rows if "seconds" in row} - names
        kept = [row for row in rows if row["measurement"] in whole]
        if len(kept) < len(rows):
            with run_errors("write", self.path):
                write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def found(self, wanted: Sequence[Measurement]) -> Measurements:
        """The rows of these."""
        names = {each.name for each in wanted}
        rows = [row for row in self._rows() if row["measurement"] in names and "seconds" not in row]
        return Measurements(rows=rows)

    def seconds(self, wanted: Sequence[Measurement]) -> float:
        """What these took."""
        return sum(number(row, "seconds") for row in self._ends(wanted))

    def environments(self, wanted: Sequence[Measurement]) -> tuple[Environment, ...]:
        """Where these were made, each once, in order of the first."""
        columns = ({name: row.get(name) for name in WHERE} for row in self._ends(wanted))
        seen = (from_json(Environment, each, where=str(self.path)) for each in columns)
        return tuple(dict.fromkeys(seen))

    def names(self) -> tuple[str, ...]:
        """The measurements of which there are all rows, in order."""
        return tuple(dict.fromkeys(str(row["measurement"]) for row in self._ends()))

    def _rows(self) -> list[Row]:
        """All rows. Raises `RunError` for one that says not of what it is, or what it took."""
        rows = MetricsLog(self.path).rows()
        for line, row in enumerate(rows, start=1):
            took = row.get("seconds", 0.0)
            timed = isinstance(took, int | float) and took >= 0
            if not (isinstance(row.get("measurement"), str) and timed):
                raise RunError(
                    f"each row of {self.path} must name its measurement, and its seconds must be "
                    f"0 or more; row {line} is damaged. Remove that line: it is measured again."
                )
        return rows

    def _ends(self, wanted: Sequence[Measurement] | None = None) -> Iterator[Row]:
        """The last rows, of all measurements or of these."""
        names = None if wanted is None else {each.name for each in wanted}
        for row in self._rows():
            if "seconds" in row and (names is None or row["measurement"] in names):
                yield row
