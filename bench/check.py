"""Contender records against a baseline → verdicts. Pure but for reading; the statistics are in `bench.verdict`."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench import baseline as baselines
from bench import environment, gate, stats, verdict
from bench.baseline import LEAST_PROCESSES, Baseline, Entry, Kind, Machine, Quantity, Reading, Session
from bench.errors import BenchError, Unavailable, UsageError
from bench.gate import Gate, GateResult
from bench.schema import Case, Frozen, Interval, Record, Status
from bench.verdict import LEAST_SESSIONS, StoredVerdict

COMPARE = "use bench compare, which measures both side by side"
SAVE = "save a new baseline with: bench baseline save"
#: margins that stored numbers can carry whatever the baseline. Raw ones alarm on 2 to 4 % of unchanged builds at 5 %
#: (recorded sessions, beside a busy loop) and on none at 10 %
MARGINS: dict[Kind, float] = {"normalised": 0.05, "raw": 0.10}
#: the least SD between sessions that is believed; that of raw ones is 2.5 % on the quiet recorded machine
SESSION_SDS: dict[Kind, float] = {"normalised": verdict.SESSION_SD, "raw": 0.025}
#: the chance of a false REGRESSION anywhere in a suite, so a case gets its share of it
ERROR = 0.01


class NoBaseline(BenchError):
    """Nothing that the contender measured is in the baseline: no verdict, and no pass either."""

    exit_code = 4


def without_baseline(error: NoBaseline) -> Gate:
    """The same for a machine to read: nothing was judged, and why."""
    return Gate(command="bench check", results=(_inconclusive("all cases", str(error), SAVE, lacks="baseline"),))


def refuse_stranger(baseline: Baseline, description: Mapping[str, Any]) -> None:
    """Raises NoBaseline where the baseline is of other machines than the one described."""
    if environment.machine_class(description) not in baseline.machines:
        raise NoBaseline(_strange(baselines.machine_words(description), baseline), "nothing was measured", SAVE)


# Contenders


class Contender(Frozen, frozen=True, kw_only=True):
    """The last try at a quantity: its session, None where that went wrong, as `status` and `reason` say."""

    quantity: Quantity
    run_id: str
    machine: str
    words: str
    status: Status
    reason: str = ""
    session: Session | None = None


class Try(NamedTuple):
    """The newest record of a case and interval, and what was known of its machine."""

    record: Record
    quantity: Quantity
    machine: str
    words: str


def contenders(reading: Reading, tries: Sequence[Try], machines: Mapping[str, Machine]) -> list[Contender]:
    """What those tries came to, values normalised as in the baseline of `machines`."""
    wanted = {one.record.run_id for one in tries}
    runs = (run for run in reading.runs() if wanted & {header.run_id for header in run.headers})
    found = {(session.run_id, session.quantity): session for session in baselines.sessions(runs, machines)}
    return [
        Contender(
            quantity=one.quantity,
            run_id=one.record.run_id,
            machine=one.machine,
            words=one.words,
            status=one.record.status,
            reason=one.record.reason,
            session=found.get((one.record.run_id, one.quantity)) if one.record.status == "ok" else None,
        )
        for one in tries
    ]


def last_tries(reading: Reading) -> list[Try]:
    """The newest record of each case and interval: what a check without further words is about."""
    newest: dict[tuple[Case, Interval], Try] = {}
    for run in reading.runs():
        environments = {header.environment_id: header.environment for header in run.headers}
        for record in run.records:
            description = environments.get(record.environment_id, {})
            machine = environment.machine_class(description) if description.get("hardware") else ""
            words = baselines.machine_words(description)
            for quantity in baselines.quantities(record):
                key = (record.case, quantity.interval)
                if key not in newest or newest[key].record.started_at <= record.started_at:
                    newest[key] = Try(baselines.emptied(record), quantity, machine, words)
    return sorted(newest.values(), key=lambda one: one.quantity.order)


# A check


class Suspect(Frozen, frozen=True, kw_only=True):
    """A REGRESSION by stored numbers, for a measurement side by side: `then` and `now` are the runtimes of both."""

    quantity: Quantity
    ratio: float
    margin: float
    machine: str
    then: dict[str, str]
    now: dict[str, str]
    commits: tuple[str, ...] = ()


#: measures a suspect afresh and says what that gave; raises BenchError where the baseline's side can't be run here
Confirm = Callable[[Suspect], GateResult]


class Matched(NamedTuple):
    """A contender beside the stored sessions of the same quantity on the same machine. `value` is of `kind`."""

    contender: Session
    entry: Entry
    kind: Kind
    value: float
    stored: list[float]


def check(
    baseline: Baseline,
    found: Sequence[Contender],
    margin: float | None = None,
    confirm: Confirm | None = None,
    place: str = "",
) -> Gate:
    """The verdicts on all that was found, and on what the baseline has and the contender lacks.

    Without a `margin`, each case gets the finest that its numbers carry. Raises NoBaseline where nothing is to be
    compared with anything, and UsageError for a margin that stored numbers can't carry.
    """
    entries = {(entry.machine, entry.quantity): entry for entry in baseline.cases}
    matches = [match for each in found if (match := _match(each, entries))]
    error = ERROR / max(1, len(matches))
    if margin is not None:
        _refuse_fine(margin, matches, error)
    judged = [_judged(match, margin or MARGINS[match.kind], error, baseline) for match in matches]
    if confirm:
        judged = [_confirmed(result, match, baseline, confirm) for result, match in zip(judged, matches, strict=True)]
    matched = {match.contender.quantity for match in matches}
    unmatched = [_unmatched(each, baseline, entries) for each in found if each.quantity not in matched]
    results = {result.case: result for result in (*judged, *unmatched, *_missing(baseline, found)) if result}
    _refuse_nothing(list(results.values()))
    return Gate(
        command="bench check",
        results=tuple(results[case] for case in sorted(results)),
        shift=_shift(judged),
        place=place,
    )


def _match(contender: Contender, entries: Mapping[tuple[str, Quantity], Entry]) -> Matched | None:
    """The contender beside its baseline, by the better kind of number that both have enough of."""
    entry, session = entries.get((contender.machine, contender.quantity)), contender.session
    if entry is None or session is None:
        return None
    for kind in MARGINS:
        value, stored = session.value(kind), entry.values(kind, without=session.run_id)
        if value is not None and len(stored) >= LEAST_SESSIONS:
            return Matched(session, entry, kind, value, stored)
    return None


# Margins


def _refuse_fine(margin: float, matches: Iterable[Matched], error: float) -> None:
    """Raises UsageError where a case can't carry the margin: below it, stored numbers move by themselves."""
    short = {match.entry.case: least for match in matches if (least := finest(match, error)) > margin + 1e-9}
    if short:
        case, least = max(short.items(), key=lambda item: item[1])
        needed = f"{math.ceil(least * 1000 - 1e-6) / 10:g}%"
        others = f"{len(short)} cases need more, and of them " if len(short) > 1 else ""
        raise UsageError(
            f"a margin of {100 * margin:g}% is finer than stored numbers can carry",
            f"{others}{case} needs {needed}",
            f"{COMPARE}, or --margin {needed}",
        )


def finest(match: Matched, error: float = ERROR) -> float:
    """The finest margin that a case carries: 5 % by the probe, or twice what its own sessions show to be detectable.

    Raw numbers need 10 % whatever their sessions say: five of one morning know nothing of the machine's other modes.
    """
    if match.kind == "raw":
        return MARGINS["raw"]
    return min(MARGINS["normalised"], 2 * detectable(match, 0.0, error))


def detectable(match: Matched, margin: float, error: float = ERROR) -> float:
    """The slowdown that a new session shows nine times in ten: its limit, and 1.28 SDs of a session beyond that."""
    noise = chance(match, error)
    sd = noise / stats.t_quantile(1 - error, verdict.SESSION_DF + len(match.stored) - 1)
    return math.expm1(max(math.log1p(margin), noise) + statistics.NormalDist().inv_cdf(0.9) * sd)


def chance(match: Matched, error: float = ERROR) -> float:
    """How far one more session may lie from the mean of the stored ones by chance, as a log-ratio.

    The prediction limit of `verdict.check_stored`, for raw numbers with the SD that those really have.
    """
    known = verdict.interval(match.stored, error, SESSION_SDS[match.kind], verdict.SESSION_DF)
    return (known.upper - known.centre) * math.sqrt(len(match.stored) + 1)


# Verdicts


def _judged(match: Matched, margin: float, error: float, baseline: Baseline) -> GateResult:
    known = verdict.check_stored(match.stored, match.value, margin, error)
    noise, seen = chance(match, error), detectable(match, margin, error)
    says, do = _words(match, known, margin, noise, seen)
    return GateResult(
        case=match.entry.quantity.name,
        outcome=known.outcome,
        says=says,
        do=do,
        ratio=math.exp(known.shift),
        low=math.exp(known.shift - noise),
        high=math.exp(known.shift + noise),
        details=tuple(_details(match, baseline)),
        evidence=_evidence(match, known, margin, seen, baseline),
        took_s=match.contender.spent_s,
    )


def _words(match: Matched, known: StoredVerdict, margin: float, noise: float, seen: float) -> tuple[str, str]:
    """What was found, and what to do about it."""
    ratio = math.exp(known.shift)
    moved = f"It takes {gate.time_taken(ratio)} than in the baseline{_in_ms(match, ratio)}"
    usual = f"from run to run it moves by up to {math.expm1(noise):.1%} all by itself"
    if known.outcome == "REGRESSION":
        return (
            f"{moved}. That is slower than allowed ({margin:.1%}) and no accident: {usual}.",
            f"make sure that it is the change and not the machine: {COMPARE}. If it is meant, {SAVE}",
        )
    if known.outcome == "IMPROVED":
        return f"{moved}. That is no accident: {usual}.", f"to keep it, {SAVE}"
    if known.outcome == "PASS":
        return (
            f"{moved}, no more than is allowed ({margin:.1%}) or than it moves all by itself. "
            f"A slowdown of {seen:.1%} would have been noticed nine times in ten.",
            "",
        )
    return (
        f"It can't be told whether it became slower: {usual}, so a slowdown of {margin:.1%} would not show.",
        f"{COMPARE}, or add sessions to the baseline when the machine is quieter",
    )


def _in_ms(match: Matched, ratio: float) -> str:
    """The stored latency, and what it is now on the machine as it was then; "" where the load hid it then."""
    known = [ms for ms in match.entry.ms if ms is not None]
    if not known:
        return ""
    then = stats.median(known)
    speed = ", the machine's speed allowed for" if match.kind == "normalised" else ""
    return f" ({then:.4g} ms then, {then * ratio:.4g} ms now{speed})"


def _details(match: Matched, baseline: Baseline) -> Iterable[str]:
    session, entry = match.contender, match.entry
    changed = baselines.differences(baseline.software.get(entry.software, {}), session.software)
    if changed:
        yield f"also changed since the baseline: {', '.join(changed)}"
    if entry.artifact != session.artifact:
        yield "the model file is another one than in the baseline"
    if session.doubts:
        total = len(session.left_out) + max(len(session.raw), len(session.normalised))
        doubts = ", ".join(f"{reason} in {count} of {total}" for reason, count in session.doubts.items())
        yield f"processes that were disturbed: {doubts}"
    if session.quantity.case.backend == "simulated":
        yield "simulated: no runtime; its latencies are made up"


def _evidence(match: Matched, known: StoredVerdict, margin: float, seen: float, baseline: Baseline) -> dict[str, Any]:
    session, machine = match.contender, match.entry.machine
    return {
        "by": "the probe-normalised median" if match.kind == "normalised" else "the raw median",
        "beta": baseline.machines[machine].beta if match.kind == "normalised" else None,
        "margin": margin,
        "limit": math.expm1(known.limit),
        "detectable": seen,
        "sessions": known.sessions,
        "session_logs": match.stored,
        "log": match.value,
        "processes": len(session.normalised if match.kind == "normalised" else session.raw),
        "left_out": list(session.left_out),
        "run": session.run_id,
        "commit": session.commit,
        "machine": machine,
        "options": dict(session.quantity.options),
        "weights": session.quantity.weights,
    }


# What has no verdict


def _unmatched(
    contender: Contender, baseline: Baseline, entries: Mapping[tuple[str, Quantity], Entry]
) -> GateResult | None:
    """Why a contender has no verdict; None for what neither works here nor ever did."""
    entry = entries.get((contender.machine, contender.quantity))
    name = contender.quantity.name
    if contender.status != "ok":
        return _gone_wrong(contender, name, _twins(contender.quantity.case, baseline))
    if entry is None:
        return _inconclusive(name, _no_baseline(contender, baseline), SAVE, lacks="baseline")
    return _too_little(contender, entry)


def _gone_wrong(contender: Contender, name: str, twins: Sequence[Entry]) -> GateResult | None:
    """A failure is one whether or not the baseline has the case; what was never measured need not work."""
    reason = contender.reason or "no reason is on record"
    if contender.status == "failed":
        return GateResult(case=name, outcome="FAILED", says=f"It went wrong: {reason}", do="mend it, or see its log")
    if not twins:
        return None
    if contender.status == "unavailable":
        do = "run it where the baseline was measured"
        return GateResult(case=name, outcome="UNAVAILABLE", says=f"It can't be measured here: {reason}", do=do)
    says = f"It was measured for the baseline and is unsupported now: {reason}"
    return GateResult(case=name, outcome="FAILED", says=says, do=f"if that is meant, {SAVE}")


def _twins(case: Case, baseline: Baseline) -> list[Entry]:
    return [entry for entry in baseline.cases if entry.case == case.key]


def _too_little(contender: Contender, entry: Entry) -> GateResult:
    """Too few sessions are stored, or too few processes count: says which, and how many are missing."""
    name, session = contender.quantity.name, contender.session
    processes = max((len(session.normalised), len(session.raw)) if session else (0,))
    if session is None or processes < LEAST_PROCESSES:
        left_out = Counter(session.left_out if session else ())
        why = "; ".join(f"{count} left out: {reason}" for reason, count in left_out.items())
        says = f"{processes} processes of it count, and a verdict needs {LEAST_PROCESSES}{f' ({why})' if why else ''}"
        return _inconclusive(name, says, "measure it again with: bench run --repetitions 5, on a quieter machine")
    stored = max(len(entry.values(kind, without=session.run_id)) for kind in MARGINS)
    more = LEAST_SESSIONS - stored
    if more > 0:
        says = (
            f"{stored} sessions of {LEAST_PROCESSES} sound processes are stored, and a limit needs {LEAST_SESSIONS}: "
            f"{more} more are missing"
        )
        do = f"measure it at {more} other times with: bench run --repetitions 5; then {SAVE}"
        return _inconclusive(name, says, do)
    says = "the baseline and this run have no kind of number in common: one of them has a probe, or is too disturbed"
    return _inconclusive(name, says, f"measure it again; or {SAVE}")


def _missing(baseline: Baseline, found: Sequence[Contender]) -> list[GateResult]:
    """What the baseline has of this machine and the contender never tried: a case that vanished must not look green."""
    tried = {(each.quantity.case.key, each.quantity.interval) for each in found}
    here = {each.machine for each in found}
    return [
        _inconclusive(
            entry.quantity.name,
            "the baseline has it, and this run didn't measure it",
            f"measure it, or {SAVE}",
            lacks="contender",
        )
        for entry in baseline.cases
        if entry.machine in here and (entry.case, entry.interval) not in tried
    ]


def _inconclusive(case: str, says: str, do: str, lacks: str = "") -> GateResult:
    """`lacks` names the side that has nothing to compare: "baseline", "contender", or "" where both have something."""
    return GateResult(case=case, outcome="INCONCLUSIVE", says=says, do=do, evidence={"lacks": lacks} if lacks else {})


def _no_baseline(contender: Contender, baseline: Baseline) -> str:
    """Which fact of the contender the baseline lacks: the machine, or what differs from the entry nearest to it."""
    if contender.machine not in baseline.machines:
        return _strange(contender.words, baseline)
    near = [entry.quantity for entry in baseline.cases if entry.machine == contender.machine]
    apart = min((_apart(contender.quantity, quantity) for quantity in near), key=len)
    if any(words.startswith("model ") for words in apart):
        return f"no baseline for it: the baseline doesn't have {contender.quantity.case.model}"
    return f"no baseline for it: {', '.join(apart)}"


def _strange(words: str, baseline: Baseline) -> str:
    there = " or ".join(f"{machine.words} (class {name})" for name, machine in sorted(baseline.machines.items()))
    return f"no baseline for this machine: it is {words}, and the baseline was measured on {there}"


def _apart(here: Quantity, there: Quantity) -> list[str]:
    facts = {name: (getattr(there.case, name), getattr(here.case, name)) for name in Case.__struct_fields__}
    facts |= {"interval": (there.interval, here.interval), "weights": (there.weights, here.weights)}
    then, now = dict(there.options), dict(here.options)
    for name in sorted({*then, *now}):
        facts[f"option {name}"] = (then.get(name, "absent"), now.get(name, "absent"))
    return [f"{name} {old} there, {new} here" for name, (old, new) in facts.items() if old != new]


def _refuse_nothing(results: Sequence[GateResult]) -> None:
    """Raises NoBaseline where not one case has anything to be compared with: a line says it better than a table."""
    if not results:
        raise NoBaseline("nothing was judged", "the contender measured nothing that the baseline has", SAVE)
    if all("lacks" in result.evidence for result in results):
        first = min(results, key=lambda result: (result.evidence["lacks"], result.case))
        more = f" (and {len(results) - 1} more cases)" if len(results) > 1 else ""
        raise NoBaseline(f"{first.case}{more}: {first.says}", "nothing was judged", f"{SAVE}, or {COMPARE}")


# All cases together


def _shift(judged: Sequence[GateResult]) -> str:
    """A line where all cases moved together, "" where they did not."""
    known = verdict.global_shift(_as_verdict(result) for result in judged if result.ratio is not None)
    if known is None:
        return ""
    return (
        f"All cases moved together: {gate.time_taken(known.ratio)} in the median of {known.cases}, "
        f"{known.share:.0%} of them the same way. "
        f"That is the toolchain, the libraries or the machine rather than one change; {COMPARE}"
    )


def _as_verdict(result: GateResult) -> verdict.Verdict:
    ratio = result.ratio or 1.0
    return verdict.Verdict("PASS", ratio, result.low or 0.0, result.high or math.inf, 1, 0, math.inf)


#: outcomes of fresh pairs that say nothing about speed, and so nothing against a suspicion
UNABLE = frozenset({"FAILED", "UNAVAILABLE"})


def _confirmed(result: GateResult, match: Matched, baseline: Baseline, confirm: Confirm) -> GateResult:
    """What fresh pairs say of a suspect. One that can't be measured afresh stays what stored numbers said."""
    if result.outcome != "REGRESSION":
        return result
    try:
        again = confirm(_suspect(result, match, baseline))
        unable = again.says if again.outcome in UNABLE else ""
    except BenchError as error:
        unable = str(error)
    if unable:
        return msgspec.structs.replace(result, details=(*result.details, f"not confirmed side by side: {unable}"))
    first = f"stored numbers said {gate.change(result)}, so it was measured again side by side"
    return msgspec.structs.replace(
        again,
        case=result.case,
        details=(first, *again.details, *result.details),
        evidence=again.evidence | {"stored": result.evidence},
        took_s=result.took_s + again.took_s,
    )


def _suspect(result: GateResult, match: Matched, baseline: Baseline) -> Suspect:
    """Raises Unavailable where the model is another one: of that the baseline keeps no copy, and both sides would run
    the new one and agree."""
    if match.entry.artifact != match.contender.artifact:
        raise Unavailable(
            "the model file is another one than in the baseline", "", "name both files: bench compare OLD NEW"
        )
    commits = {baseline.runs[run].commit for run in match.entry.runs}
    return Suspect(
        quantity=match.entry.quantity,
        ratio=result.ratio or 1.0,
        margin=result.evidence["margin"],
        machine=match.entry.machine,
        then=baselines.packages(baseline.software.get(match.entry.software, {})),
        now=baselines.packages(match.contender.software),
        commits=tuple(sorted(commit for commit in commits if commit)),
    )
