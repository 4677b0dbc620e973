"""What the library says to its logger during a run, passed on to those who watch and to its log."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Passing(logging.Handler):
    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


@contextmanager
def warnings_to(take: Callable[[str], None]) -> Iterator[None]:
    """Give every warning of the package to `take` while the block lasts, as one text each.

    Handlers that a user has set up get them too.
    """
    logger, handler = logging.getLogger("sparring"), _Passing(take)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
