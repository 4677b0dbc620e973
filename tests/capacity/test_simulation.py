"""Simulated runs of one trainer and of several: as fast as the formula says, and no faster."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.capacity import Costs, MultiTrainerSimulation, Simulation, SimulationResult
from sparring.engine import FixedLag, Newest, Policy, Sharded, Sync
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


def simulated(
    policy: Policy, workers: int, *, steps: float = 8.0, **more: object
) -> SimulationResult:
    """Every attack takes `steps` seconds, every update one; 400 tickets."""
    costs = Costs(attack=steps, update=1.0)
    settings = {"tickets": 400, "helps": False, **more}
    return Simulation(costs=costs, workers=workers, policy=policy, **settings).run()


@pytest.mark.parametrize("steps", [2, 8, 40])
@pytest.mark.parametrize("workers", [1, 2, 4, 7, 8, 12])
def test_the_speed_up_is_the_formulas(steps, workers):
    """S(N) = (κ c + c_T) min(N / κ c, 1 / c_T), less what it takes to fill the pipeline."""
    run = simulated(FixedLag(lag=2 * workers + 3, split=1), workers, steps=steps)
    formula = (steps + 1) * min(workers / steps, 1)
    assert Costs(attack=steps, update=1).speed_up(workers, helps=False) == pytest.approx(formula)
    assert 0.97 * formula <= run.speed_up <= formula * (1 + 1e-9)


@pytest.mark.parametrize("steps", [8, 40])
@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_with_the_trainers_help_it_is_one_device_more(steps, workers):
    run = simulated(FixedLag(lag=2 * workers + 3, split=1), workers, steps=steps, helps=True)
    formula = Costs(attack=steps, update=1).speed_up(workers, helps=True)
    assert formula == pytest.approx(workers + 1)
    assert 0.95 * (workers + 1) <= run.speed_up <= workers + 1 + 1e-9


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize(("fresh", "split"), [(0.125, 1), (0.125, 2), (0.5, 2), (0.5, 4)])
def test_fresh_steps_are_a_ceiling_that_many_workers_reach(fresh, split, helps):
    """(κ c + c_T) / (c_T + what waits for the weights), which is shared by a ticket's parts."""
    costs = Costs(attack=8.0, update=1.0, lease=0.1, handover=0.02, publication=0.05)
    formula = replace(costs, lease=2 * costs.lease).chained(fresh, split)  # a lease of each kind
    for workers in (1, 2, 4, 12):
        run = Simulation(
            costs=costs,
            workers=workers,
            policy=FixedLag(lag=workers + 3, split=split),
            helps=helps,
            tickets=400,
            fresh=fresh,
        ).run()
        assert run.speed_up <= formula.speed_up(workers, helps=helps) * 1.01
        if workers == 12:
            assert run.speed_up == pytest.approx(formula.serial / formula.cycle, rel=0.02)


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize("fresh", [1, 2, 4])
def test_with_fresh_steps_of_the_trainer_the_limit_is_the_formulas(fresh, helps):
    """(κ + 1) / (F + 1), where weights are published rarely."""
    costs = PAPERS.finished_by_trainer(fresh / 8)
    assert costs.largest_speed_up == pytest.approx(9 / (fresh + 1))
    for workers in (1, 2, 4, 12):
        formula = costs.speed_up(workers, helps=helps)
        policy = Newest(credits=2 * workers + 4, period=50)
        run = simulated(policy, workers, fresh=fresh / 8, helps=helps)
        assert run.speed_up == pytest.approx(formula, rel=0.05)
        assert run.speed_up <= formula * (1 + 1e-9)


@pytest.mark.parametrize("policy", [Sync(), Sharded(split=2), Sharded(split=4)])
def test_in_step_all_of_an_attack_waits(policy):
    costs = Costs(attack=8.0, update=1.0, lease=0.1)
    run = Simulation(costs=costs, workers=4, policy=policy, helps=False, tickets=400).run()
    formula = costs.chained(1.0, policy.split).speed_up(4, helps=False)
    assert run.speed_up == pytest.approx(formula, rel=0.01)


def test_without_workers_the_trainer_does_it_all():
    run = simulated(FixedLag(lag=5, split=1), 0)
    assert run.speed_up == pytest.approx(1)
    assert run.trace == tuple((t, max(0, t - 5)) for t in range(400))


@pytest.mark.parametrize("helps", [False, True])
def test_in_shards_every_worker_does_its_part_of_every_ticket(helps):
    run = simulated(Sharded(split=4 + helps), 4, helps=helps)
    assert run.speed_up == pytest.approx((8 + 1) / (8 / (4 + helps) + 1), rel=0.01)
    assert set(run.ledger.staleness) == {0}


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_in_step_workers_change_nothing(workers, helps):
    run = simulated(Sync(), workers, helps=helps)
    assert run.trace == tuple((t, t) for t in range(400))


def test_a_starting_worker_keeps_no_ticket_from_the_trainer():
    """It takes leases only when it is up: until then the trainer attacks all by itself."""
    result = simulated(FixedLag(lag=8, split=1), 1, helps=True, arrival=90.0, tickets=10)
    assert result.seconds == pytest.approx(10 * (8 + 1))


def test_slow_and_dying_workers_cost_what_they_do_not_attack():
    """A quarter at half speed: 7/8 of the throughput; dying now and then loses a few leases.

    The window must hold what the others attack while a slow one works on two leases in turn.
    """
    policy = Newest(credits=80)
    even = simulated(policy, 16, steps=64.0, tickets=1000)
    uneven = simulated(policy, 16, steps=64.0, tickets=1000, slow=0.25, seed=1)
    dying = simulated(policy, 16, steps=64.0, tickets=1000, lifetime=640.0, arrival=1.0)
    assert 0.75 < uneven.speed_up / even.speed_up < 1
    assert dying.ledger.deaths > 50
    assert dying.ledger.leased == 1000 + dying.ledger.lost
    assert 0.7 < dying.speed_up / even.speed_up < 1


@settings(max_examples=25)
@given(run=runs)
def test_one_trainer_is_the_simulation_of_one(run):
    alone, together = run.run(), MultiTrainerSimulation.uniform(run, 1).run()
    assert together.trainers == (alone,)
    assert together.seconds == alone.seconds
    assert together.barrier == 0


@settings(max_examples=12)
@given(run=runs, trainers=st.integers(2, 5), exchange=st.floats(0, 3))
def test_trainers_that_are_alike_wait_for_nothing_but_the_exchange(run, trainers, exchange):
    """Any number of them is as fast as one whose update is longer by the exchange: T times one."""
    run = replace(run, spread=0.0, slow=0.0, lifetime=math.inf)
    longer = replace(run, costs=replace(run.costs, update=run.costs.update + exchange))
    together = MultiTrainerSimulation.uniform(run, trainers, all_reduce=exchange).run()
    alone, one = longer.run(), MultiTrainerSimulation.uniform(longer, 1).run()
    assert together.seconds == pytest.approx(alone.seconds)
    assert {trainer.trace for trainer in together.trainers} == {alone.trace}
    assert together.rate(0, 23) == pytest.approx(trainers * one.rate(0, 23))


def test_without_workers_the_exchange_adds_exactly_its_time():
    run = Simulation(costs=PAPERS, workers=0, policy=Newest(), tickets=50)
    free, costly = (
        MultiTrainerSimulation.uniform(run, 3, all_reduce=seconds).run() for seconds in (0.0, 0.75)
    )
    assert costly.seconds - free.seconds == pytest.approx(50 * 0.75)


@settings(max_examples=25)
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
        together = MultiTrainerSimulation(trainers=several).run()
        assert together.seconds >= max(run.run().seconds for run in several) * (1 - 1e-9)


def test_one_trainers_slow_or_dying_workers_make_all_wait():
    run = Simulation(costs=PAPERS, workers=4, policy=FixedLag(lag=9), tickets=100, helps=False)
    for worse in (replace(run, slow=1.0), replace(run, lifetime=40.0, restart=30.0)):
        together, alone = MultiTrainerSimulation(trainers=(run, worse, run)).run(), worse.run()
        assert alone.seconds > 1.2 * run.run().seconds
        assert together.seconds == pytest.approx(alone.seconds, rel=1e-9)
        assert together.barrier > 0.1


def test_a_replacement_takes_its_restart_and_the_first_workers_do_not():
    run = Simulation(costs=PAPERS, workers=2, policy=FixedLag(lag=5), helps=False, tickets=200)
    never = replace(run, restart=1e9).run()
    assert never.seconds == run.run().seconds
    quick, late = (
        replace(run, lifetime=100.0, restart=seconds, seed=3).run() for seconds in (0.0, 50.0)
    )
    assert late.seconds > 1.2 * quick.seconds


def test_trainers_with_different_numbers_of_tickets_are_refused():
    run = Simulation(costs=PAPERS, workers=1, policy=FixedLag())
    with pytest.raises(ConfigError, match="equal numbers of tickets"):
        MultiTrainerSimulation(trainers=(run, replace(run, tickets=3)))
