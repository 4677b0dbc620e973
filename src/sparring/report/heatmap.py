"""A transfer matrix as a picture: one panel for each number of steps, numbers in the cells.

Units: inches on the page, per cent in the cells.
"""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.errors import ConfigError
from sparring.records import TransferMatrix, run_errors, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

FORMATS = (".svg", ".png", ".pdf")
"""Endings of a picture's name, which decide what it is written as."""

CELL = 0.62
"""Side of a cell: a number of five characters fits into it."""
ACROSS = 8
"""Cells beside each other on a page, in as many panels as that allows."""
NAME = 24
"""Characters of a network's name in one line."""
SHADES = "viridis"
"""Name of the colours: dark for few images right, light for many."""


def heat_map(matrix: TransferMatrix, path: Path) -> None:
    """Draw a transfer matrix into a file: rows are targets, columns sources, as in the paper.

    The diagonal, where the attack is white-box, is outlined. Matplotlib is loaded here and its
    settings are left as they were. The file is written whole or not at all.
    Raises `ConfigError` for a name that ends in none of `FORMATS`, `RunError` if it cannot be
    written.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(
            f"a picture's name must end in {', '.join(FORMATS)}, because that decides what it is "
            f"written as; got {path}. Take {path.with_suffix(FORMATS[0])}."
        )
    import matplotlib
    from matplotlib.figure import Figure

    size, count = len(matrix.networks), len(matrix.steps)
    across = min(count, max(2, ACROSS // size))
    down = math.ceil(count / across)
    page = (2.6 + across * (size * CELL + 0.5), 1.3 + down * (size * CELL + 1.6))
    # Text stays text in an SVG, and the same matrix gives the same file.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "sparring", "font.size": 9.0}
    ):
        figure = Figure(figsize=page, layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for panel in panels[count:]:
            panel.set_axis_off()
        drawn = [_draw(panel, matrix, number) for number, panel in enumerate(panels[:count])]
        for number, panel in enumerate(panels[:count]):
            if number % across:
                panel.set_yticklabels([])
            else:
                panel.set_ylabel("target: judged")
        bar = figure.colorbar(drawn[0], ax=panels, shrink=0.8)
        bar.set_label("images still right, per cent")
        figure.suptitle(
            f"PGD within {matrix.threat}, {matrix.num_images:,} images\noutlined: white-box"
        )
        page_of = io.BytesIO()
        figure.savefig(page_of, format=ending[1:], dpi=150, metadata=_dateless(ending))
    with run_errors("write", path):
        write_atomically(path, page_of.getvalue())


def _draw(panel: "Axes", matrix: TransferMatrix, number: int) -> "AxesImage":
    """One number of steps; returns the shades, of which one bar tells the meaning."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    places = range(len(matrix.networks))
    shares = [
        [100 * matrix.accuracy(number, source, target).share for source in places]
        for target in places
    ]
    colours = colormaps[SHADES]
    shades = panel.imshow(shares, cmap=colours, vmin=0, vmax=100)
    for target in places:
        for source in places:
            share = shares[target][source]
            ink = _ink(colours(share / 100))
            weight = "bold" if source == target else "normal"
            panel.text(
                source, target, f"{share:.1f}", ha="center", va="center", color=ink, weight=weight
            )
            if source == target:
                outline = Rectangle(
                    (source - 0.44, target - 0.44), 0.88, 0.88, fill=False, edgecolor=ink, lw=1.5
                )
                panel.add_patch(outline)
    names = [_lines(name) for name in matrix.networks]
    panel.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
    panel.set_yticks(places, names)
    panel.tick_params(length=0)
    steps = matrix.steps[number]
    panel.set_title(f"{steps} step{'' if steps == 1 else 's'}")
    panel.set_xlabel("source: attacked")
    return shades


def _ink(shade: tuple[float, ...]) -> str:
    """Black on light cells, white on dark ones, by how bright a colour looks (Rec. 709)."""
    red, green, blue = shade[:3]
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"


def _lines(name: str) -> str:
    """A name in lines that leave room for the cells."""
    return "\n".join(name[start : start + NAME] for start in range(0, len(name), NAME))


def _dateless(ending: str) -> dict[str, None]:
    """What keeps the time out of a file, as its format calls it."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(ending, {})
