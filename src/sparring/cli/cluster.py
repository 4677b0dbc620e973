"""The Ray cluster that a command's workers live on: joined before anything is written."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from sparring.engine.transports.kinds import Ray
from sparring.errors import ConfigError
from sparring.loader import SourceKind
from sparring.records import RunDirectory, from_json, read_json
from sparring.training import Asynchronous, TrainConfig


@contextmanager
def connected(source: SourceKind, address: str | None) -> Iterator[None]:
    """While the block runs, be connected to the cluster at `address`, if the source needs one.

    Without an address as `Connection` has it. Raises `ConfigError` for an address that nobody
    needs, if Ray is not installed, or if no cluster answers.
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
    """The same for a run that is gone on with; nothing where its directory is another host's."""
    if not run.exists():
        return nullcontext()
    directory = RunDirectory.open(run)
    config = from_json(TrainConfig, read_json(directory.config), where=str(directory.config))
    return connected(config.source, address)
