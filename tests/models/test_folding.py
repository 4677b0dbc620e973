"""The form derived from a trace is the network, or is not used; the network never changes."""

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from typing_extensions import override

from sparring.attacks import APGD, FAB, Linf, Square
from sparring.errors import ConfigError
from sparring.evaluation import Verdict, evaluate, model_under_test
from sparring.models.folding import FoldedPasses, folded_passes
from sparring.models.networks import BatchRenorm2d, NormalisedNetwork, ResidualNetwork, SmallCNN

IMAGES = torch.rand(12, 2, 9, 9, generator=Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Residual(nn.Module):
    """A norm whose input is used elsewhere, too, and one layer before two different norms."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(wide, wide, 3, padding=1)
        self.norms = nn.ModuleList(BatchRenorm2d(wide) for _ in range(3))

    @override
    def forward(self, images: Tensor) -> Tensor:
        once = self.norms[0](self.shared(images)).relu()
        kept = self.shared(once)
        return kept + self.norms[1](kept) + self.norms[2](self.shared(images))


class Functional(nn.Module):
    """Convolution, norm and dropout as functions; the norm's last arguments by name or not."""

    def __init__(self, wide: int, *, named: bool) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(wide, wide, 3, 3))
        self.norm, self.named = nn.BatchNorm2d(wide), named

    @override
    def forward(self, images: Tensor) -> Tensor:
        bn, on = self.norm, self.training
        maps = functional.dropout(functional.conv2d(images, self.kernel, padding=1), 0.5, on)
        statistics = (bn.running_mean, bn.running_var)
        if self.named:
            normed = functional.batch_norm(
                maps, *statistics, weight=bn.weight, bias=bn.bias, training=on, eps=bn.eps
            )
            return functional.relu(normed)
        return functional.batch_norm(maps, *statistics, bn.weight, bn.bias, on)


class Head(nn.Module):
    """`view` of features, norms behind linear layers, of which one is by rows."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.rows, self.by_rows = nn.Linear(9, wide), nn.BatchNorm1d(wide)
        self.first, self.norm = nn.Linear(wide * 9 * wide, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(8, 3)

    @override
    def forward(self, images: Tensor) -> Tensor:
        batch, channels, _, _ = images.shape
        rows = images.mean(2) + images.amax(3)  # [B, C, 9]
        by_rows = self.by_rows(self.rows(rows).relu().view(batch, channels, -1))
        wide = (by_rows[..., None] * rows[:, :, None]).view(batch, -1)
        return self.last(self.drop(self.norm(self.first(wide)).relu()))


def convolutional(seed: int) -> nn.Module:
    """One of several arrangements of convolutions, norms and dropout, with random statistics."""
    torch.manual_seed(seed)
    wide = 4
    parts: list[Callable[[], nn.Module]] = [
        lambda: nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()),
        lambda: nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=2, padding_mode="circular", bias=False),
            nn.Dropout2d(),
            BatchRenorm2d(wide),
        ),
        lambda: nn.Sequential(nn.BatchNorm2d(wide, affine=False), nn.ReLU(), nn.Identity()),
        lambda: Residual(wide),
        lambda: Functional(wide, named=True),
        lambda: Functional(wide, named=False),
        lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(wide), nn.Dropout()),
    ]
    chosen = [parts[int(torch.randint(len(parts), ()))]() for _ in range(4)]
    network = nn.Sequential(nn.Conv2d(2, wide, 3, padding=1), *chosen, Head(wide))
    return shaken(NormalisedNetwork(network, (0.4, 0.5), (0.2, 0.3)))


def shaken(network: nn.Module) -> nn.Module:
    """With statistics and weights of norms that change what they are applied to."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, -1.5, 1.5)
                nn.init.normal_(layer.bias)
    return network


def residual(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    stages = [(4, 1), (8, 2)]
    return shaken(ResidualNetwork(2, 3, stem=4, stages=stages, dropout=0.3))


NETWORKS = [
    *[(convolutional, seed) for seed in range(6)],
    (residual, 0),
    (lambda _: shaken(SmallCNN(2, 3, width=4)), 0),
]


def pulled(logits_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a sum of them."""
    images = IMAGES.clone().requires_grad_()
    logits = logits_of(images)
    (gradient,) = torch.autograd.grad((logits * torch.tensor([1.0, 2.0, -3.0])).sum(), images)
    return logits.detach(), gradient


def form_of(network: nn.Module) -> FoldedPasses:
    found = folded_passes(network, IMAGES)
    assert found is not None
    return found


def norms_left(form: FoldedPasses) -> int:
    trace: fx.GraphModule = form._trace
    return sum(
        isinstance(trace.get_submodule(str(node.target)), nn.modules.batchnorm._BatchNorm)
        for node in trace.graph.nodes
        if node.op == "call_module"
    )


@pytest.mark.parametrize(("build", "seed"), NETWORKS)
def test_the_form_has_the_networks_logits_and_gradients_and_no_norm(build, seed):
    network = build(seed)
    form = form_of(network)
    logits, gradient = pulled(form)
    wanted, its_gradient = pulled(copy.deepcopy(network).eval())
    spread = (wanted.amax(1) - wanted.amin(1)).mean()
    assert (logits - wanted).abs().max() <= 1e-3 * spread
    assert (gradient - its_gradient).abs().max() <= 1e-3 * its_gradient.abs().max()
    assert gradient.is_contiguous()
    assert norms_left(form) == 0


@pytest.mark.parametrize(("build", "seed"), NETWORKS[:2])
def test_the_network_is_left_as_it_was(build, seed):
    network = build(seed)
    network.train()
    next(network.parameters()).requires_grad = False
    for layer in list(network.modules())[::3]:
        layer.training = False
    modes = [layer.training for layer in network.modules()]
    trained = [value.requires_grad for value in network.parameters()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(network, IMAGES, LABELS, Linf(0.02), checks=False)
    assert modes == [layer.training for layer in network.modules()]
    assert trained == [value.requires_grad for value in network.parameters()]
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


def test_a_norm_is_folded_only_into_a_layer_that_nothing_else_uses():
    network = shaken(Residual(2))
    targets = [node.target for node in form_of(network)._trace.graph.nodes]
    assert targets.count(torch.addcmul) == 1


def _patch(layer: nn.Module) -> None:
    layer.forward = lambda images, forward=layer.forward: forward(images)


UNFOLDED: dict[str, Callable[[nn.Module], object]] = {
    "hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    "backward hook": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "replaced forward": _patch,
    "parametrisation": lambda layer: parametrizations.weight_norm(layer),
}


@pytest.mark.parametrize("kind", UNFOLDED)
def test_a_network_with_more_than_a_trace_shows_is_attacked_itself(kind, caplog):
    network = convolutional(0)
    layer = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    UNFOLDED[kind](layer)
    assert_attacked_itself(network, kind, caplog)


def test_so_is_one_whose_norms_are_of_the_batch(caplog):
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    assert_attacked_itself(network, "acts as in training", caplog)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 9)

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).flatten(1) * (2 if images.amax() > 0.5 else 1)


def test_so_is_one_that_cannot_be_traced(caplog):
    assert_attacked_itself(Branching(), "cannot be traced", caplog)


def assert_attacked_itself(network: nn.Module, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError):
        folded_passes(network, IMAGES)
    with caplog.at_level(logging.INFO):
        found = evaluate(network, IMAGES, LABELS, Linf(0.02), checks=False, precision="fp32")
    assert found.evaluation.precision == "fp32 direct"
    assert f"{type(network).__name__} is attacked layer by layer" in caplog.text
    assert why in caplog.text


def test_a_form_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog):
    def off(network: nn.Module, images: Tensor) -> FoldedPasses | None:
        other = copy.deepcopy(network)
        next(other.parameters()).mul_(1.1)
        return folded_passes(other, images)

    monkeypatch.setattr(model_under_test, "folded_passes", off)
    found = evaluate(residual(0), IMAGES, LABELS, Linf(0.02), checks=False)
    assert found.evaluation.precision == "fp32 direct"
    assert "attacked without the form fp32 folded" in caplog.text


def test_a_verdict_is_that_of_the_network_itself(monkeypatch: pytest.MonkeyPatch):
    network = convolutional(0)
    labels = network.eval()(IMAGES).argmax(1)
    suite = [APGD(steps=5), FAB(steps=5, targets=2), Square(queries=40)]

    def judged() -> Verdict:
        return evaluate(network, IMAGES, labels, Linf(0.05), suite=suite, checks=False)

    by_form = judged()
    monkeypatch.setattr(model_under_test, "folded_passes", lambda *_: None)
    directly = judged()
    assert by_form.evaluation.precision == "fp32 folded"
    assert directly.evaluation.precision == "fp32 direct"
    assert 0 < by_form.robust.successes < len(labels)
    assert by_form.outcomes.broken_by == directly.outcomes.broken_by


def test_nothing_is_made_of_a_network_without_norms_dropout_and_convolutions():
    network = nn.Sequential(nn.Flatten(), nn.Linear(162, 4), nn.Tanh(), nn.Linear(4, 3))
    assert folded_passes(network, IMAGES) is None
