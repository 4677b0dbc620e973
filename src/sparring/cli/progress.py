"""The progress of a training or an evaluation on stderr: a bar on a terminal, else lines.

Units: seconds are wall-clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from typing_extensions import override

from sparring.attacks.plausible import threat_text
from sparring.cli.console import PROGRESS, progress_bar
from sparring.evaluation import Progress
from sparring.records import Row
from sparring.records.metrics import number
from sparring.records.text import count_text, counted, duration_text
from sparring.training import RowKind, SessionStart, Sink

SMOOTHING = 0.05
"""Weight of the newest update in the speed shown: single updates vary by half."""


@contextmanager
def watched_training(verb: str = "train") -> Iterator[Sink]:
    """A sink that shows the progress of a run, or of its replay, while the block lasts."""
    if not PROGRESS.is_interactive:
        yield TrainingLines()
        return
    with progress_bar("loss", "robust", "speed") as bar:
        task = bar.add_task(verb, total=None, loss="", robust="", speed="")

        def show(lines: TrainingLines) -> None:
            bar.update(
                task,
                total=lines.updates,
                completed=lines.step,
                loss=f"loss {lines.loss:.3f}",
                robust=_robust(lines.validation),
                speed=f"{count_text(round(lines.speed))} images/s",
            )

        yield TrainingLines(show=show)


@dataclass(kw_only=True, slots=True, eq=False)
class TrainingLines(Sink):
    """Prints the start of a run, its validations and its notices, a line each.

    With `show`, which draws every update, validations are left to it.
    """

    show: Callable[["TrainingLines"], None] | None = None
    updates: int = 0
    """Updates of the whole run."""
    step: int = 0
    """The last update."""
    loss: float = 0.0
    """Its loss."""
    speed: float = 0.0
    """Images a second, smoothed."""
    validation: Row | None = None
    """The last validation."""
    _first_step: int = 0
    _begun: float = field(default_factory=time.perf_counter)

    @override
    def start(self, session: SessionStart) -> None:
        config, where = session.config, session.environment
        self.updates, self._first_step = config.updates, 0
        self._begun = time.perf_counter()
        team = "" if config.trainers == 1 else f"{config.trainers} trainers, "
        _say(
            f"{session.run.path}: {counted(config.updates, 'update')} of {config.batch_size} images"
            f" on {team}{where.device}, {counted(where.threads, 'thread')}, {where.precision}; "
            f"against {threat_text(config.threat)}; staleness at most {config.source.bound}"
        )

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        if kind == "update":
            self._update(row)
        elif kind == "validation":
            self._validate(row)
        elif kind == "notice":
            _say(f"notice: {row['event']}")

    def _update(self, row: Row) -> None:
        self.step, self.loss = int(number(row, "step")), number(row, "loss")
        speed = number(row, "images_per_second")
        if not self._first_step:
            self._first_step, self.speed = self.step, speed
        self.speed += SMOOTHING * (speed - self.speed)
        if self.show is not None:
            self.show(self)

    def _validate(self, row: Row) -> None:
        self.validation = row
        if not self._first_step:
            return
        if self.show is not None:
            self.show(self)
            return
        step = int(number(row, "step"))
        _say(
            f"update {count_text(step)} of {count_text(self.updates)}: "
            f"loss {self.loss:.3f}, natural {100 * number(row, 'natural_accuracy'):.1f} %, "
            f"{_robust(row)}, {count_text(round(self.speed))} images/s, "
            f"{duration_text(self._seconds_left(step))} left"
        )

    def _seconds_left(self, step: int) -> float:
        done = step - self._first_step + 1
        return (time.perf_counter() - self._begun) / done * (self.updates - step)


@contextmanager
def watched_evaluation() -> Iterator[Callable[[Progress], None]]:
    """An observer that shows an evaluation's progress while the block lasts."""
    if not PROGRESS.is_interactive:
        yield _evaluation_line
        return
    with progress_bar("robust") as bar:
        task = bar.add_task("evaluate", total=None, robust="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=f"attack {progress.number}/{progress.of} {progress.attack}",
                total=progress.of,
                completed=progress.number - 1 + progress.share,
                robust=f"robust {_percent(progress)}",
            )

        yield show


def _evaluation_line(progress: Progress) -> None:
    """A line after each attack."""
    if progress.share < 1:
        return
    _say(
        f"attack {progress.number} of {progress.of}, {progress.attack}: {_percent(progress)} of "
        f"{count_text(progress.total)} images still robust"
    )


def _percent(progress: Progress) -> str:
    return f"{100 * progress.robust / progress.total:.1f} %"


def _robust(validation: Row | None) -> str:
    if validation is None:
        return "robust -"
    return f"robust {100 * number(validation, 'robust_accuracy'):.1f} %"


def _say(line: str) -> None:
    PROGRESS.print(line, soft_wrap=True)
