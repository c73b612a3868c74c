"""A summary as GitHub and GitLab read it: one table of all cases, then what to make of those that need it."""

import re
from collections.abc import Iterable

from bench.formats import one_line
from bench.gate import Gate, GateResult, alarms, change, sentences, span

suffix = ".md"

# A backslash before any ASCII punctuation makes it plain text (CommonMark 2.4); these are the ones that can mean more.
# Underscores inside a word mean nothing.
SYNTAX = re.compile(r"[\\`*<>|~#\[\]&!$]|(?<![^\W_])_+|_+(?![^\W_])")
COLUMNS = ("case", "verdict", "time against baseline", "very likely between", "took")
RULES = (":--", ":--", "--:", "--:", "--:")


def render(gate: Gate) -> str:
    parts = [
        [f"### {escaped(gate.command)}: {escaped(gate.headline)}"],
        [f"**{escaped(gate.shift)}**"] if gate.shift else [],
        _table(gate.results),
        [line for result in alarms(gate) for line in _explained(result)],
        [f"- {escaped(note)}" for note in gate.notes],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _table(results: Iterable[GateResult]) -> list[str]:
    lines = [_line(map(escaped, _cells(result))) for result in results]
    return [_line(COLUMNS), _line(RULES), *lines] if lines else []


def _cells(result: GateResult) -> tuple[str, ...]:
    took = f"{result.took_s:.0f} s" if result.took_s else "–"
    return result.case, result.outcome, change(result), span(result), took


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _explained(result: GateResult) -> list[str]:
    heading = f"- **{result.outcome}** {escaped(result.case)}"
    return [heading, *(f"  - {escaped(line)}" for line in sentences(result))]


def escaped(text: str) -> str:
    return SYNTAX.sub(lambda found: "".join(f"\\{char}" for char in found[0]), one_line(text))
