"""Which images of a set are broken so far, and how far the search for the others is.

All of it can be put away at any pass and taken up again, to the same bits.

Shapes: N images of the set, B of a batch, S one image (C H W), K classes.
"""

import math
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparring.attacks import Attack, Classifier, Search, State, Sweep, Task, ranked
from sparring.attacks.checks import numbered
from sparring.attacks.search import ATTACKED, no_trace
from sparring.data import derive_seed
from sparring.evaluation.judge import Judge
from sparring.models.saved import Anything, Fields, Items, Kind, Number, Numbers, Same
from sparring.records import AttackResult, Example, Examples, Outcomes, Proportion

UNBROKEN = -1
"""Stands for the attack that broke an image which none has broken."""
SHOWN = 12
"""Images that are kept to be looked at: enough for an impression, few enough for a page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an evaluation is; given to an observer after every pass."""

    attack: str
    """Name of the attack that is running."""
    number: int
    """Which attack of the suite, counted from 1."""
    of: int
    """Attacks of the suite."""
    share: float
    """Of this attack that is done, if no more images fall: 1 at its end."""
    robust: int
    """Images that no attack has broken so far."""
    total: int
    """Images that are evaluated in all."""


Observer = Callable[[Progress], None]


class Leg(NamedTuple):
    """One search of one attack with one form of the model."""

    attack: int
    """Number of the attack, from 0."""
    place: int
    """Number of the search within it, whatever the form."""
    search: Search
    """What is carried out."""
    form: int
    """Which form of the model is searched."""


@dataclass(kw_only=True, slots=True, eq=False)
class Survey:
    """One model on one set of images, under one list of attacks."""

    judge: Judge
    """What counts."""
    forms: Sequence[Classifier]
    """The model as attacks see it, the cheapest form first, the most faithful last."""
    images: Tensor
    """Clean images [N, *S]."""
    labels: Tensor
    """Their classes [N]."""
    logits: Tensor
    """What the model says of them [N, K]."""
    attacks: Sequence[Attack]
    """In the order in which they are run."""
    seed: int
    """Of everything random."""
    batch_size: int
    """Most images that are searched at once."""
    robust: Tensor = field(init=False)
    """Where the model has been right so far [N]."""
    adversarial: Tensor = field(init=False)
    """What it says of the broken images, and of the clean one elsewhere [N]."""
    broken_by: Tensor = field(init=False)
    """Number of the attack that broke each image [N]."""
    seconds: list[float] = field(init=False)
    """Time of each attack so far."""
    shown: Tensor = field(init=False)
    """The first `SHOWN` images as the attacks left them so far; none if that was not kept."""
    left: list[int] = field(default_factory=list)
    """Robust images after each attack that is through."""
    leg: int = 0
    """Which leg is next or under way."""
    sweep: Sweep | None = None
    """The leg that is under way."""

    def __post_init__(self) -> None:
        """Nobody is broken yet but those whom the model gets wrong when clean."""
        natural = self.logits.argmax(1)
        self.robust, self.adversarial = natural == self.labels, natural.clone()
        self.broken_by = torch.full_like(self.labels, UNBROKEN)
        self.seconds = [0.0] * len(self.attacks)
        self.shown = self.images[:SHOWN].to("cpu", copy=True)

    @property
    def robust_so_far(self) -> Proportion:
        """Images that are not broken."""
        return Proportion(successes=int(self.robust.sum()), total=len(self.labels))

    @property
    def legs(self) -> Sequence[Leg]:
        """All that is to be done, in order: each form sees a whole attack before the next does."""
        return [
            Leg(number, place, search, form)
            for number, attack in enumerate(self.attacks)
            for form in range(len(self.forms))
            for place, search in enumerate(attack.searches(self.logits.shape[1]))
        ]

    def run(self) -> Iterator[Progress]:
        """Go on to the end; between two passes it may be put away."""
        legs = self.legs
        while self.leg < len(legs):
            leg = legs[self.leg]
            begun = time.perf_counter()
            sweep = self.sweep or self._sweep(leg, self.robust.nonzero().flatten())
            self.sweep = sweep
            if sweep.left:
                self._show(
                    *sweep.advance(lambda places, points, leg=leg: self._judge(leg, places, points))
                )
            self.seconds[leg.attack] += time.perf_counter() - begun
            if not sweep.left:
                self.sweep, self.leg = None, self.leg + 1
                if self.leg == len(legs) or legs[self.leg].attack != leg.attack:
                    self.left.append(int(self.robust.sum()))
            yield self._progress(legs, leg)

    def results(self) -> tuple[AttackResult, ...]:
        """What each attack left."""
        total = len(self.labels)
        return tuple(
            AttackResult(
                name=attack.name, robust=Proportion(successes=left, total=total), seconds=seconds
            )
            for attack, left, seconds in zip(self.attacks, self.left, self.seconds, strict=True)
        )

    def outcomes(self) -> Outcomes:
        """What became of every image."""
        names = {number: attack.name for number, attack in enumerate(self.attacks)}
        return Outcomes(
            labels=tuple(self.labels.tolist()),
            natural=tuple(self.logits.argmax(1).tolist()),
            broken_by=tuple(names.get(number) for number in self.broken_by.tolist()),
            adversarial=tuple(self.adversarial.tolist()),
        )

    def examples(self) -> Examples | None:
        """The first images, clean and attacked; none if they are no pictures, or were not kept.

        Cost: a forward pass over `SHOWN` images.
        """
        if not len(self.shown) or self.shown.ndim != 4 or self.shown.shape[1] not in (1, 3):
            return None
        outcomes = self.outcomes()
        said = self.judge.predictions(self.shown)
        broken = self.broken_by[: len(said)] != UNBROKEN
        said = torch.where(broken, self.adversarial[: len(said)], said).tolist()
        clean, attacked = _pixels(self.images[: len(self.shown)]), _pixels(self.shown)
        channels, height, width = self.shown.shape[1:]
        images = tuple(
            Example(
                label=outcomes.labels[place],
                natural=outcomes.natural[place],
                adversarial=said[place],
                broken_by=outcomes.broken_by[place],
                clean=clean[place],
                attacked=attacked[place],
            )
            for place in range(len(self.shown))
        )
        return Examples(height=height, width=width, channels=channels, images=images)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        sweep = self.sweep
        return {
            "robust": self.robust,
            "adversarial": self.adversarial,
            "broken_by": self.broken_by,
            "seconds": self.seconds,
            "shown": self.shown,
            "left": self.left,
            "leg": self.leg,
            "waiting": sweep.waiting if sweep else None,
            "places": sweep.places if sweep else None,
            "search": dict(sweep.state) if sweep else None,
        }

    def schema(self, state: object) -> Kind:
        """What `restore` accepts, given how far a state says that it came.

        Cost: the first pass of a search over one image.
        """
        total, classes, legs = len(self.labels), self.logits.shape[1], self.legs
        leg = _integer_in(state, "leg", len(legs))
        done = len(self.attacks) if leg == len(legs) else legs[leg].attack
        places = Numbers(dtype=torch.int64, shape=(None,), least=0, most=total - 1)
        under_way: dict[object, Kind] = dict.fromkeys(("waiting", "places", "search"), Same(None))
        found = state.get("places") if isinstance(state, dict) else None
        if leg < len(legs) and found is not None:
            places.check(found, "survey.places")
            search = self._search_schema(legs[leg], len(found))
            under_way = {"waiting": places, "places": places, "search": search}
        classed = Numbers(dtype=torch.int64, shape=(total,), least=0, most=classes - 1)
        attacks = Numbers(dtype=torch.int64, shape=(total,), least=-1, most=len(self.attacks) - 1)
        return Fields(
            {
                "robust": Numbers.like(self.robust),
                "adversarial": classed,
                "broken_by": attacks,
                "seconds": Items([Number(least=0)] * len(self.attacks)),
                "left": Items([Number(least=0, most=total, whole=True)] * done),
                "leg": Number(least=0, most=len(legs), whole=True),
                **under_way,
            },
            {"shown": Numbers(dtype=self.shown.dtype, shape=(None, *self.shown.shape[1:]))},
        )

    def _search_schema(self, leg: Leg, rows: int) -> Kind:
        """Tensors as the search keeps them, a row for each image in flight."""
        if not rows:
            return Anything()
        first = self._sweep(leg, torch.tensor([0]))
        with no_trace(first.logits_of):
            begun = first.begin(first.waiting)
        most = self.logits.shape[1] - 1
        bounds = {"labels": most, "targets": most, "done": leg.search.queries + 1}
        return Fields(
            {
                name: Numbers(
                    dtype=value.dtype,
                    shape=(rows, *value.shape[1:]),
                    least=0 if name in bounds else -math.inf,
                    most=bounds.get(name, math.inf),
                )
                for name, value in begun.items()
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Put everything where it was, batch and all."""
        for name in ("robust", "adversarial", "broken_by", "seconds", "left", "leg"):
            setattr(self, name, state[name])
        # An evaluation that was begun before images were kept goes on without.
        self.shown = state.get("shown", self.shown[:0]).to(self.shown)
        if state["waiting"] is not None:
            self.sweep = self._sweep(self.legs[self.leg], state["waiting"])
            device = self.judge.device
            self.sweep.places = state["places"]
            self.sweep.state = {name: rows.to(device) for name, rows in state["search"].items()}

    def _sweep(self, leg: Leg, waiting: Tensor) -> Sweep:
        seed = derive_seed(self.seed, self.attacks[leg.attack].name, leg.place)
        targets = ranked(self.logits, self.labels, leg.search.rank)
        device, form = self.judge.device, self.forms[leg.form]

        def begin(places: Tensor) -> State:
            seeds = [derive_seed(seed, place) for place in places.tolist()]
            task = Task(
                self.images[places], self.labels[places], targets[places], torch.tensor(seeds)
            )
            return leg.search.begin(Task(*(value.to(device) for value in task)), form)

        return Sweep(
            search=leg.search,
            logits_of=form,
            begin=begin,
            waiting=waiting,
            batch_size=self.batch_size,
        )

    def _judge(self, leg: Leg, places: Tensor, points: Tensor) -> Tensor:
        """Where the model itself errs, on an image inside the threat."""
        with numbered(places, ATTACKED):
            predictions = self.judge.predictions(points)
        inside = self.judge.allowed(points, self.images[places].to(points.device)).cpu()
        broken = (predictions != self.labels[places]) & inside
        fallen = places[broken]
        self.robust[fallen] = False
        self.adversarial[fallen] = predictions[broken]
        self.broken_by[fallen] = leg.attack
        return broken

    def _show(self, places: Tensor, points: Tensor) -> None:
        """Keep what a search ended with, where it is of one of the first images."""
        first = places < len(self.shown)
        self.shown[places[first]] = points[first.to(points.device)].to(self.shown)

    def _progress(self, legs: Sequence[Leg], leg: Leg) -> Progress:
        of_attack = [place for place, other in enumerate(legs) if other.attack == leg.attack]
        done, sweep = self.leg - of_attack[0], self.sweep
        if sweep is not None:
            queries, everyone = leg.search.queries, int(self.robust.sum())
            flying = (queries - sweep.state["done"]).clamp_min(0).sum()
            ahead = len(sweep.waiting) * queries + int(flying)
            done += 1 - ahead / max(everyone * queries, ahead, 1)
        return Progress(
            attack=self.attacks[leg.attack].name,
            number=leg.attack + 1,
            of=len(self.attacks),
            share=done / len(of_attack),
            robust=int(self.robust.sum()),
            total=len(self.labels),
        )


def _integer_in(state: object, name: str, otherwise: int) -> int:
    """An integer of 0 to `otherwise` in a state that may be anything; else `otherwise`."""
    found = state.get(name) if isinstance(state, dict) else None
    return found if type(found) is int and 0 <= found <= otherwise else otherwise


def _pixels(images: Tensor) -> list[str]:
    """Images [B, C, H, W] as bytes in base64, channels last."""
    grey = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [b64encode(image.contiguous().numpy().tobytes()).decode() for image in grey]
