"""What is used of Paddle 2.6 and 3, as types, since its own cover little of it; names and members are Paddle's."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: a member of one of its enumerations
Member = Any
#: where a tensor lies
Place = Any


class Configuration(Protocol):
    """A `Config` of `paddle.inference`."""

    def disable_glog_info(self) -> None: ...
    def enable_memory_optim(self) -> None: ...
    def enable_new_ir(self, enabled: bool, /) -> None: ...
    def enable_new_executor(self, enabled: bool, /) -> None: ...
    def set_cpu_math_library_num_threads(self, threads: int, /) -> None: ...
    def cpu_math_library_num_threads(self) -> int: ...
    def enable_mkldnn(self) -> None: ...
    def disable_mkldnn(self) -> None: ...
    def enable_use_gpu(self, megabytes: int, device: int, /) -> None: ...
    def use_gpu(self) -> bool: ...
    def set_exec_stream(self, stream: "Stream", /) -> None: ...
    def enable_tensorrt_engine(
        self,
        *,
        workspace_size: int,
        max_batch_size: int,
        min_subgraph_size: int,
        precision_mode: Member,
        use_static: bool,
        use_calib_mode: bool,
        use_cuda_graph: bool,
    ) -> None: ...
    def set_optim_cache_dir(self, folder: str, /) -> None: ...
    def collect_shape_range_info(self, file: str, /) -> None: ...
    def enable_tuned_tensorrt_dynamic_shape(self, file: str, build_at_run_time: bool, /) -> None: ...


class Tensor(Protocol):
    """Of Paddle's own, with a place."""

    @property
    def shape(self) -> Sequence[int]: ...
    def data_ptr(self) -> int: ...


class Handle(Protocol):
    """An input or output of a predictor."""

    def reshape(self, shape: Sequence[int], /) -> None: ...
    def copy_from_cpu(self, array: "Array", /) -> None: ...
    def copy_to_cpu(self) -> "Array": ...
    def share_external_data(self, tensor: Tensor, /) -> None: ...


class Predictor(Protocol):
    def get_input_names(self) -> Sequence[str]: ...
    def get_output_names(self) -> Sequence[str]: ...
    def get_input_handle(self, name: str, /) -> Handle: ...
    def get_output_handle(self, name: str, /) -> Handle: ...
    def run(self) -> object: ...


class Precisions(Protocol):
    Half: Member
    Float32: Member


class Inference(Protocol):
    """The module `paddle.inference`."""

    @property
    def PrecisionType(self) -> Precisions: ...
    def Config(self, model: str, parameters: str, /) -> Configuration: ...
    def create_predictor(self, config: Configuration, /) -> Predictor: ...
    def get_trt_compile_version(self) -> tuple[int, ...]: ...
    def get_trt_runtime_version(self) -> tuple[int, ...]: ...


class Stream(Protocol):
    """One that waits for no other; `cuda_stream` is its address. Builds for CPUs have the name alone."""

    @property
    def cuda_stream(self) -> int: ...
    def synchronize(self) -> None: ...


class CudaDevices(Protocol):
    """The module `paddle.device.cuda`."""

    def Stream(self, device: int, /) -> Stream: ...
    def device_count(self) -> int: ...
    def get_device_capability(self) -> tuple[int, int]: ...


class Devices(Protocol):
    """The module `paddle.device`."""

    @property
    def cuda(self) -> CudaDevices: ...
    def synchronize(self, place: str, /) -> None: ...


class Versions(Protocol):
    """The module `paddle.version`, of what Paddle was built with."""

    def cuda(self) -> str: ...
    def cudnn(self) -> str: ...


class Spec(Protocol):
    """An input's; -1 is a size that the model leaves open."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> Member: ...


class Layer(Protocol):
    """A `TranslatedLayer`: a model that was loaded."""

    def _input_spec(self) -> Sequence[Spec]: ...


class Jit(Protocol):
    """The module `paddle.jit`."""

    def load(self, path: str, /) -> Layer: ...


class Paddle(Protocol):
    """The module."""

    __version__: str
    __file__: str

    @property
    def device(self) -> Devices: ...
    @property
    def version(self) -> Versions: ...
    @property
    def jit(self) -> Jit: ...
    def is_compiled_with_cuda(self) -> bool: ...
    def CUDAPlace(self, device: int, /) -> Place: ...
    def to_tensor(self, array: "Array", /, *, place: Place) -> Tensor: ...


class Event(Protocol):
    """A node of the tree that the profiler makes."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Member: ...
    @property
    def children_node(self) -> Sequence["Event"]: ...


class Profile(Protocol):
    def get_data(self) -> Mapping[int, Event]: ...


class Watch(Protocol):
    """A `Profiler`; its result is there once it has stopped."""

    @property
    def profiler_result(self) -> Profile: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Targets(Protocol):
    CPU: Member


class Profiling(Protocol):
    """The module `paddle.profiler`."""

    @property
    def ProfilerTarget(self) -> Targets: ...
    def Profiler(self, *, targets: Sequence[Member], on_trace_ready: Callable[[Any], object]) -> Watch: ...


class Registry(Protocol):
    """The module `paddle.base.core`, of the kernels that this Paddle has."""

    def _get_all_register_op_kernels(self) -> Mapping[str, Sequence[str]]: ...


class PrecisionModes(Protocol):
    FP16: Member
    FP32: Member


class Export(Protocol):
    """The module `paddle.tensorrt.export`, of Paddle 3 alone. What its constructors make is only handed on."""

    @property
    def PrecisionMode(self) -> PrecisionModes: ...
    def Input(
        self, *, min_input_shape: tuple[int, ...], optim_input_shape: tuple[int, ...], max_input_shape: tuple[int, ...]
    ) -> object: ...
    def TensorRTConfig(
        self,
        *,
        inputs: Sequence[object],
        min_subgraph_size: int,
        save_model_dir: str,
        precision_mode: Member,
        workspace_size: int,
        use_cuda_graph: bool = ...,
    ) -> object: ...
    def convert(self, model: str, config: object, /) -> object: ...


class Argument(Protocol):
    """`OpDesc.Var`: the variables that stand for one output of an operator."""

    @property
    def arguments(self) -> Sequence[str]: ...


class Operator(Protocol):
    @property
    def type(self) -> str: ...
    @property
    def outputs(self) -> Sequence[Argument]: ...


class TensorDescription(Protocol):
    @property
    def data_type(self) -> int: ...
    @property
    def dims(self) -> Sequence[int]: ...


class Variable(Protocol):
    """Its `type` holds a TensorDescription, in a field that Paddle 3 has renamed."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Any: ...


class Block(Protocol):
    @property
    def vars(self) -> Sequence[Variable]: ...
    @property
    def ops(self) -> Sequence[Operator]: ...


class Description(Protocol):
    """A `ProgramDesc`: the program of a `.pdmodel`."""

    @property
    def blocks(self) -> Sequence[Block]: ...
    def ParseFromString(self, data: bytes, /) -> object: ...


class TypeNames(Protocol):
    def Name(self, number: int, /) -> str: ...


class VariableTypes(Protocol):
    @property
    def Type(self) -> TypeNames: ...


class Framework(Protocol):
    """The module `paddle.base.proto.framework_pb2`."""

    @property
    def VarType(self) -> VariableTypes: ...
    def ProgramDesc(self) -> Description: ...
