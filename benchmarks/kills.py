"""Kill and stop workers at random instants over one run, and compare it with an undisturbed one.

    python benchmarks/kills.py --kills 200

A run of tiny batches goes on until so many workers have been hurt: SIGKILL and SIGSTOP in turn, at
any moment of their lives, starting included. Prints what a table of results needs: whether the
weights are the same bit for bit, whether each ticket was trained once, and what was left behind.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import torch

from sparring.attacks import PGD, Linf
from sparring.engine import FixedLag
from sparring.records import MetricsLog, describe, to_json
from sparring.training import Asynchronous, TrainConfig, Validation, train


def config(updates: int, workers: int) -> TrainConfig:
    """Batches of eight, two steps, the paper's network; three seconds of patience."""
    source = Asynchronous(workers=workers, policy=FixedLag(lag=3, split=2), patience=3.0)
    return TrainConfig(
        attack=PGD(threat=Linf(eps=0.3), steps=2),
        batch_size=8,
        updates=updates,
        precision="fp32",
        threads=1,
        source=source,
        validation=Validation(every=0),
        checkpoint_every=updates,
    )


def workers_alive() -> list[int]:
    """Worker processes of this one."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in found if is_worker(int(child))]


def is_worker(process: int) -> bool:
    """Whether a process was spawned by multiprocessing."""
    try:
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


class Hunter(threading.Thread):
    """Hurts a random worker every so often while the run goes on."""

    def __init__(self, every: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.every, self.chance = every, random.Random(seed)
        self.hurt: dict[int, str] = {}
        self.over = threading.Event()

    def run(self) -> None:
        """Hunt until it is over."""
        while not self.over.wait(self.chance.uniform(0, 2 * self.every)):
            victims = [worker for worker in workers_alive() if worker not in self.hurt]
            if victims:
                victim = self.chance.choice(victims)
                how = (signal.SIGKILL, signal.SIGSTOP)[len(self.hurt) % 2]
                self.hurt[victim] = how.name
                os.kill(victim, how)


def main() -> None:
    """Train twice, in peace and under attack, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--updates", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=2.0, help="mean seconds between two")
    asked = parser.parse_args()
    settings = config(asked.updates, asked.workers)
    with tempfile.TemporaryDirectory() as folder:
        calm = train(settings, Path(folder) / "calm").network.state_dict()
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
        hunter = Hunter(asked.every, seed=0)
        hunter.start()
        begun = time.monotonic()
        done = train(settings, Path(folder) / "rough")
        seconds = time.monotonic() - begun
        hunter.over.set()
        hunter.join()
        rows = MetricsLog(done.run.metrics).rows()
    rough = done.network.state_dict()
    totals = next(row for row in reversed(rows) if "deaths" in row)
    found = {
        "environment": to_json(describe(threads=1, device="cpu", precision="fp32")),
        "updates": asked.updates,
        "seconds": round(seconds),
        "hurt": len(hunter.hurt),
        "killed": list(hunter.hurt.values()).count("SIGKILL"),
        "stopped": list(hunter.hurt.values()).count("SIGSTOP"),
        "same_weights": all(torch.equal(calm[name], rough[name]) for name in calm),
        "each_ticket_once": [row["step"] for row in rows if "loss" in row]
        == list(range(1, asked.updates + 1)),
        "staleness_max": max(int(row["staleness"] or 0) for row in rows if "staleness" in row),
        "staleness_bound": settings.source.bound,
        "ledger": {name: count for name, count in totals.items() if name != "step"},
        "workers_left": len(workers_alive()),
        "descriptors_more": len(os.listdir("/proc/self/fd")) - descriptors,  # noqa: PTH208
        "shared_memory_left": [name for name in os.listdir("/dev/shm") if "sparring" in name],  # noqa: PTH208
    }
    print(json.dumps(found, indent=2))
    if len(hunter.hurt) < asked.kills:
        raise SystemExit(f"only {len(hunter.hurt)} were hurt: take more --updates")


if __name__ == "__main__":
    main()
