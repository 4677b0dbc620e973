"""Several trainers against one: emulated devices, and whether the gradients are the same.

    python benchmarks/trainers.py                 both, in minutes
    python benchmarks/trainers.py speed --rounds 5
    python benchmarks/trainers.py equality --updates 20

Speed: one trainer with one worker, and two torchrun trainers with one worker each, by turns. Real
are the engine, its processes, pipes and slots, and gloo's all-reduce of gradients as large as those
of the paper's network; attacks and updates sleep (*emulated* devices), so it shows what trainers
cost, not any device. Each has batches of 128 images, as under the linear scaling rule.

Equality: the same global batches by one trainer, its tickets split in four, and by two trainers, in
two each, in single precision: the largest difference of the averaged gradient before the first
update, relative to the tensor's largest number, and how far the weights are apart after some
updates, relative to how far they have moved.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sparring.attacks import PGD, Linf
from sparring.capacity import EmulatedJob, EmulatedTrainer, emulated_workers
from sparring.data import load_dataset
from sparring.engine import Broker, Engine, FixedLag
from sparring.models import PaperNetwork
from sparring.training import SGD, Adam, Asynchronous, TrainConfig, Trainer, joined
from sparring.training.distributed import present_team

WEIGHTS, BATCH = 3_274_634, 128
POLICY = FixedLag(lag=2)


def emulated(attack: float, update: float, updates: int) -> dict[str, float]:
    """One trainer's time for this many updates, once its worker is up and the pipeline is full."""
    team, gradients = present_team(), torch.ones(WEIGHTS)
    job = EmulatedJob(seconds=attack, batch_size=BATCH)
    spent, begun, full = 0.0, 0.0, None
    with emulated_workers(job, POLICY) as (arena, transport):
        broker = Broker(POLICY, tickets=10**9)
        engine = Engine(broker, transport, EmulatedTrainer(job, arena), workers=1)
        for ready in engine:
            if full is None:
                # All must begin to count at the same ticket: the first to start waits.
                if team.mean(torch.tensor([float(engine.num_workers), 0, 0, 0]))[0] == 1:
                    full = ready.ticket + 2 * POLICY.window
                continue
            if ready.ticket == full:
                begun, spent = time.perf_counter(), 0.0
            elif ready.ticket == full + updates:
                break
            time.sleep(update)
            before = time.perf_counter()
            team.mean(gradients)
            spent += time.perf_counter() - before
        seconds = time.perf_counter() - begun
        engine.close()
    return {"images": team.size * BATCH * updates / seconds, "averaging": spent / seconds}


OPTIMIZERS = {"SGD": SGD(learning_rate=0.05), "Adam": Adam(learning_rate=1e-3)}


def equality(updates: int) -> dict[str, object]:
    """The first averaged gradient, and the weights before and after this many updates."""
    return {name: _gradients_and_weights(name, updates) for name in OPTIMIZERS}


def _gradients_and_weights(optimizer: str, updates: int) -> dict[str, list[torch.Tensor]]:
    team = present_team()
    config = TrainConfig(
        model=PaperNetwork(initialisation="small"),
        attack=PGD(threat=Linf(eps=0.3), steps=4),
        optimizer=OPTIMIZERS[optimizer],
        source=Asynchronous(workers=0, policy=FixedLag(lag=0, split=4 // team.size)),
        batch_size=BATCH,
        trainers=team.size,
        updates=updates,
        precision="fp32",
    )
    trainer = Trainer(config, load_dataset("mnist"), torch.device("cpu"), team=team)
    before = weights_of(trainer)
    batch = trainer.loader.finish(trainer.loader.begin(0))
    share = trainer.measure(batch)
    if team.size > 1:
        share = trainer.unpacked(team.mean(trainer.packed(share)))
    gradients = [each.clone() for each in share.gradients if each is not None]
    trainer.copy.refresh()
    for number in range(updates):
        trainer.update(trainer.loader.finish(trainer.loader.begin(number)))
    return {"gradients": gradients, "before": before, "after": weights_of(trainer)}


def weights_of(trainer: Trainer) -> list[torch.Tensor]:
    return [each.detach().clone() for each in trainer.network.parameters()]


def apart(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Euclidean distance of all weights."""
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(some, others, strict=True)))


def child(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with joined():
        if asked.child == "speed":
            found = emulated(asked.attack / 1000, asked.update / 1000, asked.updates)
        else:
            found = equality(asked.updates)
        if present_team().leads:
            torch.save(found, asked.out)


def run(what: str, trainers: int, words: list[str]) -> dict[str, Any]:
    """One measurement, by torchrun where there are several; always in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        out = str(Path(folder) / "found.pt")
        command = [sys.executable]
        if trainers > 1:
            command += ["-m", "torch.distributed.run", "--nproc-per-node", str(trainers)]
            command += ["--master-port", port]
        command += [__file__, "--child", what, "--out", out, *words]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return torch.load(out, weights_only=True)


def show_speed(asked: argparse.Namespace) -> None:
    words = [f"--attack={asked.attack}", f"--update={asked.update}", f"--updates={asked.updates}"]
    rounds = []
    for number in range(asked.rounds):
        one, two = (run("speed", trainers, words) for trainers in (1, 2))
        rounds.append({"one": one["images"], "two": two["images"], "averaging": two["averaging"]})
        rounds[-1]["ratio"] = rounds[-1]["two"] / rounds[-1]["one"]
        print(json.dumps({"round": number + 1, **rounds[-1]}), flush=True)
    print(
        f"emulated devices, attack {asked.attack:g} ms, update {asked.update:g} ms, "
        f"{asked.updates} updates of {BATCH} images a trainer, {asked.rounds} rounds by turns:"
    )
    for name, what in (
        ("one", "images a second, one trainer and one worker"),
        ("two", "images a second, two trainers and a worker each"),
        ("ratio", "ratio"),
        ("averaging", "share of the two trainers' time in the all-reduce, waits included"),
    ):
        values = [each[name] for each in rounds]
        print(
            f"  {what}: median {statistics.median(values):.4g} "
            f"({min(values):.4g} to {max(values):.4g})"
        )


def show_equality(asked: argparse.Namespace) -> None:
    words = [f"--updates={asked.steps}"]
    one, two = (run("equality", trainers, words) for trainers in (1, 2))
    print(f"one trainer and two, the same {BATCH} images an update, fp32, seed 0:")
    for name in OPTIMIZERS:
        alone, both = one[name], two[name]
        worst = max(
            float((a - b).abs().max() / a.abs().max())
            for a, b in zip(alone["gradients"], both["gradients"], strict=True)
        )
        moved = apart(alone["after"], alone["before"])
        print(
            f"  {name}: first gradient {worst:.2g} of its tensor's largest number apart; after "
            f"{asked.steps} updates weights {apart(alone['after'], both['after']) / moved:.2g} of "
            "the way that they have moved"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("speed", "equality"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attack", type=float, default=400.0, help="milliseconds, slept")
    parser.add_argument("--update", type=float, default=50.0, help="milliseconds, slept")
    parser.add_argument("--updates", type=int, default=40, help="measured in each round")
    parser.add_argument("--steps", type=int, default=10, help="updates before weights are compared")
    parser.add_argument("--child")
    parser.add_argument("--out")
    asked = parser.parse_args()
    if asked.child:
        child(asked)
        return
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")
    if asked.what != "equality":
        show_speed(asked)
    if asked.what != "speed":
        show_equality(asked)


if __name__ == "__main__":
    main()
