"""From flags to the network that a run trains, and to what it minimises."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from sparring.cli.train_flags import TrainFlags
from sparring.errors import ConfigError
from sparring.models import (
    Imported,
    ModelKind,
    Normalised,
    PaperNetwork,
    PreActResNet18,
    SmallNetwork,
    WideResNet,
)
from sparring.models.spec import Network
from sparring.records import from_json
from sparring.records.imported import arguments
from sparring.records.spelling import did_you_mean, nearest
from sparring.training import TRADES, Adversarial, Mixed, OwnObjective, TrainConfig
from sparring.training.objectives import Objective

MODELS: Mapping[str, type[PaperNetwork | SmallNetwork | PreActResNet18 | WideResNet]] = (
    MappingProxyType(
        {
            "paper": PaperNetwork,
            "small-cnn": SmallNetwork,
            "preact-resnet-18": PreActResNet18,
            "wide-resnet": WideResNet,
        }
    )
)
"""Built-in networks by the names that the command line gives them."""
OBJECTIVES: Mapping[str, type[Adversarial | Mixed | TRADES]] = MappingProxyType(
    {"adversarial": Adversarial, "mixed": Mixed, "trades": TRADES}
)
"""Built-in objectives by the names that the command line gives them."""


def with_model(config: TrainConfig, flags: TrainFlags) -> TrainConfig:
    """The network that the flags name, behind the normalisation that they give."""
    model = config.model
    if flags.model is not None:
        model = _named(flags.model, flags.model_args)
    elif flags.model_args:
        raise ConfigError(
            f"--model-args needs --model, whose arguments they are; got {flags.model_args[0]} "
            "without it. For the model of a preset or file take --set model.NAME=VALUE."
        )
    if bool(flags.mean) != bool(flags.std):
        raise ConfigError(
            "--mean and --std go together, because images are normalised by both; got only "
            f"{'--mean' if flags.mean else '--std'}. Give the other, too."
        )
    if flags.mean:
        model = Normalised(mean=flags.mean, std=flags.std, network=_inner(model))
    init = config.init if flags.init is None else str(flags.init)
    return replace(config, model=model, init=init)


def with_objective(config: TrainConfig, flags: TrainFlags) -> TrainConfig:
    """What the flags name; the attack then maximises what belongs to it."""
    if flags.objective is None:
        return config
    objective = _objective(flags.objective)
    attack = config.attack
    if isinstance(objective, TRADES):
        start = "uniform" if attack.start == "none" else attack.start
        attack = replace(attack, loss="kl", start=start)
    return replace(config, objective=objective, attack=attack)


def _named(name: str, words: Sequence[str]) -> Network:
    if ":" in name:
        return Imported(factory=name, arguments=tuple(words))
    if name not in MODELS:
        hint = did_you_mean(nearest(name, MODELS)) or " For one of yours: file.py:factory."
        raise ConfigError(
            f"--model must be one of {', '.join(MODELS)}, or package.module:factory, or "
            f"file.py:factory; got {name}.{hint}"
        )
    return from_json(MODELS[name], arguments(words, "--model-args"), where="--model-args")


def _inner(model: ModelKind) -> Network:
    return model.network if isinstance(model, Normalised) else model


def _objective(name: str) -> Objective:
    if ":" in name:
        return OwnObjective(factory=name)
    if name not in OBJECTIVES:
        hint = did_you_mean(nearest(name, OBJECTIVES)) or " For one of yours: file.py:name."
        raise ConfigError(
            f"--objective must be one of {', '.join(OBJECTIVES)}, or file.py:name; got {name}."
            f"{hint}"
        )
    return OBJECTIVES[name]()
