"""For tests: runs on disk as `bench run` leaves them, with latencies that are known, and `bench` in this process."""

import contextlib
import io
import math
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from bench import cli, cli_gate, environment
from bench.schema import Artifact, Case, Measurement, Record, Samples, Settings, Telemetry, Validity
from bench.store import Header, RunFile

CASE = Case("DPN68", "onnxruntime", "cpu", "fp32", 1, 1)
OTHER = Case("MobileNetV2", "onnxruntime", "cpu", "fp32", 4, 1)
HERE: dict[str, Any] = {
    "hardware": {"cpu": {"name": "Example CPU 7"}, "logical_cpus": 2, "virtual_machine": True, "hypervisor": "kvm"},
    "system": {"python": "CPython 3.11.9", "kernel": "6.1.0"},
    "limits": {"usable_cpus": 2},
    "packages": {"onnxruntime": "1.20.0", "openvino": None},
    "variables": {},
}
ELSEWHERE = HERE | {"hardware": {"cpu": {"name": "Other CPU 9"}, "logical_cpus": 8}}
REQUEST = {"models": ["DPN68"], "backends": ["onnxruntime"], "device": "cpu"}
COLUMNS = ("cpu_ns", "involuntary_switches")
START = datetime(2026, 9, 1, 3, tzinfo=UTC)


def day(number: int) -> str:
    return (START + timedelta(days=number)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def process(ms: float, probe_ms: float = 0.0, iterations: int = 40, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """One repetition's part of a record: log-normal latencies of that median, with a probe beside them if asked."""
    draw = random.Random(seed)
    wall = [round(ms * 1e6 * math.exp(draw.gauss(0, 0.002))) for _ in range(iterations)]
    columns = {name: fields.pop(name) for name in COLUMNS if name in fields}
    samples = Samples(samples_ns=tuple(wall), telemetry=Telemetry(**columns))
    intervals = dict.fromkeys(fields.pop("intervals", ("compute",)), samples)
    shots = [round(probe_ms * 1e6 * math.exp(draw.gauss(0, 0.002))) for _ in range(max(1, iterations // 4))]
    kept: dict[str, Any] = {"spent_ns": 2_000_000_000}
    if probe_ms:
        kept["probe_ns"] = dict.fromkeys(intervals, shots)
    return {"measurement": Measurement(intervals, load_ns=1, first_ns=1), "telemetry": kept, **fields}


SETTINGS = Settings(options={"threads": "1"})


def run(
    folder: Path,
    number: int,
    processes: Sequence[dict[str, Any]],
    *,
    case: Case = CASE,
    description: dict[str, Any] = HERE,
    settings: Settings = SETTINGS,
    commit: str | None = "",
    artifact: str = "a" * 64,
) -> Path:
    """The run of day `number`, a record for each of `processes`; a status other than ok needs no measurement."""
    identity = environment.environment_id(description)
    header = Header(
        run_id=f"{number:08x}",
        started_at=day(number),
        bench_version="0.1.0",
        request=REQUEST,
        commit=f"{number + 1:040x}" if commit == "" else commit,
        environment_id=identity,
        environment=description,
    )
    # No test pulls the plug, and waiting for the disk would be most of their time.
    with mock.patch("os.fsync"), RunFile.create(folder / case.device, header) as file:
        for repetition, fields in enumerate(processes):
            record = {
                "status": "ok",
                "settings": settings,
                "artifact": Artifact("onnx", "model.onnx", artifact, 1),
                **fields,
            }
            file.append(
                Record(
                    run_id=header.run_id,
                    case=case,
                    repetition=repetition,
                    started_at=day(number),
                    environment_id=identity,
                    **record,
                )
            )
    return file.path


def session(ms: float, probe_ms: float = 0.0, count: int = 5, seed: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """Five processes of one run, each a little different."""
    draw = random.Random(seed)
    factors = [math.exp(draw.gauss(0, 0.003)) for _ in range(count)]
    return [process(ms * factor, probe_ms, seed=seed * 100 + n, **fields) for n, factor in enumerate(factors)]


def runs(folder: Path, latencies_ms: Sequence[float], first: int = 0, probe_ms: float = 0.0, **fields: Any) -> Path:
    """A run a day with these latencies."""
    for number, ms in enumerate(latencies_ms, start=first):
        run(folder, number, session(ms, probe_ms, seed=number), **fields)
    return folder


def validity(*reasons: str) -> tuple[Validity, ...]:
    return tuple(Validity(reason, "as the test says") for reason in reasons)


def add_commands() -> None:
    for command in cli_gate.COMMANDS:
        if command.name not in cli.bench.commands:
            cli.bench.add_command(command)


def bench(*words: object) -> tuple[int, str, str]:
    """`bench` with these words, in this process: exit code, standard output, standard error."""
    add_commands()
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["bench", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
