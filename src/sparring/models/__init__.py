"""Networks, and the forms in which their passes are computed.

`PaperNetwork` describes the paper's CNN and builds it; `working_copy` gives the cheapest faithful
way to run a network on its device; weights are kept as safetensors.
"""

from sparring.models.arithmetic import Precision, WorkingCopy, working_copy
from sparring.models.hardware import (
    chosen_device,
    computing_threads,
    has_bf16_units,
    has_matrix_units,
    neighbours,
)
from sparring.models.modes import evaluation_mode
from sparring.models.paper_cnn import Initialisation, PaperCNN
from sparring.models.sparse import sparse_passes
from sparring.models.spec import PaperNetwork, trained_network
from sparring.models.weights import load_weights, save_weights

__all__ = [
    "Initialisation",
    "PaperCNN",
    "PaperNetwork",
    "Precision",
    "WorkingCopy",
    "chosen_device",
    "computing_threads",
    "evaluation_mode",
    "has_bf16_units",
    "has_matrix_units",
    "load_weights",
    "neighbours",
    "save_weights",
    "sparse_passes",
    "trained_network",
    "working_copy",
]
