"""Counters around a measurement: from recorded trees, from garbled ones, and from real threads."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import environment, schema, telemetry
from bench.telemetry import Snapshot

CPU = "sys/devices/system/cpu"
PROCFS = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs /proc with scheduler statistics")
STAT = "7 (odd) name) R 1 7 7 0 -1 4194560 {minor} 0 {major} 0 {user} {system} 0 0 20 0 2 0 100 0 0"
STATUS = "Name:\tx\nvoluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}"
TREE = {
    "proc/stat": "cpu  100 0 50 4000 5 6 7 8 0 0",
    "proc/vmstat": "pswpin 3\npswpout 9",
    "proc/pressure/cpu": "some avg10=1.00 avg60=0.25 avg300=0.09 total=1000",
    "proc/7/stat": STAT.format(minor=10, major=1, user=20, system=5),
    "proc/7/status": "Cpus_allowed_list:\t0-1",
    "proc/7/task/7/schedstat": "1000000 200 5",
    "proc/7/task/7/status": STATUS.format(4, 1),
    "proc/7/task/8/schedstat": "5000 100 5",
    "proc/7/task/8/status": STATUS.format(40, 10),
    "proc/7/cgroup": "3:cpu:/job\n0::/",
    "proc/7/mountinfo": "33 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    "sys/fs/cgroup/cpu/job/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 3000000",
    "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0",
    "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
    "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
    "sys/fs/cgroup/unified/cpu.stat": "usage_usec 5\nnr_throttled 1\nthrottled_usec 500",
    f"{CPU}/online": "0-3",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "2400000",
    f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "1200000",
    f"{CPU}/cpu2/cpufreq/scaling_cur_freq": "9900000",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "1",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "2",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
}


def plant(root, files):
    for name, content in files.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
    return root


# Snapshots


def test_a_recorded_process_is_read_from_all_its_threads(tmp_path):
    seen = telemetry.snapshot(7, plant(tmp_path, TREE))
    assert (seen.voluntary_switches, seen.involuntary_switches) == (44, 11)
    assert (seen.minor_faults, seen.major_faults) == (10, 1)
    assert seen.cpu_ns == 25 * environment.ns_per_tick()
    assert seen.threads == {7: (1000000, 200), 8: (5000, 100)}
    assert (seen.busy_ticks, seen.stolen_ticks, seen.swap_ins) == (163, 8, 3)
    assert (seen.pressure_share, seen.pressure_us) == (0.01, 1000)
    assert (seen.throttled_periods, seen.throttled_us, seen.cpu_quota) == (3, 3500, 0.5)
    assert seen.frequencies_khz == (2400000, 1200000)
    assert seen.thermal_throttles == 3
    assert seen.clocksource == "tsc"


def test_an_empty_tree_gives_clocks_alone(tmp_path):
    seen = telemetry.snapshot(7, tmp_path)
    always = {"monotonic_ns", "suspended_ns", "realtime_offset_ns", "clock_resolution_ns"}
    assert msgspec.structs.asdict(seen).keys() >= always
    assert seen == Snapshot(**{name: getattr(seen, name) for name in always})
    facts = telemetry.between(seen, telemetry.snapshot(7, tmp_path))
    known = {name for name, value in facts.items() if value is not None}
    assert known <= {"wall_ns", "suspended_ns", "clock_step_ns", "clock_resolution_ns"}
    assert telemetry.validity(facts, {}) == ()


def test_kernels_without_scheduler_statistics_write_zeros(tmp_path):
    zeros = {name: "0 0 0" for name in TREE if name.endswith("schedstat")}
    assert telemetry.snapshot(7, plant(tmp_path, TREE | zeros)).threads == {}


NASTY = [
    "",
    "cpu",
    "cpu  1 2 3 4 5 6 7",
    "-1 -1 -1",
    "9" * 5000,
    "99999999999999999999 1",
    "nan inf 1e999",
    "0-4294967295,7-",
    ": : :\n::\n \n:",
    "\0\0",
    "a/../../..:/:\\",
    "some avg10=999.99 avg60=0 avg300=0 total=999999999999999999",
    " - cgroup2\n1 2 3 4 5 - cgroup rw,cpu\n1 2 3 / / rw - cgroup cpu",
    "7 () R",
]
ODD = st.one_of(st.binary(max_size=60), st.sampled_from(NASTY).map(str.encode))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("machine"), TREE)


@settings(max_examples=100, deadline=None)
@given(odd=st.dictionaries(st.sampled_from(sorted(TREE)), ODD, max_size=12))
def test_odd_files_never_raise(machine, odd):
    before = telemetry.snapshot(7, machine)
    try:
        after = telemetry.snapshot(7, plant(machine, odd))
    finally:
        plant(machine, {name: TREE[name] for name in odd})
    for first, second in ((before, after), (after, before)):
        facts = telemetry.between(first, second)
        json.dumps(facts, allow_nan=False)
        telemetry.validity(facts, {})


def test_a_snapshot_survives_a_process_boundary(tmp_path):
    seen = telemetry.snapshot(7, plant(tmp_path, TREE))
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Snapshot) == seen


# Between them


def test_between_is_the_difference():
    tick = environment.ns_per_tick()
    before = Snapshot(
        monotonic_ns=0,
        cpu_ns=100,
        threads={1: (0, 5), 2: (0, 7), 9: (0, 1)},
        busy_ticks=10,
        stolen_ticks=1,
        pressure_us=0,
        throttled_us=9,
        realtime_offset_ns=50,
        frequencies_khz=(1000,),
    )
    after = Snapshot(
        monotonic_ns=100 * tick,
        cpu_ns=100 + 90 * tick,
        threads={1: (90 * tick, 15), 2: (tick, 7), 3: (0, 100)},
        busy_ticks=10 + 150,
        stolen_ticks=1 + 50,
        pressure_us=10 * tick // 1000,
        pressure_share=0.5,
        throttled_us=4,
        realtime_offset_ns=20,
        frequencies_khz=(3000, 2000),
    )
    facts = telemetry.between(before, after)
    assert facts["wall_ns"] == 100 * tick
    assert facts["cpu_ns"] == 90 * tick
    assert facts["run_delay_ns"] == 110
    assert facts["others_cores"] == 0.6
    assert facts["stolen_cores"] == 0.5
    assert facts["steal_share"] == 0.25
    assert (facts["pressure_share"], facts["pressure_10s_share"]) == (0.1, 0.5)
    assert facts["throttled_us"] == 0
    assert facts["clock_step_ns"] == -30
    assert (facts["frequency_min_khz"], facts["frequency_mean_khz"], facts["frequency_max_khz"]) == (1000, 2000, 3000)
    assert (facts["threads"], facts["threads_used"]) == (3, 1)
    assert facts["swap_ins"] is None
    assert telemetry.between(before, before)["others_cores"] is None


def hashing(megabytes, ready, release):
    """A thread that hashes so much, outside the interpreter's lock, and then stays until it is released."""

    def work():
        hashlib.sha256(b"x" * (megabytes << 20)).digest()
        ready.release()
        release.wait()

    return threading.Thread(target=work, daemon=True)


@PROCFS
@pytest.mark.parametrize("workers", [1, 2])
def test_threads_that_work_are_counted_and_others_are_not(workers):
    ready, release = threading.Semaphore(0), threading.Event()
    threads = [hashing(100, ready, release) for _ in range(workers)] + [hashing(1, ready, release)]
    before = telemetry.snapshot()
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            ready.acquire()
        after = telemetry.snapshot()
    finally:
        release.set()
    for thread in threads:
        thread.join()
    assert telemetry.threads_used(before, after) == workers
    assert telemetry.between(before, after)["threads_used"] == workers
    assert telemetry.threads_used(before, after, share=0) >= workers + 1


def test_threads_used_is_unknown_without_counts():
    assert telemetry.threads_used(Snapshot(monotonic_ns=0), Snapshot(monotonic_ns=1)) == 0
    assert telemetry.between(Snapshot(monotonic_ns=0), Snapshot(monotonic_ns=1))["threads_used"] is None


@PROCFS
def test_this_process_and_a_child():
    before = telemetry.snapshot(os.getpid())
    hashlib.sha256(b"x" * (40 << 20)).digest()
    facts = telemetry.between(before, telemetry.snapshot())
    assert facts["cpu_ns"] > 0
    assert facts["wall_ns"] > 0
    assert facts["minor_faults"] > 0
    assert facts["run_delay_ns"] is not None
    assert abs(facts["clock_step_ns"]) < telemetry.CLOCK_STEP_NS
    assert facts["clock_resolution_ns"] > 0
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert telemetry.snapshot(child.pid).minor_faults > 0
    finally:
        child.communicate(b"\n")
    assert telemetry.snapshot(child.pid).cpu_ns is None


def test_without_proc_psutil_answers(monkeypatch):
    for module in (environment, telemetry):
        monkeypatch.setattr(module, "read", lambda root, name: "")
    monkeypatch.setattr(telemetry, "names", lambda root, folder, pattern="": [])
    monkeypatch.setattr(telemetry, "_own_usage", dict)
    seen = telemetry.snapshot()
    assert seen.cpu_ns > 0
    assert seen.busy_ticks > 0
    assert threading.get_native_id() in seen.threads
    assert telemetry.between(seen, seen)["run_delay_ns"] is None


# Validity

QUIET = {
    "wall_ns": 2_000_000_000,
    "cpu_ns": 1_990_000_000,
    "run_delay_ns": 1_000_000,
    "involuntary_switches": 8,
    "others_cores": 0.03,
    "steal_share": 0.0,
    "pressure_share": 0.01,
    "cpu_quota": 1.0,
    "throttled_periods": 0,
    "thermal_throttles": 0,
    "swap_ins": 0,
    "suspended_ns": 40,
    "clock_step_ns": -900,
    "clock_resolution_ns": 40,
    "clocksource": "tsc",
    "clocksource_before": "tsc",
    "threads_used": 1,
}
CALM = {"involuntary_switches": (0, 0, 0, 0, 1), "minor_faults": (0, 0, 60, 0, 0), "major_faults": (0,) * 5}


def test_a_quiet_measurement_is_sound():
    assert telemetry.validity(QUIET, CALM) == ()
    assert telemetry.validity({}, {}) == ()


@pytest.mark.parametrize(
    ("change", "reason", "evidence"),
    [
        ({"throttled_periods": 3, "throttled_us": 41500}, "throttled", "3 periods and was stopped for 41.5 ms"),
        ({"cpu_quota": 0.5}, "confined", "the cgroup allows 0.5 of a CPU"),
        ({"thermal_throttles": 2}, "throttled", "heat or power 2 times"),
        ({"swap_ins": 5}, "swapping", "5 pages"),
        ({"suspended_ns": 3 * 10**9}, "suspended", "3.000 s"),
        ({"clock_step_ns": -2_500_000}, "clock_step", "-2.5 ms"),
        ({"clocksource": "hpet"}, "coarse_clock", "hpet"),
        ({"clocksource": "kvm-clock"}, "coarse_clock", "from tsc to kvm-clock"),
        ({"clock_resolution_ns": 15_600_000}, "coarse_clock", "15600000 ns"),
        ({"others_cores": 0.26}, "contended", "others used 0.26 cores (limit 0.25)"),
        ({"steal_share": 0.05}, "contended", "withheld 5.0%"),
        ({"pressure_share": 0.3}, "contended", "in 30% of the time (limit 10%)"),
        ({"run_delay_ns": 1_990_000_000}, "contended", "waited 50% of their time"),
    ],
)
def test_each_fact_against_a_number_has_a_name_and_evidence(change, reason, evidence):
    (found,) = telemetry.validity(QUIET | change, CALM)
    assert isinstance(found, schema.Validity)
    assert found.reason == reason
    assert evidence in found.evidence


def test_a_reason_is_given_once_with_all_its_evidence():
    (found,) = telemetry.validity(QUIET | {"others_cores": 1.0, "pressure_share": 0.5}, CALM)
    assert (found.reason, found.evidence.count(";")) == ("contended", 1)


STEADY = (300_000, 301_000, 302_000, 303_000, 304_000)


@pytest.mark.parametrize(
    ("shots", "reason", "evidence"),
    [
        ((300_000, 315_000, 330_000, 345_000, 360_000), "noisy", "the compute probe varied by 6.7% (SD, limit 3%)"),
        # Five of six shots at one speed are within 3 %, and three of twelve are enough for a second one.
        (STEADY * 2 + (340_000, 341_000, 342_000), "bimodal", "the compute probe ran at two speeds, 11.9% apart"),
    ],
)
def test_what_the_probe_says_against_the_machine(shots, reason, evidence):
    (found,) = telemetry.validity(QUIET | {"probe_ns": {"compute": list(shots)}}, CALM)
    assert (found.reason, found.evidence) == (reason, evidence)


@pytest.mark.parametrize("shots", [(), STEADY, STEADY * 9, (300_000, 330_000, 360_000)])
def test_a_steady_probe_and_a_few_shots_say_nothing(shots):
    assert telemetry.validity({"probe_ns": {"compute": list(shots)}}, {}) == ()


def test_each_interval_has_its_own_shots():
    shots = {"compute": [300_000] * 9, "end_to_end": [400_000] * 9}
    assert telemetry.validity({"probe_ns": shots}, {}) == ()


def test_contention_is_not_judged_from_a_few_ticks():
    assert telemetry.validity(QUIET | {"wall_ns": 50_000_000, "others_cores": 0.9}, {}) == ()


@pytest.mark.parametrize(
    ("iterations", "reason", "evidence"),
    [
        ({"involuntary_switches": (0, 0, 0, 4)}, "preempted", "in 25% of iterations (limit 20%)"),
        ({"minor_faults": (500, 0, 1100)}, "faulting", "500 minor page faults per iteration in the median (limit 50)"),
        ({"major_faults": (0, 2)}, "faulting", "from disk in 50% of iterations"),
    ],
)
def test_disturbed_iterations(iterations, reason, evidence):
    (found,) = telemetry.validity({}, iterations)
    assert (found.reason, evidence in found.evidence) == (reason, True)


@pytest.mark.parametrize(("switches", "threads", "judged"), [(12, 1, False), (62, 1, True), (62, 2, False)])
def test_long_inferences_may_meet_a_kernel_thread_each(switches, threads, judged):
    facts = QUIET | {"involuntary_switches": switches, "threads_used": threads}
    found = telemetry.validity(facts, {"involuntary_switches": (1,) * 10})
    assert [each.reason for each in found] == ["preempted"] * judged


def test_paddles_second_thread_shows_by_itself():
    """A process asked for one thread that frees its tensors in another: 54 switches, 500 to 1,100 faults a call."""
    facts = QUIET | {"involuntary_switches": 9000, "threads_used": 2}
    bad = {"involuntary_switches": (54,) * 160, "minor_faults": (500, 1100) * 80}
    assert [each.reason for each in telemetry.validity(facts, bad)] == ["preempted", "faulting"]


def test_unfit_reasons_are_reasons():
    facts = QUIET | {"throttled_periods": 1, "swap_ins": 1, "clocksource": "acpi_pm", "clocksource_before": "acpi_pm"}
    assert {each.reason for each in telemetry.validity(facts, CALM)} == telemetry.UNFIT
