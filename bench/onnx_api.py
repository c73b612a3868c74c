"""What is used of ONNX's package and of Paddle2ONNX, as types; an environment may lack both. Names are their own."""

from collections.abc import MutableSequence, Sequence
from pathlib import Path
from typing import Protocol


class Dimension(Protocol):
    """0 where it is named or absent."""

    dim_value: int


class Shape(Protocol):
    @property
    def dim(self) -> Sequence[Dimension]: ...


class TensorType(Protocol):
    @property
    def shape(self) -> Shape: ...
    def HasField(self, name: str, /) -> bool: ...


class Type(Protocol):
    @property
    def tensor_type(self) -> TensorType: ...


class Value(Protocol):
    """What passes between nodes, by name."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Type: ...


class Tensor(Protocol):
    """A weight."""

    @property
    def name(self) -> str: ...
    @property
    def dims(self) -> Sequence[int]: ...
    @property
    def data_type(self) -> int: ...


class Node(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def input(self) -> MutableSequence[str]: ...
    @property
    def output(self) -> Sequence[str]: ...


class Graph(Protocol):
    @property
    def node(self) -> Sequence[Node]: ...
    @property
    def initializer(self) -> Sequence[Tensor]: ...
    @property
    def input(self) -> Sequence[Value]: ...
    @property
    def output(self) -> Sequence[Value]: ...
    @property
    def value_info(self) -> Sequence[Value]: ...


class Model(Protocol):
    @property
    def graph(self) -> Graph: ...


class Onnx(Protocol):
    """The module."""

    def load(self, path: Path, /, *, format: str = "protobuf", load_external_data: bool = True) -> Model: ...


class Inference(Protocol):
    """The module `onnx.shape_inference`."""

    InferenceError: type[Exception]

    def infer_shapes(self, model: Model, /, *, data_prop: bool = False) -> Model: ...


class Paddle2Onnx(Protocol):
    """The module."""

    def export(
        self, model: str, parameters: str, file: str, /, *, opset_version: int, optimize_tool: str
    ) -> object: ...
