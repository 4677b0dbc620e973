"""The data that a run was trained on, for whoever goes on with it or judges it."""

from sparring.data.images import Dataset
from sparring.data.source import GIVEN, load_dataset, open_dataset
from sparring.data.streamed import DATA_MEMORY
from sparring.errors import ConfigError, DataError
from sparring.records import RunDirectory

_NAMED = 10
"""Classes in a message: enough to see which is new or gone."""


def given_name(dataset: Dataset) -> str:
    """What a run calls data that were handed to it in Python."""
    return GIVEN + dataset.name


def chosen_dataset(
    source: str,
    given: Dataset | None,
    *,
    image_size: int | None = None,
    data_memory: int = DATA_MEMORY,
) -> Dataset:
    """The data that settings name; data that were handed over must be those that they mean.

    Raises `DataError` as `load_dataset` does, also for data that are not here any more, and
    `ConfigError` for others than the run's.
    """
    if given is None:
        return load_dataset(source, image_size=image_size, data_memory=data_memory)
    _check_given(source, given)
    return given


def dataset_of(run: RunDirectory, given: Dataset | None = None) -> Dataset:
    """The data of a run; pictures are decoded only where they are looked at.

    Raises `RunError` or `ConfigError` if config.json does not say which, and otherwise as
    `chosen_dataset`.
    """
    source = run.section("data", str)
    if given is not None:
        _check_given(source, given)
        check_classes(run, given)
        return given
    dataset = open_dataset(
        source,
        image_size=image_size_of(run),
        data_memory=run.section_or("data_memory", int, DATA_MEMORY),
    )
    check_classes(run, dataset)
    return dataset


def image_size_of(run: RunDirectory) -> int | None:
    """To what the run's pictures are resized; none if they are taken as they are."""
    return run.section_or("image_size", int | None, None)


def check_classes(run: RunDirectory, dataset: Dataset) -> None:
    """Refuse data whose classes are not those that the run was trained on. Raises `DataError`.

    Runs that stored no names are taken at their word.
    """
    before = run.class_names()
    if before and before != dataset.class_names:
        raise DataError(
            f"The classes of {dataset.name} must be those that {run.path} was trained on, because "
            f"the network's outputs are numbered by them; they were {_some(before)}, and are "
            f"{_some(dataset.class_names)}. Put the class folders back as they were."
        )


def _some(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:_NAMED])
    return f"{len(names)} ({listed}{', …' if len(names) > _NAMED else ''})"


def _check_given(source: str, given: Dataset) -> None:
    if source != given_name(given):
        raise ConfigError(
            f"data must be left out, or be what the run was trained on, {source}; got a data set "
            f"of the name {given.name}, which runs call {given_name(given)}. Give that one, under "
            "the name that it had."
        )
