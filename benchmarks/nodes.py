"""The preset `fast`, shortened, on a Ray cluster that loses a node and gains one while it trains.

    python benchmarks/nodes.py --updates 60

Two nodes of this machine, each with room for one worker, and a head without room; a third of the
way the first is removed, a third later another is added. The weights must be those of the same run
on processes, bit for bit, and every batch must have been trained once, in order.
"""

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster
from typing_extensions import override

from sparring.capacity import EngineStats
from sparring.engine import FixedLag
from sparring.engine.transports.ray_cluster import Connection
from sparring.loader import Processes, Ray, TransportKind
from sparring.records import MetricsLog, Row, describe
from sparring.training import Asynchronous, RowKind, Sink, TrainConfig, TrainedRun, train
from sparring.training.presets import fast


class Changing(Sink):
    """Removes a node after a third of the updates, and adds one after two thirds."""

    def __init__(self, cluster: Any, updates: int) -> None:
        self._cluster, self._updates = cluster, updates

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        if kind == "notice":
            print(f"  notice: {row['event']}")
        if kind != "update":
            return
        if row["step"] == self._updates // 3:
            gone = min(self._cluster.worker_nodes, key=str)
            self._cluster.remove_node(gone)
            print(f"update {row['step']}: a node is gone; {alive()} are left, the head included")
        if row["step"] == 2 * self._updates // 3:
            self._cluster.add_node(num_cpus=1)
            print(f"update {row['step']}: a node came; there are {alive()}")


def alive() -> int:
    """Nodes that the cluster's head knows to be alive."""
    return sum(node["Alive"] for node in ray.nodes())


def short(updates: int, kind: TransportKind) -> TrainConfig:
    """`fast` of this many updates, with two workers that do all attacks."""
    preset = fast()
    source = Asynchronous(workers=2, transport=kind, policy=FixedLag(lag=3), helps=False)
    validation = replace(preset.validation, every=0, alarm_every=0)
    return replace(preset, updates=updates, source=source, validation=validation)


def report(name: str, run: TrainedRun) -> None:
    """Print how many batches each node attacked, and that every update was done once."""
    rows = MetricsLog(run.run.metrics).rows()
    stats = EngineStats.from_rows(rows, helps=False)
    steps = [row["step"] for row in rows if "loss" in row]
    if stats is None or steps != list(range(1, len(steps) + 1)):
        raise SystemExit(f"{name}: the updates are not one to the last, each once")
    by = ", ".join(f"worker {name} {n}" for name, n in Counter(stats.attacked_by).most_common())
    print(f"{name}: {len(steps)} updates, each once, in {run.seconds:.0f} s; leases done: {by}")
    print(f"  ledger: {', '.join(f'{count} {what}' for what, count in stats.ledger.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--updates", type=int, default=60)
    updates = parser.parse_args().updates
    where = describe(threads=1, device="cpu", precision="none")
    print(f"{where.processor}, {where.cores} cores, torch {where.torch}, ray {ray.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        runs = {"processes": train(short(updates, Processes()), Path(folder) / "processes")}
        report("processes", runs["processes"])
        cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        connection = Connection(cluster.address)
        watch = Changing(cluster, updates)
        runs["Ray"] = train(short(updates, Ray()), Path(folder) / "ray", sinks=[watch])
        report("Ray", runs["Ray"])
        connection.close()
        cluster.shutdown()
    here, there = (run.network.state_dict() for run in runs.values())
    equal = [
        torch.equal(here[name].view(torch.uint8), there[name].view(torch.uint8)) for name in here
    ]
    print(f"{sum(equal)} of {len(equal)} tensors are equal bit for bit")


if __name__ == "__main__":
    main()
