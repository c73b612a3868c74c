"""The child: `python -m bench.worker order.json answer.json`. One job, one process, one answer file.

What must hold before a runtime is imported is done first: the runner set the environment variables, and this
sets the CPU affinity and the memory limit. Standard output belongs to whatever the runtimes print.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench import backends, parity, telemetry
from bench.artifacts import Made
from bench.backends import Setup
from bench.catalog import profile
from bench.child import confine, cpus_of_threads, first_inferences, infer, peak_memory_bytes, trouble
from bench.errors import UsageError
from bench.jobs import (
    AnyAnswer,
    AnyJob,
    Build,
    Folder,
    Inspect,
    Inspected,
    Measure,
    Measured,
    OnnxFromPaddle,
    Order,
    PaddleFromNetwork,
    Probe,
    Problem,
    Reference,
    Version,
)
from bench.probe import Shots
from bench.probe import make as make_probe
from bench.schema import Case, Measurement

if TYPE_CHECKING:
    from bench.backends import BaseBackend, Session


def main() -> None:
    order_file, answer_file = map(Path, sys.argv[1:])
    order = msgspec.json.decode(order_file.read_bytes(), type=Order)
    confine(order)
    answer = answer_to(order.job)
    unfinished = answer_file.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.encode(answer))
    unfinished.rename(answer_file)
    # Runtimes have been seen to crash while they are torn down; the answer is whole, so nobody need wait for that.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def answer_to(job: AnyJob) -> AnyAnswer:
    """Does the job. Whatever is raised becomes a Problem, with the traceback in its log."""
    try:
        return DOERS[type(job)](job)
    except Exception as error:  # a vendor's bug is a result, too
        return Problem(**trouble(error)._asdict())


def _made(make: Callable[[Path], Made], folder: str) -> Folder:
    start = time.perf_counter_ns()
    made = make(Path(folder))
    return Folder(made=made, took_ns=time.perf_counter_ns() - start)


def paddle_from_network(job: PaddleFromNetwork) -> Folder:
    from bench import export

    return _made(partial(export.paddle_from_network, job.card, job.weights), job.folder)


def onnx_from_paddle(job: OnnxFromPaddle) -> Folder:
    from bench import export

    return _made(partial(export.onnx_from_paddle, Path(job.source), job.opset, job.input_shape), job.folder)


def build(job: Build) -> Folder:
    backend = backends.get(job.setup.case.backend)

    def make(folder: Path) -> Made:
        engine = backend.build(Path(job.source), folder, job.setup)
        return Made(format=backend.engine_with(job.setup.options), file=engine.name)

    return _made(make, job.folder)


def _plain(backend: "BaseBackend", job: Reference) -> "Session":
    """The model as its own format's runtime runs it, unoptimised, in fp32, on the CPU."""
    case = Case(model="", backend=backend.name, device="cpu", precision="fp32", batch_size=job.batch_size, threads=1)
    setup = Setup(case, profile("cpu"), backends.settle(backend, backend.plain, "cpu"), job.input_shape)
    return backend.open(Path(job.source), setup)


def inspect(job: Inspect) -> Inspected:
    source = Path(job.source)
    inputs = backends.get(job.backend).inspect(source)
    return Inspected(inputs=inputs, facts=_counts(source) if source.suffix == ".onnx" else {})


def _counts(source: Path) -> dict[str, Any]:
    """Multiply-accumulates of an ONNX graph; nothing where its shapes are open, or ONNX's own package is absent."""
    from bench import counting

    try:
        return {"macs": counting.count(source).macs}
    except (UsageError, ImportError):
        return {}


def reference(job: Reference) -> Folder:
    backend = backends.get(job.backend)

    def make(folder: Path) -> Made:
        inputs = parity.images(job.input_shape)
        with contextlib.closing(_plain(backend, job)) as session:
            outputs = infer(session, inputs, job.batch_size)
        version = backend.probe(profile("cpu"))
        parity.save(folder / "reference.npz", inputs, outputs, f"{backend.name} {version}, unoptimised, fp32")
        return Made(format="reference", file="reference.npz")

    return _made(make, job.folder)


def probe(job: Probe) -> Version:
    backend = backends.get(job.backend)
    return Version(version=backend.probe(job.device))


def measure(job: Measure) -> Measured:
    """Opens the engine, checks parity, and only then samples."""
    backend = backends.get(job.setup.case.backend)
    backend.probe(job.setup.device)
    start = time.perf_counter_ns()
    session = backend.open(Path(job.engine), job.setup)
    load_ns = time.perf_counter_ns() - start
    with contextlib.closing(session):
        first = first_inferences(session, job.setup.case, job.reference, backend.rounding(job.setup))
        effective = session.effective()
        shots = _shots(backend, job)
        before = telemetry.snapshot()
        measurement = session.measure(job.settings, shoot=shots.beside if shots else None)
        after = telemetry.snapshot()
        doubts, beside, semantics = session.validity(), session.beside(), session.semantics()
        if account := session.account():
            return Measured(
                measurement=measurement,
                parity=first.parity,
                effective=effective | account.effective,
                telemetry=account.telemetry,
                validity=account.validity,
                requested=account.requested,
                semantics=semantics,
            )
    facts = telemetry.between(before, after) | beside
    if job.setup.device.kind == "gpu":  # for whoever watches the GPU from outside
        facts |= {"windows_ns": session.sampled_ns, "pid": os.getpid()}
    if shots:
        facts["probe_ns"] = shots.fired
    if backend.computes and job.setup.device.here and facts["threads_used"]:  # a GPU's driver has threads of its own
        effective["threads_used"] = facts["threads_used"]
    effective["cpus"] = list(cpus_of_threads())
    return Measured(
        measurement=msgspec.structs.replace(
            measurement, load_ns=load_ns, first_ns=first.took_ns, peak_memory_bytes=peak_memory_bytes()
        ),
        parity=first.parity,
        effective=effective,
        telemetry=facts,
        validity=(*doubts, *telemetry.validity(facts, _iterations(measurement))),
        semantics=semantics,
    )


def _shots(backend: "BaseBackend", job: Measure) -> Shots | None:
    """The compute probe, where it runs on what the backend runs on."""
    if not backend.computes or job.setup.device.kind != "cpu":
        return None
    return Shots(make_probe())


def _iterations(measurement: Measurement) -> dict[str, tuple[int, ...]]:
    """The counters of all intervals, iteration after iteration."""
    beside = [msgspec.structs.asdict(samples.telemetry) for samples in measurement.intervals.values()]
    return {name: sum((each[name] for each in beside), ()) for name in beside[0]}


DOERS: dict[type[Any], Callable[[Any], AnyAnswer]] = {
    PaddleFromNetwork: paddle_from_network,
    OnnxFromPaddle: onnx_from_paddle,
    Build: build,
    Inspect: inspect,
    Reference: reference,
    Probe: probe,
    Measure: measure,
}


if __name__ == "__main__":
    main()
