"""What the trainer is given: attacked with exactly the weights that the source promises."""

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from sparring.data import Order, derive_seed, load_dataset
from sparring.errors import ConfigError, Interrupted
from sparring.models import working_copy
from sparring.training import Fresh, Stale, train
from training.small_runs import UPDATES, Watching, assert_same_bits, small, weights_of


def reference(staleness: int) -> dict[str, torch.Tensor]:
    """Stale adversarial training with a copy of every model of the past: slow and obvious."""
    config = small()
    torch.set_num_threads(1)
    images_of = load_dataset("mnist").train
    order = Order(num_images=len(images_of), batch_size=config.batch_size, seed=config.seed)
    network = config.model.build(derive_seed(config.seed, "weights")).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    history = []
    for update in range(UPDATES):
        history.append(copy.deepcopy(network))
        attacked_model = working_copy(history[max(0, update - staleness)], "fp32")
        ticket = order.ticket(update)
        images, labels = images_of.batch(ticket.indices)
        generator = torch.Generator().manual_seed(ticket.seed)
        noise = torch.empty(images.shape).uniform_(-0.3, 0.3, generator=generator)
        low, high = images - 0.3, images + 0.3
        x = (images + noise).clamp(low, high).clamp(0, 1)
        for _ in range(2):
            x.requires_grad_(True)
            loss = cross_entropy(attacked_model.attacked(x), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x.detach() + 2.5 * 0.3 / 2 * gradient.sign()).clamp(low, high).clamp(0, 1)
        optimizer.zero_grad()
        cross_entropy(working_copy(network, "fp32").trained(x), labels).backward()
        optimizer.step()
    return weights_of(network)


@pytest.mark.parametrize("staleness", [0, 1, 3, 100])
def test_stale_equals_a_reference_that_keeps_every_model_of_the_past(
    staleness: int, tmp_path: Path
) -> None:
    trained = train(small(source=Stale(staleness=staleness)), tmp_path / "run")
    assert_same_bits(weights_of(trained.network), reference(staleness))


def test_staleness_makes_a_difference() -> None:
    assert not torch.equal(reference(0)["fc1.weight"], reference(1)["fc1.weight"])


def test_stale_zero_is_fresh_bit_for_bit(tmp_path: Path) -> None:
    fresh = train(small(source=Fresh()), tmp_path / "fresh")
    stale = train(small(source=Stale(staleness=0)), tmp_path / "stale")
    assert_same_bits(weights_of(fresh.network), weights_of(stale.network))
    assert fresh.run.weights.exists()


@pytest.mark.parametrize("staleness", [0, 1, 3, UPDATES - 1, UPDATES, 1024])
def test_staleness_is_the_step_until_it_is_s(staleness: int, tmp_path: Path) -> None:
    watching = Watching()
    train(small(source=Stale(staleness=staleness)), tmp_path / "run", sinks=[watching])
    assert [step.staleness for step in watching.steps] == [
        min(update, staleness) for update in range(UPDATES)
    ]


@pytest.mark.parametrize("warm_up", [1, 4, 2 * UPDATES])
def test_a_queue_that_grows_attacks_each_batch_once_it_is_long_enough(
    warm_up: int, tmp_path: Path
) -> None:
    watching, lag = Watching(), 3
    source = Stale(staleness=lag, warm_up=warm_up)
    train(small(source=source), tmp_path / "run", sinks=[watching])
    long_enough = (
        next(at for at in range(number + 1) if at + lag * min(at, warm_up) // warm_up >= number)
        for number in range(UPDATES)
    )
    expected = [number - at for number, at in enumerate(long_enough)]
    assert [step.staleness for step in watching.steps] == expected
    assert not source.length(0)


def test_the_queue_holds_batches_not_models(tmp_path: Path) -> None:
    sizes = {}
    for staleness in (1, 4):
        out = tmp_path / str(staleness)
        stop = Watching(lambda step: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted):
            train(small(source=Stale(staleness=staleness)), out, sinks=[stop])
        sizes[staleness] = (out / "resume.pt").stat().st_size
    images = 8 * 28 * 28 * 4
    assert 3 * images <= sizes[4] - sizes[1] < 4 * images


def test_a_negative_staleness_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"staleness must be 0 or more.*got -1"):
        Stale(staleness=-1)
