"""The evaluation of a finished run, or of another network, kept in a folder."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn

from sparring.attacks import Threat, checked
from sparring.attacks.identity import digest, identity, same_threat
from sparring.attacks.threat import itself, stored_threat
from sparring.data import Dataset, Images
from sparring.data.run_data import dataset_of, is_its_own, taken_by_number
from sparring.data.run_data import other_data as run_other_data
from sparring.errors import ConfigError
from sparring.evaluation.evaluate import Attacks, evaluate, moved
from sparring.evaluation.judge import device_of
from sparring.evaluation.progress import Observer
from sparring.evaluation.strength import check_kept, keep
from sparring.evaluation.suites import suite_of
from sparring.evaluation.verdict import ENDINGS, Verdict
from sparring.models import (
    Precision,
    check_callable,
    chosen_device,
    computing_threads,
    evaluation_mode,
    trained_network,
)
from sparring.models.weights import content_digest
from sparring.records import Evaluation, RunDirectory
from sparring.records.checks import choice, within
from sparring.records.files import file_digest, folder_unless_empty, from_home, run_errors
from sparring.records.run import DataIdentity
from sparring.records.text import few
from sparring.records.typed import typed

log = logging.getLogger(__name__)

_LONGEST = 80
"""Characters of a data set's name in the name of a folder."""
MANY = 10
"""From this many images a class on, well mixed images contain every class."""

UNDIVIDED = (
    "{} has no test part, so all its images are used: ones that the network was trained on count "
    "as well"
)
"""The caveat of other data that are used whole."""
Classes = Sequence[int | str]
_NO_SETTINGS = ("suite", "progress")
"""Arguments of `evaluate` that a key leaves out: by attacks of the first, and altogether."""


class Settings(TypedDict, total=False):
    """Settings of an evaluation that is kept; they are those of `evaluate`, and two more."""

    suite: Attacks
    seed: int
    precision: Precision
    checks: bool
    batch_size: int | None
    progress: bool | Observer
    threads: int
    """CPU threads, 0 for one a core."""
    save_adversarial: Path | str | None
    """A file as in `Verdict.save_adversarial`, for one threat."""


@overload
def evaluate_run(
    run: RunDirectory, *, threat: Threat | None = None, **settings: Any
) -> Evaluation: ...
@overload
def evaluate_run(
    run: RunDirectory, *, threat: Sequence[Threat], **settings: Any
) -> tuple[Evaluation, ...]: ...
@typed
def evaluate_run(  # noqa: PLR0913 - one thing that is judged, the settings by keyword
    run: RunDirectory,
    *,
    data: Dataset | None = None,
    other_data: Dataset | Path | str | None = None,
    threat: Threat | Sequence[Threat] | None = None,
    classes: Classes = (),
    num_images: int | None = None,
    device: str = "auto",
    trust_code: bool = False,
    **settings: Unpack[Settings],
) -> Evaluation | tuple[Evaluation, ...]:
    """Evaluate a run's network on its test set, and save the evaluation in the run.

    Writes evaluation.json, outcomes.json and, for pictures, examples.json. These hold the strongest
    evaluation of the run's weights (see `strongest`); others are kept beside it under the name that
    `kept_as` gives. A stopped evaluation of one threat is resumed by the same call.

    The threat is by default the run's own; a sequence is as in `evaluate`. It uses the first
    `num_images` test images, all by default, with a caveat if they lack a class, or only those of
    some `classes`, by number or name. `settings` are those of `evaluate`: `suite`, `seed`,
    `precision`, `checks`, `batch_size` and `progress`; `threads`, CPU threads, 0 for one a core;
    and `save_adversarial`, a file as in `Verdict.save_adversarial`, for one threat. `data` is the
    data set that the run was given as an object, if it was; `trust_code` is as in
    `trained_network`. With `other_data`, its test set is used, or all images with a caveat if they
    have no test part of their own, and all files go into `results_on(run, other_data)`.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    suite_of(settings.get("suite", "pgd"))
    dataset, place, whole, stated = _judged_on(run, data, other_data)
    images, labels, chosen, lacking = _images(dataset, classes, num_images, whole=whole)
    own = stored_threat(run, trust_code=trust_code)
    network = trained_network(run, trust_code=trust_code).to(chosen_device(device))
    weights, caveats, found = file_digest(run.weights), (*stated, lacking), list[Evaluation]()
    threats = own if threat is None else threat
    sizes = threats if isinstance(threats, Sequence) else (threats,)
    with _verdicts(network, images, labels, threats, place, dict(settings)) as verdicts:
        for made, each in zip(verdicts, sizes, strict=True):
            verdict = _about(made, weights, chosen, caveats)
            found.append(replace(verdict.evaluation, own_threat=same_threat(each, own)))
            keep(place, replace(verdict, evaluation=found[-1]))
    return tuple(found) if isinstance(threat, Sequence) else found[0]


@overload
def evaluate_network(
    network: nn.Module, data: Dataset, threat: Threat, **settings: Any
) -> Verdict: ...
@overload
def evaluate_network(
    network: nn.Module, data: Dataset, threat: Sequence[Threat], **settings: Any
) -> tuple[Verdict, ...]: ...
@typed
def evaluate_network(  # noqa: PLR0913 - what is judged, the settings by keyword
    network: nn.Module,
    data: Dataset,
    threat: Threat | Sequence[Threat],
    *,
    classes: Classes = (),
    num_images: int | None = None,
    device: str = "auto",
    out: Path | str | None = None,
    **settings: Unpack[Settings],
) -> Verdict | tuple[Verdict, ...]:
    """Evaluate any network on the test set of any data, and keep the evaluation in `out`.

    As `evaluate_run` otherwise; without `out` nothing is kept, and a stopped evaluation is not
    resumed. Data without a test part of their own are used whole, with a caveat. A folder with an
    evaluation of other weights keeps that aside; the first threat is the verdict of a new folder.
    """
    suite_of(settings.get("suite", "pgd"))
    check_callable(network)
    whole = "test" in data.held_out
    images, labels, chosen, lacking = _images(data, classes, num_images, whole=whole)
    with moved(network, device):
        with torch.no_grad(), evaluation_mode(network):
            some = images[:1].to(device_of(network, images))
            outputs = checked(network, labels)(some).shape[1]
        caveats = [lacking, *_about_data(data, outputs)]
        place = None if out is None else RunDirectory(Path(out))
        weights, found = content_digest(network.state_dict()), list[Verdict]()
        with _verdicts(network, images, labels, threat, place, dict(settings)) as verdicts:
            for verdict in verdicts:
                verdict = _about(verdict, weights, chosen, caveats)
                found.append(verdict if place is None else _kept(place, verdict))
    return tuple(found) if isinstance(threat, Sequence) else found[0]


@contextmanager
def _verdicts(  # noqa: PLR0913 - what is judged, and where it is kept
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat | Sequence[Threat],
    place: RunDirectory | None,
    settings: dict[str, Any],
) -> Iterator[tuple[Verdict, ...]]:
    """One verdict for each threat, which the block keeps; a stop before loses nothing.

    Writes a partial evaluation for the settings at hand, removed after the block, and then
    adversarial images.
    """
    threads, file = settings.pop("threads", 0), settings.pop("save_adversarial", None)
    if file is not None:
        _check_file(from_home(file), threat)
    partial = None
    with ExitStack() as kept:
        if place is not None:
            with run_errors("create the folder", place.path):
                kept.enter_context(folder_unless_empty(place.path))
            check_kept(place)
            if not isinstance(threat, Sequence):
                settings |= {"keep_adversarial": file is not None}
                partial = place.partial_evaluation(_key(labels, threat, settings))
                settings |= {"resume": partial}
        try:
            with computing_threads(threads):
                found = evaluate(network, images, labels, threat, **settings)
        except KeyboardInterrupt:
            if partial is not None and partial.exists():
                log.warning("the evaluation so far is kept: the same command or call resumes it")
            raise
        verdicts = found if isinstance(found, tuple) else (found,)
        yield verdicts
        if partial is not None:
            with run_errors("remove", partial):
                partial.unlink(missing_ok=True)
    if file is not None:
        verdicts[0].save_adversarial(file)


def _check_file(file: Path, threat: Threat | Sequence[Threat]) -> None:
    """Refuse a file for adversarial images that could not be written."""
    if file.suffix not in ENDINGS:
        raise ConfigError.expected(
            "adversarial images go into a .npz or .pt file", str(file), "Change its ending."
        )
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} for {file}. Make it first.")
    if isinstance(threat, Sequence):
        raise ConfigError.expected(
            "a file of adversarial images holds those of one threat",
            f"{len(threat)} threats",
            "Evaluate them one by one, or write no such file.",
        )


def _key(labels: Tensor, threat: Threat, settings: dict[str, Any]) -> str:
    """Stands for the settings of an evaluation: others are resumed and removed on their own."""
    attacks = suite_of(settings.get("suite", "pgd")).against(threat)
    asked = sorted((name, each) for name, each in settings.items() if name not in _NO_SETTINGS)
    return digest((identity([*attacks, itself(threat)]), asked), labels)[:8]


def _about(
    verdict: Verdict,
    weights: str,
    classes: tuple[int, ...] | None,
    caveats: Sequence[str | None],
) -> Verdict:
    """The verdict with what only the caller knows."""
    found = verdict.evaluation
    said = (*found.caveats, *filter(None, caveats))
    found = replace(found, weights=weights, classes=classes, caveats=said)
    return replace(verdict, evaluation=found)


def _kept(place: RunDirectory, verdict: Verdict) -> Verdict:
    """The verdict as it is kept in a folder whose own threat is that of its verdict."""
    found = verdict.evaluation
    if place.evaluation.exists():
        is_own = Evaluation.load(place.evaluation).threat == found.threat
        verdict = replace(verdict, evaluation=replace(found, own_threat=is_own))
    keep(place, verdict)
    return verdict


def results_on(run: RunDirectory, other: Dataset | Path | str) -> RunDirectory:
    """The folder for evaluations of a run on other data than its own. Raises `DataError`."""
    return _folder_of(run, *run_other_data(run, other))


def _about_data(data: Dataset, outputs: int) -> Iterator[str]:
    """Caveats for a network that may know nothing of these data."""
    if "test" in data.held_out:
        yield UNDIVIDED.format(data.name)
    if outputs != data.num_classes:
        yield (
            f"the network has {outputs} outputs and the data {data.num_classes} classes: output 0 "
            f"is taken for {data.class_names[0]}, output 1 for {data.class_names[1]}, and so on"
        )


class _Whole:
    """All images of a data set, the test set first."""

    def __init__(self, data: Dataset) -> None:
        self._parts = (data.test, data.validation, data.train)
        self.labels = torch.cat([part.labels for part in self._parts])

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The images at these places, in order, which must rise."""
        ends = torch.tensor([len(part) for part in self._parts]).cumsum(0)
        found, start = [], 0
        for part, end in zip(self._parts, ends.tolist(), strict=True):
            own = places[(places >= start) & (places < end)] - start
            found += [part.batch(own)[0]] if len(own) else []
            start = end
        return torch.cat(found), self.labels[places]


def _images(
    data: Dataset, classes: Classes, num_images: int | None, *, whole: bool = False
) -> tuple[Tensor, Tensor, tuple[int, ...] | None, str | None]:
    """Test images and labels, the numbers of the chosen classes, and a caveat."""
    test: Images | _Whole = _Whole(data) if whole else data.test
    places, chosen = torch.arange(len(test)), None
    if classes:
        names = data.class_names
        chosen = tuple(sorted({_number(each, names) for each in classes}))
        places = torch.isin(test.labels, torch.tensor(chosen)).nonzero().flatten()
        if not len(places):
            raise ConfigError(f"no test image is of the classes {few(list(map(str, classes)))}.")
    count = len(places) if num_images is None else num_images
    within("the number of images", count, f"[1, {len(places)}]", "Leave it out for all.")
    images, labels = test.batch(places[:count])
    if chosen is None:
        return images, labels, None, _one_sided(labels, test.labels)
    named = few([data.class_names[number] for number in chosen])
    return images, labels, chosen, f"only images of the classes {named} were evaluated"


def _number(wanted: int | str, names: Sequence[str]) -> int:
    """The number of a class that is given by number or by name."""
    if str(wanted) in names:
        return names.index(str(wanted))
    if str(wanted).isdecimal():
        within("the number of a class", int(wanted), f"[0, {len(names) - 1}]")
        return int(wanted)
    choice("class", str(wanted), names)
    raise AssertionError("it is not one of them")


def _judged_on(
    run: RunDirectory, data: Dataset | None, other: Dataset | Path | str | None
) -> tuple[Dataset, RunDirectory, bool, Sequence[str]]:
    """The data, the folder for the results, whether the data are used whole, and caveats."""
    if other is None:
        return dataset_of(run, data), run, False, ()
    if data is not None:
        raise ConfigError(
            "data and other_data exclude each other. Pass the run's own as data, or others as "
            "other_data."
        )
    dataset, known = run_other_data(run, other)
    where = dataset.name if isinstance(other, Dataset) else str(other)
    whole = "test" in dataset.held_out and not is_its_own(run, known)
    which = "all images" if whole else "the test images"
    stated = [f"on {which} of {where}, not on the run's own ({known.words})"]
    if whole:
        stated.append(UNDIVIDED.format(dataset.name))
    if (numbers := taken_by_number(run, dataset)) is not None:
        stated.append(numbers)
    return dataset, _folder_of(run, dataset, known), whole, stated


def _folder_of(run: RunDirectory, dataset: Dataset, known: DataIdentity) -> RunDirectory:
    name = re.sub(r"[^\w.-]+", "-", dataset.name)[:_LONGEST].lstrip(".") or "data"
    return run.on_other_data(f"{name}-{known.digest[:8]}")


def _one_sided(labels: Tensor, of: Tensor) -> str | None:
    """A caveat if the first images lack classes of their set, as in a set stored by class."""
    there, all_of_them = labels.unique(), of.unique()
    if len(labels) < MANY * len(all_of_them) or len(there) == len(all_of_them):
        return None
    return (
        f"the first {len(labels)} test images are of {len(there)} of the {len(all_of_them)} "
        "classes of their set, so their accuracy is not the set's: evaluate all images, or store "
        "the set well mixed"
    )
