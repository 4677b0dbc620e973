"""Whether a network can be trained and judged at all, found before hours are spent.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparring.errors import ConfigError, cause
from sparring.models.calling import check_callable
from sparring.models.networks import NormalisedNetwork
from sparring.models.state import evaluation_mode
from sparring.records.text import counted

ODD = 3
"""Images of a batch that is no power of two."""
PROBABLE = 1e-4
"""How near to 1 rows of probabilities sum."""
EXTRA_STATE = "_extra_state"
"""Last part of the name under which a state_dict has what `get_extra_state` returns."""
NORMALISATION = re.compile(r"(input|image)?_?normali[sz](e|er|ation|ing)(layer)?", re.IGNORECASE)
"""Names of classes that are a normalisation of images."""


def check_network(network: nn.Module, images: Float[Tensor, " B C H W"], num_classes: int) -> None:
    """Refuse a network that cannot classify images such as these, or cannot be attacked.

    It is asked in evaluation mode, which is undone, also about one image and about `ODD` images,
    because searches end with those that are left. Cost: three passes over the images, one back.
    Raises `ConfigError` if it fails on them, if its answer is not one finite row of `num_classes`
    logits for each, if it returns probabilities, answers the same images differently, has no
    gradient at them, has nothing to train, normalises twice, or has a state that is no tensors.
    """
    check_callable(network)
    name = type(network).__name__
    check_state(network)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            f"the network must have weights to train; {name} has none that require a gradient. "
            "Call requires_grad_() on what is to be trained."
        )
    _check_normalisation(network)
    with evaluation_mode(network):
        images = images.detach().requires_grad_()
        logits = check_logits(_asked(network, images), name, len(images), num_classes)
        for count in (1, ODD):
            some = images[:count]
            check_logits(_asked(network, some), name, len(some), num_classes)
        _check_not_probabilities(logits, name)
        _check_repeated(network, logits, images.detach(), name)
        _check_gradient(logits, images, name)


def check_state(network: nn.Module) -> None:
    """Refuse a network whose state is not numbers, all of them there, that a file can hold.

    Raises `ConfigError`.
    """
    name = type(network).__name__
    for path, value in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(value):
            raise ConfigError(
                f"the shape of {path} of {name} is not known yet, because it belongs to a lazy "
                "layer. Pass a batch of images through the network where it is made."
            )
        if value.is_meta:
            raise ConfigError(
                f"{path} of {name} is on the meta device, where tensors have no numbers. Call "
                "to_empty() on the network and load its weights first."
            )
    for path, value in _state_of(network).items():
        if not isinstance(value, Tensor) or path.rpartition(".")[2] == EXTRA_STATE:
            raise ConfigError(
                f"{path} in the state_dict of {name} is {_kind(value)}, but checkpoints store "
                "parameters and buffers only. Register a tensor by register_buffer instead "
                "(get_extra_state and quantised layers are not supported)."
            )


def check_logits(
    logits: object, name: str, count: int, num_classes: int, *, when: str = ""
) -> Tensor:
    """The same logits, if they are one finite row of `num_classes` for each of `count` images.

    `when` says in which pass the network `name` returned them. Raises `ConfigError`.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise ConfigError(
            f"the network must return a tensor of logits; {name} returned {_kind(logits)}{when}. "
            "Wrap it in a module that returns its logits."
        )
    if tuple(logits.shape) != (count, num_classes):
        raise ConfigError(
            f"the network must return {num_classes} logits for each image, because the data have "
            f"{num_classes} classes; {name} returned shape {tuple(logits.shape)} for "
            f"{counted(count, 'image')}{when}. Give it as many outputs as there are classes, and "
            "keep the first dimension, also for one image."
        )
    if not logits.isfinite().all():
        raise ConfigError(
            f"logits must be finite; {name} returned infinity or NaN for images of the training "
            f"set{when}. Look at its weights at the start, at the learning rate, and at any "
            "division in it."
        )
    return logits


def are_probabilities(logits: Tensor) -> bool:
    """Whether rows of numbers are from 0 on and sum to 1."""
    sums = logits.detach().float().sum(1)
    return bool((logits >= 0).all()) and float((sums - 1).abs().max()) < PROBABLE


def _asked(network: nn.Module, images: Tensor) -> object:
    try:
        with torch.enable_grad():
            return network(images.clone())  # which it may write to
    except Exception as error:
        raise ConfigError(
            f"the network must take images of shape {tuple(images.shape[1:])} (channels, height, "
            f"width), because such are the data; {type(network).__name__} failed on a batch of "
            f"{len(images)}: {cause(error)}. Build it for them, or give other data; --debug shows "
            "where."
        ) from error


def _state_of(network: nn.Module) -> dict[str, object]:
    try:
        return dict(network.state_dict())
    except Exception as error:  # of a network of one's own
        raise ConfigError(
            f"the network must have a state_dict, because checkpoints store it; that of "
            f"{type(network).__name__} failed: {cause(error)}. --debug shows where."
        ) from error


def _kind(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}".replace("torch.", "")
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _check_not_probabilities(logits: Tensor, name: str) -> None:
    if are_probabilities(logits):
        raise ConfigError(
            f"the network must return logits, because losses take their softmax; {name} returned "
            "rows of numbers from 0 on that sum to 1: probabilities. Remove the softmax at its end."
        )


def _check_repeated(network: nn.Module, logits: Tensor, images: Tensor, name: str) -> None:
    logits, again = logits.detach(), network(images.clone()).detach()
    if not torch.equal(logits, again):
        off = float((logits - again).abs().max())
        raise ConfigError(
            "the network must answer the same images the same in evaluation mode, because an "
            f"attack compares its answers; the logits of {name} moved by {off:.2g} from one pass "
            "to the next. Make what is random in it depend on self.training."
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
                f"{name} must be trained without activation checkpointing of the reentrant kind, "
                "because that computes no gradient of chosen tensors. Checkpoint with "
                "use_reentrant=False."
            ) from error
    if gradient is None or not bool(gradient.count_nonzero()):
        what = "none" if gradient is None else "one of zeros"
        raise ConfigError(
            "logits must have a gradient in the images, because attacks follow it; that of "
            f"{name} is {what}. Remove detach(), no_grad(), rounding or argmax from its passes, "
            "and see that its activations are not all dead at the start."
        )


def _check_normalisation(network: nn.Module) -> None:
    """One normalisation at most, as far as names tell."""
    if not isinstance(network, NormalisedNetwork):
        return
    for path, module in network.network.named_modules():
        if isinstance(module, NormalisedNetwork) or NORMALISATION.fullmatch(type(module).__name__):
            raise ConfigError(
                "images must be normalised once; the network has a "
                f"{type(module).__name__} of its own ({path or 'itself'}), and mean and std are "
                "given beside it. Leave --mean and --std out, or that layer."
            )
