"""The production rules on recorded processes: how often they alarm wrongly, and what they see.

Jobs are drawn from different real processes of one condition, in random order and direction, without putting any
back before all have been used. Slowdowns are injected by multiplication, which adds the same to every log-ratio (the
recorded real slowdown, one more layer, agrees). Conditions are never pooled: a target holds where the
worst of them does. Shares and slowdowns are from 0 to 1.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from bench import stats, verdict
from bench.selfcheck import traces
from bench.selfcheck.anchors import ANCHORS, DETECTORS, Anchor, Detector
from bench.selfcheck.traces import Array, Process, Unit
from bench.verdict import Pair, Rule

SLOWDOWNS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.10)
BOUNDS = (3, 4, 6, 8, 12)
SHORT, LONG = 4, 12
LEAST_UNITS = 3
CALM = ("quiet", "busy", "burst")
NIGHTS = {"quiet": 0.85 / 3, "busy": 0.85 / 3, "burst": 0.85 / 3, "bg": 0.10, "wild": 0.05}
SOON = (3, 5, 10)
POINTS, STEP_AT = 60, 40
OURS = "ours"

Stored = Literal["raw", "normalised", "reference"]


@dataclass(frozen=True)
class PairResult:
    """Live pairs under one condition. `short` plans have 4 pairs (20 s), `long` ones 12 (60 s), the default 16.

    `units` are the distinct recorded pairs, `unsound` those that the guard drops, `seconds` a pair's median time.
    `false_alarm` (no slowdown) and `wrong_pass` (a slowdown of the tolerance) are the worse of the short and the
    default plan. `at_margin` is the default plan's share of alarms at the margin, where the rule allows its error.
    `power` is the short plan's, by slowdown; `power_default` at 2 %, `power_long` at 5 %. `mde` is the
    smallest slowdown that nine jobs of ten call REGRESSION. `bound_error` is how often a 1 % bound lies beyond
    the truth, by number of pairs.
    """

    condition: str
    units: int
    unsound: int
    seconds: float
    false_alarm: float
    at_margin: float
    power: dict[float, float]
    power_default: float
    power_long: float
    mde_short: float
    mde_long: float
    bound_error: dict[int, float]
    pairs_to_pass: float
    wrong_pass: float
    inconclusive: float


@dataclass(frozen=True)
class DisjointResult:
    """False alarms of the short plan on jobs that share no pair: what the recordings alone can prove.

    Both directions of a job are judged and count as one, `alarms` if either is a REGRESSION; `upper` is the 95 %
    Clopper-Pearson bound of their rate.
    """

    jobs: int
    alarms: int
    upper: float


@dataclass(frozen=True)
class GuardResult:
    """A/A pairs of one mode that were off by more than 5 %, and how many of them the guard dropped."""

    mode: str
    pairs: int
    off: int
    caught: int
    dropped: int


@dataclass(frozen=True)
class RealResult:
    """The verdict on a real slowdown (one more layer), from all even units of a setting in their order."""

    setting: str
    outcome: str
    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class StoredResult:
    """A session of four processes against five stored ones; `mde` at margin 0, and the alarms at 0 and 5 %."""

    name: str
    calm: bool
    false_alarm: float
    false_alarm_5: float
    mde: float


@dataclass(frozen=True)
class HistoryResult:
    """A detector on 60 points: alarms per 100 looks without a step; detection by step, 3, 5 and 10 points after it."""

    detector: str
    stored: Stored
    false_alarms: float
    found: dict[float, tuple[float, ...]]


@dataclass(frozen=True)
class AnchorResult:
    """How often a rule alarms, by injected slowdown. `seconds` is the wall time of the iterations it takes."""

    anchor: str
    condition: str
    seconds: float
    alarms: dict[float, float]


@dataclass(frozen=True)
class Replay:
    """All that one replay found, on even or odd units or (None) on all.

    `skipped` conditions have fewer than three distinct sound pairs. `stored`, `histories` and `anchors` are empty where
    too few processes were recorded under the settings that they need.
    """

    seed: int
    even: bool | None
    pairs: tuple[PairResult, ...]
    skipped: tuple[str, ...]
    disjoint: DisjointResult
    guards: tuple[GuardResult, ...]
    real: tuple[RealResult, ...]
    stored: tuple[StoredResult, ...]
    histories: tuple[HistoryResult, ...]
    anchors: tuple[AnchorResult, ...]


@cache
def replay(seed: int = 0, even: bool = True, jobs: int = 1000) -> Replay:
    """Run everything: about 30 s of CPU with the default number of jobs. Same seed, same numbers."""
    return _replay(traces.load(), seed, even, jobs)


def replay_file(file: Path, seed: int = 0, jobs: int = 1000) -> Replay:
    """The same on another machine's traces: all of them, as nothing was tuned on any.

    Raises UsageError for what is no file of traces.
    """
    return _replay(traces.read(file), seed, None, jobs)


def _replay(units: Sequence[Unit], seed: int, even: bool | None, jobs: int) -> Replay:
    groups = _pairs(units, even)
    pools = {name: [traces.measured(unit) for unit in group] for name, group in groups.items()}
    judged = [name for name, pool in pools.items() if sum(one.sound for one in pool) >= LEAST_UNITS]
    return Replay(
        seed=seed,
        even=even,
        pairs=tuple(_pair_result(name, groups[name], pools[name], jobs, _rng(seed, name)) for name in judged),
        skipped=tuple(name for name in pools if name not in judged),
        disjoint=_disjoint(pools.values()),
        guards=tuple(_guards(units, even)),
        real=tuple(_real(units, even)),
        stored=tuple(_stored(units, even, jobs // 2, seed)),
        histories=tuple(_histories(units, even, max(5, jobs // 10), seed)),
        anchors=tuple(_anchors(units, even, max(5, jobs // 10), seed)),
    )


def _rng(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for each part, so that adding one doesn't change the others."""
    return np.random.default_rng([seed, *(ord(letter) for name in names for letter in name)])


def _pairs(units: Iterable[Unit], even: bool | None) -> dict[str, list[Unit]]:
    return traces.chosen(units, "pinned", even=even) | traces.chosen(units, "live", even=even)


# Live pairs


def _pair_result(
    condition: str, units: Sequence[Unit], pool: Sequence[Pair], count: int, rng: np.random.Generator
) -> PairResult:
    rule, short, long = Rule(), Rule(pairs=SHORT), Rule(pairs=LONG)
    jobs = [job(pool, rule.pairs, rng) for _ in range(count)]
    unchanged = [verdict.decide(one, rule) for one in jobs]
    outcomes = [one.outcome for one in unchanged]
    return PairResult(
        condition=condition,
        units=len(pool),
        unsound=sum(not one.sound for one in pool),
        seconds=statistics.median(unit.seconds for unit in units),
        false_alarm=max(_share(jobs, 0.0, short), outcomes.count("REGRESSION") / count),
        at_margin=_share(jobs, rule.margin, rule),
        power={slowdown: _share(jobs, slowdown, short) for slowdown in SLOWDOWNS[1:]},
        power_default=_share(jobs, 0.02, rule),
        power_long=_share(jobs, 0.05, long),
        mde_short=_detectable(jobs[: count // 2], short),
        mde_long=_detectable(jobs[: count // 2], long),
        bound_error={pairs: _bound_error(jobs, pairs, rule) for pairs in BOUNDS},
        pairs_to_pass=statistics.median(one.pairs for one in unchanged),
        wrong_pass=max(_share(jobs, rule.tolerance, plan, "PASS") for plan in (rule, short)),
        inconclusive=outcomes.count("INCONCLUSIVE") / count,
    )


def job(pool: Sequence[Pair], sound: int, rng: np.random.Generator) -> list[Pair]:
    """Pairs of the pool in random order and direction until so many sound ones; all are used before one is reused."""
    drawn: list[Pair] = []
    while True:
        for index in rng.permutation(len(pool)):
            drawn.append(turned(pool[index]) if rng.random() < 0.5 else pool[index])
            if sum(one.sound for one in drawn) == sound:
                return drawn


def turned(pair: Pair) -> Pair:
    """The pair with baseline and contender exchanged."""
    return Pair(
        fastest=-pair.fastest,
        middle=-pair.middle,
        cpu=None if pair.cpu is None else -pair.cpu,
        guard=None if pair.guard is None else -pair.guard,
    )


def slowed(pair: Pair, slowdown: float) -> Pair:
    """The pair as it had been with every iteration of the contender longer by a share of `slowdown`."""
    log = math.log1p(slowdown)
    return Pair(
        fastest=pair.fastest + log,
        middle=pair.middle + log,
        cpu=None if pair.cpu is None else pair.cpu + log,
        guard=pair.guard,
    )


def _share(jobs: Sequence[Sequence[Pair]], slowdown: float, rule: Rule, outcome: str = "REGRESSION") -> float:
    """The share of jobs with that outcome, after slowing the contender down."""
    verdicts = [verdict.decide([slowed(one, slowdown) for one in _enough(pairs, rule.pairs)], rule) for pairs in jobs]
    return sum(one.outcome == outcome for one in verdicts) / len(jobs)


def _enough(pairs: Sequence[Pair], sound: int) -> Sequence[Pair]:
    """No more pairs of a job than its plan can use."""
    count = 0
    for index, one in enumerate(pairs):
        count += one.sound
        if count == sound:
            return pairs[: index + 1]
    return pairs


def _detectable(jobs: Sequence[Sequence[Pair]], rule: Rule) -> float:
    """The smallest slowdown that nine jobs of ten call REGRESSION, to 0.01 %."""
    low, high = rule.margin, 0.2
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _share(jobs, middle, rule) >= 0.9 else (middle, high)
    return high


def _bound_error(jobs: Sequence[Sequence[Pair]], count: int, rule: Rule) -> float:
    """How often the lower 1 % bound from so many sound pairs is above the truth, which is zero."""
    wrong = 0
    for pairs in jobs:
        values = [one.fastest for one in pairs if one.sound][:count]
        wrong += verdict.believed(values, rule.error, rule).lower > 0
    return wrong / len(jobs)


def _disjoint(pools: Iterable[Sequence[Pair]]) -> DisjointResult:
    short, jobs, alarms = Rule(pairs=SHORT), 0, 0
    for pool in pools:
        sound = [one for one in pool if one.sound]
        for start in range(0, len(sound) - SHORT + 1, SHORT):
            ahead = sound[start : start + SHORT]
            outcomes = [verdict.decide(pairs, short).outcome for pairs in (ahead, [turned(one) for one in ahead])]
            jobs, alarms = jobs + 1, alarms + ("REGRESSION" in outcomes)
    return DisjointResult(jobs, alarms, stats.clopper_pearson(alarms, jobs)[1] if jobs else 1.0)


def _guards(units: Iterable[Unit], even: bool | None) -> Iterable[GuardResult]:
    modes: tuple[traces.Mode, ...] = ("pinned", "live", "concurrent")
    for mode in modes:
        pairs = [traces.measured(one) for group in traces.chosen(units, mode, even=even).values() for one in group]
        off = [one for one in pairs if abs(one.fastest) > 0.05]
        yield GuardResult(
            mode, len(pairs), len(off), sum(not one.sound for one in off), sum(not one.sound for one in pairs)
        )


def _real(units: Iterable[Unit], even: bool | None) -> Iterable[RealResult]:
    for condition, group in traces.chosen(units, "slower", even=even).items():
        pairs = [traces.measured(one) for one in group]
        known = verdict.decide(pairs, Rule(pairs=max(LEAST_UNITS, sum(one.sound for one in pairs))))
        setting = condition.split(maxsplit=1)[1]
        yield RealResult(setting, known.outcome, known.ratio - 1, known.low - 1, known.high - 1, known.pairs)


# Stored baselines


def _value(process: Process) -> float:
    """The production value of a process, all that `bench check` keeps of it."""
    wall, cpu, switches, probe = (column.astype(int).tolist() for column in process)
    return verdict.process_value(wall, probe, cpu, switches)


def _solo(units: Iterable[Unit], even: bool | None) -> dict[str, list[Process]]:
    found = traces.chosen(units, "solo", even=even)
    return {name.split(maxsplit=1)[1]: [one.processes[0] for one in group] for name, group in found.items()}


def _stored(units: Iterable[Unit], even: bool | None, count: int, seed: int) -> Iterable[StoredResult]:
    """A baseline stored under calm conditions, read under each; and both under whatever comes."""
    values = {name: np.array([_value(one) for one in group]) for name, group in _solo(units, even).items()}
    values = {name: group for name, group in values.items() if len(group) >= 4}
    if not values:
        return
    if calm := tuple(name for name in CALM if name in values):
        for name in values:
            yield _stored_result(f"calm, then {name}", name in CALM, calm, (name,), values, count, _rng(seed, name))
    yield _stored_result("any, then any", False, tuple(values), tuple(values), values, count, _rng(seed, "any"))


def _stored_result(
    name: str,
    calm: bool,
    before: Sequence[str],
    after: Sequence[str],
    values: Mapping[str, Array],
    count: int,
    rng: np.random.Generator,
) -> StoredResult:
    strict, lax, missing = 0, 0, []
    for _ in range(count):
        settings = [*rng.choice(before, 5), rng.choice(after)]
        sessions = _sessions([str(one) for one in settings], values, rng)
        known = verdict.check_stored(sessions[:-1], sessions[-1], margin=0.0)
        strict += known.outcome == "REGRESSION"
        lax += verdict.check_stored(sessions[:-1], sessions[-1]).outcome == "REGRESSION"
        missing.append(known.limit - known.shift)
    return StoredResult(name, calm, strict / count, lax / count, math.expm1(float(np.quantile(missing, 0.9))))


def _sessions(settings: Sequence[str], values: Mapping[str, Array], rng: np.random.Generator) -> list[float]:
    """Session values of four processes each; no process twice before a setting's are used up."""
    left: dict[str, list[float]] = {}
    sessions = []
    for setting in settings:
        if len(left.get(setting, [])) < 4:
            left[setting] = rng.permutation(values[setting]).tolist()
        sessions.append(verdict.session_value([left[setting].pop() for _ in range(4)]))
    return sessions


# Histories


def _histories(units: Iterable[Unit], even: bool | None, count: int, seed: int) -> Iterable[HistoryResult]:
    steps: dict[Stored, tuple[float, ...]] = {
        "raw": (0.05, 0.10),
        "normalised": (0.02, 0.03, 0.05),
        "reference": (0.02, 0.03),
    }
    for stored, sizes in steps.items():
        nights = {night: found for night, found in _nights(units, even, stored).items() if len(found) >= LEAST_UNITS}
        if not nights:
            continue
        flat = [_series(nights, stored, _rng(seed, stored, str(n))) for n in range(count)]
        yield _history_result(OURS, stored, flat, sizes, _ours)
        for name, detector in DETECTORS.items():
            yield _history_result(name, stored, flat[: max(5, count // 3)], sizes, partial(_look_by_look, detector))


def _nights(units: Iterable[Unit], even: bool | None, stored: Stored) -> dict[str, Array]:
    """What a night's point is drawn from: three processes' values, or three pairs' log-ratios.

    The bundled pairs were pinned only under calm settings; under the others the unpinned ones stand in.
    """
    if stored == "reference":
        groups = _pairs(units, even)
        chosen = {night: groups.get(f"pinned {night}") or groups.get(f"live {night}", []) for night in NIGHTS}
        pairs = {night: [traces.measured(unit) for unit in group] for night, group in chosen.items()}
        return {night: np.array([one.fastest for one in group if one.sound]) for night, group in pairs.items()}
    solo = {night: group for night, group in _solo(units, even).items() if night in NIGHTS}
    if stored == "raw":
        return {night: np.array([math.log(np.median(one.wall)) for one in group]) for night, group in solo.items()}
    return {night: np.array([_value(one) for one in group]) for night, group in solo.items()}


def _series(nights: Mapping[str, Array], stored: Stored, rng: np.random.Generator) -> Array:
    """A point a night; nights come as often as `NIGHTS` says, those without recordings left out."""
    known = {night: share for night, share in NIGHTS.items() if night in nights}
    shares = np.array(list(known.values())) / sum(known.values())
    points = []
    for night in rng.choice(list(known), size=POINTS, p=shares):
        three = rng.choice(nights[str(night)], 3, replace=False)
        points.append(float(np.mean(three * rng.choice([-1, 1], 3))) if stored == "reference" else np.median(three))
    return np.array(points)


def _ours(logs: Array) -> list[tuple[int, int]]:
    return [(change.index, change.seen) for change in verdict.changes(logs.tolist()) if change.shift > 0]


def _look_by_look(detector: Detector, logs: Array) -> list[tuple[int, int]]:
    """Steps up that a look at every new point reports, and when first; within three points it is the same step."""
    known: list[tuple[int, int]] = []
    for end in range(11, len(logs) + 1):
        fresh = [index for index in detector(logs[:end]) if all(abs(index - other) > 3 for other, _ in known)]
        known.extend((index, end - 1) for index in fresh)
    return known


def _history_result(
    name: str,
    stored: Stored,
    flat: Sequence[Array],
    sizes: Sequence[float],
    alarms: Callable[[Array], list[tuple[int, int]]],
) -> HistoryResult:
    """Only steps up count, as alarms and as finds; a find is within four points of the step's place."""
    looks = len(flat) * (POINTS - 10)
    false = sum(len(alarms(series)) for series in flat)
    return HistoryResult(name, stored, 100 * false / looks, {size: _found(alarms, flat, size) for size in sizes})


def _found(alarms: Callable[[Array], list[tuple[int, int]]], flat: Sequence[Array], size: float) -> tuple[float, ...]:
    step = np.where(np.arange(POINTS) >= STEP_AT, math.log1p(size), 0.0)
    seen = [alarms((series + step)[: STEP_AT + max(SOON)]) for series in flat]
    first = [min((at for i, at in one if abs(i - STEP_AT) <= 4 and at >= STEP_AT), default=POINTS) for one in seen]
    return tuple(sum(at < STEP_AT + later for at in first) / len(flat) for later in SOON)


# Anchors


def _anchors(units: Iterable[Unit], even: bool | None, count: int, seed: int) -> Iterable[AnchorResult]:
    pools = _processes(units, even)
    known = {"quiet": "quiet" in pools, "mixed": len(pools) > 1}
    for anchor in ANCHORS:
        for condition in (name for name in known if known[name]):
            yield _anchor_result(anchor, condition, pools, count, _rng(seed, anchor.name, condition))


def _processes(units: Iterable[Unit], even: bool | None) -> dict[str, list[Array]]:
    """The wall times of all processes that ran alone or in turn, by setting."""
    found: dict[str, list[Array]] = {}
    for groups in traces.chosen(units, "solo", "pinned", "live", even=even).values():
        for unit in groups:
            found.setdefault(unit.setting, []).extend(one.wall for one in unit.processes)
    return {setting: found[setting] for setting in NIGHTS if setting in found}


def _anchor_result(
    anchor: Anchor, condition: str, pools: Mapping[str, Sequence[Array]], count: int, rng: np.random.Generator
) -> AnchorResult:
    alarms = dict.fromkeys(SLOWDOWNS, 0)
    spent = []
    for _ in range(count):
        old, new = _sides(anchor, condition, pools, rng)
        spent.append(sum(float(one.sum()) for one in (*old, *new)) / 1e9)
        for slowdown in SLOWDOWNS:
            alarms[slowdown] += bool(anchor.slower(old, [one * (1 + slowdown) for one in new]))
    shares = {slowdown: hits / count for slowdown, hits in alarms.items()}
    return AnchorResult(anchor.name, condition, statistics.median(spent), shares)


def _sides(
    anchor: Anchor, condition: str, pools: Mapping[str, Sequence[Array]], rng: np.random.Generator
) -> tuple[list[Array], list[Array]]:
    """Different real processes for both sides. Mixed: a condition for both if measured together, else one for each."""
    before, after = (condition,) * 2 if condition != "mixed" else map(str, rng.choice(list(pools), 2, replace=False))
    if anchor.together or before == after:
        drawn = _drawn(pools[before], 2 * anchor.processes, rng)
        return drawn[: anchor.processes], drawn[anchor.processes :]
    return _drawn(pools[before], anchor.processes, rng), _drawn(pools[after], anchor.processes, rng)


def _drawn(pool: Sequence[Array], count: int, rng: np.random.Generator) -> list[Array]:
    return [pool[index] for index in rng.choice(len(pool), count, replace=len(pool) < count)]
