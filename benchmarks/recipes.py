"""Compare recipes on the validation set, so that no preset is chosen on test images.

    python benchmarks/recipes.py "updates=900" "attack.steps=3 early_steps=[] updates=1000" \\
        --seeds 0 1 2 --suite pgd-100x5 --images 1000

Each recipe is a preset (fast) with settings replaced, as `sparring train --set` replaces them; ""
is the preset as it is. One line of CSV a run: natural accuracy on all validation images, robust
accuracy on the first N after every attack of the suite, seconds of training. The runs themselves
are thrown away.
"""

import argparse
import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from sparring.data import load_dataset
from sparring.evaluation import SUITES, evaluate
from sparring.evaluation.judge import correct
from sparring.models import computing_threads
from sparring.training import TrainConfig, Validation, train
from sparring.training.presets import PRESETS


def row(config: TrainConfig, suite: str, num_images: int) -> list[str]:
    """Train one recipe and evaluate it. Cost: the training, and the suite on N images."""
    with tempfile.TemporaryDirectory() as folder:
        trained = train(replace(config, validation=Validation(every=0)), Path(folder) / "run")
    validation = load_dataset(config.data).validation
    images, labels = validation.batch(torch.arange(len(validation)))
    natural = correct(trained.network, images, labels).float().mean().item()
    verdict = evaluate(
        trained.network, images[:num_images], labels[:num_images], config.threat, suite=suite
    )
    robust = [f"{attack.robust.share:.4f}" for attack in verdict.evaluation.attacks]
    return [f"{natural:.4f}", *robust, f"{trained.seconds:.0f}"]


def main() -> None:
    """Train and evaluate every recipe with every seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+", metavar="'NAME=VALUE ...'")
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--suite", choices=SUITES, default="pgd-100x5")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    attacks = SUITES[asked.suite].against(PRESETS[asked.preset]().threat)
    table = csv.writer(sys.stdout)
    table.writerow(["recipe", "seed", "natural", *attacks, "training seconds"])
    with computing_threads(asked.threads):
        for recipe in asked.recipes:
            for seed in asked.seeds:
                config = PRESETS[asked.preset](set=recipe.split(), seed=seed, threads=asked.threads)
                table.writerow([recipe, seed, *row(config, asked.suite, asked.images)])
                sys.stdout.flush()


if __name__ == "__main__":
    main()
