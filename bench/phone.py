"""What an Android phone is and how it fares, read through a shell on it: what it calls itself is checked, not believed.

A reader runs one script for each question and takes sections out of its output. What is missing, denied or garbled is
None or empty, and never an error; only a lost connection is, and that is the transport's to raise.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bench.catalog import LIST_DEVICES, HardwareProfile
from bench.environment import cpu_list, fields, number
from bench.errors import Unavailable
from bench.schema import Frozen

#: runs a script in the device's shell and returns its standard output, "" for what fails or is denied
Read = Callable[[str], str]

#: Paddle Lite's power modes (lite/core/device_info.cc, release/v2.13)
BIG, LITTLE, FULL, UNBOUND = 0, 1, 2, 3
#: of the SoC, the most trustworthy first; the first four name the chip itself, or else nothing
CHIP_PROPERTIES = ("ro.soc.model", "Hardware", "ro.hardware.chipname", "ro.chipname")
BOARD_PROPERTIES = ("ro.board.platform", "ro.product.board")
#: what a vendor calls a chip: SM8150, SDM845, MT6785, kirin980, exynos9820
CHIP = re.compile(r"[A-Za-z]{2,}[ _-]?\d{3,}\w*(-\w+)?")
#: platforms whose names aren't the chip's; other chips share them, and clocks tell those apart
PLATFORMS = {"msmnile": "SM8150"}
EMULATORS = frozenset({"goldfish", "ranchu", "cutf_cvm"})
#: colder or hotter a phone is not; sensors that are absent or switched off say 0, -40, -99.9 or -273
LEAST_C, MOST_C = 0.0, 150.0
#: zones that sit in or beside CPU cores: Qualcomm's cpu-1-3-usr and cpuss-0-usr, MediaTek's mtktscpu, Samsung's BIG
CPU_ZONE = re.compile(r"(?i)cpu|^(big|mid|little)$|^cluster|^soc[-_]thermal$")
CPU_ZONES_IN_SHELL = "*[cC][pP][uU]*|BIG|MID|LITTLE|cluster*|soc[-_]thermal"
CPU_SENSOR, SKIN_SENSOR = 0, 3  # of android.os.Temperature
MOST_STATUS = 6
TICKS_PER_S = 100  # of /proc/stat on every Android phone

# Scripts. POSIX shell, without braces, arrays or tools that toybox of Android 7 lacks; `grep -H .` prints each file's
# lines behind its name and goes on where one is denied.

MARK = "@@ "
_CPU = "/sys/devices/system/cpu/cpu[0-9]*"


def _script(*sections: tuple[str, str]) -> str:
    lines = "\n".join(f"echo '{MARK}{name}'; {command}" for name, command in sections)
    return f"{{\n{lines}\n}} 2>/dev/null"


def _zones(which: str) -> str:
    """`type:temperature` of each zone, by the shell's own `read`: a phone has a hundred, and a process each is slow."""
    return (
        "for z in /sys/class/thermal/thermal_zone*; do "
        f'if read -r t <$z/type; then case "$t" in {which}) if read -r c <$z/temp; then echo "$t:$c"; fi;; esac; fi; '
        "done"
    )


LOOK = _script(
    ("properties", r"getprop | grep '^\[ro\.'"),
    ("machine", "uname -m"),
    ("kernel", "uname -r"),
    ("cpuinfo", "grep -E '^(Hardware|CPU implementer|CPU part|vendor_id)' /proc/cpuinfo"),
    ("memory", "grep '^MemTotal:' /proc/meminfo"),
    ("present", "cat /sys/devices/system/cpu/present"),
    ("cores", f"grep -H . {_CPU}/cpu_capacity {_CPU}/cpufreq/cpuinfo_max_freq"),
)
_COMMON = (
    ("uptime", "cat /proc/uptime"),
    ("stat", "head -n 1 /proc/stat"),
    ("online", "cat /sys/devices/system/cpu/online"),
    (
        "clocks",
        "grep -H . "
        + " ".join(
            f"{_CPU}/cpufreq/{name}"
            for name in ("cpuinfo_max_freq", "scaling_max_freq", "scaling_cur_freq", "scaling_governor")
        ),
    ),
)
#: what can be read while a program is timed: files alone, as `dumpsys` sets services of the phone to work
GLANCE = _script(*_COMMON, ("zones", _zones(CPU_ZONES_IN_SHELL)))
CONDITION = _script(
    *_COMMON,
    ("zones", _zones("*")),
    ("thermal", "dumpsys thermalservice"),
    ("battery", "dumpsys battery"),
    ("power", "dumpsys power | grep -E 'mWakefulness=|Display Power: state='"),
    ("low_power", "settings get global low_power"),
    ("airplane", "settings get global airplane_mode_on"),
    ("cpuset", "cat /proc/self/cpuset"),
    ("load", "cat /proc/loadavg"),
)


def _sections(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = ""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # else no record could hold it
    for line in readable.splitlines():
        if line.startswith(MARK):
            name = line[len(MARK) :].strip()
        else:
            found.setdefault(name, []).append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


# The phone


class Core(Frozen, frozen=True):
    """A CPU. `kind` is "prime", "gold" or "silver", or "" where its speed could not be read.

    The fastest of two kinds are gold. Of three or more the fastest are prime and the slowest silver; where all are
    alike, all are gold.
    """

    number: int
    capacity: int | None = None
    max_khz: int | None = None
    kind: str = ""


class Phone(Frozen, frozen=True):
    """What doesn't change on a phone. `serial_sha256` tells two of a kind apart on this computer, and isn't published.

    `soc_names` holds every name of the SoC by where it stands, `soc` the most trustworthy of them. `machine` is what
    its kernel computes as, `processors` are implementer and part of its cores, or the vendor of a CPU that is no ARM.
    """

    manufacturer: str = ""
    brand: str = ""
    model: str = ""
    device: str = ""
    fingerprint: str = ""
    android: str = ""
    sdk: int | None = None
    abis: tuple[str, ...] = ()
    platform: str = ""
    hardware: str = ""
    soc: str = ""
    soc_names: dict[str, str] = {}
    serial_sha256: str = ""
    machine: str = ""
    kernel: str = ""
    processors: tuple[str, ...] = ()
    cores: tuple[Core, ...] = ()
    memory_kb: int | None = None
    emulator: bool = False

    @property
    def name(self) -> str:
        """Maker and model, as a person says them."""
        return " ".join(word for word in (self.manufacturer, self.model) if word) or "a phone without a name"


def look(read: Read) -> Phone:
    """The phone, in one round trip."""
    told = _sections(read(LOOK))
    properties = _properties(told.get("properties", ""))
    cpuinfo = told.get("cpuinfo", "")
    names = _soc_names(properties, fields(cpuinfo))
    serial = properties.get("ro.boot.serialno") or properties.get("ro.serialno") or ""
    return Phone(
        manufacturer=_product(properties, "manufacturer"),
        brand=_product(properties, "brand"),
        model=_product(properties, "model"),
        device=_product(properties, "device"),
        fingerprint=properties.get("ro.build.fingerprint", ""),
        android=properties.get("ro.build.version.release", ""),
        sdk=number(properties.get("ro.build.version.sdk", "")),
        abis=tuple(abi for abi in properties.get("ro.product.cpu.abilist", "").split(",") if abi),
        platform=properties.get("ro.board.platform", ""),
        hardware=properties.get("ro.hardware", ""),
        soc=next(iter(_chips(names)), ""),
        soc_names=names,
        serial_sha256=hashlib.sha256(serial.encode()).hexdigest() if serial else "",
        machine=_word(told.get("machine", "")),
        kernel=_word(told.get("kernel", "")),
        processors=_processors(cpuinfo),
        cores=_cores(told.get("present", ""), told.get("cores", "")),
        memory_kb=_first_number(fields(told.get("memory", "")).get("MemTotal", "")),
        emulator="1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu")),
    )


def _word(text: str) -> str:
    """An answer of one word; more of them are a complaint."""
    return text if len(text.split()) == 1 else ""


def _properties(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\[(ro\.[^\]]+)\]: \[(.*)\]$", text, re.MULTILINE))


def _product(properties: Mapping[str, str], what: str) -> str:
    return properties.get(f"ro.product.{what}") or properties.get(f"ro.product.vendor.{what}") or ""


def _soc_names(properties: Mapping[str, str], cpuinfo: Mapping[str, str]) -> dict[str, str]:
    every = {name: {**properties, **cpuinfo}.get(name, "") for name in (*CHIP_PROPERTIES, *BOARD_PROPERTIES)}
    return {name: value for name, value in every.items() if value and value != "unknown"}


def _chips(names: Mapping[str, str]) -> list[str]:
    """What decides which SoC it is: all names of the chip itself, or where there is none the best one of the board."""
    chips = [chip[0] for name in CHIP_PROPERTIES if (chip := CHIP.search(names.get(name, "")))]
    boards = [PLATFORMS.get(names[name], names[name]) for name in BOARD_PROPERTIES if name in names]
    return chips or [chip[0] for board in boards if (chip := CHIP.search(board))][:1]


def _processors(cpuinfo: str) -> tuple[str, ...]:
    """`implementer part` of each kind of core (0x51 0x804 is Qualcomm's Kryo 4xx Gold), or a foreign vendor's name."""
    found: list[str] = []
    implementer = ""
    for line in cpuinfo.splitlines():
        name, value = (word.strip() for word in line.partition(":")[::2])
        if name == "CPU implementer":
            implementer = value
        elif name == "CPU part":
            found.append(f"{implementer} {value}")
        elif name == "vendor_id":
            found.append(value)
    return tuple(dict.fromkeys(found))


def _first_number(text: str) -> int | None:
    words = text.split()
    return number(words[0]) if words else None


def _per_core(text: str) -> dict[str, dict[int, str]]:
    """Of each file's name the value by core, from lines like `/sys/devices/system/cpu/cpu7/cpu_capacity:1024`."""
    found: dict[str, dict[int, str]] = {}
    for cpu, name, value in re.findall(r"/cpu(\d{1,3})/(?:cpufreq/)?(\w+):(.*)$", text, re.MULTILINE):
        found.setdefault(name, {})[int(cpu)] = value.strip()
    return found


def _numbers(values: Mapping[int, str]) -> dict[int, int]:
    return {cpu: value for cpu, text in values.items() if (value := number(text)) is not None and value > 0}


def _cores(present: str, files: str) -> tuple[Core, ...]:
    values = {name: _numbers(column) for name, column in _per_core(files).items()}
    capacities, clocks = values.get("cpu_capacity", {}), values.get("cpuinfo_max_freq", {})
    known = sorted({*cpu_list(present), *capacities, *clocks})
    kinds = _kinds([column for column in (capacities, clocks) if column], known)
    return tuple(Core(cpu, capacities.get(cpu), clocks.get(cpu), kinds.get(cpu, "")) for cpu in known)


def _kinds(columns: Sequence[Mapping[int, int]], cpus: Sequence[int]) -> dict[int, str]:
    """The kind of each core by the columns that all cores have, or of those that have one by the fullest.

    A core that is offline has no clock to be read, but mostly a capacity.
    """
    whole = [column for column in columns if len(column) == len(cpus)] or sorted(columns, key=len)[-1:]
    speeds = {cpu: tuple(column[cpu] for column in whole) for cpu in cpus if whole and all(cpu in c for c in whole)}
    classes = sorted(set(speeds.values()), reverse=True)
    if len(classes) < 3:
        names = dict(zip(classes, ("gold", "silver"), strict=False))
    else:
        names = dict.fromkeys(classes, "gold") | {classes[0]: "prime", classes[-1]: "silver"}
    return {cpu: names[speed] for cpu, speed in speeds.items()}


def disguise(phone: Phone) -> str:
    """What belies that it is a phone with an ARM processor; "" where nothing does."""
    calls = f"it calls itself {phone.soc or phone.name}"
    if phone.machine and not re.match("aarch64|arm", phone.machine):
        return f"{calls}, yet computes as {phone.machine}"
    if phone.abis and not any(abi.startswith("arm") for abi in phone.abis):
        return f"{calls}, yet runs programs for {', '.join(phone.abis)} alone"
    if foreign := [name for name in phone.processors if not name.startswith("0x")]:
        return f"{calls}, yet its processor is by {foreign[0]}"
    if phone.emulator or phone.hardware in EMULATORS:
        return f"{calls}, yet it is Android's emulator (ro.hardware {phone.hardware or 'unknown'})"
    return ""


def refuse_stranger(profile: HardwareProfile, phone: Phone) -> None:
    """Raises Unavailable where the phone isn't the device that the profile describes.

    Every name of the chip must match, and there must be one; a clock that could be read must be the profile's.
    """
    wanted, chips = profile.match, _chips(phone.soc_names)
    named = bool(chips) and all(re.search(wanted.soc, chip, re.IGNORECASE) for chip in chips)
    if named and _clock_fits(wanted.max_khz, phone.cores):
        return
    fastest = max((core.max_khz for core in phone.cores if core.max_khz), default=None)
    soc = f"SoC {', '.join(dict.fromkeys(chips)) or 'without a name'}"
    at_most = f" of at most {mhz(wanted.max_khz)}" if wanted.max_khz else ""
    raise Unavailable(
        f"looked for a phone with {profile.label} ({wanted.soc}{at_most}) for device {profile.name}",
        f"found {phone.name}, {soc}, {f'at most {mhz(fastest)}' if fastest else 'clocks that can not be read'}",
        f"connect such a phone, or choose another device; {LIST_DEVICES}",
    )


def _clock_fits(wanted_khz: int, cores: Sequence[Core]) -> bool:
    """A core that is offline may have been the fastest."""
    clocks = [core.max_khz for core in cores if core.max_khz is not None]
    if not wanted_khz or not clocks or max(clocks) == wanted_khz:
        return True
    return max(clocks) < wanted_khz and len(clocks) < len(cores)


def mhz(khz: float) -> str:
    return f"{khz / 1000:.1f} MHz"


# How it fares


class Condition(Frozen, frozen=True):
    """How a phone fares at one moment. Clocks are by core, in kHz; `max_khz` is the hardware's, `limit_khz` today's.

    `cpu_c` is that of the hottest CPU zone, or where no zone can be read of the CPU sensor that Android reports.
    `thermal_status` is Android's, 0 (none) to 6 (shutdown), or that of a CPU or skin sensor where that is higher.
    `charging` is whether current flows into the battery, `plugged` where it could come from. `faked` names
    services that were told by hand what to say, and of which nothing is believed. `busy_s` is CPU time of all cores
    since the start.
    """

    uptime_s: float | None = None
    busy_s: float | None = None
    online: tuple[int, ...] = ()
    governors: dict[int, str] = {}
    max_khz: dict[int, int] = {}
    limit_khz: dict[int, int] = {}
    khz: dict[int, int] = {}
    zones: dict[str, float] = {}
    cpu_c: float | None = None
    thermal_status: int | None = None
    battery_level: int | None = None
    battery_c: float | None = None
    charging: bool | None = None
    plugged: str = ""
    screen_on: bool | None = None
    low_power: bool | None = None
    airplane: bool | None = None
    cpuset: str = ""
    load: float | None = None
    faked: tuple[str, ...] = ()


def condition(read: Read) -> Condition:
    """All of it, in one round trip: for before and after a measurement."""
    return _condition(read(CONDITION))


def glance(read: Read) -> Condition:
    """Clocks and CPU temperatures alone, from files: for while a program is timed."""
    return _condition(read(GLANCE))


def planned(found: Mapping[str, Any]) -> tuple[Phone, Condition]:
    """The phone and how it fared when the run was planned, from what workers are told; keys were text on the way."""
    return msgspec.convert((found["phone"], found["start"]), tuple[Phone, Condition], strict=False)


def _condition(text: str) -> Condition:
    told = _sections(text)
    clocks = _per_core(told.get("clocks", ""))
    zones = _temperatures(told.get("zones", ""))
    thermal, battery = told.get("thermal", ""), told.get("battery", "")
    sensors = _sensors(thermal)
    overridden = re.search(r"^IsStatusOverride: true", thermal, re.MULTILINE) is not None
    stopped = "UPDATES STOPPED" in battery
    return Condition(
        uptime_s=_decimal(told.get("uptime", "")),
        busy_s=_busy_s(told.get("stat", "")),
        online=cpu_list(told.get("online", "")),
        governors={cpu: name for cpu, name in clocks.get("scaling_governor", {}).items() if name},
        max_khz=_numbers(clocks.get("cpuinfo_max_freq", {})),
        limit_khz=_numbers(clocks.get("scaling_max_freq", {})),
        khz=_numbers(clocks.get("scaling_cur_freq", {})),
        zones=zones,
        cpu_c=_hottest_cpu(zones, sensors),
        thermal_status=None if overridden else _status(thermal, sensors),
        **({} if stopped else _battery(battery)),
        screen_on=_screen_on(told.get("power", "")),
        low_power=_switch(told.get("low_power", "")),
        airplane=_switch(told.get("airplane", "")),
        cpuset=_word(told.get("cpuset", "")),
        load=_decimal(told.get("load", "")),
        faked=("thermal status",) * overridden + ("battery",) * stopped,
    )


def _decimal(text: str) -> float | None:
    """The first word as a number of plain digits: "nan" and "inf" are none."""
    found = re.match(r"\d{1,12}(\.\d{1,12})?(?=\s|$)", text)
    return float(found[0]) if found else None


def _busy_s(stat: str) -> float | None:
    """The line `cpu user nice system idle iowait irq softirq …` of /proc/stat, without its idle time."""
    words = stat.split()
    ticks = [tick for word in words[1:8] if (tick := number(word)) is not None]
    if words[:1] != ["cpu"] or len(ticks) != 7:
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS_PER_S


def _temperatures(text: str) -> dict[str, float]:
    """By type, in °C, the hottest of those with one name. Zones give thousandths of a degree, a few whole degrees."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(":")
        reading = number(value)
        if not name or reading is None:
            continue
        celsius = reading / 1000 if abs(reading) >= 1000 else float(reading)
        if LEAST_C < celsius < MOST_C:
            found[name] = max(celsius, found.get(name, celsius))
    return found


class _Sensor(Frozen, frozen=True):
    celsius: float
    type: int
    status: int


def _sensors(thermal: str) -> list[_Sensor]:
    """What Android's thermal service reads now. The block of cached temperatures above is of its last change."""
    now = thermal.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    rows = re.findall(
        r"Temperature\{mValue=(\d{1,4}(?:\.\d{1,9})?), mType=(\d{1,2}), mName=[^,}]*, mStatus=([0-6])\}", now
    )
    sensors = [_Sensor(float(value), int(type_), int(status)) for value, type_, status in rows]
    return [sensor for sensor in sensors if LEAST_C < sensor.celsius < MOST_C]


def _hottest_cpu(zones: Mapping[str, float], sensors: Sequence[_Sensor]) -> float | None:
    inside = [celsius for name, celsius in zones.items() if CPU_ZONE.search(name)]
    reported = [sensor.celsius for sensor in sensors if sensor.type == CPU_SENSOR]
    return max(inside or reported, default=None)


def _status(thermal: str, sensors: Sequence[_Sensor]) -> int | None:
    """Android's own status is of skin sensors alone; a CPU sensor above its limit is no less slowed down."""
    overall = re.search(rf"^\s*Thermal Status: ([0-{MOST_STATUS}])\s*$", thermal, re.MULTILINE)
    levels = [sensor.status for sensor in sensors if sensor.type in (CPU_SENSOR, SKIN_SENSOR)]
    return max([*levels, *([int(overall[1])] if overall else [])], default=None)


def _battery(text: str) -> dict[str, Any]:
    """From `dumpsys battery`: the level in percent, tenths of a degree, and status 2, which is charging."""
    facts = fields(text)
    level, tenths, status = (number(facts.get(name, "")) for name in ("level", "temperature", "status"))
    sources = [name for name in ("AC", "USB", "Wireless", "Dock") if facts.get(f"{name} powered") == "true"]
    celsius = tenths / 10 if tenths is not None else None
    return {
        "battery_level": level if level is not None and 0 <= level <= 100 else None,
        "battery_c": celsius if celsius is not None and LEAST_C < celsius < MOST_C else None,
        "charging": None if status is None else status == 2,
        "plugged": ", ".join(sources),
    }


def _screen_on(power: str) -> bool | None:
    """What the display does, or else whether the phone is awake; a display that dozes shows little or nothing."""
    if display := re.search(r"Display Power: state=(\w+)", power):
        return display[1].startswith("ON")
    wakefulness = re.search(r"mWakefulness=(\w+)", power)
    return wakefulness[1] in ("Awake", "Dreaming") if wakefulness else None


def _switch(text: str) -> bool | None:
    """A setting; one that was never set is "null", and off."""
    return {"1": True, "0": False, "null": False}.get(text)


# Cores and threads


def big_and_little(phone: Phone) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paddle Lite's two classes: cores of at least the mean of the lowest and highest clock, and the others.

    It reckons in whole MHz. For Snapdragon 835 to 855 and other chips it has a table that says the same; for a few old
    chips of MediaTek the table says otherwise, and the affinity read back will show it. A core that was offline has no
    clock to be read: it goes by its capacity, and passes for big without one.
    """
    clocks = {core.number: core.max_khz // 1000 for core in phone.cores if core.max_khz}
    middle = (min(clocks.values(), default=0) + max(clocks.values(), default=0)) // 2
    enough = min((core.capacity or 0 for core in phone.cores if clocks.get(core.number, 0) >= middle), default=0)

    def is_big(core: Core) -> bool:
        return clocks[core.number] >= middle if core.number in clocks else (core.capacity or enough) >= enough

    big = tuple(core.number for core in phone.cores if is_big(core))
    return big, tuple(core.number for core in phone.cores if core.number not in big)


def cores_for(phone: Phone, condition: Condition, threads: int, power_mode: int) -> tuple[int, ...]:
    """The cores that all of Paddle Lite's threads will be bound to, in ascending order.

    Mode 0 takes big cores from the last one down, mode 1 little ones from the first one up, mode 2 big ones and then
    little ones from the first one up. Mode 3 binds to none, and neither do the others where one of theirs is offline:
    then it is all that are online (lite/core/device_info.cc, release/v2.13). () where the cores are unknown.
    """
    big, little = big_and_little(phone)
    everything = condition.online or tuple(core.number for core in phone.cores)
    order: Mapping[int, tuple[int, ...]] = {
        BIG: big[::-1] or little,
        LITTLE: little or big,
        FULL: big + little,
        UNBOUND: (),
    }
    chosen = tuple(sorted(order[power_mode][:threads]))
    return chosen if chosen and set(chosen) <= set(everything) else everything


def obstacle(phone: Phone, condition: Condition, threads: int, power_mode: int = BIG) -> str:
    """Why so many threads would not run as asked: Paddle Lite uses fewer then, or places them anywhere, in silence.

    "" where nothing stands in the way, or nothing is known of the cores.
    """
    if not phone.cores:
        return ""
    big, little = big_and_little(phone)
    kind, pool = {BIG: ("big ", big or little), LITTLE: ("little ", little or big)}.get(power_mode, ("", big + little))
    if threads > len(pool):
        return f"{threads} threads asked, the phone has {len(pool)} {kind}cores ({_listed(pool)})"
    asleep = [cpu for cpu in pool if condition.online and cpu not in condition.online]
    if asleep and threads > len(pool) - len(asleep):
        return f"{threads} threads asked, {len(pool) - len(asleep)} {kind}cores are online (not {_listed(asleep)})"
    wanted = cores_for(phone, Condition(), threads, power_mode)
    if power_mode != UNBOUND and (missing := [cpu for cpu in wanted if cpu in asleep]):
        bound = f"{threads} threads asked, to be bound to {_listed(wanted)} or else to none"
        return f"{bound}: {_listed(missing)} is offline"
    return ""


def _listed(cpus: Sequence[int]) -> str:
    return ", ".join(f"cpu{cpu}" for cpu in cpus) or "none"


def affinity(text: str) -> dict[int, tuple[int, ...]]:
    """The cores that each thread may run on, from the text of `/proc/<pid>/task/*/status`, one file after the other."""
    found: dict[int, tuple[int, ...]] = {}
    thread: int | None = None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            thread = number(value)
        elif name == "Cpus_allowed_list" and thread is not None and (cpus := cpu_list(value)):
            found[thread] = cpus
    return found


# For the record


def describe(phone: Phone, condition: Condition | None = None) -> dict[str, Any]:
    """The facts for an environment, plain enough for JSON; with `condition` also how the phone fared, zone by zone.

    Records get published. A serial number has so few digits that its hash gives it away, so there are four digits of
    the hash: they tell the phones of a desk apart, and fit one in 65,536 serial numbers.
    """
    plain = msgspec.to_builtins(phone)
    found = {name: value for name, value in plain.items() if name not in ("serial_sha256", "soc_names")}
    found["unit"] = phone.serial_sha256[:4]
    if condition is not None:
        found["condition"] = facts(condition) | {"zones": condition.zones}
    return found


def facts(condition: Condition) -> dict[str, Any]:
    """A condition for a record: keys are text, as in JSON, and what could not be read is None or empty.

    Of the hundred zones it has the hottest of the CPU alone.
    """
    plain = msgspec.to_builtins(condition)
    return {
        name: {str(key): each for key, each in value.items()} if isinstance(value, dict) else value
        for name, value in plain.items()
        if name != "zones"
    }


def core_map(phone: Phone) -> Iterator[str]:
    """A line for each kind of core: `prime: cpu7, 2841.6 MHz`."""
    groups: dict[tuple[str, int | None], list[int]] = {}
    for core in phone.cores:
        groups.setdefault((core.kind, core.max_khz), []).append(core.number)
    for (kind, khz), cpus in sorted(groups.items(), key=lambda group: group[1], reverse=True):
        yield f"{kind or 'unknown kind'}: {_listed(cpus)}, {mhz(khz) if khz else 'clock unknown'}"
