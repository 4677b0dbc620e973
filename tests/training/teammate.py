"""One trainer of several, in a process of its own: what a list asks for, one after the other.

The environment is that which torchrun makes. `main` leaves FOLDER/name-rank.pt for each entry: the
weights, or the error. At the end it leaves FOLDER/threads-rank.json: the names of its threads, on
Linux. An entry has a name, the settings and the run directory. It may say that the run is resumed,
and which rank asks all to stop, or lies about its data, and when.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparring.errors import SparringError
from sparring.records import from_json
from sparring.training import TrainConfig, joined, resume, train
from sparring.training.trainer import Trainer


@contextmanager
def stopped_before(version: int | None, by: signal.Signals) -> Iterator[None]:
    """Ask this process to stop while it begins its update of this version."""
    update = Trainer.update

    def asked(trainer: Trainer, *given: Any, **settings: Any) -> Any:
        if trainer.version == version:
            os.kill(os.getpid(), by)
        return update(trainer, *given, **settings)

    Trainer.update = asked  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        Trainer.update = update


def carried_out(entry: dict[str, Any], rank: int) -> dict[str, Any]:
    config = from_json(TrainConfig, entry["config"] | entry.get(f"only {rank}", {}))
    stop = entry.get("stop") if rank == entry.get("stop rank") else None
    try:
        with stopped_before(stop, signal.SIGTERM):
            done = (
                resume(entry["out"]) if entry.get("resume") else train(config, Path(entry["out"]))
            )
    except SparringError as error:
        return {"error": type(error).__name__, "text": str(error), "code": error.exit_code}
    return {"weights": done.network.state_dict(), "version": done.version}


def main(entries: str, folder: str) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    with joined():
        for entry in json.loads(Path(entries).read_text()):
            torch.save(carried_out(entry, rank), Path(folder) / f"{entry['name']}-{rank}.pt")
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    (Path(folder) / f"threads-{rank}.json").write_text(json.dumps(threads))
