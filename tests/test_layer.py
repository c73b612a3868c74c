"""A layer more in an ONNX graph: as many multiply-accumulates as asked, and the same outputs."""

import pytest

from bench import counting
from bench.artifacts import Cache
from bench.catalog import ModelCard
from bench.errors import Unsupported
from bench.prepare import Workshop
from bench.schema import Settings
from bench.selfcheck import layer

pytestmark = pytest.mark.runtime  # for onnx, which comes with paddle2onnx

IMAGE, MACS = (3, 32, 32), 1_585_152


@pytest.fixture
def network():
    """Three convolutions with activations between them, 1,585,152 multiply-accumulates; the batch is left open."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(1).standard_normal
    nodes, weights, source = [], [], "x"
    for name, inputs, outputs, size, stride in (("a", 3, 16, 3, 2), ("b", 16, 32, 3, 2), ("c", 32, 64, 3, 1)):
        kernel = (draw((outputs, inputs, size, size)) / 10).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{name}_weights"))
        conv = {"strides": [stride] * 2, "pads": [size // 2] * 4}
        nodes.append(helper.make_node("Conv", [source, f"{name}_weights"], [f"{name}_conv"], name=name, **conv))
        nodes.append(helper.make_node("Relu", [f"{name}_conv"], [name]))
        source = name
    shapes = {"x": ["N", *IMAGE], "c": ["N", 64, 8, 8]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "network", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(model, path):
    import onnx

    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def outputs(path, batch_size):
    import numpy as np
    import onnxruntime

    images = np.random.default_rng(2).standard_normal((batch_size, *IMAGE), dtype=np.float32)
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": images})
    return found


@pytest.mark.parametrize("share", [0.2, 0.35, 1.0])
def test_macs_grow_as_asked_and_outputs_stay(network, tmp_path, share):
    path = saved(network, tmp_path / "before.onnx")
    expected = outputs(path, 2)
    assert counting.count(path).macs == MACS
    added = layer.insert(network, MACS, share)
    path = saved(network, tmp_path / "after.onnx")
    assert counting.count(path).macs == round(MACS * (1 + added))
    assert added == pytest.approx(share, rel=0.1)
    assert outputs(path, 2) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_layer_stands_before_a_convolution(network):
    layer.insert(network, MACS, 0.2)
    names = [node.name for node in network.graph.node if node.op_type == "Conv"]
    place = names.index(layer.WIDEN)
    assert names[place : place + 2] == [layer.WIDEN, layer.NARROW]
    (after,) = (node for node in network.graph.node if layer.NARROW in node.input)
    assert after.name in {"b", "c"}
    wide = next(tensor for tensor in network.graph.initializer if tensor.name == f"{layer.WIDEN}_weights")
    assert wide.dims[0] > wide.dims[1]  # more channels than come in, so that it is more than the identity


def test_what_would_be_narrower_than_its_input_has_no_place(network):
    with pytest.raises(Unsupported, match=r"no place for a layer of 0\.1%"):
        layer.insert(network, MACS, 0.001)


def test_a_model_is_made_once(network, tmp_path):
    file = saved(network, tmp_path / "m.onnx")
    said = []
    workshop = Workshop(Cache(tmp_path / "cache"), Settings(), (), said.append)
    card = ModelCard(name="m", family="file", file=str(file), format="onnx")
    made = layer.slower_model(workshop, card, 0.2)
    assert made.path.endswith("m-slower.onnx")
    assert made.made_by["added"] == pytest.approx(0.2, rel=0.1)
    assert layer.slower_model(workshop, card, 0.2) == made
    assert layer.slower_model(workshop, card, 0.3).sha256 != made.sha256


def test_only_backends_that_run_onnx():
    assert [layer.possible(name) for name in ("onnxruntime", "openvino", "paddle", "simulated")] == [True, True] + [
        False
    ] * 2
