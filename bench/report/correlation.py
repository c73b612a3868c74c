"""How far size tells speed: rank correlation of latency with MACs and parameters, and of our ranking with others'.

As the table of the MobileOne article has it (Vasu et al., "MobileOne: An Improved One millisecond Mobile Backbone",
CVPR 2023, table 1), for every device, machine, backend, precision, batch size and number of threads with enough
networks.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

from bench import stats
from bench.report import Table
from bench.report.rows import ONE_MACHINE, Machines, Row, is_runtime, place
from bench.report.tables import NONE, is_wrong

LEAST_NETWORKS = 5
METHOD = (
    "ρ: Spearman's rank correlation, p: two-sided, if there were none (exact up to "
    f"{stats.EXACT_PAIRS} networks, by Student's t above); variants of one network count once"
)

#: network → its latency
Latencies = Mapping[Hashable, Row]


def tables(rows: Sequence[Row], machines: Machines = ONE_MACHINE) -> list[Table]:
    """No table where no case has five networks."""
    groups = _groups(rows, machines)
    return [*_with_size(groups), *_with_published(groups)]


def _groups(rows: Iterable[Row], machines: Machines) -> dict[tuple[object, ...], dict[Hashable, Row]]:
    """By source and case but for the model: a row for each network, which twins of equal size share.

    Figures that are known to be wrong are in none.
    """
    groups: dict[tuple[object, ...], dict[Hashable, Row]] = {}
    for row in rows:
        if row.latency_ms is not None and row.gmacs is not None and is_runtime(row.backend) and not is_wrong(row):
            group = groups.setdefault((row.source, *_case(row, machines)), {})
            group.setdefault((row.gmacs, row.params_m), row)
    return {key: group for key, group in groups.items() if len(group) >= LEAST_NETWORKS}


def _case(row: Row, machines: Machines) -> tuple[object, ...]:
    return (place(row, machines), row.backend, row.precision, row.batch_size, row.threads, row.interval)


def _shown(case: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value or NONE) for value in case)


def _with_size(groups: Mapping[tuple[object, ...], Latencies]) -> list[Table]:
    lines = tuple((*_shown(case), str(len(group)), *_sizes(group.values())) for case, group in groups.items())
    title = "Rank correlation of latency with size"
    return [Table(title, SIZE, lines, "llllrrlrrrrr", (METHOD,))] if lines else []


def _sizes(rows: Iterable[Row]) -> tuple[str, ...]:
    rows = list(rows)
    return (*_coefficient(rows, "gmacs"), *_coefficient(rows, "params_m"))


CASE = ("device", "backend", "precision", "batch", "threads", "interval")
SIZE = ("source", *CASE, "networks", "ρ with MACs", "p", "ρ with parameters", "p")


def _coefficient(rows: Iterable[Row], field: str) -> tuple[str, str]:
    known = [(row.latency_ms or 0.0, getattr(row, field)) for row in rows if getattr(row, field) is not None]
    return _spearman(known)


def _spearman(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    if len(pairs) < LEAST_NETWORKS or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return NONE, NONE
    rho, p = stats.spearman(*zip(*pairs, strict=True))
    return f"{rho:.2f}", "<0.001" if p < 0.001 else f"{p:.3f}"


def _with_published(groups: Mapping[tuple[object, ...], Latencies]) -> list[Table]:
    lines = [line for case, group in groups.items() if case[0] == "measured" for line in _beside(case, group, groups)]
    title = "Rank correlation of our latencies with published ones"
    return [Table(title, RANKING, tuple(lines), "llllrrlrrr", (METHOD,))] if lines else []


RANKING = ("device", "backend", "published with", "precision", "batch", "threads", "interval", "networks", "ρ", "p")


def _beside(
    ours: tuple[object, ...], group: Latencies, groups: Mapping[tuple[object, ...], Latencies]
) -> Iterable[tuple[str, ...]]:
    """A line for each published case that is ours but for the backend; its threads may not be stated."""
    _, where, backend, precision, batch_size, threads, interval = ours
    for (source, *case), published in groups.items():
        alike = case[2:4] == [precision, batch_size] and case[4] in (threads, 0) and case[5] == interval
        if source != "published" or not alike or _device(published) != _device(group):
            continue
        common = [key for key in group if key in published]
        both = [(group[key].latency_ms or 0.0, published[key].latency_ms or 0.0) for key in common]
        if len(common) >= LEAST_NETWORKS:
            words = _shown((where, backend, case[1], precision, batch_size, threads, interval))
            yield (*words, str(len(common)), *_spearman(both))


def _device(group: Latencies) -> str:
    return next(row.device for row in group.values())
