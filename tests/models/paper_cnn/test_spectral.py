"""The paper's CNN by frequencies is the paper's CNN layer by layer, gradients included."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sparring.models import PaperCNN, PaperNetwork, WorkingCopy
from sparring.models.arithmetic import DirectCopy
from sparring.models.paper_cnn import spectral
from sparring.models.paper_cnn.spectral import SpectralCopy


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> PaperCNN:
    return PaperNetwork().build(seed).to(dtype)


def noise(num: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 28, 28, generator=Generator().manual_seed(seed), dtype=dtype)


def digits(num: int) -> Tensor:
    """Noise in the middle, black around it."""
    return F.pad(noise(num)[..., 6:22, 6:22], (6, 6, 6, 6))


def passes(copy: WorkingCopy, images: Tensor, network: PaperCNN) -> dict[str, Tensor]:
    """Logits, and the gradients of some loss by every parameter and by the images."""
    images = images.clone().requires_grad_(True)
    logits = copy.trained(images)
    labels = torch.arange(len(images)) % 10
    loss = F.cross_entropy(logits, labels)
    names, parameters = zip(*network.named_parameters(), strict=True)
    of_weights = torch.autograd.grad(loss, parameters, retain_graph=True)
    (of_images,) = torch.autograd.grad(loss, images)
    named = dict(zip(names, of_weights, strict=True))
    return named | {"logits": logits.detach(), "images": of_images}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to the largest number of each tensor."""
    for name, value in expected.items():
        assert found[name].shape == value.shape
        atol = tolerance * float(value.abs().max())
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )


def both(network: PaperCNN, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found = passes(SpectralCopy(network), images, network)
    return found, passes(DirectCopy(network), images, network)


@pytest.mark.parametrize("num", [1, 2, 7, 128])
def test_logits_and_every_gradient_are_those_of_the_network(num):
    assert_alike(*both(network(), noise(num)), tolerance=1e-12)


def test_in_single_precision_they_agree_up_to_rounding():
    assert_alike(*both(network(torch.float32), noise(16, torch.float32)), tolerance=1e-4)


@pytest.mark.parametrize("images", [torch.zeros(3, 1, 28, 28).double(), digits(5)])
def test_even_surfaces_change_neither_logits_nor_the_update(images):
    """Where a surface is even, rounding decides which of equal maxima passes the gradient on:

    the gradient by the images may move by one place, that by the weights is the same.
    """
    found, expected = both(network(), images)
    del found["images"], expected["images"]
    assert_alike(found, expected, tolerance=1e-12)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_of_exactly_equal_maxima_the_first_gets_the_gradient_in_both(layer):
    """Half the channels are 0 everywhere without any rounding; the rest keep other ties away."""
    model = network()
    model.get_parameter(f"{layer}.weight").data[::2].zero_()
    found, expected = both(model, noise(3))
    assert float(expected[f"{layer}.weight"][::2].abs().max()) > 0
    assert_alike(found, expected, tolerance=1e-12)


def test_dead_units_get_no_gradient():
    model = network()
    torch.nn.init.constant_(model.get_parameter("conv2.bias"), -1e3)
    found, expected = both(model, noise(2))
    assert_alike(found, expected, tolerance=1e-12)
    assert float(found["images"].abs().max()) == 0


def test_the_attacked_logits_and_their_gradient_are_those_of_the_network():
    model, images = network(), noise(3).requires_grad_(True)
    logits = SpectralCopy(model).attacked(images)
    (found,) = torch.autograd.grad(logits.square().sum(), images)
    (expected,) = torch.autograd.grad(model(images).square().sum(), images)
    torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_images_of_any_layout_in_memory_are_the_same_images():
    model, images = network(), noise(4)
    copy, expected = SpectralCopy(model), model(noise(4))
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    sliced = torch.cat([images, images])[::2]
    torch.testing.assert_close(copy.attacked(turned), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        copy.attacked(sliced), expected[torch.arange(8)[::2] % 4], rtol=1e-12, atol=1e-12
    )


@pytest.fixture
def no_tables() -> Iterator[None]:
    """As in a new process: the constant matrices of the transforms are not yet made."""
    spectral._tables.cache_clear()
    yield
    spectral._tables.cache_clear()


@pytest.mark.usefixtures("no_tables")
def test_a_first_pass_in_inference_mode_does_not_spoil_later_updates():
    with torch.inference_mode():
        SpectralCopy(network()).attacked(noise(2))
    model = network()
    SpectralCopy(model).trained(noise(2)).sum().backward()
    assert all(value.grad is not None for value in model.parameters())
