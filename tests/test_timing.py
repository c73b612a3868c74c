"""The timed loop against clocks that only tests move: exact, without sleeping. One test reads the real clock."""

import gc
import itertools
import time

import pytest

from bench import backends, stats, timing
from bench.schema import Settings
from bench.timing import LEAST_ITERATIONS, MOST_ITERATIONS, MOST_WARMUP_CALLS, measure, sample, warm_up

MS = 1_000_000
FREE = Settings()


class Bench:
    """A clock, and a call that takes the next of `latencies` on it; the last one for ever."""

    def __init__(self, *latencies):
        self.now = 0
        self.calls = 0
        self.latencies = latencies

    def clock(self):
        return self.now

    def run(self):
        self.now += self.latencies[min(self.calls, len(self.latencies) - 1)]
        self.calls += 1


class Drifting(Bench):
    """Each call takes 2 % longer than the one before."""

    def run(self):
        self.calls += 1
        self.now += int(50 * MS * 1.02**self.calls)


def until(calls):
    return lambda done, _: done >= calls


def counters_of(monkeypatch, *rows):
    """Has the counters give these readings, one after another."""
    readings = iter(rows)
    monkeypatch.setattr(timing, "counters", lambda: next(readings))


# A sample


def test_a_sample_is_the_time_between_two_readings():
    ticks = itertools.count(step=10)
    samples, _ = sample(lambda: None, ticks.__next__, until(5))
    assert samples == [10] * 5
    assert next(ticks) == 100  # two readings a call, and no other


def test_samples_are_what_each_call_took_in_the_order_of_calls():
    bench = Bench(7, 5, 9)
    assert sample(bench.run, bench.clock, until(4))[0] == [7, 5, 9, 9]


def test_what_happens_between_two_calls_is_not_in_their_samples(monkeypatch):
    bench = Bench(7)

    def slow_counters():
        bench.now += 1000
        return 0, 0, 0, 0

    monkeypatch.setattr(timing, "counters", slow_counters)
    assert sample(bench.run, bench.clock, until(3))[0] == [7, 7, 7]


def test_the_end_is_decided_by_calls_and_their_total():
    seen = []
    bench = Bench(7, 5)
    sample(bench.run, bench.clock, lambda calls, total: seen.append((calls, total)) or calls == 3)
    assert seen == [(0, 0), (1, 7), (2, 12), (3, 17)]


def test_no_call_is_made_where_none_is_wanted():
    bench = Bench(7)
    assert sample(bench.run, bench.clock, until(0))[0] == []
    assert bench.calls == 0


def test_counters_are_differences_from_call_to_call(monkeypatch):
    counters_of(monkeypatch, (100, 5, 40, 1), (130, 5, 40, 1), (190, 7, 40, 1), (200, 7, 41, 1))
    _, telemetry = sample(lambda: None, itertools.count().__next__, until(3))
    assert telemetry.cpu_ns == (30, 60, 10)
    assert telemetry.involuntary_switches == (0, 2, 0)
    assert telemetry.minor_faults == (0, 0, 1)
    assert telemetry.major_faults == ()  # nothing but zeros


def test_the_real_counters_only_rise():
    before = timing.counters()
    sum(range(100_000))
    after = timing.counters()
    assert len(before) == len(after) == 4
    assert all(old <= new for old, new in zip(before, after, strict=True))
    assert before[0] < after[0]


def test_an_iteration_costs_less_than_five_microseconds():
    """Above the call itself. The least of many tries: a neighbour can only make one longer."""
    calls = 500

    def overhead_ns():
        start = time.perf_counter_ns()
        sample(lambda: None, time.perf_counter_ns, until(calls))
        return (time.perf_counter_ns() - start) / calls

    assert min(overhead_ns() for _ in range(40)) < 5000


def test_an_empty_call_takes_less_than_a_microsecond():
    """What the two readings add to a sample."""
    medians = [stats.median(sample(lambda: None, time.perf_counter_ns, until(500))[0]) for _ in range(40)]
    assert 0 < min(medians) < 1000


# The probe beside it


class Probed(Bench):
    """Shots take time and raise every counter. `shots` are the numbers of calls before each of them."""

    def __init__(self, *latencies):
        super().__init__(*latencies)
        self.shots = []
        self.counted = 0

    def shoot(self):
        self.shots.append(self.calls)
        self.now += 300_000
        self.counted += 1000

    def counters(self):
        return (self.calls * 7 + self.counted, *(self.counted,) * 3)


def test_a_shot_comes_before_the_first_and_after_every_ten_milliseconds_of_calls():
    bench = Probed(3 * MS)
    sample(bench.run, bench.clock, until(9), bench.shoot)
    assert bench.shots == [0, 4, 8]


def test_each_long_call_has_a_shot():
    bench = Probed(25 * MS)
    sample(bench.run, bench.clock, until(3), bench.shoot)
    assert bench.shots == [0, 1, 2]


def test_neither_samples_nor_counters_hold_anything_of_a_shot(monkeypatch):
    bench = Probed(4 * MS, 8 * MS, 5 * MS)
    monkeypatch.setattr(timing, "counters", bench.counters)
    samples, telemetry = sample(bench.run, bench.clock, until(5), bench.shoot)
    assert samples == [4 * MS, 8 * MS, 5 * MS, 5 * MS, 5 * MS]
    assert bench.shots == [0, 2, 4]
    assert telemetry.cpu_ns == (7,) * 5
    assert telemetry.minor_faults == ()


def test_shots_leave_the_end_where_it_is():
    bench = Probed(4 * MS)
    samples, _ = sample(bench.run, bench.clock, lambda calls, total: calls >= 2 and total >= 15 * MS, bench.shoot)
    assert len(samples) == 4
    assert sample(bench.run, bench.clock, until(0), bench.shoot)[0] == []
    assert len(bench.shots) == 2


def test_shots_are_fired_beside_samples_and_not_in_the_warm_up():
    bench = Probed(6 * MS)
    samples = measure(bench.run, Settings(warmup=5, iterations=3), bench.clock, bench.shoot)
    assert bench.shots == [5, 7]
    assert samples.samples_ns == (6 * MS,) * 3


# Warm-up


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_a_fixed_warm_up_is_obeyed(wanted):
    bench = Bench(7, 5)
    samples, steady = warm_up(bench.run, Settings(warmup=wanted), bench.clock)
    assert samples == [7, 5, 5][:wanted]
    assert steady


@pytest.mark.parametrize(
    ("latencies", "calls"),
    [
        # Windows of 5 calls, at 10 ms: 50 ms each. 0.3 s are 30 calls, and the first was a window by itself.
        ([10 * MS], 31),
        # The first call is a window by itself, the next 3 are one, as 0.25 s were last seen; then three of 5.
        ([250 * MS, 10 * MS], 19),
        # Down after 12 calls: 0.3 s are over after 21, but the last 15 have a trend (z = -2.67); the next 15 have none.
        ([20 * MS] * 12 + [10 * MS], 26),
        # Longer than a window: three calls each, ten in all.
        ([100 * MS], 10),
    ],
    ids=["level from the start", "slow first call", "step", "slow calls"],
)
def test_warm_up_lasts_until_the_latency_is_steady(latencies, calls):
    bench = Bench(*latencies)
    samples, steady = warm_up(bench.run, FREE, bench.clock)
    assert steady
    assert len(samples) == bench.calls == calls
    assert stats.steady(samples)


def test_warm_up_goes_on_while_pages_are_faulted_in(monkeypatch):
    """Latencies alone would call this one steady after 31 calls; its 40th still touches new memory."""
    faulted = itertools.chain(itertools.repeat(0, 28), itertools.repeat(900, 12), itertools.repeat(0))
    total = itertools.accumulate(faulted)
    monkeypatch.setattr(timing, "counters", lambda: (0, 0, next(total), 0))
    bench = Bench(10 * MS)
    samples, steady = warm_up(bench.run, FREE, bench.clock)
    assert steady
    assert 40 < len(samples) <= 50


def test_what_never_settles_is_given_up_and_says_so():
    bench = Drifting()
    samples, steady = warm_up(bench.run, FREE, bench.clock)
    assert not steady
    assert stats.given_up(samples)
    assert not stats.given_up(samples[:-5])


def test_a_clock_that_stands_still_does_not_hold_it_up_for_ever():
    bench = Bench(0)
    samples, steady = warm_up(bench.run, FREE, bench.clock)
    assert not steady
    assert MOST_WARMUP_CALLS <= len(samples) < MOST_WARMUP_CALLS + MOST_ITERATIONS


# A measurement


def test_warm_up_is_kept_apart():
    bench = Bench(90, 80, 5, 6, 7)
    samples = measure(bench.run, Settings(warmup=2, iterations=3), bench.clock)
    assert samples.warmup_ns == (90, 80)
    assert samples.samples_ns == (5, 6, 7)
    assert samples.steady
    assert samples.loops == 1


def test_an_unsteady_measurement_is_flagged_and_has_its_samples_all_the_same():
    bench = Drifting()
    samples = measure(bench.run, Settings(iterations=4), bench.clock)
    assert not samples.steady
    assert len(samples.samples_ns) == 4
    assert len(samples.warmup_ns) == bench.calls - 4


@pytest.mark.parametrize(
    ("latency", "budget_s", "calls"),
    [
        (10 * MS, 20, 200),  # a tenth of the budget is 2 s
        (10 * MS, 1, 10),
        (3000 * MS, 20, LEAST_ITERATIONS),
        (MS // 2, 20, MOST_ITERATIONS),
    ],
)
def test_a_tenth_of_the_budget_is_sampled_within_limits(latency, budget_s, calls):
    bench = Bench(latency)
    samples = measure(bench.run, Settings(warmup=0, budget_s=budget_s), bench.clock)
    assert samples.samples_ns == (latency,) * calls


def test_a_fixed_number_of_iterations_is_obeyed_whatever_the_budget():
    bench = Bench(3000 * MS)
    assert len(measure(bench.run, Settings(warmup=0, iterations=7, budget_s=0.1), bench.clock).samples_ns) == 7


def test_telemetry_is_of_the_samples_alone(monkeypatch):
    rows = [(0, 0, 0, 0), (9, 9, 9, 9), (10, 9, 9, 9), (12, 9, 9, 9), (15, 9, 9, 9)]
    counters_of(monkeypatch, *rows[:2], *rows[1:])
    samples = measure(lambda: None, Settings(warmup=1, iterations=3), itertools.count().__next__)
    assert samples.telemetry.cpu_ns == (1, 2, 3)
    assert samples.telemetry.minor_faults == ()


# The garbage collector


@pytest.fixture
def collector():
    """Leaves Python's collector as it was."""
    was = gc.isenabled()
    yield
    (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_while_the_clock_runs(collector, enabled):
    (gc.enable if enabled else gc.disable)()
    seen = []
    measure(lambda: seen.append(gc.isenabled()), Settings(warmup=1, iterations=2), itertools.count().__next__)
    assert seen == [False] * 3
    assert gc.isenabled() is enabled


@pytest.mark.parametrize("calls", [0, 2], ids=["in warm-up", "in a sample"])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_restored_after_an_exception(collector, enabled, calls):
    (gc.enable if enabled else gc.disable)()
    countdown = itertools.chain([1] * calls, [0])
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 / next(countdown), Settings(warmup=1, iterations=3), itertools.count().__next__)
    assert gc.isenabled() is enabled


def test_garbage_is_collected_before_the_clock_runs(collector):
    gc.enable()
    cycle = [None]
    cycle[0] = cycle
    gone = []
    gc.callbacks.append(lambda phase, _: gone.append(phase))
    try:
        measure(lambda: gone.append("run"), Settings(warmup=0, iterations=1), itertools.count().__next__)
    finally:
        gc.callbacks.pop()
    assert gone == ["start", "stop", "run"]


def test_a_session_notes_when_it_sampled_each_interval():
    """So that who watches a GPU meanwhile judges neither warm-up nor what lies between two intervals."""

    class Sleeping(backends.Session):
        def run(self):
            time.sleep(0.002)

        end_to_end = run

    session = Sleeping()
    began = time.monotonic_ns()
    measured = session.measure(Settings(intervals=("compute", "end_to_end"), warmup=2, iterations=3))
    (first, first_end), (second, second_end) = session.sampled_ns
    assert began + 4_000_000 < first < first_end <= second - 4_000_000 < second_end <= time.monotonic_ns()
    spent = sum(measured.intervals["compute"].samples_ns)
    assert spent <= first_end - first, "what lies between the calls included"


def test_what_the_gpu_does_is_warmed_up_for_longer():
    """Its clocks take a while to rise, and libraries choose kernels meanwhile."""

    class Slowly(backends.Session):
        steady_ns = stats.STEADY_GPU_NS
        calls = 0

        def run(self):
            self.calls += 1

        def clock(self):
            return self.calls * 10_000_000

    (samples,) = Slowly().measure(Settings(intervals=("compute",), iterations=3)).intervals.values()
    assert sum(samples.warmup_ns) >= 1e9
    assert samples.steady
