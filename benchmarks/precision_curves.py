"""Two runs of one configuration in two precisions: their accuracy curves side by side.

    sparring train --preset paper --updates 2000 --precision fp32 --set validation.every=100 \\
        --out runs/paper-fp32
    sparring train --preset paper --updates 2000 --precision bf16 --set validation.every=100 \\
        --out runs/paper-bf16
    python benchmarks/precision_curves.py runs/paper-fp32 runs/paper-bf16 -o results/precision

Writes a table (curves.csv) and a plot (curves.svg).
"""

import argparse
import csv
from pathlib import Path

from matplotlib import pyplot

from sparring.records import Environment, MetricsLog, RunDirectory, from_json, read_json

SHARES = ("natural_accuracy", "robust_accuracy")
COLOURS = ("#0969da", "#bc4c00")


def looks_of(run: RunDirectory) -> list[dict[str, float]]:
    """Accuracy on the validation slice at every validation."""
    rows = [row for row in MetricsLog(run.metrics).rows() if "robust_accuracy" in row]
    return [{name: float(row[name] or 0) for name in ("step", *SHARES)} for row in rows]


def main() -> None:
    """Read the runs, write the table and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("-o", "--out", type=Path, default=Path())
    asked = parser.parse_args()
    curves: dict[str, list[dict[str, float]]] = {}
    for path in asked.runs:
        run = RunDirectory.open(path)
        where = from_json(Environment, read_json(run.environment), where=str(run.environment))
        curves[where.precision] = looks_of(run)
    asked.out.mkdir(parents=True, exist_ok=True)
    with (asked.out / "curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["precision", "step", *SHARES])
        for precision, looks in curves.items():
            table.writerows(
                [precision, int(look["step"]), *map(look.get, SHARES)] for look in looks
            )
    draw(curves, asked.out / "curves.svg")
    print(f"wrote {asked.out}/curves.csv, {asked.out}/curves.svg")


def draw(curves: dict[str, list[dict[str, float]]], out: Path) -> None:
    """Natural accuracy dashed, robust accuracy solid, a colour for each precision."""
    figure, axis = pyplot.subplots(figsize=(7, 4), facecolor="white")
    for colour, (precision, looks) in zip(COLOURS, curves.items(), strict=True):
        steps = [look["step"] for look in looks]
        for share, style in zip(SHARES, ("--", "-"), strict=True):
            axis.plot(
                steps,
                [100 * look[share] for look in looks],
                style,
                color=colour,
                label=f"{share.replace('_', ' ')}, {precision}",
            )
    axis.set(xlabel="updates", ylabel="accuracy, %", ylim=(0, 100))
    axis.grid(alpha=0.3)
    axis.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    main()
