"""An exported network: a run's network in a folder of its own, written whole and read again."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float32
from torch import Tensor, nn

from sparring.data import Dataset, first_images
from sparring.data.run_data import dataset_of
from sparring.errors import CheckpointError, ConfigError, RunError
from sparring.exporting.card import card_text, current_evaluation
from sparring.exporting.formats import FORMATS, TOLERANCE, FormatName, check_available, difference
from sparring.models import ModelKind, built_network, plain_settings, trained_network
from sparring.models.trained import Fingerprint, check_fingerprint, fingerprint, network_seed
from sparring.models.weights import content_digest, put_weights, read_weights
from sparring.records import RunDirectory, from_json, read_json, to_json
from sparring.records.files import (
    clear_abandoned,
    folder_unless_empty,
    from_home,
    new_folder,
    run_errors,
    write_atomically,
    write_json,
)
from sparring.records.own_code import SEAL, check_trusted, copy_seal, named_code
from sparring.records.typed import typed

MODEL = "model.json"
"""The network in the run's settings."""
IDENTITY = "identity.json"
"""The digests by which the rebuilt network is checked."""
CARD = "README.md"
"""The model card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The digests of an exported network."""

    seed: int
    """The seed of its run."""
    content: str
    """Digest of its weights."""
    fingerprint: Fingerprint
    """Its logits of a few fixed images."""


@typed
def exported_network(
    folder: Path | str, *, network: nn.Module | None = None, trust_code: bool = False
) -> nn.Module:
    """The network of an export with its weights, on the CPU, in evaluation mode.

    It takes pixels in [0, 1] and returns logits. `network` is one of the same kind, for a
    network that was passed as a Python object. Weights or code of another network than the exported
    one are refused, except in exports without identity.json, of earlier versions. A factory that
    the export names runs if you trained its run on this machine, or with `trust_code`.
    Raises `RunError`, `ConfigError` or `CheckpointError`.
    """
    folder = from_home(folder)
    path = folder / MODEL
    model: ModelKind = from_json(ModelKind, read_json(path), where=str(path))
    if network is None:
        check_trusted(path, named_code(to_json(model)), trust_code=trust_code)
    known = _identity(folder / IDENTITY)
    built = built_network(model, network, network_seed(known.seed if known else 0))
    path = folder / "weights.safetensors"
    weights, _ = read_weights(path)
    if known is not None and known.content != content_digest(weights):
        raise CheckpointError(
            f"{path} holds other weights than the exported ones. Export the run again."
        )
    put_weights(built, weights, path)
    if known is not None:
        check_fingerprint(built, known.fingerprint, str(path))
    return built.eval()


def _identity(path: Path) -> Identity | None:
    return from_json(Identity, read_json(path), where=str(path)) if path.exists() else None


CHECKED = 64
"""Test images whose logits are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported network on disk."""

    folder: Path
    files: tuple[str, ...]
    """Names of its files, sorted."""
    differences: dict[str, float]
    """The largest difference of a logit by format, relative to the largest logit if above 1."""
    checked_images: int
    """Test images that are compared."""
    evaluated: bool
    """Whether the card has the numbers of an evaluation of these weights."""


@typed
@plain_settings()
def export(  # noqa: PLR0913 - what is exported and where, settings by keyword
    run: RunDirectory | Path | str,
    out: Path | str,
    *,
    formats: Sequence[FormatName] = ("safetensors",),
    network: nn.Module | None = None,
    data: Dataset | None = None,
    trust_code: bool = False,
) -> Exported:
    """Write a run's network in these formats, with a model card, once each gives the same logits.

    Compared on the first 64 test images: weights must agree bit for bit, programs within
    `TOLERANCE`. The folder gets its name once it is complete. `network` and `data` are needed if
    the run was given them as Python objects; `trust_code` is as in `trained_network`.
    Cost: seconds. Raises `RunError` if the folder is not empty or cannot be written,
    `ConfigError` for a format that is not available or a network that cannot be traced, and what
    reading the run and its data raises; then nothing is left.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    chosen = tuple(dict.fromkeys(formats))
    if not chosen:
        raise ConfigError(f"formats must name at least one of {', '.join(FORMATS)}; got none.")
    for name in chosen:
        check_available(name)
    folder = _resolved(from_home(out))
    _check_free(folder)
    built = trained_network(run, network=network, trust_code=trust_code)
    test = dataset_of(run, data).test
    images = first_images(test, CHECKED)
    with _appearing(folder) as staging:
        # A trace of one image would fix the batch size to 1.
        traced = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
        differences = {name: _written(name, built, traced, staging) for name in chosen}
        names = run.class_names()
        if names:
            write_json(staging / "classes.json", list(names))
        write_json(staging / MODEL, run.section("model", dict[str, Any]))
        copy_seal(run.path, staging)
        if "safetensors" in chosen:
            _write_identity(run, built, test.image_shape, staging)
        evaluation = current_evaluation(run)
        card = card_text(run, differences, test.image_shape, len(images), evaluation)
        write_atomically(staging / CARD, card)
        files = tuple(sorted(path.name for path in staging.iterdir()))
    return Exported(
        folder=from_home(out),
        files=files,
        differences=differences,
        checked_images=len(images),
        evaluated=evaluation is not None,
    )


def _write_identity(
    run: RunDirectory, network: nn.Module, shape: tuple[int, int, int], staging: Path
) -> None:
    known = Identity(
        seed=run.section_or("seed", int, 0),
        content=content_digest(network.state_dict()),
        fingerprint=fingerprint(network, shape),
    )
    write_json(staging / IDENTITY, to_json(known), indent=None)


def _written(
    name: str, network: nn.Module, images: Float32[Tensor, " B C H W"], staging: Path
) -> float:
    form = FORMATS[name]
    path = staging / form.file
    form.write(network, images, path)
    found = difference(network, form.read(network, path), images)
    allowed = 0.0 if form.exact else TOLERANCE
    if not found <= allowed:
        raise ConfigError.expected(
            f"logits of the network exported to {name} must agree within {allowed:g} on "
            f"{len(images)} test images",
            f"a difference of {found:.2g}",
            "Nothing was exported; take another format.",
        )
    return found


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except ValueError as error:
        raise ConfigError.expected(
            "a path must have no null character", repr(str(folder)), "Choose another: -o FOLDER"
        ) from error


OWN_FILES = frozenset({MODEL, IDENTITY, SEAL, "classes.json", *(f.file for f in FORMATS.values())})
"""Files that an export has besides its card, which is written last."""


def _is_interrupted(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder has the files of an export that was killed before it was whole."""
    others = {name for name in names if not _is_staging(folder, name)}
    return len(others) < len(names) and others <= OWN_FILES


def _is_staging(folder: Path, name: str) -> bool:
    return name.startswith(f".{folder.name}.") and name.endswith(".tmp")


def _check_free(folder: Path, *, staging: str | None = None) -> None:
    """Refuse a folder that holds something else than `staging` or an interrupted export."""
    with run_errors("look into", folder):
        is_folder = folder.is_dir()
        names = [path.name for path in folder.iterdir()] if is_folder else []
        occupied = folder.exists() and not is_folder
    names = [name for name in names if name != staging]
    interrupted = staging is None and _is_interrupted(folder, names)
    if occupied or (names and not interrupted):
        raise RunError(
            f"an export needs an empty folder; {folder} is not empty, or is a file. Choose "
            "another: -o FOLDER"
        )


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder, removed on failure, whose files are the folder's at the end.

    It is beside a new folder, which it is renamed to. In a folder that is there already, which may
    be where a shell is or where a disk is mounted, its files are moved up one by one.
    """
    with run_errors("write", folder):
        if folder.exists():
            _clear_interrupted(folder)
            with new_folder(folder, f".{folder.name}.") as staging:
                yield staging
                _flush(staging)
                _move_up(staging)
            return
        with folder_unless_empty(folder.parent):
            clear_abandoned(folder.parent)
            with new_folder(folder.parent, f".{folder.name}.") as staging:
                yield staging
                _flush(staging)
                staging.replace(folder)


def _clear_interrupted(folder: Path) -> None:
    """Remove what a killed export left in a folder. Raises `RunError` if another is at work."""
    names = [path.name for path in folder.iterdir()]
    interrupted = _is_interrupted(folder, names)
    clear_abandoned(folder)
    left = [path.name for path in folder.iterdir()]
    if any(_is_staging(folder, name) for name in left):
        raise RunError(f"another export to {folder} is at work. Wait until it ends.")
    for name in left if interrupted else ():
        (folder / name).unlink()


def _move_up(staging: Path) -> None:
    """Move all files to the folder above, such that what a kill leaves cannot be read.

    `exported_network` reads model.json first, and takes an export without identity.json unchecked.
    """
    _check_free(staging.parent, staging=staging.name)
    last = {MODEL: 1, CARD: 2}
    for path in sorted(staging.iterdir(), key=lambda path: (last.get(path.name, 0), path.name)):
        path.replace(staging.parent / path.name)


def _flush(staging: Path) -> None:
    """Wait until all files are on the disk."""
    for path in staging.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
