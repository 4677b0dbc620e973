"""An exported network, read again in Python."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sparring.errors import CheckpointError
from sparring.models import ModelKind, built_network
from sparring.models.trained import Fingerprint, check_fingerprint, network_seed
from sparring.models.weights import content_digest, put_weights, read_weights
from sparring.records import from_json, read_json, to_json
from sparring.records.trust import check_trusted, named_code
from sparring.records.typed import typed

MODEL = "model.json"
"""What the network is, as the run's settings have it."""
IDENTITY = "identity.json"
"""What the network is known by when it is built again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What an exported network is known by."""

    seed: int
    """The seed of its run."""
    content: str
    """Digest of its weights."""
    fingerprint: Fingerprint
    """What it answers to a few fixed images."""


@typed
def exported_network(
    folder: Path | str, *, network: nn.Module | None = None, trust_code: bool = False
) -> nn.Module:
    """The network of a bundle with its weights, on the CPU, to be evaluated.

    It takes pixels in [0, 1] and returns logits. `network` is one of the same kind, for those that
    were passed as Python objects. Weights or code of another network than the exported one are
    refused; bundles of versions that wrote no identity.json are taken at their word. Code that the
    bundle names, a factory, runs if the bundle is of a run that you trained on this machine, or
    with `trust_code`.
    Raises `RunError`, `ConfigError` or `CheckpointError`.
    """
    path = Path(folder) / MODEL
    model: ModelKind = from_json(ModelKind, read_json(path), where=str(path))
    if network is None:
        check_trusted(path, named_code(to_json(model)), trust_code=trust_code)
    known = _identity(Path(folder) / IDENTITY)
    built = built_network(model, network, network_seed(known.seed if known else 0))
    path = Path(folder) / "weights.safetensors"
    weights, _ = read_weights(path)
    if known is not None and known.content != content_digest(weights):
        raise CheckpointError(
            f"{path} holds other weights than those that were exported; they were replaced or "
            "damaged since. Export the run again."
        )
    put_weights(built, weights, path)
    if known is not None:
        check_fingerprint(built, known.fingerprint, str(path))
    return built.eval()


def _identity(path: Path) -> Identity | None:
    return from_json(Identity, read_json(path), where=str(path)) if path.exists() else None
