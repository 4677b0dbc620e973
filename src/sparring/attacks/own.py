"""Attacks of your own: any function of a model, images and labels.

Shapes: B batch, S one image (C H W).  Units: pixels in [0, 1].
"""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sparring.attacks.checks import Classifier
from sparring.attacks.plausible import threat_text
from sparring.attacks.search import Attack, Move, Search, State, Task
from sparring.attacks.threat import DEFAULT, Threat, itself, reach
from sparring.errors import ConfigError, SparringError, cause
from sparring.models import drawing_from, evaluation_mode, module_of
from sparring.models.state import put_back

_ROUNDING = 1e-4
"""How far pixels may lie outside [0, 1], and, as a share of eps, images outside the threat."""


def own_images(
    attack: Callable[..., object],
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    **offered: object,
) -> Tensor:
    """What an attack returns for these images, checked.

    Of `offered` it gets the keyword arguments that it takes. Raises `ConfigError` if it fails, or
    returns anything but an image in [0, 1] for each.
    """
    called = attack.forward if isinstance(attack, nn.Module) else attack
    taken = {key: value for key, value in offered.items() if _takes(called, key)}
    words = ", ".join(["model", "images", "labels", *(f"{key}=…" for key in taken)])
    return checked_images(
        f"the attack ({own_name(attack)})",
        model,
        images,
        lambda: attack(model, images.clone(), labels.clone(), **taken),
        f"attack({words})",
    )


def checked_images(
    name: str, model: Classifier, images: Tensor, call: Callable[[], object], words: str
) -> Tensor:
    """What a call of an attack returns for these images, checked as in `own_images`.

    Pixels outside [0, 1] by rounding are clamped.
    """
    try:
        # The attack's backward pass, which may compute layers again, is of the same mode.
        with evaluation_mode(model), _same_weights(name, model):
            found = call()
    except SparringError:
        raise
    except Exception as error:  # not sparring's code
        raise ConfigError(
            f"{name} failed: {cause(error)}. It is called as {words} and must return adversarial "
            "images."
        ) from error
    if not isinstance(found, Tensor) or found.shape != images.shape:
        kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"{name} returned {kind} for images of shape {tuple(images.shape)}. It must return one "
            "adversarial image for each."
        )
    found = found.detach().to(images)
    if not found.isfinite().all():
        raise ConfigError(f"{name} returned pixels that are NaN or infinite. Divide by no zero.")
    least, most = found.aminmax()
    if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
        raise ConfigError(
            f"{name} returned pixels from {least.item():g} to {most.item():g}; pixels must lie in "
            "[0, 1]. Clamp them."
        )
    return found if least >= 0 and most <= 1 else found.clamp(0, 1)


def check_inside(name: str, threat: Threat, found: Tensor, images: Tensor) -> None:
    """Raise `ConfigError` for images outside the threat by more than rounding."""
    farthest = float(threat.distance(found, images).max())
    if not farthest <= reach(threat, images) + _ROUNDING * threat.eps:
        raise ConfigError(
            f"{name} returned images at a distance of {farthest:.4g}; the threat is "
            f"{threat_text(threat)}. Take the argument threat and return "
            "threat.project(found, images)."
        )


@contextmanager
def _same_weights(name: str, model: Classifier) -> Iterator[None]:
    """Refuse an attack that changes the network; what was before is put back, also if it fails."""
    module = module_of(model)
    values, hooks = _values(module), _hooks(module)
    before = {place: value.detach().clone() for place, value in values.items()}
    try:
        yield
    finally:
        left = _restore_hooks(module, hooks)
        changed = _restore_values(module, values, before)
    if changed:
        raise ConfigError(
            f"{name} changed {changed[0]} of the network. An attack must leave weights and buffers "
            "as they are: attack a copy.deepcopy(model)."
        )
    if left:
        raise ConfigError(
            f"{name} left the network with other hooks than before ({left[0][1].strip('_')} of "
            f"{left[0][0] or 'the whole'}), and they change what it computes from now on. Call "
            "remove() on what register_..._hook() returned before the attack returns."
        )


def _restore_hooks(
    module: nn.Module | None, hooks: dict[tuple[str, str], dict[int, object]]
) -> list[tuple[str, str]]:
    """Put the hooks back; return which were others, by the part's name and their kind."""
    left = [place for place, found in _hooks(module).items() if found != hooks.get(place)]
    for place, kind in left:
        assert module is not None  # it has hooks
        vars(module.get_submodule(place))[kind] = OrderedDict(hooks.get((place, kind), {}))
    return left


def _restore_values(
    module: nn.Module | None, values: dict[str, Tensor], before: dict[str, Tensor]
) -> list[str]:
    """Put weights and buffers back, where they were; return the names of those that were others."""
    now = _values(module)
    changed = [
        place
        for place, value in values.items()
        if now.get(place) is not value or not torch.equal(value, before[place])
    ]
    with torch.no_grad():
        for place in changed:
            assert module is not None  # it has weights
            if now.get(place) is not values[place]:
                path, _, own = place.rpartition(".")
                setattr(module.get_submodule(path), own, values[place])
            put_back(values[place], before[place])
    return changed


def _values(module: nn.Module | None) -> dict[str, Tensor]:
    if module is None:
        return {}
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _hooks(module: nn.Module | None) -> dict[tuple[str, str], dict[int, object]]:
    """The hooks of every part of a network, by the part's name and their kind."""
    if module is None:
        return {}
    return {
        (place, kind): dict(found)
        for place, part in module.named_modules()
        for kind, found in vars(part).items()
        if kind.endswith("_hooks") and isinstance(found, dict)
    }


def aimed_at(threat: Threat, attack: Callable[..., Any]) -> Callable[..., Any]:
    """The attack; one that takes a threat as an argument, and has none itself, gets this one."""
    if threat_of(attack) or isinstance(attack, nn.Module) or not _takes(attack, "threat"):
        return attack
    return functools.partial(attack, threat=threat)


def threat_of(attack: Callable[..., object]) -> Threat | None:
    """The threat of an attack, its own or that of `aimed_at`; `None` without one."""
    given = attack.keywords if isinstance(attack, functools.partial) else {}
    found = getattr(attack, "threat", given.get("threat"))
    return found if isinstance(found, Threat) else None


def own_name(attack: Callable[..., object]) -> str:
    """Its `name` if it has one, else what Python calls it."""
    if isinstance(attack, functools.partial):
        return own_name(attack.func)
    name = getattr(attack, "name", None)
    return name if isinstance(name, str) else getattr(attack, "__name__", type(attack).__name__)


def _takes(attack: Callable[..., object], keyword: str) -> bool:
    try:
        parameters = inspect.signature(attack).parameters
    except (TypeError, ValueError):  # of a function that is not written in Python
        return False
    kinds = (one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return keyword in parameters or any(kinds)


@dataclass(frozen=True, slots=True)
class OwnAttack(Attack):
    """A function as an attack of a suite.

    It gets the network itself in evaluation mode, with gradients recorded, and of `threat` and
    `generator` the keyword arguments that it takes. Its images count only inside the threat.
    """

    attack: Callable[..., object] = field(repr=False)
    """Called as `attack(model, images, labels)`; returns images."""
    name: str = ""  # pyright: ignore[reportIncompatibleMethodOverride]
    """How results cite it; the function's own name if not given."""
    threat: Threat = DEFAULT
    """The set that its images must come from."""

    def __post_init__(self) -> None:
        """Take the function's name."""
        object.__setattr__(self, "name", self.name or own_name(self.attack))

    @override
    def searches(self, num_classes: int) -> Sequence[Search]:
        return [OwnSearch(attack=self)]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnSearch(Search):
    """One call for each batch."""

    attack: OwnAttack
    rank: int = 0

    @property
    @override
    def queries(self) -> int:
        return 1

    @override
    def begin(self, task: Task, logits_of: Classifier) -> State:
        return {
            "images": task.images,
            "labels": task.labels,
            "seeds": task.seeds,
            "x": task.images,
            "done": torch.zeros_like(task.labels),
        }

    @override
    def advance(self, logits_of: Classifier, state: State) -> Move:
        threat, images = self.attack.threat, state["images"]
        seed = int(state["seeds"][0])
        generator = Generator().manual_seed(seed)
        with torch.enable_grad(), drawing_from(seed):
            found = own_images(
                self.attack.attack,
                module_of(logits_of) or logits_of,
                images,
                state["labels"],
                threat=itself(threat),
                generator=generator,
            )
        check_inside(f"the attack ({self.attack.name})", threat, found, images)
        x, done = threat.project(found, images), state["done"] + 1
        every = done > 0
        return Move(state={**state, "x": x, "done": done}, points=x, wrong=every, over=every)

    @override
    def best(self, state: State) -> Tensor:
        return state["x"]
