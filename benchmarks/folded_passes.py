"""Passes of the built-in networks as evaluations compute them, beside the networks themselves.

    python benchmarks/folded_passes.py small-cnn preact-resnet-18

Random weights, 28x28 grey images, one thread. The two take turns; the least time of the processor
of each is printed, in microseconds an image.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.models import computing_threads
from sparring.models.folding import folded_passes
from sparring.models.networks import SmallCNN, preact_resnet_18

NETWORKS: dict[str, tuple[Callable[[int, int], nn.Module], int]] = {
    "small-cnn": (SmallCNN, 128),
    "preact-resnet-18": (preact_resnet_18, 8),
}
"""Networks, and the images of a pass."""
ROUNDS = 8


def forward(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """A pass without a gradient."""
    with torch.no_grad():
        logits_of(images)


def and_back(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """A pass and the gradient of the images."""
    images = images.clone().requires_grad_()
    torch.autograd.grad(logits_of(images).logsumexp(1).sum(), images)


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
            assert folded is not None
            for what in (forward, and_back):
                least = {network: float("inf"), folded: float("inf")}
                for _ in range(ROUNDS):
                    for form in least:
                        begun = time.process_time()
                        what(form, images)
                        least[form] = min(least[form], time.process_time() - begun)
                direct, short = (1e6 * seconds / count for seconds in least.values())
                print(f"{name} {what.__name__}: {direct:.0f} to {short:.0f}, {direct / short:.2f}x")


if __name__ == "__main__":
    main()
