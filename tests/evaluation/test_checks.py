"""Checks for gradient masking: each fault in a model is flagged under its name, a sound one not."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import L2, PGD, Attack, Classifier, Linf, Square, Threat
from sparring.evaluation import evaluate, masking_checks
from sparring.records import Finding

EPS = 0.25
GREY = torch.full((40, 1, 8, 8), 0.5)


def findings_of(model: Classifier, images: Tensor, threat: Threat) -> Mapping[str, Finding]:
    """What the checks find where the model is right about everything."""
    with torch.no_grad():
        labels = model(images).argmax(1)
    evaluation = evaluate(model, images, labels, threat).evaluation
    assert evaluation.findings is not None
    found = {finding.check: finding for finding in evaluation.findings}
    assert len(found) == len(evaluation.findings) == 10
    assert evaluation.flags == tuple(f for f in evaluation.findings if f.flagged)
    return found


def flagged(model: Classifier, images: Tensor = GREY, threat: Threat | None = None) -> set[str]:
    found = findings_of(model, images, threat or Linf(eps=EPS))
    return {name for name, finding in found.items() if finding.flagged}


def brightness(images: Tensor) -> Tensor:
    """How far an image lies from grey, from -1 to 1 where every pixel is at the end of the cube."""
    return (images - 0.5).flatten(1).mean(1) / EPS


def two_classes(lead: Callable[[Tensor], Tensor]) -> Classifier:
    """A model whose first class leads by a function of the image's brightness."""

    def logits_of(images: Tensor) -> Tensor:
        ahead = lead(brightness(images))
        return torch.stack([ahead, torch.zeros_like(ahead)], 1)

    return logits_of


def noise(count: int = 60) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small_network(*between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).eval()


@pytest.mark.parametrize("threat", [Linf(eps=0.02), L2(eps=0.1)])
def test_a_plain_network_is_not_flagged(threat: Threat) -> None:
    assert flagged(small_network(), noise(), threat) == set()


def test_a_robust_model_is_not_flagged() -> None:
    """No image of the cube changes its mind; beyond the cube it can be misled."""
    assert flagged(two_classes(lambda t: 1.3 - t)) == set()


class Quantised(nn.Module):
    """Rounds its images, so that no gradient comes through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 8).round() / 8)


def test_a_quantiser_is_flagged_by_all_that_sees_masked_gradients() -> None:
    found = findings_of(Quantised(small_network()), noise(), Linf(eps=0.3))
    flags = {name for name, finding in found.items() if finding.flagged}
    assert flags == {"vanishing gradients", "blind search beats gradients", "unlimited threat"}
    assert {reading.value for reading in found["vanishing gradients"].evidence} == {1.0}


def test_a_verdict_says_that_square_broke_what_gradients_left() -> None:
    images, threat = noise(), Linf(eps=0.3)
    plain, masked = small_network(), Quantised(small_network())
    suite: list[Attack] = [PGD(threat, steps=3, start="none"), Square(threat, queries=200)]

    def told(model: nn.Module, attacks: list[Attack]) -> tuple[int, list[str]]:
        labels = model(images).argmax(1)
        found = evaluate(model, images, labels, threat, suite=attacks, checks=False)
        said = [caveat for caveat in found.evaluation.caveats if "mislead" in caveat]
        return found.outcomes.broken_by.count("square-200"), said

    broken, (said,) = told(masked, suite)
    assert (
        f"square-200, without gradients, broke {broken} images that the attacks before left" in said
    )
    assert told(plain, suite)[1] == []
    assert told(masked, suite[1:])[1] == told(masked, suite[::-1])[1] == []


def test_a_saturated_cross_entropy_is_flagged_and_named() -> None:
    """The paper of Athalye et al. tells of logits so large that their softmax has no gradient."""
    found = findings_of(two_classes(lambda t: 1e3 * (1.1 - t)), GREY, Linf(eps=EPS))
    assert found["vanishing gradients"].flagged
    assert "cross-entropy" in found["vanishing gradients"].sentence
    assert [reading.value for reading in found["vanishing gradients"].evidence] == [1.0, 0.0]


def test_what_misleads_one_step_only_is_flagged_as_overfitting() -> None:
    """Right at the clean image and at the end of a full step, wrong half-way."""
    model = two_classes(lambda t: 1 - 2 * torch.sin(torch.pi * t.abs()))
    found = findings_of(model, GREY, Linf(eps=EPS))
    assert found["one step against many"].flagged
    assert "catastrophic overfitting" in found["one step against many"].sentence
    one, fgsm, many = (r.value for r in found["one step against many"].evidence)
    assert one > 0.9
    assert fgsm == 1
    assert many == 0


def test_a_surface_that_traps_small_steps_is_flagged() -> None:
    """Near the clean image the loss has a summit of its own, over which only long steps go."""
    model = two_classes(
        lambda t: 1 - 0.4 * torch.cos(4 * torch.pi * t) - 4 * (t.abs() - 0.6).relu()
    )
    found = findings_of(model, GREY, Linf(eps=EPS))
    assert found["weaker attack stronger"].flagged
    assert "PGD with 1 steps breaks 40 images" in found["weaker attack stronger"].sentence


class Tiring:
    """Errs once it has been asked for gradients more than a hundred times in a row."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        tired = self.asked > 100
        self.asked = self.asked + 1 if images.requires_grad else 0
        lead = brightness(images) * 0 + (-1 if tired else 1)
        return torch.stack([lead + 1e-3 * brightness(images), lead * 0], 1)


def test_an_attack_that_needs_more_steps_is_flagged() -> None:
    found = findings_of(Tiring(), GREY, Linf(eps=EPS))
    assert found["attack not converged"].flagged
    assert "from 64 to 128 steps" in found["attack not converged"].sentence


def test_an_image_that_nothing_can_break_is_flagged() -> None:
    """A gradient that leads nowhere: the logits hardly depend on the image at all."""
    assert flagged(two_classes(lambda t: 2 - 1e-3 * t)) == {"unlimited threat"}


def test_probabilities_are_flagged() -> None:
    flags = flagged(nn.Sequential(small_network(), nn.Softmax(1)), noise(), Linf(eps=0.02))
    assert "probabilities for logits" in flags
    assert "probabilities for logits" not in flagged(
        nn.Sequential(small_network(), nn.LogSoftmax(1)), noise(), Linf(eps=0.02)
    )


class Noisy(nn.Module):
    """Dropout that nobody can switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(functional.dropout(images, 0.1, training=True))


def test_randomised_outputs_are_flagged() -> None:
    flags = flagged(Noisy(), noise(), Linf(eps=0.02))
    assert "randomised outputs" in flags
    assert "outputs that depend on the batch" not in flags


def test_normalisation_by_the_batch_is_flagged_with_its_layer() -> None:
    network = small_network(nn.BatchNorm2d(4, track_running_stats=False))
    found = findings_of(network, noise(), Linf(eps=0.02))
    assert found["outputs that depend on the batch"].flagged
    assert found["layers in train mode"].flagged
    assert "BatchNorm2d 1" in found["layers in train mode"].sentence
    assert flagged(small_network(nn.BatchNorm2d(4)), noise(), Linf(eps=0.02)) == set()


class Stubborn(nn.Dropout):
    """Its flag cannot be changed."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":
            object.__setattr__(self, name, True)
        else:
            super().__setattr__(name, value)


def test_a_layer_that_stays_in_train_mode_is_flagged() -> None:
    flags = flagged(small_network(Stubborn(0.5)), noise(), Linf(eps=0.02))
    assert {"layers in train mode", "randomised outputs"} <= flags


def test_the_slice_is_spread_over_the_images_that_are_right() -> None:
    seen: list[int] = []

    def remembering(images: Tensor) -> Tensor:
        seen.append(len(images))
        lead = images.flatten(1).mean(1) - 0.5
        return torch.stack([lead, -lead], 1)

    images = noise(400)
    labels = torch.zeros(400, dtype=torch.int64)
    right = int((remembering(images).argmax(1) == 0).sum())
    assert 128 < right < 400
    threat = Linf(eps=0.01)
    assert evaluate(remembering, images, labels, threat, checks=False).evaluation.findings is None
    unchecked = Counter(seen)
    seen.clear()
    evaluation = evaluate(remembering, images, labels, threat).evaluation
    assert evaluation.natural.successes == right
    looks = Counter(seen) - unchecked
    assert looks[masking_checks.num_checked(right)] > 10
    assert max(looks) == masking_checks.num_checked(right)
    wrong = evaluate(
        remembering, images[:1], (remembering(images[:1]).argmax(1) + 1) % 2, L2(eps=1)
    )
    assert wrong.evaluation.findings == ()


def test_findings_are_of_the_seed_and_not_asked_for_means_none() -> None:
    model, images = small_network(), noise()
    labels = model(images).argmax(1)
    threat = Linf(eps=0.02)
    one, again = (evaluate(model, images, labels, threat).evaluation for _ in range(2))
    assert one.findings == again.findings
    without = evaluate(model, images, labels, threat, checks=False).evaluation
    assert without.findings is None
    assert without.flags == ()
    assert without.robust == one.robust


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_checked_by_a_model_that_takes_no_empty_batch(count: int) -> None:
    def logits_of(images: Tensor) -> Tensor:
        flat = images.view(images.shape[0], -1)
        return torch.stack([flat.sum(1), -flat.sum(1)], 1)

    labels = torch.zeros(count, dtype=torch.int64)
    assert evaluate(logits_of, GREY[:count], labels, Linf(eps=EPS)).evaluation.findings


@pytest.mark.parametrize(("right", "count"), [(5, 5), (70, 64), (254, 64), (400, 100), (1000, 128)])
def test_images_are_looked_at_from_the_first_to_the_last_that_is_right(
    right: int, count: int
) -> None:
    looked = masking_checks.evenly(torch.arange(right))
    assert (int(looked[0]), int(looked[-1])) == (0, right - 1)
    assert len(looked) == len(looked.unique()) == count


def test_a_few_images_do_not_show_that_single_steps_are_misled() -> None:
    model = two_classes(lambda t: 1 - 2 * torch.sin(torch.pi * t.abs()))
    found = findings_of(model, GREY[:3], Linf(eps=EPS))["one step against many"]
    assert not found.flagged
    assert "too few to conclude anything" in found.sentence


def test_a_few_images_do_not_show_that_gradients_are_masked() -> None:
    found = findings_of(Quantised(small_network()), noise()[:4], Linf(eps=0.3))
    assert not found["blind search beats gradients"].flagged


class Patterns(nn.Module):
    """A trained network of four patterns, behind something that turns its gradients."""

    def __init__(self, turned: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(4, 1, 8, 8, generator=generator)
        self.labels = torch.arange(96) % 4
        grain = torch.rand(96, 1, 8, 8, generator=generator)
        self.images = (0.6 * patterns[self.labels] + 0.4 * grain).clamp(0, 1)
        self.network, self.turned = small_network(), turned
        optimizer = torch.optim.Adam(self.network.parameters(), 1e-2)
        for _ in range(100):
            loss = functional.cross_entropy(self.network(self.images), self.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.turned(images))


def shattered(images: Tensor) -> Tensor:
    """Waves that no step follows, nearly the same image."""
    return images + 0.2 * torch.sin(1e4 * images)


def in_part(images: Tensor) -> Tensor:
    """The same image, whose upper rows show no gradient."""
    return torch.cat([images[:, :, :6].detach(), images[:, :, 6:]], 2)


@pytest.mark.parametrize("turned", [shattered, in_part])
def test_gradients_that_lead_away_are_flagged_though_they_break_something(
    turned: Callable[[Tensor], Tensor],
) -> None:
    model, threat = Patterns(turned), Linf(eps=0.12)
    found = findings_of(model, model.images, threat)["blind search beats gradients"]
    assert found.flagged
    (share,) = (one.value for one in found.evidence if "nearer to the boundary" in one.what)
    assert share > 0.8


def test_gradients_that_lead_on_come_nearer_than_a_blind_search() -> None:
    model, threat = Patterns(nn.Identity()), Linf(eps=0.12)
    found = findings_of(model, model.images, threat)
    assert not any(finding.flagged for finding in found.values())
    (share,) = (
        one.value
        for one in found["blind search beats gradients"].evidence
        if "nearer to the boundary" in one.what
    )
    assert share < 0.1
