"""Laws of the transfer matrix, on small networks and on runs that were never trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import L2, PGD, Linf
from sparring.data import load_dataset
from sparring.errors import CheckpointError, ConfigError, RunError
from sparring.evaluation import TransferProgress, transfer, transfer_runs
from sparring.evaluation.model_under_test import starts
from sparring.models import save_weights
from sparring.records import RunDirectory, TransferMatrix
from sparring.seeds import derive_seed
from training.small_runs import PAPERS, small

EPS = 0.2
TOTAL = 150  # more than a batch


class Linear(nn.Module):
    """Two classes, by a weighted sum of the pixels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        weight = torch.randn(16, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        score = (self.seen(images).flatten(1) - 0.5) @ self.weight
        return torch.stack([-score, score], 1)

    def seen(self, images: Tensor) -> Tensor:
        return images


class Quantised(Linear):
    """The same, on pixels rounded to tenths, which have no gradient."""

    def seen(self, images: Tensor) -> Tensor:
        return torch.round(10 * images) / 10


class Watched(Linear):
    """Keeps the images whose gradient was asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.kept: list[Tensor] = []

    def seen(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.kept.append(images.detach().clone())
        return images


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Images that `Linear(0)` gets right, but for ten."""
    images = torch.rand(TOTAL, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    labels = Linear(0)(images).argmax(1)
    labels[::15] = 1 - labels[::15]
    return images, labels


def by_hand(network: Linear, images: Tensor, labels: Tensor, steps: int, seed: int) -> int:
    """White-box accuracy, written down once more without the library's attack."""
    own = derive_seed(seed, f"pgd-{steps} cross-entropy", 0)
    noise = [
        torch.empty(1, 4, 4).uniform_(
            -EPS, EPS, generator=torch.Generator().manual_seed(derive_seed(own, place))
        )
        for place in range(len(images))
    ]
    x = (images + torch.stack(noise)).clamp(0, 1)
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        loss = nn.functional.cross_entropy(network(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        x = x.detach() + 2.5 * EPS / steps * gradient.sign()
        x = x.clamp(images - EPS, images + EPS).clamp(0, 1)
    return int((network(x).argmax(1) == labels).sum())


@pytest.mark.parametrize("steps", [(1, 4), (3,)])
def test_the_diagonal_is_white_box_accuracy_of_all_images(
    batch: tuple[Tensor, Tensor], steps: tuple[int, ...]
) -> None:
    networks = {"a": Linear(0), "b": Linear(1)}
    found = transfer(networks, *batch, Linf(eps=EPS), steps=steps, seed=3)
    for number, count in enumerate(steps):
        for place, network in enumerate(networks.values()):
            own = found.accuracy(number, place, place)
            assert own.successes == by_hand(network, *batch, count, seed=3)
            assert own.total == TOTAL
    assert found.natural[0].successes == TOTAL - 10
    assert 0 < found.accuracy(0, 1, 0).successes < TOTAL


def test_one_network_under_two_names_has_the_same_rows_and_columns(
    batch: tuple[Tensor, Tensor],
) -> None:
    networks = {"one": Linear(0), "copy": Linear(0), "other": Linear(1)}
    found = transfer(networks, *batch, L2(eps=0.5), steps=(2,))
    (table,) = found.cells
    assert table[0] == table[1]
    assert all(row[0] == row[1] for row in table)
    assert not found.flags


def test_a_network_without_gradients_is_flagged_when_a_plain_copy_is_the_source(
    batch: tuple[Tensor, Tensor],
) -> None:
    networks = {"plain": Linear(0), "quantised": Quantised(0)}
    found = transfer(networks, *batch, Linf(eps=EPS), steps=(4,))
    assert found.flagged == ((0, 0, 1),)
    assert "quantised at 4 steps: the attack on plain leaves" in found.flags[0]


def test_all_sources_are_attacked_from_the_same_starts(batch: tuple[Tensor, Tensor]) -> None:
    networks = {"a": Watched(0), "b": Watched(1)}
    transfer(networks, *batch, Linf(eps=EPS), steps=(1,))
    one, other = (torch.cat(network.kept) for network in networks.values())
    assert torch.equal(one, other)
    assert len(one) == TOTAL


def test_a_start_depends_on_seed_steps_and_place_only(batch: tuple[Tensor, Tensor]) -> None:
    images, attack = batch[0], PGD(threat=Linf(eps=EPS), steps=4)
    whole = starts(attack, images, 0)
    assert torch.equal(whole[7:9], starts(attack, images[7:9], 0, first=7))
    others = [starts(attack, images, 1), starts(replace(attack, steps=8), images, 0)]
    assert not any(torch.equal(whole, other) for other in others)


def test_a_network_is_left_as_it_was_and_the_global_random_state_too(
    batch: tuple[Tensor, Tensor],
) -> None:
    network = Linear(0).train()
    before = torch.get_rng_state()
    transfer({"a": network, "b": Linear(1).eval()}, *batch, Linf(eps=EPS), steps=(1,))
    assert network.training
    assert network.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)


def test_an_observer_is_told_of_every_batch(batch: tuple[Tensor, Tensor]) -> None:
    told: list[TransferProgress] = []
    networks = {"a": Linear(0), "b": Linear(1)}
    transfer(networks, *batch, Linf(eps=EPS), steps=(1, 3), progress=told.append)
    assert [(last.number, last.steps, last.of) for last in told] == [(1, 1, 2)] * 4 + [
        (2, 3, 2)
    ] * 4
    assert told[3].share == told[7].share == told[7].of_all == 1
    assert told[3].of_all == 1 / 4
    assert [last.of_all for last in told] == sorted(last.of_all for last in told)


@pytest.mark.parametrize(
    ("networks", "steps", "count", "complaint"),
    [
        (["a"], (1,), 3, "at least two networks.*got a"),
        (["a", "b"], (0,), 3, "steps must be 1 or more"),
        (["a", "b"], (), 3, "steps must be 1 or more"),
        (["a", "b"], (2, 2), 3, "steps must differ"),
        (["a", "b"], (1,), 0, "at least one image"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    networks: list[str],
    steps: tuple[int, ...],
    count: int,
    complaint: str,
    batch: tuple[Tensor, Tensor],
) -> None:
    images, labels = batch
    named = {name: Linear(0) for name in networks}
    with pytest.raises(ConfigError, match=complaint):
        transfer(named, images[:count], labels[:count], Linf(eps=EPS), steps=steps)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Makes runs that were never trained, of some seed and settings."""

    def make(name: str, seed: int, eps: float = 0.1, data: str = "mnist") -> RunDirectory:
        run = RunDirectory.create(tmp_path / name)
        attack = PGD(threat=Linf(eps=eps), steps=2)
        run.write_config(small(model=PAPERS, attack=attack, threat=Linf(eps=eps), data=data))
        network = PAPERS.build(seed=seed)
        save_weights(network.state_dict(), run.weights)
        return run

    return make


def test_runs_are_compared_as_their_networks_are(
    made: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    runs, out = [made("a", 0), made("deep/b", 1)], tmp_path / "out"
    found = transfer_runs(runs, out, steps=(1, 2), num_images=20, seed=5, threads=1)
    assert TransferMatrix.load(out / "transfer.json") == found
    networks = {name: PAPERS.build(seed=seed) for seed, name in enumerate(("a", "b"))}
    images, labels = load_dataset("mnist").test.batch(torch.arange(20))
    same = transfer(networks, images, labels, Linf(eps=0.1), steps=(1, 2), seed=5)
    assert found == replace(same, seconds=found.seconds, environment=found.environment)
    assert found.environment.threads == 1
    paths = [str(run.path) for run in runs]
    again = transfer_runs(paths, str(tmp_path / "by-path"), steps=(1,), num_images=2, threads=1)
    assert again.networks == ("a", "b")


def test_runs_of_one_name_are_called_by_their_paths(
    made: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    runs = [made("x/a", 0), made("b", 1), made("y/a", 2)]
    found = transfer_runs(runs, tmp_path / "out", steps=(1,), num_images=2, threads=1)
    assert found.networks == (str(runs[0].path), "b", str(runs[2].path))


def test_runs_that_cannot_be_compared_are_refused_and_nothing_is_written(
    made: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    a, b, out = made("a", 0), made("b", 1), tmp_path / "out"
    (tmp_path / "link").symlink_to(a.path)
    wrong = {
        "all runs .* must have the same threat.*a has Linf 0.1, .*c has Linf 0.15": [
            a,
            made("c", 2, eps=0.15),
        ],
        "all runs .* must have the same data.*b has mnist, .*d has elsewhere": [
            b,
            made("d", 2, data="elsewhere"),
        ],
        "networks must differ": [a, b, RunDirectory(tmp_path / "link")],
        "needs at least two": [a],
    }
    for complaint, runs in wrong.items():
        with pytest.raises(ConfigError, match=complaint):
            transfer_runs(runs, out, steps=(1,), num_images=2)
    with pytest.raises(ConfigError, match=r"must lie in \[1, 10000\]; got 0"):
        transfer_runs([a, b], out, num_images=0)
    with pytest.raises(ConfigError, match=r"steps must be 1 or more.*got -1"):
        transfer_runs([a, b], out, steps=(-1,))
    with pytest.raises(ConfigError, match="threads must be 0 or more"):
        transfer_runs([a, b], out, threads=-1)
    with pytest.raises(RunError, match="holds files"):
        transfer_runs([a, b], b.path, steps=(1,), num_images=2)
    b.weights.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        transfer_runs([a, b], out, steps=(1,), num_images=2)
    assert not out.exists()


def test_a_folder_that_was_made_for_nothing_goes_again(
    made: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    def stop(_: TransferProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer_runs(
            [made("a", 0), made("b", 1)],
            tmp_path / "out",
            steps=(1,),
            num_images=2,
            threads=1,
            progress=stop,
        )
    assert not (tmp_path / "out").exists()
