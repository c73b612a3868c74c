"""Rows → tables of rounded cells. pandas lays out the wide ones and is imported there; the long ones do without."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import pareto, published
from bench.catalog import ModelCard, Published
from bench.errors import UsageError
from bench.report import Table
from bench.report.rows import (
    INTERVALS,
    ONE_MACHINE,
    OWN,
    PUBLISHED_WEIGHTS,
    Machines,
    Row,
    backend_rank,
    counted,
    is_runtime,
    place,
)

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


def default(
    rows: Sequence[Row], cards: Mapping[str, ModelCard], provenance: bool = False, machines: Machines = ONE_MACHINE
) -> list[Table]:
    """What to decide from comes first: of each device the models on the Pareto front, then all it ran."""
    from bench.report import correlation

    devices = [list(group) for _, group in groupby(sorted(rows, key=_device), key=_device)]
    chosen = [table for group in devices for table in (*fronts(group, machines), *everything(group, machines))]
    return [
        *chosen,
        *by_batch(rows, provenance, machines),
        *by_backend(rows, machines),
        *metrics(rows, cards),
        *correlation.tables(rows, machines),
    ]


def _device(row: Row) -> str:
    return row.device


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
    return rounded_latency(row) + shown


def rounded_latency(row: Row) -> str:
    return printed(row.latency_ms) if row.source == "published" else figure(row.latency_ms)


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
    cell = (shown or rounded_latency)(row)
    return notes.mark(cell, doubts(row)) if row.validity else cell


def doubts(row: Row) -> str:
    """Why to distrust a number: what was seen in how many repetitions, or what is wrong with the document."""
    if row.source == "published":
        return "; ".join(QUALITY.get(tag, tag) for tag in row.validity)
    return f"{', '.join(row.validity)} repetitions"


#: the tags of published figures in words (models/published/latency.csv, column `qc`)
QUALITY = {
    "differs_within_2pct": "another document gives a slightly different value",
    "disagrees_within_campaign": "another document gives a value more than 2 % away for the same measurement",
    "transcription_error": "almost surely a typing or copying error of the document",
    "same_values_as_other_model": "all batch sizes have the values of another architecture",
    "device_mislabelled": "its page names another device than the one the value comes from",
    "header_mismatch": "its table has more columns than headers",
    "batch_not_monotonic": "a larger batch is printed as faster than a smaller one",
    "threads_not_monotonic": "more threads are printed as slower than fewer",
    "scales_worse_than_batch": "a batch of n is printed as more than 1.3 n times as slow as one image",
    "thread_scaling_superlinear": "two threads are printed as more than 2.3 times as fast as one",
    "fp16_slower_than_fp32": "fp16 is printed as slower than fp32",
    "threads_inferred": "the number of threads is inferred, not printed",
    "precision_assumed": "the precision is assumed, not printed",
}


#: tags of figures that are not of this model, and beat nobody
WRONG = frozenset({"transcription_error", "same_values_as_other_model"})


def competes(row: Row) -> bool:
    """Whether a row has what a front compares, and it isn't known to be wrong."""
    return bool(row.latency_ms) and row.top1 is not None and is_runtime(row.backend) and not is_wrong(row)


def is_wrong(row: Row) -> bool:
    """Whether it is a published figure that is known to be of something else."""
    return row.source == "published" and not WRONG.isdisjoint(row.validity)


def origin(row: Row) -> str:
    """The run that measured it, or the document and line that it stands in."""
    return row.document or row.run_id


def threads(count: int) -> str:
    return str(count) if count else NONE


def several_sources(rows: Iterable[Row]) -> bool:
    return len({row.source for row in rows}) > 1


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
    means = {row.backend: row.loops for row in sorted(rows, key=lambda row: row.loops) if row.loops > 1}
    return [
        *(f"{interval}: {MEANINGS[interval]}" for interval in intervals_in(rows)),
        *(f"{name}: no runtime; its latencies are made up" for name in made_up),
        *(
            f"{name}: samples are means of up to {loops} inferences each, timed by its tool"
            for name, loops in means.items()
        ),
    ]


def by_device(rows: Iterable[Row], machines: Machines = ONE_MACHINE) -> list[tuple[str, list[Row]]]:
    """Rows that may stand in one table, of one device, machine and precision, with that in words."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((place(row, machines), row.precision), []).append(row)
    return [
        (f"{where}, {precision}, {' and '.join(intervals_in(group))}{sourced(group)}", group)
        for (where, precision), group in groups.items()
    ]


def sourced(rows: Iterable[Row]) -> str:
    """A word of a title where not all is measured."""
    found = sorted({row.source for row in rows})
    return "" if found == ["measured"] else f", {' and '.join(found)}"


# Long tables: columns


class Column(NamedTuple):
    """A column of a table with a row a case and interval."""

    title: str
    cell: Callable[[Row, Footnotes], str]
    align: str = "r"


MODEL = Column("model", lambda row, _: row.model, "l")
SOURCE = Column("source", lambda row, _: row.source, "l")
CAMPAIGN = Column("campaign", lambda row, _: row.campaign or NONE, "l")
BACKEND = Column("backend", lambda row, _: row.backend, "l")
INTERVAL = Column("interval", lambda row, _: row.interval, "l")
MEDIAN = Column("median, ms", lambda row, notes: latency_cell(row, notes, with_interval))
SHAPE = (
    Column("batch", lambda row, _: str(row.batch_size)),
    Column("threads", lambda row, _: threads(row.threads)),
)
TOP1 = Column("top-1", lambda row, _: printed(row.top1))
P90 = Column("p90, ms", lambda row, _: figure(row.p90_ms))
P99 = Column("p99, ms", lambda row, _: figure(row.p99_ms))
THROUGHPUT = Column("images/s", lambda row, _: figure(row.throughput))
STAGES = (
    Column("first, ms", lambda row, _: figure(row.first_ms)),
    Column("load, ms", lambda row, _: figure(row.load_ms)),
    Column("build, ms", lambda row, _: figure(row.build_ms)),
    Column("export, ms", lambda row, _: figure(row.export_ms)),
)
PARAMS = Column("params, M", lambda row, _: figure(row.params_m))
FILE = Column("file, MB", lambda row, _: figure(row.storage_mb))
PARITY = Column("parity error", lambda row, _: error(row.parity_max_error))
ORIGIN = Column("from", lambda row, _: origin(row), "l")

LATENCY = (
    MODEL,
    SOURCE,
    BACKEND,
    *SHAPE,
    INTERVAL,
    MEDIAN,
    P90,
    P99,
    THROUGHPUT,
    Column("processes", lambda row, _: str(row.repetitions or NONE)),
)
DECISION = (MODEL, BACKEND, TOP1, MEDIAN, P90, THROUGHPUT, *STAGES, PARAMS, FILE, PARITY, CAMPAIGN, ORIGIN)
EVERYTHING = (
    MODEL,
    SOURCE,
    BACKEND,
    *SHAPE,
    INTERVAL,
    TOP1,
    MEDIAN,
    Column("level", lambda row, _: percent(row.ci_level)),
    P90,
    P99,
    Column("min, ms", lambda row, _: figure(row.min_ms)),
    Column("mean, ms", lambda row, _: figure(row.mean_ms)),
    THROUGHPUT,
    *STAGES,
    Column("memory, MB", lambda row, _: figure(row.peak_memory_mb)),
    FILE,
    PARITY,
    Column("samples", lambda row, _: f"{row.samples} in {row.repetitions}" if row.samples else NONE),
    Column("stopped by", lambda row, _: row.stopped or NONE, "l"),
    CAMPAIGN,
    ORIGIN,
)
#: shown only where rows differ in them
DISTINGUISHING = (SOURCE, CAMPAIGN)
#: what the zoos printed is a mean in most places, and a median in none
PRINTED = MEDIAN._replace(title="latency, ms")
#: what columns of these titles hold, said below a table that has one
EXPLAINED = {
    "latency, ms": "latency: measured, the median; published, as printed, which is mostly a mean",
    "top-1": "top-1: as published of the network, as a fraction; not measured here",
    "first, ms": "first, load: medians of the processes",
    "build, ms": "build: when the engine was made; later runs took it from the cache",
    "export, ms": "export: when the model was converted; later runs took it from the cache",
    "memory, MB": "memory: the largest process",
    "parity error": "parity error: largest difference from the reference's output, as a share of its range",
    "samples": "samples: of the whole batch, in so many processes",
    "stopped by": "stopped by: what ended the repetitions",
    "campaign": "campaign: when it was measured and with what; it is not the same of all",
    "from": "from: the run that measured it, or the document and line that it stands in",
}


def laid_out(
    title: str, columns: Iterable[Column], rows: Sequence[Row], notes: Iterable[str] = (), explained: bool = True
) -> Table:
    """A line a row. Columns in which nothing is known of any row are left out, and a note names them.

    What the others hold is `explained`, unless another table of the page does that.
    """
    marks = Footnotes()
    quotes = any(row.source == "published" for row in rows)
    wanted = [
        PRINTED if column is MEDIAN and quotes else column
        for column in columns
        if column not in DISTINGUISHING or len({column.cell(row, marks) for row in rows}) > 1
    ]
    cells = {column: [column.cell(row, marks) for row in rows] for column in wanted}
    empty = [column for column in wanted if all(cell == NONE for cell in cells[column])]
    shown = [column for column in wanted if column not in empty]
    titles = [column.title for column in shown]
    lines = list(zip(*(cells[column] for column in shown), strict=True))
    return Table(
        title,
        tuple(titles),
        tuple(lines),
        "".join(column.align for column in shown),
        (
            *marks.lines(),
            *notes,
            *_coverage(rows),
            *legend(lines, "no number, or too few independent samples for that percentile"),
            *(EXPLAINED[name] for name in titles if name in EXPLAINED and explained),
            *(
                [f"known of none of these: {', '.join(column.title.split(',')[0] for column in empty)}"]
                if empty
                else []
            ),
            *meanings(rows),
        ),
    )


def _coverage(rows: Iterable[Row]) -> list[str]:
    """How sure the intervals are."""
    known = [row for row in rows if row.ci_level is not None]
    levels = {(row.builds or row.repetitions, bool(row.builds)): percent(row.ci_level) for row in known}
    covers = [
        f"{level} from {count} {'builds of the engine' if of_builds else 'processes'}"
        for (count, of_builds), level in sorted(levels.items())
    ]
    whose = "processes', or builds'," if any(of_builds for _, of_builds in levels) else "processes'"
    return [f"median: of the {whose} medians; [low, high] covers it with {', '.join(covers)}"] if covers else []


# The front, and all


def fronts(rows: Sequence[Row], machines: Machines = ONE_MACHINE) -> list[Table]:
    """The models of which none is beaten: a table for each device, machine, precision, interval and source.

    Each is of the smallest batch size and, with it, the fewest threads that there are: of other points a latency may
    be lower for no merit of the model. Rows without accuracy, backends that measure nothing and figures that are known
    to be wrong are in none.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((place(row, machines), row.precision, row.interval, row.source), []).append(row)
    return [table for (where, *_), group in groups.items() for table in _front(where, group)]


def _front(where: str, group: list[Row]) -> list[Table]:
    able = [row for row in group if competes(row)]
    if not able:
        return []
    batch_size, count = point = min((row.batch_size, row.threads) for row in able)
    chosen = [row for row in able if (row.batch_size, row.threads) == point]
    best = sorted(on_front(chosen), key=lambda row: (row.latency_ms, row.model))
    shape = f"batch {batch_size}{f', {count} thread' + 's' * (count > 1) if count else ''}"
    first = group[0]
    models = len({row.model for row in chosen})
    notes = [
        f"of {models} model{'s' * (models > 1)}: none of the others is as accurate and surely faster, "
        "or as fast and more accurate; intervals that overlap decide nothing",
        f"the smallest batch size and fewest threads there are; others with: bench pick --device {first.device} "
        f"--source {first.source} --batch-size N --threads N",
        *_campaigns(best),
        *_outside(group, chosen),
        *_weights_notes(chosen),
    ]
    title = f"Pareto front: {where}, {first.precision}, {first.interval}, {shape}{sourced(group)}"
    return [laid_out(title, DECISION, best, notes, explained=False)]


def _campaigns(best: Iterable[Row]) -> list[str]:
    """That of several campaigns the software was not the same."""
    several = len({row.campaign for row in best}) > 1
    return ["of several campaigns: one was measured with newer software than another, see Environment"] * several


def on_front(rows: Sequence[Row]) -> list[Row]:
    """Those that none of the others dominates in accuracy and latency. All must have both."""
    stands = pareto.front([choice(row) for row in rows])
    return [row for row, stand in zip(rows, stands, strict=True) if stand]


def choice(row: Row) -> pareto.Choice:
    """One process, or a published figure, counts as if it were exact: nothing is known of its spread."""
    latency_ms = row.latency_ms or math.nan
    low = latency_ms if row.ci_low_ms is None else row.ci_low_ms
    high = latency_ms if row.ci_high_ms is None else row.ci_high_ms
    return pareto.Choice(low, high, row.top1 or 0.0)


def _outside(group: Iterable[Row], chosen: Iterable[Row]) -> list[str]:
    """Models that a reader may miss."""
    missing = dict.fromkeys(row.model for row in group) | {}
    for row in chosen:
        missing.pop(row.model, None)
    named = ", ".join(list(missing)[:MOST_NAMED]) + ", …" * (len(missing) > MOST_NAMED)
    return [f"not compared, for want of an accuracy or of a sound latency at this point: {named}"] * bool(missing)


MOST_NAMED = 8


def everything(rows: Sequence[Row], machines: Machines = ONE_MACHINE) -> list[Table]:
    """All that was measured or published, a row a case and interval."""
    return [
        laid_out(f"All: {words}", EVERYTHING, group, dict.fromkeys(_options(row) for row in group if row.options))
        for words, group in by_device(rows, machines)
    ]


def _options(row: Row) -> str:
    return f"{row.backend} ran with {', '.join(f'{name}={value}' for name, value in row.options.items())}"


def latency(rows: Sequence[Row], provenance: bool = False, machines: Machines = ONE_MACHINE) -> list[Table]:
    """What one wants to see first, a row a case and interval; it needs no pandas."""
    columns = (*LATENCY, *[ORIGIN] * provenance)
    return [laid_out(f"Latency: {words}", columns, group) for words, group in by_device(rows, machines)]


# Metrics


def metrics(rows: Sequence[Row], cards: Mapping[str, ModelCard]) -> list[Table]:
    """A row a model: what was counted, and what was published, in columns of their own."""
    notes = Footnotes()
    models = {model: list(group) for model, group in groupby(sorted(rows, key=_place(rows)), key=lambda row: row.model)}
    lines = [
        _metrics_line(group, _counted(group, cards), _published(model, cards), notes) for model, group in models.items()
    ]
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


def _published(model: str, cards: Mapping[str, ModelCard]) -> Published:
    """From its card; what has none, but stands in the zoo's documents, from those."""
    if model in cards:
        return cards[model].published
    quoted = published.models().get(model)
    return Published(**{name: getattr(quoted, name) for name in Published.__struct_fields__}) if quoted else Published()


def _counted(group: list[Row], cards: Mapping[str, ModelCard]) -> list[float | None]:
    """GMACs and million parameters of a model: as its conversions counted them, or as its network was counted."""
    converted = [_known(_measured(group), field) for field in ("gmacs", "params_m")]
    known = counted(group[0].model, cards)
    return [other if own is None else own for own, other in zip(converted, known, strict=True)]


def _measured(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.source == "measured"]


def _metrics_line(
    group: list[Row], counts: Sequence[float | None], printed_: Published, notes: Footnotes
) -> tuple[str, ...]:
    gmacs, params_m = counts
    flops_of_a_mac = FLOPS_OF_A_MAC.get(printed_.flops_convention)
    expected = gmacs * flops_of_a_mac if gmacs is not None and flops_of_a_mac else None
    flops = printed(printed_.flops_g)
    if printed_.flops_g is not None:
        flops += f" ({printed_.flops_convention or 'unclear'})"
    return (
        group[0].model,
        printed(_known(group, "top1")),
        printed(_known(group, "top5")),
        figure(gmacs),
        figure(None if gmacs is None else 2 * gmacs),
        figure(params_m),
        _disputed(flops, printed_.flops_g, expected, notes),
        _disputed(printed(printed_.params_m), printed_.params_m, params_m, notes),
        _range([each.storage_mb for each in _measured(group) if each.storage_mb is not None]),
        printed(printed_.storage_mb),
        printed_.source or NONE,
    )


def _known(group: Iterable[Row], field: str) -> float | None:
    """The first row's that has it: not every backend's files carry every fact."""
    return next((value for row in group if (value := getattr(row, field)) is not None), None)


def _disputed(cell: str, published: float | None, expected: float | None, notes: Footnotes) -> str:
    if published is None or not expected or abs(published / expected - 1) <= DISAGREEMENT:
        return cell
    return notes.mark(cell, f"more than {DISAGREEMENT:.0%} from our count, in the convention named")


def _range(values: list[float]) -> str:
    ends = [figure(value) for value in (min(values), max(values))] if values else [NONE]
    return "–".join(dict.fromkeys(ends))


def _weights_notes(rows: Iterable[Row]) -> list[str]:
    used = {row.weights for row in _measured(rows)}
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


def by_batch(rows: Sequence[Row], provenance: bool = False, machines: Machines = ONE_MACHINE) -> list[Table]:
    """A row a model, source, backend and interval; a column a batch size and number of threads.

    With `provenance` a footnote says of each figure where it is from.
    """
    return [_by_batch(words, group, provenance) for words, group in by_device(rows, machines)]


def _by_batch(words: str, rows: list[Row], provenance: bool) -> Table:
    notes = Footnotes()
    down = ("model", *SOURCES[several_sources(rows)], "backend", "interval")
    wide = pivot(rows, down, ("batch_size", "threads"))
    lines = [(*key, *(_traced(row, notes, provenance) for row in line)) for key, line in grid(wide)]
    return Table(
        f"Latency by batch size and threads: {words}",
        (*down, *(_point(batch_size, count) for batch_size, count in wide.columns)),
        tuple(lines),
        "l" * len(down) + "r" * len(wide.columns),
        (*notes.lines(), *legend(lines, "not measured"), *meanings(rows)),
    )


#: the index of a wide table has the source where there are several: figures of two are never in one line
SOURCES: dict[bool, tuple[str, ...]] = {False: (), True: ("source",)}


def _point(batch_size: int, count: int) -> str:
    return f"bs{batch_size}{f' t{count}' if count else ''}, ms"


def _traced(row: Row | None, notes: Footnotes, provenance: bool) -> str:
    cell = latency_cell(row, notes)
    return notes.mark(cell, f"from {origin(row)}") if row and provenance else cell


def by_backend(rows: Sequence[Row], machines: Machines = ONE_MACHINE) -> list[Table]:
    """Backends side by side, each with its ratio to the fastest; no table where no source has more than one."""
    real = [row for row in rows if is_runtime(row.backend)]
    return [_by_backend(words, group) for words, group in by_device(real, machines) if _rivals(group)]


def _rivals(rows: Sequence[Row]) -> bool:
    pairs = {(row.source, row.backend) for row in rows}
    return len(pairs) > len({source for source, _ in pairs})


def _by_backend(words: str, rows: list[Row]) -> Table:
    notes = Footnotes()
    several = SOURCES[several_sources(rows)]
    wide = pivot(rows, ("model", *several, "batch_size", "threads", "interval"), ("backend",))
    names = list(wide.columns)
    left = 4 + len(several)
    lines, bold = [], set()
    for index, (key, line) in enumerate(grid(wide)):
        fastest = _fastest(line)
        *named, batch_size, count, interval = key
        lines.append((*named, str(batch_size), threads(count), interval, *_compared(line, fastest, notes)))
        if fastest:
            bold.add((index, left + 2 * names.index(fastest.backend)))
    heads = ("model", *several, "batch", "threads", "interval")
    return Table(
        f"Backends side by side: {words}",
        (*heads, *(word for name in names for word in (f"{name}, ms", "ratio"))),
        tuple(lines),
        "l" * (left - 3) + "rrl" + "rr" * len(names),
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
