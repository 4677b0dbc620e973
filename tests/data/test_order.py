from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.data import Order
from sparring.errors import ConfigError
from sparring.seeds import derive_seed

ORDERS = st.builds(
    Order,
    num_images=st.integers(1, 40),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**63 - 1),
)
law = settings(derandomize=True, max_examples=60)


def stream(order: Order, num_epochs: int) -> list[int]:
    """The images of the first epochs, in order, read ticket by ticket."""
    num_places = num_epochs * order.num_images
    num_tickets = -(-num_places // order.batch_size)
    tickets = (order.ticket(number).indices.tolist() for number in range(num_tickets))
    return list(chain.from_iterable(tickets))[:num_places]


@law
@given(ORDERS)
def test_every_epoch_uses_every_image_exactly_once(order):
    images = stream(order, 3)
    for epoch in range(3):
        places = slice(epoch * order.num_images, (epoch + 1) * order.num_images)
        assert sorted(images[places]) == list(range(order.num_images))


@law
@given(ORDERS, st.integers(0, 1000))
def test_every_batch_is_full(order, number):
    assert len(order.ticket(number).indices) == order.batch_size


@law
@given(ORDERS, st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_ticket_does_not_depend_on_the_tickets_asked_for_before(order, numbers):
    for number in numbers:
        fresh = Order(num_images=order.num_images, batch_size=order.batch_size, seed=order.seed)
        expected, found = fresh.ticket(number), order.ticket(number)
        assert torch.equal(expected.indices, found.indices)
        assert (expected.epoch, expected.position) == (found.epoch, found.position)
        assert expected.seed == found.seed


@law
@given(ORDERS, st.integers(0, 40))
def test_a_ticket_says_where_its_first_image_stands(order, number):
    ticket = order.ticket(number)
    place = ticket.epoch * order.num_images + ticket.position
    assert ticket.number == number
    assert place == number * order.batch_size
    assert 0 <= ticket.position < order.num_images
    assert stream(order, ticket.epoch + 1)[place] == ticket.indices[0]


@law
@given(ORDERS, st.integers(0, 200))
def test_the_attack_seed_is_that_of_the_place(order, number):
    ticket = order.ticket(number)
    assert ticket.seed == derive_seed(order.seed, "attack", ticket.epoch, ticket.position)


def test_an_epoch_is_the_permutation_of_its_derived_seed():
    for epoch in range(3):
        generator = torch.Generator().manual_seed(derive_seed(7, "order", epoch))
        expected = torch.randperm(50, generator=generator)
        assert torch.equal(
            Order(num_images=50, batch_size=50, seed=7).ticket(epoch).indices, expected
        )


def test_a_batch_may_begin_in_one_epoch_and_end_in_the_next():
    order = Order(num_images=10, batch_size=4, seed=3)
    first, second = (Order(num_images=10, batch_size=10, seed=3).ticket(e).indices for e in (0, 1))
    spanning = order.ticket(2)
    assert (spanning.epoch, spanning.position) == (0, 8)
    assert torch.equal(spanning.indices, torch.cat([first[8:], second[:2]]))


def test_other_seeds_and_other_epochs_give_other_orders():
    epochs = [
        tuple(Order(num_images=100, batch_size=100, seed=seed).ticket(epoch).indices.tolist())
        for seed in range(5)
        for epoch in range(5)
    ]
    assert len(set(epochs)) == 25


def test_different_tickets_have_different_attack_seeds():
    order = Order(num_images=100, batch_size=32, seed=0)
    assert len({order.ticket(number).seed for number in range(500)}) == 500


def test_changing_a_tickets_indices_changes_no_later_ticket():
    order = Order(num_images=8, batch_size=8, seed=0)
    before = order.ticket(0).indices.clone()
    order.ticket(0).indices.zero_()
    assert torch.equal(order.ticket(0).indices, before)


def test_the_global_random_state_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    Order(num_images=100, batch_size=32, seed=0).ticket(5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("field", ["num_images", "batch_size"])
def test_an_order_needs_images_and_batches(field):
    with pytest.raises(ConfigError, match=rf"{field} must be 1 or more; got 0"):
        Order(**({"num_images": 1, "batch_size": 1, "seed": 0} | {field: 0}))


def test_tickets_are_counted_from_nought():
    with pytest.raises(ConfigError, match=r"number must be 0 or more; got -1"):
        Order(num_images=1, batch_size=1, seed=0).ticket(-1)


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_the_parts_of_a_ticket_are_its_images_in_order_with_seeds_of_their_own(parts):
    ticket = Order(num_images=50, batch_size=13, seed=4).ticket(6)
    cut = [ticket.part(part, parts) for part in range(parts)]
    assert torch.equal(torch.cat([piece.indices for piece in cut]), ticket.indices)
    assert max(map(len, (piece.indices for piece in cut))) <= -(-13 // parts)
    assert len({ticket.seed, *(piece.seed for piece in cut)}) == parts + 1
    assert [piece.seed for piece in cut] == [ticket.part(p, parts).seed for p in range(parts)]
    assert ticket.part(0, 1) is ticket
