"""Attacks of training: what they must be, and calls that check those of your own.

Shapes: B batch, C H W image.  Units: pixels in [0, 1].
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Generator, Tensor

from sparring.attacks.apgd import APGD
from sparring.attacks.checks import Classifier
from sparring.attacks.fab import FAB
from sparring.attacks.own import (
    check_inside,
    checked_images,
    own_images,
    own_name,
    threat_of,
)
from sparring.attacks.own_threat import called_safely
from sparring.attacks.pgd import PGD
from sparring.attacks.square import Square
from sparring.attacks.threat import Threat
from sparring.errors import ConfigError
from sparring.records.custom import own_errors


@runtime_checkable
class BatchAttack(Protocol):
    """Any attack that batches can be made with; those of `sparring.attacks` and your own."""

    def __call__(
        self,
        model: Classifier,
        images: Float[Tensor, " B C H W"],
        labels: Int[Tensor, " B"],
        *,
        generator: Generator,
    ) -> Float[Tensor, " B C H W"]:
        """Adversarial images for `model`, which maps images to logits.

        Draw everything random from `generator`, which lives on the CPU.
        """
        ...


@runtime_checkable
class StepwiseAttack(BatchAttack, Protocol):
    """An attack in steps, which a schedule can shrink and whose last steps can be taken later."""

    @property
    def threat(self) -> Threat:
        """The set it searches."""
        ...

    @property
    def steps(self) -> int:
        """Gradient steps."""
        ...

    @property
    def restarts(self) -> int:
        """Independent searches."""
        ...

    def at(self, eps: float, steps: int | None = None) -> "StepwiseAttack":
        """The same attack at another ε, in as many steps or others."""
        ...

    def only(self, steps: int) -> "StepwiseAttack":
        """Only some of its steps, each as long as before."""
        ...

    def search_from(
        self,
        start: Float[Tensor, " B C H W"],
        model: Classifier,
        images: Float[Tensor, " B C H W"],
        labels: Int[Tensor, " B"],
    ) -> Float[Tensor, " B C H W"]:
        """All of its steps, from given images."""
        ...


BUILT_IN = (PGD, APGD, FAB, Square)
"""Attacks that do not change the network; others are checked at each batch."""


def attacked_images(
    attack: BatchAttack, model: Classifier, images: Tensor, labels: Tensor, *, generator: Generator
) -> Tensor:
    """Adversarial images of an attack; those of other attacks than `BUILT_IN` are checked.

    Raises `ConfigError` if such an attack fails, changes the network, or returns no such images, or
    images outside its threat, and if the code of a threat of your own fails. Cost of the checks:
    some passes over the pixels.
    """
    if type(attack) in BUILT_IN:
        return _safe(attack)(model, images, labels, generator=generator)
    found = own_images(attack, model, images, labels, generator=generator)
    return _inside(f"the attack ({own_name(attack)})", attack, found, images)


def searched_images(
    attack: StepwiseAttack, start: Tensor, model: Classifier, images: Tensor, labels: Tensor
) -> Tensor:
    """All steps of an attack from given images; otherwise as `attacked_images`."""
    if type(attack) in BUILT_IN:
        return _safe(attack).search_from(start, model, images, labels)
    name = f"search_from of the attack ({own_name(attack)})"
    found = checked_images(
        name,
        model,
        images,
        lambda: attack.search_from(start.clone(), model, images.clone(), labels.clone()),
        "attack.search_from(start, model, images, labels)",
    )
    return _inside(name, attack, found, images)


def _safe(attack: Any) -> Any:
    """A built-in attack, whose threat raises `ConfigError` for whatever its code raises."""
    safe = called_safely(attack.threat)
    return attack if safe is attack.threat else attack.against(safe)


def _inside(name: str, attack: BatchAttack, found: Tensor, images: Tensor) -> Tensor:
    """The images; refused outside the attack's threat, if it has one."""
    threat = threat_of(attack)
    if threat is not None:
        check_inside(name, called_safely(threat), found, images)
    return found


def stepwise(
    attack: StepwiseAttack, method: str, call: Callable[[], StepwiseAttack]
) -> StepwiseAttack:
    """What a method of a stepwise attack makes of it. Raises `ConfigError` for anything else."""
    if type(attack) in BUILT_IN:
        return call()
    name = f"{method} of the attack ({own_name(attack)})"
    with own_errors(name):
        found: Any = call()
    if not isinstance(found, StepwiseAttack):
        raise ConfigError.expected(
            f"{name} must return a StepwiseAttack", type(found).__name__, "Return a copy of itself."
        )
    return found
