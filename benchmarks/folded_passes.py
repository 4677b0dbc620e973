"""Passes of the built-in networks as evaluations compute them, beside the networks themselves.

    python benchmarks/folded_passes.py small-cnn preact-resnet-18

Random weights, 28x28 grey images, one thread. The two take turns; the least time of the processor
of each is printed, in microseconds an image. Then folded passes after a change of few pixels, as
Square makes them: computed whole, and only where the change reaches.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sparring.models import computing_threads
from sparring.models.folding import RegionalPasses, folded_passes
from sparring.models.networks import SmallCNN, preact_resnet_18

NETWORKS: dict[str, tuple[Callable[[int, int], nn.Module], int]] = {
    "small-cnn": (SmallCNN, 128),
    "preact-resnet-18": (preact_resnet_18, 16),
}
"""Networks, and the images of a pass."""
ROUNDS = 8
SIDES = (2, 4, 6, 12)
"""Sides of the squares that change."""


def forward(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """A pass without a gradient."""
    with torch.no_grad():
        logits_of(images)


def and_back(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """A pass and the gradient of the images."""
    images = images.clone().requires_grad_()
    torch.autograd.grad(logits_of(images).logsumexp(1).sum(), images)


def least_times(rivals: Mapping[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Microseconds an image of each, the least of several rounds by turns."""
    least = dict.fromkeys(rivals, float("inf"))
    for _ in range(ROUNDS):
        for name, run in rivals.items():
            begun = time.process_time()
            run()
            least[name] = min(least[name], 1e6 * (time.process_time() - begun) / count)
    return least


def changed(images: Tensor, side: int) -> Tensor:
    """Each image with a square of this side inverted."""
    after = images.clone()
    for image in after:
        row, column = (int(torch.randint(size - side + 1, ())) for size in image.shape[1:])
        image[:, row : row + side, column : column + side].mul_(-1).add_(1)
    return after


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="+", choices=NETWORKS)
    with computing_threads(1):
        for name in parser.parse_args().networks:
            build, count = NETWORKS[name]
            network = build(1, 10).eval().requires_grad_(requires_grad=False)
            images = torch.rand(count, 1, 28, 28)
            folded = folded_passes(network, images)
            assert isinstance(folded, RegionalPasses)
            for what in (forward, and_back):
                rivals = {"network": partial(what, network, images)}
                rivals["folded"] = partial(what, folded, images)
                tell(f"{name} {what.__name__}", least_times(rivals, count))
            with torch.no_grad():
                memory, rows = folded.remember(images), torch.arange(count)
                for side in SIDES:
                    after = changed(images, side)
                    rivals = {"whole": partial(folded, after)}
                    rivals["windows"] = partial(folded.revised, memory, images, after, rows)
                    tell(f"{name} {side}x{side} pixels", least_times(rivals, count))


def tell(what: str, least: Mapping[str, float]) -> None:
    """Print two times and their ratio."""
    (first, before), (second, after) = least.items()
    print(f"{what}: {first} {before:.0f}, {second} {after:.0f}, {before / after:.2f}x")


if __name__ == "__main__":
    main()
