"""A phone's files and state: a Snapdragon 855 as far as bench looks at one, in plain files below a folder."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from loopback.namespace import Namespace, Rewritten, namespace


class Cluster(NamedTuple):
    """Cores that share a clock. Capacities are what Linux computes from those and `clocks_khz` of its sm8150.dtsi."""

    cpus: tuple[int, ...]
    capacity: int
    clocks_khz: tuple[int, int]


CLUSTERS = (
    Cluster((0, 1, 2, 3), 306, (300_000, 1_785_600)),
    Cluster((4, 5, 6), 871, (710_400, 2_419_200)),
    Cluster((7,), 1024, (825_600, 2_841_600)),
)
CPUS = tuple(cpu for cluster in CLUSTERS for cpu in cluster.cpus)
#: thermal zones, in the order of their numbers; "" is one that can't be read at present
ZONES = (
    "aoss0-usr",
    *(f"cpu-{cluster}-{core}-usr" for cluster in (0, 1) for core in range(4)),
    "gpuss-0-usr",
    "battery",
    "xo-therm",
)
MUTE = "xo-therm"
PROPERTIES = {
    "ro.product.manufacturer": "Loopback",
    "ro.product.brand": "Loopback",
    "ro.product.name": "loopback",
    "ro.product.model": "Loopback 855",
    "ro.product.device": "loopback",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.fingerprint": "Loopback/loopback/loopback:12/TEST/1:user/test-keys",
    "ro.build.version.release": "12",
    "ro.build.version.sdk": "31",
    "ro.board.platform": "msmnile",
    "ro.hardware": "qcom",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM8150",
    "ro.boot.serialno": "1234567890",
}
GETPROP = """
file=${0%/bin/getprop}/properties
[ $# -eq 0 ] && exec cat "$file"
while IFS= read -r line; do
    case $line in "[$1]: ["*) value=${line#"[$1]: ["}; value=${value%]};; esac
done <"$file"
echo "${value:-$2}"
"""
DUMPSYS = """
file=${0%/bin/dumpsys}/dumpsys/$1
[ -f "$file" ] || { echo "Can't find service: $1"; exit 0; }
exec cat "$file"
"""
SETTINGS = """
file=${0%/bin/settings}/settings/$2.$3
echo "settings $*" >>"${0%/bin/settings}/calls"
case $1 in
    get) if [ -f "$file" ]; then cat "$file"; else echo null; fi;;
    put) echo "$4" >"$file";;
    delete) rm -f "$file";;
esac
"""
#: tools that only note what they were asked
NOTED = ("cmd", "input", "svc")
NOTE = """
echo "${0##*/} $*" >>"${0%/bin/*}/calls"
"""
START_C = 31.0
HOT_C = 95.0
CPU, GPU, BATTERY, SKIN = range(4)


class Phone:
    """In `folder`, with these properties beside or instead of `PROPERTIES`. Tests may change any file below `root`.

    Without `mounts` its commands run as they do where mounts aren't allowed.
    """

    def __init__(self, folder: Path, properties: Mapping[str, str] = {}, *, mounts: bool = True) -> None:
        self.root = folder.resolve() / "root"
        self.is_read_only = False
        self._properties = {**PROPERTIES, **properties}
        self._sessions: list[subprocess.Popen[bytes]] = []
        self._leaders: dict[int, str] = {}  # when each session's first process began
        self._status = 0
        tree = folder.resolve() / "tree"
        for name in ("data/local/tmp", "sdcard", "system/bin", "system/dumpsys", "system/settings", "sys"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        tree.mkdir(exist_ok=True)
        self._make_tools()
        self._make_cpus()
        self._make_zones()
        self.recover()
        self.set_battery()
        self._namespace: Namespace = namespace(self.root, tree) if mounts else Rewritten(self.root)

    def __enter__(self) -> "Phone":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what still runs."""
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        for session in self._sessions:
            session.wait()
            for pipe in (session.stdin, session.stdout, session.stderr):
                if pipe:
                    pipe.close()
        self._namespace.close()

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    def set_property(self, name: str, value: str) -> None:
        """`getprop` says it at once, adb's server at the next connection."""
        self._properties[name] = value
        lines = [f"[{name}]: [{value}]\n" for name, value in sorted(self._properties.items())]
        (self.root / "system/properties").write_text("".join(lines))

    def path(self, path: str) -> Path:
        """Of a file of the phone, on this machine."""
        return self.root / os.path.normpath(f"/{path}").lstrip("/")

    def tool(self, name: str, script: str) -> None:
        """Makes `script` a command of the phone, before those that this machine has of that name."""
        file = self.root / "system/bin" / name
        file.write_text(f"#!/bin/sh\n{script}")
        file.chmod(0o755)

    def calls(self) -> list[str]:
        """What `settings` and the tools that do nothing were asked, in order."""
        file = self.root / "system/calls"
        return file.read_text().splitlines() if file.exists() else []

    def spawn(self, command: str, *, apart: bool) -> "subprocess.Popen[bytes]":
        """Starts a command of the phone's shell, its two streams `apart` or as one."""
        tools = self.root / "system/bin"
        path = f"/system/bin:{tools}:{os.environ.get('PATH', os.defpath)}"
        process = subprocess.Popen(
            self._namespace.argv(command),
            cwd=self.root,
            env={"PATH": path, "HOME": "/", "ANDROID_DATA": "/data", "LC_ALL": "C.UTF-8"},
            bufsize=0,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT,
        )
        self._sessions.append(process)
        self._leaders[process.pid] = _state(Path(f"/proc/{process.pid}")).start
        return process

    def running(self) -> list[str]:
        """The commands that run on the phone, their children included."""
        return [command for command in map(_command_of, self._pids()) if command]  # those that are dying have none

    def leftovers(self) -> list[str]:
        """The names below /data/local/tmp."""
        return sorted(entry.name for entry in self.path("/data/local/tmp").iterdir())

    def set_temperature(self, celsius: float, zone: str = "cpu") -> None:
        """Of the thermal zones whose names begin so, and of what `dumpsys thermalservice` shows for them."""
        for number, name in enumerate(ZONES):
            if name.startswith(zone) and name != MUTE:
                self._sys(f"class/thermal/thermal_zone{number}/temp", f"{round(celsius * 1000)}\n")
        self._write_thermalservice()

    def set_thermal_status(self, status: int) -> None:
        """0 is none, 3 severe, 6 shutdown."""
        self._status = status
        self._write_thermalservice()

    def set_frequency_cap(self, khz: int) -> None:
        """Clusters that are faster get this as their highest frequency."""
        for cluster in CLUSTERS:
            capped = max(cluster.clocks_khz[0], min(cluster.clocks_khz[1], khz))
            for name in ("scaling_max_freq", "scaling_cur_freq"):
                self._sys(f"devices/system/cpu/cpufreq/policy{cluster.cpus[0]}/{name}", f"{capped}\n")

    def offline(self, *cpus: int) -> None:
        """Takes these cores away, and brings the others back."""
        folder = self.root / "sys/devices/system/cpu"
        for cluster in CLUSTERS:
            for cpu in cluster.cpus:
                (folder / f"cpu{cpu}/online").write_text(f"{int(cpu not in cpus)}\n")
                link = folder / f"cpu{cpu}/cpufreq"
                link.unlink(missing_ok=True)
                if cpu not in cpus:
                    link.symlink_to(f"../cpufreq/policy{cluster.cpus[0]}")
        (folder / "online").write_text(_ranges([cpu for cpu in CPUS if cpu not in cpus]) + "\n")
        (folder / "offline").write_text(_ranges(cpus) + "\n")

    def set_battery(self, level: int = 90, celsius: float = 27.0, *, charging: bool = True) -> None:
        self.set_temperature(celsius, "battery")
        self.set_dumpsys(
            "battery",
            "Current Battery Service state:\n"
            f"  AC powered: false\n  USB powered: {str(charging).lower()}\n  Wireless powered: false\n"
            f"  status: {2 if charging else 3}\n  health: 2\n  present: true\n  level: {level}\n  scale: 100\n"
            f"  voltage: 4200\n  temperature: {round(celsius * 10)}\n  technology: Li-ion\n",
        )

    def set_dumpsys(self, service: str, text: str) -> None:
        (self.root / "system/dumpsys" / service).write_text(text)

    def overheat(self) -> None:
        self.set_temperature(HOT_C)
        self.set_thermal_status(3)
        self.set_frequency_cap(1_400_000)

    def set_read_only(self, read_only: bool) -> None:
        """Of /data."""
        if read_only != self.is_read_only:
            self._namespace.set_read_only(read_only)
            self.is_read_only = read_only

    def recover(self) -> None:
        """Cool, with all cores at full speed."""
        self.set_temperature(START_C)
        self.set_thermal_status(0)
        self.offline()
        self.set_frequency_cap(CLUSTERS[-1].clocks_khz[1])

    def _make_tools(self) -> None:
        self.tool("getprop", GETPROP)
        self.tool("dumpsys", DUMPSYS)
        self.tool("settings", SETTINGS)
        for name in NOTED:
            self.tool(name, NOTE)
        self.set_property("ro.product.name", self._properties["ro.product.name"])
        self.set_dumpsys("power", "POWER MANAGER (dumpsys power)\n\n  mWakefulness=Awake\n  mStayOn=false\n")

    def _make_cpus(self) -> None:
        for cluster in CLUSTERS:
            policy = f"devices/system/cpu/cpufreq/policy{cluster.cpus[0]}"
            cpus = " ".join(map(str, cluster.cpus))
            slowest, fastest = cluster.clocks_khz
            for name, value in {
                "related_cpus": cpus,
                "affected_cpus": cpus,
                "cpuinfo_min_freq": slowest,
                "cpuinfo_max_freq": fastest,
                "scaling_min_freq": slowest,
                "scaling_governor": "schedutil",
            }.items():
                self._sys(f"{policy}/{name}", f"{value}\n")
            for cpu in cluster.cpus:
                self._sys(f"devices/system/cpu/cpu{cpu}/cpu_capacity", f"{cluster.capacity}\n")
                self._sys(f"devices/system/cpu/cpu{cpu}/topology/core_id", f"{cpu}\n")
        for name in ("present", "possible"):
            self._sys(f"devices/system/cpu/{name}", _ranges(CPUS) + "\n")

    def _make_zones(self) -> None:
        for number, name in enumerate(ZONES):
            self._sys(f"class/thermal/thermal_zone{number}/type", f"{name}\n")
            self._sys(f"class/thermal/thermal_zone{number}/temp", "" if name == MUTE else f"{START_C * 1000:.0f}\n")

    def _write_thermalservice(self) -> None:
        """As Android 12 writes it; the block of cached values is stale on real phones, too."""
        shown = {"cpu": CPU, "gpu": GPU, "batt": BATTERY}
        sensors = "".join(
            f"\tTemperature{{mValue={self._celsius(number)}, mType={kind}, mName={name}, mStatus={self._status}}}\n"
            for number, name in enumerate(ZONES)
            for prefix, kind in shown.items()
            if name.startswith(prefix)
        )
        self.set_dumpsys(
            "thermalservice",
            f"IsStatusOverride: false\nThermal Status: {self._status}\nCached temperatures:\n"
            "\tTemperature{mValue=99.9, mType=0, mName=cpu-0-0-usr, mStatus=0}\nHAL Ready: true\n"
            f"HAL connection:\n\tThermalHAL 2.0 connected: yes\nCurrent temperatures from HAL:\n{sensors}"
            "Current cooling devices from HAL:\n\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}\n",
        )

    def _celsius(self, zone: int) -> float:
        return int((self.root / f"sys/class/thermal/thermal_zone{zone}/temp").read_text()) / 1000

    def _sys(self, name: str, text: str) -> None:
        file = self.root / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _pids(self) -> list[int]:
        """Of all processes, zombies apart, in the sessions that were started for commands.

        A session's number may since have been given to somebody else's, whose first process began later.
        """
        found = {int(folder.name): _state(folder) for folder in Path("/proc").glob("[0-9]*")}
        ours = {
            number for number, start in self._leaders.items() if number not in found or found[number].start == start
        }
        return [pid for pid, process in found.items() if process.session in ours and process.state not in "ZX"]


class _State(NamedTuple):
    state: str
    session: int
    start: str


def _state(folder: Path) -> _State:
    """Of a process: X is one that is gone."""
    try:
        words = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _State("X", 0, "")
    return _State(words[0], int(words[3]), words[19])


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _ranges(cpus: "list[int] | tuple[int, ...]") -> str:
    """As the kernel writes them: 0-3,5."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
