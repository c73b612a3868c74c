"""What samples say: when a process is warm, how long an inference takes, and how well that is known.

Pure functions on sequences of numbers, with the standard library alone: the parent process that waits for
a worker calls them too, and it loads no NumPy. Times are in nanoseconds unless a name says otherwise, shares and
levels run from 0 to 1, percentiles are named by percent (90, 99). An empty sequence raises `ValueError`.

The tests of `bench/selfcheck` run these rules on recorded processes; where a rule of the design was mended,
the docstring says why.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise, permutations
from operator import mul

from bench.schema import Settings

WINDOW_NS = 50e6
STEADY_NS = 0.3e9
STEADY_GPU_NS = 1e9
STEADY_ITERATIONS = 10
GIVE_UP_NS = 10e9
GIVE_UP_ITERATIONS = 200
LEAST_PROCESSES = 5
# The range of three processes covers the median with 75 %; fewer say nothing about spread.
LEAST_REPETITIONS = 3
MOST_REPETITIONS = 15


@dataclass(frozen=True)
class Estimate:
    """The median of process medians and an interval for it, with the coverage `level` that it really has."""

    median: float
    lower: float
    upper: float
    level: float


@dataclass(frozen=True)
class Modes:
    """How far medians lie apart. `spread` and `gap` are relative to the median; `ratio` is the gap in SDs of a side."""

    spread: float
    gap: float
    ratio: float
    bimodal: bool


@dataclass(frozen=True)
class Summary:
    """A case in numbers, from all its repetitions. Derived when needed, never stored.

    `median_ns` is the median of the processes' medians, `low_ns` to `high_ns` its interval, which covers with
    probability `level`. A percentile is None where the samples are too few, or too alike in sequence, to support it.
    `spread` is the range of the processes' medians over `median_ns`.
    """

    median_ns: float
    low_ns: float
    high_ns: float
    level: float
    p90_ns: float | None
    p99_ns: float | None
    min_ns: float
    mean_ns: float
    samples: int
    processes: int
    spread: float


def summary(repetitions: Sequence[Sequence[float]]) -> Summary:
    """The summary of a case from the samples of each of its processes, in nanoseconds."""
    ordered = [sorted(samples) for samples in repetitions]
    medians = tuple(map(median, ordered))
    known = estimate(medians)
    pooled = sorted(chain.from_iterable(ordered))
    worth = _worth_of(repetitions, ordered)
    return Summary(
        median_ns=known.median,
        low_ns=known.lower,
        high_ns=known.upper,
        level=known.level,
        p90_ns=percentile(pooled, 90) if supported(90, worth) else None,
        p99_ns=percentile(pooled, 99) if supported(99, worth) else None,
        min_ns=float(pooled[0]),
        mean_ns=statistics.fmean(pooled),
        samples=len(pooled),
        processes=len(repetitions),
        spread=spread(medians),
    )


def _worth_of(repetitions: Iterable[Sequence[float]], ordered: Iterable[Sequence[float]]) -> float:
    """How many independent samples they are worth together, counted on until all percentiles are supported."""
    worth = 0.0
    for samples, sorted_ in zip(repetitions, ordered, strict=True):
        worth += len(samples) * _worth(_lag_1(_ranks(samples, sorted_)))
        if supported(99, worth):
            break
    return worth


# Order statistics


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two."""
    if not len(samples):
        raise ValueError("the median of no samples")
    return float(statistics.median(samples))


def percentile(samples: Sequence[float], q: float) -> float:
    """The smallest sample that at least `q` percent of the samples don't exceed (nearest rank).

    Definition 1 of Hyndman and Fan, "Sample quantiles in statistical packages", The American Statistician 50 (1996):
    always a latency that was observed, and the order statistic on which `tail_bound` builds.
    """
    if not len(samples) or not 0 <= q <= 100:
        raise ValueError(f"percentile {q} of {len(samples)} samples")
    return float(sorted(samples)[max(0, math.ceil(len(samples) * q / 100 - 1e-9) - 1)])


def supported(q: float, n: float, confidence: float = 0.95) -> bool:
    """Whether `n` independent samples support percentile `q`: the largest exceeds the true one with `confidence`.

    1 - (q/100)^n >= confidence (Wilks, "Determination of sample sizes for setting tolerance limits", Annals of
    Mathematical Statistics 12, 1941), so 29 samples for p90 and 299 for p99. With fewer, nothing above the printed
    number bounds it. Dependent samples count as `effective` says; a low percentile is judged as its mirror image.
    """
    share = max(q, 100 - q) / 100
    return share < 1 and 1 - share**n >= confidence


def tail_bound(
    samples: Sequence[float], q: float, confidence: float = 0.99, autocorrelation: float = 0.0
) -> float | None:
    """An upper bound of percentile `q` that holds with `confidence` whatever the distribution; None if there is none.

    The smallest order statistic k with P(Binomial(n, q) <= k - 1) >= confidence (David and Nagaraja, "Order
    Statistics", 3rd ed., section 7.1; MLPerf's load generator argues alike). Dependent samples count as fewer,
    n(1-r)/(1+r), and the bound is the raw sample at the same relative rank.
    """
    count = int(len(samples) * _worth(autocorrelation))
    for rank in range(max(1, math.floor(count * q / 100)), count + 1):
        if binomial_cdf(rank - 1, count, q / 100) >= confidence:
            return percentile(samples, 100 * rank / count)
    return None


def autocorrelation(samples: Sequence[float]) -> float:
    """Lag-1 autocorrelation of the ranks of the samples, in -1..1; 0 where it is undefined.

    Ranks, because one spike of a shared machine hides dependence: on the recorded busy processes Pearson's
    coefficient is 0.27 (300 samples worth 172), that of the ranks 0.64 (66).
    """
    return _lag_1(_ranks(samples))


def _lag_1(ranks: Sequence[float]) -> float:
    count, middle = len(ranks), (len(ranks) - 1) / 2
    # The sums of squares and products around the middle, multiplied out: ranks are halves, so nothing is rounded.
    total: float = sum(map(mul, ranks, ranks)) - count * middle**2
    if not total:
        return 0.0
    lagged: float = sum(map(mul, ranks, ranks[1:])) - middle * (2 * count * middle - ranks[0] - ranks[-1])
    return (lagged + (count - 1) * middle**2) / total


def effective(samples: Sequence[float]) -> float:
    """How many independent samples these are worth, n(1-r)/(1+r) with r from `autocorrelation`; never above n.

    The variance of a mean of a first-order autoregressive series (Bayley and Hammersley, "The effective number of
    independent observations in an autocorrelated time series", JRSS Supplement 8, 1946).
    """
    return len(samples) * _worth(autocorrelation(samples))


def _worth(correlation: float) -> float:
    correlation = min(max(correlation, 0.0), 1.0)
    return (1 - correlation) / (1 + correlation)


def _ranks(samples: Sequence[float], ordered: Sequence[float] = ()) -> list[float]:
    """Ranks from 0; equal samples share the mean of theirs. `ordered` has the same samples, where they were sorted."""
    ordered = ordered or sorted(samples)
    last = dict(zip(ordered, range(len(ordered)), strict=True))
    if len(last) == len(ordered):
        return list(map(last.__getitem__, samples))
    first = dict(zip(reversed(ordered), range(len(ordered) - 1, -1, -1), strict=True))
    return [(first[sample] + last[sample]) / 2 for sample in samples]


# Processes


def estimate(process_medians: Sequence[float], level: float = 0.95) -> Estimate:
    """The median of process medians, with the tightest order-statistic interval that covers with `level`.

    [x(r), x(n+1-r)] covers the median of the population with 1 - 2 P(Binomial(n, 1/2) <= r-1) (David and Nagaraja,
    section 7.1). Fewer than six processes can't reach 95 %: their range is given, and `level` says what it is
    worth (3: 75 %, 4: 87.5 %, 5: 93.75 %). Process medians are independent; iterations of a process are not.
    """
    values = sorted(process_medians)
    ranks = [rank for rank in range(1, len(values) // 2 + 1) if _coverage(rank, len(values)) >= level]
    rank = max(ranks, default=1)
    return Estimate(
        median=median(values),
        lower=float(values[rank - 1]),
        upper=float(values[-rank]),
        level=_coverage(rank, len(values)),
    )


@cache
def _coverage(rank: int, count: int) -> float:
    return max(0.0, 1 - 2 * binomial_cdf(rank - 1, count, 0.5))


def enough(process_medians: Sequence[float], target: float) -> bool:
    """Whether the interval's half width is at most `target` of the median, from at least 5 processes."""
    if len(process_medians) < LEAST_PROCESSES:
        return False
    known = estimate(process_medians)
    return (known.upper - known.lower) / 2 <= target * known.median


def stop_reason(process_medians: Sequence[float], spent_s: float, settings: Settings) -> str:
    """Why a case needs no further process: "repetitions", "precision" or "budget"; "" while it does."""
    done = len(process_medians)
    if settings.repetitions is not None:
        return "repetitions" if done >= settings.repetitions else ""
    if done < LEAST_REPETITIONS:
        return ""
    if enough(process_medians, settings.precision_target):
        return "precision"
    if spent_s >= settings.budget_s:
        return "budget"
    return "repetitions" if done >= MOST_REPETITIONS else ""


def robust_sd(values: Sequence[float]) -> float:
    """1.4826 times the median absolute deviation: the SD of a normal sample, unmoved by outliers.

    The factor is 1/Φ⁻¹(3/4) (Rousseeuw and Croux, "Alternatives to the median absolute deviation", JASA 88, 1993).
    """
    middle = median(values)
    return median([abs(value - middle) for value in values]) / statistics.NormalDist().inv_cdf(0.75)


def spread(values: Sequence[float]) -> float:
    """The range over the median."""
    return (max(values) - min(values)) / median(values)


def modes(process_medians: Sequence[float]) -> Modes:
    """Whether medians fall into two speed modes: a gap of 4 SDs and 2 %, with at least 15 % of them on each side.

    The SD is that inside the two sides. A robust SD of all values, as in the first design, is as wide as the gap
    itself when the sides are equal: of mixtures 12 SDs apart it misses half (8 values) to nine tenths (40). Below 8
    values the rule would cry wolf (11 to 18 % of normal samples of 6 and 5, 2.5 % of 8): `bimodal` is then False.
    """
    values = sorted(process_medians)
    least = max(1, math.ceil(0.15 * len(values)))
    cuts = range(least, len(values) - least + 1)
    if len(values) < 2 or not cuts:
        return Modes(spread=spread(values), gap=0.0, ratio=0.0, bimodal=False)
    cut = max(cuts, key=lambda place: values[place] - values[place - 1])
    gap, inside = values[cut] - values[cut - 1], _sd_inside(values[:cut], values[cut:])
    ratio = gap / inside if inside else (math.inf if gap else 0.0)
    relative = gap / median(values)
    return Modes(
        spread=spread(values), gap=relative, ratio=ratio, bimodal=len(values) >= 8 and ratio > 4 and relative > 0.02
    )


def _sd_inside(*sides: Sequence[float]) -> float:
    squares = sum((value - median(side)) ** 2 for side in sides for value in side)
    return math.sqrt(squares / max(1, sum(map(len, sides)) - len(sides)))


def drift(samples: Sequence[float]) -> float:
    """How much slower the second half of a process is than the first: the ratio of their medians less 1."""
    half = len(samples) // 2
    return median(samples[half:]) / median(samples[:half]) - 1 if half else 0.0


# Warm-up


def window(samples_ns: Sequence[float]) -> int:
    """Iterations in which steadiness is judged: 50 ms of them, at least 5; 3 if one lasts longer than 50 ms.

    Of slow iterations 5 cost seconds. Kendall's test looks at three windows, so with 2 in each it could reject only
    a perfectly sorted 6 (|z| = 2.82); with 3 it still rejects nine samples with 5 of 36 pairs out of order, the
    median of a window ignores one outlier, and the 10 iterations that are asked for anyway suffice.
    """
    recent = median(samples_ns[-GIVE_UP_ITERATIONS:])
    return 3 if recent > WINDOW_NS else max(5, math.ceil(WINDOW_NS / max(recent, 1)))


def steady(samples_ns: Sequence[float], minor_faults: Sequence[int] = (), least_ns: float = STEADY_NS) -> bool:
    """Whether warm-up is over after these iterations; meant to be asked once a `window`.

    All must hold: 10 iterations and `least_ns` in all (`STEADY_GPU_NS` for GPUs and autotuned engines); medians
    of the last two windows within 2 %; no burst of minor page faults in the last window; no trend over the last
    three (Kendall, |z| < 2.58, that is 1 %). A page-fault burst is more than 10 times the median and more than 16
    pages: a warm process has 0 to 2 in an iteration, a cold one 500.
    """
    size = window(samples_ns) if len(samples_ns) else 5
    if len(samples_ns) < max(STEADY_ITERATIONS, 3 * size) or sum(samples_ns) < least_ns:
        return False
    last, previous = median(samples_ns[-size:]), median(samples_ns[-2 * size : -size])
    level = abs(last - previous) < 0.02 * previous or last == previous
    return level and not _burst(minor_faults, size) and abs(kendall_z(_thinned(samples_ns[-3 * size :]))) < 2.58


def given_up(samples_ns: Sequence[float]) -> bool:
    """Whether to stop waiting for a steady state: after 10 s, or 200 iterations that took three seconds.

    The design says 200 iterations or 10 s, but 200 iterations of 0.3 ms end before the 0.3 s that `steady` asks.
    """
    spent = sum(samples_ns)
    return spent >= GIVE_UP_NS or (len(samples_ns) >= GIVE_UP_ITERATIONS and spent >= 10 * STEADY_NS)


def _burst(faults: Sequence[int], size: int) -> bool:
    return len(faults) > 0 and max(faults[-size:]) > max(16, 10 * median(faults))


def _thinned(samples: Sequence[float], parts: int = 15) -> list[float]:
    """Medians of at most 15 consecutive parts: neighbours depend on one another, and pairs grow with the square."""
    parts = min(parts, len(samples))
    edges = [len(samples) * part // parts for part in range(parts + 1)]
    return [median(samples[start:stop]) for start, stop in pairwise(edges)]


def kendall_z(values: Sequence[float]) -> float:
    """Kendall's trend statistic over its SD under "no trend" (Mann, "Nonparametric tests against trend", 1945).

    S = sum of sign(x_j - x_i), i < j, with variance n(n-1)(2n+5)/18. Ties are not corrected for: they make it tamer.
    """
    count = len(values)
    score = sum((late > early) - (late < early) for i, early in enumerate(values) for late in values[i + 1 :])
    return score / math.sqrt(count * (count - 1) * (2 * count + 5) / 18) if count > 1 else 0.0


# Distributions


def binomial_cdf(successes: int, trials: int, chance: float) -> float:
    """P(X <= successes) for X ~ Binomial(trials, chance), by the incomplete beta function (DLMF 8.17.5)."""
    if successes < 0:
        return 0.0
    if successes >= trials:
        return 1.0
    return incomplete_beta(trials - successes, successes + 1, 1 - chance)


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with `df` degrees of freedom (Abramowitz and Stegun 26.7.1)."""
    tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2
    return 1 - tail if t > 0 else tail


def t_quantile(probability: float, df: float) -> float:
    """The t that Student's distribution with `df` degrees of freedom stays below with `probability`; to 1e-9."""
    if not 0 < probability < 1:
        raise ValueError(f"no quantile at probability {probability}")
    if probability < 0.5:
        return -t_quantile(1 - probability, df)
    upper = 1.0
    while t_cdf(upper, df) < probability:
        upper *= 2
    return bisect(lambda t: t_cdf(t, df) - probability, 0.0, upper)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """A two-sided interval for a probability that covers at least with `confidence`.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934). With no hits the upper end is for one side only, that is 3/n at 95 %.
    """
    one_sided = hits in (0, trials)
    error = (1 - confidence) / (1 if one_sided else 2)
    low = bisect(lambda p: 1 - binomial_cdf(hits - 1, trials, p) - error, 0.0, 1.0) if hits else 0.0
    high = bisect(lambda p: error - binomial_cdf(hits, trials, p), 0.0, 1.0) if hits < trials else 1.0
    return low, high


def bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from negative to positive crosses zero, to the last bits."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), to about 1e-11, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only on the other side of the bulk
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Lentz's method as modified by Thompson and Barnett, J. Comput. Phys. 64 (1986); tiny keeps it off zero."""
    tiny = 1e-300
    ratio, slope = 1.0, 1 - (a + b) * x / (a + 1)
    slope = 1 / (slope or tiny)
    total = slope
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            slope = 1 / ((1 + step * slope) or tiny)
            ratio = (1 + step / ratio) or tiny
            total *= ratio * slope
        if abs(ratio * slope - 1) < 1e-15:
            return total
    raise ArithmeticError(f"incomplete beta at a={a}, b={b}, x={x} does not converge")


# Rank correlation

#: up to so many pairs every order of the ranks is tried (40,320 of 8)
EXACT_PAIRS = 8


def spearman(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation of pairs, and its two-sided p-value under "no association".

    The coefficient is Pearson's on ranks, equal values sharing the mean of theirs. Up to 8 pairs the p-value is exact:
    the share of all orders of one side with a coefficient at least as far from 0. Above, t = r sqrt((n-2)/(1-r²))
    follows Student's distribution with n-2 degrees of freedom (Kendall and Gibbons, "Rank Correlation Methods", 5th
    ed., 1990, chapter 4). Raises ValueError below 3 pairs, and where one side is all equal.
    """
    if len(xs) != len(ys) or len(xs) < 3:
        raise ValueError(f"no rank correlation of {len(xs)} and {len(ys)} values")
    one, other = _centred(_ranks(xs)), _centred(_ranks(ys))
    scale = math.sqrt(_dot(one, one) * _dot(other, other))
    if not scale:
        raise ValueError("no rank correlation where all values of a side are equal")
    rho = min(1.0, max(-1.0, _dot(one, other) / scale))
    if len(xs) <= EXACT_PAIRS:
        least = abs(rho) * scale - 1e-9
        far = sum(abs(_dot(one, order)) >= least for order in permutations(other))
        return rho, far / math.factorial(len(xs))
    if abs(rho) == 1:
        return rho, 0.0
    t = rho * math.sqrt((len(xs) - 2) / (1 - rho**2))
    return rho, 2 * t_cdf(-abs(t), len(xs) - 2)


def _centred(ranks: Sequence[float]) -> list[float]:
    return [rank - (len(ranks) - 1) / 2 for rank in ranks]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    product: float = sum(map(mul, one, other))
    return product
