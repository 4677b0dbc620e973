"""A user's own code: a network with normalisation and dropout, and an objective."""

from pathlib import Path

from torch import Tensor, nn, tensor
from torch.nn.functional import cross_entropy

from sparring.training import Loss

FILE = Path(__file__)


class Own(nn.Module):
    """A network with everything that a pass may disturb."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * 36, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class Centred(Own):
    """Subtracts a constant that is neither parameter nor buffer, so that it fails in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = tensor([0.13]).view(1, 1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - self.mean)


class Smoothed:
    """Cross-entropy on adversarial images with smoothed labels."""

    def __init__(self, smoothing: float = 0.1) -> None:
        self.smoothing = smoothing

    def __call__(self, logits_of, batch) -> Loss:
        logits = logits_of(batch.adversarial)
        value = cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        return Loss(value, logits.argmax(1) == batch.labels)


class Counted:
    """Weighs every batch by how many came before."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, logits_of, batch) -> Loss:
        self.calls += 1
        logits = logits_of(batch.adversarial)
        value = cross_entropy(logits, batch.labels) / self.calls
        return Loss(value, logits.argmax(1) == batch.labels)


class Failing:
    def __call__(self, logits_of, batch) -> Loss:
        raise KeyError("masks")


class Infinite(Smoothed):
    def __call__(self, logits_of, batch) -> Loss:
        value, correct = super().__call__(logits_of, batch)
        return Loss(value / 0, correct)


def not_scalar():
    return lambda logits_of, batch: (logits_of(batch.images), batch.labels == 0)


def no_outcomes():
    return lambda logits_of, batch: (logits_of(batch.images).sum(), None)
