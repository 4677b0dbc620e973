"""Batches are a pure function of ticket, plan and weights, whoever makes them and when."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import (
    APGD,
    L2,
    PGD,
    AttackedBatch,
    Crafter,
    EarlySteps,
    Linf,
    Recipe,
    Square,
    StepwiseAttack,
    batch_attack,
)
from sparring.data import Flip, ImageSet, Order, Ticket
from sparring.errors import ConfigError

CPU = torch.device("cpu")
GREY = ImageSet(
    pixels=torch.full((40, 1, 4, 6), 128, dtype=torch.uint8),
    labels=torch.arange(40) % 3,
    num_classes=3,
)
ORDER = Order(num_images=40, batch_size=8, seed=5)


def noisy() -> ImageSet:
    pixels = torch.randint(0, 256, (40, 1, 4, 6), generator=Generator().manual_seed(0))
    return replace(GREY, pixels=pixels.to(torch.uint8))


def classifier(seed: int = 1) -> nn.Sequential:
    layer = nn.Linear(24, 3)
    nn.init.normal_(layer.weight, generator=Generator().manual_seed(seed))
    return nn.Sequential(nn.Flatten(), layer)


def crafter(images: ImageSet, attack: Any = None, **settings: Any) -> Crafter:
    attack = attack or PGD(threat=Linf(eps=0.3), steps=3)
    given: dict[str, Any] = {"batch_size": 8, "updates": 4, "seed": 5} | settings
    return Crafter(Recipe(attack=attack, **given), images, CPU)


def made(by: Crafter, number: int, model: Any = None, version: int = 0) -> AttackedBatch:
    return by.craft(by.clean(number), model or classifier(), version=version)


def share(factor: float) -> Any:
    return lambda progress: factor


@pytest.mark.parametrize("threat", [Linf(eps=0.3), L2(eps=1.0)], ids=str)
def test_a_ticket_attacked_again_gives_the_same_bytes_whatever_came_between(threat):
    model = classifier()

    def results(numbers: list[int], global_seed: int) -> dict[int, Tensor]:
        torch.manual_seed(global_seed)
        by = crafter(noisy(), PGD(threat=threat, steps=3))
        return {n: made(by, n, model, n).adversarial for n in numbers}

    forwards, backwards, one = results([0, 1, 2, 3], 0), results([3, 1, 0, 2], 1), results([2], 2)
    assert all(torch.equal(forwards[n], backwards[n]) for n in range(4))
    assert torch.equal(forwards[2], one[2])


def test_the_tickets_seed_alone_decides_the_noise():
    attack = PGD(threat=Linf(eps=0.3), steps=0)
    by = crafter(GREY, attack)

    def noise(number: int) -> Tensor:
        batch = made(by, number)
        return batch.adversarial - batch.images

    def by_hand(ticket: Ticket) -> Tensor:
        images = GREY.batch(ticket.indices).images
        return Linf(eps=0.3).uniform(images, Generator().manual_seed(ticket.seed)) - images

    for number in range(3):
        assert torch.equal(noise(number), by_hand(ORDER.ticket(number)))
    assert not torch.equal(noise(0), noise(1))
    assert noise(0).std() > 0.1


def test_a_batch_says_what_was_attacked_with_what():
    images, ticket = noisy(), ORDER.ticket(2)
    batch = made(crafter(images, eps_schedule=share(0.5)), 2, version=1)
    clean = images.batch(ticket.indices)
    assert (batch.number, batch.version, batch.staleness, batch.eps) == (2, 1, 1, 0.15)
    assert torch.equal(batch.images, clean.images)
    assert torch.equal(batch.labels, clean.labels)
    assert torch.equal(batch.indices, ticket.indices)
    assert 0 < batch.attack_seconds < 60
    assert len(batch) == 8


@pytest.mark.parametrize("threat", [Linf(eps=0.5), L2(eps=0.9)], ids=str)
@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_a_schedule_sets_the_radius(threat, factor):
    model, eps = classifier(), threat.eps * factor
    by = crafter(noisy(), PGD(threat=threat, steps=3), eps_schedule=share(factor))
    found = made(by, 0, model)
    by_hand = PGD(threat=replace(threat, eps=eps), steps=3)(
        model, found.images, found.labels, generator=Generator().manual_seed(ORDER.ticket(0).seed)
    )
    assert torch.equal(found.adversarial, by_hand)
    reached = threat.distance(found.adversarial, found.images).max().item()
    assert 0.8 * eps < reached <= eps * (1 + 1e-5) + 1e-6


def test_a_radius_of_nought_is_refused():
    with pytest.raises(ConfigError, match=r"a number above 0, .*got 0 at"):
        made(crafter(GREY, eps_schedule=share(0.0)), 0)


def test_clean_images_are_their_own_adversarial_examples():
    images, ticket = noisy(), ORDER.ticket(1)
    batch = crafter(images).clean(1)
    clean = images.batch(ticket.indices)
    assert torch.equal(batch.images, clean.images)
    assert torch.equal(batch.adversarial, clean.images)
    assert torch.equal(batch.labels, clean.labels)
    assert torch.equal(batch.indices, ticket.indices)
    assert (batch.number, batch.version, batch.eps, batch.attack_seconds) == (1, 0, 0.0, 0.0)


def test_a_given_step_shrinks_with_the_radius_of_a_ticket():
    full = PGD(threat=Linf(eps=0.4), steps=1, step_size=0.08, start="none")
    batch = made(crafter(GREY, full, eps_schedule=share(0.25)), 0)
    moved = (batch.adversarial - batch.images).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.02))
    assert full.at(0.4) == full


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("fresh", [1, 2])
def test_both_stages_with_equal_weights_are_the_whole_attack(fresh, split):
    model, whole = classifier(), crafter(noisy(), split=split)
    by = crafter(noisy(), fresh_steps=fresh, split=split)
    first = by.craft_in_parts(by.clean(1), model, version=0, stage="first")
    both = by.craft_in_parts(first, model, version=1, stage="last")
    at_once = whole.craft_in_parts(whole.clean(1), model, version=0, stage="first")
    assert torch.equal(both.adversarial, at_once.adversarial)
    assert not torch.equal(first.adversarial, both.adversarial)
    assert both.version == 0
    assert both.attack_seconds > first.attack_seconds
    other = by.craft_in_parts(first, classifier(2), version=1, stage="last")
    assert not torch.equal(other.adversarial, both.adversarial)


@pytest.mark.parametrize("augmentation", [(), (Flip(),)], ids=str)
def test_parts_made_apart_are_the_batch_that_is_made_in_parts(augmentation):
    model = classifier()
    by = crafter(noisy(), split=3, augmentation=augmentation)
    together = by.craft_in_parts(by.clean(2), model, version=0, stage="first")
    apart = [
        by.craft(by.clean(2, part=part, parts=3), model, version=0, part=part, parts=3)
        for part in range(3)
    ]
    assert torch.equal(together.images, torch.cat([each.images for each in apart]))
    assert torch.equal(together.adversarial, torch.cat([each.adversarial for each in apart]))


def test_ranks_share_every_batch():
    model, whole = classifier(), crafter(noisy()).clean(3)
    parts = [crafter(noisy(), rank=rank, world_size=2) for rank in range(2)]
    clean = [each.clean(3) for each in parts]
    assert torch.equal(whole.indices, torch.cat([each.indices for each in clean]))
    first, second = (made(each, 3, model).adversarial for each in parts)
    assert len(first) == len(second) == 4


class Own:
    """An attack of one's own, without a threat."""

    def __call__(
        self, model: Any, images: Tensor, labels: Tensor, *, generator: Generator
    ) -> Tensor:
        return (images + torch.rand(images.shape, generator=generator) / 8).clamp(0, 1)


def test_any_callable_is_an_attack():
    batch = made(crafter(noisy(), Own()), 0)
    drawn = torch.rand(batch.images.shape, generator=Generator().manual_seed(ORDER.ticket(0).seed))
    assert torch.equal(batch.adversarial, (batch.images + drawn / 8).clamp(0, 1))
    assert batch.eps != batch.eps  # NaN
    assert not isinstance(Own(), StepwiseAttack)
    assert isinstance(PGD(), StepwiseAttack)


class Moving:
    """It brightens all pixels."""

    def __init__(self, much: float, threat: Any = None) -> None:
        self.much = much
        if threat is not None:
            self.threat = threat

    def __call__(
        self, model: Any, images: Tensor, labels: Tensor, *, generator: Generator
    ) -> Tensor:
        return images + self.much


class InSteps(Moving):
    """The same as a `StepwiseAttack`."""

    steps, restarts, threat = 2, 1, Linf(0.1)

    def at(self, eps: float, steps: int | None = None) -> "InSteps":
        return self

    def only(self, steps: int) -> "InSteps":
        return self

    def search_from(self, start: Tensor, model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return images + self.much


def test_what_an_own_attack_of_training_returns_lies_inside_its_threat():
    for threat, much in ((Linf(0.1), 0.1), (Linf(1e-4), 1e-4), (L2(1.0), 1 / 24**0.5)):
        batch = made(crafter(GREY, Moving(much, threat)), 0)
        assert torch.equal(batch.adversarial, batch.images + much)
        with pytest.raises(ConfigError, match=r"\(Moving\) returned images at a distance of"):
            made(crafter(GREY, Moving(1.1 * much, threat)), 0)
    assert float(made(crafter(GREY, Moving(0.4)), 0).adversarial.max()) > 0.9  # it has no threat
    by = crafter(GREY, InSteps(0.2), fresh_steps=1)
    with pytest.raises(ConfigError, match=r"search_from of the attack \(InSteps\) .* of 0\.2; the"):
        by.craft(by.clean(0), classifier(), version=0, stage="last")


def test_pixels_that_rounding_left_outside_the_range_are_clamped():
    bright = replace(GREY, pixels=torch.full((40, 1, 4, 6), 255, dtype=torch.uint8))
    for images, much in ((bright, 9e-5), (replace(GREY, pixels=0 * GREY.pixels), -9e-5)):
        batch = made(crafter(images, Moving(much)), 0)
        assert torch.equal(batch.adversarial, batch.images)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"attack": Own(), "fresh_steps": 1},
            "fresh_steps needs an attack that is a StepwiseAttack; got Own",
        ),
        ({"attack": Own(), "eps_schedule": share(1.0)}, "eps_schedule needs an attack"),
        ({"early_steps": (EarlySteps(until=0.5, steps=1),) * 2}, "early_steps must be sorted"),
        ({"attack": PGD(restarts=2), "fresh_steps": 1}, r"fresh_steps must be 0 if attack.restar"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"updates": 0}, "updates must be 1 or more"),
        ({"rank": 2, "world_size": 2}, "rank must lie in \\[0, 2\\)"),
        (
            {"batch_size": 9, "world_size": 2},
            "must be a multiple of 2, the number of processes; got 9. Take 10",
        ),
        ({"split": 9}, "split must be at most"),
    ],
)
def test_what_contradicts_itself_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        crafter(GREY, **settings)


def test_a_batch_moves_with_all_that_is_needed():
    batch = made(crafter(GREY), 0)
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.adversarial.device.type, moved.labels.device.type} == {
        "meta"
    }
    assert moved.indices is batch.indices


class Mine(APGD):
    pass


@pytest.mark.parametrize(
    ("attack", "checked"),
    [(APGD(steps=2), False), (Square(queries=2), False), (Mine(steps=2), True)],
)
def test_only_attacks_of_other_classes_are_checked_at_each_batch(attack, checked, monkeypatch):
    asked = []
    monkeypatch.setattr(batch_attack, "own_images", lambda *given, **_: asked.append(0) or given[2])
    made(crafter(noisy(), attack), 0)
    assert bool(asked) is checked


def zeroed(model: nn.Module) -> None:
    for value in (*model.parameters(), *model.buffers()):
        value.data.zero_()


def replaced(model: nn.Module) -> None:
    last = model.get_submodule("1")
    last.weight = nn.Parameter(torch.zeros(3, 24))


def resized(model: nn.Module) -> None:
    next(model.parameters()).data = torch.zeros(5, 24)


def hooked(model: nn.Module) -> None:
    model.get_submodule("1").register_forward_hook(lambda *_: torch.zeros(8, 3))


@pytest.mark.parametrize("change", [zeroed, replaced, resized, hooked])
@pytest.mark.parametrize("fails", [True, False])
def test_a_network_is_as_before_after_an_own_attack_that_changed_it(change, fails):
    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        change(model)
        if fails:
            raise ValueError("no")
        return images

    model = nn.Sequential(*classifier(), nn.BatchNorm1d(3, affine=False))
    images = noisy().batch(torch.arange(8))[0]
    before, logits = dict(model.named_parameters()), model.eval()(images)
    complaint = "failed: ValueError: no" if fails else "changed 1.weight|with other hooks"
    with pytest.raises(ConfigError, match=complaint):
        made(crafter(noisy(), attack), 0, model)
    assert torch.equal(model(images), logits)
    assert all(value is before[name] for name, value in model.named_parameters())


def test_a_network_is_as_before_after_an_own_attack_was_stopped():
    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        zeroed(model)
        raise KeyboardInterrupt

    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        made(crafter(noisy(), attack), 0, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
