"""Train a network of one's own, with normalisation and dropout, on data of one's own.

    python examples/own_model.py --updates 300 --out runs/own-model

The data are a `torch.utils.data.Dataset` that draws coloured bars; the network normalises by its
first layer, because attacks and ε are in pixels.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import sparring
from sparring.data import dataset_from
from sparring.models import NormalisedNetwork


class Bars(Dataset[tuple[Tensor, int]]):
    """Colour images of a bar: lying, standing, or none. The same whenever they are asked for."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        image = torch.randint(0, 100, (3, 16, 16), generator=chance, dtype=torch.uint8)
        place = int(torch.randint(1, 13, (), generator=chance))
        label = index % 3
        if label == 0:
            image[:, place : place + 3] += 150
        elif label == 1:
            image[:, :, place : place + 3] += 150
        return image, label


def network() -> nn.Module:
    """A small network with BatchNorm and dropout, behind a normalisation."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * 8 * 8, 3),
    )
    return NormalisedNetwork(layers, (0.25, 0.25, 0.25), (0.2, 0.2, 0.2))


def main() -> None:
    """Train against 8/255, and judge on the test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", default="runs/own-model")
    asked = parser.parse_args()
    names = ("lying", "standing", "none")
    data = dataset_from(train=Bars(600, 0), test=Bars(asked.images, 1), class_names=names)
    torch.manual_seed(0)
    model = network()
    config = sparring.presets.fast(model=model, data=data, batch_size=32, updates=asked.updates)
    trained = sparring.train(config, asked.out, network=model, data=data)
    images, labels = data.test.batch(torch.arange(len(data.test)))
    verdict = sparring.evaluate(trained.network, images, labels, config.threat, checks=False)
    print(f"natural accuracy {verdict.evaluation.natural}")
    print(f"robust accuracy {verdict.evaluation.robust}, suite {verdict.evaluation.suite}")


if __name__ == "__main__":
    main()
