"""Passes that skip zeros, and looks at changes, are the paper's CNN layer by layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sparring.attacks import Linf, Square, Task
from sparring.attacks.checks import Classifier
from sparring.models import (
    Initialisation,
    PaperCNN,
    PaperNetwork,
    attack_passes,
    computing_threads,
)
from sparring.models.paper_cnn import sparse
from sparring.models.paper_cnn.sparse import SparsePasses


def network(initialisation: Initialisation = "madry", quiet: float = 0.0) -> PaperCNN:
    """Biases lowered by `quiet`: the more, the fewer numbers are alive."""
    model = PaperNetwork(initialisation=initialisation).build(0)
    with torch.no_grad():
        for name in ("conv1.bias", "conv2.bias", "fc1.bias"):
            model.get_parameter(name).sub_(quiet)
    return model


def passes(model: PaperCNN) -> SparsePasses:
    found = attack_passes(model)
    assert isinstance(found, SparsePasses)
    return found


def noise(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 28, 28, generator=Generator().manual_seed(seed))


def logits_and_gradient(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_(True)
    logits = classifier(images)
    loss = F.cross_entropy(logits, torch.arange(len(images)) % 10, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return logits.detach(), gradient


def assert_alike(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Relative to the largest number."""
    assert found.shape == expected.shape
    torch.testing.assert_close(
        found, expected, rtol=0, atol=tolerance * float(expected.abs().max())
    )


@pytest.mark.parametrize("model", [network(), network("torch"), network(quiet=0.4)])
@pytest.mark.parametrize(("num", "products"), [(1, True), (3, True), (8, True), (8, False)])
def test_logits_and_gradient_are_those_of_the_network(monkeypatch, model, num, products):
    monkeypatch.setattr(sparse, "has_fast_products", lambda: products)
    images = noise(num)
    found, expected = (logits_and_gradient(form, images) for form in (passes(model), model))
    assert float(expected[1].abs().max()) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert_alike(ours, theirs)


@pytest.mark.parametrize("num", [1, 6])
def test_windows_too_dim_to_wake_a_channel_are_as_the_network_has_them(num):
    """Some windows wake no channel, some may wake the first few, some all of them."""
    model = network()
    with torch.no_grad():
        taps, bias = model.get_parameter("conv1.weight"), model.get_parameter("conv1.bias")
        taps[::3].abs_()
        bias.copy_(-taps.clamp_min(0).flatten(1).sum(1) * torch.linspace(0.9, 0.2, 32))
    form, images = passes(model), noise(num)
    images[..., :14] *= torch.linspace(0.1, 1, 28)[:, None]
    brightest = F.max_pool2d(F.pad(images, (2, 2, 2, 2)), 6, stride=2)
    wakes = torch.from_numpy(form._layers.wakes)
    awake = (brightest.flatten()[:, None] > wakes).sum(1)
    assert bool((awake == 0).any())
    assert bool(((awake > 0) & (awake <= 16)).any())
    assert bool((awake > 16).any())
    found, expected = (logits_and_gradient(each, images) for each in (form, model))
    for ours, theirs in zip(found, expected, strict=True):
        assert_alike(ours, theirs)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_of_exactly_equal_maxima_the_first_gets_the_gradient(layer):
    model = network()
    model.get_parameter(f"{layer}.weight").data[::2].zero_()
    found, expected = (logits_and_gradient(form, noise(3)) for form in (passes(model), model))
    assert_alike(found[1], expected[1])


def test_where_nothing_is_alive_there_is_no_gradient():
    logits, gradient = logits_and_gradient(passes(network(quiet=1e3)), noise(2))
    assert torch.isfinite(logits).all()
    assert not gradient.any()


def test_an_image_has_the_same_logits_in_any_company_and_with_any_threads():
    model, images = passes(network("torch")), noise(5)
    with computing_threads(2):
        together = logits_and_gradient(model, images)
    with computing_threads(1):
        alone = logits_and_gradient(model, images[:1])
    for one, all_of_them in zip(alone, together, strict=True):
        assert_alike(one[0], all_of_them[0], tolerance=1e-6)


@pytest.mark.parametrize("side", [1, 3, 8, 28])
@pytest.mark.parametrize("model", [network(), network(quiet=0.4)])
def test_a_change_is_seen_as_a_pass_sees_it(model, side):
    """Squares anywhere, at the edges too, kept or not, one after the other."""
    form, before, chance = passes(model), noise(4), Generator().manual_seed(side)
    memory = form.remember(before)
    for kept in (True, False, True, True, False):
        after = before.clone()
        for row in range(3):  # the fourth stays as it is
            y, x = torch.randint(0, 29 - side, (2,), generator=chance).tolist()
            after[row, 0, y : y + side, x : x + side] = torch.rand(side, side, generator=chance)
        known = {name: rows.clone() for name, rows in memory.items()}
        rows = torch.tensor([3, 0, 2])
        assert_alike(form.revised(memory, before, after, rows), model(after[rows]).detach())
        assert all(torch.equal(memory[name], known[name]) for name in memory)
        if kept:
            form.keep(memory, before, after, rows)
            before[rows] = after[rows]
            fresh = form.remember(before)
            for name in memory:
                assert_alike(memory[name], fresh[name])


def test_square_goes_the_same_way_with_a_memory_as_without():
    model = network()
    form, images = passes(model), noise(4)
    labels = model(images).argmax(1)
    (search,) = Square(threat=Linf(eps=0.1), queries=60).searches(10)
    task = Task(images, labels, labels, torch.arange(4))
    ways = []
    for classifier in (form, lambda x: form(x)):
        state, points = search.begin(task, classifier), []
        for _ in range(60):
            move = search.advance(classifier, state)
            state = move.state
            points.append(move.points)
        ways.append(torch.stack(points))
    assert torch.equal(*ways)
    assert not torch.equal(ways[0][0], ways[0][-1])


class Mine(PaperCNN):
    """A network of which nobody knows what it overrides."""


def test_only_the_papers_network_in_single_precision_has_them(monkeypatch):
    assert attack_passes(network().double()) is None
    assert attack_passes(Mine()) is None
    monkeypatch.setattr(sparse, "find_spec", lambda name: None)
    assert attack_passes(network()) is None
