"""Evaluation: natural and robust accuracy of a network, with intervals and checks.

`evaluate` evaluates any model on any images under a suite of attacks; `evaluate_run` evaluates a
run and saves the result in its directory. `transfer` evaluates several networks on adversarial
examples of each of them.
"""

from sparring.evaluation.certificates import Certificate, certificate, certified
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.judge import Judge, slice_accuracy
from sparring.evaluation.progress import Progress
from sparring.evaluation.run import evaluate_network, evaluate_run
from sparring.evaluation.suites import SUITES, Suite
from sparring.evaluation.transfer import TransferProgress, transfer, transfer_runs
from sparring.evaluation.verdict import Verdict

__all__ = [
    "SUITES",
    "Certificate",
    "Judge",
    "Progress",
    "Suite",
    "TransferProgress",
    "Verdict",
    "certificate",
    "certified",
    "evaluate",
    "evaluate_network",
    "evaluate_run",
    "slice_accuracy",
    "transfer",
    "transfer_runs",
]
