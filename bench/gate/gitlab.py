"""GitLab's Code Quality report, which appears in a merge request; for its test report take the format junit.

A finding points at a file: the baseline where that is in the repository, else the CI configuration that asked.
"""

import hashlib
import json
from typing import Any

from bench.formats import one_line
from bench.gate import Gate, GateResult, Outcome, alarms, change, sentences

suffix = ".json"

SEVERITIES: dict[Outcome, str] = {
    "FAILED": "critical",
    "REGRESSION": "major",
    "UNAVAILABLE": "minor",
    "INCONCLUSIVE": "info",
}
NO_PLACE = ".gitlab-ci.yml"


def render(gate: Gate) -> str:
    findings = [_finding(gate, result) for result in alarms(gate)]
    if gate.shift:
        findings.insert(0, _shift(gate))
    return json.dumps(findings, indent=2) + "\n"


def _finding(gate: Gate, result: GateResult) -> dict[str, Any]:
    case = one_line(result.case)
    moved = f" {change(result)}" if result.ratio is not None else ""
    description = " ".join([f"{case}: {result.outcome}{moved}.", *sentences(result)])
    return _entry(gate, description, SEVERITIES[result.outcome], case)


def _shift(gate: Gate) -> dict[str, Any]:
    return _entry(gate, one_line(gate.shift), "major", "all cases")


def _entry(gate: Gate, description: str, severity: str, what: str) -> dict[str, Any]:
    """The fingerprint names the case alone: the same trouble with other numbers is the same finding to GitLab."""
    command, place = one_line(gate.command), one_line(gate.place) or NO_PLACE
    return {
        "description": description,
        "check_name": command,
        "fingerprint": hashlib.sha256(f"{command}\n{what}".encode()).hexdigest(),
        "severity": severity,
        "location": {"path": place, "lines": {"begin": 1}},
    }
