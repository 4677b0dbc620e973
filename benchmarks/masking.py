"""Which trained networks the checks for gradient masking flag, and why.

    python benchmarks/masking.py runs/natural runs/k1 runs/k8 --quantised runs/natural -o table.csv

Each network on the first test images, as `sparring evaluate` looks at it; one more stands behind a
quantiser, which rounds pixels to five grey levels and lets no gradient through. Every check is a
line of the table: network, check, flagged, sentence.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.attacks import Linf
from sparring.data import load_dataset
from sparring.evaluation import evaluate
from sparring.models import computing_threads, trained_network
from sparring.records import RunDirectory

LEVELS = 4
"""Steps from black to white that the quantiser leaves."""


class Quantised(nn.Module):
    """A network behind a step function, whose gradient is zero."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.net((images * LEVELS).round() / LEVELS)


def networks(runs: list[Path], quantised: Path | None) -> Iterator[tuple[str, nn.Module]]:
    """Every network by its name."""
    for run in runs:
        yield run.name, trained_network(RunDirectory(run))
    if quantised is not None:
        yield (
            f"{quantised.name} behind a quantiser",
            Quantised(trained_network(RunDirectory(quantised))),
        )


def main() -> None:
    """Evaluate, print what was flagged and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--quantised", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("-o", dest="table", type=Path, required=True)
    asked = parser.parse_args()
    images, labels = load_dataset("mnist").test.batch(torch.arange(asked.images))
    rows: list[tuple[str, str, bool, str]] = []
    with computing_threads(asked.threads):
        for name, net in networks(asked.runs, asked.quantised):
            found = evaluate(net, images, labels, Linf(eps=0.3)).evaluation
            print(f"{name}: natural {found.natural.share:.1%}, suite pgd {found.robust.share:.1%}")
            for finding in found.findings or ():
                rows.append((name, finding.check, finding.flagged, finding.sentence))
                if finding.flagged:
                    print(f"  {finding.check}: {finding.sentence}")
    with asked.table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("network", "check", "flagged", "sentence"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
