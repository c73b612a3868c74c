"""Which device is there: this machine, a GPU in it, or a phone beside it; and whether it is the one asked for."""

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import msgspec
from filelock import FileLock, Timeout

from bench import adb, catalog, cooling, environment, phone
from bench.artifacts import default_root
from bench.backends import BaseBackend
from bench.catalog import HardwareProfile
from bench.errors import BenchError, Unavailable
from bench.gpu import nvml, selection, support, watch
from bench.gpu.selection import Gpu
from bench.schema import Frozen

if TYPE_CHECKING:
    from bench.gpu.matrix import Runtime

#: the environment variable that says which GPU of several: its index, the beginning of its UUID or a part of its name
GPU_VARIABLE = "BENCH_GPU"
MEASURE_THIS = "run it on a machine that has one, or measure this one with: --device cpu"


class Device(Frozen, frozen=True):
    """A device that is there. `description` is what records say of it, `cpus` how many of its cores a run may use,
    `found` what workers must know of it where it is not this machine."""

    description: dict[str, Any]
    cpus: int
    found: dict[str, Any] = {}


def find(profile: HardwareProfile, description: Mapping[str, Any]) -> Device:
    """The device that the profile describes; `description` is of this machine, as `environment.describe` gives it.

    Raises Unavailable where it isn't there, UsageError where several phones are and none was chosen.
    """
    if profile.kind == "phone":
        return _phone(profile, description)
    if profile.kind == "gpu":
        return _gpu(profile, description)
    refuse_stranger(profile, description)
    return Device(dict(description), environment.usable_cpus())


def show(device: Device) -> None:
    """From here on our workers see no other GPU."""
    if gpu := device.found.get("gpu"):
        os.environ.update(selection.visible_only(msgspec.convert(gpu, Gpu)))


def refuse_stranger(profile: HardwareProfile, description: Mapping[str, Any]) -> None:
    """Raises Unavailable where this machine is not the device that the profile describes."""
    wanted = profile.match
    hardware = description["hardware"]
    cpu, gpus = hardware["cpu"]["name"] or "unknown", hardware["gpus"]
    if wanted.gpu and not any(re.search(wanted.gpu, gpu) for gpu in gpus):
        raise Unavailable(
            f"looked for a GPU named like {profile.label} for device {profile.name}",
            f"found {', '.join(gpus) or 'no NVIDIA GPU'} beside the CPU {cpu}",
            MEASURE_THIS,
        )
    if wanted.cpu and not re.search(wanted.cpu, cpu):
        raise Unavailable(
            f"looked for a CPU named like {profile.label} for device {profile.name}",
            f"found {cpu}",
            "run it on such a machine, or measure this one with: --device cpu",
        )


def _gpu(profile: HardwareProfile, description: Mapping[str, Any]) -> Device:
    """The GPU of that name, or of those the one that `GPU_VARIABLE` means."""
    try:
        gpus, broken = watch.promptly(_listed, watch.FIRST_PATIENCE_S)
    except Unavailable:
        # Of a GPU on the bus that has no driver, what the driver lacks is the news.
        if description["hardware"]["gpus"] or not _on_the_bus():
            refuse_stranger(profile, description)
        raise
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = [gpu for gpu in gpus if selection.is_shown(gpu, shown)]
    fitting = selection.of_profile(gpus, profile)
    if not fitting:
        raise Unavailable(
            f"looked for a GPU named like {profile.label} for device {profile.name}",
            f"found {', '.join([*map(str, gpus), *broken]) or 'none'}"
            + (f" in CUDA_VISIBLE_DEVICES={shown}" if shown else ""),
            MEASURE_THIS,
        )
    gpu = selection.select(fitting, os.environ.get(GPU_VARIABLE, ""))
    told = {name: value for name, value in msgspec.to_builtins(gpu).items() if name not in ("uuid", "pci_bus_id")}
    found = {"gpu": msgspec.to_builtins(gpu), "cpus": environment.cpus_near(gpu.pci_bus_id)}
    return Device({**description, "device": {"gpu": told}}, environment.usable_cpus(), found)


def gpus_here() -> list[str]:
    """A line for each GPU that the driver lists: which device it is, or how to make it one; none without a driver."""
    try:
        gpus, _ = watch.promptly(_listed, watch.FIRST_PATIENCE_S)
    except Unavailable:
        return []
    return [_as_device(gpu) for gpu in gpus]


def _as_device(gpu: Gpu) -> str:
    of_gpus = [profile for profile in catalog.profiles().values() if profile.match.gpu]
    if named := [profile.name for profile in of_gpus if selection.of_profile([gpu], profile)]:
        return f"GPU {gpu}: measure it with --device {named[0]}"
    capability = ".".join(map(str, gpu.capability or ())) or "?"
    return (
        f"GPU {gpu}: no device is of that name; copy t4.toml to NAME.toml in {catalog.PROFILES}, put its name "
        f'and capability = "{capability}" there, then type: bench doctor --device NAME'
    )


def _listed() -> tuple[list[Gpu], list[str]]:
    with nvml.opened() as library:
        return library.gpus()


def _on_the_bus(root: environment.Root = "/") -> bool:
    """Whether a graphics or 3D controller of NVIDIA's is plugged into this machine."""
    folder = "sys/bus/pci/devices"
    places = [f"{folder}/{name}" for name in environment.names(root, folder)]
    ids = [(environment.read(root, f"{place}/vendor"), environment.read(root, f"{place}/class")) for place in places]
    return any(vendor == "0x10de" and kind.startswith("0x03") for vendor, kind in ids)


def _phone(profile: HardwareProfile, description: Mapping[str, Any]) -> Device:
    """The phone that adb is connected to, verified by what it says of itself."""
    chosen = adb.choose()

    def read(script: str) -> str:
        return chosen.shell(script, retry=True).out

    seen = phone.look(read)
    phone.refuse_stranger(profile, seen)
    condition = phone.condition(read)
    about = {**description, "device": {"hardware": phone.describe(seen), "adb": adb.version(chosen.program)}}
    found = {"serial": chosen.serial, "phone": msgspec.to_builtins(seen), "start": phone.facts(condition)}
    return Device(about, len(condition.online) or len(seen.cores), found)


def lacking(profile: HardwareProfile, device: Device | None, backend: BaseBackend, options: Mapping[str, str]) -> str:
    """What keeps an installed backend from this device, or "": versions that don't go with the GPU, which are known
    without one, or what the user must still bring."""
    found = device.found if device else {}
    if profile.kind == "gpu":
        target = msgspec.convert(found["gpu"], Gpu) if found else profile
        installed = {each.name: each.version for each in metadata.distributions()}
        about = {"python": platform.python_version(), "driver": target.driver if isinstance(target, Gpu) else ""}
        runtime, versions = cast("Runtime", backend.stack(options)), {**installed, **about}
        if word := support.absent(target, runtime, versions):
            needs = f"{word} is not installed, which {backend.name} needs for GPUs"
            return f"{needs}; see: bench doctor --device {profile.name}"
        if reason := support.obstacle(target, runtime, versions):
            return reason
    return backend.lacking(profile, options, found) if device else ""


def recipe(
    profile: HardwareProfile, device: Device | None, backend: BaseBackend, options: Mapping[str, str]
) -> tuple[str, ...]:
    """What to type, in order, to install the backend for a GPU; nothing for other devices."""
    if profile.kind != "gpu":
        return ()
    target = msgspec.convert(device.found["gpu"], Gpu) if device else profile
    return support.recipe(target, cast("Runtime", backend.stack(options)))


def about(device: Device) -> list[str]:
    """What a device beside this machine's CPU calls itself; of a phone also a line for each kind of its cores."""
    if gpu := device.found.get("gpu"):
        return [str(msgspec.convert(gpu, Gpu))]
    if "phone" not in device.found:
        return []
    seen, _ = phone.planned(device.found)
    calls = f"{seen.name}: SoC {seen.soc or 'unknown'}, Android {seen.android or 'unknown'}, {', '.join(seen.abis)}"
    return [calls, *phone.core_map(seen)]


def advice(device: Device) -> list[str]:
    """What to do before a device beside this machine's CPU is measured; empty for one that is ready."""
    if gpu := device.found.get("gpu"):
        return list(watch.advice(msgspec.convert(gpu, Gpu)))
    if "phone" not in device.found:
        return []
    seen, start = phone.planned(device.found)
    belied = phone.disguise(seen)
    return [*([belied] if belied else []), *cooling.advice(seen, start)]


@contextlib.contextmanager
def held(device: Device) -> Iterator[None]:
    """Keeps a phone for one run, as two would disturb each other's timing, and tidies it up afterwards.

    Raises Unavailable where another run on this computer has it.
    """
    if "phone" not in device.found:
        yield
        return
    seen, _ = phone.planned(device.found)
    unit = seen.serial_sha256 or hashlib.sha256(device.found["serial"].encode()).hexdigest()
    locks = default_root() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"phone-{unit[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Unavailable(f"{seen.name} is busy", "another run of bench measures on it", "wait for its end") from error
    try:
        yield
    finally:
        _tidy(device)
        lock.release()


def _tidy(device: Device) -> None:
    """Removes what workers that were killed have left on the phone; what can't be reached is left to the next run."""
    with contextlib.suppress(BenchError), adb.choose(device.found["serial"]).folder():
        pass
