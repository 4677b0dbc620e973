"""Tickets attacked: a pure function of ticket, radius and weights, whoever calls it and when."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import L2, PGD, Linf, Threat, TicketAttack
from sparring.data import ImageSet, Order, Ticket
from sparring.errors import ConfigError

CPU = torch.device("cpu")
GREY = ImageSet(
    pixels=torch.full((40, 1, 4, 6), 128, dtype=torch.uint8),
    labels=torch.arange(40) % 3,
    num_classes=3,
)


def noisy() -> ImageSet:
    pixels = torch.randint(0, 256, (40, 1, 4, 6), generator=Generator().manual_seed(0))
    return replace(GREY, pixels=pixels.to(torch.uint8))


def classifier() -> nn.Module:
    layer = nn.Linear(24, 3)
    nn.init.normal_(layer.weight, generator=Generator().manual_seed(1))
    return nn.Sequential(nn.Flatten(), layer)


def attacker(images: ImageSet, threat: Threat | None = None, steps: int = 3) -> TicketAttack:
    attack = PGD(threat=threat or Linf(eps=0.3), steps=steps)
    return TicketAttack(images=images, attack=attack, device=CPU)


def tickets(num: int = 4) -> list[Ticket]:
    order = Order(num_images=40, batch_size=8, seed=5)
    return [order.ticket(number) for number in range(num)]


@pytest.mark.parametrize("threat", [Linf(eps=0.3), L2(eps=1.0)], ids=str)
def test_a_ticket_attacked_again_gives_the_same_bytes_whatever_came_between(threat):
    model = classifier()

    def results(numbers: list[int], global_seed: int) -> dict[int, Tensor]:
        torch.manual_seed(global_seed)
        attack, known = attacker(noisy(), threat), tickets()
        return {
            n: attack(known[n], eps=0.2, version=n, logits_of=model).adversarial for n in numbers
        }

    forwards, backwards, one = results([0, 1, 2, 3], 0), results([3, 1, 0, 2], 1), results([2], 2)
    assert all(torch.equal(forwards[n], backwards[n]) for n in range(4))
    assert torch.equal(forwards[2], one[2])


def test_the_tickets_seed_alone_decides_the_noise():
    attack = attacker(GREY, steps=0)
    first, second, *_ = tickets()

    def noise(ticket: Ticket) -> Tensor:
        batch = attack(ticket, eps=0.2, version=0, logits_of=classifier())
        return batch.adversarial - batch.images

    elsewhere = replace(second, seed=first.seed)
    assert torch.equal(noise(first), noise(elsewhere))
    assert not torch.equal(noise(first), noise(second))
    assert noise(first).std() > 0.1
    by_hand = attack.attack.threat.uniform(
        GREY.batch(first.indices).images, Generator().manual_seed(first.seed)
    )
    assert attack.attack.threat != Linf(eps=0.2)
    ratio = noise(first) / (by_hand - GREY.batch(first.indices).images)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.2 / 0.3), rtol=1e-3, atol=0)


def test_a_batch_says_what_was_attacked_with_what():
    images, ticket = noisy(), tickets()[2]
    batch = attacker(images)(ticket, eps=0.1, version=17, logits_of=classifier())
    clean = images.batch(ticket.indices)
    assert (batch.number, batch.version, batch.eps) == (ticket.number, 17, 0.1)
    assert torch.equal(batch.images, clean.images)
    assert torch.equal(batch.labels, clean.labels)
    assert torch.equal(batch.indices, ticket.indices)
    assert 0 < batch.attack_seconds < 60


@pytest.mark.parametrize("threat", [Linf(eps=0.3), L2(eps=0.9)], ids=str)
@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_the_callers_radius_replaces_that_of_the_threat(threat, eps):
    images, ticket, model = noisy(), tickets()[0], classifier()
    found = attacker(images, threat)(ticket, eps=eps, version=0, logits_of=model)
    by_hand = PGD(threat=replace(threat, eps=eps), steps=3)(
        model, found.images, found.labels, generator=Generator().manual_seed(ticket.seed)
    )
    assert torch.equal(found.adversarial, by_hand)
    reached = threat.distance(found.adversarial, found.images).max().item()
    assert 0.8 * eps < reached <= eps * (1 + 1e-5) + 1e-6


def test_a_radius_of_nought_is_refused():
    with pytest.raises(ConfigError, match=r"eps must lie in \(0, 1\].*got 0"):
        attacker(GREY)(tickets()[0], eps=0.0, version=0, logits_of=classifier())


def test_recall_gives_the_clean_images_as_their_own_adversarial_examples():
    images, ticket = noisy(), tickets()[1]
    batch = attacker(images).recall(ticket)
    clean = images.batch(ticket.indices)
    assert torch.equal(batch.images, clean.images)
    assert torch.equal(batch.adversarial, clean.images)
    assert torch.equal(batch.labels, clean.labels)
    assert torch.equal(batch.indices, ticket.indices)
    assert (batch.number, batch.version, batch.eps, batch.attack_seconds) == (1, 0, 0.0, 0.0)


def test_a_given_step_shrinks_with_the_radius_of_a_ticket():
    model, ticket = classifier(), tickets()[0]
    full = PGD(threat=Linf(eps=0.4), steps=1, step_size=0.08, start="none")
    quarter = TicketAttack(images=GREY, attack=full, device=CPU)
    batch = quarter(ticket, eps=0.1, version=0, logits_of=model)
    moved = (batch.adversarial - batch.images).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.02))
    assert full.at(0.4) == full
