"""A run as an object: what is loaded is what was trained."""

from pathlib import Path

import pytest

import sparring
from sparring.errors import RunError
from sparring.records import MetricsLog
from sparring.training import TrainedRun, train
from training.small_runs import UPDATES, assert_same_bits, small, weights_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return train(small(), tmp_path_factory.mktemp("folder") / "runs" / "one")


def test_a_run_is_loaded_with_all_that_train_returned(trained: TrainedRun) -> None:
    for path in (trained.path, str(trained.path)):
        loaded = sparring.load(path)
        assert (loaded.config, loaded.version) == (trained.config, UPDATES)
        assert loaded.seconds <= trained.seconds
        assert_same_bits(weights_of(loaded.network), weights_of(trained.network))
        assert not loaded.network.training
        assert loaded.evaluation is None
        assert loaded.metrics == MetricsLog(trained.run.metrics).rows()


def test_without_a_path_it_is_the_newest(
    trained: TrainedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained.path.parent.parent)
    assert sparring.load().path == Path("runs/one")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="there is no folder runs here"):
        sparring.load()


def test_it_is_shown_in_a_line_and_as_a_table(trained: TrainedRun) -> None:
    for shown in (repr(trained), trained._repr_html_()):
        assert str(trained.path) in shown
        assert f"{UPDATES} of {UPDATES} updates" in shown
        assert "not evaluated" in shown
        assert len(shown) < 400
    assert repr(trained.metrics).startswith(f"{UPDATES + 1} rows of step, loss")


def test_older_logs_are_read_by_todays_names(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.3, "accuracy": 0.25}\n')
    assert MetricsLog(path).rows() == [{"step": 1, "loss": 2.3, "training_accuracy": 0.25}]
