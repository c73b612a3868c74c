"""For tests: phones as their shells tell of them, in the formats of Android 9, 10, 12 and later."""

from collections.abc import Mapping

CPU = "/sys/devices/system/cpu"


def sections(found: Mapping[str, str]) -> str:
    """What a script prints."""
    return "".join(f"@@ {name}\n{text}\n" if text else f"@@ {name}\n" for name, text in found.items())


def files(values: Mapping[str, Mapping[int, object]]) -> str:
    """`grep -H .` over files of each CPU."""
    return "\n".join(
        f"{CPU}/cpu{cpu}/{name}:{value}" for name, column in values.items() for cpu, value in column.items()
    )


def clocks(*groups: tuple[int, int]) -> dict[int, int]:
    """(how many cores, kHz) of each cluster → by CPU."""
    every = [khz for count, khz in groups for _ in range(count)]
    return dict(enumerate(every))


SD855_KHZ = clocks((4, 1785600), (3, 2419200), (1, 2841600))
SD855_CAPACITY = {**dict.fromkeys(range(4), 306), **dict.fromkeys(range(4, 7), 871), 7: 1024}
PROPERTIES = """\
[ro.board.platform]: [msmnile]
[ro.boot.hardware]: [qcom]
[ro.boot.serialno]: [f1a2b3c4]
[ro.build.fingerprint]: [Xiaomi/cepheus/cepheus:10/QKQ1.190825.002/V12.0.6.0:user/release-keys]
[ro.build.version.release]: [10]
[ro.build.version.sdk]: [29]
[ro.hardware]: [qcom]
[ro.product.board]: [msmnile]
[ro.product.brand]: [Xiaomi]
[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]
[ro.product.device]: [cepheus]
[ro.product.manufacturer]: [Xiaomi]
[ro.product.model]: [MI 9]
[ro.serialno]: [f1a2b3c4]"""
ANDROID_12 = (
    PROPERTIES.replace("[ro.build.version.release]: [10]", "[ro.build.version.release]: [12]").replace("[29]", "[31]")
    + "\n[ro.soc.manufacturer]: [QTI]\n[ro.soc.model]: [SM8150]"
)
CPUINFO = """\
CPU implementer\t: 0x51
CPU part\t: 0x805
CPU implementer\t: 0x51
CPU part\t: 0x805
CPU implementer\t: 0x51
CPU part\t: 0x804
Hardware\t: Qualcomm Technologies, Inc SM8150"""
LOOKED = {
    "properties": PROPERTIES,
    "machine": "aarch64",
    "kernel": "4.14.117-perf-g5f3c5a8",
    "cpuinfo": CPUINFO,
    "memory": "MemTotal:        5779280 kB",
    "present": "0-7",
    "cores": files({"cpu_capacity": SD855_CAPACITY, "cpufreq/cpuinfo_max_freq": SD855_KHZ}),
}

ZONES = """\
aoss0-usr:31500
cpu-0-0-usr:33100
cpu-0-max-step:33400
cpuss-0-usr:32700
cpu-1-3-usr:34200
gpuss-0-usr:31800
battery:29000
ibat:-812
vbat:4123
soc:87
quiet-therm:30100
xo-therm:-40000
pop-mem-usr:"""
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 4
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=84.9, mType=0, mName=CPU0, mStatus=3}
\tTemperature{mValue=25.6, mType=3, mName=SKIN, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=36.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=37.2, mType=0, mName=CPU7, mStatus=0}
\tTemperature{mValue=35.1, mType=1, mName=GPU0, mStatus=0}
\tTemperature{mValue=29.0, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=30.1, mType=3, mName=skin, mStatus=0}
\tTemperature{mValue=-99.9, mType=5, mName=PA, mStatus=4}
\tTemperature{mValue=NaN, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=0, mName=CPU0, mHotThrottlingThresholds=[NaN, NaN, NaN, 95.0, NaN, NaN, 115.0]}"""
THERMAL_ANDROID_9 = "Can't find service: thermalservice"
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3210000
  status: 5
  health: 2
  present: true
  level: 100
  scale: 100
  voltage: 4380
  temperature: 291
  technology: Li-poly"""
GOVERNED = {
    "cpufreq/cpuinfo_max_freq": SD855_KHZ,
    "cpufreq/scaling_max_freq": SD855_KHZ,
    "cpufreq/scaling_cur_freq": clocks((4, 576000), (3, 710400), (1, 825600)),
    "cpufreq/scaling_governor": dict.fromkeys(range(8), "schedutil"),
}
FARED = {
    "uptime": "35211.87 250003.11",
    "stat": "cpu  1000 200 3000 900000 50 60 70 0 0 0",
    "online": "0-7",
    "clocks": files(GOVERNED),
    "zones": ZONES,
    "thermal": THERMAL,
    "battery": BATTERY,
    "power": "  mWakefulness=Asleep\nDisplay Power: state=OFF",
    "low_power": "0",
    "airplane": "1",
    "cpuset": "/foreground",
    "load": "9.12 9.54 9.60 1/3012 12345",
}


class Shell:
    """Answers any script with a text, and counts them."""

    def __init__(self, found: Mapping[str, str], **instead: str) -> None:
        self.text = sections({**found, **instead})
        self.scripts: list[str] = []

    def __call__(self, script: str) -> str:
        self.scripts.append(script)
        return self.text
