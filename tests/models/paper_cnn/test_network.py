"""The paper's network: its function, its size and how it begins."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from models import reference
from sparring.models import Initialisation, PaperCNN, PaperNetwork

INITIALISATIONS: list[Initialisation] = ["madry", "torch"]
FAN_IN = {"conv1": 25, "conv2": 25 * 32, "fc1": 3136, "fc2": 1024}


def digits(num: int, seed: int = 0) -> Tensor:
    """Images with a black border, as those of MNIST have."""
    images = torch.zeros(num, 1, 28, 28)
    images[:, :, 4:24, 4:24] = torch.rand(num, 1, 20, 20, generator=Generator().manual_seed(seed))
    return images


def test_it_has_the_size_of_the_original():
    network = PaperCNN()
    counts = {name: value.numel() for name, value in network.named_parameters()}
    assert counts == {
        "conv1.weight": 5 * 5 * 32,
        "conv1.bias": 32,
        "conv2.weight": 5 * 5 * 32 * 64,
        "conv2.bias": 64,
        "fc1.weight": 7 * 7 * 64 * 1024,
        "fc1.bias": 1024,
        "fc2.weight": 1024 * 10,
        "fc2.bias": 10,
    }
    assert sum(counts.values()) == 3_274_634
    assert all(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
@pytest.mark.parametrize("images", [digits(2), torch.rand(2, 1, 28, 28)], ids=["digits", "noise"])
def test_it_is_the_original_in_tensorflows_terms(initialisation, images):
    network = PaperNetwork(initialisation=initialisation).build(0).double()
    found = network(images.double()).detach().numpy()
    np.testing.assert_allclose(found, reference.logits(network, images), rtol=1e-11, atol=1e-12)


def test_in_single_precision_it_is_the_original_up_to_rounding():
    network, images = PaperNetwork().build(1), digits(2)
    expected = reference.logits(network, images)
    found = network(images).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_madrys_weights_are_a_truncated_normal_and_its_biases_a_tenth():
    network = PaperNetwork(initialisation="madry").build(0)
    # Variance of a unit normal within two deviations: 1 - 4 φ(2) / (2 Φ(2) - 1).
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    deviation = 0.1 * math.sqrt(1 - 4 * density / math.erf(math.sqrt(2)))
    for name in FAN_IN:
        weight = network.get_parameter(f"{name}.weight")
        within = 5 / math.sqrt(weight.numel())
        assert weight.abs().max().item() <= 0.2
        assert weight.mean().item() == pytest.approx(0, abs=deviation * within)
        assert weight.std().item() == pytest.approx(deviation, rel=within)
        assert bool((network.get_parameter(f"{name}.bias") == 0.1).all())
    # A clipped normal would have its extremes many times over.
    assert int((network.get_parameter("fc1.weight").abs() == 0.2).sum()) < 100


def test_pytorchs_weights_and_biases_are_uniform_within_one_over_the_root_of_the_fan_in():
    network = PaperNetwork(initialisation="torch").build(0)
    for name, fan_in in FAN_IN.items():
        bound = 1 / math.sqrt(fan_in)
        for kind in ("weight", "bias"):
            value = network.get_parameter(f"{name}.{kind}")
            assert value.abs().max().item() <= bound
            within = 5 / math.sqrt(value.numel())
            assert value.mean().item() == pytest.approx(0, abs=bound * within)
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=within)


def test_small_is_pytorchs_with_a_quarter_of_the_first_layer_and_no_biases():
    drawn = PaperNetwork(initialisation="torch").build(3)
    network = PaperNetwork(initialisation="small").build(3)
    for name in FAN_IN:
        share = 0.25 if name == "conv1" else 1
        expected = drawn.get_parameter(f"{name}.weight") * share
        assert torch.equal(network.get_parameter(f"{name}.weight"), expected)
        assert not bool(network.get_parameter(f"{name}.bias").any())
    assert all(value.is_leaf and value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 500, 5), nn.Linear(75, 500)])
def test_pytorch_itself_begins_so(layer):
    """The bound that the test above takes for PyTorch's default is PyTorch's default."""
    for value in (layer.weight, layer.bias):
        assert 0.97 < value.abs().max().item() * math.sqrt(75) <= 1


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_the_same_seed_gives_the_same_weights_whatever_the_global_seed(initialisation):
    description = PaperNetwork(initialisation=initialisation)
    torch.manual_seed(1)
    first = description.build(5)
    torch.manual_seed(2)
    second, other = description.build(5), description.build(6)
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        constant = bool((a == a.flatten()[0]).all())
        assert constant or not torch.equal(a, c)


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_building_leaves_the_global_random_state_as_it_was(initialisation):
    before = torch.get_rng_state()
    PaperNetwork(initialisation=initialisation).build(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_description_knows_what_goes_in_and_comes_out():
    description = PaperNetwork()
    assert description.fitted((1, 28, 28), 4) == description
    images = torch.zeros(3, 1, 28, 28)
    assert description.build(0)(images).shape == (3, description.outputs(4))
