"""Multiply-accumulates, counted over an ONNX graph.

The convention of every table: a MAC is one multiplication and the addition that takes up its result,
in a convolution or a matrix product. Nothing else counts: no bias, no batch norm, no activation, no
pooling. FLOPs = 2 x MACs. Counts are for one image, whatever the batch of the graph.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path

from bench.errors import UsageError
from bench.onnx_api import Dimension, Inference, Model, Node, Onnx
from bench.schema import Frozen

# What is counted, and which two inputs of it are multiplied.
FACTORS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}

# Operators of the standard that multiply and accumulate too, or hold a graph that may, and are not counted.
BEYOND = {"Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"}

Shape = tuple[int, ...]


class Counts(Frozen, frozen=True):
    """`macs` for one image; `nodes` by operator. With operators in `uncounted`, `macs` is a lower bound."""

    macs: int
    nodes: dict[str, int]
    uncounted: tuple[str, ...] = ()


def count(path: Path, input_shape: Shape | None = None) -> Counts:
    """Count the graph of an ONNX file. The first dimension of its first input is taken for the batch.

    `input_shape`, without the batch, is for files that leave it open.
    """
    model = _load(path)
    batch = _fix_batch(model, input_shape)
    _bypass_identities(model)
    shapes = _shapes(model, path)
    macs = sum(_macs(node, shapes, path) for node in model.graph.node if node.op_type in FACTORS)
    nodes = Counter(node.op_type for node in model.graph.node)
    # A batch written into the file may also stand in its Reshapes: dividing needs no rewriting of them.
    return Counts(macs=macs // batch, nodes=dict(sorted(nodes.items())), uncounted=_uncounted(model))


def _load(path: Path) -> Model:
    import onnx
    from google.protobuf.message import DecodeError

    reader: Onnx = onnx
    do = "give a .onnx file that onnx.checker accepts"
    try:
        # Shapes are inferred without the values of large weights, so those kept beside the file may stay there.
        model = reader.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error), do) from error
    except DecodeError as error:
        raise UsageError(f"{path} is not an ONNX model", str(error), do) from error
    if not model.graph.node:
        raise UsageError(f"{path} is not an ONNX model", "it has no graph, or one without nodes", do)
    return model


def _fix_batch(model: Model, input_shape: Shape | None) -> int:
    """Set an open batch to 1, and what else is open to `input_shape`; return the batch."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in weights]
    for dims in inputs:
        _fill(dims, (1,))
    if not inputs or not inputs[0]:
        return 1
    batch = inputs[0][0].dim_value
    _fill(inputs[0], (batch, *(input_shape or ())))
    return batch


def _fill(dims: Sequence[Dimension], sizes: Shape) -> None:
    """Open dimensions are named, absent, or, from some exporters, 0 or -1."""
    for dim, size in zip(dims, sizes, strict=False):
        if dim.dim_value < 1:
            dim.dim_value = size


def _bypass_identities(model: Model) -> None:
    """Inference loses the value of a constant in an Identity, and with it the shape made by a Reshape."""
    sources: dict[str, str] = {}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = sources.get(name, name)
        if node.op_type == "Identity":
            sources[node.output[0]] = node.input[0]


def _shapes(model: Model, path: Path) -> dict[str, Shape]:
    """The shape of every tensor that has a full one."""
    from onnx import shape_inference

    inference: Inference = shape_inference
    try:
        graph = inference.infer_shapes(model, data_prop=True).graph
    except inference.InferenceError as error:
        found = " ".join(str(error).split())
        raise UsageError(f"cannot infer the shapes of {path}", found, "export the model anew") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.dim_value > 0 for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def _macs(node: Node, shapes: dict[str, Shape], path: Path) -> int:
    left, right = (node.input[i] for i in FACTORS[node.op_type])
    output = node.output[0]
    if unknown := [name for name in (left, right, output) if name not in shapes]:
        raise UsageError(
            f"cannot count {path}: the shapes of {node.op_type} {node.name or output!r} cannot be inferred",
            f"unknown: {', '.join(unknown)}",
            "give --input-shape if the file leaves it open, or else export the model anew",
        )
    if node.op_type == "ConvTranspose":  # each input element meets the whole kernel of its group
        return prod(shapes[left]) * prod(shapes[right][1:])
    if "Conv" in node.op_type:  # each output element sums over one kernel, [outputs, inputs / groups, *kernel]
        return prod(shapes[output]) * prod(shapes[right][1:])
    if node.op_type == "Gemm":  # each element of A, transposed or not, meets a row of B
        return prod(shapes[left]) * shapes[output][-1]
    return prod(shapes[output]) * shapes[left][-1]


def _uncounted(model: Model) -> tuple[str, ...]:
    def counted(node: Node) -> bool:
        return node.domain in ("", "ai.onnx") and node.op_type not in BEYOND

    return tuple(sorted({node.op_type for node in model.graph.node if not counted(node)}))
