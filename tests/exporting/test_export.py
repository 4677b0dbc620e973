"""Networks leave a run as they are, whole, and with a card that says what is known of them."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparring.exporting.folder as writing
import sparring.exporting.formats as forms
from processes import finished
from sparring.cli.main import main
from sparring.data import ImageSet, load_dataset
from sparring.errors import ConfigError, RunError, SparringError
from sparring.evaluation import evaluate_run
from sparring.exporting import FORMATS, TOLERANCE, export, exported_network
from sparring.exporting.card import _private, plain
from sparring.models import (
    Imported,
    ModelKind,
    Normalised,
    PaperNetwork,
    PreActResNet18,
    SmallNetwork,
    trained_network,
)
from sparring.models.weights import save_weights
from sparring.records import RunDirectory
from sparring.training import train
from sparring.training.adapting import adapted
from training.own_nets import Own
from training.small_runs import assert_same_bits, small, weights_of

OWN = Imported(factory=f"{Path(__file__).parents[1] / 'training' / 'own_nets.py'}:Own")
MODELS = [
    PaperNetwork(initialisation="torch"),
    Normalised(mean=(0.1307,), std=(0.3081,), network=SmallNetwork(channels=1, num_classes=10)),
    PreActResNet18(channels=1, num_classes=10),
    Normalised(mean=(0.5,), std=(0.5,), network=OWN),
]


def untrained(folder: Path, model: ModelKind) -> RunDirectory:
    """A run's files with fresh weights: what an export looks at."""
    run = RunDirectory.create(folder)
    run.write_config(replace(small(), model=model))
    save_weights(model.build(seed=1).state_dict(), run.weights)
    run.write_class_names(tuple("0123456789"))
    return run


def images(count: int) -> torch.Tensor:
    return load_dataset("mnist").test.batch(torch.arange(100, 100 + count)).images


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_weights_and_programs_give_the_logits_of_the_run_for_any_number_of_images(tmp_path, model):
    run = untrained(tmp_path / "run", model)
    export(run, tmp_path / "out", formats=("safetensors", "torch"))
    network, loaded = trained_network(run), exported_network(tmp_path / "out")
    program = FORMATS["torch"].read(network, tmp_path / "out" / "model.pt2")
    with torch.no_grad():
        for count in (1, 2, 65):
            wanted = network(images(count))
            assert torch.equal(loaded(images(count)), wanted)
            torch.testing.assert_close(program(images(count)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [MODELS[0], MODELS[3]], ids=lambda model: type(model).__name__)
def test_onnx_gives_them_within_the_tolerance(tmp_path, model):
    run = untrained(tmp_path / "run", model)
    done = export(run, tmp_path / "out", formats=("onnx",))
    network = trained_network(run)
    answers = FORMATS["onnx"].read(network, tmp_path / "out" / "model.onnx")
    with torch.no_grad():
        for count in (1, 2, 65):
            wanted = network(images(count))
            allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(answers(images(count)), wanted, rtol=0, atol=allowed)
    seal = () if model is MODELS[0] else ("trust.json",)  # of own code, whose run was made here
    assert done.files == ("README.md", "classes.json", "model.json", "model.onnx", *seal)


def test_a_file_that_gives_other_logits_is_not_kept(tmp_path, monkeypatch):
    def wrong(network: nn.Module, _: torch.Tensor, path: Path) -> None:
        weights = {name: value + 1e-3 for name, value in network.state_dict().items()}
        save_weights(weights, path)

    run = untrained(tmp_path / "run", MODELS[0])
    damaged: Any = {**FORMATS, "safetensors": FORMATS["safetensors"]._replace(write=wrong)}
    monkeypatch.setattr(writing, "FORMATS", damaged)
    with pytest.raises(ConfigError, match=r"must agree within 0 on.*got a difference of"):
        export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Masked(nn.Module):
    """Attention among rows, each to itself and those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.last = nn.Linear(28, 28), nn.Linear(28, 10)
        self.register_buffer("mask", torch.full((28, 28), -torch.inf).triu(1))

    def forward(self, images):
        rows = images[:, 0]
        shares = (self.score(rows) @ rows.mT + self.mask).softmax(-1)
        return self.last((shares @ rows).mean(1))


def test_a_mask_of_infinities_is_exported_as_it_is(tmp_path):
    network = Masked()
    run = train(small(updates=1), tmp_path / "run", network=network).run
    found = export(run, tmp_path / "out", network=network)
    assert found.differences == {"safetensors": 0.0}
    again = exported_network(tmp_path / "out", network=Masked())
    assert_same_bits(weights_of(again), weights_of(trained_network(run, network=network)))


def test_one_test_image_is_enough_for_a_program_of_any_batch(tmp_path):
    mnist = load_dataset("mnist")
    one = ImageSet(
        pixels=mnist.test.levels(torch.arange(1)), labels=mnist.test.labels[:1], num_classes=10
    )
    data = replace(mnist, test=one)
    run = train(small(updates=1), tmp_path / "run", data=data).run
    done = export(run, tmp_path / "out", formats=("torch", "onnx"), data=data)
    assert done.checked_images == 1
    network = trained_network(run)
    for name in ("torch", "onnx"):
        answers = FORMATS[name].read(network, tmp_path / "out" / FORMATS[name].file)
        for count in (1, 2, 7):
            assert forms.difference(network, answers, images(count)) <= TOLERANCE


def test_training_goes_on_from_a_bundles_weights(tmp_path):
    run = untrained(tmp_path / "run", MODELS[0])
    export(run, tmp_path / "out")
    with pytest.raises(RunError, match=r"is an export: sparring\.exporting\.exported_network\("):
        RunDirectory.open(tmp_path / "out")
    start = str(tmp_path / "out" / "weights.safetensors")
    config = small(model=MODELS[0], init=start, updates=1)
    tuned = train(adapted(config, lr=1e-12), tmp_path / "tuned")
    for name, value in weights_of(trained_network(run)).items():
        torch.testing.assert_close(tuned.network.state_dict()[name], value)


def test_a_network_that_was_handed_over_is_needed_again(tmp_path):
    own = Own()
    train(small(updates=1), tmp_path / "run", network=own)
    with pytest.raises(ConfigError, match=r"passed as a Python object.*network="):
        export(tmp_path / "run", tmp_path / "out")
    export(tmp_path / "run", tmp_path / "out", network=own)
    read = exported_network(tmp_path / "out", network=own)
    run = RunDirectory(tmp_path / "run")
    assert_same_bits(weights_of(read), weights_of(trained_network(run, network=own)))


def test_an_occupied_folder_is_refused_and_an_empty_one_taken(tmp_path):
    run = untrained(tmp_path / "run", MODELS[0])
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")
    with pytest.raises(RunError, match=r"needs an empty folder.*empty is not empty"):
        export(run, tmp_path / "empty")


def test_a_folder_that_is_there_stays_the_same_folder(tmp_path, monkeypatch):
    run = untrained(tmp_path / "run", MODELS[0])
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    before = out.stat()
    monkeypatch.chdir(out)
    done = export(run, ".")
    after = out.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(path.name for path in out.iterdir()) == list(done.files)
    assert exported_network(out)


@pytest.mark.parametrize("moved", [1, 3, 99])
def test_what_a_kill_leaves_in_a_folder_is_refused_or_whole_and_overwritten(tmp_path, moved):
    run = untrained(tmp_path / "run", MODELS[0])
    out = tmp_path / "out"
    export(run, out, formats=("safetensors", "torch"))
    staging = out / ".out.00000000.tmp"
    staging.mkdir()
    kept = ["identity.json", "classes.json", "model.pt2", "weights.safetensors", "model.json"]
    for path in list(out.iterdir()):
        if path.is_file() and path.name not in kept[:moved]:
            path.replace(staging / path.name)
    if moved < len(kept):
        with pytest.raises(SparringError):
            exported_network(out)
    done = export(run, out)
    assert sorted(path.name for path in out.iterdir()) == list(done.files)
    assert "model.pt2" not in done.files


def test_another_file_beside_what_a_kill_left_is_kept(tmp_path):
    run = untrained(tmp_path / "run", MODELS[0])
    out = tmp_path / "out"
    (out / ".out.00000000.tmp").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        export(run, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_folders_that_were_made_for_nothing_go_again(tmp_path, monkeypatch):
    run = untrained(tmp_path / "run", MODELS[0])
    run.weights.write_bytes(b"")
    with pytest.raises(SparringError):
        export(run, tmp_path / "a" / "b" / "c")
    run = untrained(tmp_path / "other", MODELS[0])
    monkeypatch.setattr(writing, "difference", lambda *_: 1.0)
    with pytest.raises(ConfigError, match="must agree"):
        export(run, tmp_path / "a" / "b" / "c")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="no null character"):
        export(run, "a\0b")


def test_the_card_has_no_folders_of_arguments(tmp_path):
    values = ["/home/me/teacher.pt", '{"a": ["C:\\\\me\\\\b.pt", "~/c d.pt"]}', "8/255", "plain"]
    arguments = [f"note{at}={value}" for at, value in enumerate(values)]
    assert _private({"arguments": arguments}) == {
        "arguments": 'note0=teacher.pt; note1={"a": ["b.pt", "c d.pt"]}; note2=8/255; note3=plain'
    }


def test_an_evaluation_of_other_weights_is_not_in_the_card_and_it_is_said(tmp_path, capsys):
    run = untrained(tmp_path / "run", MODELS[0])
    evaluate_run(run, num_images=16, checks=False, threads=1)
    assert export(run, tmp_path / "current").evaluated
    save_weights(MODELS[0].build(seed=2).state_dict(), run.weights)
    assert main(["export", str(run.path), "-o", str(tmp_path / "out")]) == 0
    assert "these weights were not evaluated" in capsys.readouterr().out
    assert "These weights were not evaluated" in (tmp_path / "out" / "README.md").read_text()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    run = untrained(tmp_path / "run", MODELS[0])
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed.*'sparring\[onnx\]'"):
        export(run, tmp_path / "out", formats=("onnx",))


def test_an_exporter_that_does_not_know_torch_is_what_is_wrong(tmp_path, monkeypatch):
    def too_old(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript.new'", name="onnxscript.new")

    run = untrained(tmp_path / "run", MODELS[0])
    monkeypatch.setattr(torch.onnx, "export", too_old)
    with pytest.raises(
        ConfigError, match=r"do not support torch .*onnxscript\.new.*pip install --upgr"
    ):
        export(run, tmp_path / "out", formats=("onnx",))


class Branching(nn.Module):
    """Goes another way for dark images: nothing that could be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        sign = 1 if float(pixels.mean()) > 0.5 else -1
        return sign * self.linear(pixels.flatten(1))


def test_a_network_that_cannot_be_traced_is_told_and_leaves_nothing(tmp_path):
    run = untrained(tmp_path / "run", MODELS[0])
    settings = json.loads(run.config.read_text())
    run.config.write_text(json.dumps({**settings, "model": {"kind": "Given", "name": "Branching"}}))
    save_weights(Branching().state_dict(), run.weights)
    with pytest.raises(ConfigError, match=r"torch.export cannot trace the network"):
        export(run, tmp_path / "out", formats=("torch",), network=Branching())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


KILLED = """
import os, signal, sys
import sparring.exporting.folder as writing
written, left = writing._written, [int(sys.argv[3])]
def counting(*words):
    found = written(*words)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
writing._written = counting
writing.export(sys.argv[1], sys.argv[2], formats=("safetensors", "torch"))
"""


@pytest.mark.process
@pytest.mark.parametrize("files", [1, 2])
def test_a_kill_between_files_leaves_nothing_that_looks_whole(tmp_path, files):
    run = untrained(tmp_path / "run", MODELS[0])
    done = finished(KILLED, run.path, tmp_path / "out", files)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    export(run, tmp_path / "out")
    assert exported_network(tmp_path / "out")


def test_the_card_has_the_numbers_of_the_evaluation_and_no_folder_of_the_user(tmp_path):
    run = untrained(tmp_path / "run", MODELS[3])
    settings = json.loads(run.config.read_text())
    export(run, tmp_path / "before")
    assert "These weights were not evaluated" in (tmp_path / "before" / "README.md").read_text()
    found = evaluate_run(run, num_images=16, checks=False, threads=1)
    export(run, tmp_path / "after")
    card = (tmp_path / "after" / "README.md").read_text()
    assert f"| natural accuracy | {found.natural} |" in card
    assert f"| {plain('robust accuracy, suite pgd')} | {found.robust} |" in card
    assert "16 test images" in card and plain(found.threat) in card
    assert "were not run" in card and plain("own_nets.py") in card
    assert str(Path(__file__).parents[1]) not in card
    metadata = dict(line.split(": ", 1) for line in card.split("---")[1].strip().splitlines())
    (entry,) = json.loads(metadata["model-index"])
    assert entry["results"][0]["metrics"][0]["value"] == found.natural.share
    assert json.loads((tmp_path / "after" / "model.json").read_text()) == settings["model"]


def test_text_from_a_user_stays_text():
    assert plain("a\n# <b>[x](y)") == r"a \# \<b\>\[x\]\(y\)"


def test_the_command_writes_a_bundle_and_tells_it(tmp_path, capsys):
    run = untrained(tmp_path / "run", MODELS[0])
    assert main(["export", str(run.path), "-o", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differences"] == {"safetensors": 0.0}
    assert told["files"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert main(["export", str(run.path), "--to", "onxx"]) == 2
    assert "Did you mean onnx" in capsys.readouterr().err
