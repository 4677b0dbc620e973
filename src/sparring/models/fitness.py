"""Checks that a network can be trained and evaluated.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparring.errors import ConfigError, OwnCodeFailed, cause
from sparring.models.calling import check_callable, check_numbers, model_errors
from sparring.models.networks import NormalisedNetwork
from sparring.models.state import evaluation_mode
from sparring.models.weights import bits
from sparring.records.text import counted, kind_text

ODD = 3
"""Images of a batch that is no power of two."""
PROBABLE = 1e-4
"""Largest distance from 1 of the sum of probabilities."""
EXTRA_STATE = "_extra_state"
"""Last part of the name in a state_dict of what `get_extra_state` returns."""
NORMALISATION = re.compile(r"(input|image)?_?normali[sz](e|er|ation|ing)(layer)?", re.IGNORECASE)
"""Names of classes that normalise images."""


def check_network(network: nn.Module, images: Float[Tensor, " B C H W"], num_classes: int) -> None:
    """Refuse a network that cannot classify images such as these, or cannot be attacked.

    It is called in evaluation mode, also with one image and with `ODD` images, because searches end
    with any number. Cost: three passes over the images, one back. Raises `ConfigError` if it fails,
    if it does not return one finite row of `num_classes` logits for each image, if it returns
    probabilities or is random, or if it has no gradient, nothing to train, two normalisations, or a
    state of other things than tensors.
    """
    check_callable(network)
    name = type(network).__name__
    check_state(network)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            f"no weight of {name} requires a gradient. Call requires_grad_() on those to train."
        )
    _check_normalisation(network)
    with evaluation_mode(network):
        images = images.detach().requires_grad_()
        logits = check_logits(_logits(network, images), name, len(images), num_classes)
        for count in (1, ODD):
            some = images[:count]
            check_logits(_logits(network, some), name, len(some), num_classes)
        _check_not_probabilities(logits, name)
        _check_repeated(network, logits, images.detach(), name)
        _check_gradient(logits, images, name)


def check_state(network: nn.Module) -> None:
    """Refuse a network whose state a file cannot hold. Raises `ConfigError`."""
    name = type(network).__name__
    check_numbers(network)
    for path, value in _state_of(network).items():
        if not isinstance(value, Tensor) or path.rpartition(".")[2] == EXTRA_STATE:
            raise ConfigError(
                f"{path} in the state_dict of {name} is {_kind(value)}; checkpoints store "
                "parameters and buffers only. Use register_buffer (get_extra_state and quantised "
                "layers are not supported)."
            )


def check_logits(
    logits: object, name: str, count: int, num_classes: int, *, when: str = ""
) -> Tensor:
    """The logits, if they are one finite row of `num_classes` for each of `count` images.

    `when` names the pass of the network `name`, for messages. Raises `ConfigError`.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise ConfigError(
            f"{name} returned {_kind(logits)}{when}, not a tensor of logits. Wrap it in a module "
            "that returns its logits."
        )
    if tuple(logits.shape) != (count, num_classes):
        raise ConfigError(
            f"{name} returned shape {tuple(logits.shape)} for {counted(count, 'image')}{when}, not "
            f"{(count, num_classes)}. It needs an output for each class, and must keep the first "
            "dimension, also for one image."
        )
    if not logits.isfinite().all():
        raise ConfigError(
            f"{name} returned infinity or NaN for images of the training set{when}. Look at its "
            "weights, at the learning rate, and at any division in it."
        )
    return logits


def evaluated(network: nn.Module, images: Float[Tensor, " B C H W"]) -> Tensor:
    """The logits in evaluation mode, without a gradient; whatever the network raises is raised."""
    with torch.no_grad(), evaluation_mode(network):
        return network(images.clone())


def agree(found: Tensor, again: Tensor, within: float) -> bool:
    """Whether logits are equal, or differ by at most `within` of the largest."""
    if found.shape != again.shape:
        return False
    if torch.equal(bits(found), bits(again)):  # NaN too
        return True
    return float((found - again).abs().max()) <= within * float(again.abs().max())


def are_probabilities(logits: Tensor) -> bool:
    """Whether rows are not negative and sum to 1."""
    sums = logits.detach().float().sum(1)
    return bool((logits >= 0).all()) and float((sums - 1).abs().max()) < PROBABLE


def _logits(network: nn.Module, images: Tensor) -> object:
    with model_errors(network, images), torch.enable_grad():
        return network(images.clone())  # it may change them


def _state_of(network: nn.Module) -> dict[str, object]:
    try:
        return dict(network.state_dict())
    except Exception as error:  # a network of your own may raise anything
        raise OwnCodeFailed(
            f"state_dict() of {type(network).__name__} failed: {cause(error)}."
        ) from error


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}".replace("torch.", "")
    return kind_text(value)


def _check_not_probabilities(logits: Tensor, name: str) -> None:
    if are_probabilities(logits):
        raise ConfigError(
            f"{name} returned probabilities, not logits. Remove the softmax at its end."
        )


def _check_repeated(network: nn.Module, logits: Tensor, images: Tensor, name: str) -> None:
    def repeated() -> Tensor:
        with model_errors(network, images):
            return network(images.clone()).detach()

    logits, again = logits.detach(), repeated()
    if not torch.equal(logits, again):  # `torch.compile` takes other kernels once sizes vary
        logits, again = again, repeated()
    if not torch.equal(logits, again):
        off = float((logits - again).abs().max())
        raise ConfigError(
            f"the logits of {name} for the same images differ by {off:.2g} between two passes in "
            "evaluation mode. Make what is random in it depend on self.training."
        )


def _check_gradient(logits: Tensor, images: Tensor, name: str) -> None:
    total = torch.logsumexp(logits, 1).sum() - logits[:, 0].sum()
    gradient = None
    if total.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(total, images, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise ConfigError(
                f"{name} uses reentrant activation checkpointing, which computes no gradient of "
                "chosen tensors. Use use_reentrant=False."
            ) from error
    if gradient is None or not bool(gradient.count_nonzero()):
        what = "none" if gradient is None else "one of zeros"
        raise ConfigError(
            f"the gradient of the logits of {name} in the images is {what}; attacks follow it. "
            "Remove detach(), no_grad(), rounding or argmax, and look for dead activations."
        )


def _check_normalisation(network: nn.Module) -> None:
    """Refuse a second normalisation, by its name."""
    if not isinstance(network, NormalisedNetwork):
        return
    for path, module in network.network.named_modules():
        if isinstance(module, NormalisedNetwork) or NORMALISATION.fullmatch(type(module).__name__):
            raise ConfigError(
                f"the network already has a {type(module).__name__} ({path or 'itself'}). Leave "
                "out --mean and --std, or that layer."
            )
