"""What is used of ONNX Runtime, as types, since its wheels hold none that mypy reads; names and members are its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: a member of one of its enumerations
Member = Any
#: by name, or with its options
Provider = str | tuple[str, dict[str, str]]


class Node(Protocol):
    """An input or output of the graph. A size that the model leaves open is a name, or None."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str | None]: ...
    @property
    def type(self) -> str: ...


class AssignedNode(Protocol):
    @property
    def op_type(self) -> str: ...


class AssignedSubgraph(Protocol):
    """A part of the graph that one execution provider computes."""

    @property
    def ep_name(self) -> str: ...
    def get_nodes(self) -> Sequence[AssignedNode]: ...


class Value(Protocol):
    """An `OrtValue`: an array in the memory of some device."""

    def shape(self) -> Sequence[int]: ...
    def numpy(self) -> "Array": ...
    def update_inplace(self, array: "Array", /) -> None: ...
    def data_ptr(self) -> int: ...


class Values(Protocol):
    """The class `OrtValue`, as far as it makes values."""

    def ortvalue_from_numpy(self, array: "Array", device_type: str = "cpu", device_id: int = 0, /) -> Value: ...
    def ortvalue_from_shape_and_type(
        self, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0, /
    ) -> Value: ...


class Binding(Protocol):
    def bind_ortvalue_input(self, name: str, value: Value, /) -> None: ...
    def bind_ortvalue_output(self, name: str, value: Value, /) -> None: ...
    def bind_output(self, name: str, /) -> None: ...
    def clear_binding_inputs(self) -> None: ...
    def clear_binding_outputs(self) -> None: ...
    def synchronize_inputs(self) -> None: ...
    def synchronize_outputs(self) -> None: ...
    def copy_outputs_to_cpu(self) -> Sequence["Array"]: ...


class Options(Protocol):
    """A `SessionOptions`."""

    intra_op_num_threads: int
    inter_op_num_threads: int
    log_severity_level: int
    graph_optimization_level: Member
    enable_profiling: bool
    profile_file_prefix: str

    def add_session_config_entry(self, name: str, value: str, /) -> None: ...


class RunOptions(Protocol):
    def add_run_config_entry(self, name: str, value: str, /) -> None: ...


class Session(Protocol):
    """An `InferenceSession`. `get_provider_graph_assignment_info` is missing from older releases."""

    def get_inputs(self) -> Sequence[Node]: ...
    def get_outputs(self) -> Sequence[Node]: ...
    def get_providers(self) -> Sequence[str]: ...
    def get_provider_options(self) -> Mapping[str, Mapping[str, str]]: ...
    def get_provider_graph_assignment_info(self) -> Sequence[AssignedSubgraph]: ...
    def disable_fallback(self) -> None: ...
    def io_binding(self) -> Binding: ...
    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, "Array"], /) -> Sequence["Array"]: ...
    def run_with_iobinding(self, binding: Binding, options: RunOptions | None = None, /) -> None: ...
    def end_profiling(self) -> str: ...


class Levels(Protocol):
    ORT_ENABLE_ALL: Member
    ORT_ENABLE_EXTENDED: Member
    ORT_ENABLE_BASIC: Member
    ORT_DISABLE_ALL: Member


class Ort(Protocol):
    """The module. `preload_dlls` is missing from older releases."""

    __version__: str

    @property
    def GraphOptimizationLevel(self) -> Levels: ...
    @property
    def OrtValue(self) -> Values: ...
    def SessionOptions(self) -> Options: ...
    def RunOptions(self) -> RunOptions: ...
    def InferenceSession(
        self,
        path: Path,
        options: Options | None = None,
        /,
        *,
        providers: Sequence[Provider],
        enable_fallback: int = 1,
    ) -> Session: ...
    def get_available_providers(self) -> Sequence[str]: ...
    def preload_dlls(self) -> None: ...
