"""Checks of settings that several records share."""

from sparring.errors import ConfigError

_DIGITS = 18
"""Most digits of a number that always fits into 64 bits."""


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a count below the least that means anything. Raises `ConfigError`."""
    if value < least:
        raise ConfigError(
            f"{name} must be {least} or more because it counts things; got {value}. "
            f"Give a larger number."
        )


def count_in(text: str) -> int:
    """The count that a text stands for, of at most 18 digits; 0 if it stands for none."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0
