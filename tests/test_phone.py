"""Phones as their shells tell of them: whole, partly denied, garbled, cut off, and on this machine's own shell."""

import hashlib
import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phones import (
    ANDROID_12,
    BATTERY,
    CPU,
    CPUINFO,
    FARED,
    LOOKED,
    PROPERTIES,
    SD855_CAPACITY,
    SD855_KHZ,
    THERMAL,
    THERMAL_ANDROID_9,
    ZONES,
    Shell,
    clocks,
    files,
    sections,
)

from bench import catalog, phone
from bench.errors import Unavailable
from bench.phone import BIG, FULL, LITTLE, UNBOUND, Condition, Core, Phone

MI9 = phone.look(Shell(LOOKED))
READY = phone.condition(Shell(FARED))
SD855 = catalog.profile("sd855")


def cores_of(khz, capacities=None, present=""):
    """The cores of a phone whose files say so."""
    text = files({"cpu_capacity": capacities or {}, "cpufreq/cpuinfo_max_freq": khz})
    return phone.look(Shell({"present": present, "cores": text})).cores


def kinds(cores):
    return "".join(core.kind[:1] or "?" for core in cores)


# The phone


def test_a_phone_is_read_in_one_round_trip():
    shell = Shell(LOOKED)
    found = phone.look(shell)
    assert len(shell.scripts) == 1
    assert found.name == "Xiaomi MI 9"
    assert (found.brand, found.device, found.android, found.sdk) == ("Xiaomi", "cepheus", "10", 29)
    assert found.fingerprint.startswith("Xiaomi/cepheus/cepheus:10/")
    assert found.abis == ("arm64-v8a", "armeabi-v7a", "armeabi")
    assert (found.platform, found.hardware, found.soc) == ("msmnile", "qcom", "SM8150")
    assert (found.machine, found.kernel) == ("aarch64", "4.14.117-perf-g5f3c5a8")
    assert found.processors == ("0x51 0x805", "0x51 0x804")
    assert found.memory_kb == 5779280
    assert found.serial_sha256 == hashlib.sha256(b"f1a2b3c4").hexdigest()
    assert not found.emulator
    assert phone.disguise(found) == ""


def test_the_cores_of_snapdragon_855():
    assert kinds(MI9.cores) == "ssssgggp"
    assert MI9.cores[7] == Core(number=7, capacity=1024, max_khz=2841600, kind="prime")
    assert list(phone.core_map(MI9)) == [
        "prime: cpu7, 2841.6 MHz",
        "gold: cpu4, cpu5, cpu6, 2419.2 MHz",
        "silver: cpu0, cpu1, cpu2, cpu3, 1785.6 MHz",
    ]


@pytest.mark.parametrize(
    ("khz", "capacities", "expected"),
    [
        (clocks((4, 1800000), (4, 2200000)), {}, "ssssgggg"),
        (clocks((2, 2200000), (6, 1700000)), {}, "ggssssss"),
        (clocks((8, 2000000)), {}, "gggggggg"),
        (clocks((4, 1900000), (3, 2500000), (1, 2900000)), {}, "ssssgggp"),
        (clocks((3, 1900000), (2, 2500000), (2, 2700000), (1, 3200000)), {}, "sssggggp"),
        (clocks((8, 2000000)), dict(enumerate([400] * 4 + [1024] * 4)), "ssssgggg"),
        ({}, SD855_CAPACITY, "ssssgggp"),
        ({cpu: khz for cpu, khz in SD855_KHZ.items() if cpu != 7}, SD855_CAPACITY, "ssssgggp"),
        ({cpu: khz for cpu, khz in SD855_KHZ.items() if cpu != 7}, {}, "ssssggg?"),
        ({}, {}, "????????"),
    ],
)
def test_kinds_of_cores(khz, capacities, expected):
    assert kinds(cores_of(khz, capacities, "0-7")) == expected


def test_a_name_may_stand_with_the_vendor_alone():
    vendor = PROPERTIES.replace("ro.product.manufacturer", "ro.product.vendor.manufacturer")
    assert phone.look(Shell(LOOKED, properties=vendor)).manufacturer == "Xiaomi"


def test_nothing_read_is_nothing_known():
    found = phone.look(lambda script: "")
    assert found == Phone()
    assert found.name == "a phone without a name"
    assert phone.condition(lambda script: "") == Condition()
    assert list(phone.core_map(found)) == []


def test_a_lost_connection_is_not_swallowed():
    def gone(script):
        raise ConnectionError("device offline")

    for question in (phone.look, phone.condition, phone.glance):
        with pytest.raises(ConnectionError, match="device offline"):
            question(gone)


DENIED = "sh: can't open: Permission denied"


@pytest.mark.parametrize("question", [phone.look, phone.condition])
@pytest.mark.parametrize("found", [LOOKED, FARED], ids=["looked", "fared"])
def test_no_cut_and_no_denial_raises(question, found):
    lines = sections(found).splitlines(keepends=True)
    for end in range(len(lines)):
        question(lambda script, end=end: "".join(lines[:end]))
        question(lambda script, end=end: "".join(lines[:end]) + lines[end][: len(lines[end]) // 2])
        question(lambda script, end=end: "".join([*lines[:end], DENIED, "\n", *lines[end + 1 :]]))


@pytest.mark.parametrize("name", LOOKED)
def test_a_phone_with_a_section_denied_is_the_rest(name):
    found = phone.look(Shell(LOOKED, **{name: DENIED}))
    assert (found == MI9) == (name == "present")
    assert phone.disguise(found) == ""
    assert (found.memory_kb is None) == (name == "memory")
    assert (found.name == "Xiaomi MI 9") == (name != "properties")
    assert len(found.cores) == 8


TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [line for text in (sections(LOOKED), sections(FARED)) for line in text.splitlines()]
            + ["@@", "@@ zones", "cpu nan inf -1", ":", f"{CPU}/cpu999/cpu_capacity:9" + "9" * 30, "level: 1e9", "\0\r"]
        )
    ).map("\n".join),
)


@given(TEXTS)
def test_no_text_raises(text):
    found, fared = phone.look(lambda script: text), phone.condition(lambda script: text)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Phone) == found
    assert msgspec.json.decode(msgspec.json.encode(fared), type=Condition) == fared
    assert fared.cpu_c is None or 0 < fared.cpu_c < 150
    json.dumps(phone.describe(found, fared), allow_nan=False)
    for mode in (BIG, LITTLE, FULL, UNBOUND):
        phone.cores_for(found, fared, 4, mode)
        phone.obstacle(found, fared, 4, mode)
    phone.disguise(found)
    phone.affinity(text)


# Which device it is


@pytest.mark.parametrize("properties", [PROPERTIES, ANDROID_12], ids=["Android 10", "Android 12"])
@pytest.mark.parametrize("cpuinfo", [CPUINFO, "Hardware\t: Qualcomm Technologies, Inc", ""], ids=["named", "maker", ""])
def test_a_snapdragon_855_is_one(properties, cpuinfo):
    phone.refuse_stranger(SD855, phone.look(Shell(LOOKED, properties=properties, cpuinfo=cpuinfo)))


def refused(**instead):
    with pytest.raises(Unavailable) as refusal:
        phone.refuse_stranger(SD855, phone.look(Shell(LOOKED, **instead)))
    return str(refusal.value)


def test_another_phone_is_refused_with_what_was_found():
    other = PROPERTIES.replace("msmnile", "kona").replace("[MI 9]", "[Mi 10]") + "\n[ro.soc.model]: [SM8250]"
    assert refused(properties=other, cpuinfo="", cores=files({"cpufreq/cpuinfo_max_freq": clocks((8, 2841600))})) == (
        "looked for a phone with Qualcomm Snapdragon 855 (SM8150|SDM855 of at most 2841.6 MHz) for device sd855; "
        "found Xiaomi Mi 10, SoC SM8250, at most 2841.6 MHz; "
        "connect such a phone, or choose another device; list them with: bench list devices"
    )


def test_a_faster_variant_of_the_chip_is_refused():
    plus = files({"cpufreq/cpuinfo_max_freq": {**SD855_KHZ, 7: 2956800}})
    assert "found Xiaomi MI 9, SoC SM8150, at most 2956.8 MHz" in refused(cores=plus)


def test_a_slower_variant_is_refused_unless_the_fastest_core_may_be_asleep():
    known = {cpu: khz for cpu, khz in SD855_KHZ.items() if cpu != 7}
    text = files({"cpufreq/cpuinfo_max_freq": known})
    phone.refuse_stranger(SD855, phone.look(Shell(LOOKED, cores=text)))
    assert "at most 2419.2 MHz" in refused(cores=text, present="0-6")


def test_clocks_that_cannot_be_read_are_no_ground_for_refusal():
    phone.refuse_stranger(SD855, phone.look(Shell(LOOKED, cores="")))


def test_a_board_is_believed_only_where_no_chip_is_named():
    assert "SoC SA8155P" in refused(cpuinfo="Hardware\t: Qualcomm Technologies, Inc SA8155P")
    assert "SoC SM8250, SM8150" in refused(properties=PROPERTIES + "\n[ro.soc.model]: [SM8250]")


@pytest.mark.parametrize("properties", ["", DENIED, "[ro.board.platform]: []", "[ro.product.model]: [SM8150]"])
def test_what_names_no_chip_is_refused(properties):
    words = refused(properties=properties, cpuinfo="", cores="")
    assert "SoC without a name, clocks that can not be read" in words


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"machine": "x86_64"}, "it calls itself SM8150, yet computes as x86_64"),
        (
            {"properties": PROPERTIES.replace("arm64-v8a,armeabi-v7a,armeabi", "x86_64,x86")},
            "it calls itself SM8150, yet runs programs for x86_64, x86 alone",
        ),
        ({"cpuinfo": CPUINFO + "\nvendor_id\t: GenuineIntel"}, "yet its processor is by GenuineIntel"),
        ({"properties": PROPERTIES.replace("hardware]: [qcom]", "hardware]: [ranchu]")}, "(ro.hardware ranchu)"),
        ({"properties": PROPERTIES + "\n[ro.kernel.qemu]: [1]"}, "Android's emulator (ro.hardware qcom)"),
    ],
)
def test_what_is_no_arm_phone_is_told(instead, words):
    assert words in phone.disguise(phone.look(Shell(LOOKED, **instead)))


# How it fares


def test_a_condition():
    shell = Shell(FARED)
    found = phone.condition(shell)
    assert len(shell.scripts) == 1
    assert (found.uptime_s, found.busy_s) == (35211.87, 43.3)
    assert found.online == tuple(range(8))
    assert set(found.governors.values()) == {"schedutil"}
    assert found.max_khz == found.limit_khz == SD855_KHZ
    assert found.khz[7] == 825600
    assert found.cpu_c == 34.2
    assert found.zones["battery"] == 29.0
    assert "xo-therm" not in found.zones
    assert "pop-mem-usr" not in found.zones
    assert found.thermal_status == 0
    assert (found.battery_level, found.battery_c, found.charging, found.plugged) == (100, 29.1, False, "USB")
    assert (found.screen_on, found.low_power, found.airplane) == (False, False, True)
    assert (found.cpuset, found.load, found.faked) == ("/foreground", 9.12, ())


def test_a_glance_asks_no_service():
    shell = Shell(FARED)
    assert phone.glance(shell).cpu_c == 34.2
    assert "dumpsys" not in shell.scripts[0]
    assert "settings" not in shell.scripts[0]


def fared(**instead):
    return phone.condition(Shell(FARED, **instead))


@pytest.mark.parametrize(
    ("zones", "cpu_c"),
    [
        (ZONES, 34.2),
        ("mtktscpu:41000\nmtktsbattery:30000", 41.0),
        ("BIG:55000\nMID:50000\nLITTLE:47000\nG3D:90000", 55.0),
        ("cpu7-top-thermal:48300\ncluster0-thermal:47000", 48.3),
        ("soc_thermal:39", 39.0),
        ("cpu-0-0-usr:-40000\ncpu-0-1-usr:x\ncpu-0-2-usr:999999", 37.2),
        ("gpuss-0-usr:50000", 37.2),
        ("", 37.2),
    ],
)
def test_the_hottest_cpu_zone_or_else_androids_sensor(zones, cpu_c):
    assert fared(zones=zones).cpu_c == cpu_c


@pytest.mark.parametrize(
    ("thermal", "status"),
    [
        (THERMAL, 0),
        (THERMAL.replace("Thermal Status: 0", "Thermal Status: 2"), 2),
        (THERMAL.replace("mName=CPU7, mStatus=0", "mName=CPU7, mStatus=1"), 1),
        (THERMAL.replace("mName=battery, mStatus=0", "mName=battery, mStatus=1"), 0),
        (THERMAL.replace("Thermal Status: 0\n", "").partition("Current temp")[0], None),
        (THERMAL_ANDROID_9, None),
        ("Permission Denial: can't dump thermalservice from pid=1, uid=2000", None),
        ("Thermal Status: 9", None),
    ],
)
def test_the_thermal_status_is_of_now(thermal, status):
    assert fared(thermal=thermal).thermal_status == status


def test_services_that_were_told_what_to_say_are_not_believed():
    found = fared(
        thermal=THERMAL.replace("IsStatusOverride: false", "IsStatusOverride: true"),
        battery=BATTERY.replace("state:\n", "state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n"),
    )
    assert found.faked == ("thermal status", "battery")
    assert found.thermal_status is None
    assert (found.battery_level, found.battery_c, found.charging, found.plugged) == (None, None, None, "")


@pytest.mark.parametrize(
    ("battery", "expected"),
    [
        (BATTERY.replace("status: 5", "status: 2").replace("AC powered: false", "AC powered: true"), (True, "AC, USB")),
        (BATTERY.replace("USB powered: true", "USB powered: false").replace("status: 5", "status: 3"), (False, "")),
        (BATTERY.replace("  status: 5\n", "") + "\n  Dock powered: true", (None, "USB, Dock")),
        (DENIED, (None, "")),
    ],
)
def test_charging_is_current_that_flows_in(battery, expected):
    found = fared(battery=battery)
    assert (found.charging, found.plugged) == expected


@pytest.mark.parametrize(
    ("power", "on"),
    [
        ("mWakefulness=Awake\nDisplay Power: state=ON", True),
        ("mWakefulness=Dozing\nDisplay Power: state=DOZE_SUSPEND", False),
        ("mWakefulness=Awake\nDisplay Power: state=OFF", False),
        ("  mWakefulness=Awake", True),
        ("  mWakefulness=Dreaming", True),
        ("  mWakefulness=Dozing", False),
        ("", None),
    ],
)
def test_the_screen(power, on):
    assert fared(power=power).screen_on is on


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("null", False), ("", None), (DENIED, None)])
def test_settings(text, value):
    found = fared(low_power=text, airplane=text)
    assert (found.low_power, found.airplane) == (value, value)


# Cores and threads


@pytest.mark.parametrize(
    ("mode", "threads", "expected"),
    [
        (BIG, 1, (7,)),
        (BIG, 2, (6, 7)),
        (BIG, 4, (4, 5, 6, 7)),
        (BIG, 6, (4, 5, 6, 7)),
        (LITTLE, 1, (0,)),
        (LITTLE, 4, (0, 1, 2, 3)),
        (FULL, 1, (4,)),
        (FULL, 5, (0, 4, 5, 6, 7)),
        (FULL, 8, tuple(range(8))),
        (UNBOUND, 1, tuple(range(8))),
    ],
)
def test_where_paddle_lite_binds_on_snapdragon_855(mode, threads, expected):
    assert phone.cores_for(MI9, READY, threads, mode) == expected


def test_one_kind_of_core_is_big():
    alike = Phone(cores=cores_of(clocks((8, 2000000))))
    assert phone.cores_for(alike, READY, 2, BIG) == (6, 7)
    assert phone.cores_for(alike, READY, 2, LITTLE) == (0, 1)


def test_a_core_that_is_offline_unbinds_all():
    asleep = fared(online="0-6")
    assert phone.cores_for(MI9, asleep, 1, BIG) == (0, 1, 2, 3, 4, 5, 6)
    assert phone.cores_for(MI9, asleep, 1, LITTLE) == (0,)


def test_unknown_cores_are_bound_nowhere():
    assert phone.cores_for(Phone(), Condition(), 1, BIG) == ()
    assert phone.obstacle(Phone(), Condition(), 4) == ""


@pytest.mark.parametrize(
    ("threads", "mode", "online", "words"),
    [
        (4, BIG, "0-7", ""),
        (5, BIG, "0-7", "5 threads asked, the phone has 4 big cores (cpu4, cpu5, cpu6, cpu7)"),
        (5, LITTLE, "0-7", "5 threads asked, the phone has 4 little cores (cpu0, cpu1, cpu2, cpu3)"),
        (8, UNBOUND, "0-7", ""),
        (9, UNBOUND, "0-7", "9 threads asked, the phone has 8 cores"),
        (4, BIG, "0-6", "4 threads asked, 3 big cores are online (not cpu7)"),
        (2, BIG, "0-6", "2 threads asked, to be bound to cpu6, cpu7 or else to none: cpu7 is offline"),
        (2, BIG, "0-4,6,7", ""),
        (4, BIG, "", ""),
    ],
)
def test_what_stands_in_the_way_of_threads(threads, mode, online, words):
    assert phone.obstacle(MI9, fared(online=online), threads, mode).startswith(words)
    assert bool(phone.obstacle(MI9, fared(online=online), threads, mode)) == bool(words)


STATUS = """\
Name:\tbenchmark_bin
Tgid:\t812
Pid:\t{pid}
PPid:\t1
TracerPid:\t0
Cpus_allowed:\tf0
Cpus_allowed_list:\t{cpus}
"""


def test_the_affinity_of_each_thread():
    text = STATUS.format(pid=812, cpus="4-7") + STATUS.format(pid=815, cpus="0-3,7")
    assert phone.affinity(text) == {812: (4, 5, 6, 7), 815: (0, 1, 2, 3, 7)}
    assert phone.affinity(text[: len(text) - 10]) == {812: (4, 5, 6, 7)}
    assert phone.affinity("cat: /proc/812/task/*/status: No such file or directory") == {}


# For the record


def test_a_description_gives_nobody_away():
    found = phone.describe(MI9, READY)
    text = json.dumps(found)
    assert "f1a2b3c4" not in text
    assert MI9.serial_sha256 not in text
    assert found["unit"] == MI9.serial_sha256[:4]
    assert found["soc"] == "SM8150"
    assert found["cores"][7] == {"number": 7, "capacity": 1024, "max_khz": 2841600, "kind": "prime"}
    assert found["condition"]["zones"]["cpu-1-3-usr"] == 34.2
    assert found["condition"]["limit_khz"]["7"] == 2841600


def test_what_does_not_change_is_described_without_what_does():
    assert "condition" not in phone.describe(MI9)


def test_a_record_keeps_the_hottest_zone_only():
    found = phone.facts(READY)
    assert "zones" not in found
    assert found["cpu_c"] == 34.2
    assert json.loads(json.dumps(found)) == found | {"online": list(range(8)), "faked": []}


# The scripts, in a real shell over planted files


def plant(root, files):
    for name, text in files.items():
        path = Path(root, name.lstrip("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if text else "")


@pytest.fixture
def android(tmp_path):
    """A folder with files of a phone and stubs of its tools; gives a reader that runs scripts there."""
    zones = [line.partition(":")[::2] for line in ZONES.splitlines()]
    plant(tmp_path, {f"/sys/class/thermal/thermal_zone{i}/type": name for i, (name, _) in enumerate(zones)})
    plant(tmp_path, {f"/sys/class/thermal/thermal_zone{i}/temp": value for i, (_, value) in enumerate(zones)})
    for text in (LOOKED["cores"], FARED["clocks"]):
        plant(tmp_path, dict(line.split(":") for line in text.splitlines()))
    plant(tmp_path, {f"{CPU}/present": "0-7", f"{CPU}/online": "0-7"})
    plant(tmp_path, {"/sys/class/thermal/thermal_zone98/type": "cpu-x"})
    plant(tmp_path, {"/proc/cpuinfo": f"processor\t: 0\n{CPUINFO}", "/proc/meminfo": LOOKED["memory"]})
    plant(tmp_path, {"/proc/stat": FARED["stat"] + "\ncpu0 1 2", "/proc/uptime": FARED["uptime"]})
    plant(tmp_path, {"/proc/loadavg": FARED["load"], "/proc/self/cpuset": "/foreground"})
    plant(tmp_path, {"/t/thermal": THERMAL, "/t/battery": BATTERY})
    plant(tmp_path, {"/t/power": "x\n" + FARED["power"], "/t/p": PROPERTIES})
    stubs = {
        "getprop": "cat t/p; echo '[gsm.imei]: [3520]'",
        "uname": '[ "$1" = -m ] && echo aarch64 || echo 4.14.117-perf-g5f3c5a8',
        "dumpsys": 'echo "dumpsys: a warning" >&2; cat "t/${1%service}"',
        "settings": '[ "$3" = low_power ] && echo 0 || echo 1',
    }
    for name, body in stubs.items():
        plant(tmp_path, {f"/bin/{name}": f"#!/bin/sh\n{body}"})
        (tmp_path / "bin" / name).chmod(0o755)

    def read(script):
        for folder in ("/sys/", "/proc/"):
            script = script.replace(folder, f"{tmp_path}{folder}")
        path = f"{tmp_path}/bin:/usr/bin:/bin"
        done = subprocess.run(
            ["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout

    read.root = tmp_path
    return read


def test_the_scripts_find_what_a_phone_has(android):
    assert phone.look(android) == MI9
    assert phone.condition(android) == READY


def test_a_glance_reads_no_zone_but_those_of_the_cpu(android):
    found = phone.glance(android)
    assert set(found.zones) == {"cpu-0-0-usr", "cpu-0-max-step", "cpuss-0-usr", "cpu-1-3-usr"}
    assert (found.cpu_c, found.khz, found.online) == (READY.cpu_c, READY.khz, READY.online)
    assert found.thermal_status is None


def test_the_scripts_go_on_where_tools_and_files_are_missing(android):
    for path in sorted(android.root.rglob("*"), reverse=True):
        if path.is_file() and path.name not in ("online", "uname"):
            path.unlink()
    assert phone.look(android) == Phone(machine="aarch64", kernel="4.14.117-perf-g5f3c5a8")
    assert phone.condition(android) == Condition(online=tuple(range(8)))
