"""Objects of one's own for settings, as a user would write them."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


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
