"""Bounds are sound: no image of the region, searched for or drawn, gets past them."""

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from bounds.networks import KINDS, Residual, drawn, layered, seeded
from sparring.attacks import L2, PGD, Linf
from sparring.bounds import Box, NetworkBounds, Pass, Region, tightened
from sparring.bounds.layers import _as_product, _has_small_patches
from sparring.errors import ConfigError
from sparring.evaluation.certificates import around

LABELS = torch.arange(6) % 4


def bounded(network: nn.Module, region: Box | Region) -> Pass:
    with torch.no_grad():
        return NetworkBounds(network).through(region, rounding=True)


def all_margins(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]) - logits


def tight(network: nn.Module, images: Tensor, labels: Tensor, threat: Linf | L2) -> Tensor:
    """Margins with hidden layers that are bounded by forms, image by image."""
    bounds, found = NetworkBounds(network), []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        wide = bounds.through(around(image, threat), rounding=True)
        narrow = tightened(bounds, wide, forms=10_000, memory=2**22)
        assert narrow.complete
        for node, step in wide.steps.items():
            box = narrow.bounds.steps[node].box
            assert (box.low >= step.box.low - 1e-9).all()
            assert (box.high <= step.box.high + 1e-9).all()
        found.append(narrow.bounds.margins(label, affine=False))
    return torch.cat(found)


@pytest.mark.parametrize("threat", [Linf(eps=0.05), Linf(eps=1e-6), L2(eps=0.2)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_network_says_of_any_image_of_the_threat_is_enclosed(
    kind: Callable[[], nn.Module], threat: Linf | L2
) -> None:
    images = torch.rand(6, 2, 6, 6, generator=seeded(1))
    for seed in range(2):
        network = drawn(kind(), seed)
        found = bounded(network, around(images, threat))
        box = found.logits
        assert (box.low < box.high).all()
        by_logits = box.low.gather(1, LABELS[:, None]) - box.high
        with torch.no_grad():
            by_interval = found.margins(LABELS)
            margins = torch.maximum(by_interval, found.margins(LABELS, affine=False))
            tighter = tight(network, images[:1], LABELS[:1], threat)
            margins[:1] = torch.maximum(margins[:1], tighter)
        other = LABELS[:, None] != torch.arange(4)
        assert (by_interval >= by_logits - 1e-6)[other].all()
        attack = PGD(threat=threat, steps=10)
        tried = [threat.corner(images, seeded(n)) for n in range(60)]
        tried += [attack(network, images, LABELS * 0 + n, generator=seeded()) for n in range(4)]
        for made in (images, *tried):
            logits = network(made).double()
            assert (logits >= box.low).all()
            assert (logits <= box.high).all()
            assert (all_margins(logits, LABELS) >= margins)[other].all()


def plane(seed: int) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)]
    return drawn(nn.Sequential(*layers), seed).double()


def grid(region: Region, points: int = 101) -> Tensor:
    """All images of two pixels in the box of one, at a distance of each other."""
    ends = zip(region.box.low.flatten().tolist(), region.box.high.flatten().tolist(), strict=True)
    sides = [torch.linspace(*end, points, dtype=torch.float64) for end in ends]
    found = torch.cartesian_prod(*sides)
    if region.radius is not None:
        found = found[(found - region.centre.flatten()).norm(dim=1) <= region.radius]
    return found.view(-1, 1, 1, 2)


@pytest.mark.parametrize("threat", [Linf(eps=0.1), L2(eps=0.1)])
def test_of_two_pixels_all_images_are_enclosed_and_forms_come_nearer(threat: Linf | L2) -> None:
    gaps = []
    for seed in range(10):
        network, image = plane(seed), torch.rand(1, 1, 1, 2, generator=seeded(seed))
        label = torch.tensor([seed % 3])
        region = around(image, threat)
        with torch.no_grad():
            found = bounded(network, region)
            logits = network(grid(region))
            truth = (logits[:, label] - logits).amin(0)
            stages = [
                found.margins(label)[0],
                found.margins(label, affine=False)[0],
                tight(network, image, label, threat)[0],
            ]
        for stage in stages:
            assert (stage <= truth + 1e-12).all()
        gaps.append(torch.stack([(truth - stage).sum() for stage in stages]))
    means = torch.stack(gaps).mean(0).tolist()
    assert all(later < 0.9 * earlier for earlier, later in pairwise(means))


def corners(layer: nn.Linear, box: Box) -> Tensor:
    """Where a network of two pixels and one hidden `layer` may be extreme in a box [N, 1, 1, 2].

    It is linear between the lines at which a ReLU opens and the sides of the box.
    """
    one = torch.eye(2, dtype=torch.float64)
    lines = torch.cat([layer.weight, one, one])
    values = torch.cat([-layer.bias, box.low.flatten(), box.high.flatten()])
    found = []
    for i, j in combinations(range(len(lines)), 2):
        pair = lines[[i, j]]
        if abs(float(pair.det())) > 1e-9:
            found.append(torch.linalg.solve(pair, values[[i, j]]))
    points = torch.stack(found)
    inside = (points >= box.low.flatten() - 1e-9) & (points <= box.high.flatten() + 1e-9)
    return points[inside.all(1)].view(-1, 1, 1, 2)


def test_the_lowest_margins_of_one_hidden_layer_are_those_of_an_exact_enumeration() -> None:
    exact = 0
    for seed in range(20):
        hidden = nn.Linear(2, 5)
        layers = [nn.Flatten(), hidden, nn.ReLU(), nn.Linear(5, 3)]
        network = drawn(nn.Sequential(*layers), seed).double()
        image, label = torch.rand(1, 1, 1, 2, generator=seeded(seed)), torch.tensor([seed % 3])
        for eps in (1e-3, 0.1):
            region = around(image, Linf(eps=eps))
            with torch.no_grad():
                logits = network(corners(hidden, region.box))
                truth = (logits[:, label] - logits).amin(0)
                drawn_there = network(grid(region, 31))
                assert (truth <= (drawn_there[:, label] - drawn_there).amin(0) + 1e-12).all()
                found = NetworkBounds(network).through(region.box).margins(label)[0]
                sound = bounded(network, region).margins(label)[0]
                forms = bounded(network, region).margins(label, affine=False)[0]
            assert (found <= truth + 1e-12).all()
            assert (sound <= found + 1e-12).all()
            assert (forms <= truth + 1e-12).all()
            exact += int((truth - forms).max() < 1e-5)
    assert exact >= 10


@pytest.mark.parametrize("threat", [Linf(eps=1e-4), L2(eps=1e-4)])
def test_where_no_relu_is_open_forms_are_exact(threat: Linf | L2) -> None:
    network, image = plane(4), torch.full((1, 1, 1, 2), 0.5)
    label = torch.tensor([0])
    with torch.no_grad():
        region = around(image, threat)
        lowest = bounded(network, region).margins(label, affine=False)[0]
    centre = region.centre.requires_grad_()
    logits = network(centre)[0]
    for other in (1, 2):
        margin = logits[0] - logits[other]
        (slope,) = torch.autograd.grad(margin, centre, retain_graph=True)
        reach = slope.abs().sum() if region.radius is None else slope.norm()
        exact = (margin - (threat.eps + 1e-6) * reach).item()
        assert lowest[other] == pytest.approx(exact, abs=2e-5)


def dense(network: nn.Sequential, low: Tensor, high: Tensor, forms: Tensor) -> Tensor:
    """CROWN of fully connected layers by matrices, apart from the library: [R] for forms [R, K]."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]

    def back(upto: int, rows: Tensor, flat: bool = False) -> Tensor:
        total = torch.zeros(len(rows), dtype=torch.float64)
        for place in range(upto, -1, -1):
            total += rows @ layers[place].bias
            rows = rows @ layers[place].weight
            if place:
                least, most = known[place - 1]
                line = most.clamp_min(0) / (most.clamp_min(0) - least.clamp_max(0))
                below = (least >= 0 if flat else most > -least).double()
                total += (rows.clamp_max(0) * -line * least.clamp_max(0)).sum(1)
                rows = rows.clamp_min(0) * below + rows.clamp_max(0) * line
        return total + rows.clamp_min(0) @ low + rows.clamp_max(0) @ high

    known: list[tuple[Tensor, Tensor]] = []
    for layer in layers[:-1]:
        unit = torch.eye(layer.out_features, dtype=torch.float64)
        least, most = known[-1] if known else (low, high)
        least, most = (least.relu(), most.relu()) if known else (least, most)
        middle = layer.weight @ (least + most) / 2 + layer.bias
        spread = layer.weight.abs() @ (most - least) / 2
        place = len(known)
        ends = (back(place, unit), -back(place, -unit))
        known.append((ends[0].maximum(middle - spread), ends[1].minimum(middle + spread)))
    last = len(layers) - 1
    return back(last, forms).maximum(back(last, forms, flat=True))


def test_forms_agree_with_matrices() -> None:
    for seed in range(10):
        network = plane(seed)
        assert isinstance(network, nn.Sequential)
        image, threat = torch.rand(1, 1, 1, 2, generator=seeded(seed)), Linf(eps=0.2)
        forms = torch.eye(3, dtype=torch.float64)[0] - torch.eye(3, dtype=torch.float64)
        with torch.no_grad():
            ours = tight(network, image, torch.tensor([0]), threat)[0]
            box = around(image, threat).box
            theirs = dense(network, box.low.flatten(), box.high.flatten(), forms)
        assert torch.allclose(ours, theirs, atol=1e-4)  # for ours allow for rounding


def test_what_single_precision_rounds_away_is_enclosed() -> None:
    """Beside a bias of a million, sums in float32 are off by up to 0.03."""
    last = nn.Linear(16, 3)
    network = nn.Sequential(nn.Flatten(), last).eval()
    images = torch.rand(20, 1, 4, 4, generator=seeded(1))
    labels = torch.arange(20) % 3
    with torch.no_grad():
        last.bias.fill_(1e6)
        found = bounded(network, around(images, Linf(eps=1e-6)))
        logits = network(images).double()
        lowest = found.margins(labels)
    assert ((found.logits.low <= logits) & (logits <= found.logits.high)).all()
    other = labels[:, None] != torch.arange(3)
    assert (lowest <= all_margins(logits, labels))[other].all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_of_training_is_that_of_certificates_without_rounding(
    kind: Callable[[], nn.Module],
) -> None:
    network, images = drawn(kind(), 0), torch.rand(6, 2, 6, 6, generator=seeded(1))
    box = Box((images - 0.05).clamp_min(0), (images + 0.05).clamp_max(1))
    bounds = NetworkBounds(network)
    single = bounds.through(box).margins(LABELS)
    wide = Box(box.low.double(), box.high.double())
    double = bounds.through(wide).margins(LABELS)
    rounded = bounds.through(wide, rounding=True).margins(LABELS)
    assert single.dtype == torch.float32
    unit = double.abs().max().item()
    assert (single - double).abs().max() < 1e-5 * unit
    assert (rounded <= double + 1e-12 * unit).all()
    assert (rounded - double).abs().max() < 1e-3 * unit
    single.sum().backward()
    for value in network.parameters():
        assert value.grad is not None
        assert value.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("affine", [True, False])
def test_forms_go_back_together_as_memory_allows(
    kind: Callable[[], nn.Module], affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(6, 2, 6, 6, generator=seeded(1))
    found = bounded(drawn(kind(), 0), around(images, Linf(eps=0.02)))
    counts, lowest = list[int](), Pass.lowest

    def counted(self: Pass, node: fx.Node, forms: Tensor, **how: bool) -> Tensor:
        counts.append(len(forms) * forms.shape[1])
        return lowest(self, node, forms, **how)

    monkeypatch.setattr(Pass, "lowest", counted)
    with torch.no_grad():
        wanted = found.margins(LABELS, affine=affine)
        one = found.bytes_of_form(affine=affine)
        whole = found.margins(LABELS, affine=affine, memory=24 * one)
        assert torch.equal(whole, wanted)
        for together in (1, 5, 13):
            counts.clear()
            parts = found.margins(LABELS, affine=affine, memory=together * one)
            assert torch.allclose(parts, wanted, rtol=1e-9, atol=1e-9)
            assert 1 <= max(counts) <= together


@pytest.mark.parametrize("kind", [Residual, layered])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_of_margins_are_right(kind: Callable[[], nn.Module], affine: bool) -> None:
    network = drawn(kind(), 1).double()
    images = torch.rand(2, 2, 6, 6, generator=seeded(1)).double()
    bounds = NetworkBounds(network)

    def margins(*_: Tensor) -> Tensor:
        found = bounds.through(Box(images - 0.02, images + 0.02))
        return found.margins(LABELS[:2], affine=affine)

    some = [value for value in network.parameters() if value.numel() < 60]
    assert torch.autograd.gradcheck(margins, some, fast_mode=True)


@pytest.mark.parametrize("across", [nn.Flatten(0), nn.Sequential(nn.Flatten(0, 1), nn.Flatten(1))])
def test_shapes_that_mix_images_are_refused(across: nn.Module) -> None:
    with pytest.raises(ConfigError, match="a change of shape across images"):
        bounded(across, around(torch.rand(2, 2, 2, 2), Linf(eps=0.1)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 3, 5, stride=2),
        nn.Conv2d(2, 4, (3, 2), stride=(1, 3), padding=(2, 1), bias=False),
        nn.Conv2d(3, 1, 1),
    ],
)
def test_a_convolution_as_a_product_is_the_convolution_and_so_is_its_gradient(
    layer: nn.Conv2d,
) -> None:
    layer.double()
    like = torch.rand(4, layer.in_channels, 9, 7, dtype=torch.float64, generator=seeded())
    like.requires_grad_()
    assert _has_small_patches(layer, like)
    settings: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
    found = _as_product(like, layer.weight, stride=settings[0], padding=settings[1])
    wanted = functional.conv2d(like, layer.weight, None, *settings)
    torch.testing.assert_close(found, wanted)
    weights = torch.rand(wanted.shape, dtype=torch.float64, generator=seeded(1))
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (like, layer.weight)),
        torch.autograd.grad((wanted * weights).sum(), (like, layer.weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 3, 3),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(1, 2, 3, dilation=2),
        nn.Conv2d(1, 2, 3, padding="same"),
    ],
)
def test_other_convolutions_are_left_as_they_are(layer: nn.Conv2d) -> None:
    assert not _has_small_patches(layer, torch.rand(1, layer.in_channels, 9, 9))
    assert not _has_small_patches(nn.Conv2d(1, 1, 3), torch.rand(1, 1, 300, 300))
