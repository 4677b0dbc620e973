"""Every image's own random numbers: splitmix64's, and as uniform and normal as they should be."""

import pytest
import torch

from sparring.attacks import streams

PUBLISHED = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)
"""splitmix64's first outputs for the seed 1234567, as unsigned numbers."""


def slow_splitmix(seed: int, count: int) -> list[int]:
    """The generator as its authors wrote it down, in whole numbers of any size."""
    mask, found = (1 << 64) - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


def test_the_bits_are_those_of_splitmix64():
    assert slow_splitmix(1234567, 5) == list(PUBLISHED)
    seeds = [1234567, 0, 2**62, -5]
    found = streams.bits(torch.tensor(seeds), 300)
    for row, seed in enumerate(seeds):
        expected = slow_splitmix(seed % 2**64, 300)
        assert [value % 2**64 for value in found[row].tolist()] == expected


def test_a_stream_can_be_entered_anywhere_and_knows_no_neighbours():
    seeds = torch.tensor([3, 9, 27])
    whole = streams.uniform(seeds, 100)
    assert torch.equal(streams.uniform(seeds, 40, first=60), whole[:, 60:])
    at = torch.tensor([0, 10, 20])
    mixed = streams.uniform(seeds, 5, first=at)
    for row in range(3):
        assert torch.equal(mixed[row], whole[row, at[row] : at[row] + 5])
        alone = streams.uniform(seeds[row : row + 1], 100)
        assert torch.equal(alone[0], whole[row])


@pytest.mark.parametrize("draw", [streams.uniform, streams.normal])
def test_moments_are_those_of_the_distribution(draw):
    values = draw(torch.arange(100), 5000).double()
    mean, variance = (0.5, 1 / 12) if draw is streams.uniform else (0.0, 1.0)
    spread = 5 / values.numel() ** 0.5
    assert abs(values.mean() - mean) < spread
    assert abs(values.var() - variance) < 2 * spread
    lags = torch.corrcoef(torch.stack([values[:, :-1].flatten(), values[:, 1:].flatten()]))[0, 1]
    assert abs(lags) < spread
    assert torch.isfinite(values).all()
    if draw is streams.uniform:
        assert values.min() >= 0
        assert values.max() < 1
