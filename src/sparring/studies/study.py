"""What a study is: networks to train, measurements of them, and claims judged by the results.

A study owns no process and no file: the runner trains its networks, carries its measurements out
side by side, and keeps their rows in one tidy table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from sparring.records import Claim, Figure, Proportion, Provenance, Row, RunDirectory
from sparring.training import TrainConfig

Scale = Literal["smoke", "short", "paper"]
"""Seconds, to see that it works; minutes a network; the paper's own settings."""

SCALES: tuple[Scale, ...] = get_args(Scale)

Runs = Mapping[str, RunDirectory]
"""The networks of a study that have been trained, at least in part, by name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurements:
    """All rows that a study has measured: a row is one number or a few of one thing."""

    rows: Sequence[Row]
    """The rows, oldest first."""

    def where(self, **wanted: int | float | str) -> "Measurements":
        """Those that say exactly this in these columns."""
        kept = [row for row in self.rows if all(row.get(name) == wanted[name] for name in wanted)]
        return Measurements(rows=kept)

    def column(self, name: str) -> tuple[float, ...]:
        """The numbers of one column, row by row; NaN where a row has none."""
        values = (row.get(name) for row in self.rows)
        return tuple(float(v) if isinstance(v, int | float) else float("nan") for v in values)

    def names(self, name: str) -> tuple[str, ...]:
        """What occurs in a column of words, each once, in order of first occurrence."""
        return tuple(dict.fromkeys(str(row[name]) for row in self.rows if name in row))

    def having(self, column: str) -> "Measurements":
        """Those that say anything in this column."""
        return Measurements(rows=[row for row in self.rows if column in row])

    def last(self, column: str) -> float | None:
        """The last number of a column; none if there is none."""
        found = self.having(column).column(column)
        return found[-1] if found else None

    @property
    def shares(self) -> tuple[Proportion, ...]:
        """Right images of all, row by row."""
        counts = zip(self.column("right"), self.column("images"), strict=True)
        return tuple(Proportion(successes=int(r), total=int(n)) for r, n in counts)

    def sorted(self, column: str) -> "Measurements":
        """The same rows in order of a column of numbers."""
        return Measurements(rows=sorted(self.rows, key=lambda row: float(row[column] or 0)))

    def __bool__(self) -> bool:
        """Whether there is any row."""
        return bool(self.rows)


def command_words(
    names: Sequence[str], scale: str, *, only: Sequence[str] = (), until: int | None = None
) -> list[str]:
    """What to type to run studies."""
    words = ["sparring", "study", "run", *names, "--scale", scale]
    words += ["--only", *only] if only else []
    words += ["--until", str(until)] if until is not None else []
    return words


@runtime_checkable
class Measurement(Protocol):
    """Something to be measured, once; it pickles and is carried out in a process of its own."""

    @property
    def name(self) -> str:
        """What it is known by within its study: its rows carry it, and so it is not repeated."""
        ...

    @property
    def subject(self) -> str:
        """A digest of the weights or settings that it is made of: of others it is made anew."""
        ...

    def __call__(self) -> Sequence[Row]:
        """Measure. Cost: seconds to minutes on one thread."""
        ...


@runtime_checkable
class Demanding(Measurement, Protocol):
    """A measurement that says whether it needs the whole machine; others do with one core."""

    @property
    def alone(self) -> bool:
        """Whether nothing else may run beside it: it starts processes, or times something."""
        ...


@runtime_checkable
class Study(Protocol):
    """One question that the paper answers, asked again."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    @property
    def title(self) -> str:
        """The question, in a line."""
        ...

    @property
    def covers(self) -> str:
        """Which figures and tables of the paper it is about."""
        ...

    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        """What is to be trained, by name; a name means the same network in every study."""
        ...

    def enough(self, scale: Scale) -> int | None:
        """Updates of each network after which it can answer; all of them if none are told."""
        ...

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        """What is to be measured of the networks as far as they have come."""
        ...

    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        """What the paper says beside what was found."""
        ...

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        """What there is to see of it."""
        ...


def planned(study: Study, scale: Scale, config: TrainConfig) -> int:
    """Updates of a network that are enough for a study."""
    return min(config.updates, study.enough(scale) or config.updates)


SECONDS_ONLY = "the scale smoke trains for seconds; take --scale short or paper"
"""Why smoke tells nothing."""
UNMEASURED = "not all that it takes has been measured"


class Standing(NamedTuple):
    """What stands between a study and a verdict."""

    untold: str = ""
    """Why there is no verdict, and what it takes; empty if there is one."""
    so_far: str = ""
    """Which networks are not trained to the end, and how far they are; empty if all are."""


def judged(
    paper: str, found: str, *, standing: Standing, holds: Callable[[], bool | None]
) -> Claim:
    """A claim with its verdict; `holds` is called only where there is one."""
    verdict = None if standing.untold else holds()
    return Claim(
        paper=paper,
        found=found,
        holds=verdict,
        untold=standing.untold or (UNMEASURED if verdict is None else ""),
        so_far=standing.so_far,
    )


def too_small(scale: Scale) -> Standing:
    """That the scale smoke gives no verdict."""
    return Standing(untold=SECONDS_ONLY if scale == "smoke" else "")


def standing(study: Study, scale: Scale, found: Measurements, names: Sequence[str]) -> Standing:
    """What a verdict on these networks lacks: each must have been measured, at a scale that tells.

    Networks that the study has not trained to the end give a verdict so far.
    """
    if scale == "smoke":
        return too_small(scale)
    come = {name: _come(found, name) for name in names}
    if missing := [name for name, updates in come.items() if not updates]:
        command = " ".join(command_words([study.name], scale))
        return Standing(untold=f"it takes {', '.join(missing)} as well: {command}")
    known = study.networks(scale)
    enough = {name: planned(study, scale, known[name]) for name in names}
    under_way = (
        f"{name}: {come[name]:,} of {enough[name]:,} updates"
        for name in names
        if come[name] < enough[name]
    )
    return Standing(so_far=", ".join(under_way))


def _come(found: Measurements, network: str) -> int:
    """Updates of the last snapshot that was measured."""
    rows = found.where(network=network).having("version")
    return int(max(rows.column("version"), default=0))


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all hold; none of them, or one that cannot be told, leaves it open."""
    seen = list(verdicts)
    if False in seen:
        return False
    return True if seen and None not in seen else None


def per_cent(share: float) -> str:
    """A share in [0, 1] for people; the number and its sign stay in one line."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
