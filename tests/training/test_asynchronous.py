"""Attacks by workers: the same weights as the delay line of the same length, whatever happens."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from sparring.data import Images, load_dataset
from sparring.engine import FixedLag, PolicyKind, Sharded, Sync, broker
from sparring.engine.transports.kinds import Processes, SlowLink
from sparring.errors import ConfigError, DataError, Interrupted
from sparring.models import SmallNetwork, computing_threads
from sparring.records import MetricsLog, RunDirectory
from sparring.records.metrics import number
from sparring.training import (
    Asynchronous,
    Fresh,
    SessionStart,
    Stale,
    Step,
    Validation,
    resume,
    train,
)
from sparring.training.monitor import ValidationSlice
from sparring.training.trainer import Trainer
from training.small_runs import (
    PAPERS,
    PLAIN,
    UPDATES,
    Killed,
    Watching,
    assert_same_bits,
    small,
    weights_of,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("forked_workers")]


def run(out: Path, **changes: object) -> dict[str, torch.Tensor]:
    return weights_of(train(small(**changes), out).network)


def asynchronous(workers: int, policy: PolicyKind, *, helps: bool = True) -> Asynchronous:
    return Asynchronous(workers=workers, policy=policy, helps=helps)


def staleness_of(out: Path) -> list[int]:
    rows = MetricsLog(RunDirectory.open(out).metrics).rows()
    return [int(row["staleness"] or 0) for row in rows if "staleness" in row]


@pytest.mark.parametrize("workers", [0, 1])
def test_in_step_it_is_fresh_bit_for_bit(workers, tmp_path):
    expected = run(tmp_path / "fresh", source=Fresh())
    found = run(tmp_path / "sync", source=asynchronous(workers, Sync(), helps=False))
    assert_same_bits(found, expected)


@pytest.mark.parametrize("lag", [1, 3, 20])
def test_a_fixed_lag_is_the_delay_line_of_that_length_bit_for_bit(lag, tmp_path):
    expected = run(tmp_path / "stale", source=Stale(staleness=lag, fresh_steps=4))
    found = run(tmp_path / "lag", source=asynchronous(0, FixedLag(lag=lag, split=1)))
    assert_same_bits(found, expected)


@pytest.mark.parametrize(
    ("workers", "helps", "policy", "transport"),
    [
        (1, False, FixedLag(lag=3, split=2), Processes()),
        (2, True, FixedLag(lag=3, period=2), SlowLink(mbit=1000, latency_ms=1)),
        (3, False, FixedLag(lag=3, split=2), SlowLink(mbit=1000, latency_ms=1)),
    ],
)
def test_neither_workers_nor_help_change_the_weights(workers, helps, policy, transport, tmp_path):
    """With fresh steps of workers, and with those of the trainer where it publishes rarely.

    Nor does a slow link.
    """
    source = Asynchronous(workers=0, policy=policy, fresh_steps=1)
    model = PAPERS if workers == 1 else PLAIN
    expected = run(tmp_path / "alone", model=model, source=source)
    source = replace(source, workers=workers, helps=helps, transport=transport)
    assert_same_bits(run(tmp_path / "many", model=model, source=source), expected)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_in_shards_neither_workers_nor_help_change_the_weights(workers, tmp_path):
    policy = Sharded(split=3)
    expected = run(tmp_path / "alone", source=asynchronous(0, policy))
    found = run(tmp_path / "many", source=asynchronous(workers, policy, helps=False))
    assert_same_bits(found, expected)
    assert staleness_of(tmp_path / "many") == [0] * 8


def test_fresh_steps_are_the_last_ones_of_the_same_attack(tmp_path):
    """In step they change nothing; behind, only they know the newest weights."""
    fresh = run(tmp_path / "fresh", source=Fresh())
    for left in (1, 2, 9):
        found = run(tmp_path / f"sync-{left}", source=Stale(staleness=0, fresh_steps=left))
        assert_same_bits(found, fresh)
    stale = run(tmp_path / "stale", source=Stale(staleness=3))
    mended = run(tmp_path / "mended", source=Stale(staleness=3, fresh_steps=1))
    more = run(tmp_path / "more", source=Stale(staleness=3, fresh_steps=9))
    assert not torch.equal(stale["fc2.weight"], mended["fc2.weight"])
    assert not torch.equal(fresh["fc2.weight"], mended["fc2.weight"])
    assert_same_bits(more, mended)  # of two steps the first is always taken ahead


def test_fresh_steps_of_the_trainer_change_no_bit(tmp_path, monkeypatch):
    """Workers by leases of their own, or the trainer on the whole batch, with the same weights."""
    source = asynchronous(1, FixedLag(lag=3, split=3))
    by_workers = run(tmp_path / "workers", source=source)
    monkeypatch.setattr(broker, "fresh_steps_by", lambda policy, *, fresh: "trainer")
    assert_same_bits(run(tmp_path / "trainer", source=source), by_workers)
    rows = MetricsLog(RunDirectory.open(tmp_path / "trainer").metrics).rows()
    updates = [row for row in rows if "loss" in row]
    assert len(updates) == UPDATES
    assert all(0 < number(row, "fresh_seconds") < number(row, "attack_seconds") for row in updates)


@pytest.mark.parametrize(
    "policy", [FixedLag(lag=3), FixedLag(lag=4, split=3), FixedLag(lag=2, period=3), Sync()]
)
@pytest.mark.parametrize("leave_at", [2, 6])
def test_a_resumed_run_ends_in_the_same_weights(policy, leave_at, tmp_path):
    """After update 6 the checkpoint of update 5 is the last; after update 2 there is none."""
    source = asynchronous(0, policy)
    expected = run(tmp_path / "whole", source=source)

    def leave(step: Step) -> None:
        if step.step == leave_at:
            raise Killed("leave")

    with pytest.raises(Killed, match="leave"):
        train(small(source=source), tmp_path / "run", sinks=[Watching(leave)])
    assert_same_bits(weights_of(resume(tmp_path / "run").network), expected)


class StoppedAtOnce(Watching):
    """Asks the run to stop before the first batch is attacked."""

    @override
    def start(self, session: SessionStart) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("source", [asynchronous(0, FixedLag(lag=1)), Stale(staleness=3)])
def test_a_request_to_stop_is_heard_before_the_first_update(source, tmp_path):
    config = small(source=source, model=SmallNetwork(width=2), updates=5)
    with pytest.raises(Interrupted, match="stopped at step 0 by SIGINT"):
        train(config, tmp_path / "run", sinks=[StoppedAtOnce()])
    resumed = resume(tmp_path / "run")
    whole = train(config, tmp_path / "whole")
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))


class Unsendable:
    """Streamed images with an open file in them."""

    def __init__(self, images: Images) -> None:
        self.images, self.file = images, (image for image in ())

    def __len__(self) -> int:
        return len(self.images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images, name)


def test_a_source_that_cannot_be_opened_keeps_no_memory():
    config, data = small(source=asynchronous(1, FixedLag())), load_dataset("mnist")
    trainer = Trainer(config, replace(data, train=Unsendable(data.train)), torch.device("cpu"))
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with pytest.raises(DataError, match="do not pickle"):
        trainer.loader.__enter__()
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


def test_a_window_that_memory_cannot_hold_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    source = asynchronous(0, FixedLag(lag=9, period=2))
    monkeypatch.setattr("sparring.loader.asynchronous.available_memory", lambda: 10_000)
    refusal = r"11 tickets and 6 versions of the weights .* free; got 1.29MiB"
    with pytest.raises(ConfigError, match=refusal):
        train(small(source=source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_has_all_threads_and_updates_one(tmp_path, monkeypatch):
    """Workers wait for it, so it need not leave their cores to them."""
    seen: list[tuple[str, int]] = []
    validate, update = ValidationSlice.validate, Trainer.update

    def validating(*given, **settings):
        seen.append(("validate", torch.get_num_threads()))
        return validate(*given, **settings)

    def updating(*given, **settings):
        seen.append(("update", torch.get_num_threads()))
        return update(*given, **settings)

    monkeypatch.setattr(ValidationSlice, "validate", validating)
    monkeypatch.setattr(Trainer, "update", updating)
    validation = Validation(every=2, images=16, steps=1)
    source = asynchronous(0, FixedLag())
    with computing_threads(2):
        run(tmp_path / "run", source=source, updates=3, threads=0, validation=validation)
    del seen[0]  # the update that is made before the run, on a copy
    assert seen == [("update", 1), ("update", 1), ("validate", 2), ("update", 1), ("validate", 2)]


def test_a_run_that_is_left_ends_its_workers(tmp_path):
    def leave(step: Step) -> None:
        raise Killed("leave")

    before = set(multiprocessing.active_children())
    with pytest.raises(Killed, match="leave"):
        train(small(source=asynchronous(1, FixedLag())), tmp_path / "run", sinks=[Watching(leave)])
    assert set(multiprocessing.active_children()) == before
