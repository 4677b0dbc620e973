"""The Ray cluster that a command's workers live on: joined before anything is written."""

from collections.abc import Iterator
from contextlib import contextmanager

from sparring.engine.transports.kinds import Ray
from sparring.errors import ConfigError
from sparring.training import Asynchronous
from sparring.training.sources import SourceKind


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
