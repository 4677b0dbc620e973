"""What a study came to: claims beside what was found, and figures, readable without torch."""

from dataclasses import dataclass
from pathlib import Path

from sparring.records.codec import from_json, to_json
from sparring.records.figure import Figure, Provenance
from sparring.records.files import read_json, write_json
from sparring.records.typed import typed


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Something that the paper says, and what was found here."""

    paper: str
    """What it says, and where."""
    found: str
    """What the study's numbers say to that."""
    holds: bool | None
    """Whether it holds here; null where that cannot be told."""
    untold: str = ""
    """Why it cannot be told, and what would tell it."""
    so_far: str = ""
    """How far its networks are trained, where that is not to the end: the verdict may change."""

    @property
    def verdict(self) -> str:
        """The verdict in words, with its reservation."""
        if self.holds is None:
            return "cannot be told" + (f": {self.untold}" if self.untold else "")
        holds = "holds" if self.holds else "does not hold"
        return f"so far: {holds} ({self.so_far})" if self.so_far else f"{holds} here"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A network of a study, and how far its training has come."""

    name: str
    """What the study calls it."""
    updates: int
    """Updates that it has seen."""
    planned: int
    """Updates of its whole training."""
    seed: int
    """Its seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """One study at one scale."""

    study: str
    """Its name, as the command line knows it."""
    title: str
    """What it asks, in a line."""
    scale: str
    """smoke, short or paper."""
    claims: tuple[Claim, ...]
    """What was claimed and what was found."""
    figures: tuple[Figure, ...]
    """What there is to see."""
    networks: tuple[Trained, ...]
    """What was trained for it."""
    provenance: Provenance
    """Where it comes from."""
    seconds: float
    """Wall-clock time of its measurements over all sittings; training counts in its runs."""

    def save(self, path: Path) -> None:
        """Write study.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self), indent=None)

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "StudyResult":
        """Read study.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        return from_json(cls, read_json(Path(path)), where=str(path))
