"""How long recipes take, whether that was measured or extrapolated, and what made them faster."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from sparring.studies.recipes import BASELINE, FAST, FAST_ASYNC, FEWER_STEPS, PAPER, PLAIN
from sparring.studies.study import Measurements

CHAIN = (PLAIN, BASELINE, FEWER_STEPS, PAPER, FAST, FAST_ASYNC)
"""From mnist_challenge's recipe to ours, one change at a time."""
CAUSES = ("arithmetic", "attack steps", "batch and updates", "schedule", "asynchrony")
"""What each step of the chain changes."""
UNITS = {3600: "h", 60: "min", 1: "s"}
"""Seconds of a unit of time; two of it or more are told in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """What a whole training takes."""

    seconds: float
    """Wall-clock."""
    trained: int
    """Updates that were timed."""
    planned: int
    """Updates of the whole training."""

    @property
    def extrapolated(self) -> bool:
        """Whether it was not made as a whole."""
        return self.trained < self.planned

    @property
    def origin(self) -> str:
        """Where the number comes from."""
        if self.extrapolated:
            return f"extrapolated from {self.trained:,} of {self.planned:,} updates"
        return f"measured, {self.planned:,} updates"

    def __str__(self) -> str:
        """In seconds, minutes or hours, and where it comes from."""
        fitting = [length for length in UNITS if self.seconds >= 2 * length]
        length = max(fitting, default=1)
        return f"{self.seconds / length:.1f} {UNITS[length]} [{self.origin}]"


def durations(found: Measurements) -> Mapping[str, Duration]:
    """Of each recipe that was timed, from its longest training; the slowest recipe first."""
    times = found.where(of="time")
    each = ((name, _longest(times.where(recipe=name))) for name in times.names("recipe"))
    return dict(sorted(each, key=lambda pair: -pair[1].seconds))


def _longest(times: Measurements) -> Duration:
    rows = times.sorted("trained")
    trained, planned, spent = (rows.column(name)[-1] for name in ("trained", "planned", "spent"))
    return Duration(seconds=spent * planned / trained, trained=int(trained), planned=int(planned))


def factors(found: Measurements) -> Mapping[str, float]:
    """How many times faster each cause makes it; their product is the whole. Empty if one lacks."""
    times = durations(found)
    if any(name not in times for name in CHAIN):
        return {}
    ratios = (times[slow].seconds / times[quick].seconds for slow, quick in pairwise(CHAIN))
    return dict(zip(CAUSES, ratios, strict=True))


def whole(found: Measurements) -> float | None:
    """How many times faster the last of the chain is than the first; none if either lacks."""
    times = durations(found)
    if CHAIN[0] not in times or CHAIN[-1] not in times:
        return None
    return times[CHAIN[0]].seconds / times[CHAIN[-1]].seconds
