"""A run is its weights, its code and its data: others are refused wherever it is used again.

Real processes, each from a folder of its own.
"""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from processes import finished, started
from sparring.cli.main import main
from sparring.data import dataset_from, load_dataset
from sparring.engine import FixedLag
from sparring.errors import CheckpointError, ConfigError, DataError, OtherNetwork
from sparring.evaluation import evaluate_run
from sparring.evaluation.run import results_on
from sparring.evaluation.transfer import transfer_runs
from sparring.exporting import export, exported_network
from sparring.models import Imported, trained_network
from sparring.prediction import predict
from sparring.records import Evaluation, RunDirectory
from sparring.training import Asynchronous, TrainConfig, replay, resume, train
from sparring.training.config import stored_config
from training.small_runs import small

NET = """
import os, random, numpy as np, torch
from torch import nn
LOADED = torch.from_numpy({at_import})
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.order = {order}
        self.layer = nn.Linear(16, 2)
    def forward(self, images):
        return self.layer(images.flatten(1)[:, self.order])
"""
IMPORTED = "np.random.permutation(16)"
FROM_GLOBAL_STATES = {
    "torch": "torch.randperm(16)",
    "numpy": "torch.from_numpy(np.random.permutation(16))",
    "random": "torch.tensor(random.sample(range(16), 16))",
    "import": "LOADED",
}
FROM_NOWHERE = {
    "generator": "torch.from_numpy(np.random.default_rng().permutation(16))",
    "random": "torch.tensor(random.Random().sample(range(16), 16))",
    "system": "torch.tensor(sorted(range(16), key=lambda _: os.urandom(8)))",
}


GROWING = """
from itertools import count
from torch import nn
WIDTHS = count(1)
def grown():
    width = next(WIDTHS)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, 2))
"""


def write_net(path: Path, order: str, at_import: str = IMPORTED) -> Imported:
    path.write_text(NET.format(order=order, at_import=at_import))
    return Imported(factory=f"{path}:Net")


def write_data(path: Path, *, seed: int = 0, flipped: bool = False) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.arange(96) % 2
    pixels = np.random.default_rng(seed).integers(0, 100, (96, 4, 4), np.uint8)
    pixels[labels == 1, :, 2:] += 120
    pixels[labels == 0, :, :2] += 120
    labels = 1 - labels if flipped else labels
    parts = {"x_train": pixels[:72], "y_train": labels[:72]}
    np.savez(path, **parts, x_test=pixels[72:], y_test=labels[72:])
    return str(path)


def config(folder: Path, **changes: object) -> TrainConfig:
    """A run on a data set in this folder, by a network of the numbers of a factory."""
    own = {"data": write_data(folder / "data.npz"), "checkpoint_every": 2, "updates": 4}
    if "model" not in changes:
        own["model"] = write_net(folder / "net.py", FROM_GLOBAL_STATES["numpy"])
    return small(**(own | changes))


def twin(run: Path) -> RunDirectory:
    """A copy of a run, to be compared with it."""
    return RunDirectory(shutil.copytree(run, run.with_name("twin"), dirs_exist_ok=True))


USES: dict[str, Callable[[Path, Path], object]] = {
    "evaluate": lambda run, _: evaluate_run(RunDirectory(run), threads=1, checks=False),
    "resume": lambda run, _: resume(run),
    "replay": lambda run, _: replay(run),
    "predict": lambda run, _: predict(run, test=2),
    "export": lambda run, out: export(run, out),
    "transfer": lambda run, out: transfer_runs([RunDirectory(run), twin(run)], out),
}
PROGRAM = """
import sys
from pathlib import Path
from training.test_identity import USES
for name, use in USES.items():
    try:
        use(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        print(name, type(error).__name__)
    else:
        print(name, "done")
"""
"""Every use of a run, a line for each."""


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.process
def test_numbers_of_a_factory_are_the_runs_own_in_every_process(tmp_path: Path):
    """Four factories, each with another generator's numbers that are in no state_dict."""
    runs = []
    for name, order in FROM_GLOBAL_STATES.items():
        model = write_net(tmp_path / f"net_{name}.py", order)
        settings = config(tmp_path, model=model, updates=60, seed=5)
        runs.append(train(settings, tmp_path / name))
    images, labels = load_dataset(str(tmp_path / "data.npz")).test.batch(torch.arange(24))
    right = [int((run.network(images).argmax(1) == labels).sum()) for run in runs]
    code = """
import sys
from sparring.evaluation import evaluate_run
from sparring.records import RunDirectory
for run in sys.argv[1:]:
    found = evaluate_run(RunDirectory.open(run), threads=1, checks=False)
    print(found.natural.successes)
"""
    done = finished(code, *(run.run.path for run in runs), cwd=tmp_path.parent)
    assert list(map(int, done.stdout.split())) == right, done.stderr
    for run in runs:
        assert replay(run.run.path).is_equal
        assert resume(run.run.path).version == 60


@pytest.mark.parametrize("drawn", FROM_NOWHERE)
def test_a_factory_of_other_numbers_each_time_is_refused_at_once(tmp_path: Path, drawn: str):
    model = write_net(tmp_path / "net.py", FROM_NOWHERE[drawn])
    with pytest.raises(ConfigError, match="the same network at every call"):
        train(config(tmp_path, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_factory_of_another_size_each_time_is_refused_at_once(tmp_path: Path):
    (tmp_path / "net.py").write_text(GROWING)
    model = Imported(factory=f"{tmp_path}/net.py:grown")
    with pytest.raises(ConfigError, match=r"size mismatch.*the same network at every call"):
        train(config(tmp_path, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.process
def test_code_that_differs_in_another_process_is_refused(tmp_path: Path):
    """Numbers drawn once for each process, when the module is imported, stay the same within it."""
    model = write_net(
        tmp_path / "net.py", FROM_GLOBAL_STATES["import"], "np.random.default_rng().permutation(16)"
    )
    run = train(config(tmp_path, model=model), tmp_path / "run", until=2).run.path
    before = listing(run)
    done = finished(PROGRAM, run, tmp_path / "out", cwd=tmp_path)
    assert done.stdout.split() == [word for use in USES for word in (use, "OtherNetwork")]
    assert listing(run) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
def test_workers_that_build_another_network_end_the_run(tmp_path: Path):
    model = write_net(
        tmp_path / "net.py", FROM_GLOBAL_STATES["import"], "np.random.default_rng().permutation(16)"
    )
    source = Asynchronous(workers=1, policy=FixedLag(lag=1), helps=False)
    with pytest.raises(OtherNetwork, match=r"a network that attacks: .* not the one"):
        train(config(tmp_path, model=model, source=source), tmp_path / "run")


def swapped_whole(run: Path, other: Path) -> None:
    shutil.copy(other / "weights.safetensors", run / "weights.safetensors")


def swapped_tensors(run: Path, other: Path) -> None:
    with safe_open(run / "weights.safetensors", "pt") as file:
        about = file.metadata()
    with safe_open(other / "weights.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(weights, run / "weights.safetensors", metadata=about)


def without_words(run: Path, other: Path) -> None:
    swapped_tensors(run, other)
    with safe_open(run / "weights.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(weights, run / "weights.safetensors")


def a_bit(run: Path, other: Path) -> None:
    content = bytearray((run / "weights.safetensors").read_bytes())
    content[-3] ^= 1
    (run / "weights.safetensors").write_bytes(content)


@pytest.mark.parametrize("damage", [swapped_whole, swapped_tensors, without_words, a_bit])
def test_other_weights_are_refused(tmp_path: Path, damage: Callable[[Path, Path], None]):
    run = train(config(tmp_path), tmp_path / "run").run
    other = train(config(tmp_path, seed=1), tmp_path / "other").run
    damage(run.path, other.path)
    before = listing(run.path)
    for use in ("evaluate", "predict", "export", "replay", "transfer"):
        with pytest.raises(CheckpointError):
            USES[use](run.path, tmp_path / "out")
    assert listing(run.path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_other_code_is_refused(tmp_path: Path):
    run = train(config(tmp_path), tmp_path / "run", until=2).run.path
    export(run, tmp_path / "bundle")
    net = tmp_path / "net.py"
    net.write_text(net.read_text().replace("flatten(1)", "flatten(1).square()"))
    before = listing(run)
    code = f"{PROGRAM}\nfrom sparring.exporting import exported_network as e; e(sys.argv[3])"
    done = finished(code, run, tmp_path / "out", tmp_path / "bundle", cwd=tmp_path)
    assert done.stdout.split() == [word for use in USES for word in (use, "OtherNetwork")]
    assert "OtherNetwork: " in done.stderr
    assert listing(run) == before


def test_weights_of_the_same_settings_on_other_data_are_refused(tmp_path: Path):
    run = train(config(tmp_path), tmp_path / "run").run
    write_data(tmp_path / "data.npz", flipped=True)
    other = train(stored_config(run), tmp_path / "other").run
    shutil.copy(other.weights, run.weights)
    with pytest.raises(CheckpointError, match="trained on other data"):
        trained_network(run)


def test_runs_of_before_are_used_as_they_are(tmp_path: Path):
    run = train(config(tmp_path), tmp_path / "run").run
    run.data.unlink()
    with safe_open(run.weights, "pt") as file:
        about = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    old = {name: about[name] for name in ("version", "config")}
    save_file(weights, run.weights, metadata=old)
    evaluate_run(run, threads=1, checks=False)
    assert predict(run, test=2).found
    assert replay(run.path).is_equal


def labels_swapped(path: Path) -> None:
    write_data(path, flipped=True)


def one_pixel(path: Path) -> None:
    arrays = dict(np.load(path))
    arrays["x_train"][3, 1, 1] ^= 1
    np.savez(path, **arrays)


def other_test_set(path: Path) -> None:
    arrays = dict(np.load(path))
    arrays["x_test"] = arrays["x_test"][::-1]
    np.savez(path, **arrays)


@pytest.mark.parametrize("change", [labels_swapped, one_pixel, other_test_set])
def test_other_data_are_refused_before_anything_is_written(
    tmp_path: Path, change: Callable[[Path], None]
):
    run = train(config(tmp_path), tmp_path / "run", until=2).run.path
    change(tmp_path / "data.npz")
    before = listing(run)
    for use in USES.values():
        with pytest.raises(DataError, match=r"holds other data than .*different are the"):
            use(run, tmp_path / "out")
    assert listing(run) == before
    assert not (tmp_path / "out").exists()


def test_a_project_that_is_moved_works_and_a_folder_of_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    one, two = tmp_path / "one", tmp_path / "two"
    write_data(one / "data.npz")
    write_data(two / "data.npz", flipped=True)
    train_words = ["train", "--data", "data.npz", "--model", "small-cnn", "--model-args", "width=2"]
    train_words += ["--updates", "60", "--set", "batch_size=16", "--set", "validation.every=0"]
    train_words += ["--set", "validation.alarm_every=0", "--steps", "1", "--threads", "1"]
    monkeypatch.chdir(one)
    assert main([*train_words, "--eps", "0.05", "--out", "run"]) == 0
    evaluate = ("evaluate", "--no-checks", "--threads", "1", "--json")
    capsys.readouterr()

    def answered(run: Path, folder: Path) -> int:
        monkeypatch.chdir(folder)
        assert main([*evaluate, str(run)]) == 0
        return json.loads(capsys.readouterr().out)["natural"]["successes"]

    images, labels = load_dataset(str(one / "data.npz")).test.batch(torch.arange(24))
    right = int((trained_network(RunDirectory(one / "run"))(images).argmax(1) == labels).sum())
    assert right > 16  # so that the answers on the others' labels are other ones
    from_two = answered(one / "run", two)
    monkeypatch.chdir(tmp_path)
    one.rename(tmp_path / "moved")
    two.rename(one)  # in its place: the run's own data are still found beside the run
    assert [from_two, answered(tmp_path / "moved" / "run", one)] == [right, right]
    shutil.copy(one / "data.npz", tmp_path / "moved" / "data.npz")
    assert main([*evaluate, str(tmp_path / "moved" / "run")]) == 2
    assert "holds other data than" in capsys.readouterr().err


def test_judging_on_other_data_leaves_the_runs_own_results_alone(tmp_path: Path):
    run = train(config(tmp_path, updates=40), tmp_path / "run").run
    own = evaluate_run(run, threads=1, checks=False)
    before = listing(run.path)
    other = write_data(tmp_path / "elsewhere" / "data.npz", flipped=True)
    found = evaluate_run(run, other_data=other, threads=1, checks=False)
    place = results_on(run, other)
    assert place.path.parent.parent == run.path
    assert Evaluation.load(place.evaluation) == found
    assert found.natural.successes == own.num_images - own.natural.successes
    assert any("not on the run's own" in caveat for caveat in found.caveats)
    after = listing(run.path)
    assert {name: after[name] for name in before} == before
    assert run.evaluations() == [run.evaluation]


def test_other_data_must_fit_the_network(tmp_path: Path):
    run = train(config(tmp_path), tmp_path / "run").run
    before = listing(run.path)
    for wrong in ("mnist", load_dataset("mnist")):
        with pytest.raises(DataError, match="takes images of shape"):
            evaluate_run(run, other_data=wrong, threads=1, checks=False)
    with pytest.raises(ConfigError, match="exclude each other"):
        evaluate_run(run, data=load_dataset("mnist"), other_data="mnist")
    assert listing(run.path) == before


def test_given_data_are_compared_by_what_they_show(tmp_path: Path):
    class Items:
        def __init__(self, shift: int) -> None:
            self.shift = shift

        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int, /) -> tuple[torch.Tensor, int]:
            level = (index * 5 + self.shift) % 250 + 2
            return torch.full((1, 4, 4), level, dtype=torch.uint8), index % 2

    data = dataset_from(train=Items(0), test=Items(1))
    model = write_net(tmp_path / "net.py", FROM_GLOBAL_STATES["torch"])
    run = train(small(model=model, updates=2), tmp_path / "run", data=data).run
    streamed = dataset_from(train=Items(0), test=Items(1), data_memory=0)
    evaluate_run(run, data=streamed, threads=1, checks=False)
    with pytest.raises(DataError, match="different are the pixels of the test images"):
        evaluate_run(run, data=dataset_from(train=Items(0), test=Items(2)), checks=False)


def test_pictures_are_predicted_where_the_data_are_not(tmp_path: Path):
    run = train(config(tmp_path), tmp_path / "run").run
    (tmp_path / "data.npz").unlink()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "seven.png")
    assert len(predict(run, [tmp_path / "seven.png"]).found) == 1
    with pytest.raises(DataError, match="are not at"):
        predict(run, test=1)


def test_weights_of_another_bundle_are_refused(tmp_path: Path):
    for seed in (0, 1):
        run = train(config(tmp_path, seed=seed), tmp_path / f"run{seed}").run
        export(run, tmp_path / f"bundle{seed}")
    exported_network(tmp_path / "bundle0")
    swapped_whole(tmp_path / "bundle0", tmp_path / "bundle1")
    with pytest.raises(CheckpointError, match="other weights than the exported ones"):
        exported_network(tmp_path / "bundle0")


@pytest.mark.process
def test_a_run_that_is_killed_at_any_moment_is_never_refused(tmp_path: Path):
    """A checkpoint at every update: most kills fall between the files of one."""
    settings = config(tmp_path, updates=100_000, checkpoint_every=1)
    train(settings, tmp_path / "run", until=1)
    code = "import sys; from sparring.training import resume; resume(sys.argv[1])"
    chance = random.Random(3)
    for _ in range(3):
        weights = tmp_path / "run" / "weights.safetensors"
        seen = weights.stat().st_mtime_ns
        process = started(code, tmp_path / "run")
        while weights.stat().st_mtime_ns == seen and process.is_alive():
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        trained_network(RunDirectory(tmp_path / "run"))
        evaluate_run(RunDirectory(tmp_path / "run"), num_images=2, threads=1, checks=False)
