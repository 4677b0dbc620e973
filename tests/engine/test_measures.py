"""Emulated devices, overheads and a soak: real processes, small numbers."""

import math
import os

import pytest

from sparring.engine import Costs, FixedLag
from sparring.engine.emulation import EmulatedJob, emulate
from sparring.engine.measures import soak
from sparring.engine.overheads import measure_overheads, round_trips
from sparring.engine.transports import SimulatedTransport, VirtualClock
from sparring.errors import ConfigError

pytestmark = pytest.mark.process


def test_emulated_devices_do_what_the_formula_says():
    """Half of it at least, however busy this machine is, and never more than there are devices."""
    costs = Costs(attack=0.2, update=0.05)
    found = emulate(costs, workers=2, policy=FixedLag(lag=7, split=1), helps=False, tickets=12)
    formula = costs.speed_up(2, helps=False)
    assert formula == pytest.approx(2.5)
    assert formula / 2 < found.speed_up < formula * 1.1
    assert max(found.ledger.staleness) <= 7


def test_the_engines_own_work_is_measured_piece_by_piece():
    """A batch takes at least its attack, which sleeps; which piece is dearer the machine says."""
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
    with pytest.raises(ConfigError, match=r"it died \(its time was up\)"):
        round_trips(transport, transport.start(), 9, new_weights=False)


def test_a_soak_trains_every_ticket_and_keeps_its_descriptors():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    said: list[str] = []
    samples = soak(400, progress=said.append)
    assert [sample["tickets"] for sample in samples] == [20.0 * n for n in range(1, 21)]
    assert len({sample["descriptors"] for sample in samples}) == 1
    assert len(said) == len(samples)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_costs_must_be_times():
    for wrong in ({"attack": 0.0}, {"update": -1.0}, {"lease": float("inf")}):
        with pytest.raises(ConfigError, match="must be a time above 0"):
            Costs(**{"attack": 1.0, "update": 1.0, **wrong})
