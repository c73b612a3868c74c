"""What this machine is, what works here, what makes it noisy, and what to do about it."""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bench import __version__, backends, devices, environment, homes
from bench.artifacts import Cache, default_root
from bench.backends import BaseBackend
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
    answers = list(_answers(profile, device))
    usable = device is not None and any(isinstance(answer, Version) for _, answer in answers)
    lines = [
        f"bench {__version__}, Python {platform.python_version()}",
        *_machine(description),
        f"device {profile.name}: {why or 'yes'}",
        *(devices.about(device) if device else ()),
        *(devices.gpus_here() if profile.kind == "cpu" else ()),
        *_about(answers, profile, device),
        *_advice(description, profile, device),
    ]
    return lines, usable


def _look(profile: HardwareProfile, description: Mapping[str, Any]) -> tuple[Device | None, str]:
    """The device, or why it isn't there."""
    try:
        device = devices.find(profile, description)
        devices.show(device)
        return device, ""
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


FITS = "its versions fit; whether its libraries load shows when an engine is built"


class Asked(NamedTuple):
    """A backend with options; `words` are those that make it another stack than its default ones do."""

    backend: BaseBackend
    options: dict[str, str]
    words: str = ""

    def __str__(self) -> str:
        return f"{self.backend.name} with {self.words}" if self.words else self.backend.name


def _asked(profile: HardwareProfile) -> Iterator[Asked]:
    """The backends of the device; of a GPU all that run on one, with each option by which they need something else."""
    others = [name for name in backends.names() if profile.kind == "gpu" and name not in profile.backends]
    for backend in map(backends.get, [*profile.backends, *others]):
        if profile.kind not in backend.kinds or not (backend.default or backend.name in profile.backends):
            continue
        usual = backends.settle(backend, {}, profile.kind)
        yield Asked(backend, usual)
        for option, choices in backend.options.items():
            for choice in choices if isinstance(choices, tuple) and option in usual else ():
                options = {**usual, option: choice}
                if backend.stack(options) != backend.stack(usual):
                    yield Asked(backend, options, f"{option}={choice}")


def _answers(profile: HardwareProfile, device: Device | None) -> Iterator[tuple[Asked, Version | str]]:
    """Of each backend its version, asked in a worker of its own, or what it lacks: a broken runtime can't break the
    doctor."""
    workshop = Workshop(Cache(default_root()), Settings(timeout_s=120), environment.cpus_available(), Quiet().say)
    for asked in _asked(profile):
        backend, options, words = asked
        # In this order: what is installed for a GPU goes by other names.
        lacking = devices.lacking(profile, device, backend, options) or homes.missing(backend)
        if lacking or not device:
            yield asked, lacking or f"installed; it waits for {profile.name}"
        elif words:
            yield asked, FITS
        else:
            environ = thread_environment(1) | backend.environment(options)
            answer = workshop.ask(Probe(backend=backend.name, device=profile), environ)
            yield asked, answer if isinstance(answer, Version) else str(getattr(answer, "reason", answer))


def _about(
    answers: Iterable[tuple[Asked, Version | str]], profile: HardwareProfile, device: Device | None
) -> Iterator[str]:
    told: dict[tuple[str, ...], Asked] = {}
    for asked, answer in answers:
        if isinstance(answer, Version):
            yield f"backend {asked}: yes, version {answer.version}"
            continue
        yield f"backend {asked}: {answer}"
        if answer == FITS:
            continue
        recipe = devices.recipe(profile, device, asked.backend, asked.options)
        if earlier := told.get(recipe):
            yield f"    install it as {earlier}"
        else:
            yield from (f"    {line}" for line in recipe)
        if recipe:
            told.setdefault(recipe, asked)


def _own_advice(description: Mapping[str, Any], profile: HardwareProfile) -> Iterable[str]:
    return () if profile.kind == "phone" else environment.advice(description)


def _advice(description: Mapping[str, Any], profile: HardwareProfile, device: Device | None) -> Iterator[str]:
    """Against noise: on the device that would compute, and on this machine unless that is a phone."""
    advice = [*(devices.advice(device) if device else ()), *_own_advice(description, profile)]
    yield f"noise: {len(advice)} things make it noisy" if advice else "noise: nothing found"
    yield from (f"  - {line}" for line in advice)
    if os.environ.get("CI"):
        yield "  - this is a CI job: compare side by side in one job, never against numbers of another one"
