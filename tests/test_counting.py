"""Multiply-accumulates counted by hand, on graphs small enough for that, against `bench.counting`."""

import math

import pytest

from bench.counting import count
from bench.errors import UsageError

pytestmark = pytest.mark.runtime  # for onnx, which comes with paddle2onnx


@pytest.fixture
def save(tmp_path):
    """Writes (operator, inputs, attributes) nodes as a model; their outputs are called y0, y1, ... in order.

    Weights are zeros, given by shape; `constants` are lists of integers, each behind a Constant node. All
    but these, and what `bytes_` names, is float.
    """
    from onnx import TensorProto, helper
    from onnx import save as write

    def constant(name, values):
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return helper.make_node("Constant", [], [name], value=tensor)

    def zeros(name, shape, element):
        return helper.make_tensor(name, element, shape, [0] * math.prod(shape))

    def node(index, operator, inputs, attributes):
        return helper.make_node(operator, inputs, [f"y{index}"], **attributes)

    def save(inputs, nodes, constants=None, bytes_="", **weights):
        def element(name):
            return TensorProto.UINT8 if name in bytes_.split() else TensorProto.FLOAT

        graph = helper.make_graph(
            [constant(*item) for item in (constants or {}).items()] + [node(i, *n) for i, n in enumerate(nodes)],
            "graph",
            [helper.make_tensor_value_info(name, element(name), shape) for name, shape in inputs.items()],
            [helper.make_empty_tensor_value_info(f"y{len(nodes) - 1}")],
            [zeros(name, shape, element(name)) for name, shape in weights.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
        write(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


@pytest.mark.parametrize(
    ("operator", "attributes", "x", "w", "macs"),
    [
        pytest.param("Conv", {}, [1, 4, 9, 9], [8, 4, 1, 1], 8 * 81 * 4, id="pointwise"),
        pytest.param("Conv", {}, [1, 2, 10], [3, 2, 4], 3 * 7 * 8, id="one dimension"),
        pytest.param("Conv", {"pads": [1, 1, 1, 1]}, [1, 4, 9, 9], [8, 4, 3, 3], 8 * 81 * 36, id="padded"),
        pytest.param("Conv", {"pads": [0, 0, 1, 2]}, [1, 1, 5, 5], [1, 1, 3, 3], 4 * 5 * 9, id="padded on one side"),
        pytest.param("Conv", {"auto_pad": "SAME_UPPER"}, [1, 1, 5, 5], [1, 1, 3, 3], 25 * 9, id="padded by name"),
        pytest.param("Conv", {"strides": [2, 3]}, [1, 4, 9, 9], [8, 4, 3, 3], 8 * 4 * 3 * 36, id="strided"),
        pytest.param("Conv", {"dilations": [2, 2]}, [1, 1, 7, 7], [1, 1, 3, 3], 9 * 9, id="dilated"),
        pytest.param("Conv", {"group": 4}, [1, 8, 5, 5], [12, 2, 3, 3], 12 * 9 * 18, id="grouped"),
        pytest.param("Conv", {"group": 8}, [1, 8, 5, 5], [8, 1, 3, 3], 8 * 9 * 9, id="depthwise"),
        pytest.param("ConvTranspose", {"strides": [2, 2]}, [1, 4, 3, 3], [4, 2, 2, 2], 36 * 8, id="transposed"),
        pytest.param("ConvTranspose", {"group": 2}, [1, 4, 3, 3], [4, 1, 2, 2], 36 * 4, id="transposed, grouped"),
        pytest.param("Gemm", {}, [1, 6], [6, 10], 60, id="Gemm"),
        pytest.param("Gemm", {"transB": 1}, [1, 6], [10, 6], 60, id="Gemm, B transposed"),
        pytest.param("MatMul", {}, [1, 6], [6, 10], 60, id="matrix"),
        pytest.param("MatMul", {}, [1, 2, 5, 4], [4, 3], 2 * 5 * 3 * 4, id="matrix for every head"),
        pytest.param("MatMul", {}, [1, 4], [7, 4, 3], 7 * 3 * 4, id="broadcast to the right"),
        pytest.param("MatMul", {}, [1, 4], [4], 4, id="vector"),
    ],
)
def test_one_operator(save, operator, attributes, x, w, macs):
    counts = count(save({"x": x}, [(operator, ["x", "w"], attributes)], w=w))
    assert counts.macs == macs
    assert counts.nodes == {operator: 1}
    assert counts.uncounted == ()


def test_a_matrix_that_gemm_transposes(save):
    nodes = [("Reshape", ["x", "shape"], {}), ("Gemm", ["y0", "w"], {"transA": 1})]
    assert count(save({"x": [1, 30]}, nodes, {"shape": [6, 5]}, w=[6, 7])).macs == 5 * 6 * 7


def test_a_quantised_convolution_counts_as_its_float_one(save):
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    scales = {name: [] for name in inputs if len(name) > 1}
    nodes = [("QLinearConv", inputs, {"group": 4})]
    path = save({"x": [1, 8, 5, 5]}, nodes, bytes_="x xz w wz yz", w=[12, 2, 3, 3], **scales)
    assert count(path).macs == 12 * 9 * 18


@pytest.mark.parametrize("batch", [1, 8, "batch", None, -1, 0])
def test_counts_are_for_one_image_whatever_the_batch(save, batch):
    nodes = [
        ("Conv", ["x", "w"], {}),
        ("Flatten", ["y0"], {}),
        ("Gemm", ["y1", "v"], {}),
    ]
    counts = count(save({"x": [batch, 3, 4, 4]}, nodes, w=[2, 3, 3, 3], v=[8, 5]))
    assert counts.macs == 2 * 4 * 27 + 8 * 5
    assert counts.nodes == {"Conv": 1, "Flatten": 1, "Gemm": 1}


def test_a_product_of_two_activations_counts(save):
    nodes = [
        ("MatMul", ["x", "w"], {}),
        ("Transpose", ["y0"], {"perm": [0, 2, 1]}),
        ("MatMul", ["y0", "y1"], {}),
    ]
    assert count(save({"x": ["batch", 5, 4]}, nodes, w=[4, 6])).macs == 5 * 6 * 4 + 5 * 5 * 6


def test_a_batch_written_into_a_reshape(save):
    nodes = [("Reshape", ["x", "shape"], {}), ("MatMul", ["y0", "w"], {})]
    assert count(save({"x": [8, 3, 2]}, nodes, {"shape": [8, 6]}, w=[6, 5])).macs == 30


def test_a_shape_behind_an_identity(save):
    """Paddle2ONNX writes biases of squeeze-and-excite so, and shape inference alone stops there."""
    nodes = [
        ("Identity", ["shape"], {}),
        ("Reshape", ["bias", "y0"], {}),
        ("Add", ["x", "y1"], {}),
        ("Conv", ["y2", "w"], {}),
    ]
    path = save({"x": ["batch", 4, 2, 2]}, nodes, {"shape": [1, -1, 1, 1]}, bias=[4], w=[3, 4, 1, 1])
    assert count(path).macs == 4 * 12


def test_height_and_width_left_open(save):
    path = save({"x": ["batch", 3, "height", "width"]}, [("Conv", ["x", "w"], {})], w=[2, 3, 1, 1])
    assert count(path, input_shape=(3, 5, 7)).macs == 35 * 6
    with pytest.raises(UsageError, match=r"shapes of Conv 'y0' cannot be inferred; unknown: x, y0; give --input-shape"):
        count(path)


def test_what_is_not_counted_is_named(save):
    nodes = [
        ("Einsum", ["x", "w"], {"equation": "ij,jk->ik"}),
        ("Swirl", ["y0"], {"domain": "com.example"}),
        ("Relu", ["y1"], {}),
    ]
    counts = count(save({"x": [1, 4]}, nodes, w=[4, 4]))
    assert (counts.macs, counts.uncounted) == (0, ("Einsum", "Swirl"))


def test_shapes_that_contradict_each_other(save):
    with pytest.raises(UsageError, match=r"shapes of MatMul 'y0' cannot be inferred; unknown: y0; "):
        count(save({"x": [1, 6]}, [("MatMul", ["x", "w"], {})], w=[5, 2]))


def test_a_graph_that_shape_inference_refuses(save):
    with pytest.raises(UsageError, match=r"cannot infer the shapes of .*model\.onnx; .*com\.unheard.*; "):
        count(save({"x": [1, 6]}, [("Swirl", ["x"], {"domain": "com.unheard"})]))


@pytest.mark.parametrize("content", [b"", b"not a protocol buffer", bytes(64)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_not_onnx(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.onnx is not an ONNX model; .+; give "):
        count(path)


def test_a_file_cut_off(save):
    path = save({"x": [1, 3, 4, 4]}, [("Conv", ["x", "w"], {})], w=[2, 3, 3, 3])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="is not an ONNX model"):
        count(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*; No such file or directory; give "):
        count(tmp_path / "model.onnx")
