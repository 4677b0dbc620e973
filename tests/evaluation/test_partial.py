"""The file of a partial evaluation is written rarely where it is large."""

from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from sparring.evaluation import partial
from sparring.evaluation.evaluation_state import EvaluationState


def test_a_large_state_is_written_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seconds, written = [0], list[int]()
    monkeypatch.setattr(partial.time, "monotonic", lambda: seconds[-1])
    monkeypatch.setattr(partial, "write_atomically", lambda *_: written.append(seconds[-1]))
    monkeypatch.setattr(partial, "SMALL", 1000)

    state: Any = create_autospec(EvaluationState, instance=True)
    state.state.side_effect = lambda: {"maps": torch.zeros(25 if seconds[-1] < 100 else 25_000)}
    file = partial.Partial(path=tmp_path / "state.pt", owner="")
    for second in range(10_000):
        seconds.append(second)
        file.keep(state, seconds=0.0)
    assert written[0] == partial.EVERY
    assert written[-1] - written[-2] > 50 * (written[1] - written[0])
