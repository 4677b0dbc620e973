"""Evaluation mode ends with every flag as it was."""

import pytest
from torch import nn

from sparring.models import evaluation_mode


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
