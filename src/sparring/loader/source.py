"""What every source of adversarial batches does, and what it works with.

A source is asked for a batch when the weights are at some version, and may attack any ticket then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from sparring.attacks import AttackedBatch, Crafter
from sparring.engine.attacker import AttackJob
from sparring.models import WorkingCopy
from sparring.records.stage import Stage


class Place(NamedTuple):
    """Which of the trainers on one machine a process is."""

    number: int = 0
    """The first one is 0."""
    of: int = 1
    """How many there are."""


@dataclass(kw_only=True, slots=True, eq=False, repr=False)
class LiveModel:
    """The network in training, as attacks see it."""

    network: nn.Module
    """The weights as they are now."""
    copy: WorkingCopy
    """The form in which passes are computed."""
    version: int = 0
    """Updates that the weights have seen."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class SourceSetup:
    """What a source makes batches with."""

    model: LiveModel
    """The network in training."""
    crafter: Crafter
    """Makes batches here."""
    job: AttackJob
    """Makes them elsewhere."""
    place: Place = field(default_factory=Place)
    """Which of the trainers on this machine this is."""
    stopped: Callable[[], bool] = lambda: False
    """Whether the source should end rather than wait for a batch that is not ready."""

    def craft(self, batch: AttackedBatch, stage: Stage) -> AttackedBatch:
        """Take the steps of one stage of a batch's attack with the weights as they are now."""
        model = self.model
        return self.crafter.craft_in_parts(
            batch, model.copy.attacked, version=model.version, stage=stage
        )


@runtime_checkable
class Source(Protocol):
    """Adversarial batches in ticket order, and what it takes to resume."""

    def next(self) -> AttackedBatch:
        """The next ticket's batch; raises `StopIteration` after the last, and when stopped."""
        ...

    def updated(self) -> None:
        """The last batch has been trained on: the weights are new."""
        ...

    def figures(self) -> Mapping[str, int | float | str]:
        """Measurements of the last batch, by name."""
        ...

    def totals(self) -> Mapping[str, int]:
        """Counts over the whole training so far."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """All that a checkpoint must hold so that no batch is lost or made twice."""
        ...

    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        """Resume after `trained` batches, from what `state()` gave then.

        Raises `ValueError` for anything that it cannot have given.
        """
        ...

    def close(self) -> None:
        """Release everything besides memory; may be called twice."""
        ...
