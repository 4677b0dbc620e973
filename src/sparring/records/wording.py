"""How numbers, times and settings are put into words, the same in a terminal and on a page."""

from collections.abc import Mapping, Sequence

from sparring.records.environment import Environment
from sparring.records.sizes import eps_text


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
    """So many of a thing: `1 update`, `10,000 updates`."""
    return f"{count_text(count)} {thing}{'' if count == 1 else 's'}"


def hardware_text(where: Environment) -> str:
    """What something was computed with, in one line."""
    threads = counted(where.threads, "thread")
    return f"{where.processor}, {where.device}, {threads}, {where.precision}, torch {where.torch}"


def setting_text(value: object) -> str:
    """A setting as people read it: a record's kind, then its settings by name."""
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


def few(names: Sequence[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are: `a, b, c and 7 more`."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"
