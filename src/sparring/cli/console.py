"""Output of all verbs: results to stdout, progress to stderr, and one form for numbers.

Text from files is printed without control characters.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from sparring.errors import UNPRINTABLE, printable
from sparring.records.display import PROGRESS, SafeConsole


def printable_json(text: str, encoding: str) -> str:
    """JSON text of the same values without control characters, for a stream of this encoding."""
    text = UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    return text


UNFOLDED = 10_000
"""Columns of a table in a pipe, where lines are not wrapped."""
WIDTH = 80
"""Columns of a result."""


RESULTS = SafeConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
"""Standard output, for results."""
_WIDE = SafeConsole(highlight=False, markup=False, emoji=False, width=UNFOLDED)
"""The same for tables in a pipe."""


_FOR_JSON: ContextVar[TextIO | None] = ContextVar("for_json", default=None)
"""Standard output while only JSON may be written to it."""


@contextmanager
def only_json() -> Iterator[None]:
    """Send what is printed in the block, also by a user's own code, to standard error.

    Only `print_json` writes to standard output.
    """
    before = _FOR_JSON.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _FOR_JSON.reset(before)


def print_json(text: str) -> None:
    """Standard output for machines: exactly this text, never wrapped or coloured."""
    stream = _FOR_JSON.get() or sys.stdout
    text = printable_json(text, stream.encoding or "utf-8")
    stream.write(text if text.endswith("\n") else text + "\n")


def in_one_line(text: str) -> str:
    """Text that may come from a file, with line breaks and control characters escaped."""
    return printable(text).replace("\n", "\\n")


def print_result(line: str = "") -> None:
    """One line on stdout, however long."""
    RESULTS.print(line)


def print_prose(text: str, *, first: str = "", rest: str = "  ") -> None:
    """Sentences on stdout, in lines of at most `WIDTH` but for words that are longer.

    The first line begins with `first`, all others with `rest`.
    """
    lines = textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines or [""]:
        print_result(line)


def print_ending(wrote: str, command: str) -> None:
    """The last lines of a command: the files that it wrote, if any, and the next command."""
    if wrote:
        print_result(f"wrote {wrote}")
    print_result(f"next: {command}")


def progress_bar(*columns: str) -> Progress:
    """A live bar on stderr with the given fields of its task, share done and time left.

    Vanishes when done; where stderr is no terminal that can redraw, nothing is drawn.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        *(TextColumn("{task.fields[" + name + "]}", markup=False) for name in columns),
        TimeRemainingColumn(compact=True),
        console=PROGRESS,
        transient=True,
        disable=not PROGRESS.is_interactive,
    )


class _Table(Table):
    """A table whose cells may hold text from anywhere."""

    def add_row(self, *cells: Any, **settings: Any) -> None:
        super().add_row(
            *(in_one_line(each) if isinstance(each, str) else each for each in cells), **settings
        )


def result_table(*headings: str) -> Table:
    """An empty table without frame: the first column to the left, the others to the right."""
    table = _Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
    return table


def print_table(table: Table, *, fold: bool = True) -> None:
    """A table on stdout, at most `WIDTH` wide; in a pipe as wide as it is unless it may `fold`."""
    if fold or RESULTS.is_terminal:
        RESULTS.print(table, width=min(WIDTH, RESULTS.width), soft_wrap=False)
    else:
        _WIDE.print(table)
