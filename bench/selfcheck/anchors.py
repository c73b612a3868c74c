"""Other tools' decision rules, told in our words, on the same recorded processes.

A rule takes the wall times of the processes of both sides, in nanoseconds, and says whether it would call the
contender slower. Only the decision is re-told: the tools' own samplers differ in batch sizes and calibration, and each
rule here gets the sampling that suits it best within the same wall time. `together` rules measure both sides in
one go, so both meet the same condition; the others read a stored baseline.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import numpy as np

from bench import stats
from bench.selfcheck.traces import Array

Rule = Callable[[Sequence[Array], Sequence[Array]], bool]
Detector = Callable[[Array], list[int]]


@dataclass(frozen=True)
class Anchor:
    """A rule, how many processes it takes on each side, and whether both sides are measured together."""

    name: str
    processes: int
    together: bool
    slower: Rule


# Tests


def mann_whitney(old: Array, new: Array) -> float:
    """The two-sided p of the U test, by the normal approximation with continuity correction."""
    n, m = len(old), len(new)
    ranks = np.argsort(np.argsort(np.concatenate([old, new]), kind="stable"), kind="stable")
    u = ranks[n:].sum() - m * (m - 1) / 2
    z = (abs(u - n * m / 2) - 0.5) / math.sqrt(n * m * (n + m + 1) / 12)
    return 2 * (1 - statistics.NormalDist().cdf(max(z, 0.0)))


def kolmogorov_smirnov(old: Array, new: Array) -> float:
    """The two-sided p of the two-sample test, by Kolmogorov's limit with Stephens's correction."""
    both = np.sort(np.concatenate([old, new]))
    below = [np.searchsorted(np.sort(side), both, side="right") / len(side) for side in (old, new)]
    size = math.sqrt(len(old) * len(new) / (len(old) + len(new)))
    lam = (size + 0.12 + 0.11 / size) * float(np.abs(below[0] - below[1]).max())
    terms = (math.copysign(math.exp(-2 * (k * lam) ** 2), k % 2 - 0.5) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


def welch(old: Array, new: Array, margin: float = 0.0) -> float:
    """The one-sided p of Welch's test that the mean of `new` is above that of `old` by more than `margin`."""
    errors = [float(side.var(ddof=1)) / len(side) for side in (old, new)]
    if not sum(errors):
        return float(new.mean() - old.mean() <= margin)
    df = sum(errors) ** 2 / sum(e**2 / (len(side) - 1) for e, side in zip(errors, (old, new), strict=True))
    return 1 - stats.t_cdf(float(new.mean() - old.mean() - margin) / math.sqrt(sum(errors)), df)


def student(old: Array, new: Array) -> float:
    """The two-sided p of Student's test with a pooled variance."""
    df = len(old) + len(new) - 2
    pooled = (len(old) * float(old.var()) + len(new) * float(new.var())) / df
    if not pooled:
        return float(old.mean() == new.mean())
    t = float(new.mean() - old.mean()) / math.sqrt(pooled * (1 / len(old) + 1 / len(new)))
    return 2 * (1 - stats.t_cdf(abs(t), df))


# Rules on stored results or on one process a side


def _field(statistic: Callable[[Array], float], limit: float, old: Sequence[Array], new: Sequence[Array]) -> bool:
    return bool(statistic(new[0]) > (1 + limit) * statistic(old[0]))


def _all_fail(limit: float, old: Sequence[Array], new: Sequence[Array]) -> bool:
    return all(np.median(b) > (1 + limit) * np.median(a) for a, b in zip(old, new, strict=True))


def _u_test(p: float, margin: float, old: Sequence[Array], new: Sequence[Array]) -> bool:
    slower = np.median(new[0]) > (1 + margin) * np.median(old[0])
    return bool(slower) and mann_whitney((1 + margin) * old[0], new[0]) < p


def _compare_py(old: Sequence[Array], new: Sequence[Array]) -> bool:
    """Means of ten repetitions of thirty iterations."""
    a, b = (side[0].reshape(10, -1).mean(axis=1) for side in (old, new))
    return bool(b.mean() > a.mean()) and mann_whitney(a, b) < 0.05


def _criterion(old: Sequence[Array], new: Sequence[Array], resamples: int = 200) -> bool:
    """A 95 % bootstrap interval of the change of the mean, from iterations, beyond 1 %."""
    draws = np.random.default_rng(0).integers(len(old[0]), size=(2, resamples, len(old[0])))
    change = new[0][draws[1]].mean(axis=1) / old[0][draws[0]].mean(axis=1) - 1
    return bool(np.quantile(change, 0.025) > 0.01)


def _nvbench_noise(old: Sequence[Array], new: Sequence[Array]) -> bool:
    """The means differ by more than the smaller of the two relative SDs."""
    noise = min(float(side[0].std(ddof=1) / side[0].mean()) for side in (old, new))
    return bool(new[0].mean() / old[0].mean() - 1 > noise)


def _nvbench_quartiles(old: Sequence[Array], new: Sequence[Array]) -> bool:
    """The interquartile ranges don't meet."""
    return bool(np.quantile(new[0], 0.25) > np.quantile(old[0], 0.75))


# Rules on several processes a side


def _asv(factor: float, old: Sequence[Array], new: Sequence[Array]) -> bool:
    """Ten samples, five of each of two interleaved processes; ratio of medians and a U test at 0.002."""
    a, b = (np.concatenate([one.reshape(5, -1).mean(axis=1) for one in side]) for side in (old, new))
    return bool(np.median(b) > factor * np.median(a)) and mann_whitney(a, b) < 0.002


def _pyperf(old: Sequence[Array], new: Sequence[Array]) -> bool:
    """Three values of each process, all pooled in one t test at 95 %."""
    a, b = (np.concatenate([one.reshape(3, -1).mean(axis=1) for one in side]) for side in (old, new))
    return bool(b.mean() > a.mean()) and student(a, b) < 0.05


def _pinpoint(old: Sequence[Array], new: Sequence[Array]) -> bool:
    a, b = _means(old), _means(new)
    return bool(b.mean() > a.mean()) and min(mann_whitney(a, b), kolmogorov_smirnov(a, b)) < 0.01


def _hyperfine(old: Sequence[Array], new: Sequence[Array]) -> bool:
    return 2 * welch(_means(old), _means(new)) < 0.05


def _bootstrap(margin: float, old: Sequence[Array], new: Sequence[Array], resamples: int = 400) -> bool:
    """The 1 % quantile of the ratio of medians, processes drawn first; their medians stand for the iterations."""
    draws = np.random.default_rng(0).integers(len(old), size=(2, resamples, len(old)))
    a, b = _medians(old), _medians(new)
    ratio = np.median(b[draws[1]], axis=1) / np.median(a[draws[0]], axis=1)
    return bool(np.quantile(ratio, 0.01) > 1 + margin)


def _welch_on_medians(margin: float, old: Sequence[Array], new: Sequence[Array]) -> bool:
    return welch(np.log(_medians(old)), np.log(_medians(new)), math.log1p(margin)) < 0.01


def _means(side: Sequence[Array]) -> Array:
    return np.array([one.mean() for one in side])


def _medians(side: Sequence[Array]) -> Array:
    return np.array([np.median(one) for one in side])


def _p10(samples: Array) -> float:
    return float(np.quantile(samples, 0.1))


ANCHORS = (
    Anchor("github-action-benchmark, mean > 200 %", 1, False, partial(_field, np.mean, 1.0)),
    Anchor("pytest-benchmark mean:5%", 1, False, partial(_field, np.mean, 0.05)),
    Anchor("pytest-benchmark median:5%", 1, False, partial(_field, np.median, 0.05)),
    Anchor("pytest-benchmark min:5%", 1, False, partial(_field, np.min, 0.05)),
    Anchor("10th percentile > 5 %", 1, False, partial(_field, _p10, 0.05)),
    Anchor("Paddle op CI, median > 5 % in 3 of 3", 3, False, partial(_all_fail, 0.05)),
    Anchor("Mann-Whitney on iterations, p < .01", 1, False, partial(_u_test, 0.01, 0.0)),
    Anchor("Mann-Whitney on iterations, 2 % margin", 1, False, partial(_u_test, 0.01, 0.02)),
    Anchor("benchmark compare.py, U p < .05, 10 rep.", 1, False, _compare_py),
    Anchor("criterion, 1 % noise threshold", 1, False, _criterion),
    Anchor("BenchmarkDotNet, U test, 2 % threshold", 1, False, partial(_u_test, 0.05, 0.02)),
    Anchor("nvbench compare, noise", 1, False, _nvbench_noise),
    Anchor("nvbench compare, quartiles", 1, False, _nvbench_quartiles),
    Anchor("asv continuous, factor 1.1", 2, True, partial(_asv, 1.1)),
    Anchor("asv continuous, factor 1.02", 2, True, partial(_asv, 1.02)),
    Anchor("pyperf 10 x 3, stored", 10, False, _pyperf),
    Anchor("pyperf 10 x 3, back to back", 10, True, _pyperf),
    Anchor("Pinpoint, KS or U p < .01, 10 + 10", 10, True, _pinpoint),
    Anchor("hyperfine, Welch, 10 + 10", 10, True, _hyperfine),
    Anchor("hierarchical bootstrap 12 + 12, margin 1 %", 12, True, partial(_bootstrap, 0.01)),
    Anchor("Welch on medians 12 + 12, margin 1 %", 12, True, partial(_welch_on_medians, 0.01)),
)


# Change-point detectors: the first points after the steps up in a series of log-latencies, as known at its end


def otava(logs: Array, p: float = 0.001, least: float = 0.0) -> list[int]:
    """E-divisive splits that a t test lets pass at 10 p, the weakest then merged away until all have p.

    Matteson and James, "A nonparametric approach for multiple change point analysis" (JASA 109, 2014), with the t
    test that Hunter, now Apache Otava, put in place of permutations.
    """
    cuts = sorted(_divided(logs, 0, len(logs), 10 * p))
    while cuts:
        edges = [0, *cuts, len(logs)]
        sides = [(logs[edges[i] : edges[i + 1]], logs[edges[i + 1] : edges[i + 2]]) for i in range(len(cuts))]
        weakest, worst = max(enumerate(student(*side) for side in sides), key=lambda item: item[1])
        if worst <= p:
            return [cut for cut, (a, b) in zip(cuts, sides, strict=True) if b.mean() - a.mean() > math.log1p(least)]
        del cuts[weakest]
    return []


def _divided(logs: Array, start: int, stop: int, p: float) -> list[int]:
    if stop - start < 4:
        return []
    cut = start + _energy_split(logs[start:stop])
    if student(logs[start:cut], logs[cut:stop]) > p:
        return []
    return [*_divided(logs, start, cut, p), cut, *_divided(logs, cut, stop, p)]


def _energy_split(values: Array) -> int:
    """Where the energy distance between the two sides, weighted by their sizes, is largest; two points a side."""
    count = len(values)
    distances = np.abs(values[:, None] - values[None, :])
    corner = distances.cumsum(axis=0).cumsum(axis=1)
    n = np.arange(2, count - 1)
    m = count - n
    left, total = corner[n - 1, n - 1], corner[-1, -1]
    across = corner[n - 1, -1] - left
    right = total - left - 2 * across
    energy = (2 * across / (n * m) - left / (n * (n - 1)) - right / (m * (m - 1))) * n * m / count
    return int(n[energy.argmax()])


def pelt(logs: Array, least: int = 3) -> list[int]:
    """The cheapest segmentation under squared error and a penalty of 3 ln n a step (Killick and others, JASA 2012).

    Without PELT's pruning, which changes the time it takes and not its answer. The variance is that of first
    differences.
    """
    count = len(logs)
    variance = max(stats.robust_sd(np.diff(logs).tolist()), 1e-9) ** 2 / 2
    sums, squares = (np.concatenate([[0.0], np.cumsum(values)]) for values in (logs, logs**2))
    best, last = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=int)
    best[0] = -3 * math.log(count)
    for stop in range(least, count + 1):
        starts = np.arange(0, stop - least + 1)
        cost = squares[stop] - squares[starts] - (sums[stop] - sums[starts]) ** 2 / (stop - starts)
        total = best[starts] + cost / variance + 3 * math.log(count)
        best[stop], last[stop] = total.min(), starts[total.argmin()]
    cuts, stop = [], count
    while last[stop] > 0:
        cuts.append(int(last[stop]))
        stop = last[stop]
    edges = [0, *reversed(cuts), count]
    means = [float(logs[a:b].mean()) for a, b in pairwise(edges)]
    return [cut for i, cut in enumerate(edges[1:-1]) if means[i + 1] > means[i]]


def conbench(logs: Array) -> list[int]:
    """Points more than 5 SDs above the mean of all before them."""
    return [i for i in range(10, len(logs)) if logs[i] - logs[:i].mean() > 5 * logs[:i].std(ddof=1)]


def bencher(logs: Array, sample: int = 64) -> list[int]:
    """Points above the 99 % boundary of a t distribution fitted to the 64 before them."""
    found = []
    for i in range(10, len(logs)):
        past = logs[max(0, i - sample) : i]
        if logs[i] > past.mean() + _t99(len(past) - 1) * past.std(ddof=1):
            found.append(i)
    return found


@cache
def _t99(df: int) -> float:
    return stats.t_quantile(0.99, df)


def chromium(logs: Array) -> list[int]:
    """The best split of the last 50 points: 6 a side, 1 %, 2.5 SDs of the calmer side, half step-like."""
    offset = max(0, len(logs) - 50)
    values = logs[offset:]
    splits = range(1, len(values))
    cut = min(splits, key=lambda at: float(_centred(values, at).std()))
    left, right = values[:cut], values[cut:]
    change = float(np.median(right) - np.median(left))
    if min(len(left), len(right)) < 6 or change < math.log1p(0.01):
        return []
    calm = min(float(left.std()), float(right.std()))
    stepped = 1 - float(np.abs(_centred(values, cut)).mean()) / max(float(np.abs(values - values.mean()).mean()), 1e-12)
    return [offset + cut] if change >= 2.5 * calm and stepped >= 0.5 else []


def _centred(values: Array, cut: int) -> Array:
    return np.concatenate([values[:cut] - np.median(values[:cut]), values[cut:] - np.median(values[cut:])])


DETECTORS: dict[str, Detector] = {
    "Otava, p = .001": otava,
    "Otava, step of 1 % or more": partial(otava, least=0.01),
    "PELT, 3 ln n": pelt,
    "conbench-like, z > 5": conbench,
    "bencher-like, t .99": bencher,
    "Chromium-like": chromium,
}
