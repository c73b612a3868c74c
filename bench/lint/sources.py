"""Where figures to be checked come from, besides foreign tables: our rows, and what the zoos published."""

from collections.abc import Iterable

from bench import published
from bench.lint.cells import Cell
from bench.published import Figure, Latency
from bench.report.rows import Row

NUMBERS = ("top1", "top5", "ref_top1", "ref_top5", "flops_g", "params_m", "storage_mb", "input_size")
WORDS = ("pretrained_url", "inference_url")
STATISTICS = {"latency_ms": "", "min_ms": "min", "p90_ms": "p90", "p99_ms": "p99", "mean_ms": "mean"}


def of_rows(rows: Iterable[Row]) -> list[Cell]:
    """The latencies of measured rows. Figures of a network need no check here: we counted them."""
    return [
        _measured(row, name, statistic)
        for row in rows
        if row.source == "measured" and row.status == "ok"
        for name, statistic in STATISTICS.items()
        if getattr(row, name) is not None
    ]


def _measured(row: Row, name: str, statistic: str) -> Cell:
    value = getattr(row, name)
    spread = statistic == ""
    return Cell(
        document=f"run {row.run_id}",
        line=0,
        table=row.run_id,
        record=row.run_id,
        model=row.model,
        column=f"{row.backend} {row.device} {row.precision} bs={row.batch_size} threads={row.threads} {name}",
        field="latency",
        text=f"{value:g}",
        value=value,
        printed=value,
        statistic=statistic,
        low=row.ci_low_ms if spread else None,
        high=row.ci_high_ms if spread else None,
        device=row.device,
        backend=row.backend,
        precision=row.precision,
        batch_size=row.batch_size,
        threads=row.threads,
        campaign=row.interval,
    )


def of_latencies(latencies: Iterable[Latency]) -> list[Cell]:
    """Published latencies as a reader of the page meets them: under the device that the page names."""
    latencies = list(latencies)
    steps = _steps(latencies)
    return [_quoted(each, steps[_column(each)]) for each in latencies]


def _column(latency: Latency) -> tuple[str, str]:
    return place(latency.source)[0], latency.device


def _steps(latencies: Iterable[Latency]) -> dict[tuple[str, str], float]:
    """Half a unit of the last place that a document prints for a device; single numbers have lost their zeros."""
    steps: dict[tuple[str, str], float] = {}
    for each in latencies:
        key = _column(each)
        steps[key] = min(steps.get(key, 1.0), step(f"{each.latency_ms:.10g}"))
    return steps


def _quoted(latency: Latency, half: float) -> Cell:
    document, line = place(latency.source)
    device = latency.device_published or latency.device
    # Under another device's heading its threads, engine and campaign are corrections too, which the page doesn't have.
    own = device == latency.device
    threads = latency.threads or 0 if own else 0
    said = f"bs={latency.batch_size}" + (f" threads={threads}" if threads else "")
    return Cell(
        document=document,
        line=line,
        table=document,
        record=latency.source,
        model=latency.model,
        column=f"{device} {latency.precision} {said}",
        field="latency",
        text=f"{latency.latency_ms:.10g}",
        value=latency.latency_ms,
        printed=latency.latency_ms,
        step=half,
        device=device,
        backend=published.BACKENDS.get(latency.backend, latency.backend) if own else "",
        precision=latency.precision,
        batch_size=latency.batch_size,
        threads=threads,
        campaign=latency.campaign if own else "",
    )


def of_figures(figures: Iterable[Figure]) -> list[Cell]:
    """Published figures that rules know."""
    return [_figure(each) for each in figures if each.field in NUMBERS or each.field in WORDS]


def _figure(figure: Figure) -> Cell:
    document, line = place(figure.source)
    printed = value = None
    if figure.field in NUMBERS:
        printed, value = float(figure.raw.removesuffix("%")), float(figure.value)
    return Cell(
        document=document,
        line=line,
        table=document,
        record=figure.source,
        model=figure.model,
        column=figure.field,
        field=figure.field,
        text=figure.raw,
        value=value,
        printed=printed or 0.0,
        step=step(figure.raw.removesuffix("%")) * value / printed if printed and value else 0.0,
    )


def place(source: str) -> tuple[str, int]:
    """`page.md:53` → ("page.md", 53); the line is 0 where none is given."""
    document, _, line = source.rpartition(":")
    return (document, int(line)) if line.isdecimal() else (source, 0)


def step(number: str) -> float:
    """Half a unit of the last place of a printed number."""
    return 0.5 * 10.0 ** -len(number.partition(".")[2])
