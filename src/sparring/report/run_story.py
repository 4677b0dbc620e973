"""What a page tells of one run, read from its folder."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.errors import RunError, launcher
from sparring.records import (
    Environment,
    Evaluation,
    Examples,
    Figure,
    MetricsLog,
    Provenance,
    Row,
    RunDirectory,
    read_json,
)
from sparring.records.metrics import number
from sparring.records.wording import setting_text
from sparring.report.run_curves import run_figures


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunStory:
    """One run: how it was made, how it went and what evaluations found."""

    name: str
    """Its folder's path, as it was given."""
    settings: Mapping[str, str]
    """The settings in words."""
    command: str
    """What to type to train it again."""
    environment: Environment | None
    """What it was computed with, once it has begun."""
    updates: int
    """Updates of the whole run."""
    done: int
    """Updates that its log has."""
    stalest: float
    """Largest staleness of an update."""
    notices: tuple[str, ...]
    """What a person should know."""
    figures: tuple[Figure, ...]
    """Its curves."""
    evaluations: tuple[Evaluation, ...]
    """The verdict first."""
    examples: Examples | None
    """Images of the verdict, clean and attacked."""
    is_current: bool
    """Whether the verdict is of the weights that the run has now."""
    classes: tuple[str, ...]
    """A name for each class, in order of their numbers; none of runs that stored none."""

    @classmethod
    def read(cls, run: RunDirectory) -> "RunStory":
        """Raises `RunError` or `ConfigError` for files that are damaged."""
        config = read_json(run.config)
        if not isinstance(config, dict):
            raise RunError(
                f"{run.config} must hold a JSON object of settings; it holds something else. "
                "Restore the file or use another run."
            )
        rows = MetricsLog(run.metrics).measurements()
        environment = run.read_environment()
        trainers = run.section_or("trainers", int, 1)
        command = f"{launcher(trainers)} train --config {shlex.quote(str(run.path))}"
        steps = [row for row in rows if "loss" in row]
        evaluations = tuple(Evaluation.load(path) for path in run.evaluations())
        return cls(
            name=str(run.path),
            settings={name: setting_text(v) for name, v in config.items() if v is not None},
            command=command,
            environment=environment,
            updates=run.section("updates", int),
            done=int(max((number(row, "step") for row in steps), default=0)),
            stalest=max((number(row, "staleness") for row in steps), default=0.0),
            notices=tuple(str(row["event"]) for row in rows if "event" in row),
            figures=_figures(rows, command, config, environment),
            evaluations=evaluations,
            is_current=all(run.is_current(found) for found in evaluations[:1]),
            examples=Examples.load(run.examples) if run.examples.exists() else None,
            classes=run.class_names(),
        )

    @property
    def is_complete(self) -> bool:
        """Whether all updates were done."""
        return self.done >= self.updates


def _figures(
    rows: Sequence[Row],
    command: str,
    config: Mapping[str, object],
    environment: Environment | None,
) -> tuple[Figure, ...]:
    """The curves; none before a run has begun."""
    if environment is None:
        return ()
    seed = config.get("seed")
    seeds = (seed,) if isinstance(seed, int) else ()
    return tuple(
        run_figures(rows, Provenance(command=command, seeds=seeds, environment=environment))
    )
