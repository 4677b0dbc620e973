"""What no attack could mean is refused, in a sentence that names what came."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square
from sparring.attacks.losses import targeted_ratio
from sparring.errors import ConfigError

MODEL = nn.Linear(6, 3)
LABELS = torch.tensor([0, 1])


def attack(model: Any = MODEL, images: Tensor | None = None, labels: Tensor = LABELS, **settings):
    images = torch.full((len(labels), 6), 0.5) if images is None else images
    return PGD(**settings)(model, images, labels, generator=Generator().manual_seed(0))


def refused(*fragments: str):
    """A `ConfigError` whose message holds the fragments in this order."""
    return pytest.raises(ConfigError, match="(?s)" + ".*".join(re.escape(f) for f in fragments))


@pytest.mark.parametrize(
    ("images", "fragments"),
    [
        (torch.zeros(2, 6, dtype=torch.uint8), ["torch.uint8 of shape (2, 6)", "by 255"]),
        (torch.zeros(2, 6, dtype=torch.int64), ["torch.int64 of shape (2, 6)", "by 255"]),
        (torch.zeros(2, 6, dtype=torch.float16), ["float32 or float64", "torch.float16", "inside"]),
        (torch.zeros(2, 6, dtype=torch.bfloat16), ["torch.bfloat16", "images.float()"]),
        (torch.zeros(2), ["torch.float32 of shape (2,)"]),
        (torch.full((2, 6), 128.0), ["[0, 1]", "values from 128 to 128", "by 255"]),
        (torch.tensor([[0.5] * 6, [0.5] * 5 + [1.0001]]), ["values from 0.5 to 1.0001"]),
        (torch.tensor([[-2.5] + [0.5] * 5, [0.5] * 6]), ["values from -2.5 to 0.5"]),
        (torch.tensor([[math.nan] + [0.5] * 5, [0.5] * 6]), ["[0, 1]", "got NaN"]),
        (torch.tensor([[math.inf] + [0.5] * 5, [0.5] * 6]), ["values from 0.5 to inf"]),
    ],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_images_are_floats_with_pixels_in_the_unit_interval(images, fragments, steps):
    with refused("must", *fragments):
        attack(images=images, steps=steps)


@pytest.mark.parametrize(
    ("labels", "fragments"),
    [
        (torch.tensor([0, 1, 2]), ["of shape (2,)", "torch.int64 of shape (3,)"]),
        (torch.tensor([[0, 1]]), ["torch.int64 of shape (1, 2)"]),
        (torch.tensor(1), ["torch.int64 of shape ()"]),
        (torch.tensor([0, 1], dtype=torch.int32), ["int64", "torch.int32"]),
        (torch.tensor([0.0, 1.0]), ["torch.float32 of shape (2,)"]),
        (torch.tensor([0, -1]), ["0 or more", "got -1"]),
    ],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_labels_are_one_class_index_per_image(labels, fragments, steps):
    with refused("labels must be", *fragments):
        attack(images=torch.full((2, 6), 0.5), labels=labels, steps=steps)


@pytest.mark.parametrize(
    ("model", "fragments"),
    [
        (lambda x: x.sum(1), ["shape (2, classes)", "got (2,)"]),
        (lambda x: x[:1], ["shape (2, classes)", "got (1, 6)"]),
        (lambda x: x[:, :, None], ["got (2, 6, 1)"]),
        (lambda x: (x, x), ["got tuple"]),
        (lambda x: None, ["got NoneType"]),
        (lambda x: x[:, :1], ["at least 2 classes", "got 1"]),
    ],
)
@pytest.mark.parametrize("settings", [{"steps": 2}, {"steps": 0, "restarts": 2}])
def test_a_model_returns_a_row_of_logits_for_each_image(model, fragments, settings):
    with refused("the model must return", *fragments):
        attack(model, **settings)


def test_every_label_has_its_logit():
    with refused("at least 8 classes", "labels or targets", "got 3"):
        attack(labels=torch.tensor([0, 7]))


@pytest.mark.parametrize(
    "model",
    [
        lambda x: MODEL(x).detach(),
        lambda x: MODEL(x.detach()),
        lambda x: nn.functional.one_hot((x * 2).long().amax(1), 3).float(),
        torch.no_grad()(MODEL.forward),
    ],
    ids=["detached logits", "detached images", "rounded", "no_grad"],
)
def test_a_model_without_a_gradient_is_refused(model):
    with refused("depend on the images", "got logits without a gradient", "detach()"):
        attack(model)


def test_the_logit_ratio_needs_three_classes():
    with refused("at least 3 classes", "got 2"):
        attack(nn.Linear(6, 2), loss="dlr")


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"steps": -1}, ["steps must be 0 or more", "got -1"]),
        ({"step_size": 0.0}, ["step_size must be", "above 0", "got 0"]),
        ({"step_size": -0.1}, ["got -0.1"]),
        ({"step_size": math.inf}, ["finite", "got inf"]),
        ({"step_size": math.nan}, ["got nan"]),
        ({"restarts": 0}, ["restarts must be 1 or more", "got 0"]),
        ({"restarts": 2, "start": "none"}, ["without a random start", "got 2", "uniform"]),
    ],
)
def test_a_setting_that_cannot_mean_anything_is_refused(settings, fragments):
    with refused(*fragments):
        PGD(**settings)


@pytest.mark.parametrize(
    ("name", "value", "fragments"),
    [
        ("start", "unifrom", ["start must be one of uniform, corner, none", "mean uniform?"]),
        ("loss", "cw", ["loss must be one of cross-entropy, margin, dlr", '"cw"']),
    ],
)
def test_an_unknown_choice_is_refused(name, value, fragments):
    attack = PGD()
    object.__setattr__(attack, name, value)  # the tests' type checks refuse it in the constructor
    with refused(*fragments):
        attack.__post_init__(None)


@pytest.mark.parametrize("threat", [Linf, L2])
@pytest.mark.parametrize("eps", [0.0, -0.1, math.nan, math.inf])
def test_a_threat_has_a_size(threat, eps):
    with refused("eps must", f"got {eps:g}"):
        threat(eps=eps)


@pytest.mark.parametrize(
    ("kind", "settings", "fragments"),
    [
        (APGD, {"steps": 0}, ["steps must be 1 or more", "got 0"]),
        (APGD, {"restarts": 0}, ["restarts must be 1 or more"]),
        (APGD, {"targets": -1}, ["targets must be 0 or more", "got -1"]),
        (FAB, {"targets": 0}, ["targets must be 1 or more"]),
        (FAB, {"steps": 0}, ["steps must be 1 or more"]),
        (Square, {"queries": 0}, ["queries must be 1 or more"]),
        (Square, {"share": 1.5}, ["share must lie in (0, 1]", "got 1.5"]),
    ],
)
def test_the_ensembles_settings_have_their_ranges(kind, settings, fragments):
    with refused(*fragments):
        kind(**settings)


def test_the_ensemble_needs_gradients_squares_and_known_losses():
    images, labels = torch.rand(3, 1, 2, 3), torch.zeros(3, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)

    def rounding(x: Tensor) -> Tensor:
        return torch.stack([x.detach().flatten(1).sum(1) + 9, x.detach().flatten(1).sum(1)], 1)

    for kind in (APGD(steps=2), FAB(steps=2)):
        with refused("must depend on the images through differentiable operations"):
            kind(rounding, images, labels, generator=generator)
    with refused("squares of images of shape (batch, channels, height, width)", "(batch, 6)"):
        Square(queries=2)(rounding, images.flatten(1), labels, generator=generator)
    wrong = APGD()
    object.__setattr__(wrong, "loss", "margin")  # the tests' type checks refuse it otherwise
    with refused("loss must be one of cross-entropy, dlr", '"margin"'):
        wrong.__post_init__(None)
    with refused("at least 4 classes", "got 3"):
        targeted_ratio(torch.rand(2, 3), torch.tensor([0, 1]), torch.tensor([1, 2]))


class Broken(torch.autograd.Function):
    """Fails in the backward pass."""

    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        raise OSError("no file")


class OwnError(Exception):
    """Derived from `Exception` alone."""


@pytest.mark.parametrize("error", [OwnError, OSError, NameError, StopIteration, EOFError])
def test_whatever_a_network_raises_is_one_clear_error(error: type[Exception]):
    def model(images: Tensor) -> Tensor:
        raise error("no file")

    with refused("the function failed", error.__name__, "no file", "2 images of shape (6,)"):
        attack(model)
    with refused("the function failed", "OSError: no file", "2 images of shape (6,)"):
        attack(lambda images: MODEL(Broken.apply(images)))


def test_a_lack_of_memory_and_a_stop_are_no_fault_of_the_network():
    for error in (MemoryError, torch.OutOfMemoryError, KeyboardInterrupt):

        def model(images: Tensor, error: type[BaseException] = error) -> Tensor:
            raise error("no room")

        with pytest.raises(error):
            attack(model)
