"""From a preset, a file and flags to the whole configuration of one run, and the cluster it needs.

Later ones win: preset or file, then the flags with a name of their own, then `--set`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sparring.attacks import L2, Linf, Threat
from sparring.attacks.plausible import usual
from sparring.cli.train_flags import DEFAULT_PRESET, TrainFlags
from sparring.data import Dataset, open_dataset
from sparring.data.run_data import RunData
from sparring.engine import FixedLag, Newest, PolicyKind, Sharded, Sync
from sparring.errors import ConfigError, DataError, launcher
from sparring.loader import Processes, Ray, SourceKind
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
from sparring.records import RunDirectory, from_json, override, read_json, to_json
from sparring.records.codec import shown
from sparring.records.own_code import arguments, check_trusted, named_code
from sparring.records.text import did_you_mean, nearest
from sparring.training import (
    TRADES,
    Adversarial,
    Asynchronous,
    Fresh,
    Mixed,
    OwnObjective,
    Stale,
    TrainConfig,
    linearly_scaled,
)
from sparring.training.distributed import launched
from sparring.training.objectives import Objective
from sparring.training.presets import PRESETS, for_model


def resolved(flags: TrainFlags) -> TrainConfig:
    """The configuration that a command line asks for.

    Raises `ConfigError` for settings that cannot be meant, `RunError` for a file that cannot be
    read.
    """
    config = _beginning(flags)
    names = ("data", "channels", "seed", "updates", "precision", "threads")
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    config = replace(config, **given)
    if flags.threat is not None:
        config = _withstanding(config, usual(NORMS[flags.threat], channels=1))
    if flags.eps is not None:
        config = _withstanding(config, replace(config.threat, eps=flags.eps))
    if flags.steps is not None:
        attack = config.attack.at(config.attack.threat.eps, flags.steps)
        config = replace(config, attack=attack, early_steps=())
    config = replace(config, source=_source(config.source, flags))
    config = override(with_objective(with_model(config, flags), flags), flags.set)
    _check_code(config, flags)
    asked = flags.config is not None or any(word.startswith("early_steps") for word in flags.set)
    return config if asked else for_model(config)


def sized(config: TrainConfig, flags: TrainFlags) -> TrainConfig:
    """The same, against a threat of the size that is usual for such images, if none was asked for.

    Presets are for grey images such as the bundled ones. Cost: other data are opened, where nothing
    was asked for. Raises `DataError` if they cannot be.
    """
    asked = flags.eps is not None or flags.config is not None
    asked |= any(word.startswith(("threat", "attack.threat")) for word in flags.set)
    if asked or config.data == TrainConfig().data:
        return config
    channels = opened(config).image_shape[0]
    if channels == 1:
        return config
    return _withstanding(config, usual(type(config.threat), channels))


def shared(config: TrainConfig, flags: TrainFlags) -> TrainConfig:
    """The same for as many trainers as were started together, in effective numbers.

    Settings of one trainer are scaled, or only split where `--scaling none` asks for it; those of
    so many, from a file, are taken as they are. Raises `ConfigError` if they do not fit together.
    """
    trainers = launched()
    if flags.scaling is not None and trainers == 1:
        raise ConfigError(
            "--scaling needs several trainers, because it says how to go from one to them; got one."
            " Start them with: torchrun --nproc-per-node 2 -m sparring train …"
        )
    if config.trainers == 1:
        if flags.scaling == "none":
            return replace(config, trainers=trainers)
        return linearly_scaled(config, trainers)
    if flags.scaling == "linear":
        raise ConfigError(
            "--scaling linear needs settings of one trainer, because those of several are scaled "
            f"already; got trainers = {config.trainers}. Leave it out."
        )
    if config.trainers != trainers:
        raise ConfigError(
            "trainers must be the number of processes, because each has its own part of every "
            f"batch; got {config.trainers} in the settings and {trainers} processes. Take: "
            f"{launcher(config.trainers)} train …"
        )
    return config


def opened(config: TrainConfig) -> Dataset:
    """The data that the settings name; pictures are decoded only where they are looked at."""
    return open_dataset(config.data, config.conversion(), data_memory=config.data_memory)


NORMS: Mapping[str, type[Linf | L2]] = MappingProxyType({"linf": Linf, "l2": L2})
"""Threats by the names that the command line gives them."""


def _beginning(flags: TrainFlags) -> TrainConfig:
    if flags.config is not None:
        if flags.preset is not None:
            raise ConfigError(
                "--preset and --config exclude each other, because each gives the whole "
                f"configuration; got --preset {flags.preset} and --config {flags.config}. "
                "Leave one of them out."
            )
        return _stored(flags.config)
    name = DEFAULT_PRESET if flags.preset is None else flags.preset
    if name not in PRESETS:
        hint = did_you_mean(nearest(name, PRESETS)) or " Take one of those."
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}; got {shown(name)}.{hint}")
    return PRESETS[name]()


def _stored(path: Path) -> TrainConfig:
    """Settings in a file, or those of the run in a folder, whose data may have moved with it."""
    file = _settings_file(path)
    config = from_json(TrainConfig, read_json(file), where=str(file))
    if path.is_dir():
        with suppress(DataError):  # --data may name others
            config = replace(config, data=RunData.of(RunDirectory(path)).places()[0])
    return config


def _settings_file(path: Path) -> Path:
    return path / "config.json" if path.is_dir() else path


def _check_code(config: TrainConfig, flags: TrainFlags) -> None:
    """Refuse code of a settings file that no other flag replaces, and that is not trusted."""
    if flags.config is None:
        if flags.trust_code:
            raise ConfigError(
                "--trust-code needs --config or --resume, because it is about code that stored "
                "settings name; got it without. What flags name is trusted: leave it out."
            )
        return
    file = _settings_file(flags.config)
    wanted = {code.factory for code in named_code(to_json(config))}
    kept = tuple(code for code in named_code(read_json(file)) if code.factory in wanted)
    check_trusted(file, kept, trust_code=flags.trust_code)


def _withstanding(config: TrainConfig, threat: Threat) -> TrainConfig:
    """Another threat to withstand, and an attack that exceeds it in the same proportion."""
    size = threat.eps * (config.attack.threat.eps / config.threat.eps)
    if isinstance(threat, Linf):
        size = min(size, 1.0)  # which allows every image there is
    before = config.attack
    step = before.step_size and before.step_size * (size / before.threat.eps)
    attack = replace(before, threat=replace(threat, eps=size), step_size=step)
    return replace(config, threat=threat, attack=attack)


SOURCES: Mapping[str, type[Fresh | Stale | Asynchronous]] = MappingProxyType(
    {"fresh": Fresh, "stale": Stale, "async": Asynchronous}
)
"""Sources by the names that the command line gives them."""


POLICIES: Mapping[str, type[FixedLag | Newest | Sync | Sharded]] = MappingProxyType(
    {"fixed-lag": FixedLag, "newest": Newest, "sync": Sync, "sharded": Sharded}
)
"""Policies by the names that the command line gives them."""


TRANSPORTS: Mapping[str, type[Processes | Ray]] = MappingProxyType(
    {"process": Processes, "ray": Ray}
)
"""Transports by the names that the command line gives them."""


def _source(before: SourceKind, flags: TrainFlags) -> SourceKind:
    wanted = before
    if flags.source is not None and not isinstance(before, SOURCES[flags.source]):
        wanted = SOURCES[flags.source]()
    if flags.staleness is not None:
        if not isinstance(wanted, Stale):
            raise _needs_source("staleness", "stale", "only there batches wait for a fixed time")
        wanted = replace(wanted, staleness=flags.staleness)
    for name in ("workers", "transport", "policy", "lag", "publish_every"):
        if getattr(flags, name) is not None and not isinstance(wanted, Asynchronous):
            raise _needs_source(name, "async", "no other source has workers")
    return _asynchronous(wanted, flags) if isinstance(wanted, Asynchronous) else wanted


def _asynchronous(before: Asynchronous, flags: TrainFlags) -> Asynchronous:
    """Workers, policy, lag and period; a ticket in shards has one for each who attacks."""
    workers = before.workers if flags.workers is None else flags.workers
    policy, fresh, transport = before.policy, before.fresh_steps, before.transport
    if flags.transport is not None and not isinstance(transport, TRANSPORTS[flags.transport]):
        transport = TRANSPORTS[flags.transport]()
    if flags.policy is not None and not isinstance(policy, POLICIES[flags.policy]):
        policy = POLICIES[flags.policy]()
        if isinstance(policy, Sharded):
            policy = Sharded(split=max(1, _counted(workers) + before.helps))
    if flags.lag is not None:
        if not isinstance(policy, FixedLag):
            raise _needs_policy("lag", "fixed-lag", policy)
        policy = replace(policy, lag=flags.lag)
    if flags.publish_every is not None:
        if not isinstance(policy, FixedLag | Newest):
            raise _needs_policy("publish_every", "fixed-lag or --policy newest", policy)
        policy = replace(policy, period=flags.publish_every)
        fresh = fresh if flags.publish_every == 1 else 0
    return replace(before, workers=workers, transport=transport, policy=policy, fresh_steps=fresh)


def _counted(workers: int | None) -> int:
    if workers is None:
        raise ConfigError(
            "--policy sharded needs --workers, because each batch is cut into a part for each; got "
            "none. Add --workers N."
        )
    return workers


def _needs_source(name: str, source: str, why: str) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(
        f"{flag} needs --source {source}, because {why}; got {flag} without it. "
        f"Add --source {source}."
    )


def _needs_policy(name: str, needed: str, policy: PolicyKind) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(
        f"{flag} needs --policy {needed}, because no other policy has such a setting; got {flag} "
        f"with {type(policy).__name__}. Leave it out, or take that policy."
    )


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


@contextmanager
def connected(source: SourceKind, address: str | None) -> Iterator[None]:
    """While the block runs, be connected to the cluster at `address`, if the source needs one.

    Without an address as `Connection` has it. Raises `ConfigError` for an address that the source
    does not need, if Ray is not installed, or if no cluster answers.
    """
    transport = source.transport if isinstance(source, Asynchronous) else None
    if not isinstance(transport, Ray):
        if address is not None:
            raise ConfigError(
                "--ray-address needs --source async --transport ray, because only there workers "
                f"are a cluster's; got --ray-address {address} without it. Add it, or leave the "
                "address out."
            )
        yield
        return
    transport.check()
    # An extra, and seconds to import.
    from sparring.engine.transports.ray_cluster import Connection

    connection = Connection(address)
    try:
        yield
    finally:
        connection.close()


def connected_as_before(run: Path, address: str | None) -> AbstractContextManager[None]:
    """The same for a run that is resumed; does nothing if its directory is on another host."""
    if not run.exists():
        return nullcontext()
    directory = RunDirectory.open(run)
    config = from_json(TrainConfig, read_json(directory.config), where=str(directory.config))
    return connected(config.source, address)
