"""Where attacked batches come from. The trainer iterates over one and does not know which.

A source is asked for a batch when the trainer stands at some version, and may attack any ticket
then; `attack_now(number)` attacks with the weights as they are at that moment.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparring.attacks import AttackedBatch
from sparring.errors import ConfigError
from sparring.models.saved import Fields, Numbers
from sparring.records.ranges import at_least
from sparring.training.asynchronous import Asynchronous
from sparring.training.desk import Desk


@runtime_checkable
class Source(Protocol):
    """Attacked batches in ticket order, and what it takes to go on after an interruption."""

    def __next__(self) -> AttackedBatch:
        """The next ticket's batch; `StopIteration` after the last."""
        ...

    def __iter__(self) -> "Source":
        """Itself."""
        ...

    def updated(self) -> None:
        """The batch that was handed over last has been trained on: the weights are new."""
        ...

    def figures(self) -> Mapping[str, int | float | str]:
        """What the run's log should say of the batch handed over last, by name."""
        ...

    def totals(self) -> Mapping[str, int]:
        """What it should say of the whole run so far, at a checkpoint."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Everything a checkpoint must hold so that no batch is lost or made twice."""
        ...

    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        """Go on after `trained` batches, from what `state()` gave then.

        Raises `ValueError` for anything that it cannot have given.
        """
        ...

    def close(self) -> None:
        """Give back whatever it holds besides memory; may be called twice."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """Every batch is attacked with the weights it is then trained on: synchronous training."""

    @property
    def fresh_steps(self) -> int:
        """None is left to take: all of them were fresh."""
        return 0

    @property
    def split(self) -> int:
        """A batch is attacked as a whole."""
        return 1

    @property
    def bound(self) -> int:
        """Nothing is ever stale."""
        return 0

    def open(self, desk: Desk, updates: int) -> Source:
        """A source of `updates` batches."""
        return DelayLine(desk, updates, staleness=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stale:
    """Every batch waits in a queue of exactly `staleness` batches, filled before the first update.

    The paper's simulation (section 5): the batch trained on at update t was attacked with version
    max(0, t - s). Memory grows with s batches of adversarial images, not with s models.
    """

    staleness: int = 32
    """Length of the queue, in updates: the paper's s."""
    fresh_steps: int = 0
    """Steps of each attack, the last, that are taken only when its batch is trained on, with the
    weights of then; the first step is never one of them. The paper has none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.staleness < 0:
            raise ConfigError(
                f"staleness must be 0 or more because it is the length of a queue; got "
                f"{self.staleness}. 0 is the same as the source fresh."
            )
        at_least("source.staleness", self.staleness, 0)
        at_least("source.fresh_steps", self.fresh_steps, 0)

    @property
    def split(self) -> int:
        """A batch is attacked as a whole."""
        return 1

    @property
    def bound(self) -> int:
        """The length of the queue."""
        return self.staleness

    def open(self, desk: Desk, updates: int) -> Source:
        """A source of `updates` batches."""
        return DelayLine(desk, updates, staleness=self.staleness)


_SLACK = 1e-3
"""How far pixels may lie outside [0, 1] by rounding."""

SourceKind = Fresh | Stale | Asynchronous


class DelayLine:
    """Attacks each ticket `staleness` updates before it is handed over."""

    def __init__(self, desk: Desk, updates: int, *, staleness: int) -> None:
        self._desk = desk
        self._updates = updates
        self._staleness = staleness
        self._waiting: deque[AttackedBatch] = deque()
        self._next = 0

    def __iter__(self) -> "DelayLine":
        return self

    def __next__(self) -> AttackedBatch:
        """Attack until one batch more than the queue's length waits; hand over the oldest."""
        while len(self._waiting) <= self._staleness and self._next < self._updates:
            self._waiting.append(self._desk.attack_now(self._next))
            self._next += 1
        if not self._waiting:
            raise StopIteration
        return self._desk.finish(self._waiting.popleft())

    def updated(self) -> None:
        """Nothing waits for it."""

    def figures(self) -> Mapping[str, int | float | str]:
        """Nothing that the batch does not tell itself."""
        return {}

    def totals(self) -> Mapping[str, int]:
        """Nothing."""
        return {}

    def state(self) -> Mapping[str, Tensor]:
        """The adversarial images that wait, and their versions; clean images are not kept."""
        if not self._waiting:
            return {}
        return {
            "adversarial": torch.stack([batch.adversarial for batch in self._waiting]),
            "versions": torch.tensor([batch.version for batch in self._waiting]),
            "eps": torch.tensor([batch.eps for batch in self._waiting], dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        """Fill the queue as it was after `trained` batches had been handed over."""
        self._waiting.clear()
        count = min(self._staleness, self._updates - trained) if trained else 0
        if count or state:
            one = self._desk.recall(trained).adversarial
            pixels = Numbers(
                dtype=one.dtype, shape=(count, *one.shape), least=-_SLACK, most=1 + _SLACK
            )
            versions = Numbers(dtype=torch.int64, shape=(count,), least=0, most=trained)
            eps = Numbers(dtype=torch.float64, shape=(count,), finite=True)
            wanted = {"adversarial": pixels, "versions": versions, "eps": eps}
            Fields(wanted).check(state, "source")
        if state:
            columns = (state["adversarial"], state["versions"].tolist(), state["eps"].tolist())
            for place, (adversarial, version, eps) in enumerate(zip(*columns, strict=True)):
                clean = self._desk.recall(trained + place)
                self._waiting.append(
                    replace(clean, adversarial=adversarial, version=version, eps=eps)
                )
        self._next = trained + len(self._waiting)

    def close(self) -> None:
        """Nothing but memory is held."""
