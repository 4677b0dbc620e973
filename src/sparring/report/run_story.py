"""The sections of a page about one run: its settings, and its log as figures.

Units: accuracies in per cent, staleness in updates.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sparring.errors import RunError, launcher
from sparring.records import (
    Axis,
    Curves,
    Environment,
    Evaluation,
    Examples,
    Figure,
    MetricsLog,
    Panel,
    Proportion,
    Provenance,
    Row,
    RunDirectory,
    Series,
    read_json,
)
from sparring.records.metrics import number
from sparring.records.text import setting_text

POINTS = 200
"""Points of a curve: of more updates, as many as it takes are averaged into one."""
UPDATE = Axis(label="update")
PERCENT = Axis(label="accuracy", unit="%")

VALIDATION = {"natural_accuracy": "validation, natural", "robust_accuracy": "validation, robust"}
"""Names of a look's accuracies, in a row and in words."""
ALARM = {
    "trained_accuracy": "own attack, training mode",
    "clean_accuracy": "clean",
    "own_accuracy": "own attack",
    "long_accuracy": "longer attack",
    "average_accuracy": "own attack, averaged weights",
}
"""The same, of the alarm; in evaluation mode and with the current weights where not said."""


def run_figures(rows: Sequence[Row], provenance: Provenance) -> Iterator[Figure]:
    """The figures that a log has numbers for."""
    panels = list(_accuracy_panels(rows))
    if panels:
        yield Figure(
            name="accuracy",
            title="Accuracy while training",
            caption="Training: on attacked batches, before each update."
            + _average_text([row for row in rows if "loss" in row])
            + " Validation: images that are never trained on, clean and under PGD, with 95 % "
            "intervals (Wilson). Alarm: a few of these, under the attack of training where "
            "not said otherwise.",
            alternative="Lines of accuracy over updates, from guessing upwards: "
            + ", ".join(panel.title for panel in panels)
            + ".",
            drawing=Curves(x=UPDATE, y=PERCENT, panels=tuple(panels)),
            provenance=provenance,
        )
    steps = [row for row in rows if "loss" in row]
    curves = {
        "loss": ("Loss", Axis(label="loss"), "What an update minimises, on its batch."),
        "learning_rate": ("Learning rate", Axis(label="learning rate"), "As scheduled."),
        "eps": ("Size of the attack", Axis(label="ε"), "ε of the training attack, in pixel units."),
    }
    for name, (title, axis, caption) in curves.items():
        series = _averaged(steps, name, axis.label)
        if series is not None:
            yield Figure(
                name=name.replace("_", "-"),
                title=title,
                caption=caption + _average_text(steps),
                alternative=f"A line of {axis.label} over updates.",
                drawing=Curves(x=UPDATE, y=axis, panels=(Panel(title="", series=(series,)),)),
                provenance=provenance,
            )
    yield from _staleness(steps, provenance)


def _accuracy_panels(rows: Sequence[Row]) -> Iterator[Panel]:
    training = _averaged(rows, "accuracy", "training, attacked", scale=100)
    looks = [_looked(rows, name, words) for name, words in VALIDATION.items()]
    for title, series in {
        "training and validation": [training, *looks],
        "alarm": [_looked(rows, name, words) for name, words in ALARM.items()],
    }.items():
        if known := [one for one in series if one is not None]:
            yield Panel(title=title, series=tuple(known))


def _looked(rows: Sequence[Row], name: str, words: str) -> Series | None:
    """Accuracies, with intervals where the number of images is known; none if there are none."""
    known = [
        (number(row, "step"), number(row, name), number(row, "validation_images"))
        for row in rows
        if isinstance(row.get(name), int | float)
    ]
    if not known:
        return None
    intervals = [
        Proportion(successes=round(share * total), total=int(total)).interval
        for _, share, total in known
        if total >= 1
    ]
    full = len(intervals) == len(known)
    return Series(
        name=words,
        x=tuple(step for step, _, _ in known),
        y=tuple(100 * share for _, share, _ in known),
        low=tuple(100 * interval.low for interval in intervals) if full else (),
        high=tuple(100 * interval.high for interval in intervals) if full else (),
    )


def _averaged(steps: Sequence[Row], name: str, words: str, *, scale: float = 1.0) -> Series | None:
    """Means over equally many updates each, at the last of them; none if nothing was logged."""
    known = [row for row in steps if isinstance(row.get(name), int | float)]
    if not known:
        return None
    size = _average_size(known)
    parts = [known[start : start + size] for start in range(0, len(known), size)]
    return Series(
        name=words,
        x=tuple(number(part[-1], "step") for part in parts),
        y=tuple(scale * sum(number(row, name) for row in part) / len(part) for part in parts),
    )


def _average_size(steps: Sequence[Row]) -> int:
    return -(-len(steps) // POINTS)


def _average_text(steps: Sequence[Row]) -> str:
    size = _average_size(steps)
    return f" Each point is the mean of {size} updates." if size > 1 else ""


def _staleness(steps: Sequence[Row], provenance: Provenance) -> Iterator[Figure]:
    """A histogram, where any update was trained on with attacks on older weights."""
    counts = Counter(int(number(row, "staleness")) for row in steps if "staleness" in row)
    if not any(counts):
        return
    ages = sorted(counts)
    mean = sum(age * count for age, count in counts.items()) / counts.total()
    series = Series(
        name="updates",
        x=tuple(float(age) for age in ages),
        y=tuple(float(counts[age]) for age in ages),
    )
    yield Figure(
        name="staleness",
        title="Staleness",
        caption=f"Updates by the age of the weights that their batch was attacked with; "
        f"{mean:.1f} on average.",
        alternative=f"Bars from a staleness of {ages[0]} to {ages[-1]}; the highest is at "
        f"{max(ages, key=lambda age: counts[age])}.",
        drawing=Curves(
            x=Axis(label="staleness", unit="updates"),
            y=Axis(label="updates"),
            panels=(Panel(title="", series=(series,)),),
            mark="bar",
        ),
        provenance=provenance,
    )


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
