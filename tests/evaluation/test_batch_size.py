"""No more images pass through a model at once than asked for, and the verdict stays."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import FAB, PGD, Linf, Square
from sparring.errors import ConfigError
from sparring.evaluation import (
    Progress,
    certified,
    evaluate,
    partial,
    slice_accuracy,
    transfer,
)

THREAT = Linf(eps=0.05)
IMAGES = torch.rand(70, 1, 4, 4, generator=Generator().manual_seed(1))
LABELS = torch.arange(70) % 2


class Counting(nn.Module):
    """Two classes by a weighted sum; keeps how many images each pass was of."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        with torch.no_grad():
            self.layer.weight.normal_(generator=Generator().manual_seed(seed))
            self.layer.bias.copy_(-self.layer.weight.sum(1) / 2)
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return self.layer(images.flatten(1))


def judged(model: nn.Module, size: int | None) -> object:
    outcomes = evaluate(
        model, IMAGES, LABELS, THREAT, checks=False, precision="fp32", batch_size=size
    ).outcomes
    return outcomes.broken_by


def attacked(model: nn.Module, size: int | None) -> object:
    square, seeded = Square(threat=THREAT, queries=20), Generator().manual_seed(0)
    found = square(model, IMAGES, LABELS, generator=seeded, batch_size=size)
    return found.numpy().round(5).tolist()


def transferred(model: nn.Module, size: int | None) -> object:
    networks = {"a": model, "b": Counting(1)}
    return transfer(networks, IMAGES, LABELS, THREAT, steps=(2,), batch_size=size).cells


def bounded(size: int | None) -> object:
    network = nn.Sequential(nn.Flatten(), Counting().layer)
    return certified(network, IMAGES, LABELS, THREAT, batch_size=size)


@pytest.mark.parametrize("answer", [judged, transferred])
def test_no_more_images_than_asked_for_pass_at_once_and_the_answer_stays(
    answer: Callable[[nn.Module, int | None], object],
) -> None:
    whole, small = Counting(), Counting()
    assert answer(whole, None) == answer(small, 7)
    assert max(whole.seen) == 70
    assert max(small.seen) == 7


def test_a_search_of_a_few_images_at_once_ends_as_one_of_all() -> None:
    assert attacked(Counting(), 5) == attacked(Counting(), None)


def test_a_certificate_of_a_few_images_at_once_is_that_of_all() -> None:
    assert bounded(9) == bounded(None)


def test_an_evaluation_resumes_only_under_the_same_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(partial, "EVERY", 0.0)
    settings: dict[str, Any] = {"checks": False, "resume": tmp_path / "partial.pt"}

    def stop(_: Progress) -> None:
        if settings["resume"].exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Counting(), IMAGES, LABELS, THREAT, batch_size=4, progress=stop, **settings)
    evaluate(Counting(), IMAGES, LABELS, THREAT, batch_size=4, **settings)
    assert "another evaluation" not in caplog.text
    evaluate(Counting(), IMAGES, LABELS, THREAT, batch_size=3, **settings)
    assert "another evaluation (another suite, seed, model, batch size" in caplog.text


CALLS: Sequence[Callable[[int], object]] = [
    lambda size: judged(Counting(), size),
    lambda size: transferred(Counting(), size),
    lambda size: bounded(size),
    lambda size: attacked(Counting(), size),
    lambda size: slice_accuracy(Counting(), IMAGES, LABELS, PGD(), seed=0, batch_size=size),
    lambda size: FAB(threat=THREAT)(
        Counting(), IMAGES, LABELS, generator=Generator(), batch_size=size
    ),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_batch_of_no_images_is_refused(call: Callable[[int], object]) -> None:
    with pytest.raises(ConfigError, match=re.escape("batch_size must be 1 or more")):
        call(0)
