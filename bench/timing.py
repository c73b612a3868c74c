"""The timed loop. The clock is an argument; between its two readings stands the call and nothing else."""

import gc
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from bench import stats
from bench.schema import Samples, Settings, Telemetry

Clock = Callable[[], int]
Run = Callable[[], object]
#: whether to stop, from the number of calls and the sum of their latencies in ns
Until = Callable[[int, int], bool]

# A repetition samples for a tenth of the case's budget: five repetitions, half of each for start-up and warm-up.
SHARE_OF_BUDGET = 0.1
LEAST_ITERATIONS = 5
MOST_ITERATIONS = 2000
# A clock that stands still, or a call of nothing, would never be warm: `stats` counts in time alone.
MOST_WARMUP_CALLS = 200_000

try:
    import resource

    def counters() -> tuple[int, int, int, int]:
        """CPU time in ns of all threads, then involuntary switches, minor and major faults so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.process_time_ns(), usage.ru_nivcsw, usage.ru_minflt, usage.ru_majflt

except ImportError:  # not a POSIX system

    def counters() -> tuple[int, int, int, int]:
        return time.process_time_ns(), 0, 0, 0


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection of Python's while the clock runs."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def sample(run: Run, clock: Clock, until: Until) -> tuple[list[int], Telemetry]:
    """Calls `run` until `until(calls, total_ns)` holds: a latency in ns for each call, and the counters beside it."""
    samples = array("q")
    counted = array("q", counters())
    total = 0
    while not until(len(samples), total):
        start = clock()
        run()
        elapsed = clock() - start
        counted.extend(counters())
        samples.append(elapsed)
        total += elapsed
    return samples.tolist(), _telemetry(counted)


def _telemetry(counted: "array[int]") -> Telemetry:
    """Differences from call to call. A column of zeros, the usual case, is left empty."""
    columns = [counted[start::4].tolist() for start in range(4)]
    steps = [tuple(new - old for old, new in pairwise(column)) for column in columns]
    cpu, switches, minor, major = (step if any(step) else () for step in steps)
    return Telemetry(cpu_ns=cpu, involuntary_switches=switches, minor_faults=minor, major_faults=major)


def warm_up(run: Run, settings: Settings, clock: Clock) -> tuple[list[int], bool]:
    """Calls `run` until its latency is steady (`stats.steady`), or as often as `settings.warmup` says.

    Returns the samples in ns, and whether it became steady before it was given up.
    """
    if settings.warmup is not None:
        return sample(run, clock, _after(settings.warmup))[0], True
    samples: list[int] = []
    faults: list[int] = []
    while True:
        size = min(stats.window(samples), MOST_ITERATIONS) if samples else 1
        more, telemetry = sample(run, clock, _after(size))
        samples += more
        faults += telemetry.minor_faults or [0] * len(more)
        if stats.steady(samples, faults):
            return samples, True
        if stats.given_up(samples) or len(samples) >= MOST_WARMUP_CALLS:
            return samples, False


def _after(wanted: int) -> Until:
    return lambda calls, _: calls >= wanted


def _spent(budget_s: float) -> Until:
    span = budget_s * SHARE_OF_BUDGET * 1e9
    return lambda calls, total: calls >= LEAST_ITERATIONS and (total >= span or calls >= MOST_ITERATIONS)


def measure(run: Run, settings: Settings, clock: Clock) -> Samples:
    """Warms up, then samples one interval in this process."""
    until = _spent(settings.budget_s) if settings.iterations is None else _after(settings.iterations)
    with quiet_collector():
        warmup, steady = warm_up(run, settings, clock)
        samples, telemetry = sample(run, clock, until)
    return Samples(samples_ns=tuple(samples), warmup_ns=tuple(warmup), steady=steady, telemetry=telemetry)
