"""`sparring report`: one page of HTML about runs and studies."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sparring.cli.arguments import PLAIN, Form, flag, path
from sparring.cli.console import PROGRESS, print_ending
from sparring.records import RunDirectory
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

ABOUT = """Put runs and studies on one page: verdicts, curves, figures and their numbers.

RUN is a run directory, a study's folder (with study.json), or a folder of some
of either; left out, the newest run in runs/. Several runs are compared in the
same charts. The page needs no network and no other file, and replaces a page
of the same name.

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
    folders = [folder for word in chosen for folder in stories_in(word)]
    stories = [read_story(folder) for folder in dict.fromkeys(folders)]
    written = write_page(stories, flags.out)
    if written.size > USUAL:
        PROGRESS.print(_warning(written), soft_wrap=True)
    print_ending(
        f"{written.path}, {written.size / MEGABYTE:.1f} MB, {counted(len(stories), 'section')}",
        f"python -m webbrowser {shlex.quote(str(written.path))}",
    )
    return 0


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
