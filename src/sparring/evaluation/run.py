"""The evaluation of a finished run: its own network, data and threat."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks import Threat
from sparring.data import Dataset, Images
from sparring.data.of_run import dataset_of
from sparring.data.of_run import other_data as run_other_data
from sparring.errors import ConfigError
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.suites import named_suite
from sparring.evaluation.survey import Observer
from sparring.models import Precision, chosen_device, computing_threads, trained_network
from sparring.records import Evaluation, Examples, RunDirectory
from sparring.records.data_identity import DataIdentity
from sparring.records.files import run_errors

_LONGEST = 80
"""Characters of a data set's name in the name of a folder."""
MANY = 10
"""Images a class, from which on their first ones are of every class if they are well mixed."""


def evaluate_run(  # noqa: PLR0913 - one thing that is judged, the settings by keyword
    run: RunDirectory,
    *,
    data: Dataset | None = None,
    other_data: Dataset | Path | str | None = None,
    suite: str = "pgd",
    num_images: int | None = None,
    seed: int = 0,
    threads: int = 0,
    precision: Precision = "auto",
    checks: bool = True,
    observer: Observer | None = None,
) -> Evaluation:
    """Judge a run's network on its test set, and leave what was found there.

    Writes evaluation.json, outcomes.json and, of pictures, examples.json.
    The first `num_images` test images, all by default, with a caveat where they lack a class; in
    single precision; with `threads` CPU threads, 0 for as many as there are cores. An evaluation by
    another suite, or of another number of images, is kept under a name that says so. One that was
    stopped is gone on with, if it is asked for again with the same settings; `precision` and
    `checks` are those of `evaluate`.
    `data` are those that the run was given, if it was. With `other_data`, of which the test set is
    judged, everything goes into `results_on(run, other_data)` and nothing into the run's own files.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    named_suite(suite)
    test, place, stated = _judged_on(run, data, other_data)
    count = len(test) if num_images is None else num_images
    if not 1 <= count <= len(test):
        raise ConfigError(
            f"the number of images must lie in 1 to {len(test)}, because the test set has so many; "
            f"got {count}. Leave it out for all."
        )
    threat = run.section("threat", Threat)
    network = trained_network(run).to(chosen_device("auto"))
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
            resume=place.partial_evaluation,
            observer=observer,
        )
    found = verdict.evaluation
    more = [caveat for caveat in (stated, _one_sided(labels, test.labels)) if caveat]
    found = replace(found, caveats=(*found.caveats, *more))
    _make_room(place, found)
    verdict.outcomes.save(place.outcomes)
    _keep_examples(place, verdict.examples)
    found.save(place.evaluation)
    with run_errors("remove", place.partial_evaluation):
        place.partial_evaluation.unlink(missing_ok=True)
    return found


def results_on(run: RunDirectory, other: Dataset | Path | str) -> RunDirectory:
    """The folder for evaluations of a run on other data than its own. Raises `DataError`."""
    return _folder_of(run, *run_other_data(run, other))


def _judged_on(
    run: RunDirectory, data: Dataset | None, other: Dataset | Path | str | None
) -> tuple[Images, RunDirectory, str | None]:
    """The images to judge, the folder for what is found, and what must be said about them."""
    if other is None:
        return dataset_of(run, data).test, run, None
    if data is not None:
        raise ConfigError(
            "data and other_data exclude each other, because an evaluation is of one test set; got "
            "both. Give the run's own as data, or others as other_data."
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
    """That the first images lack classes of their set, as they do where it is stored by class."""
    there, all_of_them = labels.unique(), of.unique()
    if len(labels) < MANY * len(all_of_them) or len(there) == len(all_of_them):
        return None
    return (
        f"the first {len(labels)} test images are of {len(there)} of the {len(all_of_them)} "
        "classes of their set, so their accuracy is not the set's: judge all images, or store the "
        "set well mixed"
    )


def _make_room(run: RunDirectory, found: Evaluation) -> None:
    if not run.evaluation.exists():
        return
    earlier = Evaluation.load(run.evaluation)
    if earlier.suite != found.suite:
        run.keep_evaluation(earlier.suite)
    elif earlier.num_images != found.num_images:
        run.keep_evaluation(f"{earlier.suite}-{earlier.num_images}")


def _keep_examples(run: RunDirectory, examples: Examples | None) -> None:
    """The images of this evaluation, or none: never those of another."""
    if examples is not None:
        examples.save(run.examples)
        return
    with run_errors("remove", run.examples):
        run.examples.unlink(missing_ok=True)
