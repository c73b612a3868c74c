"""What the state of a GPU says against a number measured on it, and what to do about it: words, never commands run.

Every rule and limit: docs/validity.md.
"""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import msgspec

from bench.errors import GPU_LOST
from bench.gpu.nvml import Facts, State
from bench.gpu.selection import Capability, Gpu, disable_mig
from bench.schema import Frozen, Validity

# Bits of nvmlDeviceGetCurrentClocksEventReasons (NVIDIA: NvmlClocksEventReasons). GpuIdle 0x1, clocks set by the user
# 0x2 and by a display 0x100 are in order.
POWER_CAP = 0x4
SLOWED = {
    0x8: "HwSlowdown",
    0x10: "SyncBoost",
    0x20: "SwThermalSlowdown",
    0x40: "HwThermalSlowdown",
    0x80: "HwPowerBrakeSlowdown",
    0x200: "BoardLimit",
    0x400: "Reliability",
}
PASSED_THROUGH = 1
VIRTUAL = {2: "a vGPU", 3: "a host of vGPUs", 4: "a host of vSGAs"}
TURING: Capability = (7, 5)
PIDS = ("compute_pids", "graphics_pids", "mps_pids")


class Limits(Frozen, frozen=True):
    """From where on a state is worth a word. The 10 % below the highest clock are our choice, the rest is custom."""

    clock_spread: float = 0.03
    clock_loss: float = 0.10
    slowdown_margin_c: int = 5
    utilisation_percent: int = 5


LIMITS = Limits()


class Look(Frozen, frozen=True):
    """A GPU at rest, before the worker was started or after it ended."""

    facts: Facts
    state: State


class Work(Frozen, frozen=True):
    """What was done meanwhile: process ids of our own, whether copies were timed, and how watching ended."""

    own: frozenset[int] = frozenset()
    copies: bool = False
    capability: Capability | None = None
    failure: str = ""


UNKNOWN = Work()


class Watch(Frozen, frozen=True):
    """All that the rules look at."""

    before: Look
    during: tuple[State, ...]
    after: Look
    limits: Limits
    work: Work

    def seen(self, field: str) -> list[int]:
        """What a field of the state was while the worker was timed, where it was told."""
        return [value for state in self.during if (value := getattr(state, field)) is not None]


def within(states: Sequence[State], start_ns: int, end_ns: int) -> tuple[State, ...]:
    """Those of the timed window, on the monotonic clock; the worker's own start-up and warm-up are not judged."""
    return tuple(state for state in states if start_ns <= state.monotonic_ns <= end_ns)


def deviations(
    before: Look, during: Sequence[State], after: Look, limits: Limits = LIMITS, work: Work = UNKNOWN
) -> tuple[Validity, ...]:
    """The reasons to distrust what was measured `during`, each once; what NVML doesn't tell is not judged."""
    watch = Watch(before, tuple(during), after, limits, work)
    found: dict[str, list[str]] = {}
    for rule in (_unwatched, _events, _clocks, _power, _temperature, _memory, _modes, _link, _neighbours):
        for reason, evidence in rule(watch):
            found.setdefault(reason, []).append(evidence)
    return tuple(Validity(reason=reason, evidence="; ".join(words)) for reason, words in found.items())


Finding = tuple[str, str]


def _unwatched(watch: Watch) -> Iterator[Finding]:
    if watch.work.failure:
        yield "unwatched", watch.work.failure
    elif not watch.seen("sm_clock_mhz") and not watch.seen("events"):
        why = watch.during[-1].missing.get("sm_clock_mhz", "") if watch.during else "no sample is of that time"
        yield "unwatched", f"nothing is known of the GPU's clocks while it was timed: {why}"
    if any(state.lost for state in (*watch.during, watch.after.state)):
        yield "unreliable", GPU_LOST


def _events(watch: Watch) -> Iterator[Finding]:
    masks = watch.seen("events")
    for bit, name in SLOWED.items():
        if times := sum(bool(mask & bit) for mask in masks):
            yield "throttled", f"the GPU slowed down for {name} in {times} of {len(masks)} samples"
    if times := sum(bool(mask & POWER_CAP) for mask in masks):
        yield "power_capped", f"the power limit held the clocks in {times} of {len(masks)} samples"


def _clocks(watch: Watch) -> Iterator[Finding]:
    """A clock that never moves may be locked, which is as it should be; there is no way to ask."""
    clocks, limits, highest = watch.seen("sm_clock_mhz"), watch.limits, watch.before.facts.max_sm_clock_mhz
    if len(clocks) < 2 or constant(watch.during):
        return
    low, high, middle = min(clocks), max(clocks), median(clocks)
    if (spread := (high - low) / middle) > limits.clock_spread:
        yield (
            "drifting",
            f"the SM clock moved between {low} and {high} MHz, {spread:.1%} (limit {limits.clock_spread:.0%})",
        )
    if highest and middle < highest * (1 - limits.clock_loss):
        yield "drifting", f"the SM clock, not locked, was {middle:g} MHz in the median, the GPU has {highest} MHz"


def constant(states: Sequence[State]) -> bool:
    """Whether the SM clock had one value in all samples, as a locked one has."""
    clocks = {state.sm_clock_mhz for state in states}
    return len(clocks) == 1 and None not in clocks


def _power(watch: Watch) -> Iterator[Finding]:
    limit, default = watch.before.facts.power_limit_mw, watch.before.facts.default_power_limit_mw
    if limit is not None and default is not None and limit != default:
        yield "misconfigured", f"the power limit is {limit / 1000:g} W, by default {default / 1000:g} W"


def _temperature(watch: Watch) -> Iterator[Finding]:
    hottest, slowdown = max(watch.seen("temperature_c"), default=None), watch.before.facts.slowdown_c
    if hottest is not None and slowdown and hottest >= slowdown - watch.limits.slowdown_margin_c:
        yield "hot", f"the GPU reached {hottest} °C and slows down at {slowdown} °C"


def _memory(watch: Watch) -> Iterator[Finding]:
    facts = watch.after.facts
    if facts.ecc is not None and facts.ecc_pending is not None and facts.ecc != facts.ecc_pending:
        yield "misconfigured", f"ECC is {_on(facts.ecc)} and will be {_on(facts.ecc_pending)} after a reboot"
    if facts.uncorrected_errors:
        yield "unreliable", f"{facts.uncorrected_errors} uncorrected memory errors since the driver was loaded"


def _on(mode: int) -> str:
    return "on" if mode else "off"


def _modes(watch: Watch) -> Iterator[Finding]:
    facts, states = watch.before.facts, watch.seen("performance_state")
    if facts.mig:
        yield "misconfigured", "MIG is enabled: a slice of a GPU is not the GPU"
    if facts.persistence == 0:
        yield "misconfigured", "persistence mode is off, so the driver forgets its state between processes"
    # As clouds let GPUs: nothing a user could set otherwise, so that it must not hide what is.
    if facts.virtualisation == PASSED_THROUGH:
        yield "passed_through", "the whole GPU is passed through to a virtual machine"
    elif facts.virtualisation:
        yield "misconfigured", f"the GPU is {VIRTUAL.get(facts.virtualisation, 'virtual')}"
    if facts.display_active:
        yield "misconfigured", "a display is active on the GPU"
    # Newer GPUs of the consumer kind compute in P2 by default.
    if states and max(states) > 0 and watch.work.capability is not None and watch.work.capability <= TURING:
        yield "misconfigured", f"the GPU was in performance state P{max(states)}, not P0, under load"


def _link(watch: Watch) -> Iterator[Finding]:
    """Judged by what was seen under load, since idle links drop their generation; and only where copies count."""
    facts = watch.before.facts
    if not watch.work.copies:
        return
    for word, field, most in (
        ("generation", "pcie_generation", facts.max_pcie_generation),
        ("width", "pcie_width", facts.max_pcie_width),
    ):
        best = max(watch.seen(field), default=None)
        if best is not None and most is not None and best < most:
            yield "misconfigured", f"the PCIe link had {word} {best} under load, it can have {most}"


def _neighbours(watch: Watch) -> Iterator[Finding]:
    busy, limit = watch.before.state.utilisation_percent or 0, watch.limits.utilisation_percent
    if strangers := sorted(neighbours(watch.before.state, watch.during, watch.work.own)):
        yield "contended", f"other processes were on the GPU: {', '.join(map(str, strangers))}"
    if busy > limit:
        yield "contended", f"the GPU was {busy}% busy before the worker was started (limit {limit}%)"


def neighbours(before: State, during: Sequence[State], own: frozenset[int]) -> frozenset[int]:
    """Processes on the GPU that are not `own`.

    In a container the driver counts processes otherwise than we do. Then none of `own` is seen, and the one process
    that came after `before` is taken for ours.
    """
    seen = frozenset(pid for state in during for pid in state.pids)
    if own & seen:
        return (seen | before.pids) - own
    fresh = seen - before.pids
    return (before.pids | (fresh if len(fresh) > 1 else frozenset())) - own


def summary(before: Look, during: Sequence[State], after: Look, own: frozenset[int] = frozenset()) -> dict[str, Any]:
    """For a record: plain numbers, None where unknown, for which `missing` has the reasons. `own` are process ids.

    `sm_clock` is "constant" where it had one value under load; `facts` are those of before, in NVML's numbers.
    """
    watch = Watch(before, tuple(during), after, LIMITS, UNKNOWN)
    clocks, events = watch.seen("sm_clock_mhz"), watch.seen("events")
    facts = msgspec.structs.asdict(before.facts)
    del facts["missing"]
    told: tuple[Facts | State, ...] = (before.facts, after.facts, before.state, *during, after.state)
    return {
        "samples": len(during),
        "sm_clock": "constant" if constant(during) else "varying" if clocks else None,
        **_range("sm_clock_mhz", clocks),
        **_range("memory_clock_mhz", watch.seen("memory_clock_mhz")),
        **_range("power_mw", watch.seen("power_mw")),
        **_range("temperature_c", watch.seen("temperature_c")),
        "memory_used_bytes_before": before.state.memory_used_bytes,
        "memory_used_bytes_max": max(watch.seen("memory_used_bytes"), default=None),
        "events": {name: sum(bool(mask & bit) for mask in events) for bit, name in EVENTS.items()} if events else None,
        "sm_clock_mhz_before": before.state.sm_clock_mhz,
        "sm_clock_mhz_after": after.state.sm_clock_mhz,
        "temperature_c_before": before.state.temperature_c,
        "temperature_c_after": after.state.temperature_c,
        "performance_state": max(watch.seen("performance_state"), default=None),
        "pcie_generation": max(watch.seen("pcie_generation"), default=None),
        "pcie_width": max(watch.seen("pcie_width"), default=None),
        "utilisation_percent_before": before.state.utilisation_percent,
        "neighbours": _count(watch, own),
        "uncorrected_errors_after": after.facts.uncorrected_errors,
        "facts": facts,
        "missing": {name: why for each in told for name, why in each.missing.items()},
    }


def _count(watch: Watch, own: frozenset[int]) -> int | None:
    """How many other processes were on the GPU; None where the driver tells of none of any kind."""
    told = any(getattr(state, kind) is not None for state in (watch.before.state, *watch.during) for kind in PIDS)
    return len(neighbours(watch.before.state, watch.during, own)) if told else None


EVENTS = {POWER_CAP: "SwPowerCap", **SLOWED}


def _range(name: str, values: Sequence[int]) -> dict[str, float | None]:
    known = {"min": min(values), "median": median(values), "max": max(values)} if values else {}
    return {f"{name}_{word}": known.get(word) for word in ("min", "median", "max")}


def advice(gpu: Gpu, look: Look, during: Sequence[State] = ()) -> tuple[str, ...]:
    """What would make the numbers of this GPU quieter: lines to read and type, all of them of the administrator."""
    command = f"nvidia-smi -i {gpu.uuid or gpu.index}"
    return (
        *_about_settings(command, look.facts),
        *_about_clocks(command, look.facts, during),
        *_about_neighbours(gpu, look),
    )


def _about_settings(command: str, facts: Facts) -> Iterator[str]:
    limit, default = facts.power_limit_mw, facts.default_power_limit_mw
    if facts.persistence == 0:
        yield f"keep the driver loaded between processes: {command} -pm 1 (as root)"
    if limit is not None and default is not None and limit != default:
        yield f"set the power limit back: {command} -pl {default / 1000:g} (as root)"
    if facts.ecc != facts.ecc_pending:
        yield f"reboot, so that ECC is what was asked; or take that back: {command} -e {facts.ecc} (as root)"


def _about_clocks(command: str, facts: Facts, during: Sequence[State]) -> Iterator[str]:
    """A clock that the GPU held at its worst moment is below the knee of power and heat."""
    if constant(during):
        return
    clocks = [state.sm_clock_mhz for state in during if state.sm_clock_mhz is not None]
    clock = min(clocks, default=facts.default_sm_clock_mhz)
    if clock is None:
        return
    yield f"lock the SM clock below what power and heat allow: {command} -lgc {clock},{clock} (as root; undo: -rgc)"
    memory = facts.application_memory_clock_mhz
    if facts.application_sm_clock_mhz is not None and memory is not None:
        yield f"or set application clocks: {command} -ac {memory},{clock} (as root; undo: -rac)"


def _about_neighbours(gpu: Gpu, look: Look) -> Iterator[str]:
    if look.facts.mig:
        yield f"measure the whole GPU: {disable_mig(gpu)}"
    if look.facts.display_active:
        yield "measure on a GPU without a display"
    if pids := sorted(look.state.pids):
        yield f"end what else is on the GPU: processes {', '.join(map(str, pids))}"
