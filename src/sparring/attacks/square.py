"""Square: random search with patches that shrink, which sees nothing but the logits.

Shapes: B rows in flight, C channels, H height, W width.  Units: pixels in [0, 1].
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks import streams
from sparring.attacks.checks import Classifier, Remembering, numbered
from sparring.attacks.losses import margin
from sparring.attacks.patches import L2Patches, LinfPatches
from sparring.attacks.search import FORWARD, Move, Search, SearchAttack, State, Task, column
from sparring.attacks.threat import DEFAULT, L2, Linf, Threat, aimed, itself
from sparring.records.checks import at_least, within
from sparring.records.typed import typed_record

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the patches' share of the image is halved."""
AHEAD = 16
"""Queries whose squares are drawn at once; drawing each by itself costs many small operations."""
MEMORY = "memory of "
"""Begins the names of what the model keeps of the best images, among the others of a state."""


@typed_record
@dataclass(frozen=True, slots=True)
class Square(SearchAttack):
    """Changes one square of the image at a time; keeps what brings the model nearer to an error.

    Cost: `queries` forward passes at most, no backward pass.
    Source: Andriushchenko et al. 2020, "Square Attack", algorithms 2 and 3, with the margin loss;
    its parameters.
    """

    threat: Threat = DEFAULT
    """The set the attack may search."""
    _: KW_ONLY
    eps: InitVar[float | None] = None
    """`eps=8/255` stands for the threat `Linf(8/255)`."""
    queries: int = 5000
    """Passes for an image that does not fall."""
    share: float = 0.8
    """Of the image, what the first squares cover."""

    def __post_init__(self, eps: float | None) -> None:
        """Raise `ConfigError` for a setting that cannot mean anything."""
        object.__setattr__(self, "threat", aimed(self.threat, eps))
        at_least("queries", self.queries, 1)
        within("share", self.share, "(0, 1]", "The paper takes 0.8 for L-infinity.")

    @property
    @override
    def name(self) -> str:
        queries = "" if self.queries == 5000 else f"-{self.queries}"
        share = "" if self.share == 0.8 else f" share {self.share:g}"
        return f"square{queries}{share}"

    @override
    def searches(self, num_classes: int) -> Sequence[Search]:
        return [SquareSearch(threat=self.threat, limit=self.queries, share=self.share)]

    @override
    def obstacle(self, image_shape: Sequence[int], num_classes: int) -> str | None:
        if type(self.threat) not in PATCHES:
            kind = type(itself(self.threat)).__name__
            return f"it has patches for Linf and L2 only, not for {kind}"
        if len(image_shape) == 3:
            return None
        *before, width = image_shape
        *channels, height = before or [1]
        shape = (math.prod(channels), height, width)
        back = "" if len(image_shape) == 1 else f"torch.nn.Unflatten(1, {tuple(image_shape)}), "
        return (
            "it changes squares of images of shape (batch, channels, height, width), and these "
            f"have (batch, {', '.join(map(str, image_shape))}); give them as images.reshape(-1, "
            f"{', '.join(map(str, shape))}) to "
            f"torch.nn.Sequential(torch.nn.Flatten(), {back}model)"
        )


class Patches(Protocol):
    """How a threat's proposals are drawn."""

    @property
    def local(self) -> bool:
        """Whether a proposal leaves all pixels outside its square as they are."""
        ...

    def draws(self, channels: int) -> int:
        """Random numbers of one proposal."""
        ...

    def plan(self, size: torch.Size, share: Tensor, numbers: Tensor) -> Tensor:
        """What is decided of proposals before the best images are known [..., P].

        For images of this size [C, H, W], of which `share` [...] changes, from `numbers` [..., N].
        """
        ...

    def start(self, threat: Threat, images: Tensor, seeds: Tensor) -> Tensor:
        """The first proposal."""
        ...

    def propose(
        self, threat: Threat, images: Tensor, best: Tensor, plan: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next one, from the best so far, by its plan [B, P].

        With it, where it differs from the best image [B].
        """
        ...


PATCHES: Mapping[type, Patches] = {Linf: LinfPatches(), L2: L2Patches()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareSearch(Search):
    """One search."""

    threat: Threat
    limit: int
    share: float
    rank: int = 0

    @property
    @override
    def queries(self) -> int:
        return self.limit

    @property
    @override
    def effort(self) -> float:
        return FORWARD

    @override
    def begin(self, task: Task, logits_of: Classifier) -> State:
        """The first proposal is a pattern over all of the image."""
        patches = PATCHES[type(self.threat)]
        start = patches.start(self.threat, task.images, task.seeds)
        memory: Mapping[str, Tensor] = {}
        if patches.local and isinstance(logits_of, Remembering):
            memory = logits_of.remember(start)
        return {
            **{MEMORY + name: rows for name, rows in memory.items()},
            "images": task.images,
            "labels": task.labels,
            "seeds": task.seeds,
            "x": start,
            "best": start,
            "least": torch.full_like(task.labels, torch.inf, dtype=torch.float32),
            "new": torch.ones_like(task.labels, dtype=torch.bool),
            "done": torch.zeros_like(task.labels),
            "plan": self._plan(task.images, task.seeds, torch.ones_like(task.labels)),
        }

    @override
    def advance(self, logits_of: Classifier, state: State) -> Move:
        """Keep the proposal if it lowers the label's lead, and make the next."""
        x, done = state["x"], state["done"] + 1
        memory = _memory(state)
        lead, errs = _looked_at(logits_of, state, memory)
        better = (lead < state["least"]) | errs
        if memory and isinstance(logits_of, Remembering):
            logits_of.keep(memory, state["best"], x, better.nonzero().flatten())
        best = torch.where(column(better, x), x, state["best"])
        place, plan = (done - 1) % AHEAD, state["plan"]
        if not place.all():
            plan = self._plan(x, state["seeds"], done)
        now = plan.gather(1, place[:, None, None].expand(-1, 1, plan.shape[2])).squeeze(1)
        patches = PATCHES[type(self.threat)]
        proposed, new = patches.propose(self.threat, state["images"], best, now)
        moved = {
            "plan": plan,
            "x": proposed,
            "best": best,
            "new": new,
            "least": torch.where(better, lead, state["least"]),
            "done": done,
        }
        return Move(state={**state, **moved}, points=x, wrong=errs, over=done >= self.limit)

    @override
    def best(self, state: State) -> Tensor:
        return state["best"]

    @override
    def restored(self, state: State) -> State:
        plan = self._plan(state["images"], state["seeds"], state["done"] + 1)
        return {**state, "plan": plan}

    def _plan(self, images: Tensor, seeds: Tensor, done: Tensor) -> Tensor:
        """The plans of the `AHEAD` queries around each row's next one [B, AHEAD, P]."""
        patches = PATCHES[type(self.threat)]
        first = done - (done - 1) % AHEAD
        queries = first[:, None] + torch.arange(AHEAD, device=done.device)
        numbers = streams.uniform(
            seeds.repeat_interleave(AHEAD),
            patches.draws(images.shape[1]),
            first=(1 + queries.flatten()) << 20,
        )
        share = self.share * _halved(queries)
        return patches.plan(images.shape[1:], share, numbers.view(*queries.shape, -1))


def _memory(state: State) -> dict[str, Tensor]:
    """What the model keeps of the best images, if it does."""
    return {
        name.removeprefix(MEMORY): rows for name, rows in state.items() if name.startswith(MEMORY)
    }


def _looked_at(
    logits_of: Classifier, state: State, memory: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The label's lead on each proposal, and where the model errs there [B].

    A square often falls where the pixels are as it would have them: that proposal is the best image
    itself, of which all is known. Those are a tenth at first and a third in the end.
    """
    x, labels, lead = state["x"], state["labels"], state["least"].clone()
    errs = torch.zeros_like(labels, dtype=torch.bool)
    rows = state["new"].nonzero().flatten()
    if len(rows):
        with torch.no_grad(), numbered(rows):
            if memory and isinstance(logits_of, Remembering):
                logits = logits_of.revised(memory, state["best"], x, rows)
            else:
                logits = logits_of(x[rows])
        lead[rows] = -margin(logits, labels[rows]).float()
        errs[rows] = logits.argmax(1) != labels[rows]
    return lead, errs


def _halved(done: Tensor) -> Tensor:
    """Relative size of the patches after `done` queries, in (0, 1]; shaped like `done`."""
    steps, shares = _schedule(done.device)
    return shares[torch.bucketize(done, steps)]


@functools.lru_cache
def _schedule(device: torch.device) -> tuple[Tensor, Tensor]:
    steps = torch.tensor(HALVED_AFTER, device=device)
    return steps, 0.5 ** torch.arange(len(HALVED_AFTER) + 1, device=device)
