"""Stored records → sessions → a baseline: for each case, what several runs on one kind of machine measured.

A session is what one run measured of a quantity, in several processes. Values are natural logarithms of nanoseconds,
raw or normalised by the probe, as `bench.verdict` makes them.
"""

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bench import __version__, catalog, environment, stats, store, telemetry, verdict
from bench.errors import UsageError
from bench.schema import Case, Frozen, Interval, Record, Samples
from bench.store import Header, Run

Kind = Literal["normalised", "raw"]

LEAST_PROCESSES = 4
#: with these a process does not count
UNFIT = telemetry.UNFIT | {"unsynchronised"}
#: the newest sessions that a baseline keeps of a case: enough for its limits, and machines age
MOST_SESSIONS = 20
BETA = 0.8
# Fitted on five recorded sessions, beta made the smallest detectable slowdown worse (3.9 % instead of 3.75 % with 0.8).
LEAST_FITTED = 10


# Subjects and their sessions


class Quantity(Frozen, frozen=True, kw_only=True):
    """What must be the same for two latencies to be compared."""

    case: Case
    interval: Interval
    weights: str = "random"
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.case.key} {self.interval}"

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.case.key, self.interval, self.weights, self.options)


class Machine(Frozen, frozen=True, omit_defaults=False):
    """A class of machines, and how far latency follows the probe on it."""

    words: str
    beta: float = BETA


class Session(Frozen, frozen=True, kw_only=True):
    """What one run measured of a quantity. `raw` and `normalised` hold a value for each process that counts for it.

    `probe` is the log of the probe beside it, None without one. `left_out` says of the others why they don't count,
    `doubts` which reasons of distrust the processes have, and how many of them.
    """

    quantity: Quantity
    run_id: str
    machine: str
    started_at: str
    commit: str | None = None
    words: str = ""
    software: dict[str, str] = {}
    artifact: str = ""
    raw: tuple[float, ...] = ()
    normalised: tuple[float, ...] = ()
    probe: float | None = None
    left_out: tuple[str, ...] = ()
    doubts: dict[str, int] = {}
    spent_s: float = 0.0

    def value(self, kind: Kind, least: int = LEAST_PROCESSES) -> float | None:
        """The value of the session, None with fewer processes than `least`."""
        values = self.normalised if kind == "normalised" else self.raw
        return verdict.session_value(values) if len(values) >= least else None


class Process(NamedTuple):
    """The values of one process; None where it can't have that one. `reason` says so in words."""

    raw: float | None = None
    normalised: float | None = None
    probe: float | None = None
    reason: str = ""


def process(record: Record, interval: Interval, beta: float = BETA) -> Process:
    """What one repetition is worth.

    Without a probe, preempted processes don't count: on the recorded traces their medians tell the load, and a
    margin of 10 % would then alarm on every one beside a busy neighbour; without them, on none.
    """
    assert record.measurement is not None
    samples = record.measurement.intervals[interval]
    if reason := _unfit(record, samples):
        return Process(reason=reason)
    wall, counted, shots = samples.samples_ns, samples.telemetry, _probe_shots(record, interval)
    preempted = any(each.reason == "preempted" for each in record.validity)
    raw = None if preempted else verdict.process_value(wall)
    if not shots:
        return Process(raw=raw, reason="preempted, and it has no probe" if preempted else "")
    beside = [shots[index * len(shots) // len(wall)] for index in range(len(wall))]
    cpu = counted.cpu_ns if _cpu_time_counts(record.case) else ()
    return Process(
        raw=raw,
        normalised=verdict.process_value(wall, beside, cpu, counted.involuntary_switches, beta),
        probe=None if preempted else math.log(stats.median(shots)),
    )


def _unfit(record: Record, samples: Samples) -> str:
    """Why a repetition does not count, "" if it does."""
    reasons = {each.reason for each in record.validity} & UNFIT
    if reasons:
        return ", ".join(sorted(reasons))
    if min(samples.samples_ns, default=0) <= 0:
        return "it holds no usable samples"
    columns = (samples.telemetry.cpu_ns, samples.telemetry.involuntary_switches)
    if any(len(column) not in (0, len(samples.samples_ns)) for column in columns):
        return "its columns differ in length"
    return ""


def _probe_shots(record: Record, interval: Interval) -> list[int]:
    """The shots of the compute probe, in ns, spread evenly over the iterations of that interval; none without a probe.

    `telemetry["probe_ns"][interval]` is where the run keeps them.
    """
    kept = record.telemetry.get("probe_ns")
    shots = kept.get(interval) if isinstance(kept, dict) else None
    sound = isinstance(shots, list) and all(isinstance(shot, int) and shot > 0 for shot in shots)
    return shots if shots and sound else []


def _cpu_time_counts(case: Case) -> bool:
    """Whether CPU time can stand in for wall time: one thread, and no other device that does the work."""
    profile = catalog.profiles().get(case.device)
    return case.threads == 1 and profile is not None and profile.kind == "cpu"


# Reading


class Reading:
    """Runs below a folder, or in a file, read as often as needed; what is wrong with them is said once."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.warnings: dict[str, None] = {}
        if not store.paths(results):
            found = "it holds no run" if results.exists() else "there is no such file or folder"
            raise UsageError(f"no results in {results}", found, "measure with: bench run --repetitions 5")

    def runs(self) -> Iterator[Run]:
        for path in store.paths(self.results):
            run = self._read(path)
            if run:
                yield run

    def _read(self, path: Path) -> Run | None:
        try:
            run = store.read(path)
        except store.NoRun as error:
            if path == self.results:
                raise
            self.warnings[f"left out: {error}"] = None
            return None
        if run.damaged:
            lines = "1 line" if run.damaged == 1 else f"{run.damaged} lines"
            self.warnings[f"{path}: {lines} left out; damaged, or cut off in the middle"] = None
        return run


def sessions(runs: Iterable[Run], machines: Mapping[str, Machine] | None = None) -> list[Session]:
    """The sessions of all runs, oldest first. A run that was copied is still one; of a repetition the last try counts.

    Runs are read one after another and their samples let go, so `runs` had better be an iterator.
    """
    machines = machines or {}
    held: dict[tuple[str, str, Quantity], dict[int, tuple[Record, Process]]] = {}
    headers: dict[tuple[str, str], Header] = {}
    for run in runs:
        headers |= {(header.run_id, header.environment_id): header for header in run.headers}
        for record in sorted(_measured(run.records), key=lambda record: record.started_at):
            header = headers.get((record.run_id, record.environment_id))
            if header is None or not header.environment.get("hardware"):
                continue  # nobody knows what machine it was
            machine = environment.machine_class(header.environment)
            beta = machines[machine].beta if machine in machines else BETA
            for quantity in quantities(record):
                one = process(record, quantity.interval, beta)
                held.setdefault((record.run_id, machine, quantity), {})[record.repetition] = (emptied(record), one)
    found = [_session(key, list(tries.values()), headers) for key, tries in held.items()]
    return sorted(found, key=lambda session: (session.started_at, session.run_id, session.quantity.order))


def _measured(records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if record.status == "ok" and record.measurement)


def quantities(record: Record) -> list[Quantity]:
    """What a record measured, or would have."""
    intervals = record.measurement.intervals if record.measurement else record.settings.intervals
    options = tuple(sorted(record.settings.options.items()))
    weights = record.settings.weights
    return [Quantity(case=record.case, interval=interval, weights=weights, options=options) for interval in intervals]


def emptied(record: Record) -> Record:
    """Without the samples, which are most of it."""
    return msgspec.structs.replace(record, measurement=None, log="")


def _session(
    key: tuple[str, str, Quantity],
    tries: Sequence[tuple[Record, Process]],
    headers: Mapping[tuple[str, str], Header],
) -> Session:
    run_id, machine, quantity = key
    processes = [one for _, one in tries]
    records = [record for record, _ in tries]
    header = headers[run_id, records[-1].environment_id]
    return Session(
        quantity=quantity,
        run_id=run_id,
        machine=machine,
        started_at=min(record.started_at for record in records),
        commit=header.commit,
        words=machine_words(header.environment),
        software=software(header.environment),
        artifact=records[-1].artifact.model[:16] if records[-1].artifact else "",
        raw=tuple(one.raw for one in processes if one.raw is not None),
        normalised=tuple(one.normalised for one in processes if one.normalised is not None),
        probe=_median([one.probe for one in processes if one.probe is not None]),
        left_out=tuple(one.reason for one in processes if one.reason),
        doubts=dict(sorted(Counter(each.reason for record in records for each in record.validity).items())),
        spent_s=sum(_number(record.telemetry.get("spent_ns")) for record in records) / 1e9,
    )


def _median(values: list[float]) -> float | None:
    return stats.median(values) if values else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def machine_words(description: Mapping[str, Any]) -> str:
    """The machine, for a reader."""
    if phone := environment.phone_words(description):
        return phone
    hardware, limits = description.get("hardware") or {}, description.get("limits") or {}
    processor = (hardware.get("cpu") or {}).get("name") or "unknown CPU"
    cpus = limits.get("usable_cpus") or hardware.get("logical_cpus") or "?"
    virtual = f"virtual machine ({hardware.get('hypervisor') or 'unknown kind'})"
    gpu = environment.gpu_of(description)
    parts = [f"{processor}, {cpus} usable CPUs", *([gpu["name"]] if gpu else hardware.get("gpus") or ())]
    return ", ".join([*parts, virtual] if hardware.get("virtual_machine") else parts)


def software(description: Mapping[str, Any]) -> dict[str, str]:
    """What else makes a latency: versions of runtimes, Python, kernel and GPU driver, and variables that steer them."""
    system = description.get("system") or {}
    found = {name: system.get(name) for name in ("python", "kernel", "distribution")}
    found |= description.get("packages") or {}
    found |= environment.in_homes(description)
    found |= description.get("variables") or {}
    found |= {"NVIDIA driver": environment.gpu_of(description).get("driver")}
    return {name: str(value) for name, value in sorted(found.items()) if value is not None}


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`onnxruntime 1.20.0 → 1.21.0`, for each name whose value differs."""
    names = sorted({*then, *now})
    return [
        f"{name} {then.get(name, 'absent')} → {now.get(name, 'absent')}"
        for name in names
        if then.get(name) != now.get(name)
    ]


def fitted(found: Iterable[Session]) -> dict[str, Machine]:
    """The machines of these sessions, each with its beta: fitted over all quantities from ten sessions of one on."""
    groups: dict[str, dict[Quantity, list[Session]]] = {}
    for session in found:
        groups.setdefault(session.machine, {}).setdefault(session.quantity, []).append(session)
    return {
        machine: Machine(words=next(iter(by_quantity.values()))[-1].words, beta=_beta(by_quantity.values()))
        for machine, by_quantity in groups.items()
    }


def _beta(groups: Iterable[Sequence[Session]]) -> float:
    """The common slope of latency on probe within quantities, each of which has its own level."""
    walls: list[float] = []
    probes: list[float] = []
    for group in groups:
        points = [
            (wall, session.probe)
            for session in group
            if (wall := session.value("raw")) is not None and session.probe is not None
        ]
        if len(points) >= LEAST_FITTED:
            for values, column in zip((walls, probes), zip(*points, strict=True), strict=True):
                level = math.fsum(column) / len(column)
                values += [value - level for value in column]
    return round(verdict.fitted_beta(walls, probes), 6) if walls else BETA


def all_sessions(reading: Reading) -> tuple[list[Session], dict[str, Machine]]:
    """All sessions, normalised with the beta of their machine. Reads twice where one differs from the default."""
    found = sessions(reading.runs())
    machines = fitted(found)
    if any(machine.beta != BETA for machine in machines.values()):
        found = sessions(reading.runs(), machines)
    return found, machines


# A baseline


class Entry(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """The sessions of one quantity on one machine, oldest first: run, processes that count, values, and ms to read."""

    case: str
    interval: Interval
    weights: str
    options: dict[str, str]
    machine: str
    artifact: str
    software: str
    runs: tuple[str, ...]
    processes: tuple[int, ...]
    ms: tuple[float | None, ...]
    raw: tuple[float | None, ...]
    normalised: tuple[float | None, ...]

    @property
    def quantity(self) -> Quantity:
        return Quantity(
            case=case_of(self.case),
            interval=self.interval,
            weights=self.weights,
            options=tuple(sorted(self.options.items())),
        )

    def values(self, kind: Kind, without: str = "") -> list[float]:
        """The values of its sessions, but for that of one run."""
        column = self.normalised if kind == "normalised" else self.raw
        return [value for run, value in zip(self.runs, column, strict=True) if value is not None and run != without]


class Taken(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """When a run was made, and of which commit."""

    started_at: str
    commit: str | None


class Baseline(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """Entries, and what they refer to by name. `requests` are the command lines that measured them, as plans."""

    bench: str
    machines: dict[str, Machine]
    software: dict[str, dict[str, str]]
    runs: dict[str, Taken]
    requests: tuple[dict[str, Any], ...]
    cases: tuple[Entry, ...]

    @property
    def warnings(self) -> list[str]:
        """What this baseline lacks, a line each."""
        short = [entry for entry in self.cases if _complete(entry) < verdict.LEAST_SESSIONS]
        lines = []
        if short:
            lines.append(
                f"{len(short)} of {len(self.cases)} cases have fewer than {verdict.LEAST_SESSIONS} sessions of "
                f"{LEAST_PROCESSES} processes, so bench check will be INCONCLUSIVE on them (first: {short[0].case})"
            )
        starts = sorted(taken.started_at for taken in self.runs.values())
        if len(starts) > 1 and starts[0][:13] == starts[-1][:13]:
            lines.append("all sessions are of one hour; a machine's speed changes over days, so add some of other days")
        return lines


def _complete(entry: Entry) -> int:
    return max(len(entry.values("raw")), len(entry.values("normalised")))


def case_of(key: str) -> Case:
    """The case of a key. Only the model may hold a slash."""
    model, backend, device, precision, batch_size, threads = key.rsplit("/", 5)
    numbers = {"batch_size": int(batch_size.removeprefix("bs")), "threads": int(threads.removeprefix("t"))}
    fields = {"model": model, "backend": backend, "device": device, "precision": precision}
    return msgspec.convert(fields | numbers, Case)


def from_records(reading: Reading, without: Iterable[str] = (), most: int = MOST_SESSIONS) -> Baseline:
    """The baseline that these records are: of each quantity the newest sessions with the newest runtimes.

    Sessions of runs in `without` don't count. Raises UsageError where no session is left.
    """
    excluded = set(without)
    found, machines = all_sessions(reading)
    groups: dict[tuple[str, Quantity], list[Session]] = {}
    for session in found:
        if session.run_id not in excluded and (session.raw or session.normalised):
            groups.setdefault((session.machine, session.quantity), []).append(session)
    if not groups:
        found_ = "no run in it but the one to judge" if excluded else "no run in it"
        raise UsageError(
            f"no baseline in {reading.results}",
            f"{found_} has sound measurements",
            "measure at other times with: bench run --repetitions 5",
        )
    kept = {key: _newest(_same_runtimes(group), most) for key, group in groups.items()}
    used = {session.run_id: session for group in kept.values() for session in group}
    return Baseline(
        bench=__version__,
        machines={name: machines[name] for name in sorted({session.machine for session in used.values()})},
        software={_digest(session.software): session.software for group in kept.values() for session in group[-1:]},
        runs={run: Taken(started_at=used[run].started_at, commit=used[run].commit) for run in sorted(used)},
        requests=_requests(reading, set(used)),
        cases=tuple(sorted((_entry(group) for group in kept.values()), key=_order)),
    )


def _same_runtimes(group: list[Session]) -> list[Session]:
    """The sessions whose packages are those of the newest: across an upgrade, "the baseline" would be two things."""
    newest = packages(group[-1].software)
    return [session for session in group if packages(session.software) == newest]


def _newest(group: list[Session], most: int) -> list[Session]:
    """As many as wanted, where there are more those with enough processes."""
    whole = [
        session for session in group if session.value("raw") is not None or session.value("normalised") is not None
    ]
    return group if len(group) <= most else whole[-most:]


def packages(facts: Mapping[str, str]) -> dict[str, str]:
    """The runtimes among the software."""
    return {name: version for name, version in facts.items() if name in environment.PACKAGES}


def _order(entry: Entry) -> tuple[Any, ...]:
    return (*entry.quantity.order, entry.machine)


def _requests(reading: Reading, runs: set[str]) -> tuple[dict[str, Any], ...]:
    """The plans of these runs, each once."""
    found = {
        json.dumps(header.request, sort_keys=True): header.request
        for run in reading.runs()
        for header in run.headers
        if header.run_id in runs and header.request
    }
    return tuple(found[text] for text in sorted(found))


def _entry(group: Sequence[Session]) -> Entry:
    newest = group[-1]
    raw = [session.value("raw") for session in group]
    return Entry(
        case=newest.quantity.case.key,
        interval=newest.quantity.interval,
        weights=newest.quantity.weights,
        options=dict(newest.quantity.options),
        machine=newest.machine,
        artifact=newest.artifact,
        software=_digest(newest.software),
        runs=tuple(session.run_id for session in group),
        processes=tuple(max(len(session.raw), len(session.normalised)) for session in group),
        ms=tuple(None if value is None else float(f"{math.exp(value) / 1e6:.4g}") for value in raw),
        raw=tuple(map(_rounded, raw)),
        normalised=tuple(_rounded(session.value("normalised")) for session in group),
    )


def _rounded(value: float | None) -> float | None:
    """To a millionth, which is a millionth of the latency too."""
    return None if value is None else round(value, 6)


def _digest(facts: object) -> str:
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()[:12]


# The file


FORMAT = 1
AGAIN = "make it again with: bench baseline save"


def text_of(baseline: Baseline) -> str:
    """The file: JSON with a line for each case, so that a diff shows which ones changed."""
    data = msgspec.to_builtins(baseline)
    head = {"bench_baseline": FORMAT, "content_hash": _hash(data), "bench": data["bench"]}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    blocks = [
        *(f"{json.dumps(name)}: {_block(data[name])}" for name in ("machines", "software", "runs")),
        *(f"{json.dumps(name)}: {_block(data[name])}" for name in ("requests", "cases")),
    ]
    return "\n".join(["{", *lines, ",\n".join(blocks), "}"]) + "\n"


def _block(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """An object or array with a line for each of its items."""
    if isinstance(value, Mapping):
        lines = [f"{json.dumps(name)}: {_line(value[name])}" for name in sorted(value)]
        return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"
    return "[\n" + ",\n".join(map(_line, value)) + "\n]" if value else "[]"


def _line(value: Any) -> str:
    """The case first, whatever the alphabet says, then sorted."""
    first = {"case": value["case"]} if "case" in value else {}
    return json.dumps(first | {name: value[name] for name in sorted(value)}, ensure_ascii=False)


def _hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def save(baseline: Baseline, path: Path) -> None:
    """Writes the file. Raises UsageError where that is impossible, or its name means records to a reader."""
    if path.suffix == ".jsonl":
        raise UsageError(f"{path} is called like a file of records", "", "name the baseline .json")
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text_of(baseline), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise UsageError(f"cannot write {path}", error.strerror or str(error), "name another with --output") from error


def load(path: Path) -> Baseline:
    """A saved baseline. Raises UsageError for one that is newer, cut off, empty or changed by hand."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error), "check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no baseline", "it isn't text", AGAIN) from error
    if not text.strip():
        raise UsageError(f"{path} is no baseline", "it is empty", AGAIN)
    data = _decoded(path, text)
    if data.pop("content_hash", None) != _hash({name: data[name] for name in data if name != "bench_baseline"}):
        found = "its contents don't match their hash: somebody edited or merged them"
        raise UsageError(f"{path} was changed after it was saved", found, f"restore it, or {AGAIN}")
    del data["bench_baseline"]
    try:
        return msgspec.convert(data, Baseline)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is no baseline", str(error), AGAIN) from error


def _decoded(path: Path, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = f"it is cut off, or was edited or merged by hand: {error}"
        raise UsageError(f"{path} is no baseline", found, f"restore it, or {AGAIN}") from error
    if not isinstance(data, dict) or not isinstance(data.get("bench_baseline"), int):
        raise UsageError(f"{path} is no baseline", "it doesn't say that it is one", AGAIN)
    if data["bench_baseline"] > FORMAT:
        raise UsageError(
            f"{path} was saved by a newer bench",
            f"baseline format {data['bench_baseline']}, this bench reads up to {FORMAT}",
            "upgrade bench",
        )
    return data


def read(path: Path, without: Iterable[str] = ()) -> tuple[Baseline, list[str]]:
    """The baseline in a saved file, or that which a folder or file of records is; and warnings.

    Runs in `without` are left out: nothing is compared with itself.
    """
    if path.is_dir() or path.suffix == ".jsonl":
        reading = Reading(path)
        return from_records(reading, without), list(reading.warnings)
    return load(path), []
