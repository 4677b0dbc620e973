"""What a batch costs on a Ray cluster beside processes, and whether the object store stays flat.

    python benchmarks/transports.py --rounds 400 --batches 5000

Both are measured in one run, in turns, on a cluster of this machine: one worker, attacks that take
no time, batches and weights of the paper's sizes. Then N batches go through a Ray worker, new
weights with each, and the object store and the trainer's memory are looked at now and then.
"""

import argparse
import os
from dataclasses import asdict
from statistics import median
from time import perf_counter

import ray

from sparring.capacity import (
    EmulatedJob,
    EmulatedTrainer,
    emulated_workers,
    measure_overheads,
    resident_megabytes,
)
from sparring.engine import Broker, Engine, FixedLag
from sparring.engine.transports.ray_cluster import Connection
from sparring.loader import Processes, Ray
from sparring.records import describe

TURNS = 3
"""Measurements of each kind."""
SAMPLES = 10
"""Printed lines during the long run."""
KINDS = {"processes": Processes(), "Ray": Ray()}


def overheads(rounds: int) -> None:
    """Print every overhead of both kinds: the median of the turns, least and most."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for _ in range(TURNS):
        for name, kind in KINDS.items():
            found[name].append(asdict(measure_overheads(rounds=rounds, kind=kind)))
    print(f"\nmicroseconds a batch, median [least, most] of {TURNS} turns of {rounds} rounds")
    print(f"{'':12} {'processes':>24} {'Ray':>24}")
    for what in found["processes"][0]:
        columns = []
        for name in KINDS:
            values = [turn[what] for turn in found[name]]
            columns.append(f"{median(values):,.0f} [{min(values):,.0f}, {max(values):,.0f}]")
        print(f"{what:12} {columns[0]:>24} {columns[1]:>24}")


def store(batches: int) -> None:
    """Print what the object store and the trainer hold while N batches pass."""
    job, policy = EmulatedJob(seconds=0.0), FixedLag(lag=3, split=1)
    print(f"\n{batches:,} batches through a Ray worker, new weights with each")
    print(f"{'batches':>8} {'a second':>9} {'object store, MB':>17} {'trainer, MB':>12}")
    with emulated_workers(job, policy, Ray()) as (arena, transport):
        broker = Broker(policy, tickets=batches)
        engine = Engine(broker, transport, EmulatedTrainer(job, arena), workers=1, helps=False)
        every, mark = batches // SAMPLES, perf_counter()
        for ready in engine:
            if (ready.ticket + 1) % every == 0:
                speed, held = every / (perf_counter() - mark), used_megabytes()
                own = resident_megabytes(os.getpid())
                print(f"{ready.ticket + 1:8,} {speed:9.0f} {held:17.1f} {own:12.1f}")
                mark = perf_counter()


def used_megabytes() -> float:
    """Bytes of the cluster's object stores that are taken, in MB."""
    name = "object_store_memory"
    return (ray.cluster_resources()[name] - ray.available_resources()[name]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--batches", type=int, default=5000)
    asked = parser.parse_args()
    where = describe(threads=1, device="cpu", precision="none")
    print(f"{where.processor}, {where.cores} cores, torch {where.torch}, ray {ray.__version__}")
    connection = Connection()
    overheads(asked.rounds)
    store(asked.batches)
    connection.close()


if __name__ == "__main__":
    main()
