"""Weights on disk: safetensors, which hold numbers and text only and run no code when read."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.records import write_atomically
from sparring.records.files import LARGEST_TENSORS, open_regular
from sparring.records.typed import typed
from sparring.records.wording import counted, few


def save_weights(
    weights: Mapping[str, Tensor], path: Path, *, about: Mapping[str, str] | None = None
) -> None:
    """Write named tensors, with words `about` them, so that `path` is always whole.

    Raises `OSError` if the disk refuses; a file that was there before is then untouched.
    """
    write_atomically(path, weights_to(weights, about=about))


def weights_to(weights: Mapping[str, Tensor], *, about: Mapping[str, str] | None = None) -> bytes:
    """Named tensors, with words `about` them, as the content of a safetensors file."""
    kept = torch.contiguous_format  # and copies: a file has no tensor that two layers share
    tensors = {
        name: value.detach().cpu().clone(memory_format=kept) for name, value in weights.items()
    }
    try:
        return save(tensors, metadata=dict(about or {}))
    except KeyError as error:
        raise TypeError(f"a safetensors file cannot hold numbers of type {error}") from error


def weights_from(content: bytes) -> dict[str, Tensor]:
    """The named tensors of a safetensors file."""
    return load(content)


def bits(value: Tensor) -> Tensor:
    """A tensor's bytes, flat: as numbers 0 equals -0 and NaN does not equal itself."""
    return value.detach().cpu().resolve_conj().contiguous().flatten().view(torch.uint8)


def content_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: of their names, types, shapes and bytes. Cost: one pass."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@typed
def load_weights(network: nn.Module, path: Path | str) -> dict[str, str]:
    """Put the weights of a file into a network of the same shape; return the words about them.

    Raises `CheckpointError` if the file is missing, damaged, or of another network.
    """
    path = Path(path)
    weights, about = read_weights(path)
    put_weights(network, weights, path)
    return about


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the words about them. Raises `CheckpointError` as `load_weights`."""
    try:
        open_regular(path, LARGEST_TENSORS).close()  # safetensors opens files by name only
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
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
    _check_dense(weights, path)
    _check_finite(network, weights, path)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(weights[name])


def _check_dense(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, value in weights.items():
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            kind = "on the meta device" if value.is_meta else f"{value.layout}, {value.dtype}"
            raise CheckpointError(
                f"{path} must hold dense tensors of plain numbers; {name} is {kind}. Write them "
                "again: torch.save({name: value.to_dense() for ...}), from a model with weights."
            )


def _check_finite(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Numbers that the network is built with, as infinities of an attention's mask, are its own."""
    wrong: dict[str, int] = {}
    for name, own in network.state_dict().items():
        value, own = weights[name].detach(), own.to(weights[name].device)
        odd = ~value.isfinite() & (value != own) & ~(value.isnan() & own.isnan())
        if count := int(odd.sum()):
            wrong[name] = count
    if wrong:
        name = next(iter(wrong))
        raise CheckpointError(
            f"{path} holds {sum(wrong.values()):,} numbers that are NaN or infinite, the first in "
            f"tensor {name}; weights must be finite. Training diverged or the file is damaged: "
            "take an earlier checkpoint, or train again with a lower learning rate."
        )


def _check_same_network(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    if found := differences(network, weights):
        raise CheckpointError(
            f"{path} must hold the weights of a {type(network).__name__}; {found}. "
            "It belongs to another network."
        )


def differences(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """What keeps named tensors from being the network's state, in words; empty if they can be."""
    own = network.state_dict()
    unlike = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    complex_ones = [
        name
        for name, value in own.items()
        if name in weights and weights[name].is_complex() and not value.is_complex()
    ]
    found = {
        "missing": [name for name in own if name not in weights],
        "not the network's": [name for name in weights if name not in own],
        "of another shape": unlike,
        "complex where the network's are real": complex_ones,
    }
    parts = []
    for what, names in found.items():
        if names:
            number = f"{counted(len(names), 'tensor')} {'is' if len(names) == 1 else 'are'}"
            parts.append(f"{number} {what} ({few(names)})")
    return ", ".join(parts)
