"""Plans: the formula agrees with the simulation, and plans keep to both and to their limits."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.capacity import (
    AllReduce,
    Costs,
    Layout,
    PlanRequest,
    Site,
    forecast,
    plan,
    saturation,
)
from sparring.capacity.formula import rate, uptime
from sparring.errors import ConfigError

PAPERS = Costs(attack=8.0, update=1.0)
"""κ = 8, in updates."""


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize("steps", [8, 40])
def test_the_formula_is_what_even_trainers_do(steps, helps):
    """Within 2 %, or 5 % where trainers help: each attacks half a batch or nothing."""
    costs = Costs(attack=steps, update=1.0, lease=0.1, handover=0.02, publication=0.05)
    site = Site(costs=costs, all_reduce=AllReduce(given=0.5), spread=0.0, helps=helps)
    for trainers, workers in ((5, 0), (1, 3), (1, 8), (4, 4), (64, 12)):
        layout = Layout(trainers=trainers, workers=workers, lag=workers + 3 if workers else 0)
        found = forecast(site, layout, sampled=120 * trainers)
        assert found.simulated == pytest.approx(rate(site, layout), rel=0.05 if helps else 0.02)
        assert found.staleness_max == layout.policy.bound == layout.lag


def test_slow_workers_and_trainers_are_in_the_formula():
    slow = Site(costs=PAPERS, slow=0.25, spread=0.0, all_reduce=AllReduce(given=0.5))
    without = Layout(trainers=8, workers=0)
    assert rate(slow, without) == pytest.approx(8 / (2 * 9 + 0.5))
    assert forecast(slow, without, sampled=1).simulated == pytest.approx(8 / (2 * 9 + 0.5))
    waits = replace(slow, helps=False)
    found = forecast(waits, Layout(trainers=2, workers=4, lag=13), sampled=160)
    assert found.formula == pytest.approx(2 * 3.5 / 8)
    assert found.simulated == pytest.approx(found.formula, rel=0.05)


@pytest.mark.parametrize("steps", [2, 8])
def test_it_saturates_where_going_through_every_layout_says(steps):
    """The reference knows the formula of even devices without overheads, helped by trainers."""
    exchange = 0.3
    request = PlanRequest(
        site=Site(costs=Costs(attack=steps, update=1.0), all_reduce=AllReduce(given=exchange)),
        max_trainers=5,
    )

    def reference(trainers: int, workers: int) -> float:
        own = 1 + (exchange if trainers > 1 else 0)
        return trainers * min((1 + workers) / (steps + own), 1 / own)

    sizes = [(t, n) for t in range(1, 6) for n in range(30)]
    best = max(reference(t, n) for t, n in sizes)
    least = min(t * (1 + n) for t, n in sizes if reference(t, n) * 1.02 >= best)
    found = saturation(request)
    assert found.layout.devices == least
    assert found.rate == pytest.approx(best, rel=0.02)
    assert found.why == "trainers"


def test_more_trainers_stop_gaining_where_they_exchange_or_fail_for_longer():
    ring = Site(costs=PAPERS, all_reduce=AllReduce(latency=0.1, transfer=0.1))
    assert saturation(PlanRequest(site=ring, max_trainers=200)).why == "all-reduce"
    failing = Site(costs=PAPERS, lifetime=3e4, restart=60.0)
    assert saturation(PlanRequest(site=failing, max_trainers=500)).why == "failures"


def test_more_devices_are_never_slower():
    site = Site(
        costs=PAPERS,
        all_reduce=AllReduce(latency=1e-3, transfer=0.5),
        slow=0.1,
        lifetime=1e6,
        restart=60.0,
    )
    requests = [
        PlanRequest(site=site, devices=n, max_trainers=3, sampled=90) for n in (1, 2, 5, 9, 16)
    ]
    plans = [plan(request) for request in requests]
    for fewer, more in pairwise(plans):
        assert more.chosen.formula >= 0.98 * fewer.chosen.formula
        assert more.chosen.simulated >= 0.98 * fewer.chosen.simulated
    (alone,) = plans[0].forecasts
    assert plans[0].speed_up(alone.simulated) == pytest.approx(
        uptime(site, alone.layout, 1 / 9), rel=0.02
    )


@settings(max_examples=6)
@given(
    devices=st.integers(1, 9),
    steps=st.integers(1, 30),
    max_staleness=st.integers(0, 6),
    max_trainers=st.integers(1, 3),
    slow=st.floats(0, 0.5),
)
def test_a_plan_keeps_to_its_limits(devices, steps, max_staleness, max_trainers, slow):
    request = PlanRequest(
        site=Site(costs=Costs(attack=steps, update=1.0), slow=slow),
        devices=devices,
        max_staleness=max_staleness,
        max_trainers=max_trainers,
        sampled=1,
    )
    found = plan(request)
    assert found.chosen in found.forecasts
    for seen in found.forecasts:
        assert seen.layout.devices <= devices
        assert seen.layout.trainers <= max_trainers
        assert seen.staleness_max <= seen.layout.policy.bound <= max_staleness
        assert 0 <= seen.worker_busy <= 1
        assert seen.trainer_updates + seen.trainer_helps + seen.trainer_barrier <= 1 + 1e-9


def test_what_holds_a_layout_back_is_named():
    def held(layout: Layout, **more: Any) -> str:
        site = Site(costs=PAPERS, **more)
        return forecast(site, layout, sampled=60 * layout.trainers).bottleneck

    assert held(Layout(trainers=1, workers=2, lag=5)) == "attacks"
    assert held(Layout(trainers=1, workers=12, lag=15)) == "updates"
    assert held(Layout(trainers=1, workers=6, lag=2), helps=False, spread=0.0) == "staleness"
    exchange = AllReduce(given=3.0)
    assert held(Layout(trainers=4, workers=8, lag=11), all_reduce=exchange) == "all-reduce"
    assert held(Layout(trainers=4, workers=0), slow=0.25) == "barrier"


@pytest.mark.parametrize(
    ("attack", "update", "named"), [(8.0, 1.0, "attacks"), (1.0, 10.0, "updates")]
)
@pytest.mark.parametrize("trainers", [1, 4])
def test_without_workers_the_longest_part_of_an_update_is_named(attack, update, named, trainers):
    site = Site(costs=Costs(attack=attack, update=update), all_reduce=AllReduce(given=0.5))
    assert forecast(site, Layout(trainers=trainers, workers=0), sampled=60).bottleneck == named


def test_what_cannot_be_planned_is_refused():
    site = Site(costs=PAPERS)
    for wrong in ({"devices": 0}, {"max_staleness": -1}, {"devices": 20_000}):
        with pytest.raises(ConfigError, match=r"devices|max_staleness"):
            replace(PlanRequest(site=site), **wrong)
    for wrong in ({"slow": 0.6}, {"lifetime": 0.0}, {"restart": -1.0}):
        with pytest.raises(ConfigError, match=r"must lie in"):
            replace(site, **wrong)
    with pytest.raises(ConfigError, match=r"all_reduce\.latency must lie in \[0, inf\); got -1"):
        AllReduce(latency=-1.0)
