"""A study: networks to train, measurements of them, and claims judged by the results.

A study has no processes and no files. The runner trains its networks, makes its measurements in
parallel, and keeps their rows in one table.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from sparring.models import Initialisation
from sparring.records import Claim, Figure, Proportion, Provenance, Row, RunDirectory
from sparring.records.text import counted
from sparring.training import TrainConfig

Scale = Literal["smoke", "short", "paper"]
"""Seconds, as a test; minutes a network; the paper's own settings."""

SCALES: tuple[Scale, ...] = get_args(Scale)

Runs = Mapping[str, RunDirectory]
"""The networks of a study that are trained, at least in part, by name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurements:
    """Rows of a study's table."""

    rows: Sequence[Row]
    """Oldest first."""

    def where(self, **wanted: int | float | str) -> "Measurements":
        """The rows with these values in these columns."""
        kept = [row for row in self.rows if all(row.get(name) == wanted[name] for name in wanted)]
        return Measurements(rows=kept)

    def column(self, name: str) -> tuple[float, ...]:
        """The numbers of one column, row by row; NaN where a row has none."""
        values = (row.get(name) for row in self.rows)
        return tuple(float(v) if isinstance(v, int | float) else float("nan") for v in values)

    def names(self, name: str) -> tuple[str, ...]:
        """The values of a column of text, each once, in order of first occurrence."""
        return tuple(dict.fromkeys(str(row[name]) for row in self.rows if name in row))

    def having(self, column: str) -> "Measurements":
        """The rows that have this column."""
        return Measurements(rows=[row for row in self.rows if column in row])

    def last(self, column: str) -> float | None:
        """The last number of a column; `None` without one."""
        found = self.having(column).column(column)
        return found[-1] if found else None

    @property
    def shares(self) -> tuple[Proportion, ...]:
        """The share of images that are classified correctly, row by row."""
        counts = zip(self.column("right"), self.column("images"), strict=True)
        return tuple(Proportion(successes=int(r), total=int(n)) for r, n in counts)

    def sorted(self, column: str) -> "Measurements":
        """The rows in order of a column of numbers."""
        return Measurements(rows=sorted(self.rows, key=lambda row: float(row[column] or 0)))

    def __bool__(self) -> bool:
        return bool(self.rows)


def command_words(
    names: Sequence[str], scale: str, *, only: Sequence[str] = (), until: int | None = None
) -> list[str]:
    """The command that runs studies."""
    words = ["sparring", "study", "run", *names, "--scale", scale]
    words += ["--only", *only] if only else []
    words += ["--until", str(until)] if until is not None else []
    return words


@runtime_checkable
class Measurement(Protocol):
    """A measurement, made once and in a process of its own; it pickles."""

    @property
    def name(self) -> str:
        """Its name in the table; a measurement of the same name and subject is not repeated."""
        ...

    @property
    def subject(self) -> str:
        """A digest of the measured weights or settings; if it differs, they are measured again."""
        ...

    def __call__(self) -> Sequence[Row]:
        """The rows. Cost: seconds to minutes on one thread."""
        ...


@runtime_checkable
class Demanding(Measurement, Protocol):
    """A measurement that may need the whole machine; others need one core."""

    @property
    def alone(self) -> bool:
        """Whether it needs the whole machine, because it starts processes or times work."""
        ...


@runtime_checkable
class Study(Protocol):
    """A question of the paper, answered by networks trained and measured here."""

    name: str
    """Its name on the command line."""
    title: str
    """The question."""
    covers: str
    """The sections, figures and tables of the paper that it covers."""

    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        """The networks to train; a name means the same network in every study."""
        ...

    def enough(self, scale: Scale, network: str) -> int | None:
        """Updates of this network that the study needs; `None` for all of them."""
        ...

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        """The measurements of the networks as they are."""
        ...

    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        """The paper's claims, each with the findings and a verdict."""
        ...

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        """Its figures."""
        ...


def planned(study: Study, scale: Scale, network: str, config: TrainConfig) -> int:
    """Updates of a network that a study needs."""
    return min(config.updates, study.enough(scale, network) or config.updates)


SECONDS_ONLY = "the scale smoke trains for seconds; take --scale short or paper"
UNMEASURED = "some of its measurements are missing"


class Standing(NamedTuple):
    """Whether there can be a verdict on a claim, and how final it is."""

    open: str = ""
    """Why there is no verdict, and what to do; empty if there is one."""
    so_far: str = ""
    """Networks that are not fully trained, with their updates; empty if all are."""


def judged(
    paper: str, found: str, *, standing: Standing, holds: Callable[[], bool | str | None]
) -> Claim:
    """A claim with its verdict; `holds` is called only if there can be one.

    It returns the verdict, or why there is none, or `None` if measurements are missing.
    """
    verdict = None if standing.open else holds()
    why = verdict if isinstance(verdict, str) else UNMEASURED if verdict is None else ""
    return Claim(
        paper=paper,
        found=found,
        holds=None if isinstance(verdict, str) else verdict,
        open=standing.open or why,
        so_far=standing.so_far,
    )


def too_small(scale: Scale) -> Standing:
    """No verdict at the scale smoke."""
    return Standing(open=SECONDS_ONLY if scale == "smoke" else "")


def standing(study: Study, scale: Scale, found: Measurements, names: Sequence[str]) -> Standing:
    """Whether there can be a verdict: it needs measurements of each network above scale smoke.

    It is provisional while a network is not fully trained.
    """
    if scale == "smoke":
        return too_small(scale)
    done = {name: _measured_updates(found, name) for name in names}
    if missing := [network_label(name) for name, updates in done.items() if not updates]:
        command = " ".join(command_words([study.name], scale))
        return Standing(open=f"there are no networks {', '.join(missing)} yet: {command}")
    known = study.networks(scale)
    enough = {name: planned(study, scale, name, known[name]) for name in names}
    under_way = (
        f"{network_label(name)}: {done[name]:,} of {enough[name]:,} updates"
        for name in names
        if done[name] < enough[name]
    )
    return Standing(so_far=", ".join(under_way))


def _measured_updates(found: Measurements, network: str) -> int:
    """Updates of the last snapshot that is measured.

    A film's frames are later: they are of a continuation that is not kept.
    """
    rows = found.where(network=network).having("version")
    films = rows.where(frame="attacked").column("version")
    others = [float(row["version"] or 0) for row in rows.rows if "frame" not in row]
    return int(max([*others, min(films) - 1] if films else others, default=0))


NETWORK = re.compile(r"(?:strided-)?([ks])(\d+)w?(?:f(\d+))?(?:-(torch))?(?:-seed(\d+))?")
"""A network's name: κ or s, its number, fresh steps, initial weights and seed."""


def network_variant(name: str, initialisation: Initialisation | None = None, seed: int = 0) -> str:
    """The name of the network `name` from other initial weights or with another seed."""
    weights = f"-{initialisation}" if initialisation else ""
    return name + weights + (f"-seed{seed}" if seed else "")


def network_label(name: str) -> str:
    """A network's name in figures and findings: `κ = 8` for k8, `s = 64` for s64.

    s64f2 has s = 64 and 2 fresh steps, s1024w a queue that grows to s = 1024, k4-torch PyTorch's
    initial weights, s64-seed1 a seed of its own and strided-s64 another network; other names stay
    as they are.
    """
    found = NETWORK.fullmatch(name)
    if found is None:
        return name
    fresh = f", {counted(int(found[3]), 'fresh step')}" if found[3] else ""
    weights = f", {found[4]}" if found[4] else ""
    seed = f", seed {found[5]}" if found[5] else ""
    return f"{'κ' if found[1] == 'k' else 's'} = {found[2]}{fresh}{weights}{seed}"


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """`False` if one fails, else `None` if one is open or there are none, else `True`."""
    seen = list(verdicts)
    if False in seen:
        return False
    return True if seen and None not in seen else None


def per_cent(share: float) -> str:
    """A share in [0, 1] as text, without a line break before the sign."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
