"""Conversions between formats, named `<target>_from_<source>`. Only the worker comes here: it loads Paddle."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import counting, pdparams, weights
from bench.artifacts import Made
from bench.catalog import MODELS, ModelCard
from bench.errors import Failed, UsageError, last_line
from bench.onnx_api import Paddle2Onnx

SEED = 0
MOST_FUSING_ERROR = 1e-4


def network_of(name: str) -> Callable[[], Any]:
    """The factory that a card names as "models.dpn:DPN92".

    The folder of cards is no package of ours on the import path: in a wheel it lies inside `bench`, and
    a top-level `models` would clash with everybody's.
    """
    module, _, attribute = name.partition(":")
    if "models" not in sys.modules:
        spec = importlib.util.spec_from_loader("models", None, is_package=True)
        assert spec is not None
        package = importlib.util.module_from_spec(spec)
        package.__path__ = [str(MODELS)]
        sys.modules["models"] = package
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"no network {name}", str(error), "mend the card") from error
    return factory


def paddle_from_network(card: ModelCard, source: str, folder: Path) -> Made:
    """Builds the card's network with honest random weights, or those of a `.pdparams` file, and saves it.

    Re-parameterised networks are fused first. Raises Failed where the result isn't the network the card
    describes, UsageError where the weights don't fit.
    """
    import paddle

    network = network_of(card.network)()
    if source == "random":
        weights.randomise(network, SEED, card.input_shape)
    else:
        weights.load(network, pdparams.read_pdparams(Path(source)), card.name)
    network.eval()
    facts: dict[str, Any] = {}
    if hasattr(network, "fuse"):
        facts["fusing_error"] = _fuse(network, card)
    parameters = [parameter.numpy() for parameter in network.parameters() if not parameter.stop_gradient]
    facts["params"] = sum(parameter.size for parameter in parameters)
    facts["denormals"] = weights.denormals(parameters)
    _check_size(card, network, facts["params"])
    spec = paddle.static.InputSpec([None, *card.input_shape], "float32", "x")
    paddle.jit.save(network, str(folder / "inference"), input_spec=[spec])
    newer = (folder / "inference.json").is_file()  # as Paddle 3 writes it; up to 2.6 it is a .pdmodel
    format_, file = ("paddle", "inference.json") if newer else ("pdmodel", "inference.pdmodel")
    return Made(format=format_, file=file, facts=facts)


def _check_size(card: ModelCard, network: Any, params: int) -> None:
    """That the network is the one of the card: as many parameters, and when fused, as many convolutions."""
    import paddle

    expected = card.fused.params if card.fused else card.params
    if expected not in (None, params):
        raise Failed(f"{card.name} has {params} trained parameters", f"its card says {expected}")
    convolutions = sum(isinstance(layer, paddle.nn.Conv2D) for layer in network.sublayers())
    if card.fused and convolutions != card.fused.convolutions:
        raise Failed(
            f"{card.name} has {convolutions} convolutions when fused", f"its card says {card.fused.convolutions}"
        )


def _fuse(network: Any, card: ModelCard) -> float:
    """Fuses in place; the largest change of an output as a share of the outputs' range."""
    import paddle

    x = paddle.to_tensor(weights.images(card.input_shape, 2, SEED))
    with paddle.no_grad():
        before = network(x).numpy()
        network.fuse()
        network.eval()
        after = network(x).numpy()
    error = float(abs(after - before).max() / (before.max() - before.min()))
    if not error <= MOST_FUSING_ERROR:
        raise Failed(f"fusing changes what {card.name} computes", f"by {error:.1e} of its outputs' range")
    return error


def onnx_from_paddle(source: Path, opset: int, input_shape: tuple[int, ...], folder: Path) -> Made:
    """Converts a Paddle inference model; the facts count its nodes and multiply-accumulates.

    Raises Failed where Paddle2ONNX can't.
    """
    # Its default optimiser would install packages into the user's environment while we look away.
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    import paddle2onnx

    converter: Paddle2Onnx = paddle2onnx
    file = folder / "model.onnx"
    try:
        converter.export(
            str(source),
            str(source.with_suffix(".pdiparams")),
            str(file),
            opset_version=opset,
            optimize_tool="None",
        )
    except Exception as error:  # it raises what its C++ side throws
        raise Failed(f"Paddle2ONNX cannot convert {source.name}", last_line(error)) from error
    if not file.is_file():
        raise Failed(f"Paddle2ONNX cannot convert {source.name}", "it wrote no file and gave no reason")
    counts = counting.count(file, input_shape)
    return Made(format="onnx", file=file.name, facts={"macs": counts.macs, "nodes": counts.nodes})
