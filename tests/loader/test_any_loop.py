"""Whatever a loop does between two batches, and wherever it runs, the batches are those meant."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loader.test_loader import ATTACK, network, opened, step
from sparring.attacks import L2, PGD
from sparring.data import load_dataset
from sparring.errors import CheckpointError, ConfigError
from sparring.loader import AdversarialLoader, Asynchronous, Fresh, Reused, Stale
from sparring.loader.source import Place
from sparring.models import PaperCNN, SmallNetwork, drawing_from
from sparring.training import Constant, presets, train


@pytest.fixture(scope="module")
def mnist() -> Any:
    return load_dataset("mnist")


def papers() -> nn.Module:
    with drawing_from(5):
        return PaperCNN()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def load_others(model: nn.Module, data: Any) -> None:
    with drawing_from(9):
        model.load_state_dict(PaperCNN().state_dict())


def clip(model: nn.Module, data: Any) -> None:
    for weights in model.parameters():
        weights.data.clamp_(-0.02, 0.02)


def update_on_clean_images(model: nn.Module, data: Any) -> None:
    optimizer = sgd(model)
    images, labels = data.train[:8]
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def train_with_another_loader(model: nn.Module, data: Any) -> None:
    other = AdversarialLoader(data, model, PGD(L2(2.0), steps=2), batch_size=8, updates=3)
    step(model, sgd(model), next(other))
    other.updated()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "change", [load_others, clip, update_on_clean_images, train_with_another_loader]
)
def test_a_batch_is_attacked_with_the_weights_as_they_are(
    change: Callable[[nn.Module, Any], None], precision: str, mnist: Any
) -> None:
    model = papers()
    loader = opened(mnist, model, Fresh(), precision=precision)
    step(model, sgd(model), next(loader))
    loader.updated()
    change(model, mnist)
    found = next(loader)
    fresh = opened(mnist, model, Fresh(), precision=precision)
    fresh.restore({}, 1)
    assert torch.equal(found.adversarial, next(fresh).adversarial)


@pytest.mark.parametrize(
    "source", [Fresh(), Stale(staleness=2), Asynchronous(workers=0)], ids=lambda s: type(s).__name__
)
def test_an_update_is_counted_once(source: Any, mnist: Any) -> None:
    loader = opened(mnist, network(), source)
    numbers = []
    for _ in range(4):
        numbers.append(next(loader).number)
        loader.updated()
        loader.updated()
        with pytest.raises(ConfigError, match="is counted already"):
            loader.advance()
    resumed = opened(mnist, network(), source)
    resumed.load_state_dict(loader.state_dict())
    assert [*numbers, next(loader).number] == list(range(5))
    assert next(resumed).number == 4
    loader.close()
    resumed.close()


def towards_the_loss(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, generator: Any
) -> Tensor:
    moved = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(moved), labels)
    (gradient,) = torch.autograd.grad(loss, moved)
    return (images + 10 * gradient).clamp(0, 1)


def mixed() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def elsewhere() -> AbstractContextManager[Any]:
    return torch.device("meta")


def doubled() -> AbstractContextManager[Any]:
    class Doubled(nullcontext[None]):
        def __enter__(self) -> None:
            torch.set_default_dtype(torch.float64)

        def __exit__(self, *_: object) -> None:
            torch.set_default_dtype(torch.float32)

    return Doubled()


@pytest.mark.parametrize(
    "setting", [mixed, elsewhere, doubled, torch.inference_mode, torch.no_grad]
)
def test_settings_of_the_loop_do_not_reach_the_batches(setting: Any, mnist: Any) -> None:
    model = network()
    found = []
    for around in (nullcontext, setting):
        with around():
            loader = AdversarialLoader(mnist, model, towards_the_loss, batch_size=8, updates=2)
            found.append(torch.stack([batch.adversarial for batch in loader]))
    assert torch.equal(*found)


def unnamed(factor: float) -> Callable[..., Any]:
    def schedule(progress: float) -> float:
        return factor

    return schedule


def own_noise() -> Callable[..., Tensor]:
    def noise(model: Any, images: Tensor, labels: Tensor, *, generator: Any) -> Tensor:
        return (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)

    return noise


def unchanged() -> Callable[..., Tensor]:
    return lambda images, ticket: images


LOCAL: dict[str, dict[str, Any]] = {
    "attack": {"attack": own_noise()},
    "eps_schedule": {"eps_schedule": unnamed(0.5)},
    "augmentation": {"augmentation": (unchanged(),)},
}
WITH_A_WORKER = Asynchronous(workers=1, fresh_steps=0)


@pytest.mark.parametrize("what", LOCAL)
def test_what_does_not_pickle_is_refused_before_workers_need_it(
    what: str, mnist: Any, tmp_path: Any
) -> None:
    settings: dict[str, Any] = {"attack": ATTACK, **LOCAL[what]}
    with pytest.raises(ConfigError, match=rf"the {what}.* cannot be sent to workers"):
        AdversarialLoader(mnist, network(), updates=2, source=WITH_A_WORKER, **settings)
    config = presets.fast(model=SmallNetwork(width=2), updates=2, batch_size=8)
    own = {"eps_schedule": Constant()} | LOCAL[what]
    config = replace(config, source=WITH_A_WORKER, early_steps=(), **own)
    with pytest.raises(ConfigError, match=rf"the {what}.* cannot be sent to workers"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_whole_state_is_not_called_damaged_by_a_closed_loader(mnist: Any) -> None:
    loader = opened(mnist, network(), Fresh())
    state = loader.state_dict()
    loader.close()
    with pytest.raises(ConfigError, match="is closed") as failed:
        loader.load_state_dict(state)
    assert not isinstance(failed.value, CheckpointError)


def test_batches_that_wait_are_not_the_caller_s_tensors(mnist: Any) -> None:
    loader = opened(mnist, network(), Stale(staleness=2))
    next(loader)
    state = loader.state_dict()
    wanted = next(loader).adversarial
    resumed = opened(mnist, network(), Stale(staleness=2))
    resumed.load_state_dict(state)
    state["source"]["adversarial"].zero_()
    assert torch.equal(next(resumed).adversarial, wanted)


def test_a_state_of_another_arithmetic_is_taken_with_a_warning(mnist: Any, caplog: Any) -> None:
    state = opened(mnist, network(), Fresh(), precision="fp32").state_dict()
    with caplog.at_level(logging.WARNING):
        opened(mnist, network(), Fresh(), precision="fp32").load_state_dict(state)
        assert not caplog.text
        opened(mnist, network(), Fresh(), precision="bf16").load_state_dict(state)
    assert "the state is of passes in fp32" in caplog.text


def test_processes_that_train_together_share_the_cores_of_their_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Place.local(0, 1) == Place(0, 1)
    assert Place.local(2, 4) == Place(2, 4)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Place.local(2, 4) == Place(0, 2)
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(ConfigError, match="LOCAL_RANK must be a number"):
        Place.local(2, 4)


def test_perturbations_that_do_not_fit_into_memory_are_refused(
    mnist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.loader.sources.available_memory", lambda: 2**20)
    with pytest.raises(ConfigError, match="must fit into the 1MiB of memory that is free"):
        next(opened(mnist, network(), Reused()))
