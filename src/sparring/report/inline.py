"""Drawings as parts of a page: SVG in the page's colours and type, with the positions of values.

Units: points of the SVG, from the top left.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from sparring.records.figure import Curves, Drawing, HeatMap, Lengths, Relief, Strip
from sparring.report.chart import Chart
from sparring.report.direction import Direction
from sparring.report.panels import CELL, LINE, NAME, LengthPlan, Shading, number_text
from sparring.report.style import (
    HUES,
    INK,
    POINTS,
    QUIET,
    RULE,
    drawing_settings,
    label,
    saved,
    sheet,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet


COLOURS = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
    **{hue: f"var(--hue-{number})" for number, hue in enumerate(HUES)},
}
"""The variables of the page's style sheet for the colours of a drawing."""

_SVG = "http://www.w3.org/2000/svg"
_WORDS = {f"{{{_SVG}}}{name}" for name in ("metadata", "title", "desc")}
_LINK = "{http://www.w3.org/1999/xlink}href"
_LONG = re.compile(r"-?\d+\.\d{3,}")
_TYPE = re.compile(r"font-family:[^;]*;?\s*")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_SERIES = re.compile(rf"{LINE}(\d+)")


def element(svg: bytes, key: str, words: str) -> str:
    """An SVG file as an element of a page, with a text alternative.

    Its style sheet and metadata are removed; colours become variables of the page. Identifiers get
    the prefix `key`, so that those of two drawings differ.
    """
    root = ElementTree.fromstring(svg)
    for child in list(root):
        if child.tag in _WORDS or child.find(f"{{{_SVG}}}style") is not None:
            root.remove(child)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": words}
    nodes = list(root.iter())
    wanted = {name for node in nodes for name in _references(node)}
    for node in nodes:
        node.text, node.tail = _kept(node.text), None
        _adapt(node, wanted, key)
    _flatten(root)
    ElementTree.register_namespace("", _SVG)
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace(f' xmlns="{_SVG}"', "", 1)  # HTML knows what an svg is


def _references(node: ElementTree.Element) -> list[str]:
    link = node.attrib.get(_LINK, "")
    links = [link[1:]] if link.startswith("#") else []
    return links + [name for value in node.attrib.values() for name in _REFERENCE.findall(value)]


def _kept(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _adapt(node: ElementTree.Element, wanted: set[str], key: str) -> None:
    attributes = node.attrib
    if (name := attributes.pop("id", "")) in wanted:
        attributes["id"] = f"{key}-{name}"
    if series := _SERIES.fullmatch(name):
        attributes["data-line"] = series[1]
    if (link := attributes.pop(_LINK, None)) is not None:
        within = link.startswith("#")
        attributes["href"] = f"#{key}-{link[1:]}" if within else "".join(link.split("\n"))
    if "clip-path" in attributes:
        attributes["clip-path"] = _REFERENCE.sub(rf"url(#{key}-\1)", attributes["clip-path"])
    if "style" in attributes:
        style = _TYPE.sub("", attributes["style"])
        attributes["style"] = _COLOUR.sub(lambda hue: COLOURS.get(hue[0], hue[0]), style)
    for name in ("d", "transform", "x", "y"):
        if name in attributes:
            rounded = _LONG.sub(lambda number: f"{float(number[0]):.2f}", attributes[name])
            attributes[name] = " ".join(rounded.split())


def _flatten(node: ElementTree.Element) -> None:
    """Remove groups without attributes."""
    children: list[ElementTree.Element] = []
    for child in node:
        _flatten(child)
        bare = child.tag == f"{{{_SVG}}}g" and not child.attrib
        children.extend(child if bare else [child])
    node[:] = children


SIZE = (4.3, 2.9)
"""Inches of a chart of curves: on a screen of 320 pixels its text has a size of 8 pixels."""
NARROW = 3.7
"""Width of a page of bars, or of a relief with its bar."""
SQUARE = (NARROW, 2.9)
"""Inches of a relief."""
BAR = 0.2
"""Height of a bar in inches."""
TIGHT = 0.85
"""Side of a cell on a page, as a share of the side in a file."""

_CLEAR = {"figure.facecolor": "none", "axes.facecolor": "none", "font.size": "9"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inline:
    """One panel on a page."""

    title: str
    """May be empty."""
    svg: str
    """The drawing: an element of HTML, complete and escaped."""
    width: float
    """Width of the drawing in points."""
    data: Mapping[str, object]
    """Its values and their positions, for the page's script, in JSON's types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The place of a drawing on the page."""

    key: str
    """Prefix of its identifiers."""
    words: str
    """A description that screen readers read out."""

    def panel(self, number: int, title: str, page: "Sheet") -> tuple[str, float]:
        """The element of one panel, and its width."""
        words = f"{title}: {self.words}" if title else self.words
        svg = element(saved(page, ".svg"), f"{self.key}-{number}", words)
        return svg, POINTS * float(page.get_figwidth())


def inlined(drawing: Drawing, setting: Setting) -> list[Inline]:
    """The panels of a drawing; none of a strip, whose frames are images."""
    with drawing_settings(_CLEAR):
        match drawing:
            case Curves():
                return [_curves(drawing, setting)]
            case HeatMap():
                return list(_heat_map(drawing, setting))
            case Lengths():
                return [_lengths(drawing, setting)]
            case Relief():
                return list(_relief(drawing, setting))
            case Strip():
                return []


def _curves(curves: Curves, setting: Setting) -> Inline:
    """All panels in one chart."""
    chart = Chart.of(curves)
    page = sheet(*SIZE)
    axes = page.subplots()
    chart.plan.draw(axes, chart.panel)
    svg, width = setting.panel(0, "", page)
    data = {
        "kind": "curves",
        "x": label(curves.x.label, curves.x.unit),
        "y": label(curves.y.label, curves.y.unit),
        "unit": curves.y.unit,
        "series": _points(axes, chart),
    }
    return Inline(title="", svg=svg, width=width, data=data | _box(axes))


def _heat_map(chart: HeatMap, setting: Setting) -> Iterator[Inline]:
    shading = Shading.of_cells(chart)
    side = CELL * TIGHT * (_longest(chart) / 5)
    names = (*chart.row_names, *chart.column_names)
    room = 0.5 + 0.07 * min(max(map(len, names), default=0), NAME)
    words = {
        "x": chart.columns.label,
        "y": [chart.rows.label],
        "value": label(chart.value.label, chart.value.unit),
        "columns": chart.column_names,
        "rows": [[name] for name in chart.row_names],
        "difference": shading.words if chart.outlined else "",
    }
    places = [float(place) for place in range(len(names))]
    for number, table in enumerate(chart.tables):
        page = sheet(len(chart.column_names) * side + room, len(chart.row_names) * side + room)
        axes = page.subplots()
        shading.cells(axes, chart, table)
        svg, width = setting.panel(number, table.title, page)
        centres = _centres(axes, places[: len(chart.column_names)], places[: len(chart.row_names)])
        data = {"kind": "cells", **words, "cells": table.cells, **centres}
        yield Inline(title=table.title, svg=svg, width=width, data=data | _box(axes))


def _longest(chart: HeatMap) -> int:
    """Characters that a cell must hold, from 3 to 5."""
    if chart.outlined:
        return 5
    numbers = [n for table in chart.tables for row in table.cells for n in row]
    return min(5, max((3, *(len(number_text(n, chart.value)) for n in numbers))))


def _lengths(lengths: Lengths, setting: Setting) -> Inline:
    """Every bar is a row of its own in the data."""
    plan = LengthPlan.of(lengths)
    page = sheet(NARROW, 0.7 + BAR * plan.bars)
    axes = page.subplots()
    plan.draw(axes)
    svg, width = setting.panel(0, "", page)
    bars = [
        (plan.place(row, column), [name, group.name], group.numbers[row])
        for row, name in enumerate(lengths.names)
        for column, group in enumerate(lengths.groups)
    ]
    data = {
        "kind": "cells",
        "x": "",
        "y": [lengths.label, "group"],
        "value": label(lengths.value.label, lengths.value.unit),
        "columns": [""],
        "rows": [names for _, names, _ in bars],
        "difference": "",
        "cells": [[number] for *_, number in bars],
        **_centres(axes, [plan.value.values[-1]], [place for place, *_ in bars]),
    }
    return Inline(title="", svg=svg, width=width, data=data | _box(axes))


def _relief(relief: Relief, setting: Setting) -> Iterator[Inline]:
    shading = Shading.of(relief.height, relief.tables)
    words = {
        "x": label(relief.x.label, relief.x.unit),
        "y": [label(relief.y.label, relief.y.unit)],
        "value": label(relief.height.label, relief.height.unit),
        "columns": [short(value) for value in relief.at_x],
        "rows": [[short(value)] for value in relief.at_y],
        "difference": "",
    }
    x = Direction.of(relief.x, relief.at_x).at(relief.at_x)
    y = Direction.of(relief.y, relief.at_y).at(relief.at_y)
    for number, table in enumerate(relief.tables):
        page = sheet(*SQUARE)
        axes = page.subplots()
        shading.heights(axes, relief, table)
        shading.bar(page, axes)
        svg, width = setting.panel(number, table.title, page)
        data = {"kind": "cells", **words, "cells": table.cells, **_centres(axes, x, y)}
        yield Inline(title=table.title, svg=svg, width=width, data=data | _box(axes))


def _points(axes: "Axes", chart: Chart) -> list[dict[str, object]]:
    """Every line with its numbers, and their positions."""
    plan = chart.plan
    return [
        {
            "name": name,
            "panel": line.title,
            "series": line.series.name,
            "hue": plan.styles[name].hue,
            "at": _places(axes, plan.x.at(line.series.x), plan.y.at(line.series.y)),
            "x": line.series.x,
            "y": line.series.y,
            "low": line.series.low,
            "high": line.series.high,
        }
        for name, line in zip(chart.names, chart.lines, strict=True)
    ]


def _centres(axes: "Axes", x: Sequence[float], y: Sequence[float]) -> dict[str, list[float]]:
    """Positions of the columns and of the rows."""
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
    """Left, top, right and bottom of the area inside the axes."""
    height, box = _height(axes), axes.bbox
    ends = (box.x0, height - box.y1, box.x1, height - box.y0)
    return {"box": [round(float(end), 1) for end in ends]}


def _height(axes: "Axes") -> float:
    page = axes.get_figure(root=True)
    return POINTS * page.get_figheight() if page else 0.0
