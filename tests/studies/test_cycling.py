"""A film shows what the run would have gone on to do; what comes back is seen to come back."""

from base64 import b64decode, b64encode

import numpy as np
import pytest
import torch
from torch import Generator

from sparring.data import load_dataset
from sparring.models import trained_network, working_copy
from sparring.studies import STUDIES
from sparring.studies.cycling import Filming, autocorrelation
from sparring.studies.study import Measurements
from sparring.training import Stale, train
from training.small_runs import small


def test_a_film_is_of_the_weights_that_the_run_goes_on_to(tmp_path):
    config = small(source=Stale(staleness=2), snapshot_every=1)
    whole = train(config, tmp_path / "whole").run
    part = train(config, tmp_path / "part", until=3).run
    before = part.resume.read_bytes()
    clean, *frames = Filming(network="s2", run=part, frames=3)()
    assert part.resume.read_bytes() == before
    assert [row["version"] for row in frames] == [4, 5, 6]
    image, label = load_dataset("mnist").test.batch(torch.arange(1))
    assert _pixels(clean) == _grey(image)
    for row in frames:
        network = working_copy(trained_network(whole, version=int(row["version"] or 0)), "fp32")
        generator = Generator().manual_seed(0)
        expected = config.pgd(network.attacked, image, label, generator=generator)
        assert _pixels(row) == _grey(expected)
    assert len({_pixels(row) for row in frames}) > 1


@pytest.mark.parametrize("period", [4, 10])
def test_what_goes_round_resembles_itself_a_round_later(period):
    turn = 2 * np.pi * np.arange(20 * period) / period
    film = np.stack([np.cos(turn), np.sin(turn)], 1) + 3.0
    lags = np.arange(len(film) // 2 + 1)
    np.testing.assert_allclose(autocorrelation(film), np.cos(2 * np.pi * lags / period), atol=1e-9)


def test_what_drifts_does_not_come_back_and_what_circles_does():
    turn, steps = 2 * np.pi * np.arange(120) / 20, np.arange(120.0)
    circling, drifting = np.stack([np.cos(turn), np.sin(turn)], 1), np.stack([steps, steps], 1)
    for study, fresh, old in (
        ("cycling", "s0", "s64"),
        ("cycling-torch", "s0-torch", "s64-torch"),
    ):
        found = _measured({old: circling, fresh: drifting / 120})
        (claim,) = STUDIES[study].claims("short", found)
        assert claim.holds is True
        assert "s = 64: the correlation of the perturbation with itself falls to -1.00 after" in (
            claim.found
        )
        swapped = _measured({fresh: circling, old: drifting / 120})
        assert [claim.holds for claim in STUDIES[study].claims("short", swapped)] == [False]
        alone = _measured({old: circling})
        assert [claim.holds for claim in STUDIES[study].claims("short", alone)] == [None]


def test_a_film_is_no_training():
    """Its frames are of updates that the run does not keep."""
    turn = 2 * np.pi * np.arange(384) / 100
    films = {name: np.stack([np.cos(turn), np.sin(turn)], 1) for name in ("s0", "s64")}
    for begun, said in ((1274, ""), (980, "s = 0: 980 of 1,274 updates, s = 64: 980 of 1,274")):
        (claim,) = STUDIES["cycling"].claims("short", _measured(films, begun))
        assert claim.holds is False
        assert claim.so_far.startswith(said)
        assert bool(claim.so_far) is bool(said)


def _measured(films: dict[str, np.ndarray], begun: int = 1274) -> Measurements:
    """Two-pixel films around a grey image, of the updates after some."""
    rows = []
    for network, film in films.items():
        for count, frame in enumerate([np.zeros(2), *film]):
            version = begun + count if count else 0
            grey = np.round((0.5 + 0.4 * frame / np.abs(film).max()) * 255).astype(np.uint8)
            rows.append(
                {
                    "network": network,
                    "frame": "attacked" if version else "clean",
                    "version": version,
                    "pixels": b64encode(grey.tobytes()).decode(),
                }
            )
    return Measurements(rows=rows)


def _pixels(row) -> bytes:
    return b64decode(str(row["pixels"]))


def _grey(image: torch.Tensor) -> bytes:
    return (image.flatten() * 255).round().to(torch.uint8).numpy().tobytes()
