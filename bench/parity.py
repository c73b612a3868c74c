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
# Largest admissible error as a share of the reference's range. Measured with random weights on all 60 networks of the
# zoo, on an AMD EPYC with AVX512_BF16, batch 1: in fp32 1.3e-6 to 6.1e-6 (Paddle 3.3 with oneDNN, ONNX Runtime 1.31,
# OpenVINO 2026.4), in bf16 0.013 to 0.061 (OpenVINO) and as much in Paddle's bf16 (0.016 to 0.054), so that it is the
# type's error and not one runtime's. It goes with the rounding: fp16 and TF32 round 8 times finer than bf16, so 0.008
# is expected at most, and TF32 that passes for fp32 is found out by 0.0016 at least. They and int8 are not measured.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}
# Of what tells images apart. On the same networks 0.984 at least, in bf16; -0.03 at most where each output was that of
# the next image, and 0 where all were that of the first.
LEAST_COSINE = 0.5


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
    """Measures `outputs`, a list of (images, …) arrays, against the reference's; of several outputs, the worst.

    `cosine` is that of what tells images apart: each output less its mean over the images. What a network gives for
    any image is most of its output, so that plain cosines are near 1 even for the wrong image.
    Raises Failed where there is nothing to compare: another number or shape of outputs, NaN, or infinity.
    """
    import numpy as np

    _comparable(outputs, expected, reference)
    pairs = [
        (got.astype(np.float64).reshape(len(got), -1), ref.astype(np.float64).reshape(len(ref), -1))
        for got, ref in zip(outputs, expected, strict=True)
    ]
    tolerance = TOLERANCES[precision]
    return Parity(
        max_error=max(float(np.abs(got - ref).max()) / _span(ref) for got, ref in pairs),
        cosine=min(_cosine(got, ref, tolerance) for got, ref in pairs),
        top1_agreement=min(float((got.argmax(axis=1) == ref.argmax(axis=1)).mean()) for got, ref in pairs),
        tolerance=tolerance,
        reference=reference,
        images=len(expected[0]),
        denormals=sum(denormals(output) for output in outputs),
    )


def _span(array: "Array") -> float:
    """The range of the values; of a constant their size, and of zeros 1."""
    return float(array.max() - array.min()) or float(abs(array).max()) or 1.0


def _cosine(got: "Array", ref: "Array", tolerance: float) -> float:
    """Of both less their mean over the images; 1 where the reference tells them apart by less than is admissible."""
    import numpy as np

    got, wanted = got - got.mean(axis=0), ref - ref.mean(axis=0)
    if np.abs(wanted).max() < tolerance * _span(ref):
        return 1.0
    return float((got * wanted).sum() / max(np.linalg.norm(got) * np.linalg.norm(wanted), np.finfo(float).tiny))


def denormals(array: "Array") -> int:
    """How many values are subnormal in their own type. By their bits: a CPU told to flush denormals calls them 0."""
    import numpy as np

    if array.dtype.kind != "f":
        return 0
    unsigned = np.dtype(f"u{array.itemsize}").type
    magnitude = np.ascontiguousarray(array).view(unsigned) & unsigned(2 ** (8 * array.itemsize - 1) - 1)
    return int(np.count_nonzero((magnitude > 0) & (magnitude < unsigned(2 ** np.finfo(array.dtype).nmant))))


def _comparable(outputs: "Arrays", expected: "Arrays", reference: str) -> None:
    got, wanted = [[tuple(array.shape) for array in arrays] for arrays in (outputs, expected)]
    if got != wanted:
        raise Failed("outputs have the wrong shape", f"{got}, where {reference} gives {wanted}")
    if not outputs or not all(array.size for array in outputs):
        raise Failed("outputs are empty", f"{reference} gives none, or some of the shapes {wanted}")
    for whose, arrays in (("outputs", outputs), (f"outputs of the reference, {reference},", expected)):
        if bad := sum(_not_finite(array) for array in arrays):
            raise Failed(f"{whose} are not finite", f"{bad} NaN or infinite values")


def _not_finite(array: "Array") -> int:
    import numpy as np

    return int((~np.isfinite(array)).sum())


def fault(parity: Parity) -> str:
    """Why the outputs don't count as those of the reference; "" where they do."""
    if not parity.max_error <= parity.tolerance:
        return f"maximum error {parity.max_error:.1e} of its range, {parity.tolerance:.0e} is admissible"
    if not parity.cosine >= LEAST_COSINE:
        return f"images are told apart in another way: cosine {parity.cosine:.2f}, {LEAST_COSINE:g} is asked"
    return ""
