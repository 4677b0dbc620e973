"""FAB: the nearest misclassified image, sought along the linearised decision boundary.

Shapes: B rows in flight, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from sparring.attacks.checks import Classifier, looked_at, numbered
from sparring.attacks.losses import targeted_margin
from sparring.attacks.search import Move, Search, State, Task, adversarial_images, column
from sparring.attacks.threat import Linf, Threat
from sparring.records.checks import at_least
from sparring.records.typed import typed, typed_record

BIAS = 0.1
"""Largest share of the clean image's own way to the boundary: the paper's alpha_max."""
OVERSHOOT = 1.05
"""How far each step goes beyond the boundary: the paper's eta."""
RETREAT = 0.9
"""How far a misclassified image keeps from the clean one: the paper's beta."""
LEAST_DISTANCE = 1e-8
"""Below this two points are one."""


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class FAB:
    """Steps onto the plane where label and target would tie, back towards the clean image.

    It needs no ε to search; an image falls once a misclassified one is found within it.
    Cost: `targets` · `steps` forward and backward passes at most, and one more for each time that
    a misclassified image is found too far away.
    Source: Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", its targeted form and parameters; no random starts, no final search.
    """

    threat: Threat = field(default_factory=Linf)
    """The norm that is kept small, and the ε within which an image counts."""
    targets: int = 9
    """How many of the likeliest other classes it aims at, one after the other."""
    steps: int = 100
    """Gradient steps towards each."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a setting that cannot mean anything."""
        at_least("steps", self.steps, 1)
        at_least("targets", self.targets, 1)

    @property
    def name(self) -> str:
        """What distinguishes it within a suite."""
        return "fab-t" if self.steps == 100 else f"fab-t-{self.steps}"

    def against(self, threat: Threat) -> "FAB":
        """The same attack on another threat."""
        return replace(self, threat=threat)

    def searches(self, num_classes: int) -> Sequence[Search]:
        """One for each target, that of the likeliest class first."""
        ranks = range(1, min(self.targets, num_classes - 1) + 1)
        return [FABSearch(threat=self.threat, rank=rank, steps=self.steps) for rank in ranks]

    def obstacle(self, image_shape: Sequence[int], num_classes: int) -> str | None:
        """`None`: any images and any number of classes will do."""
        return None

    def caveat(self, num_classes: int) -> str | None:
        """How many targets it has with few classes."""
        few = self.targets > num_classes - 1
        return f"{self.name} has {num_classes - 1} of {self.targets} targets" if few else None

    @typed
    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        generator: Generator,
        batch_size: int | None = None,
    ) -> Tensor:
        """Adversarial examples of `images`; see `adversarial_images`. Nothing is random."""
        return adversarial_images(
            self, model, images, labels, generator=generator, batch_size=batch_size
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FABSearch:
    """One search, from the clean image."""

    threat: Threat
    rank: int
    steps: int

    @property
    def queries(self) -> int:
        """Steps of an image that does not fall, and a last look."""
        return self.steps + 1

    def begin(self, task: Task, logits_of: Classifier) -> State:
        """The clean image."""
        none = torch.zeros_like(task.labels)
        return {
            "images": task.images,
            "labels": task.labels,
            "targets": task.targets,
            "x": task.images,
            "done": none,
        }

    def advance(self, logits_of: Classifier, state: State) -> Move:
        """Look at x; from a misclassified one go back first; then on to the boundary."""
        x, images, labels, done = (state[name] for name in ("x", "images", "labels", "done"))
        task = (labels, state["targets"], done > 0)
        errs, lead, normal = _boundary(logits_of, x, task)
        near = self._near(x, images)
        points, wrong = x, errs & near
        rows = (errs & (done > 0)).nonzero().flatten()
        if len(rows):
            back = images[rows] + RETREAT * (x[rows] - images[rows])
            task = (labels[rows], state["targets"][rows], torch.zeros_like(rows) > 0)
            with numbered(rows):
                still, lead[rows], normal[rows] = _boundary(logits_of, back, task)
            x = x.index_copy(0, rows, back)
            wrong[rows] |= still & self._near(back, images[rows])
            points = torch.where(column(errs & near, x), state["x"], x)
        moved = {"x": self._step(x, images, normal, -lead), "done": done + 1}
        over = done >= self.steps
        return Move(state={**state, **moved}, points=points, wrong=wrong, over=over)

    def best(self, state: State) -> Tensor:
        """The last point, drawn into the threat."""
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


def _boundary(
    logits_of: Classifier, x: Tensor, task: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the model errs, and else the label's lead on the target and its gradient.

    Where `retreats`, images that it errs on have no gradient: it is asked for elsewhere.
    """
    labels, targets, retreats = task
    errs = torch.zeros_like(retreats)

    def lead_of(logits: Tensor) -> Tensor:
        errs.copy_(logits.argmax(1) != labels)
        lead = -targeted_margin(logits, labels, targets)
        return torch.where(errs & retreats, 0.0, lead)

    _, lead, normal = looked_at(logits_of, x, lead_of)
    return errs, lead, normal
