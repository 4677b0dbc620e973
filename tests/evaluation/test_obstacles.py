"""What a suite cannot do is said before its first attack, with advice that can be followed."""

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import L2, PGD, Linf, Square
from sparring.errors import ConfigError
from sparring.evaluation import SUITES, evaluate
from sparring.evaluation import suites as known

THREATS = (Linf(eps=0.03), L2(eps=0.1))
SHAPES = ((8,), (3, 4), (2, 3, 4), (1, 1, 1), (1, 5, 1), (2, 2, 3, 4))


class Shaped(nn.Module):
    """A network that takes images of one shape only, and counts its passes with a gradient."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3) -> None:
        super().__init__()
        self.shape, self.asked = shape, 0
        self.layer = nn.Linear(int(torch.tensor(shape).prod()), classes)
        for value in self.layer.state_dict().values():
            value.normal_(generator=Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        assert tuple(images.shape[1:]) == self.shape
        self.asked += images.requires_grad
        return self.layer(images.reshape(len(images), -1))


def batch(model: Shaped) -> tuple[Tensor, Tensor]:
    images = torch.rand(4, *model.shape, generator=Generator().manual_seed(1))
    return images, model(images).argmax(1)


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_judges_images_of_a_shape_or_says_at_once_how_it_would(suite, shape, threat):
    model = Shaped(shape)
    images, labels = batch(model)
    if suite != "standard" or len(shape) == 3:
        if suite != "standard":
            evaluate(model, images, labels, threat, suite=suite, checks=False)
        assert SUITES[suite].obstacle(shape, 3) is None
        return
    with pytest.raises(ConfigError, match="suite standard cannot judge these images") as refused:
        evaluate(model, images, labels, threat, suite=suite)
    assert model.asked == 0
    advice = str(refused.value)
    assert "Take suite pgd or pgd-40 or pgd-100x5" in advice
    given, wrapped = advice.partition("give them as ")[2].split(" to ")
    names = {"torch": torch, "images": images, "model": model}
    reshaped = eval(given, names)
    network = eval(wrapped.partition(". Take")[0], names)
    assert torch.equal(network(reshaped), model(images))
    assert SUITES[suite].obstacle(tuple(reshaped.shape[1:]), 3) is None


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 3])
def test_square_searches_images_of_any_size(shape, threat):
    model = Shaped(shape)
    images, labels = batch(model)
    attack = Square(threat=threat, queries=20)
    found = attack(model, images, labels, generator=Generator().manual_seed(0))
    assert (threat.distance(found, images) <= threat.eps + 1e-6).all()


def test_a_loss_that_needs_more_classes_is_named_before_the_attacks_before_it(monkeypatch):
    suite = known.Suite(name="both", summary="", attacks=(PGD(), PGD(loss="dlr")))
    monkeypatch.setattr(known, "SUITES", {"both": suite})
    model = Shaped((1, 4, 4), classes=2)
    with pytest.raises(ConfigError, match="its loss dlr needs 3 classes, and there are 2"):
        evaluate(model, *batch(model), Linf(eps=0.1), suite="both")
    assert model.asked == 0


def test_square_by_itself_says_so_too():
    model = Shaped((8,))
    with pytest.raises(
        ConfigError, match=r"square-9 cannot search .* images.reshape\(-1, 1, 1, 8\)"
    ):
        Square(queries=9)(model, *batch(model), generator=Generator())
