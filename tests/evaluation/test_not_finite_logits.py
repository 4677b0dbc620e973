"""Logits that are not finite are an error that says how many and which, and never a prediction."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square
from sparring.errors import CheckpointError, ConfigError, NonFiniteLogits
from sparring.evaluation import SUITES, Judge, certified, evaluate, slice_accuracy, transfer
from sparring.exporting.formats import difference
from sparring.models import load_weights, save_weights
from sparring.prediction.predict import _Asked

THREAT = Linf(eps=0.1)
ODD = (torch.nan, torch.inf, -torch.inf)


class Failing(nn.Module):
    """A linear network with one odd logit for images whose brightest pixel is above `limit`."""

    def __init__(self, value: float, limit: float) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        for weight in self.layer.state_dict().values():
            weight.normal_(0, 0.5, generator=Generator().manual_seed(1))
        self.value, self.limit = value, limit

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        odd = torch.full_like(logits[:, :1], self.value)
        last = torch.where(images.flatten(1).amax(1, keepdim=True) > self.limit, odd, logits[:, 3:])
        return torch.cat([logits[:, :3], last], 1)


def batch(count: int = 200, bright: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Images up to 0.5, and some with a pixel of 0.9; labels that the sound network gives."""
    images = torch.rand(count, 1, 4, 4, generator=Generator().manual_seed(2)) * 0.5
    labels = Failing(0.0, 1.0)(images).argmax(1)
    images[list(bright), 0, 0, 0] = 0.9
    return images, labels


WAYS: dict[str, Callable[..., object]] = {
    **{
        f"evaluate {suite}": lambda m, x, y, suite=suite: evaluate(m, x, y, THREAT, suite=suite)
        for suite in SUITES
    },
    "a function": lambda m, x, y: evaluate(lambda images: m(images), x, y, THREAT),
    "judge": lambda m, x, y: Judge(
        model=m, labels=y, threat=THREAT, device=torch.device("cpu")
    ).predictions(x),
    "transfer": lambda m, x, y: transfer({"one": m, "two": Failing(0.0, 1.0)}, x, y, THREAT),
    "slice accuracy": lambda m, x, y: slice_accuracy(m, x, y, PGD(threat=THREAT), seed=0),
}


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("way", WAYS)
def test_clean_images_are_counted_over_the_whole_set_and_the_first_is_named(way, value):
    images, labels = batch(bright=(150, 160, 199))
    with pytest.raises(NonFiniteLogits, match=r"of 3 of 200 images .* image 150 ") as refused:
        WAYS[way](Failing(value, 0.8), images, labels)
    assert refused.value.rows == (150, 160, 199)
    assert isinstance(refused.value, ConfigError)
    assert refused.value.exit_code == 2


SEARCHES = {
    "pgd": PGD(threat=THREAT, steps=4),
    "pgd with restarts": PGD(threat=THREAT, steps=4, restarts=2),
    "kl": PGD(threat=THREAT, steps=4, loss="kl"),
    "apgd": APGD(threat=THREAT, steps=6),
    "targeted": APGD(threat=THREAT, steps=6, targets=2),
    "fab": FAB(threat=THREAT, steps=6, targets=2),
    "square": Square(threat=THREAT, queries=20),
    "pgd in L2": PGD(threat=L2(eps=1), steps=4),
}


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", SEARCHES)
def test_an_attack_that_meets_them_says_so(name, value):
    """All clean images are sound; what lies around them is not."""
    attack: Any = SEARCHES[name]
    images, _ = batch(10)
    images += 0.45 - images.amax((1, 2, 3), keepdim=True)
    images.clamp_(0, 1)
    labels = Failing(0.0, 1.0)(images).argmax(1)
    with pytest.raises(NonFiniteLogits, match=r"NaN or infinite"):
        attack(Failing(value, 0.4505), images, labels, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("suite", SUITES)
def test_in_an_evaluation_it_is_named_by_its_place_in_the_set(suite):
    images, labels = batch(300)
    images = images.clamp_max(0.35)
    images[210, 0, :2] = 0.5
    labels = Failing(0.0, 1.0)(images).argmax(1)
    with pytest.raises(NonFiniteLogits, match=r"of 1 of .* images under attack .* image 210 "):
        evaluate(Failing(torch.nan, 0.5001), images, labels, THREAT, suite=suite, checks=False)


@pytest.mark.parametrize("attack", [False, True])
@pytest.mark.parametrize("value", ODD)
def test_a_prediction_names_the_file(value, attack):
    images, _ = batch(4, bright=(2,))
    network = Failing(value, 0.8)
    asked = _Asked(network, ("a", "b", "c", "d"), THREAT, attack=attack, seed=0)
    with pytest.raises(NonFiniteLogits, match=r"of 1 of 4 images .* first those of c.png\."):
        asked.answers(images, ["a.png", "b.png", "c.png", "d.png"], None)


@pytest.mark.parametrize("value", ODD)
def test_neither_certificates_nor_exports_pass_over_them(value):
    images, labels = batch(6, bright=(2,))
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        network.get_parameter("1.bias")[1] = value
    with pytest.raises(ConfigError):
        certified(network, images, labels, THREAT)
    with pytest.raises(NonFiniteLogits, match="of 6 of 6 images"):
        difference(network, network, images)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.weight"])
def test_weights_that_are_not_finite_are_refused_when_they_are_read(name, value, tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3))
    network.state_dict()[name].flatten()[1] = value
    save_weights(network.state_dict(), tmp_path / "weights.safetensors")
    fresh = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3))
    before = {key: weight.clone() for key, weight in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"1 weights that are NaN or infinite.*{name}"):
        load_weights(fresh, tmp_path / "weights.safetensors")
    assert all(torch.equal(before[key], weight) for key, weight in fresh.state_dict().items())


def test_an_infinity_that_the_network_is_built_with_is_its_own(tmp_path):
    """As the mask of an attention."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    save_weights(Masked().state_dict(), tmp_path / "weights.safetensors")
    load_weights(Masked(), tmp_path / "weights.safetensors")
