"""A transfer matrix as a figure, and its picture: one panel for each number of steps."""

from pathlib import Path

from sparring.records import Axis, Figure, HeatMap, Provenance, Table, TransferMatrix
from sparring.report.drawing import draw


def heat_map(matrix: TransferMatrix, path: Path) -> None:
    """Draw a transfer matrix into a file; otherwise as `draw`."""
    draw(matrix_figure(matrix), path)


def matrix_figure(matrix: TransferMatrix) -> Figure:
    """A transfer matrix to be drawn: rows are targets, columns sources, as in the paper.

    The diagonal, where the attack is white-box, is outlined.
    """
    places = range(len(matrix.networks))
    tables = tuple(
        Table(
            title=f"{steps} step{'' if steps == 1 else 's'}",
            cells=tuple(
                tuple(100 * matrix.accuracy(number, source, target).share for source in places)
                for target in places
            ),
        )
        for number, steps in enumerate(matrix.steps)
    )
    about = f"PGD within {matrix.threat}, {matrix.num_images:,} images"
    return Figure(
        name="transfer",
        title=f"{about}\noutlined: white-box",
        caption="Images that each target still gets right as adversarial examples of each source.",
        alternative=f"Heat maps of {about}; targets in rows, sources in columns, white-box on the "
        "diagonal.",
        drawing=HeatMap(
            rows=Axis(label="target: judged"),
            columns=Axis(label="source: attacked"),
            row_names=matrix.networks,
            column_names=matrix.networks,
            value=Axis(label="images still right", unit="%"),
            tables=tables,
            outlined=True,
        ),
        provenance=Provenance(
            command=f"sparring transfer {' '.join(matrix.networks)}",
            seeds=(matrix.seed,),
            environment=matrix.environment,
        ),
    )
