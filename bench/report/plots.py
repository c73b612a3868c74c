"""The plots of a report: those that the zoo published, drawn again, and our own of its rows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path

import msgspec

from bench import store
from bench.report import Report, charts, figures, redrawn
from bench.report.figures import Chart
from bench.report.redrawn import Group, Line, Plot
from bench.report.rows import Row, case_of, place, repetitions
from bench.schema import Case, Record

#: of one kind; a page of scaling takes more than a second
MOST_CHARTS = 20
#: cases whose samples are drawn
MOST_CASES = 8
#: of the name of a file, which may hold at most 255 bytes on most systems
MOST_LETTERS = 120


def write(report: Report, folder: Path) -> list[Path]:
    """Draws all plots of a report, as PNG and SVG, and names the files.

    Raises UsageError without matplotlib, and where the folder can't be written.
    """
    pen = figures.pen(report.language)
    written: list[Path] = []
    taken: set[str] = set()
    with figures.style(pen.fonts):
        for chart in _charts(report):
            written += figures.save(chart.draw(pen), folder / _stem(chart.name, taken), chart.description)
    return written


def notes(report: Report) -> list[str]:
    """A line for each kind of plot that `write` leaves out or draws otherwise than asked. Raises like it."""
    figures.require()
    return [*figures.font_warnings(report.language), *_missing(report), *_too_many(report)]


def _charts(report: Report) -> Iterator[Chart]:
    yield from _redrawn(report)
    for kind in KINDS.values():
        yield from islice(kind(_told_apart(report)), MOST_CHARTS)
    yield from _samples(report)


def _told_apart(report: Report) -> list[Row]:
    """The rows, a device that is several machines here by the name of each: they don't share a chart."""
    if not report.machines:
        return report.rows
    return [msgspec.structs.replace(row, device=place(row, report.machines)) for row in report.rows]


#: our own plots of rows
KINDS = {
    "accuracy against latency": charts.fronts,
    "latency against batch size": charts.batches,
    "latency against threads": charts.threads,
}


def _stem(name: str, taken: set[str]) -> str:
    """The name of a file, whatever the name of the case, and no other's."""
    safe = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:MOST_LETTERS]
    numbered = (f"{safe}.{number}" for number in count(2))
    stem = next(each for each in chain([safe], numbered) if each.casefold() not in taken)
    taken.add(stem.casefold())
    return stem


def _too_many(report: Report) -> Iterator[str]:
    numbers = {kind: (MOST_CHARTS, sum(1 for _ in charts_of(_told_apart(report)))) for kind, charts_of in KINDS.items()}
    numbers["samples"] = (MOST_CASES, len(_measured(report.rows)))
    for kind, (most, number) in numbers.items():
        if number > most:
            yield f"plots of {kind}: the first {most} of {number}; choose others with --model, --backend, --run, …"


# Published plots


def _shown(report: Report) -> list[tuple[Group, Plot, list[Line]]]:
    """The published plots that the report asks for. Without a line there is nothing to draw of them."""
    if report.layout != "paddleclas" and report.source == "measured":
        return []
    quoted = report.source != "measured"
    asked = [(group, plot) for group, plot in redrawn.selected(report.rows) if quoted or plot.x == "latency"]
    return [(group, plot, redrawn.lines(group, plot, quoted, report.rows)) for group, plot in asked]


def _missing(report: Report) -> list[str]:
    left_out = Counter(plot.device for _, plot, lines in _shown(report) if not lines)
    where = ", ".join(f"{number} of {device}" for device, number in sorted(left_out.items()))
    return [f"published plots left out, since no record is of their cases: {where}"] if where else []


def _redrawn(report: Report) -> Iterator[Chart]:
    for group, plot, lines in _shown(report):
        if lines:
            yield redrawn.chart(group, plot, lines)


# Samples


def _samples(report: Report) -> Iterator[Chart]:
    """Charts of the first cases that were measured, from their records."""
    chosen = _measured(report.rows)[:MOST_CASES]
    held: dict[tuple[Case, str], list[Record]] = {(case_of(row), row.run_id): [] for row in chosen}
    for record in _records(report.results, {row.run_id for row in chosen}):
        held.get((record.case, record.run_id), []).append(record)
    for row in chosen:
        found = repetitions(held[case_of(row), row.run_id], row.interval)
        if found:
            yield charts.samples(row, found)


def _measured(rows: Iterable[Row]) -> list[Row]:
    return [row for row in charts.known(rows) if row.source == "measured"]


def _records(results: Path, runs: Iterable[str]) -> Iterator[Record]:
    """All records of the files that hold these runs: those that bear their names, unless files were put together."""
    paths = store.paths(results)
    named = {path for path in paths for run_id in runs if run_id in path.name}
    unnamed = any(all(run_id not in path.name for path in paths) for run_id in runs)
    for path in paths if unnamed else sorted(named):
        yield from (line for _, line in store.lines(path) if isinstance(line, Record))
