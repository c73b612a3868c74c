"""The other half of the conformance suite: what it looks at in a fresh process, as production does.

`python inside.py FUNCTION task.json answer.json`. Runtimes clash when several live in one process, and leave threads
behind, so none is ever loaded into pytest's own.
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import itertools
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench import backends, catalog, parity, worker
from bench.backends import Setup
from bench.errors import BenchError, Unavailable
from bench.jobs import Inspect, Order
from bench.schema import Settings

BOTH = ("compute", "end_to_end")
CYCLES = 20


class Task(msgspec.Struct):
    """What a function gets, as far as it needs it."""

    backend: str
    cpus: tuple[int, ...] = ()
    setup: Setup | None = None
    engine: str = ""
    reference: str = ""
    folder: str = ""


def importing(task: Task) -> dict[str, Any]:
    """All modules that are there once the backend's file is."""
    backends.get(task.backend)
    return {"modules": sorted(sys.modules)}


def hidden(task: Task) -> dict[str, Any]:
    """What a backend says for itself where its runtime is not installed."""
    backend = backends.get(task.backend)
    sys.modules.update(dict.fromkeys(backend.requires))  # None stops an import, and find_spec
    return {"missing": backends.missing(backend), "probe": _refusal(task)}


class Broken:
    """Finds the runtime and can't load it, as where a shared library is missing."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in self.names else None

    def create_module(self, _: importlib.machinery.ModuleSpec) -> None:
        pass

    def exec_module(self, _: object) -> None:
        raise ImportError("libgone.so.1: cannot open shared object file")


def unloadable(task: Task) -> dict[str, Any]:
    """What it says where its runtime is installed and does not load."""
    sys.meta_path.insert(0, Broken(backends.get(task.backend).requires))
    return {"probe": _refusal(task)}


def _refusal(task: Task) -> str:
    backend = backends.get(task.backend)
    served = next(profile for profile in catalog.profiles().values() if profile.kind in backend.kinds)
    try:
        backend.probe(served)
    except Unavailable as error:
        return str(error)
    return ""


def other_kind(task: Task) -> dict[str, Any]:
    """What `probe` raises for each kind of device that the backend does not name."""
    backend = backends.get(task.backend)
    kinds = {profile.kind: profile for profile in catalog.profiles().values()}
    raised = []
    for kind, profile in kinds.items():
        if kind not in backend.kinds:
            try:
                raised.append(["", backend.probe(profile)])
            except BenchError as error:
                raised.append([type(error).__name__, str(error)])
    return {"raised": raised}


def inferring(task: Task) -> dict[str, Any]:
    """Outputs in many situations, by name; `fed_changed` tells whether a run wrote into what it was fed."""
    first, second = _batches(task)
    untouched = first.copy()
    outputs: dict[str, Any] = {}
    with _opened(task) as session:
        outputs["first"] = held = _run_on(session, first)
        outputs["first_then"] = _copies(held)
        outputs["second"] = _run_on(session, second)
        outputs["first_held"] = _copies(held)
        outputs["first_again"] = _run_on(session, first)
        overwritten = session.fetch()
        for array in overwritten:
            array.fill(7)
        outputs["first_after_overwriting"] = session.fetch()
        for _ in range(3):
            session.run()
        outputs["first_run_thrice_more"] = session.fetch()
        outputs["first_end_to_end"] = held = session.end_to_end()
        session.feed([second])
        outputs["second_end_to_end"] = session.end_to_end()
        outputs["first_end_to_end_held"] = held
        session.run()
        outputs["second_after_end_to_end"] = session.fetch()
        changed = bool((first != untouched).any())
        session.feed([first])
        first[:] = second
        outputs["fed_array_changed_end_to_end"] = session.end_to_end()
        outputs["changed_array_fed_anew"] = _run_on(session, first)
    return {"outputs": {name: [array.tolist() for array in arrays] for name, arrays in outputs.items()}, "fed": changed}


def _copies(arrays: list[Any]) -> list[Any]:
    return [array.copy() for array in arrays]


def ticking(task: Task) -> dict[str, Any]:
    """A measurement by a clock that moves by 10 ns whenever it is read."""
    first, _ = _batches(task)
    with _opened(task) as session:
        session.feed([first])
        ticks = itertools.count(step=10)
        settings = Settings(intervals=BOTH, warmup=2, iterations=5)
        measurement = session.measure(settings, clock=lambda: next(ticks))
    return {name: [samples.warmup_ns, samples.samples_ns] for name, samples in measurement.intervals.items()}


def unknown_interval(task: Task) -> dict[str, Any]:
    with _opened(task) as session:
        known = session.intervals()
        try:
            session.measure(Settings(intervals=("device",), warmup=0, iterations=1))
        except Exception as error:
            return {"raised": type(error).__name__, "reason": str(error), "known": list(known)}
    return {"raised": "", "reason": "", "known": list(known)}


def reopening(task: Task) -> dict[str, Any]:
    """The resident set after each of many lives of a session, and whether all of them gave the same."""
    first, _ = _batches(task)
    resident, outputs = [], []
    for _ in range(CYCLES):
        with _opened(task) as session:
            outputs.append(_run_on(session, first))
            session.end_to_end()
            session.effective()
        del session
        gc.collect()
        _release()
        resident.append(psutil.Process().memory_info().rss)
    with _opened(task):
        pass  # never fed, and closed none the less
    with _opened(task) as one, _opened(task) as other:
        outputs += [_run_on(one, first), _run_on(other, first), one.fetch()]
    same = all(_close(each, outputs[0]) for each in outputs)
    return {"resident": resident, "same": same and bool(outputs[0])}


def _release() -> None:
    """What glibc keeps for later is no leak, and differs by megabytes from one life to the next."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _close(some: list[Any], others: list[Any]) -> bool:
    return all(abs(one - other).max() <= 1e-5 * abs(other).max() for one, other in zip(some, others, strict=True))


def exporting(task: Task) -> dict[str, Any]:
    """Two tiny classifiers in Paddle's format: one answers NaN, one knows ten classes."""
    import numpy as np
    import paddle

    files = {}
    for name, classes, value in (("nan", 1000, np.nan), ("ten", 10, 0.5)):
        network = paddle.nn.Sequential(
            paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(3, classes)
        )
        network[2].weight.set_value(np.full((3, classes), value, np.float32))
        network.eval()
        spec = paddle.static.InputSpec([None, 3, 224, 224], "float32", "x")
        paddle.jit.save(network, str(Path(task.folder, name)), input_spec=[spec])
        newer = Path(task.folder, f"{name}.json")  # as Paddle 3 writes it
        files[name] = str(newer if newer.exists() else newer.with_suffix(".pdmodel"))
    return files


def _batches(task: Task) -> list[Any]:
    """Two batches of the reference's images that have none in common."""
    assert task.setup is not None
    size = task.setup.case.batch_size
    inputs, _, _ = parity.load(Path(task.reference))
    return [inputs[:size].copy(), inputs[size : 2 * size].copy()]


@contextlib.contextmanager
def _opened(task: Task) -> Any:
    assert task.setup is not None
    with contextlib.closing(backends.get(task.backend).open(Path(task.engine), task.setup)) as session:
        yield session


def _run_on(session: Any, batch: Any) -> list[Any]:
    session.feed([batch])
    session.run()
    outputs: list[Any] = session.fetch()
    return outputs


def main() -> None:
    function, task_file, answer_file = sys.argv[1:]
    task = msgspec.json.decode(Path(task_file).read_bytes(), type=Task)
    worker.confine(Order(job=Inspect(task.backend, task.engine), cpus=task.cpus))
    try:
        answer = globals()[function](task)
    except Exception:
        answer = {"error": traceback.format_exc()}
    Path(answer_file).write_bytes(msgspec.json.encode(answer))
    os._exit(0)  # as the worker does: some runtimes crash while they are torn down


if __name__ == "__main__":
    main()
