"""A slowdown that is no trick of the clock: the same network with a layer more, which changes no output.

The layer is a pair of 1x1 convolutions before one of the network's own. The first widens its C channels to K, of which
C are the channels as they are and the others random mixtures; the second takes the C back. No runtime can tell that
nothing comes of the rest, and any share of the network's multiply-accumulates can be had by the choice of K.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import backends, counting
from bench.artifacts import Made, files_sha256
from bench.catalog import ModelCard
from bench.errors import Unavailable, Unsupported
from bench.prepare import Workshop, versions
from bench.schema import Artifact

SEED = 0
WIDEN, NARROW = "bench_widen", "bench_narrow"


def possible(backend: str) -> bool:
    """Whether the backend runs what is added to: an ONNX graph."""
    return backends.get(backend).source == "onnx"


def slower_model(workshop: Workshop, card: ModelCard, share: float) -> Artifact:
    """The card's ONNX file with `share` more multiply-accumulates; those that it really has more are its fact `added`.

    Raises Unavailable without onnx, Unsupported for a network that has no place for it.
    """
    source = workshop.model(card, "onnx")
    parts = {
        "source": source.sha256,
        "share": share,
        "versions": versions("onnx"),
        "code": files_sha256(Path(__file__), Path(counting.__file__)),
    }
    return workshop.cache.get("slower", parts, partial(_make, Path(source.path), f"{card.name}-slower.onnx", share))


def _make(source: Path, name: str, share: float, folder: Path) -> Made:
    try:
        import onnx
    except ImportError as error:
        raise Unavailable("a layer is added with onnx", str(error), "install it with: pip install onnx") from error
    model = onnx.load(source)
    added = insert(model, counting.count(source).macs, share)
    onnx.checker.check_model(model)
    onnx.save(model, folder / name)
    return Made(format="onnx", file=name, facts={"added": added})


class Place(NamedTuple):
    """Before which node the layer may go, the shape of what passes there, and how wide the layer would be."""

    node: int
    channels: int
    positions: int
    width: int

    @property
    def macs(self) -> int:
        """Of both convolutions, for one image."""
        return 2 * self.channels * self.width * self.positions

    @property
    def traffic(self) -> int:
        """How many numbers move: the weights of both, what goes in, what is between them, what comes out."""
        return 2 * self.channels * self.width + self.positions * (2 * self.channels + self.width)


def insert(model: Any, macs: int, share: float) -> float:
    """Adds the layer to an ONNX model of so many `macs` an image; the share of them that it really adds.

    It goes where it moves the least memory, as time then grows most nearly as multiply-accumulates do.
    """
    places = list(_places(model, macs * share))
    if not places:
        raise Unsupported(f"no place for a layer of {share:.1%}", "it must be as wide as what a convolution takes in")
    place = min(places, key=lambda place: place.traffic)
    _insert(model.graph, place)
    return place.macs / macs


def _places(model: Any, wanted: float) -> Iterator[Place]:
    """Before each convolution whose input has a known shape and is no wider than the layer would be."""
    from onnx import TensorProto, shape_inference

    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        for value in shape_inference.infer_shapes(model).graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    for index, node in enumerate(model.graph.node):
        shape = shapes.get(node.input[0], []) if node.op_type == "Conv" else []
        if len(shape) == 3 and all(shape):
            channels, height, width = shape
            wide = round(wanted / (2 * channels * height * width))
            if wide >= channels:
                yield Place(index, channels, height * width, wide)


def _insert(graph: Any, place: Place) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    eye = np.eye(place.width, place.channels, dtype=np.float32)
    mixtures = np.random.default_rng(SEED).standard_normal(eye.shape, dtype=np.float32) / place.channels**0.5
    mixtures[: place.channels] = eye[: place.channels]
    for name, weights in ((WIDEN, mixtures), (NARROW, eye.T)):
        graph.initializer.append(numpy_helper.from_array(weights[..., None, None].copy(), f"{name}_weights"))
    node = graph.node[place.node]
    source, node.input[0] = node.input[0], NARROW
    graph.node.insert(place.node, helper.make_node("Conv", [WIDEN, f"{NARROW}_weights"], [NARROW], name=NARROW))
    graph.node.insert(place.node, helper.make_node("Conv", [source, f"{WIDEN}_weights"], [WIDEN], name=WIDEN))
