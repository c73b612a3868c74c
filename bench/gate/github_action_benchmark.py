"""What github-action-benchmark reads with `tool: customSmallerIsBetter`: the time against the baseline, 1 is as before.

A ratio rather than milliseconds, as these move with the machine that the job happens to get.
"""

import json
from typing import Any

from bench.formats import one_line
from bench.gate import Gate, GateResult, sentences

suffix = ".json"


def render(gate: Gate) -> str:
    return json.dumps([_entry(result) for result in gate.results if result.ratio is not None], indent=2) + "\n"


def _entry(result: GateResult) -> dict[str, Any]:
    entry = {
        "name": one_line(result.case),
        "unit": "x baseline",
        "value": result.ratio,
        "extra": "\n".join([result.outcome, *sentences(result)]),
    }
    if result.low is not None and result.high is not None:
        entry["range"] = f"{result.low:.4f} to {result.high:.4f}"
    return entry
