"""The networks of runs, and others' weights to begin with."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.models.normalised import NormalisedNetwork
from sparring.models.saved import read_saved
from sparring.models.spec import ModelKind, built_network
from sparring.models.weights import load_weights, put_weights, read_weights
from sparring.records import RunDirectory


def trained_network(
    run: RunDirectory, *, version: int | None = None, network: nn.Module | None = None
) -> nn.Module:
    """The network of a run with the weights that it was trained to, on the CPU, to be evaluated.

    With a `version`, those of then, of which the run must have kept a snapshot. A run that was
    given its network as a Python object needs one of the same kind, which is copied.
    Raises `CheckpointError` or `ConfigError` where the run's files are missing or damaged.
    """
    model: ModelKind = run.section("model", ModelKind)
    built = built_network(model, network)
    load_weights(built, run.weights if version is None else run.snapshot(version))
    return built.eval()


def begin_with(network: nn.Module, path: Path | str) -> None:
    """Put the weights of a file into a network, to be trained further.

    A safetensors file, such as a run's, or a `state_dict` that `torch.save` wrote, which is read
    without running any code in it. Weights of what stands behind a normalisation will do, too.
    Raises `CheckpointError` if the file is missing, damaged, or of another network.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        weights, _ = read_weights(path)
    else:
        weights = _state_dict(path)
    if isinstance(network, NormalisedNetwork) and "normalisation.mean" not in weights:
        network = network.network
    put_weights(network, weights, path)


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    try:
        state = read_saved(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} must hold the weights to begin with; there is no such file."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} must hold a state_dict and nothing else, because other objects run code when "
            f"they are read; it holds others, or is no such file ({error}). Write it with "
            "torch.save(network.state_dict(), path)."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # as Lightning and many training scripts have it
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path} must hold a state_dict, tensors by name; it holds a {type(state).__name__} of "
            "something else. Write it with torch.save(network.state_dict(), path)."
        )
    return state
