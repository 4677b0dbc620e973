"""What a network answers to a few fixed images: by that it is known when it is rebuilt.

A network is rebuilt from its record, its weights and its code. What the code keeps elsewhere than
in the `state_dict` (an order of pixels that was drawn at random, a constant) is compared by this.

Shapes: N images, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sparring.errors import ConfigError, OtherNetwork
from sparring.models.copying import copied
from sparring.models.modes import evaluation_mode
from sparring.models.spec import drawing_from

TOLERANCE = 1e-3
"""Largest difference of a logit, in units of the largest logit or of `LEAST`.

Single precision rounds by 6e-8 an operation, and other processors and thread counts add up in
another order. From SSE 4.1 to AVX-512, and with one thread or two, that moved the logits of the
built-in networks by 5e-6 at most; those of networks of another seed differ by 1 and more.
"""
LARGEST = 1 << 26
"""Numbers of an image, more than any network takes: a stored shape may be damaged."""
LEAST = 1e-2
"""Smallest unit: logits near 0 are the difference of larger numbers, with the errors of those."""
CAUSES = (
    "The likely causes: the network's code, or a module it imports, was changed; its code draws "
    "random numbers that no seed determines (numpy.random.default_rng() or random.Random() without "
    "a seed, os.urandom, the order of a set); it reads another file than in training; other "
    "versions of packages are installed; or the weights are another network's."
)
"""Why a network that is rebuilt is another one."""

Logits = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What a network answered, in evaluation mode and single precision, on a CPU."""

    shape: tuple[int, int, int]
    """Channels, rows and columns of the images."""
    logits: Logits
    """A row for each image, a logit that is not finite as none; empty if the network failed."""

    def __post_init__(self) -> None:
        """Check the shape."""
        if min(self.shape) < 1 or math.prod(self.shape) > LARGEST:
            raise ConfigError(
                f"the shape of a fingerprint's images must be that of an image; got {self.shape}."
            )

    def difference(self, other: "Fingerprint") -> float:
        """Largest difference of a logit, in the unit of `TOLERANCE`; infinite for other shapes."""
        ours, theirs = _flat(self.logits), _flat(other.logits)
        if len(ours) != len(theirs) or len(self.logits) != len(other.logits):
            return math.inf
        pairs = list(zip(ours, theirs, strict=True))
        if any((a is None) != (b is None) for a, b in pairs):
            return math.inf
        finite = [(a, b) for a, b in pairs if a is not None and b is not None]
        unit = max([LEAST, *(abs(a) for a, _ in finite)])
        return max((abs(a - b) / unit for a, b in finite), default=0.0)


def fingerprint(network: nn.Module, shape: tuple[int, int, int]) -> Fingerprint:
    """The fingerprint of a network for images of this shape.

    A copy of it is asked, so that nothing in it moves. Cost: the copy and one pass.
    """
    with drawing_from(0):
        asked = copied(network).cpu()
        with evaluation_mode(asked), torch.no_grad(), torch.autocast("cpu", enabled=False):
            try:
                found = asked(patterns(shape))
            except Exception:  # its own code, of any kind: that it fails is its answer
                return Fingerprint(shape=shape, logits=())
    rows = found.detach().double().flatten(1).tolist() if isinstance(found, Tensor) else []
    return Fingerprint(shape=shape, logits=tuple(tuple(map(_stored, row)) for row in rows))


def check_fingerprint(network: nn.Module, stored: Fingerprint, where: str) -> None:
    """Refuse a network that was rebuilt and is not the one whose fingerprint was `stored`.

    Raises `OtherNetwork`, which begins with `where`. Cost: two copies and passes.
    """
    found, again = fingerprint(network, stored.shape), fingerprint(network, stored.shape)
    moved = found.difference(again)
    if moved > TOLERANCE:
        raise OtherNetwork(
            f"{where}: the network answers the same images differently from one pass to the next, "
            f"by {moved:.2g} of its largest logit, so it cannot be compared with the network that "
            "was trained. Make what is random in it depend on self.training."
        )
    apart = stored.difference(found)
    if apart > TOLERANCE:
        raise OtherNetwork(
            f"{where}: the network that was rebuilt is not the one that was trained; its logits of "
            f"{len(stored.logits)} fixed images {_by(apart)}, where {TOLERANCE:g} is allowed. "
            f"{CAUSES} Put back what it was trained with, or train again."
        )


def patterns(shape: tuple[int, int, int]) -> Float32[Tensor, " N C H W"]:
    """Four images that are the same everywhere: two of noise, two of noise in blocks of 4 x 4."""
    channels, rows, columns = shape
    size = channels * rows * columns
    content = hashlib.shake_256(b"sparring: fixed images").digest(4 * size)
    levels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    noise = levels.view(4, channels, rows, columns).float().div_(255)
    down, right = (torch.arange(length) // 4 for length in (rows, columns))
    blocks = noise[2:, :, down][..., right]
    return torch.cat([noise[:2], blocks])


def _by(apart: float) -> str:
    if math.isinf(apart):
        return "are of another number, or are finite in other places"
    return f"differ by {apart:.2g} of the largest"


def _stored(logit: float) -> float | None:
    return float(f"{logit:.7g}") if math.isfinite(logit) else None


def _flat(logits: Logits) -> list[float | None]:
    return [logit for row in logits for logit in row]
