"""Train with an objective of one's own: cross-entropy whose hard images count more.

    python examples/own_objective.py --updates 300 --out runs/own-objective

The same from the command line:

    sparring train --model small-cnn --objective examples/own_objective.py:Focal
"""

import argparse

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import sparring
from sparring.attacks import AttackedBatch
from sparring.models import SmallNetwork
from sparring.training import Custom, Loss
from sparring.training.objectives import LogitsOf


class Focal:
    """Cross-entropy on the adversarial images, weighted by (1 - p)^gamma (Lin et al. 2017)."""

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """One pass over the adversarial images."""
        logits: Tensor = logits_of(batch.adversarial)
        losses = cross_entropy(logits, batch.labels, reduction="none")
        weights = (1 - (-losses).exp()).pow(self.gamma)
        return Loss((weights * losses).mean(), logits.argmax(1) == batch.labels)


def main() -> None:
    """Train on the bundled MNIST, and judge on its first test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", default="runs/own-objective")
    asked = parser.parse_args()
    config = sparring.presets.fast(
        model=SmallNetwork(width=asked.width),
        objective=Custom(factory=f"{__file__}:Focal", arguments=("gamma=0.5",)),
        updates=asked.updates,
    )
    trained = sparring.train(config, asked.out)
    images, labels = sparring.load_dataset("mnist").test.batch(torch.arange(asked.images))
    verdict = sparring.evaluate(trained.network, images, labels, config.threat, checks=False)
    print(f"natural accuracy {verdict.evaluation.natural}")
    print(f"robust accuracy {verdict.evaluation.robust}, suite {verdict.evaluation.suite}")


if __name__ == "__main__":
    main()
