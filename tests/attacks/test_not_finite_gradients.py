"""NaN or infinity in a gradient stops its own pixel only, whatever follows it, and is flagged."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import APGD, FAB, L2, PGD, Attack, Crafter, Linf, Recipe, Threat, fgsm
from sparring.data import ImageSet
from sparring.evaluation import evaluate
from sparring.models import working_copy

LINF, L2_BALL = Linf(eps=0.1), L2(eps=0.6)
ODD = (torch.nan, torch.inf, -torch.inf)


class Spoiled(torch.autograd.Function):
    """The identity, with other numbers at some places of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(places, values)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        places, values = ctx.saved_tensors
        return torch.where(places, values.to(gradients[0].dtype), gradients[0]), None, None


class Spoiling(nn.Module):
    """A random network; `values` stand in its gradient where `places` says so [1, *S]."""

    def __init__(self, seed: int, *, odd: bool) -> None:
        super().__init__()
        drawn = Generator().manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 5))
        for value in self.layers.state_dict().values():
            value.normal_(0, 0.5, generator=drawn)
        self.places = torch.rand(1, 1, 6, 6, generator=drawn) < 0.3
        kinds = torch.randint(3, self.places.shape, generator=drawn)
        self.values = torch.tensor(ODD)[kinds] if odd else torch.zeros(self.places.shape)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(Spoiled.apply(images, self.places, self.values))


def images_for(seed: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(12, 1, 6, 6, generator=Generator().manual_seed(100 + seed))
    return images, Spoiling(seed, odd=False)(images).argmax(1)


def attacks_on(threat: Threat) -> list[Attack]:
    return [
        *(
            PGD(threat=threat, steps=5, start="none", loss=loss)
            for loss in ("cross-entropy", "margin", "dlr")
        ),
        PGD(threat=threat, steps=5, loss="kl", restarts=2),
        fgsm(threat),
        APGD(threat=threat, steps=10),
        APGD(threat=threat, steps=10, loss="dlr"),
        APGD(threat=threat, steps=10, targets=2),
        FAB(threat=threat, steps=10, targets=2),
    ]


@pytest.mark.parametrize("threat", [LINF, L2_BALL])
@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("seed", range(4))
def test_an_attack_does_as_well_as_where_such_numbers_are_zero(seed, number, threat):
    attack: Any = attacks_on(threat)[number]
    images, labels = images_for(seed)
    odd, zero = (
        attack(Spoiling(seed, odd=kind), images, labels, generator=Generator().manual_seed(1))
        for kind in (True, False)
    )
    assert torch.equal(odd, zero)
    moved = (odd != images) & ~Spoiling(seed, odd=True).places
    network = Spoiling(seed, odd=False)
    searched = network(images).argmax(1) == labels
    assert moved.flatten(1).any(1)[searched].all()


@pytest.mark.parametrize("threat", [LINF, L2_BALL])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_does_the_attack_of_training_in_either_precision(precision, threat):
    network = Spoiling(0, odd=True)
    images, labels = images_for(0)
    stored = ImageSet(pixels=(images * 255).to(torch.uint8), labels=labels, num_classes=5)
    attack = PGD(threat=threat, steps=2, start="none")
    recipe = Recipe(attack=attack, batch_size=12, updates=1, seed=1)
    crafter = Crafter(recipe, stored, torch.device("cpu"))
    images, labels = stored.batch(torch.arange(12))
    clean = replace(crafter.clean(0), images=images, adversarial=images, labels=labels)
    batch = crafter.craft(clean, working_copy(network, precision).attacked, version=0)
    moved = (batch.adversarial != batch.images) & ~network.places
    assert moved.flatten(1).any(1).all()
    assert batch.adversarial.isfinite().all()


class Root(nn.Module):
    """The slope of the root is infinite at black pixels; where() multiplies it by 0, to NaN."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.safe = safe
        self.layer = nn.Linear(36, 5)
        for value in self.layer.state_dict().values():
            value.normal_(0, 0.5, generator=Generator().manual_seed(4))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        root = (x + 1e-12).sqrt() if self.safe else x.sqrt().where(x > 0, torch.zeros_like(x))
        return self.layer(root)


def half_black(count: int = 40) -> Tensor:
    drawn = Generator().manual_seed(5)
    return torch.rand(count, 1, 6, 6, generator=drawn) * (
        torch.rand(count, 1, 6, 6, generator=drawn) < 0.5
    )


@pytest.mark.parametrize("threat", [Linf(eps=0.01), L2(eps=0.05)])
def test_the_check_counts_what_is_not_finite_for_each_loss(threat):
    images = half_black()
    labels = Root(safe=True)(images).argmax(1)
    found = evaluate(Root(safe=False), images, labels, threat).evaluation
    (flag,) = [flag for flag in found.flags if flag.check == "vanishing gradients"]
    assert "NaN or infinity in 100.0% of the images" in flag.sentence
    assert [(reading.what.split()[-1], reading.value) for reading in flag.evidence[2:]] == [
        ("cross-entropy", 1.0),
        ("margin", 1.0),
    ]
    safe = evaluate(Root(safe=True), images, labels, threat).evaluation
    assert "vanishing gradients" not in {flag.check for flag in safe.flags}


def test_one_image_of_many_is_enough_to_be_flagged():
    images = half_black().clamp_min(0.3)
    images[7, 0, 2, 2] = 0
    labels = Root(safe=True)(images).argmax(1)
    found = evaluate(Root(safe=False), images, labels, Linf(eps=0.01)).evaluation
    assert "vanishing gradients" in {flag.check for flag in found.flags}
