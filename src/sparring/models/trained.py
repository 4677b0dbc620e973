"""The networks of runs, and others' weights to begin with."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sparring.errors import CheckpointError
from sparring.models.fingerprint import Fingerprint, check_fingerprint
from sparring.models.foreign_weights import put_foreign
from sparring.models.saved import read_saved
from sparring.models.spec import ModelKind, built_network
from sparring.models.weights import content_digest, put_weights, read_weights, save_weights
from sparring.records import RunDirectory, from_json, to_json
from sparring.records.files import parse_json
from sparring.records.seeds import derive_seed
from sparring.records.trust import check_trusted, named_code

log = logging.getLogger(__name__)


def network_seed(seed: int) -> int:
    """The seed under which the network of a run of this seed is built, wherever that is."""
    return derive_seed(seed, "weights")


def trained_network(
    run: RunDirectory,
    *,
    version: int | None = None,
    network: nn.Module | None = None,
    trust_code: bool = False,
) -> nn.Module:
    """The network of a run with the weights that it was trained to, on the CPU, to be evaluated.

    With a `version`, those of then, of which the run must have kept a snapshot. A run that was
    given its network as a Python object needs one of the same kind, which is copied. Code that the
    run names, a factory, runs if you trained it on this machine, or with `trust_code`.
    Raises `CheckpointError` or `ConfigError` where the run's files are missing or damaged, where
    the weights are not the run's, and where the network that comes of them is not the one that was
    trained (`sparring.models.fingerprint`).
    """
    found = read_trained(run, version=version, network=network, trust_code=trust_code)
    return found[0].eval()


def read_trained(
    run: RunDirectory,
    *,
    version: int | None = None,
    network: nn.Module | None = None,
    trust_code: bool = False,
) -> tuple[nn.Module, dict[str, str]]:
    """As `trained_network`, with what the file says about its weights."""
    path = run.weights if version is None else run.snapshot(version)
    model: ModelKind = run.section("model", ModelKind)
    if network is None:
        check_trusted(run.config, named_code(to_json(model)), trust_code=trust_code)
    built = built_network(model, network, network_seed(run.section_or("seed", int, 0)))
    return built, _put_known(built, path, run)


def save_trained(
    network: nn.Module, path: Path, known: Fingerprint, about: Mapping[str, str]
) -> None:
    """Write a network's weights and what they are known by in one file, whole or not at all.

    Raises `OSError` if the disk refuses.
    """
    weights = network.state_dict()
    identity = {"content": content_digest(weights), "fingerprint": fingerprint_text(known)}
    save_weights(weights, path, about={**about, **identity})


def _put_known(network: nn.Module, path: Path, run: RunDirectory) -> dict[str, str]:
    """Put the weights of a file into a network that was rebuilt; return the words about them.

    Refuses weights that were changed since they were written, those of another run than `run`, and
    a network that does not answer as the fingerprint says; those of versions that stored none are
    taken at their word.
    """
    weights, about = read_weights(path)
    _check_belongs(run, about, path)
    if "content" in about and about["content"] != content_digest(weights):
        raise CheckpointError(
            f"{path} holds other weights than those that were written there: they were changed or "
            "damaged since. Restore the file, or train again."
        )
    put_weights(network, weights, path)
    if "fingerprint" in about:
        check_fingerprint(network, read_fingerprint(about["fingerprint"], str(path)), str(path))
    else:
        log.info("%s has no fingerprint: its network is not compared with the trained one", path)
    return about


def fingerprint_text(known: Fingerprint) -> str:
    """A fingerprint as JSON."""
    return json.dumps(to_json(known))


def read_fingerprint(text: str, where: str) -> Fingerprint:
    """A fingerprint from JSON. Raises `ConfigError` or `CheckpointError` if it is damaged."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"{where} must hold a fingerprint in JSON; it is damaged ({error}). Restore the file."
        ) from error
    return from_json(Fingerprint, value, where=where)


def _check_belongs(run: RunDirectory, about: Mapping[str, str], path: Path) -> None:
    """Refuse weights that are another run's, by the settings and data that they name."""
    data = run.read_data()
    if data is None:
        return
    if "fingerprint" not in about:
        raise CheckpointError(
            f"{path} was not written by the run in {run.path}: its weights have no fingerprint, "
            "and those of the run have one. Restore the file, or train again."
        )
    if about.get("config") != run.settings_digest():
        raise CheckpointError(
            f"{path} was written under other settings than those in {run.config}: it is another "
            "run's, or config.json was changed. Put back the run's own files."
        )
    if about.get("data") != data.digest:
        raise CheckpointError(
            f"{path} was trained on other data than those in {run.data}: it is another run's, or "
            "data.json was changed. Put back the run's own files."
        )


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
        return read_saved(path)
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
