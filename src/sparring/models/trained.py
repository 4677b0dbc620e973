"""The networks of runs, and others' weights to begin with."""

import pickle
from pathlib import Path

import torch
from torch import nn

from sparring.errors import CheckpointError
from sparring.models.foreign_weights import put_foreign
from sparring.models.spec import ModelKind, built_network
from sparring.models.weights import load_weights, read_weights
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

    A safetensors file, such as a run's, or what `torch.save` wrote, which is read without running
    any code in it. `put_foreign` says where in it the weights may be, and under which names.
    Raises `CheckpointError` if the file is missing, damaged, or of another network.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        weights, _ = read_weights(path)
    else:
        weights = _saved(path)
    put_foreign(network, weights, path)


def _saved(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} must hold the weights to begin with; there is no such file."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} must hold a state_dict and nothing else, because other objects run code when "
            "they are read; it holds others, or is no such file. Write it with "
            "torch.save(network.state_dict(), path)."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} must be a state_dict; it cannot be read: {error}") from error
