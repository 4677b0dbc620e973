"""An exported network, read again in Python."""

from pathlib import Path

from torch import nn

from sparring.models import ModelKind, built_network, load_weights
from sparring.records import from_json, read_json, to_json
from sparring.records.trust import check_trusted, named_code

MODEL = "model.json"
"""What the network is, as the run's settings have it."""


def exported_network(
    folder: Path | str, *, network: nn.Module | None = None, trust_code: bool = False
) -> nn.Module:
    """The network of a bundle with its weights, on the CPU, to be evaluated.

    It takes pixels in [0, 1] and returns logits. `network` is one of the same kind, for those that
    were handed over as Python objects. Code that the bundle names, a factory, runs if the bundle is
    of a run that you trained on this machine, or with `trust_code`.
    Raises `RunError`, `ConfigError` or `CheckpointError`.
    """
    path = Path(folder) / MODEL
    model: ModelKind = from_json(ModelKind, read_json(path), where=str(path))
    if network is None:
        check_trusted(path, named_code(to_json(model)), trust_code=trust_code)
    built = built_network(model, network)
    load_weights(built, Path(folder) / "weights.safetensors")
    return built.eval()
