"""Kill trainers and evaluations at random instants, and count the temporary files that they leave.

    python benchmarks/leftovers.py --kills 100

Every process writes a checkpoint after each update, or its state after each pass, so that many are
killed while they write. The next process that works there must remove what is left, and the last
one that ends by itself must leave nothing. Prints one line of JSON.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo

from sparring.attacks import PGD, Linf
from sparring.evaluation import evaluate_run, partial
from sparring.models import SmallNetwork
from sparring.records import RunDirectory
from sparring.training import TrainConfig, Validation, resume, train

FORK = multiprocessing.get_context("fork")
"""Children begin with everything loaded. PyTorch allows it while the parent computes nothing.
"""
SUITE = "pgd-100x5"


def begin(folder: Path) -> None:
    """A run that is not finished, and one that is."""
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    labels = np.arange(60, dtype=np.uint8) % 3
    parts = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "data.npz", **parts)
    config = TrainConfig(
        data=str(folder / "data.npz"),
        model=SmallNetwork(channels=1, num_classes=3, width=32),
        threat=Linf(eps=0.01),
        attack=PGD(threat=Linf(eps=0.01), steps=1),
        batch_size=4,
        updates=100_000,
        precision="fp32",
        threads=1,
        validation=Validation(every=0, alarm_every=0),
        checkpoint_every=1,
    )
    train(config, folder / "training", until=1)
    train(replace(config, updates=1), folder / "evaluation")


def work(folder: Path, kind: str, updates: int | None = None) -> None:
    """Resume training, or evaluate, until the end or a kill."""
    partial.EVERY = 0.0
    if kind == "training":
        resume(folder / kind, until=updates)
    else:
        evaluate_run(RunDirectory(folder / kind), suite=SUITE, threads=1, checks=False)


def left(folder: Path) -> list[str]:
    """Temporary files and folders, of runs and of the system."""
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def wait_for_a_write(folder: Path, process: Any) -> None:
    """Until a checkpoint, or an evaluation's state, is written."""

    def written() -> list[int]:
        files = [folder / "training" / "resume.pt"]
        files += (folder / "evaluation").glob("evaluation-*.partial.pt")
        return [path.stat().st_mtime_ns for path in files if path.exists()]

    before = written()
    while process.is_alive() and before == written():
        time.sleep(0.005)


def main() -> None:
    """Kill and count, then let one process finish."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.1, help="after a write, at most")
    flags = parser.parse_args()
    chance, before, most = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tempfile.tempdir = made
        child(begin, folder).join()
        kinds = ("training", "evaluation")
        for number in range(flags.kills):
            process = child(work, folder, kinds[number % 2])
            wait_for_a_write(folder, process)
            time.sleep(chance.uniform(0, flags.seconds))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            here = len(left(folder))
            before, most = before + (here > 0), max(most, here)
        version = torch.load(folder / "training" / "resume.pt", weights_only=True)["version"]
        for kind, updates in (("training", version + 1), ("evaluation", None)):
            process = child(work, folder, kind, updates)
            process.join()
            assert process.exitcode == 0
        found = {"kills": flags.kills, "kills_that_left_any": before, "most_at_one_time": most}
        print(json.dumps({**found, "left_at_the_end": left(folder), "updates": version}))


def child(target: Any, *words: object) -> Any:
    """Start such a process."""
    process = FORK.Process(target=target, args=words)
    process.start()
    return process


if __name__ == "__main__":
    main()
