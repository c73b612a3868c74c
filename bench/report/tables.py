"""Rows → tables of rounded cells. pandas lays out the wide ones and is imported there; the long ones do without."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.catalog import ModelCard, Published
from bench.errors import UsageError
from bench.report import Table
from bench.report.rows import INTERVALS, OWN, PUBLISHED_WEIGHTS, Row, backend_rank, is_runtime

if TYPE_CHECKING:
    import pandas

NONE = "–"
MEANINGS = {
    "compute": "one synchronous inference, inputs and outputs where the runtime wants them",
    "end_to_end": "copy the inputs in, one synchronous inference, copy the outputs out",
    "device": "from the device's event before the inference to that after it",
}
# Published figures further than this from our count are pointed out; rounding alone explains less.
DISAGREEMENT = 0.03
FLOPS_OF_A_MAC = {"MACs": 1, "2xMACs": 2}


def default(rows: Sequence[Row], cards: Mapping[str, ModelCard]) -> list[Table]:
    return [*metrics(rows, cards), *by_batch(rows), *by_backend(rows), *details(rows)]


# Rounding


def decimals(value: float) -> int:
    """How many decimals show at least three significant digits; none from 100 on."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0


def figure(value: float | None, like: float | None = None) -> str:
    """0.512, 5.91, 42.3, 1234; as many decimals as `like` gets, if given."""
    return NONE if value is None else f"{value:.{decimals(value if like is None else like)}f}"


def printed(value: float | None) -> str:
    """A published figure with the digits that were published."""
    return NONE if value is None else f"{value:.10g}"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.4g}%"


def error(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}"


def with_interval(row: Row) -> str:
    """`5.91 [5.88, 6.02]`; the interval alone is missing where there is one process."""
    ends = (row.ci_low_ms, row.ci_high_ms)
    shown = f" [{', '.join(figure(end, row.latency_ms) for end in ends)}]" if None not in ends else ""
    return figure(row.latency_ms) + shown


# Cells and notes


class Footnotes:
    """Numbers notes in the order in which a table first needs them; the same words get the same number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, cell: str, note: str) -> str:
        return f"{cell} [{self._numbers.setdefault(note, len(self._numbers) + 1)}]"

    def lines(self) -> list[str]:
        return [f"[{number}] {note}" for note, number in self._numbers.items()]


def latency_cell(row: Row | None, notes: Footnotes, shown: Callable[[Row], str] | None = None) -> str:
    """A latency in ms; or, with a footnote, why there is none or why to distrust it."""
    if row is None:
        return NONE
    if row.status != "ok":
        return notes.mark(row.status, row.reason or "no reason is on record")
    cell = shown(row) if shown else figure(row.latency_ms)
    return notes.mark(cell, f"{', '.join(row.validity)} repetitions") if row.validity else cell


def legend(lines: Iterable[Sequence[str]], meaning: str) -> list[str]:
    """What the dash means, where there is one."""
    return [f"{NONE} {meaning}"] if any(NONE in line for line in lines) else []


def intervals_in(rows: Iterable[Row]) -> list[str]:
    found = {row.interval for row in rows}
    return [interval for interval in INTERVALS if interval in found]


def meanings(rows: Iterable[Row]) -> list[str]:
    """What the intervals of a table are, and which of its backends are no runtimes."""
    rows = list(rows)
    made_up = [name for name in backends_in(rows) if not is_runtime(name)]
    return [
        *(f"{interval}: {MEANINGS[interval]}" for interval in intervals_in(rows)),
        *(f"{name}: no runtime; its latencies are made up" for name in made_up),
    ]


def by_device(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that may stand in one table, of one device and precision, with that in words."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.device, row.precision), []).append(row)
    return [
        (f"{device}, {precision}, {' and '.join(intervals_in(group))}", group)
        for (device, precision), group in groups.items()
    ]


# Metrics


def metrics(rows: Sequence[Row], cards: Mapping[str, ModelCard]) -> list[Table]:
    """A row a model: what was counted, and what was published, in columns of their own."""
    notes = Footnotes()
    models = {model: list(group) for model, group in groupby(sorted(rows, key=_place(rows)), key=lambda row: row.model)}
    lines = [_metrics_line(group, _published(cards.get(model)), notes) for model, group in models.items()]
    explained = [
        "top-1, top-5: as published, as fractions",
        "GMACs, GFLOPs (2 x GMACs), params: counted, convolutions and matrix products, trained parameters",
        "file: what the backends read; a range where it differs between them",
        *_weights_notes(rows),
        *legend(lines, "unknown"),
    ]
    return [Table("Metrics", METRICS, tuple(lines), "l" + "r" * 9 + "l", (*notes.lines(), *explained))]


METRICS = (
    "model",
    "top-1",
    "top-5",
    "GMACs",
    "GFLOPs",
    "params, M",
    "published GFLOPs",
    "published params, M",
    "file, MB",
    "published file, MB",
    "published in",
)


def _place(rows: Iterable[Row]) -> Callable[[Row], int]:
    """Sorts by model, in the order of the rows: those of another device start over."""
    places = {model: place for place, model in enumerate(dict.fromkeys(row.model for row in rows))}
    return lambda row: places[row.model]


def _published(card: ModelCard | None) -> Published:
    return card.published if card else Published()


def _metrics_line(group: list[Row], published: Published, notes: Footnotes) -> tuple[str, ...]:
    gmacs, params_m = _known(group, "gmacs"), _known(group, "params_m")
    flops_of_a_mac = FLOPS_OF_A_MAC.get(published.flops_convention)
    counted = gmacs * flops_of_a_mac if gmacs is not None and flops_of_a_mac else None
    flops = printed(published.flops_g)
    if published.flops_g is not None:
        flops += f" ({published.flops_convention or 'unclear'})"
    return (
        group[0].model,
        printed(_known(group, "top1")),
        printed(_known(group, "top5")),
        figure(gmacs),
        figure(None if gmacs is None else 2 * gmacs),
        figure(params_m),
        _disputed(flops, published.flops_g, counted, notes),
        _disputed(printed(published.params_m), published.params_m, params_m, notes),
        _range([each.storage_mb for each in group if each.storage_mb is not None]),
        printed(published.storage_mb),
        published.source or NONE,
    )


def _known(group: Iterable[Row], field: str) -> float | None:
    """The first row's that has it: not every backend's files carry every fact."""
    return next((value for row in group if (value := getattr(row, field)) is not None), None)


def _disputed(cell: str, published: float | None, counted: float | None, notes: Footnotes) -> str:
    if published is None or not counted or abs(published / counted - 1) <= DISAGREEMENT:
        return cell
    return notes.mark(cell, f"more than {DISAGREEMENT:.0%} from our count, in the convention named")


def _range(values: list[float]) -> str:
    ends = [figure(value) for value in (min(values), max(values))] if values else [NONE]
    return "–".join(dict.fromkeys(ends))


def _weights_notes(rows: Iterable[Row]) -> list[str]:
    used = {row.weights for row in rows}
    others = ", ".join(sorted(Path(weights).name for weights in used - {*PUBLISHED_WEIGHTS, OWN}))
    random = "latency is measured with random weights: accuracy is the published one of the same network"
    return [*[random] * ("random" in used), *[f"weights of {others} have no published accuracy"] * bool(others)]


# Wide tables


def pivot(rows: Sequence[Row], down: Sequence[str], across: Sequence[str]) -> "pandas.DataFrame":
    """Rows spread over a grid: an index of the fields `down`, columns of the fields `across`, NaN where there is none.

    Raises UsageError without pandas.
    """
    try:
        import pandas
    except ImportError as absent:
        raise UsageError(
            "pandas is not installed, which lays out the wide tables",
            "",
            "install it with: pip install pandas, or take --format text, csv or json",
        ) from absent
    orders: dict[str, Sequence[str]] = {
        "model": list(dict.fromkeys(row.model for row in rows)),
        "backend": backends_in(rows),
        "interval": INTERVALS,
    }
    fields = (*down, *across)
    frame = pandas.DataFrame([{**{name: getattr(row, name) for name in fields}, "row": row} for row in rows])
    for name in set(fields) & set(orders):
        frame[name] = pandas.Categorical(frame[name], categories=orders[name], ordered=True)
    return frame.pivot(index=list(down), columns=list(across), values="row")


def backends_in(rows: Iterable[Row]) -> list[str]:
    return sorted({row.backend for row in rows}, key=backend_rank)


def grid(frame: "pandas.DataFrame") -> list[tuple[tuple[Any, ...], list[Row | None]]]:
    """The lines of a pivot: the values of its index, and a row or None for each column."""
    cells = frame.to_numpy(dtype=object)
    return [
        (key, [cell if isinstance(cell, Row) else None for cell in line])
        for key, line in zip(frame.index, cells, strict=True)
    ]


def by_batch(rows: Sequence[Row]) -> list[Table]:
    """A row a model, backend and interval; a column a batch size and number of threads."""
    return [_by_batch(words, group) for words, group in by_device(rows)]


def _by_batch(words: str, rows: list[Row]) -> Table:
    notes = Footnotes()
    wide = pivot(rows, ("model", "backend", "interval"), ("batch_size", "threads"))
    lines = [(*key, *(latency_cell(row, notes) for row in line)) for key, line in grid(wide)]
    return Table(
        f"Latency by batch size and threads: {words}",
        ("model", "backend", "interval", *(f"bs{batch_size} t{threads}, ms" for batch_size, threads in wide.columns)),
        tuple(lines),
        "lll" + "r" * len(wide.columns),
        (*notes.lines(), *legend(lines, "not measured"), *meanings(rows)),
    )


def by_backend(rows: Sequence[Row]) -> list[Table]:
    """Backends side by side, each with its ratio to the fastest; no table where there is but one."""
    real = [row for row in rows if is_runtime(row.backend)]
    return [_by_backend(words, group) for words, group in by_device(real) if len(backends_in(group)) > 1]


def _by_backend(words: str, rows: list[Row]) -> Table:
    notes = Footnotes()
    wide = pivot(rows, ("model", "batch_size", "threads", "interval"), ("backend",))
    names = list(wide.columns)
    lines, bold = [], set()
    for index, (key, line) in enumerate(grid(wide)):
        fastest = _fastest(line)
        model, batch_size, threads, interval = key
        lines.append((model, str(batch_size), str(threads), interval, *_compared(line, fastest, notes)))
        if fastest:
            bold.add((index, 4 + 2 * names.index(fastest.backend)))
    return Table(
        f"Backends side by side: {words}",
        ("model", "batch", "threads", "interval", *(word for name in names for word in (f"{name}, ms", "ratio"))),
        tuple(lines),
        "lrrl" + "rr" * len(names),
        (*notes.lines(), *legend(lines, "no number"), "ratio: to the fastest backend of the line", *meanings(rows)),
        frozenset(bold),
    )


def _fastest(line: list[Row | None]) -> Row | None:
    """None where there are no two to choose from."""
    known = [row for row in line if row and row.latency_ms]
    return min(known, key=lambda row: row.latency_ms or 0) if len(known) > 1 else None


def _compared(line: list[Row | None], fastest: Row | None, notes: Footnotes) -> Iterable[str]:
    """Two cells a backend. Separate processes at other times are no proof of a small difference, and a note says so."""
    for row in line:
        yield latency_cell(row, notes)
        if row is None or fastest is None or row.latency_ms is None or fastest.latency_ms is None:
            yield NONE
        elif row is not fastest and (row.ci_low_ms or 0) <= (fastest.ci_high_ms or math.inf):
            ratio = figure(row.latency_ms / fastest.latency_ms)
            yield notes.mark(
                ratio, "no clear winner: intervals overlap or are unknown; tell them apart with: bench compare"
            )
        else:
            yield figure(row.latency_ms / fastest.latency_ms)


# Long tables


def latency(rows: Sequence[Row]) -> list[Table]:
    """A row a case and interval, with what one wants to see first."""
    return [_latency(words, group) for words, group in by_device(rows)]


def _latency(words: str, rows: list[Row]) -> Table:
    notes = Footnotes()
    lines = [
        (
            row.model,
            row.backend,
            str(row.batch_size),
            str(row.threads),
            row.interval,
            latency_cell(row, notes, with_interval),
            figure(row.p90_ms),
            figure(row.p99_ms),
            figure(row.throughput),
            str(row.repetitions or NONE),
        )
        for row in rows
    ]
    return Table(f"Latency: {words}", LATENCY, tuple(lines), "llrrlrrrrr", (*notes.lines(), *_long_notes(rows, lines)))


LATENCY = (
    "model",
    "backend",
    "batch",
    "threads",
    "interval",
    "median, ms",
    "p90, ms",
    "p99, ms",
    "images/s",
    "processes",
)


def _long_notes(rows: list[Row], lines: Iterable[Sequence[str]]) -> list[str]:
    levels = {row.repetitions: percent(row.ci_level) for row in rows if row.ci_level is not None}
    covers = ", ".join(f"{level} from {processes} processes" for processes, level in sorted(levels.items()))
    return [
        *([f"median: of the processes' medians; [low, high] covers it with {covers}"] if covers else []),
        *legend(lines, "no number, or too few independent samples for that percentile"),
        *meanings(rows),
    ]


def details(rows: Sequence[Row]) -> list[Table]:
    """All that was measured, a row a case and interval."""
    return [_details(words, group) for words, group in by_device(rows)]


def _details(words: str, rows: list[Row]) -> Table:
    notes = Footnotes()
    lines = [tuple(cell(row, notes) for cell in DETAILS.values()) for row in rows]
    ran = dict.fromkeys(_options(row) for row in rows if row.options)
    return Table(
        f"Details: {words}",
        tuple(DETAILS),
        tuple(lines),
        "llrrl" + "r" * (len(DETAILS) - 8) + "lll",
        (*notes.lines(), *_long_notes(rows, lines), *PROCESS_NOTES, *ran),
    )


def _options(row: Row) -> str:
    return f"{row.backend} ran with {', '.join(f'{name}={value}' for name, value in row.options.items())}"


def _number_or_status(row: Row, notes: Footnotes) -> str:
    """As in the other tables, but validity has a column of its own here."""
    return with_interval(row) if row.status == "ok" else latency_cell(row, notes)


DETAILS: dict[str, Callable[[Row, Footnotes], str]] = {
    "model": lambda row, _: row.model,
    "backend": lambda row, _: row.backend,
    "batch": lambda row, _: str(row.batch_size),
    "threads": lambda row, _: str(row.threads),
    "interval": lambda row, _: row.interval,
    "median, ms": _number_or_status,
    "level": lambda row, _: percent(row.ci_level),
    "p90, ms": lambda row, _: figure(row.p90_ms),
    "p99, ms": lambda row, _: figure(row.p99_ms),
    "min, ms": lambda row, _: figure(row.min_ms),
    "mean, ms": lambda row, _: figure(row.mean_ms),
    "images/s": lambda row, _: figure(row.throughput),
    "first, ms": lambda row, _: figure(row.first_ms),
    "load, ms": lambda row, _: figure(row.load_ms),
    "build, ms": lambda row, _: figure(row.build_ms),
    "export, ms": lambda row, _: figure(row.export_ms),
    "memory, MB": lambda row, _: figure(row.peak_memory_mb),
    "parity error": lambda row, _: error(row.parity_max_error),
    "samples": lambda row, _: f"{row.samples} in {row.repetitions}" if row.samples else NONE,
    "stopped by": lambda row, _: row.stopped or NONE,
    "validity": lambda row, _: ", ".join(row.validity) or ("sound" if row.status == "ok" else NONE),
    "run": lambda row, _: row.run_id,
}
PROCESS_NOTES = (
    "first, load: medians of the processes; memory: the largest process",
    "build, export: when the artifact was made; later runs took it from the cache",
    "parity error: largest difference from the reference's output, as a share of its range",
    "samples: of the whole batch, in so many processes; stopped by: what ended the repetitions",
)
