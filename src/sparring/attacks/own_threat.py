"""A check of threats of your own, before a search trusts them.

Shapes: B batch, S one image (C H W).  Units: pixels in [0, 1].
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from sparring.attacks.threat import (
    L2,
    CustomThreat,
    Linf,
    MadeThreat,
    Threat,
    itself,
    reach,
    resized,
)
from sparring.errors import ConfigError
from sparring.records.custom import own_errors

FEW = 8
"""Images that a threat is tried on."""


def is_own(threat: Threat) -> bool:
    """Whether a threat is none of the library's."""
    return type(threat) not in (Linf, L2)


def called_safely(threat: Threat) -> Threat:
    """The threat; one of your own raises `ConfigError` in a search for whatever its code raises.

    `itself` gives the threat back.
    """
    if isinstance(threat, CustomThreat) or not is_own(threat):
        return threat
    return MadeThreat(factory=type(threat).__name__, threat=threat)


def check_threat(threat: Threat, images: Float[Tensor, " B *S"]) -> None:
    """Raise `ConfigError` for a threat of your own that breaks what `Threat` says of it.

    What `project` returns outside the threat would count as no attack at all, and the network as
    robust. Cost: a call of each method on at most `FEW` images; none for `Linf` and `L2`.
    """
    if not is_own(threat):
        return
    name = f"the threat {type(itself(threat)).__name__}"
    eps, clean = threat.eps, images[:FEW]
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < math.inf:
        raise ConfigError.expected(f"{name} must have a number above 0 as eps", repr(eps))
    generator = Generator().manual_seed(0)
    noise = torch.rand(clean.shape, generator=generator).to(clean)
    far = clean + 4 * noise - 2
    with own_errors(name):
        smaller = resized(threat, eps / 2)
        made = {
            "uniform": threat.uniform(clean, generator),
            "corner": threat.corner(clean, generator),
            "project": threat.project(far, clean),
            "project (of the clean images)": threat.project(clean.clone(), clean),
        }
        uphill = threat.ascend(far)
        for what, found in (*made.items(), ("ascend", uphill)):
            _check_shape(f"{name}: {what}", found, clean.shape)
        _check_shape(f"{name}: distance", threat.distance(clean, clean), clean.shape[:1])
        for what, found in made.items():
            _check_allowed(f"{name}: {what}", threat, found, clean)
    if not isinstance(smaller, Threat) or not math.isclose(smaller.eps, eps / 2):
        raise ConfigError.expected(
            f"{name}: at({eps / 2:g}) must return the same threat with that eps",
            repr(getattr(smaller, "eps", smaller)),
        )


def _check_shape(what: str, found: object, shape: torch.Size) -> None:
    if not isinstance(found, Tensor) or found.shape != shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError.expected(f"{what} must return a tensor of shape {tuple(shape)}", got)
    if found.isnan().any():
        raise ConfigError(f"{what} returned NaN. Divide by no zero.")


def _check_allowed(what: str, threat: Threat, found: Tensor, images: Tensor) -> None:
    low, high = (end.item() for end in found.aminmax())
    if not (low >= 0 and high <= 1):
        raise ConfigError(
            f"{what} returned pixels from {low:g} to {high:g}; pixels must lie in [0, 1]. "
            "End it with .clamp(0, 1)."
        )
    farthest = threat.distance(found, images).max().item()
    if not farthest <= reach(threat, images):
        raise ConfigError(
            f"{what} returned an image at a distance of {farthest:.8g}, as the threat measures it; "
            f"at most eps = {threat.eps:g} counts. Mend one of the two methods."
        )
