"""Limits in, ranked models out: which of those that were measured or published fit, and which of them none beats."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bench import catalog, published
from bench.errors import BenchError, Unavailable, UsageError
from bench.report import Reading, Source, Table, csv, markdown, rows, several_machines, strangers, tables, text
from bench.report.rows import INTERVALS, Machines, Row, is_runtime, place
from bench.schema import Frozen

Fit = Literal["yes", "maybe", "no", "unknown"]


class Wanted(Frozen, frozen=True, kw_only=True):
    """What a model must keep to; None is no limit, or all there are.

    `device` is where it shall run, `from_device` whose figures stand for it. Latencies are of the whole batch. Without
    `every`, a model is shown by the fastest of its rows that fit.
    """

    device: str
    from_device: str | None = None
    source: Source | None = None
    backend: str | None = None
    precision: str | None = None
    interval: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    max_latency_ms: float | None = None
    min_top1: float | None = None
    max_params_m: float | None = None
    max_size_mb: float | None = None
    max_gmacs: float | None = None
    every: bool = False


class Candidate(Frozen, frozen=True):
    """A row that fits, "yes", or may fit, "maybe": then the limit is inside the interval of its latency."""

    rank: int
    fits: Fit
    pareto: bool
    row: Row


@dataclass(frozen=True)
class Picked:
    """The candidates, best first; where there is none, `nothing` says what came nearest."""

    wanted: Wanted
    candidates: list[Candidate]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    nothing: BenchError | None = None


class Limit(NamedTuple):
    """A bound of one field of a row, at most or at least; `words` say it, `best` is the row furthest inside it."""

    field: str
    bound: float
    at_most: bool
    words: str
    best: str
    unit: str

    def judge(self, row: Row) -> Fit:
        value = getattr(row, self.field)
        if value is None:
            return "unknown"
        low, high = (value, value) if self.field != "latency_ms" else (tables.choice(row).low, tables.choice(row).high)
        if not self.at_most:
            return "yes" if low >= self.bound else "no"
        return "yes" if high <= self.bound else "maybe" if low <= self.bound else "no"


def limits(wanted: Wanted) -> list[Limit]:
    """Those that are set, with words for a sentence."""
    every = (
        ("latency_ms", wanted.max_latency_ms, True, "within {} ms", "fastest", " ms"),
        ("top1", wanted.min_top1, False, "with top-1 of {} or more", "most accurate", " top-1"),
        ("params_m", wanted.max_params_m, True, "of at most {} M parameters", "one of fewest parameters", " M"),
        ("storage_mb", wanted.max_size_mb, True, "of at most {} MB", "smallest file", " MB"),
        ("gmacs", wanted.max_gmacs, True, "of at most {} GMACs", "one of fewest GMACs", " GMACs"),
    )
    return [
        Limit(field, bound, at_most, words.format(tables.printed(bound)), best, unit)
        for field, bound, at_most, words, best, unit in every
        if bound is not None
    ]


def pick(results: Path, wanted: Wanted) -> Picked:
    """The models that keep the limits, by published or measured figures: highest top-1 first, ties by latency.

    Without a source, records of the device count if there are any, otherwise published figures. Raises Unavailable
    where nothing is known of the device, and UsageError where nothing is of the backend, threads and so on asked for.
    """
    figures = _figures(results, wanted)
    comparable, left_out = _comparable(figures.rows, wanted)
    keeping = limits(wanted)
    fitting = [(row, _fit(row, keeping)) for row in comparable]
    chosen = sorted((each for each in fitting if each[1] in ("yes", "maybe")), key=_worth)
    chosen = chosen if wanted.every else _fastest(chosen)
    best = _fronts([row for row, _ in chosen], figures.machines)
    return Picked(
        wanted,
        [Candidate(rank, fit, id(row) in best, row) for rank, (row, fit) in enumerate(chosen, start=1)],
        notes=(*figures.notes, *left_out, *_unknown(comparable, keeping)),
        warnings=figures.warnings,
        nothing=None if chosen else _nothing(comparable, keeping, wanted),
    )


def _worth(judged: tuple[Row, Fit]) -> tuple[float, float, str]:
    row, _ = judged
    return (-(row.top1 or 0.0), row.latency_ms or 0.0, row.model)


def _fit(row: Row, keeping: Iterable[Limit]) -> Fit:
    """The worst that a limit says of it."""
    found = {limit.judge(row) for limit in keeping}
    order: tuple[Fit, ...] = ("no", "unknown", "maybe")
    return next((fit for fit in order if fit in found), "yes")


def _fastest(ranked: Iterable[tuple[Row, Fit]]) -> list[tuple[Row, Fit]]:
    """Of each model and source the fastest row, one that surely fits rather than one that may; in the order given."""
    found: dict[tuple[str, str], tuple[Row, Fit]] = {}
    for row, fit in ranked:
        before = found.get((row.model, row.source))
        if not before or (before[1] == "maybe" and fit == "yes"):
            found[row.model, row.source] = (row, fit)
    return sorted(found.values(), key=_worth)


def _fronts(chosen: list[Row], machines: Machines) -> set[int]:
    """The identities of those on a front: one of each source, batch size and machine, whatever else they differ in."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in chosen:
        if tables.competes(row):
            groups.setdefault((row.source, row.batch_size, place(row, machines)), []).append(row)
    return {id(row) for group in groups.values() for row in tables.on_front(group)}


# What there is


@dataclass(frozen=True)
class Figures:
    rows: list[Row]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    machines: Machines


def _figures(results: Path, wanted: Wanted) -> Figures:
    """What is known of the device, and a note for what a reader may not expect. Raises Unavailable if nothing is."""
    device = wanted.from_device or wanted.device
    reading = Reading({"device": device}, catalog.cards())
    measured = reading.rows(results) if wanted.source != "published" else []
    quoted = rows.quoted(each for each in published.latencies() if each.canonical)
    printed = [row for row in quoted if row.device == device]
    records_count = not printed or any(row.latency_ms is not None for row in measured)
    found = {
        "measured": measured,
        "published": printed,
        "both": [*measured, *printed],
        None: measured if records_count else printed,
    }
    machines = several_machines(measured, reading.headers)
    notes = [*_extrapolated(wanted), *strangers(machines)]
    if wanted.source is None and not records_count:
        notes.append(f"no latency of {device} in {results}: these are published figures")
    warnings = (*reading.warnings, *(published.troubles() if wanted.source != "measured" else ()))
    if not found[wanted.source]:
        there = {"measured": reading.seen["device"], "published": {row.device for row in quoted}}
        asked = {name: there[name] for name in there if wanted.source in (name, "both", None)}
        raise _unheard(wanted, device, asked).after(warnings)
    return Figures(found[wanted.source], tuple(notes), warnings, machines)


def _extrapolated(wanted: Wanted) -> list[str]:
    if wanted.from_device in (None, wanted.device):
        return []
    return [
        f"EXTRAPOLATED: these are figures of {wanted.from_device}, not of {wanted.device}: latencies there are others, "
        "and their order may be"
    ]


def _unheard(wanted: Wanted, device: str, there: dict[str, set[str]]) -> Unavailable:
    known = "; ".join(f"{source}: {', '.join(sorted(devices)) or 'none'}" for source, devices in there.items())
    return Unavailable(
        f"no figures of {device}",
        f"devices that have some: {known}",
        f"measure with: bench run --device {wanted.device}, or rank by another device's figures with --from-device",
    )


ASKED = ("backend", "precision", "batch_size", "threads")


def _comparable(found: list[Row], wanted: Wanted) -> tuple[list[Row], list[str]]:
    """The rows of what is asked for that have a latency, of one interval; with notes on those left out.

    A backend that measures nothing is asked for by name, or not meant.
    """
    kept = found if wanted.backend else [row for row in found if is_runtime(row.backend)] or found
    for field in ASKED:
        kept = _of(field, getattr(wanted, field), kept)
    interval = wanted.interval or tables.intervals_in(kept)[0]
    others = sorted({row.interval for row in kept} - {interval}, key=INTERVALS.index)
    kept = _of("interval", interval, kept)
    mute = sorted({row.model for row in kept if row.latency_ms is None})
    notes = [
        f"latencies are of the interval {interval}; there are others, to be named with --interval: {other}"
        for other in others
    ]
    notes += [f"without a latency, since it failed or could not be tried: {', '.join(mute)}"] if mute else []
    return [row for row in kept if row.latency_ms is not None], notes


def _of(field: str, value: Any, found: list[Row]) -> list[Row]:
    """Raises UsageError where none has that value."""
    kept = [row for row in found if value in (None, getattr(row, field))]
    if not kept:
        there = ", ".join(str(each or "not stated") for each in sorted({getattr(row, field) for row in found}))
        option = field.replace("_", "-")
        raise UsageError(f"no figures of {option} {value}", f"there are some of: {there}", f"name another --{option}")
    return kept


def _unknown(comparable: Iterable[Row], keeping: Iterable[Limit]) -> list[str]:
    """A note for each limit that could not be judged for some model that keeps the others."""
    notes = []
    for limit in keeping:
        others = [other for other in keeping if other is not limit]
        models = {row.model for row in comparable if limit.judge(row) == "unknown" and _fit(row, others) != "no"}
        if models:
            notes.append(f"left out for want of {limit.field}: {len(models)} models that may fit otherwise")
    return notes


# Nothing fits


def _nothing(comparable: Sequence[Row], keeping: list[Limit], wanted: Wanted) -> BenchError:
    """Which limit is in the way: what is best of those that keep all the others."""
    if not comparable:
        return BenchError(f"no model fits {wanted.device}", "none of those tried has a latency", "see: bench report")
    near = [sentence for limit in keeping for sentence in _nearest(comparable, limit, keeping)]
    found = ", ".join(near) or "no single limit is in the way"
    return BenchError(f"no model fits {wanted.device}", found, "loosen a limit")


def _nearest(comparable: Iterable[Row], limit: Limit, keeping: Iterable[Limit]) -> list[str]:
    others = [other for other in keeping if other is not limit]
    kept = [
        row for row in comparable if getattr(row, limit.field) is not None and _fit(row, others) in ("yes", "maybe")
    ]
    if not kept:
        return []
    row = (min if limit.at_most else max)(kept, key=attrgetter(limit.field))
    words = "".join(f" {other.words}" for other in others)
    return [f"the {limit.best}{words} is {row.model} with {tables.printed(getattr(row, limit.field))}{limit.unit}"]


# Shown

COLUMNS = (
    tables.MODEL,
    tables.SOURCE,
    tables.TOP1,
    tables.MEDIAN,
    tables.P90,
    tables.THROUGHPUT,
    tables.BACKEND,
    tables.Column("precision", lambda row, _: row.precision, "l"),
    *tables.SHAPE,
    tables.INTERVAL,
    tables.PARAMS,
    tables.Column("GMACs", lambda row, _: tables.figure(row.gmacs)),
    tables.FILE,
    tables.CAMPAIGN,
    tables.ORIGIN,
)


def table(picked: Picked) -> Table:
    """A line a candidate."""
    found = [candidate.row for candidate in picked.candidates]
    asked = ", ".join(limit.words for limit in limits(picked.wanted)) or "no limit"
    sources = " and ".join(sorted({row.source for row in found}))
    stranger = f", EXTRAPOLATED from {picked.wanted.from_device}" if _extrapolated(picked.wanted) else ""
    title = f"Models for {picked.wanted.device}{stranger}, {sources} figures, {asked}"
    body = tables.laid_out(title, COLUMNS, found, [*picked.notes, *_differences(found)])
    beside = [(str(each.rank), each.fits, "*" if each.pareto else "") for each in picked.candidates]
    return Table(
        title,
        ("rank", "fits", "front", *body.columns),
        tuple((*marks, *line) for marks, line in zip(beside, body.rows, strict=True)),
        f"rll{body.align}",
        (*body.notes, *MARKS),
    )


def _differences(found: Sequence[Row]) -> list[str]:
    """What is not the same of all, and how to ask for one of it."""
    return [note for name, note in DIFFERING.items() if len({getattr(row, name) for row in found}) > 1]


DIFFERING = {
    "batch_size": "batch sizes differ, and a latency is of the whole batch; name one with --batch-size",
    "threads": "numbers of threads differ; name one with --threads",
    "precision": "precisions differ; name one with --precision",
}

MARKS = (
    "fits: maybe, where the limit is inside the interval of the latency",
    "front *: of those here of its source, machine and batch size none is as accurate and surely faster, "
    "or as fast and more accurate",
)


def flat(candidate: Candidate, wanted: Wanted) -> dict[str, Any]:
    """A candidate for other programs; `extrapolated_to` is empty where the figures are of the device itself."""
    stands_for = wanted.device if _extrapolated(wanted) else ""
    mark = {"rank": candidate.rank, "fits": candidate.fits, "pareto": candidate.pareto, "extrapolated_to": stands_for}
    return mark | msgspec.structs.asdict(candidate.row)


def as_json(picked: Picked) -> str:
    found = [flat(candidate, picked.wanted) for candidate in picked.candidates]
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


def as_csv(picked: Picked) -> str:
    columns = ("rank", "fits", "pareto", "extrapolated_to", *Row.__struct_fields__)
    return csv.written(columns, (flat(candidate, picked.wanted).values() for candidate in picked.candidates))


def as_text(picked: Picked) -> str:
    return "\n".join(text.lines(table(picked))) + "\n" if picked.candidates else ""


def as_markdown(picked: Picked) -> str:
    return "\n".join(markdown.lines(table(picked))) + "\n" if picked.candidates else ""


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json, "csv": as_csv}
