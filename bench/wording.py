"""Comparisons in plain words, for readers who never met a confidence interval, as the results of a gate."""

import math
from collections.abc import Iterable, Sequence

import msgspec

from bench.compared import Comparison
from bench.gate import Gate, GateResult, time_taken
from bench.gate import Outcome as GateOutcome
from bench.verdict import Shift

#: from here on it is not the number of pairs that wants changing
MANY_PAIRS = 100
STATUSES: dict[str, GateOutcome] = {"failed": "FAILED", "unsupported": "UNAVAILABLE", "unavailable": "UNAVAILABLE"}


def gate(found: Sequence[Comparison], shift: Shift | None = None, notes: Sequence[str] = ()) -> Gate:
    """What `bench compare` found, ready for every format."""
    sides = dict.fromkeys(f"A is {side(each, 'a')}, B is {side(each, 'b')}." for each in found)
    # A PASS is a line without words, but this must not go unsaid.
    coarse = [f"{each.key}:{_alternating(each)}" for each in found if each.outcome == "PASS" and _alternating(each)]
    return Gate(
        command="bench compare",
        results=tuple(result(each) for each in found),
        shift=together(shift) if shift else "",
        notes=(*sides, *coarse, *notes),
    )


def side(found: Comparison, name: str) -> str:
    """`old.onnx (1.31.0)`: what a side is, with the version of its runtime."""
    label, version = getattr(found, f"label_{name}"), getattr(found, f"version_{name}")
    return f"{label} ({version})" if version and version not in label else str(label)


def together(shift: Shift) -> str:
    return (
        f"All cases moved together: B takes {time_taken(shift.ratio)} in the median of {shift.cases}, and "
        f"{shift.share:.0%} of them moved that way. Suspect what they share (toolchain, libraries, machine) first."
    )


def result(found: Comparison) -> GateResult:
    return GateResult(
        case=found.key,
        outcome=found.outcome or STATUSES[found.status],
        says=says(found),
        do=advice(found),
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        details=tuple(_details(found)),
        evidence=msgspec.to_builtins(found),
        took_s=found.spent_s,
    )


def says(found: Comparison) -> str:
    """The finding: ratio, interval and what they mean."""
    if found.outcome is None:
        return f"{found.reason}."
    if found.ratio is None:
        return f"It can't be told whether B is slower: {found.reason}."
    measured = f"B takes {time_taken(found.ratio)} than A; {_span(found)}"
    if found.outcome == "INCONCLUSIVE":
        return f"It can't be told whether B is slower: {found.reason}. So far {measured}.{_alternating(found)}"
    meaning = {
        "REGRESSION": f"that is more than the {found.margin:.1%} that don't matter, and no accident",
        "IMPROVED": "that is no accident",
        "PASS": f"a slowdown of {found.tolerance:.1%} is ruled out",
    }
    return f"{measured}: {meaning[found.outcome]}.{_alternating(found)}"


def _alternating(found: Comparison) -> str:
    """That the comparison was a coarse one, where it was."""
    if found.sampling != "alternating processes" or not found.detectable:
        return ""
    return (
        f" A and B did not fit into memory together, so they ran one at a time, which sees slowdowns from about "
        f"{found.detectable:.0%} only."
    )


def _span(found: Comparison) -> str:
    """Both ends in words, as they are the verdict's reason."""
    low = time_taken(found.low) if found.low else "any time"
    high = time_taken(found.high) if found.high else "any time"
    return f"very likely between {low} and {high}"


def advice(found: Comparison) -> str:
    """What to do; "" where there is nothing to do."""
    if found.status == "failed":
        return "make B work and compute what A computes; before that its speed means nothing"
    if found.status != "ok":
        return "leave the case out, or compare where it can be run"
    if found.outcome == "REGRESSION":
        return "look for what made B slower; if that much is acceptable, say so with --margin"
    if found.outcome != "INCONCLUSIVE":
        return ""
    if found.reason.startswith("unfit"):
        return "see what bench doctor says of this machine, and compare again when it is calmer"
    if not found.needed:
        return "more pairs would not settle it; the reason says what else may"
    if found.needed > MANY_PAIRS:
        return (
            f"about {found.needed} pairs would be needed with so much noise; compare again when the machine is calmer"
        )
    return f"allow more: --pairs {found.needed} --budget {_budget_s(found)}s"


def _budget_s(found: Comparison) -> int:
    """A fifth more than that many pairs took so far, in tens of seconds."""
    return max(10, math.ceil(found.needed * found.pair_s * 1.2 / 10) * 10)


def _details(found: Comparison) -> Iterable[str]:
    if found.repeated:
        yield "The slowdown was measured twice, the second time with fresh pairs of processes."
    if found.pairs:
        yield _pairs(found)
    if found.cpu_ratio is not None:
        yield f"By CPU time instead of the clock on the wall, B takes {time_taken(found.cpu_ratio)}."
    for drop in found.drops:
        yield f"A pair was dropped and measured anew: {drop}."
    for each in found.validity:
        yield f"Note ({each.reason}): {each.evidence}."


def count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _pairs(found: Comparison) -> str:
    smallest = f"; a slowdown of {found.detectable:.1%} would have shown nine times in ten" if found.detectable else ""
    medians = [found.paired_median_a_ms or 0.0, found.paired_median_b_ms or 0.0]
    how = "timed in turn on the same CPUs" if found.sampling == "live pairs" else "timed one after the other"
    idle = [share for name, share in found.evidence.items() if name.startswith("idle_cpu_share")]
    silent = f" While one was timed, the other took {max(idle):.1%} of a CPU at most." if idle else ""
    return (
        f"{count(found.pairs, 'pair')} of processes {how}{smallest}. "
        f"Medians while paired: A {medians[0]:.3f} ms, B {medians[1]:.3f} ms.{silent}"
    )
