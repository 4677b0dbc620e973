"""`Changes` of settings, for presets and `sparring train`, and the rules that apply them.

One change may affect several settings: a threat scales the training attack as well, TRADES sets
the loss that its attack maximises, and epochs become updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

from torch import nn

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square, StepwiseAttack, Threat
from sparring.attacks.batch_attack import BUILT_IN
from sparring.attacks.plausible import usual
from sparring.attacks.threat import CustomThreat, resized
from sparring.data import Augmentation, Crop, Dataset, Flip
from sparring.data.pictures import Channels
from sparring.data.run_data import given_name
from sparring.data.source import BUNDLED
from sparring.engine import FixedLag, Newest, PolicyKind, Sharded, Sync
from sparring.errors import ConfigError, SparringError
from sparring.loader import (
    Asynchronous,
    Fresh,
    Processes,
    Ray,
    Reused,
    SlowLink,
    SourceKind,
    Stale,
    TransportKind,
)
from sparring.loader.loader import updates_for
from sparring.models import (
    Given,
    Imported,
    ModelKind,
    Normalised,
    PaperNetwork,
    PreActResNet18,
    Precision,
    SmallNetwork,
    StridedNetwork,
    WideResNet,
)
from sparring.models.spec import Network, bare, unfitted
from sparring.records import from_json, override
from sparring.records.checks import choice
from sparring.records.custom import Custom, made
from sparring.records.own_code import arguments
from sparring.records.typed import typed
from sparring.training.config import (
    OWN,
    AttackKind,
    TrainConfig,
    opened,
    python_objects,
)
from sparring.training.objectives import (
    TRADES,
    Adversarial,
    Certified,
    Mixed,
    Natural,
    Objective,
)
from sparring.training.optimizers import (
    SGD,
    Adam,
    Constant,
    LearningRateSchedule,
    OneCycle,
    OptimizerKind,
    Steps,
    Triangular,
    WarmUp,
)

Named = Mapping[str, type[Any]]
MODELS: Named = MappingProxyType(
    {
        "paper": PaperNetwork,
        "small-cnn": SmallNetwork,
        "strided": StridedNetwork,
        "preact-resnet-18": PreActResNet18,
        "wide-resnet": WideResNet,
    }
)
OBJECTIVES: Named = MappingProxyType(
    {"adversarial": Adversarial, "mixed": Mixed, "trades": TRADES, "certified": Certified}
)
OPTIMIZERS: Named = MappingProxyType({"adam": Adam, "sgd": SGD})
SCHEDULES: Named = MappingProxyType(
    {
        "constant": Constant,
        "warm-up": WarmUp,
        "triangular": Triangular,
        "one-cycle": OneCycle,
        "steps": Steps,
    }
)
AUGMENTATIONS: Named = MappingProxyType({"flip": Flip, "crop": Crop})
ATTACKS: Named = MappingProxyType({"pgd": PGD, "apgd": APGD, "fab": FAB, "square": Square})
NORMS: Named = MappingProxyType({"linf": Linf, "l2": L2})
SOURCES: Named = MappingProxyType(
    {"fresh": Fresh, "stale": Stale, "reused": Reused, "async": Asynchronous}
)
POLICIES: Named = MappingProxyType(
    {"fixed-lag": FixedLag, "newest": Newest, "sync": Sync, "sharded": Sharded}
)
TRANSPORTS: Named = MappingProxyType({"process": Processes, "ray": Ray, "slow-link": SlowLink})

OF_SOURCE = {"source", "staleness", "workers", "transport", "policy", "lag", "publish_every"}
"""Changes that ask for a source."""
RAMP = 0.45
"""Share of a run over which ε grows for the objective "certified"."""


class Changes(TypedDict, total=False):
    """Arguments of presets and `adapted`, and flags of `sparring train`.

    A record may be given by its name on the command line, such as "sgd".
    """

    data: str | Path | Dataset
    """"mnist", a path, or the data that are also passed to `train`."""
    channels: Channels
    """Convert all images to "grey" or "rgb"."""
    model: ModelKind | nn.Module | str
    """A record, a name, file.py:factory, or the network that is also passed to `train`."""
    model_args: Sequence[str]
    """Arguments of the factory, or settings of a named model, each as name=value."""
    mean: Sequence[float]
    """Subtracted from pixels in [0, 1], by channel, as the network's first layer."""
    std: Sequence[float]
    """Each channel is then divided by it; goes with `mean`."""
    init: str | Path
    """File of initial weights."""
    threat: Threat | str
    """The threat; the training attack scales with it. A name takes its usual ε; file.py:name is a
    factory of your own."""
    eps: float
    """Size of the threat; the training attack scales with it."""
    steps: int
    """Attack steps in every update; the step size of PGD shrinks to match."""
    attack: AttackKind | str
    """The training attack, file.py:name or a `BatchAttack`. Schedules of ε and steps, and fresh
    steps, are dropped unless it is a `StepwiseAttack`."""
    objective: Objective | str
    """What an update minimises. With TRADES, the attack maximises its loss. With Certified, the
    attack has no steps, the source is fresh unless one is named, and ε grows over the run."""
    optimizer: OptimizerKind | str
    """The name of the current optimizer keeps its settings."""
    lr: float
    """The optimizer's largest learning rate, or the argument lr of your own factory."""
    momentum: float
    """The momentum of SGD, or that argument of your own factory."""
    weight_decay: float
    """The weight decay of SGD, or that argument of your own factory."""
    schedule: LearningRateSchedule | str
    """How the learning rate changes over the run."""
    augmentation: Sequence[Augmentation | str]
    """Augmentations of training images, in order."""
    batch_size: int
    """Images per batch."""
    updates: int
    """Updates of the whole run."""
    epochs: float
    """Passes over the training set, instead of `updates`: epochs · images / batch size of them."""
    source: SourceKind | str
    """Where attacked batches come from."""
    staleness: int
    """Updates for which a batch waits; goes with the source "stale"."""
    workers: int
    """Workers of the source "async", as are the next four."""
    transport: TransportKind | str
    """How the workers run: processes or Ray actors, or either behind an emulated slow link."""
    policy: PolicyKind | str
    """Which weights the workers attack."""
    lag: int
    """Updates by which attacks run ahead under the policy "fixed-lag"."""
    publish_every: int
    """Updates between publications of the weights; above 1, the trainer takes fresh steps."""
    seed: int
    """Determines initial weights, data order and every attack's start."""
    precision: Precision
    """Arithmetic of the passes."""
    device: str
    """Where to train."""
    threads: int
    """CPU threads."""
    set: Sequence[str]
    """Settings by dotted names, such as "attack.loss=margin"; they override all of the above."""


@typed
def adapted(config: TrainConfig, **changes: Unpack[Changes]) -> TrainConfig:
    """The settings with these changes and their consequences.

    Raises `ConfigError` for changes that exclude each other; `DataError` if `epochs` are given and
    the data cannot be opened.
    """
    names = {"channels", "seed", "updates", "batch_size", "precision", "device", "threads"}
    same: Any = {name: value for name, value in changes.items() if name in names}
    config = replace(config, **same)
    if "data" in changes:
        data = changes["data"]
        config = replace(config, data=given_name(data) if isinstance(data, Dataset) else str(data))
    named = {*changes, *(word.partition("=")[0] for word in changes.get("set", ()))}
    if named & {"data", "channels", "image_size"}:  # sizes may be those of the data before
        config = replace(config, model=unfitted(config.model))
    if "augmentation" in changes:
        steps = (_one("augmentation", AUGMENTATIONS, step) for step in changes["augmentation"])
        config = replace(config, augmentation=tuple(steps))
    config = replace(config, source=_source(config.source, changes))
    config = _attacked(config, changes)
    config = _with_model(config, changes)
    config = _with_objective(config, changes)
    config = _with_optimizer(config, changes)
    if "set" in changes:
        objects = python_objects(config)
        config = override(config, changes["set"])  # by way of JSON, which has no objects
        same = {name: each for name, each in objects.items() if getattr(config, name) == each}
        config = replace(config, **same)
    if "epochs" in changes:
        updates = changes.get("updates")
        images = 0 if updates is not None else len(dataset_of(config, changes).train)
        updates = updates_for(updates, changes["epochs"], images, config.batch_size)
        config = replace(config, updates=updates)
    return config


def dataset_of(config: TrainConfig, changes: Changes) -> Dataset:
    """The data in `changes`, or those of the settings. Raises `DataError`."""
    data = changes.get("data")
    return data if isinstance(data, Dataset) else opened(config)


def withstanding(config: TrainConfig, threat: Threat) -> TrainConfig:
    """The settings for another threat; the training attack scales with it.

    Your own attack is kept.
    """
    before = config.attack
    if not isinstance(before, BUILT_IN):
        return replace(config, threat=threat)
    size = threat.eps * (before.threat.eps / config.threat.eps)
    if isinstance(threat, Linf):
        size = min(size, 1.0)  # all of the images' range
    attack = before.against(resized(threat, size))
    if isinstance(attack, PGD) and attack.step_size:
        attack = replace(attack, step_size=attack.step_size * (size / before.threat.eps))
    return replace(config, threat=threat, attack=attack)


def _one(setting: str, known: Named, wanted: Any, before: object = None) -> Any:
    """The record of a name (`before` if of that class); a record as it is.

    Settings that take your own objects accept file.py:name.
    """
    if not isinstance(wanted, str):
        return wanted
    if setting in (*OWN, "augmentation"):
        if ":" in wanted:
            return Custom(factory=wanted)
        choice(setting, wanted, [*known, "file.py:name"])
    choice(setting, wanted, known)
    return before if isinstance(before, known[wanted]) else known[wanted]()


def _attacked(config: TrainConfig, changes: Changes) -> TrainConfig:
    if "threat" in changes or "eps" in changes:
        config = withstanding(config, _threat(config, changes))
    if "attack" in changes:
        attack = _one("attack", ATTACKS, changes["attack"], config.attack)
        config = _with_attack(config, attack, changes)
    if "steps" in changes:
        if not isinstance(config.attack, PGD | APGD | FAB):
            raise _needs("steps", "attack", "pgd", config.attack)
        config = replace(config, attack=_in_steps(config.attack, changes["steps"]), early_steps=())
    return config


def _in_steps(attack: PGD | APGD | FAB, steps: int) -> AttackKind:
    """The attack in this number of steps; those of PGD reach as far as before."""
    if isinstance(attack, PGD):
        return attack.at(attack.threat.eps, steps)
    return replace(attack, steps=steps)


def _threat(config: TrainConfig, changes: Changes) -> Threat:
    """The threat that is named, or that of the settings, in the size that is named."""
    threat, eps = changes.get("threat", config.threat), changes.get("eps")
    if isinstance(threat, str):
        if ":" in threat:
            size = {} if eps is None else {"eps": eps}
            threat = CustomThreat(factory=threat).given(**size)
        else:
            choice("threat", threat, [*NORMS, "file.py:name"])
            told = eps is not None or config.data in BUNDLED
            shape = (1,) if told else dataset_of(config, changes).image_shape
            threat = usual(NORMS[threat], shape[0])
    return threat if eps is None else resized(threat, eps)


def _with_attack(config: TrainConfig, attack: AttackKind, changes: Changes) -> TrainConfig:
    """With another attack, and without step schedules and fresh steps if it has no steps."""
    if isinstance(made(attack, "attack"), StepwiseAttack):
        return replace(config, attack=attack)
    source: Any = config.source
    if source.fresh_steps:
        if isinstance(source, Reused) and "source" in changes:
            raise ConfigError.expected(
                "source reused needs an attack in steps (a StepwiseAttack)",
                type(attack).__name__,
                "Leave out --source, or take --attack pgd.",
            )
        source = Fresh() if isinstance(source, Reused) else replace(source, fresh_steps=0)
    own: Any = {"source": source, "early_steps": (), "eps_schedule": Constant()}
    return replace(config, attack=attack, **own)


def _with_objective(config: TrainConfig, changes: Changes) -> TrainConfig:
    wanted = changes.get("objective")
    if wanted is None:
        return config
    objective = _one("objective", OBJECTIVES, wanted, config.objective)
    if isinstance(config.attack, PGD):
        config = _attacked_for(objective, config.attack, config, changes)
    return replace(config, objective=objective)


def _attacked_for(
    objective: Objective, attack: PGD, config: TrainConfig, changes: Changes
) -> TrainConfig:
    """The settings with the attack that an objective needs, but for what the changes name."""
    named = bool({"attack", "steps"} & changes.keys())
    if isinstance(objective, Certified) and not isinstance(config.objective, Certified):
        config = replace(config, eps_schedule=WarmUp(share=RAMP))
    if isinstance(objective, Certified | Natural) and not named:
        attack = PGD(threat=attack.threat, steps=0, start="none")
        source = config.source if OF_SOURCE & changes.keys() else Fresh()
        config = replace(config, source=source, early_steps=())
    elif attack.is_idle and not isinstance(objective, Certified | Natural) and not named:
        attack = PGD(threat=attack.threat)
    if isinstance(objective, TRADES):
        start = "uniform" if attack.start == "none" else attack.start
        attack = replace(attack, loss="kl", start=start)
    elif isinstance(config.objective, TRADES) and not named:
        attack = replace(attack, loss="cross-entropy")
    return replace(config, attack=attack)


def _with_optimizer(config: TrainConfig, changes: Changes) -> TrainConfig:
    optimizer = config.optimizer
    if "optimizer" in changes:
        optimizer = _one("optimizer", OPTIMIZERS, changes["optimizer"], optimizer)
    names = ("lr", "momentum", "weight_decay")
    numbers: Any = {name: value for name, value in changes.items() if name in names}
    if isinstance(optimizer, Custom):
        optimizer, numbers = optimizer.given(**numbers), {}
    for name, number in numbers.items():
        setting = "learning_rate" if name == "lr" else name
        if not isinstance(optimizer, Adam | SGD) or not hasattr(optimizer, setting):
            raise _needs(name, "optimizer", "sgd", optimizer)
        optimizer = replace(optimizer, **{setting: number})
    schedule = config.schedule
    if "schedule" in changes:
        schedule = _one("schedule", SCHEDULES, changes["schedule"], schedule)
    return replace(config, optimizer=optimizer, schedule=schedule)


def _with_model(config: TrainConfig, changes: Changes) -> TrainConfig:
    model, words = config.model, changes.get("model_args", ())
    wanted = changes.get("model")
    if isinstance(wanted, nn.Module):
        model = Given(name=type(wanted).__qualname__)
    elif wanted is not None:
        model = _named_model(wanted, words, model) if isinstance(wanted, str) else wanted
    if words and not isinstance(wanted, str):
        raise ConfigError.expected(
            "model_args needs the name of a model",
            f"{words[0]} without it",
            "For the model of a preset or file take --set model.NAME=VALUE.",
        )
    mean, std = changes.get("mean", ()), changes.get("std", ())
    if bool(mean) != bool(std):
        raise ConfigError.expected(
            "mean and std go together", f"only {'mean' if mean else 'std'}", "Give the other, too."
        )
    if mean:
        model = Normalised(mean=tuple(mean), std=tuple(std), network=bare(model))
    init = str(changes["init"]) if "init" in changes else config.init
    return replace(config, model=model, init=init)


def _named_model(name: str, words: Sequence[str], before: ModelKind) -> ModelKind:
    """The record of a built-in network, or of your own factory, file.py:factory.

    `words` are its settings or arguments, each as name=value. If it is the network from `before`,
    that keeps its other settings. Raises `ConfigError`.
    """
    if ":" in name:
        return Imported(factory=name, arguments=tuple(words))
    choice("model", name, [*MODELS, "file.py:factory"])
    given = arguments(words, "model_args")
    model: Network = from_json(MODELS[name], given, where="model_args")
    inner = bare(before)
    if type(inner) is not MODELS[name]:
        return model
    inner = replace(inner, **{setting: getattr(model, setting) for setting in given})
    return replace(before, network=inner) if isinstance(before, Normalised) else inner


def _source(before: SourceKind, changes: Changes) -> SourceKind:
    source: Any = _one("source", SOURCES, changes.get("source", before), before)
    if "staleness" in changes:
        if not isinstance(source, Stale):
            raise _needs("staleness", "source", "stale", source)
        source = replace(source, staleness=changes["staleness"])
    for name in ("workers", "transport", "policy", "lag", "publish_every"):
        if name in changes and not isinstance(source, Asynchronous):
            raise _needs(name, "source", "async", source)
    return _asynchronous(source, changes) if isinstance(source, Asynchronous) else source


def _asynchronous(before: Asynchronous, changes: Changes) -> Asynchronous:
    """Workers, policy, lag and period; a sharded ticket has a shard for each worker."""
    workers = changes.get("workers", before.workers)
    transport = before.transport
    transport = _one("transport", TRANSPORTS, changes.get("transport", transport), transport)
    wanted = changes.get("policy", before.policy)
    policy: Any = _one("policy", POLICIES, wanted, before.policy)
    if wanted == "sharded" and policy is not before.policy:
        if workers is None:
            raise ConfigError.expected(
                "policy sharded needs a number of workers", "none", "Add --workers N."
            )
        policy = Sharded(split=max(1, workers + before.helps))
    if "lag" in changes:
        if not isinstance(policy, FixedLag):
            raise _needs("lag", "policy", "fixed-lag", policy)
        policy = replace(policy, lag=changes["lag"])
    if "publish_every" in changes:
        if not isinstance(policy, FixedLag | Newest):
            raise _needs("publish_every", "policy", "fixed-lag or newest", policy)
        policy = replace(policy, period=changes["publish_every"])
    return replace(before, workers=workers, transport=transport, policy=policy)


def _needs(name: str, setting: str, wanted: str, found: object) -> SparringError:
    return ConfigError.expected(
        f"{name} needs the {setting} {wanted}", type(found).__name__, f"Add --{setting} {wanted}."
    )
