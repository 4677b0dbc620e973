"""Colours, dashes and markers of drawings: told apart by the colour-blind, and in grey print.

Each colour has a contrast of at least 4.5:1 with white; dash and marker differ as well.
"""

import unicodedata
from typing import NamedTuple

INK = "#1d2330"
"""Words and numbers."""
QUIET = "#5a6372"
"""Ticks and what else may stand back."""
RULE = "#dde1e7"
"""Lines of a grid."""
PAPER = "#ffffff"
"""Behind everything."""

HUES = ("#0068a8", "#c64f00", "#00795a", "#a03c85", "#806000", "#4a5160")
"""Blue, vermilion, green, purple, ochre, slate: in the order of Okabe & Ito, darker."""
DASHES = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (9, 2.5)))
"""Line styles as Matplotlib names them; five, so that hue and dash repeat at different times."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Signs at points."""
SHADES = "viridis"
"""Colours of numbers: dark for small ones, light for large ones; in order also in grey."""

_REPLACED = {"Cc", "Cs", "Cn", "Co"}
"""Unicode categories that no file of text may hold, or no font shows."""


class Look(NamedTuple):
    """How one series is told from the others."""

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


def look(number: int) -> Look:
    """The look of a series by its number, from 0: no two of the first thirty are alike."""
    again = number // len(HUES)
    return Look(number % len(HUES), number % len(DASHES), (number + again) % len(MARKERS))


def ink_on(shade: tuple[float, ...]) -> str:
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
