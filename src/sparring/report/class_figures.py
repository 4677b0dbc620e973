"""An evaluation class by class: accuracies, and which classes are mistaken for which."""

import shlex
from collections.abc import Iterator, Sequence

from sparring.records import (
    Axis,
    Evaluation,
    Figure,
    Group,
    HeatMap,
    Lengths,
    Outcomes,
    Provenance,
    Table,
)
from sparring.records.text import counted

MOST = 20
"""Most classes that are shown; of more, those of the lowest robust accuracy."""


def class_figures(
    outcomes: Outcomes, found: Evaluation, names: Sequence[str], run: str
) -> Iterator[Figure]:
    """Accuracies, and a confusion matrix where the classes are few; nothing without images."""
    classes = sorted(outcomes.per_class(), key=lambda one: (one.robust.share, one.label))
    if not classes:
        return
    provenance = Provenance(
        command=f"sparring evaluate {shlex.quote(run)} --suite {found.suite} "
        f"--images {found.num_images}",
        seeds=(found.seed,),
        environment=found.environment,
    )
    shown = sorted(classes[:MOST], key=lambda one: one.label)
    left_out = f" The {MOST} classes of the lowest." if len(classes) > MOST else ""
    yield Figure(
        name="classes",
        title="Accuracy of each class",
        caption=f"Natural, and robust under {found.suite}, of "
        f"{counted(found.num_images, 'image')}." + left_out,
        alternative=f"Two bars for each class; {_name(classes[0].label, names)} is the least "
        f"robust with {100 * classes[0].robust.share:.1f} %.",
        drawing=Lengths(
            names=tuple(_name(one.label, names) for one in shown),
            label="class",
            value=Axis(label="accuracy", unit="%"),
            groups=(
                Group(name="natural", numbers=tuple(100 * one.natural.share for one in shown)),
                Group(name="robust", numbers=tuple(100 * one.robust.share for one in shown)),
            ),
        ),
        provenance=provenance,
    )
    if outcomes.num_classes > MOST:
        return
    tables = {
        title: outcomes.confusion(attacked=attacked)
        for title, attacked in (("clean", False), ("attacked", True))
    }
    all_names = tuple(_name(number, names) for number in range(outcomes.num_classes))
    yield Figure(
        name="confusion",
        title="Classes mistaken for others",
        caption="Numbers of images. The diagonal counts correct ones; an image that no attack "
        "broke counts as when clean.",
        alternative="Two matrices of true classes in rows and predicted classes in columns, of "
        "clean and of attacked images.",
        drawing=HeatMap(
            rows=Axis(label="true class"),
            columns=Axis(label="predicted class"),
            row_names=all_names,
            column_names=all_names,
            value=Axis(label="images"),
            tables=tuple(
                Table(title=title, cells=tuple(tuple(map(float, row)) for row in counts))
                for title, counts in tables.items()
            ),
            confusion=True,
        ),
        provenance=provenance,
    )


def _name(number: int, names: Sequence[str]) -> str:
    """The name of a class, or its number beyond the names."""
    return names[number] if number < len(names) else str(number)
