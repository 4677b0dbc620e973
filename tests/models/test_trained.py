"""What a network is known by: that it sees what no state_dict holds, and nothing else."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.errors import ConfigError, OtherNetwork
from sparring.models import PaperNetwork, SmallNetwork, drawing_from
from sparring.models.trained import (
    TOLERANCE,
    Fingerprint,
    check_fingerprint,
    fingerprint,
    patterns,
)
from sparring.records import from_json, to_json

SHAPE = (1, 8, 8)


class Permuted(nn.Module):
    """Its order of pixels is in no state_dict."""

    def __init__(self, order: Tensor, noise: float = 0.0) -> None:
        super().__init__()
        self.order, self.noise, self.calls = order, noise, 0
        self.norm = nn.BatchNorm1d(64)
        self.layer = nn.Linear(64, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        torch.rand(3)
        np.random.rand(3)
        random.random()
        moved = self.noise * self.calls + self.noise * np.random.default_rng().random()
        return self.layer(self.norm(images.flatten(1)[:, self.order])) + moved


def permuted(order: int, weights: int = 0, noise: float = 0.0) -> Permuted:
    chosen = torch.randperm(64, generator=torch.Generator().manual_seed(order))
    with drawing_from(weights):
        return Permuted(chosen, noise)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_what_the_state_dict_does_not_hold_is_seen(one: int, other: int) -> None:
    stored = fingerprint(permuted(one), SHAPE)
    check_fingerprint(permuted(one), stored, "here")
    if one != other:
        with pytest.raises(OtherNetwork, match=r"here: .* is not the one that was trained"):
            check_fingerprint(permuted(other), stored, "here")
        with pytest.raises(OtherNetwork, match="differ by"):
            check_fingerprint(permuted(one, weights=other + 1), stored, "here")


def state_of_numpy() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"].copy()


def test_taking_it_moves_nothing() -> None:
    network = permuted(0).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    states = torch.get_rng_state(), state_of_numpy()
    fingerprint(network, SHAPE)
    assert network.calls == 0
    assert network.training
    assert network.norm.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(state_of_numpy(), states[1])


def test_it_is_of_evaluation_mode_and_single_precision() -> None:
    network = permuted(3)
    known = fingerprint(network.train(), SHAPE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fingerprint(network.eval(), SHAPE) == known


def test_a_network_that_differs_from_itself_is_told_so() -> None:
    network = permuted(0, noise=1.0)
    with pytest.raises(OtherNetwork, match="differ from one pass to the next"):
        check_fingerprint(network, fingerprint(network, SHAPE), "here")


def test_a_rounding_is_no_difference_and_a_tenth_of_a_percent_is() -> None:
    known = fingerprint(PaperNetwork().build(0), (1, 28, 28))
    largest = max(abs(logit) for row in known.logits for logit in row if logit is not None)

    def moved(by: float) -> Fingerprint:
        rows = tuple(tuple((logit or 0.0) + by * largest for logit in row) for row in known.logits)
        return Fingerprint(shape=known.shape, logits=rows)

    assert known.difference(moved(TOLERANCE / 100)) < TOLERANCE < known.difference(moved(2e-3))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_compared_by_place(wrong: float) -> None:
    class Odd(nn.Module):
        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

        def forward(self, images: Tensor) -> Tensor:
            logits = images.flatten(1)[:, :3].clone()
            logits[:, self.column] = wrong
            return logits

    known = fingerprint(Odd(0), SHAPE)
    assert from_json(Fingerprint, to_json(known), where="here") == known
    check_fingerprint(Odd(0), known, "here")
    with pytest.raises(OtherNetwork):
        check_fingerprint(Odd(1), known, "here")


def test_a_network_that_fails_on_them_is_only_itself() -> None:
    class Picky(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("not such images")

    known = fingerprint(Picky(), SHAPE)
    check_fingerprint(Picky(), known, "here")
    with pytest.raises(OtherNetwork, match="another number"):
        check_fingerprint(permuted(0), known, "here")


@given(st.tuples(*[st.integers(1, 9)] * 3))
def test_the_images_are_the_same_everywhere(shape: tuple[int, int, int]) -> None:
    images = patterns(shape)
    assert images.shape == (4, *shape)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(images, patterns(shape))


def test_the_images_are_the_published_ones() -> None:
    first = (patterns((1, 2, 2))[0] * 255).round().int().flatten().tolist()
    assert first == FIRST


FIRST = [180, 64, 120, 19]


@pytest.mark.parametrize("shape", [(0, 8, 8), (1, 10**9, 10**9), (-1, 8, 8)])
def test_a_damaged_shape_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="shape of a fingerprint"):
        Fingerprint(shape=shape, logits=())


def test_a_seed_scope_covers_all_three_generators_and_leaves_none_changed() -> None:
    def seed_all() -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)

    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    seed_all()
    outside = drawn()
    seed_all()
    with drawing_from(2**63 - 1):
        one = drawn()
    with pytest.raises(KeyError), drawing_from(2**63 - 1):
        assert drawn() == one
        raise KeyError
    with drawing_from(7):
        assert all(a != b for a, b in zip(drawn(), one, strict=True))
    assert drawn() == outside


def test_a_built_in_network_keeps_its_fingerprint_over_copies() -> None:
    network = SmallNetwork(channels=3, num_classes=4, width=2).build(3)
    assert fingerprint(network, (3, 9, 9)) == fingerprint(network.eval(), (3, 9, 9))
