"""A certificate proves what can be proved within its budget, and refuses what has no bound."""

import pytest
import torch
from torch import Tensor, nn

from bounds.networks import KINDS, drawn, seeded
from sparring.attacks import L2, PGD, Linf
from sparring.data import load_dataset
from sparring.errors import ConfigError
from sparring.evaluation import certificate, certified
from sparring.evaluation import certificates as module
from sparring.training import train
from training.small_runs import small


def test_of_a_linear_model_all_is_certified_that_is_robust():
    network = drawn(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), 3)
    images = torch.rand(400, 1, 6, 6, generator=seeded(2)) * 0.5 + 0.25
    labels = network(images).argmax(1)
    weight = network.state_dict()["1.weight"].double()
    logits = network(images).double()
    lead = (logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None]))[:, 0]
    lost = 0.02 * (weight[0] - weight[1]).abs().sum()
    found = certified(network, images, labels, Linf(eps=0.02))
    assert 50 < found.successes < 350
    assert abs(found.successes - int((lead > lost).sum())) <= 1


def opened() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images, and the labels that it gives them."""
    network = drawn(KINDS[0](), 0)
    images = torch.rand(60, 2, 6, 6, generator=seeded(2))
    return network, images, network(images).argmax(1)


@pytest.mark.parametrize("threat", [Linf(eps=0.01), L2(eps=0.02)])
def test_each_stage_proves_more_and_no_attack_gets_past_it(threat):
    network, images, labels = opened()
    found = certificate(network, images, labels, threat)
    assert not found.unfinished.any()
    assert (found.by_intervals <= found.proved).all()
    assert found.by_intervals.sum() < found.proved.sum()
    attack = PGD(threat=threat, steps=20)
    broken = network(attack(network, images, labels, generator=seeded())).argmax(1) != labels
    assert broken.any()
    assert not (broken & found.proved).any()


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        ({"passes": 0}, None),
        ({"passes": 20}, None),
        ({"seconds": 0.0}, None),
        ({}, "FRUITLESS"),
        ({}, "MEMORY"),
    ],
)
def test_what_the_budget_leaves_open_is_not_proved_and_said(budget, named, monkeypatch):
    network, images, labels = opened()
    whole = certificate(network, images, labels, Linf(eps=0.01))
    if named:
        monkeypatch.setattr(module, named, 0 if named == "FRUITLESS" else 1)
    found = certificate(network, images, labels, Linf(eps=0.01), **budget)
    assert (found.proved <= whole.proved).all()
    assert (found.by_intervals == whole.by_intervals).all()
    if named == "MEMORY":  # which changes the batches, and nothing else
        assert (found.proved == whole.proved).all()
        return
    assert (found.unfinished >= whole.proved & ~found.proved).all()
    assert f"budget ended before {int(found.unfinished.sum())} were bounded in full" in str(found)
    assert "budget" not in str(whole)


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


class Maps(nn.Module):
    """A layer of maps for images without their channel."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.view(-1, 2, 2)).flatten(1).relu()


class OtherType(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images.flatten(1).view(torch.float32))


CIRCULAR = nn.Conv2d(1, 1, 1, padding_mode="circular")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(4, 2)), "none is known for GELU"),
        (nn.Sequential(CIRCULAR, nn.Flatten()), "padding mode circular"),
        (Branching(), "cannot be traced"),
        (Maps(nn.MaxPool2d(2, stride=1, padding=1)), "max-pooling of 2 dimensions for each image"),
        (OtherType(), "none is known for view with these arguments"),
        (Doubled(), "none is known for add"),
        (InPlace(), "computes what its trace shows"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half(), "weights in torch.float16"),
    ],
)
def test_what_has_no_bound_is_refused(network, message):
    images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(ConfigError, match=message):
        certified(network, images, labels, Linf(eps=0.1))


@pytest.mark.parametrize(("built", "on", "expected"), [(True, True, False), (False, True, True)])
def test_nnpack_convolves_where_onednn_is_not_built_in_or_off(built, on, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
    monkeypatch.setattr(torch._C, "_get_mkldnn_enabled", lambda: on)
    assert module._has_nnpack() is expected
