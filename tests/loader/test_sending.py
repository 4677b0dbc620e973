"""Networks that workers rebuild are tried when the loader is made, not by what comes of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, Linf
from sparring.errors import ConfigError
from sparring.loader import AdversarialLoader, Asynchronous, Stale


def network(activation: type[nn.Module] = nn.ReLU, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), activation(), nn.Linear(8, classes))


def other_activation() -> nn.Module:
    return network(nn.Tanh)


def more_classes() -> nn.Module:
    return network(classes=5)


def none() -> Any:
    return None


def failing() -> nn.Module:
    raise OSError("no such file")


class Counting(nn.Module):
    """Scales its logits by a buffer that passes in training mode change."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("scale", torch.ones(1), persistent=persistent)

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.scale = self.scale + 1
        return self.inner(images) * self.scale


def opened(model: nn.Module, source: Any = None, **settings: Any) -> AdversarialLoader:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (16, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(16) % 3
    source = source or Asynchronous(workers=0, fresh_steps=0)
    attack = PGD(threat=Linf(eps=0.1), steps=2)
    given: dict[str, Any] = {"batch_size": 4, "updates": 3, "source": source} | settings
    return AdversarialLoader((pixels, labels), model, attack, **given)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (other_activation, "computes other logits than the model"),
        (more_classes, "is not like the model: 2 tensors are of another shape"),
        (nn.Identity, "is not like the model: 4 tensors are not the network's"),
        (none, "must return a network like the model; got None"),
        (failing, "build= failed: OSError: no such file"),
    ],
)
def test_another_network_is_refused(build, said):
    with pytest.raises(ConfigError, match=said):
        opened(network(), build=build)


def test_the_same_network_is_accepted_and_random_state_stays():
    model = network()
    before = torch.random.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with opened(model, build=network) as loader:
        assert torch.equal(torch.random.get_rng_state(), before)
        assert [batch.number for batch in loader] == [0, 1, 2]
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_what_training_changes_must_be_in_the_state_dict():
    with pytest.raises(ConfigError, match="changes more than its state_dict"):
        opened(Counting(persistent=False))
    opened(Counting(persistent=False), Stale(staleness=1))
    opened(Counting(persistent=True))
