"""The evaluation of a finished run: its own network, data and threat."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks.threat import stored_threat
from sparring.data import Dataset, Images
from sparring.data.run_data import dataset_of
from sparring.data.run_data import other_data as run_other_data
from sparring.errors import ConfigError
from sparring.evaluation.evaluate import Attacks, evaluate
from sparring.evaluation.progress import Observer
from sparring.evaluation.suites import SUITES, suite_of
from sparring.models import Precision, chosen_device, computing_threads, trained_network
from sparring.records import Evaluation, Examples, RunDirectory
from sparring.records.checks import within
from sparring.records.files import file_digest, run_errors
from sparring.records.run import DataIdentity

_LONGEST = 80
"""Characters of a data set's name in the name of a folder."""
MANY = 10
"""From this many images a class on, well mixed images contain every class."""


def evaluate_run(  # noqa: PLR0913 - one thing that is judged, the settings by keyword
    run: RunDirectory,
    *,
    data: Dataset | None = None,
    other_data: Dataset | Path | str | None = None,
    suite: Attacks = "pgd",
    num_images: int | None = None,
    seed: int = 0,
    threads: int = 0,
    precision: Precision = "auto",
    checks: bool = True,
    batch_size: int | None = None,
    progress: bool | Observer = False,
    trust_code: bool = False,
) -> Evaluation:
    """Evaluate a run's network on its test set, and save the evaluation in the run.

    Writes evaluation.json, outcomes.json and, for pictures, examples.json. These hold the strongest
    evaluation of the run's weights (see `_strength`); others are kept beside it under the name that
    `kept_as` gives. A stopped evaluation is resumed by the same call.

    It uses the first `num_images` test images, all by default, with a caveat if they lack a class,
    and `threads` CPU threads, 0 for one a core. `suite`, `precision`, `checks`, `batch_size` and
    `progress` are those of `evaluate`. `data` is the data set that the run was given as an object,
    if it was; `trust_code` is as in `trained_network`. With `other_data`, its test set is used, and
    all files go into `results_on(run, other_data)`.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    suite = suite_of(suite)
    test, place, stated = _judged_on(run, data, other_data)
    count = len(test) if num_images is None else num_images
    within("the number of images", count, f"[1, {len(test)}]", "Leave it out for all.")
    threat = stored_threat(run, trust_code=trust_code)
    network = trained_network(run, trust_code=trust_code).to(chosen_device("auto"))
    _make_folder(place)
    images, labels = test.batch(torch.arange(count))
    with computing_threads(threads):
        verdict = evaluate(
            network,
            images,
            labels,
            threat,
            suite=suite,
            seed=seed,
            precision=precision,
            checks=checks,
            batch_size=batch_size,
            resume=place.partial_evaluation,
            progress=progress,
        )
    more = [caveat for caveat in (stated, _one_sided(labels, test.labels)) if caveat]
    found = replace(
        verdict.evaluation,
        weights=file_digest(run.weights),
        caveats=(*verdict.evaluation.caveats, *more),
    )
    shares, outcomes, examples = place.evaluation_files(_make_room(place, found))
    verdict.outcomes.save(outcomes)
    _keep_examples(examples, verdict.examples)
    found.save(shares)
    with run_errors("remove", place.partial_evaluation):
        place.partial_evaluation.unlink(missing_ok=True)
    return found


def results_on(run: RunDirectory, other: Dataset | Path | str) -> RunDirectory:
    """The folder for evaluations of a run on other data than its own. Raises `DataError`."""
    return _folder_of(run, *run_other_data(run, other))


def _judged_on(
    run: RunDirectory, data: Dataset | None, other: Dataset | Path | str | None
) -> tuple[Images, RunDirectory, str | None]:
    """The images, the folder for the results, and a caveat."""
    if other is None:
        return dataset_of(run, data).test, run, None
    if data is not None:
        raise ConfigError(
            "data and other_data exclude each other. Pass the run's own as data, or others as "
            "other_data."
        )
    dataset, known = run_other_data(run, other)
    where = dataset.name if isinstance(other, Dataset) else str(other)
    stated = f"on the test images of {where}, not on the run's own ({known.words})"
    return dataset.test, _folder_of(run, dataset, known), stated


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


def kept_as(run: RunDirectory, found: Evaluation) -> str:
    """The name under which an evaluation is kept beside the verdict; empty for the verdict."""
    return "" if Evaluation.load(run.evaluation) == found else _name(found)


def _make_room(run: RunDirectory, found: Evaluation) -> str:
    """The name to keep an evaluation under; "" for the run's verdict."""
    if not run.evaluation.exists():
        return ""
    earlier = Evaluation.load(run.evaluation)
    if _strength(earlier, found.weights) > _strength(found, found.weights):
        return _name(found)
    if earlier.weights not in ("", found.weights):
        run.keep_evaluation(f"{_name(earlier)}-of-{earlier.weights[:8]}")
    elif _name(earlier) != _name(found):
        run.keep_evaluation(_name(earlier))
    return ""


def _strength(found: Evaluation, weights: str) -> tuple[bool, int, int, bool, int]:
    """Evaluations are compared by: these weights, suite, images, checks, broken images.

    An evaluation of an earlier version, without a digest of weights, counts as one of these.
    """
    suites = list(SUITES)
    return (
        found.weights in ("", weights),
        suites.index(found.suite) if found.suite in suites else -1,
        found.num_images,
        found.findings is not None,
        -found.robust.successes,
    )


def _name(found: Evaluation) -> str:
    """A name of an evaluation's settings."""
    parts = [re.sub(r"[^\w.-]+", "-", found.suite), str(found.num_images)]
    if found.seed:
        parts.append(f"seed{found.seed}")
    if found.findings is None:
        parts.append("unchecked")
    return "-".join(parts)


def _keep_examples(path: Path, examples: Examples | None) -> None:
    """Save the images of this evaluation, or remove those of an earlier one."""
    if examples is not None:
        examples.save(path)
        return
    with run_errors("remove", path):
        path.unlink(missing_ok=True)
