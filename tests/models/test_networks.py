"""BatchRenorm2d: the same in training as in evaluation, and BatchNorm2d in all that is stored."""

import pytest
import torch
from torch import nn

from sparring.models import PreActResNet18, SmallNetwork, WideResNet
from sparring.models.networks import BatchRenorm2d

DTYPES = [torch.float32, torch.bfloat16]


def images(seed: int, dtype: torch.dtype, deviation: float = 2.0) -> torch.Tensor:
    drawn = torch.randn(16, 5, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (drawn * deviation + 1).to(dtype)


def trained(dtype: torch.dtype) -> BatchRenorm2d:
    layer = BatchRenorm2d(5)
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.uniform_(layer.bias, -1, 1)
    for number in range(30):
        layer(images(number, dtype, deviation=1 + number / 15))
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_computes_what_evaluation_does(dtype: torch.dtype) -> None:
    layer, new = trained(dtype), images(99, dtype, deviation=4.0)
    in_training = layer(new)
    assert in_training.dtype is dtype
    assert layer.num_batches_tracked == 31
    in_evaluation = layer.eval()(new)
    torch.testing.assert_close(in_training, in_evaluation, atol=0.05, rtol=1e-2)
    plain = nn.BatchNorm2d(5)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(in_evaluation, plain.eval()(new))
    assert not torch.allclose(in_evaluation, plain.train()(new), atol=0.3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_batch_is_normalised_by_its_own_statistics(dtype: torch.dtype) -> None:
    plain, layer, first = nn.BatchNorm2d(5), BatchRenorm2d(5), images(0, dtype)
    torch.testing.assert_close(plain(first), layer(first), atol=0.03, rtol=1e-2)
    torch.testing.assert_close(layer.running_mean, first.float().mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, first.float().var((0, 2, 3)))


def test_running_statistics_move_as_those_of_batchnorm_once_ten_batches_are_seen() -> None:
    layer, plain = trained(torch.float32), nn.BatchNorm2d(5)
    plain.load_state_dict(layer.state_dict())
    for number in range(3):
        layer(images(number, torch.float32))
        plain(images(number, torch.float32))
    for name, value in plain.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), value)


def test_its_gradient_is_that_of_batchnorm_with_the_two_corrections_held_constant() -> None:
    layer, new = trained(torch.float32), images(99, torch.float32).requires_grad_()
    (slope,) = torch.autograd.grad((layer(new) ** 3).sum(), new)
    # A shift of all images, or a scale, moves nothing: statistics of the batch are in the gradient.
    torch.testing.assert_close(slope.sum((0, 2, 3)), torch.zeros(5), atol=1e-1, rtol=0)
    assert slope.abs().max() > 1


def test_far_from_the_running_statistics_the_corrections_are_limited() -> None:
    layer = trained(torch.float32)
    far = images(99, torch.float32) * 1e4
    assert layer(far).abs().max() < 3 * 2 * 16 * 4 + 5 * 2 + 1
    assert torch.isfinite(layer.get_buffer("running_var")).all()


def test_one_number_a_channel_is_refused_before_statistics_move() -> None:
    layer = trained(torch.float32)
    before = layer.get_buffer("running_mean").clone()
    with pytest.raises(ValueError, match="more than 1 value"):
        layer(torch.ones(1, 5, 1, 1))
    assert torch.equal(layer.get_buffer("running_mean"), before)


@pytest.mark.parametrize(
    "spec", [SmallNetwork(width=2), PreActResNet18(), WideResNet(depth=10, width=1)]
)
def test_built_in_networks_compute_the_same_in_both_modes(
    spec: SmallNetwork | PreActResNet18 | WideResNet,
) -> None:
    network = spec.fitted((3, 16, 16), 10).build(0)
    layers = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert layers
    assert all(type(one) is BatchRenorm2d for one in layers)
    new = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(60):
            network(new)
        torch.testing.assert_close(network(new), network.eval()(new), atol=1e-3, rtol=1e-2)
