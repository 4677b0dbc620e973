"""Sources that attack in the trainer's process, at once or some updates ahead of training."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks import AttackedBatch, Recipe, StepwiseAttack
from sparring.errors import ConfigError
from sparring.loader.asynchronous import Asynchronous
from sparring.loader.source import Source, SourceSetup
from sparring.models.saved import Fields, Numbers
from sparring.records.checks import at_least
from sparring.records.environment import available_memory
from sparring.records.text import bytes_text
from sparring.records.typed import typed_record


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """Every batch is attacked with the weights that it is trained on: synchronous training."""

    @property
    def fresh_steps(self) -> int:
        """`0`: no step is left for later."""
        return 0

    @property
    def split(self) -> int:
        """1: a batch is attacked as a whole."""
        return 1

    @property
    def bound(self) -> int:
        """`0`: nothing is ever stale."""
        return 0

    def open(self, setup: SourceSetup) -> Source:
        """The source."""
        return DelayLine(setup, Stale(staleness=0))


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Stale:
    """Every batch waits in a queue of `staleness` batches.

    The paper's simulation (section 5): the batch trained on at update t was attacked with version
    max(0, t - s). Memory grows with s batches of clean and adversarial images, not with s models.
    """

    staleness: int = 32
    """Length of the queue, in updates: the paper's s."""
    warm_up: int = 0
    """Updates over which the queue grows to its length; `0` fills it before the first update, so
    that the first s batches attack untrained weights, as in the paper."""
    fresh_steps: int = 0
    """The last steps of each attack, taken with the weights that its batch is trained on. The
    first step is never one of them; the paper has none."""

    def __post_init__(self) -> None:
        at_least("source.staleness", self.staleness, 0)
        at_least("source.warm_up", self.warm_up, 0)
        at_least("source.fresh_steps", self.fresh_steps, 0)

    @property
    def split(self) -> int:
        """1: a batch is attacked as a whole."""
        return 1

    @property
    def bound(self) -> int:
        """The length of the queue."""
        return self.staleness

    def length(self, update: int) -> int:
        """Batches that wait while update `update` is made, of which the first is number 0."""
        if update >= self.warm_up:
            return self.staleness
        return self.staleness * update // self.warm_up

    def open(self, setup: SourceSetup) -> Source:
        """The source."""
        return DelayLine(setup, self)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Reused:
    """Every attack continues the one on the same image an epoch before, in this process.

    In the first epoch attacks are whole. Later ones begin where the image's last attack ended and
    take `fresh_steps` steps, so that attacks cost few steps and no workers (Zheng et al. 2020).
    Needs images that stay in place (no augmentation) and one trainer. Memory and checkpoints hold
    the perturbations of all training images, two bytes a pixel.
    """

    fresh_steps: int = 1
    """Steps of each attack from the second epoch on, at least 1. They are at most all but one: an
    attack of a single step is always whole."""

    def __post_init__(self) -> None:
        at_least("source.fresh_steps", self.fresh_steps, 1)

    @property
    def split(self) -> int:
        """1: a batch is attacked as a whole."""
        return 1

    @property
    def bound(self) -> int:
        """`0`: every step is taken with the weights that the batch trains."""
        return 0

    def open(self, setup: SourceSetup) -> Source:
        """The source."""
        return Accumulation(setup)


_SLACK = 1e-3
"""How far pixels may lie outside [0, 1] by rounding."""

SourceKind = Fresh | Stale | Reused | Asynchronous


def check_source(source: SourceKind, recipe: Recipe) -> None:
    """Raise `ConfigError` if the source cannot make the batches of a recipe."""
    if not isinstance(source, Reused):
        return
    if recipe.augmentation:
        raise ConfigError.expected(
            "the source reused needs images that stay in place, without augmentation",
            ", ".join(type(step).__name__ for step in recipe.augmentation),
            "Take another source, or no augmentation.",
        )
    if recipe.world_size > 1:
        raise ConfigError.expected(
            "the source reused needs a single trainer",
            recipe.world_size,
            "Take another source.",
        )


class InProcess(Source):
    """Base of sources without workers, which have nothing to count or to release."""

    @override
    def figures(self) -> Mapping[str, int | float | str]:
        return {}

    @override
    def totals(self) -> Mapping[str, int]:
        return {}

    @override
    def close(self) -> None:
        pass


class DelayLine(InProcess):
    """Attacks each ticket some updates before its batch is trained on."""

    def __init__(self, setup: SourceSetup, kind: Stale) -> None:
        self._setup, self._kind = setup, kind
        self._updates = setup.crafter.recipe.updates
        self._waiting: deque[AttackedBatch] = deque()
        self._next = 0

    @override
    def next(self) -> AttackedBatch:
        length = self._kind.length(self._next - len(self._waiting))
        while len(self._waiting) <= length and self._next < self._updates:
            if self._waiting and self._setup.stopped():  # filling a long queue takes minutes
                raise StopIteration
            clean = self._setup.crafter.clean(self._next)
            self._waiting.append(self._setup.craft(clean, "first"))
            self._next += 1
        if not self._waiting:
            raise StopIteration
        return self._setup.craft(self._waiting[0], "last")

    @override
    def updated(self) -> None:
        # Not before: a batch whose fresh steps are interrupted is made again.
        if self._waiting:
            self._waiting.popleft()

    @override
    def state(self) -> Mapping[str, Tensor]:
        # Clean images are not kept: they are made again. So are batches that were attacked for a
        # call of `next` that failed, since the weights are still the same.
        waiting = list(self._waiting)[: self._count(self._next - len(self._waiting))]
        if not waiting:
            return {}
        return {
            "adversarial": torch.stack([batch.adversarial for batch in waiting]),
            "versions": torch.tensor([batch.version for batch in waiting]),
            "eps": torch.tensor([batch.eps for batch in waiting], dtype=torch.float64),
        }

    @override
    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        waiting: deque[AttackedBatch] = deque()
        count = self._count(trained)
        clean = [self._setup.crafter.clean(trained + place) for place in range(count)]
        if count or state:
            one = (clean[0] if clean else self._setup.crafter.clean(trained)).adversarial
            pixels = Numbers(
                dtype=one.dtype, shape=(count, *one.shape), least=-_SLACK, most=1 + _SLACK
            )
            versions = Numbers(dtype=torch.int64, shape=(count,), least=0, most=trained)
            eps = Numbers(dtype=torch.float64, shape=(count,))  # NaN of attacks without a threat
            wanted = {"adversarial": pixels, "versions": versions, "eps": eps}
            Fields(wanted).check(state, "source")
            images = state["adversarial"].to(one.device, copy=True)  # the caller may change its own
            columns = (images, state["versions"].tolist(), state["eps"].tolist())
            for batch, adversarial, version, eps in zip(clean, *columns, strict=True):
                waiting.append(replace(batch, adversarial=adversarial, version=version, eps=eps))
        self._waiting, self._next = waiting, trained + len(waiting)

    def _count(self, trained: int) -> int:
        """Batches that wait after `trained` updates."""
        return min(self._kind.length(trained - 1), self._updates - trained) if trained else 0


class Accumulation(InProcess):
    """Attacks each batch from the perturbations that its images got an epoch before."""

    def __init__(self, setup: SourceSetup) -> None:
        self._setup, self._next = setup, 0
        self._given: AttackedBatch | None = None
        images = setup.crafter.images
        shape = (len(images), *images.image_shape)
        self._changes = _perturbations(shape, setup.crafter.device)

    @override
    def next(self) -> AttackedBatch:
        crafter, model = self._setup.crafter, self._setup.model
        if self._next == crafter.recipe.updates:
            raise StopIteration
        batch = crafter.clean(self._next)
        plan = crafter.recipe.plan(self._next)
        place = self._next * len(batch) + torch.arange(len(batch), device=batch.images.device)
        new = place < (len(self._changes) if plan.fresh_steps else math.inf)
        indices = batch.indices.to(place.device)
        new |= torch.isin(indices, indices[new])  # twice in one batch: none is kept yet
        if new.any():
            start = self._setup.craft(batch, "first")
        else:
            start = replace(batch, version=model.version)
        if not new.all():
            assert isinstance(plan.attack, StepwiseAttack)  # only these have fresh steps
            kept = batch.images + self._changes[indices]
            kept = plan.attack.threat.project(kept, batch.images)
            mine = new.view(-1, *(1,) * (kept.dim() - 1))
            start = replace(start, adversarial=torch.where(mine, start.adversarial, kept))
        self._given = self._setup.craft(start, "last")
        return self._given

    @override
    def updated(self) -> None:
        batch, self._given = self._given, None
        if batch is None:
            return
        indices = batch.indices.to(batch.adversarial.device)
        comes_again = (indices[:, None] == indices).triu(1).any(1)
        last = ~comes_again  # of an image that the batch has twice, the last attack is continued
        changes = (batch.adversarial - batch.images)[last]
        self._changes[indices[last]] = changes.to(torch.float16)
        self._next += 1

    @override
    def state(self) -> Mapping[str, Tensor]:
        return {"changes": self._changes.clone()}

    @override
    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        shape = tuple(self._changes.shape)
        changes = Numbers(dtype=torch.float16, shape=shape, least=-1 - _SLACK, most=1 + _SLACK)
        Fields({"changes": changes}).check(state, "source")
        self._changes.copy_(state["changes"])
        self._next = trained


def _perturbations(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Room for the perturbations of all images; zeros."""
    size = 2 * math.prod(shape)
    room = available_memory() if device.type == "cpu" else None
    if room is not None and size > room:
        raise ConfigError.expected(
            f"the source reused keeps the perturbations of all {shape[0]:,} training images, which "
            f"must fit into the {bytes_text(room)} of memory that is free",
            bytes_text(size),
            "Take another source, or fewer or smaller images.",
        )
    return torch.zeros(shape, dtype=torch.float16, device=device)
