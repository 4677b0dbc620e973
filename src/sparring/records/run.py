"""The folder of a run: settings, environment, log, weights, and the identity of its data set."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import GenericAlias, UnionType
from typing import TypeVar

from sparring.errors import ConfigError, RunError
from sparring.records.checks import at_least, count_in
from sparring.records.codec import from_json, to_json
from sparring.records.environment import Environment
from sparring.records.evaluation import Evaluation
from sparring.records.files import (
    file_digest,
    from_home,
    read_json,
    run_errors,
    tensors_header,
    write_json,
)
from sparring.records.own_code import named_code, seal
from sparring.records.text import did_you_mean, nearest
from sparring.records.typed import typed, typed_record

RUNS = Path("runs")
"""The default folder of runs."""
_SHOWN = 12
"""Characters of a digest in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartIdentity:
    """One part of a data set."""

    images: int
    """Number of images."""
    labels: str
    """SHA-256 of their labels, in order."""
    pixels: str
    """SHA-256 of their pixels, in order; for large sets of a sample (`sparring.data.run_data`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataIdentity:
    """A whole data set: equal for equal images and labels, wherever they are stored."""

    shape: tuple[int, int, int]
    """Channels, rows and columns of an image."""
    classes: int
    """Number of classes."""
    train: PartIdentity
    validation: PartIdentity
    test: PartIdentity
    path: str | None = None
    """Path of the data from the run's folder; `None` for bundled data and data from Python."""

    @property
    def digest(self) -> str:
        """SHA-256 of all but the path."""
        text = json.dumps(to_json(replace(self, path=None)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def words(self) -> str:
        """Sizes and digest for a message."""
        parts = f"{self.train.images:,} + {self.validation.images:,} + {self.test.images:,}"
        return f"{parts} images, digest {self.digest[:_SHOWN]}"

    def differences(self, other: "DataIdentity") -> Iterator[str]:
        """All differences in words, the most important first."""
        if self.shape != other.shape:
            yield f"the shape of the images ({_shape(self.shape)} then, {_shape(other.shape)} now)"
        if self.classes != other.classes:
            yield f"the number of classes ({self.classes} then, {other.classes} now)"
        for name in ("train", "validation", "test"):
            one, another = getattr(self, name), getattr(other, name)
            if one.images != another.images:
                yield f"the number of {name} images ({one.images:,} then, {another.images:,} now)"
                continue
            if one.labels != another.labels:
                yield f"the labels of the {name} images"
            if one.pixels != another.pixels:
                yield f"the pixels of the {name} images"


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


Section = TypeVar("Section")


@typed_record
@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run on disk: settings, environment, log, weights and evaluations."""

    path: Path
    """The folder."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for the home folder of an unknown user."""
        object.__setattr__(self, "path", from_home(self.path))

    @classmethod
    @typed
    def create(cls, path: Path | str) -> "RunDirectory":
        """Make the folder, and those above it, for a new run.

        Raises `RunError` if it holds anything already or cannot be written to.
        """
        path = from_home(path)
        with run_errors("create the run directory", path):
            path.mkdir(parents=True, exist_ok=True)
        cls.check_empty(path)
        with run_errors("write into the run directory", path), tempfile.TemporaryFile(dir=path):
            pass
        return cls(path)

    @staticmethod
    def check_empty(path: Path) -> None:
        """Raise `RunError` if the folder of a new run is there and holds anything."""
        with run_errors("create the run directory", path):
            occupied = path.exists() and any(path.iterdir())
        if occupied:
            raise RunError(
                f"a new run needs an empty folder; {path} holds files. Choose another folder."
            )

    @classmethod
    @typed
    def open(cls, path: Path | str) -> "RunDirectory":
        """Find an earlier run. Raises `RunError` if the folder is missing or holds no run."""
        run = cls(Path(path))
        with run_errors("open the run directory", run.path):
            if run.config.is_file():
                return run
            missing = not run.path.exists()
        hint = did_you_mean(_similar_run(run.path))
        if missing:
            raise RunError(f"the run directory {path} does not exist.{hint}")
        if (run.path / "model.json").is_file():
            hint = " It is an export: sparring.exporting.exported_network(folder) is its network."
        raise RunError(f"{path} has no config.json, so it is no run directory.{hint}")

    @classmethod
    @typed
    def latest(cls, parent: Path | str) -> "RunDirectory":
        """Newest run directly inside a folder, by the time its config.json was written.

        Raises `RunError` if the folder holds no run.
        """
        parent = Path(parent)
        with run_errors("look for runs in", parent):
            runs = _runs_in(parent)
            written = {run: (run.config.stat().st_mtime_ns, run.path.name) for run in runs}
        if not written:
            raise RunError(f"no runs: {parent} holds none. Train first, or name a run directory.")
        return max(written, key=written.__getitem__)

    @classmethod
    @typed
    def chosen(cls, path: Path | str | None = None) -> "RunDirectory":
        """The run of this path; by default the newest in `RUNS`. Raises `RunError`."""
        if path is not None:
            return cls.open(path)
        if not RUNS.is_dir():
            raise RunError(
                f"there is no folder {RUNS} here, where the newest run is looked for. Name a run "
                "directory, or train first: sparring train"
            )
        return cls.latest(RUNS)

    @property
    def config(self) -> Path:
        """The settings of the run, written before the first update."""
        return self.path / "config.json"

    @property
    def classes(self) -> Path:
        """Names of the classes in order."""
        return self.path / "classes.json"

    @property
    def data(self) -> Path:
        """The identity and path of the run's data."""
        return self.path / "data.json"

    @property
    def launch(self) -> Path:
        """The launcher of the trainers, if it was torchrun."""
        return self.path / "launch.json"

    @property
    def environment(self) -> Path:
        """Software and hardware of the run."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One row of measurements a line."""
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / "weights.safetensors"

    @property
    def resume(self) -> Path:
        """The state from which a run is resumed."""
        return self.path / "resume.pt"

    def snapshot(self, version: int) -> Path:
        """The weights after this number of updates, if the run kept them."""
        return self.path / "snapshots" / f"{version:08d}.safetensors"

    def snapshots(self) -> list[int]:
        """Numbers of updates with kept weights, in order."""
        with run_errors("look for snapshots in", self.path):
            there = {path: count_in(path.stem) for path in self.snapshot(0).parent.glob("*")}
        return sorted(count for path, count in there.items() if path == self.snapshot(count))

    @property
    def evaluation(self) -> Path:
        """The run's verdict: its strongest evaluation, as shares of the images."""
        return self.path / "evaluation.json"

    def evaluations(self) -> list[Path]:
        """The run's verdict and the evaluations kept aside; empty before the first."""
        earlier = sorted(self.path.glob(f"{self.evaluation.stem}-*{self.evaluation.suffix}"))
        return [path for path in (self.evaluation, *earlier) if path.exists()]

    def evaluation_files(self, name: str = "") -> tuple[Path, Path, Path]:
        """Shares, outcomes and examples of the run's verdict, or of an evaluation kept aside."""
        files = (self.evaluation, self.outcomes, self.examples)
        if not name:
            return files
        shares, outcomes, examples = (path.with_stem(f"{path.stem}-{name}") for path in files)
        return shares, outcomes, examples

    @property
    def outcomes(self) -> Path:
        """Results of that evaluation, image by image."""
        return self.path / "outcomes.json"

    @property
    def examples(self) -> Path:
        """The first images of that evaluation, clean and attacked."""
        return self.path / "examples.json"

    def partial_evaluation(self, key: str) -> Path:
        """An unfinished evaluation of the settings that `key` stands for, resumed after a stop."""
        return self.path / f"evaluation-{key}.partial.pt"

    def partial_evaluations(self) -> list[Path]:
        """All unfinished evaluations."""
        return sorted(self.path.glob("evaluation-*.partial.pt"))

    def is_current(self, found: Evaluation) -> bool:
        """Whether an evaluation judged the run's current weights, as far as can be known.

        Of missing or damaged weights, nothing is known.
        """
        return (
            not found.weights
            or tensors_header(self.weights) is None
            or found.weights == file_digest(self.weights)
        )

    def on_other_data(self, name: str) -> "RunDirectory":
        """The folder within the run for an evaluation on other data."""
        return RunDirectory(self.path / "other-data" / name)

    def evaluations_on_other_data(self) -> tuple[tuple[str, Evaluation], ...]:
        """The evaluations on other data, each after the name of its folder.

        Raises `RunError` or `ConfigError` if a file is damaged.
        """
        folders = map(RunDirectory, sorted(self.on_other_data("").path.glob("*/")))
        return tuple(
            (folder.path.name, Evaluation.load(path))
            for folder in folders
            for path in folder.evaluations()
        )

    def read_environment(self) -> Environment | None:
        """Software and hardware of the run; `None` before it has begun.

        Raises `RunError` or `ConfigError` if the file is damaged.
        """
        if not self.environment.exists():
            return None
        return from_json(Environment, read_json(self.environment), where=str(self.environment))

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order; empty for runs that stored none.

        Raises `RunError` or `ConfigError` if the file is damaged.
        """
        if not self.classes.exists():
            return ()
        return from_json(tuple[str, ...], read_json(self.classes), where=str(self.classes))

    def write_class_names(self, names: tuple[str, ...]) -> None:
        """Store the names of the classes. Raises `RunError` if they cannot be written."""
        write_json(self.classes, list(names))

    def read_data(self) -> DataIdentity | None:
        """The identity of the run's data; `None` for runs of early versions.

        Raises `RunError` or `ConfigError` if the file is damaged.
        """
        if not self.data.exists():
            return None
        return from_json(DataIdentity, read_json(self.data), where=str(self.data))

    def write_data(self, data: DataIdentity) -> None:
        """Store the identity of the data. Raises `RunError` if it cannot be written."""
        write_json(self.data, to_json(data))

    @property
    def saved_updates(self) -> int:
        """Updates of the stored weights; 0 if the file is missing or damaged."""
        about, _ = tensors_header(self.weights) or ({}, 0)
        return count_in(about.get("version", ""))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the stored weights in single precision; 0 if the file is missing or damaged."""
        return (tensors_header(self.weights) or ({}, 0))[1]

    @property
    def is_complete(self) -> bool:
        """Whether the stored weights are the final ones."""
        return self.saved_updates >= self.updates

    @property
    def weights_fault(self) -> str:
        """What is wrong with the file of weights; empty if nothing, or before a checkpoint."""
        if tensors_header(self.weights):
            return ""
        if os.path.lexists(self.weights):
            return f"{self.weights.name} is damaged"
        return f"{self.weights.name} is missing" if self.resume.exists() else ""

    @property
    def updates(self) -> int:
        """Updates of the whole run. Raises `RunError` or `ConfigError` as `section`."""
        count = self.section("updates", int)
        at_least(f"updates in {self.config}", count, 1)
        return count

    @property
    def extended(self) -> Path:
        """Earlier numbers of updates of a run that was extended."""
        return self.path / "extended.json"

    def extend(self, updates: int) -> None:
        """Store a larger number of updates. Earlier files still belong to the run.

        Raises `RunError` if the folder cannot be written to.
        """
        before = self.updates
        settings = read_json(self.config)
        assert isinstance(settings, dict)  # it has a section
        write_json(self.extended, [*self._earlier_updates(), before])
        write_json(self.config, settings | {"updates": updates})

    def _earlier_updates(self) -> tuple[int, ...]:
        if not self.extended.exists():
            return ()
        return from_json(tuple[int, ...], read_json(self.extended), where=str(self.extended))

    def settings_digest(self) -> str:
        """SHA-256 of the settings in config.json. Raises `RunError` if it cannot be read."""
        return digest_of_settings(read_json(self.config))

    def settings_digests(self) -> frozenset[str]:
        """The digest of the current settings, and those from before the run was extended."""
        settings = read_json(self.config)
        found = [settings]
        if isinstance(settings, dict):
            found += [settings | {"updates": count} for count in self._earlier_updates()]
        return frozenset(map(digest_of_settings, found))

    def launcher(self) -> str | None:
        """The launcher of the trainers that began the run; `None` without one.

        Raises `RunError` or `ConfigError` if the file is damaged.
        """
        if not self.launch.exists():
            return None
        return from_json(str, read_json(self.launch), where=str(self.launch))

    def write_launcher(self, name: str) -> None:
        """Store the launcher. Raises `RunError` if it cannot be written."""
        write_json(self.launch, name)

    def write_config(self, config: object) -> None:
        """Store a record as the settings of the run, and seal the code that it names.

        Raises `RunError` if the folder cannot be written to.
        """
        settings = to_json(config)
        seal(self.path, named_code(settings))
        write_json(self.config, settings)

    def section_or(
        self, name: str, cls: type[Section] | UnionType | GenericAlias, otherwise: Section
    ) -> Section:
        """As `section`; `otherwise` for a run of an early version without this setting."""
        settings = read_json(self.config)
        there = not isinstance(settings, dict) or name in settings
        return self.section(name, cls) if there else otherwise

    def section(self, name: str, cls: type[Section] | UnionType | GenericAlias) -> Section:
        """One setting of the run, read as type `cls` independently of the others.

        Raises `RunError` if config.json cannot be read, `ConfigError` if the section is missing or
        wrong.
        """
        settings = read_json(self.config)
        if not isinstance(settings, dict):
            raise no_settings(self.config)
        if name not in settings:
            hint = did_you_mean(nearest(name, settings))
            there = ", ".join(settings)
            raise ConfigError(f"{self.config} has no section {name}; it holds {there}.{hint}")
        return from_json(cls, settings[name], where=str(self.config), path=name)


def no_settings(file: Path) -> RunError:
    """The error for a config.json that is no JSON object."""
    return RunError(f"{file} must hold a JSON object. Restore the file or use another run.")


def digest_of_settings(settings: object) -> str:
    """SHA-256 of JSON values, equal for equal settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _runs_in(parent: Path) -> list[RunDirectory]:
    runs = (RunDirectory(path) for path in parent.iterdir())
    return [run for run in runs if run.config.is_file()]


def _similar_run(path: Path) -> str | None:
    try:
        runs = _runs_in(path.parent)
    except OSError:
        return None
    near = nearest(path.name, [run.path.name for run in runs])
    return None if near is None else str(path.parent / near)
