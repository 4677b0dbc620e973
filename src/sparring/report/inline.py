"""Drawings as parts of a page: one SVG for each panel, and where its values are.

Units: points of the SVG's own picture, from the top left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.records.figure import Curves, Drawing, HeatMap, Lengths, Panel, Relief, Strip
from sparring.report.canvas import POINTS, drawing_settings, saved, sheet
from sparring.report.cells import CELL, NAME, Shading
from sparring.report.curves import CurvePlan
from sparring.report.direction import Direction
from sparring.report.ink import label, short
from sparring.report.lengths import LengthPlan
from sparring.report.svg import element

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet

SIZE = (3.7, 2.45)
"""Inches of a panel: on a telephone of 320 pixels its words still have nine."""
SQUARE = (3.7, 2.9)
"""The same, of a relief with its bar."""
BAR = 0.27
"""Inches that a bar takes."""
TIGHT = 0.85
"""Side of a cell on a page, of one in a file."""

_CLEAR = {"figure.facecolor": "none", "axes.facecolor": "none"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inline:
    """One panel on a page."""

    title: str
    """What the panel is of; may be empty."""
    svg: str
    """The drawing: an element of HTML, complete and escaped."""
    width: float
    """How wide the drawing itself is, in points."""
    data: Mapping[str, object]
    """Where its values are, for those who point at them, in JSON's types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where a drawing goes."""

    key: str
    """Keeps its identifiers apart from those of other drawings on the page."""
    words: str
    """What is seen, for those who do not see it."""

    def panel(self, number: int, title: str, page: "Sheet") -> tuple[str, float]:
        """The element of one panel, and how wide it is."""
        words = f"{title}: {self.words}" if title else self.words
        svg = element(saved(page, ".svg"), f"{self.key}-{number}", words)
        return svg, POINTS * float(page.get_figwidth())


def inlined(drawing: Drawing, setting: Setting) -> list[Inline]:
    """The panels of a drawing; none of a strip, whose frames are images."""
    with drawing_settings(_CLEAR):
        match drawing:
            case Curves():
                return list(_curves(drawing, setting))
            case HeatMap():
                return list(_heat_map(drawing, setting))
            case Lengths():
                return [_lengths(drawing, setting)]
            case Relief():
                return list(_relief(drawing, setting))
            case Strip():
                return []


def _curves(curves: Curves, setting: Setting) -> Iterator[Inline]:
    plan = CurvePlan.of(curves)
    words = {"x": label(curves.x.label, curves.x.unit), "unit": curves.y.unit}
    for number, panel in enumerate(curves.panels):
        page = sheet(*SIZE)
        axes = page.subplots()
        plan.draw(axes, panel)
        svg, width = setting.panel(number, panel.title, page)
        data = {"kind": "curves", **words, "series": _points(axes, plan, panel)}
        yield Inline(title=panel.title, svg=svg, width=width, data=data | _box(axes))


def _heat_map(chart: HeatMap, setting: Setting) -> Iterator[Inline]:
    shading = Shading.of(chart.value, chart.tables)
    names = (*chart.row_names, *chart.column_names)
    room = 0.5 + 0.07 * min(max(map(len, names), default=0), NAME)
    words = {
        "x": chart.columns.label,
        "y": chart.rows.label,
        "value": label(chart.value.label, chart.value.unit),
        "columns": chart.column_names,
        "rows": chart.row_names,
    }
    places = [float(place) for place in range(len(names))]
    for number, table in enumerate(chart.tables):
        page = sheet(
            len(chart.column_names) * CELL * TIGHT + room,
            len(chart.row_names) * CELL * TIGHT + room,
        )
        axes = page.subplots()
        shading.cells(axes, chart, table)
        svg, width = setting.panel(number, table.title, page)
        centres = _centres(axes, places[: len(chart.column_names)], places[: len(chart.row_names)])
        data = {"kind": "cells", **words, "cells": table.cells, **centres}
        yield Inline(title=table.title, svg=svg, width=width, data=data | _box(axes))


def _lengths(lengths: Lengths, setting: Setting) -> Inline:
    """Every bar is a row of its own, for those who point at it or go by keys."""
    plan = LengthPlan.of(lengths)
    page = sheet(SIZE[0], 0.7 + BAR * plan.bars)
    axes = page.subplots()
    plan.draw(axes)
    if len(lengths.groups) > 1:
        axes.legend(handles=plan.keys(), loc="best")
    svg, width = setting.panel(0, "", page)
    bars = [
        (plan.place(row, column), f"{name}: {group.name}", group.numbers[row])
        for row, name in enumerate(lengths.names)
        for column, group in enumerate(lengths.groups)
    ]
    data = {
        "kind": "cells",
        "x": "",
        "y": lengths.label,
        "value": label(lengths.value.label, lengths.value.unit),
        "columns": [""],
        "rows": [name for _, name, _ in bars],
        "cells": [[number] for *_, number in bars],
        **_centres(axes, [plan.value.values[-1]], [place for place, *_ in bars]),
    }
    return Inline(title="", svg=svg, width=width, data=data | _box(axes))


def _relief(relief: Relief, setting: Setting) -> Iterator[Inline]:
    shading = Shading.of(relief.height, relief.tables)
    height = label(relief.height.label, relief.height.unit)
    words = {
        "x": label(relief.x.label, relief.x.unit),
        "y": label(relief.y.label, relief.y.unit),
        "value": height,
        "columns": [short(value) for value in relief.at_x],
        "rows": [short(value) for value in relief.at_y],
    }
    x = Direction.of(relief.x, relief.at_x).at(relief.at_x)
    y = Direction.of(relief.y, relief.at_y).at(relief.at_y)
    for number, table in enumerate(relief.tables):
        page = sheet(*SQUARE)
        axes = page.subplots()
        shading.heights(axes, relief, table)
        page.colorbar(shading.key, ax=axes).set_label(height)
        svg, width = setting.panel(number, table.title, page)
        data = {"kind": "cells", **words, "cells": table.cells, **_centres(axes, x, y)}
        yield Inline(title=table.title, svg=svg, width=width, data=data | _box(axes))


def _points(axes: "Axes", plan: CurvePlan, panel: Panel) -> list[dict[str, object]]:
    """Every series with its numbers, and where they are drawn."""
    return [
        {
            "name": one.name,
            "hue": plan.looks[one.name].hue,
            "at": _places(axes, plan.x.at(one.x), plan.y.at(one.y)),
            "x": one.x,
            "y": one.y,
            "low": one.low,
            "high": one.high,
        }
        for one in panel.series
    ]


def _centres(axes: "Axes", x: Sequence[float], y: Sequence[float]) -> dict[str, list[float]]:
    """Where the columns and the rows are."""
    across = _places(axes, x, [y[0] if y else 0.0] * len(x))
    down = _places(axes, [x[0] if x else 0.0] * len(y), y)
    return {"left": [place for place, _ in across], "top": [place for _, place in down]}


def _places(axes: "Axes", x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    if not len(x):
        return []
    points = axes.transData.transform(list(zip(x, y, strict=True)))
    height = _height(axes)
    return [(round(float(right), 1), round(height - float(up), 1)) for right, up in points]


def _box(axes: "Axes") -> dict[str, object]:
    """Left, top, right and bottom of a panel's inside."""
    height, box = _height(axes), axes.bbox
    ends = (box.x0, height - box.y1, box.x1, height - box.y0)
    return {"box": [round(float(end), 1) for end in ends]}


def _height(axes: "Axes") -> float:
    page = axes.get_figure(root=True)
    return POINTS * page.get_figheight() if page else 0.0
