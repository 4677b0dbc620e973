"""Evaluation mode ends with every flag as it was; networks are copied with what they keep."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparring.errors import ConfigError
from sparring.models import copied, evaluation_mode

IMAGES = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def weight_normalised() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(6, 3))


def pruned() -> nn.Module:
    layer = nn.Linear(6, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


class Keeping(nn.Module):
    """Keeps results of its passes: in an attribute, in a list and within an object."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept, self.all, self.within = nn.Linear(6, 3), None, [], {"of": ()}

    def forward(self, images: Tensor) -> Tensor:
        self.kept = self.layer(images)
        self.all.append(self.kept * 2)
        self.within = {"of": (self.kept.exp(),)}
        return self.kept.clone()


@pytest.mark.parametrize(
    "make",
    [
        Keeping,
        weight_normalised,
        pruned,
        lambda: nn.utils.spectral_norm(nn.Linear(6, 3)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 3)),
    ],
)
def test_a_copy_of_a_network_that_was_used_computes_and_trains_alike(make):
    torch.manual_seed(0)
    network = make()
    network(IMAGES)
    network.eval()
    copy = copied(network)
    wanted, found = network(IMAGES), copy(IMAGES)
    assert torch.equal(wanted, found)
    for one, other in zip(network.parameters(), copy.parameters(), strict=True):
        assert one.data_ptr() != other.data_ptr()
    gradients = [
        torch.autograd.grad(out.sum(), list(each.parameters()))
        for out, each in ((wanted, network), (found, copy))
    ]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_shared_parameters_stay_shared():
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    network[1].weight = network[0].weight
    copy = copied(network)
    assert copy[1].weight is copy[0].weight is not network[0].weight


def with_attribute(value: Any) -> nn.Module:
    network = nn.Linear(6, 3)
    network.attribute = value
    return network


def viewed(*, buffer: bool) -> nn.Module:
    network = nn.Linear(6, 3)
    view = network.weight.detach().t()
    if buffer:
        network.register_buffer("view", view)
    else:
        network.view = nn.Parameter(view)
    return network


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (with_attribute(threading.Lock()), "cannot be copied: TypeError: .*lock"),
        (with_attribute(number for number in range(3)), "cannot be copied: TypeError: .*generator"),
        (viewed(buffer=True), "view and weight|weight and view"),
        (viewed(buffer=False), "view and weight|weight and view"),
    ],
)
def test_what_cannot_be_copied_is_told(network, complaint):
    with pytest.raises(ConfigError, match=complaint):
        copied(network)


def test_views_of_one_memory_that_do_not_overlap_are_copied():
    network, memory = nn.Linear(6, 3), torch.rand(8)
    network.first, network.second = nn.Parameter(memory[:4]), nn.Parameter(memory[4:])
    assert torch.equal(copied(network).get_parameter("first"), memory[:4])


def mixed() -> nn.Module:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
    network.train()
    network[1].eval()
    network.get_submodule("1.0").train()
    return network


def flags(network: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in network.named_modules()}


def test_inside_every_module_evaluates_and_after_it_each_has_its_own_flag_again():
    network = mixed()
    before = flags(network)
    assert set(before.values()) == {True, False}
    with evaluation_mode(network):
        assert not any(flags(network).values())
    assert flags(network) == before


def test_flags_are_restored_after_an_error():
    network = mixed()
    before = flags(network)
    with pytest.raises(KeyError), evaluation_mode(network):
        raise KeyError
    assert flags(network) == before


def test_blocks_may_be_nested():
    network = mixed()
    before = flags(network)
    with evaluation_mode(network):
        with evaluation_mode(network):
            assert not any(flags(network).values())
        assert not any(flags(network).values())
    assert flags(network) == before


def test_a_function_has_no_mode():
    with evaluation_mode(len):
        assert len([1]) == 1


def test_a_network_is_held_until_the_last_of_overlapping_blocks_ends() -> None:
    norm = nn.BatchNorm1d(6)
    network = nn.Sequential(norm, nn.Linear(6, 3)).train()
    first, second = evaluation_mode(network), evaluation_mode(network)
    first.__enter__()
    second.__enter__()
    norm.register_buffer("running_mean", torch.ones(6))
    first.__exit__(None, None, None)
    assert not network.training
    assert not norm.training
    assert not any(weight.requires_grad for weight in network.parameters())
    second.__exit__(None, None, None)
    assert network.training
    assert norm.training
    assert all(weight.requires_grad for weight in network.parameters())
    assert norm.running_mean is not None
    assert not norm.running_mean.any()
