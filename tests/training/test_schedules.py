"""Schedules against their closed forms."""

import math

import pytest

from sparring.errors import ConfigError
from sparring.training import Constant, OneCycle, Steps, Triangular, WarmUp
from sparring.training.optimizers import Schedule

PLACES = [number / 997 for number in range(997)]


@pytest.mark.parametrize(
    "schedule", [Constant(), WarmUp(), Triangular(), OneCycle(), Steps(), WarmUp(share=1.0)]
)
def test_every_factor_lies_in_0_to_1_and_the_full_value_is_reached(schedule: Schedule) -> None:
    factors = [schedule(place) for place in PLACES]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=0.003)


def test_constant_is_one_everywhere() -> None:
    assert {Constant()(place) for place in PLACES} == {1.0}


@pytest.mark.parametrize(
    ("place", "factor"), [(0, 0.2), (0.1, 0.4), (0.2, 0.6), (0.4, 1.0), (0.41, 1.0), (0.99, 1.0)]
)
def test_warm_up_is_linear_and_then_constant(place: float, factor: float) -> None:
    assert WarmUp(share=0.4, start=0.2)(place) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("place", "factor"), [(0, 0), (0.1, 0.4), (0.25, 1.0), (0.5, 2 / 3), (0.75, 1 / 3), (1, 0)]
)
def test_triangular_goes_up_and_down_in_straight_lines(place: float, factor: float) -> None:
    assert Triangular(peak_at=0.25)(place) == pytest.approx(factor)


def test_triangular_may_begin_at_the_full_value() -> None:
    factors = [Triangular(peak_at=0.5, start=1.0)(place) for place in (0, 0.25, 0.5, 0.75, 1)]
    assert factors == pytest.approx([1, 1, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("place", "factor"),
    [
        (0, 0.1),
        (0.1, 0.1 + 0.9 * (1 - math.cos(math.pi / 4)) / 2),
        (0.2, 0.55),
        (0.4, 1.0),
        (0.7, (1 + 0.02) / 2),
        (1, 0.02),
    ],
)
def test_one_cycle_follows_half_cosines(place: float, factor: float) -> None:
    assert OneCycle(peak_at=0.4, start=0.1, end=0.02)(place) == pytest.approx(factor)


def test_steps_multiply_at_each_place() -> None:
    steps = Steps(at=(0.5, 0.75), factor=0.2)
    factors = [steps(place) for place in (0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert factors == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (WarmUp, {"share": 0.0}, r"share must lie in \(0, 1\].*got 0"),
        (WarmUp, {"start": 1.5}, r"start must lie in \[0, 1\].*got 1.5"),
        (Triangular, {"peak_at": 1.0}, r"peak_at must lie in \(0, 1\).*got 1"),
        (OneCycle, {"end": -0.1}, r"end must lie in \[0, 1\].*got -0.1"),
        (Steps, {"at": (0.7, 0.5)}, r"at must rise"),
        (Steps, {"factor": float("nan")}, r"factor must lie in \(0, 1\).*got nan"),
    ],
)
def test_places_and_factors_outside_their_range_are_refused(
    kind: type, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)
