"""A model under attack: its form for the search, its judge, and checks of its outputs.

Shapes: B batch, K classes, S one image (C H W).
Units: pixels in [0, 1]; differences of logits relative to their spread.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sparring.attacks import PGD, Classifier, Threat, checked
from sparring.attacks.checks import looked_at
from sparring.attacks.search import no_trace
from sparring.errors import ConfigError, cause
from sparring.evaluation.judge import Judge, device_of, logits_in_parts
from sparring.models import (
    ODD,
    AttackPasses,
    OnCopies,
    are_probabilities,
    attack_passes,
    chosen_batch_size,
    computing_threads,
    evaluation_mode,
    working_copy,
)
from sparring.models.arithmetic import DirectCopy
from sparring.models.folding import folded_passes
from sparring.models.tracing import unchanging
from sparring.records import Finding, Reading
from sparring.seeds import derive_seed

log = logging.getLogger(__name__)

ALIKE = 1e-3
"""Largest difference of logits, relative to their spread, that rounding explains."""
ROUGHLY = 0.25
"""The same for a form in bf16, followed by a search in single precision."""
FEW = 32
"""Images on which a form is compared with the network."""


def ask(model: Classifier, images: Tensor, labels: Tensor) -> None:
    """Raise `ConfigError` for a model that fails on one image or on an odd number of images.

    Searches continue with any number of images, down to one. Cost: a forward and a backward pass
    over `ODD` images and over one.
    """
    logits_of, device = checked(model, labels), device_of(model, images)
    with no_trace(model):
        for count in (1, ODD):
            some = images[torch.arange(count) % len(images)].to(device)
            looked_at(logits_of, some, lambda logits: logits.logsumexp(1))


class ModelUnderTest:
    """A model's form for attacks, in single precision, and its judge.

    `logits` are those of the clean images; `attacked` is the model as attacks see it, in this
    `arithmetic`. PyTorch uses `threads` threads while it is attacked, 0 for no change. A pass has
    at most `batch_size` images, `None` for the device's default.
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
        if not isinstance(model, nn.Module) or not self.has_weights:
            return
        if self._takes(attack_passes(model), images):
            return
        copy = working_copy(model, "fp32")
        if isinstance(copy, DirectCopy) and self._takes(self._folded(model, images), images):
            return
        if self.agrees(copy.attacked, images):
            self.attacked, self.arithmetic = copy.attacked, copy.name

    def _takes(self, passes: AttackPasses | None, images: Tensor) -> bool:
        """Use a form, if there is one that agrees with the network."""
        if passes is None:
            return False
        if self.agrees(passes, images):
            self.attacked, self.arithmetic = passes, passes.name
            self.threads = passes.threads
            return True
        log.warning(
            "%s is attacked without the form %s, whose logits differ from the network's",
            type(self.judge.model).__name__,
            passes.name,
        )
        return False

    def _folded(self, model: nn.Module, images: Tensor) -> AttackPasses | None:
        """The form that is derived from a network's trace, if it shows all that is computed."""
        try:
            with no_trace(model), unchanging(model):
                passes = folded_passes(model, images)
                self.judge.logits(images[:FEW])
        except Exception as error:  # from a user's network
            why = error if isinstance(error, ConfigError) else cause(error)
            log.info("%s is attacked layer by layer: %s", type(model).__name__, why)
            return None
        return passes

    def agrees(self, form: Classifier, images: Tensor, within: float = ALIKE) -> bool:
        """Whether a form gives the network's logits of the first images and of points around them.

        `within` is relative to the logits' spread. A form that fails, or whose logits are not
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
        except Exception:  # from a user's network
            return False
        spread = (wanted.amax(1) - wanted.amin(1)).mean().clamp_min(1e-12)
        return bool((wanted - found).abs().max() <= within * spread)

    def examples(self, attack: PGD, start: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial examples crafted on this model."""
        device = self.judge.device
        batch = (images.to(device), labels.to(device))
        with computing_threads(self.threads):
            return attack.search_from(start.to(device), self.attacked, *batch)

    def logits_at(self, points: Tensor, images: Tensor) -> Float[Tensor, " B K"]:
        """The model's own logits; a point outside the threat counts as its clean image."""
        clean = images.to(points.device)
        inside = self.judge.allowed(points, clean).view(-1, *[1] * (clean.dim() - 1))
        return self.judge.logits(torch.where(inside, points, clean))

    def right(self, points: Tensor, images: Tensor, labels: Tensor) -> Bool[Tensor, " B"]:
        """Where this model is right about points, by `logits_at`."""
        return self.logits_at(points, images).argmax(1) == labels


def starts(attack: PGD, images: Tensor, seed: int, first: int = 0) -> Tensor:
    """Starting points of the search; `first` is the place of the first image in its set."""
    places = range(first, first + len(images))
    return attack.starts(images, image_seeds(seed, attack.name, 0, places))


def image_seeds(seed: int, attack: str, search: int, places: Iterable[int]) -> Int64[Tensor, " B"]:
    """The seeds of the images at these places in one search of an attack."""
    own = derive_seed(seed, attack, search)
    return torch.tensor([derive_seed(own, place) for place in places])


class Subset(NamedTuple):
    """Images for the checks, which a model classifies correctly when clean."""

    tested: ModelUnderTest
    images: Float[Tensor, " B *S"]
    """Clean images; at least one."""
    labels: Int64[Tensor, " B"]
    """Their classes."""
    seed: int
    """Seed of everything random."""
    observer: Callable[[float], None] = lambda effort: None
    """Takes the number of forward and backward passes since its last call."""


def outputs(subset: Subset) -> Iterator[Finding]:
    """Randomised outputs, outputs that depend on the batch, probabilities, layers in train mode.

    Cost: four forward passes over the images.
    """
    model, images = subset.tested.judge.model, subset.images.to(subset.tested.judge.device)
    with no_trace(model):
        logits_of = checked(model, subset.labels)
        first, again = logits_of(images), logits_of(images)
        thirds = images.flip(0).tensor_split(min(3, len(images)))
        apart = torch.cat([logits_of(part) for part in thirds]).flip(0)
    subset.observer(4)
    spread = float((first.amax(1) - first.amin(1)).mean().clamp_min(1e-12))
    noise = float((first - again).abs().max()) / spread
    yield _randomised(noise)
    yield _batch(float((first - apart).abs().max()) / spread, noise)
    yield _probabilities(first)
    yield _train_mode(model)


def _randomised(noise: float) -> Finding:
    flagged = noise > ALIKE
    return Finding(
        check="randomised outputs",
        flagged=flagged,
        sentence=(
            f"the model gives the same images different logits (by {noise:.1g} of their spread)"
            ": attacks must average over its noise, and a single pass is no verdict"
            if flagged
            else "the model gives the same images the same logits"
        ),
        evidence=(Reading(what="largest difference / spread", value=noise),),
    )


def _batch(difference: float, noise: float) -> Finding:
    flagged = difference > max(ALIKE, 2 * noise)
    return Finding(
        check="outputs that depend on the batch",
        flagged=flagged,
        sentence=(
            f"the logits of an image change with the images beside it (by {difference:.1g} of their"
            " spread): accuracy then depends on the batches; look for normalisation by the batch"
            if flagged
            else "the logits of an image do not depend on the images beside it"
        ),
        evidence=(Reading(what="largest difference / spread", value=difference),),
    )


def _probabilities(logits: Tensor) -> Finding:
    off = float((logits.sum(1) - 1).abs().max())
    flagged = are_probabilities(logits)
    return Finding(
        check="probabilities for logits",
        flagged=flagged,
        sentence=(
            "the model returns probabilities, rows that sum to 1: losses apply a second softmax, "
            "and gradients nearly vanish; return the input of its softmax"
            if flagged
            else "the model returns logits, not probabilities"
        ),
        evidence=(Reading(what="largest distance of a row's sum from 1", value=off),),
    )


def _train_mode(model: Classifier) -> Finding:
    found = sorted({_where(*named) for named in _training(model)})
    return Finding(
        check="layers in train mode",
        flagged=bool(found),
        sentence=(
            f"{', '.join(found[:3])} acts as in training although the model is in evaluation mode: "
            "the evaluated classifier is not the one in use"
            if found
            else "no layer acts as in training"
        ),
        evidence=(Reading(what="layers", value=float(len(found))),),
    )


def _training(model: Classifier) -> Iterator[tuple[str, nn.Module]]:
    """Layers that normalise by the batch or stay in training mode."""
    if not isinstance(model, nn.Module):
        return
    with evaluation_mode(model):
        for name, layer in model.named_modules():
            by_batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
            if getattr(layer, "training", False) or (by_batch and layer.running_mean is None):
                yield name, layer


def _where(name: str, layer: nn.Module) -> str:
    return f"{type(layer).__name__} {name}".strip()
