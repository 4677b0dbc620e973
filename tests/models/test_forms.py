"""A user's form of a network is what training and evaluation compute it by, or it is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from typing_extensions import override

import sparring
from sparring.errors import ConfigError
from sparring.models import (
    AttackPasses,
    Form,
    WorkingCopy,
    attack_passes,
    possible_precision,
    register_form,
    working_copy,
)
from sparring.training import TrainedRun
from training.small_runs import small

IMAGES = torch.rand(8, 1, 28, 28, generator=Generator().manual_seed(0))
LABELS = torch.arange(8) % 10


class Factored(nn.Module):
    """Two matrices without anything between them, so that their product is the network."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(784, 16, bias=False), nn.Linear(16, 10)

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.flatten(1)))


class Product(WorkingCopy):
    name = "product"

    def __init__(self, network: Factored) -> None:
        self.network = network
        self.refresh()

    @override
    def refresh(self) -> None:
        with torch.enable_grad():
            self._weight = self.network.second.weight @ self.network.first.weight

    @override
    def attacked(self, images: Tensor) -> Tensor:
        bias = self.network.second.bias.detach()
        return functional.linear(images.flatten(1), self._weight.detach(), bias)

    @override
    def trained(self, images: Tensor) -> Tensor:
        return functional.linear(images.flatten(1), self._weight, self.network.second.bias)


class FrozenProduct(AttackPasses):
    name, threads = "frozen product", 1

    def __init__(self, network: Factored, scale: float = 1.0) -> None:
        self._weight = scale * (network.second.weight @ network.first.weight).detach()
        self._bias = network.second.bias.detach()

    @override
    def __call__(self, images: Tensor) -> Tensor:
        return functional.linear(images.flatten(1), self._weight, self._bias)


class Multiplied(Form[Factored]):
    @override
    def working_copy(
        self, network: Factored, *, device: torch.device, rounded: bool
    ) -> WorkingCopy | None:
        return None if rounded else Product(network)

    @override
    def attack_passes(self, network: Factored, *, device: torch.device) -> AttackPasses | None:
        return FrozenProduct(network)


class Building(Form[Factored]):
    """Its working copy is what a function makes of the network."""

    def __init__(self, build: Callable[[Factored], object]) -> None:
        self.build = build

    @override
    def working_copy(
        self, network: Factored, *, device: torch.device, rounded: bool
    ) -> WorkingCopy | None:
        return self.build(network)  # pyright: ignore[reportReturnType]


def factored(*forms: Form[Factored]) -> Factored:
    """A network of a class of its own, which has these forms."""

    class Own(Factored):
        pass

    for form in forms:
        register_form(Own, form)
    torch.manual_seed(0)
    return Own()


def judged(network: nn.Module) -> sparring.Evaluation:
    threat = sparring.Linf(eps=0.1)
    found = sparring.evaluate(network, IMAGES, LABELS, threat, precision="fp32", checks=False)
    return found.evaluation


def trained(network: nn.Module, path: Path) -> TrainedRun:
    return sparring.train(small(updates=4, precision="fp32"), path, network=network)


def test_training_and_evaluation_go_by_a_registered_form(tmp_path):
    found = trained(factored(Multiplied()), tmp_path / "form")
    plain = trained(factored(), tmp_path / "plain")
    for run, name in (("form", "product"), ("plain", "fp32 direct")):
        environment = json.loads((tmp_path / run / "environment.json").read_text())
        assert environment["precision"] == name
    for ours, theirs in zip(found.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    by_form, directly = judged(found.network), judged(plain.network)
    assert (by_form.precision, directly.precision) == ("frozen product", "fp32 direct")
    assert by_form.robust == directly.robust


def test_the_newest_form_is_used_that_is_for_the_precision():
    network = factored(Building(Product), Multiplied(), Building(lambda _: None))
    assert working_copy(network, "fp32").name == "product"
    assert working_copy(network, "bf16").name == "product"
    assert working_copy(factored(Multiplied()), "bf16").name == "bf16 shadow, channels-last"
    assert attack_passes(factored(Building(Product))) is None


def test_neither_a_subclass_nor_an_altered_network_is_computed_by_a_form():
    network = factored(Multiplied())

    class Derived(type(network)):
        pass

    assert working_copy(Derived(), "fp32").name == "fp32 direct"
    network.first.register_forward_hook(lambda *_: None)
    assert working_copy(network, "fp32").name == "fp32 direct"
    assert attack_passes(network) is None


class Wrong(Product):
    @override
    def attacked(self, images: Tensor) -> Tensor:
        return 2 * super().attacked(images)


class Narrow(Product):
    @override
    def attacked(self, images: Tensor) -> Tensor:
        return super().attacked(images)[:, :9]


class Untrained(Product):
    @override
    def trained(self, images: Tensor) -> Tensor:
        return super().attacked(images)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (Wrong, "Wrong that a form of Own built gives other logits .* differ by .* of the largest"),
        (
            Narrow,
            r"Narrow .* shape \(8, 9\), not \(8, 10\)",
        ),
        (Untrained, r"Untrained .* failed \(RuntimeError: .*Correct the form"),
        (lambda _: 1 / 0, "the form Building of Own failed: ZeroDivisionError"),
        (lambda _: "none", "returned a str, not None or a WorkingCopy"),
    ],
)
def test_a_form_that_does_not_compute_the_network_is_refused(tmp_path, build, complaint):
    network = factored(Building(build))
    with pytest.raises(ConfigError, match=complaint):
        possible_precision(network, "fp32", IMAGES)
    with pytest.raises(ConfigError, match=complaint):
        trained(network, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_does_without_passes_that_are_not_the_networks(caplog):
    class Off(Form[Factored]):
        @override
        def attack_passes(self, network: Factored, *, device: torch.device) -> AttackPasses:
            return FrozenProduct(network, scale=1.1)

    assert judged(factored(Off())).precision == "fp32 direct"
    assert "attacked without the form frozen product" in caplog.text


@pytest.mark.parametrize(
    ("network_type", "form", "complaint"),
    [
        (Factored(), Multiplied(), "must be a subclass of torch.nn.Module; got Factored"),
        (int, Multiplied(), "must be a subclass of torch.nn.Module; got <class 'int'>"),
        (
            Factored,
            Multiplied,
            "form is the class Multiplied. Build it",
        ),
        (Factored, Product, r"form is the class Product"),
        (Factored, object(), "object lacks the methods of a form. Inherit"),
    ],
)
def test_what_is_no_form_of_a_network_cannot_be_registered(network_type, form, complaint):
    unchecked = register_form.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(ConfigError, match=complaint):
        unchecked(network_type, form)
