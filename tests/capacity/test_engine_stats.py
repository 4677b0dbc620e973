"""Statistics of an engine, from rows whose every number is known."""

from collections.abc import Sequence

import pytest

from capacity.engine_rows import row
from sparring.capacity import EngineStats, costs_from_log
from sparring.records import Row


def stats(rows: Sequence[Row], *, helps: bool = False) -> EngineStats:
    found = EngineStats.from_rows(rows, helps=helps)
    assert found is not None
    return found


def test_shares_and_costs_are_those_of_the_rows():
    rows = [row(step) for step in range(1, 101)]
    found = stats(rows)
    shares = {
        "updating": 10,
        "attacking": 0,
        "fresh steps": 0,
        "publishing": 1,
        "waiting": 20,
        "handing over": 3,
    }
    assert found.seconds_per_update == pytest.approx(0.034)
    assert found.trainer_shares == pytest.approx({n: ms / 34 for n, ms in shares.items()})
    assert found.busy_workers == pytest.approx(84 / (4 * 34))
    assert found.speed_up == pytest.approx(90 / 34)
    assert found.predicted_speed_up == pytest.approx(90 * 4 / 84)
    costs = found.costs
    assert (costs.attack, costs.update, costs.lease) == pytest.approx((0.08, 0.01, 0.004))
    assert costs.bottleneck(4, helps=False) == "workers"
    assert costs.advised_workers == 6  # 84 ms of workers for every 14 of the trainer


@pytest.mark.parametrize(
    ("policy", "fresh_steps", "chain", "limit", "advised"),
    [
        ({"kind": "FixedLag", "lag": 3, "split": 2}, 0, 0.0, "workers", 6),
        ({"kind": "FixedLag", "lag": 3, "split": 2}, 1, (80 / 8 + 2) / 2, "workers", 5),
        ({"kind": "FixedLag", "lag": 3, "split": 2}, 4, (80 / 2 + 2) / 2, "fresh steps", 3),
        ({"kind": "FixedLag", "lag": 3, "split": 9}, 99, 84 / 4, "fresh steps", 3),
        ({"kind": "Sync"}, 4, 84.0, "fresh steps", 1),
        ({"kind": "Sharded", "split": 4}, 0, 84 / 4, "fresh steps", 3),
    ],
)
def test_what_waits_for_new_weights_is_a_limit(policy, fresh_steps, chain, limit, advised):
    """Of the attack's 80 ms and the lease's 4; the trainer's own time is 14."""
    config = {"source": {"policy": policy, "fresh_steps": fresh_steps}, "attack": {"steps": 8}}
    found = EngineStats.from_run([row(step) for step in range(1, 9)], config, "config.json")
    assert found is not None
    costs = found.costs
    assert costs.chain == pytest.approx(chain / 1000)
    assert costs.bottleneck(4, helps=False) == limit
    assert costs.advised_workers == advised
    slowest = max(84 / 4, 14 + chain)
    assert found.predicted_speed_up == pytest.approx(90 / slowest)


def test_fresh_steps_of_the_trainer_are_a_longer_update_and_a_shorter_attack():
    """Of the attack's 80 ms the trainer takes 20, in which it waits no longer."""
    own = {"fresh_seconds": 0.02, "wait_seconds": 0.0, "workers_attack_seconds": 0.06}
    rows = [row(step) | own for step in range(1, 101)]
    policy = {"kind": "Newest", "credits": 64, "period": 100}
    config = {"source": {"policy": policy, "fresh_steps": 2}, "attack": {"steps": 8}}
    found = EngineStats.from_run(rows, config, "config.json")
    assert found is not None
    assert found.trainer_shares["fresh steps"] == pytest.approx(20 / 34)
    assert (found.batch_costs.attack, found.batch_costs.update) == pytest.approx((0.08, 0.01))
    assert costs_from_log(rows, "the run") == found.batch_costs
    costs = found.costs
    assert (costs.attack, costs.update, costs.lease) == pytest.approx((0.06, 0.03, 0.004))
    assert costs.chain == 0
    assert found.speed_up == pytest.approx(90 / 34)
    assert found.bottleneck == "fresh steps"


def test_a_run_without_an_engine_has_no_statistics():
    assert EngineStats.from_rows([{"step": 1, "loss": 2.0, "staleness": 0}], helps=True) is None
