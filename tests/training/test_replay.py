"""A run is computed again from its settings and its trace, to the last bit, and every lie tells."""

import copy
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typing_extensions import override

from sparring.attacks import PGD, Crafter, Linf
from sparring.data import load_dataset
from sparring.engine import FixedLag, Newest, Sharded
from sparring.errors import CheckpointError, RunError, SparringError
from sparring.models import computing_threads, save_weights, working_copy
from sparring.records import (
    MetricsLog,
    Row,
    RunDirectory,
    describe,
    read_json,
    to_json,
    write_json,
)
from sparring.training import (
    Adam,
    Asynchronous,
    Certified,
    Fresh,
    Mixed,
    Parting,
    Replay,
    SessionStart,
    Stale,
    Step,
    TrainConfig,
    Trainer,
    WarmUp,
    replay,
    resume,
    train,
)
from training.small_runs import UPDATES, Killed, Watching, restamp, small

CONFIGS = {
    "fresh": (small(source=Fresh(), average=0.9, eps_schedule=WarmUp(share=0.5)), 0),
    "certified": (
        small(
            objective=Certified(),
            attack=PGD(threat=Linf(eps=0.3), steps=0, start="none"),
            eps_schedule=WarmUp(share=0.5),
        ),
        0,
    ),
    "stale": (small(source=Stale(staleness=3), objective=Mixed()), 3),
    "growing": (small(source=Stale(staleness=3, warm_up=5, fresh_steps=1)), 2),
    "ahead": (small(source=Stale(staleness=20)), UPDATES - 1),
    "lag": (
        small(
            source=Asynchronous(workers=0, policy=FixedLag(lag=3, period=2), fresh_steps=1),
        ),
        4,
    ),
    "finished": (small(source=Asynchronous(workers=0, policy=FixedLag(lag=2, split=3))), 2),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(small(source=Stale(staleness=2)), tmp_path_factory.mktemp("runs") / "run").run


@pytest.fixture
def run(finished: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A finished run of staleness 2 that may be damaged."""
    return RunDirectory(Path(shutil.copytree(finished.path, tmp_path / "run")))


def rows_of(run: RunDirectory) -> list[Row]:
    """The rows about updates."""
    return [row for row in MetricsLog(run.metrics).rows() if "loss" in row]


def put_rows(run: RunDirectory, rows: Sequence[Row]) -> None:
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


def put(path: Path, **changes: object) -> None:
    """Change fields of a JSON file."""
    before = read_json(path)
    assert isinstance(before, dict)
    write_json(path, before | changes)


def part_at_once(run: RunDirectory) -> None:
    """Where the rest of a replay does not matter."""
    put_rows(run, [row | {"loss": 0.0} for row in rows_of(run)])


def leave_at(step: int) -> Watching:
    def leave(done: Step) -> None:
        if done.step == step:
            raise Killed("leave")

    return Watching(leave)


def assert_equal(found: Replay, updates: int = UPDATES) -> None:
    assert found.parting is None
    assert found.different == ()
    assert found.is_equal
    assert (found.updates, found.version) == (updates, updates)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_can_be_computed_again_to_the_last_bit(name: str, tmp_path: Path) -> None:
    config, staleness = CONFIGS[name]
    trained, replayed = Watching(), Watching()
    run = train(config, tmp_path / "run", sinks=[trained]).run
    found = replay(run.path, sinks=[replayed])
    assert_equal(found)
    assert found.max_staleness == staleness
    assert found.seconds > 0
    assert [step.loss for step in replayed.steps] == [step.loss for step in trained.steps]
    assert not replayed.notices


@pytest.mark.process
def test_a_run_whose_staleness_hung_on_timing_can_be_computed_again(tmp_path: Path) -> None:
    policy = Newest(credits=3, period=2)
    source = Asynchronous(workers=1, policy=policy, fresh_steps=1)
    run = train(small(source=source, updates=12), tmp_path / "run").run
    found = replay(run.path)
    assert_equal(found, 12)
    assert found.max_staleness == max(int(row["staleness"] or 0) for row in rows_of(run))


@pytest.mark.process
def test_a_run_whose_tickets_were_split_can_be_computed_again(tmp_path: Path) -> None:
    """Between a worker and the trainer."""
    source = Asynchronous(workers=1, policy=Sharded())
    assert_equal(replay(train(small(source=source), tmp_path / "run").run.path))


def from_models_of_the_past(config: TrainConfig, staleness: Sequence[int], out: Path) -> None:
    """A slow reference: a run that keeps every model, and attacks each ticket with any of them."""
    run = RunDirectory.create(out)
    run.write_config(config)
    device = torch.device("cpu")
    with computing_threads(1):
        trainer = Trainer(config, load_dataset(config.data), device)
        crafter = Crafter(config.recipe(), trainer.images, device)
        past = []
        for ticket, age in enumerate(staleness):
            past.append(copy.deepcopy(trainer.network))
            model = working_copy(past[ticket - age], config.precision)
            clean = crafter.clean(ticket)
            batch = crafter.craft(clean, model.attacked, version=ticket - age)
            MetricsLog(run.metrics).append(asdict(trainer.update(batch)))
    weights = trainer.average.network.state_dict()
    save_weights(weights, run.weights, about={"version": str(trainer.version)})
    where = describe(threads=1, device="cpu", precision=trainer.copy.name)
    write_json(run.environment, to_json(where))


@pytest.mark.parametrize(
    "staleness", [(0, 1, 2, 3, 1, 0, 4, 2), (0, 0, 2, 1, 0, 5, 1, 7), (0, 1, 0, 3, 0, 5, 0, 7)]
)
def test_versions_need_not_rise_from_ticket_to_ticket(staleness, tmp_path: Path) -> None:
    from_models_of_the_past(small(average=0.9), staleness, tmp_path / "run")
    found = replay(tmp_path / "run")
    assert_equal(found)
    assert found.max_staleness == max(staleness)


def test_a_stopped_run_is_replayed_to_its_checkpoint_and_a_resumed_one_to_its_end(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed, match="leave"):
        train(small(source=Stale(staleness=3)), out, sinks=[leave_at(7)])
    assert len(rows_of(RunDirectory(out))) == 7
    assert_equal(replay(out), 5)
    resume(out)
    assert_equal(replay(out))


def test_a_run_without_weights_is_replayed_as_far_as_it_came(tmp_path: Path) -> None:
    with pytest.raises(Killed, match="leave"):
        train(small(), tmp_path / "run", sinks=[leave_at(3)])
    found = replay(tmp_path / "run")
    assert (found.updates, found.version, found.different) == (3, None, None)
    assert found.is_equal


@pytest.mark.parametrize("step", [1, 4, UPDATES])
def test_the_last_bit_of_a_loss_tells(step: int, run: RunDirectory) -> None:
    rows = rows_of(run)
    true = float(rows[step - 1]["loss"] or 0)
    rows[step - 1]["loss"] = math.nextafter(true, math.inf)
    put_rows(run, rows)
    found = replay(run.path)
    assert found.parting == Parting(
        step=step, recorded=math.nextafter(true, math.inf), replayed=true
    )
    assert (found.updates, found.version, found.different) == (step, UPDATES, None)
    assert not found.is_equal


@pytest.mark.parametrize("bit", [0, 31])
def test_one_bit_of_the_stored_weights_tells_and_is_told_by_tensor(
    bit: int, run: RunDirectory
) -> None:
    weights = load_file(run.weights)
    names = [name for name in weights if name.endswith("weight")][1:3]
    for name in names:
        flat = weights[name].flatten().view(torch.int32)
        flat[-1] ^= 1 << bit if bit < 31 else -(1 << 31)
    restamp(run, weights)
    found = replay(run.path)
    assert found.parting is None
    assert set(found.different or ()) == set(names)
    assert not found.is_equal


@pytest.mark.parametrize(("step", "staleness"), [(5, 3), (5, 0), (4, 1), (UPDATES, 7)])
def test_a_wrong_staleness_makes_them_part_there(
    step: int, staleness: int, run: RunDirectory
) -> None:
    rows = rows_of(run)
    rows[step - 1]["staleness"] = staleness
    put_rows(run, rows)
    found = replay(run.path)
    assert found.parting is not None
    assert found.parting.step == step
    assert not found.is_equal


def test_another_learning_rate_tells_at_the_second_update(run: RunDirectory) -> None:
    """The first loss is that of the initial weights."""
    run.write_config(small(source=Stale(staleness=2), optimizer=Adam(learning_rate=1.001e-3)))
    restamp(run)
    found = replay(run.path)
    assert found.parting is not None
    assert found.parting.step == 2


def test_a_replay_that_runs_off_to_infinity_has_parted(run: RunDirectory) -> None:
    run.write_config(small(source=Stale(staleness=2), optimizer=Adam(learning_rate=1e30)))
    restamp(run)
    found = replay(run.path)
    assert found.parting is not None
    assert math.isnan(found.parting.replayed)
    assert found.parting.recorded == rows_of(run)[found.parting.step - 1]["loss"]
    assert found.updates == found.parting.step == 2


def test_a_replay_leaves_the_run_the_threads_and_the_random_state_as_they_were(
    run: RunDirectory,
) -> None:
    def files() -> dict[str, tuple[int, bytes]]:
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.path.iterdir()}

    before, threads, state = files(), torch.get_num_threads(), torch.get_rng_state()
    replay(run.path)
    assert files() == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_recorded_number_of_threads_is_used(run: RunDirectory) -> None:
    put(run.environment, threads=2)
    part_at_once(run)
    watching = Watching()
    replay(run.path, sinks=[watching])
    assert [where.threads for where in watching.environments] == [2]


def test_a_sink_counts_to_the_end_of_the_trace(tmp_path: Path) -> None:
    with pytest.raises(Killed, match="leave"):
        train(small(), tmp_path / "run", sinks=[leave_at(6)])
    told: list[int] = []

    class Counting(Watching):
        @override
        def start(self, session: SessionStart) -> None:
            told.append(session.config.updates)

    replay(tmp_path / "run", sinks=[Counting()])
    assert told == [5]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("device", "cuda:99"),
        ("device", "quantum"),
        ("precision", "bf16 shadow"),
        ("processor", "Z80"),
        ("torch", "1.0"),
        ("sparring", "9.9"),
    ],
)
def test_an_environment_whose_bits_may_be_others_is_noticed(
    what: str, value: str, run: RunDirectory
) -> None:
    put(run.environment, **{what: value})
    part_at_once(run)
    watching = Watching()
    replay(run.path, sinks=[watching])
    (notice,) = watching.notices
    assert notice.startswith(f"{what} was {value} before and is ")


def test_a_run_of_a_device_that_is_not_here_is_replayed_on_another(run: RunDirectory) -> None:
    put(run.config, device="cuda:99")
    put(run.environment, device="cuda:99")
    restamp(run)
    assert_equal(replay(run.path))


def without(place: int) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: rows[:place] + rows[place + 1 :]


def having(place: int, /, **changes: float | str | None) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [row | changes if row["step"] == place else row for row in rows]


TRACES: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "empty": (lambda rows: [], "has no row of an update"),
    "only looks": (
        lambda rows: [{"step": 8, "robust_accuracy": 0.5}],
        "has no row of an update",
    ),
    "without the first": (without(0), "got step 2 in the place of step 1"),
    "without the fifth": (without(4), "got step 6 in the place of step 5"),
    "without the last": (without(7), "for each of the 8 updates .* got 7 rows"),
    "third twice": (lambda rows: rows[:3] + rows[2:], "got step 3 in the place of step 4"),
    "unordered": (lambda rows: rows[::-1], "got step 8 in the place of step 1"),
    "without a step": (having(3, step=None), "got step null in the place of step 3"),
    "staleness below 0": (having(3, staleness=-1), r"of step 3 must lie in 0 to 2; got -1\."),
    "staleness of 3": (having(3, staleness=3), r"of step 3 must lie in 0 to 2; got 3\."),
    "no staleness": (having(1, staleness=None), r"of step 1 must lie in 0 to 0; got null\."),
    "staleness of a half": (having(3, staleness=0.5), r"of step 3 .* got 0\.5\."),
    "loss of nothing": (having(6, loss=None), r"loss of step 6 must be a number; got null\."),
    "loss in words": (having(6, loss="much"), 'loss of step 6 must be a number; got "much"'),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_damaged_trace_is_refused(name: str, run: RunDirectory) -> None:
    damage, message = TRACES[name]
    put_rows(run, damage(rows_of(run)))
    with pytest.raises(RunError, match=message) as refused:
        replay(run.path)
    assert str(run.metrics) in str(refused.value)
    assert "take another run." in str(refused.value)


def lose_version(run: RunDirectory) -> None:
    restamp(run, lose="version")


def tear(run: RunDirectory) -> None:
    run.weights.write_bytes(run.weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: run.metrics.unlink(), RunError, "has no row of an update"),
        (lambda run: run.environment.unlink(), RunError, "environment.json"),
        (lambda run: run.config.unlink(), RunError, "has no config.json"),
        (lambda run: put(run.config, updatse=3), SparringError, "Did you mean updates"),
        (lambda run: put(run.config, data="mnits"), CheckpointError, "under other settings"),
        (lose_version, CheckpointError, "lacks the number of its updates"),
        (tear, CheckpointError, "must be a safetensors file"),
    ],
)
def test_a_run_that_lacks_something_is_refused(
    damage: Callable[[RunDirectory], None],
    error: type[Exception],
    message: str,
    run: RunDirectory,
) -> None:
    damage(run)
    with pytest.raises(error, match=message):
        replay(run.path)
