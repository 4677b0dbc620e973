"""An evaluation class by class: accuracies, and which classes are mistaken for which."""

import re
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
from sparring.records.evaluation import NAMED_SUITES
from sparring.records.text import counted

MOST = 20
"""Most classes that are shown; of more, those of the lowest robust accuracy."""


_THREAT = re.compile(r"(Linf|L2) ([\d./e-]+)")
"""A threat of this package in words, with its name and size."""


def evaluate_command(found: Evaluation, names: Sequence[str], run: str) -> str:
    """The command that makes an evaluation again; empty for a suite or threat of your own."""
    threat = _THREAT.fullmatch(found.threat)
    if found.suite not in NAMED_SUITES or found.method or not (found.own_threat or threat):
        return ""
    words = ["sparring", "evaluate", run, "--suite", found.suite, "--images", str(found.num_images)]
    if found.classes is not None:
        listed = map(str, found.classes)  # but another class may have the number as its name
        words += ["--classes", *(_name(int(one), names) if one in names else one for one in listed)]
    if threat and not found.own_threat:
        words += ["--threat", threat[1].lower(), "--eps", threat[2]]
    if found.seed:
        words += ["--seed", str(found.seed)]
    if found.precision.startswith("bf16"):
        words += ["--precision", "bf16"]
    if found.findings is None:
        words += ["--no-checks"]
    return shlex.join(words)


def class_figures(
    outcomes: Outcomes, found: Evaluation, names: Sequence[str], command: str
) -> Iterator[Figure]:
    """Accuracies, and a confusion matrix where the classes are few; nothing without images.

    `command` makes the evaluation again; empty if there is none.
    """
    classes = sorted(outcomes.per_class(), key=lambda one: (one.robust.share, one.label))
    if not classes:
        return
    provenance = Provenance(
        command=command,
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
