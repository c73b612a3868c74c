"""Weights of a network: read from a file that nobody vouches for, or random and honest.

Only the worker imports this module. Paddle and NumPy are imported where they are used.
"""

import hashlib
import io
import itertools
import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def read_pdparams(path: Path | str) -> dict[str, "Array"]:
    """The arrays that `paddle.save` wrote, by parameter name; they may be read-only.

    The file is a pickle, which for Python is a program. It never reaches `pickle`: an interpreter of our own knows the
    few operations that parameter files need, and imports and calls nothing that the file names.
    Raises UsageError for whatever else the file holds, asks for or is.
    """
    path = Path(path)
    try:
        data = _content(path)
        return _parameters(_Interpreter(data).run())
    except _Refused as refused:
        raise UsageError(f"{path} is refused", f"it {refused}", _RESAVE) from None
    except _MALFORMED as error:
        raise UsageError(f"{path} is damaged", str(error) or type(error).__name__, _FETCH) from None


def load(network: Any, arrays: Mapping[str, "Array"], source: str) -> None:
    """Puts arrays into a Paddle layer by name, as float32; `source` says in errors where they come from.

    Raises UsageError where a name or a shape does not fit, or a value is not finite; then nothing was changed.
    """
    state = network.state_dict()
    misfits = list(_misfits({name: tuple(tensor.shape) for name, tensor in state.items()}, arrays))
    if misfits:
        raise UsageError(
            f"weights do not fit {type(network).__name__}",
            ", ".join(misfits),
            f"use the file of exactly this model instead of {source}",
        )
    converted = {name: _float32(name, arrays[name], source) for name in state}
    for name, tensor in state.items():
        tensor.set_value(converted[name])


def randomise(network: Any, seed: int, input_shape: tuple[int, ...] = (3, 224, 224)) -> None:
    """Random weights under which a network behaves like a trained one: calibrated, logits of standard deviation 1.

    `input_shape` is that of one image. The same seed gives the same weights, bit for bit on one machine
    with one number of threads. Re-parameterised networks come here before they are fused.
    """
    NAMES.update(n for n,_ in network.named_parameters())
    for name, tensor in network.named_parameters():
        tensor.set_value(_drawn(name, tuple(tensor.shape), seed))
    calibrate(network, seed, input_shape)


def denormals(arrays: Iterable["Array"]) -> int:
    """How many values are subnormal as float32. Looks at bits, as a CPU told to flush denormals compares them as 0."""
    import numpy as np

    count = 0
    for array in arrays:
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
        count += int(np.count_nonzero((bits > 0) & (bits < 0x00800000)))
    return count


IMAGES = 8


def calibrate(network: Any, seed: int, input_shape: tuple[int, ...] = (3, 224, 224)) -> None:
    import paddle, os
    import numpy as np

    norms = [layer for layer in network.sublayers() if hasattr(layer, "_momentum")]
    momenta = [norm._momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm._momentum = 0.0
    heads = []
    hooks = [l.register_forward_post_hook(lambda l, i, o: heads.append(l)) for l in network.sublayers() if len(getattr(l, "weight", None).shape if getattr(l, "weight", None) is not None else ()) > 1]
    imgs = images(input_shape, IMAGES, seed)
    with paddle.no_grad():
        logits = network(paddle.to_tensor(imgs)).numpy()
    for h in hooks: h.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm._momentum = momentum
    network.eval()
    head = heads[-1]
    if os.environ.get("CENTRE"):
        m = logits.mean(0)
        r = float(os.environ["CENTRE"])  # common part at most r times the between part
        c = 1 - min(1, r * (logits - m).std() / m.std())
        s = np.float32(1 / (logits - c * m).std())
        head.weight.set_value(head.weight.numpy() * s)
        head.bias.set_value((head.bias.numpy() - c * m) * s)
    else:
        head.weight.set_value(head.weight.numpy() * np.float32(1 / logits.std()))


def images(shape, count, seed):
    import os
    import numpy as np
    rng = _generator(seed, "images")
    white = rng.standard_normal((count, *shape), "float32")
    kind = os.environ.get("KIND", "white")
    if kind == "white":
        return white
    c, h, w = shape
    def layered(n):
        total = np.zeros((n, *shape), "float32")
        cells = [1, 2, 7, 14, 56, 224]
        for k in cells:
            coarse = rng.standard_normal((n, c, k, k), "float32")
            total += np.repeat(np.repeat(coarse, -(-h // k), 2), -(-w // k), 3)[:, :, :h, :w]
        return total / np.float32(len(cells) ** .5)
    if kind == "layered":
        return layered(count)
    return np.concatenate([white[: count // 2], layered(count // 2)])


def _generator(seed: int, name: str) -> "np.random.Generator":
    import numpy as np

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))


BN_SPREAD = 0.1
NAMES=set()
import os
BIAS = 0.1


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> "Array":
    import numpy as np

    kind = name.rpartition(".")[2]
    if kind == "_mean":
        return np.zeros(shape, np.float32)
    if kind == "_variance":
        return np.ones(shape, np.float32)
    normal = _generator(seed, name).standard_normal(shape, np.float32)
    if len(shape) > 1:
        fan_in = prod(shape[1:]) if len(shape) > 2 else shape[0]
        return normal * np.float32((2 / fan_in) ** 0.5)
    if kind == "bias":
        return normal * np.float32(BIAS) + (np.float32(os.environ.get("BNB","0")) if name.removesuffix("bias")+"_mean" in NAMES else 0)
    return float(os.environ.get("BNG","1")) * (1 + normal * np.float32(BN_SPREAD))
