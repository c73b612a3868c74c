"""Pipe tables as GitHub and GitLab read them, with the environment and how to make the page again."""

import re
from collections.abc import Iterable, Iterator

from bench.formats import one_line
from bench.report import Report, Table

suffix = ".md"

# What would be taken for syntax anywhere in a line, and at its start. Underscores inside a word are none.
SYNTAX = re.compile(r"[\\`*<>|~#]|(?<![^\W_])_+|_+(?![^\W_])|\](?=[(:])|&(?=#?\w+;)")
START = re.compile(r"^(\d*)([-+.)])")
RULES = {"l": ":--", "r": "--:"}
HEADINGS = {
    "en": ("Latency report", "Environment", "How to make this page again"),
    "zh": ("延迟报告", "环境", "如何重新生成本页"),
}


def render(report: Report) -> str:
    title, environment, again = HEADINGS[report.language]
    parts = [[f"# {title}"], _list(report.notes), *map(lines, report.tables)]
    parts += [[f"## {environment}"], _list(report.environment)]
    parts += [[f"## {again}"], [f"    {one_line(report.command)} --format markdown"]]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def lines(table: Table) -> list[str]:
    """A table under its title, with its notes."""
    cells = [_line(map(_escaped, table.columns)), _line(RULES[side] for side in table.align)]
    cells += [_line(_cells(table, index)) for index in range(len(table.rows))]
    notes = ["", *_list(table.notes)] if table.notes else []
    return [f"## {_escaped(table.title)}", "", *cells, *notes]


def _cells(table: Table, index: int) -> Iterator[str]:
    for column, cell in enumerate(table.rows[index]):
        text = _escaped(cell)
        yield f"**{text}**" if (index, column) in table.bold else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(notes: Iterable[str]) -> list[str]:
    return ["- " + START.sub(r"\1\\\2", _escaped(note)) for note in notes]


def _escaped(text: str) -> str:
    return SYNTAX.sub(lambda found: "".join(f"\\{char}" for char in found[0]), one_line(text))
