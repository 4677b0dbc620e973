"""Ctrl-C, SIGTERM and the end of the terminal as a request to stop at the next safe place."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether someone asked the run to stop, and by which signal."""

    def __init__(self, *, patient: bool = False) -> None:
        self.signal: signal.Signals | None = None
        self._patient, self._times = patient, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the first request; the next one meets the handler that was there before.

        Who is patient notes that too, until it relents: a launcher sends one more to those that
        stop together.
        """
        self.signal = signal.Signals(number)
        self._times += 1
        if not self._patient:
            self.restore()

    def relent(self) -> None:
        """From the second request on, let the next one meet the handler of before after all."""
        if self._times > 1:
            self.restore()

    def install(self) -> None:
        """Take over the signals that are not ignored, as nohup has it, remembering who had them."""
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self) for number in heard}

    def restore(self) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def stop_request(*, patient: bool = False) -> Iterator[StopRequest]:
    """Collect requests to stop while the block runs; if `patient`, any number of them.

    Only the main thread may take signals over; in another one the request never comes and Ctrl-C
    does what it did before.
    """
    request = StopRequest(patient=patient)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    request.install()
    try:
        yield request
    finally:
        request.restore()
