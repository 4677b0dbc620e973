"""What the stages hand over to each other through files, readable without torch.

A run directory holds the settings, the environment, the log of measurements and the evaluation;
the codec turns any record into JSON and back.
"""

from sparring.records.codec import from_json, override, to_json
from sparring.records.environment import Environment, describe
from sparring.records.evaluation import (
    AttackResult,
    ClassAccuracy,
    Evaluation,
    Example,
    Examples,
    Finding,
    Outcomes,
    Reading,
)
from sparring.records.figure import (
    Axis,
    Curves,
    Figure,
    Film,
    Group,
    HeatMap,
    Lengths,
    Panel,
    Provenance,
    Relief,
    Series,
    Strip,
    Table,
)
from sparring.records.files import read_json, run_errors, write_atomically, write_json
from sparring.records.metrics import MetricsLog, Row
from sparring.records.proportion import Interval, Proportion
from sparring.records.run import RunDirectory
from sparring.records.study import Claim, StudyResult, Trained
from sparring.records.transfer import Cell, TransferMatrix, sign_test

__all__ = [
    "AttackResult",
    "Axis",
    "Cell",
    "Claim",
    "ClassAccuracy",
    "Curves",
    "Environment",
    "Evaluation",
    "Example",
    "Examples",
    "Figure",
    "Film",
    "Finding",
    "Group",
    "HeatMap",
    "Interval",
    "Lengths",
    "MetricsLog",
    "Outcomes",
    "Panel",
    "Proportion",
    "Provenance",
    "Reading",
    "Relief",
    "Row",
    "RunDirectory",
    "Series",
    "Strip",
    "StudyResult",
    "Table",
    "Trained",
    "TransferMatrix",
    "describe",
    "from_json",
    "override",
    "read_json",
    "run_errors",
    "sign_test",
    "to_json",
    "write_atomically",
    "write_json",
]
