"""Wilson intervals against closed forms and against the equation they solve."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import ConfigError
from sparring.records import Proportion, sign_test
from sparring.records.proportion import Z

Z2 = Z * Z


def test_no_success_gives_zero_to_z2_over_n_plus_z2() -> None:
    assert Proportion(successes=0, total=10).interval == pytest.approx((0, Z2 / (10 + Z2)))
    assert Proportion(successes=0, total=10).interval.high == pytest.approx(0.277533, abs=1e-6)


def test_all_successes_give_n_over_n_plus_z2_to_one() -> None:
    assert Proportion(successes=10, total=10).interval == pytest.approx((10 / (10 + Z2), 1))
    assert Proportion(successes=10, total=10).interval.high == 1


def test_half_gives_a_symmetric_interval() -> None:
    half = Z / (2 * math.sqrt(100 + Z2))
    interval = Proportion(successes=50, total=100).interval
    assert interval == pytest.approx((0.5 - half, 0.5 + half))
    assert interval == pytest.approx((0.403832, 0.596168), abs=1e-6)


@given(counts=st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(derandomize=True)
def test_each_end_lies_z_standard_errors_from_the_share(counts: tuple[int, int]) -> None:
    proportion = Proportion(successes=counts[0], total=counts[1])
    low, high = proportion.interval
    assert 0 <= low <= proportion.share <= high <= 1
    for end in (low, high):
        error = math.sqrt(end * (1 - end) / proportion.total)
        assert abs(proportion.share - end) == pytest.approx(Z * error, rel=1e-6, abs=1e-7)


def test_failures_have_the_mirrored_interval() -> None:
    low, high = Proportion(successes=3, total=20).interval
    assert Proportion(successes=17, total=20).interval == pytest.approx((1 - high, 1 - low))


def test_a_proportion_reads_as_per_cent_with_its_interval() -> None:
    assert str(Proportion(successes=9120, total=10000)) == "91.2 % [90.6, 91.7]"
    assert str(Proportion(successes=10, total=10)) == "100.0 % [72.2, 100.0]"


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_impossible_counts_are_refused(successes: int, total: int) -> None:
    with pytest.raises(ConfigError, match=f"got {successes} of {total}"):
        Proportion(successes=successes, total=total)


@given(only_first=st.integers(0, 40), only_second=st.integers(0, 40))
@settings(derandomize=True)
def test_a_sign_test_is_the_binomial_tail(only_first: int, only_second: int) -> None:
    throws = only_first + only_second
    tail = sum(math.comb(throws, heads) for heads in range(only_first, throws + 1))
    assert sign_test(only_first, only_second) == float(Fraction(tail, 2**throws))


def test_a_sign_test_of_nothing_or_of_equals_finds_nothing() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(0, 10_000) == 1
    assert 0.5 < sign_test(10_000, 10_000) < 0.51
    assert sign_test(10_000, 0) == 0


def test_both_sides_of_a_sign_test_share_only_the_outcome_itself() -> None:
    both = sign_test(12, 5) + sign_test(5, 12)
    assert both == pytest.approx(1 + math.comb(17, 5) / 2**17, rel=1e-15)


def test_a_sign_test_refuses_counts_below_zero() -> None:
    with pytest.raises(ConfigError, match="got 3 and -1"):
        sign_test(3, -1)


def test_a_proportion_is_ordered_by_its_share_among_numbers_too() -> None:
    half, more = Proportion(successes=1, total=2), Proportion(successes=3, total=4)
    assert half > 0.4 and half >= 0.5 and half <= 0.5 and half < 1
    assert not half > 0.5 and not half < 0.5
    assert half < more and max(half, more) == more
    with pytest.raises(TypeError):
        _ = half < "0.5"  # pyright: ignore[reportOperatorIssue]
