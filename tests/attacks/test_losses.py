"""Losses equal their formulas, written out class by class."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attacks import oracles
from sparring.attacks import LOSSES, cross_entropy, difference_of_logits_ratio, margin
from sparring.attacks.losses import divergence
from sparring.errors import ConfigError

law = settings(derandomize=True, max_examples=150)

FORMULAS = [
    (cross_entropy, oracles.cross_entropy),
    (margin, oracles.margin),
    (difference_of_logits_ratio, oracles.dlr),
]
WHOLE = st.integers(-4, 4).map(float)
"""Few values, so that ties are common."""


@st.composite
def answers(draw: st.DrawFn, values: st.SearchStrategy[float], least: int = 3):
    """Logits of one image and its label."""
    logits = draw(st.lists(values, min_size=least, max_size=6))
    return logits, draw(st.integers(0, len(logits) - 1))


def loss_of(loss, logits: list[float], label: int, dtype: torch.dtype = torch.float64) -> float:
    return float(loss(torch.tensor([logits], dtype=dtype), torch.tensor([label])))


@pytest.mark.parametrize(("loss", "formula"), FORMULAS)
@law
@given(answer=answers(st.floats(-50, 50) | WHOLE))
def test_a_loss_is_its_formula(loss, formula, answer):
    logits, label = answer
    first, _, third = sorted(logits, reverse=True)[:3]
    assume(first - third > 1e-9)
    assert loss_of(loss, logits, label) == pytest.approx(formula(logits, label), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("loss", "formula"), FORMULAS)
def test_every_image_has_the_loss_of_its_own_logits(loss, formula):
    logits = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % 5
    expected = [formula(row, y) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert loss(logits, labels).tolist() == pytest.approx(expected)


@law
@given(answers(st.floats(-50, 50) | WHOLE, least=2))
def test_the_sign_of_the_margin_is_whether_the_model_errs_and_0_is_a_tie(answer):
    logits, label = answer
    best, found = max(logits), loss_of(margin, logits, label)
    assert (found > 0) == (logits[label] < best)
    assert (found == 0) == (logits.count(best) > 1 and logits[label] == best)
    said = int(torch.tensor(logits, dtype=torch.float64).argmax())
    if found:
        assert (found > 0) == (said != label)
    else:
        assert said == logits.index(best) <= label


@pytest.mark.parametrize(
    ("logits", "label", "expected"),
    [
        ([3.0, 1.0, 0.0], 0, -2 / 3),
        ([3.0, 1.0, 0.0], 1, 2 / 3),
        ([3.0, 1.0, 0.0], 2, 1.0),
        ([2.0, 2.0, 0.0], 0, 0.0),
        ([2.0, 2.0, 0.0, -5.0], 3, 7 / 2),
        ([2.0, 0.0, 0.0, 0.0], 3, 1.0),
        ([2.0, 0.0, 0.0], 0, -1.0),
    ],
)
def test_the_logit_ratio_by_hand(logits, label, expected):
    assert loss_of(difference_of_logits_ratio, logits, label) == pytest.approx(expected)


@law
@given(answers(WHOLE), st.integers(-64, 64), st.sampled_from([2.0**-6, 0.5, 4.0, 2.0**20]))
def test_the_logit_ratio_is_blind_to_shift_and_scale(answer, shift, scale):
    logits, label = answer
    assume(len(set(sorted(logits)[-3:])) > 1)
    moved = [scale * (z + shift) for z in logits]
    expected = loss_of(difference_of_logits_ratio, logits, label)
    assert loss_of(difference_of_logits_ratio, moved, label) == expected


def test_logits_without_any_spread_have_a_ratio_of_nought_and_a_finite_gradient():
    logits = torch.full((1, 4), 2.5, requires_grad=True)
    loss = difference_of_logits_ratio(logits, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.item() == 0
    assert gradient.isfinite().all()


def test_the_logit_ratio_needs_three_classes():
    with pytest.raises(ConfigError, match=r'3 classes.*got 2 classes\. Use loss "margin"'):
        difference_of_logits_ratio(torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits_are_compared_in_32(name, dtype):
    logits = torch.tensor([[1.0, 2.5, -3.0, 0.25]])
    wide = LOSSES[name](logits, torch.tensor([0]))
    narrow = LOSSES[name](logits.to(dtype), torch.tensor([0]))
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, wide)


@pytest.mark.parametrize("name", LOSSES)
def test_confident_logits_have_a_finite_loss(name):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    assert LOSSES[name](logits, torch.tensor([0, 0])).isfinite().all()


@law
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=2, max_size=6))
def test_the_divergence_is_the_mean_difference_of_log_probabilities(pairs):
    """Of what is said of the clean image: the sum of p (log p - log q)."""
    here, natural = (torch.tensor([row], dtype=torch.float64) for row in zip(*pairs, strict=True))
    p = [math.exp(value - float(natural.logsumexp(1))) for value in natural[0].tolist()]
    q = [math.exp(value - float(here.logsumexp(1))) for value in here[0].tolist()]
    expected = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)
    found = float(divergence(here, natural))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found >= -1e-12
    assert float(divergence(natural, natural)) == pytest.approx(0, abs=1e-12)
