"""Paddle Inference. On a CPU it is slow unless oneDNN is asked for, so it is, and proved to be on."""

import contextlib
import ctypes
import math
import os
import re
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bench.backends import BaseBackend, Session, Setup, complaint
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Failed, UsageError
from bench.schema import Input

if TYPE_CHECKING:
    from bench.backends import Arrays


TYPES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "s8": "int8", "u8": "int8"}


class PaddleSession(Session):
    """A predictor with tensors of its own, into which inputs are copied."""

    def __init__(self, config: Any) -> None:
        from paddle import inference

        self._predictor = inference.create_predictor(config)
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
        with _stdout_to(log.fileno()):
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


def _onednn() -> Any:
    import paddle

    libraries = sorted((Path(paddle.__file__).parent / "libs").glob("libdnnl.so*"))
    return ctypes.CDLL(str(libraries[0])) if libraries else None


@contextlib.contextmanager
def _stdout_to(descriptor: int) -> Iterator[None]:
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


def require_whole(parameters: Path) -> None:
    """Raises Failed for a `.pdiparams` file that ends inside a tensor: Paddle computes on with what lies in memory.

    Whether all the tensors are there that the model needs, Paddle finds out by itself.
    """
    try:
        size, end = parameters.stat().st_size, 0
        with parameters.open("rb") as file:
            while end < size:
                file.seek(end)
                length = _length_of_values(file)
                if length is None:
                    return
                end = file.tell() + length
    except OSError as error:
        raise Failed(f"cannot read {parameters.name}", error.strerror or str(error), EXPORT_AGAIN) from error
    except EOFError:
        end = size + 1
    if end > size:
        raise Failed(f"{parameters.name} is damaged", f"its {size} bytes end inside a tensor", EXPORT_AGAIN)


# Bytes of a value, by the number that Paddle's VarType gives its type.
WIDTHS = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2}


def _length_of_values(file: BinaryIO) -> int | None:
    """How many bytes of values follow the header of a tensor, which is read; None for a header of another layout.

    It holds a version, levels of detail, a version and the length of a description: a protobuf message of nothing but
    integers, the type as field 1 and each dimension as field 2.
    """
    *known, length = struct.unpack("<IQIi", _exactly(file, 20))
    if any(known) or not 0 < length <= 1000:
        return None
    numbers = _varints(_exactly(file, length))
    fields = list(zip(numbers[::2], numbers[1::2], strict=False))
    types = [value for key, value in fields if key == 1 << 3]
    shape = [value for key, value in fields if key == 2 << 3]
    if len(types) != 1 or types[0] not in WIDTHS or len(numbers) != 2 * (len(types) + len(shape)):
        return None
    return math.prod(shape) * WIDTHS[types[0]]


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _varints(data: bytes) -> list[int]:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    numbers, shift = [0], 0
    for byte in data:
        numbers[-1] |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(0)
            shift = 0
    return numbers[:-1]


def _said(error: Exception, file: Path) -> str:
    """Of Paddle's many lines the one that says what was wrong, without the place in its source code."""
    lines = [line for line in str(error).splitlines() if re.match(r"\([A-Z]\w+\) ", line)]
    return re.sub(r" \(at /\S+:\d+\)$", "", complaint(RuntimeError(lines[0]) if lines else error, file))


class Backend(BaseBackend):
    name = "paddle"
    requires = ("paddle",)
    install = "pip install paddlepaddle setuptools"
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
        return str(self.runtime(device).__version__)

    def inspect(self, source: Path) -> tuple[Input, ...]:
        if source.suffix == ".pdmodel":
            os.environ.update(FLAGS_enable_pir_api="0")  # it reads the older format only where the newer one is off
        import paddle

        try:
            specs = paddle.jit.load(str(source.with_suffix("")))._input_spec()
        except Exception as error:  # it raises what its C++ side throws
            raise UsageError(f"Paddle cannot read {source}", _said(error, source), EXPORT_AGAIN) from error
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

        self.refuse_precision(setup.case)
        parameters = engine.with_suffix(".pdiparams")
        require_whole(parameters)
        config = inference.Config(str(engine), str(parameters))
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
            raise Failed(f"Paddle cannot open {engine.name}", _said(error, engine)) from error
