"""Whatever happens in whatever order, every ticket is trained once, in order, and not too stale."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sparring.engine import Broker, FixedLag, Lease, Newest, Policy, Sharded, Sync, Work

POLICIES = st.one_of(
    st.builds(FixedLag, lag=st.integers(0, 7), period=st.integers(1, 4), split=st.integers(1, 3)),
    st.builds(Newest, credits=st.integers(1, 7), period=st.integers(1, 4)),
    st.just(Sync()),
    st.builds(Sharded, split=st.integers(1, 4)),
)
TICKETS = 12


class World:
    """What the broker talks about: buffers that hold weights, slots that hold attacked images."""

    def __init__(self, policy: Policy, *, tickets: int = TICKETS, fresh: bool = False) -> None:
        self.policy = policy
        self.broker = Broker(policy, tickets=tickets, fresh=fresh)
        self.buffers: dict[int, int] = {}
        self.begun: dict[tuple[int, int], tuple[int, int]] = {}
        self.slots: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.trained: list[tuple[int, int]] = []
        self.leases: dict[int, Lease] = {}
        self.ended: list[int] = []
        self.names = 0
        self.publish()

    def publish(self) -> None:
        if self.broker.due:
            buffer = self.broker.free_buffer()
            if buffer is not None:
                assert buffer not in {lease.buffer for lease in self.leases.values()}
                self.buffers[buffer] = self.broker.trained
                self.broker.published(buffer, self.broker.trained)

    def join(self) -> int:
        self.names += 1
        self.broker.join(self.names)
        return self.names

    def lease(self, worker: int) -> bool:
        lease = self.broker.lease(worker, now=0.0)
        if lease is not None:
            place = (lease.ticket, lease.part)
            assert place not in {(out.ticket, out.part) for out in self.leases.values()}
            assert lease.worker == worker
            assert lease.number not in self.ended
            self.leases[lease.number] = lease
        return lease is not None

    def done(self, number: int) -> None:
        """The worker reads its weights only now: they must be those of the lease."""
        lease = self.leases.pop(number)
        assert self.buffers[lease.buffer] == lease.version
        place = lease.slot, lease.part
        if lease.stage == "first":
            self.begun[place] = (lease.ticket, lease.version)
        elif lease.stage == "last":
            ticket, version = self.begun[place]
            assert ticket == lease.ticket == lease.version == self.broker.trained
            self.slots[place] = (ticket, version, lease.version)
        else:
            self.slots[place] = (lease.ticket, lease.version, lease.version)
        assert self.broker.done(number, Work(attack=number)) == lease
        self.ended.append(number)

    def lost(self, worker: int) -> None:
        lost = {lease.number for lease in self.broker.lost(worker)}
        assert lost == {n for n, lease in self.leases.items() if lease.worker == worker}
        for number in lost:
            del self.leases[number]
            self.ended.append(number)

    def train(self) -> None:
        ready = self.broker.ready
        assert ready is not None
        for part in range(self.broker.parts):
            if self.broker.fresh_by == "trainer":
                assert self.begun[ready.slot, part] == (ready.ticket, ready.version)
                continue
            last = ready.ticket if self.broker.fresh_by == "workers" else ready.version
            assert self.slots[ready.slot, part] == (ready.ticket, ready.version, last)
        assert min(ready.behind, ready.in_flight, ready.waiting) >= 0
        assert ready.behind + ready.in_flight + ready.waiting == ready.ticket - ready.version
        self.trained.append((ready.ticket, ready.version))
        self.broker.commit()
        self.publish()


class Engine(RuleBasedStateMachine):
    """Events in any order: leases, results, late results, failures, deaths, updates."""

    world: World

    @initialize(policy=POLICIES, workers=st.integers(0, 3), fresh=st.booleans())
    def begin(self, policy: Policy, workers: int, fresh: bool) -> None:
        self.world = World(policy, fresh=fresh)
        for _ in range(workers):
            self.world.join()

    @property
    def workers(self) -> list[int]:
        return [name for name in self.world.broker.workers if isinstance(name, int)]

    @rule()
    def a_worker_joins(self) -> None:
        self.world.join()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_asks(self, data: st.DataObject) -> None:
        self.world.lease(data.draw(st.sampled_from(self.workers)))

    @precondition(lambda self: self.world.leases)
    @rule(data=st.data())
    def a_lease_is_done(self, data: st.DataObject) -> None:
        self.world.done(data.draw(st.sampled_from(sorted(self.world.leases))))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        self.world.lost(data.draw(st.sampled_from(self.workers)))

    @precondition(lambda self: self.world.ended)
    @rule(data=st.data())
    def something_comes_back_late(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.world.ended))
        before = self.world.broker.ready
        assert not self.world.broker.done(number, Work(attack=1.0))
        assert self.world.broker.ready == before

    @precondition(lambda self: self.world.broker.ready)
    @rule()
    def the_trainer_updates(self) -> None:
        self.world.train()

    @precondition(lambda self: self.world.broker.due)
    @rule()
    def the_trainer_publishes_late(self) -> None:
        self.world.publish()

    @invariant()
    def tickets_are_trained_in_order_and_within_the_bound(self) -> None:
        world = self.world
        assert [ticket for ticket, _ in world.trained] == list(range(world.broker.trained))
        for ticket, version in world.trained:
            assert 0 <= ticket - version <= world.policy.bound

    @invariant()
    def no_more_are_out_than_the_window_allows(self) -> None:
        broker = self.world.broker
        tickets = {lease.ticket for lease in broker.out}
        assert len(tickets) <= self.world.policy.window
        assert all(t < broker.trained + self.world.policy.window for t in tickets)

    @invariant()
    def the_ledger_adds_up(self) -> None:
        ledger, broker = self.world.broker.ledger, self.world.broker
        assert ledger.leased == ledger.done + ledger.lost + len(broker.out)
        assert ledger.trained == sum(ledger.staleness.values()) == broker.trained
        assert {lease.number for lease in broker.out} == set(self.world.leases)

    def teardown(self) -> None:
        """Whatever happened, one live worker is enough to finish, in so many rounds."""
        if not hasattr(self, "world"):
            return
        world = self.world
        worker = world.join()
        for _ in range(8 * TICKETS * world.broker.parts + 8):
            world.publish()
            world.lease(worker)
            for number in list(world.leases):
                world.done(number)
            if world.broker.ready:
                world.train()
        assert world.broker.finished
        assert world.broker.ready is None
        assert not world.lease(worker)
        assert [ticket for ticket, _ in world.trained] == list(range(TICKETS))


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=150, stateful_step_count=60)


def test_the_next_ticket_is_finished_by_those_who_have_nothing_else_to_do():
    """Its fresh steps come first, with the newest weights; the others wait their turn."""
    world = World(FixedLag(lag=2, split=1), fresh=True)
    busy, idle = world.join(), world.join()
    for _ in range(2):
        world.lease(busy)
    world.done(1)
    assert not world.lease(busy)
    assert world.lease(idle)
    last = world.leases[3]
    assert (last.stage, last.ticket, last.version) == ("last", 0, 0)
    assert world.broker.awaited == [last]
    world.lost(idle)
    assert world.broker.awaited == []
    world.done(2)
    assert world.lease(busy)
    assert world.leases[4].stage == "last"
    world.done(4)
    world.train()
    assert world.lease(busy)
    assert (world.leases[5].ticket, world.leases[5].version) == (1, 1)
    assert world.lease(busy)
    assert world.leases[6].stage == "first"


def run(world: World, workers: int) -> list[tuple[int, int]]:
    """Everyone works in turn: leases are taken as soon as possible, ended one a round."""
    names = [world.join() for _ in range(workers)]
    while not world.broker.finished:
        for name in names:
            while world.broker.holds(name) < 2 and world.lease(name):
                pass
        world.done(min(world.leases))
        while world.broker.ready:
            world.train()
    return world.trained


@pytest.mark.parametrize("lag", [0, 1, 3, 6])
@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_with_a_fixed_lag_a_tickets_version_is_the_formula_whoever_works(lag, period, workers):
    world = World(FixedLag(lag=lag, period=period), fresh=True)
    trained = run(world, workers)
    assert trained == [(t, period * (max(0, t - lag) // period)) for t in range(TICKETS)]


@pytest.mark.parametrize("policy", [Sync(), Sharded(split=3)])
def test_in_step_nothing_is_ever_stale(policy):
    world = World(policy)
    assert run(world, 3) == [(ticket, ticket) for ticket in range(TICKETS)]
    assert world.broker.ledger.leased == TICKETS * policy.split


def test_the_bound_of_the_newest_weights_is_attained():
    """All credits are out before the first update, and the last of them waits longest."""
    policy = Newest(credits=4, period=3)
    world = World(policy, tickets=40)
    worker = world.join()
    while not world.broker.finished:
        while world.lease(worker):
            pass
        world.done(min(world.leases))
        world.train()
    assert max(world.broker.ledger.staleness) == policy.bound == 5


def test_a_slow_reader_delays_publications_and_never_reads_torn_weights():
    world = World(Newest(credits=6, period=1), tickets=40)
    quick, slow = world.join(), world.join()
    for worker in (quick, quick, quick, quick, slow):
        assert world.lease(worker)
    for number in (1, 2, 3, 4):
        world.done(number)
    world.train()
    assert world.lease(slow)
    for _ in range(3):
        world.train()
    # Version 0 and, from ticket 5 on, one later version are still read; one newer is kept.
    assert [lease.version for lease in world.leases.values()] == [0, 1]
    assert world.broker.newest == 2
    assert world.broker.ledger.skipped == 2
    world.done(5)
    world.train()
    assert world.broker.newest == 5


def test_staleness_is_told_by_where_it_came_from():
    """Two updates of the trainer while a ticket is attacked, one while it waits its turn."""
    world = World(Newest(credits=6, period=2), tickets=40)
    worker = world.join()
    for _ in range(4):
        assert world.lease(worker)
    for number in (1, 2):
        world.done(number)
        world.train()
    world.done(4)
    world.done(3)
    world.train()
    ready = world.broker.ready
    assert ready is not None
    assert (ready.ticket, ready.version) == (3, 0)
    assert (ready.behind, ready.in_flight, ready.waiting) == (0, 2, 1)
    assert world.lease(worker)
    late = world.leases[5]
    assert (late.version, late.trained) == (2, 3)
    world.train()
    world.done(5)
    ready = world.broker.ready
    assert ready is not None
    assert (ready.behind, ready.in_flight, ready.waiting) == (1, 1, 0)


def test_a_lease_that_is_out_too_long_names_its_worker():
    broker = Broker(FixedLag(lag=4), tickets=9)
    broker.published(broker.free_buffer() or 0, 0)
    broker.join("a")
    broker.join("b")
    assert broker.lease("a", now=1.0)
    assert broker.lease("b", now=5.0)
    assert list(broker.overdue(now=6.0, patience=5.0)) == []
    assert list(broker.overdue(now=6.1, patience=5.0)) == ["a"]
    assert list(broker.overdue(now=10.1, patience=5.0)) == ["a", "b"]


@pytest.mark.parametrize("policy", [Newest(credits=1), Newest(credits=4, period=3)])
def test_a_ticket_that_would_be_too_stale_waits_for_newer_weights(policy):
    """It can happen only where a publication had to wait for a free buffer."""
    assert [policy.version(ticket, newest=2) for ticket in range(2, 3 + policy.bound)] == [2] * (
        policy.bound + 1
    )
    assert policy.version(3 + policy.bound, newest=2) is None
