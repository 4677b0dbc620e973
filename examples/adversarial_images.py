"""Draw what an attack makes of one test image a class, and what two networks say of it.

    python examples/adversarial_images.py ROBUST_RUN NATURAL_RUN -o adversarial.png

The images are attacked to fool the robust run's network (PGD of 40 steps, the run's own threat).
"""

import argparse
from pathlib import Path

import torch
from matplotlib import pyplot
from torch import Tensor

from sparring import PGD, RunDirectory, load_dataset, load_weights
from sparring.attacks import Threat
from sparring.models import PaperCNN, PaperNetwork

GREEN, RED = "#1a7f37", "#cf222e"


def network_of(run: RunDirectory) -> PaperCNN:
    """The run's trained network."""
    network = run.section("model", PaperNetwork).build(seed=0)
    load_weights(network, run.weights)
    return network.eval()


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
    robust, natural = network_of(run), network_of(RunDirectory.open(asked.natural))
    test = load_dataset(run.section("data", str)).test
    images, labels = test.batch(torch.arange(1000))
    with torch.no_grad():
        both_right = (robust(images).argmax(1) == labels) & (natural(images).argmax(1) == labels)
    chosen = one_of_each_class(labels, both_right)
    images, labels = images[chosen], labels[chosen]
    attack = PGD(threat=run.section("threat", Threat), steps=40)
    attacked = attack(robust, images, labels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        says = {
            "natural": natural(attacked).argmax(1),
            "robust": robust(attacked).argmax(1),
        }
    draw(images, attacked, labels, says, asked.out)
    print(f"wrote {asked.out}")


def draw(
    images: Tensor, attacked: Tensor, labels: Tensor, says: dict[str, Tensor], out: Path
) -> None:
    """Two rows of images, and under each attacked one what the networks say of it."""
    count = len(images)
    figure, axes = pyplot.subplots(2, count, figsize=(count, 2.9), facecolor="white")
    for row, pictures in enumerate((images, attacked)):
        for column in range(count):
            axis = axes[row, column]
            axis.imshow(pictures[column, 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    for column in range(count):
        axes[0, column].set_title(f"{int(labels[column])}", fontsize=11)
        for line, said in enumerate(says.values()):
            right = said[column] == labels[column]
            axes[1, column].text(
                0.5,
                -0.22 - 0.24 * line,
                str(int(said[column])),
                transform=axes[1, column].transAxes,
                ha="center",
                va="center",
                fontsize=11,
                fontweight="bold",
                color=GREEN if right else RED,
            )
    margin = {"ha": "right", "va": "center", "fontsize": 10}
    axes[0, 0].text(-0.15, 0.5, "test image", transform=axes[0, 0].transAxes, **margin)
    axes[1, 0].text(-0.15, 0.5, "attacked", transform=axes[1, 0].transAxes, **margin)
    for line, name in enumerate(says):
        place = (-0.15, -0.22 - 0.24 * line)
        axes[1, 0].text(*place, f"{name} network", transform=axes[1, 0].transAxes, **margin)
    figure.subplots_adjust(left=0.13, right=0.995, top=0.9, bottom=0.2, wspace=0.08, hspace=0.08)
    figure.savefig(out, dpi=160)


if __name__ == "__main__":
    main()
