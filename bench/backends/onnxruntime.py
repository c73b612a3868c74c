"""ONNX Runtime. The execution provider follows from the device kind."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.backends import BaseBackend, Session, Setup, complaint
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Failed, Unavailable, UsageError
from bench.schema import Input

if TYPE_CHECKING:
    from bench.backends import Arrays

PROVIDERS = {"cpu": "CPUExecutionProvider"}
QUANTISED = ("QLinear", "Quantize", "Integer", "NBits")


class OrtSession(Session):
    """Inputs and outputs are bound once; `run` is `run_with_iobinding`. The input is the fed array's own memory."""

    def __init__(self, session: Any, threads: int) -> None:
        self._session = session
        self._threads = threads
        self._binding = session.io_binding()
        self._feeds: dict[str, Any] = {}

    def feed(self, inputs: "Arrays") -> None:
        from onnxruntime import OrtValue

        names = [node.name for node in self._session.get_inputs()]
        self._feeds = dict(zip(names, inputs, strict=True))
        for name, array in self._feeds.items():
            self._binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
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
        nodes = _nodes(self._session)
        return {
            "threads": self._threads,
            "providers": dict(Counter(provider for provider, _ in nodes)) or self._session.get_providers(),
            "precision": _precision(self._session, [operator for _, operator in nodes]),
        }

    def close(self) -> None:
        del self._binding, self._session
        self._feeds = {}


def _nodes(session: Any) -> list[tuple[str, str]]:
    """(provider, operator) of each node as the graph was divided up; empty where ONNX Runtime is too old to say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def _precision(session: Any, operators: list[str]) -> str:
    """The CPU provider keeps to the graph's types, except that it has hardly a kernel for fp16 and computes in fp32."""
    if any(mark in operator for operator in operators for mark in QUANTISED):
        return "int8"
    types = {node.type for node in session.get_inputs()}
    return "fp32" if types == {"tensor(float)"} else ", ".join(sorted(types))


class Backend(BaseBackend):
    name = "onnxruntime"
    requires = ("onnxruntime",)
    install = "pip install onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu")
    source = "onnx"
    kinds = frozenset(PROVIDERS)
    precisions = frozenset({"fp32"})
    options = {"optimization": ("all", "extended", "basic", "off"), "spinning": ("on", "off")}
    plain = {"optimization": "off"}

    def probe(self, device: HardwareProfile) -> str:
        onnxruntime = self.runtime(device)
        wanted, available = PROVIDERS[device.kind], onnxruntime.get_available_providers()
        if wanted not in available:
            raise Unavailable(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted}",
                f"it has {', '.join(available)}",
                f"install one that has: {self.install}",
            )
        return str(onnxruntime.__version__)

    def inspect(self, source: Path) -> tuple[Input, ...]:
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(source, providers=[PROVIDERS["cpu"]])
        except Exception as error:  # its exceptions share no base class of their own
            raise UsageError(f"ONNX Runtime cannot read {source}", complaint(error, source), EXPORT_AGAIN) from error
        return tuple(
            Input(
                name=node.name,
                shape=tuple(size if isinstance(size, int) else None for size in node.shape),
                type={"tensor(float)": "float32"}.get(node.type, node.type),
            )
            for node in session.get_inputs()
        )

    def open(self, engine: Path, setup: Setup) -> Session:
        import onnxruntime

        self.refuse_precision(setup.case)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = setup.case.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        settings.graph_optimization_level = {
            "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
            "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        }[setup.options["optimization"]]
        spinning = "1" if setup.options["spinning"] == "on" else "0"
        settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        process = psutil.Process()
        others = process.num_threads() - 1  # the calling thread works, too
        try:
            session = onnxruntime.InferenceSession(engine, settings, providers=[PROVIDERS[setup.device.kind]])
        except Exception as error:  # its exceptions share no base class of their own
            raise Failed(f"ONNX Runtime cannot open {engine.name}", complaint(error, engine)) from error
        return OrtSession(session, process.num_threads() - others)
