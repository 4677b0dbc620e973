"""Bars that lie beside their names, each with its number at its end."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.records.figure import Lengths
from sparring.report.cells import in_lines
from sparring.report.direction import Direction
from sparring.report.ink import Look, legible, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

FILLED = 0.8
"""Share of a name's room that its bars fill."""
ROOM = 1.9
"""Times the longest bar that a logarithmic axis goes on for, so that its number fits."""
BEYOND = 1.22
"""The same, of a linear one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthPlan:
    """Where bars are, and what they look like."""

    lengths: Lengths
    value: Direction
    looks: tuple[Look, ...]

    @classmethod
    def of(cls, lengths: Lengths) -> "LengthPlan":
        """The plan of all bars."""
        logarithmic = lengths.value.scale == "log"
        numbers = [n for group in lengths.groups for n in group.numbers if math.isfinite(n)]
        longest = max(numbers, default=1.0) * (ROOM if logarithmic else BEYOND)
        ends = (1.0, longest) if logarithmic else (0.0, longest)
        return cls(
            lengths=lengths,
            value=Direction.of(lengths.value, (*numbers, *ends)),
            looks=tuple(look(number) for number in range(len(lengths.groups))),
        )

    @property
    def bars(self) -> int:
        """How many there are, or rooms for them."""
        return len(self.lengths.names) * max(1, len(self.lengths.groups))

    @property
    def thick(self) -> float:
        """Height of one bar, where a name has the room 1."""
        return FILLED / max(1, len(self.lengths.groups))

    def place(self, name: int, group: int) -> float:
        """Where the middle of a bar is, from the first name's 0 downwards."""
        return name + self.thick * (group - (len(self.lengths.groups) - 1) / 2)

    def draw(self, axes: "Axes") -> None:
        """All but the title."""
        base = 1.0 if self.lengths.value.scale == "log" else 0.0
        axes.grid(visible=True, axis="x")
        self.value.lay(axes, "x")
        for number, (group, style) in enumerate(zip(self.lengths.groups, self.looks, strict=True)):
            for name, length in enumerate(group.numbers):
                if not math.isfinite(length):
                    continue
                place, colour = self.place(name, number), style.colour
                axes.barh(place, length - base, left=base, height=self.thick, color=colour)
                axes.text(max(length, base), place, f" {words(length)}", va="center")
        names = [in_lines(name) for name in self.lengths.names]
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)

    def keys(self) -> "list[Line2D]":
        """An entry of the legend for each group."""
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], color=style.colour, label=legible(group.name) or " ", linewidth=6)
            for group, style in zip(self.lengths.groups, self.looks, strict=True)
        ]


def words(number: float) -> str:
    """A number at the end of its bar: three digits, whole from a hundred on."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
