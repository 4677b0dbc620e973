"""What workers get of a loader's model and settings, tried before any worker starts.

Shapes: B batch, C H W image.  Units: pixels in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks import Recipe
from sparring.engine.shared_images import unpicklable
from sparring.errors import ConfigError, OwnCodeFailed, cause
from sparring.models import copied, device_of, drawing_from
from sparring.models.calling import model_errors
from sparring.models.fitness import agree, evaluated
from sparring.models.weights import differences
from sparring.records.text import kind_text

ROUNDING = 1e-4
"""Largest difference of two copies' logits, in units of the largest logit: kernels may differ."""


@dataclass(frozen=True, slots=True, eq=False)
class CopyOf:
    """Builds copies of a network; pickles with the network."""

    network: nn.Module

    def __call__(self) -> nn.Module:
        """A copy, without hooks on its weights' history."""
        return copied(self.network)


def check_sent(recipe: Recipe, model: nn.Module, build: Callable[[], nn.Module] | None) -> None:
    """Refuse things that do not pickle. Raises `ConfigError`."""
    sent = {
        "attack": recipe.attack,
        "eps_schedule": recipe.eps_schedule,
        "build": build,
        "model": None if build is not None else CopyOf(model).network,
    }
    for name, thing in sent.items():
        if (reason := unpicklable(thing)) is not None:
            advice = "pass build=, a function at the top of a module that makes such a network"
            if name != "model":
                advice = "define it at the top of a module"
            raise ConfigError(
                f"the {name}, a {type(thing).__name__}, cannot be sent to workers; pickling it "
                f"failed: {reason}. Either {advice}, or use Asynchronous(workers=0)."
            )


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
