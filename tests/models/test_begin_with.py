"""Weights of files to begin with: a run's, others' state_dicts, behind a normalisation or not."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

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


PARTS = st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "network"]), max_size=3)
KEYS = st.lists(
    st.sampled_from(["state_dict", "model_state_dict", "net", "model", "ema", "module", "weights"]),
    max_size=3,
)


def wrapped(weights: dict[str, Tensor], parts: list[str], keys: list[str], *, beside: bool) -> dict:
    """Weights as another program stores them: under a prefix, in dictionaries, beside others."""
    content: dict = {".".join([*parts, name]): value for name, value in weights.items()}
    for key in reversed(keys):
        moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
        content = {key: content} | ({"epoch": 3, "optimizer": moments} if beside else {})
    return content


@pytest.mark.parametrize("spec", [PLAIN, BEHIND])
@given(parts=PARTS, keys=KEYS, beside=st.booleans())
def test_weights_are_found_under_usual_prefixes_and_keys(
    tmp_path_factory, spec, parts, keys, beside
):
    source = spec.build(1)
    stored = PLAIN.build(1) if beside else source
    file = tmp_path_factory.mktemp("weights") / "state.pt"
    torch.save(wrapped(dict(stored.state_dict()), parts, keys, beside=beside), file)
    network = spec.build(2)
    begin_with(network, file)
    assert same(network, source)


def test_a_part_of_a_network_that_was_compiled_and_an_averaged_model_fit(tmp_path):
    source = PLAIN.build(1)
    state = source.state_dict()
    compiled = {name.replace("features.", "features._orig_mod."): v for name, v in state.items()}
    averaged = torch.optim.swa_utils.AveragedModel(source).state_dict()
    assert "n_averaged" in averaged
    for content in (compiled, averaged):
        torch.save(content, tmp_path / "state.pt")
        network = PLAIN.build(2)
        begin_with(network, tmp_path / "state.pt")
        assert same(network, source)


STATE = dict(PLAIN.build(1).state_dict())
FEWER = dict(list(STATE.items())[3:])
NAMED = {f"student.{name}": value for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": STATE, "ema": STATE}, r"more than once, in \['model'\] and \['ema'\]"),
        (FEWER, r"3 tensors are missing \(features.0.weight, features.1.weight, \S+\)"),
        (STATE | {"extra": torch.zeros(1)}, r"1 tensor is not the network's \(extra\)"),
        ({"a": NAMED | {"more": torch.zeros(1)}}, r"begin with 'student.' in \['a'\] fit without"),
        (
            dict(SmallNetwork(width=5, channels=1, num_classes=3).build(0).state_dict()),
            r"of another shape \(features.0.weight \(5, 1, 3, 3\) instead of \(4, .* and 28 more\)",
        ),
        (
            {name: value.to(torch.complex64) for name, value in STATE.items()},
            "complex where the network's are real",
        ),
    ],
)
def test_what_does_not_fit_is_told_briefly_and_leaves_the_network_alone(
    tmp_path, content, complaint
):
    torch.save(content, tmp_path / "other.pt")
    network = PLAIN.build(0)
    with pytest.raises(CheckpointError, match=complaint) as refused:
        begin_with(network, tmp_path / "other.pt")
    assert len(str(refused.value)) < 700
    assert same(network, PLAIN.build(0))


def test_a_file_that_is_missing_or_no_such_file_is_told(tmp_path):
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(CheckpointError, match=r"there is no such file of weights\. Check"):
            begin_with(PLAIN.build(0), tmp_path / name)
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(CheckpointError):
        begin_with(PLAIN.build(0), tmp_path / "text.pt")
