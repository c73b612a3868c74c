"""The compute probe, and that the runs of real runtimes have it beside them, which makes their numbers comparable."""

import os
import subprocess
import sys

import msgspec
import pytest
import stored
from command import tiny_onnx

from bench import baseline, check, probe, session, stats, store
from bench.baseline import Reading
from bench.plan import Request
from bench.probe import Shots
from bench.progress import Quiet
from bench.schema import Settings
from bench.store import RunFile

pytest.importorskip("numpy")


def test_a_shot_is_a_time():
    shoot = probe.make()
    shots = [shoot() for _ in range(5)]
    assert all(isinstance(shot, int) and 10_000 < shot < 1_000_000_000 for shot in shots)


def test_making_it_starts_no_thread_that_works():
    """A pool of its own would take CPUs from what is measured."""
    # A pool that was just made spins for some milliseconds, so the first shots don't count.
    script = "from bench import probe, telemetry; shoot = probe.make(); fire = lambda: [shoot() for _ in range(300)]; "
    script += (
        "fire(); before = telemetry.snapshot(); fire(); print(telemetry.threads_used(before, telemetry.snapshot()))"
    )
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("1", "0")  # 0 where threads can't be told


def test_shots_are_kept_by_interval():
    times = iter((5, 7, 6))
    shots = Shots(lambda: next(times))
    assert shots.fired == {}
    for interval in ("compute", "end_to_end", "compute"):
        shots.beside(interval)
    assert shots.fired == {"compute": [5, 6], "end_to_end": [7]}


def copies(path, folder, days):
    """The run, as if it had been made on each of these days."""
    run = store.read(path)
    for day in days:
        identity = {"run_id": f"{day:08x}", "started_at": stored.day(day)}
        with RunFile.create(folder / "cpu", msgspec.structs.replace(run.headers[0], **identity)) as file:
            for record in run.records:
                file.append(msgspec.structs.replace(record, **identity))


def run(folder, model, backend, **settings):
    """What a run measured, as `bench run` does it."""
    request = Request(
        models=(str(model),), backends=(backend,), batch_sizes=(1,), threads=(1,), settings=Settings(**settings)
    )
    return session.start(request, folder, ("bench", "run"), Quiet()).path


@pytest.mark.runtime
def test_a_run_has_the_probe_beside_it_and_is_checked_by_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "tiny.onnx"
    model.write_bytes(tiny_onnx())
    intervals = ("compute", "end_to_end")
    path = run(tmp_path / "here", model, "onnxruntime", intervals=intervals, warmup=5, iterations=2000, repetitions=4)
    records = store.read(path).records
    assert len(records) == 4
    for record in records:
        assert set(record.telemetry["probe_ns"]) == {"compute", "end_to_end"}
        for interval, shots in record.telemetry["probe_ns"].items():
            samples = record.measurement.intervals[interval].samples_ns
            assert len(samples) == 2000
            # One before the first, one after every 10 ms; a stretch ends with the call that fills it.
            assert 1 <= len(shots) <= 1 + sum(samples) / 10e6
            assert stats.median(samples) < min(shots)
    copies(path, tmp_path / "then", range(5))
    reading = Reading(tmp_path / "here")
    made = baseline.from_records(Reading(tmp_path / "then"))
    found = check.check(made, check.contenders(reading, check.last_tries(reading), made.machines))
    assert [result.evidence["by"] for result in found.results] == ["the probe-normalised median"] * 2
    assert [result.outcome for result in found.results] == ["PASS"] * 2
    assert [result.ratio for result in found.results] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_simulation_has_no_probe_beside_it(tmp_path, monkeypatch):
    """Its clock is not the machine's."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    path = run(tmp_path / "here", "DPN68", "simulated", warmup=1, iterations=5, repetitions=1)
    (record,) = store.read(path).records
    assert "probe_ns" not in record.telemetry
