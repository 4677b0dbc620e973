"""Adversarial examples made on each of several networks, judged on all of them.

Shapes: N images of the set, B of a batch, S one image (C H W), M networks.
Units: pixels in [0, 1].
Source: Bhat, Tsipras & Madry 2019, table 1.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparring.attacks import PGD, Batch, Threat, as_batch
from sparring.attacks.plausible import threat_text
from sparring.evaluation.accuracy import parts
from sparring.evaluation.contender import Contender, starts
from sparring.models import check_callable, evaluation_mode, original_module, plain_settings
from sparring.records import Cell, Proportion, TransferMatrix, describe
from sparring.records.transfer import STEPS, check_contest
from sparring.records.typed import typed


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferProgress:
    """How far a transfer matrix is; given to an observer whenever a batch was attacked."""

    steps: int
    """Gradient steps of the attack that is running."""
    number: int
    """Which number of steps, counted from 1."""
    of: int
    """Numbers of steps in all."""
    share: float
    """Of this number of steps that is done: 1 at its end."""
    of_all: float
    """Of everything that is done, by gradient steps: 1 at the end."""


TransferObserver = Callable[[TransferProgress], None]


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
    observer: TransferObserver | None = None,
) -> TransferMatrix:
    """How each network fares on adversarial examples made on each of them, its own included.

    For each number of `steps`, PGD on the cross-entropy with step size 2.5 · eps / steps and one
    uniform start, on all images, also those that a network gets wrong when clean. Each image's
    start comes from (`seed`, steps, its place in the set) alone, so it is the same for all sources.
    Sources are attacked in single precision; an image counts as broken only if the target itself,
    in evaluation mode and its own arithmetic, misclassifies it inside the threat (+ 1e-6).
    Networks are left as they were. `batch_size` images are attacked at once, by default 128 on a
    CPU and 1,024 elsewhere (untested); rounding, and so an image at the margin, depends on it.

    Cost, with each of M networks and over all images: `sum(steps)` forward and backward passes, and
    1 + M · len(steps) forward passes.
    Raises `ConfigError` for fewer than two networks, and for steps, images, labels or logits that
    cannot be meant.
    """
    check_contest(tuple(networks), steps)
    images, labels = as_batch(images, labels, "a transfer matrix")
    with ExitStack() as held:
        contenders = []
        for network in networks.values():
            check_callable(network)
            original = original_module(network)
            held.enter_context(evaluation_mode(original))
            contenders.append(Contender(original, images, labels, threat, batch_size))
        return _matrix(contenders, images, labels, tuple(networks), tuple(steps), seed, observer)


def _matrix(  # noqa: PLR0913 - as `transfer`
    contenders: Sequence[Contender],
    images: Tensor,
    labels: Tensor,
    names: tuple[str, ...],
    steps: tuple[int, ...],
    seed: int,
    observer: TransferObserver | None,
) -> TransferMatrix:
    begun = time.perf_counter()
    threat = contenders[0].judge.threat
    clean = [int((one.logits.argmax(1) == labels).sum()) for one in contenders]
    cells = []
    for number, count in enumerate(steps, start=1):

        def tell(share: float, count: int = count, number: int = number) -> None:
            if observer is not None:
                done = (sum(steps[: number - 1]) + share * count) / sum(steps)
                observer(
                    TransferProgress(
                        steps=count, number=number, of=len(steps), share=share, of_all=done
                    )
                )

        attack = PGD(threat=threat, steps=count)
        cells.append(_counted(_judged(contenders, attack, images, labels, seed=seed, tell=tell)))
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
            device=" and ".join(dict.fromkeys(str(one.judge.device) for one in contenders)),
            precision=" and ".join(dict.fromkeys(one.arithmetic for one in contenders)),
        ),
    )


def _judged(  # noqa: PLR0913 - what is attacked and with what; the rest by keyword
    contenders: Sequence[Contender],
    attack: PGD,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    tell: Callable[[float], None],
) -> Bool[Tensor, "M M N"]:
    """Which targets are right, as [source, target, image]."""
    count = len(contenders)
    right = torch.empty(count, count, len(labels), dtype=torch.bool)
    for part in parts(len(labels), min(one.batch_size for one in contenders)):
        batch = (images[part], labels[part])
        start = starts(attack, images[part], seed, part.start)
        for source, attacked in enumerate(contenders):
            points = attacked.examples(attack, start, *batch)
            for target, judged in enumerate(contenders):
                right[source, target, part] = judged.right(points, *batch)
            done = part.start + (part.stop - part.start) * (source + 1) / count
            tell(done / len(labels))
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
