"""Lines and bars on a panel, with their 95 % intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sparring.records.figure import Curves, Panel, Series
from sparring.report.direction import Direction
from sparring.report.ink import DASHES, INK, MARKERS, Look, legible, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.typing import LineStyleType

SIGNS = 8
"""Points of a long line that have a sign; all of a short one."""
BAND = 0.16
"""Opacity of a band: lines behind it stay visible."""
BARS = 0.8
"""Share of a bar's room that all series together fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePlan:
    """What the panels of one drawing share: directions, and a look for each name."""

    curves: Curves
    x: Direction
    y: Direction
    looks: dict[str, Look]

    @classmethod
    def of(cls, curves: Curves) -> "CurvePlan":
        """The plan of all panels; a name has the same look in each."""
        series = [one for panel in curves.panels for one in panel.series]
        lines = dict.fromkeys((one.name for one in series), False)
        lines |= {one.name: True for one in series if len(one.x) > 1}
        from_zero = (0.0,) if curves.mark == "bar" else ()
        heights = [value for one in series for value in (*one.y, *one.low, *one.high)]
        return cls(
            curves=curves,
            x=Direction.of(curves.x, (value for one in series for value in one.x)),
            y=Direction.of(curves.y, (*from_zero, *heights)),
            looks={
                name: look(number) if drawn else look(number)._replace(dash=None)
                for number, (name, drawn) in enumerate(lines.items())
            },
        )

    def draw(self, axes: "Axes", panel: Panel) -> None:
        """All of one panel but its title."""
        upright = self.x.axis.scale != "even" and self.curves.mark == "line"
        axes.grid(visible=True, axis="both" if upright else "y")
        self.x.lay(axes, "x")
        self.y.lay(axes, "y")
        for number, series in enumerate(panel.series):
            if self.curves.mark == "bar":
                self._bars(axes, series, number, len(panel.series))
            else:
                self._line(axes, series)

    def keys(self) -> "Iterator[Line2D]":
        """An entry of the legend for each name."""
        from matplotlib.lines import Line2D

        for name, style in self.looks.items():
            words = legible(name) or " "
            if self.curves.mark == "bar":
                yield Line2D([], [], color=style.colour, label=words, linewidth=6)
            else:
                dash, sign = _dash(style), MARKERS[style.marker]
                yield Line2D([], [], color=style.colour, label=words, linestyle=dash, marker=sign)

    def _line(self, axes: "Axes", series: Series) -> None:
        style = self.looks[series.name]
        x, y = self.x.at(series.x), self.y.at(series.y)
        axes.plot(
            x,
            y,
            color=style.colour,
            linestyle=_dash(style),
            marker=MARKERS[style.marker] if self._is_marked(x) else None,
            markevery=max(1, len(x) // SIGNS),
        )
        if not series.low:
            return
        low, high = self.y.at(series.low), self.y.at(series.high)
        if self.x.axis.scale == "even" or len(x) < 3:
            axes.vlines(x, low, high, color=style.colour, linewidth=1.0)
        else:
            axes.fill_between(x, low, high, color=style.colour, alpha=BAND, linewidth=0)

    def _is_marked(self, x: Sequence[float]) -> bool:
        """Whether a line has signs: a long one that is alone needs none."""
        return len(self.looks) > 1 or len(x) <= 3 * SIGNS

    def _bars(self, axes: "Axes", series: Series, number: int, count: int) -> None:
        x, width = self.x.at(series.x), self._room() * BARS / count
        places = [place + width * (number - (count - 1) / 2) for place in x]
        colour = self.looks[series.name].colour
        base = self.y.at([0.0])[0]
        tops = [top - base for top in self.y.at(series.y)]
        axes.bar(places, tops, width=width, bottom=base, color=colour)
        if series.low:
            low, high = self.y.at(series.low), self.y.at(series.high)
            axes.vlines(places, low, high, color=INK, linewidth=0.8)

    def _room(self) -> float:
        """Between two neighbouring bars."""
        places = self.x.at(self.x.values)
        gaps = [after - before for before, after in pairwise(places)]
        return min(gaps, default=1.0)


def _dash(style: Look) -> "LineStyleType":
    """A line style as Matplotlib names it."""
    return "none" if style.dash is None else DASHES[style.dash]
