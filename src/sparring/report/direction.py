"""Positions of values along an axis that several panels share."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from sparring.records.figure import Axis
from sparring.report.style import label, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import NullLocator

ROOM = 0.04
"""Share of an axis that stays free at either end."""
NAMES = 12
"""Most values that an even axis names; of more, some are left out."""
APART = 10
"""Ticks of a logarithmic axis are at least one such part of its length apart."""
WIDE = 36
"""Characters that fit below a panel, where every name takes the room of the longest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction:
    """One axis, with all the values that occur along it."""

    axis: Axis
    values: tuple[float, ...]
    """Finite values, each once, in order."""

    @classmethod
    def of(cls, axis: Axis, values: Iterable[float]) -> "Direction":
        """The axis with those of the values that are finite."""
        return cls(axis=axis, values=tuple(sorted({v for v in values if math.isfinite(v)})))

    def at(self, values: Sequence[float]) -> list[float]:
        """Positions of values: the values themselves, or their ranks on an even axis."""
        if self.axis.scale != "even":
            return list(values)
        return [self._place(value) for value in values]

    def lay(self, axes: "Axes", which: Literal["x", "y"]) -> None:
        """Set scale, ends, ticks and label of an axis of a panel."""
        words = label(self.axis.label, self.axis.unit)
        (axes.set_xlabel if which == "x" else axes.set_ylabel)(words)
        if not self.values:
            return
        if self.axis.scale == "even":
            self._lay_evenly(axes, which)
            return
        if self.axis.scale == "log":
            self._lay_by_powers(axes, which)
        (axes.set_xlim if which == "x" else axes.set_ylim)(*self._ends())

    def _place(self, value: float) -> float:
        for number, (low, high) in enumerate(pairwise(self.values)):
            if value <= high:
                return number + max(0.0, (value - low) / (high - low))
        return len(self.values) - 1.0

    def _lay_evenly(self, axes: "Axes", which: Literal["x", "y"]) -> None:
        every = math.ceil(len(self.values) / NAMES)
        places = list(range(0, len(self.values), every))
        names = [short(self.values[place]) for place in places]
        crowded = which == "x" and len(names) * max(map(len, names)) > WIDE
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        (axes.set_xticks if which == "x" else axes.set_yticks)(places, names, **turned)
        ends = (-0.5, len(self.values) - 0.5)
        (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)

    def _lay_by_powers(self, axes: "Axes", which: Literal["x", "y"]) -> None:
        """Logarithmic; linear near zero if there are values at or below it."""
        scale = axes.set_xscale if which == "x" else axes.set_yscale
        if self.values[0] > 0:
            scale("log")
            ticks = ticks_between(self.values[0], self.values[-1])
        else:
            scale("symlog", linthresh=self._smallest())
            ticks = [0.0, *ticks_between(self._smallest(), self.values[-1])]
        (axes.set_xticks if which == "x" else axes.set_yticks)(ticks, [short(t) for t in ticks])
        (axes.xaxis if which == "x" else axes.yaxis).set_minor_locator(_no_ticks())

    def _smallest(self) -> float:
        return min((abs(value) for value in self.values if value), default=1.0)

    def _ends(self) -> tuple[float, float]:
        low, high = self.values[0], self.values[-1]
        if self.axis.scale == "log" and low > 0:
            room = (high / low) ** ROOM if high > low else 2.0
            return low / room, high * room
        if self.axis.scale == "log":
            return low - self._smallest() / 2, high * 1.3 if high > 0 else self._smallest()
        room = ROOM * (high - low) or max(abs(high), 1.0) / 2
        return low - room, high + room


def ticks_between(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis: powers of ten, and finer ones until there are three.

    Of two whose names would touch, the rounder one stays.
    """
    if not 0 < low < high:
        return [low] if low > 0 else []
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    gap = (high / low) ** (1 / APART)
    ticks: list[float] = []
    for steps in ((1.0,), (2.0, 5.0), (3.0, 4.0, 6.0, 7.0, 8.0, 9.0)):
        for tick in (float(f"{step}e{power}") for power in powers for step in steps):
            near = any(tick < gap * other and other < gap * tick for other in ticks)
            if low <= tick <= high and not near:
                ticks.append(tick)
        if len(ticks) >= 3:
            return sorted(ticks)
    return [low, high]


def _no_ticks() -> "NullLocator":
    from matplotlib.ticker import NullLocator

    return NullLocator()
