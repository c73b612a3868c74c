"""Times of `trtexec` → a record on disk that says that another tool measured it, unseen by bench.

Of its figures the GPU compute time alone is one of our intervals, `device`. Its latency is a sum of spans of queries
that overlap, and no `end_to_end`. The backend of such a case is `trtexec`, so that none replaces a record of our own.
"""

from pathlib import Path

import msgspec

from bench import __version__, catalog, environment, published, store
from bench.catalog import HardwareProfile
from bench.errors import UsageError
from bench.schema import Case, Frozen, Measurement, Precision, Record, Samples, Settings, Validity
from bench.store import Header, RunFile
from bench.trtexec import definitions, times
from bench.trtexec.definitions import Summary
from bench.trtexec.times import Times

BACKEND = "trtexec"
SEMANTICS = (
    "trtexec {version}, GPU Compute Time: from the event before the enqueue to that after it, next queries already in "
    "flight; its Latency, H2D + compute + D2H, is a sum of spans and no end_to_end"
)


class Asked(Frozen, frozen=True):
    """What the file doesn't say, and its owner does. `version` is that of trtexec."""

    model: str
    device: str
    precision: Precision
    batch_size: int
    version: str


class Imported(Frozen, frozen=True):
    """The file of records, the record in it, and the figures as trtexec printed them."""

    path: Path
    record: Record
    summary: Summary


def save(file: Path, asked: Asked, results: Path, command: tuple[str, ...]) -> Imported:
    """A run of one record below `results`. Raises UsageError for names that nothing bears, and as `times.read`."""
    profile = _gpu(asked.device)
    figures = (found := times.read(file)).summary(definitions.version(asked.version))
    # Without hardware: nobody knows what machine it was, so baselines and histories leave such a run out.
    description = {"packages": {BACKEND: asked.version}}
    header = Header(
        run_id=store.new_run_id(),
        started_at=store.now(),
        bench_version=__version__,
        command=command,
        environment_id=environment.environment_id(description),
        environment=description,
    )
    case = Case(_model(asked.model), BACKEND, profile.name, asked.precision, asked.batch_size, threads=1)
    record = _record(file, case, asked.version, found, figures, header)
    with RunFile.create(results / profile.name, header) as run:
        run.append(record)
        return Imported(run.path, record, figures)


def _gpu(device: str) -> HardwareProfile:
    profile = catalog.profile(device)
    if profile.kind != "gpu":
        gpus = ", ".join(name for name, each in catalog.profiles().items() if each.kind == "gpu")
        raise UsageError(f"trtexec measures GPUs, and {device} is none", f"GPUs: {gpus}", catalog.LIST_DEVICES)
    return profile


def _model(name: str) -> str:
    cards = published.select((name,), ())
    if len(cards) != 1:
        raise UsageError(f"{name!r} is not one model", f"it is {len(cards)}", "name the one that was measured")
    return cards[0].name


def _record(file: Path, case: Case, version: str, found: Times, figures: Summary, header: Header) -> Record:
    """`load_ns` and `first_ns` are 0: nobody measured them."""
    samples = Samples(samples_ns=tuple(_ns(entry.compute) for entry in found.entries))
    unseen = f"trtexec {version} measured it; bench saw neither machine, clocks, weights nor outputs"
    return Record(
        run_id=header.run_id,
        case=case,
        repetition=0,
        started_at=header.started_at,
        status="ok",
        validity=(Validity("imported", unseen), *figures.warnings),
        settings=Settings(
            intervals=("device",),
            iterations=len(found.entries),
            repetitions=1,
            weights="unknown",
            options={"version": version},
        ),
        semantics={"device": SEMANTICS.format(version=version)},
        measurement=Measurement(intervals={"device": samples}, load_ns=0, first_ns=0, timer=BACKEND),
        effective={
            "source": {"file": file.name, "sha256": found.sha256, "size_bytes": found.size_bytes},
            "transfers": found.transfers,
        },
        telemetry={
            "trtexec": {
                "summary": msgspec.to_builtins(figures),
                "enqueue_step_ms": found.enqueue_step_ms,
                "enqueue_ns": [_ns(entry.timing.enqueue) for entry in found.entries],
                "h2d_ns": [_ns(entry.h2d) for entry in found.entries],
                "d2h_ns": [_ns(entry.d2h) for entry in found.entries],
                "latency_ns": [_ns(entry.latency) for entry in found.entries],
            }
        },
        environment_id=header.environment_id,
    )


def _ns(ms: float) -> int:
    return round(ms * 1e6)
