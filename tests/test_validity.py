"""docs/validity.md has every reason that the code gives, with the limits in force, and no other."""

import ast
import re
from pathlib import Path

import pytest

from bench import environment, pairs, runner, telemetry
from bench.gpu.hygiene import Limits
from bench.trtexec import definitions

ROOT = Path(__file__).parents[1]
ROWS = {
    cells[0].strip("`"): cells
    for line in (ROOT / "docs/validity.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split(" | ")])
}


def given(module):
    """The reasons that a module gives: the first word of each Validity and of each finding that is yielded."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Validity":
            found |= {word.value for word in node.args[:1] if isinstance(word, ast.Constant)}
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            found |= {word.value for word in node.value.elts[:1] if isinstance(word, ast.Constant)}
    return {word for word in found if isinstance(word, str)}


MODULES = [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "bench").rglob("*.py")) if "Validity" in path.read_text()
]


def test_every_row_is_whole():
    assert ROWS
    assert {len(cells) for cells in ROWS.values()} == {5}


@pytest.mark.parametrize("module", MODULES)
def test_the_table_says_what_the_code_does(module):
    listed = {reason for reason, cells in ROWS.items() if f"`{module}`" in cells[4]}
    assert given(module) == listed


def test_reasons_that_end_a_verdict_are_known():
    assert set(ROWS) >= telemetry.UNFIT | pairs.WORTHLESS


LIMITS = {
    "contended": [
        f"{environment.OTHERS_CORES} CPUs",
        f"{environment.STEAL_SHARE:.0%}",
        f"{environment.PRESSURE_SHARE:.0%}",
        f"{telemetry.RUN_DELAY_SHARE:.0%} of theirs",
        f"{telemetry.LEAST_WINDOW_NS / 1e9:g} s",
        f"{Limits().utilisation_percent}% busy",
    ],
    "preempted": [f"{telemetry.PREEMPTED_SHARE:.0%}", f"more than {telemetry.PREEMPTED_PER_S} a second"],
    "faulting": [f"{telemetry.MINOR_FAULTS} minor", f"{telemetry.MAJOR_FAULT_SHARE:.0%}"],
    "suspended": [f"{telemetry.CLOCK_STEP_NS / 1e6:g} ms"],
    "clock_step": [f"{telemetry.CLOCK_STEP_NS / 1e6:g} ms"],
    "coarse_clock": [f"{telemetry.CLOCK_RESOLUTION_NS} ns"],
    "noisy": [f"{telemetry.PROBE_SPREAD:.0%}", f"{telemetry.LEAST_SHOTS} shots"],
    "drifting": [f"{runner.MOST_DRIFT:.0%}", f"{Limits().clock_spread:.0%}", f"{Limits().clock_loss:.0%} below"],
    "hot": [f"{Limits().slowdown_margin_c} °C"],
    "enqueue_bound": [f"{definitions.ENQUEUE_SHARE:.0%}"],
    "unstable": [f"{limit:g}%" for limit in (definitions.UNSTABLE_PERCENT, definitions.UNSTABLE_PERCENT_10_14)],
}


@pytest.mark.parametrize("reason", LIMITS)
def test_the_limits_are_those_in_force(reason):
    rule = ROWS[reason][1].replace(" %", "%")
    assert [limit for limit in LIMITS[reason] if not re.search(rf"(?<![\d.]){re.escape(limit)}", rule)] == []
