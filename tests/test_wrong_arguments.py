"""Arguments that a public name cannot mean are refused in a sentence, never by a raw error."""

# That the arguments are wrong is the point of this file.
# pyright: reportArgumentType=false, reportCallIssue=false

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, nn
from torch.nn.functional import one_hot

import sparring
from sparring.data import images_from

NET = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
X, Y = torch.rand(8, 1, 8, 8, generator=Generator().manual_seed(0)), torch.arange(8) % 4
BYTES = (X * 255).byte()
LINF = sparring.Linf(eps=0.03)
FAST = sparring.presets.fast()
NOWHERE = Path("/nowhere")
GENERATOR = Generator()
PGD = sparring.PGD()


def judged(model=NET, images=X, labels=Y, threat=LINF, **others):
    return sparring.evaluate(model, images, labels, threat, checks=False, **others)


def attacked(kind=sparring.PGD, model=NET, images=X, labels=Y, generator=GENERATOR):
    return kind(threat=LINF)(model, images, labels, generator=generator)


def loaded(data=(X, Y), model=NET, attack=PGD, updates=1, **others):
    return sparring.AdversarialLoader(data, model, attack, updates=updates, **others)


def trained(config=FAST, out=NOWHERE / "run", **others):
    return sparring.train(config, out, **others)


class Half:
    """Not quite a threat."""

    eps = 0.1
    at = project = ascend = None


def transferred(networks, steps=(1,)):
    return sparring.transfer(networks, X, Y, LINF, steps=steps)


def own_attack(model, images, labels, *, generator):
    return images


def masked(mask):
    images: Any = images_from((BYTES, Y))
    return images[mask]


Case = tuple[Callable[[], object], str]

CASES: list[Case] = [
    (lambda: judged(threat=0.3), r"threat must be Linf or L2.*; got 0\.3\. Pass Linf\(0\.3\)"),
    (lambda: judged(threat=None), "takes images, labels and a threat"),
    (lambda: judged(threat=sparring.Linf), "threat must be .* got the class Linf"),
    (lambda: sparring.evaluate(NET, X, Y), "takes images, labels and a threat"),
    (lambda: judged(suit="pgd"), "unexpected keyword argument 'suit'.*Did you mean suite"),
    (lambda: judged(model=None), "model must be a network or a function; got None"),
    (lambda: judged(model="paper"), "model must be a network or a function; got 'paper'"),
    (lambda: judged(model=NET.state_dict()), "model must be a network"),
    (lambda: judged(model=nn.Linear), "is the class"),
    (lambda: judged(images=X.tolist()), "images must be a Tensor.*got a list of 8"),
    (lambda: judged(images=list(X)), r"images must be a Tensor"),
    (lambda: judged(images=None), "images must be a Tensor.*got None"),
    (lambda: judged(images=BYTES), "floating-point.*uint8.*by 255"),
    (lambda: judged(images=BYTES.numpy()), "floating-point.*uint8.*by 255"),
    (lambda: judged(images=X * 255), r"pixels must lie in \[0, 1\]"),
    (lambda: judged(images=X * math.nan), "got NaN"),
    (lambda: judged(images=X[:0], labels=Y[:0]), "at least one image"),
    (lambda: judged(images=X[:, :, :0]), "images must have pixels"),
    (lambda: judged(images=X + 0j), "dense tensor of real numbers.*complex64"),
    (lambda: judged(images=X.to_sparse()), "dense tensor.*sparse"),
    (lambda: judged(images=X.to("meta")), "dense tensor.*on meta"),
    (lambda: judged(images=np.array([None] * 8)), "numbers that PyTorch knows.*object"),
    (lambda: judged(images=X.double()), r"the model's weights.*images\.float\(\)"),
    (lambda: judged(labels=Y.float()), r"labels must be int64.*float32.*labels\.long\(\)"),
    (lambda: judged(labels=Y > 0), "labels must be int64.*bool"),
    (lambda: judged(labels=Y.int()), "labels must be int64.*int32"),
    (lambda: judged(labels=one_hot(Y)), r"labels must be int64.*\(8, 4\).*labels\.argmax\(1\)"),
    (lambda: judged(labels=Y[:, None]), r"labels must be int64.*labels\[:, 0\]"),
    (lambda: judged(labels=Y[:3]), r"of shape \(8,\).*\(3,\)"),
    (lambda: judged(labels=Y + 4), "at least 8 classes.*got 4"),
    (lambda: judged(labels=Y - 1), "0 or more; got -1"),
    (lambda: judged(suite=None), "suite must be text.*got None"),
    (lambda: judged(suite="pdg"), "suite must be one of.*Did you mean pgd"),
    (lambda: judged(seed="0"), "seed must be an integer; got '0'.*without quotes"),
    (lambda: judged(seed=1.5), r"seed must be an integer; got 1\.5"),
    (lambda: judged(precision="fp23"), "precision must be one of auto, bf16, fp32.*mean fp32"),
    (lambda: judged(resume=3), "resume must be a path or text or None; got 3"),
    (lambda: judged(progress=3), "progress must be"),
    (lambda: sparring.Linf(eps=-0.1), "eps must lie in"),
    (lambda: sparring.Linf(eps=math.nan), "eps must lie in.*got nan"),
    (lambda: sparring.Linf(eps="8/255"), "eps must be a number; got '8/255'"),
    (lambda: sparring.Linf(eps=True), "eps must be a number; got True"),
    (lambda: sparring.Linf(eps=torch.tensor(0.3)), r"eps must be a number.*value\.item\(\)"),
    (lambda: sparring.Linf(epsilon=0.3), "unexpected keyword.*Did you mean eps"),
    (lambda: sparring.L2(), "missing a required argument: 'eps'"),
    (lambda: sparring.L2(eps=None), "eps must be a number; got None"),
    (lambda: sparring.L2(eps=math.inf), "eps must be finite"),
    (lambda: sparring.L2(eps=10**400), "eps must be a number"),
    (lambda: sparring.PGD(steps=2.5), r"steps must be an integer; got 2\.5"),
    (lambda: sparring.PGD(step=2), "unexpected keyword.*Did you mean steps"),
    (lambda: sparring.PGD(threat=0.3), "threat must be Linf or L2"),
    (lambda: sparring.PGD(start="unifrom"), "start must be one of.*Did you mean uniform"),
    (lambda: sparring.APGD(steps=None), "steps must be an integer; got None"),
    (lambda: sparring.FAB(targets="9"), "targets must be an integer; got '9'"),
    (lambda: sparring.Square(share=math.nan), "share must lie in"),
    (lambda: sparring.PGD(Half()), "Half lacks uniform, distance: inherit Threat and add them"),
    (lambda: judged(suite=[Half()]), "Half lacks __call__: add it"),
    (lambda: sparring.fgsm(0.3), "threat must be Linf or L2"),
    (lambda: sparring.random_start_fgsm(None), "threat must be Linf or L2"),
    (lambda: sparring.Suite(name="a", summary="b", attacks=[sparring.PGD()]), "must be a tuple"),
    (lambda: attacked(images=X.tolist()), "images must be a Tensor or an ndarray; got a list"),
    (lambda: attacked(sparring.FAB, model=None), "model must be a network"),
    (lambda: attacked(sparring.Square, model=nn.Linear), "is the class"),
    (lambda: attacked(generator=0), "generator must be a Generator or None; got 0"),
    (lambda: sparring.presets.fast(3), r"fast\(\) was called with other arguments"),
    (lambda: trained(sparring.presets.fast), "got the function fast.*Call it"),
    (lambda: trained(out=None), "out must be a path or text; got None"),
    (lambda: trained(data="mnist"), "data must be Dataset or None; got 'mnist'"),
    (lambda: trained(network=nn.Linear), "network must be a Module or None"),
    (lambda: trained(network=lambda x: x), "network must be a Module or None"),
    (lambda: trained(sinks=print), "sinks must be a sequence, each item a Sink"),
    (lambda: trained(sinks=[print]), r"sinks\[0\] must be a Sink; got the function print"),
    (lambda: trained(until="3"), "until must be an integer or None"),
    (lambda: trained(until=-3), "until must be 0 or more"),
    (lambda: replace(FAST, updates="5"), "updates must be an integer; got '5'"),
    (lambda: replace(FAST, batch_size=1.5), "batch_size must be an integer"),
    (lambda: replace(FAST, model="paper"), "model must be PaperNetwork or"),
    (lambda: replace(FAST, augmentation=[sparring.Flip()]), "augmentation must be a tuple"),
    (lambda: replace(FAST, early_steps=(3,)), r"early_steps\[0\] must be EarlySteps; got 3"),
    (lambda: replace(FAST, average=math.nan), "average must lie in"),
    (lambda: replace(FAST, device=torch.device("cpu")), "device must be text; got a device"),
    (lambda: replace(FAST, update=5), "unexpected keyword.*Did you mean updates"),
    (lambda: loaded(model=None), "model must be a Module; got None"),
    (lambda: loaded(attack=0.3), r"attack must be a BatchAttack; got 0\.3"),
    (lambda: loaded(attack=sparring.PGD), r"got the class PGD\. Pass an object: PGD\(\.\.\.\)"),
    (
        lambda: loaded(eps_schedule=0.5),
        r"must be a function or None.*Pass lambda _: 0\.5",
    ),
    (lambda: replace(FAST, attack=sparring.PGD), r"Pass an object: PGD\(\.\.\.\)\."),
    (lambda: masked(torch.ones(7) > 0), "a mask must have a boolean for each of 8 images; got 7"),
    (lambda: loaded(batch_size="8"), "batch_size must be an integer; got '8'"),
    (
        lambda: loaded((BYTES, Y), attack=own_attack, source=sparring.Asynchronous()),
        r"^fresh_steps needs .*Take PGD, or pass fresh_steps=0 to the source\.$",
    ),
    (
        lambda: loaded(
            (BYTES, Y), attack=own_attack, eps_schedule=float, source=sparring.Asynchronous()
        ),
        r"or leave out eps_schedule and pass fresh_steps=0 to the source\.$",
    ),
    (
        lambda: loaded((BYTES, Y), attack=own_attack, eps_schedule=float),
        r"^eps_schedule needs .*Take PGD, or leave out eps_schedule\.$",
    ),
    (lambda: loaded(source="stale"), "source must be Fresh or Stale or"),
    (lambda: loaded(epoch=1), "unexpected keyword.*Did you mean epochs"),
    (lambda: sparring.Fresh(3), r"Fresh\(\) was called with other arguments"),
    (lambda: sparring.Stale(staleness="3"), "staleness must be an integer; got '3'"),
    (lambda: sparring.Reused(fresh_steps="2"), "fresh_steps must be an integer; got '2'"),
    (lambda: sparring.Asynchronous(worker=1), "unexpected keyword.*Did you mean workers"),
    (lambda: sparring.load_dataset(None), "source must be text or a path; got None"),
    (lambda: sparring.load_dataset(NOWHERE), "no file or folder"),
    (lambda: sparring.load_dataset("mnist", data_memory="x"), "data_memory must be an integer"),
    (lambda: sparring.dataset_from(train=None, test=None), "train must be"),
    (
        lambda: sparring.dataset_from(train=X, test=X),
        "pairs .image, label..*train=.images, labels.",
    ),
    (lambda: sparring.ImageSet(pixels=X, labels=Y, num_classes=4), "torch.uint8.*float32"),
    (lambda: sparring.ImageSet(pixels=BYTES.numpy(), labels=Y, num_classes=4), "pixels must be a"),
    (
        lambda: sparring.ImageSet(pixels=BYTES, labels=Y.float(), num_classes=4),
        "labels must be torch.int64",
    ),
    (lambda: sparring.ImageSet(pixels=BYTES, labels=Y, num_classes="4"), "num_classes must be"),
    (lambda: sparring.Dataset(name="a", train=None, validation=None, test=None), "train must be"),
    (lambda: sparring.Flip(share="half"), "share must be a number"),
    (lambda: sparring.Crop(padding=1.5), "padding must be an integer"),
    (lambda: sparring.export(None, NOWHERE), "run must be RunDirectory or a path or text"),
    (lambda: sparring.export(NOWHERE, NOWHERE), "does not exist"),
    (lambda: sparring.export(NOWHERE, NOWHERE, formats="onnx"), r"formats must be.*\['onnx'\]"),
    (lambda: sparring.export(NOWHERE, NOWHERE, formats=["onx"]), r"formats\[0\].*mean onnx"),
    (lambda: sparring.predict(None), "run must be RunDirectory or a path or text"),
    (lambda: sparring.predict(NOWHERE, test="3"), "test must be an integer"),
    (lambda: sparring.resume(3), "run must be a path or text"),
    (lambda: sparring.replay(3), "run must be a path or text or None; got 3"),
    (lambda: sparring.load(3), "run must be a path or text or None; got 3"),
    (lambda: trained("fast"), r"config must be TrainConfig; got 'fast'. Pass presets.fast\(\)"),
    (lambda: sparring.Evaluation.load(3), "path must be a path or text; got 3"),
    (lambda: sparring.presets.fast(eps="8/255"), "eps must be a number; got '8/255'"),
    (lambda: sparring.presets.fast(epsilon=0.1), "Did you mean eps"),
    (lambda: sparring.presets.fast(optimizer=3), "Adam or SGD or Custom or an object of your own"),
    (lambda: sparring.RunDirectory.open(None), "path must be a path or text"),
    (lambda: sparring.RunDirectory("run"), "path must be a path; got 'run'"),
    (lambda: sparring.Evaluation.load(None), "path must be a path or text"),
    (lambda: sparring.Evaluation.load("/nowhere"), "cannot read /nowhere"),
    (lambda: sparring.Evaluation.load(str(Path(__file__))), "must hold JSON"),
    (lambda: sparring.TransferMatrix.load(3), "path must be a path or text; got 3"),
    (lambda: sparring.Verdict(evaluation=None, outcomes=None), "evaluation must be Evaluation"),
    (lambda: transferred([NET, NET]), "networks must be a Mapping; got a list of 2. Pass a dict"),
    (lambda: sparring.transfer([NET, NET]), r"Call transfer\(networks, images, labels, threat\)"),
    (lambda: sparring.dataset_from(X, Y), r"Call dataset_from\(train=..., test=...\)"),
    (lambda: transferred({"a": NET, "b": None}), r"networks\['b'\] must be a Module; got None"),
    (lambda: transferred({"a": NET}), "at least two networks"),
    (lambda: transferred({"a": NET, "b": NET}, steps=3), "steps must be a sequence"),
    (lambda: transferred({"a": NET, "b": NET}, steps=("1",)), r"steps\[0\] must be an integer"),
    (lambda: sparring.load_weights(NET, None), "path must be a path or text"),
    (lambda: sparring.load_weights(None, NOWHERE), "network must be a Module; got None"),
    (lambda: sparring.load_weights(NET, __file__), "must be a safetensors file"),
    (lambda: sparring.PaperCNN("xavier"), "initialisation must be one of madry, torch, small"),
    (lambda: sparring.PaperCNN(generator=3), "generator must be"),
]


@pytest.mark.parametrize(
    ("call", "complaint"), CASES, ids=[f"{number} {said}" for number, (_, said) in enumerate(CASES)]
)
def test_wrong_arguments_are_refused_in_a_sentence(call, complaint, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sparring.SparringError) as told:
        call()
    assert re.search(complaint, str(told.value))
    assert len(str(told.value)) < 600
    assert not list(tmp_path.iterdir())
    assert not NOWHERE.exists()


def test_every_public_name_that_can_be_called_is_asked_something_wrong() -> None:
    source = Path(__file__).read_text()
    callables = {name for name in sparring.__all__ if callable(getattr(sparring, name))}
    asked = set(re.findall(r"sparring\.(\w+)", source))
    assert callables - asked <= {
        "TrainConfig",
        "TrainedRun",
        "SparringError",
    }  # not called by users


def test_numbers_of_numpy_are_numbers() -> None:
    attack = sparring.PGD(threat=sparring.Linf(eps=np.float32(0.25)), steps=np.int64(3))
    assert attack == sparring.PGD(threat=sparring.Linf(eps=0.25), steps=3)
    assert type(attack.steps) is int
    assert type(attack.threat.eps) is float
    assert sparring.Linf(0.25) == sparring.Linf(eps=0.25)
