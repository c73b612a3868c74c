"""A session on the CPU, whose inputs and outputs are bound once."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench import ort_api
from bench.backends import Session, Setup, complaint
from bench.backends.onnxruntime import opening
from bench.errors import Failed

if TYPE_CHECKING:
    from bench.backends import Arrays


class OrtSession(Session):
    """`run` is `run_with_iobinding`. The input is the fed array's own memory."""

    def __init__(self, session: ort_api.Session, threads: int) -> None:
        self._session = session
        self._threads = threads
        self._binding = session.io_binding()
        self._feeds: dict[str, Any] = {}

    def feed(self, inputs: "Arrays") -> None:
        values = opening.ort().OrtValue
        names = [node.name for node in self._session.get_inputs()]
        self._feeds = dict(zip(names, inputs, strict=True))
        for name, array in self._feeds.items():
            self._binding.bind_ortvalue_input(name, values.ortvalue_from_numpy(array))
        for node in self._session.get_outputs():
            self._binding.bind_output(node.name)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def fetch(self) -> "Arrays":
        return list(self._binding.copy_outputs_to_cpu())

    def end_to_end(self) -> "Arrays":
        return list(self._session.run(None, self._feeds))

    def effective(self) -> dict[str, Any]:
        """Threads by counting those that the session started; `intra_op_num_threads` only echoes what was set."""
        nodes = opening.nodes(self._session)
        return {
            "threads": self._threads,
            "providers": dict(Counter(provider for provider, _ in nodes)) or self._session.get_providers(),
            "precision": opening.precision(self._session, nodes),
        }

    def close(self) -> None:
        del self._binding, self._session
        self._feeds = {}


def opened(engine: Path, setup: Setup) -> OrtSession:
    settings = opening.settings(setup)  # before anything is counted: importing the runtime may start threads, too
    process = psutil.Process()
    others = process.num_threads() - 1  # the calling thread works, too
    try:
        session = opening.ort().InferenceSession(engine, settings, providers=[opening.CPU])
    except Exception as error:  # its exceptions share no base class of their own
        raise Failed(f"ONNX Runtime cannot open {engine.name}", complaint(error, engine)) from error
    return OrtSession(session, process.num_threads() - others)
