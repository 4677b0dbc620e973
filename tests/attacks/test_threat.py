"""Threats: what they allow, the nearest allowed image, and where a search begins."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from attacks import oracles
from sparring.attacks import L2, STARTS, Linf, Threat
from sparring.errors import ConfigError

law = settings(derandomize=True, max_examples=80)

SHAPES = [(8,), (1, 4, 6), (3, 5, 7)]
GREY = 1 / 255
LINF = [Linf(eps=eps) for eps in (GREY, 8 * GREY, 0.3, 1.0)]
BALLS = [L2(eps=eps) for eps in (GREY, 0.5, 2.0, 50.0)]
RANDOM_STARTS = ["uniform", "corner"]


def clean(shape: tuple[int, ...], num: int = 5, seed: int = 0) -> Tensor:
    """Images of which about a third of the pixels are black and a third white."""
    pixels = torch.rand(num, *shape, generator=Generator().manual_seed(seed))
    return pixels.mul_(3).sub_(1).clamp_(0, 1)


def beyond(images: Tensor, reach: float, seed: int = 1) -> Tensor:
    """The images moved by up to `reach` in every pixel, out of the pixel range too."""
    noise = torch.rand(images.shape, generator=Generator().manual_seed(seed), dtype=images.dtype)
    return images + reach * (2 * noise - 1)


def assert_allowed(threat: Threat, x: Tensor, images: Tensor) -> None:
    """In [0, 1] exactly; within eps up to what the docstrings grant to rounding."""
    assert x.shape == images.shape
    assert x.dtype == images.dtype
    assert bool(((x >= 0) & (x <= 1)).all())
    unit = torch.finfo(images.dtype).eps / 2
    eps, slack = threat.eps, unit
    if isinstance(threat, L2):
        slack = eps * 1e-5 + unit * math.sqrt(images[0].numel())
    offset = (x.double() - images.double()).flatten(1)
    norms = offset.abs().amax(1) if isinstance(threat, Linf) else offset.norm(dim=1)
    assert float(norms.max()) <= eps + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reach", [0.01, 0.4, 3.0])
@pytest.mark.parametrize("threat", LINF + BALLS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_projection_is_allowed(threat, shape, reach, dtype):
    images = clean(shape).to(dtype)
    assert_allowed(threat, threat.project(beyond(images, reach), images), images)


@pytest.mark.parametrize("threat", LINF, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_cubes_projection_clips_every_pixel_and_twice_is_once(threat, shape):
    images = clean(shape).double()
    x = beyond(images, 0.7)
    once = threat.project(x, images)
    pixels = zip(x.flatten().tolist(), images.flatten().tolist(), strict=True)
    expected = [
        min(max(value, max(0.0, centre - threat.eps)), min(1.0, centre + threat.eps))
        for value, centre in pixels
    ]
    assert once.flatten().tolist() == expected
    assert torch.equal(threat.project(once, images), once)


@pytest.mark.parametrize("reach", [0.01, 0.4, 3.0, 1e4])
@pytest.mark.parametrize("threat", BALLS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_balls_projection_is_the_nearest_point_and_twice_is_once(threat, shape, reach):
    images = clean(shape)
    x = beyond(images, reach)
    once = threat.project(x, images)
    expected = oracles.nearest_in_ball(x, images, threat.eps)
    tolerance = 1e-5 * min(1.0, threat.eps) + 2e-7
    torch.testing.assert_close(once.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(threat.project(once, images), once, rtol=0, atol=tolerance)


PIXEL = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
OFFSET = st.sampled_from([0.0, -1.0, 1.0, 1e-30]) | st.floats(-2, 2)


@law
@given(st.lists(st.tuples(PIXEL, OFFSET), min_size=1, max_size=9), st.floats(1e-3, 4))
def test_the_balls_projection_is_the_nearest_point_whatever_the_pixels(pairs, eps):
    images, offsets = torch.tensor(pairs).T.unsqueeze(1)
    x = images + offsets
    found = L2(eps=eps).project(x, images)
    expected = oracles.nearest_in_ball(x, images, eps)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * min(1, eps) + 2e-7)


def test_clipping_after_the_sphere_would_be_farther_than_the_projection():
    images, x = torch.tensor([[0.9, 0.5]]), torch.tensor([[1.9, 1.0]])
    threat = L2(eps=0.3)
    sphere = images + (x - images) * (0.3 / (x - images).norm())
    naive, found = sphere.clamp(0, 1), threat.project(x, images)
    assert (x - found).norm() < (x - naive).norm() - 0.01
    assert found[0].tolist() == pytest.approx([1.0, 0.5 + math.sqrt(0.09 - 0.01)])


@pytest.mark.parametrize("threat", [Linf(eps=0.25), L2(eps=0.25)], ids=str)
def test_allowed_images_come_back_bit_for_bit(threat):
    images = clean((3, 5, 7))
    x = beyond(images, 0.02).clamp(0, 1)
    assert torch.equal(threat.project(x, images), x)


@pytest.mark.parametrize("threat", [Linf(eps=0.1), L2(eps=0.7)], ids=str)
def test_distance_is_the_norm_of_the_change(threat):
    images = clean((3, 5, 7))
    x = beyond(images, 0.2)
    order = torch.inf if isinstance(threat, Linf) else 2
    expected = (x.double() - images.double()).flatten(1).norm(order, dim=1).float()
    torch.testing.assert_close(threat.distance(x, images), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_the_steepest_step_in_the_ball_has_length_one_along_the_gradient(scale):
    gradient = torch.randn(4, 3, 5, generator=Generator().manual_seed(0))
    step = L2(eps=1.0).ascend(gradient * scale)
    expected = gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)


def test_the_steepest_step_in_the_cube_is_the_sign():
    assert Linf().ascend(torch.tensor([[-3e-30, 0.0, 7.0]])).tolist() == [[-1, 0, 1]]


@pytest.mark.parametrize("bad", [0.0, math.nan])
@pytest.mark.parametrize("threat", [Linf(), L2(eps=1.0)], ids=str)
def test_an_image_without_a_usable_gradient_stays_where_it_is(threat, bad):
    gradient = torch.tensor([[bad, bad, bad], [1.0, 2.0, -2.0]])
    step = threat.ascend(gradient)
    assert step[0].tolist() == [0, 0, 0]
    assert step[1].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("threat", LINF + BALLS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_start_is_allowed_and_a_new_tensor(threat, start, shape, dtype):
    images = clean(shape).to(dtype)
    before = images.clone()
    x = STARTS[start](threat, images, Generator().manual_seed(0))
    assert_allowed(threat, x, images)
    x.fill_(0.5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("start", RANDOM_STARTS)
@pytest.mark.parametrize("threat", [Linf(eps=0.3), L2(eps=0.3)], ids=str)
def test_a_start_follows_from_the_seed_whatever_the_memory_format(threat, start):
    images = clean((3, 5, 7))
    torch.manual_seed(0)
    first = STARTS[start](threat, images, Generator().manual_seed(5))
    torch.manual_seed(1)
    layout = images.contiguous(memory_format=torch.channels_last)
    second = STARTS[start](threat, layout, Generator().manual_seed(5))
    other = STARTS[start](threat, images, Generator().manual_seed(6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_corner_of_the_cube_has_every_pixel_at_an_end_of_its_interval():
    images = clean((3, 5, 7), num=50).double()
    x = Linf(eps=0.3).corner(images, Generator().manual_seed(0))
    upper, lower = (images + 0.3).clamp(max=1), (images - 0.3).clamp(min=0)
    up, down = (x - upper).abs() < 1e-6, (x - lower).abs() < 1e-6
    assert bool((up | down).all())
    # 5250 fair coins: a share of one half within five deviations
    assert up.double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(x.numel()))


def test_a_corner_of_the_ball_lies_on_the_sphere_in_every_direction_alike():
    images = torch.full((20_000, 3), 0.5)
    offset = L2(eps=0.4).corner(images, Generator().manual_seed(0)) - images
    assert offset.norm(dim=1).tolist() == pytest.approx([0.4] * 20_000, abs=1e-6)
    # One coordinate of a point on a sphere in three dimensions is uniform (Archimedes).
    assert_uniform((offset / 0.8 + 0.5).flatten())


def test_uniform_noise_in_the_cube_is_uniform_and_independent():
    images = torch.full((4000, 6), 0.5)
    share = (Linf(eps=0.4).uniform(images, Generator().manual_seed(0)) - images) / 0.8 + 0.5
    assert_uniform(share.flatten())
    expected = torch.eye(6, dtype=torch.float64) / 12
    torch.testing.assert_close(share.double().T.cov(), expected, rtol=0, atol=5 / 12 / 4000**0.5)


@pytest.mark.parametrize("num_pixels", [1, 3, 24])
def test_uniform_noise_in_the_ball_fills_its_volume_evenly(num_pixels):
    images = torch.full((20_000, num_pixels), 0.5)
    offset = L2(eps=0.4).uniform(images, Generator().manual_seed(0)) - images
    assert_uniform((offset.norm(dim=1) / 0.4) ** num_pixels)
    second_moment = 0.4**2 / (num_pixels + 2)
    assert offset.mean().item() == pytest.approx(0, abs=5 * (second_moment / offset.numel()) ** 0.5)
    assert offset.square().mean().item() == pytest.approx(second_moment, rel=0.03)


def assert_uniform(values: Tensor) -> None:
    """Kolmogorov's distance to the uniform law on [0, 1], at a level of one in ten thousand."""
    ranked = values.double().sort().values
    places = (torch.arange(len(ranked), dtype=torch.float64) + 0.5) / len(ranked)
    assert (ranked - places).abs().max().item() < 2.23 / math.sqrt(len(ranked))


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (0, r"eps must lie in \(0, 1\].*got 0\. Take 0\.3 or 8/255"),
        (-0.1, r"got -0\.1"),
        (1.5, r"got 1\.5\. Did you mean 1\.5/255\?"),
        (8, r"got 8\. Did you mean 8/255\?"),
        (1000, r"got 1000\. Take 0\.3 or 8/255"),
        (math.nan, r"got nan"),
    ],
)
def test_a_cube_has_a_radius_that_pixels_can_have(eps, message):
    with pytest.raises(ConfigError, match=message):
        Linf(eps=eps)


@pytest.mark.parametrize("eps", [0, -1, math.inf, math.nan])
def test_a_ball_has_a_finite_radius_above_nought(eps):
    with pytest.raises(ConfigError, match=rf"eps must be finite and above 0.*got {eps}"):
        L2(eps=eps)
