"""The result of a study: claims beside what was found, and figures, readable without torch."""

from collections.abc import Iterator
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
    """The statement, and where it stands."""
    found: str
    """The study's numbers."""
    holds: bool | None
    """Whether it holds here; `None` without a verdict."""
    open: str = ""
    """Why there is no verdict, and what is needed for one."""
    so_far: str = ""
    """How far its networks are trained, where that is not to the end: the verdict may change."""

    @property
    def verdict(self) -> str:
        """The verdict in words, with its reservation."""
        if self.holds is None:
            return "no verdict" + (f": {self.open}" if self.open else "")
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
    """Its question."""
    scale: str
    """smoke, short or paper."""
    claims: tuple[Claim, ...]
    """The paper's claims beside the findings."""
    figures: tuple[Figure, ...]
    """Its figures."""
    networks: tuple[Trained, ...]
    """The networks that were trained for it."""
    provenance: Provenance
    """The command, seeds, software and hardware."""
    seconds: float
    """Wall-clock seconds of its measurements over all sessions, training not included."""

    def save(self, path: Path) -> None:
        """Write study.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self), indent=None)

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "StudyResult":
        """Read study.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        value = read_json(Path(path))
        for claim in _earlier_claims(value):
            claim["open"] = claim.pop("untold")
        return from_json(cls, value, where=str(path))


def _earlier_claims(value: object) -> Iterator[dict[str, object]]:
    """Claims in files of earlier versions, where `open` had another name."""
    claims = value.get("claims") if isinstance(value, dict) else None
    for claim in claims if isinstance(claims, list) else ():
        if isinstance(claim, dict) and "untold" in claim:
            yield claim
