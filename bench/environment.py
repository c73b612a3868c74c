"""What was true of this machine: the facts without which a latency cannot be read, and what makes it noisy.

Everything is read below `root`: "/" on a live machine, a recorded tree in tests. A file that is missing or odd makes
a fact unknown (None) and never an error: containers hide files, and other systems have none of them. There psutil
says what it can, on a live machine only.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

Root = str | os.PathLike[str]

# Where noise starts to be worth a word: docs/validity.md. Cores, and shares of 1.
OTHERS_CORES = 0.25
PRESSURE_SHARE = 0.10
STEAL_SHARE = 0.02
# Clock sources that are read without a system call, in well under 0.1 µs; the last is that of ARM.
FINE_CLOCKS = frozenset({"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"})
# Exporting to ONNX and running peaks at 1.7 GB with ResNet-152 and at 0.4 GB with MobileNetV2 (measured, Paddle 3.3).
LEAST_AVAILABLE_BYTES = 2 * 2**30

MAX_CPUS = 2**16  # eight times what Linux can be built for; a garbled list must not fill the memory
GIT_TIMEOUT_S = 5.0
GIT_PLACES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"})
COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
COMMIT_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")  # GitHub, GitLab, Jenkins

PACKAGES = (
    "paddlepaddle",
    "paddlepaddle-gpu",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "cuda-bindings",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-ml-py",
    "paddle2onnx",
    "onnx",
    "numpy",
)
#: what tells phones apart, of all that is known of one
PHONE = ("manufacturer", "model", "soc", "unit", "fingerprint", "abis")
GPU = ("name", "capability", "memory_bytes")
VARIABLES = re.compile(
    r"(OMP|GOMP|MKL|KMP|OPENBLAS|ORT|ONEDNN|DNNL|FLAGS|MALLOC)_[A-Za-z0-9_]+|LD_PRELOAD|GLIBC_TUNABLES"
)
# Instructions that decide which kernels a runtime picks: x86 first, then ARM.
ISA = re.compile(r"(avx|amx|fma|f16c|sse4|asimd|bf16|fphp|i8mm|sve)\w*|sme2?")
# What a virtual machine calls itself (maker and product) or its clock sources; looked for in this order.
HYPERVISORS = {
    "amazon ec2": "kvm",
    "google compute engine": "kvm",
    "kvm": "kvm",
    "qemu": "kvm",
    "microsoft corporation virtual machine": "hyperv",
    "hyperv": "hyperv",
    "virtualbox": "virtualbox",
    "vmware": "vmware",
    "xen": "xen",
}
CONTAINERS = ("kubepods", "docker", "libpod", "containerd", "lxc")


# Reading files


def read(root: Root, name: str) -> str:
    """The text of `name` below `root`, stripped; empty where it cannot be read."""
    try:
        return Path(root, name.lstrip("/")).read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except (OSError, ValueError):
        return ""


def names(root: Root, folder: str, pattern: str = r".*") -> list[str]:
    """What a folder below `root` holds and `pattern` matches in full, sorted; nothing where it cannot be read."""
    try:
        return sorted(path.name for path in Path(root, folder).iterdir() if re.fullmatch(pattern, path.name))
    except (OSError, ValueError):
        return []


def present(root: Root, name: str) -> bool:
    """Whether there is such a file or folder below `root`, as far as can be seen."""
    with contextlib.suppress(OSError, ValueError):
        return bool(Path(root, name).stat())
    return False


def number(text: str) -> int | None:
    """`text` as an integer. From 2**60 on it is unknown: cgroup v1's "no limit", or garbage that adds up too far."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if abs(value) < 2**60 else None


def counters(text: str) -> dict[str, int]:
    """Lines of `name value` or `name: value`, as in /proc/vmstat, /proc/meminfo and cpu.stat."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: value for row in rows if len(row) > 1 and (value := number(row[1])) is not None}


def fields(text: str) -> dict[str, str]:
    """Lines of `name: words`, as in /proc/cpuinfo and /proc/<pid>/status; of a name that comes twice, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(name.strip(), value.strip())
    return found


def cpu_list(text: str) -> tuple[int, ...]:
    """CPUs in the kernel's notation: `0-3,8` is (0, 1, 2, 3, 8)."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = number(first), number(last or first)
        if low is not None and high is not None and 0 <= low <= high < MAX_CPUS:
            cpus.update(range(low, high + 1))
    return tuple(sorted(cpus))


def bytes_of(kib: int | None) -> int | None:
    return None if kib is None or kib >= 2**43 else kib * 1024


def ask_psutil(root: Root, question: str, **arguments: Any) -> Any:
    """psutil's answer about this machine, for systems without /proc; None where it has none, and of recorded trees."""
    if not live(root):
        return None
    with contextlib.suppress(Exception):  # psutil raises whatever the system below it does
        import psutil

        return getattr(psutil, question)(**arguments)
    return None


def live(root: Root) -> bool:
    """Whether `root` is this machine and no recorded tree."""
    return os.fspath(root) == "/"


# The CPUs that this process may use


def cpus_available(root: Root = "/", pid: int | str = "self") -> tuple[int, ...]:
    """The CPUs that the process may run on, at least one.

    The kernel's mask may name CPUs that are offline or were never there, so the mask is cut to those online.
    """
    allowed = cpu_list(fields(read(root, f"proc/{pid}/status")).get("Cpus_allowed_list", ""))
    online = cpu_list(read(root, "sys/devices/system/cpu/online"))
    both = tuple(sorted(set(allowed) & set(online))) or allowed or online
    return both or _affinity_elsewhere(root) or tuple(range(ask_psutil(root, "cpu_count") or 1))


def cpus_near(pci_bus_id: str, root: Root = "/") -> tuple[int, ...]:
    """Those of the available CPUs that are on the socket of a device, such as "00000000:3B:00.0"; none where the kernel
    doesn't tell."""
    place = pci_bus_id.lower()[-len("0000:3b:00.0") :]
    near = cpu_list(read(root, f"sys/bus/pci/devices/{place}/local_cpulist"))
    return tuple(sorted(set(near) & set(cpus_available(root))))


def _affinity_elsewhere(root: Root) -> tuple[int, ...]:
    """psutil's word for it: Windows has an affinity, macOS has none."""
    with contextlib.suppress(Exception):
        return tuple(sorted(ask_psutil(root, "Process").cpu_affinity()))
    return ()


def cgroup_folders(controller: str, root: Root = "/", pid: int | str = "self") -> list[str]:
    """The process's cgroup and its parents as far as they are visible, innermost first: v2, and `controller` of v1.

    Both may exist at once. A limit holds for all groups below it, so a reader looks at each folder.
    """
    groups: dict[str, str] = {}
    for line in read(root, f"proc/{pid}/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), path)
    mounts = _cgroup_mounts(controller, read(root, f"proc/{pid}/mountinfo"))
    return [
        folder
        for hierarchy, (top, shown) in mounts.items()
        for folder in _upwards(top, _below(groups.get(hierarchy, "/"), shown))
    ]


def _cgroup_mounts(controller: str, mountinfo: str) -> dict[str, tuple[str, str]]:
    """Mount point, and which part of the hierarchy is mounted there. v2 has the name "", as in /proc/<pid>/cgroup."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, right = (part.split() for part in line.partition(" - ")[::2])
        if len(left) < 5 or not right:
            continue
        if right[0] == "cgroup2":
            mounts.setdefault("", (left[4], left[3]))
        elif right[0] == "cgroup" and controller in right[-1].split(","):
            mounts.setdefault(controller, (left[4], left[3]))
    return mounts


def _below(path: str, shown: str) -> list[str]:
    """The parts of a cgroup's path below the `shown` one, which in a container may be its own, at the mount point."""
    if ".." in path.split("/"):
        return []
    if shown != "/":
        inside = path == shown or path.startswith(f"{shown}/")
        path = path[len(shown) :] if inside else "/"
    return [part for part in path.split("/") if part]


def _upwards(top: str, parts: list[str]) -> list[str]:
    return ["/".join([top.rstrip("/"), *parts[:depth]]) for depth in range(len(parts), -1, -1)]


def cpu_quota(root: Root = "/", pid: int | str = "self") -> float | None:
    """How many CPUs' worth of time the cgroup allows; None without a limit. The strictest parent counts."""
    quotas = (_quota_of(root, folder) for folder in cgroup_folders("cpu", root, pid))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(root: Root, folder: str) -> float | None:
    limit, _, period = read(root, f"{folder}/cpu.max").partition(" ")
    if not limit:
        limit, period = (read(root, f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    quota_us, period_us = number(limit) or 0, number(period) or 0
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def cpu_weight(root: Root = "/") -> float | None:
    """The cgroup's share of a busy machine against the default (1.0); the smallest on the way up counts."""
    folders = cgroup_folders("cpu", root)
    weights = [weight / 100 for folder in folders if (weight := number(read(root, f"{folder}/cpu.weight")))]
    weights += [shares / 1024 for folder in folders if (shares := number(read(root, f"{folder}/cpu.shares")))]
    return min(weights, default=None)


def usable_cpus(root: Root = "/", pid: int | str = "self") -> int:
    """What a thread pool should be sized from: available CPUs, or the quota's whole CPUs where those are fewer.

    Rounded down, as a pool larger than its quota is stopped for the rest of every period.
    """
    available, quota = len(cpus_available(root, pid)), cpu_quota(root, pid)
    return available if quota is None else max(1, min(available, int(quota)))


def memory_limit_bytes(root: Root = "/") -> int | None:
    """The strictest memory limit of the cgroup and its parents; None without one."""
    folders, files = cgroup_folders("memory", root), ("memory.max", "memory.limit_in_bytes")
    limits = [number(read(root, f"{folder}/{name}")) for folder in folders for name in files]
    return min((limit for limit in limits if limit and limit > 0), default=None)


# The description


def describe(root: Root = "/", environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The facts of this machine and its software, plain enough for JSON, in a stable order; None is unknown.

    Records get published: there is no user name, host name, serial number or home path in it. Of the environment it
    holds the variables that steer threads, allocators and kernels, with paths taken out of their values. Nothing in it
    changes from one minute to the next, so that equal machines have equal identifiers.
    """
    return {
        "hardware": _hardware(root),
        "system": _system(root),
        "limits": _limits(root),
        "packages": packages(),
        "variables": variables(os.environ if environ is None else environ),
    }


def machine_class(description: Mapping[str, Any]) -> str:
    """Names the hardware that computed: machines with the same one may be compared. 12 hexadecimal digits.

    Where a phone did it, that one is what counts, by what doesn't change from one look to the next; a GPU counts beside
    the machine that it is in.
    """
    device = description.get("device") or {}
    if phone := device.get("hardware"):
        return _digest({name: phone.get(name) for name in PHONE})
    hardware, gpu = description.get("hardware"), gpu_of(description)
    return _digest([hardware, {name: gpu.get(name) for name in GPU}] if gpu else hardware)


def phone_words(description: Mapping[str, Any]) -> str:
    """The phone that computed in this machine's place; "" where none did."""
    phone = (description.get("device") or {}).get("hardware") or {}
    if not phone:
        return ""
    name = " ".join(phone[word] for word in ("manufacturer", "model") if phone.get(word)) or "unknown phone"
    return f"{name} (SoC {phone.get('soc') or 'unknown'}, {', '.join(phone.get('abis') or ()) or 'unknown ABI'})"


def gpu_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The GPU of this machine that computed; nothing where none did."""
    return (description.get("device") or {}).get("gpu") or {}


def in_homes(description: Mapping[str, Any]) -> dict[str, str]:
    """What the homes of backends hold, each by its home and name: ours may hold another version of the same."""
    homes = description.get("homes") or {}
    return {f"{home}: {name}": version for home, held in homes.items() for name, version in held.items()}


def environment_id(description: Mapping[str, Any]) -> str:
    """Names hardware, system, limits, packages and variables together. 12 hexadecimal digits."""
    return _digest(description)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _hardware(root: Root) -> dict[str, Any]:
    info = fields(read(root, "proc/cpuinfo"))
    online = cpu_list(read(root, "sys/devices/system/cpu/online"))
    cores = {core for cpu in online if (core := _core(root, cpu))}
    siblings = _siblings(root, online)
    return {
        "architecture": platform.machine() or None,
        "cpu": _cpu(root, info),
        "logical_cpus": len(online) or ask_psutil(root, "cpu_count"),
        "physical_cores": len(cores) or ask_psutil(root, "cpu_count", logical=False),
        "sockets": len({package for package, _ in cores}) or None,
        "threads_per_core": max((len(cpu_list(group)) for group in siblings), default=None),
        "numa_nodes": len(names(root, "sys/devices/system/node", r"node\d+")) or None,
        "caches": _caches(root),
        "product": _product(root),
        "gpus": _gpus(root),
        **_virtual(root, info),
    }


def _cpu(root: Root, info: Mapping[str, str]) -> dict[str, Any]:
    """Which CPU it is, in the words of x86 or else of ARM."""
    flags = info.get("flags") or info.get("Features") or ""
    name = info.get("model name") or (platform.processor() if live(root) and not info else "")
    return {
        "name": name or None,
        "vendor": info.get("vendor_id") or info.get("CPU implementer"),
        "family": info.get("cpu family") or info.get("CPU architecture"),
        "model": info.get("model") or info.get("CPU part"),
        "stepping": info.get("stepping") or info.get("CPU revision"),
        "microcode": info.get("microcode"),
        "isa": sorted({flag for flag in flags.split() if ISA.fullmatch(flag)}),
    }


def _core(root: Root, cpu: int) -> tuple[str, str] | None:
    """Which socket and core a CPU belongs to."""
    folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
    package, core = read(root, f"{folder}/physical_package_id"), read(root, f"{folder}/core_id")
    return (package, core) if core else None


def _siblings(root: Root, cpus: Iterable[int]) -> list[str]:
    """The groups of CPUs that share a core, in the kernel's notation."""
    groups = {read(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    return sorted(groups - {""}, key=cpu_list)


def _caches(root: Root) -> dict[str, str]:
    """Sizes as the kernel gives them, of the first CPU: {"L1d": "48K", …}."""
    caches = {}
    folder = "sys/devices/system/cpu/cpu0/cache"
    for index in names(root, folder, r"index\d+"):
        level, kind, size = (read(root, f"{folder}/{index}/{name}") for name in ("level", "type", "size"))
        if level and size:
            caches[f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') }"] = size
    return caches


def _product(root: Root) -> str | None:
    """Maker and model of the machine, or a cloud's name for the kind of instance."""
    words = (read(root, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(word for word in words if word) or read(root, "proc/device-tree/model") or None


def _gpus(root: Root) -> list[str]:
    folder = "proc/driver/nvidia/gpus"
    found = (fields(read(root, f"{folder}/{name}/information")).get("Model") for name in names(root, folder))
    return sorted(model for model in found if model)


def _virtual(root: Root, info: Mapping[str, str]) -> dict[str, Any]:
    """x86 says by itself whether it is virtual; elsewhere the maker's name or the kernel does, or nobody."""
    name = _hypervisor(root)
    virtual: bool | None = True if name else None
    if "flags" in info:
        virtual = "hypervisor" in info["flags"].split()
    return {"virtual_machine": virtual, "hypervisor": name if virtual else None}


def _hypervisor(root: Root) -> str | None:
    product = _product(root) or ""
    clocks = read(root, "sys/devices/system/clocksource/clocksource0/available_clocksource")
    signs = f"{read(root, 'sys/hypervisor/type')} {product} {clocks}".lower()
    if "metal" in product:  # a cloud's name for an instance that is a real machine
        return None
    return next((name for word, name in HYPERVISORS.items() if word in signs), None)


def _system(root: Root) -> dict[str, Any]:
    clock = "sys/devices/system/clocksource/clocksource0"
    online = cpu_list(read(root, "sys/devices/system/cpu/online"))
    thp = re.search(r"\[(\w+)\]", read(root, "sys/kernel/mm/transparent_hugepage/enabled"))
    return {
        "os": platform.system() or None,
        "distribution": _unquoted(read(root, "etc/os-release"), "PRETTY_NAME"),
        "kernel": read(root, "proc/sys/kernel/osrelease") or (platform.release() if live(root) else None),
        "libc": _libc(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "nvidia_driver": read(root, "sys/module/nvidia/version") or None,
        "governor": _governor(root),
        "turbo": _turbo(root),
        "smt": {"1": True, "0": False}.get(read(root, "sys/devices/system/cpu/smt/active")),
        "smt_siblings": [group for group in _siblings(root, online) if len(cpu_list(group)) > 1],
        "isolated_cpus": read(root, "sys/devices/system/cpu/isolated") or None,
        "hardware_counters": _hardware_counters(root),
        "clocksource": read(root, f"{clock}/current_clocksource") or None,
        "clocksources": read(root, f"{clock}/available_clocksource").split(),
        "transparent_hugepages": thp[1] if thp else None,
        "autogroup": {"1": True, "0": False}.get(read(root, "proc/sys/kernel/sched_autogroup_enabled")),
    }


def _libc() -> str | None:
    with contextlib.suppress(OSError):  # without glibc it looks into the interpreter's file
        return " ".join(platform.libc_ver()).strip() or None
    return None


def _unquoted(text: str, name: str) -> str | None:
    found = re.search(rf'^{name}="?([^"\n]*)', text, re.MULTILINE)
    return found[1] if found else None


def _governor(root: Root) -> str | None:
    """The governor of all CPUs, or each that is in use, joined by a comma."""
    folder = "sys/devices/system/cpu"
    cpus = names(root, folder, r"cpu\d+")
    found = {read(root, f"{folder}/{cpu}/cpufreq/scaling_governor") for cpu in cpus}
    return ",".join(sorted(found - {""})) or None


def _turbo(root: Root) -> bool | None:
    """Whether the clock may exceed its nominal value; the two drivers say it the opposite way round."""
    intel = read(root, "sys/devices/system/cpu/intel_pstate/no_turbo")
    other = read(root, "sys/devices/system/cpu/cpufreq/boost")
    return {"0": True, "1": False}.get(intel, {"1": True, "0": False}.get(other))


def _hardware_counters(root: Root) -> bool | None:
    """Whether the kernel offers the CPU's own counters (cycles, cache misses)."""
    folder = "sys/bus/event_source/devices"
    if not present(root, folder):
        return None
    return bool(names(root, folder, r"cpu(_core|_atom)?|armv\d.*"))


def _limits(root: Root) -> dict[str, Any]:
    memory = counters(read(root, "proc/meminfo"))
    total, swap = bytes_of(memory.get("MemTotal")), bytes_of(memory.get("SwapTotal"))
    return {
        "container": _container(root),
        "cpus": list(cpus_available(root)),
        "cpu_quota": cpu_quota(root),
        "cpu_weight": cpu_weight(root),
        "usable_cpus": usable_cpus(root),
        "memory_bytes": total if total else getattr(ask_psutil(root, "virtual_memory"), "total", None),
        "memory_limit_bytes": memory_limit_bytes(root),
        "swap_bytes": swap if swap is not None else getattr(ask_psutil(root, "swap_memory"), "total", None),
    }


def _container(root: Root) -> str | None:
    """The kind of container, never its name; "none" where /proc shows no sign of one."""
    if present(root, "run/.containerenv"):
        return "podman"
    groups = read(root, "proc/self/cgroup") + read(root, "proc/1/cgroup")
    for word in CONTAINERS:
        if word in groups:
            return {"kubepods": "kubernetes", "libpod": "podman"}.get(word, word)
    if present(root, ".dockerenv"):
        return "docker"
    if "microsoft" in read(root, "proc/sys/kernel/osrelease").lower():
        return "wsl"
    return "none" if groups else None


def packages() -> dict[str, str | None]:
    """Versions of the runtimes as installed, without importing them; None for one that is not."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except Exception:  # a damaged installation raises more than PackageNotFoundError
        return None


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that steer threads, allocators and kernels. Of a path only a shared library's file name is kept."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    private = {environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME")}
    private |= {platform.node(), platform.node().partition(".")[0]}
    chosen = sorted(name for name in environ if VARIABLES.fullmatch(name))
    return {name: _public(environ[name], home, private - {""}) for name in chosen}


def _public(value: str, home: str, private: set[str]) -> str:
    if len(home) > 1:  # first, since it may hold what separates words below
        value = value.replace(home, "~")
    clean = "".join(_without_path(word) for word in re.split(r"([\s:;,=]+)", value))
    odd = not clean.isascii() or not clean.isprintable()
    return "<hidden>" if odd or private & set(re.split(r"[^\w.-]+", clean)) else clean


def _without_path(word: str) -> str:
    if not re.search(r"[/\\~]", word):
        return word
    file = re.split(r"[/\\]", word)[-1]
    return file if re.fullmatch(r"[\w.+-]+\.(so[\d.]*|dll|dylib)", file) else "<path>"


# Load


def processor_ticks(root: Root = "/") -> tuple[int, int] | None:
    """CPU time of the whole machine so far, in ticks (`ns_per_tick`): spent by anybody, stolen by the hypervisor."""
    first = read(root, "proc/stat").partition("\n")[0].split()
    ticks = [tick for word in first[1:9] if (tick := number(word)) is not None]
    if first[:1] == ["cpu"] and len(ticks) == 8:
        user, nice, system, _idle, _wait, irq, softirq, stolen = ticks  # guests, the 9th, are in user already
        return user + nice + system + irq + softirq, stolen
    times = ask_psutil(root, "cpu_times")
    return None if times is None else (int((times.user + times.system) * 1e9) // ns_per_tick(), 0)


def ns_per_tick() -> int:
    """The unit of /proc/stat and /proc/<pid>/stat, 10 ms nearly everywhere."""
    return 10**9 // os.sysconf("SC_CLK_TCK") if sys.platform == "linux" else 10**7


def pressure(root: Root = "/") -> tuple[float, int] | None:
    """Share of the last 10 s in which some task waited for a CPU (1 = always), and the µs of it since the start."""
    pattern = r"^some avg10=([0-9]{1,3}\.[0-9]+) .*total=([0-9]{1,18})$"
    found = re.search(pattern, read(root, "proc/pressure/cpu"), re.MULTILINE)
    return (float(found[1]) / 100, int(found[2])) if found else None


def load_now(root: Root = "/", seconds: float = 0.2) -> dict[str, float | None]:
    """How busy the machine is by itself, over `seconds` in which this process sleeps: cores, shares of 1, bytes."""
    before, started_ns = processor_ticks(root), time.perf_counter_ns()
    time.sleep(seconds)
    after, elapsed = processor_ticks(root), (time.perf_counter_ns() - started_ns) / ns_per_tick()
    waiting = pressure(root)
    return {
        "busy_cores": max(0, after[0] - before[0]) / elapsed if before and after and elapsed else None,
        "stolen_cores": max(0, after[1] - before[1]) / elapsed if before and after and elapsed else None,
        "pressure_share": waiting[0] if waiting else None,
        "available_bytes": bytes_of(counters(read(root, "proc/meminfo")).get("MemAvailable")),
    }


# Advice


def advice(
    description: Mapping[str, Any], root: Root = "/", now: Mapping[str, float | None] | None = None
) -> list[str]:
    """What makes this machine noisy and what to do about it, a line each; nothing for a quiet one.

    `now` is what `load_now` gives; it is sampled, in 0.2 s, when not given.
    """
    hardware, system, limits = (description.get(part) or {} for part in ("hardware", "system", "limits"))
    return [
        *_advice_on_clocks(system),
        *_advice_on_sharing(hardware, system),
        *_advice_on_limits(limits),
        *_advice_on_load(load_now(root) if now is None else now),
    ]


def _advice_on_clocks(system: Mapping[str, Any]) -> Iterable[str]:
    governor, clocksource = system.get("governor"), system.get("clocksource")
    if governor not in (None, "performance"):
        todo = "As root: cpupower frequency-set -g performance"
        yield f"The frequency governor is {governor}: the clock follows the load. {todo}"
    if system.get("turbo"):
        todo = "As root, in /sys/devices/system/cpu: write 1 to intel_pstate/no_turbo or 0 to cpufreq/boost"
        yield f"Turbo is on: speed depends on heat and on the other cores. {todo}"
    if clocksource is not None and clocksource not in FINE_CLOCKS:
        better = sorted(FINE_CLOCKS & set(system.get("clocksources") or ()))
        todo = f"As root, write {better[0]} to current_clocksource" if better else "Trust calls of 1 ms and more only"
        yield f"The clock source is {clocksource}, slow or coarse to read. {todo}"
    if system.get("os") not in (None, "Linux"):
        yield f"{system['os']} hides run-queue delay, pressure and throttling: evidence is thinner than on Linux"


def _advice_on_sharing(hardware: Mapping[str, Any], system: Mapping[str, Any]) -> Iterable[str]:
    if hardware.get("virtual_machine"):
        blind = "" if system.get("hardware_counters") else ", and no hardware counters show it"
        yield (
            f"This is a virtual machine ({hardware.get('hypervisor') or 'of unknown kind'}): its speed changes with "
            f"its neighbours{blind}. Judge changes with bench compare, not from stored numbers"
        )
    if groups := system.get("smt_siblings"):
        some = ", ".join(groups[:4]) + (", …" if len(groups) > 4 else "")
        todo = "Leave a sibling idle, or as root write off to /sys/devices/system/cpu/smt/control"
        yield f"CPUs share cores ({some}): work on one slows its sibling. {todo}"


def _advice_on_limits(limits: Mapping[str, Any]) -> Iterable[str]:
    quota, weight, cpus = (limits.get(name) for name in ("cpu_quota", "cpu_weight", "usable_cpus"))
    memory = limits.get("memory_limit_bytes")
    if quota is not None:
        below = ", so even one thread is stopped in each period" if quota < 1 else ""
        yield f"The cgroup allows {quota:g} CPUs{below}. Raise it, or use at most {max(1, int(quota))} threads"
    if weight is not None and weight < 1:
        yield f"The cgroup has {weight:.2g} of the default weight and yields to others. Raise cpu.weight or cpu.shares"
    if cpus == 1:
        yield "There is 1 usable CPU, for bench, the system and the network under test. Take a machine with 2 or more"
    if cpus == 2:
        yield "There are 2 usable CPUs: with 2 threads none is left for bench and the system. Prefer --threads 1"
    if memory is not None and memory < LEAST_AVAILABLE_BYTES:
        yield f"The cgroup allows {memory / 2**30:.1f} GiB of memory: large networks may be killed. Raise it to 2 GiB"
    if limits.get("swap_bytes"):
        yield "Swap is on: fetching a page back takes as long as an inference. As root: swapoff -a"


def _advice_on_load(now: Mapping[str, float | None]) -> Iterable[str]:
    busy, stolen = now.get("busy_cores") or 0, now.get("stolen_cores") or 0
    waiting, available = now.get("pressure_share") or 0, now.get("available_bytes")
    if busy > OTHERS_CORES:
        yield f"Others use {busy:.1f} cores now (limit {OTHERS_CORES}). Stop them, or wait"
    if stolen > STEAL_SHARE:
        yield f"The hypervisor withholds {stolen:.2f} cores now (limit {STEAL_SHARE}). Wait, or rent a dedicated host"
    if waiting > PRESSURE_SHARE:
        yield f"Tasks waited for a CPU in {waiting:.0%} of the last 10 s (limit {PRESSURE_SHARE:.0%}). Stop some"
    if available is not None and available < LEAST_AVAILABLE_BYTES:
        yield f"Only {available / 2**30:.1f} GiB of memory are free: large networks may swap or be killed. Free 2 GiB"


# The project's commit


def git_commit(path: Root = ".") -> str | None:
    """The commit of the project at `path`, or None. It ends in `-dirty` unless tracked files are known to be as in it.

    The checkout comes first: a job that bisects stands on another commit than the CI system started it for. The CI
    system's variable counts where git or the checkout is missing.
    """
    commit = _git(path, "rev-parse", "--verify", "HEAD")
    if commit and COMMIT.fullmatch(commit):
        return commit if _git(path, "status", "--porcelain", "--untracked-files=no") == "" else f"{commit}-dirty"
    given = (os.environ.get(name, "") for name in COMMIT_VARIABLES)
    return next((sha for sha in given if COMMIT.fullmatch(sha)), None)


def _git(path: Root, *words: str) -> str | None:
    """What git prints; None when it fails, hangs or isn't there. It takes no lock and starts no monitor."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", os.fspath(path), *words]
    # In a git hook, GIT_DIR and its kin name the repository that runs the hook, whatever `path` says.
    environ = {name: value for name, value in os.environ.items() if name not in GIT_PLACES}
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        return subprocess.check_output(
            command, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=GIT_TIMEOUT_S, text=True
        ).strip()
    return None
