"""What is said of pictures is what the network says of their pixels; wrong files stop no others."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from exporting.test_export import untrained
from sparring.attacks import Linf
from sparring.cli.main import main
from sparring.data import load_dataset
from sparring.errors import ConfigError
from sparring.models import PaperNetwork, trained_network
from sparring.prediction import predict
from sparring.prediction.predict import _Asked
from sparring.records import RunDirectory, to_json

TEST = load_dataset("mnist").test


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("predict") / "run"
    return untrained(folder, PaperNetwork(initialisation="torch"))


def picture(path: Path, index: int = 0, *, side: int = 28, mode: str = "L") -> Path:
    levels = TEST.levels(torch.tensor([index]))[0, 0].numpy()
    Image.fromarray(levels).resize((side, side)).convert(mode).save(path)
    return path


def test_a_picture_is_predicted_as_the_test_image_that_it_holds(run, tmp_path):
    files = [picture(tmp_path / f"{index}.png", index) for index in range(3)]
    found = predict(run, files, test=3)
    assert [one.top for one in found.found[:3]] == [one.top for one in found.found[3:]]
    images, labels = TEST.batch(torch.arange(3))
    with torch.no_grad():
        shares = trained_network(run)(images).softmax(1)
    for one, share, label in zip(found.found[3:], shares, labels, strict=True):
        assert [c.label for c in one.top] == share.topk(3).indices.tolist()
        assert one.top[0].probability == pytest.approx(float(share.max()))
        assert one.true == str(int(label))


def test_the_seed_of_an_attack_has_the_range_of_all_seeds(run):
    assert "seed 18446744073709551615" in str(
        predict(run, test=1, attack=True, seed=2**64 - 1).attack
    )
    for seed in (2**64, -1):
        with pytest.raises(ConfigError, match="seed must be"):
            predict(run, test=1, attack=True, seed=seed)


def test_pixels_are_predicted_as_the_test_images_that_they_are(run):
    images, _ = TEST.batch(torch.arange(3))
    known = [one.top for one in predict(run, test=3).found]
    for pixels in (images, images.double(), images.numpy()):
        found = predict(run, pixels)
        assert [one.source for one in found.found] == ["image 0", "image 1", "image 2"]
        assert [one.top for one in found.found] == known
    with pytest.raises(ConfigError, match=r"shape \(N, 1, 28, 28\); got \(28, 28\)"):
        predict(run, images[0, 0])
    with pytest.raises(ConfigError, match=r"in \[0, 1\]; got torch.float32 from 0 to 255"):
        predict(run, 255 * images)


def test_arrays_are_taken_as_they_lie_in_memory_or_refused(run):
    images = TEST.batch(torch.arange(3))[0].numpy()
    backwards = images[:, :, ::-1]
    known = [one.top for one in predict(run, backwards.copy()).found]
    for same in (backwards, backwards.astype(">f4"), np.asfortranarray(backwards)):
        assert [one.top for one in predict(run, same).found] == known
    tensor = torch.from_numpy(images)
    for odd in (
        images.astype(object),
        images.astype(str),
        images.astype(complex),
        tensor.to_sparse(),
        tensor.to("meta"),
    ):
        with pytest.raises(ConfigError, match="images must be"):
            predict(run, odd)


def test_colour_becomes_grey_and_folders_are_read_in_order(run, tmp_path):
    picture(tmp_path / "b.png", 1)
    picture(tmp_path / "a.png", 1, mode="RGB")
    one, other = predict(run, [tmp_path]).found
    assert one.source.endswith("a.png")
    assert one.top == other.top


def test_whether_it_withstands_depends_on_no_other_image(run, tmp_path):
    all_of_them = predict(run, test=6, attack=True, threads=1)
    answers = [one.withstands for one in all_of_them.found]
    last = predict(run, [picture(tmp_path / "5.png", 5)], attack=True, threads=1)
    assert last.found[0].withstands == answers[5]
    assert None not in answers
    assert "seed 0" in str(all_of_them.attack)


def test_a_threat_of_nothing_is_withstood_and_one_of_everything_is_not(run, tmp_path):
    for eps, wanted in ((1e-9, True), (1.0, False)):
        settings = json.loads(run.config.read_text())
        settings["threat"]["eps"] = eps
        other = untrained(tmp_path / f"{eps}", PaperNetwork(initialisation="torch"))
        other.config.write_text(json.dumps(settings))
        found = predict(other, test=4, attack=True, threads=1).found
        assert [one.withstands for one in found] == [wanted] * 4


def test_wrong_files_have_a_line_each_and_the_others_their_answer(run, tmp_path, capsys):
    good = picture(tmp_path / "good.png")
    large = picture(tmp_path / "large.png", side=40)
    (tmp_path / "text.png").write_text("no picture")
    words = [str(good), str(large), str(tmp_path / "text.png"), str(tmp_path / "none.png")]
    assert main(["predict", str(run.path), *words, "--json"]) == 2
    shown = capsys.readouterr()
    (only,) = json.loads(shown.out)["found"]
    assert only["source"] == str(good)
    lines = shown.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
    assert any("must be 28 x 28 pixels" in line and "--resize fits it" in line for line in lines)
    assert main(["predict", str(run.path), str(large), "--resize"]) == 0
    assert "large.png" in "".join(capsys.readouterr().out.split())  # long paths are folded


def test_an_empty_name_is_not_the_current_folder(run, capsys):
    assert main(["predict", str(run.path), ""]) == 2
    assert "must not be empty" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="one name is empty"):
        predict(run, "")


class Flat(nn.Module):
    """Logits that are equal, or so small that softmax rounds them to one."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        lit = images.flatten(1).mean(1, keepdim=True)
        return self.scale * lit * torch.arange(10) * torch.tensor([1, -1] * 5)


@pytest.mark.parametrize(("scale", "first"), [(0.0, (0, 1, 2)), (1e-9, (8, 6, 4))])
def test_equal_probabilities_are_ranked_by_logits_and_then_by_class(scale, first):
    asked = _Asked(Flat(scale).eval(), (), Linf(eps=0.01), True, 0)
    (found,) = asked.answers(torch.full((1, 1, 4, 4), 0.5), ["a"], None)
    assert tuple(each.label for each in found.top) == first
    assert found.withstands


def test_no_images_and_too_many_are_refused(run, capsys):
    assert main(["predict", str(run.path)]) == 2
    assert "needs a run and images" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="must be at most 10000"):
        predict(run, test=10_001)


def test_a_few_images_at_once_are_predicted_as_all_of_them(run, capsys):
    whole = predict(run, test=5).found
    for one, other in zip(predict(run, test=5, batch_size=2).found, whole, strict=True):
        assert [each.label for each in one.top] == [each.label for each in other.top]
        for few, all_of_them in zip(one.top, other.top, strict=True):
            assert few.probability == pytest.approx(all_of_them.probability)
    with pytest.raises(ConfigError, match="batch_size must be 1 or more"):
        predict(run, test=5, batch_size=0)
    for verb in (["predict", str(run.path), "--test", "1"], ["evaluate", str(run.path)]):
        assert main([*verb, "--batch-size", "0"]) == 2
        assert "batch_size must be 1 or more" in capsys.readouterr().err
    assert main(["predict", str(run.path), "--test", "3", "--batch-size", "2"]) == 0


def test_predictions_are_shown_in_short_and_in_a_table(run, monkeypatch):
    found = predict(run, test=5)
    assert repr(found).startswith("5 images: test 0: ") and repr(found).endswith(" and 2 more")
    assert found.to_dict() == to_json(found)
    table = found._repr_html_()
    assert table.count("<tr>") == 6 and "withstands" not in table
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert [row["class"] for row in found.to_frame()] == [one.top[0].name for one in found.found]
