"""Natural and robust accuracy under a suite of attacks, image by image.

Shapes: N images of the set, B of a batch, S one image (C H W).  Units: pixels in [0, 1].
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sparring.attacks import PGD, STARTS, Classifier, Threat, check_batch
from sparring.data import derive_seed
from sparring.errors import ConfigError
from sparring.evaluation.accuracy import parts
from sparring.evaluation.judge import Judge
from sparring.evaluation.suites import named_suite
from sparring.models import working_copy
from sparring.records import AttackResult, Evaluation, Outcomes, Proportion, describe
from sparring.records.sizes import eps_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an evaluation is; given to an observer after every batch that was searched."""

    attack: str
    """Name of the attack that is running."""
    number: int
    """Which attack of the suite, counted from 1."""
    of: int
    """Attacks of the suite."""
    searched: int
    """Searches done within this attack: one an image and restart."""
    images: int
    """Searches of this attack if no more images fall."""
    robust: int
    """Images that no attack has broken so far."""
    total: int
    """Images that are evaluated in all."""


Observer = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What an evaluation found, as shares and image by image."""

    evaluation: Evaluation
    """Natural and robust accuracy, attack by attack."""
    outcomes: Outcomes
    """What became of every image."""


def evaluate(  # noqa: PLR0913 - four things that are judged, three settings by keyword
    model: Classifier,
    images: Shaped[Tensor, " N *S"],
    labels: Shaped[Tensor, "..."],
    threat: Threat,
    *,
    suite: str = "pgd",
    seed: int = 0,
    observer: Observer | None = None,
) -> Verdict:
    """How many of these images a model gets right, and how many no attack of a suite breaks.

    `model` maps images to logits: a `torch.nn.Module`, judged in evaluation mode and left as it
    was, or any differentiable function. `images` hold pixels in [0, 1], `labels` class indices.
    An image counts as broken only once the model itself, in its own arithmetic, has misclassified
    a version of it inside the threat (+ 1e-6). Every image's random starts come from (`seed`,
    attack, restart, its place in the set) alone.
    Cost: one forward pass over all images; for each attack and restart, its steps' forward and
    backward passes and one forward pass over the images that are robust so far.
    Raises `ConfigError` for an unknown suite and for images, labels or logits that cannot be meant.
    """
    attacks = named_suite(suite).against(threat)
    _check(images, labels)
    begun = time.perf_counter()
    survey = _Survey.begin(model, images, labels, threat)
    natural = survey.robust_so_far
    results: list[AttackResult] = []
    for number, (name, attack) in enumerate(attacks.items(), start=1):
        attack_begun = time.perf_counter()
        for searched, searches in survey.run(name, attack, seed):
            if observer is not None:
                observer(
                    Progress(
                        attack=name,
                        number=number,
                        of=len(attacks),
                        searched=searched,
                        images=searches,
                        robust=survey.robust_so_far.successes,
                        total=len(labels),
                    )
                )
        seconds = time.perf_counter() - attack_begun
        results.append(AttackResult(name=name, robust=survey.robust_so_far, seconds=seconds))
    environment = describe(
        threads=torch.get_num_threads(), device=str(survey.judge.device), precision=survey.precision
    )
    evaluation = Evaluation(
        suite=suite,
        threat=f"{type(threat).__name__} {eps_text(threat.eps)}",
        natural=natural,
        attacks=tuple(results),
        robust=survey.robust_so_far,
        num_images=len(labels),
        seed=seed,
        precision=survey.precision,
        seconds=time.perf_counter() - begun,
        environment=environment,
    )
    return Verdict(evaluation=evaluation, outcomes=survey.outcomes())


def _check(images: Tensor, labels: Tensor) -> None:
    if not len(images):
        raise ConfigError(
            "an evaluation needs at least one image, because it counts shares of them; got none. "
            "Pass the images of a test set."
        )
    check_batch(images, labels)


@dataclass(kw_only=True, slots=True, eq=False)
class _Survey:
    """One model on one set of images: which of them are broken so far, and by what."""

    judge: Judge
    search: Classifier
    """The model as attacks see it: the same function, computed in the cheapest faithful way."""
    precision: str
    images: Tensor
    labels: Tensor
    natural: Tensor
    """What the model says of the clean images."""
    adversarial: Tensor
    """What it says of the broken ones, and of the clean image elsewhere."""
    robust: Tensor
    """Where the model has been right so far."""
    broken_by: dict[int, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, model: Classifier, images: Tensor, labels: Tensor, threat: Threat) -> "_Survey":
        labels = labels.cpu()
        search, precision, device = model, "the model's own", images.device
        first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        if isinstance(model, nn.Module) and first is not None:
            device = first.device
            copy = working_copy(model, "fp32")
            search, precision = copy.attacked, copy.name
        judge = Judge(model=model, labels=labels, threat=threat, device=device)
        natural = judge.predictions(images)
        return cls(
            judge=judge,
            search=search,
            precision=precision,
            images=images,
            labels=labels,
            natural=natural,
            adversarial=natural.clone(),
            robust=natural == labels,
        )

    @property
    def robust_so_far(self) -> Proportion:
        return Proportion(successes=int(self.robust.sum()), total=len(self.labels))

    def run(self, name: str, attack: PGD, seed: int) -> Iterator[tuple[int, int]]:
        """Attack what is robust, restart by restart; yields searches done and to be done."""
        done = 0
        for restart in range(attack.restarts):
            places = self.robust.nonzero().flatten()
            for part in parts(len(places)):
                self._attack(name, attack, derive_seed(seed, name, restart), places[part])
                done += len(places[part])
                left = len(places) - part.stop
                later = int(self.robust.sum()) * (attack.restarts - restart - 1)
                yield done, done + left + later

    def _attack(self, name: str, attack: PGD, seed: int, places: Tensor) -> None:
        device = self.judge.device
        images, labels = self.images[places].to(device), self.labels[places].to(device)
        start = _starts(attack, images, seed, places.tolist())
        attacked = attack.search_from(start, self.search, images, labels)
        predictions = self.judge.predictions(attacked)
        broken = (predictions != self.labels[places]) & self.judge.allowed(attacked, images).cpu()
        self.robust[places[broken]] = False
        self.adversarial[places[broken]] = predictions[broken]
        self.broken_by.update(dict.fromkeys(places[broken].tolist(), name))

    def outcomes(self) -> Outcomes:
        return Outcomes(
            labels=tuple(self.labels.tolist()),
            natural=tuple(self.natural.tolist()),
            broken_by=tuple(self.broken_by.get(place) for place in range(len(self.labels))),
            adversarial=tuple(self.adversarial.tolist()),
        )


def _starts(attack: PGD, images: Tensor, seed: int, places: list[int]) -> Tensor:
    """Every image's own start, whichever images are searched beside it."""
    begin = STARTS[attack.start]
    drawn = [
        begin(
            attack.threat,
            images[number : number + 1],
            torch.Generator().manual_seed(derive_seed(seed, place)),
        )
        for number, place in enumerate(places)
    ]
    return torch.cat(drawn)
