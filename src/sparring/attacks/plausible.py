"""Sizes of threats in words: the usual ones, and those that were probably meant in another unit.

Units: ε in those of pixels in [0, 1].
"""

import math

from torch import Tensor

from sparring.attacks.threat import L2, Linf, Threat, itself
from sparring.records.text import eps_text

USUAL: dict[tuple[type, bool], float] = {
    (Linf, True): 0.3,
    (L2, True): 2.0,
    (Linf, False): 8 / 255,
    (L2, False): 0.5,
}
"""ε by norm and by whether images are grey, as on MNIST, or coloured, as on CIFAR-10."""
FEW = 32 / 255
"""An L∞ ε of colour images above this is more than four times the usual one."""
GREY = 0.5
"""The L∞ ε within which every image can be made the same grey."""
SHORT = 0.1
"""An L2 ε below this is an L∞ one: 8/255 is 0.03."""
FAR = 0.15
"""An L2 ε above this many times the root of the number of pixels; mid-grey is 0.5 away at most."""

BEYOND = 1.5
"""What is trained against exceeds what is to be withstood by less: the preset `fast` by a fifth."""


def usual(norm: type, channels: int) -> Threat:
    """The threat that images of so many channels are mostly asked to withstand."""
    return norm(USUAL[norm, channels == 1])


def doubt(threat: Threat, image_shape: tuple[int, ...]) -> str | None:
    """Why this ε looks like one of another unit, and what to do; `None` if it does not."""
    if not isinstance(threat, Linf | L2):
        return None
    eps, grey = threat.eps, image_shape[0] == 1
    common = USUAL[type(threat), grey]
    if isinstance(threat, Linf):
        return _doubt_linf(eps, grey, common)
    farthest = FAR * math.sqrt(math.prod(image_shape))
    if eps < SHORT:
        return (
            f"an L2 ε of {eps:.3g} is the length of the whole change, in which hardly an attack "
            f"succeeds: it looks like one for L∞. Usual here is {common:g}"
        )
    if eps > farthest:
        return (
            f"an L2 ε of {eps:g} turns these images into others: pixels lie in [0, 1]. Usual here "
            f"is {common:g}; if it was meant in grey levels, divide it by 255"
        )
    return None


def too_dark(images: Tensor) -> str | None:
    """Why these images look divided by 255 once more than they should; `None` if they do not."""
    brightest = float(images.max())
    if brightest > 1 / 255:
        return None
    return (
        f"the brightest pixel is {brightest:.3g}: pixels lie in [0, 1], and these look as if they "
        "were divided by 255 twice"
    )


def _doubt_linf(eps: float, grey: bool, common: float) -> str | None:
    if eps >= GREY:
        return (
            f"with an L∞ ε of {eps:g} every image can be made the same grey, which no classifier "
            f"withstands. Usual here is {common:.3g}"
        )
    if not grey and eps > FEW:
        return (
            f"an L∞ ε of {eps:g} is {eps * 255:.0f} grey levels, which is usual for grey images "
            "such as MNIST's; for colour images 8/255 is"
        )
    if eps < 0.5 / 255:
        return (
            f"an L∞ ε of {eps:.3g} is less than half a grey level, of pixels in [0, 1]. Usual here "
            f"is {common:.3g}; one in grey levels is written 8/255"
        )
    return None


def mismatch(threat: Threat, trained: Threat) -> str | None:
    """Why training against one size may not serve to withstand another; none if it may."""
    eps, size = threat.eps, trained.eps
    if eps <= size <= BEYOND * eps:
        return None
    what = (
        "less than is to be withstood, so that the network never sees the worst"
        if size < eps
        else "far more than is to be withstood, which costs natural accuracy"
    )
    return (
        f"training attacks with ε = {size:.3g}, evaluation with {eps:.3g}: {what}. "
        "Usual is as much, or a fifth more"
    )


def threat_text(threat: Threat) -> str:
    """A threat in words, such as Linf 0.3 or Linf 8/255."""
    return f"{type(itself(threat)).__name__} {eps_text(threat.eps)}"
