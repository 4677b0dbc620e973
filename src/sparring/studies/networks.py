"""The networks that studies train at each scale, and their accuracy under attack at snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, Linf, Threat, cross_entropy
from sparring.capacity import EngineStats
from sparring.data.run_data import dataset_of
from sparring.evaluation.judge import parts
from sparring.models import (
    Initialisation,
    PaperNetwork,
    chosen_batch_size,
    trained_network,
    working_copy,
)
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.files import file_digest
from sparring.seeds import derive_seed
from sparring.studies.study import Measurement, Scale
from sparring.training import Adam, Constant, Fresh, Stale, TrainConfig, Validation
from sparring.training.presets import fast, paper

EPS = 0.3
"""The paper's threat, at every scale."""
ATTACK = 8
"""Steps of the attack that the paper recommends."""
PAPERS = paper().updates
"""Updates of the paper's networks."""
SPARE = 512
"""Further updates, for which the study cycling continues a network."""
SNAPSHOTS = {"smoke": 4, "short": 98, "paper": 2000}
"""Updates between two snapshots."""


def attacked(scale: Scale, steps: int) -> TrainConfig:
    """A network trained against κ = `steps` steps of 2.5 ε / κ from a random start.

    The scale paper has the paper's settings, short the schedule of the preset fast, and smoke a few
    updates.
    """
    attack = PGD(threat=Linf(eps=EPS), steps=steps, start="uniform")
    if scale == "paper":
        return _for_study(_papers(attack), scale)
    short = replace(fast(), attack=attack, early_steps=())
    return _for_study(short if scale == "short" else _tiny(short), scale)


def stale(
    scale: Scale, staleness: int, fresh_steps: int = 0, *, warm_up: int = 0, seed: int = 0
) -> TrainConfig:
    """A network whose batches wait `staleness` updates, at a constant learning rate.

    The last `fresh_steps` of each attack are taken with the weights of the update. The queue grows
    to its length over `warm_up` updates.

    The scale paper has the paper's settings. Short has up to ten epochs at five times its learning
    rate, from small initial weights, without which such short training fails. Smoke has a few
    updates.
    """
    source = Stale(staleness=staleness, fresh_steps=fresh_steps, warm_up=warm_up)
    source = source if staleness else Fresh()
    attack = PGD(threat=Linf(eps=EPS), steps=ATTACK, start="uniform")
    if scale == "paper":
        return _for_study(replace(_papers(attack), source=source, seed=seed), scale)
    short = replace(
        fast(),
        attack=attack,
        seed=seed,
        early_steps=(),
        model=PaperNetwork(initialisation="small"),
        optimizer=Adam(learning_rate=5e-4),
        schedule=Constant(),
        average=0.0,
        updates=4096,
        source=source,
    )
    return _for_study(short if scale == "short" else _tiny(short, updates=16), scale)


def enough_attacked(scale: Scale) -> int | None:
    """Updates of a network of `attacked` that studies need, without spare ones; `None` for all."""
    return PAPERS if scale == "paper" else None


def enough(scale: Scale) -> int:
    """Updates of a stale network that studies need.

    Its settings have more, so that the study cycling can continue it with a full queue.
    """
    return {"smoke": 8, "short": 1274, "paper": PAPERS}[scale]


def _papers(attack: PGD) -> TrainConfig:
    """The paper's settings with spare updates."""
    return replace(paper(), attack=attack, updates=PAPERS + SPARE)


def varied(
    config: TrainConfig, initialisation: Initialisation | None, seed: int = 0
) -> TrainConfig:
    """The paper's network from these initial weights, `None` for its own, and with this seed."""
    model = PaperNetwork(initialisation=initialisation) if initialisation else config.model
    return replace(config, model=model, seed=seed)


def _tiny(config: TrainConfig, updates: int = 8) -> TrainConfig:
    return replace(config, batch_size=16, updates=updates)


def with_short_validation(config: TrainConfig) -> TrainConfig:
    """The same with a single short validation, at the end."""
    return replace(config, validation=Validation(every=0, images=16, steps=1, alarm_every=0))


def _for_study(config: TrainConfig, scale: Scale) -> TrainConfig:
    """The same with one thread, since networks are trained in parallel, and with snapshots."""
    seen = with_short_validation(config) if scale == "smoke" else config
    return replace(seen, threads=1, snapshot_every=SNAPSHOTS[scale])


Images = Literal["training", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotUnderAttack(Measurement):
    """A snapshot of a network under attacks of some lengths, on the first images of a set."""

    network: str
    """Its name in the study."""
    run: RunDirectory
    version: int
    """Updates before the snapshot."""
    steps: tuple[int, ...]
    """Numbers of steps, of 2.5 ε / steps from a random start; 0 for clean images."""
    images: int
    of: Images
    """The set that the images are of."""

    @property
    @override
    def name(self) -> str:
        steps = " ".join(map(str, self.steps))
        return f"{self.network}@{self.version} under {steps} steps, {self.images} {self.of} images"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run, self.version)

    @override
    def __call__(self) -> Sequence[Row]:
        dataset = dataset_of(self.run)
        threat = self.run.section("threat", Threat)
        chosen = dataset.test if self.of == "test" else dataset.train
        images, labels = chosen.batch(torch.arange(self.images))
        network = trained_network(self.run, version=self.version)
        about: Row = {"network": self.network, "version": self.version, "of": self.of}
        rows: list[Row] = []
        for steps in self.steps:
            start = "uniform" if steps else "none"
            found = under_attack(
                network, images, labels, PGD(threat=threat, steps=steps, start=start)
            )
            rows.append({**about, "steps": steps, "images": self.images, **found._asdict()})
        return rows


class Outcome(NamedTuple):
    """The result of an attack on a set of images."""

    loss: float
    """Mean cross-entropy of the adversarial examples."""
    right: int
    """Adversarial examples that are classified correctly."""


def under_attack(network: nn.Module, images: Tensor, labels: Tensor, attack: PGD) -> Outcome:
    """Attack in the arithmetic of training on this machine, and classify in single precision.

    Each batch draws its starts from a seed of its own. Cost: `attack.steps` forward and backward
    passes.
    """
    attacked = working_copy(network.requires_grad_(requires_grad=False), "auto").attacked
    loss, right, size = 0.0, 0, chosen_batch_size(None, images.device)
    for number, part in enumerate(parts(len(labels), size)):
        generator = torch.Generator().manual_seed(derive_seed(0, "snapshot", number))
        examples = attack(attacked, images[part], labels[part], generator=generator)
        with torch.no_grad():
            logits = network(examples)
        loss += float(cross_entropy(logits, labels[part]).sum())
        right += int((logits.argmax(1) == labels[part]).sum())
    return Outcome(loss=loss / len(labels), right=right)


def pace(run: RunDirectory) -> EngineStats:
    """Times of the second half of a run's updates, by when its workers have started."""
    rows = [row for row in MetricsLog(run.metrics).rows() if "loss" in row]
    return EngineStats(rows=rows[len(rows) // 2 :], ledger={}, helps=True)


def weights_digest(run: RunDirectory, version: int | None = None) -> str:
    """A digest of a snapshot's weights, by default of the last one.

    Raises `RunError` if it cannot be read.
    """
    return file_digest(run.snapshot(reached(run) if version is None else version))


def reached(run: RunDirectory) -> int:
    """Updates of the last snapshot of a run; 0 if it has none."""
    return max(run.snapshots(), default=0)
