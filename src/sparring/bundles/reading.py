"""An exported network, read again in Python."""

from pathlib import Path

from torch import nn

from sparring.models import ModelKind, built_network, load_weights
from sparring.records import from_json, read_json
from sparring.records.typed import typed

MODEL = "model.json"
"""What the network is, as the run's settings have it."""


@typed
def exported_network(folder: Path | str, *, network: nn.Module | None = None) -> nn.Module:
    """The network of a bundle with its weights, on the CPU, to be evaluated.

    It takes pixels in [0, 1] and returns logits. `network` is one of the same kind, for those that
    were handed over as Python objects. Raises `RunError`, `ConfigError` or `CheckpointError`.
    """
    path = Path(folder) / MODEL
    model: ModelKind = from_json(ModelKind, read_json(path), where=str(path))
    built = built_network(model, network)
    load_weights(built, Path(folder) / "weights.safetensors")
    return built.eval()
