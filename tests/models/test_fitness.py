"""Networks that cannot be trained or attacked are told before anything begins, and why."""

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.errors import ConfigError
from sparring.models import Normalised, SmallNetwork, check_network
from sparring.models.networks import NormalisedNetwork

IMAGES = torch.rand(6, 3, 8, 8, generator=Generator().manual_seed(0))


def linear(outputs: int = 4, inputs: int = 192) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


class After(nn.Module):
    """A sound network, and something done to its logits."""

    def __init__(self, change) -> None:
        super().__init__()
        self.sound, self.change = linear(), change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.sound(images))


class Normalize(nn.Module):
    """What people call their own."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2 - 1


class Rounding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sound = linear()

    def forward(self, images: Tensor) -> Tensor:
        return self.sound(images.round())


def frozen() -> nn.Module:
    return linear().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (linear(5), r"returned shape \(6, 5\) for 6 images, not \(6, 4\)"),
        (
            linear(4, 64),
            r"Sequential failed \(RuntimeError.* of shape \(3, 8, 8\)",
        ),
        (After(lambda logits: logits.softmax(1)), "probabilities, not logits. Remove the softmax"),
        (After(lambda logits: logits + torch.randn_like(logits)), "for the same images differ by"),
        (After(lambda logits: logits.detach()), "gradient of the logits .* is none"),
        (After(lambda logits: logits * 0), "gradient of the logits .* is one of zeros"),
        (Rounding(), "gradient of the logits .* is one of zeros"),
        (After(lambda logits: logits / 0), "returned infinity or NaN"),
        (After(lambda logits: {"logits": logits}), "returned a dict, not a tensor of logits"),
        (After(lambda logits: logits.argmax(1)), "not a tensor of logits"),
        (frozen(), "no weight of .* requires a gradient"),
        (nn.Flatten(), "no weight of .* requires a gradient"),
        (
            NormalisedNetwork(nn.Sequential(Normalize(), linear()), (0.5,), (0.5,)),
            r"already has a Normalize \(0\)",
        ),
    ],
)
def test_a_network_that_cannot_be_used_is_refused(network, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_network(network, IMAGES, 4)


@pytest.mark.parametrize(
    "network",
    [
        linear(),
        nn.Sequential(Normalize(), linear()),
        nn.Sequential(nn.Dropout(0.9), linear()),
        After(lambda logits: logits.log_softmax(1)),
        Normalised(mean=(0.5,), std=(0.5,), network=SmallNetwork()).fitted((3, 8, 8), 4).build(0),
    ],
)
def test_a_sound_network_is_let_pass_and_left_as_it_was(network):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_network(network, IMAGES, 4)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


class Settling(nn.Module):
    """Computes a little differently once a batch of another size came, as `torch.compile` does."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = linear()
        self.sizes: set[int] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.add(len(images))
        return self.sound(images) * (1 + 1e-6 * min(2, len(self.sizes)))


def test_a_network_that_settles_on_other_kernels_is_not_random():
    check_network(Settling(), IMAGES, 4)
