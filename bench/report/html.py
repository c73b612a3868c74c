"""One page that needs no network: a plot of the reader's choice, a table of all rows, and the tables of the layout."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from bench.formats import one_line
from bench.report import Report, Table
from bench.report.rows import Row

suffix = ".html"

ASSETS = Path(__file__).parent / "assets"
STYLES = ("tabulator_simple.min.css", "page.css")
SCRIPTS = ("plotly-basic.min.js", "tabulator.min.js", "page.js")
#: the page must open quickly and pass as an attachment: tables that would make it larger are left out, and named
LARGEST_BYTES = 4_900_000
#: a cell of more characters may be broken over lines
LONG = 60


def render(report: Report) -> str:
    """The page, always the same for the same report. Raises UsageError where the layout's tables need pandas."""
    words = msgspec.json.decode(_asset("labels.json"))[report.language]
    scripts = [_asset(name) for name in SCRIPTS]
    data = _data(report.rows, words)
    known = {name: escape(word) for name, word in words.items() if isinstance(word, str)}
    classes = _classes(report.tables)
    parts = {
        "lang": report.language,
        "policy": _policy(scripts),
        "style": "\n".join([*map(_asset, STYLES), *map(_rule, classes.values(), classes)]),
        "summary": escape(_summary(report.rows, words)),
        "notes": _list(report.notes),
        "machines": _list(report.environment),
        "command": escape(f"{one_line(report.command)} --format html"),
        "data": data,
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    room = LARGEST_BYTES - sum(len(part.encode()) for part in parts.values())
    tables = "\n".join(_sections(report.tables, classes, words, room))
    heading = f"<h2>{known['tables']}</h2>\n" if report.tables else ""
    return Template(_asset("page.html")).substitute(known | parts, tables=heading + tables)


def _asset(name: str) -> str:
    """A file of the page, less the note that would send a developer's browser for the library's source."""
    return (ASSETS / name).read_text(encoding="utf-8").partition("//# sourceMappingURL=")[0]


def _policy(scripts: Iterable[str]) -> str:
    """No network, and no script but these: a text that escaped its escaping would still not run."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    # Plotly hands the picture that one downloads to itself as a blob.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


# The rows


def _data(rows: Sequence[Row], words: dict[str, Any]) -> str:
    """JSON of the rows by column, and the words of the page, such that no text of it ends the script it stands in."""
    fields = {field: _column(rows, field) for field in Row.__struct_fields__}
    text = msgspec.json.encode({"fields": fields, "words": words}).decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _column(rows: Sequence[Row], field: str) -> dict[str, Any]:
    """The different values of a field, and for each row the place of its value among them."""
    places: dict[bytes, int] = {}
    at = [places.setdefault(msgspec.json.encode(getattr(row, field)), len(places)) for row in rows]
    return {"values": [msgspec.Raw(value) for value in places], "at": at}


def _summary(rows: Sequence[Row], words: dict[str, Any]) -> str:
    sources = dict.fromkeys(row.source for row in rows)
    text: str = words["summary"].format(
        rows=len(rows),
        models=len({row.model for row in rows}),
        devices=len({row.device for row in rows}),
        sources=" + ".join(words[source] for source in sources),
    )
    return text


# The tables


def _sections(tables: Iterable[Table], classes: Mapping[str, str], words: dict[str, Any], room: int) -> Iterator[str]:
    """The tables, as long as there is room of so many bytes."""
    for table in tables:
        section = _section(table, classes[table.align])
        size = len(section.encode())
        if size > room:
            yield f'<p class="hint">{_text(words["left_out"].format(title=table.title))}</p>'
        else:
            room -= size
            yield section


def _section(table: Table, class_: str) -> str:
    head = "".join(f'<th scope="col">{_text(column)}' for column in table.columns)
    lines = "\n".join(f"<tr>{''.join(_cells(table, index))}" for index in range(len(table.rows)))
    return (
        f"<details>\n<summary>{_text(table.title)}</summary>\n"
        f'<div class="scroll"><table class="{class_}">\n<thead><tr>{head}</thead>\n<tbody>\n{lines}\n</tbody>\n'
        f"</table></div>\n{_list(table.notes)}\n</details>"
    )


def _cells(table: Table, index: int) -> Iterator[str]:
    """Their end tags may be left out, and are, for the sake of size."""
    for column, cell in enumerate(table.rows[index]):
        text = _text(cell)
        long = ' class="long"' if len(cell) > LONG else ""
        yield f"<td{long}><b>{text}</b>" if (index, column) in table.bold else f"<td{long}>{text}"


def _classes(tables: Iterable[Table]) -> dict[str, str]:
    """The class of a table for each pattern of left and right columns."""
    patterns = dict.fromkeys(table.align for table in tables)
    return {pattern: f"columns{number}" for number, pattern in enumerate(patterns)}


def _rule(class_: str, pattern: str) -> str:
    right = ", ".join(f":nth-child({place})" for place, side in enumerate(pattern, start=1) if side == "r")
    return f".{class_} :is({right}):is(th, td) {{ text-align: right }}"


def _list(notes: Iterable[str]) -> str:
    lines = "\n".join(f"<li>{_text(note)}" for note in notes)
    return f'<ul class="notes">\n{lines}\n</ul>' if lines else ""


def _text(text: str) -> str:
    return escape(one_line(text))
