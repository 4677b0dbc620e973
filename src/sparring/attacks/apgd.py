"""APGD: projected gradient descent that finds its own step size, and its targeted form.

Shapes: B rows in flight, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks.checks import Classifier, looked_at
from sparring.attacks.losses import (
    cross_entropy,
    difference_of_logits_ratio,
    margin,
    targeted_margin,
    targeted_ratio,
)
from sparring.attacks.search import Move, Search, SearchAttack, State, Task, column
from sparring.attacks.threat import DEFAULT, Threat, aimed
from sparring.records.checks import at_least, choice
from sparring.records.typed import typed_record

MOMENTUM = 0.25
"""Share of the last change in the next one: what the paper's alpha, 0.75, leaves."""
RISES = 0.75
"""Share of the passes between two checks that must raise the loss: the paper's rho."""
FIRST, FEWER, LEAST = 0.22, 0.03, 0.06
"""Shares of all passes: until the first check; how much sooner each next one comes; the least."""

TargetLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits, labels and targets to one loss per image."""


@typed_record
@dataclass(frozen=True, slots=True)
class APGD(SearchAttack):
    """Momentum steps of length 2 ε, halved and begun again from the best point when they stall.

    Cost: `restarts` · max(1, `targets`) · (`steps` + 1) forward and backward passes at most; an
    image that is misclassified at any point is spared the rest.
    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", algorithm 1; its parameters.
    """

    threat: Threat = DEFAULT
    """The set the attack may search."""
    _: KW_ONLY
    eps: InitVar[float | None] = None
    """`eps=8/255` stands for the threat `Linf(8/255)`."""
    loss: Literal["cross-entropy", "dlr"] = "cross-entropy"
    """What it maximises; with targets always their own form of dlr."""
    targets: int = 0
    """How many of the likeliest other classes it aims at, one after the other; 0 for none."""
    steps: int = 100
    """Steps of each search."""
    restarts: int = 1
    """Searches from other random starts, for each target."""

    def __post_init__(self, eps: float | None) -> None:
        """Raise `ConfigError` for a setting that cannot mean anything."""
        object.__setattr__(self, "threat", aimed(self.threat, eps))
        choice("loss", self.loss, ("cross-entropy", "dlr"))
        at_least("steps", self.steps, 1)
        at_least("restarts", self.restarts, 1)
        at_least("targets", self.targets, 0)

    @property
    @override
    def name(self) -> str:
        kind = "t" if self.targets else {"cross-entropy": "ce", "dlr": "dlr"}[self.loss]
        steps = "" if self.steps == 100 else f"-{self.steps}"
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        targets = "" if self.targets in (0, 9) else f" targets {self.targets}"
        return f"apgd-{kind}{steps}{restarts}{targets}"

    @override
    def searches(self, num_classes: int) -> Sequence[Search]:
        ranks = range(1, min(self.targets, num_classes - 1) + 1) if self.targets else (0,)
        loss = self._loss(num_classes)
        one = [APGDSearch(threat=self.threat, loss=loss, rank=r, steps=self.steps) for r in ranks]
        return [search for search in one for _ in range(self.restarts)]

    @override
    def targeted(self, num_classes: int) -> Sequence[Search]:
        loss = targeted_ratio if num_classes >= 4 else targeted_margin
        search = APGDSearch(threat=self.threat, loss=loss, rank=0, steps=self.steps, targeted=True)
        return [search] * self.restarts

    @override
    def caveat(self, num_classes: int) -> str | None:
        least = 4 if self.targets else 3 if self.loss == "dlr" else 0
        said = []
        if num_classes < least:
            said.append(f"the margin as its loss, because dlr needs {least} classes")
        if self.targets > num_classes - 1:
            said.append(f"{num_classes - 1} of {self.targets} targets")
        return f"{self.name} has {' and '.join(said)}" if said else None

    def _loss(self, num_classes: int) -> TargetLoss:
        if self.targets:
            return targeted_ratio if num_classes >= 4 else targeted_margin
        if self.loss == "cross-entropy":
            return lambda logits, labels, _: cross_entropy(logits, labels)
        ratio = difference_of_logits_ratio if num_classes >= 3 else margin
        return lambda logits, labels, _: ratio(logits, labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class APGDSearch(Search):
    """One search from one start; for every row the steps, checks and step size are its own."""

    threat: Threat
    loss: TargetLoss
    rank: int
    steps: int
    targeted: bool = False

    @property
    @override
    def queries(self) -> int:
        return self.steps + 1

    @override
    def begin(self, task: Task, logits_of: Classifier) -> State:
        """A point on the threat's surface; the step is as long as the threat is wide."""
        start = self.threat.surface(task.images, task.seeds)
        rows = torch.zeros(len(task.labels), device=start.device)
        none = rows.to(torch.int64)
        return {
            "images": task.images,
            "labels": task.labels,
            "targets": task.targets,
            "x": start,
            "before": start,
            "best": start,
            "uphill": torch.zeros_like(start),
            "size": rows + 2 * self.threat.eps,
            "loss": rows - torch.inf,
            "best_loss": rows - torch.inf,
            "best_at_check": rows - torch.inf,
            "halved": none == 0,
            "rises": none,
            "done": none,
            "since": none,
            "window": none + max(int(FIRST * self.steps), 1),
        }

    @override
    def advance(self, logits_of: Classifier, state: State) -> Move:
        """Look at x; keep it if it is the best; check on progress where that is due; step on."""
        s = dict(state)
        x, labels = s["x"], s["labels"]
        logits, loss, gradient = looked_at(
            logits_of, x, lambda logits: self.loss(logits, labels, s["targets"])
        )
        loss = loss.float()
        first = s["done"] == 0
        s["since"] = s["since"] + ~first
        s["rises"] = s["rises"] + ((loss > s["loss"]) & ~first)
        s["loss"] = loss
        better = loss > s["best_loss"]
        uphill = self.threat.ascend(gradient)
        s["best_loss"] = torch.where(better, loss, s["best_loss"])
        s["best"] = torch.where(column(better, x), x, s["best"])
        s["uphill"] = torch.where(column(better, x), uphill, s["uphill"])
        s["best_at_check"] = torch.where(first, s["best_loss"], s["best_at_check"])
        back = self._checked(s)
        here = torch.where(column(back, x), s["best"], x)
        uphill = torch.where(column(back, x), s["uphill"], uphill)
        keep = torch.where(first, 0.0, MOMENTUM)
        s["x"] = self._step(s, here, uphill, column(keep, x))
        s["before"] = here
        s["done"] = s["done"] + 1
        over = s["done"] > self.steps
        said = logits.argmax(1)
        wrong = said == s["targets"] if self.targeted else said != labels
        return Move(state=s, points=x, wrong=wrong, over=over)

    @override
    def best(self, state: State) -> Tensor:
        return state["best"]

    def _checked(self, s: dict[str, Tensor]) -> Tensor:
        """Where a check was due and found no progress: the step is halved, the best point taken."""
        due = s["since"] == s["window"]
        few = s["rises"] <= RISES * s["window"]
        stuck = ~s["halved"] & (s["best_at_check"] >= s["best_loss"])
        back = due & (few | stuck)
        s["size"] = torch.where(back, s["size"] / 2, s["size"])
        s["halved"] = torch.where(due, back, s["halved"])
        s["best_at_check"] = torch.where(due, s["best_loss"], s["best_at_check"])
        sooner = s["window"] - max(int(FEWER * self.steps), 1)
        soonest = max(int(LEAST * self.steps), 1)
        s["window"] = torch.where(due, sooner.clamp_min(soonest), s["window"])
        s["rises"] = torch.where(due, 0, s["rises"])
        s["since"] = torch.where(due, 0, s["since"])
        return back

    def _step(self, s: State, here: Tensor, uphill: Tensor, keep: Tensor) -> Tensor:
        """Algorithm 1, lines 3, 7 and 8: a projected step, then momentum, projected again."""
        project, images = self.threat.project, s["images"]
        ahead = project(here + column(s["size"], here).to(here.dtype) * uphill, images)
        keep = keep.to(here.dtype)
        mixed = here + (1 - keep) * (ahead - here) + keep * (here - s["before"])
        return project(mixed, images)
