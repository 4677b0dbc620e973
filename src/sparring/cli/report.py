"""`sparring report`: one page of HTML about runs and studies."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sparring.cli.arguments import PLAIN, Form, flag, path
from sparring.cli.console import PROGRESS, print_ending
from sparring.errors import SparringError
from sparring.records import RunDirectory, StudyResult
from sparring.records.text import counted
from sparring.report.page import (
    MEGABYTE,
    USUAL,
    Written,
    check_page_name,
    read_story,
    stories_in,
    write_page,
)
from sparring.report.run_story import RunStory

ABOUT = """Put runs and studies on one page: verdicts, curves, figures and their numbers.

RUN is a run directory, a study's folder (with study.json), or a folder of some
of either; left out, the newest run in runs/. Several runs are compared in the
same charts. A damaged run in a folder of several is left out, with a note. The
page needs no network and no other file, and replaces a page of the same name.

examples:
  sparring report
  sparring report runs/fast-20300101-120000
  sparring report runs/a runs/b studies/short/staleness -o comparison.html
  sparring report studies/short"""

NAME = Path("report.html")
"""The default name of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFlags:
    """The flags of `sparring report`."""

    out: Annotated[
        Path,
        flag("--out", path, "FILE"),
        PLAIN,
        tyro.conf.arg(aliases=["-o"], help_behavior_hint=""),
    ] = NAME
    """The page, ending in .html; report.html by default."""


FORM = Form(verb="report", flags=ReportFlags, about=ABOUT, word="RUN", many=True)


def run(argv: list[str]) -> int:
    """Write the page and return the exit code."""
    flags, words = FORM.read_all(argv)
    check_page_name(flags.out)
    chosen = words or [str(RunDirectory.chosen().path)]
    stories = _stories(chosen)
    written = write_page(stories, flags.out)
    if written.size > USUAL:
        PROGRESS.print(_warning(written), soft_wrap=True)
    print_ending(
        f"{written.path}, {written.size / MEGABYTE:.1f} MB, {counted(len(stories), 'section')}",
        f"python -m webbrowser {shlex.quote(str(written.path))}",
    )
    return 0


def _stories(words: Sequence[str]) -> list[StudyResult | RunStory]:
    """What the words name, each once; a damaged one is left out if it is one of a folder's.

    Raises the error of a damaged one that is named itself, or if nothing else remains.
    """
    alone: dict[Path, bool] = {}
    for word in words:
        inside = stories_in(word)
        for folder in inside:
            alone[folder] = alone.get(folder, False) or len(inside) == 1
    found: list[StudyResult | RunStory] = []
    left_out: list[SparringError] = []
    for folder, is_alone in alone.items():
        try:
            found.append(read_story(folder))
        except SparringError as error:
            if is_alone:
                raise
            left_out.append(error)
    if not found:
        raise left_out[0]
    for error in left_out:
        PROGRESS.print(f"left out: {error}", soft_wrap=True)
    return found


def _warning(written: Written) -> str:
    largest = (
        f"its largest figure is {written.largest}, {written.largest_size / MEGABYTE:.1f} MB"
        if written.largest
        else "it has no figures"
    )
    return (
        f"warning: the page has {written.size / MEGABYTE:.1f} MB, more than the usual "
        f"{USUAL // MEGABYTE}, and may open slowly; {largest}. Name fewer runs or studies."
    )
