"""Evaluation: what a network gets right, clean and attacked, and how sure that is.

`evaluate` judges any model on any images under a named suite of attacks; `evaluate_run` does so
for a run and leaves the result in its directory. `transfer` judges several networks on what was
made on each of them.
"""

from sparring.evaluation.certificates import certified
from sparring.evaluation.evaluate import Verdict, evaluate
from sparring.evaluation.judge import Judge, slice_accuracy
from sparring.evaluation.progress import Progress
from sparring.evaluation.run import evaluate_run
from sparring.evaluation.suites import SUITES, Suite
from sparring.evaluation.transfer import TransferProgress, transfer, transfer_runs

__all__ = [
    "SUITES",
    "Judge",
    "Progress",
    "Suite",
    "TransferProgress",
    "Verdict",
    "certified",
    "evaluate",
    "evaluate_run",
    "slice_accuracy",
    "transfer",
    "transfer_runs",
]
