"""What this machine is, what works here, what makes it noisy, and what to do about it."""

import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from bench import __version__, backends, devices, environment, homes
from bench.artifacts import Cache, default_root
from bench.catalog import HardwareProfile
from bench.devices import Device
from bench.errors import BenchError
from bench.jobs import Probe, Version
from bench.prepare import Workshop, thread_environment
from bench.progress import Quiet
from bench.schema import Settings


def examine(profile: HardwareProfile) -> tuple[list[str], bool]:
    """Lines to print, and whether `profile` can be measured here with at least one backend.

    Where the device isn't there, what else is missing is said nevertheless, so that all of it can be mended at once.
    """
    description = environment.describe()
    device, why = _look(profile, description)
    answers = dict(_answers(profile, device))
    usable = device is not None and any(isinstance(answer, Version) for answer in answers.values())
    lines = [
        f"bench {__version__}, Python {platform.python_version()}",
        *_machine(description),
        f"device {profile.name}: {why or 'yes'}",
        *(devices.about(device) if device else ()),
        *(f"backend {name}: {_said(answer)}" for name, answer in answers.items()),
        *_advice(description, profile, device),
    ]
    return lines, usable


def _look(profile: HardwareProfile, description: Mapping[str, Any]) -> tuple[Device | None, str]:
    """The device, or why it isn't there."""
    try:
        return devices.find(profile, description), ""
    except BenchError as error:
        return None, str(error)


def _machine(description: Mapping[str, Any]) -> Iterator[str]:
    hardware = description["hardware"]
    yield f"CPU: {hardware['cpu']['name'] or 'unknown'}, {hardware['logical_cpus']} logical CPUs"
    available = environment.cpus_available()
    quota = environment.cpu_quota()
    yield f"usable CPUs: {environment.usable_cpus()} (affinity {_ranges(available)}, quota {quota or 'none'})"
    yield f"GPUs: {', '.join(hardware['gpus']) or 'none'}"
    yield f"cache: {default_root()}"
    machine, all_of_it = environment.machine_class(description), environment.environment_id(description)
    yield f"machine class {machine}, environment {all_of_it}"


def _ranges(cpus: tuple[int, ...]) -> str:
    return ",".join(map(str, cpus))


def _answers(profile: HardwareProfile, device: Device | None) -> Iterator[tuple[str, Version | str]]:
    """Of each backend of the device its version, asked in a worker of its own, or what it lacks: a broken runtime can't
    break the doctor."""
    workshop = Workshop(Cache(default_root()), Settings(timeout_s=120), environment.cpus_available(), Quiet().say)
    for name in profile.backends:
        if name not in backends.names():
            yield name, "not in this bench yet"
            continue
        backend = backends.get(name)
        lacking = homes.missing(backend)
        if device and not lacking:
            lacking = backend.lacking(profile, backends.settle(backend, {}), device.found)
        if lacking or not device:
            yield name, lacking or f"installed; it waits for {profile.name}"
            continue
        answer = workshop.ask(Probe(backend=name, device=profile), thread_environment(1))
        yield name, answer if isinstance(answer, Version) else str(getattr(answer, "reason", answer))


def _said(answer: Version | str) -> str:
    return f"yes, version {answer.version}" if isinstance(answer, Version) else answer


def _advice(description: Mapping[str, Any], profile: HardwareProfile, device: Device | None) -> Iterator[str]:
    """Against what makes numbers noisy: of this machine, or of the phone that would compute in its place."""
    if profile.kind == "phone":
        advice, where = devices.advice(device) if device else [], "phone"
    else:
        advice, where = environment.advice(description), "machine"
    if device or profile.kind != "phone":
        yield f"noise: {len(advice)} things make this {where} noisy" if advice else f"noise: none found on this {where}"
    yield from (f"  - {line}" for line in advice)
    if os.environ.get("CI"):
        yield "  - this is a CI job: compare side by side in one job, never against numbers of another one"
