"""Latencies in aligned columns, for a terminal. The width is that of the cells: nothing is cut off or wrapped."""

from collections.abc import Iterable

from bench.formats import one_line
from bench.report import Report, Table, width

suffix = ".txt"


def render(report: Report) -> str:
    parts = ["\n".join(lines(table)) for table in report.latency]
    return "\n\n".join([*parts, *map(one_line, report.notes)]) + "\n"


def lines(table: Table) -> Iterable[str]:
    """A table with its title and notes."""
    cells = [[one_line(cell) for cell in line] for line in (table.columns, *table.rows)]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    yield one_line(table.title)
    for line in cells:
        yield "  ".join(map(_padded, line, widths, table.align)).rstrip()
    yield from map(one_line, table.notes)


def _padded(cell: str, wanted: int, side: str) -> str:
    room = " " * (wanted - width(cell))
    return cell + room if side == "l" else room + cell
