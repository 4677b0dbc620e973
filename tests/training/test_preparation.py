"""What a run will do is done on a copy before anything is written, and leaves no trace."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparring.attacks import PGD, Linf
from sparring.errors import ConfigError, SparringError
from sparring.models import Imported, SmallNetwork, bits, trained_network
from sparring.records.custom import forget_made
from sparring.training import (
    SGD,
    Adam,
    Custom,
    Mixed,
    Stale,
    TrainConfig,
    preparation,
    resume,
    train,
)
from sparring.training.preparation import rehearse
from training.odd_nets import (
    Counting,
    Filter,
    Keeping,
    Locked,
    Mixture,
    OwnMean,
    PartlyStored,
    WithExtraState,
    in_training,
    noise,
    odd,
    weight,
)
from training.own_nets import FILE as OWN_FILE
from training.small_runs import assert_same_bits, small, weights_of

DATA = noise()
EMPTY = nn.Parameter(torch.empty(0, 3))
MASK = torch.tensor([0.0, 0.0, 0.0, -torch.inf])


def short(**changes: object) -> TrainConfig:
    return small(**({"updates": 3, "average": 0.9, "checkpoint_every": 1} | changes))


def single(name: str) -> nn.Module:
    return nn.Sequential(nn.Flatten(), getattr(nn, name)(64, 4))


def scaled(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), layer)


REFUSED = {
    "a pair in training mode": (in_training(lambda z: (z, z)), "a tuple in training mode"),
    "a dict in training mode": (in_training(lambda z: {"out": z}), "a dict in training mode"),
    "fewer in training mode": (in_training(lambda z: z[:, :3]), r"shape \(8, 3\).*training mode"),
    "NaN in training mode": (in_training(lambda z: z * torch.nan), "NaN.*in training mode"),
    "an error in training mode": (in_training(lambda z: 1 // 0), "training mode over 8 .*ZeroDiv"),
    "no gradient in training mode": (in_training(lambda z: z.detach()), "no detach"),
    "another size of batch": (in_training(lambda z: z.view(7, 4)), "over 8 images.*invalid"),
    "one image squeezed": (odd(lambda _, z: z.squeeze()), r"shape \(4,\) for 1 image"),
    "one image failing": (
        odd(lambda _, z: z if len(z) > 1 else 1 // 0),
        r"ZeroDivisionError.* 1 image of shape",
    ),
    "extra state": (WithExtraState, "_extra_state.*is a dict; checkpoints store"),
    "a state_dict of a part": (PartlyStored, r"cannot be written and read back.*layer\.bias"),
    "a lock": (Locked, "cannot be copied: TypeError"),
    "answers by a count": (Counting, "must follow from its state_dict"),
    "statistics that are not stored": (OwnMean, "must follow from its state_dict"),
    "complex128": (
        odd(lambda n, z: (z * n.w).real.float(), w=torch.ones(4, dtype=torch.complex128)),
        "cannot hold numbers of type torch.complex128",
    ),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "belongs to a lazy layer"),
    "meta": (lambda: Keeping().to("meta"), "on the meta device"),
    "no weights": (nn.Flatten, "requires a gradient"),
    "all frozen": (lambda: Keeping().requires_grad_(requires_grad=False), "requires a gradient"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_fail_later_is_refused_before_anything_is_written(tmp_path, name):
    make, complaint = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=complaint) as refused:
        train(short(), tmp_path / "run", data=DATA, network=make())
    assert not (tmp_path / "run").exists()
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


TRAINED = {
    "complex": Filter,
    "a complex number": odd(lambda n, z: (z * n.w).abs(), w=weight(torch.tensor(1 + 1j))),
    "complex statistics": odd(lambda n, z: (z * n.w).real, w=torch.ones(4, dtype=torch.complex64)),
    "empty": odd(lambda n, z: z + n.w.sum() + n.b.sum(), w=EMPTY, b=torch.empty(2, 0)),
    "integers": odd(lambda n, z: z[:, n.w], w=weight(torch.arange(4), trained=False)),
    "a mask of infinity": odd(lambda n, z: z + n.m.exp(), m=MASK),
    "a frozen mask": odd(lambda n, z: z + n.m.exp(), m=weight(MASK, trained=False)),
    "NaN in a buffer": odd(m=torch.full((3,), torch.nan)),
    "double": lambda: odd()().double(),
    "double and single": odd(lambda n, z: (z * n.w).float(), w=weight(torch.ones(4).double())),
    "bfloat16": lambda: odd()().bfloat16(),
    "tied": odd(lambda n, z: z @ n.a + z.exp() @ n.a.t(), a=weight(torch.eye(4))),
    "transposed": lambda: scaled(nn.Linear(64, 4).requires_grad_()),
    "a sparse gradient": lambda: scaled(nn.Sequential(nn.Linear(64, 4), SparseShift())),
    "results that are kept": Keeping,
    "spectral_norm, used": lambda: used(nn.utils.spectral_norm(nn.Linear(64, 4))),
    "parametrised": lambda: scaled(nn.utils.parametrizations.weight_norm(nn.Linear(64, 4))),
}


class SparseShift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shifts = nn.Embedding(3, 4, sparse=True)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + self.shifts(torch.tensor(1)).to(logits.dtype)


def used(layer: nn.Module) -> nn.Module:
    network = scaled(layer)
    network(torch.rand(2, 1, 8, 8))
    return network


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("name", TRAINED)
def test_unusual_networks_train_resume_and_are_read_bit_for_bit(tmp_path, name, precision):
    torch.manual_seed(0)
    network = TRAINED[name]()
    before = weights_of(network)
    config = short(precision=precision)
    whole = train(config, tmp_path / "whole", data=DATA, network=network)
    assert_same_as_bytes(weights_of(network), before)
    train(config, tmp_path / "stopped", data=DATA, network=network, until=1)
    resumed = resume(tmp_path / "stopped", data=DATA, network=network)
    read = trained_network(whole.run, network=network)
    for found in (resumed.network, read):
        assert_same_as_bytes(weights_of(found), weights_of(whole.network))


def assert_same_as_bytes(one: dict, other: dict) -> None:
    """As `assert_same_bits`, where NaN equals itself."""
    pairs = ({name: bits(value) for name, value in each.items()} for each in (one, other))
    assert_same_bits(*pairs)


@pytest.mark.parametrize("optimizer", [Adam(), SGD(momentum=0.5, weight_decay=0.1)])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_complex_and_empty_weights_move_by_their_gradient_in_every_optimizer(
    tmp_path, optimizer, clip_norm
):
    torch.manual_seed(0)
    network = nn.Sequential(Filter())
    network.register_parameter("nothing", nn.Parameter(torch.empty(0)))
    config = short(optimizer=optimizer, clip_norm=clip_norm, average=0.0, trainers=1)
    done = train(config, tmp_path / "run", data=DATA, network=network)
    moved = done.network.get_parameter("0.weight") - network.get_parameter("0.weight")
    assert bool((moved.real != 0).any())
    assert bool((moved.imag != 0).any())


def states() -> tuple:
    """Without that of `random`, from which the type checks of these tests draw."""
    of_numpy = np.random.get_state(legacy=False)["state"]["key"]
    return torch.get_rng_state().tolist(), of_numpy.tolist()


class Noisy(nn.Module):
    """Draws from every global random state in every pass of training, and moves statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(1), nn.Linear(64, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.layer(self.norm(images).flatten(1))
        if not self.training:
            return logits
        drawn = torch.rand(()) + np.random.rand() + random.random()
        return logits * drawn.item()


MIXTURE = Imported(factory=f"{Path(__file__).with_name('odd_nets.py')}:Mixture")
KEEPING = replace(MIXTURE, factory=MIXTURE.factory.replace("Mixture", "Keeping"))
COUNTED = Custom(factory=f"{OWN_FILE}:Counted")


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        ({}, Noisy),
        ({"precision": "auto"}, Noisy),
        ({"source": Stale(staleness=1)}, Mixture),
        ({"objective": Mixed()}, Noisy),
        ({"objective": COUNTED}, Noisy),
        ({"model": SmallNetwork(width=2)}, lambda: None),
        ({"model": MIXTURE}, lambda: None),
        ({"model": KEEPING, "precision": "bf16"}, lambda: None),
    ],
)
def test_the_question_leaves_no_trace(tmp_path, monkeypatch, changes, make):
    torch.manual_seed(0)
    network, config = make(), short(**changes)
    before = states()
    asked = train(config, tmp_path / "asked", data=DATA, network=network)
    assert states() == before
    monkeypatch.setattr(preparation, "rehearse", lambda *_: forget_made())
    unasked = train(config, tmp_path / "unasked", data=DATA, network=network)
    assert_same_bits(weights_of(asked.network), weights_of(unasked.network))


class Recomputing(nn.Module):
    """Computes its layers again in the backward pass, to save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(checkpoint(self.body, images, use_reentrant=False))


def gradient_sign(model, images, labels):
    x = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(x), labels).backward()
    return (images + 0.1 * x.grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("attack", [PGD(Linf(0.1), steps=2), gradient_sign])
def test_layers_may_be_computed_again_in_the_backward_pass(tmp_path, attack):
    config = short(attack=attack, threat=Linf(0.1))
    whole = train(config, tmp_path / "whole", data=DATA, network=Recomputing())
    assert whole.version == 3


def test_a_run_is_asked_once_when_it_begins(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(preparation, "rehearse", lambda *how: asked.append(how))
    train(short(), tmp_path / "run", data=DATA, network=Keeping(), until=1)
    resume(tmp_path / "run", data=DATA, network=Keeping())
    assert len(asked) == 1


def test_an_objective_and_an_optimizer_that_fail_are_refused(tmp_path, monkeypatch):
    failing = Custom(factory=f"{OWN_FILE}:Failing")
    with pytest.raises(ConfigError, match="the objective failed: KeyError"):
        train(short(objective=failing), tmp_path / "run", data=DATA, network=Keeping())
    infinite = Custom(factory=f"{OWN_FILE}:Infinite")
    with pytest.raises(ConfigError, match="The loss and its gradient must stay finite"):
        train(short(objective=infinite), tmp_path / "run", data=DATA, network=Keeping())

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch.optim.Adam, "step", full)
    with pytest.raises(ConfigError, match=r"MemoryError\. Take a smaller batch_size"):
        train(short(), tmp_path / "run", data=DATA, network=Keeping())
    assert not (tmp_path / "run").exists()


def test_several_trainers_are_asked_with_their_part_of_a_batch():
    config = short(trainers=2, batch_size=8)
    with pytest.raises(SparringError, match="over 4 images"):
        rehearse(replace(config), DATA, in_training(lambda z: z.view(8, 4))())
    rehearse(config, DATA, Filter())
