"""GitHub's annotations: commands in the log of a job, which appear beside the pull request.

A REGRESSION is an error, what could not be judged a warning; all else is a plain line of the log.
"""

from collections.abc import Iterator

from bench.formats import one_line
from bench.gate import BAD, Gate, GateResult, alarms, change, sentences, span

suffix = ".log"

# As the runner undoes it: actions/runner, src/Runner.Common/ActionCommand.cs. The percent sign comes first.
DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
PROPERTY = DATA | {":": "%3A", ",": "%2C"}


def render(gate: Gate) -> str:
    return "".join(f"{line}\n" for line in (*_plain(gate), *_annotations(gate)))


def _annotations(gate: Gate) -> Iterator[str]:
    place = gate.place
    if gate.shift:
        yield _command("error", "all cases moved together", gate.shift, place)
    for result in alarms(gate):
        kind = "error" if result.outcome in BAD else "warning"
        yield _command(kind, _title(result), "\n".join(sentences(result)), place)


def _title(result: GateResult) -> str:
    moved = f" {change(result)}" if result.ratio is not None else ""
    return f"{result.outcome}{moved}: {one_line(result.case)}"


def _command(kind: str, title: str, message: str, place: str) -> str:
    properties = {"file": one_line(place), "title": one_line(title)}
    given = ",".join(f"{name}={_escaped(value, PROPERTY)}" for name, value in properties.items() if value)
    return f"::{kind} {given}::{_escaped(message, DATA)}"


def _escaped(text: str, table: dict[str, str]) -> str:
    for character, code in table.items():
        text = text.replace(character, code)
    return text


def _plain(gate: Gate) -> Iterator[str]:
    """Begins with an outcome, as a line that begins with "::" would be a command; so would an old "##[" anywhere."""
    for result in gate.results:
        line = f"{result.outcome} {change(result)} ({span(result)}) {one_line(result.case)}"
        yield line.replace("##[", "# #[")
    yield gate.headline
