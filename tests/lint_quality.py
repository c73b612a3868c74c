"""How many of the published tags and conflicts the linter finds, and how many of its findings they bear out.

    python tests/lint_quality.py [--misses] [--unbacked]

Tags and conflicts are the measure alone: the linter sees figures, cases and documents. A tag counts as found if a
finding of one of its rules has the tagged figure among its cells; a conflict, if a finding has both of its values. A
finding that is not for information counts as borne out if any of its figures is tagged, or in a conflict.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import lint, published
from bench.lint import sources
from bench.lint.cells import Cell, Finding
from bench.published import Conflict, Latency

HERE = Path(__file__).resolve().parent
#: by tag, the rules that may find it
RULES = {
    "batch_not_monotonic": {"batch-faster"},
    "scales_worse_than_batch": {"batch-excess"},
    "threads_not_monotonic": {"threads-slower"},
    "thread_scaling_superlinear": {"threads-superlinear"},
    "same_values_as_other_model": {"same-values"},
    "device_mislabelled": {"other-device"},
    "disagrees_within_campaign": {"documents-disagree"},
    "transcription_error": {
        "documents-disagree",
        "same-values",
        "batch-faster",
        "batch-excess",
        "threads-superlinear",
    },
    "fp16_slower_than_fp32": {"fp16-slower"},
    "header_mismatch": {"header-count"},
    "precision_assumed": {"not-stated"},
    "threads_inferred": {"not-stated"},
    "differs_within_2pct": {"documents-disagree"},
}
#: tables of pages as they stand: what is wrong with a header can't be seen in the table of latencies
EXCERPTS = {
    "header_mismatch": HERE / "data" / "lint" / "dpn_t4.md",
    "precision_assumed": HERE / "data" / "lint" / "pplcnet_v2.md",
}


@dataclass
class Tally:
    """Of a tag, a kind of conflict or a rule: how many there are, how many of them are right, and which are not."""

    there: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)

    def count(self, right: bool, what: str) -> None:
        self.there += 1
        self.right += right
        self.wrong += [] if right else [what]

    @property
    def share(self) -> float:
        return self.right / self.there if self.there else 1.0


Tallies = dict[str, Tally]


def tallies() -> defaultdict[str, Tally]:
    return defaultdict(Tally)


@dataclass
class Quality:
    """What is found of what is published as wrong, and what of the findings is published as wrong."""

    tags: Tallies
    conflicts: Tallies
    rules: Tallies

    @property
    def tagged(self) -> list[Tally]:
        """All tags but `differs_within_2pct`, which conflicts repeat pair by pair."""
        return [tally for tag, tally in self.tags.items() if tag != INFORMATIONAL]

    @property
    def recall(self) -> float:
        return share([*self.tagged, *self.conflicts.values()])

    @property
    def precision(self) -> float:
        return share(self.rules.values())


INFORMATIONAL = "differs_within_2pct"


def share(tallies: Iterable[Tally]) -> float:
    tallies = list(tallies)
    return sum(each.right for each in tallies) / max(1, sum(each.there for each in tallies))


def quality(line: int | None = None) -> Quality:
    """Of all lines of documents, or of the odd (1) or even (0) ones."""
    latencies, figures = published.latencies(), published.figures()
    findings = lint.check([*sources.of_latencies(latencies), *sources.of_figures(figures)])
    kept = [each for each in latencies if line in (None, sources.place(each.source)[1] % 2)]
    pairs = [each for each in published.conflicts() if line in (None, sources.place(each.source_a)[1] % 2)]
    shown = [each for each in findings if each.severity != "info" and line in (None, each.line % 2)]
    return Quality(tags=tags(kept, findings), conflicts=conflicts(pairs, findings), rules=rules(shown, latencies))


# Recall

Spot = tuple[str, str, str, object]


def spot(cell: Cell) -> Spot:
    return (cell.model, cell.field, cell.place, cell.text if cell.value is None else round(cell.value, 9))


def tags(latencies: Iterable[Latency], findings: Sequence[Finding]) -> Tallies:
    found = defaultdict(set)
    for each in findings:
        for cell in each.cells:
            found[each.rule].add(spot(cell))
    found["header-count"] |= excerpt("header_mismatch")
    printed = excerpt("precision_assumed")
    counted = tallies()
    for each in latencies:
        for tag in each.tags:
            right = any((each.model, "latency", each.source, each.latency_ms) in found[rule] for rule in RULES[tag])
            right |= tag == "header_mismatch" and (each.model, each.latency_ms) in found["header-count"]
            right |= tag == "precision_assumed" and _in_excerpt(each, printed)
            counted[tag].count(right, f"{each.source} {each.model} {each.latency_ms:g}")
    return counted


def excerpt(tag: str) -> set[tuple[str, float]]:
    """The model and value of each figure in an excerpt that a rule for this tag complains of."""
    findings, _ = lint.files([EXCERPTS[tag]])
    return {
        (cell.model, float(number))
        for each in findings
        if each.rule in RULES[tag]
        for cell in each.cells
        for number in cell.text.split(" | ")
    }


def _in_excerpt(latency: Latency, printed: set[tuple[str, float]]) -> bool:
    page = latency.source.startswith("reference/pages/PP-LCNetV2.md")
    return page and (latency.published_name, latency.latency_ms) in printed


def restored(latencies: Iterable[Latency]) -> Tallies:
    """The tags of what a document didn't say, with the figures' cases as bare as the document has them."""
    silent = {"precision_assumed": {"precision": "unstated"}, "threads_inferred": {"threads": None}}
    bare = [
        msgspec.structs.replace(each, **{k: v for tag in each.tags for k, v in silent.get(tag, {}).items()})
        for each in latencies
    ]
    found = tags(bare, lint.check(sources.of_latencies(bare)))
    return {tag: found[tag] for tag in silent}


def conflicts(pairs: Iterable[Conflict], findings: Sequence[Finding]) -> Tallies:
    found = defaultdict(set)
    for number, each in enumerate(findings):
        if each.rule == "documents-disagree":
            for cell in each.cells:
                found[spot(cell)].add(number)
    counted = tallies()
    for pair in pairs:
        one, other = ends(pair)
        what = f"{pair.model} {pair.field} {pair.value_a} {pair.source_a}, {pair.value_b} {pair.source_b}"
        counted["latency" if pair.kind == "latency" else pair.field].count(bool(found[one] & found[other]), what)
    return counted


def ends(pair: Conflict) -> tuple[Spot, Spot]:
    what = "latency" if pair.kind == "latency" else pair.field
    return (
        (pair.model, what, pair.source_a, _value(pair.value_a)),
        (pair.model, what, pair.source_b, _value(pair.value_b)),
    )


def _value(text: str) -> object:
    return text if text.startswith("http") else round(float(text), 9)


# Precision


def rules(findings: Iterable[Finding], latencies: Iterable[Latency]) -> Tallies:
    """Of each rule's findings, how many have a figure that is tagged or in a conflict."""
    disputed = {(each.model, "latency", each.source, each.latency_ms) for each in latencies if each.tags}
    # A conflict names one line for each of its values; the same value of the model on other lines is as disputed.
    values = {(spot[0], spot[1], spot[3]) for pair in published.conflicts() for spot in ends(pair)}
    counted = tallies()
    for each in findings:
        backed = any(spot(cell) in disputed or _thing(cell) in values for cell in each.cells)
        counted[each.rule].count(backed, f"{each.place} {each.row} {each.column}: {each.values}")
    return counted


def _thing(cell: Cell) -> tuple[str, str, object]:
    model, what, _, value = spot(cell)
    return (model, what, value)


# The page


def table(first: str, whole: Tallies, odd: Tallies, even: Tallies, shares: str) -> str:
    lines = [f"| {first} | there are | {shares} | share | odd lines | even lines |", "|:--|--:|--:|--:|--:|--:|"]
    for name, tally in sorted(whole.items()):
        halves = (f"{half[name].share:.0%}" if half[name].there else "–" for half in (odd, even))
        lines.append(f"| {name} | {tally.there} | {tally.right} | {tally.share:.0%} | {' | '.join(halves)} |")
    return "\n".join(lines)


def page() -> str:
    """All tables of docs/lint.md, as Markdown."""
    whole, odd, even = quality(), quality(1), quality(0)
    back = restored(published.latencies())
    tagged, disputed = share(whole.tagged), share(whole.conflicts.values())
    said = ", ".join(f"{tag} {tally.right} of {tally.there}" for tag, tally in back.items())
    return "\n".join(
        [
            table("tag", whole.tags, odd.tags, even.tags, "found"),
            "",
            table("conflict over", whole.conflicts, odd.conflicts, even.conflicts, "found"),
            "",
            table("rule", whole.rules, odd.rules, even.rules, "borne out"),
            "",
            f"- recall over all tags and conflicts: {whole.recall:.1%} (odd {odd.recall:.1%}, even {even.recall:.1%})",
            f"- recall over tags alone: {tagged:.1%}, conflicts alone: {disputed:.1%}",
            f"- precision: {whole.precision:.1%} (odd {odd.precision:.1%}, even {even.precision:.1%})",
            f"- with what the documents don't say blanked again: {said}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--misses", action="store_true", help="List what is tagged and not found.")
    parser.add_argument("--unbacked", action="store_true", help="List findings that no tag or conflict bears out.")
    asked = parser.parse_args()
    whole = quality()
    if asked.misses:
        for name, tally in {**whole.tags, **whole.conflicts}.items():
            print(*(f"{name}: {what}" for what in tally.wrong), sep="\n", end="\n" * bool(tally.wrong))
    elif asked.unbacked:
        for name, tally in whole.rules.items():
            print(*(f"{name}: {what}" for what in tally.wrong), sep="\n", end="\n" * bool(tally.wrong))
    else:
        print(page())


if __name__ == "__main__":
    main()
