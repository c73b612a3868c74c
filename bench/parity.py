"""Whether a backend computes what the reference computes: the gate before its latency counts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import Failed
from bench.schema import Parity, Precision

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = list[Array]

IMAGES = 8
SEED = 20260101
# Largest admissible error as a share of the reference's range. fp32 leaves room for another order of summation;
# bf16 and fp16 for one rounding (2^-8, 2^-11) in each of some fifty layers that partly cancel.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}


def images(shape: tuple[int, ...]) -> "Array":
    """The reference input: `IMAGES` standard-normal images of (channels, height, width), always the same."""
    import numpy as np

    return np.random.default_rng(SEED).standard_normal((IMAGES, *shape), dtype=np.float32)


def batches(array: "Array", batch_size: int) -> "Arrays":
    """`array` in batches; the last one starts over, so that each image is there at least once."""
    import numpy as np

    count = -(-len(array) // batch_size)
    order = np.arange(count * batch_size) % len(array)
    return [np.ascontiguousarray(array[part]) for part in order.reshape(count, batch_size)]


def save(file: Path, inputs: "Array", outputs: "Arrays", made_by: str) -> None:
    import numpy as np

    numbered = {f"output_{index}": output for index, output in enumerate(outputs)}
    np.savez(file, inputs=inputs, made_by=np.array(made_by), **numbered)  # type: ignore[arg-type]


def load(file: Path) -> "tuple[Array, Arrays, str]":
    """Inputs, outputs and the name of the reference that made them."""
    import numpy as np

    with np.load(file, allow_pickle=False) as data:
        count = sum(name.startswith("output_") for name in data.files)
        return data["inputs"], [data[f"output_{index}"] for index in range(count)], str(data["made_by"])


def compare(outputs: "Arrays", expected: "Arrays", precision: Precision, reference: str) -> Parity:
    """Measures `outputs`, a list of (images, …) arrays, against the reference's.

    Raises Failed where there is nothing to compare: another number or shape of outputs, NaN, or infinity.
    """
    import numpy as np

    _comparable(outputs, expected, reference)
    errors, cosines, agreements = [], [], []
    for output, wanted in zip(outputs, expected, strict=True):
        got, ref = (array.astype(np.float64).reshape(len(array), -1) for array in (output, wanted))
        span = float(ref.max() - ref.min()) or float(np.abs(ref).max()) or 1.0
        errors.append(float(np.abs(got - ref).max()) / span)
        norms = np.linalg.norm(got, axis=1) * np.linalg.norm(ref, axis=1)
        cosines.append(float(((got * ref).sum(axis=1) / np.maximum(norms, 1e-300)).min()))
        agreements.append(float((got.argmax(axis=1) == ref.argmax(axis=1)).mean()))
    tiny = np.finfo(np.float32).tiny
    return Parity(
        max_error=max(errors),
        cosine=min(cosines),
        top1_agreement=min(agreements),
        tolerance=TOLERANCES[precision],
        reference=reference,
        images=len(expected[0]),
        denormals=sum(int(((np.abs(output) < tiny) & (output != 0)).sum()) for output in outputs),
    )


def _comparable(outputs: "Arrays", expected: "Arrays", reference: str) -> None:
    import numpy as np

    got, wanted = [[tuple(array.shape) for array in arrays] for arrays in (outputs, expected)]
    if got != wanted or not all(array.size for array in outputs):
        raise Failed("outputs have the wrong shape", f"{got}, where {reference} gives {wanted}")
    bad = sum(int((~np.isfinite(array)).sum()) for array in outputs)
    if bad:
        raise Failed("outputs are not finite", f"{bad} NaN or infinite values")


def passes(parity: Parity) -> bool:
    return parity.max_error <= parity.tolerance
