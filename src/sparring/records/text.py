"""Numbers, amounts, times, names and tables, the same in a terminal, in JSON and on a page."""

import difflib
import html
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Any

from sparring.errors import ConfigError
from sparring.records.environment import Environment

BYTES = "bytes"
"""Marks a setting that may be written with a unit."""
ByteCount = Annotated[int, BYTES]
"""An amount of memory; in JSON a number, or text such as "64MiB"."""

_UNITS_OF_BYTES = MappingProxyType(
    {"": 1, "b": 1}
    | {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}
    | {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
)
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def bytes_from(text: str) -> int:
    """Bytes from `4096`, `64MiB` or `2 GB`, in any case. Raises `ValueError` for anything else."""
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2].lower() not in _UNITS_OF_BYTES:
        raise ValueError(f"must be a number of bytes such as 4096, 64MiB or 2GB; got {text}.")
    return int(float(found[1]) * _UNITS_OF_BYTES[found[2].lower()])


def bytes_text(count: int) -> str:
    """An amount of memory to three digits, which `bytes_from` reads: `64MiB`, `1.21GiB`."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_BINARY) - 1:
        size, unit = size / 1024, unit + 1
    number = f"{size:.3g}" if size < 999.5 else f"{size:.0f}"
    return number + _BINARY[unit]


_GREY_LEVELS = 255
_NEAR = 1e-6
"""Largest distance from a whole number of grey levels that is still shown as one."""


def eps_text(eps: float) -> str:
    """Size of a threat as it is written: `8/255` for grey levels, else a decimal such as `1`."""
    levels, decimal = eps * _GREY_LEVELS, f"{eps:g}"
    grey = f"{round(levels)}/{_GREY_LEVELS}"
    if len(decimal) < len(grey) and float(decimal) == eps:
        return decimal
    return grey if round(levels) >= 1 and abs(levels - round(levels)) < _NEAR else decimal


def eps_from(text: str) -> float:
    """Size of a threat from `0.3` or `8/255`. Raises `ValueError` for anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"eps must be a number such as 0.3 or 8/255; got {text}.") from error


SIMILAR, SIMILAR_SHORT = 0.7, 0.8
"""Least similarity of a suggestion; the second for names of up to three letters."""
SAME = tuple(
    frozenset(words.split())
    for words in (
        "lr learning-rate rate",
        "batch-size bs batch",
        "weight-decay wd",
        "device dev gpu cuda",
        "model arch architecture net network",
        "data dataset data-path data-dir",
        "init weights checkpoint ckpt model-path pretrained",
        "eps epsilon",
        "threat norm",
        "steps iterations iters num-steps",
        "step-size alpha",
        "restarts num-restarts",
        "epochs epoch num-epochs",
        "out output output-dir save-dir",
        "workers num-workers",
        "threads num-threads",
        "suite attacks attack",
    )
)
"""Words for the same thing, here and in other programs."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Known name for the same thing as `name`, or most like it; `None` if none is similar.

    Case, leading dashes and the kind of dash do not count.
    """
    by_word = {_word(candidate): candidate for candidate in known}
    word = _word(name)
    alike = {other for words in SAME if word in words for other in words} & by_word.keys()
    alike |= {other for other in by_word if sorted(other) == sorted(word)}
    if alike:
        return by_word[word if word in alike else min(alike)]
    if any(word in words for words in SAME):
        return None  # it means something else than what it resembles
    cutoff = SIMILAR if len(word) > 3 else SIMILAR_SHORT
    close = difflib.get_close_matches(word, by_word, n=1, cutoff=cutoff)
    return by_word[close[0]] if close else None


def _word(name: str) -> str:
    return name.casefold().lstrip("-").replace("_", "-")


def did_you_mean(suggestion: str | None) -> str:
    """Closing sentence of a message, with the space before it; empty without a suggestion."""
    return "" if suggestion is None else f" Did you mean {suggestion}?"


def duration_text(seconds: float) -> str:
    """Wall-clock time to about three digits: `3.2 s`, `1 min 42 s`, `2 h 5 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count_text(count: int) -> str:
    """A count with its thousands apart: `10,000`."""
    return f"{count:,}"


def counted(count: int, thing: str) -> str:
    """A number and its noun: `1 update`, `10,000 updates`."""
    return f"{count_text(count)} {thing}{'' if count == 1 else 's'}"


def hardware_text(where: Environment) -> str:
    """What something was computed with, in one line."""
    threads = counted(where.threads, "thread")
    return (
        f"{where.processor}, {where.device}, {threads}, {arithmetic_text(where.precision)}, "
        f"torch {where.torch}"
    )


def arithmetic_text(precision: str) -> str:
    """An arithmetic as it is stored, in words: `bf16, then fp32`."""
    for stored, words in _ARITHMETIC.items():
        precision = precision.replace(stored, words)
    return re.sub(" (direct|folded)", "", precision)


_ARITHMETIC = {
    "bf16 shadow, channels-last": "bf16",
    "bf16 spectral": "bf16 with convolutions by FFT",
    "fp32 spectral": "fp32 with convolutions by FFT",
}
"""Words for the names of working copies, which stored files have."""


def setting_text(value: object) -> str:
    """A setting as people read it: a record's kind, then its settings by name."""
    if isinstance(value, list | tuple):
        return "; ".join(map(setting_text, value)) or "none"
    if not isinstance(value, Mapping):
        return f"{value:g}" if isinstance(value, float) else str(value)
    parts = []
    for name, inner in value.items():
        if name == "kind":
            parts.append(str(inner))
        elif name == "eps" and isinstance(inner, int | float):
            parts.append(f"{name} {eps_text(inner)}")
        elif inner is not None:
            parts.append(f"{name} {setting_text(inner)}")
    return ", ".join(parts)


def one_line(text: str, at_most: int = 200) -> str:
    """The text in one line of at most `at_most` characters, without control characters."""
    short = " ".join(text[: 4 * at_most].split())
    short = "".join(char if char.isprintable() else "?" for char in short)
    return short if len(short) <= at_most else f"{short[: at_most - 1]}…"


def kind_text(value: object) -> str:
    """What a value is, with its article: `an int`; `None` is itself."""
    return "None" if value is None else with_article(type(value).__name__)


def with_article(name: str) -> str:
    """The name of a thing with its article: `an int`, `an ndarray`, `a str`."""
    return f"{'an' if re.match('[aeiou]|nd', name, re.IGNORECASE) else 'a'} {name}"


def few(names: Sequence[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are: `a, b, c and 7 more`."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def data_frame(rows: Sequence[Mapping[str, object]]) -> Any:
    """A `pandas.DataFrame` of these rows. Raises `ConfigError` if pandas is not installed."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ConfigError(
            "a data frame needs pandas, which is not installed. Run pip install pandas."
        ) from error
    return pandas.DataFrame(list(rows))


def html_table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a notebook."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    head = f"<caption>{html.escape(caption)}</caption>{line('th', headings)}"
    return f"<table>{head}{body}</table>"
