"""Working copies compute the network's own function, for attacks and for updates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from sparring.errors import ConfigError
from sparring.models import (
    Normalised,
    PaperCNN,
    PaperNetwork,
    SmallNetwork,
    WorkingCopy,
    arithmetic,
    evaluation_mode,
    has_bf16_units,
    possible_precision,
    working_copy,
)
from sparring.models.arithmetic import BFloat16Copy, DirectCopy
from sparring.models.paper_cnn.spectral import SpectralCopy

CPU = torch.device("cpu")
rounded_spectral = partial(SpectralCopy, rounded=True)
COPIES = [DirectCopy, BFloat16Copy, SpectralCopy, rounded_spectral]
"""Every way to compute the paper's CNN."""


def noise(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 28, 28, generator=Generator().manual_seed(seed))


def normalised() -> nn.Module:
    """A network with running statistics and dropout, one part of it evaluating."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 24**2, 3)
    )
    layers[2].eval()
    return layers


@contextmanager
def nothing_changed(network: nn.Module) -> Iterator[None]:
    def snapshot() -> list[object]:
        return [
            {name: value.clone() for name, value in network.state_dict().items()},
            {name: module.training for name, module in network.named_modules()},
            {name: (p.requires_grad, p.grad) for name, p in network.named_parameters()},
            torch.get_rng_state().tolist(),
        ]

    (weights, *rest), pointers = snapshot(), [p.data_ptr() for p in network.parameters()]
    yield
    (weights_now, *rest_now) = snapshot()
    assert rest_now == rest
    assert isinstance(weights, dict)
    assert isinstance(weights_now, dict)
    assert all(torch.equal(weights_now[name], value) for name, value in weights.items())
    assert [p.data_ptr() for p in network.parameters()] == pointers


@pytest.mark.parametrize("make", COPIES)
def test_an_attacks_gradient_reaches_the_images_and_no_parameter(make: Callable[..., WorkingCopy]):
    network, images = PaperNetwork().build(0), noise(2).requires_grad_(True)
    copy = make(network)
    with nothing_changed(network):
        logits = copy.attacked(images)
        logits.square().sum().backward()
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 10)
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0
    assert not copy.attacked(noise(2)).requires_grad


@pytest.mark.parametrize("make", COPIES)
def test_an_updates_gradient_reaches_every_parameter_in_single_precision(make):
    network = PaperNetwork().build(0)
    logits = make(network).trained(noise(2))
    logits.square().sum().backward()
    assert logits.dtype == torch.float32
    for name, value in network.named_parameters():
        assert value.grad is not None, name
        assert value.grad.dtype == torch.float32
        assert value.grad.shape == value.shape
        assert float(value.grad.abs().max()) > 0, name


@pytest.mark.parametrize("make", COPIES)
def test_after_a_refresh_a_copy_is_that_of_the_updated_network(make):
    network, images = PaperNetwork().build(0), noise(2)
    copy = make(network)
    before = copy.attacked(images)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(1.1)
    copy.refresh()
    expected = make(network)
    assert not torch.equal(copy.attacked(images), before)
    assert torch.equal(copy.attacked(images), expected.attacked(images))
    assert torch.equal(copy.trained(images), expected.trained(images))
    copy.trained(images).sum().backward()
    assert all(value.grad is not None for value in network.parameters())


@pytest.mark.parametrize("make", [BFloat16Copy, SpectralCopy, rounded_spectral])
def test_without_a_refresh_a_derived_copy_keeps_to_the_old_kernels(make):
    network, images = PaperNetwork().build(0), noise(2)
    copy = make(network)
    before = copy.attacked(images)
    with torch.no_grad():
        network.get_parameter("conv1.weight").mul_(1.1)
        network.get_parameter("conv2.weight").mul_(1.1)
    assert torch.equal(copy.attacked(images), before)


@pytest.mark.parametrize("make", COPIES)
def test_a_refresh_among_code_without_gradients_still_serves_the_next_update(make):
    network = PaperNetwork().build(0)
    copy = make(network)
    with torch.no_grad():
        copy.refresh()
    copy.trained(noise(1)).sum().backward()
    assert all(value.grad is not None for value in network.parameters())


def rounded(value: Tensor) -> Tensor:
    return value.detach().bfloat16().double()


def test_the_bf16_copy_is_a_network_of_rounded_weights_on_rounded_images():
    """Small whole numbers have no rounding of their own, so only that of the inputs shows."""
    network = nn.Linear(3, 2)
    just_above_one = 1 + 2**-9  # bf16 has steps of 2**-7 here: it rounds to 1
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0, just_above_one], [4.0, 0.5, -1.0]]))
        network.bias.copy_(torch.tensor([just_above_one, -1.0]))
    images = torch.tensor([[2.0, 1.0, 3 * just_above_one]], requires_grad=True)
    copy = BFloat16Copy(network)
    assert copy.attacked(images).tolist() == [[8.0, 4.5]]
    logits = copy.trained(images)
    assert logits.tolist() == [[8.0, 4.5]]
    logits[0, 0].backward()
    assert network.weight.grad is not None
    assert network.weight.grad.tolist() == [[2, 1, 3], [0, 0, 0]]
    assert images.grad is not None
    assert images.grad.tolist() == [[1, 2, 1]]


@pytest.mark.parametrize("make", [BFloat16Copy, rounded_spectral])
def test_the_papers_network_in_bf16_is_near_that_of_rounded_weights(make):
    network, images = PaperNetwork(initialisation="torch").build(0), noise(2)
    expected = PaperNetwork().build(0).double()
    with torch.no_grad():
        for ours, theirs in zip(expected.parameters(), network.parameters(), strict=True):
            ours.copy_(rounded(theirs))
    copy, inputs = make(network), images.clone().requires_grad_(True)
    doubles = rounded(images).requires_grad_(True)
    right = expected(doubles)
    # Each layer keeps 8 significant bits: 2**-8 of the size of its numbers.
    within = 4 * 2**-8 * right.detach().abs().max().item()
    for logits in (copy.attacked(inputs), copy.trained(images)):
        torch.testing.assert_close(logits.double(), right, rtol=0, atol=within)
    (found,) = torch.autograd.grad(copy.attacked(inputs).square().sum(), inputs)
    (gradient,) = torch.autograd.grad(right.square().sum(), doubles)
    cosine = torch.cosine_similarity(found.double().flatten(), gradient.flatten(), dim=0)
    assert float(cosine) > 0.98


def test_an_attack_on_any_module_evaluates_and_leaves_statistics_and_flags():
    network, images = normalised(), noise(4)
    copy = working_copy(network, "fp32")
    with nothing_changed(network):
        found = copy.attacked(images)
    with evaluation_mode(network):
        expected = network(images)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-6)


def test_an_update_of_any_module_runs_in_the_networks_own_mode():
    network, images = normalised(), noise(4)
    working_copy(network).trained(images)
    counter = network.get_buffer("1.num_batches_tracked")
    assert int(counter) == 1


class Standardised(nn.Module):
    """Normalisation as the first layer, by constants that are no parameters."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((4,), 0.5))
        self.layer = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images - self.mean)


def test_a_network_with_float_buffers_of_its_own_stays_in_single_precision():
    images, network = torch.rand(2, 4), Standardised()
    copy = working_copy(network)
    assert copy.name == "fp32 direct"
    torch.testing.assert_close(copy.attacked(images), network(images).detach())
    with pytest.raises(ConfigError, match=r"Standardised has floating-point buffers in itself"):
        working_copy(network, "bf16")


def test_a_normalised_network_with_statistics_is_nearly_itself_in_bf16():
    spec = Normalised(mean=(0.3,), std=(0.4,), network=SmallNetwork(width=8))
    network = spec.fitted((3, 16, 16), 5).build(0)
    images = torch.rand(16, 3, 16, 16, generator=Generator().manual_seed(1))
    network.train()(images)
    copy = working_copy(network, "bf16")
    with nothing_changed(network):
        found = copy.attacked(images)
        with evaluation_mode(network):
            expected = network(images).detach()
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.02
    assert not torch.equal(found, expected)


def test_an_update_in_bf16_moves_the_statistics_as_one_in_single_precision():
    one, other = (SmallNetwork(width=8).fitted((1, 16, 16), 3).build(0) for _ in range(2))
    images = torch.rand(32, 1, 16, 16, generator=Generator().manual_seed(1))
    working_copy(one, "bf16").trained(images).sum().backward()
    working_copy(other, "fp32").trained(images).sum().backward()
    for name, value in one.named_buffers():
        assert value.dtype == other.get_buffer(name).dtype
        torch.testing.assert_close(value, other.get_buffer(name), rtol=0.05, atol=0.01)
    assert all(parameter.grad is not None for parameter in one.parameters())


def test_a_network_that_fails_keeps_its_flags():
    network, too_small = normalised(), noise(2)[..., :9, :9]
    with nothing_changed(network), pytest.raises(RuntimeError):
        DirectCopy(network).attacked(too_small)


def has(monkeypatch: pytest.MonkeyPatch, **capabilities: object) -> None:
    """Make PyTorch say that the processor has these."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


INTEL = {"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_bf16": True}
AMD = {"cpu_name": "AMD EPYC", "avx512_bf16": True}
AMX = INTEL | {"amx_bf16": True}


@pytest.mark.parametrize(
    ("capabilities", "papers", "others"),
    [
        ({}, "fp32 spectral", "fp32 direct"),
        (AMD | {"avx512_bf16": False}, "fp32 spectral", "fp32 direct"),
        (INTEL, "fp32 spectral", "fp32 direct"),
        (AMD, "bf16 spectral", "bf16 shadow, channels-last"),
        (AMX, "bf16 shadow, channels-last", "bf16 shadow, channels-last"),
    ],
)
def test_auto_takes_what_is_fastest_on_the_processor(monkeypatch, capabilities, papers, others):
    has(monkeypatch, **capabilities)
    assert has_bf16_units(CPU) is papers.startswith("bf16")
    assert working_copy(PaperNetwork().build(0)).name == papers
    assert working_copy(nn.Linear(3, 2)).name == others


class Centred(nn.Module):
    """Subtracts a constant that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.full((1, 3, 1, 1), 0.5)
        self.layer = nn.Conv2d(3, 2, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images - self.mean).flatten(1)


@pytest.mark.parametrize(("capabilities", "possible"), [({}, "auto"), (AMD, "fp32"), (AMX, "fp32")])
def test_a_network_that_fails_in_bf16_is_not_computed_in_it(monkeypatch, capabilities, possible):
    has(monkeypatch, **capabilities)
    images = torch.rand(8, 3, 4, 4)
    assert possible_precision(Centred(), "fp32", images) == "fp32"
    assert possible_precision(Centred(), "auto", images) == possible
    plain = nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())
    assert [possible_precision(plain, p, images) for p in ("auto", "bf16")] == ["auto", "bf16"]
    assert not images.requires_grad
    with pytest.raises(
        ConfigError, match=r"Centred failed in precision bf16 \(RuntimeError: .*--mean, --std"
    ):
        possible_precision(Centred(), "bf16", images)


def strided(size: int) -> tuple[nn.Module, Tensor]:
    """A network, and images of which its second convolution sees one of that size."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, stride=2, padding=1)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network, torch.rand(8, 3, size, size)


def test_an_input_smaller_than_a_stride_is_not_computed_in_bf16(monkeypatch):
    """PyTorch's gradient of the weights is then read from memory that was never written."""
    has(monkeypatch, **AMX)
    network, images = strided(1)
    assert possible_precision(network, "auto", images) == "fp32"
    assert possible_precision(network, "fp32", images) == "fp32"
    with pytest.raises(ConfigError, match=r"stride 2 gets a smaller input, 1 x 1"):
        possible_precision(network, "bf16", images)
    assert possible_precision(*strided(2)[:1], "auto", strided(2)[1]) == "auto"


def test_who_asks_about_bf16_disturbs_neither_the_network_nor_the_random_state(monkeypatch):
    has(monkeypatch, **AMD)
    layers = nn.Conv2d(3, 2, 4), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten()
    network, images = nn.Sequential(*layers).train(), torch.rand(8, 3, 4, 4)
    before, drawn = deepcopy(network.state_dict()), torch.get_rng_state()
    assert possible_precision(network, "auto", images) == "auto"
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("capabilities", [{}, INTEL, AMD, AMX])
def test_a_precision_that_is_asked_for_is_taken_on_any_processor(monkeypatch, capabilities):
    has(monkeypatch, **capabilities)
    assert working_copy(PaperNetwork().build(0), "fp32").name == "fp32 spectral"
    assert working_copy(nn.Linear(3, 2), "fp32").name == "fp32 direct"
    assert working_copy(PaperNetwork().build(0), "bf16").name.startswith("bf16 ")
    assert working_copy(nn.Linear(3, 2), "bf16").name == "bf16 shadow, channels-last"


def test_a_pytorch_that_cannot_tell_what_the_processor_has_computes_in_single_precision(
    monkeypatch,
):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bf16_units(CPU)


class Doubled(PaperCNN):
    """The same layers, another function."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def test_a_network_derived_from_the_papers_is_computed_as_it_says():
    network = Doubled(generator=Generator().manual_seed(0))
    found = working_copy(network, "fp32").attacked(noise(2))
    torch.testing.assert_close(found, network(noise(2)).detach(), rtol=1e-4, atol=1e-3)


def unchecked(network: nn.Module, precision: object) -> object:
    """Past the type checks of the tests, which would refuse the word themselves."""
    return working_copy.__wrapped__(network, precision)  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize("precision", ["fp16", "float32", ""])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(ConfigError, match=rf'fp32; got "{precision}"'):
        unchecked(nn.Linear(3, 2), precision)


class Complex(nn.Module):
    """Weights with an imaginary part, and integers, that bf16 must leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([1 + 2j, 3j, -1 + 0.5j]))
        self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.layer = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        found = self.layer(images.flatten(1).to(self.layer.weight.dtype)).float() * self.turn
        return (found.real + found.imag)[:, self.order]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_arithmetic_loses_an_imaginary_part_or_rounds_an_integer(precision):
    torch.manual_seed(0)
    network, images = Complex(), torch.rand(4, 1, 8, 8)
    copy = working_copy(network, precision)
    wanted = network(images)
    allowed = 0.0 if precision == "fp32" else 0.02
    torch.testing.assert_close(copy.attacked(images), wanted, rtol=allowed, atol=allowed)
    (gradient,) = torch.autograd.grad(copy.trained(images).sum(), network.turn)
    (exact,) = torch.autograd.grad(wanted.sum(), network.turn)
    torch.testing.assert_close(gradient, exact, rtol=allowed, atol=allowed)


def test_double_precision_is_rounded_only_by_an_express_wish(monkeypatch):
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert working_copy(network, "auto").name.startswith("bf16")
    assert working_copy(network.double(), "auto").name == "fp64 direct"
    assert working_copy(network, "bf16").name.startswith("bf16")


class InTraining(nn.Module):
    """Fails in training mode: in bf16 only, or in every precision."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.layer, self.always = nn.Linear(64, 3), always

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        if self.training and (self.always or logits.dtype != torch.float32):
            raise TypeError("neither here nor there")
        return logits


def test_a_network_that_fails_in_bf16_only_in_training_mode_has_single_precision(monkeypatch):
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: True)
    images = torch.rand(4, 1, 8, 8)
    assert possible_precision(InTraining(always=False), "auto", images) == "fp32"
    assert possible_precision(InTraining(always=True), "auto", images) == "auto"
    with pytest.raises(
        ConfigError, match=r"failed in precision bf16 .TypeError: neither here nor there"
    ):
        possible_precision(InTraining(always=False), "bf16", images)


class Grouped(nn.Module):
    """Group norm of features that need no gradient, by a layer or by the function."""

    def __init__(self, *, by_layer: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 4)
        self.first.requires_grad_(requires_grad=False)
        self.groups = nn.GroupNorm(2, 4) if by_layer else nn.BatchNorm2d(4)
        self.by_layer = by_layer

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        if self.by_layer:
            return self.last(self.groups(hidden).flatten(1))
        weight, bias = self.groups.weight, self.groups.bias
        return self.last(functional.group_norm(hidden, 2, weight, bias).flatten(1))


def test_a_group_norm_behind_frozen_layers_trains_in_bf16() -> None:
    network, images = Grouped(by_layer=True), torch.rand(8, 1, 8, 8)
    assert possible_precision(network, "bf16", images) == "bf16"
    copies = [working_copy(network, precision) for precision in ("bf16", "fp32")]
    trained = [network.groups.weight, network.groups.bias]
    for _ in range(20):  # such a backward pass crashed now and then
        found, wanted = (
            torch.autograd.grad(copy.trained(images).square().sum(), trained) for copy in copies
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.float(), other, rtol=0.1, atol=0.1)


def test_a_call_of_group_norm_that_would_crash_is_refused_in_bf16() -> None:
    network, images = Grouped(by_layer=False), torch.rand(8, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"group_norm gets a channels-last input"):
        possible_precision(network, "bf16", images)
