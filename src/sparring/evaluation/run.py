"""The evaluation of a finished run, or of another network, kept in a folder."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Threat
from sparring.attacks.plausible import threat_text
from sparring.attacks.threat import stored_threat
from sparring.data import Dataset, Images
from sparring.data.run_data import dataset_of
from sparring.data.run_data import other_data as run_other_data
from sparring.errors import ConfigError
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.strength import keep
from sparring.evaluation.suites import suite_of
from sparring.evaluation.verdict import ENDINGS, Verdict
from sparring.models import chosen_device, computing_threads, trained_network
from sparring.models.weights import content_digest
from sparring.records import Evaluation, RunDirectory
from sparring.records.checks import choice, within
from sparring.records.files import file_digest, run_errors
from sparring.records.run import DataIdentity
from sparring.records.text import few
from sparring.records.typed import typed

_LONGEST = 80
"""Characters of a data set's name in the name of a folder."""
MANY = 10
"""From this many images a class on, well mixed images contain every class."""

Classes = Sequence[int | str]


def evaluate_run(  # noqa: PLR0913 - one thing that is judged, the settings by keyword
    run: RunDirectory,
    *,
    data: Dataset | None = None,
    other_data: Dataset | Path | str | None = None,
    threat: Threat | None = None,
    classes: Classes = (),
    num_images: int | None = None,
    threads: int = 0,
    device: str = "auto",
    save_adversarial: Path | str | None = None,
    trust_code: bool = False,
    **settings: Any,
) -> Evaluation:
    """Evaluate a run's network on its test set, and save the evaluation in the run.

    Writes evaluation.json, outcomes.json and, for pictures, examples.json. These hold the strongest
    evaluation of the run's weights (see `strongest`); others are kept beside it under the name that
    `kept_as` gives. A stopped evaluation is resumed by the same call.

    The threat is by default the run's own. It uses the first `num_images` test images, all by
    default, with a caveat if they lack a class, or only those of some `classes`, by number or name;
    and `threads` CPU threads, 0 for one a core. `settings` are those of `evaluate`: `suite`,
    `seed`, `precision`, `checks`, `batch_size` and `progress`. `save_adversarial` is a file as in
    `Verdict.save_adversarial`. `data` is the data set that the run was given as an object,
    if it was; `trust_code` is as in `trained_network`. With `other_data`, its test set is used, and
    all files go into `results_on(run, other_data)`.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    suite_of(settings.get("suite", "pgd"))
    dataset, place, stated = _judged_on(run, data, other_data)
    images, labels, chosen, lacking = _images(dataset, classes, num_images)
    own = stored_threat(run, trust_code=trust_code)
    threat = own if threat is None else threat
    network = trained_network(run, trust_code=trust_code).to(chosen_device(device))
    _check_file(save_adversarial)
    _make_folder(place)
    settings |= {"resume": place.partial_evaluation, "keep_adversarial": bool(save_adversarial)}
    with computing_threads(threads):
        verdict = evaluate(network, images, labels, threat, **settings)
    found = replace(
        verdict.evaluation,
        weights=file_digest(run.weights),
        own_threat=threat_text(threat) == threat_text(own),
        classes=chosen,
        caveats=(*verdict.evaluation.caveats, *filter(None, (stated, lacking))),
    )
    if save_adversarial is not None:
        verdict.save_adversarial(save_adversarial)
    keep(place, replace(verdict, evaluation=found))
    return found


@typed
def evaluate_network(  # noqa: PLR0913 - what is judged, the settings by keyword
    network: nn.Module,
    data: Dataset,
    threat: Threat,
    *,
    classes: Classes = (),
    num_images: int | None = None,
    threads: int = 0,
    device: str = "auto",
    out: Path | str | None = None,
    save_adversarial: Path | str | None = None,
    **settings: Any,
) -> Verdict:
    """Evaluate any network on the test set of any data, and keep the evaluation in `out`.

    As `evaluate_run` otherwise; without `out` nothing is kept, and a stopped evaluation is not
    resumed. A folder with an evaluation of other weights keeps that aside.
    """
    suite_of(settings.get("suite", "pgd"))
    images, labels, chosen, lacking = _images(data, classes, num_images)
    chosen_device(device)
    _check_file(save_adversarial)
    if out is not None:
        place = RunDirectory(Path(out))
        _make_folder(place)
        settings |= {"resume": place.partial_evaluation, "keep_adversarial": bool(save_adversarial)}
    with computing_threads(threads):
        verdict = evaluate(network.to(chosen_device(device)), images, labels, threat, **settings)
    found = replace(
        verdict.evaluation,
        weights=content_digest(network.state_dict()),
        classes=chosen,
        caveats=(*verdict.evaluation.caveats, *filter(None, (lacking,))),
    )
    if save_adversarial is not None:
        verdict.save_adversarial(save_adversarial)
    if out is not None:
        place = RunDirectory(Path(out))
        if place.evaluation.exists():
            before = Evaluation.load(place.evaluation)
            found = replace(found, own_threat=before.threat == found.threat)
        keep(place, replace(verdict, evaluation=found))
    return replace(verdict, evaluation=found)


def results_on(run: RunDirectory, other: Dataset | Path | str) -> RunDirectory:
    """The folder for evaluations of a run on other data than its own. Raises `DataError`."""
    return _folder_of(run, *run_other_data(run, other))


def _images(
    data: Dataset, classes: Classes, num_images: int | None
) -> tuple[Tensor, Tensor, tuple[int, ...] | None, str | None]:
    """Test images and labels, the numbers of the chosen classes, and a caveat."""
    test: Images = data.test
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


def _check_file(path: Path | str | None) -> None:
    if path is not None and Path(path).suffix not in ENDINGS:
        raise ConfigError.expected(
            "adversarial images go into a .npz or .pt file", str(path), "Change its ending."
        )


def _judged_on(
    run: RunDirectory, data: Dataset | None, other: Dataset | Path | str | None
) -> tuple[Dataset, RunDirectory, str | None]:
    """The data, the folder for the results, and a caveat."""
    if other is None:
        return dataset_of(run, data), run, None
    if data is not None:
        raise ConfigError(
            "data and other_data exclude each other. Pass the run's own as data, or others as "
            "other_data."
        )
    dataset, known = run_other_data(run, other)
    where = dataset.name if isinstance(other, Dataset) else str(other)
    stated = f"on the test images of {where}, not on the run's own ({known.words})"
    return dataset, _folder_of(run, dataset, known), stated


def _folder_of(run: RunDirectory, dataset: Dataset, known: DataIdentity) -> RunDirectory:
    name = re.sub(r"[^\w.-]+", "-", dataset.name)[:_LONGEST].lstrip(".") or "data"
    return run.on_other_data(f"{name}-{known.digest[:8]}")


def _make_folder(place: RunDirectory) -> None:
    with run_errors("create the folder", place.path):
        place.path.mkdir(parents=True, exist_ok=True)


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
