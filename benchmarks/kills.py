"""Kill and stop workers at random instants over one run, and compare it with an undisturbed one.

    python benchmarks/kills.py --kills 200

A run of tiny batches while workers are hurt, SIGKILL and SIGSTOP in turn, at any moment of their
lives, starting included; most live long enough to attack, for an engine whose workers only die at
their start rightly gives them up. Prints what a table of results needs: whether the weights are the
same bit for bit, whether each ticket was trained once, and what was left behind.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
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


def open_files() -> Counter[str]:
    """How many descriptors of this process lead to each place."""
    names: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own descriptor is closed by now
            names[str(entry.readlink())] += 1
    return names


class Hunter(threading.Thread):
    """Kills or stops every worker after a random time."""

    def __init__(self, life: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.life, self.chance = life, random.Random(seed)
        self.ends: dict[int, float] = {}
        self.hurt: dict[int, str] = {}
        self.over = threading.Event()

    def run(self) -> None:
        """Run until the training ends."""
        while not self.over.wait(0.02):
            now = time.monotonic()
            for worker in workers_alive():
                if worker not in self.ends:
                    self.ends[worker] = now + self.chance.uniform(0, 2 * self.life)
                if worker not in self.hurt and now >= self.ends[worker]:
                    how = (signal.SIGKILL, signal.SIGSTOP)[len(self.hurt) % 2]
                    self.hurt[worker] = how.name
                    with suppress(ProcessLookupError):  # it ended by itself just now
                        os.kill(worker, how)


def main() -> None:
    """Train twice, undisturbed and with kills, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--updates", type=int, default=6500)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--life", type=float, default=7.0, help="mean seconds a worker lives")
    asked = parser.parse_args()
    settings = config(asked.updates, asked.workers)
    with tempfile.TemporaryDirectory() as folder:
        calm = train(settings, Path(folder) / "calm").network.state_dict()
        descriptors = open_files()
        hunter = Hunter(asked.life, seed=0)
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
        "descriptors_more": dict(open_files() - descriptors),
        "shared_memory_left": [name for name in os.listdir("/dev/shm") if "sparring" in name],  # noqa: PTH208
    }
    print(json.dumps(found, indent=2))
    if len(hunter.hurt) < asked.kills:
        raise SystemExit(f"only {len(hunter.hurt)} were hurt: take more --updates")


if __name__ == "__main__":
    main()
