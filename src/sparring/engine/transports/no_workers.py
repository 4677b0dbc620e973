"""The transport of a source without workers: nothing is pickled, copied or connected."""

import time
from collections.abc import Sequence

from typing_extensions import override

from sparring.engine.lease import Lease, Worker
from sparring.engine.transports.protocol import Event, Transport


class NoWorkers(Transport):
    """Has no worker, and starts none."""

    @override
    def start(self) -> Worker:
        raise ValueError("this transport has no workers")

    @override
    def is_placed(self, worker: Worker) -> bool:
        return False

    @override
    def submit(self, lease: Lease) -> None:
        raise ValueError("this transport has no workers")

    @override
    def poll(self, timeout: float) -> Sequence[Event]:
        time.sleep(timeout)
        return ()

    @override
    def kill(self, worker: Worker) -> None:
        pass

    @override
    def stop(self) -> None:
        pass
