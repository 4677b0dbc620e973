"""How long an attack and an update take on this machine: a few of them are made.

Units: seconds.
"""

from dataclasses import replace

from sparring.engine import Costs
from sparring.engine.calibration import WARM, costs_of
from sparring.errors import Interrupted
from sparring.loader import Fresh
from sparring.records import MetricsLog
from sparring.records.temporary import temporary_folder
from sparring.training.config import TrainConfig, Validation
from sparring.training.run import train

TIMED = 30
"""Updates that are timed."""


def timed_costs(config: TrainConfig, *, updates: int = TIMED) -> Costs:
    """Medians over so many updates of this configuration, attacked by turns, on one thread.

    Their run directory is removed. Cost: those updates and five more. Raises what `train` raises.
    """
    config = replace(
        config,
        source=Fresh(),
        threads=1,
        validation=Validation(every=0, alarm_every=0),
        early_steps=(),
    )
    with temporary_folder() as folder:
        try:
            done = train(config, folder / "timed", until=WARM + updates)
        except Interrupted as error:  # its remedy names a folder that is about to go
            raise KeyboardInterrupt from error
        return costs_of(MetricsLog(done.run.metrics).rows(), where="it")
