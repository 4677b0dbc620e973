"""What a trace does not show gets no certificate, and no other form stands in for the network."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from sparring.attacks import L2, PGD, Linf
from sparring.errors import ConfigError
from sparring.evaluation import Suite, certified, evaluate, suites
from sparring.evaluation.certificates import Certificate
from sparring.evaluation.model_under_test import ModelUnderTest
from sparring.models import PaperCNN, working_copy
from sparring.models.state import OnCopies

THREAT = Linf(eps=0.01)
LIMIT = 0.9


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite that certifies and takes no time."""
    quick = Suite(name="quick", summary="", attacks=(PGD(steps=10),), certifies=True)
    monkeypatch.setattr(suites, "SUITES", {"quick": quick})


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def branch(images: Tensor, logits: Tensor) -> Tensor:
    """Nothing for dark images; what is hidden from a trace sits in here."""
    return logits + torch.relu(images.flatten(1).amax(1, keepdim=True) - LIMIT) * 1e4


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    for value in layers.state_dict().values():
        value.normal_(0, 0.5, generator=seeded())
    return layers.eval()


def images_for(model: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand(20, 1, 4, 4, generator=seeded(1)) * 0.6 + 0.1
    return images, model(images).argmax(1)


class Adding(nn.Module):
    """A parametrisation that is not known."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1


class Branching(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + torch.relu(input.amax(1, keepdim=True) - LIMIT)


class Masquerading(Branching):
    """A subclass that says that it is of torch's own."""

    __module__ = "torch.nn.modules.linear"


class Calling(nn.Linear):
    def __call__(self, *given: Any) -> Tensor:
        return super().__call__(*given) + torch.relu(given[0].amax(1, keepdim=True) - LIMIT)


class Counting(nn.Module):
    """Another function from its tenth call on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = network(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits = self.inner(images)
        return torch.relu(logits) if self.calls > 10 else logits


class Drifting(nn.Module):
    """A buffer that moves in every pass, although it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.get_buffer("seen").add_(1)
        return self.inner(images)


class Elsewhere(nn.Module):
    """Another function while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        traced = isinstance(images, torch.fx.Proxy)
        return logits if traced else torch.relu(logits)


class SumInPlace(nn.Module):
    """What the sum changes is used again under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        flat = torch.flatten(images, 1)
        total = hidden = self.layer(flat)
        total += torch.relu(flat)
        return total + hidden


class ReluInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layer(torch.flatten(images, 1))
        view = hidden.view(-1, 4, 4)
        return functional.relu(hidden, inplace=True) + view.flatten(1)


def _first_linear(model: nn.Module) -> Any:
    return next(module for module in model.modules() if isinstance(module, nn.Linear))


def _forward(layer: Any) -> None:
    layer.forward = lambda x, forward=layer.forward: branch(x, forward(x))


def _bound_forward(layer: Any) -> None:
    layer.forward = MethodType(lambda self, x: branch(x, functional.linear(x, self.weight)), layer)


def _call(layer: Any) -> None:
    layer._call_impl = lambda x, call=layer._call_impl: branch(x, call(x))


def _hook(layer: Any) -> None:
    layer.register_forward_hook(lambda _, given, out: branch(given[0], out))


def _hook_with_keywords(layer: Any) -> None:
    layer.register_forward_hook(
        lambda _, given, keywords, out: branch(given[0], out), with_kwargs=True
    )


def _pre_hook(layer: Any) -> None:
    layer.register_forward_pre_hook(lambda _, given: (branch(given[0], given[0]),))


ALTERED: dict[str, Callable[[nn.Module], object]] = {
    "hook": lambda model: _hook(_first_linear(model)),
    "hook on the whole": _hook,
    "hook with keywords": lambda model: _hook_with_keywords(_first_linear(model)),
    "pre-hook": lambda model: _pre_hook(_first_linear(model)),
    "old spectral norm": lambda model: nn.utils.spectral_norm(_first_linear(model)),
    "forward": lambda model: _forward(_first_linear(model)),
    "bound forward": lambda model: _bound_forward(_first_linear(model)),
    "forward of the whole": _forward,
    "call": lambda model: _call(_first_linear(model)),
    "parametrisation": lambda model: parametrize.register_parametrization(
        _first_linear(model), "weight", Adding()
    ),
}


def hooked(model: nn.Module, kind: str) -> nn.Module:
    ALTERED[kind](model)
    return model


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "subclass": lambda: nn.Sequential(nn.Flatten(), Branching(16, 3)),
    "masquerade": lambda: nn.Sequential(nn.Flatten(), Masquerading(16, 3)),
    "__call__": lambda: nn.Sequential(nn.Flatten(), Calling(16, 3)),
    "count": Counting,
    "buffer": Drifting,
    "outside": Elsewhere,
    "sum in place": SumInPlace,
    "relu in place": ReluInPlace,
    "divisor": lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=-1), nn.Flatten()),
}


@contextmanager
def on_all_modules(register: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def assert_not_certified(model: nn.Module) -> str:
    """Neither alone nor in an evaluation, which keeps the rest and says why."""
    images, labels = images_for(model)
    with pytest.raises(ConfigError) as refused:
        certified(model, images, labels, THREAT)
    found = evaluate(model, images, labels, THREAT, suite="quick", checks=False).evaluation
    assert found.certified is None
    assert len(found.attacks) == 1
    (said,) = [caveat for caveat in found.caveats if caveat.startswith("no certificate")]
    assert "\n" not in said
    return str(refused.value)


@pytest.mark.parametrize("kind", ALTERED)
def test_what_is_added_to_a_network_takes_its_certificate(kind):
    images, labels = images_for(network())
    assert certified(network(), images, labels, THREAT).successes > 5
    assert "need a network that computes what its trace shows" in assert_not_certified(
        hooked(network(), kind)
    )


@pytest.mark.parametrize("kind", OTHERS)
def test_what_a_class_does_that_no_trace_shows_takes_it_too(kind):
    torch.manual_seed(0)
    assert_not_certified(OTHERS[kind]().eval())


@pytest.mark.parametrize("weight", [0.0, 1e-30])
def test_logits_that_are_equal_or_tiny_are_compared_as_any(weight):
    model = network()
    for value in model[3].parameters():
        value.detach().mul_(weight)
    images, labels = images_for(model)
    found = certified(model, images, labels, THREAT)
    assert (found.successes > 0) is (weight > 0)


@pytest.mark.parametrize(
    "register",
    [torch_module.register_module_forward_hook, torch_module.register_module_forward_pre_hook],
)
def test_so_does_a_hook_on_all_modules(register):
    with on_all_modules(register, lambda *_: None):
        assert "a forward hook on all modules" in assert_not_certified(network())


def test_so_does_a_layer_of_torch_that_was_replaced_for_all(monkeypatch):
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: branch(x, forward(self, x)))
    assert "a replaced forward of Linear" in assert_not_certified(network())


@pytest.mark.parametrize(
    "known",
    [parametrizations.spectral_norm, parametrizations.weight_norm, parametrizations.orthogonal],
)
def test_known_parametrisations_and_hooks_of_the_backward_pass_keep_it(known):
    model = network()
    known(model[3])
    model[1].register_full_backward_hook(lambda *_: None)
    images, labels = images_for(model)
    assert certified(model, images, labels, THREAT).successes > 0


def test_a_trace_leaves_nothing_in_the_network():
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            self.features = self.inner(images)
            return self.features

    model = Keeping()
    images, labels = images_for(model)
    assert certified(model, images, labels, THREAT).successes > 5
    assert isinstance(model.features, Tensor)


def everything_proved(count: int) -> Certificate:
    held = torch.ones(count, dtype=torch.bool)
    return Certificate(proved=held, by_intervals=held, unfinished=~held, seconds=0.0)


@pytest.mark.parametrize("threat", [Linf(eps=0.05), L2(eps=0.4)])
def test_bounds_that_attacks_contradict_are_withdrawn_and_both_parts_told(threat, monkeypatch):
    model = network()
    images, labels = images_for(model)
    monkeypatch.setattr(
        "sparring.evaluation.proofs.certificate",
        lambda model, images, labels, threat, **_: everything_proved(len(images)),
    )
    found = evaluate(model, images, labels, threat, suite="quick", checks=False)
    assert any(found.outcomes.broken_by)
    assert found.evaluation.certified is found.outcomes.proved is None
    plain = evaluate(model, images, labels, threat, suite=[PGD(steps=10)], checks=False)
    assert found.outcomes == plain.outcomes
    (said,) = [c for c in found.evaluation.caveats if c.startswith("no certificate")]
    assert re.search(
        r"would certify 20 of 20 images, but \d+ of these are misclassified, first image \d+", said
    )


def paper(kind: str) -> nn.Module:
    model = PaperCNN("torch", generator=seeded()).eval()
    if kind == "layer":
        model.conv2 = nn.Conv2d(32, 64, 5, padding=2, padding_mode="circular")
    elif kind:
        hooked(model, kind)
    return model


@pytest.mark.parametrize("kind", [*ALTERED, "layer"])
def test_what_is_attacked_of_an_altered_network_is_that_network(kind):
    model = paper(kind)
    images = torch.rand(3, 1, 28, 28, generator=seeded(2))
    attacked = ModelUnderTest(model, images, torch.zeros(3, dtype=torch.int64), THREAT).attacked
    copy = working_copy(model, "fp32")
    with torch.no_grad():
        wanted = model(images)
        for form in (attacked, copy.attacked, copy.trained):
            assert torch.allclose(form(images), wanted, atol=1e-4)
    assert copy.name == "fp32 direct"


def test_a_form_that_is_not_the_network_does_not_stand_in_for_it(monkeypatch):
    class Wrong:
        name = "wrong"

        def attacked(self, images: Tensor) -> Tensor:
            return network()(images) * torch.tensor([1.0, 1.0, 1.1])

    monkeypatch.setattr("sparring.evaluation.model_under_test.working_copy", lambda *_: Wrong())
    model = network()
    images, labels = images_for(model)
    tested = ModelUnderTest(model, images, labels, THREAT)
    assert isinstance(tested.attacked, OnCopies)
    assert tested.attacked.model is model
    assert tested.arithmetic == "the model's own"
