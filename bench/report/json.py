"""The rows as an array of objects, for other programs."""

import msgspec

from bench.report import Report

suffix = ".json"


def render(report: Report) -> str:
    return msgspec.json.format(msgspec.json.encode(report.origins or report.rows), indent=2).decode() + "\n"
