"""A share of images with its interval."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from sparring.errors import ConfigError

Z = 1.959963984540054
"""Standard normal quantile of 0.975, so that an interval covers 95 %."""


class Interval(NamedTuple):
    """Range of shares, in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """A number of images out of all; prints as `91.2 % [90.6, 91.7]`."""

    successes: int
    """Images counted, from 0 to `total`."""
    total: int
    """Images looked at, at least 1."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless 0 <= successes <= total and total >= 1."""
        if not (self.total >= 1 and 0 <= self.successes <= self.total):
            raise ConfigError.expected(
                "a proportion needs 0 <= successes <= total and total >= 1",
                f"{self.successes} of {self.total}",
            )

    @property
    def share(self) -> float:
        """Successes over total, in [0, 1]."""
        return self.successes / self.total

    @property
    def interval(self) -> Interval:
        """95 % interval of the share behind the sample (Wilson 1927)."""
        n, p = self.total, self.share
        centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return Interval(
            low=0.0 if self.successes == 0 else centre - half,
            high=1.0 if self.successes == n else centre + half,
        )

    def __float__(self) -> float:
        """The share."""
        return self.share

    def __lt__(self, other: "Proportion | float") -> bool:
        """Whether the share is smaller; a number stands for a share, so `robust > 0.5` works."""
        return self._compared(other, operator.lt)

    def __le__(self, other: "Proportion | float") -> bool:
        return self._compared(other, operator.le)

    def __gt__(self, other: "Proportion | float") -> bool:
        return self._compared(other, operator.gt)

    def __ge__(self, other: "Proportion | float") -> bool:
        return self._compared(other, operator.ge)

    def _compared(self, other: object, holds: Callable[[float, float], bool]) -> bool:
        if not isinstance(other, Proportion | int | float):
            return NotImplemented
        return holds(self.share, float(other))

    @override
    def __format__(self, spec: str) -> str:
        return format(self.share, spec) if spec else str(self)

    @override
    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
