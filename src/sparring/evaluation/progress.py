"""The progress of an evaluation: its share, its time left, and their display.

Units: seconds are wall-clock; effort is counted in forward and backward passes of one image.
"""

import operator
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
    threat: str = ""
    """The threat in words, if several are evaluated one after another."""

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


class Sums(NamedTuple):
    """Sums over passes, all that a fit of a line needs."""

    passes: float = 0.0
    effort: float = 0.0
    """Passes of one image."""
    seconds: float = 0.0
    passes_squared: float = 0.0
    passes_effort: float = 0.0
    effort_squared: float = 0.0
    passes_seconds: float = 0.0
    effort_seconds: float = 0.0


@dataclass(kw_only=True, slots=True, eq=False)
class PassCost:
    """Seconds of a pass of n images, a + b * n, by least squares; neither is negative."""

    sums: Sums = field(default_factory=Sums)
    sizes: frozenset[int] = frozenset()
    """Numbers of images that passed at once."""

    @property
    def effort(self) -> float:
        """Passes of one image so far."""
        return self.sums.effort

    def add(self, passes: float, images: int, seconds: float) -> None:
        """Add `passes` passes of `images` images each, and the `seconds` of all of them."""
        effort = passes * images
        products = (passes**2, passes * effort, effort**2, passes * seconds, effort * seconds)
        self._plus(Sums(passes, effort, seconds, *products), frozenset({images}))

    def plus(self, other: "PassCost") -> "PassCost":
        """The passes of both."""
        found = PassCost(sums=self.sums, sizes=self.sizes)
        found._plus(other.sums, other.sizes)
        return found

    def _plus(self, sums: Sums, sizes: frozenset[int]) -> None:
        self.sums = Sums._make(map(operator.add, self.sums, sums))
        self.sizes |= sizes

    def line(self) -> tuple[float, float]:
        """a and b; a is 0 if all passes were of one size."""
        sums = self.sums
        spread = sums.passes_squared * sums.effort_squared - sums.passes_effort**2
        if len(self.sizes) < 2 or spread <= 0:
            return 0.0, sums.effort_seconds / sums.effort_squared
        slope = sums.passes_squared * sums.effort_seconds - sums.passes_effort * sums.passes_seconds
        b = slope / spread
        a = (sums.passes_seconds - b * sums.passes_effort) / sums.passes_squared
        if b < 0:
            return sums.passes_seconds / sums.passes_squared, 0.0
        return (a, b) if a >= 0 else (0.0, sums.effort_seconds / sums.effort_squared)

    def scaled(self, line: tuple[float, float]) -> tuple[float, float]:
        """A line of the same shape that gives the seconds of these passes."""
        expected = line[0] * self.sums.passes + line[1] * self.sums.effort
        scale = self.sums.seconds / max(expected, 1e-12)
        return scale * line[0], scale * line[1]


@dataclass(kw_only=True, slots=True, eq=False)
class Pace:
    """Measured cost of passes, by part of an evaluation."""

    parts: dict[int, PassCost] = field(default_factory=dict)
    effort: float = 0.0
    """Passes of one image so far, in all parts."""
    _is_cold: bool = False

    def measured(self, part: int, passes: float, images: int, seconds: float) -> None:
        """Add passes of a part; `passes` is a fraction for cheaper ones.

        The time of the very first pass, which allocates memory and compiles kernels, counts only
        until the second.
        """
        if not (passes and images):
            return
        if self._is_cold:
            self.parts.clear()
        self._is_cold = not self.effort
        self.effort += passes * images
        self.parts.setdefault(part, PassCost()).add(passes, images, seconds)

    def left(self, ahead: Mapping[int, Ahead]) -> float | None:
        """Estimated seconds of these passes; `None` before the first measurement.

        A part whose passes had about one size gets the shape of the others' costs, and one that
        has not begun their costs.
        """
        if not self.parts:
            return None
        total = 0.0
        for part, (effort, images) in ahead.items():
            a, b = self._line(part)
            total += effort * (a / max(images, 1) + b)
        return total

    def _line(self, part: int) -> tuple[float, float]:
        own, others = self.parts.get(part, PassCost()), PassCost()
        for number, one in self.parts.items():
            others = others if number == part else others.plus(one)
        if not own.sizes:
            return others.line()
        if max(own.sizes) >= 2 * min(own.sizes) or not others.sizes:
            return own.line()
        return own.scaled(others.line())


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
"""Seconds after the first pass of an attack at which the first estimate is given."""


@dataclass(slots=True, eq=False)
class _Shown:
    """Shows the progress of one evaluation, or of several in a row."""

    display: Display
    estimated: str | None = None
    """The threat whose time was estimated last."""
    begun: dict[str, float] = field(default_factory=dict)
    """Seconds that were spent before the attacks, for each threat."""

    def __call__(self, now: Progress) -> None:
        images, of = counted(now.total, "image"), f"{now.threat}, " if now.threat else ""
        what = f"attack {now.number} of {now.of}, {now.attack}"
        if not 1 <= now.number <= now.of:
            what = now.attack
        what = f"{of}{what}"
        if now.left is not None and self._is_due(now):
            self.estimated = now.threat
            whole = duration_text(now.spent + now.left)
            self.display.note(f"{of}{images}: {whole} in all if no more of them break")
        self.display.show(now.of_all, what, f"robust {now.percent}", left=now.left)
        if now.share < 1:
            return
        left = f", {duration_text(now.left)} left" if now.left else ""
        if now.number:
            self.display.note(f"{what}: {now.percent} of {images} still robust{left}")
        else:
            self.display.note(f"{what}: {count_text(now.proved)} of {images} proved robust")

    def _is_due(self, now: Progress) -> bool:
        """Whether the first estimate is: not after the certificate, nor after one pass."""
        begun = self.begun.setdefault(now.threat, now.spent)
        return self.estimated != now.threat and now.spent - begun >= SOON
