"""Weights that another program wrote, found in its file and given the names of a network."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.models.normalised import NormalisedNetwork
from sparring.models.weights import differences, put_weights

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that `torch.compile`, FSDP and activation checkpointing put into names, anywhere."""
PREFIXES = frozenset({"module", "model", "net", "network"})
"""First parts that all names have where the network is an attribute of something else."""
COUNTS = frozenset({"n_averaged"})
"""What `torch.optim.swa_utils.AveragedModel` stores beside the weights."""
DEPTH = 3
"""Levels of dictionaries in which weights are looked for."""

Tensors = Mapping[str, Tensor]


def put_foreign(network: nn.Module, content: object, path: Path) -> None:
    """Put the weights of a network that are in the content of a file into the network.

    They may be in a dictionary (`state_dict`, `model`, `ema`), under the names that a wrapper gives
    (`module.`, `_orig_mod.`, `model.`), and lack the normalisation that the network has.
    Raises `CheckpointError`, which says what does not fit, or where weights are more than once.
    """
    places = dict(_places(content))
    if not places:
        raise CheckpointError(
            f"{path} must hold a state_dict, tensors by name; it holds a {type(content).__name__} "
            "of something else. Write it with torch.save(network.state_dict(), path)."
        )
    targets = [network]
    if isinstance(network, NormalisedNetwork):
        targets.append(network.network)
    pairs = [(key, each, _renamed(places[key], each)) for each, key in product(targets, places)]
    fitting = [(key, each, found) for key, each, found in pairs if not differences(each, found)]
    if len(fitting) > 1:
        keys = " and ".join(key for key, _, _ in fitting)
        raise CheckpointError(
            f"{path} holds weights of this network more than once, in {keys}. Store those to begin "
            f"with in a file of their own: torch.save(torch.load({path.name!r}){fitting[0][0]}, "
            "'begin.pt')."
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
    """Every dictionary of named tensors within others, by the keys that lead to it."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield key, content
    elif depth:
        for name, value in content.items():
            yield from _places(value, f"{key}[{name!r}]", depth - 1)


def _renamed(tensors: Tensors, network: nn.Module) -> Tensors:
    """The same tensors under the network's names, as far as they are there without wrappers."""
    kept = [name for name in tensors if name not in COUNTS]
    own = {bare: name for name, bare in _bare(list(network.state_dict())).items()}
    return {own.get(bare, name): tensors[name] for name, bare in _bare(kept).items()}


def _bare(names: list[str]) -> dict[str, str]:
    """Names without the parts that wrappers put there; as they are where two would be the same."""
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
    """The part of a file that would fit by itself, if there is one."""
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
                    "in a file of their own."
                )
    return " They belong to another network, or to other settings of this one."
