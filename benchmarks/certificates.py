"""Certified accuracy of a network by the library and by bounds that are written apart from it.

    python benchmarks/certificates.py RUN_OR_FILE --eps 0.3 --images 2000

RUN_OR_FILE is a run, or the weights (state_dict) of an interval-trained network of two convolutions
(16 and 32 channels, 4x4, stride 2) and two dense layers (256, 10), as `--train EPOCHS` makes it
there first. The other bounds are intervals of the logits, and intervals with the last layer folded
into the margins, in plain PyTorch, float64 and without an allowance for rounding.

Units: pixels in [0, 1].
"""

import argparse
import math
import time
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import Linf
from sparring.bounds import Box, NetworkBounds
from sparring.data import load_dataset
from sparring.evaluation import certificate
from sparring.models import PaperCNN, trained_network
from sparring.records import RunDirectory

BATCH = 128
RATE = 1.5e-3


def strided() -> nn.Sequential:
    layers = [nn.Conv2d(1, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10))


def interval_trained(eps: float, epochs: int) -> nn.Sequential:
    """ε grows over 40 % of the updates, to 1.1 times its size, after 5 % of natural training."""
    torch.manual_seed(0)
    network = strided()
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, math.sqrt(2 * math.pi) / layer.weight[0].numel())
            layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))
    data, bounds = load_dataset("mnist").train, NetworkBounds(network)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    steps = len(data) // BATCH * epochs
    order = torch.cat(
        [torch.randperm(len(data))[: len(data) // BATCH * BATCH] for _ in range(epochs)]
    )
    for step, places in enumerate(order.split(BATCH)):
        images, labels = data.batch(places)
        done = step / steps
        reach = 1.1 * eps * min(1, max(0, (done - 0.05) / 0.4))
        optimizer.param_groups[0]["lr"] = RATE * min(1, 2 * (1 - done)) + 1e-6
        box = Box((images - reach).clamp_min(0), (images + reach).clamp_max(1))
        loss = functional.cross_entropy(-bounds.through(box).margins(labels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, or of the paper's CNN, in the order of their use."""
    if isinstance(network, nn.Sequential):
        return list(network)
    assert isinstance(network, PaperCNN), "known are sequences and the paper's CNN"
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    features = [network.conv1, pool, relu, network.conv2, pool, relu, RowsLast()]
    return [*features, network.fc1, relu, network.fc2]


class RowsLast(nn.Module):
    """Features in the order of the paper's dense layer: channels vary fastest."""

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, F] of images [B, C, H, W]."""
        return images.permute(0, 2, 3, 1).flatten(1)


def by_hand(network: nn.Module, images: Tensor, labels: Tensor, eps: float) -> tuple[int, int]:
    """Images that intervals of the logits prove, and intervals with the last layer folded."""
    low, high = (images.double() - eps).clamp_min(0), (images.double() + eps).clamp_max(1)
    *hidden, last = layers_of(network)
    assert isinstance(last, nn.Linear)
    for layer in hidden:
        if isinstance(layer, nn.Conv2d):
            plus, minus = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
            places = {"stride": layer.stride, "padding": layer.padding}
            positive = [functional.conv2d(end, plus, layer.bias, **places) for end in (low, high)]
            negative = [functional.conv2d(end, minus, None, **places) for end in (high, low)]
            low, high = (p + n for p, n in zip(positive, negative, strict=True))
        elif isinstance(layer, nn.Linear):
            plus, minus, bias = layer.weight.clamp_min(0), layer.weight.clamp_max(0), layer.bias
            low, high = low @ plus.T + high @ minus.T + bias, high @ plus.T + low @ minus.T + bias
        else:
            low, high = layer(low), layer(high)
    weight, bias = last.weight, last.bias
    plus, minus = weight.clamp_min(0), weight.clamp_max(0)
    least, most = low @ plus.T + high @ minus.T + bias, high @ plus.T + low @ minus.T + bias
    other = functional.one_hot(labels, 10) == 0
    apart = (least.gather(1, labels[:, None]) - most > 0) | ~other
    folded = torch.empty_like(apart)
    for place, label in enumerate(labels.tolist()):
        rows, shift = weight[label] - weight, bias[label] - bias
        bound = rows.clamp_min(0) @ low[place] + rows.clamp_max(0) @ high[place] + shift
        folded[place] = (bound > 0) | ~other[place]
    return int(apart.all(1).sum()), int(folded.all(1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--train", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--seconds", type=float, default=None)
    asked = parser.parse_args()
    if asked.train:
        torch.save(interval_trained(asked.eps, asked.train).state_dict(), asked.network)
    if asked.network.is_dir():
        network: nn.Module = trained_network(RunDirectory(asked.network))
    else:
        network = strided()
        network.load_state_dict(torch.load(asked.network, weights_only=True))
    network.eval()
    images, labels = load_dataset("mnist").test.batch(torch.arange(asked.images))
    with torch.no_grad():
        right = int((network(images).argmax(1) == labels).sum())
    print(f"{right} of {asked.images} classified correctly", flush=True)
    if isinstance(network, nn.Sequential | PaperCNN):
        begun, exact = time.perf_counter(), deepcopy(network).double()
        with torch.no_grad():
            pieces = zip(images.split(BATCH), labels.split(BATCH), strict=True)
            counts = [by_hand(exact, *some, asked.eps) for some in pieces]
        apart, folded = (sum(column) for column in zip(*counts, strict=True))
        print(f"by hand: {apart} by logits, {folded} folded, {time.perf_counter() - begun:.1f} s")
    for passes in (0, 20, 2500):
        found = certificate(
            network, images, labels, Linf(eps=asked.eps), passes=passes, seconds=asked.seconds
        )
        print(f"passes={passes}: {found}, {found.seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
