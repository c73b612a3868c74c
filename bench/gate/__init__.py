"""What a gate found: `bench check` and `bench compare` fill it in, and each file here with a `render` writes it."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from bench import formats as choices
from bench.errors import UsageError
from bench.schema import Frozen

#: FAILED was tried and went wrong, or its outputs differ; UNAVAILABLE lacks the device or the runtime here
Outcome = Literal["PASS", "IMPROVED", "REGRESSION", "INCONCLUSIVE", "FAILED", "UNAVAILABLE"]
WORST_FIRST: tuple[Outcome, ...] = ("FAILED", "REGRESSION", "UNAVAILABLE", "INCONCLUSIVE", "IMPROVED", "PASS")
BAD = frozenset({"FAILED", "REGRESSION"})
#: what `--inconclusive` may say
Treatment = Literal["pass", "fail"]


class GateResult(Frozen, frozen=True, kw_only=True):
    """One case as judged. `ratio` is contender over baseline, and `low` to `high` its interval; None where unknown.

    `says` is what was found, for a reader who has never met a confidence interval, and `do` what to do about it.
    `details` are further facts, a line each; `evidence` holds the numbers behind all that, for programs.
    """

    case: str
    outcome: Outcome
    says: str
    do: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    details: tuple[str, ...] = ()
    evidence: dict[str, Any] = {}
    took_s: float = 0.0


class Gate(Frozen, frozen=True, kw_only=True):
    """All that one command judged. `shift` says that all cases moved together, "" if they did not.

    `place` is a file of the repository that an annotation may point at, "" if there is none.
    """

    command: str
    results: tuple[GateResult, ...]
    shift: str = ""
    notes: tuple[str, ...] = ()
    place: str = ""

    @property
    def headline(self) -> str:
        """`12 cases: 1 REGRESSION, 11 PASS`, worst first."""
        counts = Counter(result.outcome for result in self.results)
        cases = "1 case" if len(self.results) == 1 else f"{len(self.results)} cases"
        found = ", ".join(f"{counts[outcome]} {outcome}" for outcome in WORST_FIRST if counts[outcome])
        return f"{cases}: {found or 'nothing was judged'}"

    def exit_code(self, inconclusive: Treatment | None = None) -> int:
        """The contract's: 1 for anything bad, else 3 for what is unavailable, else 4 where nothing was concluded."""
        outcomes = {result.outcome for result in self.results}
        if BAD & outcomes or (inconclusive == "fail" and self._nothing_concluded(outcomes)):
            return 1
        if "UNAVAILABLE" in outcomes:
            return 3
        return 4 if inconclusive is None and self._nothing_concluded(outcomes) else 0

    @staticmethod
    def _nothing_concluded(outcomes: set[Outcome]) -> bool:
        return "INCONCLUSIVE" in outcomes or not outcomes


class Format(Protocol):
    """A file of this folder: syntax only. `suffix` is that of a file, with its dot."""

    suffix: str

    def render(self, gate: Gate) -> str: ...


def formats() -> list[str]:
    """The formats of this bench, which are the files of this folder that render."""
    return choices.names(__name__)


def get(name: str) -> Format:
    """The format of that name. Raises UsageError for an unknown one."""
    return cast(Format, choices.get(__name__, name))


# Where it goes


def write(gate: Gate, outputs: Iterable[str], environ: Mapping[str, str] = os.environ) -> None:
    """Writes `FORMAT=FILE` for each of `outputs`. Raises UsageError where one is unreadable or can't be written.

    GitHub's job summary is appended to, as other steps write there too.
    """
    for output in outputs:
        format_, path = asked(output)
        text = get(format_).render(gate)
        _put(path, text, append=str(path) == environ.get(SUMMARY))


SUMMARY = "GITHUB_STEP_SUMMARY"


def asked(output: str) -> tuple[str, Path]:
    """`junit=report.xml` → ("junit", the path). Raises UsageError for anything else, before anything is measured."""
    format_, equals, path = output.partition("=")
    if not equals or not path:
        raise UsageError(f"cannot read --output {output!r}", "", "write it as FORMAT=FILE, such as junit=bench.xml")
    get(format_)
    return format_, Path(path)


def summarise(gate: Gate, environ: Mapping[str, str] = os.environ) -> None:
    """Appends the Markdown to the summary of a GitHub job, where this runs in one."""
    if path := environ.get(SUMMARY):
        _put(Path(path), get("markdown").render(gate), append=True)


def _put(path: Path, text: str, append: bool) -> None:
    with choices.writing(path, "name another file"), path.open("a" if append else "w", encoding="utf-8") as file:
        file.write(text)


# Words


def sentences(result: GateResult) -> list[str]:
    """All that a result has to say, a line each, clean: the finding first, what to do, the details."""
    do = f"What to do: {result.do}" if result.do else ""
    return [choices.one_line(line) for line in (result.says or result.outcome, do, *result.details) if line]


def time_taken(ratio: float) -> str:
    """`8.3% more time`, `2.0% less time`."""
    return f"{abs(ratio - 1):.1%} {'more' if ratio >= 1 else 'less'} time"


def change(result: GateResult) -> str:
    """`+8.3%`, or a dash."""
    return "–" if result.ratio is None else signed(result.ratio)


def span(result: GateResult) -> str:
    """`+5.6% to +11.0%`, or a dash."""
    if result.low is None or result.high is None:
        return "–"
    return f"{signed(result.low)} to {signed(result.high)}"


def signed(ratio: float) -> str:
    """A ratio as a difference; finer where it is small, without a limit where there is none."""
    difference = ratio - 1
    if abs(difference) > 1e6:
        return "unknown"
    return f"{difference:+.1%}" if abs(difference) >= 0.0995 else f"{difference:+.2%}"


def alarms(gate: Gate) -> Sequence[GateResult]:
    """What calls for attention, worst first. A shift of all cases stands for their REGRESSIONs."""
    hidden = {"PASS", "IMPROVED"} | ({"REGRESSION"} if gate.shift else set())
    shown = [result for result in gate.results if result.outcome not in hidden]
    return sorted(shown, key=lambda result: WORST_FIRST.index(result.outcome))
