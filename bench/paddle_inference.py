"""Paddle Inference, as far as the backends over it share it: parameter files, its words, what it takes for a GPU."""

import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bench.errors import EXPORT_AGAIN, BenchError, Failed, Unavailable, UsageError, last_line
from bench.gpu import causes
from bench.overhear import standard_error
from bench.paddle_api import (
    Configuration,
    Event,
    Framework,
    Inference,
    Paddle,
    Predictor,
    Profiling,
    Registry,
    TensorDescription,
    VariableTypes,
)
from bench.schema import Input

#: workers are shown the GPU that is meant and no other
GPU = 0
PLACE = f"gpu:{GPU}"
#: operators that make up the time of a network: convolutions and matrix products, by their names in both formats
COMPUTING = re.compile(r"conv|matmul|attention|gemm|(?:^|_)fc(?:_|$)|^mul$")
MEMORY_POOL_MB = 100  # at first; it grows


def inference_api() -> Inference:
    from paddle import inference

    module: Inference = inference
    return module


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


def said(error: Exception, file: Path) -> str:
    """Of Paddle's many lines the one that says what was wrong, without the place in its source code or `file`'s."""
    lines = [line for line in str(error).splitlines() if re.match(r"\([A-Z]\w+\) ", line)]
    line = last_line(RuntimeError(lines[0]) if lines else error)
    return re.sub(r" \(at /\S+:\d+\)$", "", line.replace(str(file), file.name))


#: Paddle's types and NumPy's
NUMPY = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}


def fed(program: Path) -> tuple[Input, ...]:
    """The inputs of a `.pdmodel`, from the program itself: Paddle's own reader wants a file beside it that many lack.

    Raises UsageError for what is no program, or one without inputs.
    """
    from google.protobuf.message import DecodeError
    from paddle.base.proto import framework_pb2

    framework: Framework = framework_pb2
    description = framework.ProgramDesc()
    try:
        description.ParseFromString(program.read_bytes())
    except (DecodeError, OSError) as error:
        raise UsageError(f"Paddle cannot read {program}", last_line(error), EXPORT_AGAIN) from error
    blocks = description.blocks[:1]
    variables = {variable.name: variable for block in blocks for variable in block.vars}
    names = [op.outputs[0].arguments[0] for block in blocks for op in block.ops if op.type == "feed"]
    if not names:
        raise UsageError(f"Paddle cannot read {program}", "it takes no input", EXPORT_AGAIN)
    return tuple(_input(name, variables[name].type, framework.VarType) for name in names)


def _input(name: str, type_: Any, types: VariableTypes) -> Input:
    tensor: TensorDescription
    # Paddle 3 has renamed what Paddle 2 calls lod_tensor.
    tensor = getattr(type_, "dense_tensor" if hasattr(type_, "dense_tensor") else "lod_tensor").tensor
    shape = tuple(size if size > 0 else None for size in tensor.dims)
    return Input(name=name, shape=shape, type=NUMPY.get(types.Type.Name(tensor.data_type), "unknown"))


def require_gpu(paddle: Paddle) -> None:
    """Raises Unavailable where this Paddle can use no GPU.

    It comes before anything else: without a GPU, `set_device`, `synchronize` and a tensor on a GPU end the process with
    code 255, and a predictor of a build for CPUs computes on the CPU.
    """
    if not paddle.is_compiled_with_cuda():
        raise Unavailable(f"this PaddlePaddle ({paddle.__version__}) is a build for CPUs", "", causes.PADDLE)
    if paddle.device.cuda.device_count() > GPU:
        return
    nothing = Unavailable("no GPU is visible to this process", "Paddle counts 0", causes.VISIBLE)
    try:
        paddle.device.cuda.get_device_capability()
    except Exception as error:  # it raises what its C++ side throws
        raise causes.explained(str(error), nothing) from error
    raise nothing


def use_gpu(config: Configuration) -> None:
    """Raises Unavailable where Paddle takes no notice."""
    config.enable_use_gpu(MEMORY_POOL_MB, GPU)
    if not config.use_gpu():
        raise Unavailable("this PaddlePaddle is a build for CPUs", "enable_use_gpu had no effect", causes.PADDLE)


def config_of(engine: Path, program: Path | None = None) -> Configuration:
    """A configuration for a model file, or for `program` in its place, with the parameters beside the model file.

    Raises Failed where those are cut off.
    """
    parameters = engine.with_suffix(".pdiparams")
    require_whole(parameters)
    config = inference_api().Config(str(program or engine), str(parameters))
    if engine.suffix == ".json":
        # Without both, memory_optim fails on a .json model (`Not find predictor_id 0`).
        config.enable_new_ir(True)
        config.enable_new_executor(True)
    return config


def predictor_of(config: Configuration, engine: Path) -> tuple[Predictor, str]:
    """The predictor, and what was logged on the way. Raises a cause that is known of GPUs, Failed otherwise."""
    inference = inference_api()
    error: Exception | None = None
    with standard_error() as log:
        try:
            predictor = inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError) as raised:
            error = raised
    if error is not None:
        otherwise = Failed(f"Paddle cannot open {engine.name}", said(error, engine))
        raise causes.explained(f"{log.text}\n{error}", otherwise) from error
    return predictor, log.text


def broken_off(error: Exception, file: Path) -> BenchError:
    """What to raise where an inference failed."""
    return causes.explained(str(error), Failed("Paddle broke off the inference", said(error, file)))


def versions_of(paddle: Paddle) -> dict[str, str]:
    """The CUDA and cuDNN that this Paddle was built with."""
    return {"built_with_cuda": str(paddle.version.cuda()), "built_with_cudnn": str(paddle.version.cudnn())}


def computes(operator: str) -> bool:
    return bool(COMPUTING.search(operator))


def kernels_on_gpu(operators: Iterable[str]) -> dict[str, bool]:
    """Whether this Paddle has kernels of operators for fp32 on a GPU. Where it has none, and only there, it takes those
    of the CPU and says nothing: `NeedFallBackCpu` in fluid/pir/transforms/pd_op_to_kernel_pass.cc, and
    `SelectKernelOrThrowError` in phi/core/kernel_factory.cc of PaddlePaddle/Paddle.

    Operators whose kernels are not listed are left out.
    """
    from paddle import base

    registry: Registry = base.core
    listed = registry._get_all_register_op_kernels()
    return {
        operator: any("data_type[float]" in kernel and "Place(gpu" in kernel for kernel in listed[operator])
        for operator in operators
        if operator in listed
    }


def executed(run: Callable[[], object]) -> list[str]:
    """The types of the operators that `run()` executes, such as conv2d and tensorrt_engine, by Paddle's profiler."""
    from paddle import profiler

    profiling: Profiling = profiler
    watch = profiling.Profiler(targets=[profiling.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
    watch.start()
    try:
        run()
    finally:
        watch.stop()
    roots = watch.profiler_result.get_data().values()
    return [name.rpartition(".")[2] for root in roots for name in _operators(root)]


def _operators(node: Event) -> Iterator[str]:
    if str(node.type).endswith(".Operator"):
        yield node.name
        return
    for child in node.children_node:
        yield from _operators(child)
