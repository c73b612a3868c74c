"""ONNX Runtime. The execution provider follows from the device kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import BaseBackend, Session, Setup
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Failed, Unavailable, UsageError, last_line
from bench.schema import Input

if TYPE_CHECKING:
    from bench.backends import Arrays

PROVIDERS = {"cpu": "CPUExecutionProvider"}


class OrtSession(Session):
    """Inputs and outputs are bound once; `run` is `run_with_iobinding`."""

    def __init__(self, session: Any, options: Any) -> None:
        self._session = session
        self._options = options
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
        session, binding = self._session, self._binding
        self.run = lambda: session.run_with_iobinding(binding)

    def fetch(self) -> "Arrays":
        return list(self._binding.copy_outputs_to_cpu())

    def end_to_end(self) -> None:
        self._session.run(None, self._feeds)

    def effective(self) -> dict[str, Any]:
        return {
            "threads": self._options.intra_op_num_threads,
            "providers": self._session.get_providers(),
            "precision": _precision(self._session),
        }

    def close(self) -> None:
        del self.run, self._binding, self._session


def _precision(session: Any) -> str:
    """The CPU provider computes in the graph's own type, which the inputs tell."""
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
        import onnxruntime

        wanted, available = PROVIDERS[device.kind], onnxruntime.get_available_providers()
        if wanted not in available:
            raise Unavailable(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted}", f"it has {', '.join(available)}", self.install
            )
        return str(onnxruntime.__version__)

    def inspect(self, source: Path) -> tuple[Input, ...]:
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(source, providers=[PROVIDERS["cpu"]])
        except Exception as error:  # its exceptions share no base class of their own
            raise UsageError(f"ONNX Runtime cannot read {source}", last_line(error), EXPORT_AGAIN) from error
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
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if setup.options["spinning"] == "on" else "0")
        try:
            session = onnxruntime.InferenceSession(engine, settings, providers=[PROVIDERS[setup.device.kind]])
        except Exception as error:  # its exceptions share no base class of their own
            raise Failed(f"ONNX Runtime cannot open {engine.name}", last_line(error)) from error
        return OrtSession(session, settings)
