"""Projected gradient descent on minus the loss, and its one-step relatives.

Shapes: B batch, S one image (C H W), K classes. Units: pixels in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor
from typing_extensions import override

from sparring.attacks.checks import (
    Batch,
    Classifier,
    as_tensors,
    check_batch,
    check_targets,
    checked,
    looked_at,
)
from sparring.attacks.losses import LOSSES, RELATIVE, LossName, bound
from sparring.attacks.search import Attack, Move, Search, State, Task, no_trace, seeded
from sparring.attacks.threat import DEFAULT, STARTS, Start, Threat, aimed
from sparring.errors import ConfigError
from sparring.records.checks import at_least, choice, positive
from sparring.records.typed import typed, typed_record


@typed_record
@dataclass(frozen=True, slots=True)
class PGD(Attack):
    """Climb the loss in steps of equal length, projecting back into the threat after each.

    Cost: `restarts`·`steps` forward and backward passes, and with several restarts one more forward
    pass for each. No step at all from start "none" is natural training's attack: the clean images.
    Source: Madry et al. 2018; equation 5 and section 6 of Bhat, Tsipras & Madry 2019.
    """

    threat: Threat = DEFAULT
    """The set the attack may search."""
    _: KW_ONLY
    eps: InitVar[float | None] = None
    """`eps=8/255` stands for the threat `Linf(8/255)`."""
    steps: int = 8
    """Gradient steps; 0 leaves the start as it is."""
    step_size: float | None = None
    """Length of one step in the threat's norm, scaled with eps by a schedule; 2.5 · eps / steps if
    not given."""
    start: Start = "uniform"
    """Where the search begins: anywhere in the threat, at a random corner, or nowhere new."""
    restarts: int = 1
    """Independent searches; each image keeps the one that hurts the model most."""
    loss: LossName = "cross-entropy"
    """What the attack maximises."""

    def __post_init__(self, eps: float | None) -> None:
        """Raise `ConfigError` for a setting that cannot mean anything."""
        object.__setattr__(self, "threat", aimed(self.threat, eps))
        at_least("steps", self.steps, 0)
        at_least("restarts", self.restarts, 1)
        if self.step_size is not None:
            positive("step_size", self.step_size, "Leave it out for 2.5 * eps / steps.")
        choice("start", self.start, STARTS)
        choice("loss", self.loss, {**LOSSES, **RELATIVE})
        if self.start == "none" and self.loss in RELATIVE:
            raise ConfigError.expected(
                f"loss {self.loss} needs a random start: it has no gradient at the clean image",
                "start none",
                'Use start "uniform" or "corner".',
            )
        if self.start == "none" and self.restarts > 1:
            raise ConfigError.expected(
                "restarts must be 1 without a random start",
                self.restarts,
                'Use start "uniform" or "corner".',
            )

    @property
    @override
    def name(self) -> str:
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        length = "" if self.step_size is None else f" step {self.step_size:g}"
        start = "" if self.start == "uniform" else f" start {self.start}"
        return f"pgd-{self.steps}{restarts} {self.loss}{length}{start}"

    @override
    def searches(self, num_classes: int) -> Sequence[Search]:
        return [PGDSearch(attack=replace(self, restarts=1))] * self.restarts

    @override
    def obstacle(self, image_shape: Sequence[int], num_classes: int) -> str | None:
        if self.loss == "dlr" and num_classes < 3:
            return f'its loss dlr needs 3 classes, and there are {num_classes}; take loss "margin"'
        return None

    @property
    def step_length(self) -> float:
        """Length of one step: `step_size`, or 2.5 · eps / steps; 0 where there is none to take.

        The default lets the search cross the whole ball and a quarter of it again (section 6 of
        Bhat, Tsipras & Madry 2019).
        """
        if self.step_size is not None:
            return self.step_size
        return 2.5 * self.threat.eps / self.steps if self.steps else 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it leaves images as they are: it has no steps, and begins at the clean image."""
        return not self.steps and self.start == "none"

    @override
    def at(self, eps: float, steps: int | None = None) -> "PGD":
        """The same attack at another size, in as many steps or others.

        A given `step_size` is scaled so that all steps together reach as far in units of eps.
        """
        steps = self.steps if steps is None else steps
        scale = eps / self.threat.eps * (self.steps / steps if self.steps and steps else 1.0)
        size = None if self.step_size is None else self.step_size * scale
        return replace(self, threat=self.threat.at(eps), steps=steps, step_size=size)

    def only(self, steps: int) -> "PGD":
        """Only some of its steps, each as long as before."""
        return replace(self, steps=steps, step_size=self.step_length)

    @typed
    def __call__(
        self,
        model: Classifier,
        images: Batch,
        labels: Batch,
        *,
        targets: Batch | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Adversarial examples of `images` for `model`, detached, of the same shape and dtype.

        `images` hold pixels in [0, 1], `labels` one int64 class index per image; `model` maps
        images to logits (B K) and is attacked in evaluation mode if it is a module. With `targets`,
        one class per image, the steps lower the loss towards that class instead.

        `generator` lives on the CPU whatever the device; restart r draws the same whatever the
        number of restarts. Without it, one number is drawn from torch's global CPU generator as the
        seed of a new one. Neither the model nor any other random state is changed, also if the
        model fails. Raises `ConfigError` for images, labels or logits that cannot be meant.
        """
        images, labels = as_tensors(images, labels, model)
        generator = seeded(generator)
        with no_trace(model):
            wanted = labels.clone() if targets is None else check_targets(targets, labels)
            logits_of = checked(model, wanted)
            if targets is None:
                loss_of = bound(self.loss, logits_of, images, wanted)
            else:
                loss_of = self._towards(wanted)
            return self._search(logits_of, images, loss_of, wanted, generator, targets is not None)

    def _towards(self, targets: Tensor) -> Callable[[Tensor], Tensor]:
        if self.loss not in LOSSES:
            raise ConfigError.expected(
                f"targets need one of the losses {', '.join(LOSSES)}", self.loss
            )
        loss = LOSSES[self.loss]
        return lambda logits: -loss(logits, targets)

    def starts(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Where the search for each image begins, drawn from its own seed and nothing else."""
        begin = STARTS[self.start]
        found = [
            begin(self.threat, images[row : row + 1], Generator().manual_seed(seed))
            for row, seed in enumerate(seeds.tolist())
        ]
        return torch.cat(found)

    def step(
        self, logits_of: Classifier, x: Tensor, images: Tensor, loss_of: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, " B *S"]:
        """One step from x up this loss of the logits, back into the threat around `images`."""
        _, _, gradient = looked_at(logits_of, x, loss_of)
        uphill = self.threat.ascend(gradient)
        return self.threat.project(torch.add(x, uphill, alpha=self.step_length), images)

    def search_from(
        self,
        start: Float[Tensor, " B *S"],
        model: Classifier,
        images: Shaped[Tensor, " B *S"],
        labels: Shaped[Tensor, "..."],
    ) -> Float[Tensor, " B *S"]:
        """One search from given points of the threat; otherwise as a call with one restart.

        For callers that draw every image's start themselves, so that it does not depend on the
        other images of the batch.
        """
        check_batch(images, labels)
        with no_trace(model):
            logits_of = checked(model, labels)
            loss_of = bound(self.loss, logits_of, images, labels.clone())
            return self._climb(logits_of, start.clone(), images, loss_of)

    def _search(  # noqa: PLR0913 - one call of the attack
        self,
        logits_of: Classifier,
        images: Tensor,
        loss_of: Callable[[Tensor], Tensor],
        classes: Tensor,
        generator: Generator,
        targeted: bool,
    ) -> Tensor:
        start = STARTS[self.start]
        worst = self._climb(logits_of, start(self.threat, images, generator), images, loss_of)
        if self.restarts == 1:
            return worst

        def harm_of(x: Tensor) -> Harm:
            logits = logits_of(x)
            hit = logits.argmax(1) == classes
            return Harm(wrong=hit if targeted else ~hit, loss=loss_of(logits))

        harm = harm_of(worst)
        for _ in range(self.restarts - 1):
            x = self._climb(logits_of, start(self.threat, images, generator), images, loss_of)
            new_harm = harm_of(x)
            more = new_harm.exceeds(harm)
            worst[more] = x[more]
            harm = Harm(
                *(torch.where(more, new, old) for new, old in zip(new_harm, harm, strict=True))
            )
        return worst

    def _climb(
        self,
        logits_of: Classifier,
        start: Tensor,
        images: Tensor,
        loss_of: Callable[[Tensor], Tensor],
    ) -> Tensor:
        x = start
        for _ in range(self.steps):
            x = self.step(logits_of, x, images, loss_of)
        return x


@dataclass(frozen=True, kw_only=True, slots=True)
class PGDSearch(Search):
    """One search of PGD; what is judged is where it ends, as in the attack's definition."""

    attack: PGD
    rank: int = 0

    @property
    @override
    def queries(self) -> int:
        return max(self.attack.steps, 1)

    @override
    def begin(self, task: Task, logits_of: Classifier) -> State:
        return {
            "images": task.images,
            "labels": task.labels,
            "x": self.attack.starts(task.images, task.seeds),
            "done": torch.zeros_like(task.labels),
        }

    @override
    def advance(self, logits_of: Classifier, state: State) -> Move:
        x = state["x"]
        if self.attack.steps:
            loss_of = bound(self.attack.loss, logits_of, state["images"], state["labels"])
            x = self.attack.step(logits_of, x, state["images"], loss_of)
        done = state["done"] + 1
        over = done >= self.attack.steps
        return Move(state={**state, "x": x, "done": done}, points=x, wrong=over, over=over)

    @override
    def best(self, state: State) -> Tensor:
        return state["x"]


@typed
def fgsm(threat: Threat) -> PGD:
    """One step of length eps from the clean image (Goodfellow et al. 2015)."""
    return PGD(threat, steps=1, step_size=threat.eps, start="none")


@typed
def random_start_fgsm(threat: Threat) -> PGD:
    """One step of length 1.25 · eps from a uniform start (Wong, Rice & Kolter 2020)."""
    return PGD(threat, steps=1, step_size=1.25 * threat.eps, start="uniform")


class Harm(NamedTuple):
    """How badly each image fares: being misclassified counts before any loss."""

    wrong: Tensor
    loss: Tensor

    def exceeds(self, other: "Harm") -> Tensor:
        """Where this is worse for the model than `other`."""
        return (self.wrong & ~other.wrong) | (
            (self.wrong == other.wrong) & (self.loss > other.loss)
        )
