"""Which figures of a table can't be right: measured rows, published ones, and foreign tables in Markdown and CSV."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import catalog, published, report
from bench.errors import UsageError
from bench.lint import sources, tables
from bench.lint.cells import Cell, Finding
from bench.lint.rules import RULES, Hit, Rule
from bench.report import Source
from bench.report.rows import quoted

__all__ = ["Cell", "Finding", "check", "exit_code", "files", "of_report", "published_figures"]

RANKS = ("error", "warning", "info")


def check(cells: Sequence[Cell]) -> list[Finding]:
    """What all rules find, in the order of the places."""
    found = [_finding(rule, hit) for rule in RULES for hit in rule.find(cells)]
    return in_order(found)


def _finding(rule: Rule, hit: Hit) -> Finding:
    cell = hit.cells[0]
    return Finding(
        rule=rule.name,
        severity=hit.severity or rule.severity,
        document=cell.document,
        line=cell.line,
        row=cell.model,
        column=cell.column,
        values=hit.values,
        why=hit.why or rule.why,
        cells=hit.cells,
    )


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda each: (each.document, each.line, each.row, RANKS.index(each.severity)))


def exit_code(findings: Iterable[Finding]) -> int:
    """1 where a figure is wrong or doubtful; what merely informs doesn't fail."""
    return int(any(each.severity != "info" for each in findings))


def of_report(results: Path, source: Source, **filters: Any) -> tuple[list[Finding], tuple[str, ...]]:
    """What is wrong with the measured or published figures that a report would show, or with both; and its warnings.

    `filters` are those of `report.build`. Raises UsageError where there are none.
    """
    found: list[Finding] = []
    warnings: tuple[str, ...] = ()
    if source != "published":
        built = report.build(results, source=source, **filters)
        found, warnings = check(sources.of_rows(built.rows)), built.warnings
    if source != "measured":
        found += published_figures({name.removesuffix("_id"): value for name, value in filters.items()})
    return found, warnings


def published_figures(asked: Mapping[str, str]) -> list[Finding]:
    """What is wrong with every published figure that is asked for; judged beside all others, shown alone.

    Raises UsageError where none is asked for.
    """
    reading = report.Reading(asked, catalog.cards())
    latencies = published.latencies()
    wanted = [each for each, row in zip(latencies, quoted(latencies), strict=True) if reading.wanted(row)]
    if not wanted:
        raise reading.nothing(published.FOLDER)
    kept = {(each.source, each.model, each.precision, each.batch_size) for each in wanted}
    models = {each.model for each in wanted}
    of_networks = not {"device", "backend", "interval"} & set(asked)
    cells = [*sources.of_latencies(latencies), *sources.of_figures(published.figures())]

    def shown(cell: Cell) -> bool:
        if cell.field != "latency":
            return of_networks and cell.model in models
        return (cell.place, cell.model, cell.precision, cell.batch_size) in kept

    return [each for each in check(cells) if any(map(shown, each.cells))]


def files(paths: Iterable[Path]) -> tuple[list[Finding], list[str]]:
    """What is wrong with the tables of Markdown and CSV files, and a line for each file with nothing to check.

    Raises UsageError for a file that can't be read, and where no file has a table.
    """
    read = {path: tables.read(path) for path in paths}
    empty = [f"{path}: no table in it" for path, found in read.items() if not found.tables]
    odd = [path for path, found in read.items() if found.tables and not (found.cells or found.findings)]
    if len(empty) == len(read):
        raise UsageError("no table to check", "; ".join(empty), "name Markdown files with pipe tables, or CSV files")
    cells = [cell for found in read.values() for cell in found.cells]
    notes = [*empty, *(f"{path}: no column of its tables is one that can be checked" for path in odd)]
    return in_order([*(each for found in read.values() for each in found.findings), *check(cells)]), notes
