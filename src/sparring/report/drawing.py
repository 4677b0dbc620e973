"""A figure as a file, for a paper: its panels beside each other.

Units: inches on the page.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from sparring.errors import ConfigError
from sparring.records import Axis, Provenance, Table, TransferMatrix
from sparring.records.figure import Curves, Figure, Film, HeatMap, Lengths, Relief, Strip
from sparring.records.files import run_errors, write_atomically
from sparring.records.text import counted
from sparring.report.panels import CELL, CurvePlan, LengthPlan, Shading
from sparring.report.style import drawing_settings, legible, saved, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet
    from matplotlib.lines import Line2D


FORMATS = (".svg", ".png", ".pdf")
"""Endings of a file's name, which decide its format."""
ACROSS = 3
"""Panels in a row."""
CELLS_ACROSS = 8
"""Cells in a row of a page, in as many panels as fit."""
PANEL = (3.3, 2.4)
"""Width and height of a panel of curves."""
LONE = (4.6, 2.7)
"""The same, of a single panel."""
LONG = 6.4
"""Width of a page of bars."""
BAR = 0.25
"""Height of a bar."""
FRAMES = 8
"""Frames of a film that are drawn, evenly spaced."""
FRAME = 0.95
"""Side of a frame."""
LEGEND_ROW = 0.2
"""Height of a row of a legend."""
LETTERS = 11
"""Characters of a title per inch."""


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure into a file: SVG, PNG or PDF by the ending of its name.

    The same figure gives the same file. Matplotlib is imported here; its settings are not changed.
    The file is written whole or not at all.
    Raises `ConfigError` for a name that ends in none of `FORMATS`, `RunError` if it cannot be
    written.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError.expected(
            f"a picture's name must end in {', '.join(FORMATS)}",
            path,
            f"Take {path.with_suffix(FORMATS[0])}.",
        )
    with drawing_settings():
        page = _sheet_of(figure)
        page.suptitle(_folded(figure.title, page.get_figwidth()), fontweight="bold", fontsize=10)
        content = saved(page, ending, (legible(figure.title), legible(figure.alternative)))
    with run_errors("write", path):
        write_atomically(path, content)


def _sheet_of(figure: Figure) -> "Sheet":
    match figure.drawing:
        case Curves():
            return _curves(figure.drawing)
        case HeatMap():
            return _heat_map(figure.drawing)
        case Lengths():
            return _lengths(figure.drawing)
        case Relief():
            return _relief(figure.drawing)
        case Strip():
            return _strip(figure.drawing)
        case _:
            assert_never(figure.drawing)


def _curves(curves: Curves) -> "Sheet":
    plan = CurvePlan.of(curves)
    titles = [panel.title for panel in curves.panels]
    size = PANEL if len(titles) > 1 else LONE
    page, panels = _panels(titles, size, ACROSS, extra=0.6)
    for axes, panel in zip(panels, curves.panels, strict=True):
        plan.draw(axes, panel)
    if len(plan.styles) > 1:
        _add_legend(page, list(plan.keys()))
    return page


def _heat_map(chart: HeatMap) -> "Sheet":
    rows, columns = max(1, len(chart.row_names)), max(1, len(chart.column_names))
    across = max(2, CELLS_ACROSS // columns)
    size = (columns * CELL + 0.5, rows * CELL + 1.1)
    page, panels = _panels([table.title for table in chart.tables], size, across, extra=1.1)
    page.set_figwidth(page.get_figwidth() + 2.6)
    shading = Shading.of_cells(chart)
    for number, (axes, table) in enumerate(zip(panels, chart.tables, strict=True)):
        shading.cells(axes, chart, table)
        if number % across:
            axes.set_yticklabels([])
            axes.set_ylabel("")
    if panels:
        shading.bar(page, panels, shrink=0.8)
    return page


def _lengths(lengths: Lengths) -> "Sheet":
    plan = LengthPlan.of(lengths)
    page = sheet(LONG, 1.1 + BAR * plan.bars)
    plan.draw(page.subplots())
    if len(lengths.groups) > 1:
        _add_legend(page, plan.keys())
    return page


def _add_legend(page: "Sheet", entries: Sequence["Line2D"]) -> None:
    """Add a legend below the panels, in as few rows as its width allows, and their height."""
    across, room = len(entries), page.bbox.width
    while True:
        legend = page.legend(handles=entries, loc="outside lower center", ncols=across)
        if across == 1 or legend.get_window_extent().width <= room:
            break
        legend.remove()
        across -= 1
    page.set_figheight(page.get_figheight() + LEGEND_ROW * math.ceil(len(entries) / across))


def _relief(relief: Relief) -> "Sheet":
    page, panels = _panels([table.title for table in relief.tables], (2.8, 2.6), ACROSS, extra=0.5)
    shading = Shading.of(relief.height, relief.tables)
    for axes, table in zip(panels, relief.tables, strict=True):
        shading.heights(axes, relief, table)
    if panels:
        shading.bar(page, panels, shrink=0.8)
    return page


def _strip(strip: Strip) -> "Sheet":
    """Each film in a row."""
    across = max((len(picked(film)) for film in strip.films), default=1)
    page = sheet(0.3 + across * FRAME, 0.6 + len(strip.films) * (FRAME + 0.45))
    rows = page.subfigures(max(1, len(strip.films)), 1, squeeze=False)[:, 0]
    for row, film in zip(rows, strip.films, strict=False):
        row.suptitle(_folded(film.title, across * FRAME), x=0.01, ha="left", fontsize=9)
        for axes in (panels := row.subplots(1, across, squeeze=False)[0]):
            axes.set_axis_off()
        for axes, number in zip(panels, picked(film), strict=False):
            axes.imshow(
                strip_pixels(strip, film, number), cmap="gray", vmin=0, vmax=255, resample=False
            )
            words = textwrap.fill(legible(film.captions[number]), 15)
            axes.text(
                0.5, -0.06, words, fontsize=7, ha="center", va="top", transform=axes.transAxes
            )
    return page


def picked(film: Film) -> list[int]:
    """Frames that represent a film: at most `FRAMES`, the first and the last among them."""
    count = len(film.frames)
    if count <= FRAMES:
        return list(range(count))
    return [round(place * (count - 1) / (FRAMES - 1)) for place in range(FRAMES)]


def strip_pixels(strip: Strip, film: Film, number: int) -> list[list[int]]:
    """The rows of a frame, a number for each pixel."""
    from base64 import b64decode

    grey = b64decode(film.frames[number])
    return [list(grey[row * strip.width :][: strip.width]) for row in range(strip.height)]


def _panels(
    titles: Sequence[str], size: tuple[float, float], across: int, *, extra: float
) -> tuple["Sheet", list["Axes"]]:
    """A page with a panel for each title, and `extra` height for legends."""
    across = min(across, max(1, len(titles)))
    down = max(1, math.ceil(len(titles) / across))
    page = sheet(size[0] * across, size[1] * down + extra)
    panels = list(page.subplots(down, across, squeeze=False).flat)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(_folded(title, size[0]))
    return page, panels[: len(titles)]


def _folded(text: str, inches: float) -> str:
    """A title in lines of at most this width."""
    letters = max(20, int(inches * LETTERS))
    return "\n".join(textwrap.fill(line, letters) for line in legible(text).splitlines())


def heat_map(matrix: TransferMatrix, path: Path) -> None:
    """Draw a transfer matrix into a file, as `draw` does."""
    draw(matrix_figure(matrix), path)


def matrix_figure(matrix: TransferMatrix) -> Figure:
    """The figure of a transfer matrix: rows are targets, columns sources, as in the paper.

    The diagonal, where the attack is white-box, is outlined.
    """
    places = range(len(matrix.networks))
    tables = tuple(
        Table(
            title=f"{steps} step{'' if steps == 1 else 's'}",
            cells=tuple(
                tuple(100 * matrix.accuracy(number, source, target).share for source in places)
                for target in places
            ),
        )
        for number, steps in enumerate(matrix.steps)
    )
    about = f"PGD within {matrix.threat}, {counted(matrix.num_images, 'image')}"
    return Figure(
        name="transfer",
        title=f"{about}\noutlined: white-box",
        caption="On the diagonal: images that each target classifies correctly under its own "
        "adversarial examples. Elsewhere: how many more or fewer under those of each source.",
        alternative=f"Heat maps of {about}; targets in rows, sources in columns, white-box on the "
        "diagonal.",
        drawing=HeatMap(
            rows=Axis(label="target: judged"),
            columns=Axis(label="source: attacked"),
            row_names=matrix.networks,
            column_names=matrix.networks,
            value=Axis(label="images still right", unit="%"),
            tables=tables,
            outlined=True,
        ),
        provenance=Provenance(
            command=f"sparring transfer {' '.join(matrix.networks)}",
            seeds=(matrix.seed,),
            environment=matrix.environment,
        ),
    )
