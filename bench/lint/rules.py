"""The rules. Each reads printed figures alone and yields what it finds, with the values; its name and why stand above.

Published tags, notes and lists of conflicts are what the rules are measured against, and no rule sees them.
"""

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from bench.lint.cells import ACCURACIES, Cell, Severity, facts, is_gpu

#: two prints of one measurement differ by rounding and repetition; beyond this share they are two numbers
TOLERANCE = 0.02
#: accuracies are repeatable to their last digit but for other weights
ACCURACY_TOLERANCE = 0.002
#: bs=n may take a little more than n times bs=1, where caches overflow
BATCH_EXCESS = 1.3
#: per doubling of threads: two may be 2.3 times as fast as one, where their caches hold what one's doesn't
THREAD_EXCESS = 1.15
#: campaigns of one device are up to 3.1 times apart (V100, grouped convolutions), devices of other kinds more
OTHER_DEVICE = 3.5
#: of parameters against our count: statistics of batch norms, which are no parameters, explain less
PARAMS_OFF = 0.03
#: MACs against twice as many; attention and batch norms move either by a tenth
MACS_NEAR, TWICE_NEAR = (0.87, 1.15), (1.75, 2.3)
THOUSANDS = 300.0
USUAL_INPUT = 224
FASTEST_MS, SLOWEST_MS = 1e-6, 60_000.0
#: from low to high; a mean lies anywhere between the ends
ORDER = {"min": 0, "": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


@dataclass(frozen=True)
class Hit:
    """Cells that contradict something, the doubtful one first, and their values in words."""

    cells: tuple[Cell, ...]
    values: str
    severity: Severity | None = None
    why: str = ""


Find = Callable[[Sequence[Cell]], Iterable[Hit]]


@dataclass(frozen=True)
class Rule:
    name: str
    severity: Severity
    why: str
    find: Find


RULES: list[Rule] = []


def rule(name: str, severity: Severity, why: str) -> Callable[[Find], Find]:
    def add(find: Find) -> Find:
        RULES.append(Rule(name, severity, why, find))
        return find

    return add


# Within one record


@rule("order", "error", "min ≤ median ≤ p90 ≤ p99 ≤ max, and the mean between the ends")
def order(cells: Sequence[Cell]) -> Iterator[Hit]:
    for group in _groups(_latencies(cells), lambda cell: (*_case(cell), cell.batch_size, cell.threads)):
        ranked = sorted((cell for cell in group if cell.statistic in ORDER), key=lambda cell: ORDER[cell.statistic])
        pairs = [pair for pair in pairwise(ranked) if pair[0].statistic != pair[1].statistic]
        for mean in (cell for cell in group if cell.statistic == "mean"):
            pairs += [(cell, mean) for cell in group if cell.statistic == "min"]
            pairs += [(mean, cell) for cell in group if cell.statistic == "max"]
        for lower, upper in pairs:
            if lower.number > upper.number + max(lower.step, upper.step):
                yield Hit((upper, lower), f"{_named(lower)}, {_named(upper)}")


@rule("batch-faster", "warning", "a larger batch takes longer than a smaller one, or as long")
def batch_faster(cells: Sequence[Cell]) -> Iterator[Hit]:
    for group in _scaling(cells, "batch_size", "threads"):
        for smaller, larger in pairwise(group):
            if larger.most < smaller.least * (1 - TOLERANCE):
                yield Hit((larger, smaller), f"{_batch(smaller)}, {_batch(larger)}")


@rule("batch-excess", "warning", f"bs=n takes at most {BATCH_EXCESS} n times as long as bs=1")
def batch_excess(cells: Sequence[Cell]) -> Iterator[Hit]:
    for first, *others in _scaling(cells, "batch_size", "threads"):
        for larger in others:
            times = larger.least / first.most
            if times > BATCH_EXCESS * larger.batch_size / first.batch_size:
                yield Hit((larger, first), f"{_batch(first)}, {_batch(larger)}: {times:.1f} times")


@rule("threads-slower", "warning", "more threads are not slower")
def threads_slower(cells: Sequence[Cell]) -> Iterator[Hit]:
    for group in _scaling(cells, "threads", "batch_size"):
        for fewer, more in pairwise(group):
            if more.least > fewer.most * (1 + TOLERANCE):
                yield Hit((more, fewer), f"{_threads(fewer)}, {_threads(more)}")


@rule("threads-superlinear", "warning", f"n times the threads are at most {THREAD_EXCESS} n times as fast")
def threads_superlinear(cells: Sequence[Cell]) -> Iterator[Hit]:
    for group in _scaling(cells, "threads", "batch_size"):
        for fewer, more in pairwise(group):
            times = fewer.least / more.most
            if times > THREAD_EXCESS * more.threads / fewer.threads:
                yield Hit((fewer, more), f"{_threads(fewer)}, {_threads(more)}: {times:.1f} times")


@rule("fp16-slower", "info", "half precision does less work; true of networks too small to fill the device")
def fp16_slower(cells: Sequence[Cell]) -> Iterator[Hit]:
    known = [cell for cell in _latencies(cells) if cell.precision in ("fp16", "fp32")]
    for group in _groups(known, lambda cell: (*_case(cell, precision=False), cell.batch_size, cell.threads)):
        found = {(cell.precision, cell.statistic): cell for cell in group}
        half, full = found.get(("fp16", "")), found.get(("fp32", ""))
        if half and full and half.least > full.most * (1 + TOLERANCE):
            yield Hit((half, full), f"fp16 {_ms(half)}, fp32 {_ms(full)}")


@rule("impossible", "error", "an inference takes longer than a nanosecond and less than a minute")
def impossible(cells: Sequence[Cell]) -> Iterator[Hit]:
    for cell in cells:
        if cell.field == "latency" and cell.value is not None and not _plausible(cell):
            yield Hit((cell,), f"{cell.value:g} ms")


@rule("accuracy", "error", "an accuracy is a fraction or a percentage, all of a column the same")
def accuracy(cells: Sequence[Cell]) -> Iterator[Hit]:
    shown = [cell for cell in cells if cell.field in ACCURACIES and cell.value is not None and "%" not in cell.text]
    for column in _groups(shown, lambda cell: (cell.table, cell.column)):
        fractions = statistics.median(cell.printed for cell in column) <= 1
        for cell in column:
            if fractions != (cell.printed <= 1) or not 0 < cell.printed <= 100:
                yield Hit((cell,), f"{cell.text} in a column of {'fractions' if fractions else 'percentages'}")


# Against the network


@rule("flops-unit", "error", "a thousand times off our count of the network: G and M mistaken")
def flops_unit(cells: Sequence[Cell]) -> Iterator[Hit]:
    for cell, ratio in _flops(cells):
        if max(ratio, 1 / ratio) > THOUSANDS:
            yield Hit((cell,), f"{cell.text}, counted {cell.number / ratio:.4g} GMACs")


@rule("flops-count", "warning", "neither the MACs of the network nor twice them")
def flops_count(cells: Sequence[Cell]) -> Iterator[Hit]:
    for cell, ratio in _flops(cells):
        if not _macs(ratio) and not _twice(ratio) and max(ratio, 1 / ratio) <= THOUSANDS:
            values = f"{cell.text}, {ratio:.2f} times the {cell.number / ratio:.4g} GMACs counted"
            if _usual_input(cell.model, ratio):
                yield Hit((cell,), values, "info", f"counted for {USUAL_INPUT} pixels, evaluated with more")
            else:
                yield Hit((cell,), values)


def _usual_input(model: str, ratio: float) -> bool:
    """Whether a count fits the usual input, where the network is evaluated on another."""
    known = facts(model)
    share = (USUAL_INPUT / known.input_size) ** 2 if known and known.input_size else 1.0
    return share < 1 and (_macs(ratio / share) or _twice(ratio / share))


@rule("flops-mixed", "warning", "one column holds MACs of some networks and 2×MACs of others")
def flops_mixed(cells: Sequence[Cell]) -> Iterator[Hit]:
    for column in _groups(list(_flops(cells)), lambda known: (known[0].table, known[0].column)):
        kinds = {
            "MACs": [cell for cell, ratio in column if _macs(ratio)],
            "2×MACs": [cell for cell, ratio in column if _twice(ratio)],
        }
        fewer, more = sorted(kinds, key=lambda kind: len(kinds[kind]))
        for cell in kinds[fewer]:
            yield Hit((cell,), f"{cell.text} is {fewer}, {len(kinds[more])} others of the column are {more}")


@rule("flops-twice", "info", "the column counts a multiply-accumulate as two operations, others count it as one")
def flops_twice(cells: Sequence[Cell]) -> Iterator[Hit]:
    for column in _groups(list(_flops(cells)), lambda known: (known[0].table, known[0].column)):
        if not any(_macs(ratio) for _, ratio in column):
            twice = tuple(cell for cell, ratio in column if _twice(ratio))
            if twice:
                yield Hit(twice, f"2×MACs: {len(twice)} of {len(column)} figures")


@rule("params-count", "warning", f"more than {PARAMS_OFF:.0%} off our count of the network's trained parameters")
def params_count(cells: Sequence[Cell]) -> Iterator[Hit]:
    for cell in cells:
        known = facts(cell.model) if cell.field == "params_m" and cell.number > 0 else None
        if known and known.params_m:
            nearest = min(known.params_m, key=lambda count: abs(math.log(cell.number / count)))
            if abs(cell.number - nearest) > PARAMS_OFF * nearest + cell.step:
                yield Hit((cell,), f"{cell.text}, counted {nearest:.4g} M: {cell.number / nearest - 1:+.1%}")


# Against other lines


@rule("same-values", "warning", "two architectures don't take the same time at every batch size or number of threads")
def same_values(cells: Sequence[Cell]) -> Iterator[Hit]:
    lines: dict[Hashable, list[tuple[Cell, ...]]] = {}
    for group in _groups(_latencies(cells), _case):
        line = tuple(sorted(group, key=lambda cell: (cell.batch_size, cell.threads, cell.statistic)))
        values = tuple((cell.batch_size, cell.threads, cell.statistic, cell.value) for cell in line)
        if len({value for *_, value in values}) >= 3:
            one = line[0]
            lines.setdefault((one.table, one.device, one.backend, one.precision, values), []).append(line)
    for alike in lines.values():
        for first, second in combinations(alike, 2):
            if _architecture(first[0].model) != _architecture(second[0].model):
                shown = ", ".join(f"{cell.value:g}" for cell in first)
                yield Hit((*second, *first), f"{shown} ms of {first[0].model} too, at {first[0].place}")


@rule("other-device", "warning", "far from what other lines print for this device, or equal to another device's")
def other_device(cells: Sequence[Cell]) -> Iterator[Hit]:
    known = [cell for cell in _latencies(cells) if cell.device]
    apart: dict[tuple[str, str, str], list[tuple[Cell, float | None]]] = {}
    for group in _groups(known, lambda cell: (cell.model, cell.precision, cell.batch_size, cell.statistic)):
        for cell in group:
            level = _level(cell, group)
            twin = _twin(cell, group)
            if twin and level:
                yield Hit((cell, twin), f"{_ms(cell)}, as {twin.device} at {twin.place}; other lines {level:g} ms")
            else:
                apart.setdefault((cell.place, cell.model, cell.device), []).append((cell, level))
    yield from _far(apart)


def _far(lines: dict[tuple[str, str, str], list[tuple[Cell, float | None]]]) -> Iterator[Hit]:
    """Lines all of whose figures are far off in one direction: one figure alone is a slip of the pen."""
    for line in lines.values():
        ratios = [math.log(cell.number / level) for cell, level in line if level]
        if ratios and (min(ratios) > math.log(OTHER_DEVICE) or max(ratios) < -math.log(OTHER_DEVICE)):
            for cell, level in line:
                if level:
                    yield Hit((cell,), f"{_ms(cell)}, other lines {level:g} ms")


def _level(cell: Cell, group: Sequence[Cell]) -> float | None:
    """What at least two other lines print for the case on this device, in the median."""
    others = _beside(cell, group)
    return statistics.median(other.number for other in others) if len(others) > 1 else None


def _beside(cell: Cell, group: Sequence[Cell]) -> list[Cell]:
    return [
        other
        for other in group
        if other.device == cell.device
        and other.place != cell.place
        and (other.threads == cell.threads or 0 in (other.threads, cell.threads))
    ]


def _twin(cell: Cell, group: Sequence[Cell]) -> Cell | None:
    """The same number to three digits or more on another device, where no other line on this one agrees."""
    agree = any(abs(other.number / cell.number - 1) <= TOLERANCE for other in _beside(cell, group))
    alike = [other for other in group if other.device != cell.device and _same(cell, other)]
    return alike[0] if alike and not agree else None


def _same(one: Cell, other: Cell) -> bool:
    step = max(one.step, other.step)
    return abs(one.number - other.number) <= step and step > 0 and one.number / step >= 200


@rule("documents-disagree", "warning", "different numbers for one and the same")
def documents_disagree(cells: Sequence[Cell]) -> Iterator[Hit]:
    strangers = {hit.cells[0] for hit in other_device(cells)}
    for group in _groups((cell for cell in cells if cell not in strangers), _thing):
        values = _groups(group, lambda cell: cell.text if cell.value is None else cell.value)
        for one, other in combinations(values, 2):
            if hit := _disagreement(one, other):
                yield hit


def _disagreement(one: Sequence[Cell], other: Sequence[Cell]) -> Hit | None:
    first, second = one[0], other[0]
    cells = (*one, *other)
    values = f"{_shown(first)}, {_shown(second)} at {second.place}"
    if first.value is None or second.value is None:
        return Hit(cells, values)
    # Each number is as fine as its finest print; the coarser of the two may have been rounded.
    step = max(min(cell.step for cell in side) for side in (one, other))
    if abs(first.value - second.value) <= step * (1 + 1e-6):
        return None
    ratio = second.number / first.number if first.number else math.inf
    limit = ACCURACY_TOLERANCE if first.field in ACCURACIES else TOLERANCE
    within = abs(ratio - 1) <= limit
    shown = f"{values}: {ratio - 1:+.1%}"
    return Hit(cells, shown, "info", "the same but for rounding or another run") if within else Hit(cells, shown)


@rule("not-stated", "info", "without it the number can't be repeated")
def not_stated(cells: Sequence[Cell]) -> Iterator[Hit]:
    for table in _groups([cell for cell in cells if cell.field == "latency"], lambda cell: cell.table):
        for what, silent in SILENT.items():
            if without := tuple(cell for cell in table if silent(cell)):
                yield Hit(without, f"{what}: not stated for {len(without)} of {len(table)} latencies")


SILENT: dict[str, Callable[[Cell], bool]] = {
    "device": lambda cell: not cell.device,
    "precision": lambda cell: cell.precision in ("", "unstated"),
    "batch size": lambda cell: not cell.batch_size,
    "threads": lambda cell: not cell.threads and not is_gpu(cell.device),
}


# What belongs together


def _groups(items: Iterable[object], key: Callable[..., Hashable]) -> list[list]:  # type: ignore[type-arg]
    found: dict[Hashable, list[object]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def _latencies(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.field == "latency" and _plausible(cell)]


def _plausible(cell: Cell) -> bool:
    return FASTEST_MS <= cell.number <= SLOWEST_MS


def _case(cell: Cell, precision: bool = True) -> tuple[str, ...]:
    """What figures of one record share but for batch size and threads."""
    shared = (cell.document, cell.record, cell.model, cell.device, cell.backend, cell.campaign)
    return (*shared, cell.precision) if precision else shared


def _thing(cell: Cell) -> tuple[Hashable, ...]:
    """What a figure is of, wherever it stands."""
    case: tuple[Hashable, ...] = ()
    if cell.field == "latency":
        case = (cell.device, cell.backend, cell.precision, cell.batch_size, cell.threads, cell.campaign)
    elif cell.field == "storage_mb":
        case = (cell.backend,)
    return (cell.model, cell.field, cell.statistic, *case)


def _scaling(cells: Sequence[Cell], along: str, fixed: str) -> Iterator[list[Cell]]:
    """Latencies of one record that differ along a stated axis alone, in its order."""
    known = [cell for cell in _latencies(cells) if getattr(cell, along)]
    for group in _groups(known, lambda cell: (*_case(cell), cell.statistic, getattr(cell, fixed))):
        line = sorted({getattr(cell, along): cell for cell in group}.items())
        if len(line) > 1:
            yield [cell for _, cell in line]


def _flops(cells: Iterable[Cell]) -> Iterator[tuple[Cell, float]]:
    """FLOPs of networks that we counted, with their ratio to our MACs."""
    for cell in cells:
        known = facts(cell.model) if cell.field == "flops_g" and cell.number > 0 else None
        if known and known.gmacs:
            yield cell, cell.number / known.gmacs


def _macs(ratio: float) -> bool:
    return MACS_NEAR[0] <= ratio <= MACS_NEAR[1]


def _twice(ratio: float) -> bool:
    return TWICE_NEAR[0] <= ratio <= TWICE_NEAR[1]


def _architecture(model: str) -> str:
    known = facts(model)
    return known.architecture if known else model.removesuffix("_ssld")


# Words


def _ms(cell: Cell) -> str:
    return f"{cell.value:g} ms"


def _named(cell: Cell) -> str:
    return f"{cell.statistic or 'median'} {_ms(cell)}"


def _batch(cell: Cell) -> str:
    return f"bs={cell.batch_size} {_ms(cell)}"


def _threads(cell: Cell) -> str:
    return f"{cell.threads} thread{'s' * (cell.threads > 1)} {_ms(cell)}"


def _shown(cell: Cell) -> str:
    return _ms(cell) if cell.field == "latency" else cell.text
