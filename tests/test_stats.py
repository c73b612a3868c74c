"""Exact small cases, properties, and coverage by simulation with fixed seeds."""

import math
import random
import subprocess
import sys
from fractions import Fraction
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats

LATENCIES = st.lists(st.integers(1, 10**9), min_size=1, max_size=60)
MS = 1_000_000


def normal(count: int, seed: int, centre: float = 5 * MS, sd: float = 0.01) -> list[float]:
    source = random.Random(seed)
    return [centre * (1 + source.gauss(0, sd)) for _ in range(count)]


def test_loads_no_numpy():
    code = "import sys, bench.stats, bench.verdict; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Distributions


# R 4.3 qt() and pt(); NIST/SEMATECH e-Handbook, section 1.3.6.7.2, has the first three digits of the common ones.
@pytest.mark.parametrize(
    ("probability", "df", "quantile"),
    [
        (0.975, 1, 12.706204736174694),
        (0.975, 3, 3.1824463052837078),
        (0.99, 10, 2.7637694581126957),
        (0.995, 5, 4.032142983555228),
        (0.9995, 14, 4.140454112738259),
        (0.95, 30, 1.697260886593957),
        (0.99, 120, 2.357824612648755),
        (0.9999, 7, 7.063432828157639),
    ],
)
def test_t_quantile_agrees_with_tables(probability, df, quantile):
    assert stats.t_quantile(probability, df) == pytest.approx(quantile, abs=1e-6)
    assert stats.t_quantile(1 - probability, df) == pytest.approx(-quantile, abs=1e-6)
    assert stats.t_cdf(quantile, df) == pytest.approx(probability, abs=1e-9)


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.99, 0.9995])
def test_t_quantile_agrees_with_closed_forms(probability):
    """Shaw, "Sampling Student's T distribution", J. Comput. Finance 9 (2006), equations 35 and 36."""
    spread = 4 * probability * (1 - probability)
    assert stats.t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-9)
    assert stats.t_quantile(probability, 2) == pytest.approx((2 * probability - 1) * math.sqrt(2 / spread), rel=1e-9)
    assert stats.t_quantile(probability, 1e7) == pytest.approx(NormalDist().inv_cdf(probability), rel=1e-6)


@pytest.mark.parametrize("probability", [0, 1, -0.5, 2])
def test_no_t_quantile_outside_0_to_1(probability):
    with pytest.raises(ValueError, match="no quantile"):
        stats.t_quantile(probability, 5)


@pytest.mark.parametrize("trials", [1, 7, 40, 300])
@pytest.mark.parametrize("chance", [Fraction(1, 100), Fraction(1, 2), Fraction(9, 10)])
def test_binomial_is_the_exact_sum(trials, chance):
    total = Fraction(0)
    for successes in range(trials + 1):
        total += math.comb(trials, successes) * chance**successes * (1 - chance) ** (trials - successes)
        assert stats.binomial_cdf(successes, trials, float(chance)) == pytest.approx(float(total), abs=1e-10)
    assert stats.binomial_cdf(-1, trials, 0.5) == 0


def test_clopper_pearson():
    assert stats.clopper_pearson(0, 300) == (0.0, pytest.approx(1 - 0.05 ** (1 / 300)))
    assert stats.clopper_pearson(20, 20) == (pytest.approx(0.05 ** (1 / 20)), 1.0)
    low, high = stats.clopper_pearson(3, 100)
    assert 1 - stats.binomial_cdf(2, 100, low) == pytest.approx(0.025)
    assert stats.binomial_cdf(3, 100, high) == pytest.approx(0.025)


# Order statistics


def test_percentile_is_the_nearest_rank():
    samples = [15, 20, 35, 40, 50]
    assert [stats.percentile(samples, q) for q in (0, 5, 30, 40, 50, 100)] == [15, 15, 20, 20, 35, 50]
    assert stats.percentile(range(1, 101), 99) == 99


@pytest.mark.parametrize("of_none", [stats.median, lambda none: stats.percentile(none, 50), stats.estimate])
def test_no_samples_no_number(of_none):
    with pytest.raises(ValueError, match=r"no samples|of 0 samples"):
        of_none([])


@given(LATENCIES, st.randoms(use_true_random=False), st.sampled_from([0, 10, 50, 90, 99, 100]))
def test_order_statistics_ignore_order(samples, source, q):
    shuffled = source.sample(samples, len(samples))
    assert stats.median(shuffled) == stats.median(samples)
    assert stats.percentile(shuffled, q) == stats.percentile(samples, q)
    assert stats.estimate(shuffled) == stats.estimate(samples)


@given(LATENCIES, st.integers(2, 1000))
def test_a_slower_clock_scales_everything(samples, factor):
    scaled = [factor * sample for sample in samples]
    assert stats.median(scaled) == factor * stats.median(samples)
    assert stats.percentile(scaled, 90) == factor * stats.percentile(samples, 90)
    assert stats.estimate(scaled).upper == factor * stats.estimate(samples).upper
    assert stats.robust_sd(scaled) == pytest.approx(factor * stats.robust_sd(samples))
    assert stats.spread(scaled) == pytest.approx(stats.spread(samples))
    assert stats.autocorrelation(scaled) == stats.autocorrelation(samples)


@given(LATENCIES, st.floats(0, 100), st.floats(0, 100))
def test_percentiles_rise(samples, one, other):
    assert stats.percentile(samples, min(one, other)) <= stats.percentile(samples, max(one, other))


def test_supported_is_wilks():
    assert [stats.supported(90, n) for n in (28, 29)] == [False, True]
    assert [stats.supported(99, n) for n in (298, 299)] == [False, True]
    assert stats.supported(1, 299)
    assert not stats.supported(100, 10**9)


@given(st.floats(1, 99.9), st.integers(1, 5000))
def test_more_samples_support_no_less(q, n):
    assert stats.supported(q, n) <= stats.supported(q, n + 1)


def test_tail_bound_is_the_smallest_that_holds():
    samples = list(range(1, 1001))
    bound = int(stats.tail_bound(samples, 99))
    assert stats.binomial_cdf(bound - 1, 1000, 0.99) >= 0.99 > stats.binomial_cdf(bound - 2, 1000, 0.99)
    assert stats.tail_bound(samples, 90) < stats.tail_bound(samples, 90, autocorrelation=0.7)
    assert stats.tail_bound(samples[:458], 99) is None
    assert stats.tail_bound(samples[:459], 99) == 459


def test_tail_bound_covers():
    truth = math.exp(NormalDist().inv_cdf(0.9))
    source = random.Random(1)
    missed = sum(
        stats.tail_bound([source.lognormvariate(0, 1) for _ in range(120)], 90, confidence=0.95) < truth
        for _ in range(2000)
    )
    assert 0.02 < missed / 2000 < 0.05 + 0.015


@given(LATENCIES, st.floats(0, 1))
def test_dependence_never_tightens_a_bound(samples, correlation):
    free, bound = stats.tail_bound(samples, 50), stats.tail_bound(samples, 50, autocorrelation=correlation)
    assert bound is None or free is not None


def test_autocorrelation_of_known_series():
    source, value, series = random.Random(2), 0.0, []
    for _ in range(4000):
        value = 0.7 * value + source.gauss(0, 1)
        series.append(value)
    assert stats.autocorrelation(series) == pytest.approx(0.7, abs=0.05)
    assert stats.effective(series) == pytest.approx(4000 * 0.3 / 1.7, rel=0.15)
    assert stats.autocorrelation(normal(4000, 3)) == pytest.approx(0, abs=0.05)
    assert stats.autocorrelation([5] * 10) == 0
    assert stats.autocorrelation([1, 2] * 50) < -0.9
    assert stats.effective([1, 2] * 50) == 100


def test_a_spike_hides_no_dependence():
    series = [100 + (i // 50 % 2) * 5 + i % 3 for i in range(300)]
    spiked = [*series[:150], 5000, *series[151:]]
    assert stats.autocorrelation(spiked) > 0.5


# Processes


@pytest.mark.parametrize(
    ("count", "level", "low", "high"),
    [
        (1, 0, 1, 1),
        (2, 0.5, 1, 2),
        (3, 0.75, 1, 3),
        (4, 0.875, 1, 4),
        (5, 0.9375, 1, 5),
        (6, 0.96875, 1, 6),
        (8, 0.9921875, 1, 8),
        (9, 0.9609375, 2, 8),
        (12, 0.96142578125, 3, 10),
    ],
)
def test_estimate_says_what_it_reaches(count, level, low, high):
    known = stats.estimate(range(1, count + 1))
    assert (known.lower, known.upper, known.level) == (low, high, pytest.approx(level, abs=1e-12))
    assert known.median == (1 + count) / 2


@pytest.mark.parametrize("count", [3, 5, 6, 12])
def test_estimate_covers_as_it_says(count):
    source = random.Random(count)
    level = stats.estimate(range(count)).level
    hits = 0
    for _ in range(4000):
        known = stats.estimate([source.lognormvariate(0, 0.5) for _ in range(count)])
        hits += known.lower <= 1 <= known.upper
    assert hits / 4000 == pytest.approx(level, abs=0.015)


def test_enough_needs_five_processes_and_a_narrow_interval():
    assert not stats.enough([100] * 4, 0.01)
    assert stats.enough([100] * 5, 0.01)
    assert stats.enough([99, 100, 100, 100, 101], 0.01)
    assert not stats.enough([98, 100, 100, 100, 101], 0.01)


def test_robust_sd_is_that_of_a_normal_sample():
    samples = normal(20_000, 4, centre=1.0)
    assert stats.robust_sd(samples) == pytest.approx(0.01, rel=0.03)
    assert stats.robust_sd([*samples, *[50.0] * 200]) == pytest.approx(0.01, rel=0.05)


def test_modes_sees_two_speeds():
    slow = [1.11 * value for value in normal(6, 6, centre=100, sd=0.005)]
    found = stats.modes([*normal(6, 5, centre=100, sd=0.005), *slow])
    assert found.bimodal
    assert found.gap == pytest.approx(0.1, abs=0.02)
    assert not stats.modes(normal(12, 7)).bimodal


def test_modes_claims_nothing_from_few_or_alike():
    few = stats.modes([100, 100.1, 110, 110.1, 110.2])
    assert few.spread == pytest.approx(0.102 / 1.1, abs=0.001)
    assert not few.bimodal
    assert stats.modes([100] * 9) == stats.Modes(spread=0, gap=0, ratio=0, bimodal=False)
    assert stats.modes([100]).gap == 0
    assert not stats.modes([100] * 6 + [100.1] * 6).bimodal


def test_modes_seldom_cries_wolf():
    assert sum(stats.modes(normal(8, seed, sd=0.05)).bimodal for seed in range(1000)) < 40


def test_drift_is_half_against_half():
    assert stats.drift([100] * 10 + [106] * 10) == pytest.approx(0.06)
    assert stats.drift([100]) == 0


def test_summary():
    repetitions = [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    assert stats.summary(repetitions) == stats.Summary(
        median_ns=21, low_ns=11, high_ns=31, level=pytest.approx(0.75), p90_ns=None, p99_ns=None, min_ns=10,
        mean_ns=21, samples=9, processes=3, spread=pytest.approx(20 / 21),
    )  # fmt: skip


def test_summary_gives_a_percentile_where_the_samples_are_worth_it():
    free = stats.summary([normal(300, seed) for seed in range(5)])
    assert free.p90_ns < free.p99_ns
    climbing = stats.summary([sorted(normal(300, seed)) for seed in range(5)])
    assert climbing.p99_ns is None


# Warm-up


def test_steady_after_two_slow_iterations():
    samples = [2 * sample if i < 2 else sample for i, sample in enumerate(normal(80, 8, sd=0.002))]
    assert [stats.steady(samples[:n]) for n in (0, 1, 10, 57, 62)] == [False, False, False, False, True]


def test_steady_needs_time_iterations_and_level():
    assert not stats.steady([MS] * 200)
    assert stats.steady([MS] * 300)
    assert not stats.steady([MS] * 300, least_ns=stats.STEADY_GPU_NS)
    assert not stats.steady([300 * MS] * 9)
    assert stats.steady([300 * MS] * 10)
    assert not stats.steady([5 * MS] * 90 + [6 * MS] * 10)
    assert not stats.steady([MS * (6 - i / 200) for i in range(200)])


def test_steady_waits_for_page_faults_to_end():
    samples = [5 * MS] * 70
    assert not stats.steady(samples, [0] * 69 + [500])
    assert stats.steady(samples, [500, 400] + [1] * 67 + [2])


def test_window_of_slow_iterations_is_the_smallest_that_can_fail():
    assert stats.window([80 * MS] * 10) == 3
    assert stats.window([5 * MS] * 10) == 10
    assert stats.window([20 * MS] * 10) == 5
    assert stats.window([0] * 10) > 0
    sorted_z = stats.kendall_z(range(6))
    assert 2.58 < sorted_z < stats.kendall_z([1, 0, 2, 4, 3, 5, 7, 6, 8])
    assert stats.kendall_z(range(4)) < 2.58


def test_kendall_has_its_normal_size():
    source = random.Random(9)
    hits = sum(abs(stats.kendall_z([source.random() for _ in range(15)])) >= 2.58 for _ in range(4000))
    assert hits / 4000 == pytest.approx(0.01, abs=0.006)
    assert stats.kendall_z([3, 3, 3]) == 0
    assert stats.kendall_z([1]) == 0


def test_giving_up():
    assert not stats.given_up([0.3 * MS] * 200)
    assert not stats.given_up([5 * MS] * 199)
    assert stats.given_up([15 * MS] * 200)
    assert stats.given_up([3000 * MS] * 4)
