"""What a run begins with: settings that fit its data, and a network that can be trained on them."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from sparring.data import Dataset, first_images
from sparring.data.source import absolute
from sparring.engine.handed_images import unpicklable
from sparring.errors import ConfigError
from sparring.models import (
    PROBES,
    Given,
    Imported,
    ModelKind,
    Normalised,
    begin_with,
    built_network,
    check_network,
    check_state,
    chosen_device,
    possible_precision,
)
from sparring.models.spec import is_imported
from sparring.models.trained import TOLERANCE, fingerprint, network_seed
from sparring.records.imported import anchored
from sparring.training.asynchronous import Asynchronous
from sparring.training.config import TrainConfig
from sparring.training.events import check_events_can_be_written
from sparring.training.objectives import OwnObjective


def fitted(config: TrainConfig, dataset: Dataset, network: nn.Module | None = None) -> TrainConfig:
    """The settings as a run stores them: a model for these data, files by their whole paths.

    A `network` that is given as an object takes the place of the model's record, but not of a
    normalisation. Raises `ConfigError` where model and data do not fit.
    """
    model = config.model
    if network is not None:
        model = _instead(model, Given(name=type(network).__qualname__))
    model = model.fitted(dataset.image_shape, dataset.num_classes)
    init = None if config.init is None else str(Path(config.init).expanduser().resolve())
    data = absolute(config.data)
    objective = config.objective
    if isinstance(objective, OwnObjective):
        objective = replace(objective, factory=anchored(objective.factory))
    return replace(config, data=data, model=_anchored(model), objective=objective, init=init)


def check_fits(
    config: TrainConfig,
    dataset: Dataset,
    network: nn.Module | None = None,
    *,
    resumed: bool = False,
) -> None:
    """Refuse a device or an extra that is not there, and a network that cannot be trained.

    Cost: the network is built on the device and asked about eight images. Raises `ConfigError`, and
    `CheckpointError` for weights to begin with that are none of this network's, unless a checkpoint
    will replace them.
    """
    device = chosen_device(config.device)
    if config.tensorboard:
        check_events_can_be_written()
    if isinstance(config.source, Asynchronous):
        config.source.transport.check()
        if network is not None and config.source.workers != 0:
            _check_sendable(network)
    config.model.fitted(dataset.image_shape, dataset.num_classes)
    starting = starting_network(config, network, resumed=resumed)
    check_state(starting)
    starting.to(device)
    images = probes(dataset).to(device)
    check_network(starting, images, config.model.outputs(dataset.num_classes))
    if network is None:
        _check_rebuilt(config, starting, dataset.image_shape)
    possible_precision(starting, config.precision, images)


def _check_rebuilt(
    config: TrainConfig, starting: nn.Module, image_shape: tuple[int, int, int]
) -> None:
    """Refuse a factory that makes another network when it is called again.

    Evaluations, workers and resumed runs call it again.
    """
    if not is_imported(config.model):
        return
    again = built_network(config.model, None, network_seed(config.seed))
    rule = "the model's factory must make the same network whenever it is called, because it is "
    rule += "called again wherever the run is used"
    try:
        again.load_state_dict(starting.state_dict())
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{rule}; its second network has other weights: {reason}") from error
    apart = fingerprint(starting, image_shape).difference(fingerprint(again, image_shape))
    if apart > TOLERANCE:
        raise ConfigError(
            f"{rule}; two of its networks with the same weights answer the same images differently,"
            f" by {apart:.2g} of the largest logit. Draw random numbers with functions of torch, "
            "numpy.random and random, whose states the run's seed sets, or give generators a seed."
        )


def probes(dataset: Dataset) -> Tensor:
    """Training images that a network is asked about before anything is written."""
    return first_images(dataset.train, PROBES)


def _check_sendable(network: nn.Module) -> None:
    if (reason := unpicklable(network)) is not None:
        raise ConfigError(
            "a network that workers attack must pickle, because it is sent to their processes; "
            f"got: {reason}. Define its class at the top of a module, name a factory that builds "
            "it (model.factory), or train without workers."
        ) from reason


def starting_network(
    config: TrainConfig, network: nn.Module | None = None, *, resumed: bool = False
) -> nn.Module:
    """The network of version 0: drawn from the seed, read from `init`, or a copy of a given one.

    Of a run that is `resumed` from a checkpoint, which has all weights, `init` is not read.
    """
    built = built_network(config.model, network, network_seed(config.seed))
    if config.init is not None and not resumed:
        begin_with(built, config.init)
    return built


def _instead(model: ModelKind, given: Given) -> ModelKind:
    return replace(model, network=given) if isinstance(model, Normalised) else given


def _anchored(model: ModelKind) -> ModelKind:
    if isinstance(model, Normalised):
        network = _anchored(model.network)
        return replace(model, network=network)
    if isinstance(model, Imported):
        return replace(model, factory=anchored(model.factory))
    return model
