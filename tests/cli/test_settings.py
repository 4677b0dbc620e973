"""Which configuration a command line asks for, as `--dry-run` shows it."""

import json
import math
import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparring.attacks import L2, PGD, Linf
from sparring.cli.main import main
from sparring.data import Crop, Dataset, Flip, ImageSet, load_dataset
from sparring.engine import FixedLag, Newest, Sharded, Sync
from sparring.models import Imported, Normalised, PaperNetwork, SmallNetwork, WideResNet
from sparring.records import from_json, override, to_json
from sparring.training import (
    SGD,
    TRADES,
    Asynchronous,
    Custom,
    EarlySteps,
    Fresh,
    Natural,
    OneCycle,
    Stale,
    TrainConfig,
    adapting,
    linearly_scaled,
    preparation,
)
from sparring.training.adapting import adapted
from sparring.training.presets import (
    PRESETS,
    THREE,
    TWO_THEN_THREE,
    certified,
    fast,
    madry,
    natural,
    paper,
)
from training.small_runs import steps_of


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """The configuration of a command line; nothing may be written for it.

    The rehearsal of a run, which has tests of its own, would take most of the time.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparation, "rehearse", lambda *of: None)

    def ask(*words: str) -> TrainConfig:
        before = sorted(tmp_path.iterdir())
        assert main(["train", "--dry-run", *words]) == 0
        assert sorted(tmp_path.iterdir()) == before
        return from_json(TrainConfig, json.loads(capsys.readouterr().out))

    return ask


def test_nothing_asks_for_the_fast_preset(asked):
    assert asked() == fast()


NAMES = {
    "model": adapting.MODELS,
    "objective": adapting.OBJECTIVES,
    "optimizer": adapting.OPTIMIZERS,
    "schedule": adapting.SCHEDULES,
    "attack": adapting.ATTACKS,
    "threat": adapting.NORMS,
    "source": adapting.SOURCES,
}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("setting", NAMES)
def test_naming_what_a_preset_has_changes_nothing(name, setting):
    """The preset's own network, objective or source keeps its settings if it is named."""
    preset: Any = PRESETS[name]
    has = type(getattr(preset(), setting))
    words = [word for word, kind in NAMES[setting].items() if kind is has]
    for word in words:
        assert preset(**{setting: word}) == preset()
    assert words or setting == "objective"  # clean images alone have no name of their own


def test_settings_of_the_presets_own_network_are_changed_one_by_one():
    preset = PRESETS["certified"]
    wanted = override(preset(), ["model.hidden=64"])
    assert preset(model="strided", model_args=["hidden=64"]) == wanted


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_asked_for_by_its_name(asked, name):
    preset = PRESETS[name]()
    fitted = preset.model.fitted((1, 28, 28), 10)
    assert asked("--preset", name) == replace(preset, model=fitted)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("--seed 3 --updates=7 --threads 2", {"seed": 3, "updates": 7, "threads": 2}),
        ("--precision fp32 --device cpu", {"precision": "fp32", "device": "cpu"}),
        ("--threat linf --eps 8/255 --steps 3", {"threat": Linf(8 / 255), "steps": 3}),
        ("--threat l2", {"threat": L2(2.0)}),
        ("--objective trades", {"objective": TRADES()}),
        ("--epochs 0.5 --batch-size 64", {"epochs": 0.5, "batch_size": 64}),
        (
            "--lr 0.1 --optimizer sgd --momentum 0.8",
            {"optimizer": SGD(learning_rate=0.1, momentum=0.8)},
        ),
        ("--lr 0.1", {"lr": 0.1}),
        ("--schedule one-cycle", {"schedule": OneCycle()}),
        ("--augmentation flip crop", {"augmentation": [Flip(), Crop()]}),
        ("--source stale --staleness 64", {"source": Stale(staleness=64)}),
        ("--source async --lag 9", {"source": Asynchronous(policy=FixedLag(lag=9))}),
        ("--set attack.start=corner --seed 1", {"seed": 1, "set": ["attack.start=corner"]}),
    ],
)
def test_a_command_line_and_the_same_call_in_python_give_the_same(asked, words, changes):
    assert asked(*words.split()) == fast(**changes)
    assert asked("--preset", "paper", *words.split()) == paper(**changes)


def test_epochs_become_updates_by_the_size_of_the_training_set(asked):
    images = len(load_dataset("mnist").train)
    assert asked("--epochs", "2").updates == math.ceil(2 * images / fast().batch_size)
    assert main(["train", "--dry-run", "--epochs", "2", "--updates", "7"]) == 2


def test_other_data_bring_the_threat_that_is_usual_for_them():
    colour = ImageSet(
        pixels=torch.zeros(8, 3, 8, 8, dtype=torch.uint8), labels=torch.arange(8), num_classes=8
    )
    data = Dataset(name="own", train=colour, validation=colour, test=colour)
    for config in (fast(data=data), fast(data=data, threat="linf")):
        assert config.threat == Linf(8 / 255)
        assert config.pgd.threat.eps == pytest.approx(8 / 255 * 1.2)
    assert fast(data=data, threat=Linf(0.1)).threat == Linf(0.1)
    assert adapted(fast(), data=data).threat == fast().threat


@pytest.mark.parametrize("model", ["small-cnn", "preact-resnet-18", "wide-resnet"])
def test_fast_has_three_early_steps_for_other_networks_than_the_papers(asked, model, monkeypatch):
    monkeypatch.setattr(preparation, "check_fits", lambda *of: None)  # builds the network
    assert asked("--model", model).early_steps == (EarlySteps(until=0.8, steps=3),)
    assert asked("--model", model, "--mean", "0.1", "--std", "0.3").early_steps == THREE
    assert asked("--model", model, "--steps", "4").early_steps == ()
    assert asked("--model", model, "--set", "early_steps=[]").early_steps == ()
    assert asked("--model", model, "--preset", "paper").early_steps == ()
    own = '[{"until": 0.5, "steps": 2}, {"until": 0.8, "steps": 3}]'
    assert asked("--model", model, "--set", f"early_steps={own}").early_steps == TWO_THEN_THREE


@pytest.mark.parametrize("preset", ["fast", "madry"])
def test_steps_hold_throughout_and_reach_as_far_as_the_presets(asked, preset):
    before, after = PRESETS[preset](), asked("--preset", preset, "--steps", "3")
    some = range(0, after.updates, after.updates // 20)
    assert {steps_of(after, number) for number in some} == {3}
    assert 3 * after.pgd.step_length == pytest.approx(before.pgd.steps * before.pgd.step_length)


@pytest.mark.parametrize(("text", "eps"), [("0.1", 0.1), ("8/255", 8 / 255)])
def test_eps_sets_the_threat_exactly_and_scales_the_attack(asked, text, eps):
    config = asked("--preset", "paper", "--eps", text)
    assert config.threat == Linf(eps=eps)
    assert config == replace(
        paper(), threat=Linf(eps=eps), attack=replace(paper().pgd, threat=Linf(eps=eps))
    )


def test_an_attack_beyond_the_threat_stays_as_far_beyond_it(asked, tmp_path):
    wider = override(paper(), ["attack.threat.eps=0.36"])
    (tmp_path / "wider.json").write_text(json.dumps(to_json(wider)))
    config = asked("--config", "wider.json", "--eps", "0.1")
    assert config.threat.eps == 0.1
    assert config.pgd.threat.eps == pytest.approx(0.12)
    assert asked("--config", "wider.json", "--eps", "0.9").pgd.threat.eps == 1.0


def test_a_fixed_step_follows_eps_too(asked):
    attack = asked("--preset", "madry", "--eps", "0.03").pgd
    assert attack.step_length * attack.steps / attack.threat.eps == pytest.approx(
        madry().pgd.step_length * madry().pgd.steps / madry().pgd.threat.eps
    )


def test_the_source_is_fresh_or_stale_by_so_many_updates(asked):
    assert asked("--source", "stale").source == Stale()
    assert asked("--source", "stale", "--staleness", "64").source == Stale(staleness=64)
    assert asked("--source", "fresh").source == Fresh()


def test_a_stale_file_stays_stale_until_told_otherwise(asked, tmp_path):
    assert asked("--source", "async", "--workers", "3").source == Asynchronous(workers=3)
    assert asked("--source", "async").source == Asynchronous()
    stale = replace(fast(), source=Stale(staleness=5))
    (tmp_path / "stale.json").write_text(json.dumps(to_json(stale)))
    from_file = ("--config", "stale.json")
    assert asked(*from_file).source == Stale(staleness=5)
    assert asked(*from_file, "--source", "stale").source == Stale(staleness=5)
    assert asked(*from_file, "--staleness", "6").source == Stale(staleness=6)
    assert asked(*from_file, "--source", "fresh").source == Fresh()


def test_policies_and_their_numbers_have_flags(asked):
    beside = ("--source", "async", "--workers", "3")
    assert asked(*beside, "--lag", "9").source.policy == FixedLag(lag=9)
    assert asked(*beside, "--policy", "sync").source.policy == Sync()
    assert asked(*beside, "--policy", "sharded").source.policy == Sharded(split=4)
    rare = asked(*beside, "--policy", "newest", "--publish-every", "100").source
    assert (rare.policy, rare.fresh_steps) == (Newest(period=100), Asynchronous().fresh_steps)


def test_the_papers_engine_is_a_preset(asked):
    """Newest weights, re-saved every 100 updates, a bounded queue, no fresh steps."""
    config = asked("--preset", "paper-async")
    assert replace(config, source=Fresh()) == paper()
    assert config.source == Asynchronous(policy=Newest(credits=8, period=100), fresh_steps=0)


def test_settings_by_name_come_last_and_reach_everything(asked):
    config = asked("--lr", "1", "--set", "seed=2", "--set", "optimizer.learning_rate=1e-3")
    assert config.seed == 2
    assert config.optimizer.learning_rate == 1e-3


def test_what_a_dry_run_prints_asks_for_the_same_again(asked, tmp_path):
    first = asked("--preset", "madry", "--eps", "8/255", "--source", "stale", "--seed", "9")
    (tmp_path / "again.json").write_text(json.dumps(to_json(first)))
    assert asked("--config", "again.json") == first


def test_a_runs_folder_stands_for_the_settings_in_it(asked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_json(paper())))
    assert asked("--config", "run") == paper()


def test_a_built_in_model_is_named_and_its_settings_are_arguments(asked):
    small = SmallNetwork(channels=1, num_classes=10, width=8)
    assert asked("--model", "small-cnn", "--model-args", "width=8").model == small
    wide = asked("--model", "wide-resnet", "--model-args", "depth=10", "width=1", "dropout=0.1")
    assert wide.model == WideResNet(channels=1, num_classes=10, depth=10, width=1, dropout=0.1)


def test_a_factory_is_stored_by_its_whole_path(asked, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(hidden=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.Linear(hidden, 10))\n"
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = asked("--model", "nets.py:make", "--model-args", "hidden=5")
    factory = f"{tmp_path.resolve()}/nets.py:make"
    assert found.model == Imported(factory=factory, arguments=("hidden=5",))


def test_a_normalisation_stands_before_the_model(asked):
    model = fast().model
    assert isinstance(model, PaperNetwork)
    found = asked("--mean", "33.3/255", "--std", "0.3081").model
    assert found == Normalised(mean=(33.3 / 255,), std=(0.3081,), network=model)


def test_trades_brings_its_attack(asked):
    found = asked("--objective", "trades")
    assert found == replace(
        fast(),
        objective=TRADES(),
        attack=replace(fast().pgd, loss="kl", start="uniform"),
    )


def test_a_norm_brings_its_usual_size_and_the_attack_exceeds_it_as_before(asked):
    found = asked("--threat", "l2")
    assert found.threat == L2(eps=2.0)
    ratio = fast().pgd.threat.eps / fast().threat.eps
    assert found.pgd.threat == L2(eps=2.0 * ratio)
    reach = fast().pgd.step_length / fast().pgd.threat.eps
    assert found.pgd.step_length / found.pgd.threat.eps == pytest.approx(reach)
    assert asked("--threat", "l2", "--eps", "1.5").threat == L2(eps=1.5)


def test_an_objective_that_needs_attacks_brings_one_where_there_was_none():
    usual = PGD(threat=Linf(0.3))
    for preset in (natural, certified):
        assert preset(objective="adversarial").attack == usual
        assert preset(objective="mixed").attack == usual
        assert preset(objective="trades").attack == replace(usual, loss="kl")
        assert preset(objective="adversarial", steps=3).pgd.steps == 3
    assert fast(objective=Natural()).pgd.is_idle
    assert fast(objective=Natural()).early_steps == ()


def test_an_objective_after_trades_brings_back_the_loss_of_its_attack():
    trades = fast(objective="trades")
    assert adapted(trades, objective="adversarial") == fast()
    named = adapted(trades, objective="adversarial", attack=trades.pgd)
    assert named.pgd.loss == "kl"


@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(0.5)])
def test_pgd_in_place_of_an_own_attack_has_the_runs_threat(threat, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def make():\n    return lambda model, images, labels, generator: images\n")
    own = fast(threat=threat, attack=Custom(factory=f"{file}:make"))
    assert adapted(own, attack="pgd").attack == PGD(threat=threat)


def test_the_usual_size_of_a_norm_is_that_for_the_data_that_are_kept(tmp_path):
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, size=(40, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    file = tmp_path / "colour.npz"
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    colour = replace(fast(), data=str(file))
    assert adapted(colour, threat="l2").threat == L2(0.5)
    assert adapted(colour, threat="linf").threat == Linf(8 / 255)
    assert adapted(fast(), threat="l2").threat == L2(2.0)


SIZES = {"small-cnn": "width=8", "strided": "hidden=8"}


@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("word", ["--data={}", "--set=data={}"])
def test_stored_settings_with_other_data_get_a_network_for_these(asked, tmp_path, model, word):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    file = tmp_path / "colour.npz"
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    stored = asked("--model", model, "--model-args", SIZES[model])
    (tmp_path / "settings.json").write_text(json.dumps(to_json(stored)))
    other = asked("--config", "settings.json", word.format(file))
    wanted = adapting.unfitted(stored.model).fitted((3, 16, 16), 4)
    assert other.model == wanted != stored.model
    assert asked("--config", "settings.json") == stored


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_a_norm_that_it_has_already_changes_nothing(asked, preset):
    assert asked("--preset", preset, "--threat", "linf") == PRESETS[preset]()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--model", "smal-cnn"], "Did you mean small-cnn"),
        (["--model", "small-cnn", "--model-args", "width"], "must read name=value"),
        (["--model", "small-cnn", "--model-args", "widht=3"], "width"),
        (["--model-args", "width=3"], "model_args needs the name of a model"),
        (["--mean", "0.5"], "mean and std go together; got only mean"),
        (["--mean", "half", "--std", "1"], "a number, such as"),
        (["--mean", "125", "--std", "60"], "Divide those of grey levels by 255"),
        (
            ["--model", "preact-resnet-18", "--mean", "0.5", "0.5", "--std", "1", "1"],
            "one for each",
        ),
        (["--objective", "trade"], "Did you mean trades"),
        (["--threat", "l1"], "one of linf, l2"),
        (["--init", "nowhere.safetensors"], "there is no such file"),
        (["--model", "nowhere.py:f"], "there is no .*nowhere.py"),
    ],
)
def test_a_model_or_objective_that_cannot_be_meant_is_refused(words, complaint, capsys):
    assert main(["train", "--dry-run", *words]) == 2
    assert re.search(complaint, capsys.readouterr().err)


@pytest.fixture
def several(monkeypatch):
    """Be one of two processes that torchrun started."""

    def be(rank: int) -> None:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))

    return be


def test_several_trainers_scale_settings_of_one_and_take_their_own_as_they_are(
    asked, several, tmp_path
):
    several(0)
    scaled = linearly_scaled(fast(), 2)
    assert asked() == asked("--scaling", "linear") == scaled
    assert asked("--updates", "300").updates == 150
    assert asked("--scaling", "none") == replace(fast(), trainers=2)
    file = tmp_path / "two.json"
    file.write_text(json.dumps(to_json(scaled)))
    assert asked("--config", str(file)) == asked("--config", str(file), "--scaling", "none")
    assert asked("--config", str(file)) == scaled


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--set", "trainers=4"), "got 4 in the settings and 2 processes. Take: torchrun"),
        (("--set", "trainers=2", "--scaling", "linear"), "scaled already; got trainers = 2"),
        (("--set", "batch_size=3", "--scaling", "none"), "must be a multiple of trainers"),
    ],
)
def test_of_several_trainers_one_tells_what_is_wrong(words, complaint, several, capsys):
    for rank in (0, 1):
        several(rank)
        assert main(["train", "--dry-run", *words]) == 2
        told = capsys.readouterr()
        assert (complaint in told.err) == (rank == 0)
        assert not told.out


def test_of_several_trainers_one_prints(several, capsys):
    several(1)
    assert main(["train", "--dry-run"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_environment_that_torchrun_did_not_make_is_refused(several, monkeypatch, capsys):
    several(0)
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert main(["train", "--dry-run"]) == 2
    assert "WORLD_SIZE must be a number" in capsys.readouterr().err
