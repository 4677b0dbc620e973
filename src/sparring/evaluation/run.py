"""The evaluation of a finished run: its own network, data and threat."""

import torch

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
) -> Evaluation:
    """Judge a run's network on its test set, and leave what was found there.

    Writes evaluation.json, outcomes.json and, of pictures, examples.json.
    The first `num_images` test images, all by default; in single precision; with `threads` CPU
    threads, 0 for as many as there are cores. An evaluation by another suite, or of another number
    of images, is kept under a name that says so. One that was stopped is gone on with, if it is
    asked for again with the same settings; `precision` and `checks` are those of `evaluate`.
    `data` are those that the run was given, if it was.
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
    network = trained_network(run).to(chosen_device("auto"))
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
    _make_room(run, verdict.evaluation)
    verdict.outcomes.save(run.outcomes)
    _keep_examples(run, verdict.examples)
    verdict.evaluation.save(run.evaluation)
    with run_errors("remove", run.partial_evaluation):
        run.partial_evaluation.unlink(missing_ok=True)
    return verdict.evaluation


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
