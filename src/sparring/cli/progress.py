"""The progress of a training or an evaluation on stderr: a bar on a terminal, else lines.

Units: seconds are wall-clock.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sparring.cli.console import PROGRESS, progress_bar
from sparring.evaluation import Progress
from sparring.records.text import count_text


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


def _say(line: str) -> None:
    PROGRESS.print(line, soft_wrap=True)
