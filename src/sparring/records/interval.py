"""Shares of counted images, and how far chance alone could have moved them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from sparring.errors import ConfigError

Z = 1.959963984540054
"""Standard normal quantile of 0.975, so that an interval covers 95 %."""


class Interval(NamedTuple):
    """Range of shares, in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """So many of so many images; prints as `91.2 % [90.6, 91.7]`."""

    successes: int
    """Images counted, from 0 to `total`."""

    total: int
    """Images looked at, at least 1."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless 0 <= successes <= total and total >= 1."""
        if not (self.total >= 1 and 0 <= self.successes <= self.total):
            raise ConfigError(
                "a proportion needs 0 <= successes <= total and total >= 1, because it counts "
                f"some images out of all; got {self.successes} of {self.total}."
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

    def __str__(self) -> str:
        """Share and interval in per cent."""
        low, high = self.interval
        return f"{100 * self.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def sign_test(only_first: int, only_second: int) -> float:
    """How likely a fair coin is to say "first" as often as this, of as many throws as there are.

    For two things judged on the same images: `only_first` counts the images that only the first
    did something to, `only_second` those that only the second did; images that both or neither did
    it to say nothing. Small if the first does it more than chance explains; one-sided, exact, and
    rounded once. Raises `ConfigError` for a negative count.
    Cost: below 0.1 s for 10,000 images each.
    """
    if min(only_first, only_second) < 0:
        raise ConfigError(
            "a sign test needs counts of 0 or more, because they count images; "
            f"got {only_first} and {only_second}."
        )
    throws = only_first + only_second
    if only_first > only_second:
        outcomes = _fewest(throws, only_second + 1)
    else:
        outcomes = 2**throws - _fewest(throws, only_first)
    return outcomes / 2**throws


def _fewest(throws: int, count: int) -> int:
    """Sequences of throws with fewer than `count` heads: the sum of the first `count` binomials."""
    total, binomial = 0, math.comb(throws, 0)
    for heads in range(count):
        total += binomial
        binomial = binomial * (throws - heads) // (heads + 1)
    return total
