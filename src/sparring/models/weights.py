"""Weights in files: the project's own, in safetensors, and those of other programs.

Neither kind of file runs code when it is read.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.models.networks import NormalisedNetwork
from sparring.models.saved import read_saved
from sparring.records import write_atomically
from sparring.records.files import LARGEST_TENSORS, from_home, open_regular
from sparring.records.text import counted, few, kind_text
from sparring.records.typed import typed

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that `torch.compile`, FSDP and activation checkpointing put into names, anywhere."""
PREFIXES = frozenset({"module", "model", "net", "network"})
"""First parts that all names have where the network is an attribute of something else."""
COUNTS = frozenset({"n_averaged"})
"""Buffers that `torch.optim.swa_utils.AveragedModel` adds."""
DEPTH = 3
"""Levels of dictionaries that are searched for weights."""

Tensors = Mapping[str, Tensor]


def save_weights(
    weights: Mapping[str, Tensor], path: Path, *, about: Mapping[str, str] | None = None
) -> None:
    """Write named tensors and the metadata `about`, whole or not at all.

    Raises `OSError` if the disk refuses; an earlier file is then untouched.
    """
    write_atomically(path, weights_to(weights, about=about))


def weights_to(weights: Mapping[str, Tensor], *, about: Mapping[str, str] | None = None) -> bytes:
    """Named tensors and the metadata `about` as the content of a safetensors file."""
    kept = torch.contiguous_format  # copied: the format has no tensors that share memory
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
    """A tensor's bytes, flat. As numbers, `0` would equal `-0`, and NaN not itself."""
    return value.detach().cpu().resolve_conj().contiguous().flatten().view(torch.uint8)


def content_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of tensors. Cost: one pass."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@typed
def load_weights(network: nn.Module, path: Path | str) -> dict[str, str]:
    """Load the weights of a file into a network of the same shape; return the file's metadata.

    Raises `CheckpointError` if the file is missing, damaged, or of another network.
    """
    path = from_home(path)
    weights, about = read_weights(path)
    put_weights(network, weights, path)
    return about


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the file's metadata. Raises `CheckpointError` as `load_weights`."""
    try:
        open_regular(path, LARGEST_TENSORS).close()  # safetensors opens files by name only
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return weights, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: there is no such file of weights. Was the run stopped before its first "
            "checkpoint?"
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise CheckpointError(
            f"{path} cannot be read; it must be a safetensors file ({reason}). Restore it or train "
            "again."
        ) from error


@contextmanager
def _utf8_name(path: Path) -> Iterator[Path | str]:
    """A name of a file in UTF-8, as safetensors needs it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield path


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors that were read from `path` into a network of the same shape.

    Raises `CheckpointError` if they are another network's, or not finite in its numbers.
    """
    _check_same_network(network, weights, path)
    _check_dense(weights, path)
    own = network.state_dict()
    fitted = {name: _as_numbers_of(own[name], weights[name], name, path) for name in own}
    _check_finite(network, fitted, path)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(fitted[name])


def _as_numbers_of(own: Tensor, value: Tensor, name: str, path: Path) -> Tensor:
    """A tensor in the dtype of the network's own; NaN stays NaN where that has integers only."""
    value = value.detach()
    try:
        if value.is_floating_point() and not (own.is_floating_point() or own.is_complex()):
            value = value.double()
            return value.to(own.dtype) if value.isfinite().all() else value
        return value.to(own.dtype)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError.expected(
            f"{path} must hold numbers that PyTorch can convert to the network's {own.dtype}",
            f"{name} {value.dtype}",
            "Write it again: torch.save({name: value.float() for ...}).",
        ) from error


def _check_dense(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, value in weights.items():
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            kind = "on the meta device" if value.is_meta else f"{value.layout}, {value.dtype}"
            raise CheckpointError.expected(
                f"{path} must hold dense tensors of plain numbers",
                f"{name} {kind}",
                "Write it again: torch.save({name: value.to_dense() for ...}).",
            )


def _check_finite(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse infinities and NaN, except those the network is built with, as in a mask."""
    wrong: dict[str, int] = {}
    for name, own in network.state_dict().items():
        value, own = weights[name], own.to(weights[name].device)
        odd = ~value.isfinite() & (value != own) & ~(value.isnan() & own.isnan())
        if count := int(odd.sum()):
            wrong[name] = count
    if wrong:
        name = next(iter(wrong))
        raise CheckpointError(
            f"{path} holds {sum(wrong.values()):,} weights that are NaN or infinite, the first in "
            f"tensor {name}. Use an earlier checkpoint, or train again with a lower learning rate."
        )


def _check_same_network(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    if found := differences(network, weights):
        raise CheckpointError(
            f"{path} must hold the weights of a {type(network).__name__}; {found}. It belongs to "
            "another network."
        )


def differences(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """How named tensors differ from the network's state, in words; empty if they fit."""
    own = network.state_dict()
    unlike = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    whole = [
        name
        for name, value in own.items()
        if name in weights and value.is_floating_point() and not _is_inexact(weights[name])
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
        "of whole numbers where the network's are real": whole,
    }
    parts = []
    for what, names in found.items():
        if names:
            number = f"{counted(len(names), 'tensor')} {'is' if len(names) == 1 else 'are'}"
            parts.append(f"{number} {what} ({few(names)})")
    return ", ".join(parts)


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized


def put_foreign(network: nn.Module, content: object, path: Path) -> None:
    """Load the weights in the content of a file into the network.

    They may be in a dictionary (`state_dict`, `model`, `ema`), under the names of a wrapper
    (`module.`, `_orig_mod.`, `model.`), and without the network's normalisation. Raises
    `CheckpointError` if weights do not fit, or are there more than once.
    """
    places = dict(_places(content))
    if not places:
        raise CheckpointError(
            f"{path} holds {kind_text(content)} of something else; it must hold tensors by "
            "name. Write it with torch.save(network.state_dict(), path)."
        )
    targets = [network]
    if isinstance(network, NormalisedNetwork):
        targets.append(network.network)
    pairs = [(key, each, _renamed(places[key], each)) for each, key in product(targets, places)]
    fitting = [(key, each, found) for key, each, found in pairs if not differences(each, found)]
    if len(fitting) > 1:
        keys = " and ".join(key for key, _, _ in fitting)
        raise CheckpointError(
            f"{path} holds weights of this network more than once, in {keys}. Store one of them in "
            f"a file: torch.save(torch.load({path.name!r}){fitting[0][0]}, 'begin.pt')."
        )
    if not fitting:
        key, each, found = max(pairs, key=lambda pair: _in_common(pair[1], pair[2]))
        raise CheckpointError(
            f"{path} must hold the weights of a {type(each).__name__}"
            f"{f'; those in {key} are closest' if key else ''}; {differences(each, found)}."
            f"{_help(places, each)}"
        )
    _, each, found = fitting[0]
    put_weights(each, found, path)


def _places(content: object, key: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Tensors]]:
    """Dictionaries of named tensors within others, by the keys that lead to them."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield key, content
    elif depth:
        for name, value in content.items():
            yield from _places(value, f"{key}[{name!r}]", depth - 1)


def _renamed(tensors: Tensors, network: nn.Module) -> Tensors:
    """The same tensors under the network's names, where these differ by wrappers only."""
    kept = [name for name in tensors if name not in COUNTS]
    own = {bare: name for name, bare in _bare(list(network.state_dict())).items()}
    return {own.get(bare, name): tensors[name] for name, bare in _bare(kept).items()}


def _bare(names: list[str]) -> dict[str, str]:
    """Names without the parts of wrappers, by name; unchanged if two would become the same."""
    parts = [[part for part in name.split(".") if part not in WRAPPERS] for name in names]
    while all(len(each) > 1 and each[0] in PREFIXES and each[0] == parts[0][0] for each in parts):
        if not parts:
            break
        parts = [each[1:] for each in parts]
    bare = [".".join(each) for each in parts]
    return dict(zip(names, bare if len(set(bare)) == len(names) else names, strict=True))


def _in_common(network: nn.Module, tensors: Tensors) -> int:
    return len(network.state_dict().keys() & tensors.keys())


def _help(places: Mapping[str, Tensors], network: nn.Module) -> str:
    """A sentence on the part of a file that would fit by itself, if there is one."""
    for key, tensors in places.items():
        for prefix in dict.fromkeys(name.partition(".")[0] + "." for name in tensors):
            part = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            if part and not differences(network, _renamed(part, network)):
                where = f" in {key}" if key else ""
                return (
                    f" Those whose names begin with {prefix!r}{where} fit without it: store them "
                    "in their own file."
                )
    return " They belong to another network, or to other settings of this one."


def begin_with(network: nn.Module, path: Path | str) -> None:
    """Load the weights of a file into a network, to be trained further.

    The file is a safetensors file, such as a run's, or one by `torch.save`; no code in it runs.
    `put_foreign` describes the layouts. Raises `CheckpointError` if the file is missing, damaged,
    or of another network.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder. Name the file of weights in it, such as "
            f"{path / 'weights.safetensors'}."
        )
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file of weights. Check the path.")
    if path.suffix == ".safetensors":
        weights, _ = read_weights(path)
    else:
        weights = _foreign(path)
    put_foreign(network, weights, path)


def _foreign(path: Path) -> object:
    try:
        return read_saved(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} must hold a state_dict and nothing else ({error}). Write it with "
            "torch.save(network.state_dict(), path)."
        ) from error
