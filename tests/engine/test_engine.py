"""The engine on a virtual clock: every ticket is trained once, whatever dies or hangs."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.capacity import SimulatedTransport, VirtualClock
from sparring.engine import Broker, Engine, FixedLag, Lease, Newest, Policy, Work
from sparring.engine.transports.slow_link import Link, SlowTransport


@dataclass
class Disturbed:
    """A run whose workers die at given times and hang at given leases."""

    policy: Policy
    workers: int
    helps: bool
    crashes: list[float] = field(default_factory=list)
    hangs: set[int] = field(default_factory=set)
    link: Link | None = None
    trained: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.transport = SimulatedTransport(self.clock, self.cost, arrival=2.0)
        self.broker = Broker(self.policy, tickets=40)
        self.buffers: dict[int, int] = {}

    def cost(self, lease: Lease) -> float:
        return math.inf if lease.number in self.hangs else 8.0

    def publish(self, buffer: int) -> None:
        self.buffers[buffer] = self.broker.trained

    def attack(self, lease: Lease) -> Work:
        assert self.buffers[lease.buffer] == lease.version
        self.clock.advance(8.0)
        return Work(attack=8.0)

    def work(self) -> list[tuple[int, int]]:
        transport = self.transport
        if self.link is not None:
            transport = SlowTransport(self.transport, self.link, self.clock)
        engine = Engine(
            self.broker,
            transport,
            self,
            workers=self.workers,
            helps=self.helps,
            clock=self.clock,
        )
        for ready in engine:
            self.trained.append((ready.ticket, ready.version))
            self.clock.advance(1.0)
            while self.crashes and self.crashes[0] <= self.clock.now:
                self.crashes.pop(0)
                for worker in self.transport.workers[:1]:
                    self.transport.kill(worker)
        return self.trained


@settings(max_examples=25)
@given(
    lag=st.integers(0, 9),
    period=st.integers(1, 3),
    workers=st.integers(0, 4),
    helps=st.booleans(),
    crashes=st.lists(st.floats(0, 300), max_size=12),
    hangs=st.sets(st.integers(1, 60), max_size=2),
    link=st.none() | st.just(Link(seconds_per_byte=0.5, latency=3.0, weights=9, images=4)),
)
def test_versions_depend_on_nothing_that_happens(  # noqa: PLR0913 - all that may happen
    lag, period, workers, helps, crashes, hangs, link
):
    """Whoever works, helps, dies or hangs: every ticket once, in order, at its own version."""
    policy = FixedLag(lag=lag, period=period, split=1)
    run = Disturbed(policy, workers, helps, sorted(crashes), hangs, link)
    assert run.work() == [(t, max(0, t - lag) // period * period) for t in range(40)]
    assert max(run.broker.ledger.staleness) <= policy.bound
    assert not run.broker.out
    assert not run.transport.workers


@settings(max_examples=15)
@given(
    credits=st.integers(1, 12),
    period=st.integers(1, 9),
    workers=st.integers(1, 4),
    crashes=st.lists(st.floats(0, 300), max_size=12),
)
def test_the_newest_weights_keep_to_their_bound(credits, period, workers, crashes):
    policy = Newest(credits=credits, period=period)
    run = Disturbed(policy, workers, helps=False, crashes=sorted(crashes))
    run.work()
    assert [ticket for ticket, _ in run.trained] == list(range(40))
    assert all(0 <= ticket - version <= policy.bound for ticket, version in run.trained)


def test_a_hanging_worker_is_killed_and_its_ticket_given_out_again(caplog):
    run = Disturbed(FixedLag(lag=8, split=1), workers=2, helps=False, hangs={3})
    assert len(run.work()) == 40
    assert run.broker.ledger.lost >= 1
    assert any("it is killed" in record.message for record in caplog.records)


def test_a_worker_that_never_comes_up_is_killed_and_replaced(caplog):
    run = Disturbed(FixedLag(lag=4, split=1), workers=1, helps=False)
    run.transport = SimulatedTransport(run.clock, run.cost, arrival=1000.0)
    assert len(run.work()) == 40
    assert "was not up after 300 s; it is killed" in caplog.text
    assert "no worker is left" in caplog.text


def test_who_came_up_while_the_trainer_was_busy_is_not_late():
    run = Disturbed(FixedLag(lag=4, split=1), workers=1, helps=False)
    engine = Engine(run.broker, run.transport, run, workers=1, helps=False, clock=run.clock)
    run.clock.advance(1000.0)
    next(engine)
    assert run.broker.ledger.deaths == 0


def test_the_trainers_time_for_workers_is_told():
    """A publication takes it 2 s, a lease 1 s; the first of both come before any commit."""
    run = Disturbed(FixedLag(lag=0, split=1), workers=1, helps=False)
    submit = run.transport.submit

    def slowly(lease: Lease) -> None:
        run.clock.advance(1.0)
        submit(lease)

    run.transport.submit = slowly  # pyright: ignore[reportAttributeAccessIssue]
    run.publish = lambda buffer: run.clock.advance(2.0)  # pyright: ignore[reportAttributeAccessIssue]
    engine = Engine(run.broker, run.transport, run, workers=1, helps=False, clock=run.clock)
    for number in range(1, 4):
        next(engine)
        begun = run.clock.now
        engine.commit()
        assert run.clock.now - begun == pytest.approx(2.0 + 1.0)
        assert engine.timings.commit == pytest.approx(number * (2.0 + 1.0))
        assert engine.timings.publish == pytest.approx((1 + number) * 2.0)


def test_who_is_asked_to_stop_waits_no_longer():
    run = Disturbed(FixedLag(lag=4, split=1), workers=1, helps=False, hangs={1})
    engine = Engine(
        run.broker,
        run.transport,
        run,
        workers=1,
        helps=False,
        stopped=lambda: run.clock.now > 5,
        clock=run.clock,
    )
    with pytest.raises(StopIteration):
        next(engine)
    assert run.clock.now < 5 + 2
    assert run.broker.trained == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_where_workers_only_die_the_trainer_goes_on_alone(workers, caplog):
    """The first replacement comes at once, the next ones later and later, five in all."""
    run = Disturbed(FixedLag(lag=4, split=1), workers, helps=False)
    start, starts = run.transport.start, []

    def stillborn() -> object:
        worker = start()
        starts.append(run.clock.now)
        run.transport.kill(worker)
        return worker

    run.transport.start = stillborn  # pyright: ignore[reportAttributeAccessIssue]
    assert run.work() == [(t, max(0, t - 4)) for t in range(40)]
    assert "no worker is left" in caplog.text
    assert run.broker.ledger.done == 40
    assert run.broker.ledger.deaths == len(starts) == workers + 5
    if workers == 1:
        assert starts == pytest.approx([0, 0, 0.5, 1.5, 3.5, 7.5])
