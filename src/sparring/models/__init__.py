"""Networks, and the forms in which their passes are computed.

Records such as `PaperNetwork` and `Imported` describe networks and build them; `working_copy` gives
the cheapest faithful way to run one on its device; weights are kept as safetensors.
"""

from sparring.models.arithmetic import (
    PROBES,
    Precision,
    possible_precision,
    real_view,
    working_copy,
)
from sparring.models.calling import (
    check_callable,
    model_errors,
    original_module,
    plain_settings,
    single_precision,
)
from sparring.models.fitness import (
    ODD,
    are_probabilities,
    check_logits,
    check_network,
    check_state,
)
from sparring.models.forms import (
    AttackPasses,
    Form,
    WorkingCopy,
    attack_passes,
    device_of,
    register_form,
)
from sparring.models.hardware import (
    chosen_batch_size,
    chosen_device,
    computing_threads,
    has_bf16_units,
    neighbours,
)
from sparring.models.networks import NormalisedNetwork, draw_for_bounds
from sparring.models.paper_cnn import Initialisation, PaperCNN
from sparring.models.spec import (
    Given,
    Imported,
    ModelKind,
    Normalised,
    PaperNetwork,
    PreActResNet18,
    SmallNetwork,
    StridedNetwork,
    WideResNet,
    built_network,
    drawing_from,
)
from sparring.models.state import (
    OnCopies,
    copied,
    evaluation_mode,
    kept_layers,
    module_of,
    training_mode,
)
from sparring.models.trained import trained_network
from sparring.models.weights import begin_with, bits, load_weights, save_weights

__all__ = [
    "ODD",
    "PROBES",
    "AttackPasses",
    "Form",
    "Given",
    "Imported",
    "Initialisation",
    "ModelKind",
    "Normalised",
    "NormalisedNetwork",
    "OnCopies",
    "PaperCNN",
    "PaperNetwork",
    "PreActResNet18",
    "Precision",
    "SmallNetwork",
    "StridedNetwork",
    "WideResNet",
    "WorkingCopy",
    "are_probabilities",
    "attack_passes",
    "begin_with",
    "bits",
    "built_network",
    "check_callable",
    "check_logits",
    "check_network",
    "check_state",
    "chosen_batch_size",
    "chosen_device",
    "computing_threads",
    "copied",
    "device_of",
    "draw_for_bounds",
    "drawing_from",
    "evaluation_mode",
    "has_bf16_units",
    "kept_layers",
    "load_weights",
    "model_errors",
    "module_of",
    "neighbours",
    "original_module",
    "plain_settings",
    "possible_precision",
    "real_view",
    "register_form",
    "save_weights",
    "single_precision",
    "trained_network",
    "training_mode",
    "working_copy",
]
