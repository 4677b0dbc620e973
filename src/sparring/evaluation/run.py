"""The evaluation of a finished run: its own network, data and threat."""

from dataclasses import replace

import torch
from torch import Tensor

from sparring.attacks import Threat
from sparring.data import Dataset
from sparring.data.of_run import dataset_of
from sparring.errors import ConfigError
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.suites import named_suite
from sparring.evaluation.survey import Observer
from sparring.models import Precision, chosen_device, computing_threads, trained_network
from sparring.records import Evaluation, Examples, RunDirectory
from sparring.records.files import run_errors

MANY = 10
"""Images a class, from which on their first ones are of every class if they are well mixed."""


def evaluate_run(  # noqa: PLR0913 - one thing that is judged, the settings by keyword
    run: RunDirectory,
    *,
    data: Dataset | None = None,
    suite: str = "pgd",
    num_images: int | None = None,
    seed: int = 0,
    threads: int = 0,
    precision: Precision = "auto",
    checks: bool = True,
    observer: Observer | None = None,
    trust_code: bool = False,
) -> Evaluation:
    """Judge a run's network on its test set, and leave what was found there.

    Writes evaluation.json, outcomes.json and, of pictures, examples.json.
    The first `num_images` test images, all by default, with a caveat where they lack a class; in
    single precision; with `threads` CPU threads, 0 for as many as there are cores. An evaluation by
    another suite, or of another number of images, is kept under a name that says so. One that was
    stopped is gone on with, if it is asked for again with the same settings; `precision` and
    `checks` are those of `evaluate`.
    `data` are those that the run was given, if it was; `trust_code` as in `trained_network`.
    Raises `ConfigError`, `CheckpointError`, `DataError` or `RunError`, and then writes nothing.
    """
    named_suite(suite)
    test = dataset_of(run, data).test
    count = len(test) if num_images is None else num_images
    if not 1 <= count <= len(test):
        raise ConfigError(
            f"the number of images must lie in 1 to {len(test)}, because the test set has so many; "
            f"got {count}. Leave it out for all."
        )
    threat = run.section("threat", Threat)
    network = trained_network(run, trust_code=trust_code).to(chosen_device("auto"))
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
            resume=run.partial_evaluation,
            observer=observer,
        )
    found = verdict.evaluation
    if one_sided := _one_sided(labels, test.labels):
        found = replace(found, caveats=(*found.caveats, one_sided))
    _make_room(run, found)
    verdict.outcomes.save(run.outcomes)
    _keep_examples(run, verdict.examples)
    found.save(run.evaluation)
    with run_errors("remove", run.partial_evaluation):
        run.partial_evaluation.unlink(missing_ok=True)
    return found


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
