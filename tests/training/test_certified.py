"""Training by bounds: its loss against closed forms and finite differences, and its refusals."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bounds.networks import drawn, seeded
from sparring.attacks import L2, PGD, AttackedBatch, Linf
from sparring.errors import ConfigError
from sparring.evaluation import certificate
from sparring.loader import Asynchronous, Fresh
from sparring.models import StridedNetwork
from sparring.training import Certified, WarmUp, presets, train
from sparring.training.objectives import CertifiedLoss
from training.own_nets import Own
from training.small_runs import Watching, small

STEPLESS = PGD(threat=Linf(eps=0.3), steps=0, start="none")
CERTIFIED = small(objective=Certified(), attack=STEPLESS, eps_schedule=WarmUp(share=0.5))


def convolutional(seed: int = 0) -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3, 2), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten()]
    return drawn(nn.Sequential(*layers, nn.Linear(4, 3)), seed).double()


def batch_of(eps: float, moved: float = 0.0) -> AttackedBatch:
    images = torch.rand(6, 1, 6, 6, generator=seeded(), dtype=torch.float64)
    return AttackedBatch(
        number=0,
        images=images,
        adversarial=(images + moved).clamp_max(1),
        labels=torch.arange(6) % 3,
        indices=torch.arange(6),
        version=0,
        eps=eps,
        attack_seconds=0.0,
    )


def loss(network: nn.Module, batch: AttackedBatch, weight: float = 0.0) -> Tensor:
    objective = Certified(attacked_weight=weight)
    return CertifiedLoss(objective, network, torch.float64)(network, batch).value


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_without_eps_it_is_the_natural_loss_and_above_it_is_never_less(weight: float) -> None:
    network = convolutional()
    images, labels = (batch := batch_of(0.0)).images, batch.labels
    natural = cross_entropy(network(images), labels)
    assert loss(network, batch, weight).item() == pytest.approx(natural.item(), rel=1e-8)
    growing = [loss(network, batch_of(eps), weight).item() for eps in (0.0, 0.02, 0.1, 0.3)]
    assert growing == sorted(growing)


def test_it_is_a_weighted_mean_with_the_loss_of_adversarial_images() -> None:
    network, batch = convolutional(), batch_of(0.1, moved=0.05)
    attacked = cross_entropy(network(batch.adversarial), batch.labels)
    expected = 0.25 * attacked + 0.75 * loss(network, batch)
    assert loss(network, batch, 0.25).item() == pytest.approx(expected.item(), rel=1e-8)


def test_its_gradient_is_that_of_finite_differences() -> None:
    for seed in range(3):
        network, batch = convolutional(seed), batch_of(0.05)
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss(network, batch), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            way = torch.randn(parameter.shape, generator=seeded(seed), dtype=torch.float64)
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.add_(step * way)
                    ends.append(loss(network, batch).item())
                    parameter.sub_(step * way)
            slope = (ends[0] - ends[1]) / 2e-6
            assert slope == pytest.approx((gradient * way).sum().item(), rel=1e-4, abs=1e-7)


def test_what_counts_as_right_in_training_is_certified_up_to_its_arithmetic() -> None:
    network = convolutional().float()
    batch = replace(batch_of(0.02), images=batch_of(0.02).images.float())
    right = CertifiedLoss(Certified(), network, torch.float32)(network, batch).correct
    proved = certificate(network, batch.images, batch.labels, Linf(eps=0.02), passes=0).proved
    assert 0 < int(right.sum()) < len(right)
    assert right.tolist() == proved.tolist()


def test_training_raises_what_is_certified_and_validation_shows_it(tmp_path) -> None:
    validation = replace(CERTIFIED.validation, every=40, images=100, steps=5)
    watching = Watching()
    attack = replace(STEPLESS, threat=Linf(eps=0.05))
    config = replace(
        CERTIFIED,
        updates=80,
        batch_size=64,
        attack=attack,
        threat=attack.threat,
        validation=validation,
    )
    train(config, tmp_path / "run", sinks=[watching])
    shares = []
    for each in watching.validations:
        assert each.certified_accuracy is not None
        assert each.certified_accuracy <= each.robust_accuracy <= each.natural_accuracy
        shares.append(each.certified_accuracy)
    assert shares[1] > shares[0] > 0


def test_workers_without_attack_steps_are_noticed(tmp_path) -> None:
    watching = Watching()
    train(replace(CERTIFIED, source=Asynchronous(workers=0)), tmp_path / "run", sinks=[watching])
    assert any("its workers have nothing to do" in notice for notice in watching.notices)


def test_running_statistics_move_though_bounds_use_them() -> None:
    network = Own()
    before = network.state_dict()["features.1.running_mean"].clone()
    image = torch.rand(6, 1, 28, 28, generator=seeded())
    batch = replace(batch_of(0.1), images=image, adversarial=image)
    value = CertifiedLoss(Certified(), network.train(), torch.float32)(network, batch).value
    assert not torch.equal(network.state_dict()["features.1.running_mean"], before)
    value.backward()
    assert all(weight.grad is not None for weight in network.parameters())


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.curve, self.last = nn.Linear(784, 8), nn.GELU(), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.curve(self.first(images.flatten(1))))


def test_a_network_without_known_bounds_is_refused_before_the_run_with_its_layer(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"objective certified: .* none is known for GELU curve"):
        train(CERTIFIED, tmp_path / "run", network=Smooth())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threat": L2(eps=1.0), "attack": PGD(threat=L2(eps=1.0), steps=0)}, "got L2"),
        ({"attack": PGD(steps=2)}, "got 2 attack steps and weight 0"),
    ],
)
def test_settings_that_contradict_it_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CERTIFIED, **changes)
    with pytest.raises(ConfigError, match=r"attacked_weight must lie in \[0, 1\)"):
        Certified(attacked_weight=1.0)


def test_asked_for_by_name_it_takes_the_attack_away_unless_steps_are_named() -> None:
    config = presets.fast(objective="certified")
    assert (config.pgd.steps, config.pgd.start, config.early_steps) == (0, "none", ())
    assert config.source == Fresh()
    asked = presets.fast(objective="certified", workers=1, source="async")
    assert isinstance(asked.source, Asynchronous)
    assert asked.pgd.steps == 0
    mixed = presets.fast(objective=Certified(attacked_weight=0.3), steps=1, source="async")
    assert mixed.pgd.steps == 1
    assert isinstance(mixed.source, Asynchronous)


def test_the_preset_scales_with_eps_and_its_network_saturates_there() -> None:
    config = presets.certified(eps=0.1)
    assert config.threat == Linf(0.1)
    assert config.pgd.threat.eps == pytest.approx(0.1)
    assert (config.objective, config.pgd.steps) == (presets.certified().objective, 0)


@pytest.mark.parametrize(
    ("changes", "saturation"),
    [
        ({}, 0.3),
        ({"eps": 0.1}, 0.1),
        ({"eps": 0.6}, 0.0),
        ({"eps": 0.1, "set": ["model.filters=8"]}, 0.1),
        ({"eps": 0.1, "model": "strided", "model_args": ["filters=8"]}, 0.1),
        ({"set": ["model.saturation=0"]}, 0.0),
        ({"model": "strided", "model_args": ["saturation=0.2"]}, 0.2),
        ({"model": StridedNetwork()}, 0.0),
    ],
)
def test_the_network_of_the_preset_saturates_at_eps_unless_told_otherwise(
    changes: dict[str, Any], saturation: float
) -> None:
    assert cast(StridedNetwork, presets.certified(**changes).model).saturation == saturation
