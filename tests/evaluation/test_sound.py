"""Where a proof could be wrong: arithmetic beyond float32's, hidden state, the region's edge."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from bounds.networks import drawn, seeded
from sparring import L2, PGD, Linf, evaluate
from sparring.attacks.threat import reach
from sparring.errors import ConfigError
from sparring.evaluation import certificate
from sparring.evaluation.certificates import around
from sparring.evaluation.judge import Judge


def flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers)


def images_of(*shape: int, count: int = 16) -> Tensor:
    return torch.rand(count, *shape, generator=seeded(1))


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


class Broadcast(nn.Module):
    """Sums whose parts have two shapes."""

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.last, self.first, self.pooled = nn.Linear(16, 2), nn.Linear(16, 1), pooled

    def forward(self, x: Tensor) -> Tensor:
        if self.pooled:
            return self.last(torch.relu(self.two(x) + max_pool2d(self.one(x), 4)).flatten(1))
        return self.last(x.flatten(1)) + self.first(x.flatten(1))


@pytest.mark.parametrize("pooled", [True, False])
def test_a_sum_of_two_shapes_is_refused(pooled: bool) -> None:
    network, images = drawn(Broadcast(pooled=pooled), 0).eval(), images_of(1, 4, 4)
    with pytest.raises(ConfigError, match="a sum of two shapes"):
        certificate(network, images, network(images).argmax(1), Linf(0.01))


def test_sums_that_may_overflow_float32_prove_nothing() -> None:
    signs = torch.ones(16)
    signs[::2] = -1
    first = linear([(7.5e37 * signs).tolist()], [0.0])  # clean: at most 3e38 in any order
    network = flat(first, nn.ReLU(), linear([[0.0], [1e-40]], [3.0, 0.0])).eval()
    images, labels = torch.full((1, 16), 0.5), torch.tensor([0])
    assert network(images).isfinite().all()
    with pytest.raises(ConfigError, match="beyond the range of float32"):
        certificate(network, images, labels, Linf(0.15))


@pytest.mark.parametrize("flushed", [False, True])
def test_products_that_vanish_in_float32_prove_nothing(flushed: bool) -> None:
    small = 2.0**-75
    first = linear([[small]], [0.0])
    network = flat(first, linear([[small]], [0.0]), linear([[-(2.0**127)], [0.0]], [2.0**-22, 0]))
    images, labels = torch.tensor([[0.5]]), torch.tensor([0])
    before = torch.set_flush_denormal(flushed)
    try:
        found = certificate(network.eval(), images, labels, Linf(0.07))
    finally:
        torch.set_flush_denormal(False)
    assert before
    assert not found.proved.any()


ONEDNN: Any = torch.backends.mkldnn


@contextmanager
def setting(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def without_onednn() -> Iterator[None]:
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


CONVOLUTION = drawn(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), 0)
"""A small network with a convolution."""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: setting(ONEDNN.conv, "fp32_precision", "bf16"), "float32 arithmetic"),
        (lambda: setting(ONEDNN.matmul, "fp32_precision", "bf16"), "float32 arithmetic"),
        (lambda: without_onednn(), "by NNPACK"),
        (lambda: torch.autocast("cpu", torch.bfloat16), "under autocast"),
    ],
)
def test_arithmetic_that_the_bounds_do_not_cover_is_refused(
    changed: Callable[[], Any], said: str
) -> None:
    if "NNPACK" in said and not torch.backends.nnpack.is_available():
        pytest.skip("this build has no NNPACK")
    if "float32" in said and not hasattr(ONEDNN, "conv"):
        pytest.skip("PyTorch has no such setting before 2.9")
    images, labels = images_of(1, 4, 4), torch.zeros(16, dtype=torch.int64)
    assert certificate(CONVOLUTION.eval(), images, labels, Linf(0.01)).proved.shape == (16,)
    with changed(), pytest.raises(ConfigError, match=said):
        certificate(CONVOLUTION.eval(), images, labels, Linf(0.01))


@pytest.mark.parametrize("threat", [Linf(0.3), Linf(8 / 255), L2(0.5), L2(4.0)])
def test_the_region_contains_every_image_that_the_judge_allows(threat: Any) -> None:
    clean = torch.rand(2_000, 3, generator=seeded(3))
    far = threat.project(clean + 4 * torch.rand(clean.shape, generator=seeded(4)) - 2, clean)
    ways = torch.sign(far - clean)
    edge = [torch.nextafter(far, far + ways).clamp(0, 1)]
    for _ in range(40):
        edge.append(torch.nextafter(edge[-1], edge[-1] + ways).clamp(0, 1))
    judge = Judge(
        model=flat(),
        labels=torch.zeros(len(clean), dtype=torch.int64),
        threat=threat,
        device=torch.device("cpu"),
    )
    found, seen = around(clean, threat), 0
    for points in edge:
        allowed = judge.allowed(points, clean)
        seen += int(allowed.sum())
        exact = points.double()[allowed]
        assert (exact >= found.box.low[allowed]).all()
        assert (exact <= found.box.high[allowed]).all()
        if found.radius is not None:
            assert ((exact - clean.double()[allowed]).norm(dim=1) <= found.radius).all()
    assert seen > len(clean)


class Wider(Linf):
    """Allows twice its eps."""

    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        return Linf.distance(self, x, images) / 2


def test_a_threat_that_only_inherits_linf_has_no_certificate() -> None:
    images, labels = images_of(1, 4, 4), torch.zeros(16, dtype=torch.int64)
    with pytest.raises(ConfigError, match="needs Linf or L2; got Wider"):
        certificate(CONVOLUTION, images, labels, Wider(0.1))


class Remembering(nn.Module):
    """Keeps something in a container at each call."""

    def __init__(self, kept: Any, *, is_output_used: bool = True) -> None:
        super().__init__()
        self.linear, self.is_output_used = nn.Linear(4, 3), is_output_used
        self.kept: Any = kept

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.flatten(1))
        if not self.is_output_used:
            self.kept = torch.relu(logits)
        elif isinstance(self.kept, list):
            self.kept.append(logits)
        else:
            self.kept["calls"] = [*self.kept.get("calls", []), 1]
        return logits


@pytest.mark.parametrize("kept", [[], {}])
def test_state_in_a_container_is_seen_and_nothing_of_a_trace_stays_in_it(kept: Any) -> None:
    network, images = drawn(Remembering(kept), 0).eval(), images_of(1, 2, 2)
    labels = network(images).argmax(1)
    with pytest.raises(ConfigError, match="state that changes from call to call"):
        certificate(network, images, labels, Linf(0.01))
    evaluate(network, images, labels, Linf(0.01), suite=[PGD(steps=1)], checks=False)
    inside = kept if isinstance(kept, list) else kept["calls"]
    assert {type(value) for value in inside} <= {Tensor, int}


def test_an_operation_whose_result_is_not_used_is_left_out() -> None:
    network = drawn(Remembering(None, is_output_used=False), 0).eval()
    images = images_of(1, 2, 2)
    found = certificate(network, images, network(images).argmax(1), Linf(0.001))
    assert found.proved.any()
    assert not found.unfinished.any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": lambda x: x}, "model must be a Module"),
        ({"images": images_of(3, 4, 4)}, "to have 1 channels, but got 3"),
        ({"images": 3 * images_of(1, 4, 4)}, r"pixels must lie in \[0, 1\]"),
        ({"images": images_of(1, 4, 4, count=0), "labels": torch.zeros(0).long()}, "at least one"),
        ({"labels": torch.full((16,), 3)}, "at least 4 classes"),
        ({"labels": torch.zeros(3).long()}, r"labels must be int64 of shape \(16,\)"),
        ({"labels": torch.zeros(16)}, "labels must be int64"),
        ({"passes": "many"}, "passes must be an integer"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any], said: str) -> None:
    given = {"model": CONVOLUTION, "images": images_of(1, 4, 4), "labels": torch.zeros(16).long()}
    with pytest.raises(ConfigError, match=said):
        certificate(**{**given, **wrong}, threat=Linf(0.01))


def test_arrays_and_inference_mode_are_taken() -> None:
    pooled = drawn(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)), 0).eval()
    images = images_of(1, 4, 4)
    labels = pooled(images).argmax(1)
    expected = certificate(pooled, images, labels, Linf(0.01)).proved
    assert expected.any()
    with torch.inference_mode():
        assert torch.equal(certificate(pooled, images, labels, Linf(0.01)).proved, expected)
    arrays = images.numpy(), labels.numpy()
    assert torch.equal(certificate(pooled, *arrays, Linf(0.01)).proved, expected)


@pytest.mark.parametrize("eps", [0.5, 5.0, 20.0, 50.0])
@pytest.mark.parametrize("is_alike", [True, False])
def test_the_judge_allows_what_l2_projects_however_many_pixels_there_are(
    eps: float, is_alike: bool
) -> None:
    levels = torch.randint(40, 216, (4, 3, 160, 160), generator=seeded(1))
    clean, threat = levels / 255, L2(eps)
    far = torch.randn(clean.shape, generator=seeded(5))
    far = clean + (far.sign() if is_alike else far)
    change = (threat.project(far, clean) - clean).double().flatten(1).norm(dim=1)
    assert (change > 0.99 * eps).all()
    assert (change <= reach(threat, clean)).all()
    model = flat(drawn(nn.Linear(3 * 160 * 160, 2), 0)).eval()
    verdict = evaluate(
        model, clean, model(clean).argmax(1), threat, suite=[PGD(steps=3)], checks=False
    )
    fooled = model(verdict.adversarial).argmax(1) != model(clean).argmax(1)
    assert verdict.robust.successes == int((~fooled).sum())


class Residual(nn.Module):
    """A branch that begins with a function which is not in place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x.flatten(1))
        return self.last(hidden + self.two(relu(hidden)))


def test_a_function_that_is_not_in_place_is_no_obstacle() -> None:
    network, images = drawn(Residual(), 0).eval(), images_of(1, 2, 2)
    assert certificate(network, images, network(images).argmax(1), Linf(1e-4)).proved.any()
