"""An interrupted batch is made again: every ticket once, in order, with the same bits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, Linf
from sparring.engine import FixedLag
from sparring.errors import CheckpointError, ConfigError
from sparring.loader import AdversarialLoader, Asynchronous, Fresh, Reused, SourceKind, Stale

UPDATES = 5
SOURCES: dict[str, SourceKind] = {
    "fresh": Fresh(),
    "stale": Stale(staleness=2),
    "stale, a growing queue": Stale(staleness=2, warm_up=3, fresh_steps=1),
    "stale with fresh steps": Stale(staleness=2, fresh_steps=1),
    "reused": Reused(fresh_steps=1),
    "asynchronous": Asynchronous(workers=0, fresh_steps=0),
    "asynchronous with fresh steps": Asynchronous(workers=0, fresh_steps=1),
    "asynchronous, the trainer takes the fresh steps": Asynchronous(
        workers=0, fresh_steps=1, policy=FixedLag(lag=2, period=2)
    ),
}


class Stopping(nn.Module):
    """A network whose pass of number `stop_at` is interrupted, of all its copies together."""

    passes, stop_at = 0, -1

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, dtype=torch.float32)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 48).sin().view(3, 16))
            self.layer.bias.zero_()

    @override
    def forward(self, images: Tensor) -> Tensor:
        Stopping.passes += 1
        if Stopping.passes == Stopping.stop_at:
            raise KeyboardInterrupt
        return self.layer(images.flatten(1))


def opened(source: SourceKind, **settings: Any) -> tuple[AdversarialLoader, Stopping]:
    Stopping.stop_at = -1
    model = Stopping()
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (16, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(3, (16,), generator=generator)
    attack = PGD(threat=Linf(eps=0.1), steps=2)
    given: dict[str, Any] = {"batch_size": 6, "updates": UPDATES, "precision": "fp32"} | settings
    return AdversarialLoader((pixels, labels), model, attack, source=source, **given), model


def train_on(loader: AdversarialLoader, model: Stopping, found: list[Any]) -> list[Any]:
    """Add the batches from here on to `found`, each followed by an update of the weights."""
    for batch in loader:
        found.append((batch.number, batch.staleness, batch.adversarial.clone()))
        with torch.no_grad():
            model.layer.weight += 0.05 * (batch.number + 1)
    return found


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert [batch[:2] for batch in found] == [batch[:2] for batch in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one[2], other[2])


@pytest.mark.parametrize("name", SOURCES)
def test_a_loop_continues_after_an_interruption_in_any_pass(name: str) -> None:
    loader, model = opened(SOURCES[name])
    Stopping.passes = 0
    wanted = train_on(loader, model, [])
    total = Stopping.passes
    loader.close()
    assert len(wanted) == UPDATES
    for stop_at in range(1, total + 1):
        loader, model = opened(SOURCES[name])
        Stopping.passes, Stopping.stop_at = 0, stop_at
        found: list[Any] = []
        with loader:
            with pytest.raises(KeyboardInterrupt):
                train_on(loader, model, found)
            train_on(loader, model, found)
        assert_same(found, wanted)


@pytest.mark.parametrize("name", SOURCES)
def test_the_state_after_an_interruption_resumes_as_if_there_was_none(name: str) -> None:
    loader, model = opened(SOURCES[name])
    Stopping.passes = 0
    wanted = train_on(loader, model, [])
    total = Stopping.passes
    loader.close()
    for stop_at in range(1, total + 1, 4):
        loader, model = opened(SOURCES[name])
        Stopping.passes, Stopping.stop_at = 0, stop_at
        with loader:
            found: list[Any] = []
            with pytest.raises(KeyboardInterrupt):
                train_on(loader, model, found)
            state = loader.state_dict()
        resumed, again = opened(SOURCES[name])
        again.load_state_dict(model.state_dict())
        with resumed:
            resumed.load_state_dict(state)
            train_on(resumed, again, found)
        assert_same(found, wanted)


@pytest.mark.parametrize("name", ["stale", "reused", "asynchronous"])
def test_a_damaged_state_leaves_the_loader_as_it_was(name: str) -> None:
    loader, model = opened(SOURCES[name])
    with loader:
        for batch in loader:
            if batch.number == 2:
                break
        state = loader.state_dict()
    damaged = {**state, "source": {**state["source"]}}
    first = next(iter(damaged["source"]))
    damaged["source"][first] = damaged["source"][first][:-1]
    resumed, again = opened(SOURCES[name])
    again.load_state_dict(model.state_dict())
    with resumed:
        with pytest.raises(CheckpointError, match="damaged"):
            resumed.load_state_dict(damaged)
        assert resumed.version == 0
        resumed.load_state_dict(state)
        assert [batch.number for batch in resumed] == [3, 4]


@pytest.mark.parametrize("versions", [[], [1, 1], [2, 99], [0, 2]])
def test_old_weights_that_cannot_be_are_refused(versions: list[int]) -> None:
    source = Asynchronous(workers=0, policy=FixedLag(lag=2), fresh_steps=0)
    loader, _ = opened(source)
    with loader:
        for batch in loader:
            if batch.number == 2:
                break
        state = loader.state_dict()
    kept = state["source"]["versions"].tolist()
    assert kept == [1, 2, 3]
    weights = {
        f"{new} {name}": state["source"][f"{kept[0]} {name}"]
        for new in versions
        for name in ("layer.weight", "layer.bias")
    }
    ledger = {name: value for name, value in state["source"].items() if "ledger" in name}
    damaged = {**ledger, **weights, "versions": torch.tensor(versions, dtype=torch.int64)}
    resumed, _ = opened(source)
    with resumed, pytest.raises(CheckpointError, match=r"versions \[1, 2\] are needed"):
        resumed.load_state_dict({**state, "source": damaged})


@pytest.mark.parametrize("name", SOURCES)
def test_a_closed_loader_says_so(name: str) -> None:
    loader, _ = opened(SOURCES[name])
    with loader:
        next(loader)
    loader.updated()
    assert loader.version == 1
    with pytest.raises(ConfigError, match="closed"):
        next(loader)


def test_without_workers_nothing_is_pickled() -> None:
    loader, model = opened(Asynchronous(workers=0, fresh_steps=0), eps_schedule=lambda share: 1.0)
    with loader:
        assert len(train_on(loader, model, [])) == UPDATES


def test_a_lag_that_no_memory_holds_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="must fit into"):
        opened(Asynchronous(workers=0, policy=FixedLag(lag=10**9)))


def test_an_image_that_comes_twice_in_a_batch_is_attacked_whole() -> None:
    loader, _ = opened(Reused(fresh_steps=1), batch_size=20, updates=4)
    for batch in loader:
        assert len(batch.indices.unique()) < len(batch.indices)
        reached = (batch.adversarial - batch.images).abs().flatten(1).amax(1)
        assert torch.allclose(reached, torch.tensor(0.1), atol=1e-3)
