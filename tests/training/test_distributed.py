"""Several trainers of one run: one order of tickets, equal weights, one end for all."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import processes
from sparring.attacks import AttackedBatch, Crafter, Recipe
from sparring.data import load_dataset
from sparring.data.run_data import new_data
from sparring.engine import FixedLag, Newest
from sparring.errors import ConfigError, RunError
from sparring.models import Imported
from sparring.records import MetricsLog, RunDirectory, to_json, write_json
from sparring.training import (
    SGD,
    Asynchronous,
    Fresh,
    Stale,
    TrainConfig,
    replay,
    resume,
    train,
)
from sparring.training.gradient_share import mean_of
from sparring.training.run import new_run
from sparring.training.team import Launch, SingleProcess
from sparring.training.trainer import Trainer
from training.small_runs import PLAIN, assert_same_bits, small

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
OWN = Imported(factory=f"{HERE / 'own_nets.py'}:Own")
UPDATES, BATCH = 8, 12
LAG = Asynchronous(workers=1, policy=FixedLag(lag=2, split=2), fresh_steps=1)


def shared(**changes: Any) -> TrainConfig:
    return small(**({"batch_size": BATCH, "trainers": 2} | changes))


CONFIGS = {
    "workers": shared(source=LAG, average=0.9, clip_norm=1.0),
    "alone": shared(source=replace(LAG, workers=0), average=0.9, clip_norm=1.0),
    "newest": shared(source=Asynchronous(workers=1, policy=Newest(credits=3), fresh_steps=0)),
    "normalised": shared(source=Fresh(), model=OWN),
    "stale": shared(source=Stale(staleness=2), model=OWN, optimizer=SGD(momentum=0.5)),
}


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun gives each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    counts = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    paths = {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)])}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [os.environ | meeting | counts | paths | each for each in own]


@contextmanager
def started(words: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=env, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 500) -> None:
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            pytest.fail(f"not within {seconds} seconds")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two trainers made of everything that is asked below, by name: a result for each rank."""
    folder = tmp_path_factory.mktemp("several")
    entries = [
        {"name": name, "config": to_json(config), "out": str(folder / name)}
        for name, config in CONFIGS.items()
    ]
    stopped = {"config": to_json(CONFIGS["stale"]), "out": str(folder / "stopped")}
    lying = {"config": to_json(CONFIGS["alone"]), "out": str(folder / "lying")}
    entries += [
        stopped | {"name": "stopped", "stop": 3, "stop rank": 1},
        stopped | {"name": "resumed", "resume": True},
        lying | {"name": "lying", "only 1": {"data": "nowhere.npz"}},
        lying | {"name": "occupied", "out": str(folder / "stale")},
    ]
    (folder / "entries.json").write_text(json.dumps(entries))
    program = "import sys; from training.teammate import main; main(*sys.argv[1:])"
    words = (folder / "entries.json", folder)
    two = [processes.started(program, *words, env=env) for env in environments(2)]
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
    names = [str(entry["name"]) for entry in entries]
    results = {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        for name in names
    }
    return results | {"folder": folder}


def test_no_thread_of_the_process_group_outlives_it(found):
    """One that asks for the interpreter's lock while the interpreter ends aborts the process."""
    for rank in range(2):
        threads = json.loads((found["folder"] / f"threads-{rank}.json").read_text())
        assert not [name for name in threads if "gloo" in name]


@pytest.mark.parametrize("name", [*CONFIGS, "resumed"])
def test_all_trainers_end_in_the_same_weights_and_a_replay_too(found, name):
    first, second = found[name]
    assert first["version"] == second["version"] == UPDATES
    assert_same_bits(first["weights"], second["weights"])
    run = "stopped" if name == "resumed" else name
    assert replay(found["folder"] / run).is_equal


def test_the_number_of_workers_changes_no_bit(found):
    assert_same_bits(found["workers"][0]["weights"], found["alone"][0]["weights"])


@pytest.mark.parametrize("trainers", [2, 3])
def test_the_mean_gradient_is_that_of_one_trainer_but_for_rounding(trainers):
    """At equal weights, in single precision: the sum over a batch in another order.

    That processes compute what these trainers do in one is what the replays above say.
    """
    dataset, cpu = load_dataset("mnist"), torch.device("cpu")
    alone = Trainer(shared(trainers=1, clip_norm=0.5), dataset, cpu)
    teams = [SingleProcess(rank=rank, size=trainers) for rank in range(trainers)]
    config = shared(trainers=trainers, clip_norm=0.5)
    several = [Trainer(config, dataset, cpu, team=team) for team in teams]
    for ticket in range(3):
        batch = alone.loader.begin(ticket)
        parts = [trainer.loader.begin(ticket) for trainer in several]
        # A search may part for good where a gradient's sign is a matter of rounding.
        exact = zip(batch.adversarial.chunk(trainers), parts, strict=True)
        parts = [replace(part, adversarial=own) for own, part in exact]
        flat = [each.packed(each.measure(part)) for each, part in zip(several, parts, strict=True)]
        mean = several[0].unpacked(mean_of(flat))
        share = alone.measure(batch)
        assert (mean.loss, mean.accuracy) == pytest.approx((share.loss, share.accuracy), rel=1e-6)
        for found, expected in zip(mean.gradients, share.gradients, strict=True):
            assert found is not None and expected is not None
            largest = float(expected.abs().max())
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * largest)
        alone.take(share, batch)
        for trainer in several:
            trainer.network.load_state_dict(alone.network.state_dict())
            trainer.loader.advance()


@pytest.mark.parametrize("trainers", [2, 3])
def test_the_parts_of_all_trainers_are_the_ticket_once_and_attacked_to_the_bit(trainers):
    """At equal weights, as one trainer attacks it in as many parts."""
    images = load_dataset("mnist").train
    split, device = 2, torch.device("cpu")
    source = Asynchronous(workers=0, policy=FixedLag(lag=2, split=split))
    together = shared(trainers=trainers, source=source)
    whole = FixedLag(lag=2, split=split * trainers)
    alone = replace(together, trainers=1, source=replace(source, policy=whole))
    network = PLAIN.build(seed=0)

    def made(recipe: Recipe) -> AttackedBatch:
        crafter = Crafter(recipe, images, device)
        return crafter.craft_in_parts(crafter.clean(5), network, version=0, stage="first")

    expected = made(alone.recipe())
    parts = [made(together.recipe(rank)) for rank in range(trainers)]
    assert {len(part.labels) for part in parts} == {BATCH // trainers}
    for name in ("indices", "labels", "images", "adversarial"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(expected, name)), name


def test_every_ticket_is_trained_on_once_by_all(found):
    rows = MetricsLog(RunDirectory(found["folder"] / "workers").metrics).rows()
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, UPDATES + 1))
    assert [row["staleness_of_trainers"] for row in steps] == ["0+0", "1+1"] + ["2+2"] * 6
    totals = rows[-1]
    assert totals["trained"] == 2 * UPDATES
    stages = trainers = split = 2
    assert totals["done"] == stages * trainers * split * UPDATES
    assert totals["leased"] == int(totals["done"] or 0) + int(totals["lost"] or 0)


def test_a_request_to_one_stops_all_at_a_checkpoint_and_they_go_on_to_the_same_bits(found):
    for end in found["stopped"]:
        assert (end["error"], end["code"]) == ("Interrupted", 128 + signal.SIGTERM)
        assert "stopped at step 4 by SIGTERM" in end["text"]
        assert "torchrun --nproc-per-node 2 -m sparring train --resume" in end["text"]
    assert_same_bits(found["resumed"][0]["weights"], found["stale"][0]["weights"])


def test_who_cannot_begin_says_why_and_the_others_that_they_cannot_either(found):
    other, own = found["lying"]
    assert (own["error"], own["code"]) == ("DataError", 2)
    assert (other["error"], other["code"]) == ("FailedElsewhere", 2)
    assert other["text"].startswith("trainer 1 failed")
    assert own["text"] in other["text"]
    assert not (found["folder"] / "lying").exists()
    leader, follower = found["occupied"]
    assert (leader["error"], follower["error"]) == ("RunError", "FailedElsewhere")
    assert "a new run needs an empty folder" in follower["text"]


def test_a_run_of_two_is_not_gone_on_with_by_one(found):
    run = found["folder"] / "stale"
    with pytest.raises(ConfigError, match=rf"got 1\. Take: torchrun --nproc-per-node 2 .*{run}"):
        resume(run)
    with pytest.raises(ConfigError, match=r"needs 2 trainers.*got 1"):
        train(shared(), run)


def test_a_replay_of_three_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    train(small(updates=1), tmp_path / "one")
    for name in ("environment.json", "metrics.jsonl", "classes.json"):
        (run.path / name).write_bytes((tmp_path / "one" / name).read_bytes())
    run.write_config(shared(trainers=3))
    with pytest.raises(ConfigError, match=r"at most 2 trainers.*got a run of 3"):
        replay(run.path)


def children(process: int) -> list[int]:
    """Processes that it has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return sorted(int(child) for child in found.split())


def test_a_restart_goes_on_only_with_what_its_own_launcher_began(tmp_path):
    config, first = small(), Launch("none 12")
    _, known = new_data(config.data, None)
    again = first._replace(again=True)
    run = new_run(config, tmp_path / "run", first, known)
    assert new_run(config, tmp_path / "run", again, known) == run
    others = [(config, Launch("none 13", again=True)), (small(seed=1), again), (config, first)]
    for settings, launch in others:
        with pytest.raises(RunError, match="empty folder"):
            new_run(settings, tmp_path / "run", launch, known)


def settings_of_sixty_updates(folder: Path) -> Path:
    config = shared(source=replace(LAG, workers=0), updates=60, checkpoint_every=5)
    write_json(folder / "settings.json", to_json(config))
    return folder / "settings.json"


def test_one_that_is_killed_ends_the_others_with_a_line(tmp_path):
    settings, out = settings_of_sixty_updates(tmp_path), tmp_path / "run"
    program = "import sys; from sparring.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", "--config", settings, "--out", out, "--trust-code"]
    two = []
    for rank, env in enumerate(environments(2)):
        (printed := tmp_path / str(rank)).mkdir()
        two.append(processes.started(program, *words, env=env, printed=printed))
    until(RunDirectory(out).resume.exists)
    two[1].kill()
    two[0].join()
    assert two[0].exitcode == 1
    told = (tmp_path / "0" / "stderr").read_text()
    (error,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert error.endswith(f"torchrun --nproc-per-node 2 -m sparring train --resume {out}.")
    assert "Traceback" not in told


@pytest.mark.slow
def test_one_that_is_killed_ends_the_others_with_a_line_and_a_restart_goes_on(tmp_path):
    """As torchrun restarts it: all processes, with the same words, into the same folder."""
    settings, out = settings_of_sixty_updates(tmp_path), tmp_path / "run"
    (env,) = environments(1)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--max-restarts", "1", "--master-port", env["MASTER_PORT"], "-m", "sparring", "train"]
    # The settings name a network of a file, and no run of this user stored them.
    words += ["--config", str(settings), "--out", str(out), "--trust-code"]
    with started(words, env) as launcher:
        until(lambda: RunDirectory(out).resume.exists())
        os.kill(children(launcher.pid)[-1], signal.SIGKILL)
        printed, told = launcher.communicate(timeout=500)
        assert launcher.returncode == 0, told
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].endswith(f"torchrun --nproc-per-node 2 -m sparring train --resume {out}.")
    assert "Traceback" not in told
    assert printed.count("trained for 60 updates") == 1
    assert replay(out).is_equal
