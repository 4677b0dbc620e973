"""Three networks that no preset has trained, for `agreement.py`: runs in a folder.

    python benchmarks/agreement_networks.py runs

They differ in layers, threat and size of batch, and are of moderate robustness, where two suites of
attacks would differ first. MNIST, one thread; some minutes.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Linf
from sparring.models import Imported, SmallNetwork
from sparring.training import Adam, TrainConfig, train

HERE = Path(__file__).resolve()


class Residual(nn.Module):
    """BatchNorm, a shortcut, average-pooling and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(1, 12, 5, 2, 2, bias=False), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.inner = nn.Sequential(
            nn.Conv2d(12, 12, 3, 1, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, 1, 1),
            nn.BatchNorm2d(12),
        )
        self.last = nn.Sequential(
            nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(12 * 49, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        hidden = self.first(images)
        return self.last(hidden + self.inner(hidden))


def dense() -> nn.Module:
    """Dense layers only."""
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def trained(folder: Path, eps: float, steps: int, rate: float, **settings: Any) -> None:
    """Train against PGD and write a run."""
    train(
        TrainConfig(
            threat=Linf(eps),
            attack=PGD(threat=Linf(eps), steps=steps, start="uniform"),
            optimizer=Adam(learning_rate=rate),
            threads=1,
            **settings,
        ),
        folder,
    )


def main() -> None:
    """Train all three."""
    into = Path(sys.argv[1])
    torch.set_num_threads(1)
    residual, linear = (Imported(factory=f"{HERE}:{name}") for name in ("Residual", "dense"))
    single: Any = {"precision": "fp32", "batch_size": 100}
    trained(into / "residual", 0.2, 5, 2e-3, model=residual, updates=1500, **single)
    trained(into / "dense", 0.1, 5, 1e-3, model=linear, updates=3000, **single)
    trained(into / "small", 0.2, 7, 1e-3, model=SmallNetwork(), updates=500, batch_size=64)


if __name__ == "__main__":
    main()
