"""Adversarial examples crafted on each of several networks, classified by all of them.

Shapes: N images of the set, B of a batch, S one image (C H W), M networks.
Units: pixels in [0, 1].
Source: Bhat, Tsipras & Madry 2019, table 1.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparring.attacks import PGD, Batch, Threat, as_batch
from sparring.attacks.own_threat import called_safely, check_threat
from sparring.attacks.plausible import threat_text
from sparring.attacks.threat import stored_threat
from sparring.data import Dataset
from sparring.data.run_data import conversion_of, dataset_of
from sparring.errors import ConfigError
from sparring.evaluation.judge import parts
from sparring.evaluation.model_under_test import ModelUnderTest, starts
from sparring.models import (
    check_callable,
    chosen_device,
    computing_threads,
    evaluation_mode,
    original_module,
    plain_settings,
    trained_network,
)
from sparring.records import Cell, Proportion, RunDirectory, TransferMatrix, describe
from sparring.records.checks import at_least, within
from sparring.records.display import displayed
from sparring.records.files import folder_unless_empty, from_home, run_errors
from sparring.records.text import counted
from sparring.records.transfer import STEPS, check_contest
from sparring.records.typed import typed


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferProgress:
    """The progress of a transfer matrix, after an attacked batch."""

    steps: int
    """Gradient steps of the attack that is running."""
    number: int
    """Place of this number of steps, counted from 1."""
    of: int
    """Numbers of steps in all."""
    share: float
    """Share of this number of steps that is done; 1 at its end."""
    of_all: float
    """Share of the whole matrix that is done, by gradient steps; 1 at the end."""


TransferObserver = Callable[[TransferProgress], None]


@contextmanager
def _watched(progress: bool | TransferObserver) -> Iterator[TransferObserver | None]:
    """The observer of a transfer matrix; `True` is a display while the block lasts."""
    if callable(progress):
        yield progress
    elif progress:
        with displayed("transfer") as display:
            yield lambda now: display.show(now.of_all, counted(now.steps, "step"))
    else:
        yield None


@typed
@plain_settings()
def transfer(  # noqa: PLR0913 - four things that are compared, settings by keyword
    networks: Mapping[str, nn.Module],
    images: Batch,
    labels: Batch,
    threat: Threat,
    *,
    steps: Sequence[int] = STEPS,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | TransferObserver = False,
) -> TransferMatrix:
    """The accuracy of each network on adversarial examples crafted on each of them.

    For each number of `steps`, PGD on the cross-entropy with step size 2.5 · eps / steps and one
    uniform start, on all images, also those that are misclassified when clean. Each image's
    start comes from (`seed`, steps, its place in the set) alone, so it is the same for all sources.
    Sources are attacked in single precision; an image counts as broken only if the target itself,
    in evaluation mode and its own arithmetic, misclassifies it inside the threat (+ 1e-6).
    Networks are unchanged after the call. A pass has `batch_size` images, by default 128 on a CPU
    and 1,024 elsewhere (untested); rounding, and so an image at the margin, depends on it.
    `progress=True` shows the progress; a function gets a `TransferProgress` after every batch.

    Cost, with each of M networks and over all images: `sum(steps)` forward and backward passes, and
    1 + M · len(steps) forward passes.
    Raises `ConfigError` for fewer than two networks, and for wrong steps, images, labels or
    logits.
    """
    check_contest(tuple(networks), steps)
    at_least("seed", seed, 0)
    images, labels = as_batch(images, labels, "a transfer matrix", next(iter(networks.values())))
    with ExitStack() as held:
        observer = held.enter_context(_watched(progress))
        tested = []
        for network in networks.values():
            check_callable(network)
            original = original_module(network)
            held.enter_context(evaluation_mode(original))
            safe = called_safely(threat)
            tested.append(ModelUnderTest(original, images, labels, safe, batch_size))
        check_threat(threat, images)
        return _matrix(tested, images, labels, tuple(networks), tuple(steps), seed, observer)


def _matrix(  # noqa: PLR0913 - as `transfer`
    tested: Sequence[ModelUnderTest],
    images: Tensor,
    labels: Tensor,
    names: tuple[str, ...],
    steps: tuple[int, ...],
    seed: int,
    observer: TransferObserver | None,
) -> TransferMatrix:
    begun = time.perf_counter()
    threat = tested[0].judge.threat
    clean = [int((one.logits.argmax(1) == labels).sum()) for one in tested]
    cells = []
    for number, count in enumerate(steps, start=1):

        def report(share: float, count: int = count, number: int = number) -> None:
            if observer is not None:
                done = (sum(steps[: number - 1]) + share * count) / sum(steps)
                observer(
                    TransferProgress(
                        steps=count, number=number, of=len(steps), share=share, of_all=done
                    )
                )

        attack = PGD(threat=threat, steps=count)
        cells.append(_counted(_judged(tested, attack, images, labels, seed=seed, report=report)))
    return TransferMatrix(
        networks=names,
        steps=steps,
        threat=threat_text(threat),
        natural=tuple(Proportion(successes=count, total=len(labels)) for count in clean),
        cells=tuple(cells),
        num_images=len(labels),
        seed=seed,
        seconds=time.perf_counter() - begun,
        environment=describe(
            threads=torch.get_num_threads(),
            device=" and ".join(dict.fromkeys(str(one.judge.device) for one in tested)),
            precision=" and ".join(dict.fromkeys(one.arithmetic for one in tested)),
        ),
    )


def _judged(  # noqa: PLR0913 - what is attacked and with what; the rest by keyword
    tested: Sequence[ModelUnderTest],
    attack: PGD,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    report: Callable[[float], None],
) -> Bool[Tensor, "M M N"]:
    """Whether targets are correct, as [source, target, image]."""
    count = len(tested)
    right = torch.empty(count, count, len(labels), dtype=torch.bool)
    for part in parts(len(labels), min(one.batch_size for one in tested)):
        batch = (images[part], labels[part])
        start = starts(attack, images[part], seed, part.start)
        for source, attacked in enumerate(tested):
            points = attacked.examples(attack, start, *batch)
            for target, judged in enumerate(tested):
                right[source, target, part] = judged.right(points, *batch)
            done = part.start + (part.stop - part.start) * (source + 1) / count
            report(done / len(labels))
    return right


def _counted(right: Bool[Tensor, "M M N"]) -> tuple[tuple[Cell, ...], ...]:
    """The cells of one number of steps, as [source][target]."""
    own = right.diagonal().T  # [target, image]
    return tuple(
        tuple(
            Cell(
                right=int(row.sum()),
                only_transferred=int((~row & white).sum()),
                only_white_box=int((row & ~white).sum()),
            )
            for row, white in zip(rows, own, strict=True)
        )
        for rows in right
    )


Value = TypeVar("Value")

FILE = "transfer.json"
"""Name of the matrix in its folder."""
IMAGES = 1000
"""Test images by default."""


@typed
def transfer_runs(  # noqa: PLR0913 - what is compared and where it goes, settings by keyword
    runs: Sequence[RunDirectory | Path | str],
    out: Path | str,
    *,
    data: Dataset | None = None,
    steps: Sequence[int] = STEPS,
    num_images: int | None = None,
    seed: int = 0,
    threads: int = 0,
    batch_size: int | None = None,
    progress: bool | TransferObserver = False,
    trust_code: bool = False,
) -> TransferMatrix:
    """The transfer matrix of some runs' networks, written as transfer.json to an empty folder.

    It uses the first `num_images` test images, by default at most 1,000, and `threads` CPU threads,
    0 for one a core. Networks have the names of their folders, or their whole paths if names are
    equal. `data` is the data set that the runs were given as an object, if they were; `trust_code`
    is as in `trained_network`, for all runs. Otherwise as `transfer`.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    opened = [run if isinstance(run, RunDirectory) else RunDirectory.open(run) for run in runs]
    paths = [str(run.path.resolve()) for run in opened]
    check_contest(paths, steps)
    _shared(opened, "data", _data(opened))
    for what in ("image_size", "channels"):
        _shared(opened, what, [getattr(conversion_of(run), what) for run in opened])
    threats = [stored_threat(run, trust_code=trust_code) for run in opened]
    threat = _shared(opened, "threat", threats)
    test = dataset_of(opened[0], data).test
    count = min(IMAGES, len(test)) if num_images is None else num_images
    within("the number of images", count, f"[1, {len(test)}]")
    device = chosen_device("auto")
    networks = [trained_network(run, trust_code=trust_code).to(device) for run in opened]
    names = [Path(path).name for path in paths]
    named = {
        name if names.count(name) == 1 else path: network
        for name, path, network in zip(names, paths, networks, strict=True)
    }
    images, labels = test.batch(torch.arange(count))
    with computing_threads(threads), _folder(from_home(out)) as folder:
        found = transfer(
            named,
            images,
            labels,
            threat,
            steps=steps,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        found.save(folder / FILE)
    return found


def _data(runs: Sequence[RunDirectory]) -> list[str]:
    """The digests of each run's data, or their names if a run has no digest."""
    known = [run.read_data() for run in runs]
    names = [run.section("data", str) for run in runs]
    digests = [f"{name} ({data.words})" for name, data in zip(names, known, strict=True) if data]
    alike = len({data.digest for data in known if data}) == 1
    if len(digests) < len(runs):
        return names
    return digests[:1] * len(runs) if alike else digests


def _shared(runs: Sequence[RunDirectory], what: str, values: Sequence[Value]) -> Value:
    """The common value of all runs. Raises `ConfigError` with each run's if they differ."""
    first, *others = values
    if any(other != first for other in others):
        each = ", ".join(
            f"{run.path} has {_shown(value)}" for run, value in zip(runs, values, strict=True)
        )
        raise ConfigError(f"all runs of a transfer matrix must have the same {what}; {each}.")
    return first


def _shown(value: object) -> str:
    return threat_text(value) if isinstance(value, Threat) else str(value)


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A new or empty folder; a new one is removed if it stays empty."""
    with ExitStack() as kept:
        with run_errors("create the folder", out):
            kept.enter_context(folder_unless_empty(out))
        yield RunDirectory.create(out).path
