"""Findings as lines for people and as JSON for programs."""

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from bench.formats import one_line
from bench.lint.cells import Finding, Severity

COUNTED: dict[Severity, str] = {"error": "errors", "warning": "warnings", "info": "for information"}


def text(findings: Iterable[Finding]) -> str:
    """A line a finding, which begins with its place as compilers do, and one that counts them."""
    findings = list(findings)
    counts = Counter(each.severity for each in findings)
    total = ", ".join(f"{words}: {counts[each]}" for each, words in COUNTED.items() if counts[each])
    return "".join(f"{one_line(line)}\n" for line in [*map(_line, findings), total or "nothing wrong"])


def _line(each: Finding) -> str:
    cell = ", ".join(filter(None, (each.row, each.column)))
    return f"{each.place}: {each.severity}: {f'{cell}: ' if cell else ''}{each.values}; {each.why} [{each.rule}]"


def json(findings: Iterable[Finding]) -> str:
    """An array of objects; `places` has every line that a finding is about."""
    objects = [
        {
            **{name: getattr(each, name) for name in Finding.__struct_fields__ if name != "cells"},
            "places": list(dict.fromkeys([each.place, *(cell.place for cell in each.cells)])),
        }
        for each in findings
    ]
    return msgspec.json.format(msgspec.json.encode(objects), indent=2).decode() + "\n"


FORMATS: dict[str, Callable[[Iterable[Finding]], str]] = {"text": text, "json": json}
