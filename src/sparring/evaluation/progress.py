"""The progress of an evaluation: its share, its time left, and their display.

Units: seconds are wall-clock; effort is counted in forward and backward passes of one image.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparring.records.display import Display, displayed
from sparring.records.text import counted, duration_text


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

    def measured(self, part: int, effort: float, seconds: float) -> None:
        """Add the effort and time of a part."""
        self.effort[part] = self.effort.get(part, 0.0) + effort
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def left(self, efforts: Mapping[int, float]) -> float | None:
        """Estimated seconds of these efforts; `None` before the first measurement.

        A part that has not begun is assumed as fast as all others together.
        """
        total = sum(self.effort.values())
        if not total:
            return None
        everything = sum(self.seconds.values()) / total
        own = {part: self.seconds[part] / effort for part, effort in self.effort.items() if effort}
        return sum(effort * own.get(part, everything) for part, effort in efforts.items())


@contextmanager
def watched(progress: bool | Observer) -> Iterator[Observer | None]:
    """The observer of an evaluation; `True` is a display while the block lasts."""
    if callable(progress):
        yield progress
    elif progress:
        with displayed("evaluate") as display:
            yield lambda now: _show(display, now)
    else:
        yield None


def _show(display: Display, now: Progress) -> None:
    what = f"attack {now.number} of {now.of}, {now.attack}" if now.number <= now.of else now.attack
    display.show(now.of_all, what, f"robust {now.percent}", left=now.left)
    if now.share >= 1:
        images = counted(now.total, "image")
        left = f", {duration_text(now.left)} left" if now.left else ""
        display.note(f"{what}: {now.percent} of {images} still robust{left}")
