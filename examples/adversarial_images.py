"""Draw what an attack makes of one test image a class, and what two networks say of it.

    python examples/adversarial_images.py ROBUST_RUN NATURAL_RUN -o adversarial.png

The images are attacked once to fool the robust run's network and once to fool the natural one's,
by PGD of 40 steps under the robust run's threat.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

from sparring import PGD, RunDirectory, load_dataset
from sparring.attacks import Threat
from sparring.models import trained_network

GREEN, RED = "#1a7f37", "#cf222e"
HEIGHTS = (-0.16, -0.4)
"""Where the two answers stand below an image, in heights of the image."""


class Row(NamedTuple):
    """Ten images in a row of the picture, and what networks say of them."""

    title: str
    images: Tensor
    says: dict[str, Tensor]


def one_of_each_class(labels: Tensor, usable: Tensor) -> Tensor:
    """Place of the first usable image of every class."""
    classes = range(int(labels.max()) + 1)
    return torch.stack([((labels == c) & usable).nonzero().flatten()[0] for c in classes])


def main() -> None:
    """Read two runs, attack ten images, draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("robust", type=Path)
    parser.add_argument("natural", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("adversarial.png"))
    asked = parser.parse_args()
    run = RunDirectory.open(asked.robust)
    robust, natural = trained_network(run), trained_network(RunDirectory.open(asked.natural))
    test = load_dataset(run.section("data", str)).test
    images, labels = test.batch(torch.arange(1000))
    with torch.no_grad():
        both_right = (robust(images).argmax(1) == labels) & (natural(images).argmax(1) == labels)
    chosen = one_of_each_class(labels, both_right)
    images, labels = images[chosen], labels[chosen]
    attack = PGD(threat=run.section("threat", Threat), steps=40)
    rows = [Row("test image", images, {})]
    for name, fooled in (("robust", robust), ("natural", natural)):
        generator = torch.Generator().manual_seed(0)
        attacked = attack(fooled, images, labels, generator=generator)
        with torch.no_grad():
            says = {"natural": natural(attacked).argmax(1), "robust": robust(attacked).argmax(1)}
        rows.append(Row(f"to fool the {name} one", attacked, says))
    draw(rows, labels, asked.out)
    print(f"wrote {asked.out}")


def draw(rows: list[Row], labels: Tensor, out: Path) -> None:
    """Rows of images, and under each what the networks say of it: green if right, red if not."""
    count = len(labels)
    figure, axes = pyplot.subplots(len(rows), count, figsize=(count, 4.6), facecolor="white")
    for row, line in zip(rows, axes, strict=True):
        margin = {"transform": line[0].transAxes, "ha": "right", "va": "center", "fontsize": 10}
        line[0].text(-0.15, 0.5, row.title, **margin)
        for height, name in zip(HEIGHTS, row.says, strict=False):
            line[0].text(-0.15, height, f"{name} network", **margin)
        for column, axis in enumerate(line):
            axis.imshow(row.images[column, 0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            for height, said in zip(HEIGHTS, row.says.values(), strict=False):
                write(axis, height, int(said[column]), bool(said[column] == labels[column]))
    for column, axis in enumerate(axes[0]):
        axis.set_title(f"{int(labels[column])}", fontsize=11)
    figure.subplots_adjust(left=0.15, right=0.995, top=0.94, bottom=0.12, wspace=0.08, hspace=0.5)
    figure.savefig(out, dpi=160, bbox_inches="tight", pad_inches=0.1)


def write(axis: Axes, height: float, said: int, is_right: bool) -> None:
    """One network's answer below an image."""
    axis.text(
        0.5,
        height,
        str(said),
        transform=axis.transAxes,
        ha="center",
        va="center",
        fontsize=11,
        fontweight="bold",
        color=GREEN if is_right else RED,
    )


if __name__ == "__main__":
    main()
