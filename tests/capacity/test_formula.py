"""The closed formula: the ring, the time lost to failures, and the ranges of costs."""

from random import Random

import pytest

from sparring.capacity import CHECKPOINT, AllReduce, Costs, Layout, Site
from sparring.capacity.formula import uptime
from sparring.errors import ConfigError

PAPERS = Costs(attack=8.0, update=1.0)
"""κ = 8, in updates."""


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


def test_costs_must_be_times():
    for wrong in ({"attack": 0.0}, {"update": -1.0}, {"lease": float("inf")}):
        with pytest.raises(ConfigError, match=r"must (be finite and above 0|lie in \[0, inf\))"):
            Costs(**{"attack": 1.0, "update": 1.0, **wrong})
