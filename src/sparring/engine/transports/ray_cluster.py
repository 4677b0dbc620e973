"""The connection of this process to a Ray cluster.

Ray takes over SIGTERM when it connects. The earlier handlers are put back, so that a run still
writes its checkpoint before it stops.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from sparring.errors import ConfigError, cause
from sparring.records.environment import available_cores

CONNECT_SECONDS = 10.0
"""Seconds within which the head of a cluster must answer."""
LOCAL = "local"
"""Ray's word for a cluster that is started on this machine and ends with this process."""


class Connection:
    """A connection that lasts until `close`.

    Reuses an existing connection. Otherwise connects to `address`, then to the environment's
    RAY_ADDRESS, then starts a local cluster with all cores but the trainer's, in some seconds.
    Raises `ConfigError` if no cluster answers or can be started.
    """

    def __init__(self, address: str | None = None) -> None:
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(address or os.environ.get("RAY_ADDRESS") or LOCAL)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here; may be called twice."""
        if self._is_ours:
            ray.shutdown()
            self._is_ours = False


def _connect(address: str) -> None:
    settings = {}
    if address == LOCAL:
        # By default Ray reports the use of a cluster to its makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings = {"num_cpus": max(1, available_cores() - 1), "include_dashboard": False}
    try:
        _knock(address)
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:  # Ray raises this class itself where a node does not start in time
        raise ConfigError(
            f"no Ray cluster answers at {address!r} ({cause(error)}). Start one with `ray start "
            "--head`, give the address of its head as host:port, or leave the address out for a "
            "local one. If the cluster asks for a token, set RAY_AUTH_MODE=token."
        ) from error


def _knock(address: str) -> None:
    """Raise `OSError` at once if nothing listens at this address: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT, which only the main thread can lose."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
