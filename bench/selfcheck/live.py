"""The detector on this machine: identical programs compared, and ones slowed down on purpose, with and without load.

Every comparison is a line in a file, so that nights add up: 0 alarms in 300 comparisons of identical programs bound the
rate of false alarms by 1 % with 95 % confidence. Nothing is measured twice to get a better answer.
"""

import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bench import __version__, backends, calibration, catalog, environment, homes, listing, stats, store, verdict
from bench.artifacts import Cache, default_root
from bench.compare import Contest, settle, slower
from bench.errors import Failed, Unavailable, Unsupported, UsageError
from bench.formats import writing
from bench.live_worker import Injection
from bench.prepare import Workshop
from bench.process import job_folder
from bench.runner import Progress
from bench.schema import Artifact, Frozen, Settings
from bench.selfcheck import layer
from bench.stages import LiveStage
from bench.subjects import Asked, Match, Terms, matches
from bench.verdict import Rule

Load = Literal["none", "busy", "burst"]
Slowdown = Literal["spin", "sleep", "layer"]
Kind = Literal["same"] | Slowdown
ALLOWED = 0.01
LEAST_CALIBRATION = 6
LOOK_AT = (3, 4, 8, 12)

# Each ends with its parent (PR_SET_PDEATHSIG), and works by itself: the loads of the recorded traces.
TIED = "import ctypes, random, sys, time\nif sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 9)\n"
BUSY = TIED + "while True: pass\n"
BURSTS = (
    TIED
    + """
stream = bytearray(64 << 20)
while True:
    until = time.monotonic() + random.uniform(0.2, 3)
    while time.monotonic() < until:
        bytes(stream)
        for _ in range(100_000): pass
    time.sleep(random.uniform(0.2, 3))
"""
)
LOADS: dict[Load, tuple[str, ...]] = {"none": (), "busy": (BUSY,), "burst": (BURSTS, BURSTS)}


class Cell(Frozen, frozen=True):
    """What is tried: identical programs ("same"), or B slowed down by `share`, under a load.

    The share is that of a busy loop or a sleep in the time of an inference, or of a further layer in its
    multiply-accumulates.
    """

    model: str
    backend: str
    threads: int
    load: Load
    kind: Kind = "same"
    share: float = 0.0

    @property
    def what(self) -> str:
        return "identical" if self.kind == "same" else f"B {self.share:.1%} slower ({self.kind})"


class Trial(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """One comparison, as a line of the file. `log_ratios` are those of its sound pairs.

    `added` is the share of the multiply-accumulates that a layer really added: what B should be slower by.
    """

    schema: int = 1
    cell: Cell
    machine_class: str
    bench_version: str = __version__
    runtime_version: str = ""
    started_at: str
    outcome: verdict.Outcome
    reason: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    dropped: int = 0
    spent_s: float = 0.0
    log_ratios: tuple[float, ...] = ()
    noted: tuple[str, ...] = ()
    added: float | None = None


class Wanted(Frozen, frozen=True):
    """How many trials of each cell there should be in the file. None: as many as the time allows, in turn."""

    cells: tuple[Cell, ...]
    counts: tuple[int, ...] | None = None
    budget_s: float = math.inf


# The file


def default_file() -> Path:
    return default_root() / "selfcheck-live.jsonl"


def read(file: Path) -> list[Trial]:
    """The trials so far. A line that was cut off is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Trial))
    return found


def append(file: Path, trial: Trial) -> None:
    """On disk when this returns."""
    with writing(file, "name another with --file"), file.open("ab") as out:
        out.write(msgspec.json.encode(trial) + b"\n")
        out.flush()
        os.fsync(out.fileno())


# What is tried


def usable(kind: Kind = "same") -> tuple[str, ...]:
    """The runtimes that this Python has, of those that a CPU's plans hold and that can be slowed down like that."""
    found = [name for name in catalog.profile("cpu").backends if name in backends.names()]
    able = [name for name in found if kind != "layer" or layer.possible(name)]
    return tuple(name for name in able if not homes.missing(backends.get(name)))


def acceptance(
    model: str,
    runtimes: Sequence[str],
    threads: int,
    loads: Sequence[Load],
    same: int,
    slow: Mapping[float, int],
    kind: Slowdown = "spin",
) -> Wanted:
    """A fixed number of trials of each cell: what a claim in the documentation rests on."""
    cells = []
    for load in loads:
        for backend in runtimes:
            place = (model, backend, threads, load)
            cells += [(Cell(*place), same), *((Cell(*place, kind, share), count) for share, count in slow.items())]
    return Wanted(cells=tuple(cell for cell, _ in cells), counts=tuple(count for _, count in cells))


def mixture(model: str, runtimes: Sequence[str], threads: int, budget_s: float) -> Wanted:
    """As much of everything as the time allows; identical programs every other time, as they are the claim."""
    cells: list[Cell] = []
    for backend in runtimes:
        for load in LOADS:
            place = (model, backend, threads, load)
            cells += [Cell(*place), Cell(*place, "spin", 0.02), Cell(*place), Cell(*place, "spin", 0.03)]
        cells += [Cell(model, backend, threads, "none"), Cell(model, backend, threads, "none", "sleep", 0.05)]
        if layer.possible(backend):
            cells += [Cell(model, backend, threads, "none"), Cell(model, backend, threads, "none", "layer", 0.03)]
    return Wanted(cells=tuple(cells), budget_s=budget_s)


def order(wanted: Wanted, before: Iterable[Trial]) -> Iterator[Cell]:
    """The cells in turn, so that whatever the machine does spreads over them, less what the file has."""
    if wanted.counts is None:
        while True:
            yield from wanted.cells
    left = dict(zip(wanted.cells, wanted.counts, strict=True))
    for trial in before:
        if trial.cell in left:
            left[trial.cell] -= 1
    while any(count > 0 for count in left.values()):
        for cell in left:
            if left[cell] > 0:
                left[cell] -= 1
                yield cell


def run(wanted: Wanted, file: Path, progress: Progress, terms: Terms | None = None) -> None:
    """Tries what is wanted, a line in the file for each, and calibrates by all that the file has then.

    Interrupted, it goes on where it stopped.
    """
    bench = Bench(progress, terms or Terms())
    try:
        _try(wanted, file, bench, progress)
    finally:
        calibrate(read(file), bench.machine_class, bench.workshop.cache.root)


def _try(wanted: Wanted, file: Path, bench: "Bench", progress: Progress) -> None:
    start, longest_s = time.monotonic(), 0.0
    before = [trial for trial in read(file) if trial.machine_class == bench.machine_class]
    if wanted.counts:
        progress.begin(sum(1 for _ in order(wanted, before)))
    for cell in order(wanted, before):
        spent_s = time.monotonic() - start
        if spent_s + longest_s > wanted.budget_s:
            break
        trial = bench.trial(cell)
        append(file, trial)
        longest_s = max(longest_s, time.monotonic() - start - spent_s)
        progress.step(f"{cell.backend}, {cell.what}, load {cell.load}: {trial.outcome}")


class Bench:
    """What every trial needs: engines, made once, and the machine's calibration as `bench compare` would use it."""

    def __init__(self, progress: Progress, terms: Terms) -> None:
        self.description = environment.describe()
        self.machine_class = environment.machine_class(self.description)
        self.terms = terms
        self.workshop = Workshop(Cache(default_root()), Settings(), environment.cpus_available(), progress.say)
        self.calibrated = calibration.load(self.workshop.cache.root, self.machine_class)
        self._matches: dict[tuple[str, str, str, int], Match] = {}

    def trial(self, cell: Cell) -> Trial:
        """One comparison. Raises what stands in the way of every further one, too."""
        more = self._more(cell)
        match, started_at = self._match(cell, more.path if more else cell.model), store.now()
        assert match.a
        assert match.b
        sd = calibration.sd(self.calibrated, cell.threads, cell.backend)
        with job_folder(self.workshop.cache.root / "tmp") as folder, loaded(cell.load):
            stage = LiveStage(match.key, match.a, match.b, self.terms, self.workshop.cpus, folder)
            contest = Contest(stage, self.terms, sd)
            found, _ = settle(match, contest)
        if found.outcome is None:
            raise Failed(f"cannot compare {cell.model} on {cell.backend} with itself", found.reason, log=found.log)
        statistic = contest.rule.statistic
        return Trial(
            cell=cell,
            machine_class=self.machine_class,
            runtime_version=found.version_a,
            started_at=started_at,
            outcome=found.outcome,
            reason=found.reason,
            ratio=found.ratio,
            low=found.low,
            high=found.high,
            pairs=found.pairs,
            dropped=found.dropped,
            spent_s=found.spent_s,
            log_ratios=tuple(getattr(each.pair, statistic) for each in contest.attempts if each.pair.sound),
            noted=tuple(each.reason for each in found.validity),
            added=more.made_by["added"] if more else None,
        )

    def _more(self, cell: Cell) -> Artifact | None:
        """The model with a layer more, where the cell asks for it. Raises Unsupported where there can be none."""
        if cell.kind != "layer":
            return None
        if not layer.possible(cell.backend):
            raise Unsupported(f"no layer can be added for {cell.backend}", "it runs no ONNX graph", "use --inject spin")
        (card,) = catalog.select([cell.model], ())
        return layer.slower_model(self.workshop, card, cell.share)

    def _match(self, cell: Cell, contender: str) -> Match:
        """The model and its contender, slowed down in time where the cell asks for it.

        Raises Unavailable where the cell can't be tried on this machine.
        """
        place = (cell.model, contender, cell.backend, cell.threads)
        if place not in self._matches:
            asked = Asked(sides=place[:2], backends=(cell.backend,), threads=(cell.threads,), terms=self.terms)
            (self._matches[place],) = matches(asked, self.description, self.workshop)
        match = self._matches[place]
        if match.status != "ok" or not match.b:
            raise Unavailable(f"cannot try {match.key}", match.reason)
        if cell.kind in ("spin", "sleep"):
            return msgspec.structs.replace(match, b=slower(match.b, Injection(cell.kind, cell.share)))
        return match


@contextlib.contextmanager
def loaded(load: Load) -> Iterator[None]:
    """The machine under that load, which ends with the block, and with this process in any case."""
    with contextlib.ExitStack() as stack:
        for script in LOADS[load]:
            process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


# What it shows

Row = dict[str, Any]


def shown_machine(trials: Iterable[Trial], here: str) -> str:
    """The class of machine to report on: this one, or the only one that a file brought from elsewhere has.

    Raises UsageError where several others could be meant.
    """
    classes = sorted({trial.machine_class for trial in trials})
    if here in classes or not classes:
        return here
    if len(classes) > 1:
        found = f"it has those of {', '.join(classes)}"
        raise UsageError("the file has no comparisons of this machine", found, "split it, a class of machine a file")
    return classes[0]


def rows(trials: Sequence[Trial], machine_class: str) -> list[Row]:
    """A row for each cell that was tried on this class of machine."""
    here = [trial for trial in trials if trial.machine_class == machine_class]
    cells = sorted(
        {trial.cell for trial in here},
        key=lambda cell: (cell.model, cell.backend, cell.threads, cell.load, cell.kind, cell.share),
    )
    return [_row(cell, [trial for trial in here if trial.cell == cell]) for cell in cells]


def _row(cell: Cell, trials: Sequence[Trial]) -> Row:
    outcomes = [trial.outcome for trial in trials]
    alarms = outcomes.count("REGRESSION")
    low, high = stats.clopper_pearson(alarms, len(trials))
    passed = [trial.spent_s for trial in trials if trial.outcome == "PASS"]
    return {
        "model": cell.model,
        "backend": cell.backend,
        "threads": cell.threads,
        "load": cell.load,
        "tried": cell.what,
        "jobs": len(trials),
        "regression": alarms,
        "pass": outcomes.count("PASS"),
        "improved": outcomes.count("IMPROVED"),
        "inconclusive": outcomes.count("INCONCLUSIVE"),
        "rate_95": f"≤ {high:.1%}" if cell.kind == "same" else f"≥ {low:.1%}",
        "pass_s": round(statistics.median(passed), 1) if passed else None,
        "pairs": round(statistics.fmean(trial.pairs for trial in trials), 1),
    }


def summary(trials: Sequence[Trial], machine_class: str, format_: str) -> str:
    """The table of this class of machine, and what its spread lets one see."""
    table = rows(trials, machine_class)
    if format_ == "json":
        return listing.as_json(table)
    here = [trial for trial in trials if trial.machine_class == machine_class]
    words = [reach(entry, pair_seconds(here, entry)) for entry in spreads(trials, machine_class)]
    shown = _markdown(table) if format_ == "markdown" else listing.as_text(table)
    return "\n".join([shown, *words, ""]) if words else shown


def _markdown(table: Sequence[Row]) -> str:
    if not table:
        return "none\n"
    lines = [
        list(table[0]),
        ["---"] * len(table[0]),
        *(["–" if cell is None else str(cell) for cell in row.values()] for row in table),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def too_many_alarms(trials: Iterable[Trial], machine_class: str) -> bool:
    """Whether the comparisons of identical programs refute the 1 % that the rule promises."""
    same = [trial for trial in trials if trial.cell.kind == "same" and trial.machine_class == machine_class]
    alarms = sum(trial.outcome == "REGRESSION" for trial in same)
    return bool(same) and stats.clopper_pearson(alarms, len(same))[0] > ALLOWED


# The calibration


def calibrate(trials: Iterable[Trial], machine_class: str, root: Path) -> None:
    """Saves what `bench compare` is to reckon with on this class of machine."""
    for entry in spreads(trials, machine_class):
        calibration.save(root, machine_class, entry)


def spreads(trials: Iterable[Trial], machine_class: str) -> list[calibration.Entry]:
    """For each runtime and number of threads, how far identical programs lie apart here: under the worst load.

    Loads aren't pooled: a calm majority would hide the others.
    """
    by_place: dict[tuple[str, int], dict[Load, list[float]]] = {}
    for trial in trials:
        if trial.cell.kind == "same" and trial.machine_class == machine_class:
            loads = by_place.setdefault((trial.cell.backend, trial.cell.threads), {})
            loads.setdefault(trial.cell.load, []).extend(trial.log_ratios)
    entries = []
    for (backend, threads), loads in by_place.items():
        known = [values for values in loads.values() if len(values) >= LEAST_CALIBRATION]
        if known:
            sd = max(verdict.floor_sd(values) for values in known)
            entries.append(calibration.Entry(backend, threads, round(sd, 5), sum(map(len, known)), store.now()))
    return entries


def reach(entry: calibration.Entry, pair_s: float) -> str:
    """In words what such a spread lets `bench compare` see, by the time spent."""
    parts = [f"{smallest(entry.sd, pairs):.1%} in {pairs * pair_s:.0f} s" for pairs in LOOK_AT]
    return (
        f"{entry.backend}, {entry.threads} thread{'s' * (entry.threads > 1)}: pairs differ by {entry.sd:.2%} (SD, from "
        f"{entry.pairs} pairs); nine slowdowns in ten are seen from {', '.join(parts)}"
    )


def smallest(sd: float, pairs: int) -> float:
    """The slowdown that a plan of so many pairs calls REGRESSION nine times in ten."""
    rule = Rule(pairs=pairs, sd=max(Rule.sd, sd))
    _, error = rule.looks()[-1]
    quantile = stats.t_quantile(1 - error, rule.df + pairs - 1) + statistics.NormalDist().inv_cdf(0.9)
    return math.expm1(math.log1p(rule.margin) + quantile * rule.sd / math.sqrt(pairs))


def pair_seconds(trials: Iterable[Trial], entry: calibration.Entry) -> float:
    """The median time of a pair on that runtime."""
    times = [
        trial.spent_s / (trial.pairs + trial.dropped)
        for trial in trials
        if (trial.cell.backend, trial.cell.threads) == (entry.backend, entry.threads) and trial.pairs
    ]
    return statistics.median(times) if times else 0.0
