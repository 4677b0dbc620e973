"""How far something long is, on stderr: a bar in a terminal or a notebook, else a line at times.

Units: seconds are wall-clock; shares lie in [0, 1].
"""

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Never

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from typing_extensions import override

from sparring.errors import printable
from sparring.records.text import duration_text

EVERY = 10.0
"""Seconds between two lines where nothing can be redrawn."""
REDRAWN = 0.2
"""Seconds between two changes of a notebook's bar."""


class SafeConsole(Console):
    """A console that escapes control characters in text.

    A closed pipe raises `BrokenPipeError`; rich itself would exit.
    """

    @override
    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(
            *(printable(each, None) if isinstance(each, str) else each for each in objects),
            **settings,
        )

    @override
    def on_broken_pipe(self) -> Never:
        self.quiet = True
        super().print()  # discards what could not be written
        self.quiet = False
        raise  # noqa: PLE0704 - rich calls this from inside its `except BrokenPipeError`


class _Tolerant:
    """A stream that ignores write errors, as those of a closed terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _ProgressConsole(SafeConsole):
    """A console for progress: a run whose terminal was closed still has a checkpoint to write."""

    @property
    def file(self) -> Any:
        return _Tolerant(super().file)

    @file.setter
    def file(self, new_file: Any) -> None:
        self._file = new_file


PROGRESS = _ProgressConsole(stderr=True, highlight=False, markup=False, emoji=False)
"""Standard error: how far a command is."""


class Display:
    """The progress of one thing. This class prints a line every `EVERY` seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._begun = self._last = time.perf_counter()
        self._first: float | None = None

    def show(
        self, share: float, what: str = "", detail: str = "", *, left: float | None = None
    ) -> None:
        """Show that `share` is done; call it as often as you like.

        `what` is the part under way, `detail` its measurements, `left` the seconds to the end. By
        default these follow from the shares so far, also of a thing that was resumed.
        """
        if self._first is None:
            self._first = share
        if left is None and share > self._first:
            spent = time.perf_counter() - self._begun
            left = spent / (share - self._first) * (1 - share)
        self._show(share, what, detail, "" if left is None else duration_text(left))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        PROGRESS.print(line, soft_wrap=True)
        self._last = time.perf_counter()

    def note(self, line: str) -> None:
        """Print a line where nothing is redrawn."""
        self.say(line)

    def _show(self, share: float, what: str, detail: str, left: str) -> None:
        if time.perf_counter() - self._last >= EVERY:
            self.say(self._line(share, what, detail, left))

    def _line(self, share: float, what: str, detail: str, left: str) -> str:
        parts = (f"{self.title} {share:.0%}", what, detail, left and f"{left} left")
        return ", ".join(part for part in parts if part)


class _Bar(Display):
    def __init__(self, title: str, bar: Progress) -> None:
        super().__init__(title)
        self._bar = bar
        self._task = bar.add_task(title, total=None, detail="", left="")

    @override
    def note(self, line: str) -> None:
        pass

    @override
    def _show(self, share: float, what: str, detail: str, left: str) -> None:
        self._bar.update(
            self._task,
            description=what or self.title,
            total=1.0,
            completed=share,
            detail=detail,
            left=left and f"{left} left",
        )


class _Notebook(Display):
    """Redraws one output of the cell. It needs no widgets."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._handle: Any = None

    @override
    def note(self, line: str) -> None:
        pass

    @override
    def _show(self, share: float, what: str, detail: str, left: str) -> None:
        if self._handle is not None and share < 1 and time.perf_counter() - self._last < REDRAWN:
            return
        self._last = time.perf_counter()
        line = self._line(share, what, detail, left)
        bar = f'<progress value="{share:.4f}" max="1"></progress>'
        shown = {"text/plain": line, "text/html": f"<div>{bar} {html.escape(line)}</div>"}
        if self._handle is None:
            ipython: Any = sys.modules["IPython.display"]
            self._handle = ipython.display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


@contextmanager
def displayed(title: str) -> Iterator[Display]:
    """A display on stderr, or in the cell of a notebook, while the block lasts.

    The bar of a terminal vanishes at the end.
    """
    if PROGRESS.is_jupyter and "IPython.display" in sys.modules:
        yield _Notebook(title)
    elif not PROGRESS.is_interactive:
        yield Display(title)
    else:
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=PROGRESS,
            transient=True,
        )
        with bar:
            yield _Bar(title, bar)
