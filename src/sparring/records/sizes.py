"""The size of a threat as people write it."""

from fractions import Fraction

_GREY_LEVELS = 255
_NEAR = 1e-6
"""Largest distance from a whole number of grey levels that is still shown as one."""


def eps_text(eps: float) -> str:
    """Size of a threat as people write it: `8/255` for whole grey levels, else a decimal."""
    levels = eps * _GREY_LEVELS
    if round(levels) >= 1 and abs(levels - round(levels)) < _NEAR:
        return f"{round(levels)}/{_GREY_LEVELS}"
    return f"{eps:g}"


def eps_from(text: str) -> float:
    """Size of a threat from `0.3` or `8/255`. Raises `ValueError` for anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"eps must be a number such as 0.3 or 8/255; got {text}.") from error
