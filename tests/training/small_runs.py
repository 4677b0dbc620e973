"""Real runs of a few updates: a small network on MNIST, batches of eight, one thread."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, Linf
from sparring.models import Imported, ModelKind, PaperNetwork
from sparring.models.trained import fingerprint, save_trained
from sparring.records import Environment, Row, RunDirectory
from sparring.training import (
    Adam,
    RowKind,
    SessionStart,
    Sink,
    Step,
    TrainConfig,
    Validation,
    ValidationResult,
)

Record = TypeVar("Record", Step, ValidationResult)
UPDATES = 8
PAPERS = PaperNetwork(initialisation="torch")
PLAIN = Imported(factory=f"{Path(__file__).with_name('plain_net.py')}:Plain")


def small(**changes: Any) -> TrainConfig:
    """Eight updates with two-step attacks, a checkpoint after five, no validation unless asked."""
    config = TrainConfig(
        model=PLAIN,
        attack=PGD(threat=Linf(eps=0.3), steps=2),
        optimizer=Adam(learning_rate=1e-3),
        batch_size=8,
        updates=UPDATES,
        precision="fp32",
        threads=1,
        validation=Validation(every=0, images=16, steps=1),
        checkpoint_every=5,
    )
    return replace(config, **changes)


def restamp(run: RunDirectory, weights: dict[str, Tensor] | None = None, lose: str = "") -> None:
    """Store weights as if the run had come to them under the settings that it has now."""
    network = run.section("model", ModelKind).build(0)
    network.load_state_dict(load_file(run.weights) if weights is None else weights)
    with safe_open(run.weights, framework="pt") as file:
        about = {name: text for name, text in file.metadata().items() if name != lose}
    about["config"] = run.settings_digest()
    save_trained(network, run.weights, fingerprint(network, (1, 28, 28)), about)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


class Killed(BaseException):
    """Ends a run as a kill does: without a checkpoint, and unlike an error of a sink."""


class Watching(Sink):
    """Keeps what it receives, and may do something after an update."""

    def __init__(self, after: Callable[[Step], None] | None = None) -> None:
        self.after = after
        self.environments: list[Environment] = []
        self.steps: list[Step] = []
        self.validations: list[ValidationResult] = []
        self.notices: list[str] = []

    @override
    def start(self, session: SessionStart) -> None:
        self.environments.append(session.environment)

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        if kind == "update":
            self.steps.append(read_as(Step, row))
            if self.after is not None:
                self.after(self.steps[-1])
        elif kind == "validation":
            self.validations.append(read_as(ValidationResult, row))
        elif kind == "notice":
            self.notices.append(str(row["event"]))


def read_as(kind: type[Record], row: Row) -> Record:
    """The record of this kind that a row was written from."""
    return kind(**{field.name: row[field.name] for field in fields(kind) if field.name in row})  # pyright: ignore


def steps_of(config: TrainConfig, number: int) -> int:
    """Gradient steps of the attack on the ticket of this number."""
    attack = config.recipe().plan(number).attack
    assert isinstance(attack, PGD)
    return attack.steps
