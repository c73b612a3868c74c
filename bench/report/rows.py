"""Records → rows: one for each case and interval, with what its repetitions say together."""

import functools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast, get_args

import msgspec

from bench import backends, catalog, published, stats, store
from bench.catalog import ModelCard
from bench.published import Latency
from bench.schema import Artifact, Case, Frozen, Interval, Measurement, Precision, Record, Samples, Status, Telemetry
from bench.store import Run

INTERVALS: tuple[Interval, ...] = get_args(Interval)
#: the family of a model that has no card, and the weights that are in its file
OWN = "own"
#: weights under which a network is the one whose accuracy was published, or has its size and speed
PUBLISHED_WEIGHTS = ("random", "pretrained")

Key = tuple[Case, Interval]
#: (device, environment_id) → a run of that machine, of devices whose rows come from several machines
Machines = Mapping[tuple[str, str], str]
ONE_MACHINE: Machines = {}


class Row(Frozen, frozen=True, kw_only=True):
    """A case and one interval of it. Latencies are of the whole batch and in ms; None is unknown or does not apply.

    `source` is "measured", by the run `run_id`, or "published", at the line that `document` names ("page.md:53"): then
    `threads` is 0 where they are not stated or it is a GPU, and `validity` holds what is wrong with the figure.

    `latency_ms` is the median of the processes' medians, `ci_low_ms` to `ci_high_ms` its interval, which covers with
    probability `ci_level`. `throughput` is in images/s, `top1` and `top5` are fractions as published. `gmacs` and
    `params_m` are counted, or of a published row as published where nobody counted; `storage_mb` is the file that was
    measured, or of a published row as published. `validity` says of each reason in how many repetitions it was found
    ("contended 2/5"), `evidence` what the last of them saw. `stopped` is "repetitions", "precision", "budget",
    "interrupted", or empty where nothing was measured. Where `loops` is above 1, a sample is the mean of up to so many
    inferences. `builds` is how many of an engine the interval is of, where several repetitions ran one; else 0.
    """

    model: str
    family: str
    backend: str
    device: str
    precision: str
    batch_size: int
    threads: int
    interval: Interval
    status: Status
    reason: str
    validity: tuple[str, ...]
    latency_ms: float | None
    ci_low_ms: float | None
    ci_high_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float | None
    samples: int
    repetitions: int
    throughput: float | None
    parity_max_error: float | None
    top1: float | None
    top5: float | None
    gmacs: float | None
    params_m: float | None
    storage_mb: float | None
    source: str
    ci_level: float | None
    mean_ms: float | None
    first_ms: float | None
    load_ms: float | None
    build_ms: float | None
    export_ms: float | None
    peak_memory_mb: float | None
    stopped: str
    run_id: str
    started_at: str
    evidence: tuple[str, ...]
    weights: str
    options: dict[str, str]
    environment_id: str
    document: str = ""
    campaign: str = ""
    loops: int = 1
    builds: int = 0


class Repetition(msgspec.Struct, frozen=True):
    """A sound record, and the samples of the interval in question."""

    record: Record
    measurement: Measurement
    samples: Samples


def rows(runs: Iterable[Run], cards: Mapping[str, ModelCard], interval: str | None = None) -> list[Row]:
    """A row for each case and interval, all of them or one, in the order of the catalog.

    Runs are read one after another and superseded records let go, so `runs` had better be an iterator. Of a record
    `lean` keeps what is needed here.
    """
    held = newest(runs)
    keys = [key for key in held if interval in (None, key[1])]
    found = [_row(key, held[key], cards.get(key[0].model)) for key in keys]
    return sorted(found, key=order(cards))


def family_of(model: str, cards: Mapping[str, ModelCard]) -> str:
    card = cards.get(model)
    return card.family if card else OWN


def backend_rank(name: str) -> tuple[int, str]:
    """Backends in the order in which the project lists them, strangers last."""
    return (backends.KNOWN.index(name) if name in backends.KNOWN else len(backends.KNOWN), name)


@functools.cache
def is_runtime(name: str) -> bool:
    """Whether a backend measures something: one that only simulates is known by never entering a plan unasked."""
    return name not in backends.names() or backends.get(name).default


def order(cards: Mapping[str, ModelCard]) -> Callable[[Row], tuple[Any, ...]]:
    """Sorts by device, then by model as the catalog has them, those with published figures alone and strangers last."""
    places = {name: place for place, name in enumerate(dict.fromkeys((*cards, *published.models())))}

    def key(row: Row) -> tuple[Any, ...]:
        model = (places.get(row.model, len(places)), row.model)
        rest = (published.PRECISIONS.index(row.precision), row.batch_size, row.threads, INTERVALS.index(row.interval))
        return (row.device, *model, *backend_rank(row.backend), *rest, row.source)

    return key


def place(row: Row, machines: Machines) -> str:
    """The device; which of several machines of that name it was, by a run of that machine."""
    run_id = machines.get((row.device, row.environment_id))
    return f"{row.device} (machine of {run_id})" if run_id else row.device


# Published figures


def quoted(latencies: Iterable[Latency]) -> list[Row]:
    """A row for each published latency, in the order given. What is beside it in a record is unknown."""
    return [_quoted(each) for each in latencies]


def counted(model: str, cards: Mapping[str, ModelCard]) -> tuple[float | None, float | None]:
    """The GMACs and million parameters that were counted of a network: on its card, or beside what was published."""
    quoted = published.models().get(model)
    card = cards.get(model) or (cards.get(quoted.arch) if quoted else None)
    gmacs, params_m = (quoted.gmacs_counted, quoted.params_m_counted) if quoted else (None, None)
    if card and card.macs is not None:
        gmacs = card.macs / 1e9
    if card and card.params is not None:
        params_m = card.params / 1e6
    return gmacs, params_m


def _quoted(latency: Latency) -> Row:
    model = published.models()[latency.model]
    gmacs, params_m = counted(latency.model, catalog.cards())
    return Row(
        model=latency.model,
        family=model.family,
        backend=published.BACKENDS.get(latency.backend, latency.backend),
        device=latency.device,
        precision=latency.precision,
        batch_size=latency.batch_size,
        threads=latency.threads or 0,
        interval=published.campaigns()[latency.campaign].interval,
        status="ok",
        reason="",
        validity=latency.tags,
        evidence=(latency.notes,) if latency.notes else (),
        **cast(
            "dict[str, Any]",
            {
                **dict.fromkeys((*LATENCY, *BESIDE)),
                "latency_ms": latency.latency_ms,
                "throughput": latency.batch_size / latency.latency_ms * 1e3,
            },
        ),
        samples=0,
        repetitions=0,
        top1=model.top1,
        top5=model.top5,
        gmacs=model.gmacs if gmacs is None else gmacs,
        params_m=model.params_m if params_m is None else params_m,
        storage_mb=model.storage_mb,
        stopped="",
        source="published",
        run_id="",
        started_at="",
        weights="",
        options={},
        environment_id="",
        document=latency.source,
        campaign=latency.campaign,
    )


# Which records count


def lean(record: Record) -> Record:
    """The record without what no row tells: most of its size is what happened beside each sample.

    Its samples become an array, which has a fifth of the size of a tuple of numbers and can all the same.
    """
    return msgspec.structs.replace(
        record,
        log="",
        semantics={},
        requested={},
        effective={},
        telemetry={"spent_ns": record.telemetry.get("spent_ns")},
        measurement=_lean(record.measurement) if record.measurement else None,
    )


def _lean(measurement: Measurement) -> Measurement:
    kept = {
        interval: msgspec.structs.replace(
            samples, samples_ns=_packed(samples.samples_ns), warmup_ns=(), telemetry=NO_TELEMETRY
        )
        for interval, samples in measurement.intervals.items()
    }
    return msgspec.structs.replace(measurement, intervals=kept)


def _packed(samples_ns: tuple[int, ...]) -> Sequence[int]:
    try:
        return array("q", samples_ns)
    except OverflowError:  # no latency, but a record may claim one of centuries
        return samples_ns


NO_TELEMETRY = Telemetry()


def newest(runs: Iterable[Run]) -> dict[Key, list[Record]]:
    """The records of each case and interval, from the run that tried it last."""
    held: dict[Key, list[Record]] = {}
    for run in runs:
        for (key, run_id), records in _by_run(run.records).items():
            before = held.get(key, [])
            if before and before[0].run_id == run_id:
                records = before + records
            elif before and _outranks(before, records):
                continue
            held[key] = records
    return held


def _outranks(before: list[Record], records: list[Record]) -> bool:
    """What was tried outranks what could not be tried for want of a runtime; among equals the later one counts."""
    tried, again = (any(each.status in ("ok", "failed") for each in group) for group in (before, records))
    return tried if tried != again else _last_start(before) > _last_start(records)


def _by_run(records: Iterable[Record]) -> dict[tuple[Key, str], list[Record]]:
    """Groups by case, interval and run: a file may hold several runs, put together by its owner."""
    groups: dict[tuple[Key, str], list[Record]] = {}
    for record in records:
        measured = record.measurement.intervals if record.measurement else record.settings.intervals
        for interval in measured:
            groups.setdefault(((record.case, interval), record.run_id), []).append(record)
    return groups


def _last_start(records: list[Record]) -> str:
    return max(map(_started_at, records))


def _started_at(record: Record) -> str:
    return record.started_at


def _attempts(records: list[Record]) -> list[Record]:
    """The last attempt at each repetition, oldest first, however the lines were put together."""
    return sorted(store.latest(sorted(records, key=_started_at)), key=_started_at)


def _pool(attempts: list[Record], interval: Interval) -> list[Repetition]:
    """The repetitions that make the number: sound ones, in the same setup as the last attempt; none if that failed."""
    last = attempts[-1]
    if last.status != "ok":
        return []
    setup = _setup(last)
    found = [
        Repetition(record, record.measurement, record.measurement.intervals[interval])
        for record in attempts
        if record.status == "ok" and record.measurement and _setup(record) == setup
    ]
    return [repetition for repetition in found if min(repetition.samples.samples_ns, default=0) > 0]


def case_of(row: Row) -> Case:
    """The case of a row that was measured."""
    return Case(row.model, row.backend, row.device, cast(Precision, row.precision), row.batch_size, row.threads)


def repetitions(records: list[Record], interval: Interval) -> list[Repetition]:
    """Of the records of a case and run those that make its number."""
    return _pool(_attempts(records), interval) if records else []


def _setup(record: Record) -> tuple[Any, ...]:
    """What must be equal for two repetitions to be of the same thing: a run may be resumed after an upgrade."""
    artifact = record.artifact.origin if record.artifact else ""
    return record.settings.options, record.settings.weights, artifact, record.environment_id


# From records to a row


def _row(key: Key, records: list[Record], card: ModelCard | None) -> Row:
    case, interval = key
    attempts = _attempts(records)
    pool = _pool(attempts, interval)
    known = stats.summary(_independent(pool)) if pool else None
    loops = max((repetition.samples.loops for repetition in pool), default=1)
    last = attempts[-1]
    mute = last.status == "ok" and not pool
    validity = _validity(pool)
    artifact = next((record.artifact for record in reversed(attempts) if record.artifact), None)
    return Row(
        **msgspec.structs.asdict(case),
        family=card.family if card else OWN,
        interval=interval,
        status="failed" if mute else last.status,
        reason="the records hold no samples" if mute else last.reason,
        validity=tuple(f"{reason} {count}/{len(pool)}" for reason, (count, _) in validity.items()),
        evidence=tuple(f"{reason}: {evidence}" for reason, (_, evidence) in validity.items()),
        samples=sum(len(repetition.samples.samples_ns) for repetition in pool),
        loops=loops,
        repetitions=len(pool),
        builds=known.processes if known and known.processes < len(pool) else 0,
        **_latency(case, known, loops),
        **_beside(pool),
        **_facts(card, artifact, last.settings.weights),
        stopped=_stopped(pool),
        source="measured",
        run_id=last.run_id,
        started_at=(pool[0].record if pool else last).started_at,
        weights=last.settings.weights if card else OWN,
        options=last.settings.options,
        environment_id=last.environment_id,
    )


def _independent(pool: list[Repetition]) -> list[Sequence[int]]:
    """The samples of each process; where there are several builds of an engine, of each build, as those differ by more
    than the processes of one, which would make the interval of the median too narrow."""
    samples: list[Sequence[int]] = [repetition.samples.samples_ns for repetition in pool]
    builds = [_build(repetition.record) for repetition in pool]
    if len(set(builds)) < 2:
        return samples
    together: dict[str, list[int]] = {}
    for build, of_one in zip(builds, samples, strict=True):
        together.setdefault(build, []).extend(of_one)
    return list(together.values())


def _build(record: Record) -> str:
    """The hash of the build that was run; "" where there are not several."""
    return record.artifact.sha256 if record.artifact and "build" in record.requested else ""


LATENCY = ("latency_ms", "ci_low_ms", "ci_high_ms", "ci_level", "p90_ms", "p99_ms", "min_ms", "mean_ms", "throughput")


def _latency(case: Case, known: stats.Summary | None, loops: int) -> dict[str, Any]:
    """Of samples that are means of several inferences nothing is told of single ones: no percentile, no minimum."""
    if known is None:
        return dict.fromkeys(LATENCY)
    single = loops == 1
    spread = known.level > 0  # one process has no interval
    return {
        "latency_ms": known.median_ns / 1e6,
        "ci_low_ms": known.low_ns / 1e6 if spread else None,
        "ci_high_ms": known.high_ns / 1e6 if spread else None,
        "ci_level": round(known.level, 6) if spread else None,
        "p90_ms": _ms(known.p90_ns) if single else None,
        "p99_ms": _ms(known.p99_ns) if single else None,
        "min_ms": known.min_ns / 1e6 if single else None,
        "mean_ms": known.mean_ns / 1e6,
        "throughput": case.batch_size / known.median_ns * 1e9,
    }


BESIDE = ("first_ms", "load_ms", "build_ms", "export_ms", "peak_memory_mb", "parity_max_error")


def _beside(pool: list[Repetition]) -> dict[str, Any]:
    """What was measured beside the latency; of several processes the median, of memory and error the worst."""
    measured = [repetition.measurement for repetition in pool]
    builds = [each.build_ns for each in measured if each.build_ns is not None]
    peaks = [each.peak_memory_bytes for each in measured if each.peak_memory_bytes is not None]
    errors = [each.record.parity.max_error for each in pool if each.record.parity]
    return {
        "first_ms": _ms(_median([each.first_ns for each in measured if each.first_ns])),
        "load_ms": _ms(_median([each.load_ns for each in measured if each.load_ns])),
        "build_ms": _ms(_median(builds)),
        "export_ms": _ms(_export_ns(pool[-1].record.artifact if pool else None)),
        "peak_memory_mb": max(peaks) / 1e6 if peaks else None,
        "parity_max_error": max(errors, default=None),
    }


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6


def _median(values: list[int]) -> float | None:
    return stats.median(values) if values else None


def _chain(artifact: Artifact | None) -> Iterator[Mapping[str, Any]]:
    """What made an artifact, then what made its source, and so on."""
    made_by: Any = artifact.made_by if artifact else None
    while isinstance(made_by, dict):
        yield made_by
        made_by = made_by.get("from")


def _export_ns(artifact: Artifact | None) -> int | None:
    """How long the conversions took that led to the engine's source, when they were made; building is apart."""
    steps = [made_by.get("took_ns") for made_by in _chain(artifact) if "backend" not in made_by]
    known = [step for step in steps if isinstance(step, int)]
    return sum(known) if known else None


def _counted(artifact: Artifact | None, name: str) -> int | None:
    found = (made_by.get(name) for made_by in _chain(artifact))
    return next((count for count in found if isinstance(count, int)), None)


def _facts(card: ModelCard | None, artifact: Artifact | None, weights: str) -> dict[str, Any]:
    """What is known of the model: from its card, or for a user's own file what the conversions counted."""
    published = card.published if card and weights in PUBLISHED_WEIGHTS else None
    macs, params = (card.macs, card.params) if card else (None, None)
    macs = _counted(artifact, "macs") if macs is None else macs
    params = _counted(artifact, "params") if params is None else params
    return {
        "top1": published.top1 if published else None,
        "top5": published.top5 if published else None,
        "gmacs": None if macs is None else macs / 1e9,
        "params_m": None if params is None else params / 1e6,
        "storage_mb": artifact.size_bytes / 1e6 if artifact and artifact.size_bytes else None,
    }


def _validity(pool: list[Repetition]) -> dict[str, tuple[int, str]]:
    """Each reason to distrust the number: in how many repetitions it was found, and the last evidence of it."""
    counts: Counter[str] = Counter()
    evidence: dict[str, str] = {}
    for repetition in pool:
        # A record is flagged if any of its intervals was unsteady; this row is about one.
        steady = {"no_steady_state"} if repetition.samples.steady else set()
        found = {each.reason: each.evidence for each in repetition.record.validity if each.reason not in steady}
        counts.update(found.keys())
        evidence |= found
    return {reason: (counts[reason], evidence[reason]) for reason in sorted(counts)}


def _stopped(pool: list[Repetition]) -> str:
    """Why no further repetition was made, judged like the runner does by the first interval."""
    if not pool:
        return ""
    mains = [next(iter(repetition.measurement.intervals.values())) for repetition in pool]
    spent_s = sum(repetition.record.telemetry.get("spent_ns") or 0 for repetition in pool) / 1e9
    medians = [stats.median(samples.samples_ns) for samples in mains]
    return stats.stop_reason(medians, spent_s, pool[-1].record.settings) or "interrupted"
