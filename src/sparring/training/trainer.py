"""One update after another over a source of attacked batches: the whole of training.

Shapes: B batch.  Units: seconds are wall-clock, ε in pixel units.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import hardshrink
from torch.nn.utils import clip_grad_norm_

from sparring.attacks import AttackedBatch
from sparring.data import Dataset, derive_seed
from sparring.errors import NonFiniteLoss
from sparring.models import drawing_from, working_copy
from sparring.training.averaging import Average
from sparring.training.config import TrainConfig
from sparring.training.job import AttackJob
from sparring.training.start import starting_network

FORGET_EVERY = 64
"""Updates between two sweeps: 0.9^64 = 0.001 of decay, so nothing gets from TRACE to denormal."""
TRACE = 1e-30
"""Such a moment moves a weight by at most 1e-22 learning rates (Adam divides by 1e-8 or more)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one update did; a row of metrics.jsonl."""

    step: int
    """Updates that the weights have seen after this one."""
    loss: float
    """The objective's value on the batch, before the update."""
    accuracy: float
    """Share of the batch's trained-on images that were right, before the update."""
    learning_rate: float
    """The optimiser's step size."""
    eps: float
    """ε of the batch's attack."""
    staleness: int
    """Version at this update minus the version that was attacked."""
    attack_seconds: float
    """Time that the batch's attack took, wherever and in how many parts it was computed."""
    supply_seconds: float
    """Time until the trainer had the batch: that of its attack, or of the wait for a worker."""
    update_seconds: float
    """Time that the update took."""
    images_per_second: float
    """Images of the batch over the trainer's time for it: supply and update."""


class Trainer:
    """Owns the weights: attacks tickets with them when a source asks, and updates them.

    `version` counts the updates that they have seen; `copy` is the form in which their passes are
    computed; `average` holds the weights that are evaluated. A copy of a `network` that is given
    takes the place of what `config.model` would build.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        network: nn.Module | None = None,
    ) -> None:
        self.config = config
        self.version = 0
        self.network: nn.Module = starting_network(config, network)
        self.network.to(device).train()
        self.copy = working_copy(self.network, config.precision)
        self.average = Average(self.network, config.average)
        self.optimizer = config.optimizer.build(self.network.parameters())
        self.images, self.device = dataset.train, device
        self.job = AttackJob(config=config, given=network)
        self._tickets = self.job.attacks(dataset.train, device)

    def attack_now(self, number: int) -> AttackedBatch:
        """Attack the ticket of this number with the current weights, but for its fresh steps."""
        return self._tickets.begin(number, version=self.version, logits_of=self.copy.attacked)

    def finish(self, batch: AttackedBatch) -> AttackedBatch:
        """Take the fresh steps of a batch's attack, with the current weights."""
        return self._tickets.finish(batch, logits_of=self.copy.attacked)

    def logits_of(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the current weights, for attacks."""
        return self.copy.attacked(images)

    def recall(self, number: int) -> AttackedBatch:
        """The ticket's images as they are, for a source that kept what became of them."""
        return self._tickets.recall(number)

    def eps_of(self, number: int) -> float:
        """ε of the attack on the ticket of this number."""
        return self.config.eps_of(number)

    def update(
        self,
        batch: AttackedBatch,
        *,
        supply_seconds: float | None = None,
        updated: Callable[[], None] = lambda: None,
    ) -> Step:
        """One step of the optimiser on one batch.

        `supply_seconds` is what the batch took to come, by default its attack. `updated` is called
        as soon as the weights are new; what it does is not the update's time. What the network
        draws at random, as dropout does, follows from seed and version. Cost: one forward and one
        full backward pass. Raises `NonFiniteLoss`, before the weights are touched, if the loss is
        infinite or NaN.
        """
        begun = time.perf_counter()
        progress = self.config.progress(self.version)
        rate = self.config.optimizer.learning_rate * self.config.schedule(progress)
        with drawing_from(derive_seed(self.config.seed, "update", self.version)):
            loss, correct = self.config.objective(self.copy.trained, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"The loss must stay finite, because no update can be made from {value}; it became "
                f"so at step {self.version + 1} with learning rate {rate:g} and staleness "
                f"{self.version - batch.version}. Lower the learning rate or clip the gradient."
            )
        self._step(loss, rate)
        staleness = self.version - batch.version
        self.version += 1
        stepped = time.perf_counter()
        updated()
        elsewhere = time.perf_counter() - stepped
        self.copy.refresh()
        self.average.update(self.network, self.version)
        supply = batch.attack_seconds if supply_seconds is None else supply_seconds
        seconds = time.perf_counter() - begun
        return Step(
            step=self.version,
            loss=value,
            accuracy=correct.float().mean().item(),
            learning_rate=rate,
            eps=batch.eps,
            staleness=staleness,
            attack_seconds=batch.attack_seconds,
            supply_seconds=supply,
            update_seconds=seconds - elsewhere,
            images_per_second=len(batch.labels) / (supply + seconds),
        )

    def _step(self, loss: torch.Tensor, rate: float) -> None:
        parameters = [each for each in self.network.parameters() if each.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.config.clip_norm is not None:
            clip_grad_norm_(parameters, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if (self.version + 1) % FORGET_EVERY == 0:
            self._forget_traces()

    def _forget_traces(self) -> None:
        """Set to zero what the optimiser hardly remembers.

        The moments of weights without gradient (dead units) decay for ever: after some 900 updates
        they are denormal numbers, on which CPUs compute many times slower.
        """
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.dim():
                    value.copy_(hardshrink(value, TRACE))
