"""PGD and its one-step relatives reach what closed forms say, and never leave the threat."""

import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from attacks import oracles
from sparring.attacks import (
    L2,
    LOSSES,
    PGD,
    STARTS,
    Linf,
    Start,
    Threat,
    cross_entropy,
    fgsm,
    random_start_fgsm,
)
from sparring.errors import ConfigError

law = settings(derandomize=True, max_examples=120)

SHAPES = [(8,), (1, 4, 6), (3, 5, 7)]
GREY = 1 / 255
LABELS = torch.tensor([0, 1, 1, 0])
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def clean(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, num: int = 4) -> Tensor:
    """Images between two grey values in float64; those outside [0, 1] are clipped."""
    pixels = torch.rand(num, *shape, generator=seeded(7), dtype=torch.float64)
    return (low + (high - low) * pixels).clamp_(0, 1)


def curved_classifier(shape: tuple[int, ...], num_classes: int, dtype: torch.dtype) -> nn.Module:
    """A small network without a constant gradient."""
    layers = [nn.Flatten(), nn.Linear(math.prod(shape), 9), nn.Tanh(), nn.Linear(9, num_classes)]
    for layer in layers[1::2]:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, generator=seeded(3))
    return nn.Sequential(*layers).to(dtype)


THREATS = [Linf(eps=eps) for eps in (GREY, 8 * GREY, 0.3, 1.0)] + [
    L2(eps=eps) for eps in (GREY, 8 * GREY, 1.0, 30.0)
]


SETTINGS = st.fixed_dictionaries(
    {
        "threat": st.sampled_from(THREATS),
        "steps": st.integers(0, 3),
        "step_size": st.none() | st.sampled_from([1e-4, 0.1, 5.0]),
        "loss": st.sampled_from(list(LOSSES)),
    }
)
SEARCHES = st.sampled_from([("none", 1), *product(["uniform", "corner"], [1, 2, 3])])
"""Start and restarts."""
SPANS = [(0.0, 1.0), (-1.0, 2.0), (0.0, 0.0), (1.0, 1.0)]
BATCHES = st.sampled_from(list(product(SHAPES, SPANS, [torch.float32, torch.float64])))
"""Shape, span of the pixels and kind of number."""


@law
@given(SETTINGS, SEARCHES, BATCHES, st.sampled_from(MODES))
def test_no_attack_leaves_the_threat_or_the_pixel_range(settings, searches, batch, mode):
    (start, restarts), (shape, span, dtype) = searches, batch
    attack = PGD(start=start, restarts=restarts, **settings)
    images, model = clean(shape, *span).to(dtype), curved_classifier(shape, 4, dtype)
    with mode():
        x = attack(model, images, LABELS, generator=seeded())
    assert x.shape == images.shape
    assert x.dtype == dtype
    assert not x.requires_grad
    assert bool(((x >= 0) & (x <= 1)).all())
    offset = (x.double() - images.double()).flatten(1)
    rounding = torch.finfo(dtype).eps / 2
    if isinstance(attack.threat, Linf):
        assert offset.abs().max().item() <= attack.threat.eps + rounding
    else:
        slack = attack.threat.eps * 1e-5 + rounding * math.sqrt(math.prod(shape))
        assert offset.norm(dim=1).max().item() <= attack.threat.eps + slack


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("span", [(0.4, 0.6), (-0.5, 1.5)], ids=["box inactive", "box active"])
@pytest.mark.parametrize("eps", [GREY, 8 * GREY, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_pgd_reaches_the_worst_case_of_a_linear_model_in_the_cube(shape, eps, span, start):
    images, model = clean(shape, *span), oracles.LinearClassifier(shape)
    attack = PGD(threat=Linf(eps=eps), steps=10, start=start)
    found = attack(model, images, LABELS, generator=seeded())
    expected = oracles.worst_in_cube(images, model.uphill(LABELS), eps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("span", [(0.4, 0.6), (-0.5, 1.5)], ids=["box inactive", "box active"])
@pytest.mark.parametrize("shape", SHAPES)
def test_fgsm_reaches_the_worst_case_of_a_linear_model_in_the_cube(shape, span):
    images, model = clean(shape, *span), oracles.LinearClassifier(shape)
    found = fgsm(Linf(eps=0.3))(model, images, LABELS, generator=seeded())
    expected = oracles.worst_in_cube(images, model.uphill(LABELS), 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_fgsm_reaches_the_worst_case_of_a_linear_model_in_the_ball(shape):
    images, model = clean(shape, 0.4, 0.6), oracles.LinearClassifier(shape)
    gradient = model.uphill(LABELS)
    found = fgsm(L2(eps=0.3))(model, images, LABELS, generator=seeded())
    unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, *[1] * len(shape))
    torch.testing.assert_close(found, images + 0.3 * unit, rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize(
    ("eps", "span"),
    [(0.3, (0.4, 0.6)), (0.5, (-0.5, 1.5)), (1.5, (-0.5, 1.5)), (100.0, (0.0, 1.0))],
    ids=["box inactive", "box active", "box rules", "box alone"],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_pgd_reaches_the_worst_case_of_a_linear_model_in_the_ball(shape, eps, span, loss, start):
    images, model = clean(shape, *span), oracles.LinearClassifier(shape)
    gradient = model.uphill(LABELS)
    attack = PGD(threat=L2(eps=eps), steps=60, step_size=2 * eps, start=start, loss=loss)
    found = attack(model, images, LABELS, generator=seeded())
    best = oracles.worst_in_ball(images, gradient, eps)
    gain = ((found - images) * gradient).flatten(1).sum(1)
    best_gain = ((best - images) * gradient).flatten(1).sum(1)
    torch.testing.assert_close(gain, best_gain, rtol=2e-5, atol=0)


@pytest.mark.parametrize("steps", [1, 7, 40])
@pytest.mark.parametrize("threat", [Linf(eps=0.3), L2(eps=2.0)], ids=str)
def test_the_default_step_is_two_and_a_half_radii_over_the_steps(threat, steps):
    assert PGD(threat=threat, steps=steps).step_length == pytest.approx(2.5 * threat.eps / steps)
    assert PGD(threat=threat, steps=steps, step_size=0.7).step_length == 0.7


@pytest.mark.parametrize("num_steps", [1, 2])
def test_steps_have_the_length_that_is_given_and_the_default_is_used(num_steps):
    images, model = clean((8,), 0.4, 0.6), oracles.LinearClassifier((8,))
    signs = model.uphill(LABELS).sign()
    given = PGD(threat=Linf(eps=0.3), steps=num_steps, step_size=0.01, start="none")
    found = given(model, images, LABELS, generator=seeded())
    torch.testing.assert_close(found, images + num_steps * 0.01 * signs)
    default = PGD(threat=Linf(eps=0.3), steps=10, start="none")
    by_hand = PGD(threat=Linf(eps=0.3), steps=10, start="none", step_size=0.075)
    curved = curved_classifier((8,), 3, torch.float64)
    torch.testing.assert_close(
        default(curved, images, LABELS, generator=seeded()),
        by_hand(curved, images, LABELS, generator=seeded()),
    )


@pytest.mark.parametrize("span", [(0.4, 0.6), (-0.5, 1.5)], ids=["box inactive", "box active"])
def test_random_start_fgsm_takes_one_step_of_one_and_a_quarter_radii_from_a_uniform_start(span):
    images, model = clean((1, 4, 6), *span), oracles.LinearClassifier((1, 4, 6))
    threat = Linf(eps=0.2)
    start = threat.uniform(images, seeded())
    step = 1.25 * 0.2 * model.uphill(LABELS).sign()
    lower, upper = (images - 0.2).clamp(min=0), (images + 0.2).clamp(max=1)
    found = random_start_fgsm(threat)(model, images, LABELS, generator=seeded())
    torch.testing.assert_close(found, torch.minimum(torch.maximum(start + step, lower), upper))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("threat", [Linf(eps=0.2), L2(eps=0.5)], ids=str)
def test_no_steps_give_the_start_itself(threat, start):
    images = clean((3, 5, 7))
    attack = PGD(threat=threat, steps=0, start=start)
    found = attack(
        curved_classifier((3, 5, 7), 3, torch.float64), images, LABELS, generator=seeded()
    )
    assert torch.equal(found, STARTS[start](threat, images, seeded()))
    assert found.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("start", ["uniform", "corner"])
@pytest.mark.parametrize("threat", [Linf(eps=0.2), L2(eps=0.5)], ids=str)
def test_a_search_from_the_start_of_a_call_ends_where_the_call_does(threat, start, steps):
    images, model = clean((3, 5, 7)), curved_classifier((3, 5, 7), 3, torch.float64)
    attack = PGD(threat=threat, steps=steps, start=start)
    begin = STARTS[start](threat, images, seeded())
    before = begin.clone()
    found = attack.search_from(begin, model, images, LABELS)
    assert torch.equal(found, attack(model, images, LABELS, generator=seeded()))
    assert found.data_ptr() != begin.data_ptr()
    assert torch.equal(begin, before)


def harms(model: nn.Module, x: Tensor, labels: Tensor, loss: str) -> list[tuple[bool, float]]:
    """Whether each image is wrong, then its loss: what a larger tuple is worse in."""
    formula = {"cross-entropy": oracles.cross_entropy, "margin": oracles.margin, "dlr": oracles.dlr}
    with torch.no_grad():
        rows = model(x).tolist()
    return [
        (oracles.is_wrong(row, label), formula[loss](row, label))
        for row, label in zip(rows, labels.tolist(), strict=True)
    ]


def many_images(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return clean(shape, num=30), torch.randint(4, (30,), generator=seeded(1))


@pytest.mark.parametrize("start", ["uniform", "corner"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("threat", [Linf(eps=0.3), L2(eps=0.8)], ids=str)
def test_restarts_keep_the_worst_of_the_starts_of_one_stream(threat, loss, start: Start):
    (images, labels), model = many_images((8,)), curved_classifier((8,), 4, torch.float64)
    generator = seeded()
    starts = [STARTS[start](threat, images, generator) for _ in range(5)]
    judged = [harms(model, x, labels, loss) for x in starts]
    for restarts in range(1, 6):
        attack = PGD(threat=threat, steps=0, start=start, restarts=restarts, loss=loss)
        found = attack(model, images, labels, generator=seeded())
        for image in range(len(images)):
            worst = max(range(restarts), key=lambda r, i=image: judged[r][i])
            assert torch.equal(found[image], starts[worst][image])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("threat", [Linf(eps=0.1), L2(eps=0.3)], ids=str)
def test_more_restarts_never_hurt_the_model_less(threat, loss):
    (images, labels), model = many_images((8,)), curved_classifier((8,), 4, torch.float64)

    def attacked(restarts: int) -> list[tuple[bool, float]]:
        attack = PGD(threat=threat, steps=3, restarts=restarts, loss=loss)
        return harms(model, attack(model, images, labels, generator=seeded()), labels, loss)

    results = [attacked(restarts) for restarts in (1, 2, 3, 6)]
    for fewer, more in pairwise(results):
        assert all(b >= a for a, b in zip(fewer, more, strict=True))
    assert results[-1] != results[0]


def test_being_misclassified_counts_before_any_loss():
    """Two starts: one is right with the larger cross-entropy, the other wrong with a smaller."""
    right = torch.tensor([1.0, 0.99, 0.98, 0.97])
    wrong = torch.tensor([1.0, 1.2, -9.0, -9.0])
    label = torch.tensor([0])
    assert cross_entropy(right[None], label) > cross_entropy(wrong[None], label)

    for seed in range(20):
        starts = [Linf(eps=0.1).uniform(torch.full((1, 1), 0.5), g) for g in [seeded(seed)] * 2]
        first, second = (float(x) for x in starts)
        erring = second if seed % 2 else first

        def model(x: Tensor, erring: float = erring) -> Tensor:
            return torch.where(x == erring, wrong, right)

        attack = PGD(threat=Linf(eps=0.1), steps=0, restarts=2)
        found = attack(model, torch.full((1, 1), 0.5), label, generator=seeded(seed))
        assert float(found) == erring


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("threat", "slack"), [(Linf(eps=0.1), 1e-12), (L2(eps=0.3), 1e-6)])
def test_the_other_images_of_a_batch_make_no_difference(threat, slack, start, loss):
    model = nn.Sequential(curved_classifier((8,), 4, torch.float64), nn.BatchNorm1d(4).double())
    restarts = 1 if start == "none" else 2
    attack = PGD(threat=threat, steps=4, start=start, restarts=restarts, loss=loss)
    images, labels = clean((8,), num=6), torch.tensor([0, 1, 2, 3, 0, 1])
    others, other_labels = images.flip(0).sqrt(), labels.flip(0)
    others[2], other_labels[2] = images[2], labels[2]
    found = attack(model, images, labels, generator=seeded())[2]
    among_others = attack(model, others, other_labels, generator=seeded())[2]
    torch.testing.assert_close(among_others, found, rtol=0, atol=slack)


@pytest.mark.parametrize("threat", [Linf(eps=0.1), L2(eps=0.3)], ids=str)
def test_an_image_alone_is_attacked_as_in_a_batch(threat):
    model, attack = curved_classifier((8,), 4, torch.float64), PGD(threat=threat, start="none")
    images, labels = clean((8,), num=6), torch.tensor([0, 1, 2, 3, 0, 1])
    together = attack(model, images, labels, generator=seeded())
    for i in range(6):
        alone = attack(model, images[i : i + 1], labels[i : i + 1], generator=seeded())
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("threat", [Linf(), L2(eps=1.0)], ids=str)
def test_an_empty_batch_has_an_empty_answer(threat: Threat, restarts):
    attack = PGD(threat=threat, restarts=restarts)
    model = curved_classifier((1, 4, 6), 3, torch.float32)
    found = attack(model, torch.rand(0, 1, 4, 6), LABELS[:0], generator=seeded())
    assert found.shape == (0, 1, 4, 6)


def test_the_divergence_is_climbed_from_what_the_model_says_of_the_clean_images():
    """A linear model with two classes: the loss rises wherever the odds move, either way."""
    linear = nn.Linear(4, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    images = torch.full((8, 1, 2, 2), 0.5)
    labels = torch.zeros(8, dtype=torch.int64)
    attack = PGD(threat=Linf(eps=0.1), steps=4, loss="kl")
    with torch.no_grad():
        odds = model(images)
        linear.bias.add_(torch.tensor([0.0, float(odds[0, 0] - odds[0, 1])]))
    found = attack(model, images, labels, generator=Generator().manual_seed(0))
    moved = (model(found) - model(images)).diff(dim=1).abs().flatten()
    weight = linear.weight.diff(dim=0).abs().sum()
    torch.testing.assert_close(moved, 0.1 * weight.expand(8), rtol=1e-4, atol=0)
    with pytest.raises(ConfigError, match="kl needs a random start"):
        PGD(loss="kl", start="none")
