"""What a page shows of one run."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.errors import RunError, launcher, resume_command
from sparring.records import (
    Environment,
    Evaluation,
    Examples,
    Figure,
    MetricsLog,
    Outcomes,
    Provenance,
    Row,
    RunDirectory,
    read_json,
)
from sparring.records.metrics import number
from sparring.records.text import counted, few, setting_text
from sparring.report.class_figures import class_figures, evaluate_command
from sparring.report.training_figures import run_figures

OTHER_OUTCOMES = (
    "outcomes.json is of another evaluation than evaluation.json, so images and figures of classes "
    "are left out. Evaluate the run again."
)
"""The notice of files of two evaluations, as a kill between their writing leaves them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunStory:
    """One run: its settings, its log and its evaluations."""

    name: str
    """The path of its folder, as it was given."""
    settings: Mapping[str, str]
    """The settings in words."""
    command: str
    """The command that trains it again."""
    environment: Environment | None
    """What it was computed with; `None` before it has begun."""
    updates: int
    """Updates of the whole run."""
    done: int
    """Updates done, in its log or its weights."""
    saved: int
    """Updates of the stored weights; 0 without any."""
    is_complete: bool
    """Whether the stored weights are the final ones."""
    weights_fault: str
    """What is wrong with the file of weights, and what to do; empty if nothing."""
    rows: tuple[Row, ...]
    """Its log."""
    stalest: float
    """Largest staleness of an update."""
    notices: tuple[str, ...]
    figures: tuple[Figure, ...]
    """Its curves."""
    by_class: tuple[Figure, ...]
    """Figures of the verdict, class by class; empty if it was not stored image by image."""
    evaluations: tuple[Evaluation, ...]
    """The verdict first."""
    on_other_data: tuple[tuple[str, Evaluation], ...]
    """Evaluations on other data, each after the name of its folder in other-data."""
    seed: int | None
    """The run's seed; `None` if its settings have none."""
    examples: Examples | None
    """Images of the verdict, clean and attacked."""
    earlier: tuple[Evaluation, ...]
    """Those of the evaluations, on other data as well, that are of earlier weights."""
    classes: tuple[str, ...]
    """Names of the classes, in order of their numbers; empty for runs that stored none."""

    @classmethod
    def read(cls, run: RunDirectory) -> "RunStory":
        """Raises `RunError` or `ConfigError` for files that are damaged."""
        config = read_json(run.config)
        if not isinstance(config, dict):
            rule = f"{run.config} must hold a JSON object of settings"
            raise RunError.expected(rule, type(config).__name__, "Restore it or use another run.")
        rows = MetricsLog(run.metrics).measurements()
        environment = run.read_environment()
        name, trainers = str(run.path), run.section_or("trainers", int, 1)
        command = f"{launcher(trainers)} train --config {shlex.quote(name)}"
        steps = [row for row in rows if "loss" in row]
        saved, fault = run.saved_updates, run.weights_fault
        seed = config.get("seed")
        evaluations = tuple(Evaluation.load(path) for path in run.evaluations())
        others = run.evaluations_on_other_data()
        judged = (*evaluations, *(found for _, found in others))
        classes = run.class_names()
        events = [str(row["event"]) for row in rows if "event" in row]
        by_class: list[Figure] = []
        examples = Examples.load(run.examples) if run.examples.exists() else None
        earlier = tuple(one for one in judged if not run.is_current(one))
        if evaluations and run.outcomes.exists():
            outcomes, found = Outcomes.load(run.outcomes), evaluations[0]
            if outcomes.fits(found):
                again = "" if found in earlier else evaluate_command(found, classes, name)
                by_class.extend(class_figures(outcomes, found, classes, again))
            else:
                events.append(OTHER_OUTCOMES)
                examples = None  # it is written together with outcomes.json
        return cls(
            name=name,
            settings={name: setting_text(v) for name, v in config.items() if v is not None},
            command=command,
            environment=environment,
            updates=run.updates,
            done=max([saved, *(int(number(row, "step")) for row in steps)]),
            saved=saved,
            is_complete=run.is_complete,
            weights_fault=fault and f"{fault}. Resume the run: {resume_command(name, trainers)}",
            rows=tuple(rows),
            stalest=max((number(row, "staleness") for row in steps), default=0.0),
            notices=tuple(events),
            figures=_figures(rows, command, config, environment),
            by_class=tuple(by_class),
            evaluations=evaluations,
            on_other_data=others,
            seed=seed if isinstance(seed, int) else None,
            earlier=earlier,
            examples=examples,
            classes=classes,
        )

    def images_of(self, found: Evaluation) -> str:
        """The test images of an evaluation: their number and, unless they are all, the classes."""
        return f"{counted(found.num_images, 'test image')}{self.classes_of(found)}"

    def classes_of(self, found: Evaluation) -> str:
        """The classes of an evaluation's images, after " of the classes "; empty for all."""
        if found.classes is None:
            return ""
        names = [*self.classes[: max(found.classes) + 1]]
        names += map(str, range(len(names), max(found.classes) + 1))
        chosen = [names[number] for number in found.classes]
        return f" of the {'class' if len(chosen) == 1 else 'classes'} {few(chosen, 6)}"


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
