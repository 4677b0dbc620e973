"""The protocol of sources of adversarial batches, and what they make them with.

A source may attack any ticket when it is asked for a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from sparring.attacks import AttackedBatch, Crafter
from sparring.engine.attacker import AttackJob
from sparring.models import WorkingCopy
from sparring.records.environment import number_from_environment
from sparring.records.stage import Stage


class Place(NamedTuple):
    """Number of a process among the trainers on its machine, from `0`, and their count."""

    number: int = 0
    of: int = 1

    @classmethod
    def local(cls, rank: int, size: int) -> "Place":
        """That of this one of `size` processes, as their launcher says it in `LOCAL_RANK`.

        Without one, as if all were on this machine. Raises `ConfigError` for a variable that is no
        number.
        """
        if size == 1:
            return cls()
        return cls(
            number_from_environment("LOCAL_RANK", rank),
            number_from_environment("LOCAL_WORLD_SIZE", size),
        )


@dataclass(kw_only=True, slots=True, eq=False, repr=False)
class LiveModel:
    """The network in training, as attacks see it."""

    network: nn.Module
    copy: WorkingCopy
    version: int = 0
    """Updates that the weights have seen."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class SourceSetup:
    """What a source makes batches with."""

    model: LiveModel
    crafter: Crafter
    """Makes batches in this process."""
    job: AttackJob
    """Makes batches in workers."""
    place: Place = field(default_factory=Place)
    stopped: Callable[[], bool] = lambda: False
    """Whether the source should end instead of waiting for a batch that is not ready."""

    def craft(self, batch: AttackedBatch, stage: Stage) -> AttackedBatch:
        """Take the steps of one stage of a batch's attack with the weights as they are now."""
        model = self.model
        return self.crafter.craft_in_parts(
            batch, model.copy.attacked, version=model.version, stage=stage
        )


@runtime_checkable
class Source(Protocol):
    """Adversarial batches in ticket order, with a state to resume from."""

    def next(self) -> AttackedBatch:
        """The next ticket's batch; raises `StopIteration` after the last, and when stopped."""
        ...

    def updated(self) -> None:
        """Take note that the last batch was trained on: the weights are new."""
        ...

    def figures(self) -> Mapping[str, int | float | str]:
        """Measurements of the last batch, by name."""
        ...

    def totals(self) -> Mapping[str, int]:
        """Counts over the whole training so far."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold so that no batch is lost or made twice."""
        ...

    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        """Resume after `trained` batches from the `state()` of that moment.

        Raises `ValueError` for anything that cannot be such a state.
        """
        ...

    def close(self) -> None:
        """Release everything but memory; may be called twice."""
        ...
