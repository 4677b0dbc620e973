"""The networks that studies train at each scale, and what attacks do to them during training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Linf, Threat, cross_entropy
from sparring.capacity import EngineStats
from sparring.data import derive_seed
from sparring.data.run_data import dataset_of
from sparring.evaluation.judge import parts
from sparring.models import PaperNetwork, chosen_batch_size, trained_network, working_copy
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.files import file_digest
from sparring.studies.study import Scale
from sparring.training import Adam, Constant, Fresh, Stale, TrainConfig, Validation
from sparring.training.presets import fast, paper

EPS = 0.3
"""The paper's threat, at every scale."""
ATTACK = 8
"""Steps of the attack that the paper settles on."""
PAPERS = paper().updates
"""Updates of the paper's networks."""
SPARE = 512
"""Updates after these, in which the study cycling continues a network."""
SNAPSHOTS = {"smoke": 4, "short": 98, "paper": 2000}
"""Updates between two snapshots."""


def attacked(scale: Scale, steps: int) -> TrainConfig:
    """A network that is trained against so many steps of 2.5 ε / κ from a random start.

    At the scale paper its settings; at short the schedule of the preset fast, whose learning rate
    rises and falls; at smoke a few updates.
    """
    attack = PGD(threat=Linf(eps=EPS), steps=steps, start="uniform")
    if scale == "paper":
        return _watched(_papers(attack), scale)
    short = replace(fast(), attack=attack, early_steps=())
    return _watched(short if scale == "short" else _tiny(short), scale)


def stale(scale: Scale, staleness: int, fresh_steps: int = 0) -> TrainConfig:
    """A network whose batches wait `staleness` updates, at a constant learning rate.

    The last `fresh_steps` of each attack are taken with the weights of the update.

    At the scale paper its settings; at short up to ten epochs at five times its learning rate,
    from a start that such short training gets off the ground from; at smoke a few updates.
    """
    source = Stale(staleness=staleness, fresh_steps=fresh_steps) if staleness else Fresh()
    attack = PGD(threat=Linf(eps=EPS), steps=ATTACK, start="uniform")
    if scale == "paper":
        return _watched(replace(_papers(attack), source=source), scale)
    short = replace(
        fast(),
        attack=attack,
        early_steps=(),
        model=PaperNetwork(initialisation="small"),
        optimizer=Adam(learning_rate=5e-4),
        schedule=Constant(),
        average=0.0,
        updates=4096,
        source=source,
    )
    return _watched(short if scale == "short" else _tiny(short, updates=16), scale)


def enough_attacked(scale: Scale) -> int | None:
    """Updates of a network of `attacked` that are all of its recipe's; `None` for all.

    At the scale paper some are spare: cycling's networks are among these.
    """
    return PAPERS if scale == "paper" else None


def enough(scale: Scale) -> int:
    """Updates of a stale network after which it has shown what becomes of it.

    There are more, so that the study cycling can continue a network while its queue is full.
    """
    return {"smoke": 8, "short": 1274, "paper": PAPERS}[scale]


def _papers(attack: PGD) -> TrainConfig:
    """The paper's settings, and some updates to spare."""
    return replace(paper(), attack=attack, updates=PAPERS + SPARE)


def _tiny(config: TrainConfig, updates: int = 8) -> TrainConfig:
    """Few updates of sixteen images."""
    return replace(config, batch_size=16, updates=updates)


def hardly_watched(config: TrainConfig) -> TrainConfig:
    """The same with one short validation, at the end."""
    return replace(config, validation=Validation(every=0, images=16, steps=1, alarm_every=0))


def _watched(config: TrainConfig, scale: Scale) -> TrainConfig:
    """One thread each, since networks are trained side by side; snapshots for measurements."""
    seen = hardly_watched(config) if scale == "smoke" else config
    return replace(seen, threads=1, snapshot_every=SNAPSHOTS[scale])


Images = Literal["training", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotUnderAttack:
    """A snapshot of a network under attacks of some lengths, on the first images of a set."""

    network: str
    """What the study calls it."""
    run: RunDirectory
    """Its run."""
    version: int
    """Updates that the snapshot had seen."""
    steps: tuple[int, ...]
    """Lengths of the attacks, of 2.5 ε / steps each, from a random start; 0 for clean images."""
    images: int
    """How many images."""
    of: Images
    """Of which set."""

    @property
    def name(self) -> str:
        """The network, the snapshot, the attacks and the images."""
        steps = " ".join(map(str, self.steps))
        return f"{self.network}@{self.version} under {steps} steps, {self.images} {self.of} images"

    @property
    def subject(self) -> str:
        """The snapshot's weights."""
        return weights_digest(self.run, self.version)

    def __call__(self) -> Sequence[Row]:
        """A row for each attack: mean loss, and how many of the adversarial examples are right."""
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
    """What an attack came to."""

    loss: float
    """Mean cross-entropy of the adversarial examples."""
    right: int
    """How many of them are classified correctly."""


def under_attack(network: nn.Module, images: Tensor, labels: Tensor, attack: PGD) -> Outcome:
    """Attack in the arithmetic that training takes here; judge in single precision.

    Each batch draws its starts from a seed of its own. Cost: `attack.steps` passes there and back.
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
    """Where time goes in the second half of a run's updates: its workers are up by then."""
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
