"""TensorRT: 8.6, 10 and 11 through one path. An engine is made on the GPU that it runs on, for one batch size."""

from collections.abc import Mapping
from pathlib import Path

from bench import cuda
from bench.backends import BUILDS, BaseBackend, Session, Setup, on_this_gpu, whole
from bench.backends.tensorrt import plan
from bench.backends.tensorrt.api import Trt
from bench.backends.tensorrt.building import Build
from bench.backends.tensorrt.session import TensorRtSession
from bench.catalog import HardwareProfile
from bench.schema import Interval
from bench.trtexec.definitions import Version, version

#: whose definitions are taken beside ours; of each major version the newest that they were checked against
RELEASES = {"trtexec-10": Version(10, 13), "trtexec-11": Version(11, 1)}
#: options that an engine is built by
BUILT_BY = ("tf32", "strong_typing", "level", "workspace_mib", "build")


class Backend(BaseBackend):
    name = "tensorrt"
    requires = ("tensorrt", "cuda")
    install = "pip install 'tensorrt-cu12<11' 'cuda-bindings>=12.9,<13'"
    distributions = ("tensorrt", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13")
    source = "onnx"
    engine = "tensorrt"
    kinds = frozenset({"gpu"})
    precisions = frozenset({"fp32", "fp16", "int8"})
    options = {
        "cuda_graph": ("off", "on"),
        "tf32": ("off", "on"),
        "strong_typing": ("off", "on"),
        "level": ("3", "0", "1", "2", "4", "5"),
        "workspace_mib": "0",
        "build": "0",
        "semantics": ("bench", "trtexec", *RELEASES),
    }

    def intervals_on(self, kind: str) -> frozenset[Interval]:
        return super().intervals_on(kind) | {"device"}

    def builds_with(self, options: Mapping[str, str]) -> int:  # noqa: ARG002
        return BUILDS

    def probe(self, device: HardwareProfile) -> str:
        return self._started(device)[0].__version__

    def variant(self, setup: Setup) -> dict[str, str]:
        """An engine is of one GPU, precision, shape and number of its build: that of another number is made anew."""
        for option in ("build", "workspace_mib"):
            whole(self, option, setup.options)
        return {**on_this_gpu(setup), **{name: setup.options[name] for name in BUILT_BY}}

    def build(self, source: Path, folder: Path, setup: Setup) -> Path:
        self.refuse_precision(setup.case)
        trt, _, gpu = self._started(setup.device)
        return Build(trt, gpu, source, setup).make(folder)

    def open(self, engine: Path, setup: Setup) -> Session:
        self.refuse_precision(setup.case)
        trt, runtime, gpu = self._started(setup.device)
        content, facts = plan.load(engine, trt, gpu, setup)
        graph, release = setup.options["cuda_graph"] == "on", _release(setup.options["semantics"], trt.__version__)
        return TensorRtSession(trt, runtime, gpu, content, facts, graph, release)

    def _started(self, device: HardwareProfile) -> tuple[Trt, cuda.Cuda, cuda.Gpu]:
        """TensorRT, the CUDA runtime, and the GPU, which is this process's from now on."""
        trt: Trt = self.runtime(device)
        runtime = cuda.load()
        gpu = runtime.gpu()
        runtime.start()
        return trt, runtime, gpu


def _release(semantics: str, installed: str) -> Version | None:
    """The trtexec whose definitions are wanted; for "trtexec" the one of the TensorRT that is installed."""
    if semantics == "trtexec":
        return version(".".join(installed.split(".")[:2]))
    return RELEASES.get(semantics)
