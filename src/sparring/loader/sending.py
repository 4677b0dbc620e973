"""What workers get of a loader's model and settings, tried before any worker starts.

Shapes: B batch, C H W image.  Units: pixels in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks import Recipe
from sparring.data import Images, ImageSet
from sparring.engine.shared_images import sendable, unpicklable
from sparring.errors import ConfigError, OwnCodeFailed, cause
from sparring.models import copied, device_of, drawing_from
from sparring.models.calling import model_errors
from sparring.models.fitness import agree, evaluated
from sparring.models.weights import differences
from sparring.records.text import kind_text

ROUNDING = 1e-4
"""Largest difference of two copies' logits, in units of the largest logit: kernels may differ."""

AT_THE_TOP = "define it at the top of a module"
"""Advice for things of your own that do not pickle."""


@dataclass(frozen=True, slots=True, eq=False)
class CopyOf:
    """Builds copies of a network; pickles with the network."""

    network: nn.Module

    def __call__(self) -> nn.Module:
        """A copy, without hooks on its weights' history."""
        return copied(self.network)


def check_sent(recipe: Recipe, images: Images, name: str, network: object, advice: str) -> None:
    """Refuse anything for workers that does not pickle, before anything is written or started.

    `network` is what makes the network in a worker, `name` what it is called, `advice` what to do
    if it does not pickle. Cost: all of it is pickled, without images in memory. Raises
    `ConfigError`, and `DataError` for streamed images.
    """
    sent = {"attack": recipe.attack, "eps_schedule": recipe.eps_schedule}
    sent |= {f"augmentation {place}": step for place, step in enumerate(recipe.augmentation)}
    for what, thing in {**sent, name: network}.items():
        if (reason := unpicklable(thing)) is not None:
            instead = advice if what == name else AT_THE_TOP
            raise ConfigError(
                f"the {what}, a {type(thing).__name__}, cannot be sent to workers; pickling it "
                f"failed: {reason}. Either {instead}, or take no workers (workers=0)."
            )
    if not isinstance(images, ImageSet):
        sendable(images)


def check_rebuilt(model: nn.Module, build: Callable[[], nn.Module], images: Tensor) -> None:
    """Refuse a network that attacks with older weights would not know, or `build` makes another of.

    A copy passes over the images (B C H W) in training mode. A network that `build` makes must then
    compute the same from its state_dict alone. Cost: two networks, four passes; random state is as
    before. Raises `ConfigError`.
    """
    with drawing_from(0):
        twin = _built(build, model)
        trained = copied(model)
        _train_once(trained, images)
        twin.load_state_dict(trained.state_dict())
        with model_errors(twin, images):
            found, wanted = evaluated(twin, images), evaluated(trained, images)
        if agree(found, wanted, ROUNDING):
            return
        plain = copied(model)
        twin.load_state_dict(plain.state_dict())
        if agree(evaluated(twin, images), evaluated(plain, images), ROUNDING):
            raise ConfigError(
                f"a pass of {type(model).__name__} in training mode changes more than its "
                "state_dict, which is all that attacks with older weights get. Make attributes and "
                "non-persistent buffers that a pass changes parameters or persistent buffers, or "
                "use the source Fresh or Stale."
            )
    raise ConfigError(
        f"the network of build= computes other logits than the model, a {type(model).__name__}, "
        "with the same weights. Let it make the same network."
    )


def _built(build: Callable[[], nn.Module], model: nn.Module) -> nn.Module:
    """The network that a worker gets, without weights."""
    try:
        found = build()
    except Exception as error:
        raise OwnCodeFailed(f"build= failed: {cause(error)}.") from error
    if not isinstance(found, nn.Module):
        raise ConfigError.expected("build= must return a network like the model", kind_text(found))
    if off := differences(found, model.state_dict()):
        raise ConfigError(
            f"the network of build= is not like the model: {off}. Let it make the same network."
        )
    return found.to(device_of(model))


def _train_once(network: nn.Module, images: Tensor) -> None:
    """A pass in training mode, which may need more than images; then it is left out."""
    try:
        with torch.no_grad():
            network.train()
            network(images.clone())
    except Exception:  # the caller's loop shows it, if it is an error there
        return
