"""Style of drawings: colours, dashes, markers, and Matplotlib's settings for files without a date.

Each colour has a contrast of at least 4.5:1 with white; dash and marker differ as well, so that
series are told apart by the colour-blind and in grey print. Matplotlib is loaded only to draw.

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
"""Words and numbers."""
QUIET = "#5a6372"
"""Ticks and what else may stand back."""
RULE = "#dde1e7"
"""Lines of a grid."""
PAPER = "#ffffff"
"""Behind everything."""

HUES = (
    *("#0068a8", "#c64f00", "#00795a", "#a03c85", "#806000", "#4a5160"),
    *("#0f2e94", "#382a98", "#522695", "#69238d", "#7e2080", "#901e6f"),
    *("#9f1e5b", "#ab2444", "#b32f26", "#ae4607", "#a45b0b", "#9d6a0e"),
)
"""Six colours that differ most, in the order of Okabe & Ito, and twelve that form a scale."""
DISTINCT = 6
"""The colours before the scale."""
DASHES = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (9, 2.5)))
"""Line styles as Matplotlib names them; five, so that hue and dash repeat at different times."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Signs at points."""
SHADES = "viridis"
"""Colours of numbers: dark for small ones, light for large ones; in order also in grey."""
CONTRASTS = "PuOr"
"""Colours of differences: orange below zero, purple above, white at zero."""

COUNTS = "Oranges"
"""Colours of counts: the darker the more; none of zero."""

_REPLACED = {"Cc", "Cs", "Cn", "Co"}
"""Unicode categories that no file of text may hold, or no font shows."""


class SeriesStyle(NamedTuple):
    """What distinguishes one series from the others."""

    hue: int
    """Place of its colour in `HUES`."""
    dash: int | None
    """Place of its line style in `DASHES`; none where there is no line, but single points."""
    marker: int
    """Place of its sign in `MARKERS`."""

    @property
    def colour(self) -> str:
        """Its colour."""
        return HUES[self.hue]


def series_style(number: int) -> SeriesStyle:
    """The look of a series by its number, from 0: no two of the first thirty are alike."""
    again = number // DISTINCT
    return SeriesStyle(number % DISTINCT, number % len(DASHES), (number + again) % len(MARKERS))


def hues(count: int) -> list[int]:
    """Places in `HUES` of the colours of some things in order: a scale if they are many."""
    if count <= DISTINCT:
        return list(range(count))
    steps = len(HUES) - DISTINCT - 1
    return [DISTINCT + round(place * steps / (count - 1)) for place in range(count)]


def text_colour_on(shade: tuple[float, ...]) -> str:
    """Black or white, whichever has the higher contrast with a colour: 4.5:1 at least."""
    return "black" if luminance(shade) > 0.179 else "white"


def luminance(colour: tuple[float, ...]) -> float:
    """How much light a colour of sRGB sends, from 0 to 1 (WCAG 2, relative luminance)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def legible(text: str) -> str:
    """A text without characters that neither XML nor UTF-8 can hold: they become U+FFFD."""
    kept = text.replace("\t", " ")
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in _REPLACED else "\ufffd"
        for letter in kept
    )


def short(value: float) -> str:
    """A number as people read it, to six digits at most."""
    return f"{value:.6g}"


def label(name: str, unit: str) -> str:
    """An axis in words."""
    return legible(f"{name} ({unit})" if unit else name)


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
