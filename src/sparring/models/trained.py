"""The networks of runs: rebuilt from record, weights and code, and recognised by a fingerprint.

A fingerprint is what a network answers to a few fixed images. What the code keeps elsewhere than in
the `state_dict` (an order of pixels that was drawn at random, a constant) shows there.

Shapes: N images, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sparring.errors import CheckpointError, ConfigError, OtherNetwork
from sparring.models.spec import ModelKind, built_network, drawing_from
from sparring.models.state import copied, evaluation_mode
from sparring.models.weights import content_digest, put_weights, read_weights, save_weights
from sparring.records import RunDirectory, from_json, to_json
from sparring.records.files import parse_json
from sparring.records.own_code import check_trusted, named_code
from sparring.records.seeds import derive_seed

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of a logit, in units of the largest logit or of `LEAST`.

Single precision rounds by 6e-8 an operation, and other processors and thread counts add up in
another order. From SSE 4.1 to AVX-512, and with one thread or two, that moved the logits of the
built-in networks by 5e-6 at most; those of networks of another seed differ by 1 and more.
"""
LARGEST = 1 << 26
"""Numbers of an image, more than any network takes: a stored shape may be damaged."""
LEAST = 1e-2
"""Smallest unit: logits near 0 are the difference of larger numbers, with the errors of those."""
CAUSES = (
    "The likely causes: the network's code, or a module it imports, was changed; its code draws "
    "random numbers that no seed determines (numpy.random.default_rng() or random.Random() without "
    "a seed, os.urandom, the order of a set); it reads another file than in training; other "
    "versions of packages are installed; or the weights are another network's."
)
"""Why a network that is rebuilt is another one."""

Logits = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What a network answered, in evaluation mode and single precision, on a CPU."""

    shape: tuple[int, int, int]
    """Channels, rows and columns of the images."""
    logits: Logits
    """A row for each image, a logit that is not finite as none; empty if the network failed."""

    def __post_init__(self) -> None:
        """Check the shape."""
        if min(self.shape) < 1 or math.prod(self.shape) > LARGEST:
            raise ConfigError(
                f"the shape of a fingerprint's images must be that of an image; got {self.shape}."
            )

    def difference(self, other: "Fingerprint") -> float:
        """Largest difference of a logit, in the unit of `TOLERANCE`; infinite for other shapes."""
        ours, theirs = _flat(self.logits), _flat(other.logits)
        if len(ours) != len(theirs) or len(self.logits) != len(other.logits):
            return math.inf
        pairs = list(zip(ours, theirs, strict=True))
        if any((a is None) != (b is None) for a, b in pairs):
            return math.inf
        finite = [(a, b) for a, b in pairs if a is not None and b is not None]
        unit = max([LEAST, *(abs(a) for a, _ in finite)])
        return max((abs(a - b) / unit for a, b in finite), default=0.0)


def fingerprint(network: nn.Module, shape: tuple[int, int, int]) -> Fingerprint:
    """The fingerprint of a network for images of this shape.

    A copy of it is asked, so that nothing in it moves. Cost: the copy and one pass.
    """
    with drawing_from(0):
        asked = copied(network).cpu()
        with evaluation_mode(asked), torch.no_grad(), torch.autocast("cpu", enabled=False):
            try:
                found = asked(patterns(shape))
            except Exception:  # its own code, of any kind: that it fails is its answer
                return Fingerprint(shape=shape, logits=())
    rows = found.detach().double().flatten(1).tolist() if isinstance(found, Tensor) else []
    return Fingerprint(shape=shape, logits=tuple(tuple(map(_stored, row)) for row in rows))


def check_fingerprint(network: nn.Module, stored: Fingerprint, where: str) -> None:
    """Refuse a network that was rebuilt and is not the one whose fingerprint was `stored`.

    Raises `OtherNetwork`, which begins with `where`. Cost: two copies and passes.
    """
    found, again = fingerprint(network, stored.shape), fingerprint(network, stored.shape)
    moved = found.difference(again)
    if moved > TOLERANCE:
        raise OtherNetwork(
            f"{where}: the network answers the same images differently from one pass to the next, "
            f"by {moved:.2g} of its largest logit, so it cannot be compared with the network that "
            "was trained. Make what is random in it depend on self.training."
        )
    apart = stored.difference(found)
    if apart > TOLERANCE:
        raise OtherNetwork(
            f"{where}: the network that was rebuilt is not the one that was trained; its logits of "
            f"{len(stored.logits)} fixed images {_by(apart)}, where {TOLERANCE:g} is allowed. "
            f"{CAUSES} Put back what it was trained with, or train again."
        )


def patterns(shape: tuple[int, int, int]) -> Float32[Tensor, " N C H W"]:
    """Four images that are the same everywhere: two of noise, two of noise in blocks of 4 x 4."""
    channels, rows, columns = shape
    size = channels * rows * columns
    content = hashlib.shake_256(b"sparring: fixed images").digest(4 * size)
    levels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    noise = levels.view(4, channels, rows, columns).float().div_(255)
    down, right = (torch.arange(length) // 4 for length in (rows, columns))
    blocks = noise[2:, :, down][..., right]
    return torch.cat([noise[:2], blocks])


def _by(apart: float) -> str:
    if math.isinf(apart):
        return "are of another number, or are finite in other places"
    return f"differ by {apart:.2g} of the largest"


def _stored(logit: float) -> float | None:
    return float(f"{logit:.7g}") if math.isfinite(logit) else None


def _flat(logits: Logits) -> list[float | None]:
    return [logit for row in logits for logit in row]


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
    trained (`sparring.models.trained`).
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
    if about.get("config") not in run.settings_digests():
        raise CheckpointError(
            f"{path} was written under other settings than those in {run.config}: it is another "
            "run's, or config.json was changed. Put back the run's own files."
        )
    if about.get("data") != data.digest:
        raise CheckpointError(
            f"{path} was trained on other data than those in {run.data}: it is another run's, or "
            "data.json was changed. Put back the run's own files."
        )
