"""Emulated devices, overheads, timed updates and a soak: real processes, small numbers."""

import math
import os
from dataclasses import replace

import pytest

from sparring.attacks import PGD
from sparring.capacity import (
    Costs,
    EmulatedJob,
    SimulatedTransport,
    VirtualClock,
    emulate,
    measure_overheads,
    soak,
    timed_costs,
)
from sparring.capacity.measuring import round_trips
from sparring.engine import FixedLag
from sparring.errors import ConfigError
from sparring.models import SmallNetwork
from sparring.training import presets

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("forked_workers")]


def test_emulated_devices_do_what_the_formula_says():
    """Half of it at least, however busy this machine is, and never more than there are devices."""
    costs = Costs(attack=0.4, update=0.1)
    found = emulate(costs, workers=2, policy=FixedLag(lag=7, split=1), helps=False, tickets=12)
    formula = costs.speed_up(2, helps=False)
    assert formula == pytest.approx(2.5)
    assert formula / 2 < found.speed_up < formula * 1.1
    assert max(found.ledger.staleness) <= 7


def test_the_engines_own_work_is_measured_piece_by_piece():
    """A batch takes at least its attack, which sleeps; the sizes of the pieces vary by machine."""
    found = measure_overheads(EmulatedJob(seconds=0.01), rounds=20)
    pieces = (found.broker, found.lease, found.batch, found.handover, found.publication)
    assert min(pieces) > 0
    assert math.isfinite(found.load)
    assert found.whole >= 1e4


@pytest.mark.parametrize("lifetime", [0.0, 2.5])
def test_no_measurement_waits_for_a_worker_that_died(lifetime):
    """At its start, or with a lease."""
    clock = VirtualClock()
    transport = SimulatedTransport(clock, lambda lease: 1.0, lifetime=lambda: lifetime)
    with pytest.raises(ConfigError, match=r"the worker died \(its lifetime was over\)"):
        round_trips(transport, transport.start(), 9, new_weights=False)


def test_a_soak_trains_every_ticket_and_keeps_its_descriptors():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    said: list[str] = []
    samples = soak(400, progress=said.append)
    assert [sample["tickets"] for sample in samples] == [20.0 * n for n in range(1, 21)]
    assert len({sample["descriptors"] for sample in samples}) == 1
    assert len(said) == len(samples)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_a_longer_attack_is_timed_as_longer():
    """Twenty steps beside one: a busy machine cannot reverse the order."""
    config = replace(presets.paper(), model=SmallNetwork(width=4), batch_size=16)
    short, long = (
        timed_costs(replace(config, attack=PGD(threat=config.threat, steps=steps)), updates=5)
        for steps in (1, 20)
    )
    assert long.attack > 3 * short.attack
    assert min(short.update, long.update) > 0
