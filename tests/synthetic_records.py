"""Records for measurements of scale, of the size and shape that `bench run` leaves: seeded, and quick to write.

    python tests/synthetic_records.py FOLDER 100000 [--cases 2000] [--samples 100]

Runs of at most `CASES_A_RUN` cases with five processes each follow one another, a file each, and go through the cases
in turn: beyond five records a case, later runs supersede earlier ones.
"""

import argparse
import itertools
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from bench import catalog
from bench.schema import Artifact, Case, Measurement, Parity, Samples, Settings, Telemetry
from bench.store import Header, Line

PROCESSES = 5
CASES_A_RUN = 2000
SAMPLES = 100
START = datetime(2026, 1, 1, tzinfo=UTC)
#: cases share these latencies, since drawing others for each would take longer than all that is measured
LATENCIES = 200
BACKENDS = ("paddle", "onnxruntime", "openvino")
ENVIRONMENT = {
    "hardware": {"cpu": {"name": "Example CPU 7"}, "logical_cpus": 8},
    "system": {"distribution": "Example Linux 1", "kernel": "6.1", "python": "CPython 3.11.9"},
    "packages": {"onnxruntime": "1.20.0", "openvino": "2025.0.0", "paddlepaddle": "3.2.0"},
}
MADE_BY = {"macs": 41030272, "took_ns": 500_000_000, "from": {"params": 470072, "took_ns": 1_500_000_000}}
TELEMETRY = {
    "spent_ns": 2_646_043_162,
    "wall_ns": 1_936_262_125,
    "cpu_ns": 1_873_079_849,
    "run_delay_ns": 56_391_400,
    "voluntary_switches": 0,
    "involuntary_switches": 7,
    "minor_faults": 71,
    "major_faults": 0,
    "others_cores": 0.0313,
    "steal_share": 0.0026,
    "pressure_share": 0.0304,
    "clock_resolution_ns": 40,
    "clocksource": "tsc",
    "threads_used": 1,
}


def cases(count: int) -> list[Case]:
    """So many different cases: first those of the catalog's models, then those of models nobody knows."""
    known = [card.name for card in catalog.cards().values() if card.measurable]
    models = itertools.chain(known, (f"model_{number:06}" for number in itertools.count()))
    matrix = itertools.product(BACKENDS, (1, 4, 8), (1, 2, 4))
    shapes = list(matrix)
    every = (
        Case(model, backend, "cpu", "fp32", batch_size, threads)
        for model in models
        for backend, batch_size, threads in shapes
    )
    return list(itertools.islice(every, count))


def measurements(samples: int, seed: int = 0) -> list[list[Measurement]]:
    """Of each latency from 0.5 to 500 ms the five processes: log-normal, each at a speed of its own, 1 % apart."""
    draw = random.Random(seed)
    found = []
    for place in range(LATENCIES):
        median_ns = 0.5e6 * 1000 ** (place / (LATENCIES - 1))
        found.append([_measurement(median_ns * math.exp(draw.gauss(0, 0.01)), samples, draw) for _ in range(PROCESSES)])
    return found


def _measurement(median_ns: float, count: int, draw: random.Random) -> Measurement:
    wall = tuple(round(median_ns * math.exp(draw.gauss(0, 0.02))) for _ in range(count))
    beside = Telemetry(cpu_ns=tuple(ns - 20_000 for ns in wall), involuntary_switches=(0,) * count)
    compute = Samples(samples_ns=wall, warmup_ns=tuple(2 * ns for ns in wall[: count // 4]), telemetry=beside)
    return Measurement({"compute": compute}, load_ns=20_000_000, first_ns=2 * wall[0], peak_memory_bytes=10**8)


def lines(run: int, tried: list[Case], known: list[list[Measurement]], first: int) -> Iterator[Line]:
    """A run's records: the first of its cases is number `first` of all that were ever tried."""
    run_id = f"{run:08x}"
    for repetition, (place, case) in itertools.product(range(PROCESSES), enumerate(tried)):
        moment = START + timedelta(days=run, milliseconds=repetition * len(tried) + place)
        yield Line(
            run_id=run_id,
            case=case,
            repetition=repetition,
            started_at=_stamp(moment),
            status="ok",
            settings=Settings(options={"threads": "1"}),
            semantics={"compute": "one synchronous inference of the whole batch"},
            measurement=known[(first + place) % LATENCIES][repetition],
            parity=Parity(2.5e-6, 1.0, 1.0, 1e-4, "paddle 3.3.1, unoptimised, fp32", 8),
            artifact=Artifact("onnx", "onnx/ab/model.onnx", "ab" * 32, 1_926_817, MADE_BY),
            requested={"threads": 1, "precision": "fp32", "cpus": [0], "environ": {"OMP_NUM_THREADS": "1"}},
            effective={"threads": 1, "precision": "fp32", "threads_used": 1},
            telemetry=TELEMETRY,
            environment_id="synthetic",
        )


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def write(folder: Path, records: int, different: int = CASES_A_RUN, samples: int = SAMPLES) -> None:
    """So many records, rounded down to whole cases, of so many different cases."""
    every, known, encoder = cases(different), measurements(samples), msgspec.json.Encoder()
    wanted = records // PROCESSES
    folder.mkdir(parents=True, exist_ok=True)
    for run, first in enumerate(range(0, wanted, CASES_A_RUN)):
        tried = [every[number % different] for number in range(first, min(first + CASES_A_RUN, wanted))]
        started_at = _stamp(START + timedelta(days=run))
        header = Header(
            run_id=f"{run:08x}",
            started_at=started_at,
            bench_version="0.1.0",
            environment_id="synthetic",
            environment=ENVIRONMENT,
        )
        stamp = started_at[:19].replace("-", "").replace(":", "")
        with (folder / f"{stamp}Z-{run:08x}.jsonl").open("wb") as file:
            file.write(encoder.encode(header) + b"\n")
            file.writelines(encoder.encode(line) + b"\n" for line in lines(run, tried, known, first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("records", type=int)
    parser.add_argument("--cases", type=int, default=CASES_A_RUN, help="how many different ones")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of a record")
    asked = parser.parse_args()
    write(asked.folder, asked.records, asked.cases, asked.samples)


if __name__ == "__main__":
    main()
