"""Certificates are sound: no image of the threat, searched for or drawn, gets past them."""

from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from sparring.attacks import L2, PGD, Linf
from sparring.data import load_dataset
from sparring.errors import ConfigError
from sparring.evaluation.certificates import Bounds, around, certified
from sparring.models import ModelKind, Normalised, SmallNetwork, WideResNet
from sparring.training import train
from training.small_runs import small


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class Residual(nn.Module):
    """A sum of two ways, pooled, in methods and functions; linear over features that come last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding="same", bias=False)
        self.channels, self.rows = nn.Linear(3, 5), nn.Linear(5, 3)
        self.last = nn.Linear(3 * 3 * 3, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.first(images))
        hidden = (hidden + self.second(hidden)).relu()
        pixels = self.channels(functional.max_pool2d(hidden, 2).permute(0, 2, 3, 1))
        return self.last(self.rows(pixels.reshape(-1, 9, 5)).flatten(1))


def layered() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 6, 3, stride=2, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """Weights, and statistics of BatchNorm, of both signs and unlike sizes."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not name.startswith("normalisation"):
            value.normal_(0.1, 0.5, generator=seeded(seed))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.3, 2, generator=seeded(seed))
    return network.eval()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The tests' checks of shapes at run time do not know the stand-ins of a trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def built_in(spec: ModelKind) -> Callable[[], nn.Module]:
    return lambda: spec.fitted((2, 6, 6), 4).build(0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("threat", [Linf(eps=0.05), Linf(eps=1e-6), L2(eps=0.2)])
@pytest.mark.parametrize(
    "kind",
    [
        Residual,
        layered,
        built_in(Normalised(mean=(0.4, 0.6), std=(0.2, 0.3), network=SmallNetwork(width=2))),
        built_in(WideResNet(depth=10, width=1, dropout=0.3)),
    ],
)
def test_what_a_network_says_of_any_image_of_the_threat_is_enclosed(kind, threat):
    images = torch.rand(6, 2, 6, 6, generator=seeded(1))
    labels = torch.arange(6) % 4
    for seed in range(4):
        network = drawn(kind(), seed)
        with torch.no_grad():
            box = Bounds(network).of(around(images, threat))
        assert (box.low < box.high).all()
        attack = PGD(threat=threat, steps=10)
        tried = [threat.corner(images, seeded(n)) for n in range(200)]
        tried += [attack(network, images, labels * 0 + n, generator=seeded()) for n in range(4)]
        for found in (images, *tried):
            logits = network(found).double()
            assert (logits >= box.low).all()
            assert (logits <= box.high).all()


@pytest.mark.usefixtures("unchecked")
def test_what_single_precision_rounds_away_is_enclosed():
    """Beside a bias of a million, sums in float32 are off by up to 0.03."""
    last = nn.Linear(16, 3)
    network = nn.Sequential(nn.Flatten(), last).eval()
    images = torch.rand(20, 1, 4, 4, generator=seeded(1))
    with torch.no_grad():
        last.bias.fill_(1e6)
        box = Bounds(network).of(around(images, Linf(eps=1e-6)))
        logits = network(images).double()
    assert ((box.low <= logits) & (logits <= box.high)).all()


def test_of_a_linear_model_all_is_certified_that_is_robust():
    network = drawn(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), 3)
    images = torch.rand(400, 1, 6, 6, generator=seeded(2)) * 0.5 + 0.25
    labels = network(images).argmax(1)
    weight = network.state_dict()["1.weight"].double()
    logits = network(images).double()
    lead = (logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None]))[:, 0]
    # Each logit is bounded apart, so it is the sum of both reaches that counts.
    lost = 0.02 * weight.abs().sum()
    found = certified(network, images, labels, Linf(eps=0.02))
    assert 50 < found.successes < 350
    assert abs(found.successes - int((lead > lost).sum())) <= 1


@pytest.mark.usefixtures("unchecked")
def test_a_trained_network_is_certified_no_further_than_attacks_allow(
    tmp_path,
):
    natural = PGD(threat=Linf(eps=0.3), steps=0, start="none")
    network = train(small(updates=30, batch_size=64, attack=natural), tmp_path / "run").network
    images, labels = load_dataset("mnist").test.batch(torch.arange(100))
    known = int((network(images).argmax(1) == labels).sum())
    counts = []
    for eps in (1e-5, 1e-3, 0.3):
        threat = Linf(eps=eps)
        counts.append(certified(network, images, labels, threat).successes)
        found = PGD(threat=threat, steps=10)(network, images, labels, generator=seeded())
        assert counts[-1] <= (network(found).argmax(1) == labels).sum()
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > known - 5 > 60
    assert 0 < counts[1] < counts[0]
    assert counts[2] == 0
    assert certified(network, images, (labels + 1) % 10, Linf(eps=1e-5)).successes < 30


class Doubled(nn.Module):
    """A sum with a factor."""

    def forward(self, images: Tensor) -> Tensor:
        flat = torch.flatten(images, 1)
        return torch.add(flat, flat, alpha=3)


class InPlace(nn.Module):
    """A sum into a tensor that has another name, which no trace shows."""

    def forward(self, images: Tensor) -> Tensor:
        flat = torch.flatten(images, 1)
        total = hidden = torch.relu(flat)
        total += flat
        return total + hidden


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(4, 2)), "none is known for GELU"),
        (nn.Sequential(nn.Conv2d(1, 1, 1, padding_mode="circular")), "padding mode circular"),
        (Branching(), "cannot be traced"),
        (Doubled(), "none is known for add"),
        (InPlace(), "computes what its trace shows"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half(), "weights in torch.float16"),
    ],
)
def test_what_has_no_bound_is_refused(network, message):
    images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(ConfigError, match=message):
        certified(network, images, labels, Linf(eps=0.1))
