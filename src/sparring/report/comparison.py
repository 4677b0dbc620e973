"""Curves of several runs in the same charts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath

from sparring.records import Axis, Curves, Figure, Panel, Provenance, Row, Series
from sparring.records.metrics import number
from sparring.report.run_story import RunStory
from sparring.report.training_figures import (
    ACCURACY,
    LOSS,
    TIME,
    UPDATE,
    averaged,
    step_of,
    validated,
)


def comparison_figures(runs: Sequence[RunStory]) -> Iterator[Figure]:
    """Loss and accuracy of all runs, over updates and over time; of those that have begun."""
    begun = {name: run for name, run in zip(_names(runs), runs, strict=True) if run.environment}
    environments = [run.environment for run in begun.values() if run.environment]
    if not environments:
        return
    provenance = Provenance(
        command=f"sparring report {' '.join(run.name for run in runs)}",
        seeds=tuple(sorted({run.seed for run in begun.values() if run.seed is not None})),
        environment=environments[0],
        others=tuple(dict.fromkeys(one for one in environments if one != environments[0])),
    )
    for name, title, axis, caption, series in (
        ("loss", "Loss", LOSS, "The objective of each update, on its batch.", _losses),
        (
            "accuracy",
            "Accuracy",
            ACCURACY,
            "Natural and robust: validation images, clean and under PGD, with 95 % intervals "
            "(Wilson). Training: batches as the objective takes them, before each update.",
            _accuracies,
        ),
    ):
        for x, words in ((UPDATE, "updates"), (TIME, "time")):
            panels = tuple(
                Panel(title=label, series=found)
                for label, run in begun.items()
                if (found := tuple(series(run.rows, _along(run, x))))
            )
            if panels:
                yield Figure(
                    name=f"{name}-over-{words}",
                    title=f"{title} over {words}",
                    caption=caption,
                    alternative=f"Lines of {name} over {words}, for each run.",
                    drawing=Curves(x=x, y=axis, panels=panels),
                    provenance=provenance,
                )


def _names(runs: Sequence[RunStory]) -> list[str]:
    """The last parts of the paths, or the whole paths if those are not all different."""
    short = [PurePath(run.name).name for run in runs]
    return short if len(set(short)) == len(runs) else [run.name for run in runs]


def _along(run: RunStory, x: Axis) -> Callable[[Row], float]:
    """The update of a row, or the minutes of training until then."""
    if x is UPDATE:
        return step_of
    minutes = {step_of(row): number(row, "seconds") / 60 for row in run.rows if "loss" in row}
    return lambda row: minutes.get(step_of(row), float("nan"))


def _losses(rows: Sequence[Row], along: Callable[[Row], float]) -> Iterator[Series]:
    loss = averaged([row for row in rows if "loss" in row], "loss", "loss", along)
    if loss is not None:
        yield loss


def _accuracies(rows: Sequence[Row], along: Callable[[Row], float]) -> Iterator[Series]:
    for series in (
        validated(rows, "natural_accuracy", "natural", along),
        validated(rows, "robust_accuracy", "robust", along),
        validated(rows, "certified_accuracy", "certified", along),
        averaged(rows, "training_accuracy", "training", along, scale=100),
    ):
        if series is not None:
            yield series
