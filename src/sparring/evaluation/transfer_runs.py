"""The transfer matrix of finished runs: their own networks, on the data and threat they share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from sparring.attacks import Threat
from sparring.attacks.plausible import threat_text
from sparring.data import Dataset
from sparring.data.of_run import dataset_of, image_size_of
from sparring.errors import ConfigError
from sparring.evaluation.transfer import TransferObserver, transfer
from sparring.models import chosen_device, computing_threads, trained_network
from sparring.records import RunDirectory, TransferMatrix
from sparring.records.transfer import STEPS, check_contest

Value = TypeVar("Value")

FILE = "transfer.json"
"""What the matrix is called in its folder."""
IMAGES = 1000
"""Test images that runs are compared on, unless another number is asked for."""


def transfer_runs(  # noqa: PLR0913 - what is compared and where it goes, settings by keyword
    runs: Sequence[RunDirectory],
    out: Path,
    *,
    data: Dataset | None = None,
    steps: Sequence[int] = STEPS,
    num_images: int | None = None,
    seed: int = 0,
    threads: int = 0,
    batch_size: int | None = None,
    observer: TransferObserver | None = None,
    trust_code: bool = False,
) -> TransferMatrix:
    """The transfer matrix of some runs' networks, left as transfer.json in a new or empty folder.

    On the first `num_images` test images, by default 1,000 or as many as there are; with `threads`
    CPU threads, 0 for as many as there are cores. The networks are called by their folders, those
    whose folders have one name by their whole paths. `data` are those that the runs were given, if
    they were; `trust_code` as in `trained_network`, for all of them. Otherwise as `transfer`.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    paths = [str(run.path.resolve()) for run in runs]
    check_contest(paths, steps)
    _shared(runs, "data", _data(runs))
    _shared(runs, "image_size", [image_size_of(run) for run in runs])
    threat = _shared(runs, "threat", [run.section("threat", Threat) for run in runs])
    test = dataset_of(runs[0], data).test
    count = min(IMAGES, len(test)) if num_images is None else num_images
    if not 1 <= count <= len(test):
        raise ConfigError(
            f"the number of images must lie in 1 to {len(test)}, because the test set has so many; "
            f"got {count}. Leave it out for the first {min(IMAGES, len(test)):,}."
        )
    device = chosen_device("auto")
    networks = [trained_network(run, trust_code=trust_code).to(device) for run in runs]
    names = [Path(path).name for path in paths]
    named = {
        name if names.count(name) == 1 else path: network
        for name, path, network in zip(names, paths, networks, strict=True)
    }
    images, labels = test.batch(torch.arange(count))
    with computing_threads(threads), _folder(out) as folder:
        found = transfer(
            named,
            images,
            labels,
            threat,
            steps=steps,
            seed=seed,
            batch_size=batch_size,
            observer=observer,
        )
        found.save(folder / FILE)
    return found


def _data(runs: Sequence[RunDirectory]) -> list[str]:
    """What the data of each run are known by; their names, where some run stored nothing else."""
    known = [run.read_data() for run in runs]
    names = [run.section("data", str) for run in runs]
    digests = [f"{name} ({data.words})" for name, data in zip(names, known, strict=True) if data]
    alike = len({data.digest for data in known if data}) == 1
    if len(digests) < len(runs):
        return names
    return digests[:1] * len(runs) if alike else digests


def _shared(runs: Sequence[RunDirectory], what: str, values: Sequence[Value]) -> Value:
    """What all runs have. Raises `ConfigError`, with each run's own, if they differ."""
    first, *others = values
    if any(other != first for other in others):
        each = ", ".join(
            f"{run.path} has {_shown(value)}" for run, value in zip(runs, values, strict=True)
        )
        raise ConfigError(
            f"all runs must have the same {what}, because every network is judged on what was made "
            f"on every other; {each}. Compare runs of one {what}."
        )
    return first


def _shown(value: object) -> str:
    return threat_text(value) if isinstance(value, Threat) else str(value)


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A new or empty folder; one that was made here goes again if nothing came into it."""
    is_new = not out.exists()
    folder = RunDirectory.create(out).path
    try:
        yield folder
    finally:
        with suppress(OSError):
            if is_new:
                folder.rmdir()
