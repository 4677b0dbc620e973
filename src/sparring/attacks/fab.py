"""FAB: the nearest misclassified image, sought along the linearised decision boundary.

Shapes: B rows in flight, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks.checks import Classifier, looked_at
from sparring.attacks.losses import others, targeted_margin
from sparring.attacks.search import FORWARD, Move, Search, SearchAttack, State, Task, column
from sparring.attacks.threat import DEFAULT, Threat, aimed, itself
from sparring.records.checks import at_least
from sparring.records.typed import typed_record

BIAS = 0.1
"""Largest share of the clean image's own way to the boundary: the paper's alpha_max."""
OVERSHOOT = 1.05
"""How far each step goes beyond the boundary: the paper's eta."""
RETREAT = 0.9
"""How far a misclassified image keeps from the clean one: the paper's beta."""
LEAST_DISTANCE = 1e-8
"""Below this two points are one."""


@typed_record
@dataclass(frozen=True, slots=True)
class FAB(SearchAttack):
    """Steps onto the plane where label and target would tie, back towards the clean image.

    It needs no ε to search; an image falls once a misclassified one is found within it.
    Cost: `targets` · (`steps` + 1) times two forward passes and a backward one at most.
    Source: Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", its targeted form and parameters; no random starts, no final search.
    """

    threat: Threat = DEFAULT
    """The norm that is kept small, and the ε within which an image counts."""
    _: KW_ONLY
    eps: InitVar[float | None] = None
    """`eps=8/255` stands for the threat `Linf(8/255)`."""
    targets: int = 9
    """How many of the likeliest other classes it aims at, one after the other."""
    steps: int = 100
    """Gradient steps towards each."""

    def __post_init__(self, eps: float | None) -> None:
        """Raise `ConfigError` for a setting that cannot mean anything."""
        object.__setattr__(self, "threat", aimed(self.threat, eps))
        at_least("steps", self.steps, 1)
        at_least("targets", self.targets, 1)

    @property
    @override
    def name(self) -> str:
        steps = "" if self.steps == 100 else f"-{self.steps}"
        targets = "" if self.targets == 9 else f" targets {self.targets}"
        return f"fab-t{steps}{targets}"

    @override
    def searches(self, num_classes: int) -> Sequence[Search]:
        ranks = range(1, min(self.targets, num_classes - 1) + 1)
        return [FABSearch(threat=self.threat, rank=rank, steps=self.steps) for rank in ranks]

    @override
    def targeted(self, num_classes: int) -> Sequence[Search]:
        return [FABSearch(threat=self.threat, rank=0, steps=self.steps, targeted=True)]

    @override
    def obstacle(self, image_shape: Sequence[int], num_classes: int) -> str | None:
        kind = type(itself(self.threat))
        return f"{kind.__name__} has no `towards`" if kind.towards is Threat.towards else None

    @override
    def caveat(self, num_classes: int) -> str | None:
        few = self.targets > num_classes - 1
        return f"{self.name} has {num_classes - 1} of {self.targets} targets" if few else None


@dataclass(frozen=True, kw_only=True, slots=True)
class FABSearch(Search):
    """One search, from the clean image, to the boundary between the label and one other class.

    Where it is `targeted`, between the target and the likeliest other class at each point.
    """

    threat: Threat
    rank: int
    steps: int
    targeted: bool = False

    @property
    @override
    def queries(self) -> int:
        return self.steps + 1

    @property
    @override
    def effort(self) -> float:
        return 1 + FORWARD

    @override
    def begin(self, task: Task, logits_of: Classifier) -> State:
        none = torch.zeros_like(task.labels)
        return {
            "images": task.images,
            "labels": task.labels,
            "targets": task.targets,
            "x": task.images,
            "done": none,
        }

    @override
    def advance(self, logits_of: Classifier, state: State) -> Move:
        """Look at x; from a misclassified one go back; then on to the boundary."""
        x, images, labels, done = (state[name] for name in ("x", "images", "labels", "done"))
        with torch.no_grad():
            errs = self._errs(logits_of(x), state)
        back = column(errs & (done > 0), x)
        here = torch.where(back, images + RETREAT * (x - images), x)
        targets = state["targets"]

        def lead_of(logits: Tensor) -> Tensor:
            if not self.targeted:
                return -targeted_margin(logits, labels, targets)
            likeliest = others(logits.detach(), targets).argmax(1)
            return -targeted_margin(logits, likeliest, targets)

        logits, lead, normal = looked_at(logits_of, here, lead_of)
        found = errs & self._near(x, images)
        still = self._errs(logits, state) & self._near(here, images)
        gap = -lead.to(x.dtype)  # a network may return numbers of another type
        moved = {**state, "x": self._step(here, images, normal, gap), "done": done + 1}
        points, over = torch.where(column(found, x), x, here), done >= self.steps
        unseen = over & ~(found | still)  # the last step's point may be misclassified, too
        if bool(unseen.any()):
            points = torch.where(column(unseen, x), self.best(moved), points)
        return Move(state=moved, points=points, wrong=found | still | over, over=over)

    @override
    def best(self, state: State) -> Tensor:
        return self.threat.project(state["x"], state["images"])

    def _near(self, x: Tensor, images: Tensor) -> Tensor:
        return self.threat.distance(x, images) <= self.threat.eps

    def _step(self, x: Tensor, images: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
        """Both points to the plane where the lead is 0, a little beyond, and mixed."""
        between = (normal * (x - images)).flatten(1).sum(1)
        change = self.threat.towards(x, normal, gap)
        own = self.threat.towards(images, normal, gap + between)
        size, own_size = (
            self.threat.distance(images + way, images).clamp_min(LEAST_DISTANCE)
            for way in (change, own)
        )
        share = column((size / (size + own_size)).clamp_max(BIAS).to(x.dtype), x)
        mixed = (x + OVERSHOOT * change) * (1 - share) + (images + OVERSHOOT * own) * share
        return mixed.clamp_(0, 1)

    def _errs(self, logits: Tensor, state: State) -> Tensor:
        """Where the model errs; in a targeted search, where it takes an image for its target."""
        said = logits.argmax(1)
        return said == state["targets"] if self.targeted else said != state["labels"]
