"""Whole configurations, each a function that takes changes: `fast(threat=Linf(8 / 255))`.

A preset is for grey images, such as the bundled ones, and for the paper's network. For other data
without a threat of your own it takes the usual one, and for other networks more attack steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol, Unpack, runtime_checkable

from sparring.attacks import PGD, CustomThreat, EarlySteps, Linf
from sparring.attacks.plausible import usual
from sparring.engine import Newest
from sparring.loader import Asynchronous
from sparring.models import PaperNetwork, StridedNetwork
from sparring.models.spec import bare
from sparring.records.typed import typed
from sparring.training.adapting import RAMP, Changes, adapted, dataset_of, withstanding
from sparring.training.config import TrainConfig, Validation
from sparring.training.objectives import Certified, Natural
from sparring.training.optimizers import Adam, Triangular, WarmUp

TWO_THEN_THREE = (EarlySteps(until=0.5, steps=2), EarlySteps(until=0.8, steps=3))
"""Early steps of the preset `fast` for the paper's network."""
THREE = (EarlySteps(until=0.8, steps=3),)
"""The same for other networks."""


def for_model(config: TrainConfig) -> TrainConfig:
    """The settings of a preset for the network that they name.

    Two steps suffice for the paper's network. Other networks overfit to them near the peak of the
    learning rate (catastrophic overfitting), and get three: results/small-cnn.
    """
    if isinstance(bare(config.model), PaperNetwork) or config.early_steps != TWO_THEN_THREE:
        return config
    return replace(config, early_steps=THREE)


@runtime_checkable
class Preset(Protocol):
    """Makes one configuration."""

    def __call__(self, **changes: Unpack[Changes]) -> TrainConfig:
        """The configuration, with these changes and what follows from them; see `adapted`.

        Raises `ConfigError` as `adapted` does; `DataError` if other data are named and cannot be
        opened.
        """
        ...


def _preset(config: TrainConfig, changes: Changes) -> TrainConfig:
    """The settings of a preset with changes; the rules for other data and networks included."""
    before, config = config, adapted(config, **changes)
    named = [word.partition("=")[0] for word in changes.get("set", ())]
    sized = "eps" in changes or isinstance(config.threat, CustomThreat)
    sized |= not isinstance(changes.get("threat", ""), str)
    sized |= any(name.startswith(("threat", "attack.threat")) for name in named)
    if not sized and config.data != before.data:
        channels = dataset_of(config, changes).image_shape[0]
        if channels != 1:
            config = withstanding(config, usual(type(config.threat), channels))
    early = any(name.startswith("early_steps") for name in named)
    return config if early else for_model(config)


@typed
def fast(**changes: Unpack[Changes]) -> TrainConfig:
    """A robust MNIST classifier in two minutes on two cores: the default.

    Attacks of two steps for half of the run, of three until four fifths, then of five; they reach
    1.3 ε in all, at an ε a fifth above the one to withstand, after a warm-up. Small initial weights
    in the first layer, a triangular learning rate with a high peak, averaged weights. Two steps
    that reach 1.6 ε overfit to themselves, and two steps alone look good only until a long attack
    judges them; so do attacks that continue those of the epoch before: docs/reproducing.md. A
    higher peak would do as well with fresh attacks, but not with stale ones:
    docs/decisions/0007-engine.md.
    """
    config = TrainConfig(
        model=PaperNetwork(initialisation="small"),
        threat=Linf(eps=0.3),
        attack=PGD(threat=Linf(eps=0.36), steps=5, step_size=0.0936),
        early_steps=TWO_THEN_THREE,
        eps_schedule=WarmUp(share=0.15),
        optimizer=Adam(learning_rate=5e-3, beta2=0.98),
        schedule=Triangular(peak_at=0.4),
        batch_size=128,
        updates=980,
        average=0.99,
        validation=Validation(every=245, images=256, steps=10),
    )
    return _preset(config, changes)


@typed
def paper(**changes: Unpack[Changes]) -> TrainConfig:
    """The paper's own setting (its section 6), with the attacker that it settles on, κ = 8.

    Batch 128, 60,000 updates, constant Adam at mnist_challenge's learning rate 1e-4, ε = 0.3
    throughout, steps of 2.5 ε / κ from a uniform start.
    """
    config = TrainConfig(
        attack=PGD(threat=Linf(eps=0.3), steps=8, start="uniform"),
        optimizer=Adam(learning_rate=1e-4),
        batch_size=128,
        updates=60_000,
    )
    return _preset(config, changes)


@typed
def paper_async(**changes: Unpack[Changes]) -> TrainConfig:
    """The paper's own engine (its section 5): newest weights, re-saved every 100 updates.

    The paper does not give the length of its queue: eight tickets here. No attack step is fresh.
    """
    source = Asynchronous(policy=Newest(credits=8, period=100), fresh_steps=0)
    return _preset(replace(paper(), source=source), changes)


@typed
def madry(**changes: Unpack[Changes]) -> TrainConfig:
    """mnist_challenge, the baseline that the paper's headline is measured against.

    40 steps of 0.01 from a uniform start, batch 50, 100,000 updates of constant Adam at 1e-4
    (MadryLab/mnist_challenge, config.json).
    """
    config = TrainConfig(
        attack=PGD(threat=Linf(eps=0.3), steps=40, step_size=0.01, start="uniform"),
        optimizer=Adam(learning_rate=1e-4),
        batch_size=50,
        updates=100_000,
    )
    return _preset(config, changes)


@typed
def natural(**changes: Unpack[Changes]) -> TrainConfig:
    """The same network trained on clean images only: accurate, and not robust at all."""
    config = TrainConfig(
        model=PaperNetwork(initialisation="torch"),
        attack=PGD(threat=Linf(eps=0.3), steps=0, start="none"),
        objective=Natural(),
        optimizer=Adam(learning_rate=2e-3),
        schedule=Triangular(peak_at=0.3),
        updates=1290,
        validation=Validation(every=430),
    )
    return _preset(config, changes)


@typed
def certified(**changes: Unpack[Changes]) -> TrainConfig:
    """A network whose robustness is proved for most images, by interval bounds: no attack at all.

    The network strided saturates within ε of black and white. ε grows for 45 % of the run; the
    learning rate falls in its second half. The loss of clean images has a share, and weights are
    averaged. 20 epochs of MNIST.
    """
    config = TrainConfig(
        model=StridedNetwork(filters=64),
        threat=Linf(eps=0.3),
        attack=PGD(threat=Linf(eps=0.3), steps=0, start="none"),
        eps_schedule=WarmUp(share=RAMP),
        objective=Certified(attacked_weight=0.3),
        optimizer=Adam(learning_rate=3e-3),
        schedule=Triangular(peak_at=0.5, start=1.0),
        batch_size=128,
        updates=8580,
        average=0.995,
        validation=Validation(every=858, images=1000, steps=10),
    )
    return _saturating(_preset(config, changes), changes)


def _saturating(config: TrainConfig, changes: Changes) -> TrainConfig:
    """The network strided saturates within the ε to withstand, unless the changes say how."""
    words = (*changes.get("set", ()), *changes.get("model_args", ()))
    told = any("saturation" in word.partition("=")[0] for word in words)
    told |= isinstance(changes.get("model"), StridedNetwork)
    if told or not isinstance(config.model, StridedNetwork) or not isinstance(config.threat, Linf):
        return config
    eps = config.threat.eps
    return replace(config, model=replace(config.model, saturation=eps)) if eps < 0.5 else config


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "fast": fast,
        "paper": paper,
        "paper-async": paper_async,
        "madry": madry,
        "natural": natural,
        "certified": certified,
    }
)
"""Every preset by the name that the command line gives it; `fast` is the default."""
