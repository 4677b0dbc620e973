"""Weights that a run keeps along the way are those that it would have ended with there."""

import signal

import pytest

from sparring.errors import (
    CheckpointError,
    CheckpointNotWritten,
    ConfigError,
    Interrupted,
    RunError,
)
from sparring.models import trained_network
from sparring.records import RunDirectory
from sparring.records.files import exclusive_lock
from sparring.seeds import derive_seed
from sparring.training import Step, resume, train
from training.small_runs import Watching, assert_same_bits, small, weights_of

EVERY_THIRD = small(snapshot_every=3)


def test_a_snapshot_is_what_a_shorter_run_ends_with(tmp_path):
    run = train(EVERY_THIRD, tmp_path / "whole").run
    assert run.snapshots() == [0, 3, 6, 8]
    start = EVERY_THIRD.model.build(derive_seed(EVERY_THIRD.seed, "weights"))
    assert_same_bits(weights_of(trained_network(run, version=0)), weights_of(start))
    for version in (3, 6, 8):
        shorter = train(small(updates=version), tmp_path / str(version))
        assert not shorter.run.snapshots()
        kept = trained_network(run, version=version)
        assert not kept.training
        assert_same_bits(weights_of(kept), weights_of(shorter.network))


def test_a_run_that_was_stopped_keeps_the_same_ones_and_that_of_the_stop(tmp_path):
    whole = train(EVERY_THIRD, tmp_path / "whole").run
    stopping = Watching(lambda step: signal.raise_signal(signal.SIGINT) if step.step == 4 else None)
    with pytest.raises(Interrupted):
        train(EVERY_THIRD, tmp_path / "stopped", sinks=[stopping])
    assert RunDirectory(tmp_path / "stopped").snapshots() == [0, 3]
    with exclusive_lock(tmp_path / "stopped", "be here"), pytest.raises(RunError, match="only one"):
        resume(tmp_path / "stopped")
    resume(tmp_path / "stopped", until=5)
    run = resume(tmp_path / "stopped").run
    assert run.snapshots() == sorted([5, *whole.snapshots()])
    for version in whole.snapshots():
        kept, expected = (trained_network(each, version=version) for each in (run, whole))
        assert_same_bits(weights_of(kept), weights_of(expected))


def test_a_version_that_was_not_kept_is_refused(tmp_path):
    run = train(small(updates=1), tmp_path / "run").run
    with pytest.raises(CheckpointError, match="there is no such file"):
        trained_network(run, version=1)


def test_a_disk_that_refuses_is_told_of(tmp_path):
    def occupy(step: Step) -> None:
        if step.step == 1:
            RunDirectory(tmp_path / "run").snapshot(3).mkdir()

    with pytest.raises(CheckpointNotWritten, match=r"step 3 .* refused it"):
        train(EVERY_THIRD, tmp_path / "run", sinks=[Watching(occupy)])


def test_fewer_than_no_updates_between_two_is_refused():
    with pytest.raises(ConfigError, match="snapshot_every must be"):
        small(snapshot_every=-1)
