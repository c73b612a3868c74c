"""Paddle Inference. On a CPU it is slow unless oneDNN is asked for, so it is, and proved to be on."""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import BaseBackend, Session, Setup
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Failed, UsageError, last_line
from bench.schema import Input

if TYPE_CHECKING:
    from bench.backends import Arrays


class PaddleSession(Session):
    def __init__(self, config: Any) -> None:
        from paddle import inference

        self._predictor = inference.create_predictor(config)
        self._config = config
        self._inputs = [self._predictor.get_input_handle(name) for name in self._predictor.get_input_names()]
        self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]
        self._arrays: Arrays = []
        self.run = self._predictor.run

    def feed(self, inputs: "Arrays") -> None:
        self._arrays = inputs
        for handle, array in zip(self._inputs, inputs, strict=True):
            handle.reshape(array.shape)
            handle.copy_from_cpu(array)

    def fetch(self) -> "Arrays":
        return [handle.copy_to_cpu() for handle in self._outputs]

    def end_to_end(self) -> None:
        for handle, array in zip(self._inputs, self._arrays, strict=True):
            handle.copy_from_cpu(array)
        self._predictor.run()
        for handle in self._outputs:
            handle.copy_to_cpu()

    def effective(self) -> dict[str, Any]:
        """Precision and oneDNN from the primitives that one inference really executed; threads as configured."""
        primitives = onednn_primitives(self._predictor.run)
        types = sorted({type for _, type in primitives if type})
        return {
            "threads": self._config.cpu_math_library_num_threads(),
            "onednn": bool(primitives),
            "onednn_primitives": dict(Counter(kind for kind, _ in primitives)),
            "precision": {"f32": "fp32", "bf16": "bf16"}.get(types[0], types[0]) if len(types) == 1 else "fp32",
        }

    def close(self) -> None:
        del self.run, self._inputs, self._outputs, self._predictor


def onednn_primitives(run: Any) -> list[tuple[str, str]]:
    """(kind, data type of the source) of each oneDNN primitive that `run()` executes, from oneDNN's verbose log.

    The library is asked through its own `dnnl_set_verbose`, for this one call, so that timing is untouched.
    """
    library = _onednn()
    if library is None:
        return []
    with tempfile.TemporaryFile() as log:
        with _stdout_to(log.fileno()):
            library.dnnl_set_verbose(1)
            run()
            library.dnnl_set_verbose(0)
        log.seek(0)
        text = log.read().decode(errors="replace")
    return [_primitive(line) for line in text.splitlines() if line.startswith("onednn_verbose") and ",exec," in line]


def _primitive(line: str) -> tuple[str, str]:
    """`onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_inference,src:f32:…` → kind, type."""
    fields = line.split(",")
    kind = fields[fields.index("exec") + 2]
    source = next((field for field in fields if field.startswith(("src:", "src_"))), "")
    parts = source.split(" ")[0].split(":")
    return kind, parts[1] if kind in {"convolution", "inner_product", "matmul"} and len(parts) > 1 else ""


def _onednn() -> Any:
    import paddle

    libraries = sorted((Path(paddle.__file__).parent / "libs").glob("libdnnl.so*"))
    return ctypes.CDLL(str(libraries[0])) if libraries else None


@contextlib.contextmanager
def _stdout_to(descriptor: int) -> Any:
    """The process's standard output, C library's included, goes to `descriptor`."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    saved = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)


class Backend(BaseBackend):
    name = "paddle"
    requires = ("paddle",)
    install = "pip install paddlepaddle"
    distributions = ("paddlepaddle", "paddlepaddle-gpu")
    source = "paddle"
    kinds = frozenset({"cpu"})
    precisions = frozenset({"fp32"})
    options = {"onednn": ("on", "off"), "eager_delete": ("off", "on"), "memory_optim": ("on", "off")}
    plain = {"onednn": "off"}

    def environment(self, options: Mapping[str, str]) -> dict[str, str]:
        """Paddle 3's executor frees tensors in a second thread, at a cost of hundreds of page faults an inference;
        -1 keeps them. `eager_delete=on` measures what a user gets who does not know the flag."""
        return {} if options["eager_delete"] == "on" else {"FLAGS_eager_delete_tensor_gb": "-1"}

    def probe(self, device: HardwareProfile) -> str:
        import paddle

        return str(paddle.__version__)

    def inspect(self, source: Path) -> tuple[Input, ...]:
        if source.suffix == ".pdmodel":
            os.environ["FLAGS_enable_pir_api"] = "0"  # it reads the older format only where the newer one is off
        import paddle

        try:
            specs = paddle.jit.load(str(source.with_suffix("")))._input_spec()
        except Exception as error:  # it raises what its C++ side throws
            raise UsageError(f"Paddle cannot read {source}", last_line(error), EXPORT_AGAIN) from error
        return tuple(
            Input(
                name=spec.name,
                shape=tuple(size if size > 0 else None for size in spec.shape),
                type=str(spec.dtype).rpartition(".")[2],
            )
            for spec in specs
        )

    def open(self, engine: Path, setup: Setup) -> Session:
        from paddle import inference

        config = inference.Config(str(engine), str(engine.with_suffix(".pdiparams")))
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(setup.case.threads)
        if setup.options["onednn"] == "on":
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        if engine.suffix == ".json":
            # Without both, memory_optim fails on a .json model (`Not find predictor_id 0`).
            config.enable_new_ir(True)
            config.enable_new_executor(True)
        if setup.options["memory_optim"] == "on":
            config.enable_memory_optim()
        try:
            return PaddleSession(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise Failed(f"Paddle cannot open {engine.name}", last_line(error)) from error
