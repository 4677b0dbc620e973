"""However a model is made, and whatever surrounds the call, it is judged right or refused.

It is left as it was either way, to the bit, and so are the images.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square
from sparring.errors import ConfigError
from sparring.evaluation import evaluate, transfer

pytestmark = pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad",  # of a reentrant checkpoint without gradients
    "ignore:Complex modules are a new feature",
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # of torch.compile itself
)

IMAGES = torch.rand(9, 1, 8, 8, generator=Generator().manual_seed(1))
LINF = Linf(eps=0.05)
ATTACKS = [
    PGD(threat=LINF, steps=2, restarts=2),
    PGD(threat=L2(eps=0.5), steps=2, loss="margin", start="corner"),
    APGD(threat=LINF, steps=3),
    FAB(threat=LINF, steps=2, targets=2),
    Square(threat=LINF, queries=4),
]


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def labels_of(model: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    with torch.no_grad():
        return (model or linear())(IMAGES).argmax(1)


class Own(nn.Module):
    """A linear network whose passes do something else as well, written in one line."""

    seen: Tensor

    def __init__(self, passes: Callable[["Own", Tensor], object]) -> None:
        super().__init__()
        sound = linear()[1]
        assert isinstance(sound, nn.Linear)
        self.sound, self.passes = sound, passes
        self.norm = nn.BatchNorm1d(64)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("made", None)
        self.sound.bias.grad = torch.ones(4)

    def logits(self, images: Tensor) -> Tensor:
        return self.sound(images.flatten(1))

    def forward(self, images: Tensor) -> object:
        return self.passes(self, images)


def after(change: Callable[[Own], object]) -> Own:
    """Changes the network, then answers."""
    return Own(lambda own, images: (change(own), own.logits(images))[1])


class Checkpointed(nn.Module):
    """Computes its first layers again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.first = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten()
        )
        self.last = nn.Linear(144, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(checkpoint(self.first, images, use_reentrant=self.reentrant))


STATEFUL = {
    "counts": lambda: after(lambda own: own.seen.add_(1)),
    "counts out of sight": lambda: after(lambda own: own.seen.data.add_(1)),
    "another buffer": lambda: after(lambda own: setattr(own, "seen", own.seen + 1)),
    "a longer buffer": lambda: after(lambda own: setattr(own.seen, "data", torch.ones(5))),
    "fills a buffer": lambda: after(lambda own: setattr(own, "made", torch.ones(1))),
    "registers a buffer": lambda: after(lambda own: own.register_buffer("new", torch.ones(1))),
    "changes weights": lambda: after(lambda own: own.sound.weight.data.mul_(0.999)),
    "puts itself into training mode": lambda: after(lambda own: own.train()),
    "normalises by the batch": lambda: Own(
        lambda own, images: own.sound(
            functional.batch_norm(
                images.flatten(1), own.norm.running_mean, own.norm.running_var, training=True
            )
            if len(images) > 1
            else images.flatten(1)
        )
    ),
    "writes to its input": lambda: Own(lambda own, images: own.logits(images.sub_(0.5).div_(0.5))),
    "clamps its input": lambda: Own(lambda own, images: own.logits(images.clamp_(0.2, 0.8))),
    "writes into its input": lambda: Own(
        lambda own, images: (images[:, :, 0].zero_(), own.logits(images))[1]
    ),
    "checkpointed": lambda: Checkpointed(reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(reentrant=True),
    "spectral norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.spectral_norm(nn.Linear(64, 4)), nn.Dropout()
    ),
    "spectral norm, parametrised": lambda: nn.Sequential(
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(64, 4))
    ),
    "weight norm": lambda: nn.Sequential(
        nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 4))
    ),
    "one layer twice": lambda: nn.Sequential(
        nn.Flatten(), *[nn.Linear(64, 64)] * 2, nn.Linear(64, 4)
    ),
}


def state(model: nn.Module) -> list[object]:
    return [
        {name: (value.tolist(), value.dtype) for name, value in model.state_dict().items()},
        {name: id(value) for name, value in model.named_buffers()},
        {name: (id(each), each.requires_grad) for name, each in model.named_parameters()},
        {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        {name: layer.training for name, layer in model.named_modules()},
    ]


@contextmanager
def untouched(model: nn.Module, images: Tensor) -> Iterator[None]:
    before, pixels, version = state(model), images.clone(), images._version
    yield
    assert state(model) == before
    assert torch.equal(images, pixels)
    assert images._version == version


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", STATEFUL)
def test_no_call_leaves_a_trace_on_a_model_or_on_its_images(kind: str, *, training: bool) -> None:
    model = STATEFUL[kind]().train(training)
    images = IMAGES.clone()
    labels = labels_of()
    with untouched(model, images):
        evaluate(model, images, labels, LINF, checks=kind == "counts")
        transfer({"a": model, "b": linear()}, images, labels, LINF, steps=(2,))
    for attack in ATTACKS:
        with untouched(model, images):
            attack(model, images, labels, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_checkpointed_model_is_attacked_as_the_same_model_without(attack, *, reentrant: bool):
    model = Checkpointed(reentrant=reentrant).train()
    plain = nn.Sequential(model.first, model.last)
    labels = labels_of(copy.deepcopy(plain).eval())
    found = [
        attack(each, IMAGES, labels, generator=Generator().manual_seed(0))
        for each in (model, plain)
    ]
    assert torch.equal(*found)


def test_reentrant_checkpointing_behind_a_function_is_refused():
    model = Checkpointed(reentrant=True).eval()
    with pytest.raises(ConfigError, match=r"must be a torch.nn.Module.*use_reentrant"):
        PGD(threat=LINF)(
            lambda images: model(images), IMAGES, labels_of(), generator=Generator().manual_seed(0)
        )


def test_a_model_that_writes_to_its_input_is_judged_as_one_that_does_not():
    writes = STATEFUL["writes to its input"]()
    sound = Own(lambda own, images: own.logits((images - 0.5) / 0.5))
    labels = labels_of(sound)
    found = [evaluate(model, IMAGES, labels, LINF, checks=False) for model in (writes, sound)]
    assert found[0].outcomes == found[1].outcomes
    function = evaluate(lambda images: writes(images), IMAGES, labels, LINF, checks=False)
    assert function.outcomes == found[0].outcomes


def compiled(model: nn.Module) -> nn.Module:
    found = torch.compile(model, backend="eager")
    assert isinstance(found, nn.Module)
    return found


SAME = {
    "scripted": lambda model: torch.jit.script(model),
    "traced": lambda model: torch.jit.trace(model, IMAGES[:2]),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
    "parallel": nn.DataParallel,
    "parallel twice": lambda model: nn.DataParallel(nn.DataParallel(model)),
    "compiled": compiled,
    "compiled, parallel": lambda model: nn.DataParallel(compiled(model)),
    "a graph": torch.fx.symbolic_trace,
    "without gradients of weights": lambda model: model.requires_grad_(requires_grad=False),
    "a function": lambda model: lambda images: model(images),
    "a method": lambda model: model.forward,
}


@pytest.mark.parametrize("kind", SAME)
def test_a_wrapped_model_is_judged_as_what_is_in_it(kind: str) -> None:
    labels = labels_of()
    expected = evaluate(linear().eval(), IMAGES, labels, LINF, checks=False)
    found = evaluate(SAME[kind](linear().eval()), IMAGES, labels, LINF, checks=False)
    assert found.outcomes == expected.outcomes
    attacked = [
        PGD(threat=LINF, steps=2)(model, IMAGES, labels, generator=Generator().manual_seed(0))
        for model in (SAME[kind](linear().eval()), linear().eval())
    ]
    assert torch.equal(*attacked)


def inference_module() -> nn.Module:
    with torch.inference_mode():
        return linear()


REFUSED = {
    "lazy": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)),
        "belongs to a lazy layer.*Call the",
    ),
    "meta": (lambda: linear().to("meta"), "on the meta device.*to_empty"),
    "inference": (inference_module, "made in torch.inference_mode.*deepcopy"),
    "double": (lambda: linear().double(), r"the model's weights.*images\.double\(\)"),
    "half": (lambda: linear().half(), r"the model's weights.*model\.float\(\)"),
    "complex": (lambda: linear().to(torch.complex64), "the model's weights.*complex64"),
    "complex logits": (
        lambda: Own(lambda own, images: own.logits(images) + 0j),
        "real floating-point dtype.*complex64",
    ),
    "classes": (lambda: Own(lambda own, x: own.logits(x).long()), "floating-point.*int64"),
    "a tuple": (lambda: Own(lambda own, x: (own.logits(x),)), "must return logits.*tuple"),
    "a list of modules": (lambda: nn.ModuleList([linear()]), "ModuleList failed.*forward"),
    "other images": (lambda: nn.Linear(63, 4), r"Linear failed .* of shape \(1, 8, 8\)"),
    "no images": (lambda: Own(lambda own, x: own.missing), "Own failed.*missing"),
    "a class": (lambda: nn.Linear, "is the class Linear"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_cannot_be_called_is_refused(kind: str) -> None:
    build, complaint = REFUSED[kind]
    for call in (
        lambda model: evaluate(model, IMAGES, labels_of(), LINF),
        lambda model: ATTACKS[0](model, IMAGES, labels_of(), generator=Generator().manual_seed(0)),
        lambda model: ATTACKS[2](model, IMAGES, labels_of(), generator=Generator().manual_seed(0)),
    ):
        with pytest.raises(ConfigError, match=complaint):
            call(build())


BATCHES = {
    "squeezes": (lambda own, x: own.logits(x).squeeze(), "squeeze"),
    "batches of nine": (lambda own, x: own.sound(x.reshape(9, 64)), "images? of shape.*pads them"),
    "one by one": (lambda own, x: own.sound(x.reshape(1, 64)), "images of shape.*pads them"),
    "pairs": (lambda own, x: own.sound(x.reshape(2, -1, 64)).flatten(0, 1), "images? of shape"),
    "powers of two": (
        lambda own, x: own.logits(x) if len(x) & (len(x) - 1) == 0 else own.missing,
        "images of shape",
    ),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_model_of_fixed_batches_is_refused_before_the_first_attack(kind: str) -> None:
    passes, complaint = BATCHES[kind]
    with pytest.raises(ConfigError, match=complaint):
        evaluate(Own(passes), IMAGES, labels_of(), LINF, progress=lambda progress: pytest.fail())


def test_images_that_an_attack_of_the_suite_cannot_change_are_refused_before_the_first():
    with pytest.raises(ConfigError, match=r"squares of images of shape.*Take suite"):
        evaluate(
            nn.Linear(64, 4),
            IMAGES.flatten(1),
            labels_of(),
            LINF,
            suite="standard",
            progress=lambda progress: pytest.fail(),
        )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


AROUND = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(mode=True),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "deterministic": deterministic,
    "another device": lambda: torch.device("meta"),
}


def everything(model: nn.Module, images: Tensor, labels: Tensor) -> list[object]:
    matrix = transfer({"a": model, "b": model}, images, labels, LINF, steps=(2,))
    return [
        evaluate(model, images, labels, LINF, checks=False).outcomes,
        (matrix.natural, matrix.cells),
        *(
            attack(model, images, labels, generator=Generator("cpu").manual_seed(0)).tolist()
            for attack in ATTACKS
        ),
    ]


@pytest.fixture(scope="module")
def outside() -> tuple[nn.Module, Tensor, list[object]]:
    model = Checkpointed(reentrant=False).eval()
    labels = labels_of(model)
    return model, labels, everything(model, IMAGES, labels)


@settings(max_examples=12)
@given(names=st.sets(st.sampled_from(sorted(AROUND)), min_size=1, max_size=4))
def test_what_surrounds_a_call_changes_nothing(outside, names: set[str]) -> None:
    model, labels, expected = outside
    with ExitStack() as around:
        for name in sorted(names):
            around.enter_context(AROUND[name]())
        before = (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled())
        found = everything(model, IMAGES, labels)
        after = (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled())
    assert found == expected
    assert after == before


def test_images_made_in_inference_mode_or_wanting_a_gradient_are_judged_like_others(outside):
    model, labels, expected = outside
    with torch.inference_mode():
        images, classes = IMAGES * 1, labels * 1
    assert everything(model, images, classes) == expected
    wanting = IMAGES.clone().requires_grad_()
    assert everything(model, wanting, labels) == expected
    assert wanting.grad is None
    for given_images in (IMAGES.numpy(), IMAGES.flip(0).numpy()[::-1]):
        found = evaluate(model, given_images, labels.numpy(), LINF, checks=False)
        assert found.outcomes == expected[0]
