"""A run's measurements as TensorBoard events, beside metrics.jsonl and the same as in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from sparring.errors import ConfigError
from sparring.records import RunDirectory, run_errors

FOLDER = "tensorboard"
"""Of the event files, in the run directory."""
FLUSH_SECONDS = 10
"""Until a measurement is in its file: someone watches."""


class Events:
    """Writes rows of measurements as scalars, and what a person should know as text.

    A number is named kind/name, and so stands under its kind.
    """

    def __init__(self, run: RunDirectory, version: int) -> None:
        # An extra, and seconds to import.
        from torch.utils.tensorboard.writer import SummaryWriter

        with run_errors("write", run.path / FOLDER):
            # What an interrupted sitting wrote after its last checkpoint is hidden.
            self._writer = SummaryWriter(
                str(run.path / FOLDER), purge_step=version + 1, flush_secs=FLUSH_SECONDS
            )

    def append(self, kind: str, row: Mapping[str, int | float | str | None]) -> None:
        """Write what a row of metrics.jsonl says under its step; numbers become float32."""
        step = row["step"]
        for name, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(f"{kind}/{name}", value, step)
            elif value is not None and name != "step":
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


@contextmanager
def events(run: RunDirectory, version: int, *, wanted: bool) -> Iterator[Events | None]:
    """The events of one sitting of a run that has seen `version` updates; None if not wanted."""
    if not wanted:
        yield None
        return
    written = Events(run, version)
    try:
        yield written
    finally:
        written.close()


def check_events_can_be_written() -> None:
    """Refuse to begin a run whose events nothing could write. Raises `ConfigError`."""
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard = true needs the package tensorboard, because PyTorch writes its events "
            "with it; it is not installed. pip install 'sparring[tensorboard]', or set it to false."
        )
