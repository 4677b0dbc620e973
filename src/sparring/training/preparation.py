"""Before a run: its settings are completed and checked, and a copy is tried."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import APGD, FAB, PGD, Square
from sparring.attacks.batch_attack import attacked_images
from sparring.data import Dataset
from sparring.data.source import absolute
from sparring.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteLoss,
    OwnCodeFailed,
    SparringError,
    cause,
)
from sparring.loader import Asynchronous, Fresh, Stale
from sparring.loader.sending import check_sent
from sparring.models import (
    PROBES,
    Given,
    Imported,
    ModelKind,
    Normalised,
    WorkingCopy,
    bits,
    check_logits,
    check_network,
    check_state,
    chosen_device,
    drawing_from,
    possible_precision,
)
from sparring.models.fitness import agree, evaluated
from sparring.models.spec import is_imported
from sparring.records.custom import Custom, PythonObject, forget_made, is_own
from sparring.records.files import from_home
from sparring.records.own_code import anchored
from sparring.records.text import counted, few
from sparring.seeds import derive_seed
from sparring.training.checkpoint import copy_by_checkpoint
from sparring.training.config import TrainConfig, with_own
from sparring.training.sinks import check_tensorboard
from sparring.training.team import SingleProcess
from sparring.training.trainer import Trainer, probes, starting_network

ROUNDING = 1e-5
"""Largest difference between the logits of equal networks, as a share of the largest logit."""
NEEDED = "It was tried on a copy before the run, and nothing was written."
"""The last sentence of a refusal."""
STORED = "Make attributes or non-persistent buffers that a pass changes parameters or buffers. "
"""The remedy for a network with state that a checkpoint does not hold."""
REBUILT = (
    f"{STORED}Or let the model's factory make the same network at every call: draw random numbers "
    "from torch, numpy.random and random, which the run seeds, or seed your generators. "
)
"""The same for a network that a factory makes once for each copy."""
FACTORY = "define its class at the top of a module, name a factory (model.factory)"
"""Advice for a network that does not pickle."""


def prepared(
    config: TrainConfig, dataset: Dataset, network: nn.Module | None = None
) -> TrainConfig:
    """The settings as a run stores them, once they have passed every check and a trial.

    Cost: that of `check_fits` and of `rehearse`. Raises `ConfigError` and `CheckpointError`.
    """
    config = fitted(config, dataset, network)
    check_fits(config, dataset, network)
    rehearse(config, dataset, network)
    return config


def fitted(config: TrainConfig, dataset: Dataset, network: nn.Module | None = None) -> TrainConfig:
    """The settings as a run stores them: a model for these data, files by their absolute paths.

    A `network` object replaces the model's record, but not a normalisation around it. Raises
    `ConfigError` where model and data do not fit.
    """
    model = config.model
    if network is not None:
        model = _instead(model, Given(name=type(network).__qualname__))
    model = model.fitted(dataset.image_shape, dataset.num_classes)
    init = None if config.init is None else str(from_home(config.init).resolve())
    data = absolute(config.data)
    config = replace(config, data=data, model=_anchored(model), init=init)
    return with_own(config, _anchored)


def check_fits(
    config: TrainConfig,
    dataset: Dataset,
    network: nn.Module | None = None,
    *,
    resumed: bool = False,
) -> None:
    """Refuse a device or an extra that is not there, and a network that cannot be trained.

    Cost: the network is built on the device and computes logits of eight images. Raises
    `ConfigError`, and `CheckpointError` for an `init` that does not fit the network, unless the run
    is `resumed`.
    """
    device = chosen_device(config.device)
    if config.tensorboard:
        check_tensorboard()
    if isinstance(config.source, Asynchronous):
        config.source.transport.check()
        if config.source.workers != 0:
            check_sent(config.recipe(), dataset.train, "network", network, FACTORY)
    config.model.fitted(dataset.image_shape, dataset.num_classes)
    starting = starting_network(config, network, resumed=resumed)
    if isinstance(config.source, Asynchronous):
        batch = config.recipe().rank_batch_size
        config.source.layout(starting, dataset.image_shape, batch)
    check_state(starting)
    starting.to(device)
    images = probes(dataset).to(device)
    check_network(starting, images, config.model.outputs(dataset.num_classes))
    possible_precision(starting, config.precision, images)


def _instead(model: ModelKind, given: Given) -> ModelKind:
    return replace(model, network=given) if isinstance(model, Normalised) else given


def _anchored(setting: Any) -> Any:
    if isinstance(setting, Normalised):
        return replace(setting, network=_anchored(setting.network))
    if isinstance(setting, Imported | Custom):
        return replace(setting, factory=anchored(setting.factory))
    return setting


def rehearse(config: TrainConfig, dataset: Dataset, network: nn.Module | None = None) -> None:
    """Refuse a run that would fail later, by a trial on a copy.

    The trial has an attack of one step and an update at the run's batch size, precision, optimizer,
    objective and average; an attack and an evaluation of one image; and a checkpoint in memory,
    which must restore a second copy bit for bit, with the same logits. Global random states are
    kept.
    Cost: the network is built twice; three forward and two backward passes over a batch.
    Raises `ConfigError`.
    """
    config.recipe()  # made, and checked beside the source
    waiting = Stale(staleness=0, fresh_steps=config.source.fresh_steps)
    config = replace(with_own(config, _copied), source=waiting)
    config = replace(config, attack=_shortened(config.attack))
    if isinstance(config.attack, PGD):
        config = replace(config, source=Fresh())
    device = chosen_device(config.device)
    with warnings.catch_warnings(), drawing_from(derive_seed(config.seed, "rehearsal")):
        warnings.simplefilter("ignore")  # the run says them again
        try:
            factory = network is None and is_imported(config.model)
            pair = (_trainer(config, dataset, device, network) for _ in range(2))
            _rehearsed(*pair, remedy=REBUILT if factory else STORED)
        finally:
            forget_made()


def _shortened(attack: Any) -> Any:
    """An attack of at most one step; one of your own as it is."""
    if isinstance(attack, PGD):
        return replace(attack, steps=min(1, attack.steps))
    if isinstance(attack, APGD | FAB):
        return replace(attack, steps=1)
    return replace(attack, queries=1) if isinstance(attack, Square) else attack


def _copied(setting: Any) -> Any:
    return setting.copied() if isinstance(setting, PythonObject) else setting


def _trainer(
    config: TrainConfig, dataset: Dataset, device: torch.device, network: nn.Module | None
) -> Trainer:
    with _tried("the network and its optimizer cannot be set up for training"):
        return Trainer(config, dataset, device, network, SingleProcess(size=config.trainers))


def _rehearsed(trainer: Trainer, twin: Trainer, *, remedy: str) -> None:
    size, name = trainer.loader.recipe.rank_batch_size, type(trainer.network).__name__
    outputs = trainer.config.model.outputs(trainer.images.num_classes)
    trainer.loader.copy = checked = _CheckedCopy(trainer.copy, trainer.network, outputs)
    rate = trainer.learning_rate
    with _tried(f"an attack on a batch of {counted(size, 'image')} failed"):
        batch = trainer.loader.finish(trainer.loader.begin(0))
    image, label = batch.images[:1], batch.labels[:1]
    with _tried("an attack on one image failed"):
        attack = trainer.loader.recipe.attack
        attack = replace(attack, steps=1) if isinstance(attack, PGD) else attack
        generator = torch.Generator().manual_seed(0)
        attacked_images(attack, trainer.copy.attacked, image, label, generator=generator)
    with _tried("an evaluation of one image failed"):
        logits = evaluated(trainer.average.network, image)
    check_logits(logits, name, 1, outputs, when=" in an evaluation")
    with _tried(f"an update on a batch of {counted(size, 'image')} failed"):
        trainer.update(batch)
        trainer.forget_traces()
    with _tried("a checkpoint of this run cannot be written and read back"):
        copy_by_checkpoint(trainer, twin)
        different = _different(trainer, twin)
    if different:
        raise ConfigError(
            f"a checkpoint does not restore {few(different)} of {name} bit for bit. Keep what "
            "training changes in parameters and persistent buffers, each with its own memory. "
            f"{NEEDED}"
        )
    with _tried("a pass of the network in evaluation mode failed"):
        checked.when = f" after one update with learning rate {rate:g}"
        few_images = batch.images[:PROBES]
        found, again = (evaluated(each.network, few_images) for each in (trainer, twin))
    if not agree(found, again, ROUNDING):
        raise ConfigError(
            f"after one update and a checkpoint, two copies of {name} compute different logits; "
            f"logits must follow from its state_dict, which alone is stored. {remedy}{NEEDED}"
        )


class _CheckedCopy:
    """A working copy of a network that checks all logits as the network returns them."""

    def __init__(self, copy: WorkingCopy, network: nn.Module, outputs: int) -> None:
        self.name = copy.name
        self._copy, self._name, self._outputs = copy, type(network).__name__, outputs
        self.network = network
        """Which an attack of your own must not change."""
        self.when = ""
        """The current pass, for a message."""
        network.register_forward_hook(self._check)

    def refresh(self) -> None:
        self._copy.refresh()

    def attacked(self, images: Tensor) -> Tensor:
        self.when = " in an attack"
        return self._copy.attacked(images)

    def trained(self, images: Tensor) -> Tensor:
        self.when = " in training mode"
        size = counted(len(images), "image")
        with _tried(f"a pass of {self._name} in training mode over {size} failed"):
            return self._copy.trained(images)

    def _check(self, _: nn.Module, images: tuple[Tensor], logits: object) -> None:
        count, when = len(images[0]), self.when
        check_logits(logits, self._name, count, self._outputs, when=when)


@contextmanager
def _tried(fact: str) -> Iterator[None]:
    """Turn an error inside the block into a `ConfigError` that begins with the `fact`."""
    try:
        yield
    except NonFiniteLoss as error:
        raise ConfigError(f"{error} {NEEDED}") from error
    except CheckpointError as error:
        origin = error.__cause__ or error
        raise ConfigError(f"{fact}: {cause(origin)}. {_remedy(origin)}{NEEDED}") from error
    except SparringError:
        raise
    except Exception as error:  # of a network of one's own
        raise OwnCodeFailed(f"{fact}: {cause(error)}. {_remedy(error)}{NEEDED}") from error


def _remedy(error: BaseException) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error):
        return "Take a smaller batch_size or a smaller network. "
    if "more than 1 value per channel" in str(error):
        return "Take a larger batch_size. "
    if "size mismatch" in str(error):
        return "Let the model's factory make the same network at every call. "
    if "does not require grad" in str(error):
        return "Let the loss depend on the weights: no detach() or no_grad() in training mode. "
    return ""


def _different(one: Trainer, other: Trainer) -> list[str]:
    """Names of tensors and optimizer states in which two trainers differ, bit for bit."""
    parts = {
        "": (dict(one.network.named_parameters()), dict(other.network.named_parameters())),
        "the state ": (one.network.state_dict(), other.network.state_dict()),
        "the average ": (one.average.network.state_dict(), other.average.network.state_dict()),
        "the optimizer ": (_flat(_kept(one)), _flat(_kept(other))),
    }
    return [
        f"{part}{name}"
        for part, (mine, theirs) in parts.items()
        for name in mine.keys() | theirs.keys()
        if not _same(mine.get(name), theirs.get(name))
    ]


def _kept(trainer: Trainer) -> object:
    """The optimizer's state for each weight; of one of your own, all that it stores."""
    found = trainer.optimizer.state_dict()
    return found if is_own(trainer.config.optimizer) else found["state"]


def _same(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one == other
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(bits(one), bits(other))


def _flat(state: object, path: str = "") -> dict[str, object]:
    """The leaves of nested dictionaries and lists, by the path to each."""
    if isinstance(state, dict):
        pairs = list(state.items())
    elif isinstance(state, list | tuple):
        pairs = list(enumerate(state))
    else:
        return {path: state}
    return {
        name: leaf
        for key, inner in pairs
        for name, leaf in _flat(inner, f"{path}.{key}" if path else str(key)).items()
    }
