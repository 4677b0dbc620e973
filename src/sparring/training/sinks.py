"""Sinks: what receives the measurements of a run while it trains.

The run's own sinks write metrics.jsonl and, if asked for, TensorBoard events. Another one shows the
progress, and your own are passed to `train`, `resume` and `replay`.

Units: seconds are wall-clock.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from typing_extensions import override

from sparring.attacks.plausible import threat_text
from sparring.errors import ConfigError, cause
from sparring.records import Environment, MetricsLog, Row, RunDirectory, run_errors
from sparring.records.display import Display, displayed
from sparring.records.metrics import number
from sparring.records.text import count_text, counted, duration_text
from sparring.training.config import TrainConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

FOLDER = "tensorboard"
"""Folder of the TensorBoard events, in the run directory."""
FLUSH_SECONDS = 10
"""Longest time until a measurement is in its event file."""

RowKind = Literal["update", "validation", "alarm", "tickets", "notice", "failure"]
"""What a row is of.

- `"update"`: one update; the fields of `Step`, `seconds` of training until now, figures of the
  engine, and of several trainers.
- `"validation"`: the fields of `ValidationResult`.
- `"alarm"`: a comparison of training and evaluation.
- `"tickets"`: totals of the engine since the run began, at a checkpoint.
- `"notice"`: `event` is a text that you should read.
- `"failure"`: `event` is why training cannot continue; the error is raised after it.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStart:
    """A session: the part of a run between its start or a checkpoint and its end or a stop."""

    config: TrainConfig
    """The settings of the run."""
    run: RunDirectory
    """The run directory."""
    environment: Environment
    """Software, hardware, threads and arithmetic."""
    version: int
    """Updates that the weights have seen. Rows of later steps, which an earlier session may have
    written after its last checkpoint, are written again."""


@runtime_checkable
class Sink(Protocol):
    """Receives the measurements of a run; its methods do nothing unless overridden.

    Of several trainers, only rank 0 has sinks. An exception in `start` is raised as a
    `ConfigError` before the first update. After that an `Exception` of a sink does not end the run:
    the sink is closed and dropped, and a notice says so.
    """

    def start(self, session: SessionStart) -> None:
        """Called once a session, before its first row."""

    def write(self, kind: RowKind, row: Row) -> None:
        """Called with each measurement: its `step`, and numbers and texts by name.

        `None` stands for a value that was not measured; numbers may be infinite or NaN. A slow sink
        slows the run, because it is called between two updates.
        """

    def close(self) -> None:
        """Called once a session, after its last row, also where the session ends by an error."""


class JSONLSink(Sink):
    """Writes every row as a line of metrics.jsonl, which replays and reports read."""

    @override
    def start(self, session: SessionStart) -> None:
        self._log = MetricsLog(session.run.metrics)
        self.updates = sum("loss" in row for row in self._log.truncate(session.version))
        """Earlier updates that the log has."""

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        self._log.append(row)


class TensorBoardSink(Sink):
    """Writes numbers as TensorBoard scalars, texts as text, each under kind/name.

    Numbers become float32. The events of an earlier session after its last checkpoint are hidden.
    """

    _writer: "SummaryWriter | None" = None

    @override
    def start(self, session: SessionStart) -> None:
        self._session = session

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        if self._writer is None:
            self._writer = self._opened()
        step = row["step"]
        for name, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(f"{kind}/{name}", value, step)
            elif value is not None and name != "step":
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    @override
    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> "SummaryWriter":
        # An extra, and seconds to import.
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = self._session.run.path / FOLDER
        with run_errors("write", folder):
            return SummaryWriter(
                str(folder), purge_step=self._session.version + 1, flush_secs=FLUSH_SECONDS
            )


def check_tensorboard() -> None:
    """Raise `ConfigError` if the package tensorboard is not installed."""
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard = true needs the package tensorboard, which is not installed. "
            "pip install 'sparring[tensorboard]', or set it to false."
        )


class Sinks:
    """All sinks of a session: the run's own, whose errors end it, and the caller's.

    Rows that are written before `start` are kept until then.
    """

    def __init__(self, own: Sequence[Sink], callers: Sequence[Sink]) -> None:
        self._own, self._callers = own, callers
        self._early: list[tuple[RowKind, Row]] = []
        self._active: list[Sink] | None = None
        """The caller's sinks that receive rows; `None` before the start."""
        self._step = 0

    def start(self, session: SessionStart) -> None:
        """Start all sinks. Raises `ConfigError` if one of the caller's fails."""
        for sink in self._own:
            sink.start(session)
        self._active, self._step = [], session.version
        for sink in self._callers:
            try:
                sink.start(session)
            except Exception as error:  # not sparring's code
                raise ConfigError(
                    f"start() of the sink {_name(sink)} failed: {cause(error)}. Correct it or "
                    f"leave it out; nothing in {session.run.path} is lost."
                ) from error
            self._active.append(sink)
        for kind, row in self._early:
            self.write(kind, row)

    def write(self, kind: RowKind, row: Mapping[str, int | float | str | None]) -> None:
        """Give a row to every sink, the run's own first; each of the caller's has its own copy."""
        if self._active is None:
            self._early.append((kind, dict(row)))
            return
        self._step = row["step"]
        for sink in self._own:
            sink.write(kind, dict(row))
        failed: list[tuple[Sink, Exception]] = []
        for sink in self._active:
            try:
                sink.write(kind, dict(row))
            except Exception as error:  # not sparring's code
                failed.append((sink, error))
        gone = {id(sink) for sink, _ in failed}
        self._active = [sink for sink in self._active if id(sink) not in gone]
        for sink, error in failed:
            with suppress(Exception):
                sink.close()
            self._notice_failure(sink, "write", error)

    def close(self) -> None:
        """Close all sinks that were started, the caller's first."""
        if self._active is None:
            return
        while self._active:
            sink = self._active.pop()
            try:
                sink.close()
            except Exception as error:  # not sparring's code
                self._notice_failure(sink, "close", error)
        for sink in self._own:
            sink.close()

    def _notice_failure(self, sink: Sink, method: str, error: Exception) -> None:
        text = (
            f"{method}() of the sink {_name(sink)} failed: {cause(error)}. It receives nothing "
            "more; the run continues without it."
        )
        self.write("notice", {"step": self._step, "event": text})


def _name(sink: Sink) -> str:
    return type(sink).__name__


SMOOTHING = 0.05
"""Weight of the newest update in the displayed speed; single updates vary by half."""
SOON = 2.0
"""Seconds of updates before the first estimate of the duration."""
POINTS = 64
"""Points of a run at which the number of attack steps is looked up."""
PASSES = 2
"""Passes of an update, in steps of an attack."""


@contextmanager
def training_display(title: str = "train") -> Iterator[Sink]:
    """A sink that shows the progress of a run, or of its replay, while the block lasts."""
    with displayed(title) as display:
        yield TrainingDisplay(display)


class TrainingDisplay(Sink):
    """Shows loss, robust accuracy, speed and the time left; notices are lines that stay."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._validation: Row | None = None
        self._loss = math.nan

    @override
    def start(self, session: SessionStart) -> None:
        config, where = session.config, session.environment
        self._updates, self._first_step, self._speed = config.updates, session.version, 0.0
        self._work, self._begun, self._estimated = work_shares(config), time.perf_counter(), False
        team = "" if config.trainers == 1 else f"{config.trainers} trainers, "
        stale = f", staleness at most {config.source.bound}" if config.source.bound else ""
        self._display.say(
            f"{session.run.path}: {counted(config.updates, 'update')} of "
            f"{counted(config.batch_size, 'image')} against {threat_text(config.threat)}{stale}, "
            f"on {team}{where.device} with {counted(where.threads, 'thread')}"
        )

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        if kind == "update":
            self._update(row)
        elif kind == "validation":
            self._validation = row
            self._display.note(self._line(int(number(row, "step"))))
            self._show(int(number(row, "step")))
        elif kind == "notice":
            self._display.say(f"notice: {row['event']}")

    def _update(self, row: Row) -> None:
        step, speed = int(number(row, "step")), number(row, "images_per_second")
        self._loss = number(row, "loss")
        self._speed += (SMOOTHING if self._speed else 1.0) * (speed - self._speed)
        self._show(step)
        if not self._estimated and time.perf_counter() - self._begun >= SOON:
            self._estimated = True
            self._display.note(self._line(step))

    def _show(self, step: int) -> None:
        left = self._seconds_left(step)
        self._display.show(step / self._updates, detail=self._detail(), left=left)

    def _detail(self) -> str:
        speed = f"{count_text(round(self._speed))} images/s"
        robust = ""
        if (row := self._validation) is not None:
            robust = f"robust {100 * number(row, 'robust_accuracy'):.1f} %, "
            if "certified_accuracy" in row:
                robust += f"certified {100 * number(row, 'certified_accuracy'):.1f} %, "
        return f"loss {self._loss:.3f}, {robust}{speed}"

    def _line(self, step: int) -> str:
        left = self._seconds_left(step)
        return f"update {count_text(step)} of {count_text(self._updates)}: {self._detail()}" + (
            "" if left is None else f", {duration_text(left)} left"
        )

    def _seconds_left(self, step: int) -> float | None:
        """Estimated from the share of the work, because attacks may grow longer over a run."""
        before, done = self._share(self._first_step), self._share(step)
        if done <= before:
            return None
        return (time.perf_counter() - self._begun) / (done - before) * (1 - done)

    def _share(self, step: int) -> float:
        place = min(step / self._updates, 1.0) * POINTS
        low = min(int(place), POINTS - 1)
        return self._work[low] + (place - low) * (self._work[low + 1] - self._work[low])


def work_shares(config: TrainConfig) -> list[float]:
    """The finished share of a run's passes at `POINTS` + 1 equally distant updates."""
    recipe = config.recipe()
    numbers = (int((point + 0.5) / POINTS * config.updates) for point in range(POINTS))
    costs = [getattr(recipe.plan(number).attack, "steps", 1) + PASSES for number in numbers]
    return [0.0, *(done / sum(costs) for done in accumulate(costs))]
