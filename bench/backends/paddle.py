"""Paddle Inference. On a CPU it is slow unless oneDNN is asked for, so it is, and proved to be on."""

import contextlib
import ctypes
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import BaseBackend, Session, Setup
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Failed, UsageError
from bench.overhear import redirected
from bench.paddle_api import Configuration, Paddle
from bench.paddle_gpu import GpuPredictor, Lane, take_gpu
from bench.paddle_inference import (
    PLACE,
    computes,
    config_of,
    executed,
    fed,
    inference_api,
    kernels_on_gpu,
    predictor_of,
    require_gpu,
    said,
    versions_of,
)
from bench.schema import Input, Interval, Validity

if TYPE_CHECKING:
    from bench.backends import Arrays


TYPES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "s8": "int8", "u8": "int8"}


class PaddleSession(Session):
    """A predictor with tensors of its own, into which inputs are copied."""

    def __init__(self, config: Configuration) -> None:
        self._predictor = inference_api().create_predictor(config)
        self._config = config
        self._inputs = [self._predictor.get_input_handle(name) for name in self._predictor.get_input_names()]
        self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]
        self._arrays: Arrays = []

    def feed(self, inputs: "Arrays") -> None:
        self._arrays = inputs
        for handle, array in zip(self._inputs, inputs, strict=True):
            handle.reshape(array.shape)
            handle.copy_from_cpu(array)

    def run(self) -> None:
        self._predictor.run()

    def fetch(self) -> "Arrays":
        return [handle.copy_to_cpu() for handle in self._outputs]

    def end_to_end(self) -> "Arrays":
        for handle, array in zip(self._inputs, self._arrays, strict=True):
            handle.copy_from_cpu(array)
        self._predictor.run()
        return self.fetch()

    def effective(self) -> dict[str, Any]:
        """oneDNN and precision by the primitives that one inference really executed.

        Paddle can't say how many threads it uses: its `cpu_math_library_num_threads` echoes what was set, and so is
        called configuration. Nor can it say in which precision its own kernels compute.
        """
        echo = {"configuration": {"threads": self._config.cpu_math_library_num_threads()}}
        primitives = onednn_primitives(self._predictor.run)
        if primitives is None:
            return {"onednn": "unknown", **echo}
        types = sorted({TYPES.get(name, name) for _, name in primitives if name})
        return {
            "onednn": bool(primitives),
            "onednn_primitives": dict(Counter(kind for kind, _ in primitives)),
            **({"precision": ", ".join(types)} if types else {}),
            **echo,
        }

    def close(self) -> None:
        del self._inputs, self._outputs, self._predictor
        self._arrays = []


def onednn_primitives(run: Callable[[], object]) -> list[tuple[str, str]] | None:
    """(kind, data type of the source) of each oneDNN primitive that `run()` executes, from oneDNN's verbose log.

    The library is asked through its own `dnnl_set_verbose`, for this one call, so that timing is untouched. None where
    there is no such library to ask, or where it was built without the log.
    """
    library = _onednn()
    if library is None:
        return None
    with tempfile.TemporaryFile() as log:
        with redirected(1, log.fileno()):
            if library.dnnl_set_verbose(1) != 0:
                return None
            try:
                run()
            finally:
                library.dnnl_set_verbose(0)
        log.seek(0)
        text = log.read().decode(errors="replace")
    return [_primitive(line) for line in text.splitlines() if line.startswith("onednn_verbose") and ",exec," in line]


def _primitive(line: str) -> tuple[str, str]:
    """The kind of a line, and the type of a computing one's source, which stands as `src:f32:…` or `src_f32:…`.

    `onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_inference,src:f32::blocked:acdb::f0 …`
    """
    fields = line.split(",")
    kind = fields[fields.index("exec") + 2]
    source = next((field for field in fields if field.startswith(("src:", "src_"))), "")
    return kind, source[4:].partition(":")[0] if kind in {"convolution", "inner_product", "matmul"} else ""


def _paddle() -> Paddle:
    import paddle

    module: Paddle = paddle
    return module


def _onednn() -> ctypes.CDLL | None:
    libraries = sorted((Path(_paddle().__file__).parent / "libs").glob("libdnnl.so*"))
    return ctypes.CDLL(str(libraries[0])) if libraries else None


class GpuSession(GpuPredictor, Session):
    """On a GPU, without TensorRT."""

    @cached_property
    def _computing(self) -> dict[str, int]:
        """How often an inference executes each operator that computes; empty where Paddle's profiler sees none."""
        counted: Counter[str] = Counter()
        with contextlib.suppress(Exception):  # a fact less, and no reason to fail
            counted.update(filter(computes, executed(self.run)))
        return dict(counted)

    def effective(self) -> dict[str, Any]:
        """Paddle can't say in which precision its kernels compute."""
        return {
            "place": PLACE,
            "own_stream": self._lane.stream is not None,
            "compute_operators": self._computing,
            **versions_of(self._paddle),
        }

    def validity(self) -> tuple[Validity, ...]:
        return (*self._doubts(), *super().validity())

    def _doubts(self) -> Iterator[Validity]:
        """Whether what computes has kernels for the GPU, without which Paddle takes the CPU's."""
        on_gpu: dict[str, bool] = {}
        with contextlib.suppress(ImportError, AttributeError):  # it is none of Paddle's public names
            on_gpu = kernels_on_gpu(self._computing)
        if not self._computing or self._computing.keys() - on_gpu.keys():
            yield Validity("unwatched", "Paddle doesn't tell whether all that computes is on the GPU")
        if missing := sorted(operator for operator, there in on_gpu.items() if not there):
            named = ", ".join(f"{self._computing[operator]} {operator}" for operator in missing)
            yield Validity("misconfigured", f"computed on the CPU, for want of kernels for a GPU: {named}")


class Backend(BaseBackend):
    name = "paddle"
    requires = ("paddle",)
    install = "pip install paddlepaddle setuptools"
    distributions = ("paddlepaddle", "paddlepaddle-gpu")
    code = ("paddle_gpu", "paddle_inference")
    source = "paddle"
    kinds = frozenset({"cpu", "gpu"})
    precisions = frozenset({"fp32"})
    options = {
        "onednn": ("on", "off"),
        "eager_delete": ("off", "on"),
        "memory_optim": ("on", "off"),
        "tf32": ("off", "on"),
        "copies": ("pageable", "pinned"),
    }
    only = {"onednn": "cpu", "eager_delete": "cpu", "tf32": "gpu", "copies": "gpu"}
    plain = {"onednn": "off"}

    def environment(self, options: Mapping[str, str]) -> dict[str, str]:
        """Paddle 3's executor frees tensors in a second thread, at a cost of hundreds of page faults an inference on a
        CPU; -1 keeps them. `eager_delete=on` measures what a user gets who does not know the flag."""
        environ = {"FLAGS_eager_delete_tensor_gb": "-1"} if options.get("eager_delete") == "off" else {}
        return environ | ({"NVIDIA_TF32_OVERRIDE": "0"} if options.get("tf32") == "off" else {})

    def intervals_on(self, kind: str) -> frozenset[Interval]:
        return super().intervals_on(kind) | ({"device"} if kind == "gpu" else set())

    def probe(self, device: HardwareProfile) -> str:
        paddle: Paddle = self.runtime(device)
        if device.kind == "gpu":
            require_gpu(paddle)
            take_gpu(paddle)
        return paddle.__version__

    def inspect(self, source: Path) -> tuple[Input, ...]:
        if source.suffix == ".pdmodel":
            return fed(source)
        paddle = _paddle()
        try:
            specs = paddle.jit.load(str(source.with_suffix("")))._input_spec()
        except Exception as error:  # it raises what its C++ side throws
            raise UsageError(f"Paddle cannot read {source}", said(error, source), EXPORT_AGAIN) from error
        return tuple(
            Input(
                name=spec.name,
                shape=tuple(size if size > 0 else None for size in spec.shape),
                type=str(spec.dtype).rpartition(".")[2],
            )
            for spec in specs
        )

    def open(self, engine: Path, setup: Setup) -> Session:
        self.refuse_precision(setup.case)
        config = config_of(engine)
        config.disable_glog_info()
        if setup.options["memory_optim"] == "on":
            config.enable_memory_optim()
        if setup.device.kind == "gpu":
            return _on_gpu(config, engine, setup.options["copies"])
        config.set_cpu_math_library_num_threads(setup.case.threads)
        if setup.options["onednn"] == "on":
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        try:
            return PaddleSession(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise Failed(f"Paddle cannot open {engine.name}", said(error, engine)) from error


def _on_gpu(config: Configuration, engine: Path, copies: str) -> Session:
    require_gpu(_paddle())
    lane = Lane(config, copies)
    return GpuSession(predictor_of(config, engine)[0], engine, lane)
