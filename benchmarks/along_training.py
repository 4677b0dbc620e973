"""Accuracy of networks under attacks of several lengths, at their snapshots.

    python benchmarks/along_training.py runs/k4-none runs/k4 --steps 1 4 8 128 -o table.csv

A line for each snapshot: the run, its updates, and correct images in per cent, without an attack
and under attacks of 2.5 eps / steps a step from a random start, on the first images of a set.
"""

import argparse
import csv
from pathlib import Path

from sparring.models import computing_threads
from sparring.records import RunDirectory
from sparring.studies.networks import SnapshotUnderAttack


def main() -> None:
    """Attack every snapshot and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 8, 128])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--of", choices=("test", "training"), default="test")
    parser.add_argument("--every", type=int, default=1, help="only versions that it divides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", dest="table", type=Path, required=True)
    asked = parser.parse_args()
    lengths = (0, *asked.steps)
    with computing_threads(asked.threads), asked.table.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["run", "updates", "natural", *(f"{steps} steps" for steps in asked.steps)])
        for run in map(RunDirectory, asked.runs):
            for version in run.snapshots():
                if version % asked.every:
                    continue
                measured = SnapshotUnderAttack(
                    network=run.path.name,
                    run=run,
                    version=version,
                    steps=lengths,
                    images=asked.images,
                    of=asked.of,
                )
                right = [100 * int(row["right"] or 0) / asked.images for row in measured()]
                table.writerow([run.path.name, version, *(f"{share:.1f}" for share in right)])
                file.flush()


if __name__ == "__main__":
    main()
