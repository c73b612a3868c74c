"""What is compared: two models, backends, settings or Python environments, made ready to run side by side."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bench import backends, catalog, devices, environment, plan, published, pythons, runner, session, verdict
from bench.catalog import HardwareProfile, ModelCard
from bench.compared import Manner
from bench.errors import BenchError, Unavailable, UsageError, unknown
from bench.live_worker import Injection
from bench.plan import LeftOut
from bench.prepare import Workshop
from bench.runner import BatchFixed
from bench.schema import Artifact, Case, Frozen, Interval, Precision, Status
from bench.verdict import Rule

LEAST_GAP = 0.015
# Log-ratios of the minima of processes that ran one after the other have SDs of 2.2 to 5.3 % on the recorded traces,
# of live pairs 0.4 to 1. With 3 %, 16 pairs see nine of ten slowdowns of 3.8 %.
ALTERNATING_SD, ALTERNATING_TOLERANCE = 0.03, 0.04


class Subject(Frozen, frozen=True):
    """What one side runs. `source` is an engine, or with `build` what the worker first makes one from.

    `python` is the interpreter of another environment, or "" for ours; `reference` is "" for a backend that computes
    nothing. `inject` slows it down on purpose.
    """

    label: str
    case: Case
    device: HardwareProfile
    options: dict[str, str]
    input_shape: tuple[int, ...]
    source: str = ""
    build: bool = False
    reference: str = ""
    artifact: Artifact | None = None
    python: str = ""
    inject: Injection | None = None


class Terms(Frozen, frozen=True):
    """What counts and what may be spent, for each case. `tolerance` is None for the design's: 2 %, 3 % below 1 ms,
    4 % for processes one at a time.

    `outputs` says whether A and B must give the same; `trust` which clocks must agree.
    """

    margin: float = Rule.margin
    tolerance: float | None = None
    pairs: int = Rule.pairs
    budget_s: float = 120.0
    trust: Literal["both", "wall"] = "both"
    outputs: Literal["same", "any"] = "same"
    interval: Interval = "compute"
    timeout_s: float = 600.0
    memory_limit_bytes: int | None = None

    def rule(self, latency_ns: float, sd: float = Rule.sd, manner: Manner = "live pairs") -> Rule:
        """The rule for iterations of `latency_ns`. Raises UsageError where margin and tolerance don't fit together."""
        usual = verdict.tolerance_for(latency_ns)
        if manner == "alternating processes":
            usual, sd = max(usual, ALTERNATING_TOLERANCE), max(sd, ALTERNATING_SD)
        return Rule(
            margin=self.margin,
            tolerance=max(usual, self.margin + LEAST_GAP) if self.tolerance is None else self.tolerance,
            pairs=self.pairs,
            sd=max(Rule.sd, sd),
            statistic=verdict.statistic_for(latency_ns),
            trust=self.trust,
        )


class Asked(Frozen, frozen=True):
    """What a user wants compared. `sides` are two models or two backends; or none, where settings or Pythons differ.

    `options` hold for both sides, `options_a` and `options_b` for one; each is by backend.
    """

    sides: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    device: str = "cpu"
    precisions: tuple[Precision, ...] = ()
    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    input_shape: tuple[int, ...] = ()
    weights: str = "random"
    options: dict[str, dict[str, str]] = {}
    options_a: dict[str, dict[str, str]] = {}
    options_b: dict[str, dict[str, str]] = {}
    python_a: str = ""
    python_b: str = ""
    terms: Terms = Terms()


class Match(Frozen, frozen=True):
    """Two subjects, or why there is no comparing them."""

    key: str
    label_a: str
    label_b: str
    case_a: Case
    case_b: Case
    a: Subject | None = None
    b: Subject | None = None
    status: Status = "ok"
    reason: str = ""
    log: str = ""


class Side(NamedTuple):
    """One side as it was asked for."""

    label: str
    models: tuple[str, ...]
    backends: tuple[str, ...]
    options: Mapping[str, Mapping[str, str]]
    python: str


# What the words on the command line mean


def sides(asked: Asked) -> tuple[Side, Side]:
    """Raises UsageError where A and B are not two of a kind, or nothing tells them apart."""
    a, b = _bare(asked)
    a = _with_own(a, asked.options_a, asked.python_a)
    b = _with_own(b, asked.options_b, asked.python_b)
    if not asked.sides and a == b:
        raise UsageError(
            "nothing tells A and B apart",
            "",
            "name two models or two backends, or say how settings differ (--set-a, --set-b) or Pythons (--python-a)",
        )
    for side in (a, b):
        if not side.models:
            raise UsageError("no model was named", "", "name one with --model; see: bench list models")
        if not side.backends:
            raise UsageError("no backend was named", "", "name one with --backend; see: bench list backends")
    return a, b


def _bare(asked: Asked) -> tuple[Side, Side]:
    """Both sides with nothing but what A and B themselves say."""
    if not asked.sides:
        alike = Side("", asked.models, asked.backends, {}, "")
        return alike, alike
    if len(asked.sides) != 2:
        raise UsageError("two sides are needed", f"found {len(asked.sides)}", "write: bench compare A B")
    runtimes = [name for name in asked.sides if name in backends.KNOWN]
    if len(runtimes) == 1:
        raise UsageError(
            "A and B are not of a kind", f"only {runtimes[0]} is a backend", "name two models or two backends"
        )
    _refuse_twice("backend" if runtimes else "model", asked.backends if runtimes else asked.models)
    if runtimes:
        a, b = (Side(name, asked.models, (name,), {}, "") for name in asked.sides)
    else:
        a, b = (Side(label, (name,), asked.backends, {}, "") for label, name in _file_names(asked.sides))
    return a, b


def _refuse_twice(kind: str, also: tuple[str, ...]) -> None:
    if also:
        raise UsageError(f"A and B are {kind}s already", f"--{kind} {','.join(also)} names more", f"leave --{kind} out")


def _file_names(sides: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each side with its label: of a path the last part, which tells nothing of a home folder, if that will do."""
    short = [Path(name).name if "/" in name else name for name in sides]
    labels = sides if short[0] == short[1] else short
    return list(zip(labels, sides, strict=True))


def _with_own(side: Side, options: Mapping[str, Mapping[str, str]], python: str) -> Side:
    """The side with what was said of it alone, which becomes a part of its label."""
    own = [f"{backend}.{name}={value}" for backend, pairs in options.items() for name, value in pairs.items()]
    label = ", ".join(filter(None, [side.label, *own, python])) or "as it is"
    return side._replace(label=label, options=options, python=pythons.absolute(python) if python else "")


# From words to subjects


def matches(asked: Asked, description: Mapping[str, Any], workshop: Workshop) -> list[Match]:
    """Every case of both sides, made ready to run. What one can't be run for is on record in its match.

    Raises UsageError for names that nothing bears and files that can't be read, Unavailable where this machine isn't
    the device or a Python lacks what a worker needs.
    """
    profile = catalog.profile(asked.device)
    if not profile.here:
        raise Unavailable(
            f"pairs are played on this machine's CPU, not on the {profile.kind} {profile.name}",
            "",
            "measure both sides with bench run, then: bench check",
        )
    devices.refuse_stranger(profile, description)
    both = sides(asked)
    cards = _cards(asked, both)
    planned = [_plan(asked, side, own, profile) for side, own in zip(both, cards, strict=True)]
    for side in both:
        if side.python:
            for name in side.backends:
                pythons.require(side.python, backends.get(name))
    slots = [_slots(asked, each) for each in planned]
    return [_match(both, planned, (slots[0][slot], slots[1][slot]), workshop, asked) for slot in slots[0]]


def _cards(asked: Asked, both: tuple[Side, Side]) -> list[list[ModelCard]]:
    """The cards of each side. Two files of one name get different ones."""
    if both[0].models == both[1].models:
        return [published.select(both[0].models, (), asked.input_shape)] * 2
    for side in both:
        if len(found := published.select(side.models, (), asked.input_shape)) != 1:
            raise UsageError(f"{side.models[0]} is not one model", f"it is {len(found)}", "name one for each side")
    chosen = published.select([both[0].models[0], both[1].models[0]], (), asked.input_shape)
    return [[chosen[0]], [chosen[-1]]]


def _plan(asked: Asked, side: Side, cards: list[ModelCard], profile: HardwareProfile) -> plan.Plan:
    found = {name: backends.get(name) for name in side.backends}
    for name, backend in found.items():
        if backend.home:
            raise UsageError(
                f"pairs can't be played on {name}",
                "it works in a Python environment of its own",
                "measure both sides with bench run, then: bench check",
            )
    for name in {*side.options, *asked.options}:
        if name not in {*side.backends, *asked.backends, *asked.sides}:
            raise unknown("backend in this comparison", name, list(found), "--set takes BACKEND.OPTION=VALUE")
    request = plan.Request(
        backends=side.backends,
        precisions=asked.precisions,
        batch_sizes=asked.batch_sizes,
        threads=asked.threads,
    )
    # What another Python has, `pythons.require` finds out.
    missing = {name: "" if side.python else session.why_missing(backend, cards) for name, backend in found.items()}
    return plan.make(request, cards, profile, found, missing, environment.usable_cpus())


Slot = tuple[Any, ...]
Planned = tuple[Case, LeftOut | None]


def _slots(asked: Asked, planned: plan.Plan) -> dict[Slot, Planned]:
    """The plan's cases by what both sides have in common."""
    models, runtimes = _places(planned.cards), _places(asked.backends)
    every: list[Planned] = [(case, None) for case in planned.cases] + [(left.case, left) for left in planned.left_out]
    found = {}
    for case, left in every:
        # Backends that are the sides themselves are none of it.
        backend = runtimes.get(case.backend, 0)
        found[models[case.model], backend, case.precision, case.batch_size, case.threads] = case, left
    return dict(sorted(found.items()))


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _match(
    both: tuple[Side, Side], planned: list[plan.Plan], slot: tuple[Planned, Planned], workshop: Workshop, asked: Asked
) -> Match:
    (case_a, left_a), (case_b, left_b) = slot
    a, b = both
    bare = Match(key=key_of(case_a, case_b), label_a=a.label, label_b=b.label, case_a=case_a, case_b=case_b)
    if left := left_a or left_b:
        return msgspec.structs.replace(bare, status=left.status, reason=left.reason)
    try:
        ready = [
            _subject(side, case, each, workshop, asked)
            for side, case, each in zip(both, (case_a, case_b), planned, strict=True)
        ]
    except UsageError:
        raise
    except BenchError as error:
        return msgspec.structs.replace(bare, status=runner.status_of(error), reason=str(error), log=error.log)
    return msgspec.structs.replace(bare, a=ready[0], b=ready[1])


def key_of(a: Case, b: Case) -> str:
    """The key of a case, with `old..new` where the two differ: `MobileNetV2/onnxruntime..openvino/cpu/fp32/bs1/t1`.

    Two files of one name are told apart by their hash (`m@4825c2d3`), which is no part of the key: it would be another
    case after each change of the file.
    """
    parts = zip(a.key.split("/"), b.key.split("/"), strict=True)
    return "/".join(one if other.partition("@")[0] == one else f"{one}..{other}" for one, other in parts)


def _subject(side: Side, case: Case, planned: plan.Plan, workshop: Workshop, asked: Asked) -> Subject:
    """The case with its engine and its reference, made if they aren't there yet."""
    card, backend = planned.cards[case.model], backends.get(case.backend)
    fixed = workshop.fixed_batch(card)
    if fixed not in (None, case.batch_size):
        raise BatchFixed(f"{Path(card.file).name} takes batches of {fixed} only")
    given = {**asked.options.get(backend.name, {}), **side.options.get(backend.name, {})}
    options = backends.settle(backend, given, planned.profile.kind)
    setup = backends.Setup(case, planned.profile, options, workshop.input_shape(card), planned.found)
    build = bool(side.python and backend.engine_with(options))
    # An engine is made by the runtime that runs it, so under another Python by the worker itself.
    artifact = workshop.source(card, backend) if build else workshop.engine(card, setup)
    return Subject(
        label=side.label,
        case=case,
        device=planned.profile,
        options=options,
        input_shape=setup.input_shape,
        source=artifact.path,
        build=build,
        reference=workshop.reference(card).path if backend.computes else "",
        artifact=workshop.public(artifact),
        python=side.python,
    )
