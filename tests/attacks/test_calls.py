"""Attacks made and called as people do it elsewhere: ε first, no generator, targets, arrays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square
from sparring.errors import ConfigError
from sparring.records import from_json, to_json

KINDS = [PGD, APGD, FAB, Square]
EPS = 8 / 255


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int = 5, pixels: int = 12) -> nn.Linear:
    model = nn.Linear(pixels, classes).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(model.weight.shape, generator=seeded(1)))
    return model


def images(count: int = 8, pixels: int = 12) -> Tensor:
    """So far inside the pixel range that no ball of the tests meets its ends."""
    return 0.4 + 0.2 * torch.rand(count, pixels, generator=seeded(2), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_threat_comes_first_and_eps_stands_for_linf(kind: Any) -> None:
    assert kind(Linf(EPS)) == kind(eps=EPS) == kind(threat=Linf(eps=EPS))
    assert kind(L2(0.5)).threat == L2(0.5)
    assert kind(eps=EPS).at(0.1) == kind(Linf(0.1))
    assert replace(kind(eps=EPS), threat=L2(1.0)).threat == L2(1.0)
    with pytest.raises(ConfigError, match="not both"):
        kind(L2(0.5), eps=EPS)
    with pytest.raises(ConfigError, match=r"got 0\.1\. Pass Linf\(0\.1\) or L2\(0\.1\)\."):
        kind(0.1)


def test_the_stored_form_has_the_threat_and_no_eps() -> None:
    attack = PGD(eps=0.25, steps=10)
    stored = to_json(attack)
    assert stored["threat"] == {"kind": "Linf", "eps": 0.25}
    assert "eps" not in stored
    assert from_json(PGD, stored) == attack


@pytest.mark.parametrize("attack", [PGD(eps=0.1, steps=3), APGD(eps=0.1, steps=3)], ids=str)
def test_without_a_generator_torchs_seed_decides_and_one_number_is_drawn(attack: Any) -> None:
    model, x = linear(), images()
    labels = model(x).argmax(1)
    torch.manual_seed(5)
    first, second = attack(model, x, labels), attack(model, x, labels)
    after = torch.rand(())
    torch.manual_seed(5)
    seeds = [int(torch.randint(2**62, ())) for _ in range(2)]
    assert torch.rand(()) == after
    for found, seed in zip((first, second), seeds, strict=True):
        assert torch.equal(found, attack(model, x, labels, generator=seeded(seed)))


def test_arrays_are_images_and_labels() -> None:
    model, x = linear(), images()
    labels = model(x).argmax(1)
    for attack in (PGD(eps=0.1, steps=3), APGD(eps=0.1, steps=3)):
        tensors = attack(model, x, labels, targets=labels.flip(0), generator=seeded())
        arrays = (value.numpy() for value in (x, labels, labels.flip(0)))
        x_array, labels_array, targets = arrays
        found = attack(model, x_array, labels_array, targets=targets, generator=seeded())
        assert torch.equal(found, tensors)
    wide, short = x.double().numpy(), labels.numpy().astype(np.int32)
    exact = PGD(eps=0.1, steps=3)(model, x, labels, generator=seeded())
    assert torch.equal(PGD(eps=0.1, steps=3)(model, wide, short, generator=seeded()), exact)
    with pytest.raises(ConfigError, match="Divide 8-bit images by 255"):
        PGD()(model, (255 * x).numpy().astype(np.uint8), labels)


@pytest.mark.parametrize("loss", ["margin", "cross-entropy"])
def test_of_two_classes_the_targeted_steps_end_in_the_corner_that_favours_the_target(
    loss: Any,
) -> None:
    model, x = linear(classes=2), images()
    targets = torch.arange(len(x)) % 2
    attack = PGD(eps=0.1, steps=20, step_size=0.1, loss=loss)
    found = attack(model, x, 1 - targets, targets=targets, generator=seeded())
    way = (model.weight[targets] - model.weight[1 - targets]).sign().detach()
    assert torch.allclose(found, x + 0.1 * way, atol=1e-12)


@pytest.mark.parametrize("threat", [Linf(0.15), L2(0.4)], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda threat: PGD(threat, steps=20),
        lambda threat: PGD(threat, steps=20, restarts=2, loss="margin"),
        lambda threat: APGD(threat, steps=20),
        lambda threat: FAB(threat, steps=20),
    ],
    ids=["pgd", "pgd with restarts", "apgd", "fab"],
)
def test_a_targeted_attack_gets_nearer_to_its_target_within_the_ball(make, threat) -> None:
    model, x = linear(), images(16)
    ranking = model(x).argsort(1, descending=True)
    labels, targets = ranking[:, 0], ranking[:, 1]
    found = make(threat)(model, x, labels, targets=targets, generator=seeded())
    assert float(threat.distance(found, x).max()) <= threat.eps * (1 + 1e-5)
    before, after = (model(value).log_softmax(1)[range(16), targets] for value in (x, found))
    assert bool((after > before).all())
    assert bool((model(found).argmax(1) == targets).any())


def test_targets_are_classes_one_for_each_image() -> None:
    model, x = linear(), images()
    labels = model(x).argmax(1)
    for targets in (labels[:3], labels.double(), labels - 9):
        with pytest.raises(ConfigError, match=r"targets must be class indices"):
            PGD(eps=0.1)(model, x, labels, targets=targets)
    with pytest.raises(ConfigError, match="at least 10 classes"):
        PGD(eps=0.1)(model, x, labels, targets=torch.full_like(labels, 9))
    with pytest.raises(ConfigError, match="targets need one of the losses"):
        PGD(eps=0.1, loss="kl")(model, x, labels, targets=labels)
    with pytest.raises(ConfigError, match="Square has no targeted form"):
        Square(eps=0.1)(model, x.view(8, 1, 3, 4).flatten(1), labels, targets=labels)
