"""Weights on disk: safetensors, which hold numbers and text only and run no code when read."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.records import write_atomically


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


def content_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: of their names, types, shapes and bytes. Cost: one pass."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


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
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return weights, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} must hold the network's weights; there is no such file. "
            f"Was the run stopped before its first checkpoint?"
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} must be a safetensors file; it cannot be read ({error}). "
            f"It is damaged or something else: restore it or train again."
        ) from error


@contextmanager
def _utf8_name(path: Path) -> Iterator[Path | str]:
    """A name of a file in UTF-8: safetensors opens no others."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield path


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors that were read from `path` into a network of the same shape.

    Raises `CheckpointError` if they are another network's, or not finite.
    """
    _check_same_network(network, weights, path)
    _check_finite(network, weights, path)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(weights[name])


def _check_finite(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Infinities that the network is built with, as in the mask of an attention, are its own."""
    wrong: dict[str, int] = {}
    for name, own in network.state_dict().items():
        value = weights[name].detach()
        odd = ~value.isfinite()
        if bool(odd.any()) and (count := int((odd & (value != own.to(value.device))).sum())):
            wrong[name] = count
    if wrong:
        name = next(iter(wrong))
        raise CheckpointError(
            f"{path} holds {sum(wrong.values()):,} numbers that are NaN or infinite, the first in "
            f"tensor {name}; weights must be finite. Training diverged or the file is damaged: "
            "take an earlier checkpoint, or train again with a lower learning rate."
        )


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
