"""`sparring inspect`: a run's settings, progress and results.

Reads files only and loads no torch.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from sparring.capacity import EngineStats
from sparring.cli.arguments import PLAIN, Form
from sparring.cli.console import print_json, print_prose, print_result, print_table, result_table
from sparring.cli.evaluate import STRONGEST, doubts
from sparring.engine.policies import PolicyKind
from sparring.errors import launcher, resume_command
from sparring.records import (
    Environment,
    Evaluation,
    MetricsLog,
    Row,
    RunDirectory,
    from_json,
    read_json,
    to_json,
)
from sparring.records.metrics import number
from sparring.records.run import no_settings
from sparring.records.text import count_text, counted, duration_text, hardware_text, setting_text

ABOUT = """Show a run's settings, measurements and evaluations.

RUN is a run directory; left out, the newest in runs/.

examples:
  sparring inspect
  sparring inspect runs/fast-20300101-120000 --json"""

Item = TypeVar("Item")

ROWS = 10
"""Most validations in the table."""
BARS = 8
"""Most rows of the histogram of staleness."""
LENGTH = 40
"""Characters of its longest bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectFlags:
    """The flags of `sparring inspect`."""

    json: Annotated[bool, PLAIN] = False
    """Print all results as JSON, with every validation."""


FORM = Form(verb="inspect", flags=InspectFlags, about=ABOUT, word="RUN")


def run(argv: list[str]) -> int:
    """Show the run that the words name; return the exit code."""
    flags, word = FORM.read(argv)
    story = Story.read(RunDirectory.chosen(word))
    if flags.json:
        print_json(json.dumps(story.as_json(), indent=2, ensure_ascii=False))
    else:
        _print(story)
    return 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Story:
    """The content of a run directory."""

    run: RunDirectory
    config: Mapping[str, object]
    """The settings as they are stored."""
    updates: int
    """Updates of the whole run."""
    environment: Environment | None
    """Software and hardware; `None` before the start."""
    steps: Sequence[Row]
    """Rows about updates."""
    looks: Sequence[Row]
    """Rows of validations."""
    events: Sequence[str]
    """Notices."""
    engine: EngineStats | None
    """Statistics of an asynchronous run's engine."""
    saved: int
    """Updates of the stored weights; 0 without any."""
    fault: str
    """What is wrong with the file of weights; empty if nothing."""
    evaluations: Sequence[Evaluation]
    """The run's verdict first."""
    on_other_data: Sequence[tuple[str, Evaluation]]
    """Evaluations on other data, each after the name of its folder in other-data."""

    @classmethod
    def read(cls, run: RunDirectory) -> "Story":
        """Raises `RunError` or `ConfigError` for files that are damaged."""
        config = read_json(run.config)
        if not isinstance(config, dict):
            raise no_settings(run.config)
        rows = MetricsLog(run.metrics).measurements()
        return cls(
            run=run,
            config=config,
            updates=run.updates,
            environment=run.read_environment(),
            steps=[row for row in rows if "loss" in row],
            looks=[row for row in rows if "robust_accuracy" in row],
            events=[str(row["event"]) for row in rows if "event" in row],
            engine=EngineStats.from_run(rows, config, str(run.config)),
            saved=run.saved_updates,
            fault=run.weights_fault,
            evaluations=[Evaluation.load(path) for path in run.evaluations()],
            on_other_data=run.evaluations_on_other_data(),
        )

    @property
    def done(self) -> int:
        """Updates done, whether stored or not."""
        return max([self.saved, *(int(number(row, "step")) for row in self.steps[-1:])])

    @property
    def is_complete(self) -> bool:
        """As of its run directory."""
        return self.run.is_complete

    @property
    def command(self) -> str:
        """The next command."""
        path = shlex.quote(str(self.run.path))
        trainers = self.run.section_or("trainers", int, 1)
        if not self.is_complete or self.fault:
            return resume_command(self.run.path, trainers)
        if not self.evaluations:
            return f"sparring evaluate {path}"
        if STRONGEST not in [found.suite for found in self.evaluations]:
            return f"sparring evaluate {path} --suite {STRONGEST}"
        seed = self.config.get("seed")
        other = seed + 1 if isinstance(seed, int) else 1
        return f"{launcher(trainers)} train --config {path} --seed {other}"

    @property
    def source(self) -> Mapping[str, object]:
        """The settings of where attacked batches came from."""
        source = self.config.get("source")
        return source if isinstance(source, Mapping) else {}

    def total(self, name: str) -> float:
        """Sum of a measurement over all updates."""
        return sum(number(row, name) for row in self.steps)

    def as_json(self) -> dict[str, object]:
        """Everything, for machines."""
        staleness = [number(row, "staleness") for row in self.steps]
        return {
            "run": str(self.run.path),
            "updates": self.updates,
            "updates_done": self.done,
            "updates_saved": self.saved,
            "complete": self.is_complete,
            "weights_fault": self.fault or None,
            "config": self.config,
            "environment": to_json(self.environment) if self.environment else None,
            "looks": self.looks,
            "attack_seconds": self.total("attack_seconds"),
            "update_seconds": self.total("update_seconds"),
            "staleness_mean": sum(staleness) / len(staleness) if staleness else None,
            "staleness_max": max(staleness, default=None),
            "engine": self.engine.as_json() if self.engine else None,
            "events": self.events,
            "evaluations": [to_json(found) for found in self.evaluations],
            "on_other_data": [
                {"data": data, "evaluation": to_json(found)} for data, found in self.on_other_data
            ],
            "next": self.command,
        }


def _print(story: Story) -> None:
    state = "complete" if story.is_complete else "not finished"
    print_result(
        f"{story.run.path}: {state}, {count_text(story.done)} of "
        f"{count_text(story.updates)} updates done, "
        + (story.fault or f"weights of update {count_text(story.saved)}")
    )
    print_result()
    table = result_table("setting", "value")
    table.columns[1].justify = "left"
    for name, value in story.config.items():
        if value is not None:
            table.add_row(name, setting_text(value))
    print_table(table)
    for line in _lines(story):
        print_prose(line)
    if story.looks:
        print_result()
        _print_looks(story.looks)
    print_result()
    for found in story.evaluations:
        _print_verdict(found, story.run.is_current(found))
    if not story.evaluations:
        where = " on its own data" if story.on_other_data else ""
        print_result(f"not evaluated{where} yet")
    for data, found in story.on_other_data:
        _print_verdict(found, story.run.is_current(found), data)
    print_result(f"next: {story.command}")


def _print_verdict(found: Evaluation, is_current: bool, data: str = "") -> None:
    images = counted(found.num_images, "test image")
    of = "" if is_current else ", of earlier weights"
    where = f"on other data, {data}: " if data else ""
    print_result(f"{where}suite {found.suite}, {found.threat}, {images}{of}:")
    print_result(f"  natural {found.natural}   robust {found.robust}")
    if found.certified is not None:
        print_result(f"  certified {found.certified}")
    for line in doubts(found):
        print_prose(line, first="  ", rest="    ")


def _lines(story: Story) -> Iterator[str]:
    """Environment, time, engine and notices, a line each."""
    if story.environment:
        yield ""
        yield hardware_text(story.environment)
    if story.steps:
        staleness = [number(row, "staleness") for row in story.steps]
        average = f"{sum(staleness) / len(staleness):.1f} on average"
        yield (
            f"{duration_text(story.total('attack_seconds'))} in attacks, "
            f"{duration_text(story.total('update_seconds'))} in updates"
            + (f"; staleness {average}, {max(staleness):.0f} at most" if any(staleness) else "")
        )
    if story.engine is not None:
        yield ""
        yield from engine_lines(story.engine, story.source, str(story.run.config))
    for event in story.events:
        yield f"notice: {event}"


def engine_lines(engine: EngineStats, source: Mapping[str, object], where: str) -> Iterator[str]:
    """Staleness, time of trainer and workers, the ledger, and the advised number of workers."""
    policy = from_json(PolicyKind, source["policy"], where=where, path="source.policy")
    helper = ", helped by the trainer" if engine.helps else ""
    yield f"engine: {counted(engine.workers, 'worker')}{helper}"
    yield f"staleness in updates, {policy.bound} at most by the policy:"
    yield from histogram(engine.staleness)
    split = engine.sources_of_staleness
    yield (
        f"  {sum(split.values()):.1f} on average: {split['behind']:.1f} old when leased, "
        f"{split['in_flight']:.1f} in flight, {split['waiting']:.1f} waiting to be trained"
    )
    shares = ", ".join(f"{what} {share:.0%}" for what, share in engine.trainer_shares.items())
    yield f"trainer: {shares}"
    leases = ", ".join(
        f"{name if name == 'trainer' else f'worker {name}'} {count_text(count)}"
        for name, count in engine.attacked_by.most_common(BARS)
    )
    busy = engine.busy_workers
    yield f"workers: busy {busy:.0%}, waiting {1 - busy:.0%}; leases done: {leases}"
    yield (
        f"queue: {engine.mean('ready'):.1f} batches ready and {engine.mean('leased'):.1f} "
        "leases out on average"
    )
    if engine.ledger:
        ledger = ", ".join(f"{count_text(n)} {what}" for what, n in engine.ledger.items())
        yield f"ledger: {ledger}"
    costs, whole = engine.costs, engine.batch_costs
    yield (
        f"a batch: attack {1000 * whole.attack:.1f} ms, update {1000 * whole.update:.1f} ms; "
        f"overheads: lease {1000 * costs.lease:.1f} ms, hand-over {1000 * costs.handover:.1f} ms, "
        f"publication {1000 * costs.publication:.1f} ms"
    )
    yield (
        f"speed-up over one process that does both: {engine.speed_up:.2f} measured, "
        f"{engine.predicted_speed_up:.2f} by the formula; bottleneck: {engine.bottleneck}; "
        f"advised: {counted(costs.advised_workers, 'worker')}, one device each"
    )


def histogram(staleness: Counter[int]) -> Iterator[str]:
    """Number of updates by staleness, in at most `BARS` bins."""
    least, most = min(staleness), max(staleness)
    width = -(-(most - least + 1) // BARS)
    bins: Counter[int] = Counter()
    for age, count in staleness.items():
        bins[(age - least) // width] += count
    longest = max(bins.values())
    for place in sorted(bins):
        first = least + place * width
        ages = str(first) if width == 1 else f"{first}-{min(first + width - 1, most)}"
        bar = "#" * max(1, round(LENGTH * bins[place] / longest))
        yield f"  {ages:>9}  {bar} {count_text(bins[place])}"


def _print_looks(looks: Sequence[Row]) -> None:
    total = int(number(looks[-1], "validation_images"))
    print_result(f"accuracy on {count_text(total)} validation images")
    names = ["natural", "robust", *(["certified"] if "certified_accuracy" in looks[-1] else [])]
    table = result_table("update", *names)
    for look in evenly(looks, ROWS):
        shares = (f"{100 * number(look, f'{name}_accuracy'):.1f} %" for name in names)
        table.add_row(count_text(int(number(look, "step"))), *shares)
    print_table(table)


def evenly(rows: Sequence[Item], most: int) -> list[Item]:
    """At most `most` (2 or more) of the rows, evenly spaced, with the first and the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]
