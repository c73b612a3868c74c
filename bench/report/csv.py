"""The rows with the columns of the JSON, for spreadsheets and pandas: unknown is empty, lists and options are JSON."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bench.formats import one_line
from bench.report import Report
from bench.report.rows import Row

suffix = ".csv"


def render(report: Report) -> str:
    lines = report.origins or report.rows
    columns = lines[0].__struct_fields__ if lines else Row.__struct_fields__
    return written(columns, map(msgspec.structs.astuple, lines))


def written(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Numbers in full, so that nothing is lost on the way."""
    if isinstance(value, dict | tuple):
        value = msgspec.json.encode(value).decode()
    return one_line(value) if isinstance(value, str) else value
