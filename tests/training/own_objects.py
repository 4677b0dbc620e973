"""Objects of one's own for settings, as a user would write them."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring import APGD, PGD, Suite
from sparring.attacks import Threat


class Halving(torch.optim.Optimizer):
    """Signs of a running mean of gradients."""

    def __init__(self, parameters, lr: float = 1e-3):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 0.5)
                weight.sub_(mean.sign(), alpha=group["lr"])


class Falling:
    """A learning rate that falls linearly."""

    def __call__(self, progress: float) -> float:
        return 1 - progress


class Shift:
    """Moves each image by up to `most` columns."""

    def __init__(self, most: int = 3):
        self.most = most

    def __call__(self, images, ticket, number):
        moves = [int(ticket.draw(place, number) * self.most) for place in range(len(images))]
        return torch.stack([image.roll(by, -1) for image, by in zip(images, moves, strict=True)])


class Noise:
    """Not much of an attack."""

    def __init__(self, eps: float = 0.3):
        self.eps = eps

    def __call__(self, model, images, labels, *, generator) -> Tensor:
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
        return (images + self.eps * noise).clamp(0, 1)


class Counting:
    """Cross-entropy that grows with each call, so that its state matters."""

    def __init__(self):
        self.calls = 0

    def __call__(self, logits_of, batch):
        self.calls += 1
        logits = logits_of(batch.adversarial)
        loss = cross_entropy(logits, batch.labels) * (1 + self.calls)
        return loss, logits.argmax(1) == batch.labels


class Darker(Threat):
    """Pixels may only become darker, by at most `eps`."""

    def __init__(self, eps: float = 0.3):
        self.eps = eps

    def at(self, eps):
        return Darker(eps)

    def project(self, x, images):
        return torch.minimum(torch.maximum(x, images - self.eps), images).clamp(0, 1)

    def ascend(self, gradient):
        return gradient.sign()

    def uniform(self, images, generator):
        return self.project(
            images - self.eps * torch.rand(images.shape, generator=generator), images
        )

    def distance(self, x, images):
        change = (images - x).flatten(1)
        return change.abs().amax(1).masked_fill((change < -1e-6).any(1), torch.inf)


class Half:
    """No threat yet."""

    eps = 0.1

    def at(self, eps):
        return self


SUITE = Suite(name="mine", summary="of my own", attacks=(PGD(steps=1), APGD(steps=1)))


def weak():
    return PGD(steps=1)


class Slowing(torch.optim.Optimizer):
    """Gradient descent that counts its steps in its groups, as schedule-free optimizers do."""

    def __init__(self, parameters, lr: float = 0.05):
        super().__init__(parameters, {"lr": lr, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            group["k"] += 1
            for weight in group["params"]:
                weight.sub_(weight.grad, alpha=group["lr"] / group["k"] ** 0.5)


class Keeping(Slowing):
    """The same with its number of steps beside the groups."""

    def state_dict(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {**super().state_dict(), "k": self.param_groups[0]["k"]}


class Whole(Slowing):
    """The same with counts in whole numbers, which PyTorch makes floats when it loads them."""

    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                counts = self.state[weight].setdefault("counts", torch.zeros(2, dtype=torch.int32))
                counts += 1


class Noisy(Slowing):
    """The same with noise from torch's global generator."""

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                weight.add_(torch.randn_like(weight), alpha=1e-3)


class Wrong:
    """A schedule of ε or of the learning rate that returns a given value."""

    def __init__(self, value: float = 0.0, until: float = 1.0):
        self.value, self.until = value, until

    def __call__(self, progress: float):
        return torch.tensor(1.0) if progress < self.until else self.value
