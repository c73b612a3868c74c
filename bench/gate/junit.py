"""JUnit XML, which Jenkins, GitLab, GitHub's actions and most others read: a test a case.

REGRESSION and FAILED are failures; what could not be judged is skipped and says why, so that it is never green.
"""

from xml.etree import ElementTree

from bench.formats import one_line
from bench.gate import BAD, Gate, GateResult, change, sentences, span

suffix = ".xml"
SKIPPED = frozenset({"INCONCLUSIVE", "UNAVAILABLE"})


def render(gate: Gate) -> str:
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", _counts(gate))
    for result in gate.results:
        _add(suite, gate, result)
    if closing := [one_line(line) for line in (gate.shift, *gate.notes) if line]:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(closing)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _counts(gate: Gate) -> dict[str, str]:
    outcomes = [result.outcome for result in gate.results]
    return {
        "name": one_line(gate.command),
        "tests": str(len(outcomes)),
        "failures": str(sum(outcome in BAD for outcome in outcomes)),
        "errors": "0",
        "skipped": str(sum(outcome in SKIPPED for outcome in outcomes)),
        "time": f"{sum(result.took_s for result in gate.results):.3f}",
    }


def _add(suite: ElementTree.Element, gate: Gate, result: GateResult) -> None:
    facts = {
        "classname": one_line(gate.command).replace(" ", "."),
        "name": one_line(result.case),
        "time": f"{result.took_s:.3f}",
    }
    case = ElementTree.SubElement(suite, "testcase", facts)
    said = sentences(result)
    text = "\n".join([f"{result.outcome} {change(result)} ({span(result)})", *said])
    if result.outcome in BAD | SKIPPED:
        kind = "failure" if result.outcome in BAD else "skipped"
        ElementTree.SubElement(case, kind, type=result.outcome, message=said[0]).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text
