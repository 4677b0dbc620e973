"""Weights on disk: safetensors, which hold numbers and text only and run no code when read."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.records import write_atomically
from sparring.records.files import LARGEST_TENSORS, open_regular


def save_weights(
    weights: Mapping[str, Tensor], path: Path, *, about: Mapping[str, str] | None = None
) -> None:
    """Write named tensors, with words `about` them, so that `path` is always whole.

    Raises `OSError` if the disk refuses; a file that was there before is then untouched.
    """
    kept = torch.contiguous_format  # and copies: a file has no tensor that two layers share
    tensors = {
        name: value.detach().cpu().clone(memory_format=kept) for name, value in weights.items()
    }
    write_atomically(path, save(tensors, metadata=dict(about or {})))


def load_weights(network: nn.Module, path: Path) -> dict[str, str]:
    """Put the weights of a file into a network of the same shape; return the words about them.

    Raises `CheckpointError` if the file is missing, damaged, or of another network.
    """
    weights, about = read_weights(path)
    put_weights(network, weights, path)
    return about


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the words about them. Raises `CheckpointError` as `load_weights`."""
    try:
        open_regular(path, LARGEST_TENSORS).close()  # safetensors opens files by name only
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return weights, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} must hold the network's weights; there is no such file. "
            f"Was the run stopped before its first checkpoint?"
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise CheckpointError(
            f"{path} must be a safetensors file; it cannot be read ({reason}). "
            f"It is damaged or something else: restore it or train again."
        ) from error


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors that were read from `path` into a network of the same shape.

    Raises `CheckpointError` if they are another network's.
    """
    _check_same_network(network, weights, path)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(weights[name])


def _check_same_network(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path} must hold the weights of a {type(network).__name__}; its tensor {name} "
                f"has shape {found.get(name, 'none')}, the network's {expected.get(name, 'none')}. "
                f"It belongs to another network."
            )
