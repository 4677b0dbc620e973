"""What must hold of a batch and of a model's answer before an attack may trust them.

Cost: one pass over the pixels per attack; nothing but comparisons of Python numbers per step.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparring.errors import ConfigError
from sparring.records.spelling import did_you_mean, nearest

Classifier = Callable[[Tensor], Tensor]
"""All an attack knows of a model: images (B *S) to logits (B K)."""


@runtime_checkable
class Remembering(Protocol):
    """A classifier that can tell for less than a pass what a change of a few pixels brings."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images."""
        ...

    def remember(self, images: Tensor) -> dict[str, Tensor]:
        """What it keeps of images, in tensors with a row for each."""
        ...

    def revised(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> Tensor:
        """Logits of `after` at these rows, where `memory` is of `before`."""
        ...

    def keep(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> None:
        """Make `memory`, in place, that of `after` at these rows."""
        ...


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Refuse images and labels that no attack could mean.

    Raises `ConfigError` unless images are float32 or float64 with pixels in [0, 1], and labels are
    one int64 class index, not below 0, per image.
    """
    if images.is_floating_point() and images.dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            "images must be float32 or float64, because the rounding of fewer bits takes what an "
            f"attack finds out of the threat; got {images.dtype}. Pass images.float(), and cast "
            "inside the model."
        )
    if not images.is_floating_point() or images.ndim < 2:
        raise ConfigError(
            "images must be a floating-point tensor of shape (batch, ...) because an attack "
            f"follows their gradient; got {images.dtype} of shape {tuple(images.shape)}. "
            "Divide 8-bit images by 255."
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ConfigError(
            f"labels must be int64 of shape ({len(images)},) because each image has one class; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}. Pass class indices."
        )
    if not len(images):
        return
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):
        got = "NaN" if low != low else f"values from {low:.9g} to {high:.9g}"
        raise ConfigError(
            f"pixels must lie in [0, 1] because eps is in pixel units; got {got}. Divide 8-bit "
            "images by 255, and make any normalisation the model's first layer."
        )
    lowest = int(labels.min())
    if lowest < 0:
        raise ConfigError(
            f"labels must be class indices from 0 on because they pick a logit; got {lowest}. "
            "Leave unlabelled images out of the batch."
        )


def checked(model: Classifier, labels: Tensor) -> Classifier:
    """The same model, whose every answer is checked to be a row of logits per image.

    Raises `ConfigError`, when called, for an answer of another type or shape, or with too few
    classes for the labels.
    """
    least_classes = max(2, int(labels.max()) + 1) if len(labels) else 2

    def logits_of(images: Tensor) -> Tensor:
        logits = model(images)
        _check_logits(logits, len(images), least_classes)
        return logits

    return logits_of


def looked_at(
    logits_of: Classifier, x: Tensor, loss_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at x, the loss that each image's logits have, and its gradient there; all detached.

    The losses are summed, so no batch size scales a gradient. Cost: a pass to x and back. Raises
    `ConfigError` if the loss does not depend on x.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = logits_of(x)
        loss = loss_of(logits)
        total = loss.sum()
    gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ConfigError(
            "the logits must depend on the images through differentiable operations because an "
            "attack follows their gradient; got logits without one. Remove detach(), no_grad() "
            "or rounding from the model."
        )
    return logits.detach(), loss.detach(), gradient


def _check_logits(logits: object, num_images: int, least_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != num_images:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"the model must return logits of shape ({num_images}, classes) because an attack "
            f"judges each image by its own row; got {got}. Wrap the model in a function that "
            "returns its logits."
        )
    if logits.shape[1] < least_classes:
        raise ConfigError(
            f"the model must return at least {least_classes} classes because the labels reach "
            f"{least_classes - 1}; got {logits.shape[1]}. Give the model an output for every class."
        )


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a word that names nothing. Raises `ConfigError`, with the nearest that does."""
    names = list(known)
    if value not in names:
        advice = did_you_mean(nearest(value, names)) or " Take one of those."
        raise ConfigError(
            f"{name} must be one of {', '.join(names)} because nothing else is defined; "
            f'got "{value}".{advice}'
        )
