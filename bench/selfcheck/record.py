"""Another machine's traces: processes recorded in the layout of the bundled ones, for `bench selfcheck replay`.

A unit is one process as `bench run` samples it, or a pinned pair as `bench compare` plays it, of the same model on both
sides. The file has every unit as soon as it is finished, and is never without those that it had.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, chain, cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import __version__, admission, backends, environment, pairs, telemetry
from bench.artifacts import Cache, default_root
from bench.backends import Setup
from bench.duet import Lost, Worker
from bench.environment import OTHERS_CORES
from bench.errors import Failed, Unavailable, UsageError
from bench.formats import writing
from bench.jobs import Measure, Measured, Problem
from bench.live_worker import Done
from bench.pairs import SideName
from bench.prepare import ERRORS, Workshop, thread_environment
from bench.process import job_folder
from bench.runner import Progress, choose_cpus
from bench.schema import Frozen, Settings
from bench.selfcheck import traces
from bench.selfcheck.live import LOADS, Load, loaded
from bench.selfcheck.traces import BLOCK, SHAPE
from bench.stages import LiveStage
from bench.subjects import Asked, Match, Subject, Terms, matches

ITERATIONS = SHAPE[0]
MOST_NS = 2**31 - 1
SETTINGS: dict[Load, str] = {"none": "quiet", "busy": "busy", "burst": "burst"}
# What a block may take, for the patience with a worker that hangs; nothing that is worth recording takes longer.
LONG_NS = 1e9

Table = NDArray[np.int64]


class Recorded(NamedTuple):
    """A unit as it goes to the file: what `meta` says of it, and a table for each of its processes."""

    meta: dict[str, Any]
    tables: list[Table]


class Wanted(Frozen, frozen=True):
    """What is recorded in turn, as long as the time allows: each backend under each load, alone and in pairs."""

    model: str
    backends: tuple[str, ...]
    loads: tuple[Load, ...] = ("none",)
    budget_s: float = 600.0


def default_file() -> Path:
    return default_root() / "selfcheck-traces.npz"


def record(wanted: Wanted, file: Path, progress: Progress) -> int:
    """Adds units to the file until the time is spent; returns how many.

    Raises UsageError for a file that can't be written or holds something else, Unavailable where nothing can be run.
    """
    _try(file)
    recorder = Recorder(wanted, progress)
    admission.wait((match.case_a for match in recorder.matches), progress.say)
    progress.begin(0)
    start, longest_s, count = time.monotonic(), 0.0, 0
    for match, load, alone in cycle(recorder.turns(wanted.loads)):
        spent_s = time.monotonic() - start
        if spent_s + longest_s > wanted.budget_s:
            break
        unit = recorder.unit(match, load, alone, number=count)
        append(file, unit)
        longest_s, count = max(longest_s, time.monotonic() - start - spent_s), count + 1
        progress.step(f"{match.case_a.backend}, {unit.meta['mode']} {unit.meta['setting']}: {unit.meta['dur']:.1f} s")
    return count


# The file


def _try(file: Path) -> None:
    """Raises UsageError for a file that can't be added to, before anything is measured."""
    if file.exists():
        traces.contents(file)
    with _written(file):
        pass


@contextlib.contextmanager
def _written(file: Path) -> Iterator[Path]:
    """A file beside that one, gone after the block if it is still there."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
    try:
        with writing(file, "name another with --output"):
            beside.touch()
            yield beside
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def append(file: Path, unit: Recorded) -> None:
    """The unit is on disk behind the others when this returns; cut short, the file is as it was."""
    samples, described = traces.contents(file) if file.exists() else (np.empty((0, *SHAPE), np.int32), [])
    rows = range(len(samples), len(samples) + len(unit.tables))
    meta = json.dumps([*described, {**unit.meta, "idx": list(rows)}]).encode()
    together = np.concatenate([samples, np.stack(unit.tables).astype(np.int32)])
    with _written(file) as beside:
        with beside.open("wb") as out:
            np.savez_compressed(out, A=together, meta=np.frombuffer(meta, np.uint8))
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)


# A unit


class Recorder:
    """What every unit needs: engines, made once. Raises Unavailable where a backend can't run the model here."""

    def __init__(self, wanted: Wanted, progress: Progress) -> None:
        self.description = environment.describe()
        self.workshop = Workshop(Cache(default_root()), Settings(), environment.cpus_available(), progress.say)
        self.terms = Terms()
        self.matches = [self._match(wanted.model, name) for name in wanted.backends]
        if not self.matches:
            raise Unavailable("there is no runtime to record", "none is installed", "pip install 'bench[cpu]'")

    def _match(self, model: str, name: str) -> Match:
        if name in backends.names() and not backends.get(name).computes:
            raise UsageError(f"{name} has nothing of the machine's to record", "", "name a runtime with --backend")
        asked = Asked(sides=(model, model), backends=(name,), terms=self.terms)
        (match,) = matches(asked, self.description, self.workshop)
        if match.status != "ok":
            raise Unavailable(f"cannot record {match.key}", match.reason)
        return match

    def turns(self, loads: Sequence[Load]) -> list[tuple[Match, Load, bool]]:
        """Everything once: match, load, and whether alone or in a pair."""
        return [(match, load, alone) for load in loads for match in self.matches for alone in (True, False)]

    def unit(self, match: Match, load: Load, alone: bool, number: int) -> Recorded:
        """Records one. Raises Failed where a worker dies or the model is too slow for the file's integers."""
        assert match.a is not None
        started = time.time()
        with loaded(load):
            try:
                unit = self._solo(match.a, number) if alone else self._pair(match, number)
            except Lost as error:
                raise Failed(f"cannot record {match.key}", str(error), log=error.log) from error
        for table in unit.tables:
            if table.max() > MOST_NS:
                found = f"one of its iterations took {table.max() / 1e9:.1f} s"
                raise Failed(f"{match.key} is too slow to record", found, "take a smaller model")
        place = {"model": match.case_a.model, "backend": match.case_a.backend, "bench": __version__}
        machine = {"src": environment.machine_class(self.description), "t": round(started, 3)}
        setting = {"setting": _setting(load, unit.meta["other"])}
        return unit._replace(meta={**unit.meta, **setting, **machine, **place})

    def _solo(self, subject: Subject, number: int) -> Recorded:
        """One process, its first inferences included."""
        start = time.monotonic()
        setup = Setup(subject.case, subject.device, subject.options, subject.input_shape)
        settings = Settings(warmup=0, iterations=ITERATIONS)
        job = Measure(setup=setup, settings=settings, engine=subject.source, reference=subject.reference)
        own = backends.get(subject.case.backend).environment(subject.options)
        cpus = choose_cpus(self.workshop.cpus, subject.case.threads, number)
        answer = self.workshop.ask(job, thread_environment(subject.case.threads) | own, cpus)
        if isinstance(answer, Problem):
            raise ERRORS[answer.status](answer.reason, log=answer.log)
        assert isinstance(answer, Measured), f"a measurement was answered by {type(answer).__name__}"
        facts, duration_s = answer.telemetry, answer.telemetry["wall_ns"] / 1e9
        meta = _meta("solo", facts, duration_s, time.monotonic() - start - duration_s)
        return Recorded(meta, [solo_table(answer)])

    def _pair(self, match: Match, number: int) -> Recorded:
        """Two processes on the same CPUs, in turn, block after block: A B B A."""
        assert match.a is not None
        assert match.b is not None
        with job_folder(self.workshop.cache.root / "tmp") as folder, ExitStack() as stack:
            stage = LiveStage(match.key, match.a, match.b, self.terms, self.workshop.cpus, folder)
            first = pairs.leader(number)
            order: tuple[SideName, SideName] = (first, pairs.OTHER[first])
            start = time.monotonic()
            workers = {side: stack.enter_context(stage.worker(side, number)) for side in order}
            for side in order:
                workers[side].open()
            opened, before = time.monotonic(), _snapshot(list(workers.values()))
            blocks = alternate(workers, order)
            facts = telemetry.between(before, _snapshot(list(workers.values())))
            meta = _meta("pin", facts, time.monotonic() - opened, opened - start)
        return Recorded(meta, [pair_table(blocks[side]) for side in ("A", "B")])


def _setting(load: Load, others: float | None) -> str:
    """The load, and "wild" where others used more than it can take by itself."""
    name = SETTINGS[load]
    if (others or 0.0) <= OTHERS_CORES + len(LOADS[load]):
        return name
    return "wild" if load == "none" else f"wild+{name}"


def _meta(mode: str, facts: dict[str, Any], duration_s: float, setup_s: float) -> dict[str, Any]:
    others, steal = facts.get("others_cores"), facts.get("steal_share")
    return {"mode": mode, "dur": round(duration_s, 3), "setup_s": [round(setup_s, 3)], "other": others, "steal": steal}


def _snapshot(workers: Sequence[Worker]) -> telemetry.Snapshot:
    known = [each for worker in workers if (each := worker.snapshot()) is not None]
    return pairs.together(telemetry.snapshot(), known)


Begun = tuple[int, Done]


def alternate(workers: dict[SideName, Worker], order: tuple[SideName, SideName]) -> dict[SideName, list[Begun]]:
    """All blocks of both sides, each with when it began, in ns from the first."""
    blocks: dict[SideName, list[Begun]] = {side: [] for side in order}
    start = time.monotonic_ns()
    for number in range(ITERATIONS // BLOCK):
        for side in order if number % 2 == 0 else order[::-1]:
            begun = time.monotonic_ns() - start
            blocks[side].append((begun, workers[side].block(BLOCK, LONG_NS)))
    return blocks


def solo_table(answer: Measured) -> Table:
    """The table of a process alone; the time of the shots between its iterations is left out of the first column."""
    samples = answer.measurement.intervals["compute"]
    shots, wall = answer.telemetry["probe_ns"]["compute"], samples.samples_ns
    beside = [shots[index * len(shots) // len(wall)] for index in range(len(wall))]
    begun = [total - last for total, last in zip(accumulate(wall), wall, strict=True)]
    counted = samples.telemetry
    return _table(begun, wall, counted.cpu_ns, counted.involuntary_switches, counted.minor_faults, beside)


def pair_table(blocks: Sequence[Begun]) -> Table:
    """The table of one side; each iteration has the shot at the end of its block beside it."""
    wall = [value for _, done in blocks for value in done.wall_ns]
    begun = [start + before for start, done in blocks for before in accumulate((0, *done.wall_ns[:-1]))]
    columns = [
        list(chain.from_iterable(getattr(done.telemetry, name) or (0,) * BLOCK for _, done in blocks))
        for name in ("cpu_ns", "involuntary_switches", "minor_faults")
    ]
    return _table(begun, wall, *columns, [done.probe_ns or 0 for _, done in blocks for _ in done.wall_ns])


def _table(begun_ns: Sequence[int], *columns: Sequence[int]) -> Table:
    """Wall and CPU time, switches, faults and probe beside the start in µs; a counter without any is empty.

    The last column, a copy of memory, is not recorded.
    """
    filled = [[value // 1000 for value in begun_ns], *(column or (0,) * ITERATIONS for column in columns)]
    return np.array([*filled, (0,) * ITERATIONS], dtype=np.int64).T
