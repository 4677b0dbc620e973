"""The progress of an evaluation: its share, its time left, and their display.

Units: seconds are wall-clock; effort is counted in forward and backward passes of one image.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparring.records.display import Display, displayed
from sparring.records.text import count_text, counted, duration_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of an evaluation, after a pass."""

    attack: str
    """Name of the attack that is running."""
    number: int
    """Which attack of the suite, counted from 1; 0 for the certificate before them."""
    of: int
    """Attacks of the suite."""
    share: float
    """Share of this attack that is done, if no more images break; 1 at its end."""
    robust: int
    """Images that no attack has broken so far."""
    total: int
    """All images."""
    proved: int = 0
    """Robust images that are proved so, which are not attacked."""
    left: float | None = None
    """Seconds to the end of the evaluation with its checks, if no more images break."""
    spent: float = 0.0
    """Seconds since the beginning."""

    @property
    def of_all(self) -> float:
        """Share of the whole evaluation that is done, by time."""
        return 0.0 if self.left is None else self.spent / max(self.spent + self.left, 1e-9)

    @property
    def percent(self) -> str:
        """Images that no attack has broken so far, in per cent."""
        return f"{100 * self.robust / self.total:.1f} %"


Observer = Callable[[Progress], None]


@dataclass(kw_only=True, slots=True, eq=False)
class Pace:
    """Measured seconds for a unit of effort, by part of an evaluation."""

    effort: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    fastest: float = math.inf
    """Least seconds for a unit of effort: those of a pass over many images."""

    def measured(self, part: int, effort: float, seconds: float) -> None:
        """Add the effort and time of a part."""
        self.effort[part] = self.effort.get(part, 0.0) + effort
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        if effort:
            self.fastest = min(self.fastest, seconds / effort)

    def left(self, efforts: Mapping[int, float], checks: int) -> float | None:
        """Estimated seconds of these efforts; `None` before the first measurement.

        A part that has not begun is assumed as fast as all others together; the `checks`, which
        pass many images at once, as fast as the fastest pass.
        """
        total = sum(self.effort.values())
        if not total:
            return None
        everything = sum(self.seconds.values()) / total
        own = {part: self.seconds[part] / effort for part, effort in self.effort.items() if effort}
        others = {checks: self.fastest}
        return sum(
            effort * own.get(part, others.get(part, everything)) for part, effort in efforts.items()
        )


@contextmanager
def watched(progress: bool | Observer) -> Iterator[Observer | None]:
    """The observer of an evaluation; `True` is a display while the block lasts."""
    if callable(progress):
        yield progress
    elif progress:
        with displayed("evaluate") as display:
            yield _Shown(display)
    else:
        yield None


SOON = 1.0
"""Seconds after which the first estimate is given."""


@dataclass(slots=True, eq=False)
class _Shown:
    """Shows the progress of one evaluation, or of several in a row."""

    display: Display
    estimated: bool = False

    def __call__(self, now: Progress) -> None:
        images = counted(now.total, "image")
        what = f"attack {now.number} of {now.of}, {now.attack}"
        if not 1 <= now.number <= now.of:
            what = now.attack
        if not self.estimated and now.left is not None and now.spent >= SOON:
            self.estimated = True
            self.display.note(
                f"{images}: {duration_text(now.spent + now.left)} in all if no more of them break"
            )
        self.display.show(now.of_all, what, f"robust {now.percent}", left=now.left)
        if now.share < 1:
            return
        left = f", {duration_text(now.left)} left" if now.left else ""
        if now.number:
            self.display.note(f"{what}: {now.percent} of {images} still robust{left}")
        else:
            self.display.note(f"{what}: {count_text(now.proved)} of {images} proved robust")
