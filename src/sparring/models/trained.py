"""The networks of runs: rebuilt from settings, weights and code, and checked by a fingerprint.

A fingerprint is a network's logits of a few fixed images. It shows changes of the code, also of
values outside the `state_dict` (a random order of pixels, a constant).

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
from sparring.seeds import derive_seed

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of a logit, in units of the largest logit or of `LEAST`.

Single precision rounds by 6e-8 an operation, and the order of sums depends on processor and thread
count. From SSE 4.1 to AVX-512, and with one thread or two, that moved the logits of the built-in
networks by 5e-6 at most; those of networks of another seed differ by 1 and more.
"""
LARGEST = 1 << 26
"""Largest size of an image, in numbers: a stored shape may be damaged."""
LEAST = 1e-2
"""Smallest unit: logits near 0 are differences of larger numbers, with their rounding errors."""
CAUSES = (
    "Likely causes: the network's code, or a module it imports, was changed; it draws random "
    "numbers without a seed (numpy.random.default_rng(), random.Random(), os.urandom, the order of "
    "a set); it reads another file than in training; other versions of packages are installed; or "
    "the weights are another network's."
)

Logits = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """A network's logits of `patterns`, in evaluation mode and single precision, on a CPU."""

    shape: tuple[int, int, int]
    """Channels, rows and columns of the images."""
    logits: Logits
    """A row for each image, `None` for a logit that is not finite; empty if the network failed."""

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or math.prod(self.shape) > LARGEST:
            raise ConfigError.expected(
                "the shape of a fingerprint's images must be that of an image", self.shape
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

    It is computed on a copy, so that the network stays as it is. Cost: the copy and one pass.
    """
    with drawing_from(0):
        asked = copied(network).cpu()
        with evaluation_mode(asked), torch.no_grad(), torch.autocast("cpu", enabled=False):
            try:
                found = asked(patterns(shape))
            except Exception:  # the network's own code, which may raise anything
                return Fingerprint(shape=shape, logits=())
    rows = found.detach().double().flatten(1).tolist() if isinstance(found, Tensor) else []
    return Fingerprint(shape=shape, logits=tuple(tuple(map(_stored, row)) for row in rows))


def check_fingerprint(network: nn.Module, stored: Fingerprint, where: str) -> None:
    """Compare a rebuilt network with the `stored` fingerprint. Cost: two copies and passes.

    Raises `OtherNetwork`, which begins with `where`, if they differ.
    """
    found, again = fingerprint(network, stored.shape), fingerprint(network, stored.shape)
    moved = found.difference(again)
    if moved > TOLERANCE:
        raise OtherNetwork(
            f"{where}: the network's logits differ from one pass to the next, by {moved:.2g} of "
            "the largest, so it cannot be compared with the trained one. Let randomness in it "
            "depend on self.training."
        )
    apart = stored.difference(found)
    if apart > TOLERANCE:
        raise OtherNetwork(
            f"{where}: the network that was rebuilt is not the one that was trained; its logits of "
            f"{len(stored.logits)} fixed images {_by(apart)}, where {TOLERANCE:g} is allowed. "
            f"{CAUSES} Restore these, or train again."
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
    """The seed with which the network of a run of this seed is built."""
    return derive_seed(seed, "weights")


def trained_network(
    run: RunDirectory,
    *,
    version: int | None = None,
    network: nn.Module | None = None,
    trust_code: bool = False,
) -> nn.Module:
    """The network of a run with its trained weights, on the CPU, in evaluation mode.

    With a `version`, the weights are those of that snapshot of the run. A run of a network that was
    passed as a Python object needs one of the same kind, which is copied. A factory that the run
    names is called if you trained it on this machine, or with `trust_code`. Raises
    `CheckpointError` or `ConfigError` if the run's files are missing or damaged, the weights are
    not the run's, or the rebuilt network is not the trained one (`sparring.models.trained`).
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
    """As `trained_network`, with the file's metadata; the caller sets the mode."""
    path = run.weights if version is None else run.snapshot(version)
    model: ModelKind = run.section("model", ModelKind)
    if network is None:
        check_trusted(run.config, named_code(to_json(model)), trust_code=trust_code)
    built = built_network(model, network, network_seed(run.section_or("seed", int, 0)))
    return built, _put_known(built, path, run)


def save_trained(
    network: nn.Module, path: Path, known: Fingerprint, about: Mapping[str, str]
) -> None:
    """Write a network's weights with their digest and fingerprint, whole or not at all.

    Raises `OSError` if the disk refuses.
    """
    weights = network.state_dict()
    identity = {"content": content_digest(weights), "fingerprint": fingerprint_text(known)}
    save_weights(weights, path, about={**about, **identity})


def read_unchanged(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `read_weights`; raises `CheckpointError` also if they were changed since written."""
    weights, about = read_weights(path)
    if "content" in about and about["content"] != content_digest(weights):
        raise CheckpointError(
            f"the weights in {path} were changed or damaged since they were written. Restore the "
            "file, or train again."
        )
    return weights, about


def _put_known(network: nn.Module, path: Path, run: RunDirectory) -> dict[str, str]:
    """Load the weights of a file into a rebuilt network; return the file's metadata.

    Refuses weights that were changed since they were written, those of another run, and a network
    that does not match the fingerprint. Files of versions that stored none are not checked for it.
    """
    weights, about = read_unchanged(path)
    _check_belongs(run, about, path)
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
            f"the fingerprint in {where} is damaged ({error}). Restore the file."
        ) from error
    return from_json(Fingerprint, value, where=where)


def _check_belongs(run: RunDirectory, about: Mapping[str, str], path: Path) -> None:
    """Refuse weights of another run, by the digests of settings and data with them."""
    data = run.read_data()
    if data is None:
        return
    if "fingerprint" not in about:
        raise CheckpointError(
            f"{path} was not written by the run in {run.path}: it has no fingerprint. Restore the "
            "file, or train again."
        )
    if about.get("config") not in run.settings_digests():
        raise CheckpointError(
            f"{path} was written under other settings than those in {run.config}: it is another "
            "run's, or config.json was changed. Restore the run's own files."
        )
    if about.get("data") != data.digest:
        raise CheckpointError(
            f"{path} was trained on other data than those in {run.data}: it is another run's, or "
            "data.json was changed. Restore the run's own files."
        )
