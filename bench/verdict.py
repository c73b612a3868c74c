"""Which of two is faster, and how surely: verdicts on live pairs, on stored baselines and on histories.

Pure functions with the standard library alone. Log-ratios are natural logarithms of contender over baseline, so
0.01 is 1 % slower; margins, tolerances and shifts that a user sees are ratios less one. Error rates are
per direction, from 0 to 1.

The rules and their constants were tuned on the odd-numbered recorded units of `bench/selfcheck` and are
measured there on the even-numbered ones.
"""

import math
import statistics
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from bench import stats
from bench.errors import UsageError

Outcome = Literal["PASS", "IMPROVED", "REGRESSION", "INCONCLUSIVE"]
Statistic = Literal["fastest", "middle"]

LOOKS = {3: 0.05, 4: 0.10, 6: 0.15, 8: 0.20, 12: 0.25, 16: 0.25}
SHORT_NS, LONG_NS = 1e6, 50e6
GUARD = 0.05
MOST_DROPPED = 0.30
LEAST_SESSIONS = 5
PREEMPTED = 0.2
SCATTERED = 0.001
OWN_SHARE = 7
LOCAL = 19
SESSION_SD, SESSION_DF = 0.009, 8

HISTORY = 40
LEFT, RIGHT, BORNE_OUT = 8, 3, 8
HISTORY_SD = 0.003


# A live pair


@dataclass(frozen=True)
class Side:
    """What one process of a pair recorded: a sequence of iterations for each of its blocks, in nanoseconds.

    `cpu_ns` has the same shape, and is empty where the process's CPU time means nothing (several threads, a GPU).
    `probe_ns` is one shot of the fixed kernel after each block, and may be empty.
    """

    wall_ns: Sequence[Sequence[int]]
    cpu_ns: Sequence[Sequence[int]] = ()
    probe_ns: Sequence[int] = ()


@dataclass(frozen=True)
class Pair:
    """Log-ratios of one live pair: by block minima, by block medians, by CPU time; and of the probe.

    `guard` is how much slower the machine, not the program, was for the contender. On a GPU it is the log-ratio
    of the clocks. None means not measured.
    """

    fastest: float
    middle: float
    cpu: float | None = None
    guard: float | None = None

    @property
    def sound(self) -> bool:
        """Whether both sides met the same machine: the probe agrees within 5 %."""
        return self.guard is None or abs(self.guard) <= GUARD


def pair(baseline: Side, contender: Side) -> Pair:
    """The log-ratios of a pair: the median over adjacent blocks, so that what changes slowly cancels.

    Block q of one side ran just before or after block q of the other (order A B B A). The first iteration
    of a block is dropped: after a switch it is 1 % slow. A block minimum survives preemption, a block
    median outliers to both sides. Of 18 candidates, block minima scatter least between pairs (root mean square over
    conditions 0.62 %, odd units; block medians 1.3, Hodges-Lehmann 1.5, trimmed means 1.8), but for blends with CPU
    time or a tenth of the probe, which gain 3 to 6 % of that.
    """
    if len(baseline.wall_ns) != len(contender.wall_ns) or not len(baseline.wall_ns):
        raise ValueError(f"{len(baseline.wall_ns)} blocks beside {len(contender.wall_ns)}")
    both_cpu = len(baseline.cpu_ns) and len(contender.cpu_ns)
    both_probes = len(baseline.probe_ns) and len(contender.probe_ns)
    return Pair(
        fastest=_log_ratio(_fastest(baseline.wall_ns), _fastest(contender.wall_ns)),
        middle=_log_ratio(_middle(baseline.wall_ns), _middle(contender.wall_ns)),
        cpu=_log_ratio(_middle(baseline.cpu_ns), _middle(contender.cpu_ns)) if both_cpu else None,
        guard=_log_ratio(baseline.probe_ns, contender.probe_ns) if both_probes else None,
    )


def _log_ratio(baseline: Sequence[float], contender: Sequence[float]) -> float:
    return statistics.median(math.log(new / old) for old, new in zip(baseline, contender, strict=True))


def _fastest(blocks: Iterable[Sequence[int]]) -> list[float]:
    return [float(min(settled(block))) for block in blocks]


def _middle(blocks: Iterable[Sequence[int]]) -> list[float]:
    return [stats.median(settled(block)) for block in blocks]


def settled(block: Sequence[int]) -> Sequence[int]:
    """Without the first iteration, where that leaves at least two."""
    return block[1:] if len(block) > 2 else block


# The verdict on a case


@dataclass(frozen=True)
class Rule:
    """What counts, and how sure to be.

    Slowdowns up to `margin` are nobody's business; for a PASS, one of `tolerance` must be ruled out. `error` is
    the chance of a false REGRESSION at `margin`, and of a false PASS at `tolerance`. `pairs` is the most that the
    plan allows: the last look spends the error that is left. `sd` is the least SD of a log-ratio between pairs that
    is believed, with the weight of `df` degrees of freedom.

    The design's 0.5 % and 8 erred up to 6 times in 100 at a nominal 1 (odd units, few pairs, a compile beside);
    0.6 % and 12 err at most 2 in five of six conditions of six or more units, and keep 93 % power at 2 % and 4 pairs.
    """

    margin: float = 0.005
    tolerance: float = 0.02
    error: float = 0.01
    pairs: int = 16
    sd: float = 0.006
    df: int = 12
    statistic: Statistic = "fastest"
    trust: Literal["both", "wall"] = "both"

    def __post_init__(self) -> None:
        if self.tolerance < self.margin + 0.015 - 1e-12:
            raise UsageError(
                f"tolerance {self.tolerance:.2%} is too close to margin {self.margin:.2%}",
                "between them both verdicts can be proved at once, or neither",
                f"use --tolerance {self.margin + 0.015:.2%} or more",
            )
        if self.pairs < min(LOOKS):
            raise UsageError(f"{self.pairs} pairs can't carry a verdict", do=f"allow at least {min(LOOKS)}")

    def looks(self) -> list[tuple[int, float]]:
        """After how many pairs to look, and the error each look may spend (their sum is `error`: a union bound)."""
        before = [(k, share * self.error) for k, share in LOOKS.items() if k < min(self.pairs, max(LOOKS))]
        return [*before, (self.pairs, self.error - sum(spent for _, spent in before))]


@dataclass(frozen=True)
class Interval:
    """A log-ratio with its bounds, each of which errs with probability `error`."""

    centre: float
    lower: float
    upper: float
    error: float


@dataclass(frozen=True)
class Verdict:
    """What the pairs say. Ratios are contender over baseline; bounds hold for all looks together.

    `detectable` is the slowdown that this evidence would have called REGRESSION nine times in ten; `needed` how many
    pairs a decision would take (0 where there is one). `reason` says why nothing was concluded.
    """

    outcome: Outcome
    ratio: float
    low: float
    high: float
    pairs: int
    dropped: int
    detectable: float
    cpu_ratio: float | None = None
    needed: int = 0
    reason: str = ""


def statistic_for(latency_ns: float) -> Statistic:
    """Block minima, or block medians for iterations over 50 ms, whose blocks hold two or three."""
    return "middle" if latency_ns > LONG_NS else "fastest"


def tolerance_for(latency_ns: float) -> float:
    """The default tolerance: 2 %, or 3 % for iterations under 1 ms."""
    return 0.03 if latency_ns < SHORT_NS else Rule.tolerance


def floor_sd(log_ratios: Sequence[float], least: float = Rule.sd) -> float:
    """The `sd` of a `Rule` for a machine, from A/A pairs measured on it: an 80 % upper limit, never below `least`.

    s * sqrt((n-1)/chi2(0.2, n-1)): Hahn and Meeker, "Statistical Intervals", section 4.3. The quantile is
    Wilson and Hilferty's cube, good to 1 % from five degrees of freedom (PNAS 17, 1931).
    """
    df = len(log_ratios) - 1
    if df < 5:
        return least
    z = statistics.NormalDist().inv_cdf(0.2)
    chi2 = df * (1 - 2 / (9 * df) + z * math.sqrt(2 / (9 * df))) ** 3
    return max(least, statistics.stdev(log_ratios) * math.sqrt(df / chi2))


def interval(log_ratios: Sequence[float], error: float, sd: float, df: int) -> Interval:
    """Student's interval for the mean with a moderated variance: s^2 shrunk towards `sd`^2 with weight `df`.

    (df sd^2 + (k-1) s^2) / (df + k-1), with df + k-1 degrees of freedom: Smyth, "Linear models and empirical Bayes
    methods for assessing differential expression", Stat. Appl. Genet. Mol. Biol. 3 (2004). It works from three pairs,
    where Student's own is useless and a bootstrap errs ten times too often.
    """
    count = len(log_ratios)
    centre = statistics.fmean(log_ratios)
    half = _t(1 - error, df + count - 1) * _standard_error(log_ratios, sd, df)
    return Interval(centre=centre, lower=centre - half, upper=centre + half, error=error)


def believed(log_ratios: Sequence[float], error: float, rule: Rule) -> Interval:
    """The interval that a look judges by: the moderated one, as far as the pairs bear out the spread it expects.

    Where they scatter far beyond that, its expectation is dropped; and a change must stand in Student's own interval,
    too, at seven times the error. On normal draws with SDs from 0.4 to 30 %, plans of up to 16 pairs then alarm in at
    most 1 of 100 comparisons of identical programs, where shrinkage alone alarms in 18. A stricter test, or a
    PASS that is held to both, would cost power (or pairs) where pairs scatter by 1 %: 2 % slowdowns were then
    seen with 4 pairs in 13 instead of 37 of 100 of the worst jobs (even units). So silence means less where pairs
    scatter by more than 1.5 % and nothing is known of the machine: up to 8 in 100 pass at the tolerance.
    """
    return _held(*_judges(log_ratios, error, rule))


def _held(moderated: Interval, own: Interval) -> Interval:
    """The first, as far as a change stands in the second, too."""
    return replace(
        moderated, lower=min(moderated.lower, max(0.0, own.lower)), upper=max(moderated.upper, min(0.0, own.upper))
    )


def _judges(log_ratios: Sequence[float], error: float, rule: Rule) -> tuple[Interval, Interval]:
    """The two intervals that a change must stand in. Fewer pairs than any look has are only described."""
    if len(log_ratios) < min(LOOKS):
        known = interval(log_ratios, error, rule.sd, rule.df)
        return known, known
    moderated = interval(log_ratios, error, rule.sd, 0 if _scattered(log_ratios, rule) else rule.df)
    return moderated, interval(log_ratios, min(OWN_SHARE * error, 0.5), rule.sd, 0)


def _scattered(log_ratios: Sequence[float], rule: Rule) -> bool:
    """Whether the pairs differ by more than the rule thinks possible: an F test of their variance."""
    degrees = len(log_ratios) - 1
    return rule.df > 0 and _squares(log_ratios) > degrees * rule.sd**2 * _f(1 - SCATTERED, degrees, rule.df)


@lru_cache(maxsize=1024)
def _f(probability: float, above: int, below: int) -> float:
    """The quantile of the F distribution, from the incomplete beta function (Abramowitz and Stegun 26.6.2)."""
    share = stats.bisect(lambda x: stats.incomplete_beta(above / 2, below / 2, x) - probability, 0.0, 1.0)
    return below * share / (above * (1 - share))


def _standard_error(log_ratios: Sequence[float], sd: float, df: int) -> float:
    count = len(log_ratios)
    return math.sqrt((df * sd**2 + _squares(log_ratios)) / (df + count - 1) / count)


def _squares(values: Sequence[float]) -> float:
    centre = statistics.fmean(values)
    return sum((value - centre) ** 2 for value in values)


@lru_cache(maxsize=1024)
def _t(probability: float, df: int) -> float:
    return stats.t_quantile(probability, df)


def decide(pairs: Sequence[Pair], rule: Rule | None = None) -> Verdict:
    """The verdict of the first look that reaches one; if INCONCLUSIVE and `needed`, measure another pair and ask again.

    Unsound pairs are dropped, and should be measured anew. A plan may be cut short by the clock, as that doesn't
    look at the ratios: `replace(rule, pairs=n)` then spends what is left on the n pairs there are.
    """
    rule = rule or Rule()
    verdict = _too_few(pairs, rule)
    for count, error in rule.looks():
        measured = _until(pairs, count)
        if measured is None:
            break
        verdict = _look(measured, error, rule)
        if verdict.outcome != "INCONCLUSIVE" or not verdict.needed:
            break
    return verdict


def _until(pairs: Sequence[Pair], count: int) -> Sequence[Pair] | None:
    """The pairs up to the one that completes `count` sound ones."""
    sound = 0
    for index, one in enumerate(pairs):
        sound += one.sound
        if sound == count:
            return pairs[: index + 1]
    return None


def _look(measured: Sequence[Pair], error: float, rule: Rule) -> Verdict:
    """The verdict after one look. A doubtful PASS waits for the next: see `_doubt`."""
    verdict, wall, cpu = _known(measured, error, rule)
    outcome = _outcome(wall, rule)
    if verdict.dropped > MOST_DROPPED * len(measured):
        return replace(verdict, reason=f"unfit: {verdict.dropped} of {len(measured)} pairs met two different machines")
    if cpu and rule.trust == "both" and _conflict(outcome, _outcome(cpu, rule)):
        apart = wall.lower > cpu.upper or cpu.lower > wall.upper
        return replace(verdict, reason=_conflict_explained(wall, cpu), needed=0 if apart else verdict.needed)
    if outcome == "INCONCLUSIVE" or (outcome == "PASS" and _doubt(wall, verdict.pairs, rule)):
        return replace(verdict, reason="neither a slowdown nor its absence is proved")
    return replace(verdict, outcome=outcome, needed=0)


def _known(measured: Sequence[Pair], error: float, rule: Rule) -> tuple[Verdict, Interval, Interval | None]:
    """What the sound pairs show, not yet judged, with the intervals by wall and by CPU time."""
    sound = [one for one in measured if one.sound]
    values = [getattr(one, rule.statistic) for one in sound]
    cpu_values = [one.cpu for one in sound if one.cpu is not None]
    judges = _judges(values, error, rule)
    wall = _held(*judges)
    cpu = believed(cpu_values, error, rule) if len(cpu_values) == len(sound) else None
    spread = _standard_error(values, rule.sd, rule.df)
    half = max(known.upper - known.centre for known in judges)
    reach = math.log1p(rule.margin) + half + statistics.NormalDist().inv_cdf(0.9) * spread
    verdict = Verdict(
        outcome="INCONCLUSIVE",
        ratio=math.exp(wall.centre),
        low=math.exp(wall.lower),
        high=math.exp(wall.upper),
        pairs=len(sound),
        dropped=len(measured) - len(sound),
        detectable=math.expm1(reach),
        cpu_ratio=math.exp(cpu.centre) if cpu else None,
        needed=_needed(len(sound), spread, rule),
    )
    return verdict, wall, cpu


def _outcome(known: Interval, rule: Rule) -> Outcome:
    """A slowdown beyond the margin is proved first; both can be, between margin and tolerance."""
    margin, tolerance = math.log1p(rule.margin), math.log1p(rule.tolerance)
    if known.lower > margin:
        return "REGRESSION"
    if known.upper < -margin:
        return "IMPROVED"
    return "PASS" if known.upper < tolerance else "INCONCLUSIVE"


def _doubt(wall: Interval, pairs: int, rule: Rule) -> bool:
    """Whether a PASS should wait: more pairs are planned, and the estimate itself is beyond the margin.

    Without this, slowdowns of 1 to 1.5 % pass at the third or fourth pair by luck, and 12 pairs see no less than
    1.68 % in the worst condition (odd units). With it, 1.46 %, for 0.5 pairs more at most on an unchanged build.
    """
    return pairs < rule.pairs and wall.centre > math.log1p(rule.margin)


def _conflict(wall: Outcome, cpu: Outcome) -> bool:
    """Whether one clock proves a slowdown and the other that there is none worth mention."""
    return "REGRESSION" in (wall, cpu) and bool({wall, cpu} & {"PASS", "IMPROVED"})


def _conflict_explained(wall: Interval, cpu: Interval) -> str:
    what = "time spent waiting (sleep, I/O, a lock)" if wall.centre > cpu.centre else "CPU time that wall hides"
    return (
        f"wall time {math.expm1(wall.centre):+.1%} contradicts CPU time {math.expm1(cpu.centre):+.1%}: {what}; "
        "--trust wall decides by wall time"
    )


def _needed(count: int, spread: float, rule: Rule) -> int:
    """Pairs until the interval is half as wide as the gap between margin and tolerance: one of them is then ruled out.

    (2 t s / (tolerance - margin))^2 with t at the last look's error.
    """
    _, error = rule.looks()[-1]
    gap = math.log1p(rule.tolerance) - math.log1p(rule.margin)
    sd = spread * math.sqrt(count)
    return max(count + 1, math.ceil((2 * _t(1 - error, rule.df + count - 1) * sd / gap) ** 2))


def _too_few(pairs: Sequence[Pair], rule: Rule) -> Verdict:
    sound = sum(one.sound for one in pairs)
    reason = f"{sound} sound pairs of {len(pairs)}, and a verdict needs {min(LOOKS)}"
    if not sound:
        return Verdict("INCONCLUSIVE", 1.0, 0.0, math.inf, 0, len(pairs), math.inf, needed=min(LOOKS), reason=reason)
    verdict, _, _ = _known(pairs, rule.error, rule)
    return replace(verdict, reason=reason)


# A suite of cases


@dataclass(frozen=True)
class Shift:
    """All cases moved together: `ratio` is the median over cases, `share` of them moved its way."""

    ratio: float
    share: float
    cases: int


def suspects(verdicts: Mapping[str, Verdict]) -> list[str]:
    """The cases to measure again with fresh pairs: a REGRESSION of a suite must repeat."""
    return [case for case, verdict in verdicts.items() if verdict.outcome == "REGRESSION"]


def confirmed(first: Verdict, again: Verdict) -> Verdict:
    """The verdict after the second stage: a REGRESSION that repeated, or what the fresh pairs say instead.

    The stages are independent, so the false alarm rate of a case is squared (1 % to 0.01 %) at little cost in
    power: unlike "3 of 3 must fail", each stage sees a slowdown of the tolerance nearly always.
    """
    if first.outcome != "REGRESSION" or again.outcome == "REGRESSION":
        return again
    seen = f"a first measurement said {first.ratio - 1:+.1%}, fresh pairs {again.ratio - 1:+.1%}"
    return replace(again, reason="; ".join(filter(None, (again.reason, seen))))


def global_shift(verdicts: Iterable[Verdict], least: float = 0.005, share: float = 0.8) -> Shift | None:
    """Whether the toolchain, the libraries or the machine moved rather than a case: five cases or more,

    more than 80 % of them to the same side, and by more than 0.5 % in the median.
    """
    logs = [math.log(verdict.ratio) for verdict in verdicts if verdict.pairs]
    if len(logs) < 5:
        return None
    middle = statistics.median(logs)
    alike = sum(value * middle > 0 for value in logs) / len(logs)
    return Shift(math.exp(middle), alike, len(logs)) if abs(middle) > least and alike > share else None


# A stored baseline


@dataclass(frozen=True)
class StoredVerdict:
    """A session against stored ones: `shift` is the log-ratio to their mean, `limit` what counts as an alarm."""

    outcome: Outcome
    shift: float
    limit: float
    sessions: int
    reason: str = ""


def process_value(
    wall_ns: Sequence[int],
    probe_ns: Sequence[int] = (),
    cpu_ns: Sequence[int] = (),
    switches: Sequence[int] = (),
    beta: float = 0.8,
) -> float:
    """The log of a process's latency, less `beta` times that of the probe beside it: comparable across days.

    The median over iterations of ln(wall) - beta ln(probe), the probe as the median of the 19 shots around. Where
    over 20 % of the iterations were preempted, wall medians tell the load and not the speed, and CPU time stands
    in, if the caller has it; else ln(min wall) - beta ln(min probe). The design had only the last: between sessions
    of unlike load the smallest step seen is then 9.6 %, and 6.2 % with CPU time (odd units).
    """
    if not len(probe_ns):
        return math.log(stats.median(wall_ns))
    times = wall_ns
    if sum(count > 0 for count in switches) > PREEMPTED * len(wall_ns):
        if not len(cpu_ns):
            return math.log(min(wall_ns)) - beta * math.log(min(probe_ns))
        times = cpu_ns
    local = _running_median(probe_ns, LOCAL)
    return stats.median([math.log(time) - beta * math.log(shot) for time, shot in zip(times, local, strict=True)])


def _running_median(values: Sequence[int], window: int) -> list[float]:
    reach = window // 2
    return [stats.median(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))]


def session_value(process_values: Sequence[float]) -> float:
    """The median over the processes of a session."""
    return stats.median(process_values)


def fitted_beta(log_walls: Sequence[float], log_probes: Sequence[float]) -> float:
    """How far latency follows the probe on this machine class: the slope of ln wall on ln probe, within 0.5 to 1."""
    if len(log_walls) < 3 or max(log_probes) == min(log_probes):
        return 0.8
    slope, _ = statistics.linear_regression(log_probes, log_walls)
    return min(max(slope, 0.5), 1.0)


def check_stored(
    baseline: Sequence[float], contender: float, margin: float = 0.05, error: float = 0.01
) -> StoredVerdict:
    """A new session against at least five stored ones: REGRESSION beyond `margin` and the spread between sessions.

    Alarm if Y_new - mean(Y) > max(ln(1 + margin), t s sqrt(1 + 1/S)), the prediction limit for one further
    observation (Hahn and Meeker, "Statistical Intervals", section 4.7), with s moderated as in `interval`: five
    sessions then see 3.5 % where Student's s sees 4.0 % (margin 0, odd units). Where that limit is over
    twice the margin, silence proves nothing and the answer is INCONCLUSIVE.
    """
    count = len(baseline)
    if count < LEAST_SESSIONS:
        reason = f"{count} baseline sessions, and a limit needs {LEAST_SESSIONS}"
        return StoredVerdict("INCONCLUSIVE", 0.0, math.inf, count, reason)
    shift = contender - statistics.fmean(baseline)
    mean_error = _standard_error(baseline, SESSION_SD, SESSION_DF)
    spread = _t(1 - error, SESSION_DF + count - 1) * mean_error * math.sqrt(count + 1)
    limit = max(math.log1p(margin), spread)
    if abs(shift) > limit:
        return StoredVerdict("REGRESSION" if shift > 0 else "IMPROVED", shift, limit, count)
    if margin and spread > 2 * math.log1p(margin):
        reason = f"the baseline scatters too much to see {margin:.0%}; use `bench compare`"
        return StoredVerdict("INCONCLUSIVE", shift, limit, count, reason)
    return StoredVerdict("PASS", shift, limit, count)


# A history


@dataclass(frozen=True)
class Change:
    """A step in a series: the first point after it, the look that saw it, its size as a log-ratio and its first z.

    `state`: "open" while it may still go away, "confirmed" once 8 points bear it out, or "went away".
    """

    index: int
    seen: int
    shift: float
    z: float
    state: Literal["open", "confirmed", "went away"] = "open"


def changes(logs: Sequence[float], limit: float = 4.5, least: float = 0.01) -> list[Change]:
    """The steps in a series of log-latencies, oldest first, as a nightly job would have seen them point by point.

    Of the last 40 points, every split with 8 left and 3 right is tried: sides are winsorised at 4 robust SDs around
    their medians, and an alarm needs z > `limit` and a step of `least`. It goes away when the last 3 points
    fall back to z < 2 (and is not raised again then), and is confirmed when 8 points bear it out; the left part then
    starts anew. Steps to faster are followed too, or the way back would go unnoticed. Where a step lies is told anew
    with every point until then: see `_placed`.
    """
    found: list[Change] = []
    start, current = 0, None
    for seen in range(LEFT + RIGHT, len(logs) + 1):
        current = current or _step(logs, start, seen, limit, least)
        if current is None:
            continue
        current = _judged(logs, start, seen, current)
        if current.state != "open":
            found.append(current)
            start, current = (current.index if current.state == "confirmed" else start), None
    return found + ([current] if current else [])


def _step(logs: Sequence[float], start: int, seen: int, limit: float, least: float) -> Change | None:
    """The split of the points before `seen` with the largest z, if that is an alarm and has not gone away already."""
    window = logs[max(start, seen - HISTORY) : seen]
    if len(window) < LEFT + RIGHT:
        return None
    sd = _jitter(window)
    splits = [at for at, distance in _median_distances(window) if distance > limit * _scale(at, len(window) - at, sd)]
    if not splits:
        return None
    z, shift, split = max((*_shift(window[:at], window[at:], sd), at) for at in splits)
    change = Change(seen - len(window) + split, seen - 1, shift, z)
    alarming = z > limit and abs(shift) > least and not _gone(logs, start, seen, change)
    return change if alarming else None


def _median_distances(window: Sequence[float]) -> list[tuple[int, float]]:
    """Every allowed split and how far the medians of its sides are apart: no less than the shift, and quick to tell."""
    left, right = _prefix_medians(window), _prefix_medians(window[::-1])[::-1]
    return [(at, abs(right[at] - left[at - 1])) for at in range(LEFT, len(window) - RIGHT + 1)]


def _prefix_medians(values: Sequence[float]) -> list[float]:
    ordered: list[float] = []
    medians = []
    for count, value in enumerate(values, 1):
        insort(ordered, value)
        medians.append((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
    return medians


def _judged(logs: Sequence[float], start: int, seen: int, change: Change) -> Change:
    """The change by all points before `seen`. One that went away stays where it was."""
    if _gone(logs, start, seen, change):
        return replace(change, state="went away")
    placed = _placed(logs, start, seen, change)
    return replace(placed, state="confirmed") if seen - placed.index >= BORNE_OUT else placed


def _gone(logs: Sequence[float], start: int, seen: int, change: Change) -> bool:
    """Whether the last points are back where they were before the change."""
    first = max(start, seen - HISTORY)
    z, shift = _shift(logs[first : change.index], logs[seen - RIGHT : seen], _jitter(logs[first:seen]))
    return z < 2 or shift * change.shift < 0


def _placed(logs: Sequence[float], start: int, seen: int, change: Change) -> Change:
    """Where the change lies and how large it is: of the splits nearby, that with the least deviation from two levels.

    The split with the largest z is no estimate of the place. A large step alarms as soon as two of the last three
    points are beyond it, so one point early, and with a part of its size. Least absolute deviations: Bai, "Estimation
    of multiple-regime regressions with least absolutes deviation", J. Stat. Plan. Inference 74 (1998).
    """
    first = max(start, seen - HISTORY)
    sd = _jitter(logs[first:seen])
    near = range(max(first + 1, change.index - RIGHT), min(seen - 1, change.index + RIGHT) + 1)
    deviations = {at: _deviation(logs[first:at], sd) + _deviation(logs[at:seen], sd) for at in near}
    least = min(deviations.values())
    # Rounding must not decide between equals.
    at = next(at for at, deviation in deviations.items() if deviation <= least + 1e-9)
    shift = statistics.median(logs[at:seen]) - statistics.median(logs[first:at])
    return replace(change, index=at, seen=max(at, change.seen), shift=shift)


def _deviation(logs: Sequence[float], sd: float) -> float:
    """From the median, each point's at most 4 SDs: a wild point alone is no level."""
    middle = statistics.median(logs)
    return sum(min(abs(value - middle), 4 * sd) for value in logs)


def _jitter(logs: Sequence[float]) -> float:
    """The SD of a point, from first differences: a step adds one difference, not a spread. At least 0.3 %."""
    differences = [after - before for before, after in pairwise(logs)]
    return max(HISTORY_SD, stats.robust_sd(differences) / math.sqrt(2))


def _shift(left: Sequence[float], right: Sequence[float], sd: float) -> tuple[float, float]:
    """The z and the size of the step that both mean and median bear out; 0 if they disagree about its direction."""
    low_left, high_left = _middles(left, sd)
    low_right, high_right = _middles(right, sd)
    step = low_right - high_left if low_right > high_left else min(0.0, high_right - low_left)
    return abs(step) / _scale(len(left), len(right), sd), step


def _scale(left: int, right: int, sd: float) -> float:
    """The SD of the difference of two means of so many points."""
    return sd * math.sqrt(1 / left + 1 / right)


def _middles(values: Sequence[float], sd: float) -> tuple[float, float]:
    """Median and winsorised mean, the lower one first."""
    middle = statistics.median(values)
    mean = sum(min(max(value, middle - 4 * sd), middle + 4 * sd) for value in values) / len(values)
    return min(mean, middle), max(mean, middle)
