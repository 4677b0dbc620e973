"""Style of drawings: colours, dashes, markers, and Matplotlib's settings for files without a date.

Each colour has a contrast of at least 4.5:1 with white. Series differ in dash and marker as well,
so that they stay distinct for the colour-blind and in grey print. Matplotlib is imported only to
draw.

Units: inches on the page, 72 points to each.
"""

import io
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INK = "#1d2330"
"""Text."""
QUIET = "#5a6372"
"""Ticks and frames."""
RULE = "#dde1e7"
"""Grid lines."""
PAPER = "#ffffff"
"""The background."""

HUES = (
    *("#0068a8", "#c64f00", "#00795a", "#a03c85", "#806000", "#4a5160"),
    *("#0f2e94", "#382a98", "#522695", "#69238d", "#7e2080", "#901e6f"),
    *("#9f1e5b", "#ab2444", "#b32f26", "#ae4607", "#a45b0b", "#9d6a0e"),
)
"""Six colours that differ most, in the order of Okabe & Ito, and twelve that form a scale."""
DISTINCT = 6
"""The colours before the scale."""
SEPARATE = (*range(DISTINCT), 6, 14, 9, 12)
"""Indices of colours for series without an order, the most different ones first."""
DASHES = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (9, 2.5)))
"""Matplotlib's line styles: five, so that neighbours differ."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Matplotlib's markers of points."""
SHADES = "viridis"
"""Matplotlib's colours of numbers: dark for small ones, light for large ones, also in grey."""
CONTRASTS = "PuOr"
"""Colours of differences: orange below zero, purple above, white at zero."""

COUNTS = "Oranges"
"""Colours of counts: the larger, the darker."""

_REPLACED = {"Cc", "Cs", "Cn", "Co"}
"""Unicode categories that a text file cannot hold or fonts do not show."""


class SeriesStyle(NamedTuple):
    """What distinguishes one series from the others."""

    hue: int
    """Index of the colour in `HUES`."""
    dash: int | None
    """Index of the line style in `DASHES`; `None` for single points."""
    marker: int
    """Index of the marker in `MARKERS`."""

    @property
    def colour(self) -> str:
        """The colour as a hexadecimal code."""
        return HUES[self.hue]


def series_style(number: int) -> SeriesStyle:
    """The style of a series by its number, from 0; the first sixty all differ, ten in colour."""
    again, place = divmod(number, len(SEPARATE))
    return SeriesStyle(SEPARATE[place], number % len(DASHES), (number + again) % len(MARKERS))


def hues(count: int) -> list[int]:
    """Indices in `HUES` of this many colours; a scale if they are more than `DISTINCT`."""
    if count <= DISTINCT:
        return list(range(count))
    steps = len(HUES) - DISTINCT - 1
    return [DISTINCT + round(place * steps / (count - 1)) for place in range(count)]


def text_colour_on(shade: tuple[float, ...]) -> str:
    """Black or white, whichever has the higher contrast with a colour: 4.5:1 at least."""
    return "black" if luminance(shade) > 0.179 else "white"


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1 (WCAG 2)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def legible(text: str) -> str:
    """A text in which characters that XML or UTF-8 cannot hold are replaced by U+FFFD."""
    kept = text.replace("\t", " ")
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in _REPLACED else "\ufffd"
        for letter in kept
    )


def short(value: float) -> str:
    """A number with at most six digits."""
    return f"{value:.6g}"


def label(name: str, unit: str) -> str:
    """The label of an axis, with its unit."""
    return legible(f"{name} ({unit})" if unit else name)


POINTS = 72
"""Points per inch; lengths in an SVG are in points."""

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
    """Apply the settings of drawings, and `others`, within the block."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update({**_SETTINGS, **others})  # pyright: ignore[reportCallIssue, reportArgumentType]
        # The reader's fonts show names in any script; the font used for measuring may lack it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def sheet(width: float, height: float) -> "Figure":
    """An empty page whose layout makes room for titles and labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=POINTS, layout="constrained")


def saved(figure: "Figure", ending: str, words: Sequence[str] = ("", "")) -> bytes:
    """The content of a file, with title and description `words`, without a date."""
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
