"""The rows with the columns of the JSON, for spreadsheets; lists are joined by "; ", unknown is empty."""

import csv
import io
from typing import Any

import msgspec

from bench.report import Report, one_line
from bench.report.rows import Row

suffix = ".csv"


def render(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row.__struct_fields__)
    writer.writerows([_cell(value) for value in msgspec.structs.astuple(row)] for row in report.rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Numbers in full, so that nothing is lost on the way."""
    if isinstance(value, dict):
        value = tuple(f"{name}={setting}" for name, setting in value.items())
    if isinstance(value, tuple):
        value = "; ".join(value)
    return one_line(value) if isinstance(value, str) else value
