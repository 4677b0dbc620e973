"""Sparring trains image classifiers that survive adversarial examples, fast.

And it says honestly how robust they are. Names are imported when they are first used, so that
the command line can answer before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square, fgsm, random_start_fgsm
    from sparring.data import Crop, Dataset, Flip, ImageSet, dataset_from, load_dataset
    from sparring.errors import SparringError
    from sparring.evaluation import Suite, Verdict, evaluate, transfer
    from sparring.exporting import export
    from sparring.loader import AdversarialLoader, Asynchronous, Fresh, Reused, Stale
    from sparring.models import PaperCNN, load_weights
    from sparring.prediction import predict
    from sparring.records import Evaluation, RunDirectory, TransferMatrix
    from sparring.training import TrainConfig, TrainedRun, load, presets, replay, resume, train

__version__ = "0.1.0"

_HOME = {
    "attacks": ("APGD", "FAB", "L2", "PGD", "Linf", "Square", "fgsm", "random_start_fgsm"),
    "exporting": ("export",),
    "data": ("Crop", "Dataset", "Flip", "ImageSet", "dataset_from", "load_dataset"),
    "errors": ("SparringError",),
    "evaluation": ("Suite", "Verdict", "evaluate", "transfer"),
    "loader": ("AdversarialLoader", "Asynchronous", "Fresh", "Reused", "Stale"),
    "models": ("PaperCNN", "load_weights"),
    "prediction": ("predict",),
    "records": ("Evaluation", "RunDirectory", "TransferMatrix"),
    "training": ("TrainConfig", "TrainedRun", "load", "presets", "replay", "resume", "train"),
}
_PACKAGE_OF = {name: package for package, names in _HOME.items() for name in names}

__all__ = [
    "APGD",
    "FAB",
    "L2",
    "PGD",
    "AdversarialLoader",
    "Asynchronous",
    "Crop",
    "Dataset",
    "Evaluation",
    "Flip",
    "Fresh",
    "ImageSet",
    "Linf",
    "PaperCNN",
    "Reused",
    "RunDirectory",
    "SparringError",
    "Square",
    "Stale",
    "Suite",
    "TrainConfig",
    "TrainedRun",
    "TransferMatrix",
    "Verdict",
    "dataset_from",
    "evaluate",
    "export",
    "fgsm",
    "load",
    "load_dataset",
    "load_weights",
    "predict",
    "presets",
    "random_start_fgsm",
    "replay",
    "resume",
    "train",
    "transfer",
]


def __getattr__(name: str) -> object:
    """Import a public name from the package it lives in."""
    if name not in _PACKAGE_OF:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparring.{_PACKAGE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
