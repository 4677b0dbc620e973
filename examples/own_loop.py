"""Adversarial training in a plain PyTorch loop, its batches attacked by a worker beside it.

python examples/own_loop.py --updates 300
"""

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparring
from sparring.engine import FixedLag
from sparring.training import WarmUp


def main() -> None:
    """Train a small network on the bundled MNIST, and judge it on its first test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--images", type=int, default=500)
    asked = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # the worker has the other cores
    data, threat = sparring.load_dataset("mnist"), sparring.Linf(0.3)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 25, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loader = sparring.AdversarialLoader(
        data,
        model,
        sparring.PGD(threat=threat, steps=8),
        batch_size=128,
        updates=asked.updates,
        eps_schedule=WarmUp(share=0.7),  # at full ε from the start it learns nothing for long
        source=sparring.Asynchronous(workers=1, policy=FixedLag(lag=2), fresh_steps=2),
    )
    with loader:
        for batch in loader:
            loss = cross_entropy(model(batch.adversarial), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loader.updated()  # the worker may have the new weights at once
            if loader.version % 100 == 0:
                print(f"update {loader.version}: loss {loss.item():.3f}")

    images, labels = data.test.batch(torch.arange(asked.images))
    verdict = sparring.evaluate(model, images, labels, threat, checks=False)
    print(f"natural accuracy {verdict.evaluation.natural}")
    print(f"robust accuracy {verdict.evaluation.robust}, suite {verdict.evaluation.suite}")


if __name__ == "__main__":
    main()
