"""OpenVINO. A CPU that can do bf16 does it unasked, so the precision is always set, and read back."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import BaseBackend, Session, Setup
from bench.catalog import HardwareProfile
from bench.errors import Failed, Unavailable, Unsupported, last_line
from bench.schema import Case

if TYPE_CHECKING:
    from bench.backends import Arrays

PLUGINS = {"cpu": "CPU"}
TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
NAMES = {type: name for name, type in TYPES.items()} | {"float": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class OpenVinoSession(Session):
    """One infer request; its input tensors share the fed arrays' memory."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._inputs: dict[int, Any] = {}
        self.run = self._request.infer

    def feed(self, inputs: "Arrays") -> None:
        from openvino import Tensor

        self._inputs = dict(enumerate(inputs))
        for index, array in self._inputs.items():
            self._request.set_input_tensor(index, Tensor(array, shared_memory=True))

    def fetch(self) -> "Arrays":
        return [self._request.get_output_tensor(index).data.copy() for index in range(len(self._compiled.outputs))]

    def end_to_end(self) -> None:
        results = self._request.infer(self._inputs, share_inputs=False)
        for result in results.values():
            result.copy()

    def effective(self) -> dict[str, Any]:
        def read(name: str) -> Any:
            return self._compiled.get_property(name)

        hint = read("INFERENCE_PRECISION_HINT").get_type_name()
        return {
            "threads": read("INFERENCE_NUM_THREADS"),
            "streams": int(str(read("NUM_STREAMS"))),
            "pinning": bool(read("ENABLE_CPU_PINNING")),
            "precision": NAMES.get(hint, hint),
            "node_precisions": _node_precisions(self._compiled),
        }

    def close(self) -> None:
        del self.run, self._request, self._compiled


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
        import openvino

        available = openvino.Core().available_devices
        if PLUGINS[device.kind] not in available:
            raise Unavailable(
                f"OpenVINO has no {PLUGINS[device.kind]} device", f"it has {', '.join(available) or 'none'}", self.install
            )
        return str(openvino.__version__)

    def build(self, source: Path, folder: Path) -> Path:
        """The intermediate representation, weights kept in fp32 (OpenVINO's default halves them)."""
        import openvino

        try:
            model = openvino.Core().read_model(source)
        except RuntimeError as error:
            raise Failed(f"OpenVINO cannot read {source.name}", last_line(error)) from error
        engine = folder / "model.xml"
        openvino.save_model(model, engine, compress_to_fp16=False)
        return engine

    def open(self, engine: Path, setup: Setup) -> Session:
        import openvino

        core = openvino.Core()
        plugin = PLUGINS[setup.device.kind]
        _check_precision(core, setup.case, plugin)
        try:
            model = core.read_model(engine)
        except RuntimeError as error:
            raise Failed(f"OpenVINO cannot read {engine.name}", last_line(error)) from error
        model.reshape([setup.case.batch_size, *setup.input_shape])
        settings = {
            "INFERENCE_NUM_THREADS": setup.case.threads,
            "INFERENCE_PRECISION_HINT": TYPES[setup.case.precision],
            "ENABLE_CPU_PINNING": setup.options["pinning"] == "on",
        }
        settings |= {"PERFORMANCE_HINT": "LATENCY"} if setup.options["hint"] == "latency" else {"NUM_STREAMS": 1}
        return OpenVinoSession(core.compile_model(model, plugin, settings))


def _check_precision(core: Any, case: Case, plugin: str) -> None:
    """A CPU without native fp16 silently compiles it as bf16: better to say that it can't."""
    can = set(core.get_property(plugin, "OPTIMIZATION_CAPABILITIES"))
    if TYPES[case.precision] != "f32" and case.precision.upper() not in can:
        name = core.get_property(plugin, "FULL_DEVICE_NAME")
        raise Unsupported(f"{name} has no {case.precision} in OpenVINO", f"it has {', '.join(sorted(can))}")
