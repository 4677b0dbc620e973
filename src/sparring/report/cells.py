"""Numbers in shaded cells, and heights as filled contours."""

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.records.figure import Axis, HeatMap, Relief, Table
from sparring.report.direction import Direction
from sparring.report.ink import INK, SHADES, ink_on, label, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

CELL = 0.62
"""Side of a cell in inches: a number of five characters fits into it."""
NAME = 24
"""Characters of a name in one line."""
LEVELS = 14
"""Steps of height that a relief shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shading:
    """Which shade a number has, the same in all tables of a drawing."""

    norm: "Normalize"

    @classmethod
    def of(cls, value: Axis, tables: tuple[Table, ...]) -> "Shading":
        """From 0 to 100 for per cent, else from the smallest to the largest number."""
        from matplotlib.colors import LogNorm, Normalize

        numbers = [n for table in tables for row in table.cells for n in row if math.isfinite(n)]
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
        if value.unit == "%" and low >= 0 and high <= 100:
            low, high = 0.0, 100.0
        elif low == high:
            low, high = low - 0.5, high + 0.5
        kind = LogNorm if value.scale == "log" and low > 0 else Normalize
        return cls(norm=kind(low, high))

    @property
    def key(self) -> "ScalarMappable":
        """What a bar beside the panels explains."""
        from matplotlib.cm import ScalarMappable

        return ScalarMappable(self.norm, SHADES)

    def cells(self, axes: "Axes", chart: HeatMap, table: Table) -> None:
        """A table as shaded cells with their numbers; the diagonal outlined where it matters."""
        from matplotlib.patches import Rectangle

        rows, columns = len(chart.row_names), len(chart.column_names)
        edges = [place - 0.5 for place in range(max(rows, columns) + 1)]
        if rows and columns:
            axes.pcolormesh(
                edges[: columns + 1],
                edges[: rows + 1],
                table.cells,
                cmap=SHADES,
                norm=self.norm,
                edgecolors="face",  # no seams between cells
                linewidth=0.4,
            )
        for row, numbers in enumerate(table.cells):
            for column, number in enumerate(numbers):
                stands_out = chart.outlined and row == column
                ink = self._ink(number)
                weight = "bold" if stands_out else "normal"
                text = number_text(number, chart.value)
                axes.text(column, row, text, ha="center", va="center", color=ink, weight=weight)
                if stands_out:
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
        axes.contourf(at_x, at_y, table.cells, levels=self._levels(), cmap=SHADES, norm=self.norm)
        axes.contour(at_x, at_y, table.cells, self._levels()[1:-1], colors="white", linewidths=0.3)
        axes.set_xlim(min(at_x), max(at_x))
        axes.set_ylim(min(at_y), max(at_y))

    def _ink(self, number: float) -> str:
        """The colour of a number in its cell; a cell that has none is not shaded."""
        from matplotlib import colormaps

        if not math.isfinite(number):
            return INK
        return ink_on(colormaps[SHADES](float(self.norm(number))))

    def _levels(self) -> list[float]:
        steps = (step / LEVELS for step in range(LEVELS + 1))
        return [float(self.norm.inverse(step)) for step in steps]


def number_text(number: float, value: Axis) -> str:
    """A number in a cell: one place after the point for per cent, else three digits."""
    return f"{number:.1f}" if value.unit == "%" else f"{number:.3g}"


def in_lines(name: str) -> str:
    """A name in lines that leave room for the cells."""
    return textwrap.fill(legible(name), NAME, break_on_hyphens=False)
