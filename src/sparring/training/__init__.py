"""Training: one loop over a source of attacked batches.

A `TrainConfig` says everything that determines the weights; `presets` makes whole ones; `train`
and `resume` turn one into a run directory, and `replay` computes that one's weights again.
"""

from sparring.attacks import EarlySteps
from sparring.loader import Asynchronous, Fresh, Stale
from sparring.training import presets
from sparring.training.config import TrainConfig, Validation
from sparring.training.objectives import TRADES, Adversarial, Loss, Mixed, Natural, OwnObjective
from sparring.training.optimizers import SGD, Adam
from sparring.training.replay import Parting, Replay, replay
from sparring.training.run import TrainedRun, resume, train
from sparring.training.scaling import linearly_scaled
from sparring.training.schedules import (
    Constant,
    Gradual,
    OneCycle,
    Steps,
    Triangular,
    WarmUp,
)
from sparring.training.several import joined
from sparring.training.trainer import Step, Trainer
from sparring.training.watch import Look, Observer, Silent

__all__ = [
    "SGD",
    "TRADES",
    "Adam",
    "Adversarial",
    "Asynchronous",
    "Constant",
    "EarlySteps",
    "Fresh",
    "Gradual",
    "Look",
    "Loss",
    "Mixed",
    "Natural",
    "Observer",
    "OneCycle",
    "OwnObjective",
    "Parting",
    "Replay",
    "Silent",
    "Stale",
    "Step",
    "Steps",
    "TrainConfig",
    "TrainedRun",
    "Trainer",
    "Triangular",
    "Validation",
    "WarmUp",
    "joined",
    "linearly_scaled",
    "presets",
    "replay",
    "resume",
    "train",
]
