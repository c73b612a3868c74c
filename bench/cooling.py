"""Waiting until a phone is cool, and what its condition before, during and after a measurement says against a number.

Nothing here changes a setting of the phone: what to change is said to its owner.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from bench import stats
from bench.phone import Condition, Phone, disguise, mhz
from bench.schema import Frozen, Validity

# Where reasons begin; docs/validity.md lists them.
COOL_MARGIN_C = 3.0
#: an idle die is a few degrees warmer than its phone, and JEITA's rules limit the battery of one of 45 °C
COOL_CPU_C = 50.0
LEAST_WAIT_S = 5.0
#: without a thermometer there is nothing to wait for but time
BLIND_WAIT_S = 30.0
#: each look sets services of the phone to work
LOOK_EVERY_S = 5.0
#: the first trip point at which Linux slows the cores of a Snapdragon 855 down (sm8150.dtsi, `cpu4_top_alert0`)
HOT_CPU_C = 90.0
#: 5 °C below the temperature from which JEITA's rules limit a battery's current
HOT_BATTERY_C = 40.0
#: voltage falls with the charge, and phones may lower their fastest clocks for it; half leaves room
LEAST_BATTERY = 50
#: more than one step of the fastest core of a Snapdragon 855, from 2841.6 to 2745.6 MHz
SLOW_CLOCK_SHARE = 0.05
LEAST_GLANCES = 3
#: a whole core busy is an app at work; the looks themselves take a part of one
OTHERS_CORES = 1.0
MOST_DRIFT = 0.05
STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


class Work(Frozen, frozen=True):
    """What a case asked of a phone: threads, and the cores they were to be bound to. `affinity` is where each thread
    might run, by its id, read while the program ran."""

    threads: int
    cores: tuple[int, ...]
    affinity: dict[int, tuple[int, ...]] = {}


class Waited(Frozen, frozen=True):
    """How long a phone was given to cool down, whether it did, and how it fared then.

    `others_cores` is how many cores were busy meanwhile, when nothing of ours ran but the looks.
    """

    seconds: float
    reached: bool
    condition: Condition
    start_c: float | None = None
    others_cores: float | None = None


def wait_until_cool(
    look: Callable[[], Condition],
    start: Condition,
    limit_s: float,
    sleep: Callable[[float], object],
    clock: Callable[[], float],
) -> Waited:
    """Looks until the thermal status is 0 and the CPU at most 3 °C warmer than at the start, but not beyond `limit_s`.

    A CPU above 50 °C isn't cool whatever it had at the start, which is one look, maybe at a phone that was just in use.
    At least 5 s pass, since a die cools in a second and a case doesn't; half a minute where neither can be read.
    """
    began = clock()
    first = now = look()
    least_s = min(limit_s, LEAST_WAIT_S if _thermometer(now) else BLIND_WAIT_S)
    while True:
        seconds = clock() - began
        cool = _cool(now, start)
        if seconds >= limit_s or (cool and seconds >= least_s):
            return Waited(seconds, cool, now, start.cpu_c, _others_cores(first, now))
        sleep(min(LOOK_EVERY_S, limit_s - seconds))
        now = look()


def _thermometer(condition: Condition) -> bool:
    return condition.cpu_c is not None or condition.thermal_status is not None


def _cool(now: Condition, start: Condition) -> bool:
    if now.thermal_status:
        return False
    return now.cpu_c is None or now.cpu_c <= _limit_c(start.cpu_c)


def _limit_c(start_c: float | None) -> float:
    return COOL_CPU_C if start_c is None else min(COOL_CPU_C, start_c + COOL_MARGIN_C)


def _others_cores(first: Condition, last: Condition) -> float | None:
    if first.busy_s is None or last.busy_s is None or first.uptime_s is None or last.uptime_s is None:
        return None
    seconds = last.uptime_s - first.uptime_s
    return max(0.0, last.busy_s - first.busy_s) / seconds if seconds >= 1 else None


def drift(first_ns: Sequence[int], again_ns: Sequence[int]) -> Validity | None:
    """Whether the first case, repeated as the last, took another time; None where it did not, or didn't run twice."""
    if not first_ns or not again_ns:
        return None
    change = stats.median(again_ns) / stats.median(first_ns) - 1
    if abs(change) <= MOST_DRIFT:
        return None
    how = f"{abs(change):.1%} {'slower' if change > 0 else 'faster'}"
    return Validity("drifting", f"the first case, repeated as the last, was {how} (limit {MOST_DRIFT:.0%})")


# Validity


Moments = Sequence[tuple[str, Condition]]


def deviations(
    phone: Phone,
    work: Work,
    before: Condition,
    during: Sequence[Condition],
    after: Condition,
    waited: Waited | None = None,
) -> tuple[Validity, ...]:
    """The reasons to distrust a number that the phone gave. What could not be read is judged only where nothing else
    could stand for it."""
    moments = [("before", before), *(("during", each) for each in during), ("after", after)]
    return (
        *_emulated(phone),
        *_throttled(phone, work, moments, during),
        *_hot(moments, waited),
        *_misconfigured(phone, work, moments),
        *_powered(before, after),
        *_accompanied(moments, waited),
        *_unwatched(phone, work, moments),
    )


def _emulated(phone: Phone) -> Iterator[Validity]:
    if words := disguise(phone):
        yield Validity("emulated", words)


def _throttled(phone: Phone, work: Work, moments: Moments, during: Sequence[Condition]) -> Iterator[Validity]:
    status, when = max(((each.thermal_status or 0, when) for when, each in moments), key=lambda pair: pair[0])
    if status:
        yield Validity("throttled", f"thermal status {status} ({STATUSES[status]}) {when} the measurement (limit 0)")
    known = {core.number: core.max_khz for core in phone.cores if core.max_khz}
    for cpu in work.cores:
        capped = [
            (limit, when)
            for when, each in moments
            if (limit := each.limit_khz.get(cpu)) and limit < (each.max_khz.get(cpu) or known.get(cpu, 0))
        ]
        if capped:
            limit, when = min(capped)
            full = max(known.get(cpu, 0), *(each.max_khz.get(cpu, 0) for _, each in moments))
            yield Validity("throttled", f"cpu{cpu} was held to {mhz(limit)} of {mhz(full)} {when} the measurement")
    if len(work.cores) <= work.threads:  # else threads wander, and a core may have idled
        yield from _slow(known, work, during)


def _slow(known: Mapping[int, int], work: Work, during: Sequence[Condition]) -> Iterator[Validity]:
    """A core that computes without pause runs at its highest clock, whatever the governor, unless something holds it.

    The clock after the measurement says nothing: governors lower it within milliseconds.
    """
    for cpu in work.cores:
        clocks = [each.khz[cpu] for each in during if cpu in each.khz]
        full = known.get(cpu)
        if full is None or len(clocks) < LEAST_GLANCES:
            continue
        median = stats.median(clocks)
        if (share := 1 - median / full) > SLOW_CLOCK_SHARE:
            yield Validity(
                "throttled",
                f"cpu{cpu} ran at {mhz(median)} in the median of {len(clocks)} looks, {share:.0%} below its "
                f"{mhz(full)} (limit {SLOW_CLOCK_SHARE:.0%})",
            )


def _hot(moments: Moments, waited: Waited | None) -> Iterator[Validity]:
    """While it computes a die is tens of degrees warmer than before, so only the trip point is judged there."""
    if waited is not None and not waited.reached:
        yield Validity("hot", f"not cool after waiting for {waited.seconds:.0f} s: {_heat(waited)}")
    cpu_c, when = max(((each.cpu_c or 0, when) for when, each in moments), key=lambda pair: pair[0])
    if cpu_c >= HOT_CPU_C:
        yield Validity("hot", f"the CPU had {cpu_c:.1f} °C {when} the measurement (limit {HOT_CPU_C:g} °C)")
    battery_c, when = max(((each.battery_c or 0, when) for when, each in moments), key=lambda pair: pair[0])
    if battery_c > HOT_BATTERY_C:
        yield Validity("hot", f"the battery had {battery_c:.1f} °C {when} the measurement (limit {HOT_BATTERY_C:g} °C)")


def _heat(waited: Waited) -> str:
    status, cpu_c = waited.condition.thermal_status, waited.condition.cpu_c
    words = [f"thermal status {status}"] if status else []
    if cpu_c is not None and waited.start_c is not None and cpu_c > waited.start_c + COOL_MARGIN_C:
        above = cpu_c - waited.start_c
        words.append(f"the CPU had {cpu_c:.1f} °C, {above:+.1f} °C against the start (limit {COOL_MARGIN_C:g} °C)")
    elif cpu_c is not None and cpu_c > COOL_CPU_C:
        words.append(f"the CPU had {cpu_c:.1f} °C at rest (limit {COOL_CPU_C:g} °C)")
    return ", ".join(words)


def _misconfigured(phone: Phone, work: Work, moments: Moments) -> Iterator[Validity]:
    yield from _governed(work, moments)
    yield from _bound(phone, work, moments[0][1])
    online = [(when, set(each.online)) for when, each in moments if each.online]
    for when, cpus in online:
        if absent := sorted((set(work.cores) | online[0][1]) - cpus):
            yield Validity("misconfigured", f"cores {_list(absent)} were offline {when} the measurement")
            break


def _governed(work: Work, moments: Moments) -> Iterator[Validity]:
    """`powersave` is the lowest clock there is; the others all go to the highest under load."""
    before, after = moments[0][1].governors, moments[-1][1].governors
    for cpu in work.cores:
        was, became = before.get(cpu), after.get(cpu)
        if was and became and was != became:
            yield Validity("misconfigured", f"the governor of cpu{cpu} changed from {was} to {became}")
        elif "powersave" in (was, became):
            yield Validity("misconfigured", f"the governor of cpu{cpu} is powersave")


def _bound(phone: Phone, work: Work, before: Condition) -> Iterator[Validity]:
    """Whether as many threads as asked may run on just the cores asked. Others of the process may help elsewhere.

    The kernel's masks may name cores that are offline, or that the phone hasn't got.
    """
    if not work.affinity or not work.cores:
        return
    here = set(before.online) or {core.number for core in phone.cores} or set(work.cores)
    places = [tuple(cpu for cpu in cpus if cpu in here) for cpus in work.affinity.values()]
    elsewhere = [cpus for cpus in places if set(cpus) != set(work.cores)]
    if (bound := len(places) - len(elsewhere)) < work.threads:
        strays = " and ".join(_list(cpus) for cpus in sorted(set(elsewhere)))
        yield Validity(
            "misconfigured",
            f"threads: {work.threads} on cores {_list(work.cores)} asked, {bound} of {len(places)} may run there alone"
            + (f", others on {strays}" if strays else ""),
        )


def _powered(before: Condition, after: Condition) -> Iterator[Validity]:
    levels = [each.battery_level for each in (before, after) if each.battery_level is not None]
    if levels and min(levels) < LEAST_BATTERY:
        yield Validity("battery", f"at {min(levels)} % (limit {LEAST_BATTERY} %)")
    if before.charging or after.charging:
        source = (before if before.charging else after).plugged or "an unknown source"
        yield Validity("battery", f"charging from {source}, which heats the phone")
    if before.low_power or after.low_power:
        yield Validity("battery", "battery saver was on, which lowers clocks")


def _accompanied(moments: Moments, waited: Waited | None) -> Iterator[Validity]:
    if lit := [when for when, each in moments if each.screen_on]:
        yield Validity("screen_on", f"the screen was on {lit[0]} the measurement: drawing takes cores, and heats")
    if waited is not None and (waited.others_cores or 0) > OTHERS_CORES:
        yield Validity(
            "contended", f"{waited.others_cores:.2f} cores were busy before the measurement (limit {OTHERS_CORES:g})"
        )


def _unwatched(phone: Phone, work: Work, moments: Moments) -> Iterator[Validity]:
    if not any(_thermometer(each) for _, each in moments):
        yield Validity(
            "unwatched", "neither a CPU temperature nor the thermal status can be read: heat is not excluded"
        )
    if phone.cores and not any(core.max_khz for core in phone.cores):
        yield Validity("unwatched", "no core's highest clock can be read: a cap, or a faster variant, is not excluded")
    if not phone.cores:
        yield Validity("unwatched", "the phone's cores can't be read")
    if not work.affinity:
        yield Validity("unwatched", "on which cores the threads ran could not be read")
    for service in sorted({name for _, each in moments for name in each.faked}):
        yield Validity("unwatched", f"the phone was told by hand what to say of its {service}")


def _list(cpus: Sequence[int]) -> str:
    return ",".join(map(str, cpus)) or "none"


# Advice


def advice(phone: Phone, condition: Condition) -> list[str]:
    """What to do before measuring, a line each with what to type; empty for a phone that is ready."""
    return [*_advice_on_power(condition), *_advice_on_quiet(phone, condition), *_advice_on_heat(phone, condition)]


def _advice_on_power(condition: Condition) -> Iterator[str]:
    if "battery" in condition.faked:
        yield "the battery service says what it was told to; undo it with: adb shell dumpsys battery reset"
    if condition.battery_level is not None and condition.battery_level < LEAST_BATTERY:
        yield f"the battery is at {condition.battery_level} %; charge it above {LEAST_BATTERY} %"
    if condition.charging:
        yield (
            f"it is charging ({condition.plugged or 'unknown source'}); charge it to the full first, or unplug it and "
            "measure over Wi-Fi: adb tcpip 5555, then adb connect ADDRESS:5555"
        )
    if condition.low_power:
        yield "battery saver lowers clocks; switch it off with: adb shell settings put global low_power 0"


def _advice_on_quiet(phone: Phone, condition: Condition) -> Iterator[str]:
    if condition.screen_on:
        yield "the screen is on; let it go off with: adb shell svc power stayon false; adb shell input keyevent 223"
    if condition.airplane is False:
        how = "adb shell cmd connectivity airplane-mode enable" if (phone.sdk or 0) >= 30 else "by hand in its settings"
        yield f"radios wake it up; switch airplane mode on (it cuts adb over Wi-Fi, too): {how}"


def _advice_on_heat(phone: Phone, condition: Condition) -> Iterator[str]:
    if "thermal status" in condition.faked:
        yield "its thermal status was set by hand; undo it with: adb shell cmd thermalservice reset"
    if condition.thermal_status:
        yield f"it is slowed down for heat (thermal status {STATUSES[condition.thermal_status]}); let it cool down"
    if condition.battery_c is not None and condition.battery_c > HOT_BATTERY_C:
        yield f"its battery has {condition.battery_c:.1f} °C; let it cool below {HOT_BATTERY_C:g} °C"
    if not _thermometer(condition):
        yield "neither its temperature nor its thermal status can be read, so no number can be called cool"
    capped = [cpu for cpu, limit in condition.limit_khz.items() if limit < condition.max_khz.get(cpu, 0)]
    if capped:
        fixed = "adb shell cmd power set-fixed-performance-mode-enabled true (false undoes it)"
        hint = f"; some phones hold clocks steady with: {fixed}" if (phone.sdk or 0) >= 30 else ""
        yield f"clocks of cores {_list(capped)} are capped; let it cool, leave power saving modes{hint}"
    here = {core.number for core in phone.cores}
    if condition.online and (absent := sorted(here - set(condition.online))):
        yield f"cores {_list(absent)} are offline; let it cool, wake it, or restart it"
