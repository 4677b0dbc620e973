"""`sparring study`: the paper's figures and tables, asked again: list them, show one, run some."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sparring.cli.arguments import PLAIN, Form, flag, one_of, path, several, whole
from sparring.cli.console import (
    PROGRESS,
    print_ending,
    print_prose,
    print_result,
    print_table,
    progress_bar,
    result_table,
)
from sparring.errors import ConfigError
from sparring.records import Claim, StudyResult
from sparring.records.checks import at_least
from sparring.records.environment import available_cores
from sparring.records.text import (
    count_text,
    counted,
    did_you_mean,
    duration_text,
    hardware_text,
    nearest,
)

if TYPE_CHECKING:
    from sparring.studies import Scale, Study
    from sparring.studies.processes import Job

ABOUT = """Ask again what the paper asks: list the studies, show one, or run some.

  sparring study list
  sparring study show NAME
  sparring study run NAME ... --scale smoke|short|paper

A study trains the networks that are missing, some side by side, measures what
its table lacks and sums up; stopped, it goes on when it is run again.

examples:
  sparring study run attacker-power --scale smoke
  sparring study run attacker-power staleness
  sparring study run staleness --scale paper --only k8 s32 s64 --until 20000"""

INTO = Path("studies")
"""Where studies go unless the user says otherwise."""
TOLD = 12
"""Jobs that are named as they begin; of more, how many more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFlags:
    """What `sparring study` may be given beside its words."""

    scale: Annotated[
        str, flag("--scale", one_of("smoke", "short", "paper"), "smoke|short|paper"), PLAIN
    ] = "short"
    """Seconds; minutes a network, the default; or the paper's own settings."""
    only: Annotated[tuple[str, ...], several("--only", str, "NAME ..."), PLAIN] = ()
    """Only these of its networks."""
    until: Annotated[int | None, flag("--until", whole, "N"), PLAIN] = None
    """So many updates of each network are enough for now."""
    jobs: Annotated[int, flag("--jobs", whole, "N"), PLAIN] = 0
    """Networks and measurements side by side; by default one a core."""
    into: Annotated[Path, flag("--into", path, "FOLDER"), PLAIN] = INTO
    """Folder of all studies; studies by default."""


FORM = Form(
    verb="study", flags=StudyFlags, about=ABOUT, word="list|show|run", many=True, then="NAME"
)


def run(argv: list[str]) -> int:
    """Do what the words ask; return the exit code."""
    flags, words = FORM.read_all(argv)
    action, *names = words or ["list"]
    if action not in ACTIONS:
        hint = did_you_mean(nearest(action, ACTIONS)) or " See sparring study --help."
        raise ConfigError(
            f"sparring study must be told what to do, one of {', '.join(ACTIONS)}; got {action}."
            f"{hint}"
        )
    at_least("--jobs", flags.jobs, 0)
    if flags.until is not None:
        at_least("--until", flags.until, 1)
    # torch takes seconds to load: after the words are known to be right.
    from sparring.studies import STUDIES

    if unknown := [name for name in names if name not in STUDIES]:
        hint = did_you_mean(nearest(unknown[0], STUDIES)) or " See sparring study list."
        raise ConfigError(
            f"a study must be one of {', '.join(STUDIES)}; got {', '.join(unknown)}.{hint}"
        )
    ACTIONS[action]([STUDIES[name] for name in names], flags)
    return 0


def _list(studies: "Sequence[Study]", flags: StudyFlags) -> None:
    """All of them, or those named."""
    from sparring.studies import STUDIES

    for study in studies or STUDIES.values():
        print_result(study.name)
        print_result(f"  {study.title}")
        print_result(f"  the paper's {study.covers}")
    print_ending("nothing", "sparring study run attacker-power --scale smoke")


def _show(studies: "Sequence[Study]", flags: StudyFlags) -> None:
    """What they would train, and how far that is."""
    from sparring.records import RunDirectory
    from sparring.studies import StudyRun
    from sparring.studies.networks import reached

    for study in _some(studies, "show"):
        print_result(f"{study.name}: {study.title}")
        print_result(f"the paper's {study.covers}")
        runs = StudyRun(
            study=study, scale=_scale(flags), into=flags.into, only=flags.only, until=flags.until
        )
        table = result_table("network", "updates", "done", "steps", "staleness", "images a batch")
        for name, config in runs.networks.items():
            done = reached(RunDirectory(runs.network_folder(name)))
            numbers = (runs.until_for(config), done, config.pgd.steps, config.source.bound)
            table.add_row(name, *map(count_text, (*numbers, config.batch_size)))
        print_table(table)
        print_result()
    print_ending("nothing", _command(studies, flags))


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
        with watched_study(study.name) as watch, _kept(_command(studies, flags)):
            found = one.run(watch.told, watch.begins)
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
        raise ConfigError(
            f"sparring study {action} must be told which study, because each takes minutes or "
            "more; got none. See sparring study list."
        )
    return studies


def _command(studies: "Sequence[Study]", flags: StudyFlags) -> str:
    """What runs these studies with these flags."""
    from sparring.studies.study import command_words

    names = [study.name for study in studies]
    words = command_words(names, flags.scale, only=flags.only, until=flags.until)
    words += ["--jobs", str(flags.jobs)] if flags.jobs else []
    words += ["--into", str(flags.into)] if flags.into != INTO else []
    return shlex.join(words)


@contextmanager
def _kept(command: str) -> Iterator[None]:
    """Says after Ctrl-C that nothing is lost, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        PROGRESS.print(f"what was done is kept; go on with: {command}", soft_wrap=True)
        raise


def _scale(flags: StudyFlags) -> "Scale":
    from sparring.studies import SCALES

    return next(scale for scale in SCALES if scale == flags.scale)


def _print_found(found: StudyResult) -> None:
    """What was claimed and found."""
    print_result(f"{found.study}, {found.scale}: {found.title}")
    for trained in found.networks:
        if trained.updates < trained.planned:
            of = f"{count_text(trained.updates)} of {counted(trained.planned, 'update')}"
            print_result(f"{trained.name}: {of} so far")
    for claim in found.claims:
        print_result()
        _print_claim(claim)
    print_result()
    for where in (found.provenance.environment, *found.provenance.others):
        print_prose(hardware_text(where))
    print_result(f"measured in {duration_text(found.seconds)}")


def _print_claim(claim: Claim) -> None:
    for word, text in (("claimed", claim.paper), ("found", claim.found)):
        print_prose(text or "nothing", first=f"{word:<8} ", rest=f"{'':<8} ")
    print_result(f"{'':<8} {claim.verdict}")


@dataclass(kw_only=True, slots=True, eq=False)
class StudyWatch:
    """Follows a study's jobs: in lines, or with `show` as a bar that is redrawn."""

    of: int = 0
    """Jobs of this round."""
    done: int = 0
    """Those that are over."""
    shares: dict[str, float] = field(default_factory=dict)
    """How far those under way are."""

    def begins(self, jobs: "Sequence[Job]") -> None:
        """A round of jobs begins."""
        self.of, self.done, self.shares = len(jobs), 0, {}
        self.announced(jobs)
        self.show()

    def told(self, job: "Job", share: float) -> None:
        """One of them is so far."""
        self.shares[job.name] = share
        if share >= 1:
            del self.shares[job.name]
            self.done += 1
            self.ended(job)
        self.show()

    def announced(self, jobs: "Sequence[Job]") -> None:
        """A line about what is to be done."""
        if jobs:
            names = ", ".join(job.name for job in jobs[:TOLD])
            names += f" and {len(jobs) - TOLD} more" if len(jobs) > TOLD else ""
            PROGRESS.print(f"{counted(len(jobs), 'piece')} of work: {names}", soft_wrap=True)

    def ended(self, job: "Job") -> None:
        """A line for each job that is over."""
        PROGRESS.print(f"{self.done} of {self.of}: {job.name}, done", soft_wrap=True)

    def show(self) -> None:
        """Nothing: lines come at the end of jobs."""


@contextmanager
def watched_study(name: str) -> Iterator[StudyWatch]:
    """Shows the progress of a study while the block lasts."""
    if not PROGRESS.is_interactive:
        yield StudyWatch()
        return
    with progress_bar("under_way") as bar:
        task = bar.add_task(name, total=None, under_way="")

        class Drawn(StudyWatch):
            def announced(self, jobs: "Sequence[Job]") -> None:
                pass

            def ended(self, job: "Job") -> None:
                pass

            def show(self) -> None:
                each = (f"{job[:24]} {share:.0%}" for job, share in self.shares.items())
                bar.update(
                    task,
                    total=self.of,
                    completed=self.done + sum(self.shares.values()),
                    under_way=", ".join(each),
                )

        yield Drawn()
