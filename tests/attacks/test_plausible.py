"""Sizes of threats that are usual, and those that look like another unit's."""

import re

import pytest
import torch
from torch import nn

from sparring import evaluate
from sparring.attacks import L2, Linf
from sparring.attacks.plausible import doubt, mismatch, threat_text, too_dark, usual

MNIST, CIFAR, PHOTO = (1, 28, 28), (3, 32, 32), (3, 224, 224)


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("shape", [MNIST, CIFAR, PHOTO])
def test_the_usual_size_is_not_doubted(norm, shape):
    assert doubt(usual(norm, shape[0]), shape) is None


@pytest.mark.parametrize(
    ("threat", "shape"),
    [
        (Linf(eps=0.1), MNIST),
        (Linf(eps=0.4), MNIST),
        (Linf(eps=1 / 255), CIFAR),
        (Linf(eps=16 / 255), CIFAR),
        (L2(eps=0.25), CIFAR),
        (L2(eps=1.5), MNIST),
        (L2(eps=3.0), PHOTO),
    ],
)
def test_sizes_that_people_use_are_not_doubted(threat, shape):
    assert doubt(threat, shape) is None


@pytest.mark.parametrize(
    ("threat", "shape", "complaint"),
    [
        (Linf(eps=0.3), CIFAR, "76 grey levels.*for colour images 8/255 is"),
        (Linf(eps=0.5), MNIST, "can be made the same grey"),
        (Linf(eps=1.0), CIFAR, "can be made the same grey"),
        (Linf(eps=8 / 255 / 255), CIFAR, "less than half a grey level.*0.0314"),
        (L2(eps=8 / 255), CIFAR, "looks like one for L"),
        (L2(eps=128.0), CIFAR, "divide it by 255"),
        (L2(eps=8.0), MNIST, "turns these images into others"),
    ],
)
def test_a_size_of_another_unit_is_doubted(threat, shape, complaint):
    said = doubt(threat, shape)
    assert said is not None
    assert re.search(complaint, said)


@pytest.mark.parametrize(
    ("size", "complaint"),
    [(0.3, None), (0.36, None), (0.29, "0.29, evaluation with 0.3: less"), (0.5, "far more")],
)
def test_training_against_another_size_than_is_to_be_withstood_is_said(size, complaint):
    said = mismatch(Linf(eps=0.3), Linf(eps=size))
    assert (said is None) if complaint is None else (complaint in str(said))


def test_a_threat_in_words_has_grey_levels_where_they_are_whole():
    assert threat_text(Linf(eps=8 / 255)) == "Linf 8/255"
    assert threat_text(L2(eps=0.5)) == "L2 0.5"


def test_images_that_were_divided_by_255_twice_are_noticed() -> None:
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert too_dark(images) is None
    assert "divided by 255 twice" in str(too_dark(images / 255))
    black = evaluate(flat(), images / 255, torch.tensor([0, 1]), Linf(0.1), checks=False)
    assert any("divided by 255 twice" in said for said in black.evaluation.caveats)
    rows = evaluate(flat(), images[:, 0], torch.tensor([0, 1]), Linf(0.7), checks=False)
    assert any("the same grey" in said for said in rows.evaluation.caveats)


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
