"""One model under attack: the form in which it is searched, and who judges for it.

Shapes: B batch, S one image (C H W).  Units: pixels in [0, 1].
"""

import logging
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sparring.attacks import PGD, Classifier, Threat, checked
from sparring.attacks.checks import looked_at
from sparring.attacks.search import no_trace
from sparring.data import derive_seed
from sparring.evaluation.accuracy import logits_in_parts
from sparring.evaluation.judge import Judge, device_of
from sparring.models import (
    ODD,
    OnCopies,
    attack_passes,
    chosen_batch_size,
    computing_threads,
    working_copy,
)

log = logging.getLogger(__name__)

ALIKE = 1e-3
"""Largest difference of two answers, as a share of the logits' spread, that rounding explains."""
ROUGHLY = 0.25
"""The same of a form in bf16, whose search another in single precision follows."""
FEW = 32
"""Images by which a form is compared with the network."""


def ask(model: Classifier, images: Tensor, labels: Tensor) -> None:
    """Refuse a model that fails on one image or on an odd number, before it is attacked.

    Searches go on with the images that are left, whatever their number, down to one. Cost: a pass
    there and back over `ODD` images and over one. Raises `ConfigError`.
    """
    logits_of, device = checked(model, labels), device_of(model, images)
    with no_trace(model):
        for count in (1, ODD):
            some = images[torch.arange(count) % len(images)].to(device)
            looked_at(logits_of, some, lambda logits: logits.logsumexp(1))


class Contender:
    """What is attacked of a model, in single precision, and who judges for it.

    `logits` are those of the clean images; `attacked` is the model as attacks see it, `arithmetic`
    what that is computed in, `threads` how many PyTorch is to have while it is attacked, 0 for as
    many as it has. `batch_size` images are asked about at once, `None` for the device's default.
    """

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        batch_size: int | None = None,
    ) -> None:
        device = device_of(model, images)
        self.batch_size = chosen_batch_size(batch_size, device)
        self.judge = Judge(
            model=model, labels=labels, threat=threat, device=device, batch_size=self.batch_size
        )
        self.logits = self.judge.logits(images)
        self.attacked: Classifier = OnCopies(model)
        self.arithmetic = "the model's own"
        self.threads = 0
        self.has_weights = isinstance(model, nn.Module) and any(True for _ in model.parameters())
        if isinstance(model, nn.Module) and self.has_weights:
            passes = attack_passes(model)
            if passes is not None:
                if self.agrees(passes, images):
                    self.attacked, self.arithmetic = passes, passes.name
                    self.threads = passes.threads
                    return
                log.warning(
                    "%s is attacked without the form %s, whose logits are not the network's",
                    type(model).__name__,
                    passes.name,
                )
            copy = working_copy(model, "fp32")
            if self.agrees(copy.attacked, images):
                self.attacked, self.arithmetic = copy.attacked, copy.name

    def agrees(self, form: Classifier, images: Tensor, within: float = ALIKE) -> bool:
        """Whether a form gives the network's logits of the first images and of points around them.

        `within` is a share of the logits' spread. A form that fails, or whose logits are not
        finite, does not agree. Cost: two passes over at most `FEW` images, by both.
        """
        clean = images[:FEW]
        around = self.judge.threat.uniform(clean, torch.Generator().manual_seed(0))
        asked = torch.cat([clean, around])
        wanted = self.judge.logits(asked)
        try:
            with no_trace(self.judge.model):
                logits_of, device = checked(form, self.judge.labels), self.judge.device
                found = logits_in_parts(logits_of, asked, device, batch_size=self.batch_size)
        except Exception:  # of a network of one's own
            return False
        spread = (wanted.amax(1) - wanted.amin(1)).mean().clamp_min(1e-12)
        return bool((wanted - found).abs().max() <= within * spread)

    def examples(self, attack: PGD, start: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial examples that are made on this model."""
        device = self.judge.device
        batch = (images.to(device), labels.to(device))
        with computing_threads(self.threads):
            return attack.search_from(start.to(device), self.attacked, *batch)

    def right(self, points: Tensor, images: Tensor, labels: Tensor) -> Bool[Tensor, " B"]:
        """Where this model is not broken."""
        inside = self.judge.allowed(points, images.to(points.device)).cpu()
        return (self.judge.predictions(points) == labels) | ~inside


def starts(attack: PGD, images: Tensor, seed: int, first: int = 0) -> Tensor:
    """Where the search for each image begins; `first` is the place of the first in its set."""
    own = derive_seed(seed, attack.name, 0)
    seeds = [derive_seed(own, place) for place in range(first, first + len(images))]
    return attack.starts(images, torch.tensor(seeds))


class Slice(NamedTuple):
    """Images that a model gets right when clean, for checks that look at a few."""

    contender: Contender
    """The model."""
    images: Float[Tensor, " B *S"]
    """Clean images; at least one."""
    labels: Int64[Tensor, " B"]
    """Their classes."""
    seed: int
    """Of everything random."""
