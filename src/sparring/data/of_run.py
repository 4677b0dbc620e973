"""The data that a run was trained on, found again and compared by everything that uses them.

The run's data.json holds their digest and where they lie from the run's folder; config.json holds
their whole path. A project that was moved with its data works on; other data are refused.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.data.digest import identity
from sparring.data.images import Dataset, numbered
from sparring.data.source import GIVEN, absolute, is_path, open_dataset, takes_image_size
from sparring.data.streamed import DATA_MEMORY, within
from sparring.errors import ConfigError, DataError
from sparring.records import RunDirectory
from sparring.records.data_identity import DataIdentity

_NAMED = 10
"""Classes in a message: enough to see which is new or gone."""


def given_name(dataset: Dataset) -> str:
    """What a run calls data that were passed to it in Python."""
    return GIVEN + dataset.name


def new_data(
    source: str,
    given: Dataset | None,
    *,
    image_size: int | None = None,
    data_memory: int = DATA_MEMORY,
) -> tuple[Dataset, DataIdentity]:
    """The data of a new run, in memory if they fit, and what they are known by.

    Raises `DataError` as `load_dataset` does, and `ConfigError` for `given` data of another name
    than the settings have.
    """
    if given is not None:
        _check_given(source, given)
        return given, identity(given, decoded=True)
    opened = open_dataset(source, image_size=image_size, data_memory=data_memory)
    return within(data_memory, opened), identity(opened)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """What a run says about its data, enough to find them again in any process."""

    run: Path
    """The run's folder."""
    source: str
    """What config.json calls them."""
    image_size: int | None
    """To what pictures are resized; none if they are taken as they are."""
    data_memory: int
    """Bytes of pixels that are held in memory."""
    class_names: tuple[str, ...]
    """Names of the classes; none of runs that stored none."""
    stored: DataIdentity | None
    """What they are known by; none of runs that stored none."""

    @classmethod
    def of(cls, run: RunDirectory) -> "RunData":
        """Raises `RunError` or `ConfigError` if the run's files are missing or damaged."""
        return cls(
            run=run.path.resolve(),
            source=run.section("data", str),
            image_size=image_size_of(run),
            data_memory=run.section_or("data_memory", int, DATA_MEMORY),
            class_names=run.class_names(),
            stored=run.read_data(),
        )

    def find(self, given: Dataset | None = None) -> tuple[Dataset, DataIdentity]:
        """The data, or those that are `given`, compared with the run's; and what they are known by.

        Pictures are decoded when they are used. Raises `DataError` for data that are missing or
        that are not the run's, `ConfigError` for `given` data of another name.
        """
        if given is not None:
            _check_given(self.source, given)
            found = identity(given, decoded=True)
            self._check(given, found, given_name(given))
            return given, found
        refused: DataError | None = None
        for place in self.places():
            try:
                dataset = self.open(place)
                found = identity(dataset)
                self._check(dataset, found, place)
            except DataError as error:
                refused = refused or error
            else:
                return dataset, found
        assert refused is not None  # there is a place at least
        raise refused

    def load(self, given: Dataset | None = None) -> tuple[Dataset, DataIdentity]:
        """As `find`, in memory if they fit."""
        dataset, found = self.find(given)
        return (dataset if given is not None else within(self.data_memory, dataset)), found

    def open(self, source: str, *, resized: bool = True) -> Dataset:
        """Data at another place, read as the run reads its own. Raises `DataError`."""
        return open_dataset(
            source,
            image_size=self.image_size if resized else None,
            data_memory=self.data_memory,
        )

    def places(self) -> list[str]:
        """Where they may lie: where they were, and where they lie from the run's folder.

        Raises `DataError` if there is nothing at either.
        """
        if self.stored is None or self.stored.path is None or not is_path(self.source):
            return [self.source]
        beside = os.path.normpath(self.run / self.stored.path)
        known = dict.fromkeys([self.source, beside])
        there = [place for place in known if os.path.exists(place)]  # noqa: PTH110 - any text
        if not there:
            raise DataError(
                f"There are no data at {' nor at '.join(known)}, where those of {self.run} were. "
                f"Put them back, or write into {RunDirectory(self.run).data} (path) where they lie "
                "now."
            )
        return there

    def _check(self, dataset: Dataset, found: DataIdentity, place: str) -> None:
        """Refuse other data than the run's; runs that stored nothing are taken at their word."""
        check_classes(self, dataset)
        if self.stored is None or self.stored.digest == found.digest:
            return
        raise DataError(
            f"{place} holds other data than {self.run} was trained on; different are "
            f"{'; '.join(self.stored.differences(found))}. The run's data have "
            f"{self.stored.words}; these have {found.words}. Put the run's data back. To judge the "
            "network on others: sparring evaluate RUN --data PATH (in Python other_data=)."
        )


def dataset_of(run: RunDirectory, given: Dataset | None = None) -> Dataset:
    """The data of a run, those that it was trained on; pictures are decoded when they are used.

    Raises what `RunData.of` and `RunData.find` raise.
    """
    return RunData.of(run).find(given)[0]


def other_data(run: RunDirectory, other: Dataset | Path | str) -> tuple[Dataset, DataIdentity]:
    """Data that a run is to be judged on, though it was not trained on them.

    Raises `DataError` if they cannot be read, or have other classes or images of another shape
    than the network takes.
    """
    run_data = RunData.of(run)
    if isinstance(other, Dataset):
        dataset, found = other, identity(other, decoded=True)
    else:
        source = str(other)
        dataset = run_data.open(source, resized=takes_image_size(source))
        found = identity(dataset)
    own = run_data.stored or run_data.find()[1]
    if (found.shape, found.classes) != (own.shape, own.classes):
        raise DataError(
            f"The network takes images of shape {own.shape} (channels, rows, columns) in "
            f"{own.classes} classes; those of {dataset.name} have shape {found.shape} in "
            f"{found.classes} classes. Judge it on data that fit."
        )
    if dataset.class_names != numbered(found.classes):
        check_classes(run_data, dataset)
    return dataset, found


def store_identity(run: RunDirectory, source: str, found: DataIdentity) -> None:
    """Write what a run's data are known by, and where they lie from its folder.

    Raises `RunError` if it cannot be written.
    """
    path = None
    if is_path(source):
        with suppress(ValueError):  # another drive: there is no way from here to there
            path = os.path.relpath(absolute(source), run.path.resolve())
    run.write_data(replace(found, path=path))


def image_size_of(run: RunDirectory) -> int | None:
    """To what the run's pictures are resized; none if they are taken as they are."""
    return run.section_or("image_size", int | None, None)


def check_classes(run: RunData, dataset: Dataset) -> None:
    """Refuse data whose classes are not those that the run was trained on. Raises `DataError`.

    Runs that stored no names are taken at their word.
    """
    before = run.class_names
    if before and before != dataset.class_names:
        raise DataError(
            f"The classes of {dataset.name} must be those that {run.run} was trained on, because "
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
