"""What the trainer is given: attacked with exactly the weights that the source promises."""

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from sparring.attacks import PGD, Linf
from sparring.data import Dataset, Flip, Order, dataset_from, load_dataset
from sparring.errors import CheckpointError, ConfigError, Interrupted
from sparring.loader import AdversarialLoader
from sparring.models import working_copy
from sparring.seeds import derive_seed
from sparring.training import Fresh, Reused, Stale, replay, resume, train
from training.small_runs import UPDATES, Watching, assert_same_bits, small, weights_of


def few_images(count: int) -> Dataset:
    """The first MNIST images as a training set, labelled 0 to 9 in turn."""
    images, _ = load_dataset("mnist").train.batch(torch.arange(count))
    part = (images, torch.arange(count) % 10)
    return dataset_from(train=part, validation=part, test=part)


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


def reused_reference(data: Dataset, fresh_steps: int, steps: int) -> dict[str, torch.Tensor]:
    """Training that keeps every image's last adversarial example in a dictionary."""
    config = small()
    torch.set_num_threads(1)
    order = Order(num_images=len(data.train), batch_size=config.batch_size, seed=config.seed)
    network = config.model.build(derive_seed(config.seed, "weights")).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    kept: dict[int, torch.Tensor] = {}
    for update in range(UPDATES):
        copied = working_copy(network, "fp32")
        ticket = order.ticket(update)
        images, labels = data.train.batch(ticket.indices)
        generator = torch.Generator().manual_seed(ticket.seed)
        x = (images + torch.empty(images.shape).uniform_(-0.3, 0.3, generator=generator)).clamp(
            0, 1
        )
        begins = torch.tensor([steps - fresh_steps] * len(images))
        for row, index in enumerate(ticket.indices.tolist()):
            if index in kept:
                x[row], begins[row] = kept[index], 0
        x = x.clamp(images - 0.3, images + 0.3).clamp(0, 1)
        for step in range(steps):
            x.requires_grad_(True)
            loss = cross_entropy(copied.attacked(x), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            moved = x.detach() + 2.5 * 0.3 / steps * gradient.sign()
            moved = moved.clamp(images - 0.3, images + 0.3).clamp(0, 1)
            first = step < steps - fresh_steps
            moves = (begins > 0) if first else torch.ones(len(x), dtype=torch.bool)
            x = torch.where(moves.view(-1, 1, 1, 1), moved, x.detach())
        for index, image, example in zip(ticket.indices.tolist(), images, x, strict=True):
            kept[index] = image + (example - image).to(torch.float16)
        optimizer.zero_grad()
        cross_entropy(working_copy(network, "fp32").trained(x), labels).backward()
        optimizer.step()
    return weights_of(network)


@pytest.mark.parametrize(("images", "fresh_steps"), [(16, 1), (20, 1), (20, 2)])
def test_reused_equals_a_reference_with_a_dictionary_of_perturbations(
    images: int, fresh_steps: int, tmp_path: Path
) -> None:
    data = few_images(images)
    config = small(
        attack=PGD(threat=Linf(eps=0.3), steps=3), source=Reused(fresh_steps=fresh_steps)
    )
    trained = train(config, tmp_path / "run", data=data)
    expected = reused_reference(data, fresh_steps, steps=3)
    for name, weights in weights_of(trained.network).items():
        torch.testing.assert_close(weights, expected[name], rtol=0, atol=1e-6)


def test_reused_is_fresh_in_the_first_epoch_and_for_attacks_of_one_step(tmp_path: Path) -> None:
    for name, attack in (("epoch", small().attack), ("step", PGD(Linf(eps=0.3), steps=1))):
        data = few_images(64 if name == "epoch" else 16)
        ends = [
            train(small(source=source, attack=attack), tmp_path / f"{name}{place}", data=data)
            for place, source in enumerate((Fresh(), Reused(fresh_steps=1)))
        ]
        assert_same_bits(*(weights_of(end.network) for end in ends))


def test_reused_resumes_extends_and_replays_bit_for_bit(tmp_path: Path) -> None:
    data, config = few_images(20), small(source=Reused(fresh_steps=1))
    whole = train(config, tmp_path / "whole", data=data)
    train(config, tmp_path / "parts", data=data, until=5)
    resumed = resume(tmp_path / "parts", data=data)
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))
    train(small(source=Reused(fresh_steps=1), updates=6), tmp_path / "short", data=data)
    extended = resume(tmp_path / "short", data=data, updates=UPDATES)
    assert_same_bits(weights_of(extended.network), weights_of(whole.network))
    assert replay(tmp_path / "whole", data=data).is_equal
    assert replay(tmp_path / "parts", data=data).is_equal


def test_a_damaged_state_of_reused_is_refused() -> None:
    network = small().model.build(0)
    attack = PGD(Linf(eps=0.3), steps=3)
    for keep in (slice(1, None), slice(0, 0)):
        loader, other = (
            AdversarialLoader(few_images(20), network, attack, updates=4, source=Reused())
            for _ in range(2)
        )
        state = loader.state_dict()
        state["source"] = {name: value[keep] for name, value in state["source"].items()}
        with pytest.raises(CheckpointError, match=r"damaged: source.changes must be .* of shape"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": (Flip(),)}, "without augmentation; got Flip"),
        ({"trainers": 2}, "a single trainer; got 2"),
        ({"attack": PGD(Linf(eps=0.3), restarts=2)}, "restarts"),
    ],
)
def test_reused_refuses_what_moves_or_shares_images(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(source=Reused(), **changes).recipe()


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
