"""One panel of a figure: lines, bars, cells and contours, with their 95 % intervals."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sparring.records.figure import Axis, Curves, HeatMap, Lengths, Panel, Relief, Series, Table
from sparring.report.direction import Direction
from sparring.report.style import (
    CONTRASTS,
    COUNTS,
    DASHES,
    INK,
    MARKERS,
    SHADES,
    SeriesStyle,
    label,
    legible,
    series_style,
    text_colour_on,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Sheet
    from matplotlib.lines import Line2D
    from matplotlib.typing import LineStyleType


CELL = 0.62
"""Side of a cell in inches: a number of five characters fits into it."""
NAME = 24
"""Characters of a name in one line."""
LEVELS = 14
"""Steps of height that a relief shows."""
LINE = "line-"
"""What the identifiers of a series' parts begin with, before its number in the panel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shading:
    """The shade of each number, the same in all tables of a drawing."""

    norm: "Normalize"
    shades: str
    """Matplotlib's name of the colours."""
    words: str
    """What the shades mean."""

    @classmethod
    def of(cls, value: Axis, tables: Sequence[Table]) -> "Shading":
        """From the smallest to the largest number."""
        from matplotlib.colors import LogNorm, Normalize

        numbers = _finite(tables)
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        kind = LogNorm if value.scale == "log" and low > 0 else Normalize
        return cls(norm=kind(low, high), shades=SHADES, words=label(value.label, value.unit))

    @classmethod
    def of_cells(cls, chart: HeatMap) -> "Shading":
        """As `of`; of a confusion matrix from zero on, of differences evenly around zero."""
        from matplotlib.colors import Normalize

        tables = [shaded(chart, table) for table in chart.tables]
        largest = max(map(abs, _finite(tables)), default=0.0) or 1.0
        if chart.confusion:
            words = label(chart.value.label, chart.value.unit)
            return cls(norm=Normalize(0, largest), shades=COUNTS, words=words)
        if not chart.outlined:
            return cls.of(chart.value, tables)
        unit = "points" if chart.value.unit == "%" else chart.value.unit
        words = label("difference to the diagonal", unit)
        return cls(norm=Normalize(-largest, largest), shades=CONTRASTS, words=words)

    def bar(self, page: "Sheet", panels: "Axes | list[Axes]", shrink: float = 1.0) -> None:
        """Explain the shades beside the panels."""
        from matplotlib.cm import ScalarMappable

        key = ScalarMappable(self.norm, self.shades)
        page.colorbar(key, ax=panels, shrink=shrink).set_label(self.words)

    def cells(self, axes: "Axes", chart: HeatMap, table: Table) -> None:
        """A table as shaded cells with their numbers; a reference on the diagonal is outlined."""
        from matplotlib.patches import Rectangle

        rows, columns = len(chart.row_names), len(chart.column_names)
        edges = [place - 0.5 for place in range(max(rows, columns) + 1)]
        shades = shaded(chart, table).cells
        if rows and columns:
            axes.pcolormesh(
                edges[: columns + 1],
                edges[: rows + 1],
                shades,
                cmap=self.shades,
                norm=self.norm,
                edgecolors="face",  # no seams between cells
                linewidth=0.4,
            )
        for row, numbers in enumerate(table.cells):
            for column, number in enumerate(numbers):
                is_diagonal = (chart.outlined or chart.confusion) and row == column
                ink = self._ink(shades[row][column])
                weight = "bold" if is_diagonal else "normal"
                if chart.outlined and not is_diagonal:
                    text = difference_text(shades[row][column], chart.value)
                else:
                    text = number_text(number, chart.value)
                axes.text(column, row, text, ha="center", va="center", color=ink, weight=weight)
                if chart.outlined and is_diagonal:
                    corner = (column - 0.44, row - 0.44)
                    axes.add_patch(
                        Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=ink, linewidth=1.3)
                    )
        axes.set_aspect("equal")
        axes.set_ylim(max(rows, 1) - 0.5, -0.5)
        axes.set_xticks(
            range(columns),
            [in_lines(name) for name in chart.column_names],
            rotation=40,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(rows), [in_lines(name) for name in chart.row_names])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(label(chart.columns.label, chart.columns.unit))
        axes.set_ylabel(label(chart.rows.label, chart.rows.unit))

    def heights(self, axes: "Axes", relief: Relief, table: Table) -> None:
        """A table as filled contours with lines between them; rows go upwards."""
        x, y = Direction.of(relief.x, relief.at_x), Direction.of(relief.y, relief.at_y)
        x.lay(axes, "x")
        y.lay(axes, "y")
        if len(relief.at_x) < 2 or len(relief.at_y) < 2:
            return
        at_x, at_y = x.at(relief.at_x), y.at(relief.at_y)
        axes.contourf(
            at_x, at_y, table.cells, levels=self._levels(), cmap=self.shades, norm=self.norm
        )
        axes.contour(at_x, at_y, table.cells, self._levels()[1:-1], colors="white", linewidths=0.3)
        axes.set_xlim(min(at_x), max(at_x))
        axes.set_ylim(min(at_y), max(at_y))

    def _ink(self, number: float) -> str:
        """The colour of a number on a shade; a cell without a shade is as the page."""
        from matplotlib import colormaps

        if not math.isfinite(number):
            return INK
        return text_colour_on(colormaps[self.shades](float(self.norm(number))))

    def _levels(self) -> list[float]:
        steps = (step / LEVELS for step in range(LEVELS + 1))
        return [float(self.norm.inverse(step)) for step in steps]


def number_text(number: float, value: Axis) -> str:
    """A number in a cell: one decimal for per cent, else three digits."""
    return f"{number:.1f}" if value.unit == "%" else f"{number:.3g}"


def difference_text(number: float, value: Axis) -> str:
    """The same, with its sign."""
    return ("+" if number >= 0 else "") + number_text(number, value).replace("-", "\u2212")


def shaded(chart: HeatMap, table: Table) -> Table:
    """The numbers that decide the shades of a table's cells."""
    if not (chart.outlined or chart.confusion):
        return table
    rows = []
    for place, row in enumerate(table.cells):
        own = row[place] if place < len(row) else math.nan
        if chart.outlined:
            rows.append(tuple(number - own for number in row))
        else:
            rows.append(tuple(n if n and at != place else math.nan for at, n in enumerate(row)))
    return Table(title=table.title, cells=tuple(rows))


def _finite(tables: Sequence[Table]) -> list[float]:
    return [n for table in tables for row in table.cells for n in row if math.isfinite(n)]


def in_lines(name: str) -> str:
    """A name in lines that leave room for the cells."""
    return textwrap.fill(legible(name), NAME, break_on_hyphens=False)


FILLED = 0.8
"""Share of the height of a name that its bars fill."""
ROOM_AT_ENDS = 1.9
"""Length of a logarithmic axis as a multiple of the longest bar, so that its number fits."""
BEYOND = 1.22
"""The same, of a linear axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthPlan:
    """Positions and styles of bars."""

    lengths: Lengths
    value: Direction
    styles: tuple[SeriesStyle, ...]

    @classmethod
    def of(cls, lengths: Lengths) -> "LengthPlan":
        """The plan of a drawing."""
        logarithmic = lengths.value.scale == "log"
        numbers = [n for group in lengths.groups for n in group.numbers if math.isfinite(n)]
        longest = max(numbers, default=1.0) * (ROOM_AT_ENDS if logarithmic else BEYOND)
        ends = (1.0, longest) if logarithmic else (0.0, longest)
        return cls(
            lengths=lengths,
            value=Direction.of(lengths.value, (*numbers, *ends)),
            styles=tuple(series_style(number) for number in range(len(lengths.groups))),
        )

    @property
    def bars(self) -> int:
        """Number of bars."""
        return len(self.lengths.names) * max(1, len(self.lengths.groups))

    @property
    def thick(self) -> float:
        """Height of one bar; a name takes 1."""
        return FILLED / max(1, len(self.lengths.groups))

    def place(self, name: int, group: int) -> float:
        """Position of the middle of a bar, counted downwards from 0 at the first name."""
        return name + self.thick * (group - (len(self.lengths.groups) - 1) / 2)

    def draw(self, axes: "Axes") -> None:
        """Draw everything but the title."""
        base = 1.0 if self.lengths.value.scale == "log" else 0.0
        axes.grid(visible=True, axis="x")
        self.value.lay(axes, "x")
        if self.lengths.value.unit == "%":
            axes.set_xticks(range(0, 101, 20))
        for number, (group, style) in enumerate(zip(self.lengths.groups, self.styles, strict=True)):
            for name, length in enumerate(group.numbers):
                if not math.isfinite(length):
                    continue
                place, colour = self.place(name, number), style.colour
                bar = axes.barh(place, length - base, left=base, height=self.thick, color=colour)
                text = axes.text(max(length, base), place, f" {words(length)}", va="center")
                for artist in (*bar, text):
                    artist.set_gid(f"{LINE}{number}")
        names = [in_lines(name) for name in self.lengths.names]
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)

    def keys(self) -> "list[Line2D]":
        """A legend entry for each group."""
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], color=style.colour, label=legible(group.name) or " ", linewidth=6)
            for group, style in zip(self.lengths.groups, self.styles, strict=True)
        ]


def words(number: float) -> str:
    """A number at the end of its bar: three digits, or a whole number from a hundred on."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


MARKED = 8
"""Points of a long line that have a marker."""
BAND = 0.16
"""Opacity of an interval's band."""
BARS = 0.8
"""Share of the distance between bars that all series together fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePlan:
    """What the panels of one drawing share: directions, and a style for each name."""

    curves: Curves
    x: Direction
    y: Direction
    styles: dict[str, SeriesStyle]

    @classmethod
    def of(cls, curves: Curves) -> "CurvePlan":
        """The plan of all panels; a name has the same style in each."""
        series = [one for panel in curves.panels for one in panel.series]
        lines = dict.fromkeys((one.name for one in series), False)
        lines |= {one.name: True for one in series if len(one.x) > 1}
        from_zero = (0.0,) if curves.mark == "bar" else ()
        heights = [value for one in series for value in (*one.y, *one.low, *one.high)]
        return cls(
            curves=curves,
            x=Direction.of(curves.x, (value for one in series for value in one.x)),
            y=Direction.of(curves.y, (*from_zero, *heights)),
            styles={
                name: series_style(number) if drawn else series_style(number)._replace(dash=None)
                for number, (name, drawn) in enumerate(lines.items())
            },
        )

    def draw(self, axes: "Axes", panel: Panel) -> None:
        """Draw one panel, without its title."""
        upright = self.x.axis.scale != "even" and self.curves.mark == "line"
        axes.grid(visible=True, axis="both" if upright else "y")
        self.x.lay(axes, "x")
        self.y.lay(axes, "y")
        for number, series in enumerate(panel.series):
            if self.curves.mark == "bar":
                drawn = self._bars(axes, series, number, len(panel.series))
            else:
                drawn = self._line(axes, series)
            for artist in drawn:
                artist.set_gid(f"{LINE}{number}")

    def keys(self) -> "Iterator[Line2D]":
        """A legend entry for each name."""
        from matplotlib.lines import Line2D

        for name, style in self.styles.items():
            words = legible(name) or " "
            if self.curves.mark == "bar":
                yield Line2D([], [], color=style.colour, label=words, linewidth=6)
            else:
                dash, marker = _dash(style), MARKERS[style.marker]
                yield Line2D([], [], color=style.colour, label=words, linestyle=dash, marker=marker)

    def _line(self, axes: "Axes", series: Series) -> "Sequence[Artist]":
        style = self.styles[series.name]
        x, y = self.x.at(series.x), self.y.at(series.y)
        drawn = axes.plot(
            x,
            y,
            color=style.colour,
            linestyle=_dash(style),
            marker=MARKERS[style.marker] if self._is_marked(x) else None,
            markevery=max(1, len(x) // MARKED),
        )
        if not series.low:
            return drawn
        low, high = self.y.at(series.low), self.y.at(series.high)
        if self.x.axis.scale == "even" or len(x) < 3:
            return [*drawn, axes.vlines(x, low, high, color=style.colour, linewidth=1.0)]
        band = axes.fill_between(x, low, high, color=style.colour, alpha=BAND, linewidth=0)
        return [*drawn, band]

    def _is_marked(self, x: Sequence[float]) -> bool:
        """Whether a line has markers: a single long line has none."""
        return len(self.styles) > 1 or len(x) <= 3 * MARKED

    def _bars(self, axes: "Axes", series: Series, number: int, count: int) -> "Sequence[Artist]":
        x, width = self.x.at(series.x), self._room() * BARS / count
        places = [place + width * (number - (count - 1) / 2) for place in x]
        colour = self.styles[series.name].colour
        base = self.y.at([0.0])[0]
        tops = [top - base for top in self.y.at(series.y)]
        bars = axes.bar(places, tops, width=width, bottom=base, color=colour)
        if not series.low:
            return bars
        low, high = self.y.at(series.low), self.y.at(series.high)
        return [*bars, axes.vlines(places, low, high, color=INK, linewidth=0.8)]

    def _room(self) -> float:
        """Least distance between two bars."""
        places = self.x.at(self.x.values)
        gaps = [after - before for before, after in pairwise(places)]
        return min(gaps, default=1.0)


def _dash(style: SeriesStyle) -> "LineStyleType":
    """Matplotlib's line style."""
    return "none" if style.dash is None else DASHES[style.dash]
