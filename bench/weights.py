"""Weights of a network: put in by name from a file, or random and honest.

Only the worker imports this module. Paddle and NumPy are imported where they are used.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.pdparams import FETCH, shown

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

# Calibration. More images would fit the statistics better and take longer; parity looks at eight, too.
IMAGES = 8
# Batch norms shift by 0.75 of a standard deviation, so that three in four units are active. With no shift deep chains
# are chaotic: rounding the weights of some networks to fp16 moves outputs by a tenth of their range, and a sound fp16
# engine could not pass parity. With a shift of 1, images have too much in common.
NORM_SHIFT = 0.75
# No two channels are alike, so that a fusion or a converter which mixes up or forgets a factor or a bias shows.
SPREAD = 0.1
# Root mean square of a layer that no batch norm follows. Such layers compute gates; at 0.5, sigmoids and their
# piecewise linear cousins neither shut channels off for good nor let everything pass.
GATE_RMS = 0.5
# How far from the mean all images together may move a logit, in standard deviations of what tells images apart.
MOST_COMMON = 4.0

SHOWN = 3


def load(network: Any, arrays: Mapping[str, "Array"], model: str) -> None:
    """Puts arrays into a Paddle layer by name, as float32; `model` is what errors call it.

    Raises UsageError where a name, shape or type does not fit or a value is not finite; then nothing has changed.
    """
    state = network.state_dict()
    misfits = _misfits({name: tuple(tensor.shape) for name, tensor in state.items()}, arrays)
    if misfits:
        raise UsageError(f"weights do not fit {model}", ", ".join(misfits), "take the file of exactly this model")
    converted = {name: _float32(name, arrays[name], model) for name in state}
    for name, tensor in state.items():
        tensor.set_value(converted[name])


def randomise(network: Any, seed: int, input_shape: tuple[int, ...] = (3, 224, 224)) -> None:
    """Random weights under which activations keep their scale and logits have a standard deviation of 1.

    `input_shape` is that of one image. The same seed gives the same weights, bit for bit on one machine with
    one number of threads. A re-parameterised network comes here before it is fused. Leaves it in eval mode.
    """
    for prefix, layer in network.named_sublayers(include_self=True):
        for name, tensor in layer.named_parameters(include_sublayers=False):
            random = _generator(seed, f"{prefix}.{name}".lstrip("."))
            tensor.set_value(_drawn(random, name, tuple(tensor.shape), _is_norm(layer)))
    calibrate(network, seed, input_shape)


def calibrate(network: Any, seed: int, input_shape: tuple[int, ...] = (3, 224, 224)) -> None:
    """One forward pass that gives every batch norm the statistics of what it sees, and the other layers their scale."""
    import paddle

    called: list[Any] = []
    with paddle.no_grad(), _batch_statistics(network), _scaled_gates(network, called):
        logits = network(paddle.to_tensor(images(input_shape, IMAGES, seed))).numpy()
    if called:
        _spread_logits(called[-1], logits)


def images(shape: tuple[int, ...], count: int, seed: int) -> "Array":
    """Standard-normal images, (count, *shape), float32."""
    import numpy as np

    return _generator(seed, "images").standard_normal((count, *shape), np.float32)


def denormals(arrays: Iterable["Array"]) -> int:
    """How many values are subnormal as float32. Looks at bits: a CPU told to flush subnormals finds them equal to 0."""
    import numpy as np

    count = 0
    for array in arrays:
        magnitude = np.ascontiguousarray(array, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
        count += int(np.count_nonzero((magnitude > 0) & (magnitude < 0x00800000)))
    return count


# Random weights.


def _generator(seed: int, name: str) -> "np.random.Generator":
    """A stream for each name, so that the order in which parameters are visited doesn't matter."""
    import numpy as np

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _is_norm(layer: Any) -> bool:
    return hasattr(layer, "_momentum")


def _drawn(random: "np.random.Generator", name: str, shape: tuple[int, ...], norm: bool) -> "Array":
    """A new value for a parameter of a layer. Kernels are He-normal; the rest spreads by `SPREAD` about its centre."""
    import numpy as np

    if name in ("_mean", "_variance"):
        return np.full(shape, 0 if name == "_mean" else 1, np.float32)
    normal = random.standard_normal(shape, np.float32)
    if len(shape) > 1:
        # (outputs, inputs of a group, height, width) for convolutions, (inputs, outputs) for linear layers.
        fan_in = shape[0] if len(shape) == 2 else prod(shape[1:])
        return normal * np.float32((2 / fan_in) ** 0.5)
    centre = 1.0 if "bias" not in name else NORM_SHIFT if norm else 0.0
    return np.float32(centre) + np.float32(SPREAD) * normal


@contextlib.contextmanager
def _batch_statistics(network: Any) -> Iterator[None]:
    """Within, batch norms take over the statistics of the batch entirely, and all else (dropout) does as in inference.

    Paddle has no public switch for the momentum.
    """
    norms = [layer for layer in network.sublayers(include_self=True) if _is_norm(layer)]
    momenta = [norm._momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm._momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm._momentum = momentum
        network.eval()


@contextlib.contextmanager
def _scaled_gates(network: Any, called: list[Any]) -> Iterator[None]:
    """Within, layers with kernel and bias are scaled to `GATE_RMS` as they are called, and appended to `called`.

    A bias means that no batch norm follows, which would give the layer its scale.
    """

    def scale(layer: Any, _: Any, output: Any) -> Any:
        called.append(layer)
        factor = GATE_RMS / float((output * output).mean().sqrt())
        for parameter in (layer.weight, layer.bias):
            parameter.set_value(parameter.scale(factor))
        return output.scale(factor)

    hooks = [layer.register_forward_post_hook(scale) for layer in network.sublayers() if _has_kernel_and_bias(layer)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _has_kernel_and_bias(layer: Any) -> bool:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    return weight is not None and bias is not None and len(weight.shape) > 1


def _spread_logits(head: Any, logits: "Array") -> None:
    """Scales the last layer so that `logits`, (images, classes), have a standard deviation of 1 and top-1 varies.

    Noise images have much in common after pooling, and the class it favours would win for all of them. The bias
    cuts its peaks, so that many classes are level. To remove it altogether would magnify rounding errors, too.
    """
    import numpy as np

    common = logits.mean(axis=0) - logits.mean()
    limit = MOST_COMMON * (logits - logits.mean(axis=0)).std()
    excess = common - np.clip(common, -limit, limit)
    factor = 1 / float((logits - excess).std())
    head.weight.set_value(head.weight.scale(factor))
    head.bias.set_value((head.bias.numpy() - excess) * np.float32(factor))


# Weights from a file


def _misfits(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, "Array"]) -> list[str]:
    """What is wrong, for each kind of misfit the first few names and how many more there are."""
    wrong = [
        f"{shown(name)} has shape {arrays[name].shape} instead of {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    odd = [
        f"{shown(name)} has type {array.dtype}"
        for name, array in arrays.items()
        if name in shapes and array.dtype.kind != "f" and array.dtype != "uint16"
    ]
    missing = [f"{shown(name)} is missing" for name in shapes if name not in arrays]
    extra = [f"{shown(name)} is unknown" for name in arrays if name not in shapes]
    return [_few(kind) for kind in (missing, extra, wrong, odd) if kind]


def _few(texts: list[str]) -> str:
    more = f" (and {len(texts) - SHOWN} more)" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _float32(name: str, array: "Array", model: str) -> "Array":
    """The array as contiguous float32. Paddle writes bfloat16, which NumPy lacks, as uint16.

    Raises UsageError where a value is not finite.
    """
    import numpy as np

    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):  # too large for float32 is found below
        result = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    bad = result.size - int(np.count_nonzero(np.isfinite(result)))
    if bad:
        raise UsageError(f"weights of {model} are not finite", f"{shown(name)} has {bad} NaN or infinite values", FETCH)
    return result
