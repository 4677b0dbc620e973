"""TensorBoard events of a run: what metrics.jsonl says, once, through stops and resumes."""

import signal
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sparring.training.events
from sparring.errors import ConfigError, Interrupted
from sparring.records import MetricsLog, RunDirectory
from sparring.records.metrics import number
from sparring.training import Step, Validation, resume, train
from sparring.training.events import FOLDER, events
from training.small_runs import Watching, assert_same_bits, small, weights_of

WATCHED = small(
    tensorboard=True,
    validation=Validation(every=3, images=16, steps=1, alarm_every=4, alarm_images=8),
)
KINDS = {"loss": "update", "natural_accuracy": "validation", "own_accuracy": "alarm"}


def written(run: Path) -> EventAccumulator:
    read = EventAccumulator(str(run / FOLDER), size_guidance={"scalars": 0})
    read.Reload()
    return read


def assert_same_as_metrics(run: Path) -> None:
    read = written(run)
    expected: dict[str, list[tuple[int, np.float32]]] = {}
    for row in MetricsLog(run / "metrics.jsonl").rows():
        kind = next(kind for name, kind in KINDS.items() if name in row)
        step = int(number(row, "step"))
        for name in row.keys() - {"step"}:
            taken = (step, np.float32(number(row, name)))
            expected.setdefault(f"{kind}/{name}", []).append(taken)
    assert set(read.Tags()["scalars"]) == set(expected)
    for tag, values in expected.items():
        assert [(event.step, np.float32(event.value)) for event in read.Scalars(tag)] == values
    assert len(expected["update/loss"]) == WATCHED.updates


def test_events_are_the_rows_of_the_metrics_and_change_no_bit(tmp_path):
    watched = train(WATCHED, tmp_path / "run")
    assert_same_as_metrics(tmp_path / "run")
    unwatched = train(small(), tmp_path / "unwatched")
    assert not (tmp_path / "unwatched" / FOLDER).exists()
    assert_same_bits(weights_of(watched.network), weights_of(unwatched.network))


def test_what_came_after_the_last_checkpoint_is_not_told_twice(tmp_path):
    def fail(step: Step) -> None:
        if step.step == 7:
            raise RuntimeError("as if it had been killed two updates after a checkpoint")

    with pytest.raises(RuntimeError):
        train(WATCHED, tmp_path / "run", observer=Watching(fail))
    assert len(written(tmp_path / "run").Scalars("update/loss")) == 7
    resume(tmp_path / "run")
    assert_same_as_metrics(tmp_path / "run")


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    stopping = Watching(lambda step: signal.raise_signal(signal.SIGINT) if step.step == 4 else None)
    with pytest.raises(Interrupted):
        train(WATCHED, tmp_path / "run", observer=stopping)
    resume(tmp_path / "run")
    assert_same_as_metrics(tmp_path / "run")


def test_what_a_person_should_know_is_there_as_text(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    with events(run, 0, wanted=True) as sink:
        assert sink is not None
        sink.append("notices", {"step": 3, "event": "the network tells nothing apart"})
    (told,) = written(run.path).Tensors("notices/event/text_summary")
    assert told.step == 3
    assert told.tensor_proto.string_val[0].decode() == "the network tells nothing apart"


def test_without_the_extra_a_run_that_wants_it_is_refused_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setattr(sparring.training.events, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'sparring\[tensorboard\]'"):
        train(WATCHED, tmp_path / "run")
    assert not (tmp_path / "run").exists()
