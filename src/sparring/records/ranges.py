"""Checks of settings that several records share."""

from sparring.errors import ConfigError

_DIGITS = 18
"""Most digits of a number that always fits into 64 bits."""


MOST = 10**9
"""Largest count, where no other is said: more of anything never ends."""
_MOST = {
    **dict.fromkeys(("steps", "restarts", "queries", "image_size", "num_classes"), 10**6),
    **dict.fromkeys(("width", "depth", "channels"), 10**4),
    **dict.fromkeys(("workers", "threads", "jobs"), 10**4),
    **dict.fromkeys(("seed", "data_memory"), 2**64 - 1),
}
"""Largest counts of some things, by the last part of their names."""


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a count below the least that means anything, or above all that end.

    Raises `ConfigError`.
    """
    if value < least:
        raise ConfigError(
            f"{name} must be {least} or more because it counts things; got {value}. "
            f"Give a larger number."
        )
    last = name.rpartition(".")[2].lstrip("-").replace("-", "_").rpartition(" ")[2]
    most = _MOST.get(last, MOST)
    if value > most:
        raise ConfigError(
            f"{name} must be {most:,} or less because more would never end; got "
            f"{str(value)[:24]}. Give a smaller number."
        )


def count_in(text: str) -> int:
    """The count that a text stands for, of at most 18 digits; 0 if it stands for none."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0
