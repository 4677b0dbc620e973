"""Sinks receive every measurement once, through stops and resumes, and cannot lose a run."""

import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typing_extensions import override

import sparring.training.sinks
from sparring.errors import ConfigError, Interrupted
from sparring.records import MetricsLog, Row, RunDirectory, describe
from sparring.records.metrics import number
from sparring.training import RowKind, SessionStart, Sink, Step, Validation, resume, train
from sparring.training.sinks import FOLDER, TensorBoardSink
from training.small_runs import UPDATES, Killed, Watching, assert_same_bits, small, weights_of

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
            raise Killed("as if it had been killed two updates after a checkpoint")

    with pytest.raises(Killed):
        train(WATCHED, tmp_path / "run", sinks=[Watching(fail)])
    assert len(written(tmp_path / "run").Scalars("update/loss")) == 7
    resume(tmp_path / "run")
    assert_same_as_metrics(tmp_path / "run")


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    stopping = Watching(lambda step: signal.raise_signal(signal.SIGINT) if step.step == 4 else None)
    with pytest.raises(Interrupted):
        train(WATCHED, tmp_path / "run", sinks=[stopping])
    resume(tmp_path / "run")
    assert_same_as_metrics(tmp_path / "run")


def test_a_notice_is_there_as_text(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    where = describe(threads=1, device="cpu", precision="fp32")
    sink = TensorBoardSink()
    with closing(sink):
        sink.start(SessionStart(config=WATCHED, run=run, environment=where, version=0))
        sink.write("notice", {"step": 3, "event": "the loss is that of guessing"})
    (found,) = written(run.path).Tensors("notice/event/text_summary")
    assert found.step == 3
    assert found.tensor_proto.string_val[0].decode() == "the loss is that of guessing"


def test_without_the_extra_a_run_that_wants_it_is_refused_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setattr(sparring.training.sinks, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'sparring\[tensorboard\]'"):
        train(WATCHED, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Tracker(Sink):
    """A sink as a user writes one: it keeps calls, and may fail at one of them."""

    def __init__(self, fails_at: tuple[str, int | None] | None = None) -> None:
        self.calls: list[tuple[str, int | None]] = []
        self.rows: list[Row] = []
        self._fails_at = fails_at

    def _called(self, name: str, step: int | None) -> None:
        self.calls.append((name, step))
        if self._fails_at == (name, step):
            raise ConnectionError("the tracker cannot be reached")

    @override
    def start(self, session: SessionStart) -> None:
        assert session.environment.device == "cpu"
        assert session.config.updates == UPDATES
        self._called("start", session.version)

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        self.rows.append(dict(row))
        step = int(number(row, "step"))
        row.clear()  # its own copy
        self._called(kind, step)

    @override
    def close(self) -> None:
        self._called("close", None)

    def steps(self, kind: str) -> list[int | None]:
        return [step for name, step in self.calls if name == kind]


def test_an_own_sink_receives_every_row_once_over_a_stop_and_a_resume(tmp_path):
    tracker = Tracker()
    stop = Watching(lambda step: signal.raise_signal(signal.SIGINT) if step.step == 4 else None)
    with pytest.raises(Interrupted):
        train(WATCHED, tmp_path / "run", sinks=[tracker, stop])
    assert tracker.calls[0] == ("start", 0)
    assert tracker.calls[-1] == ("close", None)
    resume(tmp_path / "run", until=6, sinks=[tracker])
    resume(tmp_path / "run", sinks=[tracker])
    assert tracker.steps("start") == [0, 4, 6]
    assert tracker.steps("update") == list(range(1, UPDATES + 1))
    assert tracker.steps("validation") == [3, 6, UPDATES]
    assert tracker.steps("alarm") == [4, UPDATES]
    assert tracker.steps("close") == [None] * 3
    assert tracker.rows == MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()


def test_after_a_kill_a_session_says_from_which_update_rows_come_again(tmp_path):
    def kill(step: Step) -> None:
        if step.step == 7:
            raise Killed

    tracker = Tracker()
    with pytest.raises(Killed):
        train(small(), tmp_path / "run", sinks=[tracker, Watching(kill)])
    resume(tmp_path / "run", sinks=[tracker])
    assert tracker.steps("start") == [0, 5]
    assert tracker.steps("update") == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8]


@pytest.mark.parametrize("fails_at", [("update", 1), ("update", 5), ("validation", 6)])
def test_a_sink_that_fails_is_closed_and_dropped_with_one_notice(tmp_path, fails_at):
    failing, other = Tracker(fails_at), Watching()
    done = train(WATCHED, tmp_path / "run", sinks=[failing, other])
    assert failing.calls[-2:] == [fails_at, ("close", None)]
    assert [step.step for step in other.steps] == list(range(1, UPDATES + 1))
    (notice,) = other.notices
    assert notice.startswith("write() of the sink Tracker failed: ConnectionError: the tracker")
    rows = MetricsLog(done.run.metrics).rows()
    assert [row["event"] for row in rows if "event" in row] == [notice]
    calm = train(small(), tmp_path / "calm")
    assert_same_bits(weights_of(done.network), weights_of(calm.network))


def test_sinks_that_all_fail_leave_the_run_its_rows(tmp_path):
    failing = [Tracker(("update", 2)), Tracker(("update", 2)), Tracker(("notice", 2))]
    done = train(small(), tmp_path / "run", sinks=failing)
    rows = MetricsLog(done.run.metrics).rows()
    assert len([row for row in rows if "loss" in row]) == UPDATES
    assert len([row for row in rows if "event" in row]) == 3
    closing_fails = train(small(), tmp_path / "other", sinks=[Tracker(("close", None))])
    (event,) = [row for row in MetricsLog(closing_fails.run.metrics).rows() if "event" in row]
    assert str(event["event"]).startswith("close() of the sink Tracker failed")


def test_a_sink_that_cannot_start_ends_the_call_before_the_first_update(tmp_path):
    started, failing = Tracker(), Tracker(("start", 0))
    with pytest.raises(ConfigError, match=r"start\(\) of the sink Tracker failed: Connection"):
        train(small(), tmp_path / "run", sinks=[started, failing])
    assert started.calls == [("start", 0), ("close", None)]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    tracker = Tracker()
    assert resume(tmp_path / "run", sinks=[tracker]).version == UPDATES
    assert tracker.steps("update") == list(range(1, UPDATES + 1))
