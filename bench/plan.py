"""A command line and two small data files → cases, and what was left out and why. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bench.backends import BaseBackend, settle
from bench.catalog import HardwareProfile, ModelCard
from bench.schema import Case, Frozen, Precision, Settings, Status


class Request(Frozen, frozen=True):
    """What a user asked for; empty means the profile's default. Kept in the header of the run's file."""

    models: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    device: str = "cpu"
    backends: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    settings: Settings = Settings()
    options: dict[str, dict[str, str]] = {}
    semantics: str = "bench"


class LeftOut(Frozen, frozen=True):
    """A case that won't be measured. `status` is "unsupported" (can't be) or "unavailable" (not here)."""

    case: Case
    status: Status
    reason: str


class Plan(msgspec.Struct, frozen=True):
    profile: HardwareProfile
    cards: dict[str, ModelCard]
    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...]
    #: about a device that is not this machine
    found: dict[str, Any] = {}

    def estimate_s(self, settings: Settings) -> float:
        """About how long the plan takes, at most: each case spends its budget, each model is exported once."""
        per_case = settings.repetitions * 4.0 if settings.repetitions else settings.budget_s
        models = {case.model for case in self.cases}
        return len(self.cases) * per_case + 10.0 * len(models)


def make(
    request: Request,
    cards: Sequence[ModelCard],
    profile: HardwareProfile,
    backends: Mapping[str, BaseBackend],
    missing: Mapping[str, str],
    cpus: int,
    found: Mapping[str, Any] | None = None,
) -> Plan:
    """All cases of the request, in the order model, backend, precision, batch size, threads.

    `backends` are those that exist, `missing` says of each why it can't work in this Python ("" if it can), `cpus` is
    how many CPUs a thread pool may use, `found` what was found out about a device that is not this machine.
    """
    matrix = itertools.product(
        dict.fromkeys(card.name for card in cards),
        dict.fromkeys(request.backends or profile.backends),
        dict.fromkeys(request.precisions or profile.precisions),
        dict.fromkeys(request.batch_sizes or profile.batch_sizes),
        dict.fromkeys(request.threads or profile.threads),
    )
    by_name = {card.name: card for card in cards}
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for model, backend, precision, batch_size, threads in matrix:
        case = Case(model, backend, profile.name, precision, batch_size, threads)
        status, reason = _obstacle(case, by_name[model], profile, backends, missing, cpus, request.settings.intervals)
        if status == "ok" and (why := _obstacle_found(case, request, backends[backend], found or {})):
            status, reason = "unavailable", why
        if status == "ok":
            cases.append(case)
        else:
            left_out.append(LeftOut(case, status, reason))
    return Plan(profile, by_name, tuple(cases), tuple(left_out), dict(found or {}))


def _obstacle(
    case: Case,
    card: ModelCard,
    profile: HardwareProfile,
    backends: Mapping[str, BaseBackend],
    missing: Mapping[str, str],
    cpus: int,
    intervals: Sequence[str],
) -> tuple[Status, str]:
    """("ok", "") or what stands in the way of a case, as far as can be told without loading a runtime."""
    backend = backends[case.backend]
    if profile.kind not in backend.kinds:
        return "unsupported", f"{case.backend} here runs on {', '.join(sorted(backend.kinds))}, not on a {profile.kind}"
    if case.precision not in (able := backend.precisions_on(profile.kind)):
        can = ", ".join(sorted(able))
        return "unsupported", f"{case.backend} runs {can} on a {profile.kind}, not {case.precision}"
    if lacking := [name for name in intervals if name not in backend.intervals_on(profile.kind)]:
        return "unsupported", f"{case.backend} has no interval {', '.join(lacking)} on a {profile.kind}"
    if not card.measurable:
        return "unsupported", f"only published figures of {case.model} are known, not its network"
    if card.format == "onnx" and backend.source in ("paddle", "pdmodel"):
        return "unsupported", f"{case.backend} reads Paddle models, and nothing converts ONNX to Paddle"
    if missing[case.backend]:
        return "unavailable", missing[case.backend]
    if case.threads > cpus:
        return "unavailable", f"{case.threads} threads asked, {cpus} CPUs may be used here"
    return "ok", ""


def _obstacle_found(case: Case, request: Request, backend: BaseBackend, found: Mapping[str, Any]) -> str:
    return backend.obstacle(case, settle(backend, request.options.get(backend.name, {})), found)
