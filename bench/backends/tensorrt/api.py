"""What is used of TensorRT's Python API, as types, since its wheels hold none; and where its generations differ.

One path serves 8.6, 10, 11 and TensorRT-RTX: tensors by name, explicit batch. Numbers of its enumerations change from
release to release, so members are looked up by name.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NewType, Protocol


class Memory(Protocol):
    """Of TensorRT's own, which `bytes` copies."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Member:
    """A member of an enumeration. It and its kinds are for mypy alone, which so tells those of one from another's."""

    name: str

    def __int__(self) -> int:
        raise NotImplementedError


Severity = NewType("Severity", Member)
Flag = NewType("Flag", Member)
NetworkFlag = NewType("NetworkFlag", Member)
Pool = NewType("Pool", Member)
Verbosity = NewType("Verbosity", Member)
Format = NewType("Format", Member)
Kind = NewType("Kind", Member)
Type = NewType("Type", Member)
Mode = NewType("Mode", Member)
Location = NewType("Location", Member)

#: switches of the builder for weak typing: none is in 11, and 8.6 lacks BF16
TypeFlag = Literal["FP16", "BF16", "INT8"]
#: types that a model may hold besides fp32; 8.6 lacks BF16
TypeName = Literal["HALF", "BF16"]


class BuilderFlag(Protocol):
    """The members of all generations; for others see `flag`."""

    TF32: Flag


class NetworkDefinitionCreationFlag(Protocol):
    """EXPLICIT_BATCH is gone from 11, STRONGLY_TYPED came with 10."""

    EXPLICIT_BATCH: NetworkFlag
    STRONGLY_TYPED: NetworkFlag


class MemoryPoolType(Protocol):
    WORKSPACE: Pool


class ProfilingVerbosity(Protocol):
    DETAILED: Verbosity


class LayerInformationFormat(Protocol):
    JSON: Format


class LayerType(Protocol):
    QUANTIZE: Kind
    DEQUANTIZE: Kind


class DataType(Protocol):
    """Looked up by name alone: see `data_type`."""


class TensorIOMode(Protocol):
    INPUT: Mode
    OUTPUT: Mode


class TensorLocation(Protocol):
    DEVICE: Location


class Logger(Protocol):
    def log(self, severity: Severity, text: str, /) -> None: ...


class Tensor(Protocol):
    """Of a network under construction; -1 is a dimension that the model leaves open."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> Type: ...


class Layer(Protocol):
    @property
    def type(self) -> Kind: ...
    @property
    def num_outputs(self) -> int: ...
    def get_output(self, index: int, /) -> Tensor | None: ...


class Network(Protocol):
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    def get_input(self, index: int, /) -> Tensor: ...
    def get_layer(self, index: int, /) -> Layer: ...


class ParserError(Protocol):
    def desc(self) -> str: ...


class Parser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def parse_from_file(self, path: str, /) -> bool: ...
    def get_error(self, index: int, /) -> ParserError: ...


class Profile(Protocol):
    def set_shape(self, name: str, least: Sequence[int], usual: Sequence[int], most: Sequence[int], /) -> None: ...


class TimingCache(Protocol):
    def serialize(self) -> Memory: ...


class Config(Protocol):
    builder_optimization_level: int
    profiling_verbosity: Verbosity

    def set_memory_pool_limit(self, pool: Pool, size: int, /) -> None: ...
    def set_flag(self, flag: Flag, /) -> None: ...
    def clear_flag(self, flag: Flag, /) -> None: ...
    def get_flag(self, flag: Flag, /) -> bool: ...
    def add_optimization_profile(self, profile: Profile, /) -> int: ...
    def create_timing_cache(self, saved: bytes, /) -> TimingCache | None: ...
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool, /) -> bool: ...
    def get_timing_cache(self) -> TimingCache | None: ...


class Builder(Protocol):
    def create_network(self, flags: int, /) -> Network: ...
    def create_builder_config(self) -> Config: ...
    def create_optimization_profile(self) -> Profile: ...
    def build_serialized_network(self, network: Network, config: Config, /) -> Memory | None: ...


class Context(Protocol):
    """Its methods return False rather than raise."""

    def set_optimization_profile_async(self, index: int, stream: int, /) -> bool: ...
    def set_input_shape(self, name: str, shape: Sequence[int], /) -> bool: ...
    def infer_shapes(self) -> Sequence[str]: ...
    def get_tensor_shape(self, name: str, /) -> Sequence[int]: ...
    def set_tensor_address(self, name: str, pointer: int, /) -> bool: ...
    def execute_async_v3(self, stream: int, /) -> bool: ...


class Inspector(Protocol):
    execution_context: Context

    def get_engine_information(self, format_: Format, /) -> str: ...


class Engine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int, /) -> str: ...
    def get_tensor_mode(self, name: str, /) -> Mode: ...
    def get_tensor_dtype(self, name: str, /) -> Type: ...
    def get_tensor_location(self, name: str, /) -> Location: ...
    def create_execution_context(self) -> Context | None: ...
    def create_engine_inspector(self) -> Inspector: ...


class Runtime(Protocol):
    def deserialize_cuda_engine(self, plan: bytes, /) -> Engine | None: ...


class Trt(Protocol):
    """The module. `ILogger` is the base of a Logger: mypy knows no class that is made of a value."""

    __version__: str

    def __hash__(self) -> int: ...
    @property
    def Builder(self) -> Callable[[Logger], Builder]: ...
    @property
    def OnnxParser(self) -> Callable[[Network, Logger], Parser]: ...
    @property
    def Runtime(self) -> Callable[[Logger], Runtime]: ...
    @property
    def ILogger(self) -> Any: ...
    @property
    def BuilderFlag(self) -> BuilderFlag: ...
    @property
    def NetworkDefinitionCreationFlag(self) -> NetworkDefinitionCreationFlag: ...
    @property
    def MemoryPoolType(self) -> MemoryPoolType: ...
    @property
    def ProfilingVerbosity(self) -> ProfilingVerbosity: ...
    @property
    def LayerInformationFormat(self) -> LayerInformationFormat: ...
    @property
    def LayerType(self) -> LayerType: ...
    @property
    def DataType(self) -> DataType: ...
    @property
    def TensorIOMode(self) -> TensorIOMode: ...
    @property
    def TensorLocation(self) -> TensorLocation: ...
    def init_libnvinfer_plugins(self, logger: Logger, namespace: str, /) -> bool: ...


def flag(trt: Trt, name: TypeFlag) -> Flag | None:
    """A switch of the builder, where this generation has it."""
    return getattr(trt.BuilderFlag, name, None)


def data_type(trt: Trt, name: TypeName) -> Type | None:
    return getattr(trt.DataType, name, None)


def types_by_itself(trt: Trt) -> bool:
    """Whether TensorRT may choose the type of a layer (weak typing), as until 10; later the model says it all."""
    return flag(trt, "FP16") is not None


def network_flags(trt: Trt, strong: bool) -> int:
    """For `create_network`. Raises LookupError where strong typing is asked of a release without it."""
    kinds = trt.NetworkDefinitionCreationFlag
    if trt.__version__.startswith("8."):
        if strong:
            raise LookupError
        return 1 << int(kinds.EXPLICIT_BATCH)
    if strong and types_by_itself(trt):
        return 1 << int(kinds.STRONGLY_TYPED)
    return 0
