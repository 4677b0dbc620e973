"""`sparring study`: the paper's figures and tables, made again: list, show or run studies."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sparring.cli.arguments import PLAIN, Form, flag, one_of, path, several, whole
from sparring.cli.console import (
    print_ending,
    print_prose,
    print_result,
    print_table,
    result_table,
)
from sparring.errors import ConfigError
from sparring.records import StudyResult
from sparring.records.checks import at_least, choice
from sparring.records.display import PROGRESS, Display, displayed
from sparring.records.environment import available_cores
from sparring.records.text import (
    count_text,
    counted,
    duration_text,
    few,
    hardware_text,
)

if TYPE_CHECKING:
    from sparring.studies import Scale, Study
    from sparring.studies.processes import Job
    from sparring.studies.runner import Forecast

ABOUT = """Make the paper's figures and tables again: list, show or run studies.

  sparring study list
  sparring study show NAME
  sparring study run NAME ... --scale smoke|short|paper

NAME is a study, or a figure or table of the paper, such as figure4 or table1.
A study trains missing networks, some in parallel, makes missing measurements
and compares the claims. After a stop, the same command resumes it.

examples:
  sparring study run table1 --scale smoke
  sparring study run attacker-power staleness
  sparring study run staleness --scale paper --only k8 s32 s64 --until 20000"""

INTO = Path("studies")
"""The default folder of studies."""
SHOWN = 12
"""Most jobs that are named as they begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFlags:
    """The flags of `sparring study`."""

    scale: Annotated[
        str, flag("--scale", one_of("smoke", "short", "paper"), "smoke|short|paper"), PLAIN
    ] = "short"
    """Seconds; minutes a network, the default; or the paper's own settings."""
    only: Annotated[tuple[str, ...], several("--only", str, "NAME ..."), PLAIN] = ()
    """Only these of its networks."""
    until: Annotated[int | None, flag("--until", whole, "N"), PLAIN] = None
    """Train each network to N updates only."""
    jobs: Annotated[int, flag("--jobs", whole, "N"), PLAIN] = 0
    """Networks and measurements in parallel; by default one a core."""
    into: Annotated[Path, flag("--into", path, "FOLDER"), PLAIN] = INTO
    """Folder of all studies; studies by default."""


FORM = Form(
    verb="study", flags=StudyFlags, about=ABOUT, word="list|show|run", many=True, then="NAME"
)


def run(argv: list[str]) -> int:
    """List, show or run studies; return the exit code."""
    flags, words = FORM.read_all(argv)
    action, *names = words or ["list"]
    choice("the word after sparring study", action, ACTIONS)
    at_least("--jobs", flags.jobs, 0)
    if flags.until is not None:
        at_least("--until", flags.until, 1)
    # torch takes seconds to load: after the words are known to be right.
    from sparring.studies import named_study

    found = {study.name: study for study in map(named_study, names)}
    ACTIONS[action](list(found.values()), flags)
    return 0


def _list(studies: "Sequence[Study]", flags: StudyFlags) -> None:
    """All of them, or those named."""
    from sparring.studies import MAKES, STUDIES

    for study in studies or STUDIES.values():
        print_result(study.name)
        print_result(f"  {study.title}")
        print_result(f"  the paper's {study.covers}")
        if also := [name for name, made_by in MAKES.items() if made_by == study.name]:
            print_result(f"  also by the names {', '.join(also)}")
    print_ending("", "sparring study run attacker-power --scale smoke")


def _show(studies: "Sequence[Study]", flags: StudyFlags) -> None:
    """Their networks with the updates done, and their findings."""
    from sparring.records import RunDirectory
    from sparring.studies import RESULT, StudyRun
    from sparring.studies.study import network_label

    is_complete = True
    for study in _some(studies, "show"):
        print_result(f"{study.name}: {study.title}")
        print_result(f"the paper's {study.covers}")
        runs = StudyRun(
            study=study, scale=_scale(flags), into=flags.into, only=flags.only, until=flags.until
        )
        table = result_table("--only", "network", "κ", "s", "updates", "done", "images a batch")
        table.columns[1].justify = "left"
        for name, config in runs.networks.items():
            wanted = runs.until_for(name, config)
            done = RunDirectory(runs.network_folder(name)).saved_updates
            is_complete &= done >= wanted
            numbers = (config.pgd.steps, config.source.bound, wanted, done, config.batch_size)
            table.add_row(name, network_label(name), *map(count_text, numbers))
        print_table(table)
        result = runs.folder / RESULT
        if result.exists():
            _print_claims(StudyResult.load(result))
        is_complete &= result.exists()
        print_result()
    if is_complete:
        folders = [str(flags.into / flags.scale / study.name) for study in studies]
        print_ending("", f"{shlex.join(['sparring', 'report', *folders])} -o report.html")
    else:
        print_ending("", _command(studies, flags))


def _run(studies: "Sequence[Study]", flags: StudyFlags) -> None:
    """Run them one after the other, and draw their figures."""
    from sparring.report import draw
    from sparring.studies import RESULT, StudyRun

    folders = []
    for study in _some(studies, "run"):
        one = StudyRun(
            study=study,
            scale=_scale(flags),
            into=flags.into,
            only=flags.only,
            until=flags.until,
            jobs=flags.jobs or available_cores(),
        )
        with displayed(study.name) as display, _kept(_command(studies, flags)):
            if forecast := one.forecast():
                display.say(f"{study.name}, {flags.scale}: {forecast_text(forecast, one.jobs)}")
            shown = StudyDisplay(display)
            found = one.run(shown.report, shown.begins)
        for figure in found.figures:
            draw(figure, one.folder / f"{figure.name}.svg")
        _print_found(found)
        folders.append(one.folder)
    wrote = ", ".join(str(folder / RESULT) for folder in folders)
    print_ending(
        f"{wrote} and its figures",
        f"{shlex.join(['sparring', 'report', *map(str, folders)])} -o report.html",
    )


ACTIONS = {"list": _list, "show": _show, "run": _run}


def _some(studies: "Sequence[Study]", action: str) -> "Sequence[Study]":
    if not studies:
        raise ConfigError.expected(
            f"sparring study {action} needs the name of a study", "none", "See sparring study list."
        )
    return studies


def _command(studies: "Sequence[Study]", flags: StudyFlags) -> str:
    """The command that runs these studies with these flags."""
    from sparring.studies.study import command_words

    names = [study.name for study in studies]
    words = command_words(names, flags.scale, only=flags.only, until=flags.until)
    words += ["--jobs", str(flags.jobs)] if flags.jobs else []
    words += ["--into", str(flags.into)] if flags.into != INTO else []
    return shlex.join(words)


@contextmanager
def _kept(command: str) -> Iterator[None]:
    """Print the command that resumes the study after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        PROGRESS.print(f"finished work is kept; resume with: {command}", soft_wrap=True)
        raise


def _scale(flags: StudyFlags) -> "Scale":
    from sparring.studies import SCALES

    return next(scale for scale in SCALES if scale == flags.scale)


def forecast_text(forecast: "Forecast", jobs: int) -> str:
    """The networks that a study is about to train, and the time."""
    networks = counted(forecast.networks, "network")
    text = f"{networks} to train, {counted(forecast.updates, 'update')} in all"
    if forecast.seconds is None:
        return text
    long = duration_text(forecast.seconds)
    return f"{text}, about {long} with {counted(jobs, 'job')} in parallel, then measurements"


def _print_found(found: StudyResult) -> None:
    """Networks, claims, hardware and time."""
    print_result(f"{found.study}, {found.scale}: {found.title}")
    for trained in found.networks:
        if trained.updates < trained.planned:
            of = f"{count_text(trained.updates)} of {counted(trained.planned, 'update')}"
            print_result(f"{trained.name}: {of} so far")
    _print_claims(found)
    print_result()
    for where in (found.provenance.environment, *found.provenance.others):
        print_prose(hardware_text(where))
    print_result(f"measured in {duration_text(found.seconds)}")


def _print_claims(found: StudyResult) -> None:
    for claim in found.claims:
        print_result()
        for word, text in (("claimed", claim.paper), ("found", claim.found)):
            print_prose(text or "nothing", first=f"{word:<8} ", rest=f"{'':<8} ")
        print_result(f"{'':<8} {claim.verdict}")


class StudyDisplay:
    """Shows the jobs of a study: a line when they begin and end, and their progress between."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._of = self._done = 0
        self._shares: dict[str, float] = {}

    def begins(self, jobs: "Sequence[Job]") -> None:
        """A round of jobs begins."""
        self._of, self._done, self._shares = len(jobs), 0, {}
        if jobs:
            names = few([job.name for job in jobs], SHOWN)
            self._display.note(f"{counted(len(jobs), 'job')}: {names}")

    def report(self, job: "Job", share: float) -> None:
        """This share of a job is done."""
        self._shares[job.name] = share
        if share >= 1:
            del self._shares[job.name]
            self._done += 1
            self._display.note(f"{self._done} of {self._of}: {job.name}, done")
        if self._of:
            each = [f"{name[:24]} {part:.0%}" for name, part in self._shares.items()]
            self._display.show((self._done + sum(self._shares.values())) / self._of, few(each))
