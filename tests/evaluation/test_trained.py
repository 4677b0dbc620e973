"""The checks on networks that were really trained: against one step, and against eight."""

from dataclasses import replace

import pytest
import torch

from sparring.attacks import PGD, Linf
from sparring.data import load_dataset
from sparring.evaluation import evaluate
from sparring.models import computing_threads
from sparring.training import Adam, Constant, Validation, train
from sparring.training.presets import fast

FLAGGED = {1: ["one step against many"], 8: []}


@pytest.mark.parametrize("steps", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_network_trained_against_one_step_is_flagged_and_against_eight_is_not(steps, tmp_path):
    """One step from the clean image, as FGSM: a hundred updates are enough to mislead it."""
    config = replace(
        fast(),
        attack=PGD(threat=Linf(eps=0.3), steps=steps, start="none" if steps == 1 else "uniform"),
        early_steps=(),
        optimizer=Adam(learning_rate=3e-3, beta2=0.98),
        schedule=Constant(),
        batch_size=64,
        updates=100,
        average=0.0,
        threads=1,
        validation=Validation(every=0, alarm_every=0),
    )
    network = train(config, tmp_path / "run").network
    images, labels = load_dataset("mnist").test.batch(torch.arange(48))
    with computing_threads(1):
        found = evaluate(network, images, labels, config.threat).evaluation
    assert [finding.check for finding in found.flags] == FLAGGED[steps]
    assert found.natural.share > 0.8
    robust = found.robust.share
    assert robust > 0.3 if steps == 8 else robust < 0.2
