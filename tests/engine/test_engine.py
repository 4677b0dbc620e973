"""The engine on a virtual clock: as fast as the formula says, and right whatever dies when."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.engine import Broker, Engine, FixedLag, Lease, Newest, Policy, Sharded, Sync
from sparring.engine.transports import SimulatedTransport, VirtualClock

UPDATE = 1.0


@dataclass
class Run:
    """One training run on paper: every attack takes `steps` seconds, every update one."""

    policy: Policy
    workers: int
    steps: float = 8.0
    tickets: int = 400
    helps: bool = False
    crashes: list[float] = field(default_factory=list)
    """When a worker dies, the one that is alive for longest."""
    hangs: set[int] = field(default_factory=set)
    """Numbers of the leases that never end."""

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.transport = SimulatedTransport(self.clock, self.cost)
        parts = self.policy.parts(self.workers)
        self.broker = Broker(self.policy, tickets=self.tickets, parts=parts)
        self.trained: list[tuple[int, int]] = []
        self.buffers: dict[int, int] = {}

    def cost(self, lease: Lease) -> float:
        return float("inf") if lease.number in self.hangs else self.steps / self.broker.parts

    def publish(self, buffer: int) -> None:
        self.buffers[buffer] = self.broker.trained

    def attack(self, lease: Lease) -> float:
        assert self.buffers[lease.buffer] == lease.version
        self.clock.advance(self.steps / self.broker.parts)
        return self.steps

    def work(self) -> "Run":
        engine = Engine(
            self.broker,
            self.transport,
            self,
            workers=self.workers,
            helps=self.helps,
            clock=self.clock,
        )
        for ready in engine:
            self.trained.append((ready.ticket, ready.version))
            self.clock.advance(UPDATE)
            while self.crashes and self.crashes[0] <= self.clock.now:
                self.crashes.pop(0)
                for worker in self.transport.workers[:1]:
                    self.transport.kill(worker)
        return self

    @property
    def speed_up(self) -> float:
        """Against the trainer alone, attack and update in turn."""
        return self.tickets * (self.steps + UPDATE) / self.clock.now


@pytest.mark.parametrize("steps", [2, 8, 40])
@pytest.mark.parametrize("workers", [1, 2, 4, 7, 8, 12])
def test_the_speed_up_is_the_formulas(steps, workers):
    """S(N) = (κ c + c_T) min(N / κ c, 1 / c_T), less what it takes to fill the pipeline."""
    run = Run(FixedLag(lag=2 * workers + 3), workers, steps=steps).work()
    formula = (steps + UPDATE) * min(workers / steps, 1 / UPDATE)
    assert 0.97 * formula <= run.speed_up <= formula * (1 + 1e-9)


@pytest.mark.parametrize("steps", [8, 40])
@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_with_the_trainers_help_it_is_one_device_more(steps, workers):
    run = Run(FixedLag(lag=2 * workers + 3), workers, steps=steps, helps=True).work()
    assert 0.95 * (workers + 1) <= run.speed_up <= workers + 1 + 1e-9


def test_without_workers_the_trainer_does_it_all():
    run = Run(FixedLag(lag=5), workers=0).work()
    assert run.speed_up == pytest.approx(1)
    assert run.trained == [(t, max(0, t - 5)) for t in range(run.tickets)]


def test_in_shards_every_worker_does_its_part_of_every_ticket():
    run = Run(Sharded(), workers=4).work()
    assert run.speed_up == pytest.approx((8 + UPDATE) / (8 / 4 + UPDATE), rel=0.01)
    assert set(run.broker.ledger.staleness) == {0}


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_in_step_workers_change_nothing(workers, helps):
    run = Run(Sync(), workers, helps=helps).work()
    assert run.trained == [(t, t) for t in range(run.tickets)]


@settings(max_examples=25, deadline=None)
@given(
    lag=st.integers(0, 9),
    period=st.integers(1, 3),
    workers=st.integers(0, 4),
    helps=st.booleans(),
    crashes=st.lists(st.floats(0, 300), max_size=12),
    hangs=st.sets(st.integers(1, 60), max_size=2),
)
def test_versions_depend_on_nothing_that_happens(  # noqa: PLR0913 - all that may happen
    lag, period, workers, helps, crashes, hangs
):
    """Whoever works, helps, dies or hangs: every ticket once, in order, at its own version."""
    policy = FixedLag(lag=lag, period=period)
    run = Run(policy, workers, tickets=40, helps=helps, crashes=sorted(crashes), hangs=hangs)
    run.work()
    assert run.trained == [(t, max(0, t - lag) // period * period) for t in range(40)]
    assert max(run.broker.ledger.staleness) <= policy.bound
    assert not run.broker.out
    assert not run.transport.workers


@settings(max_examples=15, deadline=None)
@given(
    credits=st.integers(1, 12),
    period=st.integers(1, 9),
    workers=st.integers(1, 4),
    crashes=st.lists(st.floats(0, 300), max_size=12),
)
def test_the_newest_weights_keep_to_their_bound(credits, period, workers, crashes):
    policy = Newest(credits=credits, period=period)
    run = Run(policy, workers, tickets=40, crashes=sorted(crashes)).work()
    assert [ticket for ticket, _ in run.trained] == list(range(40))
    assert all(0 <= ticket - version <= policy.bound for ticket, version in run.trained)


def test_a_hanging_worker_is_killed_and_its_ticket_given_out_again(caplog):
    run = Run(FixedLag(lag=8), workers=2, tickets=50, hangs={3}).work()
    assert len(run.trained) == 50
    assert run.broker.ledger.lost >= 1
    assert any("it is killed" in record.message for record in caplog.records)


@pytest.mark.parametrize("workers", [1, 3])
def test_where_workers_only_die_the_trainer_goes_on_alone(workers, caplog):
    run = Run(FixedLag(lag=4), workers, tickets=30)
    start = run.transport.start

    def stillborn() -> object:
        worker = start()
        run.transport.kill(worker)
        return worker

    run.transport.start = stillborn  # pyright: ignore[reportAttributeAccessIssue]
    run.work()
    assert run.trained == [(t, max(0, t - 4)) for t in range(30)]
    assert "no worker is left" in caplog.text
    assert run.broker.ledger.done == 30
