"""Runs of networks other than the paper's: by factory, built in, or handed over as objects."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn

from sparring.attacks import Linf
from sparring.data import Dataset, ImageSet, load_dataset
from sparring.engine import FixedLag
from sparring.errors import ConfigError, Interrupted
from sparring.models import Imported, Normalised, SmallNetwork, trained_network
from sparring.records import RunDirectory
from sparring.training import (
    TRADES,
    Adam,
    Asynchronous,
    Custom,
    Stale,
    Trainer,
    Validation,
    presets,
    replay,
    resume,
    train,
)
from sparring.training.trainer import Average
from training.own_nets import Own
from training.small_runs import PLAIN, Watching, assert_same_bits, small, weights_of

FILE = Path(__file__).with_name("own_nets.py")
OWN = Imported(factory=f"{FILE}:Own", arguments=("hidden=12",))
MODELS = [
    OWN,
    SmallNetwork(width=2),
    Normalised(mean=(0.13,), std=(0.31,), network=OWN),
]


def noise() -> Dataset:
    """Where it does not matter what a network learns."""
    pixels = torch.randint(256, (32, 1, 28, 28), dtype=torch.uint8, generator=Generator())
    images = ImageSet(pixels=pixels, labels=torch.arange(32) % 10, num_classes=10)
    return Dataset(name="noise", train=images, validation=images, test=images)


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_stopped_resumed_replayed_and_read_bit_for_bit(tmp_path, model):
    config = small(model=model, average=0.9)
    whole = train(config, tmp_path / "whole")
    stopping = Watching(lambda step: signal.raise_signal(signal.SIGINT) if step.step == 6 else None)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "stopped", sinks=[stopping])
    resumed = resume(tmp_path / "stopped")
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))
    assert replay(tmp_path / "whole").is_equal
    read = trained_network(RunDirectory(tmp_path / "whole"))
    assert_same_bits(weights_of(read), weights_of(whole.network))


def test_a_network_that_workers_cannot_be_sent_is_refused_before_anything_is_written(tmp_path):
    closed = nn.Flatten()
    closed.forward = lambda input: input
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(784, 10))
    for part in (closed, parametrised):
        network = nn.Sequential(part, nn.Flatten(), nn.Linear(784, 10))
        with pytest.raises(ConfigError, match=r"network.*cannot be sent to workers"):
            train(small(source=Asynchronous(workers=1)), tmp_path / "run", network=network)
        assert not (tmp_path / "run").exists()


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("model", MODELS)
def test_workers_change_no_bit_though_there_are_statistics_and_dropout(tmp_path, model):
    config = small(model=model, average=0.9)
    fresh = train(config, tmp_path / "fresh")
    lagless = Asynchronous(workers=1, policy=FixedLag(lag=0, split=1), fresh_steps=0)
    found = train(replace(config, source=lagless), tmp_path / "async")
    assert_same_bits(weights_of(found.network), weights_of(fresh.network))


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
def test_stale_weights_of_workers_have_the_statistics_of_their_version(tmp_path):
    config = small(model=OWN)
    late = Asynchronous(workers=2, policy=FixedLag(lag=2), fresh_steps=0)
    one = train(replace(config, source=late), tmp_path / "two")
    other = train(replace(config, source=replace(late, workers=0)), tmp_path / "none")
    assert_same_bits(weights_of(one.network), weights_of(other.network))
    assert replay(tmp_path / "two").is_equal


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_attack_leaves_statistics_alone_and_an_update_moves_them_once(precision):
    config = small(model=OWN, precision=precision)
    trainer = Trainer(config, load_dataset("mnist"), torch.device("cpu"))
    before = weights_of(trainer.network)
    batch = trainer.loader.begin(0)
    assert_same_bits(weights_of(trainer.network), before)
    assert all(module.training for module in trainer.network.modules())
    trainer.update(batch)
    after = weights_of(trainer.network)
    assert int(after["features.1.num_batches_tracked"]) == 1
    mean = after["features.1.running_mean"]
    convolution = nn.Conv2d(1, 4, 5, stride=4)
    for name in ("weight", "bias"):
        convolution.get_parameter(name).data = before[f"features.0.{name}"]
    tolerance = 1e-6 if precision == "fp32" else 5e-3
    wanted = 0.1 * convolution(batch.adversarial).mean((0, 2, 3))
    torch.testing.assert_close(mean, wanted, rtol=0, atol=tolerance)


def test_a_network_that_fails_in_bf16_is_trained_without_and_what_is_odd_is_said(
    tmp_path, monkeypatch
):
    able = {"cpu_name": "AMD EPYC", "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    config = small(model=replace(OWN, factory=f"{FILE}:Centred", arguments=()), updates=1)
    watching = Watching()
    validation = Validation(every=1, images=8, steps=1)
    auto = replace(config, precision="auto", validation=validation, threat=Linf(eps=0.4))
    train(auto, tmp_path / "run", data=noise(), sinks=[watching])
    assert [where.precision for where in watching.environments] == ["fp32 direct"]
    single, smaller = watching.notices
    assert single.startswith("single precision")
    assert smaller.startswith("training attacks with ε = 0.3, evaluation with 0.4: less")
    with pytest.raises(ConfigError, match="failed in precision bf16"):
        train(replace(config, precision="bf16"), tmp_path / "none", data=noise())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("early", "named", "passed", "warned"),
    [
        (True, False, True, True),  # presets.fast(), network=...
        (True, False, False, False),
        (True, True, True, False),
        (False, False, True, False),
    ],
)
def test_the_early_steps_of_the_papers_network_for_another_give_a_notice(
    early: bool, named: bool, passed: bool, warned: bool, tmp_path: Path
) -> None:
    network = PLAIN.build(0)
    model: Any = {"model": network} if named else {}
    preset = presets.fast(**model) if early else presets.paper(**model)
    config = small(model=preset.model, early_steps=preset.early_steps, updates=1)
    watching = Watching()
    given = network if passed else None
    train(config, tmp_path / "run", data=noise(), network=given, sinks=[watching])
    assert any("presets.fast(model=...)" in notice for notice in watching.notices) is warned


def test_what_dropout_draws_follows_from_the_seed_and_not_from_what_ran_before(tmp_path):
    one = train(small(model=OWN), tmp_path / "one")
    torch.rand(17)
    again = train(small(model=OWN), tmp_path / "again")
    other = train(small(model=OWN, seed=1), tmp_path / "other")
    assert_same_bits(weights_of(one.network), weights_of(again.network))
    assert not torch.equal(*(w.network.get_parameter("features.0.weight") for w in (one, other)))


def test_a_network_that_is_handed_over_is_copied_and_trained_from_its_weights_on(tmp_path):
    torch.manual_seed(3)
    network = Own(hidden=7)
    before = weights_of(network)
    config = small(optimizer=Adam(learning_rate=1e-12), average=0.0)
    trained = train(config, tmp_path / "run", network=network)
    assert_same_bits(weights_of(network), before)
    for name, value in weights_of(trained.network).items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(value, before[name])


def test_a_run_of_a_given_network_goes_on_only_with_one(tmp_path):
    torch.manual_seed(3)
    network, config = Own(), small()
    whole = train(config, tmp_path / "whole", network=network)
    stopping = Watching(lambda step: signal.raise_signal(signal.SIGINT) if step.step == 6 else None)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "stopped", network=network, sinks=[stopping])
    for use in (resume, replay, lambda run: trained_network(RunDirectory(run))):
        with pytest.raises(ConfigError, match=r"passed as a Python object.*network="):
            use(tmp_path / "stopped")
    resumed = resume(tmp_path / "stopped", network=network)
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))
    read = trained_network(RunDirectory(tmp_path / "whole"), network=Own())
    assert_same_bits(weights_of(read), weights_of(whole.network))


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
def test_workers_have_a_given_network_too(tmp_path):
    torch.manual_seed(3)
    network = Own()
    fresh = train(small(), tmp_path / "fresh", network=network)
    lagless = Asynchronous(workers=1, policy=FixedLag(lag=0, split=1), fresh_steps=0)
    found = train(small(source=lagless), tmp_path / "async", network=network)
    assert_same_bits(weights_of(found.network), weights_of(fresh.network))


@pytest.mark.parametrize("stored", ["weights.safetensors", "state.pt"])
def test_a_run_begins_with_the_weights_of_a_file_and_goes_on_without_it(tmp_path, stored):
    first = train(small(model=OWN), tmp_path / "first", data=noise())
    torch.save(first.network.state_dict(), tmp_path / "first" / "state.pt")
    file = tmp_path / "first" / stored
    config = small(model=OWN, init=str(file), optimizer=Adam(learning_rate=1e-12))
    train(config, tmp_path / "tuned", data=noise(), until=1)
    file.unlink()
    tuned = resume(tmp_path / "tuned", data=noise())
    weight = "classifier.1.weight"
    torch.testing.assert_close(
        tuned.network.get_parameter(weight), first.network.get_parameter(weight)
    )


def test_part_of_a_network_may_be_frozen(tmp_path):
    torch.manual_seed(0)
    network = Own()
    network.features.requires_grad_(requires_grad=False)
    before = weights_of(network)
    trained = train(small(), tmp_path / "run", network=network)
    after = weights_of(trained.network)
    assert torch.equal(after["features.0.weight"], before["features.0.weight"])
    assert not torch.equal(after["classifier.1.weight"], before["classifier.1.weight"])


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"returned shape .*, not \(\d+, 10\)"):
        train(small(), tmp_path / "run", network=nn.Sequential(nn.Flatten(), nn.Linear(784, 3)))
    assert not (tmp_path / "run").exists()


def test_trades_with_its_own_attack_and_an_own_objective_train(tmp_path):
    attack = replace(small().pgd, loss="kl")
    trades = train(small(objective=TRADES(beta=6.0), attack=attack), tmp_path / "trades")
    own = Custom(factory=f"{FILE}:Smoothed", arguments=("smoothing=0.2",))
    smoothed = train(small(objective=own, source=Stale(staleness=2)), tmp_path / "own")
    assert replay(tmp_path / "trades").is_equal
    assert replay(tmp_path / "own").is_equal
    assert trades.version == smoothed.version == 8


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("not_scalar", r"must return a scalar tensor.*got a tensor of shape \(8, 10\)"),
        ("no_outcomes", "must also return whether each of 8 images is right; got None"),
        ("nowhere", "it has no nowhere"),
        ("cross_entropy", "got one that also needs input, target"),
    ],
)
def test_an_objective_that_is_none_is_refused(tmp_path, name, complaint):
    with pytest.raises(ConfigError, match=complaint):
        train(small(objective=Custom(factory=f"{FILE}:{name}")), tmp_path / "run")


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(784, 10)
        self.again = nn.Linear(784, 10)
        self.again.weight = self.first.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.first(images.flatten(1)) + self.again(images.flatten(1) ** 2)


def test_weights_that_layers_share_are_averaged_once_and_stored(tmp_path):
    torch.manual_seed(0)
    network = Tied()
    average = Average(network, decay=0.5)
    before = network.first.weight.detach().clone()
    with torch.no_grad():
        network.first.weight.add_(1)
    average.update(network, 100)
    torch.testing.assert_close(average.network.get_parameter("first.weight"), before + 0.5)
    run = train(small(average=0.9), tmp_path / "run", network=network)
    assert_same_bits(weights_of(trained_network(run.run, network=Tied())), weights_of(run.network))
