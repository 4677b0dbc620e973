"""The trainer: owns the weights and updates them with one attacked batch after another.

Shapes: B batch.  Units: seconds are wall-clock, ε in pixel units.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import hardshrink
from torch.nn.utils import clip_grad_norm_

from sparring.attacks import AttackedBatch, Crafter
from sparring.data import Dataset, first_images
from sparring.engine.attacker import AttackJob
from sparring.errors import ConfigError, NonFiniteLoss
from sparring.loader import AdversarialLoader, Asynchronous, SourceSetup
from sparring.loader.source import LiveModel
from sparring.models import (
    PROBES,
    Precision,
    WorkingCopy,
    begin_with,
    built_network,
    copied,
    drawing_from,
    possible_precision,
    real_view,
    training_mode,
    working_copy,
)
from sparring.models.spec import ModelKind, is_imported
from sparring.models.trained import Fingerprint, check_fingerprint, fingerprint, network_seed
from sparring.records.custom import is_own, own_errors
from sparring.seeds import derive_seed
from sparring.training.config import TrainConfig
from sparring.training.gradient_share import GradientShare, Packing, floating_buffers, mean_of
from sparring.training.objectives import loss_function
from sparring.training.optimizers import built_optimizer, factor, held_parameters
from sparring.training.team import SingleProcess, Team

FORGET_EVERY = 64
"""Updates between two sweeps; in 64, moments decay to 0.9^64 = 0.001: not to denormal numbers."""
TRACE = 1e-30
"""Such a moment moves a weight by at most 1e-22 learning rates (Adam divides by 1e-8 or more)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one update did; a row of metrics.jsonl."""

    step: int
    """Updates that the weights have seen after this one."""
    loss: float
    """The objective's value on the batch, before the update."""
    training_accuracy: float
    """Share of the batch classified correctly before the update.

    Its images are adversarial unless the objective trains on clean images. Of the objective
    "certified" it is the share that intervals prove, in the run's arithmetic."""
    learning_rate: float
    """The optimizer's step size."""
    eps: float
    """ε of the batch's attack."""
    staleness: int
    """Version at this update minus the attacked version; the largest of several trainers'."""
    attack_seconds: float
    """Time of the batch's attack, summed over its parts."""
    supply_seconds: float
    """Time until the trainer had the batch: of its attack, or of the wait for a worker."""
    update_seconds: float
    """Time of the update."""
    images_per_second: float
    """Images of the batch over the trainer's time for it: supply and update."""


class Average:
    """An exponential moving average of a network's weights: the network that is evaluated.

    After update t each weight moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to its
    current value, so the first weights soon lose their influence. Floating-point and complex
    buffers, such as BatchNorm's statistics, are averaged too. Integers and values that are not
    finite, such as the -inf of a mask, are copied.
    A decay of 0 keeps the current weights. Cost: one pass over the weights an update.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copied(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, version: int) -> None:
        """Include the weights of this version."""
        decay = min(self._decay, (1 + version) / (10 + version))
        for averaged, value in zip(_tensors(self.network), _tensors(network), strict=True):
            if not (averaged.is_floating_point() or averaged.is_complex()):
                averaged.copy_(value)
            elif value.requires_grad:
                averaged.lerp_(value, 1 - decay)
            else:
                finite = averaged.isfinite() & value.isfinite()
                averaged.copy_(torch.where(finite, averaged.lerp(value, 1 - decay), value))


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers; shared ones once."""
    return chain(network.parameters(), network.buffers())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Known:
    """The trainer's weights at one time, and the fingerprint of its network with them."""

    weights: Mapping[str, Tensor]
    fingerprint: Fingerprint

    @classmethod
    def of(cls, network: nn.Module, image_shape: tuple[int, int, int]) -> "Known":
        """Cost: a copy of the weights and a pass."""
        weights = {name: value.cpu().clone() for name, value in network.state_dict().items()}
        return cls(weights=weights, fingerprint=fingerprint(network, image_shape))

    def check(self, network: nn.Module) -> None:
        """Raise `OtherNetwork` for a network unlike the trainer's; replaces its weights."""
        network.load_state_dict(self.weights)
        check_fingerprint(network, self.fingerprint, "a network that attacks")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunNetwork:
    """Builds networks of a run's kind in any process, with arbitrary weights."""

    model: ModelKind
    given: nn.Module | None
    """The network, if it was passed as an object; it must pickle for workers."""
    seed: int
    known: Known | None = None
    """What identifies the network, if your own factory builds it."""

    def __call__(self) -> nn.Module:
        """Raises `OtherNetwork` if the factory makes another network than before."""
        built = built_network(self.model, self.given, network_seed(self.seed))
        if self.known is not None:
            self.known.check(built)
        return built


def starting_network(
    config: TrainConfig, network: nn.Module | None = None, *, resumed: bool = False
) -> nn.Module:
    """The network of version 0: drawn from the seed, read from `init`, or a copy of `network`.

    In a run that is `resumed`, `init` is not read, because the checkpoint has all weights.
    """
    built = built_network(config.model, network, network_seed(config.seed))
    if config.init is not None and not resumed:
        begin_with(built, config.init)
    return built


def probes(dataset: Dataset) -> Tensor:
    """The first training images, to try a network before a run."""
    return first_images(dataset.train, PROBES)


class Trainer:
    """Owns the weights and updates them with the batches of its `loader`.

    `version` counts their updates; `copy` computes their passes, in a `precision` that the network
    supports; `average` holds the weights that are evaluated. A copy of `network` replaces what
    `config.model` would build. Weights of a `resumed` run come from a checkpoint. In a `team`, each
    trainer attacks and measures its part of every batch, and all make the same update of the mean.
    """

    def __init__(  # noqa: PLR0913
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        network: nn.Module | None = None,
        team: Team | None = None,
        *,
        resumed: bool = False,
    ) -> None:
        self.config = config
        self.team: Team = team or SingleProcess()
        self.network: nn.Module = starting_network(config, network, resumed=resumed)
        self.team.align(self.network)
        training_mode(self.network.to(device))
        self.precision: Precision = possible_precision(
            self.network, config.precision, probes(dataset)
        )
        self.average = Average(self.network, config.average)
        self.optimizer = built_optimizer(config.optimizer, self.network.parameters())
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.images, self.device = dataset.train, device
        recipe = config.recipe(self.team.rank)
        build = RunNetwork(
            model=config.model, given=network, seed=config.seed, known=self._known(network)
        )
        setup = SourceSetup(
            model=LiveModel(network=self.network, copy=working_copy(self.network, self.precision)),
            crafter=Crafter(recipe, dataset.train, device),
            job=AttackJob(recipe=recipe, build=build, precision=config.precision),
            place=self.team.place,
            stopped=self.team.stopped,
        )
        self.loader = AdversarialLoader.of(setup, config.source)
        self._loss = loss_function(config.objective, self.network, self._arithmetic())
        self._packing = Packing(self.network, trainer=self.team.rank, trainers=self.team.size)
        self._staleness: tuple[int, ...] = ()
        self.untrained: list[str] = []
        """Weights without a gradient in the last update."""
        held = set(map(id, held_parameters(self.optimizer)))
        self.unheld: list[str] = [name for name, each in self._named() if id(each) not in held]
        """Weights that the optimizer does not have."""

    def _known(self, given: nn.Module | None) -> Known | None:
        """What workers compare with the network that they build."""
        if given is not None or not is_imported(self.config.model):
            return None
        if not isinstance(self.config.source, Asynchronous):
            return None
        return Known.of(self.network, self.images.image_shape)

    def _arithmetic(self) -> torch.dtype:
        """That of the updates' passes."""
        if self.copy.name.startswith("bf16"):
            return torch.bfloat16
        return next(value.dtype for value in self.network.parameters())

    @property
    def version(self) -> int:
        """Updates of the weights so far."""
        return self.loader.version

    @property
    def copy(self) -> WorkingCopy:
        """The form in which passes are computed."""
        return self.loader.copy

    @property
    def learning_rate(self) -> float:
        """That of the next update, for the first group of parameters."""
        return self._rates[0] * self._factor()

    def _factor(self) -> float:
        progress = self.loader.recipe.progress(min(self.version, self.config.updates - 1))
        return factor(self.config.schedule, progress)

    def update(
        self,
        batch: AttackedBatch,
        *,
        supply_seconds: float | None = None,
    ) -> Step:
        """One step of the optimizer on one batch, together with the team.

        `supply_seconds` is the time until the batch arrived, by default that of its attack. The
        update's time does not include serving the workers with the new weights. Random numbers of
        the network, as in dropout, follow from seed, version and rank. Cost: one forward and one
        full backward pass, and the team's mean. Raises `NonFiniteLoss`, on the whole team and
        before the weights change, if the loss or its gradient is infinite or NaN.
        """
        begun = time.perf_counter()
        share = self.measure(batch)
        if self.team.size > 1:
            share = self.unpacked(self.team.mean(self.packed(share)))
        return self.take(share, batch, supply_seconds=supply_seconds, begun=begun)

    def measure(self, batch: AttackedBatch) -> GradientShare:
        """Loss and gradients on this trainer's batch; weights stay, running statistics change."""
        team = self.team
        mine = (team.rank,) if team.rank else ()
        buffers = floating_buffers(self.network) if team.size > 1 else []
        before = [each.clone() for each in buffers]
        with drawing_from(derive_seed(self.config.seed, "update", self.version, *mine)):
            loss, correct = self._loss(self.copy.trained, batch)
        parameters = [parameter for _, parameter in self._named()]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise ConfigError(
                "the loss of the objective must depend on the network's weights; it depends on "
                "none of them. Compute it from what the model that it is called with returns."
            )
        return GradientShare(
            gradients=tuple(map(_plain, gradients)),
            statistics=tuple(buffers),
            changed=tuple(
                not torch.equal(old, new) for old, new in zip(before, buffers, strict=True)
            ),
            loss=loss.item(),
            accuracy=correct.float().mean().item(),
            staleness=(self.version - batch.version,),
        )

    def packed(self, share: GradientShare) -> torch.Tensor:
        """This trainer's share as one flat tensor. Cost: one copy."""
        return self._packing.pack(share)

    def unpacked(self, mean: torch.Tensor) -> GradientShare:
        """The share of such a tensor."""
        return self._packing.unpack(mean)

    def take(
        self,
        share: GradientShare,
        batch: AttackedBatch,
        *,
        supply_seconds: float | None = None,
        begun: float | None = None,
    ) -> Step:
        """Update the weights by a share, or by the mean of all; see `update`."""
        begun = time.perf_counter() if begun is None else begun
        rate = self.learning_rate
        if not math.isfinite(share.loss) or not _is_finite(share.gradients):
            wrong = "an infinite or NaN gradient" if math.isfinite(share.loss) else str(share.loss)
            raise NonFiniteLoss(
                f"The loss and its gradient must stay finite; got {wrong} at step "
                f"{self.version + 1} with learning rate {rate:g} and staleness "
                f"{max(share.staleness)}. Lower the learning rate, clip the gradient, or mend an "
                "objective with an infinite slope."
            )
        self._step(share)
        self._staleness = share.staleness
        self.loader.advance()
        self.average.update(self.network, self.version)
        supply = batch.attack_seconds if supply_seconds is None else supply_seconds
        seconds = time.perf_counter() - begun
        return Step(
            step=self.version,
            loss=share.loss,
            training_accuracy=share.accuracy,
            learning_rate=rate,
            eps=batch.eps,
            staleness=max(share.staleness),
            attack_seconds=batch.attack_seconds,
            supply_seconds=supply,
            update_seconds=seconds - self.loader.commit_seconds,
            images_per_second=self.team.size * len(batch.labels) / (supply + seconds),
        )

    def figures(self) -> Mapping[str, int | float | str]:
        """Columns of the team for the last update's row."""
        if len(self._staleness) < 2:
            return {}
        ages = "+".join(map(str, self._staleness))
        return {**self.team.figures(), "staleness_of_trainers": ages}

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        """The weights that are trained."""
        return [pair for pair in self.network.named_parameters() if pair[1].requires_grad]

    @torch.no_grad()
    def _take_statistics(self, share: GradientShare) -> None:
        buffers = floating_buffers(self.network) if share.statistics else ()
        for buffer, mean, changed in zip(buffers, share.statistics, share.changed, strict=True):
            if changed:  # the mean of a constant would drift in its last bit
                buffer.copy_(mean)

    def _step(self, share: GradientShare) -> None:
        named = self._named()
        parameters = [parameter for _, parameter in named]
        pairs = zip(named, share.gradients, strict=True)
        self.untrained = [name for (name, _), gradient in pairs if gradient is None]
        self._take_statistics(share)
        for parameter, gradient in zip(parameters, share.gradients, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        if self.config.clip_norm is not None:
            clip_grad_norm_(parameters, self.config.clip_norm)
        now = self._factor()
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * now
        if is_own(self.config.optimizer):
            seed = derive_seed(self.config.seed, "optimizer", self.version)
            with own_errors("the optimizer"), drawing_from(seed):
                self.optimizer.step()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if (self.version + 1) % FORGET_EVERY == 0:
            self.forget_traces()

    def forget_traces(self) -> None:
        """Set tiny optimizer moments to zero.

        Moments of weights without gradient (dead units) decay to denormal numbers after some 900
        updates. CPUs compute many times slower on those.
        """
        for state in self.optimizer.state.values():
            for value in state.values() if isinstance(state, dict) else ():
                has_moments = isinstance(value, torch.Tensor) and value.dim()
                if has_moments and (value.is_floating_point() or value.is_complex()):
                    trace = real_view(value)
                    trace.copy_(hardshrink(trace, TRACE))


def update_together(trainers: Sequence[Trainer], batches: Sequence[AttackedBatch]) -> Step:
    """One update of a team whose trainers are all in this process, each with its own batch.

    The weights equal those of trainers in separate processes, bit for bit for up to two trainers;
    the connection decides in which order more are summed.
    """
    if len(trainers) == 1:
        return trainers[0].update(batches[0])
    pairs = list(zip(trainers, batches, strict=True))
    flat = [trainer.packed(trainer.measure(batch)) for trainer, batch in pairs]
    mean = mean_of(flat)
    steps = [trainer.take(trainer.unpacked(mean.clone()), batch) for trainer, batch in pairs]
    return steps[0]


def _plain(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """The gradient, dense and not lazily conjugated, as optimizers need it."""
    if gradient is not None and gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    return None if gradient is None else gradient.resolve_conj()


def _laid_out_as(parameter: nn.Parameter, gradient: torch.Tensor | None) -> torch.Tensor | None:
    """The gradient in the parameter's order in memory.

    Fused optimizers pair numbers by their places in memory, ignoring strides. A channels-last
    working copy gives a convolution's gradient channels-last.
    """
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _is_finite(gradients: Sequence[Tensor | None]) -> bool:
    """Whether all numbers are finite, by minimum and maximum; a norm takes far longer."""
    some = [real_view(each) for each in gradients if each is not None and each.numel()]
    ends = [end for each in some for end in each.aminmax()]
    return bool(torch.stack(ends).isfinite().all()) if ends else True
