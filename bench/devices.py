"""Which device is there: this machine, a GPU in it, or a phone beside it; and whether it is the one asked for."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from bench import adb, cooling, environment, phone
from bench.catalog import HardwareProfile
from bench.errors import BenchError, Unavailable
from bench.schema import Frozen

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
    refuse_stranger(profile, description)
    return Device(dict(description), environment.usable_cpus())


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


def _phone(profile: HardwareProfile, description: Mapping[str, Any]) -> Device:
    """The phone that adb is connected to, verified by what it says of itself."""
    chosen = adb.choose()

    def read(script: str) -> str:
        return chosen.shell(script, retry=True).out

    seen = phone.look(read)
    phone.refuse_stranger(profile, seen)
    condition = phone.condition(read)
    about = {**description, "device": {"hardware": phone.describe(seen), "adb": adb.version(chosen.program)}}
    found = {"phone": msgspec.to_builtins(seen), "start": phone.facts(condition)}
    return Device(about, len(condition.online) or len(seen.cores), found)


def about(device: Device) -> list[str]:
    """A line on what a device beside this machine calls itself, and one for each kind of its cores."""
    if "phone" not in device.found:
        return []
    seen = msgspec.convert(device.found["phone"], phone.Phone, strict=False)
    calls = f"{seen.name}: SoC {seen.soc or 'unknown'}, Android {seen.android or 'unknown'}, {', '.join(seen.abis)}"
    return [calls, *phone.core_map(seen)]


def advice(device: Device) -> list[str]:
    """What to do before the phone is measured; empty for one that is ready."""
    seen = msgspec.convert(device.found["phone"], phone.Phone, strict=False)
    start = msgspec.convert(device.found["start"], phone.Condition, strict=False)
    belied = phone.disguise(seen)
    return [*([belied] if belied else []), *cooling.advice(seen, start)]


def tidy(profile: HardwareProfile) -> None:
    """Removes what workers that were killed have left on the device; what can't be reached is left to the next run."""
    if profile.kind == "phone":
        with contextlib.suppress(BenchError), adb.choose().folder():
            pass
