"""Records of networks: what they build, from what, and what they refuse."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from sparring.bounds import Box, NetworkBounds
from sparring.errors import ConfigError
from sparring.models import (
    Given,
    Imported,
    ModelKind,
    Normalised,
    PaperNetwork,
    PreActResNet18,
    SmallNetwork,
    StridedNetwork,
    WideResNet,
    built_network,
    draw_for_bounds,
    drawing_from,
)
from sparring.models.networks import saturating, wide_resnet
from sparring.records import from_json, to_json

SPECS = [
    (PaperNetwork(), (1, 28, 28), 10),
    (SmallNetwork(width=4), (3, 20, 31), 7),
    (SmallNetwork(width=4), (1, 8, 8), 2),
    (StridedNetwork(filters=4, hidden=8), (1, 28, 28), 10),
    (StridedNetwork(filters=4, hidden=8, saturation=0.1), (3, 20, 20), 10),
    (StridedNetwork(filters=2, hidden=8, initialisation="torch"), (3, 13, 20), 2),
    (PreActResNet18(), (3, 32, 32), 10),
    (WideResNet(depth=10, width=1, dropout=0.3), (3, 32, 32), 5),
    (Normalised(mean=(0.5,), std=(0.25,), network=SmallNetwork(width=4)), (3, 16, 16), 3),
]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("spec", "shape", "classes"), SPECS)
def test_a_record_fitted_to_data_builds_a_network_for_them(spec, shape, classes):
    fitted = spec.fitted(shape, classes)
    network = fitted.build(3).eval()
    assert network(torch.rand(2, *shape)).shape == (2, fitted.outputs(classes))
    assert fitted.fitted(shape, classes) == fitted


@pytest.mark.parametrize(("spec", "shape", "classes"), SPECS)
def test_weights_are_those_of_the_seed_and_nothing_else_is_drawn(spec, shape, classes):
    fitted, before = spec.fitted(shape, classes), torch.get_rng_state()
    one, again, other = (fitted.build(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize(("spec", "shape", "classes"), SPECS)
def test_a_record_comes_back_from_json(spec, shape, classes):
    fitted = spec.fitted(shape, classes)
    stored = to_json(Holder(fitted))["model"]
    assert from_json(ModelKind, stored) == fitted  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Holder:
    model: ModelKind


@pytest.mark.parametrize(
    ("depth", "width", "weights"), [(28, 10, 36_479_194), (34, 10, 46_160_474), (16, 1, 175_066)]
)
def test_a_wide_residual_network_has_as_many_weights_as_published_ones(depth, width, weights):
    """36.5 and 46.2 million are the figures of robust classifiers of CIFAR-10 (RobustBench)."""
    with torch.device("meta"):
        network = wide_resnet(3, 10, depth=depth, width=width)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights


def test_weights_drawn_for_bounds_keep_the_width_of_bounds_from_layer_to_layer():
    layers = [layer for _ in range(4) for layer in (nn.Linear(1000, 1000), nn.ReLU())]
    network = nn.Sequential(nn.Flatten(), *layers)
    with drawing_from(0):
        draw_for_bounds(network)
    images = torch.rand(2, 1, 20, 50)
    with torch.no_grad():
        found = NetworkBounds(network).through(Box(images - 0.1, images + 0.1))
    widths = [float((step.box.high - step.box.low).mean()) for step in found.steps.values()]
    assert widths[2::2] == pytest.approx([0.4] * 4, rel=0.1)


def test_a_normalisation_is_subtract_and_divide():
    spec = Normalised(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), network=SmallNetwork(width=4))
    network = spec.fitted((3, 8, 8), 2).build(0).eval()
    images = torch.rand(4, 3, 8, 8)
    pairs = zip(spec.mean, spec.std, strict=True)
    channels = [(images[:, c] - m) / s for c, (m, s) in enumerate(pairs)]
    expected = network.network(torch.stack(channels, 1))
    torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-6)
    plain = spec.network.fitted((3, 8, 8), 2).build(0)
    assert same(network.network, plain)


@pytest.mark.parametrize(
    ("mean", "std", "complaint"),
    [
        ((0.5,), (0.0,), "and std in"),
        ((125.3,), (63.0,), "Divide those of grey levels by 255"),
        ((0.5, 0.5), (0.5,), "one number for each channel"),
        ((), (), "one number for each channel"),
        ((math.nan,), (0.5,), "mean must lie in"),
        ((0.5,), (math.nan,), "std in"),
        ((0.5, math.nan), (0.5, 0.5), "mean must lie in"),
        (0.5, (0.5,), "mean must be a tuple"),
    ],
)
def test_a_normalisation_of_other_units_is_refused(mean, std, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Normalised(mean=mean, std=std, network=PaperNetwork())


@pytest.mark.parametrize(
    ("kind", "settings", "complaint"),
    [
        (SmallNetwork, {"width": "3"}, "width must be an integer"),
        (StridedNetwork, {"hidden": None}, "hidden must be an integer"),
        (WideResNet, {"depth": 28.0}, "depth must be an integer"),
        (Imported, {"factory": 3}, "factory must be text"),
        (PaperNetwork, {"initialisation": 1}, "initialisation must be one of"),
        (PreActResNet18, {"channels": 1.5}, "channels must be an integer"),
        (Given, {"name": None}, "name must be text"),
        (Normalised, {"mean": (0.5,), "std": (0.5,), "network": 1}, "network must be"),
    ],
)
def test_settings_of_other_types_are_refused(kind, settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        kind(**settings)


@pytest.mark.parametrize(
    ("spec", "shape", "complaint"),
    [
        (PaperNetwork(), (3, 32, 32), r"takes images of shape \(1, 28, 28\).*small-cnn"),
        (SmallNetwork(channels=1), (3, 32, 32), "images of 1 channels.*got 3 channels"),
        (StridedNetwork(), (1, 12, 28), "13 x 13 or larger; got 12 x 28"),
        (StridedNetwork(height=28, width=28), (1, 32, 32), "got 32 x 32 for one of 28 x 28"),
        (
            Normalised(mean=(0.5, 0.5), std=(1.0, 1.0), network=SmallNetwork()),
            (3, 8, 8),
            "one for each of 3 channels",
        ),
    ],
)
def test_a_record_that_does_not_fit_the_data_says_so(spec, shape, complaint):
    with pytest.raises(ConfigError, match=complaint):
        spec.fitted(shape, 10)


@pytest.mark.parametrize(
    "spec",
    [
        SmallNetwork(),
        StridedNetwork(channels=1, num_classes=10),
        Normalised(mean=(0.5,), std=(1.0,), network=WideResNet()),
    ],
)
def test_a_record_that_no_data_were_fitted_to_builds_nothing(spec):
    with pytest.raises(ConfigError, match="must be fitted to the data before it is built"):
        built_network(spec, None)


@pytest.mark.parametrize("depth", [9, 27, 4])
def test_a_depth_that_no_wide_residual_network_has_is_refused(depth):
    with pytest.raises(ConfigError, match="6n \\+ 4"):
        WideResNet(depth=depth)


OWN = """
import torch
from torch import nn

ANSWER = 42

def small(hidden=8, name="x"):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))

def failing():
    raise OSError("no weights here")

def nothing():
    return None
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own_nets.py").write_text(OWN)
    return tmp_path


def test_a_factory_in_a_file_is_called_with_its_arguments(own):
    spec = Imported(factory=f"{own}/own_nets.py:small", arguments=("hidden=5", "name=abc"))
    network = spec.fitted((1, 28, 28), 10).build(1)
    assert network.get_parameter("1.weight").shape == (5, 784)
    assert same(network, spec.build(1))
    assert not same(network, spec.build(2))


def test_a_factory_in_a_module_is_found_from_the_folder_one_stands_in(own, monkeypatch):
    monkeypatch.chdir(own)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert Imported(factory="own_nets:small").build(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        ("small", "package.module:name or file.py:name"),
        ("no_such_module_of_ours:small", "there is no module no_such_module_of_ours"),
        ("{}/nowhere.py:small", "there is no .*nowhere.py"),
        ("{}/own_nets.py:smal", "it has no smal. Did you mean small"),
        ("{}/own_nets.py:ANSWER", "is an int, not a function or class"),
        ("{}/own_nets.py:failing", "failed with no arguments: OSError: no weights here"),
        ("{}/own_nets.py:nothing", "returned None, not a torch.nn.Module"),
        ("{}/broken.py:small", "whose code failed: ZeroDivisionError"),
    ],
)
def test_a_factory_that_cannot_be_had_says_why(own, factory, complaint):
    (own / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=complaint):
        Imported(factory=factory.format(own)).build(0)


def test_an_argument_that_the_factory_does_not_take_is_told(own):
    with pytest.raises(ConfigError, match=r"failed with depth=3: TypeError"):
        Imported(factory=f"{own}/own_nets.py:small", arguments=("depth=3",)).build(0)


def test_an_argument_that_the_factory_lacks_is_told_with_the_flag_for_it(own):
    (own / "wide.py").write_text("def wide(width, depth=2): ...\n")
    with pytest.raises(
        ConfigError, match=r"needs width; got no arguments\. Add --model-args width="
    ):
        Imported(factory=f"{own}/wide.py:wide").build(0)


def test_a_given_network_is_copied_and_only_its_owner_can_build_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    spec = Given(name="Sequential")
    copied = built_network(spec, network)
    assert same(copied, network)
    assert copied is not network
    with pytest.raises(
        ConfigError, match=r"Pass network=.* On the command line .* --model file\.py:factory --init"
    ):
        spec.build(0)
    wrapped = built_network(Normalised(mean=(0.5,), std=(0.5,), network=spec), network)
    bias = network.get_parameter("1.bias")
    assert wrapped(torch.full((1, 1, 1, 3), 0.5)).flatten().allclose(bias)


def test_saturating_is_a_line_between_its_ends():
    pixels = torch.linspace(0, 1, 41).view(1, 1, 1, -1)
    wanted = ((pixels - 0.3) / 0.4).clamp(0, 1)
    torch.testing.assert_close(saturating(1, 0.3)(pixels), wanted, rtol=0, atol=1e-6)


def test_black_and_white_pixels_of_a_saturating_network_do_not_change_within_the_margin():
    spec = StridedNetwork(filters=3, hidden=8, saturation=0.25).fitted((1, 16, 16), 4)
    network = spec.build(0).eval()
    pure = (torch.rand(5, 1, 16, 16) > 0.5).float()
    moved = (pure + 0.25 * (2 * torch.rand(pure.shape) - 1)).clamp(0, 1)
    assert torch.equal(network(pure), network(moved))
    images = pure.double()
    box = Box((images - 0.25).clamp_min(0), (images + 0.25).clamp_max(1))
    logits = NetworkBounds(network).through(box).logits
    assert torch.equal(logits.low, logits.high)
    moved[:, :, 3:5] = 0.5
    assert not torch.equal(network(pure), network(moved))
