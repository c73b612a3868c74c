"""Waiting on a clock that is no clock, and each reason to distrust a phone's number: there and not there."""

from pathlib import Path

import msgspec
import pytest
from phones import FARED, LOOKED, SD855_KHZ, THERMAL, THERMAL_ANDROID_9, Shell, clocks, files

from bench import cooling, phone
from bench.cooling import Waited, Work
from bench.phone import Condition, Phone
from bench.schema import Validity

MI9 = phone.look(Shell(LOOKED))
READY = phone.condition(Shell(FARED))
FOUR = Work(
    threads=4, cores=(4, 5, 6, 7), affinity={10: (4, 5, 6, 7), 11: (4, 5, 6, 7), 12: (4, 5, 6, 7), 13: (4, 5, 6, 7)}
)
ONE = Work(threads=1, cores=(7,), affinity={10: (7,)})
BUSY = msgspec.structs.replace(READY, khz=SD855_KHZ, cpu_c=71.0)


def changed(**fields):
    return msgspec.structs.replace(READY, **fields)


def judged(work=FOUR, before=READY, during=(BUSY, BUSY, BUSY), after=READY, waited=None, phone_=MI9):
    return cooling.deviations(phone_, work, before, during, after, waited)


def only(found, reason):
    """The evidence of the one reason that was given."""
    assert [each.reason for each in found] == [reason]
    return found[0].evidence


# Waiting


class Kitchen:
    """Time that passes only while one sleeps, and a phone that has one condition a look, the last one for ever."""

    def __init__(self, *conditions, look_s=0.0):
        self.conditions, self.now, self.slept, self.look_s = list(conditions), 100.0, [], look_s

    def look(self):
        self.now += self.look_s
        return self.conditions.pop(0) if len(self.conditions) > 1 else self.conditions[0]

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def wait(self, limit_s=120.0, start=READY):
        return cooling.wait_until_cool(self.look, start, limit_s, self.sleep, lambda: self.now)


def test_a_cool_phone_waits_the_least():
    kitchen = Kitchen(READY)
    assert kitchen.wait() == Waited(5.0, True, READY, 34.2)
    assert kitchen.slept == [5.0]


def test_it_waits_until_the_cpu_is_as_cool_as_at_the_start():
    hot, warm, cool = changed(cpu_c=60.0), changed(cpu_c=37.3), changed(cpu_c=37.1)
    found = Kitchen(hot, warm, warm, cool).wait()
    assert (found.seconds, found.reached, found.condition) == (15.0, True, cool)


def test_a_thermal_status_keeps_it_waiting():
    found = Kitchen(changed(thermal_status=2), changed(thermal_status=1), READY).wait()
    assert (found.seconds, found.reached) == (10.0, True)


def test_a_start_that_was_hot_does_not_make_hot_cool():
    hot = changed(cpu_c=65.0)
    found = Kitchen(hot, changed(cpu_c=50.1), changed(cpu_c=50.0)).wait(start=hot)
    assert (found.seconds, found.reached) == (10.0, True)
    assert not Kitchen(hot).wait(start=changed(cpu_c=None)).reached
    assert Kitchen(changed(cpu_c=50.0)).wait(start=changed(cpu_c=None)).reached


def test_the_limit_ends_it():
    kitchen = Kitchen(changed(cpu_c=60.0))
    found = kitchen.wait(limit_s=12.0)
    assert (found.seconds, found.reached) == (12.0, False)
    assert kitchen.slept == [5.0, 5.0, 2.0]


def test_looks_count_as_waiting():
    kitchen = Kitchen(changed(cpu_c=60.0), look_s=4.0)
    assert kitchen.wait(limit_s=10.0).seconds <= 14.0
    assert kitchen.slept == [5.0]


@pytest.mark.parametrize(("limit_s", "slept"), [(0.0, []), (2.0, [2.0])])
def test_a_limit_below_the_least_wait_wins(limit_s, slept):
    kitchen = Kitchen(READY)
    assert kitchen.wait(limit_s).reached
    assert kitchen.slept == slept


def test_without_a_thermometer_it_waits_blindly():
    blind = changed(cpu_c=None, thermal_status=None)
    assert Kitchen(blind).wait(start=blind).seconds == 30.0
    assert Kitchen(blind).wait(limit_s=10.0, start=blind).seconds == 10.0


def test_a_thermal_status_alone_is_a_thermometer():
    half = changed(cpu_c=None)
    assert Kitchen(half).wait(start=half).seconds == 5.0


def test_what_others_use_is_seen_while_waiting():
    first, last = changed(uptime_s=100.0, busy_s=50.0), changed(uptime_s=105.0, busy_s=57.5)
    assert Kitchen(first, last).wait().others_cores == 1.5
    assert Kitchen(first, changed(busy_s=None)).wait().others_cores is None
    assert Kitchen(first, changed(uptime_s=100.5, busy_s=60.0)).wait().others_cores is None


# Order and drift


@pytest.mark.parametrize(
    ("again", "evidence"),
    [
        ((105, 104), None),
        ((95, 96), None),
        ((106, 106), "the first case, repeated as the last, was 6.0% slower (limit 5%)"),
        ((90, 90, 500), "the first case, repeated as the last, was 10.0% faster (limit 5%)"),
        ((), None),
    ],
)
def test_drift_from_the_first_to_the_last_case(again, evidence):
    assert cooling.drift((100, 100), again) == (evidence and Validity("drifting", evidence))


# Validity


def test_a_quiet_phone_gives_no_reason():
    assert judged() == ()
    assert judged(ONE, waited=Waited(5.0, True, READY, 34.2, 0.4)) == ()
    assert judged(Work(threads=1, cores=tuple(range(8)), affinity={10: tuple(range(8))})) == ()


def test_an_emulator():
    words = only(judged(phone_=phone.look(Shell(LOOKED, machine="x86_64"))), "emulated")
    assert words == "it calls itself SM8150, yet computes as x86_64"


@pytest.mark.parametrize(
    ("where", "when"),
    [({"before"}, "before"), ({"during"}, "during"), ({"after"}, "after"), ({"during", "after"}, "during")],
)
def test_a_thermal_status_at_any_time(where, when):
    slowed = changed(thermal_status=2, khz=SD855_KHZ)
    moments = {name: (slowed,) * 3 if name == "during" else slowed for name in where}
    assert only(judged(**moments), "throttled") == f"thermal status 2 (moderate) {when} the measurement (limit 0)"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_capped_core_that_was_used(when):
    capped = changed(limit_khz={**SD855_KHZ, 7: 2419200})
    words = only(judged(ONE, **{when: capped}), "throttled")
    assert words == f"cpu7 was held to 2419.2 MHz of 2841.6 MHz {when} the measurement"


def test_a_cap_while_it_ran():
    capped = msgspec.structs.replace(BUSY, limit_khz={**SD855_KHZ, 4: 2000000})
    assert "cpu4 was held to 2000.0 MHz of 2419.2 MHz during" in only(judged(during=(BUSY, capped, BUSY)), "throttled")


def test_a_capped_core_that_was_not_used():
    assert judged(ONE, before=changed(limit_khz={**SD855_KHZ, 0: 1000000})) == ()


def test_a_clock_below_the_highest_while_it_ran():
    slow = msgspec.structs.replace(BUSY, khz={**SD855_KHZ, 7: 2649600})
    words = only(judged(ONE, during=(slow, slow, BUSY)), "throttled")
    assert words == "cpu7 ran at 2649.6 MHz in the median of 3 looks, 7% below its 2841.6 MHz (limit 5%)"


@pytest.mark.parametrize(
    ("work", "khz", "looks"),
    [
        (ONE, 2745600, 3),  # one step
        (ONE, 825600, 2),  # too few looks
        (Work(threads=1, cores=tuple(range(8)), affinity={10: tuple(range(8))}), 825600, 3),  # it may have idled
    ],
)
def test_a_clock_that_proves_nothing(work, khz, looks):
    assert judged(work, during=(msgspec.structs.replace(BUSY, khz={**SD855_KHZ, 7: khz}),) * looks) == ()


def test_an_idle_clock_before_and_after_is_right():
    assert READY.khz[7] < 1000000
    assert judged(ONE) == ()


def test_a_phone_that_did_not_cool_down():
    warm = changed(cpu_c=42.2)
    words = only(judged(before=warm, waited=Waited(120.0, False, warm, 34.2)), "hot")
    assert words == "not cool after waiting for 120 s: the CPU had 42.2 °C, +8.0 °C against the start (limit 3 °C)"
    used = changed(cpu_c=61.0)
    assert only(judged(before=used, waited=Waited(120.0, False, used, 60.0)), "hot") == (
        "not cool after waiting for 120 s: the CPU had 61.0 °C at rest (limit 50 °C)"
    )
    slowed = Waited(60.0, False, changed(thermal_status=1), None)
    assert only(judged(waited=slowed), "hot") == "not cool after waiting for 60 s: thermal status 1"


@pytest.mark.parametrize(("celsius", "hot"), [(89.9, False), (90.0, True)])
def test_the_trip_point_while_it_ran(celsius, hot):
    found = judged(during=(BUSY, msgspec.structs.replace(BUSY, cpu_c=celsius), BUSY))
    assert bool(found) == hot
    if hot:
        assert only(found, "hot") == "the CPU had 90.0 °C during the measurement (limit 90 °C)"


@pytest.mark.parametrize(("celsius", "hot"), [(40.0, False), (40.1, True)])
def test_a_warm_battery(celsius, hot):
    found = judged(after=changed(battery_c=celsius))
    assert bool(found) == hot
    if hot:
        assert only(found, "hot") == "the battery had 40.1 °C after the measurement (limit 40 °C)"


def test_a_governor_that_changed():
    after = changed(governors={**READY.governors, 6: "performance"})
    assert only(judged(after=after), "misconfigured") == "the governor of cpu6 changed from schedutil to performance"
    assert judged(ONE, after=after) == ()


def test_a_governor_that_saves_power():
    saving = changed(governors=dict.fromkeys(range(8), "powersave"))
    assert only(judged(ONE, before=saving, after=saving), "misconfigured") == "the governor of cpu7 is powersave"


@pytest.mark.parametrize("when", ["during", "after"])
def test_cores_that_went_offline(when):
    fewer = msgspec.structs.replace(BUSY, online=(0, 1, 2, 3, 4, 5))
    words = only(judged(ONE, **{when: (BUSY, BUSY, fewer) if when == "during" else fewer}), "misconfigured")
    assert words == f"cores 6,7 were offline {when} the measurement"


@pytest.mark.parametrize(
    ("work", "evidence"),
    [
        (
            Work(threads=1, cores=(7,), affinity={10: (0, 1, 2, 3)}),
            "threads: 1 on cores 7 asked, 0 of 1 may run there alone, others on 0,1,2,3",
        ),
        (
            Work(threads=2, cores=(6, 7), affinity={10: (6, 7), 11: tuple(range(8))}),
            "threads: 2 on cores 6,7 asked, 1 of 2 may run there alone, others on 0,1,2,3,4,5,6,7",
        ),
        (
            Work(threads=2, cores=(6, 7), affinity={10: (6, 7)}),
            "threads: 2 on cores 6,7 asked, 1 of 1 may run there alone",
        ),
    ],
)
def test_threads_elsewhere_than_asked(work, evidence):
    assert only(judged(work), "misconfigured") == evidence


def test_helpers_and_cores_that_are_not_there_are_no_deviation():
    assert judged(Work(threads=1, cores=(7,), affinity={10: (7,), 11: tuple(range(8))})) == ()
    assert judged(Work(threads=1, cores=tuple(range(8)), affinity={10: tuple(range(16))})) == ()


@pytest.mark.parametrize(
    ("condition", "evidence"),
    [
        ({"battery_level": 49}, "at 49 % (limit 50 %)"),
        ({"charging": True}, "charging from USB, which heats the phone"),
        ({"charging": True, "plugged": ""}, "charging from an unknown source, which heats the phone"),
        ({"low_power": True}, "battery saver was on, which lowers clocks"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_power(condition, evidence, when):
    assert only(judged(**{when: changed(**condition)}), "battery") == evidence


def test_half_a_battery_will_do():
    assert judged(before=changed(battery_level=50)) == ()


def test_a_screen_that_was_on():
    words = only(judged(after=changed(screen_on=True)), "screen_on")
    assert words == "the screen was on after the measurement: drawing takes cores, and heats"


@pytest.mark.parametrize(("cores", "contended"), [(1.0, False), (1.25, True), (None, False)])
def test_others_at_work(cores, contended):
    found = judged(waited=Waited(5.0, True, READY, 34.2, cores))
    assert bool(found) == contended
    if contended:
        assert only(found, "contended") == "1.25 cores were busy before the measurement (limit 1)"


def test_no_thermometer_at_all():
    blind = phone.condition(Shell(FARED, zones="", thermal=THERMAL_ANDROID_9))
    words = only(judged(before=blind, during=(), after=blind), "unwatched")
    assert words == "neither a CPU temperature nor the thermal status can be read: heat is not excluded"


@pytest.mark.parametrize("instead", [{"zones": ""}, {"thermal": ""}])
def test_one_thermometer_will_do(instead):
    half = phone.condition(Shell(FARED, **instead))
    assert judged(before=half, during=(), after=half) == ()


def test_what_could_not_be_read_is_no_deviation():
    silent = Condition(thermal_status=0)
    assert judged(before=silent, during=(silent,), after=silent) == ()


def test_an_unknown_phone_is_unwatched_and_nothing_worse():
    found = cooling.deviations(Phone(), Work(threads=1, cores=()), Condition(), [], Condition())
    assert [each.reason for each in found] == ["unwatched"] * 3


def test_clocks_that_could_not_be_read():
    unclocked = phone.look(Shell(LOOKED, cores=""))
    assert "no core's highest clock" in only(judged(phone_=unclocked, during=()), "unwatched")


def test_an_affinity_that_could_not_be_read():
    assert "could not be read" in only(judged(Work(threads=1, cores=(7,))), "unwatched")


def test_services_that_were_told_what_to_say():
    words = only(judged(before=changed(faked=("battery",)), after=changed(faked=("battery",))), "unwatched")
    assert words == "the phone was told by hand what to say of its battery"


# Advice


def test_a_ready_phone_needs_no_advice():
    assert cooling.advice(MI9, READY) == []
    assert cooling.advice(Phone(), changed(limit_khz={}, online=())) == []


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"battery_level": 12}, "at 12 %; charge it above 50 %"),
        ({"charging": True}, "it is charging (USB)"),
        ({"low_power": True}, "adb shell settings put global low_power 0"),
        ({"screen_on": True}, "adb shell input keyevent 223"),
        ({"airplane": False}, "by hand in its settings"),
        ({"thermal_status": 3}, "thermal status severe"),
        ({"battery_c": 41.5}, "41.5 °C; let it cool below 40 °C"),
        ({"cpu_c": None, "thermal_status": None}, "can be read"),
        ({"limit_khz": {**SD855_KHZ, 7: 2419200}}, "clocks of cores 7 are capped"),
        ({"online": (0, 1, 2, 3)}, "cores 4,5,6,7 are offline"),
        ({"faked": ("battery",)}, "adb shell dumpsys battery reset"),
        ({"faked": ("thermal status",)}, "adb shell cmd thermalservice reset"),
    ],
)
def test_advice(condition, words):
    (line,) = cooling.advice(MI9, changed(**condition))
    assert words in line


def test_newer_phones_have_commands_for_more():
    newer = msgspec.structs.replace(MI9, sdk=30)
    (line,) = cooling.advice(newer, changed(airplane=False))
    assert line.endswith("adb shell cmd connectivity airplane-mode enable")
    (line,) = cooling.advice(newer, changed(limit_khz={**SD855_KHZ, 7: 2419200}))
    assert "set-fixed-performance-mode-enabled true (false undoes it)" in line


def test_formats_of_both_fixtures_are_those_of_two_clusters_too():
    khz = clocks((6, 1700000), (2, 2200000))
    other = phone.look(Shell(LOOKED, cores=files({"cpufreq/cpuinfo_max_freq": khz})))
    fares = phone.condition(Shell(FARED, clocks=files({"cpufreq/cpuinfo_max_freq": khz}), thermal=THERMAL))
    work = Work(threads=2, cores=phone.cores_for(other, fares, 2, phone.BIG), affinity={1: (6, 7), 2: (6, 7)})
    assert work.cores == (6, 7)
    assert judged(work, fares, (), fares, phone_=other) == ()


# The page of reasons

PAGE = (Path(__file__).parents[1] / "docs/validity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("reason", "limits"),
    [
        ("contended", [f"{cooling.OTHERS_CORES:g} core"]),
        ("throttled", [f"{cooling.SLOW_CLOCK_SHARE:.0%} below", f"{cooling.LEAST_GLANCES} or more looks"]),
        ("drifting", [f"more than {cooling.MOST_DRIFT:.0%}"]),
        (
            "hot",
            [
                f"{cooling.COOL_MARGIN_C:g} °C",
                f"above {cooling.COOL_CPU_C:g} °C",
                f"{cooling.HOT_CPU_C:g} °C",
                f"{cooling.HOT_BATTERY_C:g} °C",
            ],
        ),
        ("battery", [f"{cooling.LEAST_BATTERY}%"]),
    ],
)
def test_the_page_says_the_limits_in_force(reason, limits):
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{reason}` |"))
    said = row.split(" | ")[1].replace(" %", "%").rpartition("phone")[2]
    assert [limit for limit in limits if limit not in said] == []
