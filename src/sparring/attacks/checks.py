"""Checks of a batch and of a model's logits before an attack uses them.

Cost: one pass over the pixels per attack; nothing but comparisons of Python numbers per step.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.errors import ConfigError, NonFiniteLogits
from sparring.models import OnCopies, check_callable, model_errors, module_of
from sparring.models.calling import has_no_numbers

Classifier = Callable[[Tensor], Tensor]
"""A model as attacks see it: images (B *S) to logits (B K)."""


Batch = Tensor | NDArray[Any]
"""Images or labels of a set."""


@runtime_checkable
class Remembering(Protocol):
    """A classifier that updates its logits after a change of a few pixels for less than a pass."""

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


def as_batch(images: Batch, labels: Batch, what: str, model: Classifier) -> tuple[Tensor, Tensor]:
    """Images as they are, and labels on the CPU, where `what` judges a model on them.

    NumPy arrays become tensors as in `as_tensors`. Raises `ConfigError` for no image at all, and
    as `check_batch`.
    """
    images, labels = as_tensors(images, labels, model)
    if not images.numel():
        raise ConfigError.expected(
            f"{what} needs at least one image", f"images of shape {tuple(images.shape)}"
        )
    # Tensors made in inference mode have no backward pass; a copy has.
    images, labels = (
        value.clone() if value.is_inference() else value.detach() for value in (images, labels)
    )
    return images, labels.cpu()


def as_tensors(images: Batch, labels: Batch, model: Classifier) -> tuple[Tensor, Tensor]:
    """Images and labels, checked as by `check_batch`.

    NumPy arrays become tensors: images of the model's dtype, labels int64.
    """
    module = module_of(model)
    weight = None if module is None else next(module.parameters(), None)
    wide = weight is not None and weight.dtype == torch.float64
    images = from_numpy("images", images, np.float64 if wide else np.float32)
    labels = from_numpy("labels", labels)
    check_batch(images, labels)
    return images, labels


def check_targets(targets: Batch, labels: Tensor) -> Tensor:
    """Classes that images are to be taken for, where the labels are. Raises `ConfigError`."""
    found = from_numpy("targets", targets)
    if found.shape != labels.shape or found.dtype != torch.int64 or bool((found < 0).any()):
        raise ConfigError.expected(
            f"targets must be class indices (int64) of shape ({len(labels)},)",
            f"{found.dtype} of shape {tuple(found.shape)}",
            "Pass the class that each image is to be taken for.",
        )
    return found.to(labels.device, copy=True)


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise `ConfigError` for wrong images or labels.

    Images must be float32 or float64 with pixels in [0, 1]; labels one int64 class index an image.
    """
    _tensor("images", images, "numbers")
    _tensor("labels", labels, "class indices")
    if images.is_floating_point() and images.dtype not in (torch.float32, torch.float64):
        raise ConfigError.expected(
            "images must be float32 or float64",
            images.dtype,
            "Pass images.float(), and cast inside the model.",
        )
    if not images.is_floating_point() or images.ndim < 2:
        raise ConfigError.expected(
            "images must be a floating-point tensor of shape (batch, ...)",
            f"{images.dtype} of shape {tuple(images.shape)}",
            "Divide 8-bit images by 255.",
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ConfigError.expected(
            f"labels must be int64 of shape ({len(images)},)",
            f"{labels.dtype} of shape {tuple(labels.shape)}",
            _indices_from(images, labels),
        )
    if not images.numel():
        if len(images):
            raise ConfigError.expected("images must have pixels", f"shape {tuple(images.shape)}")
        return
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):
        got = "NaN" if low != low else f"values from {low:.9g} to {high:.9g}"
        raise ConfigError.expected(
            "pixels must lie in [0, 1]",
            got,
            "Divide 8-bit images by 255, and make any normalisation the model's first layer.",
        )
    lowest = int(labels.min())
    if lowest < 0:
        raise ConfigError.expected(
            "labels must be class indices, 0 or more",
            lowest,
            "Leave unlabelled images out of the batch.",
        )


def checked(model: Classifier, labels: Tensor) -> "Checked":
    """The same model, called on copies of images, with its logits checked.

    All attacks and evaluations call a model through this. Raises `ConfigError` for an object that
    is not a model and for a module without usable weights. A call raises `ConfigError` if the
    model fails, for logits of another type or shape or with too few classes for the labels, and
    `NonFiniteLogits` for NaN or infinity.
    """
    check_callable(model)
    least_classes = max(2, int(labels.max()) + 1) if len(labels) else 2
    if isinstance(model, Remembering):
        return _CheckedRemembering(model, least_classes)
    return Checked(model, least_classes)


class Checked(OnCopies):
    """A model whose answers are checked; see `checked`."""

    def __init__(self, model: Classifier, least_classes: int) -> None:
        super().__init__(model)
        self._least_classes = least_classes

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of the images, checked."""
        with model_errors(self.model, images):
            logits: object = self.model(images.clone())
        return self._accepted(logits, len(images))

    def _accepted(self, logits: object, num_images: int) -> Tensor:
        logits = _check_logits(logits, num_images, self._least_classes)
        found = logits.detach()
        if not math.isfinite(found.sum()):  # also if finite logits are too large to be summed
            wrong = ~found.isfinite().all(1)
            if wrong.any():
                raise NonFiniteLogits(wrong.nonzero().flatten().tolist(), num_images)
        return logits


class _CheckedRemembering(Checked):
    model: Remembering

    def remember(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.remember(images)

    def revised(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> Tensor:
        return self._accepted(self.model.revised(memory, before, after, rows), len(rows))

    def keep(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> None:
        self.model.keep(memory, before, after, rows)


@contextmanager
def numbered(places: Tensor | Sequence[str], images: str = "images") -> Iterator[None]:
    """`NonFiniteLogits` inside the block names the images by their places in a larger set [B]."""
    try:
        yield
    except NonFiniteLogits as error:
        known = places.tolist() if isinstance(places, Tensor) else places
        raise error.among(known, images) from None


def looked_at(
    logits_of: Classifier, x: Tensor, loss_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at x, each image's loss, and the gradient with 0 where it is not finite; all detached.

    The losses are summed, so the batch size does not scale the gradient. Cost: a forward and a
    backward pass. Raises `ConfigError` if the loss does not depend on x.
    """
    logits, loss, gradient = differentiated(logits_of, x, loss_of)
    return logits, loss, gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def differentiated(
    logits_of: Classifier, x: Tensor, loss_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """As `looked_at`, with the gradient as it is."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = logits_of(x)
        loss = loss_of(logits)
        total = loss.sum()
    with model_errors(logits_of, x):
        gradient = _gradient(total, x, lambda: loss_of(logits_of(x)).sum(), logits_of)
    if gradient is None:
        raise ConfigError.expected(
            "the logits must depend on the images through differentiable operations",
            "logits without a gradient",
            "Remove detach(), no_grad() or rounding from the model.",
        )
    return logits.detach(), loss.detach(), gradient


def _gradient(
    total: Tensor, x: Tensor, again: Callable[[], Tensor], logits_of: Classifier
) -> Tensor | None:
    """The gradient of a total, which `again` recomputes, in x; `None` if it does not depend on x.

    Reentrant checkpointing supports only a whole backward pass. In a module's, whose weights are
    held constant, only x gets a gradient.
    """
    if not total.requires_grad:
        return None
    try:
        return torch.autograd.grad(total, x, allow_unused=True)[0]
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        if module_of(logits_of) is None:
            raise ConfigError(
                "a model with reentrant activation checkpointing must be a torch.nn.Module; got a "
                "function. Pass the module, or checkpoint with use_reentrant=False."
            ) from error
    with torch.enable_grad():
        torch.autograd.backward(again())
    return x.grad


def _tensor(name: str, value: object, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"{name} must be a torch.Tensor of {what}; got {type(value).__name__}. "
            f"Pass {_TENSORS[name]}."
        )
    odd = value.layout != torch.strided or value.is_quantized or value.is_complex()
    if odd or has_no_numbers(value):
        kind = f"{value.layout}, {value.dtype}, on {value.device}"
        raise ConfigError(
            f"{name} must be a dense tensor of real {what}; got {kind}. Convert it first."
        )
    return value


def from_numpy(name: str, value: object, kind: type[np.number[Any]] = np.int64) -> Tensor:
    """The tensor itself; an array becomes a tensor, of `kind` if its numbers are of that kind."""
    if not isinstance(value, np.ndarray):
        return _tensor(name, value, "numbers")
    same = np.issubdtype(value.dtype, np.integer if kind is np.int64 else np.floating)
    try:
        return torch.from_numpy(np.array(value, dtype=kind if same else None))  # a copy
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} must be numbers that PyTorch knows; got a NumPy array of {value.dtype}. "
            f"Convert it first: {name}.astype(...)."
        ) from error


_TENSORS = {
    "images": "torch.as_tensor(images), of shape (batch, channels, height, width)",
    "labels": "torch.as_tensor(labels)",
    "targets": "torch.as_tensor(targets)",
}


def _indices_from(images: Tensor, labels: Tensor) -> str:
    if len(labels.shape) == 2 and len(labels) == len(images) and labels.shape[1] > 1:
        return "Of one-hot rows pass labels.argmax(1)."
    if labels.shape == (len(images), 1):
        return "Pass labels[:, 0].long()."
    if labels.shape == images.shape[:1]:
        return "Pass labels.long() if they are class indices."
    return "Pass class indices, one for each image."


def _check_logits(logits: object, num_images: int, least_classes: int) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != num_images:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        lost = isinstance(logits, Tensor) and num_images == 1 and logits.ndim == 1
        advice = (
            "Keep the row of a single image: squeeze() removes it, squeeze(-1) or flatten(1) does "
            "not."
            if lost
            else "Wrap the model in a function that returns its logits."
        )
        raise ConfigError.expected(
            f"the model must return logits of shape ({num_images}, classes)", got, advice
        )
    if not logits.is_floating_point():
        raise ConfigError.expected(
            "the model must return logits of a real floating-point dtype",
            logits.dtype,
            "Return scores, not classes.",
        )
    if logits.shape[1] < least_classes:
        raise ConfigError.expected(
            f"the model must return at least {least_classes} classes for these labels or targets",
            logits.shape[1],
        )
    return logits
