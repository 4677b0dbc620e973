"""From flags to the settings of one run, and the connection to its cluster.

Later ones win: preset or file, then named flags, then `--set`, which must not repeat the name of a
flag that is given. `sparring.training.adapting` has the rules of the flags.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from sparring.attacks.batch_attack import BUILT_IN
from sparring.cli.train_flags import DEFAULT_PRESET, TrainFlags
from sparring.data.run_data import RunData
from sparring.errors import ConfigError, DataError
from sparring.loader import Asynchronous, Ray, SlowLink, SourceKind
from sparring.records import RunDirectory, from_json, read_json, to_json
from sparring.records.checks import choice
from sparring.records.own_code import check_trusted, named_code
from sparring.training import TrainConfig
from sparring.training.adapting import Changes, adapted
from sparring.training.config import for_trainers
from sparring.training.distributed import launched
from sparring.training.presets import PRESETS


def resolved(flags: TrainFlags) -> TrainConfig:
    """The configuration of a command line, for the number of trainers that were started.

    Raises `ConfigError` for wrong settings, `RunError` for a file that cannot be read, `DataError`
    for data that must be opened for their size and cannot be.
    """
    given = {name: getattr(flags, name) for name in Changes.__annotations__}
    changes = cast(
        "Changes", {name: each for name, each in given.items() if each not in (None, ())}
    )
    _check_flags(flags)
    if flags.config is None:
        name = DEFAULT_PRESET if flags.preset is None else flags.preset
        choice("--preset", name, PRESETS)
        config = PRESETS[name](**changes)
    else:
        stored = _stored(flags.config)
        if {"threat", "eps", "steps"} & changes.keys():  # their rules ask a threat for its size
            of_attack = [stored.attack.threat] if isinstance(stored.attack, BUILT_IN) else []
            threats = [stored.threat, *of_attack]
            _check_code(flags.config, threats, trust_code=flags.trust_code)
        config = adapted(stored, **changes)
        _check_code(flags.config, [config], trust_code=flags.trust_code)
    return for_trainers(config, launched(), flags.scaling)


def _stored(path: Path) -> TrainConfig:
    """Settings of a file, or of a run in a folder, whose data may have moved with it."""
    file = _settings_file(path)
    config = from_json(TrainConfig, read_json(file), where=str(file))
    if path.is_dir():
        with suppress(DataError):  # --data may name others
            config = replace(config, data=RunData.of(RunDirectory(path)).places()[0])
    return config


def _settings_file(path: Path) -> Path:
    return path / "config.json" if path.is_dir() else path


def _check_flags(flags: TrainFlags) -> None:
    for assignment in flags.set:
        name = assignment.partition("=")[0]
        value = None if name == "set" else getattr(flags, name, None)
        if not (value is None or value is False or value == ()):
            raise ConfigError.expected(
                f"{name} must be given once",
                f"--{name.replace('_', '-')} {value} and --set {assignment}",
                "Leave one of them out.",
            )
    if flags.config is None:
        if flags.trust_code:
            raise ConfigError.expected(
                "--trust-code needs --config or --resume",
                "it without",
                "Leave it out: what flags name is trusted.",
            )
        return
    if flags.preset is not None:
        raise ConfigError.expected(
            "--preset and --config exclude each other",
            f"--preset {flags.preset} and --config {flags.config}",
            "Leave one of them out.",
        )


def _check_code(path: Path, records: Sequence[object], *, trust_code: bool) -> None:
    """Refuse untrusted code of a settings file that is in these records of it."""
    file = _settings_file(path)
    wanted = {code.factory for code in named_code([to_json(record) for record in records])}
    kept = tuple(code for code in named_code(read_json(file)) if code.factory in wanted)
    check_trusted(file, kept, trust_code=trust_code)


@contextmanager
def connected(source: SourceKind, address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address` for the block, if the source needs one.

    The default address is that of `Connection`. Raises `ConfigError` for an address that the
    source does not need, if Ray is not installed, or if no cluster answers.
    """
    transport = source.transport if isinstance(source, Asynchronous) else None
    if isinstance(transport, SlowLink):
        transport = transport.transport
    if not isinstance(transport, Ray):
        if address is not None:
            raise ConfigError.expected(
                "--ray-address needs --source async --transport ray",
                f"--ray-address {address} without it",
                "Add it, or leave the address out.",
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
