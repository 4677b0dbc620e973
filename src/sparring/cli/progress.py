"""How far a training or an evaluation is, on stderr: a bar where it can be redrawn, else lines.

Units: seconds are wall-clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparring.attacks.plausible import threat_text
from sparring.cli.console import PROGRESS, count_text, counted, duration_text, progress_bar
from sparring.evaluation import Progress
from sparring.records import Environment, RunDirectory
from sparring.training import Look, Observer, Step, TrainConfig

SMOOTHING = 0.05
"""Weight of the newest update in the speed shown: single updates vary by half."""


@contextmanager
def watched_training(verb: str = "train") -> Iterator[Observer]:
    """An observer that shows the progress of a run, or of its replay, while the block lasts."""
    if not PROGRESS.is_interactive:
        yield TrainingLines()
        return
    with progress_bar("loss", "robust", "speed") as bar:
        task = bar.add_task(verb, total=None, loss="", robust="", speed="")

        def show(lines: TrainingLines, step: Step) -> None:
            bar.update(
                task,
                total=lines.updates,
                completed=step.step,
                loss=f"loss {step.loss:.3f}",
                robust=_robust(lines.look),
                speed=f"{count_text(round(lines.speed))} images/s",
            )

        yield TrainingLines(show=show)


@dataclass(kw_only=True, slots=True, eq=False)
class TrainingLines:
    """Says in lines how a run begins, what it saw of itself and what a person should know.

    With `show`, which draws every update, the looks are left to it.
    """

    show: Callable[["TrainingLines", Step], None] | None = None
    updates: int = 0
    speed: float = 0.0
    """Images a second, smoothed."""
    look: Look | None = None
    """The last look at the validation slice."""
    _step: Step | None = None
    _first_step: int = 0
    _begun: float = field(default_factory=time.perf_counter)

    def started(self, config: TrainConfig, run: RunDirectory, where: Environment) -> None:
        """One line about what is about to happen, and where."""
        self.updates = config.updates
        self._begun = time.perf_counter()
        team = "" if config.trainers == 1 else f"{config.trainers} trainers, "
        _say(
            f"{run.path}: {counted(config.updates, 'update')} of {config.batch_size} images on "
            f"{team}{where.device}, {counted(where.threads, 'thread')}, {where.precision}; against "
            f"{threat_text(config.threat)}; staleness at most {config.source.bound}"
        )

    def stepped(self, step: Step) -> None:
        """Follow the speed."""
        if self._step is None:
            self._first_step = step.step
            self.speed = step.images_per_second
        self._step = step
        self.speed += SMOOTHING * (step.images_per_second - self.speed)
        if self.show is not None:
            self.show(self, step)

    def validated(self, look: Look) -> None:
        """One line about the look, the loss and the time left."""
        self.look = look
        if self._step is None:
            return
        if self.show is not None:
            self.show(self, self._step)
            return
        _say(
            f"update {count_text(look.step)} of {count_text(self.updates)}: "
            f"loss {self._step.loss:.3f}, natural {100 * look.natural_accuracy:.1f} %, "
            f"{_robust(look)}, {count_text(round(self.speed))} images/s, "
            f"{duration_text(self._seconds_left(look.step))} left"
        )

    def noticed(self, notice: str) -> None:
        """The notice as a line, above the bar if there is one."""
        _say(f"notice: {notice}")

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


def _robust(look: Look | None) -> str:
    return "robust -" if look is None else f"robust {100 * look.robust_accuracy:.1f} %"


def _say(line: str) -> None:
    PROGRESS.print(line, soft_wrap=True)
