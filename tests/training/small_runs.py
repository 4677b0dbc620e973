"""Real runs of a few updates: a small network on MNIST, batches of eight, one thread."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.attacks import PGD, Linf
from sparring.models import Imported, ModelKind, PaperNetwork
from sparring.models.trained import fingerprint, save_trained
from sparring.records import Environment, RunDirectory
from sparring.training import Adam, Look, Step, TrainConfig, Validation

UPDATES = 8
PAPERS = PaperNetwork(initialisation="torch")
PLAIN = Imported(factory=f"{Path(__file__).with_name('plain_net.py')}:Plain")


def small(**changes: Any) -> TrainConfig:
    """Eight updates with two-step attacks, a checkpoint after five, no looks unless asked."""
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


class Watching:
    """Keeps what it is told, and may do something after an update."""

    def __init__(self, after: Callable[[Step], None] | None = None) -> None:
        self.after = after
        self.environments: list[Environment] = []
        self.steps: list[Step] = []
        self.looks: list[Look] = []
        self.notices: list[str] = []

    def started(self, config: TrainConfig, run: RunDirectory, where: Environment) -> None:
        self.environments.append(where)

    def stepped(self, step: Step) -> None:
        self.steps.append(step)
        if self.after is not None:
            self.after(step)

    def validated(self, look: Look) -> None:
        self.looks.append(look)

    def noticed(self, notice: str) -> None:
        self.notices.append(notice)
