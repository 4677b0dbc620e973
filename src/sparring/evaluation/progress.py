"""The progress of an evaluation: its share, its time left, and their display.

Units: seconds are wall-clock; effort is counted in forward and backward passes of one image.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

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
    effort: float = 0.0
    """Forward and backward passes of one image so far."""

    @property
    def of_all(self) -> float:
        """Share of the whole evaluation that is done, by time."""
        return 0.0 if self.left is None else self.spent / max(self.spent + self.left, 1e-9)

    @property
    def percent(self) -> str:
        """Images that no attack has broken so far, in per cent."""
        return f"{100 * self.robust / self.total:.1f} %"


Observer = Callable[[Progress], None]


class Ahead(NamedTuple):
    """Passes to come of one part of an evaluation."""

    effort: float = 0.0
    """Forward and backward passes of one image, summed over all images."""
    images: int = 0
    """Images that pass at once."""


@dataclass(kw_only=True, slots=True, eq=False)
class PassCost:
    """Seconds of a pass of n images, a + b * n, by least squares; neither is negative."""

    effort: float = 0.0
    """Passes of one image so far."""
    passes: float = 0.0
    seconds: float = 0.0
    fewest: float = math.inf
    """Images of the smallest pass."""
    most: float = 0.0
    """Images of the largest pass."""
    _squares: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _products: tuple[float, float] = (0.0, 0.0)

    def add(self, passes: float, images: int, seconds: float) -> None:
        """Add passes of so many images, which took `seconds` together."""
        effort = passes * images
        self.effort, self.passes = self.effort + effort, self.passes + passes
        self.seconds += seconds
        self.fewest, self.most = min(self.fewest, images), max(self.most, images)
        first, mixed, last = self._squares
        self._squares = (first + passes**2, mixed + passes * effort, last + effort**2)
        constant, slope = self._products
        self._products = (constant + passes * seconds, slope + effort * seconds)

    def line(self) -> tuple[float, float]:
        """a and b; a is 0 if all passes were of one size."""
        (first, mixed, last), (constant, slope) = self._squares, self._products
        spread = first * last - mixed**2
        b = (
            (first * slope - mixed * constant) / spread
            if spread > 1e-9 * first * last
            else math.inf
        )
        if b < 0:
            return constant / first, 0.0
        a = (constant - b * mixed) / first
        return (a, b) if a >= 0 else (0.0, slope / last)


@dataclass(kw_only=True, slots=True, eq=False)
class Pace:
    """Measured cost of passes, by part of an evaluation."""

    parts: dict[int, PassCost] = field(default_factory=dict)
    every: PassCost = field(default_factory=PassCost)
    """All parts together."""

    def measured(self, part: int, passes: float, images: int, seconds: float) -> None:
        """Add passes of a part; `passes` is a fraction for cheaper ones."""
        if passes and images:
            self.parts.setdefault(part, PassCost()).add(passes, images, seconds)
            self.every.add(passes, images, seconds)

    def left(self, ahead: Mapping[int, Ahead]) -> float | None:
        """Estimated seconds of these passes; `None` before the first measurement.

        A part that has seen one size of pass only gets the shape of all others, and one that has
        not begun their cost.
        """
        if not self.every.passes:
            return None
        return sum(
            a * effort / max(images, 1) + b * effort
            for part, (effort, images) in ahead.items()
            for a, b in [self._line(part)]
        )

    def _line(self, part: int) -> tuple[float, float]:
        a, b = self.every.line()
        own = self.parts.get(part)
        if own is None:
            return a, b
        if own.most >= 2 * own.fewest:
            return own.line()
        scale = own.seconds / max(a * own.passes + b * own.effort, 1e-12)
        return scale * a, scale * b


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
