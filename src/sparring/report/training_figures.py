"""A run's log as figures.

Units: accuracies in per cent, staleness in updates, time in minutes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from sparring.records import Axis, Curves, Figure, Panel, Proportion, Provenance, Row, Series
from sparring.records.metrics import number

POINTS = 200
"""Most points of a curve: more updates than that are averaged."""
UPDATE = Axis(label="update")
TIME = Axis(label="time", unit="min")
ACCURACY = Axis(label="accuracy", unit="%")
LOSS = Axis(label="loss")

VALIDATION = {
    "natural_accuracy": "validation, natural",
    "robust_accuracy": "validation, robust",
    "certified_accuracy": "validation, certified",
}
"""Names of the accuracies of a validation, in a row and in words."""
ALARM = {
    "trained_accuracy": "own attack, training mode",
    "clean_accuracy": "clean",
    "own_accuracy": "own attack",
    "long_accuracy": "longer attack",
    "average_accuracy": "own attack, averaged weights",
}
"""The same, of the alarm: in evaluation mode and with the current weights unless named."""


def run_figures(rows: Sequence[Row], provenance: Provenance) -> Iterator[Figure]:
    """The figures that a log has numbers for."""
    panels = list(_accuracy_panels(rows))
    if panels:
        yield Figure(
            name="accuracy",
            title="Accuracy while training",
            caption="Training: on the batches as the objective takes them, before each update."
            + _average_text([row for row in rows if "loss" in row])
            + " Validation: images that are never trained on, clean and under PGD, with 95 % "
            "intervals (Wilson). Alarm: some of these, under the attack of training unless named.",
            alternative="Lines of accuracy over updates, from guessing upwards: "
            + ", ".join(panel.title for panel in panels)
            + ".",
            drawing=Curves(x=UPDATE, y=ACCURACY, panels=tuple(panels)),
            provenance=provenance,
        )
    steps = [row for row in rows if "loss" in row]
    curves = {
        "loss": ("Loss", LOSS, "The objective of each update, on its batch."),
        "learning_rate": ("Learning rate", Axis(label="learning rate"), "As scheduled."),
        "eps": ("Size of the attack", Axis(label="ε"), "ε of the training attack, in pixel units."),
    }
    for name, (title, axis, caption) in curves.items():
        series = averaged(steps, name, axis.label)
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
    training = averaged(rows, "training_accuracy", "training", scale=100)
    measured = [validated(rows, name, words) for name, words in VALIDATION.items()]
    for title, series in {
        "training and validation": [training, *measured],
        "alarm": [validated(rows, name, words) for name, words in ALARM.items()],
    }.items():
        if known := [one for one in series if one is not None]:
            yield Panel(title=title, series=tuple(known))


def step_of(row: Row) -> float:
    """The update of a row."""
    return number(row, "step")


def validated(
    rows: Sequence[Row], name: str, words: str, along: Callable[[Row], float] = step_of
) -> Series | None:
    """Accuracies, with intervals where the number of images is known; `None` if there are none."""
    known = [
        (along(row), number(row, name), number(row, "validation_images"))
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
        x=tuple(x for x, _, _ in known),
        y=tuple(100 * share for _, share, _ in known),
        low=tuple(100 * interval.low for interval in intervals) if full else (),
        high=tuple(100 * interval.high for interval in intervals) if full else (),
    )


def averaged(
    steps: Sequence[Row],
    name: str,
    words: str,
    along: Callable[[Row], float] = step_of,
    *,
    scale: float = 1.0,
) -> Series | None:
    """Means over equally many updates, at the last of each; `None` if nothing was logged."""
    known = [row for row in steps if isinstance(row.get(name), int | float)]
    if not known:
        return None
    size = _average_size(known)
    parts = [known[start : start + size] for start in range(0, len(known), size)]
    return Series(
        name=words,
        x=tuple(along(part[-1]) for part in parts),
        y=tuple(scale * sum(number(row, name) for row in part) / len(part) for part in parts),
    )


def _average_size(steps: Sequence[Row]) -> int:
    return -(-len(steps) // POINTS)


def _average_text(steps: Sequence[Row]) -> str:
    size = _average_size(steps)
    return f" Each point is the mean of {size} updates." if size > 1 else ""


def _staleness(steps: Sequence[Row], provenance: Provenance) -> Iterator[Figure]:
    """A histogram, where the attacks of any update used older weights."""
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
        f"mean {mean:.1f}.",
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
