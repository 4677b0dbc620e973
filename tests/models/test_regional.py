"""After a change of few pixels: the logits of a whole pass, and the memory of a new beginning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from typing_extensions import override

from sparring.attacks import Linf, Square
from sparring.evaluation import evaluate
from sparring.models.folding import RegionalPasses, folded_passes
from sparring.models.networks import ResidualNetwork, SmallCNN
from sparring.models.regional import steps, windows

SIZE, BATCH = (19, 23), 7


class Functional(nn.Module):
    """Pooling, ReLU and sums as functions and methods; two paths of other strides meet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, (3, 5), padding=(1, 2), bias=False)
        self.long = nn.Conv2d(6, 8, 5, stride=(2, 1), padding=2, groups=2)
        self.short = nn.Conv2d(6, 8, 1, stride=(2, 1))
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.last = nn.Linear(8, 3)

    @override
    def forward(self, images: Tensor) -> Tensor:
        maps = functional.max_pool2d(functional.relu(self.first(images - 0.5)), 2, 1)
        maps = self.long(maps).relu() * self.scale + self.short(maps)
        return self.last(functional.avg_pool2d(maps, (3, 2), stride=2).mean((2, 3)))


def mixed() -> nn.Module:
    """Dilation, an even kernel, one without padding, one whose step leaves pixels out."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=2, dilation=2),
        nn.PReLU(5),
        nn.Conv2d(5, 5, 2, padding=1),
        nn.BatchNorm2d(5, affine=False),
        nn.SiLU(),
        nn.Conv2d(5, 6, 2, stride=3),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def padded() -> nn.Module:
    """Padding that is no zeros ends the windows after the first layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def in_place() -> nn.Module:
    """A layer that is always computed whole overwrites the first map."""
    parts = [nn.Conv2d(2, 4, 3, padding=1), nn.CELU(inplace=True), nn.Flatten(), nn.LazyLinear(3)]
    return nn.Sequential(*parts)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small-cnn": lambda: SmallCNN(2, 3, width=4),
    "residual": lambda: ResidualNetwork(2, 3, stem=4, stages=[(4, 1), (8, 2)]),
    "functional": Functional,
    "mixed": mixed,
    "padded": padded,
    "in-place": in_place,
}


@pytest.fixture(autouse=True)
def _small_networks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "WORTH", 0)


def passes_of(name: str) -> RegionalPasses:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    images = torch.rand(2, 2, *SIZE, generator=Generator().manual_seed(1))
    network.eval()(images)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_()
    found = folded_passes(network, images)
    assert isinstance(found, RegionalPasses)
    return found


def changed(images: Tensor, generator: Generator) -> Tensor:
    """Each image with another rectangle of random pixels; some at the border, one unchanged."""
    after = images.clone()
    for image in after[1:]:
        high, wide = (int(torch.randint(1, side + 1, (), generator=generator)) for side in SIZE)
        if torch.rand((), generator=generator) < 0.7:
            high, wide = min(high, 3), min(wide, 3)
        top = int(torch.randint(SIZE[0] - high + 1, (), generator=generator))
        left = int(torch.randint(SIZE[1] - wide + 1, (), generator=generator))
        part = image[:, top : top + high, left : left + wide]
        part.copy_(torch.rand(part.shape, generator=generator))
    return after


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp_min(1)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(7))
def test_a_change_gives_what_a_whole_pass_gives(name, seed, monkeypatch):
    generator = Generator().manual_seed(seed)
    passes = passes_of(name)
    images = torch.rand(BATCH, 2, *SIZE, generator=generator)
    memory = passes.remember(images)
    assert memory
    if seed >= 4:  # fewer maps are kept, and the last one may be overwritten after its use
        bytes_of_one = [value[0].nbytes for value in memory.values()]
        monkeypatch.setattr(steps, "MOST", sum(bytes_of_one[: seed - 3]))
        passes = passes_of(name)
        memory = passes.remember(images)
    for turn in range(8):
        after = changed(images, generator)
        rows = torch.randperm(BATCH, generator=generator)[:5].sort().values
        before = {key: value.clone() for key, value in memory.items()}
        assert_near(passes.revised(memory, images, after, rows), passes(after)[rows])
        assert all(torch.equal(value, before[key]) for key, value in memory.items())

        rows = rows[torch.rand(5, generator=generator) < 0.7]
        shown = after if turn % 2 else after.clone()  # with the windows just computed, or anew
        passes.keep(memory, images, shown, rows)
        others = torch.ones(BATCH, dtype=torch.bool).scatter(0, rows, value=False)
        images = torch.where(others.view(-1, 1, 1, 1), images, after)
        for key, wanted in passes.remember(images).items():
            assert torch.equal(memory[key][others], before[key][others])
            assert_near(memory[key], wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_computed_than_in_a_whole_pass(name, monkeypatch: pytest.MonkeyPatch):
    """Else the law above would say nothing of windows."""
    images = torch.rand(BATCH, 2, *SIZE, generator=Generator().manual_seed(0))
    pixels: list[int] = []
    convolve = functional.conv2d

    def counted(inputs: Tensor, weight: Tensor, *args: Any, **named: Any) -> Tensor:
        found = convolve(inputs, weight, *args, **named)
        pixels.append(found[:, 0].numel() * weight.numel())
        return found

    monkeypatch.setattr(functional, "conv2d", counted)
    passes = passes_of(name)
    memory = passes.remember(images)
    passes(images)
    pixels.clear()
    passes(images)
    whole = sum(pixels)
    pixels.clear()
    after = images.clone()
    after[:, :, 9, 9] = 0.0
    passes.revised(memory, images, after, torch.arange(BATCH))
    assert 0 < sum(pixels) < (0.95 if name == "padded" else 0.7) * whole


@torch.no_grad()
def test_a_pass_that_fails_leaves_the_memory_as_it_was(monkeypatch: pytest.MonkeyPatch):
    passes = passes_of("small-cnn")
    images = torch.rand(BATCH, 2, *SIZE, generator=Generator().manual_seed(0))
    memory = passes.remember(images)
    before = {key: value.clone() for key, value in memory.items()}
    after = images.clone()
    after[:, :, 3, 3] = 1.0

    def fails(*_: object) -> Tensor:
        raise RuntimeError

    monkeypatch.setattr(passes._trace.get_submodule("0.classifier"), "forward", fails)
    with pytest.raises(RuntimeError):
        passes.revised(memory, images, after, torch.arange(BATCH))
    assert all(torch.equal(value, before[key]) for key, value in memory.items())


@torch.no_grad()
def test_nothing_is_kept_where_it_saves_nothing(monkeypatch: pytest.MonkeyPatch):
    images = torch.rand(BATCH, 2, *SIZE)
    passes = passes_of("residual")
    assert passes.remember(images[:, :, :10]) == {}  # of another size than the trace's
    large = sum(value[0].nbytes for value in passes.remember(images).values())
    monkeypatch.setattr(steps, "MOST", large - 1)
    small = sum(value[0].nbytes for value in passes_of("residual").remember(images).values())
    assert 0 < small < large
    monkeypatch.setattr(steps, "MOST", 0)
    assert passes_of("residual").remember(images) == {}


@torch.no_grad()
@pytest.mark.parametrize(("width", "is_worth_it"), [(8, False), (32, True)])
def test_windows_are_for_networks_of_many_products(width, is_worth_it, monkeypatch):
    monkeypatch.undo()
    images = torch.rand(2, 1, 28, 28, generator=Generator().manual_seed(0))
    passes = folded_passes(SmallCNN(1, 10, width), images)
    assert isinstance(passes, RegionalPasses)
    assert bool(passes.remember(images)) is is_worth_it


@pytest.mark.parametrize("name", ["small-cnn", "residual", "mixed"])
def test_square_finds_what_it_finds_by_whole_passes(name, monkeypatch: pytest.MonkeyPatch):
    """In double precision; in single, rounding decides which of two equal proposals is kept."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    network(torch.rand(2, 2, *SIZE))
    network.double()
    images = torch.rand(40, 2, *SIZE, generator=Generator().manual_seed(2)).double()
    with torch.no_grad():
        logits = network(images)
        *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
        last.bias -= logits.mean(0)  # else all images are of one class
        labels = network(images).argmax(1)

    def found() -> tuple[Tensor, int]:
        verdict = evaluate(
            network, images, labels, Linf(0.02), suite=[Square(queries=300)], checks=False
        )
        assert verdict.adversarial is not None
        return verdict.adversarial, verdict.robust.successes

    by_windows, robust = found()
    monkeypatch.setattr(steps, "MOST", 0)
    by_passes, as_many = found()
    assert 0 < robust < len(images)
    assert robust == as_many
    assert torch.equal(by_windows, by_passes)


def test_small_changes_share_a_size_and_large_ones_are_whole():
    before = torch.zeros(4, 1, 20, 20)
    after = before.clone()
    after[0, 0, 19, 18:] = 1
    after[1, 0, 0:5, 7] = 1
    after[3] = 1
    small, whole = windows.groups(before, after, torch.tensor([3, 0, 2, 1]))
    assert small.size == (5, 2)
    assert small.places.tolist() == [1, 2, 3]
    assert small.rows.tolist() == [0, 2, 1]
    assert [place[[0, 2]].tolist() for place in small.start] == [[15, 0], [18, 7]]
    assert whole.size == (20, 20)
    assert whole.rows.tolist() == [3]
