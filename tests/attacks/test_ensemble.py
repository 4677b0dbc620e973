"""APGD, FAB and Square: closed forms on linear models, the paper's algorithm step by step."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn

from attacks import oracles
from attacks.far_device import FAR, far_device
from sparring.attacks import (
    APGD,
    FAB,
    L2,
    PGD,
    Classifier,
    Linf,
    Square,
    State,
    Task,
    Threat,
    cross_entropy,
)
from sparring.attacks.losses import targeted_margin, targeted_ratio
from sparring.attacks.search import Search

SHAPE = (1, 4, 5)
THREATS = [Linf(eps=0.1), L2(eps=0.3)]
ATTACKS = [
    APGD(steps=20),
    APGD(steps=20, loss="dlr", targets=3),
    FAB(steps=20, targets=3),
    Square(queries=60),
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images_of(count: int, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = SHAPE):
    pixels = torch.rand(count, *shape, generator=seeded(5), dtype=torch.float64)
    return low + (high - low) * pixels


def curved(num_classes: int = 5, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """A small smooth network in float64."""
    layers = [nn.Flatten(), nn.Linear(math.prod(shape), 12), nn.Tanh(), nn.Linear(12, num_classes)]
    for layer in layers[1::2]:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, generator=seeded(3))
    return nn.Sequential(*layers).double()


def reach(threat: Threat, uphill: Tensor) -> Tensor:
    """The most that a linear function rises inside the threat, pixels far from 0 and 1."""
    order = 1 if isinstance(threat, Linf) else 2
    return threat.eps * uphill.flatten(1).norm(order, dim=1)


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("attack", [APGD(steps=30), FAB(steps=30, targets=1)])
def test_every_image_of_a_linear_model_falls_that_can(attack, threat):
    model = oracles.LinearClassifier(SHAPE)
    images, labels = images_of(400, 0.35, 0.65), torch.arange(400) % 2
    with torch.no_grad():
        margins = model(images).gather(1, labels[:, None])[:, 0]
        margins = margins - model(images).gather(1, 1 - labels[:, None])[:, 0]
    most = reach(threat, model.uphill(labels))
    found = attack.against(threat)(model, images, labels, generator=seeded())
    fell = model(found).argmax(1) != labels
    can, surely = margins < most, margins < 0.99 * most
    assert 100 < surely.sum() < 350
    assert not (fell & ~can).any()
    assert fell[surely].all()


@pytest.mark.parametrize(("threat", "share"), [(THREATS[0], 0.8), (THREATS[1], 0.4)])
def test_square_comes_near_what_can_be_done_to_a_linear_model(threat, share):
    """The brightness decides, for which squares of one sign are good and pairs of bumps are not."""
    model = oracles.LinearClassifier(SHAPE)
    with torch.no_grad():
        model.rows[0], model.rows[1] = 0.0, 1.0
        model.bias[0], model.bias[1] = 0.5 * math.prod(SHAPE), 0.0
    images, labels = images_of(200, 0.35, 0.65), torch.zeros(200, dtype=torch.int64)
    margins = model.bias[0] - images.flatten(1).sum(1)
    most = reach(threat, model.uphill(labels))
    found = Square(threat=threat, queries=300)(model, images, labels, generator=seeded())
    fell = model(found).argmax(1) != labels
    assert not (fell & (margins >= most)).any()
    assert fell[margins < share * most].all()
    assert (margins < share * most).sum() > 20


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_found_lies_in_the_threat_and_more_of_it_falls_than_by_chance(attack, threat):
    model, images = curved(), images_of(200)
    labels = model(images).argmax(1)
    found = attack.against(threat)(model, images, labels, generator=seeded())
    assert float(threat.distance(found, images).max()) <= threat.eps * (1 + 1e-5) + 1e-9
    assert found.min() >= 0
    assert found.max() <= 1
    noise = threat.corner(images, seeded(1))
    fell, by_chance = ((model(x).argmax(1) != labels).sum() for x in (found, noise))
    assert fell > by_chance + 10


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_row_goes_its_way_whatever_goes_on_beside_it(attack, threat):
    """Alone, in company, and in company that came later or has left."""
    model, images = curved(), images_of(6)
    labels = model(images).argmax(1)
    for search in attack.against(threat).searches(5):
        task = Task(images, labels, (labels + 1) % 5, torch.arange(6))
        together = points_of(search, model, search.begin(task, model), 12)
        alone = points_of(search, model, search.begin(task.of(torch.tensor([2])), model), 12)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.allclose(one[0], all_of_them[2], atol=1e-12)
        later = search.begin(task.of(torch.tensor([2])), model)
        late = search.begin(task.of(torch.tensor([0, 1])), model)
        for _ in range(5):
            late = search.advance(model, late).state
        mixed = {name: torch.cat([late[name], later[name]]) for name in late}
        beside = points_of(search, model, mixed, 12)
        for one, other in zip(alone, beside, strict=True):
            assert torch.allclose(one[0], other[2], atol=1e-12)


def points_of(search: Search, model: Classifier, state: State, passes: int) -> list[Tensor]:
    found = []
    for _ in range(passes):
        move = search.advance(model, state)
        state = move.state
        found.append(move.points)
    return found


def reference_apgd(
    model: nn.Module, image: Tensor, label: Tensor, start: Tensor, asked: tuple[float, int]
) -> list[Tensor]:
    """Algorithm 1 of Croce & Hein 2020 for one image in L-infinity, as it is written there."""
    eps, steps = asked

    def project(x: Tensor) -> Tensor:
        return x.clamp(image - eps, image + eps).clamp(0, 1)

    def look(x: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_(True)
        loss = cross_entropy(model(x[None]), label[None])[0]
        return loss.item(), torch.autograd.grad(loss, x)[0].sign()

    checks, window = [max(int(0.22 * steps), 1)], max(int(0.22 * steps), 1)
    while checks[-1] < steps:
        window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        checks.append(checks[-1] + window)
    points, size = [start], 2 * eps
    losses, uphill = [look(start)[0]], look(start)[1]
    best, best_loss, best_uphill = start, losses[0], uphill
    before, last_check, last_best, last_halved = start, 0, best_loss, True
    x = start
    for k in range(1, steps + 1):
        z = project(x + size * uphill)
        weight = 0.75 if k > 1 else 1.0
        new = project(x + weight * (z - x) + (1 - weight) * (x - before))
        before, x = x, new
        points.append(x)
        loss, uphill = look(x)
        losses.append(loss)
        if loss > best_loss:
            best, best_loss, best_uphill = x, loss, uphill
        if k in checks:
            since = range(last_check + 1, k + 1)
            rises = sum(losses[i] > losses[i - 1] for i in since)
            halve = rises <= 0.75 * (k - last_check) or (not last_halved and last_best >= best_loss)
            if halve:
                size, x, uphill = size / 2, best, best_uphill
            last_check, last_best, last_halved = k, best_loss, halve
    return points


def test_apgd_is_the_papers_algorithm_point_by_point():
    model, images, eps, steps = curved(), images_of(5), 0.2, 40
    labels = model(images).argmax(1)
    (search,) = APGD(threat=Linf(eps=eps), steps=steps).searches(5)
    state = search.begin(Task(images, labels, labels, torch.arange(5)), model)
    starts = state["x"]
    found = points_of(search, model, state, search.queries)
    for row in range(5):
        expected = reference_apgd(model, images[row], labels[row], starts[row], (eps, steps))
        assert len(expected) == len(found) == steps + 1
        for k in range(steps + 1):
            assert torch.allclose(found[k][row], expected[k], atol=1e-9), (row, k)


@pytest.mark.parametrize("threat", THREATS)
def test_the_way_to_a_plane_is_the_shortest_that_the_pixel_range_allows(threat):
    x = images_of(40)
    normal = torch.randn(x.shape, generator=seeded(8), dtype=torch.float64)
    normal[0] = 0
    most = torch.where(normal > 0, (1 - x) * normal, -x * normal).flatten(1).sum(1)
    share = torch.linspace(0.0, 1.2, 40, dtype=torch.float64)
    way = threat.towards(x, normal, share * most)
    assert torch.isfinite(way).all()
    assert (x + way).min() >= 0
    assert (x + way).max() <= 1
    gained = (normal * way).flatten(1).sum(1)
    assert torch.allclose(gained, share.clamp(max=1) * most, atol=1e-6)
    # No shorter way gains as much: the best one of that length, by the closed form, gains no more.
    find = oracles.worst_in_cube if isinstance(threat, Linf) else oracles.worst_in_ball
    for row in range(1, 33):
        one = slice(row, row + 1)
        length = float(threat.distance(x[one] + way[one], x[one]))
        best = find(x[one], normal[one], 0.99 * length)
        assert ((best - x[one]) * normal[one]).sum() < gained[row]


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("exponent", [-146, -140, -100, -60, -30, 20, 60, 120])
def test_the_way_to_a_plane_does_not_depend_on_the_length_of_the_gradient(threat, exponent):
    """Where it has a power of two more or less, down to numbers whose squares are no numbers."""
    x = images_of(20).float()
    normal = torch.randint(-4, 5, x.shape, generator=seeded(8)).float()
    normal[0] = 0
    gap = torch.linspace(-3, 3, 20).round(decimals=2)
    gap = (gap * 64).round() / 64
    factor = 2.0**exponent
    way = threat.towards(x, normal * factor, gap * factor)
    # A gap below the smallest number is lost, and only there.
    kept = (gap * factor).double() == gap.double() * factor
    assert kept[gap.abs() >= 1].all() or exponent < -143
    wanted = threat.towards(x, normal, gap)
    torch.testing.assert_close(way[kept], wanted[kept], rtol=1e-5, atol=1e-6)


class OtherNumbers(nn.Module):
    """Logits of another type than its weights, or squeezed until their gradients vanish."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(math.prod(SHAPE), 5)
        generator = seeded(3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(5, math.prod(SHAPE), generator=generator))
            self.layer.weight[:, :7] = 0
            self.layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        if self.kind == "double":
            return logits.double()
        if self.kind == "softmax":
            return (40 * logits).softmax(1)
        return (60 * logits).sigmoid() if self.kind == "sigmoid" else logits


@pytest.mark.parametrize("kind", ["double", "softmax", "sigmoid"])
@pytest.mark.parametrize("attack", [*ATTACKS, PGD(steps=20)], ids=str)
@pytest.mark.parametrize("threat", THREATS)
def test_logits_of_another_type_or_without_a_gradient_end_no_attack(kind, attack, threat):
    model, images = OtherNumbers(kind), images_of(16).float()
    attack = replace(attack, threat=threat)
    plain = OtherNumbers("plain")(images).argmax(1)
    found = attack(model, images, plain, generator=seeded())
    assert found.dtype == images.dtype
    assert torch.isfinite(found).all()
    assert (threat.distance(found, images) <= threat.eps * 1.001).all()
    if kind == "double":
        same = attack(OtherNumbers("plain"), images, plain, generator=seeded())
        torch.testing.assert_close(found, same, rtol=0, atol=1e-3)


def test_targeted_losses_are_their_formulas():
    logits = torch.randn(50, 6, generator=seeded(2), dtype=torch.float64)
    labels, targets = torch.arange(50) % 6, (torch.arange(50) * 5 + 1) % 6
    margins, ratios = (loss(logits, labels, targets) for loss in (targeted_margin, targeted_ratio))
    for row in range(50):
        z = logits[row].tolist()
        first, _, third, fourth = sorted(z, reverse=True)[:4]
        ahead = z[targets[row]] - z[labels[row]]
        assert margins[row].item() == pytest.approx(ahead)
        assert ratios[row].item() == pytest.approx(ahead / (first - (third + fourth) / 2))


def test_images_the_model_gets_wrong_stay_as_they_are():
    model, images = curved(), images_of(30)
    labels = (model(images).argmax(1) + 1) % 5
    for attack in ATTACKS:
        found = attack(model, images, labels, generator=seeded())
        assert torch.equal(found, images)


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("attack", [APGD(steps=2), FAB(steps=1, targets=1), Square(queries=3)])
def test_on_another_device_the_same_is_found(attack, threat):
    model, images = curved(), images_of(2)
    labels, aimed = model(images).argmax(1), attack.against(threat)
    found = aimed(model, images, labels, generator=seeded())
    with far_device():
        far = images.to(FAR), labels.to(FAR)
        there = aimed(model.to(FAR), *far, generator=seeded())
        assert str(there.device) == FAR
        assert torch.equal(there.cpu(), found)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_fab_reaches_any_target_that_the_whole_box_allows(rank: int) -> None:
    model, images = curved(6), images_of(60)
    with torch.no_grad():
        labels, targets = model(images).topk(6, dim=1).indices[:, [0, rank]].unbind(1)
    attacks = [FAB(eps=1.0, steps=40), PGD(eps=1.0, steps=40, loss="margin", start="corner")]
    found = [model(attack(model, images, labels, targets=targets)) for attack in attacks]
    fab, pgd = (int((logits.argmax(1) == targets).sum()) for logits in found)
    assert pgd > 20
    assert fab >= 0.7 * pgd
