"""Checkpoints: the state of a run on disk, from which it is resumed bit for bit."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import (
    CheckpointError,
    CheckpointNotWritten,
    OtherNetwork,
    SparringError,
    resume_command,
)
from sparring.models import kept_layers
from sparring.models.saved import (
    Anything,
    Each,
    Fields,
    Items,
    Kind,
    Maybe,
    Number,
    Numbers,
    Same,
    Text,
    read_saved,
    tensors_like,
)
from sparring.models.trained import (
    Fingerprint,
    check_fingerprint,
    fingerprint,
    fingerprint_text,
    read_fingerprint,
    read_unchanged,
    save_trained,
)
from sparring.models.weights import differences, put_weights, weights_from, weights_to
from sparring.records import RunDirectory, to_json, write_atomically
from sparring.records.custom import is_own
from sparring.records.run import digest_of_settings
from sparring.records.text import few
from sparring.training.config import TrainConfig
from sparring.training.optimizers import built_optimizer
from sparring.training.trainer import Trainer

FORMAT = 1
"""Layout of resume.pt; a file of another layout is refused."""

_LAYERS = Fields({"evaluation": Each(Text()), "frozen": Each(Text())})

log = logging.getLogger(__name__)


def save_checkpoint(run: RunDirectory, trainer: Trainer, seconds: float) -> None:
    """Write weights.safetensors (the averaged weights) and resume.pt, each by atomic rename.

    All trainers of a team must call it; rank 0 writes. `seconds` are those of training until now.
    Raises `CheckpointNotWritten` if the disk refuses; the previous checkpoint is then whole.
    Cost: 65 MB to disk for the paper's network with Adam.
    """
    own = trainer.team.gather(_own_state(trainer))
    if not trainer.team.leads:
        return
    known = _fingerprint(trainer)
    buffer = io.BytesIO()
    torch.save(_state(trainer, own, seconds, known, run.settings_digest()), buffer)
    with _safely(run, trainer.version, trainer.team.size):
        _save_weights(run, trainer.average.network, trainer.version, run.weights, known)
        write_atomically(run.resume, buffer.getvalue())


def save_snapshot(run: RunDirectory, trainer: Trainer) -> None:
    """Store the averaged weights of this update beside the checkpoint.

    Raises `CheckpointNotWritten` if the disk refuses. Cost: 13 MB to disk for the paper's network.
    """
    path = run.snapshot(trainer.version)
    with _safely(run, trainer.version, trainer.team.size):
        path.parent.mkdir(exist_ok=True)
        _save_weights(run, trainer.average.network, trainer.version, path, _fingerprint(trainer))


def mend_weights(
    run: RunDirectory, network: nn.Module, version: int, shape: tuple[int, int, int], trainers: int
) -> None:
    """Write weights.safetensors again where it is missing or damaged, after a resume without it.

    `network` has the averaged weights of the checkpoint, and `shape` is that of an image.
    Raises `CheckpointNotWritten` if the disk refuses. Cost: one pass over the file.
    """
    try:
        read_unchanged(run.weights)
    except CheckpointError:
        with _safely(run, version, trainers):
            _save_weights(run, network, version, run.weights, fingerprint(network, shape))
        log.warning(
            "%s was missing or damaged; it was written again from %s",
            run.weights,
            run.resume.name,
        )


def _fingerprint(trainer: Trainer) -> Fingerprint:
    return fingerprint(trainer.average.network, trainer.images.image_shape)


def _save_weights(
    run: RunDirectory, network: nn.Module, version: int, path: Path, known: Fingerprint
) -> None:
    about = {"version": str(version), "config": run.settings_digest()}
    if data := run.read_data():
        about["data"] = data.digest
    save_trained(network, path, known, about)


def copy_by_checkpoint(trainer: Trainer, twin: Trainer) -> None:
    """Copy a trainer's state to a `twin` of the same settings, by a checkpoint in memory.

    It has all that `save_checkpoint` writes except the fingerprint. Errors are raised as they are.
    """
    buffer, where = io.BytesIO(), Path("the checkpoint")
    torch.save(_state(trainer, [_own_state(trainer)], 0.0, None, ""), buffer)
    buffer.seek(0)
    _restored(where, torch.load(buffer, map_location="cpu", weights_only=True), twin)
    stored = weights_from(weights_to(trainer.average.network.state_dict()))
    put_weights(twin.average.network, stored, where)


@contextmanager
def _safely(run: RunDirectory, version: int, trainers: int) -> Iterator[None]:
    """Turn an `OSError` into `CheckpointNotWritten`."""
    try:
        yield
    except OSError as error:
        raise CheckpointNotWritten(
            f"The checkpoint of step {version} could not be written: {run.path} refused it "
            f"({error.strerror or error}). The previous one is whole: make room, then resume with: "
            f"{resume_command(run.path, trainers)}"
        ) from error


def restore_checkpoint(run: RunDirectory, trainer: Trainer) -> float:
    """Restore trainer and loader from the last checkpoint; return the seconds of training so far.

    All trainers of a team must call it; rank 0 reads.
    Raises `CheckpointError` if it is damaged, of another layout or of another configuration.
    """
    team = trainer.team
    state = team.lead(lambda: _of_this_run(run, trainer))
    with team.together():
        return _restored(run.resume, state, trainer)


def _of_this_run(run: RunDirectory, trainer: Trainer) -> dict[str, Any]:
    state = _load(run.resume)
    if state.get("config") not in run.settings_digests():
        raise CheckpointError(
            f"{run.resume} was written under other settings than its config.json. Restore that "
            "file, or start a new run."
        )
    _check_network(run.resume, state.get("network"), trainer)
    _check_state(run.resume, state, trainer)
    return state


def _check_network(path: Path, weights: object, trainer: Trainer) -> None:
    """Refuse another network than that of the checkpoint, whose file is whole."""
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        return  # `_check_state` says what is damaged
    if off := differences(trainer.network, weights):
        raise OtherNetwork(
            f"the {type(trainer.network).__name__} here is not the network of {path}: {off}. Pass "
            "the network that was passed to train, or let the model's factory make it again."
        )


def _restored(path: Path, state: dict[str, Any], trainer: Trainer) -> float:
    try:
        trainer.network.load_state_dict(state["network"])
        trainer.average.network.load_state_dict(state["average"])
        numbers = state["optimizer"]
        if not is_own(trainer.config.optimizer):  # one of your own may count in its groups
            numbers = {**trainer.optimizer.state_dict(), "state": numbers["state"]}
        trainer.optimizer.load_state_dict(numbers)
        own = [state, *state.get("others", [])][trainer.team.rank]
        kept = {name: value.to(trainer.device) for name, value in own["source"].items()}
        trainer.loader.restore(kept, int(state["version"]))
        torch.set_rng_state(own["random"].cpu())
        seconds = float(state["seconds"])
    except SparringError:
        raise  # of code or data of your own: the file is not the cause
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if (stored := state.get("fingerprint")) is not None:
        known = read_fingerprint(str(stored), str(path))
        check_fingerprint(trainer.average.network, known, str(path))
    return seconds


def _own_state(trainer: Trainer) -> dict[str, Any]:
    """The part of the state that differs between the trainers of a team."""
    return {"source": trainer.loader.source_state(), "random": torch.get_rng_state()}


def _state(
    trainer: Trainer,
    own: list[dict[str, Any]],
    seconds: float,
    known: Fingerprint | None,
    settings: str,
) -> dict[str, Any]:
    others = {"others": own[1:]} if len(own) > 1 else {}
    return {
        "format": FORMAT,
        "config": settings,
        "arithmetic": trainer.copy.name,
        "threads": torch.get_num_threads(),
        "version": trainer.version,
        "seconds": seconds,
        "layers": kept_layers(trainer.network),
        "network": trainer.network.state_dict(),
        "average": trainer.average.network.state_dict(),
        "fingerprint": None if known is None else fingerprint_text(known),
        "optimizer": trainer.optimizer.state_dict(),
        **own[0],
        **others,
    }


def _load(path: Path) -> dict[str, Any]:
    try:
        state = read_saved(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of layout {FORMAT}, which this version of sparring reads. "
            "Start the run again."
        )
    return state


def _schema(trainer: Trainer, version: int) -> Fields:
    """The schema of a checkpoint of this run; sources check their own part."""
    trained = [name for name, _ in trainer.network.named_parameters()]
    own: dict[object, Kind] = {
        "source": Anything(),
        "random": Numbers.like(torch.get_rng_state()),
    }
    others: dict[object, Kind] = {}
    if trainer.team.size > 1:
        others = {"others": Items([Fields(own)] * (trainer.team.size - 1))}
    return Fields(
        {
            "format": Same(FORMAT),
            "config": Text(),
            "arithmetic": Text(),
            "threads": Number(least=1, whole=True),
            "version": Number(least=0, most=trainer.config.updates, whole=True),
            "seconds": Number(least=0),
            "network": tensors_like(trainer.network.state_dict(), trained),
            "average": tensors_like(trainer.average.network.state_dict(), trained),
            "optimizer": _optimizer_schema(trainer, version),
            **own,
            **others,
        },
        {"layers": _LAYERS, "fingerprint": Maybe(Text())},  # not in those of early versions
    )


def _optimizer_schema(trainer: Trainer, version: int) -> Kind:
    """The state of each weight after one step of such an optimizer."""
    if is_own(trainer.config.optimizer):
        return Anything()
    probe = torch.nn.Parameter(torch.zeros(1))
    stepped = built_optimizer(trainer.config.optimizer, [probe])
    probe.grad = torch.zeros(1)
    stepped.step()
    kept: dict[str, Tensor | None] = dict(stepped.state[probe])
    weights = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    states = {
        place: Fields({name: _kept(value, weight, version) for name, value in kept.items()})
        for place, weight in enumerate(weights)
    }
    return Fields({"state": Fields({}, states), "param_groups": Anything()})


def _kept(value: Tensor | None, weight: Tensor, version: int) -> Kind:
    """Optimizer state of one weight: a count of steps, or a tensor of its shape."""
    if isinstance(value, Tensor) and not value.dim():
        return Numbers(dtype=value.dtype, shape=(), least=0, most=version)
    return Maybe(Numbers(dtype=weight.dtype, shape=tuple(weight.shape), finite=True))


def _check_state(path: Path, state: dict[str, Any], trainer: Trainer) -> None:
    version = state.get("version")
    try:
        _schema(trainer, version if isinstance(version, int) else 0).check(state, "it")
    except ValueError as error:
        raise _damaged(path, error) from error
    _check_layers(path, state, kept_layers(trainer.network))
    here = {"arithmetic": trainer.copy.name, "threads": torch.get_num_threads()}
    for what, value in here.items():
        if state.get(what) != value:
            log.warning(
                "%s was %s before and is %s here: the last bits of the weights will differ from "
                "those of a run without a stop, and from a replay",
                what,
                state.get(what),
                value,
            )


def _check_layers(path: Path, state: dict[str, Any], here: dict[str, list[str]]) -> None:
    """Refuse a network with other layers frozen or in evaluation mode than in the checkpoint."""
    before = state.get("layers", here)
    for what, names in here.items():
        if other := sorted(set(names) ^ set(before.get(what, names))):
            state_of = "frozen (requires_grad)" if what == "frozen" else "in evaluation mode"
            raise CheckpointError(
                f"{few(other)} of the network must be {state_of} as in {path}; now differs. Pass "
                "the network as it was passed to the run."
            )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return CheckpointError(
        f"{path} must be a whole checkpoint; it cannot be read ({said.splitlines()[0][:160]}). "
        "Start the run again."
    )


def settings_digest(config: TrainConfig) -> str:
    """SHA-256 of the settings."""
    return digest_of_settings(to_json(config))
