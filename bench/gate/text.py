"""A line a case for a terminal or a log, and below it what to make of anything that is not a plain PASS."""

import textwrap

from bench.formats import one_line
from bench.gate import Gate, GateResult, change, sentences, span

suffix = ".txt"
INDENT = " " * 14
WIDTH = 110
LEGEND = "The change is that of the time an inference takes; in brackets, where the true change very likely lies."


def render(gate: Gate) -> str:
    together = {"PASS", "REGRESSION"} if gate.shift else {"PASS"}
    lines = [line for result in gate.results for line in _result(result, result.outcome not in together)]
    legend = LEGEND if any(result.ratio is not None for result in gate.results) else ""
    closing = [one_line(line) for line in (legend, gate.shift, *gate.notes, gate.headline) if line]
    return "\n".join([*lines, *closing]) + "\n"


def _result(result: GateResult, explained: bool) -> list[str]:
    interval = f"  {change(result)} ({span(result)})" if result.ratio is not None else ""
    line = f"{result.outcome:<{len(INDENT)}}{one_line(result.case)}{interval}"
    return [line, *(words for said in sentences(result) for words in _wrapped(said))] if explained else [line]


def _wrapped(line: str) -> list[str]:
    """Whole words, so that a command or a name can be copied."""
    return textwrap.wrap(
        line, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )
