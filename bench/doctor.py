"""What this machine is, what works here, what makes it noisy, and what to do about it."""

import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from bench import __version__, backends, environment, listing
from bench.artifacts import Cache, default_root
from bench.catalog import HardwareProfile
from bench.jobs import Probe, Version
from bench.prepare import Workshop, thread_environment
from bench.progress import Quiet
from bench.schema import Settings


def examine(profile: HardwareProfile) -> tuple[list[str], bool]:
    """Lines to print, and whether `profile` can be measured here with at least one backend."""
    description = environment.describe()
    here = listing.here(profile, description)
    probed = dict(_probe_all(profile)) if here == "yes" else {}
    usable = any(isinstance(answer, Version) for answer in probed.values())
    lines = [
        f"bench {__version__}, Python {platform.python_version()}",
        *_machine(description),
        f"device {profile.name}: {'yes' if here == 'yes' else here}",
        *(f"backend {name}: {_said(answer)}" for name, answer in probed.items()),
        *_advice(description),
    ]
    return lines, usable


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


def _probe_all(profile: HardwareProfile) -> Iterator[tuple[str, Any]]:
    """Each backend of the device asked in a worker of its own: a broken runtime can't break the doctor."""
    workshop = Workshop(Cache(default_root()), Settings(timeout_s=120), environment.cpus_available(), Quiet().say)
    for name in profile.backends:
        if name in backends.names():
            yield name, workshop.ask(Probe(backend=name, device=profile), thread_environment(1))
        else:
            yield name, None


def _said(answer: Any) -> str:
    if answer is None:
        return "not in this bench yet"
    return f"yes, version {answer.version}" if isinstance(answer, Version) else str(answer.reason)


def _advice(description: Mapping[str, Any]) -> Iterator[str]:
    advice = environment.advice(description)
    yield (
        f"noise: {len(advice)} things make this machine noisy"
        if advice
        else "noise: nothing found against this machine"
    )
    yield from (f"  - {line}" for line in advice)
    if os.environ.get("CI"):
        yield "  - this is a CI job: compare side by side in one job, never against numbers of another one"
