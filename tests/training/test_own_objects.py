"""Objects of one's own in settings: named by a factory, or passed in Python."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from sparring.attacks import APGD, FAB, L2, PGD, Crafter, CustomThreat, Linf, Square
from sparring.data import load_dataset
from sparring.errors import ConfigError
from sparring.evaluation.run import evaluate_run
from sparring.loader import Reused, Stale
from sparring.models import SmallNetwork
from sparring.prediction import predict
from sparring.records import MetricsLog, RunDirectory, from_json, to_json
from sparring.records.own_code import named_code
from sparring.training import (
    SGD,
    TRADES,
    Custom,
    TrainConfig,
    Validation,
    adapting,
    replay,
    resume,
    train,
)
from sparring.training.presets import fast
from training.own_objects import Counting, Darker, Falling, Halving, Noise, Shift
from training.small_runs import Watching, assert_same_bits, small, weights_of

FILE = Path(__file__).with_name("own_objects.py")
SMALL: Any = {
    "model": SmallNetwork(width=2),
    "batch_size": 8,
    "updates": 5,
    "set": ["validation.every=0", "validation.images=8"],
}


def halving(parameters):
    return Halving(parameters, lr=0.01)


def by_object() -> Any:
    return {
        "attack": Noise(),
        "optimizer": halving,
        "schedule": Falling(),
        "objective": Counting(),
        "augmentation": (Shift(most=5),),
    }


def by_name() -> TrainConfig:
    names = {"attack": "Noise", "optimizer": "Halving", "schedule": "Falling"}
    named: Any = {setting: f"{FILE}:{name}" for setting, name in names.items()}
    shift = Custom(factory=f"{FILE}:Shift", arguments=("most=5",))
    return fast(**SMALL, **named, lr=0.01, objective=f"{FILE}:Counting", augmentation=[shift])


OUTSIDE = torch.nn.Parameter(torch.zeros(3))


def unrelated(logits_of, batch):
    return (OUTSIDE.sum() - 1) ** 2, batch.labels >= 0


def weights(trained) -> list[torch.Tensor]:
    return list(trained.network.state_dict().values())


def test_factories_and_the_same_objects_train_resume_and_replay_alike(tmp_path):
    named = train(by_name(), tmp_path / "named")
    assert replay(tmp_path / "named").is_equal
    config = fast(**SMALL, **by_object())
    train(config, tmp_path / "passed", until=2)
    told = r"was passed as a Python object.*Pass it again: given=.* sparring train --config RUN"
    with pytest.raises(ConfigError, match=told):
        resume(tmp_path / "passed")
    with pytest.raises(ConfigError, match=r"given must hold the objects.*attack, objective"):
        resume(tmp_path / "passed", given={**by_object(), "seed": 3})
    again = by_object()
    again["objective"].calls = 2  # which no checkpoint holds
    passed = resume(tmp_path / "passed", given=again)
    for one, other in zip(weights(named), weights(passed), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"optimizer": lambda parameters: 3}, "must be a torch.optim.Optimizer.*got an int"),
        ({"schedule": lambda progress: "half"}, "a schedule must return a number.*got half"),
        ({"objective": lambda logits_of, batch: 3}, "must return a scalar tensor"),
        ({"objective": unrelated}, "must depend on the network's weights; it depends on none"),
        (
            {"optimizer": lambda weights: torch.optim.SGD([*weights, OUTSIDE], lr=0.1)},
            r"only parameters that are passed.*got 1 parameter beside them.*shape \(3,\)",
        ),
        ({"augmentation": [lambda x, *_: 2 * x]}, r"pixels in \[0, 1\]; got 0 to 2"),
        ({"augmentation": [lambda x, *_: x[:1]]}, "an augmentation must return torch.float32"),
        ({"attack": lambda *_, **__: None}, r"the attack \(<lambda>\) returned NoneType"),
        ({"attack": Noise(), "steps": 3}, "steps needs the attack pgd; got PythonObject"),
        ({"attack": Noise(), "source": "reused"}, "source reused needs an attack in steps"),
        ({"optimizer": SGD}, "got the class SGD. Pass Adam"),
        ({"optimizer": "rms"}, "optimizer must be one of adam, sgd, file.py:name"),
        ({"schedule": f"{FILE}:Risng"}, "it has no Risng"),
    ],
)
def test_objects_that_cannot_be_used_are_refused_before_a_run(own, complaint, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        train(fast(**SMALL, **own), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Failing(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("kaboom")


def raising(*_):
    raise RuntimeError("kaboom")


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({"schedule": raising}, "schedule"),
        ({"eps_schedule": raising}, "schedule of ε"),
        ({"augmentation": (raising,)}, "augmentation"),
        ({"objective": raising}, "objective"),
        ({"optimizer": lambda weights: Failing(weights, lr=0.1)}, "optimizer"),
    ],
)
def test_what_own_code_raises_becomes_a_sentence(own, name, tmp_path):
    with pytest.raises(ConfigError, match=f"the {name} failed: RuntimeError: kaboom"):
        train(replace(fast(**SMALL), **own), tmp_path / "run")


class Masking:
    """Reads a file for every batch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, images, ticket, number):
        return images * float(self.path.read_text())


def test_what_an_optimizer_leaves_out_is_said(tmp_path: Path) -> None:
    watching = Watching()
    half = small(optimizer=lambda weights: torch.optim.SGD(weights[:2], lr=0.1), updates=1)
    names = list(train(half, tmp_path / "half", sinks=[watching]).network.state_dict())
    (said,) = watching.notices
    assert said.startswith(f"weights that the optimizer of your own does not have: {names[2]}")
    assert names[1] not in said


def drawn(model, images, labels, *, threat):
    """An attack that draws from PyTorch's global generator."""
    return threat.project(images + threat.eps * torch.randn_like(images), images)


def speckled(images, ticket, number):
    return (images + 0.1 * torch.rand_like(images)).clamp(0, 1)


@pytest.mark.parametrize("own", [{"attack": drawn}, {"augmentation": (speckled,)}])
def test_what_draws_from_the_global_generator_follows_from_the_seed(own, tmp_path):
    config = small(**own, source=Stale(staleness=2))
    torch.manual_seed(1)
    whole = train(config, tmp_path / "whole")
    torch.manual_seed(2)
    train(config, tmp_path / "half", until=4)
    torch.manual_seed(3)
    resumed = resume(tmp_path / "half", given=own)
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))
    assert replay(whole.run.path, given=own).is_equal
    crafter = Crafter(config.recipe(), load_dataset("mnist").train, torch.device("cpu"))
    network = whole.network
    batches = [crafter.craft(crafter.clean(0), network, version=0) for _ in range(2)]
    assert torch.equal(batches[0].adversarial, batches[1].adversarial)
    batches = [crafter.craft(crafter.clean(n), network, version=0) for n in (0, 1)]
    noise = [batch.adversarial - batch.images for batch in batches]
    assert "attack" not in own or not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(
    "attack",
    [
        APGD(steps=2),
        FAB(steps=2, targets=2),
        Square(queries=3),
        PGD(steps=2, loss="margin"),
        "apgd",
        "fab",
        "square",
    ],
)
def test_attacks_of_the_library_take_the_runs_threat_and_are_stored_whole(attack, tmp_path):
    config = adapting.adapted(small(threat=Linf(0.2)), attack=attack)
    name = attack if isinstance(attack, str) else type(attack).__name__
    taken: Any = config.attack
    assert type(taken).__name__.lower() == name.lower()
    assert taken.threat == Linf(0.2)
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config
    if hasattr(taken, "steps"):
        assert adapting.adapted(config, steps=3).attack == replace(taken, steps=3)
    further = adapting.adapted(config, eps=0.1)
    assert further.threat == Linf(0.1)
    assert further.attack == taken.against(Linf(0.1))
    if isinstance(attack, str):
        return
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "half", until=2)
    assert_same_bits(weights_of(resume(tmp_path / "half").network), weights_of(whole.network))
    rows = [row for row in MetricsLog(whole.run.metrics).rows() if "eps" in row]
    assert {row["eps"] for row in rows} == {0.2}


def test_an_attack_of_the_library_in_another_norm_or_size_is_seen(tmp_path):
    with pytest.raises(ConfigError, match=r"must be of one norm.*attack=APGD\(threat=Linf"):
        small(attack=APGD(L2(2.0)), threat=Linf(0.3))
    watching = Watching()
    weak = small(attack=Square(Linf(0.1), queries=1), threat=Linf(0.3), updates=1)
    train(weak, tmp_path / "weak", sinks=[watching])
    assert any("training attacks with ε = 0.1, evaluation with 0.3" in n for n in watching.notices)


def test_trades_against_another_loss_than_its_own_is_said(tmp_path):
    for attack, said in {PGD(steps=1): True, PGD(steps=1, loss="kl"): False}.items():
        watching = Watching()
        config = small(objective=TRADES(), attack=attack, updates=1)
        train(config, tmp_path / str(said), sinks=[watching])
        assert any("TRADES" in notice for notice in watching.notices) is said


def test_a_checkpoint_is_not_called_damaged_for_what_own_code_lacks(tmp_path):
    factor = tmp_path / "factor.txt"
    factor.write_text("0.5")
    own = (Masking(factor),)
    config = replace(fast(**SMALL), augmentation=own, source=Stale(staleness=2))
    train(config, tmp_path / "run", until=3)
    factor.rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="the augmentation failed: FileNotFoundError"):
        resume(tmp_path / "run", given={"augmentation": own})
    (tmp_path / "away").rename(factor)
    assert resume(tmp_path / "run", given={"augmentation": own}).version == 5


def test_reading_settings_runs_no_code_of_theirs(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    evil = f"{tmp_path}/evil.py:Noise"
    settings = {**to_json(by_name()), "attack": {"kind": "Custom", "factory": evil}}
    read = from_json(TrainConfig, json.loads(json.dumps(settings)))
    assert read.attack == Custom(factory=evil)
    assert evil in {code.factory for code in named_code(to_json(read))}
    assert not any("evil" in name for name in sys.modules)


def test_settings_of_before_are_read_and_a_pgd_is_written_as_before():
    stored: Any = to_json(fast())
    assert "kind" not in stored["attack"]
    assert from_json(TrainConfig, stored) == fast()
    old = {**stored, "objective": {"kind": "OwnObjective", "factory": "a.py:b", "arguments": []}}
    read = from_json(TrainConfig, old)
    assert read.objective == Custom(factory="a.py:b")
    assert to_json(read)["objective"] == {"kind": "Custom", "factory": "a.py:b", "arguments": []}


def test_pgd_of_another_class_is_an_object_of_ones_own():
    class Mine(PGD):
        pass

    own: Any = to_json(replace(fast(), attack=Mine()))
    assert own["attack"] == {"kind": "PythonObject", "name": Mine.__qualname__}


@pytest.fixture(scope="module")
def against_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run against a threat of its own, stopped once and resumed."""
    folder = tmp_path_factory.mktemp("own") / "run"
    train(fast(**SMALL, threat=f"{FILE}:Darker", eps=0.2), folder, until=2)
    resume(folder)
    return folder


def test_a_threat_of_ones_own_is_stored_and_trained_against(against_own: Path) -> None:
    config = from_json(TrainConfig, json.loads((against_own / "config.json").read_text()))
    assert config.threat == CustomThreat(factory=f"{FILE}:Darker", arguments=("eps=0.2",))
    as_others = {**to_json(config.threat), "kind": "Custom"}
    assert from_json(TrainConfig, {**to_json(config), "threat": as_others}) == config
    assert config.recipe().plan(config.updates - 1).eps == pytest.approx(0.24)
    assert replay(against_own).is_equal


def test_evaluations_predictions_and_transfers_take_the_runs_threat(against_own: Path) -> None:
    run = RunDirectory(against_own)
    found = evaluate_run(run, num_images=4, suite=f"{FILE}:SUITE", checks=False)
    assert (found.suite, found.threat) == ("mine", "Darker 0.2")
    assert [one.name for one in found.attacks] == ["pgd-1 cross-entropy", "apgd-ce-1"]
    assert predict(run, test=1, attack=True).found[0].withstands is not None


def test_code_of_a_foreign_runs_threat_does_not_run(against_own: Path, tmp_path: Path) -> None:
    shutil.copytree(against_own, tmp_path / "run")
    (tmp_path / "run" / "trust.json").unlink()
    run = RunDirectory(tmp_path / "run")
    for ask in (lambda: evaluate_run(run), lambda: predict(run, test=1), lambda: resume(run.path)):
        with pytest.raises(ConfigError, match="names code that would run: Darker"):
            ask()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"threat": f"{FILE}:Half"},
            "Half lacks project, ascend, uniform, distance: inherit Threat",
        ),
        ({"threat": Darker(0.2)}, r"must be Linf, L2 or CustomThreat.*Pass CustomThreat\("),
        ({"threat": "linfty"}, "threat must be one of linf, l2, file.py:name"),
    ],
)
def test_other_threats_are_refused_in_a_sentence(changes: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        fast(**changes)


@pytest.mark.parametrize("name", ["Slowing", "Keeping", "Noisy"])
def test_an_optimizer_resumes_with_all_that_it_counts_and_draws(name: str, tmp_path: Path) -> None:
    config = small(optimizer=Custom(factory=f"{FILE}:{name}"))
    whole = train(config, tmp_path / "whole")
    assert replay(whole.run.path).is_equal
    again = train(config, tmp_path / "again")
    half = train(config, tmp_path / "half", until=3)
    assert half.version == 3
    for run in (again, resume(tmp_path / "half")):
        assert_same_bits(weights_of(run.network), weights_of(whole.network))


def test_an_optimizer_whose_state_pytorch_does_not_restore_is_refused(tmp_path: Path) -> None:
    config = small(optimizer=Custom(factory=f"{FILE}:Whole"))
    with pytest.raises(ConfigError, match=r"does not restore the optimizer state\.\d\.counts"):
        train(config, tmp_path / "run")


def test_an_attack_without_a_threat_waits_in_a_queue_and_resumes(tmp_path: Path) -> None:
    config = small(attack=Custom(factory=f"{FILE}:Noise"), source=Stale(staleness=2))
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "half", until=4)
    assert_same_bits(weights_of(resume(tmp_path / "half").network), weights_of(whole.network))


def sign(model, images, labels, *, threat):
    """One step to the edge of the run's threat; takes no generator."""
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), labels), x)
    return threat.project(images + threat.eps * gradient.sign(), images)


def test_an_attack_gets_the_threat_of_the_run_and_is_watched_as_one_of_ours(tmp_path: Path) -> None:
    watched = Validation(every=0, alarm_every=2, alarm_images=16)
    step = PGD(threat=Linf(0.1), steps=1, step_size=0.1, start="none")
    runs = {
        name: train(small(attack=attack, threat=Linf(0.1), validation=watched), tmp_path / name)
        for name, attack in {"ours": step, "own": sign}.items()
    }
    assert_same_bits(*(weights_of(trained.network) for trained in runs.values()))
    rows = [
        [row for row in MetricsLog(trained.run.metrics).rows() if "clean_accuracy" in row]
        for trained in runs.values()
    ]
    apart = {"own_steps", "seconds"}
    ours, own = ([{n: v for n, v in row.items() if n not in apart} for row in of] for of in rows)
    assert ours == own
    assert all("own_steps" not in row and "long_accuracy" in row for row in rows[1])


def wrong(value: float, until: float = 0.0) -> Custom:
    return Custom(factory=f"{FILE}:Wrong", arguments=(f"value={value}", f"until={until}"))


@pytest.mark.parametrize("value", [0, -1, "NaN", "Infinity"])
def test_a_schedule_of_eps_returns_a_share_above_0(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the schedule of ε must return a number above 0"):
        train(small(eps_schedule=wrong(value)), tmp_path / "run")


def test_schedules_may_return_tensors_of_one_number(tmp_path: Path) -> None:
    plain = train(small(), tmp_path / "plain")
    tensors = train(small(eps_schedule=wrong(1, 1.0), schedule=wrong(1, 1.0)), tmp_path / "own")
    assert_same_bits(weights_of(tensors.network), weights_of(plain.network))


def test_code_that_fails_in_the_middle_of_a_run_says_where_it_resumes(tmp_path: Path) -> None:
    config = small(schedule=wrong(-1, 0.8))
    with pytest.raises(ConfigError, match=r"The last good checkpoint is in .*resume\.pt"):
        train(config, tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "a schedule must return a number" in json.loads(rows[-1])["event"]


def test_fresh_steps_of_the_source_that_is_named_can_be_set() -> None:
    config = fast(source="reused", set=("source.fresh_steps=2",))
    assert config.source == Reused(fresh_steps=2)
