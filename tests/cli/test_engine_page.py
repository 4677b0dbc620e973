"""What inspect says of an engine: from rows whose every figure is known."""

from collections import Counter
from collections.abc import Sequence

import pytest

from sparring.cli.engine_page import BARS, engine_lines, histogram, read_account
from sparring.engine.account import Account
from sparring.records import Row

SOURCE = {"policy": {"kind": "FixedLag", "lag": 3, "period": 1, "split": 1}}


def row(step: int, **more: object) -> Row:
    """A worker attacks for 80 ms and copies for 4, the trainer waits 20 and updates for 10.

    Then it sees to the workers for 3, in one of which it publishes.
    """
    figures: Row = {
        "step": step,
        "loss": 1.0,
        "staleness": 3,
        "attack_seconds": 0.08,
        "supply_seconds": 0.021,
        "update_seconds": 0.010,
        "worker": "0",
        "workers": 4,
        "workers_attack_seconds": 0.08,
        "workers_overhead_seconds": 0.004,
        "staleness_behind": 0,
        "staleness_in_flight": 2,
        "staleness_waiting": 1,
        "ready": 1,
        "leased": 6,
        "help_seconds": 0.0,
        "wait_seconds": 0.020,
        "publish_seconds": 0.001,
        "commit_seconds": 0.003,
    }
    return figures | {name: value for name, value in more.items() if isinstance(value, int | str)}


def account(rows: Sequence[Row], *, helps: bool = False) -> Account:
    found = Account.of(rows, helps=helps)
    assert found is not None
    return found


def test_shares_and_costs_are_those_of_the_rows():
    rows = [row(step) for step in range(1, 101)]
    found = account(rows)
    shares = {"updating": 10, "attacking": 0, "publishing": 1, "waiting": 20, "handing over": 3}
    assert found.seconds_per_update == pytest.approx(0.034)
    assert found.trainer_shares == pytest.approx({n: ms / 34 for n, ms in shares.items()})
    assert found.busy_workers == pytest.approx(84 / (4 * 34))
    assert found.speed_up == pytest.approx(90 / 34)
    assert found.predicted_speed_up == pytest.approx(90 * 4 / 84)
    costs = found.costs
    assert (costs.attack, costs.update, costs.lease) == pytest.approx((0.08, 0.01, 0.004))
    assert costs.bottleneck(4, helps=False) == "workers"
    assert costs.advised_workers == 6  # 84 ms of workers for every 14 of the trainer


def test_the_page_says_who_was_stale_busy_and_to_blame():
    rows = [row(step, staleness=min(step - 1, 3)) for step in range(1, 101)]
    rows += [row(101, worker="0+trainer")]
    totals = {"leased": 102, "done": 101, "lost": 1, "late": 0, "trained": 101}
    ledger: Row = {"step": 101, **totals, "published": 102, "skipped": 0, "deaths": 1}
    rows.append(ledger)
    text = "\n".join(engine_lines(account(rows), SOURCE, "config.json"))
    assert "4 workers" in text
    assert "3 at most by the policy" in text
    assert "3  ######################################## 98" in text
    assert "0.0 old when leased, 2.0 in flight, 1.0 waiting" in text
    assert "leases done: worker 0 101, trainer 1" in text
    assert "102 leased, 101 done, 1 lost, 0 late, 101 trained, 102 published" in text
    assert "bottleneck: workers; advised: 6 workers" in text


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
    found = read_account([row(step) for step in range(1, 9)], config, "config.json")
    assert found is not None
    costs = found.costs
    assert costs.chain == pytest.approx(chain / 1000)
    assert costs.bottleneck(4, helps=False) == limit
    assert costs.advised_workers == advised
    slowest = max(84 / 4, 14 + chain)
    assert found.predicted_speed_up == pytest.approx(90 / slowest)


def test_many_ages_share_bars_and_none_is_lost():
    ages = Counter({age: age + 1 for age in range(100)})
    lines = list(histogram(ages))
    assert len(lines) <= BARS
    assert sum(int(line.rpartition(" ")[2].replace(",", "")) for line in lines) == ages.total()
    assert "0-12" in lines[0]
    assert "91-99" in lines[-1]


def test_a_run_without_an_engine_has_no_account():
    assert Account.of([{"step": 1, "loss": 2.0, "staleness": 0}], helps=True) is None
