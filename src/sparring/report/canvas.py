"""Matplotlib, kept at arm's length: loaded to draw, its settings put back, its files dateless.

Units: inches on the page, 72 points to each.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from sparring.report.ink import INK, PAPER, QUIET, RULE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 72
"""Points of an inch: what an SVG counts in."""

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "sparring",  # the same drawing gives the same file
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": ["sans-serif"],
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": QUIET,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.0,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
}


@contextmanager
def drawing_settings(others: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Our settings and some others while the block lasts; Matplotlib's own come back after it."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update({**_SETTINGS, **others})  # pyright: ignore[reportCallIssue, reportArgumentType]
        # The reader's own fonts show a name in any script; what is measured here may lack it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def sheet(width: float, height: float) -> "Figure":
    """An empty page that makes room for what is written on it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=POINTS, layout="constrained")


def saved(figure: "Figure", ending: str, words: Sequence[str] = ("", "")) -> bytes:
    """A file of a drawing, with a title and a description in it; without a date."""
    title, description = words
    metadata = {
        ".svg": {"Date": None, "Title": title, "Description": description},
        ".pdf": {"CreationDate": None, "Title": title, "Subject": description},
        ".png": {"Title": title, "Description": description},
    }[ending]
    kept = {name: text for name, text in metadata.items() if text or text is None}
    file = io.BytesIO()
    figure.savefig(file, format=ending[1:], dpi=POINTS if ending == ".svg" else 150, metadata=kept)
    return file.getvalue()
