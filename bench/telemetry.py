"""What happened around a measurement: counters read right before and right after it, and what they say against it.

A snapshot costs well under a millisecond for a process of a few threads. Reasons named here are reasons to distrust a
number. Facts that make every number on a machine noisier are advice instead (`environment.advice`).
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from bench import stats
from bench.environment import (
    FINE_CLOCKS,
    OTHERS_CORES,
    PRESSURE_SHARE,
    STEAL_SHARE,
    Root,
    ask_psutil,
    cgroup_folders,
    counters,
    cpu_quota,
    cpus_available,
    live,
    names,
    ns_per_tick,
    number,
    pressure,
    processor_ticks,
    read,
)
from bench.schema import Frozen, Validity

# Source of the thresholds without another one, and the list of all reasons: docs/validity.md.
PREEMPTED_SHARE = 0.20
# Long inferences meet a kernel thread each even on an idle machine, so the share alone would condemn every one above
# 40 ms. Of our recorded processes the quiet ones have at most 6 switches a second, nine in ten beside a busy loop 25.
PREEMPTED_PER_S = 20
RUN_DELAY_SHARE = 0.10  # as for pressure, but of this process alone
# About 1 µs each where memory is virtual (0.98 µs measured), so 50 µs: the default margin of `bench compare`, 0.5 %, of
# a 10 ms inference. A sound runtime has none, and one that frees its tensors in each inference 500 to 1,100.
MINOR_FAULTS = 50
MAJOR_FAULT_SHARE = 0.01  # from there on p99 is the disk's
CLOCK_RESOLUTION_NS = 1000
# Of quiet processes the shots of the compute probe differ by 0.3 to 0.8 % (12 processes, robust SD).
PROBE_SPREAD = 0.03
LEAST_SHOTS = 5
# Time services slew both clocks alike, and step one only by more than this; reading two clocks differs by microseconds.
CLOCK_STEP_NS = 1_000_000
# Below this, ticks of 10 ms cannot tell a quarter of a core from nothing.
LEAST_WINDOW_NS = 200_000_000
MOST_CPUS_READ = 16
# With these reasons a comparison gives no verdict; with the others it goes on and says so.
UNFIT = frozenset({"throttled", "swapping", "coarse_clock"})


class Snapshot(Frozen, frozen=True):
    """Counters of one process and of its machine at one moment, all of them running totals; None is unknown.

    `threads` maps the id of each living thread to its CPU time and the time it waited for a CPU, both in ns. The sums
    of this process include threads that have ended; switches of another process are of its living threads alone.
    """

    monotonic_ns: int
    suspended_ns: int | None = None
    realtime_offset_ns: int | None = None
    clock_resolution_ns: int | None = None
    clocksource: str | None = None
    cpu_ns: int | None = None
    threads: dict[int, tuple[int, int | None]] = {}
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    busy_ticks: int | None = None
    stolen_ticks: int | None = None
    pressure_share: float | None = None
    pressure_us: int | None = None
    cpu_quota: float | None = None
    throttled_periods: int | None = None
    throttled_us: int | None = None
    swap_ins: int | None = None
    frequencies_khz: tuple[int, ...] = ()
    thermal_throttles: int | None = None


def snapshot(pid: int | str = "self", root: Root = "/") -> Snapshot:
    """Reads the counters of process `pid` and of the machine, now. Nothing is raised for what cannot be read."""
    pid = "self" if pid == os.getpid() else pid
    ticks, waiting = processor_ticks(root), pressure(root)
    return Snapshot(
        **_clocks(root),
        **_process(pid, root),
        **_throttling(root, pid),
        **_frequency(root, cpus_available(root, pid)),
        threads=_threads(root, pid),
        busy_ticks=ticks[0] if ticks else None,
        stolen_ticks=ticks[1] if ticks else None,
        pressure_share=waiting[0] if waiting else None,
        pressure_us=waiting[1] if waiting else None,
        cpu_quota=cpu_quota(root, pid),
        swap_ins=counters(read(root, "proc/vmstat")).get("pswpin"),
    )


def _clocks(root: Root) -> dict[str, Any]:
    """Elsewhere than on Linux the wall clock drifts against the monotonic one by itself, so it proves nothing."""
    facts: dict[str, Any] = {"monotonic_ns": time.monotonic_ns(), "clock_resolution_ns": _resolution_ns()}
    facts["clocksource"] = read(root, "sys/devices/system/clocksource/clocksource0/current_clocksource") or None
    if sys.platform == "linux":
        facts["suspended_ns"] = _offset_ns(time.CLOCK_BOOTTIME)
        facts["realtime_offset_ns"] = _offset_ns(time.CLOCK_REALTIME)
    return facts


def _resolution_ns() -> int | None:
    """The smallest step between readings of the clock that times inferences, which the system's own figure hides."""
    readings = [time.perf_counter_ns() for _ in range(50)]
    steps = (later - earlier for earlier, later in itertools.pairwise(readings))
    return min((step for step in steps if step > 0), default=None)


if sys.platform == "linux":

    def _offset_ns(clock: int) -> int:
        """How far `clock` is ahead of the monotonic one: of three tries, that with the least time between readings."""
        tries = []
        for _ in range(3):
            before = time.monotonic_ns()
            there = time.clock_gettime_ns(clock)
            after = time.monotonic_ns()
            tries.append((after - before, there - (before + after) // 2))
        return min(tries)[1]


def _process(pid: int | str, root: Root) -> dict[str, Any]:
    """CPU time, switches and faults: of this process the system's own account, of others from /proc or psutil."""
    if pid == "self" and live(root) and (own := _own_usage()):
        return own
    # Behind the command's name, which may itself hold brackets and spaces, field 3 of the manual comes first.
    stat = read(root, f"proc/{pid}/stat").rpartition(")")[2].split()
    if len(stat) < 13:
        return _process_elsewhere(pid, root)
    minor, major, user, system = (number(stat[field - 3]) for field in (10, 12, 14, 15))
    threads = names(root, f"proc/{pid}/task", r"[0-9]+")
    switches = [counters(read(root, f"proc/{pid}/task/{thread}/status")) for thread in threads]
    return {
        "cpu_ns": (user + system) * ns_per_tick() if user is not None and system is not None else None,
        "voluntary_switches": _total(switches, "voluntary_ctxt_switches"),
        "involuntary_switches": _total(switches, "nonvoluntary_ctxt_switches"),
        "minor_faults": minor,
        "major_faults": major,
    }


def _total(rows: Sequence[Mapping[str, int]], name: str) -> int | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) if values else None


def _own_usage() -> dict[str, Any]:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return {}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_ns": time.process_time_ns(),
        "voluntary_switches": usage.ru_nvcsw,
        "involuntary_switches": usage.ru_nivcsw,
        "minor_faults": usage.ru_minflt,
        "major_faults": usage.ru_majflt,
    }


def _process_elsewhere(pid: int | str, root: Root) -> dict[str, Any]:
    process = ask_psutil(root, "Process", **({} if pid == "self" else {"pid": pid}))
    try:
        times, switches = process.cpu_times(), process.num_ctx_switches()
    except Exception:  # psutil raises what the system below it does; None has neither
        return {}
    # Windows cannot tell the kinds of switches apart, and psutil calls all of them voluntary there.
    counted = sys.platform != "win32"
    return {
        "cpu_ns": int((times.user + times.system) * 1e9),
        "voluntary_switches": switches.voluntary if counted else None,
        "involuntary_switches": switches.involuntary if counted else None,
    }


def _threads(root: Root, pid: int | str) -> dict[int, tuple[int, int | None]]:
    """Each living thread's account. /proc/<pid>/schedstat is of the first thread alone, despite its name."""
    found: dict[int, tuple[int, int | None]] = {}
    for thread in names(root, f"proc/{pid}/task", r"[0-9]{1,10}"):
        words = [number(word) for word in read(root, f"proc/{pid}/task/{thread}/schedstat").split()]
        if len(words) == 3 and words[0] is not None and words[1] is not None:
            found[int(thread)] = (words[0], words[1])
    # Kernels without scheduler statistics have the file and write zeros.
    return found if any(run for run, _ in found.values()) else _threads_elsewhere(root, pid)


def _threads_elsewhere(root: Root, pid: int | str) -> dict[int, tuple[int, int | None]]:
    process = ask_psutil(root, "Process", **({} if pid == "self" else {"pid": pid}))
    try:
        return {each.id: (int((each.user_time + each.system_time) * 1e9), None) for each in process.threads()}
    except Exception:  # as above; macOS wants root for other processes
        return {}


def _throttling(root: Root, pid: int | str) -> dict[str, Any]:
    """Periods and time in which the cgroup or a parent of it was out of quota, each counting its own."""
    stats = [counters(read(root, f"{folder}/cpu.stat")) for folder in cgroup_folders("cpu", root, pid)]
    v1, v2 = _total(stats, "throttled_time"), _total(stats, "throttled_usec")  # ns, µs
    known = v1 is not None or v2 is not None
    return {
        "throttled_periods": _total(stats, "nr_throttled"),
        "throttled_us": (v1 or 0) // 1000 + (v2 or 0) if known else None,
    }


def _frequency(root: Root, cpus: Sequence[int]) -> dict[str, Any]:
    """Clocks and thermal throttling of the first CPUs: a reading may interrupt a CPU, and a server has hundreds."""
    folders = [f"sys/devices/system/cpu/cpu{cpu}" for cpu in cpus[:MOST_CPUS_READ]]
    clocks = [number(read(root, f"{folder}/cpufreq/scaling_cur_freq")) for folder in folders]
    throttles = [
        number(read(root, f"{folder}/thermal_throttle/{kind}_throttle_count"))
        for folder in folders
        for kind in ("core", "package")
    ]
    known = [count for count in throttles if count is not None]
    return {
        "frequencies_khz": tuple(clock for clock in clocks if clock is not None),
        "thermal_throttles": sum(known) if known else None,
    }


def between(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What happened from one snapshot to the other: plain numbers for a record, shares of 1, None where unknown.

    `others_cores` is all CPU time of the machine but this process's own, `run_delay_ns` what its threads waited for a
    CPU, `pressure_share` how much of the time any task did. Threads that ended in between are missing from
    `run_delay_ns` and `threads_used`. Frequencies are of both moments together.
    """
    wall_ns = max(0, after.monotonic_ns - before.monotonic_ns)
    frequencies = before.frequencies_khz + after.frequencies_khz
    pressure_us = _gain(before.pressure_us, after.pressure_us)
    return {
        "wall_ns": wall_ns,
        "cpu_ns": _gain(before.cpu_ns, after.cpu_ns),
        "run_delay_ns": _run_delay_ns(before, after),
        **{name: _gain(getattr(before, name), getattr(after, name)) for name in COUNTED},
        **_shares(before, after, wall_ns),
        "pressure_share": _share(pressure_us * 1000 if pressure_us is not None else None, wall_ns),
        "pressure_10s_share": after.pressure_share,
        "cpu_quota": after.cpu_quota,
        "frequency_min_khz": min(frequencies, default=None),
        "frequency_max_khz": max(frequencies, default=None),
        "frequency_mean_khz": round(fmean(frequencies)) if frequencies else None,
        "suspended_ns": _gain(before.suspended_ns, after.suspended_ns),
        "clock_step_ns": _difference(before.realtime_offset_ns, after.realtime_offset_ns),
        "clock_resolution_ns": after.clock_resolution_ns,
        "clocksource": after.clocksource,
        "clocksource_before": before.clocksource,
        "threads": len(after.threads) or None,
        "threads_used": threads_used(before, after) or None,
    }


COUNTED = (
    "voluntary_switches",
    "involuntary_switches",
    "minor_faults",
    "major_faults",
    "throttled_periods",
    "throttled_us",
    "thermal_throttles",
    "swap_ins",
)


def threads_used(before: Snapshot, after: Snapshot, share: float = 0.1) -> int:
    """How many threads did the work: those with at least `share` of the busiest one's CPU time; 0 where unknown.

    Call it on snapshots around inferences alone, since threads that load or compile count too. A thread that ended
    before `after` was taken is not seen.
    """
    spent = [run - before.threads.get(thread, (0, 0))[0] for thread, (run, _) in after.threads.items()]
    busiest = max(spent, default=0)
    return sum(each >= share * busiest for each in spent) if busiest > 0 else 0


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _gain(before: int | None, after: int | None) -> int | None:
    """The difference of a running total, which falls only where a process changed its cgroup or a CPU went offline."""
    return None if before is None or after is None else max(0, after - before)


def _share(part: float | None, whole: float | None) -> float | None:
    return round(part / whole, 4) if part is not None and whole else None


def _run_delay_ns(before: Snapshot, after: Snapshot) -> int | None:
    delays = []
    for thread, (_, wait) in after.threads.items():
        earlier = before.threads.get(thread, (0, 0))[1]
        if wait is not None and earlier is not None:
            delays.append(max(0, wait - earlier))
    return sum(delays) if delays else None


def _shares(before: Snapshot, after: Snapshot, wall_ns: int) -> dict[str, float | None]:
    """Others' use in cores, and the hypervisor's part of the CPU time wanted: of all, idle CPUs would dilute it."""
    busy, stolen = _gain(before.busy_ticks, after.busy_ticks), _gain(before.stolen_ticks, after.stolen_ticks)
    own = _gain(before.cpu_ns, after.cpu_ns)
    others_ns = max(0, busy * ns_per_tick() - own) if busy is not None and own is not None else None
    wanted = busy + stolen if busy is not None and stolen is not None else None
    return {
        "others_cores": _share(others_ns, wall_ns),
        "stolen_cores": _share(stolen * ns_per_tick() if stolen is not None else None, wall_ns),
        "steal_share": _share(stolen, wanted),
    }


# Validity


def validity(facts: Mapping[str, Any], iterations: Mapping[str, Sequence[int]]) -> tuple[Validity, ...]:
    """The reasons to distrust what was measured, each once and with its evidence.

    `facts` is what `between` gives, and under `probe_ns` the shots of the compute probe by interval; `iterations` has a
    count an iteration under `involuntary_switches`, `minor_faults` and `major_faults` (`schema.Telemetry` by name).
    What is missing in either is not judged.
    """
    found: dict[str, list[str]] = {}
    wavering = (wavered(shots) for shots in (facts.get("probe_ns") or {}).values())
    for rules in (_stops(facts), _clock_faults(facts), _contention(facts), _disturbed(facts, iterations), *wavering):
        for reason, evidence in rules:
            found.setdefault(reason, []).append(evidence)
    return tuple(Validity(reason=reason, evidence="; ".join(words)) for reason, words in found.items())


Finding = tuple[str, str]


def _stops(facts: Mapping[str, Any]) -> Iterator[Finding]:
    if periods := facts.get("throttled_periods"):
        lost_ms = (facts.get("throttled_us") or 0) / 1000
        yield "throttled", f"the cgroup ran out of CPU quota in {periods} periods and was stopped for {lost_ms:.1f} ms"
    if (quota := facts.get("cpu_quota")) is not None and quota < 1:
        yield "confined", f"the cgroup allows {quota:g} of a CPU"
    if times := facts.get("thermal_throttles"):
        yield "throttled", f"CPUs were slowed down for heat or power {times} times"
    if pages := facts.get("swap_ins"):
        yield "swapping", f"{pages} pages were read back from swap on this machine"
    if (suspended_ns := facts.get("suspended_ns") or 0) > CLOCK_STEP_NS:
        yield "suspended", f"the machine was suspended for {suspended_ns / 1e9:.3f} s"


def _clock_faults(facts: Mapping[str, Any]) -> Iterator[Finding]:
    step_ns, resolution_ns = facts.get("clock_step_ns") or 0, facts.get("clock_resolution_ns") or 0
    source, earlier = facts.get("clocksource"), facts.get("clocksource_before")
    if abs(step_ns) > CLOCK_STEP_NS:
        yield "clock_step", f"the wall clock was set by {step_ns / 1e6:+.1f} ms against the monotonic one"
    if source is not None and source not in FINE_CLOCKS:
        yield "coarse_clock", f"the clock source is {source}, not one of {', '.join(sorted(FINE_CLOCKS))}"
    if earlier is not None and source is not None and source != earlier:
        yield "coarse_clock", f"the kernel changed the clock source from {earlier} to {source}"
    if resolution_ns > CLOCK_RESOLUTION_NS:
        yield "coarse_clock", f"the clock moves in steps of {resolution_ns} ns (limit {CLOCK_RESOLUTION_NS} ns)"


def _contention(facts: Mapping[str, Any]) -> Iterator[Finding]:
    if (facts.get("wall_ns") or 0) < LEAST_WINDOW_NS:
        return
    others, stolen = facts.get("others_cores") or 0, facts.get("steal_share") or 0
    waiting, delay_ns, cpu_ns = (facts.get(name) or 0 for name in ("pressure_share", "run_delay_ns", "cpu_ns"))
    delayed = delay_ns / (delay_ns + cpu_ns) if delay_ns else 0
    if others > OTHERS_CORES:
        yield "contended", f"others used {others:.2f} cores (limit {OTHERS_CORES})"
    if stolen > STEAL_SHARE:
        yield "contended", f"the hypervisor withheld {stolen:.1%} of the CPU time wanted (limit {STEAL_SHARE:.0%})"
    if waiting > PRESSURE_SHARE:
        yield "contended", f"tasks waited for a CPU in {waiting:.0%} of the time (limit {PRESSURE_SHARE:.0%})"
    if delayed > RUN_DELAY_SHARE:
        yield (
            "contended",
            f"threads of this process waited {delayed:.0%} of their time for a CPU (limit {RUN_DELAY_SHARE:.0%})",
        )


def wavered(shots: Sequence[int]) -> Iterator[Finding]:
    """What the shots of the compute probe, in ns, say against a constant speed of the machine."""
    if len(shots) < LEAST_SHOTS:
        return
    if (spread := stats.robust_sd(shots) / stats.median(shots)) > PROBE_SPREAD:
        yield "noisy", f"the compute probe varied by {spread:.1%} (SD, limit {PROBE_SPREAD:.0%})"
    if (modes := stats.modes(shots)).bimodal:
        yield "bimodal", f"the compute probe ran at two speeds, {modes.gap:.1%} apart"


def _disturbed(facts: Mapping[str, Any], iterations: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    switches, minor, major = (iterations.get(name) or () for name in ITERATION_COUNTS)
    rate = _switches_per_s(facts)
    if (share := _share_above_zero(switches)) > PREEMPTED_SHARE and (rate is None or rate > PREEMPTED_PER_S):
        often = "" if rate is None else f", {rate:.0f} a second and thread (limit {PREEMPTED_PER_S})"
        yield (
            "preempted",
            f"involuntary context switches in {share:.0%} of iterations (limit {PREEMPTED_SHARE:.0%}){often}",
        )
    if minor and (faults := median(minor)) > MINOR_FAULTS:
        yield "faulting", f"{faults:g} minor page faults per iteration in the median (limit {MINOR_FAULTS})"
    if (share := _share_above_zero(major)) > MAJOR_FAULT_SHARE:
        yield (
            "faulting",
            f"pages were read from disk in {share:.0%} of iterations (limit {MAJOR_FAULT_SHARE:.0%})",
        )


ITERATION_COUNTS = ("involuntary_switches", "minor_faults", "major_faults")


def _switches_per_s(facts: Mapping[str, Any]) -> float | None:
    """Involuntary ones, of each thread that works; None when unknown."""
    switches, wall_ns = facts.get("involuntary_switches"), facts.get("wall_ns")
    if switches is None or not wall_ns:
        return None
    return float(switches / (wall_ns / 1e9) / (facts.get("threads_used") or 1))


def _share_above_zero(counts: Sequence[int]) -> float:
    return sum(count > 0 for count in counts) / len(counts) if counts else 0.0
