"""Plans: the fleet on virtual clocks keeps to its laws, the formula to the fleet, plans to both."""

import math
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.engine import Costs, FixedLag, Newest, Simulation
from sparring.engine.fleet import Fleet
from sparring.engine.layouts import CHECKPOINT, AllReduce, Layout, Site, rate, uptime
from sparring.engine.outlook import look
from sparring.engine.planning import Order, plan, saturation
from sparring.errors import ConfigError

PAPERS = Costs(attack=8.0, update=1.0)
"""κ = 8, in updates."""

runs = st.builds(
    Simulation,
    costs=st.builds(
        Costs, attack=st.floats(0.5, 20), update=st.floats(0.5, 2), publication=st.floats(0, 0.5)
    ),
    workers=st.integers(0, 4),
    policy=st.builds(FixedLag, lag=st.integers(1, 8))
    | st.builds(Newest, credits=st.integers(2, 9)),
    helps=st.booleans(),
    tickets=st.just(24),
    spread=st.floats(0, 0.3),
    slow=st.floats(0, 1),
    lifetime=st.just(math.inf) | st.floats(20, 200),
    arrival=st.floats(0, 5),
    seed=st.integers(0, 9),
)


@settings(max_examples=25, deadline=None)
@given(run=runs)
def test_a_fleet_of_one_is_the_simulation(run):
    alone, fleet = run.play(), Fleet.even(run, 1).play()
    assert fleet.trainers == (alone,)
    assert fleet.seconds == alone.seconds
    assert fleet.barrier == 0


@settings(max_examples=12, deadline=None)
@given(run=runs, trainers=st.integers(2, 5), exchange=st.floats(0, 3))
def test_trainers_that_are_alike_wait_for_nothing_but_the_exchange(run, trainers, exchange):
    """Any number of them is as fast as one whose update is longer by the exchange: T times one."""
    run = replace(run, spread=0.0, slow=0.0, lifetime=math.inf)
    longer = replace(run, costs=replace(run.costs, update=run.costs.update + exchange))
    fleet, alone = Fleet.even(run, trainers, all_reduce=exchange).play(), longer.play()
    assert fleet.seconds == pytest.approx(alone.seconds)
    assert {trainer.trace for trainer in fleet.trainers} == {alone.trace}
    assert fleet.rate(0, 23) == pytest.approx(trainers * Fleet.even(longer, 1).play().rate(0, 23))


def test_without_workers_the_exchange_adds_exactly_its_time():
    run = Simulation(costs=PAPERS, workers=0, policy=Newest(), tickets=50)
    free, dear = (Fleet.even(run, 3, all_reduce=seconds).play() for seconds in (0.0, 0.75))
    assert dear.seconds - free.seconds == pytest.approx(50 * 0.75)


@settings(max_examples=25, deadline=None)
@given(several=st.lists(runs, min_size=2, max_size=4))
def test_together_they_are_no_faster_than_the_slowest_alone(several):
    """True of attacks that all take as long: an update that comes later begins none any earlier.

    Where they differ, a lease that begins at another moment meets a faster worker, a luckier draw
    or an idle trainer, and the whole may end sooner: scheduling's anomaly (Graham 1969).
    """
    alike: dict[str, Any] = dict(spread=0.0, slow=0.0, lifetime=math.inf, helps=False)
    several = tuple(
        replace(run, policy=FixedLag(lag=6, split=1), **alike) for run in several if run.workers
    )
    if several:
        fleet = Fleet(trainers=several).play()
        assert fleet.seconds >= max(run.play().seconds for run in several) * (1 - 1e-9)


def test_one_trainers_slow_or_dying_workers_make_all_wait():
    run = Simulation(costs=PAPERS, workers=4, policy=FixedLag(lag=9), tickets=100, helps=False)
    for worse in (replace(run, slow=1.0), replace(run, lifetime=40.0, restart=30.0)):
        fleet, alone = Fleet(trainers=(run, worse, run)).play(), worse.play()
        assert alone.seconds > 1.2 * run.play().seconds
        assert fleet.seconds == pytest.approx(alone.seconds, rel=1e-9)
        assert fleet.barrier > 0.1


def test_a_replacement_takes_its_restart_and_the_first_workers_do_not():
    run = Simulation(costs=PAPERS, workers=2, policy=FixedLag(lag=5), helps=False, tickets=200)
    never = replace(run, restart=1e9).play()
    assert never.seconds == run.play().seconds
    quick, late = (
        replace(run, lifetime=100.0, restart=seconds, seed=3).play() for seconds in (0.0, 50.0)
    )
    assert late.seconds > 1.2 * quick.seconds


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize("steps", [8, 40])
def test_the_formula_is_what_even_trainers_do(steps, helps):
    """Within 2 %, or 5 % where trainers help, who attack half a batch or nothing."""
    costs = Costs(attack=steps, update=1.0, lease=0.1, handover=0.02, publication=0.05)
    site = Site(costs=costs, all_reduce=AllReduce(given=0.5), spread=0.0, helps=helps)
    for trainers, workers in ((5, 0), (1, 3), (1, 8), (4, 4), (64, 12)):
        layout = Layout(trainers=trainers, workers=workers, lag=workers + 3 if workers else 0)
        found = look(site, layout, sampled=120 * trainers)
        assert found.simulated == pytest.approx(rate(site, layout), rel=0.05 if helps else 0.02)
        assert found.staleness_max == layout.policy.bound == layout.lag


def test_slow_workers_and_trainers_are_in_the_formula():
    slow = Site(costs=PAPERS, slow=0.25, spread=0.0, all_reduce=AllReduce(given=0.5))
    without = Layout(trainers=8, workers=0)
    assert rate(slow, without) == pytest.approx(8 / (2 * 9 + 0.5))
    assert look(slow, without, sampled=1).simulated == pytest.approx(8 / (2 * 9 + 0.5))
    waits = replace(slow, helps=False)
    found = look(waits, Layout(trainers=2, workers=4, lag=13), sampled=160)
    assert found.formula == pytest.approx(2 * 3.5 / 8)
    assert found.simulated == pytest.approx(found.formula, rel=0.05)


def test_the_time_lost_to_trainers_failures_is_what_a_run_of_them_loses():
    """The slow reference goes through failures one by one, each at its own time."""
    layout, random = Layout(trainers=20, workers=1, lag=4), Random(0)
    site = Site(costs=PAPERS, lifetime=2e5, restart=300.0)
    updates_a_second, target = 0.5, 400 * CHECKPOINT
    spent, done = 0.0, 0.0
    while done < target:
        until = random.expovariate(layout.trainers / site.lifetime)
        made = min(until * updates_a_second, target - done)
        spent += made / updates_a_second
        done += made
        if done < target:
            done -= done % CHECKPOINT
            spent += site.restart
    share = target / updates_a_second / spent
    assert uptime(site, layout, updates_a_second) == pytest.approx(share, rel=0.03)


def test_a_ring_sends_each_byte_nearly_twice():
    """Patarasu and Yuan: 2 (T - 1) / T of the gradient over every link, 2 (T - 1) messages."""
    assert AllReduce(latency=1.0, transfer=5.0).seconds(1) == 0
    assert AllReduce(transfer=6.0).seconds(3) == pytest.approx(8.0)
    assert AllReduce(latency=1.0).seconds(3) == pytest.approx(4.0)
    assert AllReduce(given=2.5, latency=9.0).seconds(100) == 2.5


@pytest.mark.parametrize("steps", [2, 8])
def test_it_saturates_where_going_through_every_layout_says(steps):
    """The reference knows the formula of even devices without overheads, helped by trainers."""
    exchange = 0.3
    order = Order(
        site=Site(costs=Costs(attack=steps, update=1.0), all_reduce=AllReduce(given=exchange)),
        max_trainers=5,
    )

    def reference(trainers: int, workers: int) -> float:
        own = 1 + (exchange if trainers > 1 else 0)
        return trainers * min((1 + workers) / (steps + own), 1 / own)

    sizes = [(t, n) for t in range(1, 6) for n in range(30)]
    best = max(reference(t, n) for t, n in sizes)
    least = min(t * (1 + n) for t, n in sizes if reference(t, n) * 1.02 >= best)
    found = saturation(order)
    assert found.layout.devices == least
    assert found.rate == pytest.approx(best, rel=0.02)
    assert found.why == "trainers"


def test_more_trainers_stop_gaining_where_they_exchange_or_fail_for_longer():
    ring = Site(costs=PAPERS, all_reduce=AllReduce(latency=0.1, transfer=0.1))
    assert saturation(Order(site=ring, max_trainers=200)).why == "all-reduce"
    failing = Site(costs=PAPERS, lifetime=3e4, restart=60.0)
    assert saturation(Order(site=failing, max_trainers=500)).why == "failures"


def test_more_devices_are_never_slower():
    site = Site(
        costs=PAPERS,
        all_reduce=AllReduce(latency=1e-3, transfer=0.5),
        slow=0.1,
        lifetime=1e6,
        restart=60.0,
    )
    orders = [Order(site=site, devices=n, max_trainers=3, sampled=90) for n in (1, 2, 5, 9, 16)]
    plans = [plan(order) for order in orders]
    for fewer, more in pairwise(plans):
        assert more.chosen.formula >= 0.98 * fewer.chosen.formula
        assert more.chosen.simulated >= 0.98 * fewer.chosen.simulated
    (alone,) = plans[0].outlooks
    assert plans[0].speed_up(alone.simulated) == pytest.approx(
        uptime(site, alone.layout, 1 / 9), rel=0.02
    )


@settings(max_examples=6, deadline=None)
@given(
    devices=st.integers(1, 9),
    steps=st.integers(1, 30),
    max_staleness=st.integers(0, 6),
    max_trainers=st.integers(1, 3),
    slow=st.floats(0, 0.5),
)
def test_a_plan_keeps_to_its_limits(devices, steps, max_staleness, max_trainers, slow):
    order = Order(
        site=Site(costs=Costs(attack=steps, update=1.0), slow=slow),
        devices=devices,
        max_staleness=max_staleness,
        max_trainers=max_trainers,
        sampled=1,
    )
    found = plan(order)
    assert found.chosen in found.outlooks
    for seen in found.outlooks:
        assert seen.layout.devices <= devices
        assert seen.layout.trainers <= max_trainers
        assert seen.staleness_max <= seen.layout.policy.bound <= max_staleness
        assert 0 <= seen.worker_busy <= 1
        assert seen.trainer_updates + seen.trainer_helps + seen.trainer_barrier <= 1 + 1e-9


def test_what_holds_a_layout_back_is_named():
    def held(layout: Layout, **more: Any) -> str:
        site = Site(costs=PAPERS, **more)
        return look(site, layout, sampled=60 * layout.trainers).bottleneck

    assert held(Layout(trainers=1, workers=2, lag=5)) == "attacks"
    assert held(Layout(trainers=1, workers=12, lag=15)) == "updates"
    assert held(Layout(trainers=1, workers=6, lag=2), helps=False, spread=0.0) == "staleness"
    exchange = AllReduce(given=3.0)
    assert held(Layout(trainers=4, workers=8, lag=11), all_reduce=exchange) == "all-reduce"
    assert held(Layout(trainers=4, workers=0), slow=0.25) == "barrier"


def test_what_cannot_be_planned_is_refused():
    site = Site(costs=PAPERS)
    for wrong in ({"devices": 0}, {"max_staleness": -1}, {"devices": 20_000}):
        with pytest.raises(ConfigError, match=r"devices|max_staleness"):
            replace(Order(site=site), **wrong)
    for wrong in ({"slow": 0.6}, {"lifetime": 0.0}, {"restart": -1.0}):
        with pytest.raises(ConfigError, match=r"share of a half|time between failures"):
            replace(site, **wrong)
    with pytest.raises(ConfigError, match=r"all_reduce\.latency must be a time"):
        AllReduce(latency=-1.0)
    run = Simulation(costs=PAPERS, workers=1, policy=FixedLag())
    with pytest.raises(ConfigError, match="all of as many tickets"):
        Fleet(trainers=(run, replace(run, tickets=3)))
