"""A slow link delays messages by their bytes, in order, and loses nothing but what death takes."""

from dataclasses import replace

import pytest

from engine.small_job import lease
from sparring.capacity import SimulatedTransport, VirtualClock
from sparring.engine.transports import Died, Done, Event, Up
from sparring.engine.transports.slow_link import Link, SlowTransport

LINK = Link(seconds_per_byte=1.0, latency=10.0, weights=100, images=8)
"""Each message takes 10 s beside a second a byte."""
ATTACK = 5.0


class World:
    """Two workers behind the link, on a virtual clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.inner = SimulatedTransport(self.clock, lambda lease: ATTACK)
        self.transport = SlowTransport(self.inner, LINK, self.clock)
        self.workers = [self.transport.start() for _ in range(2)]
        assert self.events(0.0) == [(0.0, Up(worker=worker)) for worker in self.workers]

    def submit(self, worker: int, number: int, **more: object) -> None:
        self.transport.submit(replace(lease(self.workers[worker], number), number=number, **more))

    def events(self, until: float) -> list[tuple[float, Event]]:
        """All events up to a time, each with the time at which it was reported."""
        found = []
        while True:
            new = self.transport.poll(max(0.0, until - self.clock.now))
            found += [(self.clock.now, event) for event in new]
            if not new and self.clock.now >= until:
                return found

    def results(self, until: float) -> list[tuple[float, int]]:
        return [(when, e.lease) for when, e in self.events(until) if isinstance(e, Done)]


def test_weights_go_to_each_worker_once_a_version_and_images_come_back():
    world = World()
    world.submit(0, 1)
    world.submit(0, 2)  # the same weights: only the latency, and the first attack
    world.submit(1, 3)  # its own copy of them, behind the first on the one link
    first, second = 100 + 10 + ATTACK, 200 + 10 + ATTACK
    assert world.results(500.0) == [
        (first + 8 + 10, 1),
        (first + ATTACK + 11 + 10, 2),  # its images wait for those of the first: 3 s
        (second + 8 + 10, 3),
    ]
    world.submit(0, 4, version=1)
    world.submit(1, 5)
    behind = 500.0 + first + 8 + 10  # the fifth lease waits for the weights of the fourth
    assert world.results(1000.0) == [(behind, 4), (behind + 8, 5)]


@pytest.mark.parametrize(("stage", "sent"), [("whole", 0), ("first", 0), ("last", 4)])
def test_only_the_images_that_fresh_steps_begin_with_are_sent(stage, sent):
    world = World()
    world.submit(0, 1, stage=stage, parts=2)
    assert world.results(500.0) == [(100 + sent + 10 + ATTACK + 4 + 10, 1)]


def test_what_is_under_way_of_a_dead_worker_is_lost_and_its_death_is_known_at_once():
    world = World()
    world.submit(0, 1)
    world.submit(1, 2)
    assert world.results(118.0) == []  # the first result is on the link, the second lease too
    for worker in world.workers:
        world.transport.kill(worker)
    died = [Died(worker=worker, reason="killed") for worker in world.workers]
    assert world.events(500.0) == [(118.0, each) for each in died]
    world.workers = [world.transport.start()]
    world.submit(0, 3)
    assert [number for _, number in world.results(1000.0)] == [3]


def test_nothing_arrives_once_it_is_stopped():
    world = World()
    world.submit(0, 1)
    world.transport.stop()
    world.transport.stop()
    assert world.events(500.0) == []
    assert world.inner.workers == []
