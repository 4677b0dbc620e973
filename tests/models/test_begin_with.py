"""Weights of files to begin with: a run's, others' state_dicts, behind a normalisation or not."""

import pickle

import pytest
import torch
from torch import nn

from sparring.errors import CheckpointError
from sparring.models import Normalised, SmallNetwork, begin_with, save_weights

PLAIN = SmallNetwork(width=4, channels=1, num_classes=3)
BEHIND = Normalised(mean=(0.5,), std=(0.5,), network=PLAIN)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("spec", [PLAIN, BEHIND])
def test_weights_come_back_from_safetensors_and_from_a_state_dict(tmp_path, spec):
    source = spec.build(1)
    save_weights(source.state_dict(), tmp_path / "a.safetensors")
    torch.save(source.state_dict(), tmp_path / "b.pt")
    torch.save({"epoch": 3, "state_dict": source.state_dict()}, tmp_path / "c.ckpt")
    for name in ("a.safetensors", "b.pt", "c.ckpt"):
        network = spec.build(2)
        begin_with(network, tmp_path / name)
        assert same(network, source)


def test_weights_of_the_inner_network_will_do_behind_a_normalisation(tmp_path):
    torch.save(PLAIN.build(1).state_dict(), tmp_path / "plain.pt")
    network = BEHIND.build(2)
    begin_with(network, tmp_path / "plain.pt")
    assert same(network, BEHIND.build(1))


class Malice:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_file_that_would_run_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Malice(), protocol=2))
    torch.save({"weights": Malice()}, tmp_path / "worse.pt")
    (tmp_path / "ran").unlink(missing_ok=True)
    for name in ("bad.pt", "worse.pt"):
        with pytest.raises(CheckpointError, match="state_dict and nothing else"):
            begin_with(PLAIN.build(0), tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"a": 1}, "holds a dict of something else"),
        ([torch.zeros(1)], "holds a list of something else"),
        ({"classifier.bias": torch.zeros(3)}, "must hold the weights of a SmallCNN"),
    ],
)
def test_something_else_is_refused(tmp_path, content, complaint):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=complaint):
        begin_with(PLAIN.build(0), tmp_path / "other.pt")


def test_a_file_that_is_missing_or_no_such_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        begin_with(PLAIN.build(0), tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(CheckpointError):
        begin_with(PLAIN.build(0), tmp_path / "text.pt")
