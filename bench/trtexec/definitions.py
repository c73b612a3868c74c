"""What `trtexec` means by its figures: spans of CUDA events and of the host's enqueue call → its performance summary.

From the public samples of NVIDIA/TensorRT, releases 8.5 to 11.1: samples/common/sampleReporting.cpp (figures and
warnings), sampleInference.cpp (spans), sampleOptions.h (defaults). Times are in milliseconds. trtexec computes in
IEEE single precision, so each operation here is rounded to it. A sum, a product, a quotient or a root of two singles,
computed in double precision and then rounded, is what single precision gives (Figueroa, "When is double rounding
innocuous?", ACM SIGNUM 30, 1995).
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import chain, pairwise
from typing import NamedTuple

from bench.errors import UsageError
from bench.schema import Frozen, Validity

#: the oldest release that these definitions hold for, and the newest major one of which they are known
OLDEST, NEWEST_MAJOR = (8, 5), 11
#: enqueue times above this share of the GPU compute time bound the throughput
ENQUEUE_SHARE = 0.8
#: coefficients of variation above this are called unstable: until 10.13, and since
UNSTABLE_PERCENT, UNSTABLE_PERCENT_10_14 = 1.0, 2.5

_single = struct.Struct("f")


def single(value: float) -> float:
    """The nearest number of single precision; beyond its range an infinity, as in C++."""
    try:
        rounded: float = _single.unpack(_single.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


# Releases


class Version(NamedTuple):
    """A release of TensorRT, of which only these two numbers matter here."""

    major: int
    minor: int


def version(text: str) -> Version:
    """`10.13`, `v10.13.3` or `10.13.3.9` → (10, 13). Raises UsageError for others, and for releases that differ."""
    found = re.fullmatch(r"v?(\d{1,3})\.(\d{1,3})(\.\d{1,9}){0,2}", text, re.ASCII)
    if not found:
        raise UsageError(f"no version of trtexec: {text!r}", "", "write it as 10.13 or 10.13.3; see: trtexec --help")
    release = Version(int(found[1]), int(found[2]))
    if release < OLDEST or release.major > NEWEST_MAJOR:
        known = f"known are {'.'.join(map(str, OLDEST))} to {NEWEST_MAJOR}.x"
        raise UsageError(f"the definitions of trtexec {text} are not known here", known, "use one of these")
    return release


class Defaults(Frozen, frozen=True):
    """How a release of trtexec measures unless told otherwise.

    A run ends when both `iterations` queries and `duration_s` after the `warmup_ms` are over; it logs means of
    `averaged` consecutive queries. Without `transfers` inputs and outputs stay on the GPU.
    """

    transfers: bool
    spin_wait: bool
    cuda_graph: bool
    unstable_percent: float
    warmup_ms: float = 200.0
    duration_s: float = 3.0
    iterations: int = 10
    averaged: int = 10
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    queries_in_flight: int = 2


def defaults(release: Version) -> Defaults:
    """Three flipped in 11.0; the limit of the warning about stability moved in 10.14."""
    flipped = release.major >= 11
    return Defaults(
        transfers=not flipped,
        spin_wait=flipped,
        cuda_graph=flipped,
        unstable_percent=UNSTABLE_PERCENT_10_14 if release >= (10, 14) else UNSTABLE_PERCENT,
    )


# Spans


class Span(NamedTuple):
    """Start and end in ms: of the enqueue call since the host's zero, of GPU work since that of the events."""

    start: float
    end: float


class Query(NamedTuple):
    """One inference. Without transfers `h2d` is empty at the start of `compute`, and `d2h` at its end."""

    enqueue: Span
    h2d: Span
    compute: Span
    d2h: Span


class Timing(NamedTuple):
    """How long the spans of a query are. `latency` is their SUM less the enqueue's: no wall time, gaps are left out."""

    enqueue: float
    h2d: float
    compute: float
    d2h: float
    latency: float


class Spans(Frozen, frozen=True, kw_only=True):
    """What a loop of ours records for the same figures: an entry an iteration, in order.

    `enqueue_ns` are readings of the host's clock around the enqueue call, `zero_ns` is that clock when the zero event
    was recorded. The others are what `cudaEventElapsedTime` says since that event, in ms; the two of the transfers stay
    empty in a loop without any.
    """

    zero_ns: int
    enqueue_ns: tuple[tuple[int, int], ...]
    compute_ms: tuple[tuple[float, float], ...]
    h2d_ms: tuple[tuple[float, float], ...] = ()
    d2h_ms: tuple[tuple[float, float], ...] = ()


def queries(spans: Spans) -> list[Query]:
    """The queries of a loop of ours, sorted as trtexec sorts. Raises ValueError for columns of unlike lengths."""
    h2d = spans.h2d_ms or [(start, start) for start, _ in spans.compute_ms]
    d2h = spans.d2h_ms or [(end, end) for _, end in spans.compute_ms]
    columns = zip(spans.enqueue_ns, h2d, spans.compute_ms, d2h, strict=True)
    found = [
        Query(Span(*(_host_ms(reading - spans.zero_ns) for reading in enqueue)), *(Span(*span) for span in device))
        for enqueue, *device in columns
    ]
    return sorted(found, key=lambda query: query.h2d.start)


def _host_ms(ns: int) -> float:
    """As `std::chrono::duration<float, std::milli>` converts nanoseconds: rounded before the division and after it."""
    return single(single(ns) / 1e6)


def select(queries: Sequence[Query], warmup_ms: float) -> Sequence[Query]:
    """All from the first one on whose compute starts at `warmup_ms` or later; none if there is no such."""
    limit = single(warmup_ms)
    first = next((index for index, query in enumerate(queries) if query.compute.start >= limit), len(queries))
    return queries[first:]


def timing(query: Query) -> Timing:
    enqueue, h2d, compute, d2h = (single(single(span.end) - single(span.start)) for span in query)
    return Timing(enqueue, h2d, compute, d2h, latency=single(single(h2d + compute) + d2h))


def walltime_ms(queries: Sequence[Query]) -> float:
    """Total Host Walltime: from the start of the first H2D to the end of the last D2H, on the clock of the events."""
    return single(single(queries[-1].d2h.end) - single(queries[0].h2d.start))


# Figures


class Metric(Frozen, frozen=True):
    """Of one kind of span, in ms. `percentiles` are pairs of a percent and its value.

    `variation_percent` is the standard deviation of the population over the mean: infinite where the mean is 0.
    """

    min: float
    max: float
    mean: float
    median: float
    percentiles: tuple[tuple[float, float], ...]
    variation_percent: float


class Summary(Frozen, frozen=True):
    """The performance summary of trtexec. `compute_s` is its Total GPU Compute Time, `warnings` are its warnings."""

    queries: int
    throughput_qps: float
    latency: Metric
    enqueue: Metric
    h2d: Metric
    compute: Metric
    d2h: Metric
    walltime_s: float
    compute_s: float
    warnings: tuple[Validity, ...] = ()


def summary(queries: Sequence[Query], release: Version, batch: int = 1) -> Summary:
    """The figures of queries as they were recorded, in order, warm-up already dropped by `select`.

    `batch` multiplies the throughput: 1 wherever the batch is a dimension of the model, which is everywhere but for the
    implicit batch of 8.x (`--batch`). Raises ValueError without a query.
    """
    return summarised(queries, [timing(query) for query in queries], release, batch)


def summarised(queries: Sequence[Query], timings: Sequence[Timing], release: Version, batch: int = 1) -> Summary:
    """As `summary`, where the lengths of the spans are known better than from their ends."""
    if not queries:
        raise ValueError("the figures of no queries")
    percents = defaults(release).percentiles
    enqueue, h2d, compute, d2h, latency = (metric(lengths, percents) for lengths in zip(*timings, strict=True))
    wall = walltime_ms(queries)
    return Summary(
        queries=len(queries),
        throughput_qps=single(_quotient(batch * len(queries), wall) * 1000),
        latency=latency,
        enqueue=enqueue,
        h2d=h2d,
        compute=compute,
        d2h=d2h,
        walltime_s=single(wall / 1000),
        compute_s=single(single(compute.mean * single(len(queries))) / 1000),
        warnings=(*warnings(enqueue, h2d, compute, d2h, release), *_parallel(queries)),
    )


def metric(lengths: Sequence[float], percents: Sequence[float]) -> Metric:
    """The figures of one kind of span. Raises ValueError without any, and for a percentile beyond 0 to 100."""
    ordered = sorted(lengths)
    mean = _mean(ordered)
    return Metric(
        min=ordered[0],
        max=ordered[-1],
        mean=mean,
        median=median(ordered),
        percentiles=tuple((percent, percentile(ordered, percent)) for percent in percents),
        variation_percent=variation_percent(ordered, mean),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value at index max(n - 1 - trunc((1 - p/100) n), 0) of n ascending ones, in single precision.

    That is often one rank above the nearest rank of `bench.stats.percentile`: of 100 values the 99th percentile is the
    largest, since 1 - 0.99 is a little less than 0.01 in single precision.
    """
    if not ordered or not 0 <= percent <= 100:
        raise ValueError(f"percentile {percent} of {len(ordered)} values")
    share = single(1 - single(single(percent) / 100))
    return ordered[max(len(ordered) - 1 - int(single(share * single(len(ordered)))), 0)]


def median(ordered: Sequence[float]) -> float:
    """The middle one of ascending values, or the mean of the middle two."""
    middle = len(ordered) // 2
    if not ordered:
        raise ValueError("the median of no values")
    if len(ordered) % 2:
        return ordered[middle]
    return single(single(ordered[middle - 1] + ordered[middle]) / 2)


def variation_percent(ordered: Sequence[float], mean: float) -> float:
    """The coefficient of variation in percent, with the variance of the population, summed from the least value up."""
    if mean == 0:
        return math.inf
    variance = _mean(ordered, lambda value: single(single(value - mean) ** 2))
    return single(single(single(math.sqrt(variance)) / mean) * 100)


def _mean(ordered: Sequence[float], of: Callable[[float], float] = single) -> float:
    """One term is added after the other, and the sum rounded each time: no better sum gives trtexec's last digits."""
    if not ordered:
        raise ValueError("the mean of no values")
    return single(reduce(lambda total, value: single(total + of(value)), ordered, 0.0) / single(len(ordered)))


def _quotient(dividend: int, divisor: float) -> float:
    return single(single(dividend) / divisor) if divisor else math.inf


# Warnings


def warnings(enqueue: Metric, h2d: Metric, compute: Metric, d2h: Metric, release: Version) -> Iterator[Validity]:
    """When trtexec warns; in 8.5 and later always by these rules, but for the limit of the last one."""
    if enqueue.median > single(single(ENQUEUE_SHARE) * compute.median):
        evidence = f"median enqueue {enqueue.median:.6g} ms, GPU compute {compute.median:.6g} ms"
        yield Validity("enqueue_bound", f"{evidence} (limit {ENQUEUE_SHARE:.0%} of it)")
    slow = [
        f"median {name} {copies.median:.6g} ms"
        for name, copies in (("H2D", h2d), ("D2H", d2h))
        if copies.median >= compute.median
    ]
    if slow:
        yield Validity("transfer_bound", f"{', '.join(slow)}; GPU compute {compute.median:.6g} ms")
    limit = defaults(release).unstable_percent
    if compute.variation_percent > limit:
        evidence = f"GPU compute varies by {compute.variation_percent:.6g}% (limit {limit:g}%)"
        yield Validity("unstable", evidence)


def _parallel(queries: Sequence[Query]) -> Iterator[Validity]:
    """trtexec warns by its option `--infStreams`, which no trace holds; but one stream computes one query at a time."""
    overlaps = sum(after.compute.start < before.compute.end for before, after in pairwise(queries))
    if overlaps:
        yield Validity("parallel_streams", f"{overlaps} of {len(queries)} queries compute while the one before does")


# Text


def text(figures: Summary) -> str:
    """The figures in the words and the order of trtexec's log, with its six digits."""
    named = {
        "Latency": figures.latency,
        "Enqueue Time": figures.enqueue,
        "H2D Latency": figures.h2d,
        "GPU Compute Time": figures.compute,
        "D2H Latency": figures.d2h,
    }
    lines = chain(
        [f"Throughput: {figures.throughput_qps:.6g} qps"],
        (f"{name}: {_in_words(each)}" for name, each in named.items()),
        [f"Total Host Walltime: {figures.walltime_s:.6g} s", f"Total GPU Compute Time: {figures.compute_s:.6g} s"],
    )
    return "".join(f"{line}\n" for line in lines)


def _in_words(each: Metric) -> str:
    named = {"min": each.min, "max": each.max, "mean": each.mean, "median": each.median}
    named |= {f"percentile({percent:.6g}%)": value for percent, value in each.percentiles}
    return ", ".join(f"{name} = {value:.6g} ms" for name, value in named.items())
