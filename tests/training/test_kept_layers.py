"""Layers that are frozen or in evaluation mode before training stay so, through all of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparring.engine import FixedLag
from sparring.errors import CheckpointError
from sparring.models import Imported, evaluation_mode, kept_layers, training_mode
from sparring.training import Asynchronous, Trainer, replay, resume, train
from training.odd_nets import Mixture, noise
from training.small_runs import Watching, assert_same_bits, small, weights_of

DATA = noise()
NAMES = [name for name, _ in Mixture().named_modules() if name]
WEIGHTS = [name for name, _ in Mixture().named_parameters()]
LAYERS = st.lists(st.sampled_from(NAMES), unique=True)
FROZEN = st.lists(st.sampled_from(WEIGHTS), unique=True, max_size=len(WEIGHTS) - 1)
MIXED = Imported(
    factory=f"{Path(__file__).with_name('odd_nets.py')}:Mixture",
    arguments=("evaluation=1;2;8", "frozen=0.weight;1.weight;6.bias"),
)


def statistics_of(network: nn.Module, *, training: bool) -> Iterator[tuple[str, torch.Tensor]]:
    for path, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.training == training:
            yield from ((f"{path}.{name}", value) for name, value in layer.named_buffers())


@settings(max_examples=25)
@given(evaluation=LAYERS, frozen=FROZEN, bf16=st.booleans(), decay=st.sampled_from([0.0, 0.9]))
def test_every_mixture_of_kept_layers_stays_as_it_was(evaluation, frozen, bf16, decay):
    torch.manual_seed(0)
    network = Mixture(";".join(evaluation), ";".join(frozen))
    before, kept = weights_of(network), kept_layers(network)
    config = small(average=decay, precision="bf16" if bf16 else "fp32")
    trainer = Trainer(config, DATA, torch.device("cpu"), network)
    for number in range(2):
        trainer.update(trainer.loader.begin(number))
        assert kept_layers(trainer.network) == kept
    after, average = weights_of(trainer.network), weights_of(trainer.average.network)
    fixed = {*kept["frozen"], *(name for name, _ in statistics_of(network, training=False))}
    moved = {name for name, _ in statistics_of(network, training=True)}
    assert all(torch.equal(before[name], each[name]) for name in fixed for each in (after, average))
    assert not any(torch.equal(before[name], after[name]) for name in moved)


@settings(max_examples=30)
@given(evaluation=LAYERS)
def test_modes_are_kept_by_both_blocks(evaluation):
    network = Mixture(";".join(evaluation))
    kept = kept_layers(network)
    with evaluation_mode(network):
        assert not any(layer.training for layer in network.modules())
    assert kept_layers(network) == kept
    training_mode(network)
    assert kept_layers(network) == kept


class Backbone(nn.Sequential):
    """Puts a layer into evaluation mode whenever it is put into training mode."""

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        self[0].eval()
        return self


def test_a_networks_own_train_is_called():
    network = nn.Sequential(Backbone(nn.BatchNorm2d(1), nn.Dropout()), nn.Dropout())
    training_mode(network)
    assert kept_layers(network)["evaluation"] == ["0.0"]


def test_a_run_with_kept_layers_says_so_and_is_resumed_and_replayed_bit_for_bit(tmp_path):
    config, watching = small(model=MIXED, average=0.9, checkpoint_every=1), Watching()
    whole = train(config, tmp_path / "whole", data=DATA, sinks=[watching])
    (said,) = [text for text in watching.notices if "in evaluation mode stay so" in text]
    assert "BatchNorm: 1, 2, 2.0 and 3 more;" in said
    train(config, tmp_path / "stopped", data=DATA, until=3)
    resumed = resume(tmp_path / "stopped", data=DATA)
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))
    assert replay(tmp_path / "whole", data=DATA).is_equal
    again = train(config, tmp_path / "again", data=DATA, network=Mixture(), until=1)
    assert again.version == 1


@pytest.mark.process
def test_workers_leave_kept_layers_alone(tmp_path):
    config = small(model=MIXED, average=0.9)
    fresh = train(config, tmp_path / "fresh", data=DATA)
    lagless = Asynchronous(workers=1, policy=FixedLag(lag=0, split=1), fresh_steps=0)
    found = train(replace(config, source=lagless), tmp_path / "async", data=DATA)
    assert_same_bits(weights_of(found.network), weights_of(fresh.network))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (("", "0.weight"), r"^1 of the network must be in evaluation mode"),
        (("1;2.1", "0.weight"), r"^2\.1 of the network must be in evaluation mode"),
        (("1", ""), r"^0\.weight of the network must be frozen"),
    ],
)
def test_a_network_with_other_kept_layers_cannot_resume_the_run(tmp_path, other, complaint):
    train(small(), tmp_path / "run", data=DATA, network=Mixture("1", "0.weight"), until=1)
    with pytest.raises(CheckpointError, match=complaint):
        resume(tmp_path / "run", data=DATA, network=Mixture(*other))
