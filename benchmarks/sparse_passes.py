"""Passes of a trained network of the paper's in single precision: three ways, interleaved.

    python benchmarks/sparse_passes.py runs/fast-0 --threads 1

Layer by layer as PyTorch does it, by frequencies, and from one number that is not zero to the next;
forward, and to the images and back. Then looks at squares of changed pixels, as Square asks for
them. On 128 test images, every pixel at a random end of the threat of 0.3; medians, microseconds
an image.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from sparring.attacks import Linf, cross_entropy
from sparring.attacks.checks import looked_at
from sparring.data import load_dataset
from sparring.models import (
    attack_passes,
    computing_threads,
    trained_network,
    working_copy,
)
from sparring.models.paper_cnn.sparse import SparsePasses
from sparring.records import RunDirectory

IMAGES = 128


def ways(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    sparse = attack_passes(net)
    if not isinstance(sparse, SparsePasses):
        raise SystemExit("this network has no sparse passes here: is Numba installed?")
    found: dict[str, Callable[[], object]] = {}
    forms = {
        "layer by layer": net,
        "by frequencies": working_copy(net, "fp32").attacked,
        "sparse": sparse,
    }
    for name, form in forms.items():
        found[f"{name}, forward"] = lambda form=form: form(x)
        found[f"{name}, and back"] = lambda form=form: looked_at(
            form, x, lambda logits: cross_entropy(logits, labels)
        )
    memory, rows = sparse.remember(x), torch.arange(len(x))
    for side in (2, 3, 6, 13, 28):
        after, begin = x.clone(), (28 - side) // 2
        square = (..., slice(begin, begin + side), slice(begin, begin + side))
        after[square] = 1 - after[square]
        found[f"sparse, {side}x{side} changed pixels"] = lambda after=after: sparse.revised(
            memory, x, after, rows
        )
    return found


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    net = trained_network(RunDirectory(asked.run)).requires_grad_(requires_grad=False)
    images, labels = load_dataset("mnist").test.batch(torch.arange(IMAGES))
    x = Linf(eps=0.3).corner(images, Generator().manual_seed(0))
    with computing_threads(asked.threads), torch.no_grad():
        timed = ways(net, x, labels)
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(asked.rounds + 1):
            for name, look in timed.items():
                begun = time.perf_counter()
                look()
                seconds[name].append(time.perf_counter() - begun)
        for name, values in seconds.items():
            median = statistics.median(values[1:])  # the first round compiles
            print(f"{name:32s} {median / IMAGES * 1e6:7.0f}")


if __name__ == "__main__":
    main()
