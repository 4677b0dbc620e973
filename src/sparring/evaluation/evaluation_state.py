"""The state of an evaluation: its broken images and its searches.

It can be written to disk between two passes and restored bit for bit, to resume an evaluation.

Shapes: N images of the set, B of a batch, S one image (C H W), K classes.
Units: seconds are wall-clock.
"""

import math
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparring.attacks import (
    Attack,
    BatchedSearch,
    Classifier,
    OwnAttack,
    Search,
    State,
    Task,
    ranked,
)
from sparring.attacks.checks import numbered
from sparring.attacks.search import ATTACKED, no_trace
from sparring.evaluation.judge import Judge, share_of
from sparring.evaluation.model_under_test import image_seeds
from sparring.evaluation.progress import Ahead, Pace, Progress
from sparring.evaluation.proofs import Proof
from sparring.models.saved import (
    Anything,
    Fields,
    Items,
    Kind,
    Number,
    Numbers,
    Same,
)
from sparring.records import AttackResult, Example, Examples, Outcomes, Proportion

UNBROKEN = -1
"""Number of the attack for images that none has broken."""
SHOWN = 12
"""Images that are kept for the report."""


class SearchPass(NamedTuple):
    """One search of one attack with one form of the model."""

    attack: int
    """Number of the attack, from 0."""
    place: int
    """Number of the search within it, for any form."""
    search: Search
    form: int
    """Number of the form of the model."""


@dataclass(kw_only=True, slots=True, eq=False)
class EvaluationState:
    """One model on one set of images, under one list of attacks."""

    judge: Judge
    """It decides which images are broken."""
    forms: Sequence[Classifier]
    """The model as attacks see it, the cheapest form first, the most faithful last."""
    images: Tensor
    """Clean images [N, *S]."""
    labels: Tensor
    """Their classes [N]."""
    logits: Tensor
    """The model's logits of them [N, K]."""
    attacks: Sequence[Attack]
    """In order of execution."""
    seed: int
    """Seed of everything random."""
    batch_size: int
    """Most images of a pass."""
    kept: int = SHOWN
    """Number of the first images whose attacked versions are kept."""
    after: Ahead = field(default_factory=Ahead)
    """The checks after the attacks."""
    proof: Proof = field(default_factory=Proof)
    """What is proved of the images; proved images are not attacked."""
    pace: Pace = field(default_factory=Pace)
    """Measured speed of the parts."""
    robust: Tensor = field(init=False)
    """Images that are not broken so far [N]."""
    adversarial: Tensor = field(init=False)
    """Predicted class of the broken version, or else of the clean image [N]."""
    broken_by: Tensor = field(init=False)
    """Number of the attack that broke each image [N]."""
    seconds: list[float] = field(init=False)
    """Time of each attack so far."""
    shown: Tensor = field(init=False)
    """The first images in their attacked versions so far; empty if not kept."""
    left: list[int] = field(default_factory=list)
    """Robust images after each finished attack."""
    search_pass: int = 0
    """Number of the current or next search of `passes`."""
    batched: BatchedSearch | None = None
    """The current search; `None` between two."""

    def __post_init__(self) -> None:
        """Initially only misclassified images count as broken."""
        natural = self.logits.argmax(1)
        self.robust, self.adversarial = natural == self.labels, natural.clone()
        self.broken_by = torch.full_like(self.labels, UNBROKEN)
        self.seconds = [0.0] * len(self.attacks)
        self.shown = self.images[: self.kept].to("cpu", copy=True)

    def begin_with(self, smaller: "EvaluationState") -> None:
        """Count images as broken that are broken in a smaller threat of the same kind."""
        for name in ("robust", "adversarial", "broken_by", "shown"):
            setattr(self, name, getattr(smaller, name).clone())

    @property
    def robust_so_far(self) -> Proportion:
        """Images that are not broken."""
        return share_of(self.robust)

    @property
    def attacked(self) -> Tensor:
        """Images that are neither broken nor proved [N]."""
        return self.robust if self.proof.held is None else self.robust & ~self.proof.held

    @property
    def passes(self) -> Sequence[SearchPass]:
        """All searches in order.

        The most faithful form gets them all. Cheaper ones get the first search of the first attack
        only, before it: there most images fall, and later searches would meet the others twice. An
        attack of your own gets the network itself, once.
        """
        last = len(self.forms) - 1
        return [
            SearchPass(number, place, search, form)
            for number, attack in enumerate(self.attacks)
            for form in range(last if number or isinstance(attack, OwnAttack) else 0, last + 1)
            for place, search in enumerate(attack.searches(self.logits.shape[1]))
            if form == last or not place
        ]

    def run(self) -> Iterator[Callable[[], Progress]]:
        """Run all searches; the state may be stored between two passes.

        Yields, after each pass, what computes the progress.
        """
        passes = self.passes
        while self.search_pass < len(passes):
            search_pass = passes[self.search_pass]
            begun = time.perf_counter()
            batched = self.batched or self._batched_search(
                search_pass, self.attacked.nonzero().flatten()
            )
            self.batched = batched
            if batched.left:
                gone, last = batched.advance(
                    lambda places, points, search_pass=search_pass: self._judge(
                        search_pass, places, points
                    )
                )
                self._show(gone, last)
                passed = len(batched.places) + len(gone)
                seconds = time.perf_counter() - begun
                effort = search_pass.search.effort
                self.pace.measured(search_pass.attack, effort, passed, seconds)
            self.seconds[search_pass.attack] += time.perf_counter() - begun
            if not batched.left:
                self.batched, self.search_pass = None, self.search_pass + 1
                if (
                    self.search_pass == len(passes)
                    or passes[self.search_pass].attack != search_pass.attack
                ):
                    self.left.append(int(self.robust.sum()))
            yield partial(self._progress, passes, search_pass)

    def proving(self, *, share: float) -> Progress:
        """The progress of the proofs before the attacks."""
        held = self.proof.held
        return Progress(
            attack="certificate",
            number=0,
            of=len(self.attacks),
            share=share,
            robust=int(self.robust.sum()),
            total=len(self.labels),
            proved=0 if held is None else int(held.sum()),
            spent=self.proof.seconds,
        )

    def attack_that_broke(self, place: int) -> str | None:
        """Name of the attack that broke an image; `None` if it is robust, or wrong when clean."""
        number = int(self.broken_by[place])
        return None if number == UNBROKEN else self.attacks[number].name

    def results(self) -> tuple[AttackResult, ...]:
        """The result of each attack."""
        total = len(self.labels)
        return tuple(
            AttackResult(
                name=attack.name, robust=Proportion(successes=left, total=total), seconds=seconds
            )
            for attack, left, seconds in zip(self.attacks, self.left, self.seconds, strict=True)
        )

    def outcomes(self) -> Outcomes:
        """The outcome of every image."""
        names = {number: attack.name for number, attack in enumerate(self.attacks)}
        return Outcomes(
            labels=tuple(self.labels.tolist()),
            natural=tuple(self.logits.argmax(1).tolist()),
            broken_by=tuple(names.get(number) for number in self.broken_by.tolist()),
            adversarial=tuple(self.adversarial.tolist()),
            proved=_column(self.proof.held),
            unfinished=_column(self.proof.unfinished),
        )

    def examples(self) -> Examples | None:
        """The first images, clean and attacked; `None` if they are no pictures or are not kept.

        Cost: a forward pass over `SHOWN` images.
        """
        shown = self.shown[:SHOWN]
        if not len(shown) or shown.ndim != 4 or shown.shape[1] not in (1, 3):
            return None
        outcomes = self.outcomes()
        predicted = self.judge.predictions(shown)
        broken = self.broken_by[: len(predicted)] != UNBROKEN
        predicted = torch.where(broken, self.adversarial[: len(predicted)], predicted).tolist()
        clean, attacked = _pixels(self.images[: len(shown)]), _pixels(shown)
        channels, height, width = shown.shape[1:]
        images = tuple(
            Example(
                label=outcomes.labels[place],
                natural=outcomes.natural[place],
                adversarial=predicted[place],
                broken_by=outcomes.broken_by[place],
                clean=clean[place],
                attacked=attacked[place],
            )
            for place in range(len(shown))
        )
        return Examples(height=height, width=width, channels=channels, images=images)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        batched = self.batched
        return {
            "robust": self.robust,
            "adversarial": self.adversarial,
            "broken_by": self.broken_by,
            "seconds": self.seconds,
            "shown": self.shown,
            "left": self.left,
            "leg": self.search_pass,
            "waiting": batched.waiting if batched else None,
            "places": batched.places if batched else None,
            "search": dict(batched.state) if batched else None,
            "proved": self.proof.held,
            "unfinished": self.proof.unfinished,
            "proof_seconds": self.proof.seconds,
        }

    def schema(self, state: object) -> Kind:
        """The schema of a state that `restore` accepts, given the progress it states.

        Cost: the first pass of a search over one image.
        """
        total, classes, passes = len(self.labels), self.logits.shape[1], self.passes
        search_pass = _integer_in(state, "leg", len(passes))
        done = len(self.attacks) if search_pass == len(passes) else passes[search_pass].attack
        places = Numbers(dtype=torch.int64, shape=(None,), least=0, most=total - 1)
        under_way: dict[object, Kind] = dict.fromkeys(("waiting", "places", "search"), Same(None))
        found = state.get("places") if isinstance(state, dict) else None
        if search_pass < len(passes) and found is not None:
            places.check(found, "survey.places")
            search = self._search_schema(passes[search_pass], len(found))
            under_way = {"waiting": places, "places": places, "search": search}
        found = state if isinstance(state, dict) else {}
        proofs = {name: found.get(name) for name in ("proved", "unfinished")}
        classed = Numbers(dtype=torch.int64, shape=(total,), least=0, most=classes - 1)
        attacks = Numbers(dtype=torch.int64, shape=(total,), least=-1, most=len(self.attacks) - 1)
        return Fields(
            {
                "robust": Numbers.like(self.robust),
                "adversarial": classed,
                "broken_by": attacks,
                "seconds": Items([Number(least=0)] * len(self.attacks)),
                "left": Items([Number(least=0, most=total, whole=True)] * done),
                "leg": Number(least=0, most=len(passes), whole=True),
                **under_way,
            },
            {
                "shown": Numbers(dtype=self.shown.dtype, shape=(None, *self.shown.shape[1:])),
                **{
                    name: Same(None) if value is None else Numbers.like(self.robust)
                    for name, value in proofs.items()
                },
                "proof_seconds": Number(least=0),
            },
        )

    def _search_schema(self, search_pass: SearchPass, rows: int) -> Kind:
        """Tensors of the search, with a row for each image in it."""
        if not rows:
            return Anything()
        first = self._batched_search(search_pass, torch.tensor([0]))
        with no_trace(first.logits_of):
            begun = first.begin(first.waiting)
        most = self.logits.shape[1] - 1
        bounds = {"labels": most, "targets": most, "done": search_pass.search.queries + 1}
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
        """Restore a state."""
        for name in ("robust", "adversarial", "broken_by", "seconds", "left"):
            setattr(self, name, state[name])
        self.search_pass = state["leg"]
        # States of earlier versions have no images.
        self.shown = state.get("shown", self.shown[:0]).to(self.shown)
        self.proof = Proof(
            held=state.get("proved"),
            unfinished=state.get("unfinished"),
            seconds=state.get("proof_seconds", 0.0),
        )
        if state["waiting"] is not None:
            self.batched = self._batched_search(self.passes[self.search_pass], state["waiting"])
            device = self.judge.device
            self.batched.places = state["places"]
            found = {name: rows.to(device) for name, rows in state["search"].items()}
            self.batched.state = self.batched.search.restored(found) if found else found

    def _batched_search(self, search_pass: SearchPass, waiting: Tensor) -> BatchedSearch:
        name = self.attacks[search_pass.attack].name
        targets = ranked(self.logits, self.labels, search_pass.search.rank)
        device, form = self.judge.device, self.forms[search_pass.form]
        if isinstance(self.attacks[search_pass.attack], OwnAttack):
            form = self.judge.model

        def begin(places: Tensor) -> State:
            seeds = image_seeds(self.seed, name, search_pass.place, places.tolist())
            task = Task(self.images[places], self.labels[places], targets[places], seeds)
            return search_pass.search.begin(Task(*(value.to(device) for value in task)), form)

        return BatchedSearch(
            search=search_pass.search,
            logits_of=form,
            begin=begin,
            waiting=waiting,
            batch_size=self.batch_size,
        )

    def _judge(self, search_pass: SearchPass, places: Tensor, points: Tensor) -> Tensor:
        """Where the model misclassifies an image inside the threat."""
        with numbered(places, ATTACKED):
            predictions = self.judge.predictions(points)
        inside = self.judge.allowed(points, self.images[places].to(points.device)).cpu()
        broken = (predictions != self.labels[places]) & inside
        newly = places[broken]
        self.robust[newly] = False
        self.adversarial[newly] = predictions[broken]
        self.broken_by[newly] = search_pass.attack
        return broken

    def _show(self, places: Tensor, points: Tensor) -> None:
        """Keep the final images of a search, for the first images."""
        if not len(places):
            return
        first = places < len(self.shown)
        self.shown[places[first]] = points[first.to(points.device)].to(self.shown)

    def _progress(self, passes: Sequence[SearchPass], search_pass: SearchPass) -> Progress:
        of_attack = [
            place for place, other in enumerate(passes) if other.attack == search_pass.attack
        ]
        done, batched = self.search_pass - of_attack[0], self.batched
        remaining, ahead = int(self.attacked.sum()), 0
        if batched is not None:
            queries = search_pass.search.queries
            flying = (queries - batched.state["done"]).clamp_min(0).sum()
            ahead = len(batched.waiting) * queries + int(flying)
            done += 1 - ahead / max(remaining * queries, ahead, 1)
        return Progress(
            attack=self.attacks[search_pass.attack].name,
            number=search_pass.attack + 1,
            of=len(self.attacks),
            share=done / len(of_attack),
            robust=int(self.robust.sum()),
            total=len(self.labels),
            proved=0 if self.proof.held is None else int(self.proof.held.sum()),
            left=self.pace.left(self._ahead(passes, ahead, remaining)),
            spent=self.proof.seconds + sum(self.seconds),
            effort=self.pace.effort,
        )

    def _ahead(self, passes: Sequence[SearchPass], flying: int, remaining: int) -> dict[int, Ahead]:
        """Passes left by attack, and after the attacks, if no more images break."""
        found = {len(self.attacks): self.after}
        images = min(remaining, self.batch_size)
        for place, one in enumerate(passes[self.search_pass :]):
            under_way = not place and self.batched is not None
            queries = flying if under_way else remaining * one.search.queries
            before = found.get(one.attack, Ahead(0.0, images)).effort
            found[one.attack] = Ahead(before + queries * one.search.effort, images)
        return found


def _column(images: Tensor | None) -> tuple[bool, ...] | None:
    return None if images is None else tuple(images.tolist())


def _integer_in(state: object, name: str, otherwise: int) -> int:
    """An integer of 0 to `otherwise` in an unchecked state; else `otherwise`."""
    found = state.get(name) if isinstance(state, dict) else None
    return found if type(found) is int and 0 <= found <= otherwise else otherwise


def _pixels(images: Tensor) -> list[str]:
    """Images [B, C, H, W] as bytes in base64, channels last."""
    grey = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [b64encode(image.contiguous().numpy().tobytes()).decode() for image in grey]
