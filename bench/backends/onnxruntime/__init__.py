"""ONNX Runtime. The execution provider follows from the device kind, and on a GPU from an option, too.

There it goes back to the CPU by itself, in many places and at most with a line in a log. So each of these is shut: the
providers named, the retry in Python, the retry in the middle of a run; and where each node is computed is read back.
"""

from collections.abc import Mapping
from pathlib import Path

from bench.backends import BUILDS, BaseBackend, Session, Setup, complaint, whole
from bench.backends.onnxruntime import cpu, engines, gpu, opening
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Unavailable, Unsupported, UsageError
from bench.gpu import causes
from bench.ort_api import Ort
from bench.schema import Input, Interval

PROVIDERS = {"cpu": opening.CPU, "gpu": opening.CUDA}


class Backend(BaseBackend):
    name = "onnxruntime"
    requires = ("onnxruntime",)
    install = "pip install onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    source = "onnx"
    kinds = frozenset(PROVIDERS)
    precisions = frozenset({"fp32", "fp16"})
    options = {
        "optimization": ("all", "extended", "basic", "off"),
        "spinning": ("on", "off"),
        "provider": ("cuda", "tensorrt"),
        "tf32": ("off", "on"),
        "conv_search": ("exhaustive", "heuristic", "default"),
        "cuda_graph": ("off", "on"),
        "build": "0",
    }
    only = dict.fromkeys(("provider", "tf32", "conv_search", "cuda_graph", "build"), "gpu")
    plain = {"optimization": "off"}

    def environment(self, options: Mapping[str, str]) -> dict[str, str]:
        """The TensorRT provider has no option against TF32, only what NVIDIA's libraries read when they are loaded."""
        without = options.get("provider") == "tensorrt" and options.get("tf32") == "off"
        return {"NVIDIA_TF32_OVERRIDE": "0"} if without else {}

    def stack(self, options: Mapping[str, str]) -> str:
        return engines.FORMAT if options.get("provider") == "tensorrt" else self.name

    def precisions_on(self, kind: str) -> frozenset[str]:
        return frozenset({"fp32"}) if kind == "cpu" else self.precisions

    def intervals_on(self, kind: str) -> frozenset[Interval]:
        return super().intervals_on(kind) | ({"device"} if kind == "gpu" else set())

    def engine_with(self, options: Mapping[str, str]) -> str:
        """Raises UsageError for a number of a build that is none, or of which nothing is built."""
        builds = options.get("provider") == "tensorrt"
        if "build" in options and whole(self, "build", options) and not builds:
            raise UsageError(
                "onnxruntime.build means nothing here",
                "engines are built with onnxruntime.provider=tensorrt alone",
                "leave it out",
            )
        return engines.FORMAT if builds else ""

    def builds_with(self, options: Mapping[str, str]) -> int:
        return BUILDS if self.engine_with(options) else 1

    def probe(self, device: HardwareProfile) -> str:
        onnxruntime: Ort = self.runtime(device)
        wanted, available = PROVIDERS[device.kind], onnxruntime.get_available_providers()
        if wanted not in available:
            raise Unavailable(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted}",
                f"it has {', '.join(available)}",
                f"install one that has: {self.install if device.here else causes.ONNXRUNTIME}",
            )
        if device.kind == "gpu":
            opening.require_cuda(onnxruntime)
        return onnxruntime.__version__

    def inspect(self, source: Path) -> tuple[Input, ...]:
        try:
            return opening.inputs(source)
        except Exception as error:  # its exceptions share no base class of their own
            raise UsageError(f"ONNX Runtime cannot read {source}", complaint(error, source), EXPORT_AGAIN) from error

    def variant(self, setup: Setup) -> dict[str, str]:
        return engines.variant(setup) if self.engine_with(setup.options) else {}

    def build(self, source: Path, folder: Path, setup: Setup) -> Path:
        """The model in `folder`, and beside it what TensorRT makes of it; the source itself for other providers."""
        self._refuse(setup)
        if not self.engine_with(setup.options):
            return source
        self.probe(setup.device)  # which loads the libraries, too
        return engines.build(source, folder, setup)

    def open(self, engine: Path, setup: Setup) -> Session:
        """In a process that has called `probe`, which loads the libraries and takes the GPU; so the time that this
        takes is the model's."""
        self._refuse(setup)
        return gpu.opened(engine, setup) if setup.device.kind == "gpu" else cpu.opened(engine, setup)

    def _refuse(self, setup: Setup) -> None:
        if setup.case.precision not in (able := self.precisions_on(setup.device.kind)):
            can = ", ".join(sorted(able))
            raise Unsupported(f"onnxruntime runs {can} on a {setup.device.kind}", f"not {setup.case.precision}")
