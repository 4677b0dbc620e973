"""A run as an object: its network, settings, measurements and evaluation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import override

from sparring.models import trained_network
from sparring.records import Evaluation, MetricsLog, Row, RunDirectory
from sparring.records.metrics import number
from sparring.records.text import count_text, counted, data_frame, duration_text, html_table
from sparring.records.typed import typed
from sparring.training.config import TrainConfig, stored_config


class Metrics(list[Row]):
    """The rows of a run's metrics.jsonl: updates, validations, notices."""

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` of all rows. Raises `ConfigError` if pandas is not installed."""
        return data_frame(self)

    @override
    def __repr__(self) -> str:
        names = dict.fromkeys(name for row in self for name in row)
        return f"{counted(len(self), 'row')} of {', '.join(names) or 'nothing'}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class TrainedRun:
    """The result of `train`, `resume` and `load`."""

    run: RunDirectory
    """The run directory."""
    network: nn.Module
    """The network that is evaluated, in evaluation mode: averaged weights where averaging is on."""
    version: int
    """Updates that it has seen."""
    seconds: float
    """Wall-clock seconds of training over all sessions, validation and checkpoints included."""
    config: TrainConfig = field(repr=False)
    """The settings."""

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.run.path

    @property
    def metrics(self) -> Metrics:
        """All measurements, oldest first. Raises `RunError` if the file is damaged."""
        return Metrics(MetricsLog(self.run.metrics).rows())

    @property
    def evaluation(self) -> Evaluation | None:
        """The run's verdict; `None` before the first evaluation.

        Raises `RunError` or `ConfigError` if the file is damaged.
        """
        files = self.run.evaluations()
        return Evaluation.load(files[0]) if files else None

    @override
    def __repr__(self) -> str:
        return f"{self.path}: {', '.join(f'{what} {said}'.strip() for what, said in self._about())}"

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""
        return html_table(str(self.path), ("", ""), self._about())

    def _about(self) -> list[tuple[str, str]]:
        done = f"{count_text(self.version)} of {counted(self.config.updates, 'update')}"
        found = self.evaluation
        judged = [("", "not evaluated")]
        if found is not None:
            judged = [("natural", str(found.natural)), ("robust", str(found.robust))]
            judged += [("", found.bracket)] if found.bracket else []
        return [("", f"{done} in {duration_text(self.seconds)}"), *judged]


@typed
def load(
    run: Path | str | None = None,
    *,
    network: nn.Module | None = None,
    trust_code: bool = False,
) -> TrainedRun:
    """A run that was trained before, by default the newest in `runs/`.

    Pass the `network` that was passed to `train`, if any. Code that the settings name, such as a
    factory, runs if you trained the run on this machine, or with `trust_code`.
    Raises `RunError`, `ConfigError` or `CheckpointError` for a run that is not there, has no
    weights yet or is damaged.
    """
    directory = RunDirectory.chosen(run)
    config = stored_config(directory, trust_code=trust_code)
    built = trained_network(directory, network=network, trust_code=trust_code)
    timed = [row for row in MetricsLog(directory.metrics).rows() if "loss" in row]
    return TrainedRun(
        run=directory,
        network=built,
        version=directory.saved_updates,
        seconds=number(timed[-1], "seconds") if timed else 0.0,
        config=config,
    )
