"""Small runs to report on: records with known samples, written with the store as `bench run` writes them."""

from bench.catalog import ModelCard, Published
from bench.schema import Artifact, Case, Measurement, Parity, Record, Samples, Settings, Validity
from bench.store import Header, RunFile

CARDS = {
    "MobileNetV1_x0_25": ModelCard(
        name="MobileNetV1_x0_25",
        family="MobileNetV1",
        network="models.mobilenet_v1:MobileNetV1_x0_25",
        params=470072,
        macs=41030272,
        published=Published(0.514, 0.755, 0.07, "2xMACs", 0.46, 1.9, "MobileNetV1.md:49"),
    ),
    "DPN92": ModelCard(
        name="DPN92",
        family="DPN",
        network="models.dpn:DPN92",
        params=37668392,
        macs=6501684224,
        published=Published(0.799, 0.948, 12.54, "2xMACs", 36.29, None, "DPN.md:53"),
    ),
    "PPLCNetV2_base": ModelCard(name="PPLCNetV2_base", family="PP-LCNetV2", network="models.pplcnet_v2:PPLCNetV2_base"),
}
QUIET = {"hardware": {"cpu": {"name": "AMD EPYC"}, "virtual_machine": True, "hypervisor": "kvm"}}
MACHINE = {
    **QUIET,
    "system": {"distribution": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.1", "python": "CPython 3.11.7"},
    "limits": {"usable_cpus": 2},
    "packages": {"onnxruntime": "1.20.0", "openvino": None},
    "variables": {"OMP_WAIT_POLICY": "PASSIVE"},
}
PADDLE = {"params": 470072, "took_ns": 1_500_000_000}
ONNX = {"macs": 41030272, "took_ns": 500_000_000, "from": PADDLE}
ENGINE = {"backend": "openvino", "took_ns": 250_000_000, "from": ONNX}


def case(model="MobileNetV1_x0_25", backend="onnxruntime", batch_size=1, threads=1, precision="fp32", device="cpu"):
    return Case(model, backend, device, precision, batch_size, threads)


def samples(ms, count=100, steady=True):
    """Samples around `ms` within 1 %, in an order without trend."""
    values = tuple(int(ms * 1e6 * (1 + 0.02 * ((37 * i % count) / count - 0.5))) for i in range(count))
    return Samples(samples_ns=values, steady=steady)


def measurement(ms=5.0, intervals=("compute",), count=100, **fields):
    """Each interval after the first takes 10 % longer."""
    found = {interval: samples(ms * (1 + 0.1 * place), count) for place, interval in enumerate(intervals)}
    return Measurement(intervals=found, load_ns=20_000_000, first_ns=9_000_000, peak_memory_bytes=10**8, **fields)


def at(second, repetition=0, day=1):
    return f"2026-01-{day:02}T00:{second:02}:{repetition:02}.000000Z"


def ok(case_, repetition=0, ms=5.0, second=0, day=1, validity=(), options=None, weights="random", **fields):
    """A sound repetition. `second` tells cases of one round apart, `day` runs."""
    intervals = fields.pop("intervals", ("compute",))
    settings = {"budget_s": 20.0, "intervals": intervals, "weights": weights, "options": options or {}}
    defaults = {
        "run_id": f"run{day}",
        "started_at": at(second, repetition, day),
        "settings": Settings(**settings, repetitions=fields.pop("wanted", None)),
        "measurement": measurement(ms, intervals),
        "parity": Parity(2.5e-6, 1.0, 1.0, 1e-4, "paddle 3.3.1, unoptimised, fp32", 8),
        "artifact": Artifact("onnx", "model.onnx", "ab" * 32, 1_926_817, ONNX),
        "telemetry": {"spent_ns": 5 * 10**9},
        "validity": tuple(Validity(reason, f"evidence of {reason}") for reason in validity),
        "environment_id": "e1",
    }
    return Record(case=case_, repetition=repetition, status="ok", **{**defaults, **fields})


def bad(case_, status="failed", reason="it crashed", second=0, day=1, repetition=0, intervals=("compute",), **fields):
    """As the runner writes it when nothing could be measured: without options, as repetition 0."""
    return Record(
        run_id=f"run{day}",
        case=case_,
        repetition=repetition,
        started_at=at(second, repetition, day),
        status=status,
        reason=reason,
        settings=Settings(intervals=intervals, budget_s=20.0),
        environment_id="e1",
        **fields,
    )


def header(day=1, environment=None, environment_id="e1"):
    return Header(
        run_id=f"run{day}",
        started_at=at(0, 0, day),
        bench_version="0.1.0",
        commit="0d97baff46171b4eeeba738092e8299cd7510bee-dirty",
        environment_id=environment_id,
        environment=MACHINE if environment is None else environment,
    )


def write(folder, records, header_=None):
    """A run's file; its records must be of the run that the header names."""
    header_ = header_ or header()
    with RunFile.create(folder / "cpu", header_) as file:
        for record in records:
            file.append(record)
    return file.path
