"""The transfer matrix: how networks fare on adversarial examples that were made on one another.

The *source* is the network that was attacked, the *target* the one that is judged; where they are
the same the attack is white-box.  Source: Bhat, Tsipras & Madry 2019, table 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from typing_extensions import override

from sparring.errors import ConfigError
from sparring.records.checks import at_least
from sparring.records.codec import from_json, to_json
from sparring.records.environment import Environment
from sparring.records.files import read_json, write_json
from sparring.records.proportion import Proportion
from sparring.records.text import counted, data_frame, html_table
from sparring.records.typed import typed

STEPS = (1, 4, 8, 128)
"""Numbers of steps of table 1."""
SIGNIFICANT = 0.01
"""Probability below which chance is not taken for the reason."""


def sign_test(only_first: int, only_second: int) -> float:
    """How likely a fair coin is to say "first" as often as this, of as many throws as there are.

    For two things judged on the same images: `only_first` counts the images that only the first
    did something to, `only_second` those that only the second did; images that both or neither did
    it to say nothing. Small if the first does it more than chance explains; one-sided, exact, and
    rounded once. Raises `ConfigError` for a negative count.
    Cost: below 0.1 s for 10,000 images each.
    """
    if min(only_first, only_second) < 0:
        raise ConfigError.expected(
            "a sign test needs counts of 0 or more", f"{only_first} and {only_second}"
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One target on the adversarial examples of one source, beside the target's own."""

    right: int
    """Images that it classifies correctly although they were attacked."""
    only_transferred: int
    """Images that it gets wrong as the source's examples, but not as its own."""
    only_white_box: int
    """Images that it gets wrong as its own examples, but not as the source's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferMatrix:
    """Every network on every network's adversarial examples, for several numbers of steps."""

    networks: tuple[str, ...]
    """Their names: sources and targets, in the order of all that follows."""
    steps: tuple[int, ...]
    """Gradient steps of the attacks."""
    threat: str
    """The threat in words, such as Linf 0.3 or Linf 8/255."""
    natural: tuple[Proportion, ...]
    """Clean images that each network classifies correctly."""
    cells: tuple[tuple[tuple[Cell, ...], ...], ...]
    """What was counted, as [steps][source][target]."""
    num_images: int
    """Images that were attacked, whether right or wrong when clean."""
    seed: int
    """Seed of the attacks' starts."""
    seconds: float
    """Wall-clock time of everything."""
    environment: Environment
    """What it was computed with."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless the counts can belong to one matrix."""
        check_contest(self.networks, self.steps)
        size = len(self.networks)
        shaped = len(self.cells) == len(self.steps) and all(
            len(table) == size and all(len(row) == size for row in table) for table in self.cells
        )
        if not shaped or len(self.natural) != size:
            raise ConfigError(
                f"a transfer matrix of {size} networks and {len(self.steps)} numbers of steps must "
                "have a cell for each of them, source and target, and each network's natural "
                "accuracy; got another number of them."
            )
        if any(share.total != self.num_images for share in self.natural):
            raise ConfigError(
                f"natural accuracies must be shares of the {self.num_images} images that were "
                f"attacked; got shares of {', '.join(str(share.total) for share in self.natural)}."
            )
        for number, source, target in self._places():
            if not self._possible(number, source, target):
                raise ConfigError(
                    "a cell must differ from the white-box one by the images that only one of both "
                    "attacks broke, because both are judged on the same images; got "
                    f"{self.cells[number][source][target]} at {self.steps[number]} steps from "
                    f"{self.networks[source]} to {self.networks[target]}."
                )

    def accuracy(self, number: int, source: int, target: int) -> Proportion:
        """Images that a target gets right as a source's examples, all counted from 0."""
        return Proportion(successes=self.cells[number][source][target].right, total=self.num_images)

    @property
    def widest(self) -> float:
        """Width of the widest 95 % interval of all accuracies, in [0, 1]."""
        intervals = (self.accuracy(*place).interval for place in self._places())
        return max(high - low for low, high in intervals)

    @property
    def least_chance(self) -> float:
        """The smallest result that a sign test on so many images can have."""
        return sign_test(self.num_images, 0)

    @property
    def flagged(self) -> tuple[tuple[int, int, int], ...]:
        """Steps, source and target where the transferred attack is the stronger, by their places.

        By a sign test of each by itself: of a hundred without a cause, one may be among them.
        """
        return tuple(
            (number, source, target)
            for number, source, target in self._places()
            if source != target and self._chance(number, source, target) < SIGNIFICANT
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """The paper's sign of a shattered loss surface, in a sentence for each place that has it.

        A transferred attack that breaks significantly more images than the white-box one shows that
        the target's own gradients mislead the attack, not that the target is robust.
        """
        return tuple(self._flag(*place) for place in self.flagged)

    @override
    def __repr__(self) -> str:
        flags = "".join(f"\n  flag, {flag}" for flag in self.flags)
        return (
            f"transfer matrix of {', '.join(self.networks)} at {', '.join(map(str, self.steps))} "
            f"steps of PGD ({self.threat}, {counted(self.num_images, 'image')}){flags}"
        )

    def _repr_html_(self) -> str:
        """The accuracies as a table, for a notebook."""
        rows = [
            (str(row["steps"]), str(row["target"]), str(row["source"]), f"{row['share']:.1%}")
            for row in self._rows()
        ]
        headings = ("steps", "target", "attacked source", "accuracy")
        return html_table(f"{self.threat}, {counted(self.num_images, 'image')}", headings, rows)

    def to_dict(self) -> dict[str, Any]:
        """What transfer.json holds."""
        return to_json(self)

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each number of steps, source and target."""
        return data_frame(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        found = []
        for number, source, target in self._places():
            share = self.accuracy(number, source, target)
            names = {"source": self.networks[source], "target": self.networks[target]}
            accuracy = {"share": share.share, **share.interval._asdict()}
            found.append({"steps": self.steps[number], **names, **accuracy})
        return found

    def save(self, path: Path) -> None:
        """Write transfer.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self))

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "TransferMatrix":
        """Read transfer.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        return from_json(cls, read_json(Path(path)), where=str(path))

    def _places(self) -> Iterator[tuple[int, int, int]]:
        size = range(len(self.networks))
        return product(range(len(self.steps)), size, size)

    def _possible(self, number: int, source: int, target: int) -> bool:
        """Whether the counts of a cell fit its diagonal one: both are of the same images."""
        cell, own = self.cells[number][source][target], self.cells[number][target][target]
        both_right = cell.right - cell.only_white_box
        both_wrong = self.num_images - cell.right - cell.only_transferred
        least = min(cell.only_transferred, cell.only_white_box, both_right, both_wrong)
        alike = source != target or cell.only_white_box == 0
        return least >= 0 and alike and both_right + cell.only_transferred == own.right

    def _chance(self, number: int, source: int, target: int) -> float:
        cell = self.cells[number][source][target]
        return sign_test(cell.only_transferred, cell.only_white_box)

    def _flag(self, number: int, source: int, target: int) -> str:
        transferred = self.accuracy(number, source, target)
        own = self.accuracy(number, target, target)
        count, chance = self.steps[number], self._chance(number, source, target)
        unlikely = f"p = {chance:.1g}" if chance >= 1e-9 else "p < 1e-9"
        return (
            f"{self.networks[target]} at {count} step{'' if count == 1 else 's'}: the attack on "
            f"{self.networks[source]} leaves {100 * transferred.share:.1f} % right, the white-box "
            f"one {100 * own.share:.1f} % ({unlikely}), so the white-box "
            "one overstates its robustness"
        )


def check_contest(networks: Sequence[str], steps: Sequence[int]) -> None:
    """Raise `ConfigError` unless there are two networks and a number of steps, each once."""
    if len(networks) < 2:
        raise ConfigError(
            "a transfer matrix needs at least two networks, because one is judged on what was made "
            f"on another; got {', '.join(networks) or 'none'}. Name two or more."
        )
    _check_unique("networks", networks)
    if not steps or min(steps) < 1:
        raise ConfigError(
            "steps must be 1 or more, and at least one number of them, because they count gradient "
            f"steps; got {', '.join(map(str, steps)) or 'none'}. Take 1 4 8 128."
        )
    at_least("steps", max(steps), 1)
    _check_unique("steps", steps)


def _check_unique(what: str, values: Sequence[object]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{what} must differ, because each has its own place in a transfer matrix; got {twice} "
            "twice. Leave one out."
        )
