"""Training: one loop over a source of attacked batches.

A `TrainConfig` holds everything that determines the weights, and `presets` makes whole ones.
`train` and `resume` turn one into a run directory, and `replay` computes its weights again. A
`Sink` receives the measurements of a run while it trains.
"""

from sparring.attacks import EarlySteps
from sparring.loader import Asynchronous, Fresh, Reused, Stale
from sparring.records.custom import Custom
from sparring.training import presets
from sparring.training.config import TrainConfig, Validation, linearly_scaled
from sparring.training.distributed import joined
from sparring.training.monitor import ValidationResult
from sparring.training.objectives import TRADES, Adversarial, Certified, Loss, Mixed, Natural
from sparring.training.optimizers import (
    SGD,
    Adam,
    Constant,
    Gradual,
    OneCycle,
    Steps,
    Triangular,
    WarmUp,
)
from sparring.training.replay import Parting, Replay, replay
from sparring.training.run import resume, train
from sparring.training.sinks import RowKind, SessionStart, Sink
from sparring.training.trained_run import Metrics, TrainedRun, load
from sparring.training.trainer import Step, Trainer

__all__ = [
    "SGD",
    "TRADES",
    "Adam",
    "Adversarial",
    "Asynchronous",
    "Certified",
    "Constant",
    "Custom",
    "EarlySteps",
    "Fresh",
    "Gradual",
    "Loss",
    "Metrics",
    "Mixed",
    "Natural",
    "OneCycle",
    "Parting",
    "Replay",
    "Reused",
    "RowKind",
    "SessionStart",
    "Sink",
    "Stale",
    "Step",
    "Steps",
    "TrainConfig",
    "TrainedRun",
    "Trainer",
    "Triangular",
    "Validation",
    "ValidationResult",
    "WarmUp",
    "joined",
    "linearly_scaled",
    "load",
    "presets",
    "replay",
    "resume",
    "train",
]
