"""Whether a model answers in a way that any attack, or any accuracy, can mean something by.

Shapes: B images of the slice, K classes.  Units: differences of logits are shares of their spread.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparring.attacks import Classifier, checked
from sparring.attacks.search import no_trace
from sparring.evaluation.contender import ALIKE, Slice
from sparring.models import are_probabilities, evaluation_mode
from sparring.records import Finding, Reading


def outputs(piece: Slice) -> Iterator[Finding]:
    """Randomised outputs, outputs that depend on the batch, probabilities, layers in train mode.

    Cost: four forward passes over the slice.
    """
    model, images = piece.contender.judge.model, piece.images.to(piece.contender.judge.device)
    with no_trace(model):
        logits_of = checked(model, piece.labels)
        first, again = logits_of(images), logits_of(images)
        thirds = images.flip(0).tensor_split(min(3, len(images)))
        apart = torch.cat([logits_of(part) for part in thirds]).flip(0)
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
            f"the model answers the same images differently (by {noise:.1g} of the logits' spread)"
            ": an attack must average over its noise, and one look at an image is no verdict"
            if flagged
            else "the model answers the same images the same"
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
            " spread): accuracy then depends on how the set is cut into batches; look for "
            "normalisation by the batch"
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
            "the model returns probabilities, rows that sum to 1: losses then take a softmax of a "
            "softmax and their gradients nearly vanish; return what goes into its softmax"
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
            "what is judged is not the classifier that would be used"
            if found
            else "no layer that can be looked into acts as in training"
        ),
        evidence=(Reading(what="layers", value=float(len(found))),),
    )


def _training(model: Classifier) -> Iterator[tuple[str, nn.Module]]:
    """Layers that normalise by the batch or whose flag cannot be put to evaluation."""
    if not isinstance(model, nn.Module):
        return
    with evaluation_mode(model):
        for name, layer in model.named_modules():
            by_batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
            if getattr(layer, "training", False) or (by_batch and layer.running_mean is None):
                yield name, layer


def _where(name: str, layer: nn.Module) -> str:
    return f"{type(layer).__name__} {name}".strip()
