"""An attack leaves no trace: neither on the model nor on any global state."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square
from sparring.errors import ConfigError

MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
ATTACKS = [
    PGD(threat=Linf(eps=0.1), steps=2),
    PGD(threat=L2(eps=0.5), steps=2, start="corner", restarts=2, loss="dlr"),
    PGD(threat=Linf(eps=0.1), steps=0, restarts=2, loss="margin"),
    APGD(threat=Linf(eps=0.1), steps=3, loss="dlr", targets=2),
    APGD(threat=L2(eps=0.5), steps=3),
    FAB(threat=L2(eps=0.5), steps=3, targets=2),
    Square(threat=Linf(eps=0.1), queries=4),
    Square(threat=L2(eps=0.5), queries=4),
]


class Broke(Exception):
    pass


class Fuse(nn.Module):
    """Fails at the call with this number; never if there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Broke
        return x


def network(mode: str) -> nn.Sequential:
    """Batch normalisation and dropout, one frozen layer, some gradients kept from an update."""
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 3, 6), nn.BatchNorm1d(6)),
        nn.Linear(6, 4),
        Fuse(),
    )
    layers.train(mode != "evaluation")
    if mode == "mixed":
        layers[1].eval()
        layers[4].eval()
        layers[4].get_submodule("2").train()
    layers.get_parameter("0.weight").requires_grad_(False)
    kept = layers.get_parameter("5.weight")
    kept.grad = torch.full_like(kept, 3.0)
    return layers


def snapshot(model: nn.Module) -> list[object]:
    parameters = dict(model.named_parameters())
    return [
        {name: None if p.grad is None else p.grad.tolist() for name, p in parameters.items()},
        {name: (p.requires_grad, p.is_leaf) for name, p in parameters.items()},
        {name: module.training for name, module in model.named_modules()},
        {name: value.tolist() for name, value in model.state_dict().items()},
        torch.get_rng_state().tolist(),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    ]


@contextmanager
def nothing_changed(model: nn.Module, *tensors: Tensor) -> Iterator[None]:
    before, copies = snapshot(model), [tensor.clone() for tensor in tensors]
    gradient = model.get_parameter("5.weight").grad
    yield
    assert snapshot(model) == before
    assert model.get_parameter("5.weight").grad is gradient
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor.grad is None


def batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(5, 1, 6, 5, generator=Generator().manual_seed(0))
    return images, torch.tensor([0, 1, 2, 3, 0])


@pytest.mark.parametrize("mode", ["training", "evaluation", "mixed"])
@pytest.mark.parametrize("gradients", MODES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_changes_nothing_but_its_own_generator(attack, gradients, mode):
    model, (images, labels) = network(mode), batch()
    with gradients(), nothing_changed(model, images, labels):
        attack(model, images, labels, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("gradients", MODES)
@pytest.mark.parametrize("calls", [None, 1])
def test_a_search_from_given_points_changes_nothing(calls, gradients):
    model, (images, labels) = network("mixed"), batch()
    fuse = model[-1]
    assert isinstance(fuse, Fuse)
    fuse.calls_left = calls
    failure = nullcontext() if calls is None else pytest.raises(ConfigError, match="Broke")
    with gradients(), nothing_changed(model, images, labels), failure:
        ATTACKS[0].search_from(images, model, images, labels)


@pytest.mark.parametrize("mode", ["training", "mixed"])
@pytest.mark.parametrize("gradients", MODES)
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_model_that_fails_is_left_as_it_was(calls, gradients, mode):
    model, (images, labels) = network(mode), batch()
    fuse = model[-1]
    assert isinstance(fuse, Fuse)
    fuse.calls_left = calls
    with (
        gradients(),
        nothing_changed(model, images, labels),
        pytest.raises(ConfigError, match="Broke"),
    ):
        ATTACKS[1](model, images, labels, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_result_is_the_same_in_every_gradient_mode_and_training_mode(attack):
    images, labels = batch()
    results = []
    for gradients in MODES:
        for mode in ("training", "evaluation", "mixed"):
            torch.manual_seed(0)
            model = network(mode)
            with gradients():
                results.append(attack(model, images, labels, generator=Generator().manual_seed(0)))
    assert all(torch.equal(result, results[0]) for result in results)
    assert not any(result.requires_grad or result.is_inference() for result in results)


def test_images_made_in_inference_mode_can_be_attacked():
    model = network("evaluation")
    images, labels = batch()
    expected = ATTACKS[0](model, images, labels, generator=Generator().manual_seed(0))
    with torch.inference_mode():
        images, labels = images * 1, labels * 1
    found = ATTACKS[0](model, images, labels, generator=Generator().manual_seed(0))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("start", ["none", "uniform"])
def test_images_that_want_a_gradient_get_none(start):
    model, (images, labels) = network("training"), batch()
    images.requires_grad_(True)
    attack = PGD(threat=Linf(eps=0.1), steps=2, start=start)
    with nothing_changed(model, images):
        found = attack(model, images, labels, generator=Generator().manual_seed(0))
    assert not found.requires_grad


def test_a_plain_function_and_its_network_are_attacked_alike():
    model, (images, labels) = network("evaluation"), batch()
    of_module = ATTACKS[0](model, images, labels, generator=Generator().manual_seed(0))
    with nothing_changed(model):
        of_function = ATTACKS[0](
            lambda x: model(x), images, labels, generator=Generator().manual_seed(0)
        )
    assert torch.equal(of_function, of_module)
