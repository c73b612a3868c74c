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
#: fires the compute probe, and keeps what it says
Shoot = Callable[[], object]

# A repetition samples for a tenth of the case's budget: five repetitions, half of each for start-up and warm-up.
SHARE_OF_BUDGET = 0.1
LEAST_ITERATIONS = 5
MOST_ITERATIONS = 2000
# A clock that stands still, or a call of nothing, would never be warm: `stats` counts in time alone.
MOST_WARMUP_CALLS = 200_000
# A shot takes 0.3 ms, so 3 % of the time. It leaves its 48 KiB in the caches: the call after it takes 0.1 to 0.4 %
# longer (MobileNetV1_x0_25 and MobileNetV2, ONNX Runtime), one in 20 or 3 of them, and the medians stay as they are.
STRETCH_NS = 10_000_000

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
    """No garbage collection of Python's in the block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def sample(run: Run, clock: Clock, until: Until, shoot: Shoot | None = None) -> tuple[list[int], Telemetry]:
    """Calls `run` until `until(calls, total_ns)` holds: a latency in ns for each call, and the counters beside it.

    `shoot` is called before the first and after every 10 ms of calls; latencies and counters hold nothing of it.
    """
    stretches = [_stretch(run, clock, until)] if shoot is None else _stretches(run, clock, until, shoot)
    samples = [sample for stretch in stretches for sample in stretch[0]]
    steps = [[step for stretch in stretches for step in stretch[1][column]] for column in range(4)]
    # A column of zeros, the usual case, is left empty.
    cpu, switches, minor, major = (tuple(column) if any(column) else () for column in steps)
    return samples, Telemetry(cpu_ns=cpu, involuntary_switches=switches, minor_faults=minor, major_faults=major)


#: latencies in ns, and how much each counter rose with each call
Stretch = tuple["array[int]", list[list[int]]]


def _stretch(run: Run, clock: Clock, until: Until) -> Stretch:
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
    return samples, [[new - old for old, new in pairwise(counted[column::4])] for column in range(4)]


def _stretches(run: Run, clock: Clock, until: Until, shoot: Shoot) -> list[Stretch]:
    stretches: list[Stretch] = []
    calls = total = 0
    while not until(calls, total):
        shoot()
        stretches.append(_stretch(run, clock, _part(until, calls, total)))
        calls += len(stretches[-1][0])
        total += sum(stretches[-1][0])
    return stretches


def _part(until: Until, calls: int, total_ns: int) -> Until:
    """The end of a stretch that begins after so many calls: 10 ms later, or where all of it ends."""
    return lambda more, spent: spent >= STRETCH_NS or until(calls + more, total_ns + spent)


def warm_up(run: Run, settings: Settings, clock: Clock, least_ns: float = stats.STEADY_NS) -> tuple[list[int], bool]:
    """Calls `run` until it is steady (`stats.steady`, after `least_ns`), or as often as `settings.warmup` says.

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
        if stats.steady(samples, faults, least_ns):
            return samples, True
        if stats.given_up(samples) or len(samples) >= MOST_WARMUP_CALLS:
            return samples, False


def _after(wanted: int) -> Until:
    return lambda calls, _: calls >= wanted


def _spent(budget_s: float) -> Until:
    span = budget_s * SHARE_OF_BUDGET * 1e9
    return lambda calls, total: calls >= LEAST_ITERATIONS and (total >= span or calls >= MOST_ITERATIONS)


def measure(
    run: Run,
    settings: Settings,
    clock: Clock,
    shoot: Shoot | None = None,
    least_ns: float = stats.STEADY_NS,
    begin: Callable[[], object] = lambda: None,
) -> Samples:
    """Warms up, then samples one interval in this process, `shoot` beside the samples; `begin` is called in between."""
    until = _spent(settings.budget_s) if settings.iterations is None else _after(settings.iterations)
    with quiet_collector():
        warmup, steady = warm_up(run, settings, clock, least_ns)
        begin()
        samples, telemetry = sample(run, clock, until, shoot)
    return Samples(samples_ns=tuple(samples), warmup_ns=tuple(warmup), steady=steady, telemetry=telemetry)
