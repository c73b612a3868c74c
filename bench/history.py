"""Stored runs → series → steps in them, and between which commits each lies. The detector is in `bench.verdict`."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import environment, formats, gate, stats, verdict
from bench.baseline import Kind, Quantity, Reading, Session, all_sessions, differences, machine_words, software
from bench.compared import Comparison
from bench.errors import UsageError
from bench.schema import Frozen
from bench.store import Header
from bench.verdict import LEFT, RIGHT, Change

#: a point needs fewer processes than a baseline's session: a series bears an odd point
LEAST_PROCESSES = 3
LEAST_PAIRS = min(verdict.LOOKS)


class Point(Frozen, frozen=True, kw_only=True):
    """One run of a series. `log` is what the detector sees, `value` what a person reads, in the series' unit."""

    started_at: str
    run_id: str
    commit: str | None
    log: float
    value: float
    software: dict[str, str] = {}


class Step(Frozen, frozen=True, kw_only=True):
    """A change: the last point before it, the first after it, its size as a ratio, and whether it lasted."""

    before: Point
    after: Point
    seen: Point
    ratio: float
    z: float
    state: str


class Series(Frozen, frozen=True, kw_only=True):
    """One thing on one machine through time. `kind` says what a point is, `unit` is "ms" or "x", times A's latency."""

    name: str
    machine: str
    words: str
    kind: str
    unit: str
    points: tuple[Point, ...]
    steps: tuple[Step, ...] = ()
    left_out: int = 0

    @property
    def enough(self) -> bool:
        return len(self.points) >= LEFT + RIGHT

    @property
    def alarming(self) -> bool:
        """Whether a step to slower was seen that is neither confirmed nor gone."""
        return any(step.state == "open" and step.ratio > 1 for step in self.steps)


KINDS: dict[Kind, str] = {"normalised": "probe-normalised latency", "raw": "raw latency"}


def history(reading: Reading, name: str = "") -> list[Series]:
    """The series of all cases whose name holds `name`: latencies, and ratios where comparisons are stored.

    Raises UsageError where there is none.
    """
    found = [one for one in (*latencies(reading), *ratios(reading)) if name in one.name]
    if not found:
        what = f"whose name holds {name!r}" if name else "that was measured"
        raise UsageError(f"no case {what} in {reading.results}", "", "see: bench list results")
    return found


def latencies(reading: Reading) -> list[Series]:
    """A series for each quantity and machine."""
    found, machines = all_sessions(reading)
    groups: dict[tuple[Quantity, str], list[Session]] = {}
    for session in found:
        groups.setdefault((session.quantity, session.machine), []).append(session)
    ordered = sorted(groups, key=lambda key: (key[0].order, key[1]))
    return [_series(quantity, machines[machine].words, groups[quantity, machine]) for quantity, machine in ordered]


def ratios(reading: Reading) -> list[Series]:
    """A series for each comparison that was repeated: the same A, of the same version, on the same machine.

    A pinned reference as A makes the best series there is: the machine's speed is in both sides.
    """
    groups: dict[tuple[str, ...], dict[str, Point]] = {}
    words: dict[str, str] = {}
    for run in reading.runs():
        header = run.headers[-1]
        machine = environment.machine_class(header.environment)
        words[machine] = machine_words(header.environment)
        for found in run.comparisons:
            if found.ratio and found.pairs >= LEAST_PAIRS and header.environment.get("hardware"):
                settings = json.dumps(found.settings_a, sort_keys=True)
                key = (found.key, found.label_a, found.label_b, found.version_a, settings, machine)
                groups.setdefault(key, {})[header.run_id] = _ratio_point(found, header)
    return [_ratio_series(key, words[key[-1]], groups[key].values()) for key in sorted(groups)]


def _ratio_point(found: Comparison, header: Header) -> Point:
    assert found.ratio
    return Point(
        started_at=header.started_at,
        run_id=header.run_id,
        commit=header.commit,
        log=math.log(found.ratio),
        value=found.ratio,
        software=software(header.environment) | ({"B": found.version_b} if found.version_b else {}),
    )


def _ratio_series(key: tuple[str, ...], words: str, points: Iterable[Point]) -> Series:
    name, label_a, label_b, version_a, _, machine = key
    ordered = tuple(sorted(points, key=lambda point: (point.started_at, point.run_id)))
    reference = f"{label_a} ({version_a})" if version_a and version_a not in label_a else label_a
    return Series(
        name=name,
        machine=machine,
        words=words,
        kind=f"time of {label_b} against {reference}",
        unit="x",
        points=ordered,
        steps=steps(ordered),
    )


def _series(quantity: Quantity, words: str, sessions: Sequence[Session]) -> Series:
    """By the probe where the newest run has one: levels of the two kinds of number are not comparable."""
    kind: Kind = "normalised" if sessions[-1].normalised else "raw"
    valued = [(session, value) for session in sessions if (value := session.value(kind, LEAST_PROCESSES)) is not None]
    level = _level(kind, valued)
    points = tuple(_point(session, value, level) for session, value in valued)
    return Series(
        name=quantity.name,
        machine=sessions[-1].machine,
        words=words,
        kind=KINDS[kind],
        unit="ms",
        points=points,
        steps=steps(points),
        left_out=len(sessions) - len(points),
    )


def _level(kind: Kind, valued: Sequence[tuple[Session, float]]) -> float:
    """What to add to a value for the log of a latency: at the machine's usual speed, where values are by the probe."""
    raw = [value for session, _ in valued if (value := session.value("raw", LEAST_PROCESSES)) is not None]
    if kind == "raw" or not raw:
        return 0.0
    return stats.median(raw) - stats.median([value for _, value in valued])


def _point(session: Session, value: float, level: float) -> Point:
    return Point(
        started_at=session.started_at,
        run_id=session.run_id,
        commit=session.commit,
        log=value,
        value=math.exp(value + level) / 1e6,
        software=session.software,
    )


def steps(points: Sequence[Point]) -> tuple[Step, ...]:
    """The changes of a series, oldest first, each with the points that it lies between."""
    return tuple(_step(points, change) for change in verdict.changes([point.log for point in points]))


def _step(points: Sequence[Point], change: Change) -> Step:
    return Step(
        before=points[change.index - 1],
        after=points[change.index],
        seen=points[change.seen],
        ratio=math.exp(change.shift),
        z=change.z,
        state=change.state,
    )


# Words


def render(series: Sequence[Series], format_: str) -> str:
    """The series as text, JSON or Markdown."""
    return {"text": as_text, "json": as_json, "markdown": as_markdown}[format_](series)


def as_text(series: Iterable[Series]) -> str:
    return "\n".join(line for one in series for line in (_title(one), *(f"  {line}" for line in _lines(one)))) + "\n"


def as_markdown(series: Iterable[Series]) -> str:
    from bench.gate.markdown import escaped

    parts = ["# Latency history"]
    for one in series:
        parts += [f"## {escaped(one.name)}", "\n".join(f"- {escaped(line)}" for line in (_title(one), *_lines(one)))]
    return "\n\n".join(parts) + "\n"


def as_json(series: Iterable[Series]) -> str:
    from bench.gate.json import plain

    return json.dumps([plain(one) | {"enough": one.enough} for one in series], indent=2, allow_nan=False) + "\n"


def _title(one: Series) -> str:
    title = f"{one.name}: {one.kind} on {one.words}"
    if not one.points:
        return formats.one_line(f"{title}; no run has enough sound processes")
    first, last = one.points[0], one.points[-1]
    runs = f"{len(one.points)} runs from {first.started_at[:10]} to {last.started_at[:10]}"
    return formats.one_line(f"{title}; {runs}, now {last.value:.4g} {one.unit}")


def _lines(one: Series) -> list[str]:
    lines = [describe(step) for step in one.steps]
    if not one.enough:
        lines.append(f"too few runs to tell: {len(one.points)}, and a step needs {LEFT} before it and {RIGHT} after")
    elif not lines:
        lines.append("steady: no step of 1% or more")
    if one.left_out:
        lines.append(f"{one.left_out} runs are left out: fewer than {LEAST_PROCESSES} of their processes count")
    return [formats.one_line(line) for line in lines]


def describe(step: Step) -> str:
    """A step in words: how large, since when, whether it lasted, and between which commits to look."""
    size = f"{gate.time_taken(step.ratio)} since {step.after.started_at[:10]}"
    lasted = {
        "open": f"seen on {step.seen.started_at[:10]}; it may still go away",
        "confirmed": "and it stayed: later steps are judged against the new level",
        "went away": "but it went away again",
    }[step.state]
    return f"{size}, {lasted}. {_where(step)}"


def _where(step: Step) -> str:
    """Between which commits the cause lies; or what else changed."""
    before, after = step.before, step.after
    changed = differences(before.software, after.software)
    also = f" Changed with it: {', '.join(changed)}." if changed else ""
    if not before.commit or not after.commit:
        return f"Between run {before.run_id} and run {after.run_id}, whose commits are not on record.{also}"
    if before.commit == after.commit:
        return f"Both runs are of commit {_short(after.commit)}: look at the machine and its software.{also}"
    span = f"{_short(before.commit)}..{_short(after.commit)}"
    return f"The cause is among: git log {span}{'.' if also else ''}{also}"


def _short(commit: str) -> str:
    """Twelve digits, without the mark of uncommitted changes, so that git understands it."""
    return commit.removesuffix("-dirty")[:12]


# Otava


def otava(series: Iterable[Series], folder: Path) -> list[Path]:
    """A CSV file for each series and the `otava.yaml` that names them. Raises UsageError where it can't write."""
    written = []
    tests: dict[str, Any] = {}
    for one in series:
        name = _free(tests, one)
        path = folder / f"{_slug(name)}.csv"
        tests[name] = _test(path, COLUMNS[one.unit])
        written.append(_write(path, _csv(one.points, COLUMNS[one.unit])))
    # JSON is YAML, whatever the names hold.
    return [*written, _write(folder / "otava.yaml", json.dumps({"tests": tests}, indent=2) + "\n")]


COLUMNS = {"ms": "latency_ms", "x": "ratio"}


def _free(taken: Mapping[str, Any], one: Series) -> str:
    """A name for the series: with its machine, and a number, where others have the same."""
    names = [one.name, f"{one.name} {one.machine}", *(f"{one.name} {one.machine} {n}" for n in range(2, 1000))]
    slugs = {_slug(name) for name in taken}
    return next(name for name in map(formats.one_line, names) if _slug(name) not in slugs)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "series"


def _test(path: Path, column: str) -> dict[str, Any]:
    return {
        "type": "csv",
        "file": str(path),
        "time_column": "time",
        "attributes": ["run", "commit"],
        "metrics": {column: {"column": column, "direction": -1}},
    }


def _csv(points: Iterable[Point], column: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("time", "run", "commit", column))
    writer.writerows((point.started_at, point.run_id, point.commit or "", f"{point.value:.6g}") for point in points)
    return text.getvalue()


def _write(path: Path, text: str) -> Path:
    return formats.save(path, text, "name another --output")
