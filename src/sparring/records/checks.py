"""Range checks of numbers and names in settings and arguments.

Each check names the setting, the rule and the value, and raises `ConfigError`.
"""

import math
from collections.abc import Iterable

from sparring.errors import ConfigError
from sparring.records.text import did_you_mean, nearest, one_line

_DIGITS = 18
"""Most digits of a number that always fits into 64 bits."""


MOST = 10**9
"""Largest count, where no other is said: more of anything never ends."""
_MOST_OF = {
    **dict.fromkeys(("steps", "restarts", "queries", "image_size", "num_classes"), 10**6),
    **dict.fromkeys(("width", "depth", "channels"), 10**4),
    **dict.fromkeys(("workers", "threads", "jobs"), 10**4),
    **dict.fromkeys(("seed", "data_memory"), 2**64 - 1),
}
"""Largest counts of some things, by the last part of their names."""


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a count below `least`, or one too large for a run to ever end."""
    if value < least:
        raise ConfigError.expected(f"{name} must be {least} or more", value)
    last = name.rpartition(".")[2].lstrip("-").replace("-", "_").rpartition(" ")[2]
    most = _MOST_OF.get(last, MOST)
    if value > most:
        raise ConfigError.expected(f"{name} must be {most:,} or less", str(value)[:24])


def within(name: str, value: float, interval: str, do: str = "") -> None:
    """Refuse a number outside an interval written as `[0, 1)`; NaN lies in none.

    `do` says what to give instead.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise ConfigError.expected(f"{name} must lie in {interval}", value, do)


def positive(name: str, value: float, do: str = "") -> None:
    """Refuse a number that is not finite and above 0."""
    if not 0 < value < math.inf:
        raise ConfigError.expected(f"{name} must be finite and above 0", value, do)


def choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones; the error suggests the nearest."""
    names = list(known)
    if value not in names:
        near = did_you_mean(nearest(value, names)).strip() or "Take one of those."
        rule = f"{name} must be one of {', '.join(map(one_line, names))}"
        raise ConfigError.expected(rule, f'"{one_line(value)}"', near)


def count_in(text: str) -> int:
    """The count that a text stands for, of at most 18 digits; 0 if it stands for none."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0
