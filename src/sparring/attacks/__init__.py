"""Attacks: they search a threat for images that a model gets wrong.

Everything here knows a model only as a callable from images to logits, works on float images with
pixels in [0, 1], and leaves no trace: neither on the model nor on any global state.
"""

from sparring.attacks.apgd import APGD
from sparring.attacks.batch_attack import BatchAttack, StepwiseAttack
from sparring.attacks.checks import Batch, Classifier, as_batch, check_batch, checked
from sparring.attacks.crafting import (
    AttackedBatch,
    AttackPlan,
    Crafter,
    EarlySteps,
    Recipe,
)
from sparring.attacks.fab import FAB
from sparring.attacks.losses import (
    LOSSES,
    LossFunction,
    LossName,
    cross_entropy,
    difference_of_logits_ratio,
    margin,
)
from sparring.attacks.own import OwnAttack
from sparring.attacks.pgd import PGD, fgsm, random_start_fgsm
from sparring.attacks.search import (
    Attack,
    BatchedSearch,
    Search,
    SearchAttack,
    State,
    Task,
    ranked,
)
from sparring.attacks.square import Square
from sparring.attacks.threat import L2, STARTS, CustomThreat, Linf, Start, Threat

__all__ = [
    "APGD",
    "FAB",
    "L2",
    "LOSSES",
    "PGD",
    "STARTS",
    "Attack",
    "AttackPlan",
    "AttackedBatch",
    "Batch",
    "BatchAttack",
    "BatchedSearch",
    "Classifier",
    "Crafter",
    "CustomThreat",
    "EarlySteps",
    "Linf",
    "LossFunction",
    "LossName",
    "OwnAttack",
    "Recipe",
    "Search",
    "SearchAttack",
    "Square",
    "Start",
    "State",
    "StepwiseAttack",
    "Task",
    "Threat",
    "as_batch",
    "check_batch",
    "checked",
    "cross_entropy",
    "difference_of_logits_ratio",
    "fgsm",
    "margin",
    "random_start_fgsm",
    "ranked",
]
