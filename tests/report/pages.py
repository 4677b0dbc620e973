"""Run directories for pages, as training and evaluation would write them."""

import json
from base64 import b64encode
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from records.figures import ENVIRONMENT
from sparring.records import (
    AttackResult,
    Evaluation,
    Example,
    Examples,
    Finding,
    MetricsLog,
    Outcomes,
    Proportion,
    RunDirectory,
    to_json,
    write_json,
)

WHY = "More steps helped the network by 12.5 points."
NOTICE = "catastrophic overfitting: of 64 images <b>none</b> withstand a longer attack."


def a_run(path: Path, *, evaluated: bool = True, staleness: int = 4) -> RunDirectory:
    """A run of 500 updates, with all kinds of rows."""
    run = RunDirectory.create(path)
    config = {"updates": 500, "seed": 7, "data": "mnist", "threat": {"kind": "Linf", "eps": 0.3}}
    run.config.write_text(json.dumps(config))
    write_json(run.environment, to_json(ENVIRONMENT))
    rows = [
        {
            "step": step,
            "loss": 2.0 - step / 400,
            "training_accuracy": step / 500,
            "learning_rate": 0.001,
            "eps": 0.3,
            "staleness": min(step - 1, staleness),
            "seconds": 0.3 * step,
        }
        for step in range(1, 501)
    ]
    validations = [
        {"step": 250, "natural_accuracy": 0.5, "robust_accuracy": 0.25, "validation_images": 256},
        {"step": 250, "own_steps": 1, "own_accuracy": 0.75, "long_steps": 10, "long_accuracy": 0.5},
        {"step": 250, "event": NOTICE},
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *validations)))
    assert len(MetricsLog(run.metrics).rows()) == 503
    some_weights(run)
    if evaluated:
        an_evaluation().save(run.evaluation)
        some_examples().save(run.examples)
        some_outcomes().save(run.outcomes)
    return run


def some_weights(run: RunDirectory, *, value: float = 0.0, version: int = 500) -> None:
    """Store a weight of this value, after so many updates."""
    weights = {"weight": np.full(1, value, np.float32)}
    save_file(weights, run.weights, metadata={"version": str(version)})


def an_evaluation() -> Evaluation:
    """Of 200 images: a certificate, a flag, a caveat."""
    counted = (Proportion(successes=count, total=200) for count in (196, 181, 180, 180, 31))
    natural, first, second, robust, certified = counted
    return Evaluation(
        suite="standard",
        threat="Linf 0.3",
        natural=natural,
        attacks=(
            AttackResult(name="apgd-ce", robust=first, seconds=3.25),
            AttackResult(name="square", robust=second, seconds=75.0),
        ),
        robust=robust,
        certified=certified,
        num_images=200,
        seed=5,
        precision="bf16, then fp32",
        seconds=80.0,
        environment=ENVIRONMENT,
        caveats=("targeted attacks have 9 targets at most",),
        findings=(
            Finding(check="more steps", flagged=True, sentence=WHY),
            Finding(check="noise", flagged=False, sentence="Noise breaks nothing."),
        ),
    )


def some_outcomes() -> Outcomes:
    """Of that evaluation: classes 0 (robust), 1 (some broken into 2) and 2 (wrong when clean)."""
    return Outcomes(
        labels=(0,) * 164 + (1,) * 32 + (2,) * 4,
        natural=(0,) * 164 + (1,) * 32 + (0,) * 4,
        broken_by=(None,) * 164 + ("apgd-ce",) * 16 + (None,) * 20,
        adversarial=(0,) * 164 + (2,) * 16 + (1,) * 16 + (0,) * 4,
    )


def some_examples() -> Examples:
    """Three images of 2 by 3 pixels: one robust, two broken."""
    grey, white = (b64encode(bytes([value] * 6)).decode() for value in (90, 120))
    fates = ((1, 1, 1, None), (4, 4, 9, "square"), (7, 7, 2, "apgd-ce"))
    return Examples(
        height=2,
        width=3,
        channels=1,
        images=tuple(
            Example(
                label=label,
                natural=natural,
                adversarial=adversarial,
                broken_by=broken_by,
                clean=grey,
                attacked=white,
            )
            for label, natural, adversarial, broken_by in fates
        ),
    )
