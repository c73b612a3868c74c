"""OpenVINO. A CPU that can do bf16 does it unasked, so the precision is always set, and read back."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import BaseBackend, Session, Setup, complaint
from bench.catalog import HardwareProfile
from bench.errors import Failed, Unavailable, Unsupported
from bench.schema import Case

if TYPE_CHECKING:
    from bench.backends import Arrays

PLUGINS = {"cpu": "CPU"}
TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}


class OpenVinoSession(Session):
    """One infer request with tensors of its own, into which inputs are copied."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._inputs: Arrays = []

    def feed(self, inputs: "Arrays") -> None:
        self._inputs = inputs
        self._copy_in()

    def _copy_in(self) -> None:
        for index, array in enumerate(self._inputs):
            self._request.get_input_tensor(index).data[:] = array

    def run(self) -> None:
        self._request.infer(share_outputs=True)  # which else copies the outputs

    def fetch(self) -> "Arrays":
        return [self._request.get_output_tensor(index).data.copy() for index in range(len(self._compiled.outputs))]

    def end_to_end(self) -> "Arrays":
        self._copy_in()
        self.run()
        return self.fetch()

    def effective(self) -> dict[str, Any]:
        """All from the compiled model, which knows the CPUs: of 8 threads asked on 2 CPUs it reports 2."""

        def read(name: str) -> Any:
            return self._compiled.get_property(name)

        nodes = _node_precisions(self._compiled)
        return {
            "threads": read("INFERENCE_NUM_THREADS"),
            "streams": int(str(read("NUM_STREAMS"))),
            "pinning": bool(read("ENABLE_CPU_PINNING")),
            "precision": ", ".join(sorted({NAMES.get(name, name) for name in nodes})) or "none",
            "node_precisions": nodes,
        }

    def close(self) -> None:
        del self._request, self._compiled
        self._inputs = []


def _node_precisions(compiled: Any) -> dict[str, int]:
    """How many executed convolutions and matrix products run in which type, from the plugin's own graph."""
    nodes = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    computing = [node for node in nodes if node["layerType"].value in {"Convolution", "FullyConnected", "MatMul"}]
    return dict(Counter(node["runtimePrecision"].value for node in computing))


class Backend(BaseBackend):
    name = "openvino"
    requires = ("openvino",)
    install = "pip install openvino"
    distributions = ("openvino",)
    source = "onnx"
    engine = "openvino"
    kinds = frozenset(PLUGINS)
    precisions = frozenset(TYPES)
    options = {"hint": ("latency", "none"), "pinning": ("on", "off")}

    def probe(self, device: HardwareProfile) -> str:
        openvino = self.runtime(device)
        available = openvino.Core().available_devices
        if PLUGINS[device.kind] not in available:
            raise Unavailable(
                f"OpenVINO {openvino.__version__} has no {PLUGINS[device.kind]} device",
                f"it has {', '.join(available) or 'none'}",
                f"install one that has: {self.install}",
            )
        return str(openvino.__version__)

    def build(self, source: Path, folder: Path, setup: Setup) -> Path:  # noqa: ARG002 - one for all
        """The intermediate representation, weights kept in fp32 (OpenVINO's default halves them)."""
        import openvino

        try:
            model = openvino.Core().read_model(source)
        except RuntimeError as error:
            raise Failed(f"OpenVINO cannot read {source.name}", complaint(error, source)) from error
        engine = folder / "model.xml"
        openvino.save_model(model, engine, compress_to_fp16=False)
        return engine

    def open(self, engine: Path, setup: Setup) -> Session:
        import openvino

        self.refuse_precision(setup.case)
        core = openvino.Core()
        plugin = PLUGINS[setup.device.kind]
        _refuse_emulated(core, setup.case, plugin)
        settings = {
            "INFERENCE_NUM_THREADS": setup.case.threads,
            "INFERENCE_PRECISION_HINT": TYPES[setup.case.precision],
            "ENABLE_CPU_PINNING": setup.options["pinning"] == "on",
        }
        settings |= {"PERFORMANCE_HINT": "LATENCY"} if setup.options["hint"] == "latency" else {"NUM_STREAMS": 1}
        try:
            model = core.read_model(engine)
            model.reshape([setup.case.batch_size, *setup.input_shape])
            return OpenVinoSession(core.compile_model(model, plugin, settings))
        except RuntimeError as error:
            raise Failed(f"OpenVINO cannot open {engine.name}", complaint(error, engine)) from error


def _refuse_emulated(core: Any, case: Case, plugin: str) -> None:
    """A CPU without native fp16 silently compiles it as bf16: better to say that it can't."""
    can = set(core.get_property(plugin, "OPTIMIZATION_CAPABILITIES"))
    if TYPES[case.precision] != "f32" and case.precision.upper() not in can:
        name = core.get_property(plugin, "FULL_DEVICE_NAME")
        raise Unsupported(f"{name} has no {case.precision} in OpenVINO", f"it has {', '.join(sorted(can))}")
