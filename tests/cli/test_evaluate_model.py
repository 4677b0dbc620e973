"""`sparring evaluate --model`: any network with its weights, judged as from Python."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sparring
from sparring.cli.main import main
from sparring.records import Evaluation, Outcomes

NETS = """
from torch import nn

def Net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 3))
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 3))


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return levels, torch.arange(count) % 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    torch.save(network().state_dict(), "weights.pt")
    (x_train, y_train), (x_test, y_test) = pictures(24, 1), pictures(18, 2)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    bare: dict[str, Any] = {name: value.numpy() for name, value in arrays.items()}
    np.savez("own.npz", **bare)
    return tmp_path


PRINTS = (
    NETS
    + """
print("imported")

class Talking(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, images):
        print("shape", tuple(images.shape))
        return self.net(images)
"""
)
COMMAND = "evaluate --model nets.py:Net --init weights.pt --data own.npz --eps 8/255"
COMMON = " --no-checks --threads 1"


@pytest.mark.usefixtures("folder")
def test_what_a_network_prints_does_not_break_json(capsys: pytest.CaptureFixture[str]):
    Path("talking.py").write_text(PRINTS)
    command = "evaluate --model talking.py:Talking --data own.npz --eps 8/255 --images 2"
    assert main([*command.split(), *COMMON.split(), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["model"] == "talking.py:Talking"
    assert "imported" in shown.err
    assert "shape (" in shown.err
    assert main(command.split() + COMMON.split()) == 0
    assert "shape (" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_state_dict_is_judged_as_the_network_in_python(capsys: pytest.CaptureFixture[str]):
    command = f"{COMMAND} --out found --save-adversarial found.npz{COMMON}"
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    levels, labels = pictures(18, 2)
    images = levels.float() / 255
    wanted = sparring.evaluate(network(), images, labels, sparring.Linf(8 / 255), checks=False)
    found = Evaluation.load("found/evaluation.json")
    assert (found.natural, found.robust) == (wanted.natural, wanted.robust)
    assert Outcomes.load("found/outcomes.json") == wanted.outcomes
    assert "Linf 8/255 on 18 test images" in out
    assert "--suite standard" in out
    with np.load("found.npz") as saved:
        assert np.allclose(saved["images"], images)
        assert saved["labels"].tolist() == labels.tolist()
        said = network()(torch.from_numpy(saved["adversarial"])).argmax(1)
        assert np.abs(saved["adversarial"] - saved["images"]).max() <= 8 / 255 + 1e-6
        broken = [by is not None for by in wanted.outcomes.broken_by]
        assert saved["predicted"][broken].tolist() == said[broken].tolist()


@pytest.mark.usefixtures("folder")
def test_classes_and_norm_are_chosen_and_a_weaker_evaluation_stays_beside(
    capsys: pytest.CaptureFixture[str],
):
    assert main(f"{COMMAND} --out found --classes 2 0 --json{COMMON}".split()) == 0
    some = json.loads(capsys.readouterr().out)
    assert (some["classes"], some["num_images"]) == ([0, 2], 12)
    assert "the classes 0, 2" in some["caveats"][-1]
    assert main(f"{COMMAND} --out found --images 9{COMMON}".split()) == 0
    assert Evaluation.load("found/evaluation.json").num_images == 9
    assert Path("found/evaluation-pgd-12-classes-0-2-unchecked.json").exists()
    assert main(f"{COMMAND} --out found --threat l2{COMMON}".split()) == 0
    assert Evaluation.load("found/evaluation.json").threat == "Linf 8/255"
    beside = Evaluation.load("found/evaluation-pgd-18-L2-8-255-unchecked.json")
    assert (beside.threat, beside.own_threat) == ("L2 8/255", False)


@pytest.mark.usefixtures("folder")
def test_several_sizes_are_a_curve_that_is_kept_size_by_size(capsys: pytest.CaptureFixture[str]):
    sizes = [1 / 255, 4 / 255, 16 / 255]
    levels, labels = pictures(18, 2)
    threats = [sparring.Linf(eps) for eps in sizes]
    images = levels.float() / 255
    wanted = sparring.evaluate(network(), images, labels, threats, checks=False)
    command = f"{COMMAND.removesuffix('8/255')}4/255 1/255 16/255{COMMON}"
    assert main(f"{command} --out found".split()) == 0
    out, err = capsys.readouterr()
    assert [f"Linf {size}/255, attack 1 of 2" in err for size in (1, 4, 16)] == [True] * 3
    assert out.count("found/evaluation") == len(sizes)
    for each in wanted:
        share = f"{100 * float(each.robust):.1f} %"
        assert any(
            line.startswith(each.evaluation.threat) and share in line for line in out.splitlines()
        )
    assert Evaluation.load("found/evaluation.json").threat == "Linf 4/255"
    assert Outcomes.load("found/outcomes.json") == wanted[1].outcomes
    for name, verdict in (("1", wanted[0]), ("16", wanted[2])):
        kept = f"found/outcomes-pgd-18-Linf-{name}-255-unchecked.json"
        assert Outcomes.load(kept) == verdict.outcomes
    assert main(f"{command} --json".split()) == 0
    found = json.loads(capsys.readouterr().out)["evaluations"]
    assert [each["threat"] for each in found] == ["Linf 4/255", "Linf 1/255", "Linf 16/255"]


MISTAKES = {
    "evaluate a-run --model nets.py:Net": "a RUN and --model exclude each other; got a-run and",
    "evaluate --init weights.pt": "--init needs --model; got none",
    "evaluate --model nets.py:Net --eps 8/255": "--model needs --data PATH as well",
    "evaluate --model small-cnn --data own.npz --eps 0.1": "--model needs --init FILE as well",
    "evaluate --model nets.py:Net --data own.npz": "--model needs --eps E as well",
    f"{COMMAND} --trust-code": "--trust-code needs a RUN",
    f"{COMMAND} 0.1 8/255": "--eps must name each size once; got 8/255 0.1 8/255",
    f"{COMMAND} 0.1 big": "eps must be a number such as 0.3 or 8/255; got big",
    f"{COMMAND} .": "got .. RUN goes before --eps.",
    "evaluate --eps --model nets.py:Net": "--eps must be followed by a value or more; got nothing",
    f"{COMMAND} 0.1 --save-adversarial found.npz": "--save-adversarial needs one --eps",
    f"{COMMAND} 0.1 -0.1": "got -0.1",
    f"{COMMAND} --classes 7": "the number of a class must lie in [0, 2]; got 7",
    f"{COMMAND} --classes cat": 'class must be one of 0, 1, 2; got "cat"',
    f"{COMMAND} --save-adversarial found.txt": "a .npz or .pt file; got found.txt",
    f"{COMMAND} --threat l3": 'threat must be one of linf, l2, file.py:name; got "l3"',
    f"{COMMAND} --device moon": "device 'moon' cannot be used",
    f"{COMMAND} --device meta": "device 'meta' cannot be used",
    f"{COMMAND} --save-adversarial no/found.npz": "there is no folder no for no/found.npz",
    "evaluate --model nets.py --data own.npz --eps 0.1": "names a file. Add the class or function",
    f"{COMMAND} --model-args width=5 width=6": "once; got width more than once",
    f"{COMMAND} --model-args width=5": "must hold the weights of a Sequential",
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{command} --out found".split() if "--out" in command else command.split()) == 2
    said = capsys.readouterr().err
    assert MISTAKES[command] in said.replace("\n", " ")
    assert not Path("found").exists()


@pytest.mark.usefixtures("folder")
def test_pictures_without_a_test_part_are_all_judged_and_it_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    levels, labels = pictures(24, 3)
    for number, (image, label) in enumerate(zip(levels, labels.tolist(), strict=True)):
        place = Path("outer/test") / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number:02}.png")
    command = "evaluate --model nets.py:Net --init weights.pt --eps 8/255 --out found --suite pgd"
    assert main(f"{command} --data outer/test{COMMON}".split()) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "on 24 test images" in out
    assert "test has no test part, so all its images are used" in out
    right = network()(levels.float() / 255).argmax(1) == labels
    assert Evaluation.load("found/evaluation.json").natural.successes == int(right.sum())
    assert main(f"{command} --data outer{COMMON}".split()) == 2
    assert "give that folder" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_more_outputs_than_classes_and_weights_of_the_factory_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("wide.py").write_text(NETS.replace("(width, 3)", "(width, 5)"))
    words = f"evaluate --model wide.py:Net --data own.npz --eps 8/255{COMMON}"
    assert main(words.split()) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the network has 5 outputs and the data 3 classes" in out
    assert "the weights are those that wide.py:Net made" in out


@pytest.mark.usefixtures("folder")
def test_settings_of_data_are_taken_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{COMMAND} --set model=1{COMMON}".split()) == 2
    assert main(f"{COMMAND} --set data_memory=1000000{COMMON}".split()) == 0
    capsys.readouterr()
    for unused in ("seed=3", "optimizer.learning_rate=1", "threat.eps=0.5"):
        assert main(f"{COMMAND} --set {unused}{COMMON}".split()) == 2
        assert f"got {unused.partition('=')[0]}" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", "--set", "image_size=8"]) == 2
    assert "--set needs --model" in capsys.readouterr().err
