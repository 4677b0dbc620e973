"""The time left, from the cost of passes: a constant and a slope, by synthetic clocks only."""

import time
from collections.abc import Iterator, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks import PGD, Linf
from sparring.evaluation import Progress, Suite, evaluate
from sparring.evaluation.progress import Ahead, Pace, watched

Cost = tuple[float, float]
"""Seconds of a pass: a constant, and a slope for each image."""

costs = st.tuples(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
sizes = st.lists(st.integers(1, 256), min_size=1, max_size=5)


def seen(pace: Pace, part: int, cost: Cost, passes: list[int], weight: float = 1.0) -> Pace:
    for images in passes:
        pace.measured(part, weight, images, weight * (cost[0] + cost[1] * images))
    return pace


def of(cost: Cost, ahead: Mapping[int, Ahead]) -> float:
    return sum(one.effort * (cost[0] / one.images + cost[1]) for one in ahead.values())


@settings(max_examples=30)
@given(cost=costs, passes=sizes, weight=st.sampled_from([1.0, 1 / 3]), images=st.integers(1, 256))
def test_once_two_sizes_were_seen_any_other_is_foretold(
    cost: Cost, passes: list[int], weight: float, images: int
) -> None:
    """Of the part itself, and of one that has not begun."""
    pace = seen(Pace(), 0, cost, [*passes, 8, 200], weight)
    ahead = {0: Ahead(30.0 * images, images), 5: Ahead(7.0 * images, images)}
    assert pace.left(ahead) == pytest.approx(of(cost, ahead), rel=1e-6)


@settings(max_examples=30)
@given(cost=costs, factor=st.floats(0.2, 5), passes=sizes, images=st.integers(1, 256))
def test_a_part_of_one_size_of_pass_has_the_shape_of_the_others(
    cost: Cost, factor: float, passes: list[int], images: int
) -> None:
    pace = seen(Pace(), 0, cost, [*passes, 8, 200])
    slower = (factor * cost[0], factor * cost[1])
    seen(pace, 1, slower, [64, 64])
    ahead = {1: Ahead(10.0 * images, images)}
    assert pace.left(ahead) == pytest.approx(of(slower, ahead), rel=1e-6)


@settings(max_examples=30)
@given(seconds=st.lists(st.floats(0, 10), min_size=3, max_size=3), images=st.integers(1, 256))
def test_no_time_is_negative_whatever_was_measured(seconds: list[float], images: int) -> None:
    pace = Pace()
    assert pace.left({0: Ahead(3.0, images)}) is None
    for size, took in zip((4, 64, 128), seconds, strict=True):
        pace.measured(0, 1.0, size, took)
    left = pace.left({0: Ahead(3.0, images), 1: Ahead(2.0, 2), 2: Ahead()})
    assert left is not None
    assert left >= 0


def test_the_first_pass_is_forgotten_with_the_second() -> None:
    pace = seen(Pace(), 0, (90.0, 9.0), [100])
    assert pace.left({0: Ahead(100.0, 100)}) == pytest.approx(990)
    seen(pace, 1, (1.0, 0.1), [50, 100])
    assert pace.left({0: Ahead(100.0, 100)}) == pytest.approx(11)
    assert pace.effort == 250


class Timed(nn.Module):
    """A linear network whose passes advance a clock by a constant and a slope."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.layer, self.cost, self.now = nn.Linear(16, 2), cost, 0.0
        with torch.no_grad():
            self.layer.weight.copy_(torch.stack([torch.ones(16), torch.zeros(16)]))
            self.layer.bias.copy_(torch.tensor([-8.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        self.now += self.cost[0] + self.cost[1] * len(images)
        return self.layer(images.flatten(1))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Timed]:
    found = Timed((1.0, 0.01)).eval()
    monkeypatch.setattr(time, "perf_counter", lambda: found.now)
    yield found


def test_with_few_images_left_the_estimate_is_that_of_few(model: Timed) -> None:
    """Of 100 images two stay robust: passes of two cost 1.02 s, those of 100 cost 2 s.

    By the mean cost of an image in the passes so far, the rest would seem to take far longer.
    """
    distance = torch.cat([torch.full((98,), 0.01), torch.tensor([0.45, 0.49])])
    images = (0.5 + distance)[:, None, None, None].expand(100, 1, 4, 4).clone()
    labels = torch.zeros(100, dtype=torch.int64)
    steps = (PGD(steps=10), PGD(steps=30), PGD(steps=40, loss="margin"))
    suite = Suite(name="own", summary="", attacks=steps)
    seen: list[tuple[Progress, float]] = []
    threat = Linf(eps=0.1)
    evaluate(
        model,
        images,
        labels,
        threat,
        suite=suite,
        precision="fp32",
        checks=False,
        progress=lambda now: seen.append((now, model.now)),
    )
    end = seen[-1][1]
    late = [(now, at) for now, at in seen if now.robust == 2 and now.number > 1]
    assert len(late) > 60
    for now, at in late:  # the judge's passes at the end of a search are not foreseen
        assert now.left == pytest.approx(end - at, rel=0.1, abs=2.1)
    assert seen[-1][0].effort == 10 * 100 + 30 * 2 + 40 * 2


def test_the_first_estimate_waits_for_more_than_the_certificate_and_one_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def now(spent: float, left: float | None, number: int = 1) -> Progress:
        name = "pgd" if number else "certificate"
        return Progress(
            attack=name, number=number, of=2, share=0.1, robust=9, total=9, left=left, spent=spent
        )

    with watched(progress=True) as observer:
        assert observer is not None
        for seen_now in (now(50.0, None, 0), now(50.1, 4000.0), now(50.9, 70.0), now(51.3, 60.0)):
            observer(seen_now)
    said = "".join(capsys.readouterr())
    assert "9 images: 1 min 51 s in all" in said
    assert said.count("in all") == 1
