"""What CUDA, TensorRT, ONNX Runtime and Paddle say where something is missing or breaks: as one clear line each."""

import re
from typing import NamedTuple

from bench.errors import GPU_LOST, RESET_GPU, SMALLER_BATCH, BenchError, Failed, Unavailable, Unsupported

DRIVER = "install or update NVIDIA's driver; see: nvidia-smi"
VISIBLE = "see nvidia-smi, and what CUDA_VISIBLE_DEVICES says"
PADDLE = "install one for GPUs, as with: pip install paddlepaddle-gpu==2.6.2"
ONNXRUNTIME = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
TENSORRT = "install the release that this runtime was built with, and name its lib folder in LD_LIBRARY_PATH"
#: how many different matches of a pattern are quoted
QUOTED = 2


class Cause(NamedTuple):
    """One line in three parts, and the kind of error that it is."""

    what: str
    found: str
    do: str
    error: type[BenchError] = Unavailable


class Known(NamedTuple):
    """What any of `patterns` means. The text that they match is quoted, so they hold no time and no place."""

    patterns: tuple[str, ...]
    what: str
    do: str
    error: type[BenchError] = Unavailable


# In this order: of a log that holds several, the first row is what has to be mended first.
KNOWN = (
    Known(
        (
            r"Out of memory error on GPU \d+(?:\. Cannot allocate [\d.]+\wB)?",
            r"Failed to allocate memory for requested buffer of size \d+",
            r"CUDA (?:failure |error\()2\b[\w:), ]*",
            r"(?i:cuda error)[\w :]*out of memory",
        ),
        "out of memory on the GPU",
        SMALLER_BATCH,
        Failed,
    ),
    Known(
        (
            r"GPU is lost",
            r"fallen off the bus",
            r"GPU requires reset",
            r"CUDA (?:failure |error\()(?:46|63|214|999)\b[\w:), ]*",
        ),
        GPU_LOST,
        RESET_GPU,
        Failed,
    ),
    Known(
        (
            r"no kernel image is available",
            r"compute capability in your current machine is \d+, which is not supported by Paddle",
            r"Target GPU SM \d+ is not supported",
        ),
        "this release has no code for this GPU",
        "install a release that has; see: bench doctor",
    ),
    Known(
        (
            r"CUDA (?:failure |error\()(?:700|702|71\d)\b[\w:), ]*",
            r"illegal memory access",
            r"unspecified launch failure",
        ),
        "the GPU broke off a kernel, after which its process can do no more",
        "try again; if it comes back, report it to the runtime's makers",
        Failed,
    ),
    Known(
        (
            r"Failed to dlopen libcuda\.so(?:\.1)?",
            r'"cuda" is an NVIDIA driver library',
            r"NVML Shared Library Not Found",
            r"libcuda\.so(?:\.1)?: cannot open shared object file",
        ),
        "no NVIDIA driver is installed",
        DRIVER,
    ),
    Known(
        (
            r"CUDA driver version is insufficient for CUDA runtime version",
            r"(?:cudaError)?InsufficientDriver\b",
            r"CUDA initialization failure with error: 35\b",
            r"\bcudaError 35\b",
        ),
        "the NVIDIA driver is missing, or too old for this CUDA",
        DRIVER,
    ),
    Known(
        (
            r"GPU count is: 0\b",
            r"there is no GPU detected on your machine",
            r"no CUDA-capable device is detected",
            r"CUDA (?:failure |error\()100\b[\w:), ]*",
            r"CUDA initialization failure with error: 100\b",
        ),
        "no GPU is visible to this process",
        VISIBLE,
    ),
    Known(
        (r"factory function returned nullptr", r"CUDA initialization failure with error: \d+"),
        "TensorRT can use no driver or no GPU",
        DRIVER,
    ),
    Known(
        (
            r"(?:libnvinfer|libnvonnxparser|libnvparsers)[\w.]*: cannot open shared object file",
            r"TensorRT dynamic library is not found",
        ),
        "the libraries of TensorRT are not found",
        TENSORRT,
    ),
    Known(
        (
            r"lib(?:cu|nv)\w+\.so[\d.]*: cannot open shared object file",
            r"Require cuDNN [\d.*]+ and CUDA [\d.]+",
            r"CUDA Provider not available",
            r"Cannot load cudnn shared library",
        ),
        "the libraries of CUDA or cuDNN are not found",
        f"install those that this release was built with, for ONNX Runtime with: {ONNXRUNTIME}",
    ),
    Known((r"Please install TensorRT libraries",), "the libraries of TensorRT are not found", TENSORRT),
    Known(
        (
            r"Please use PaddlePaddle with GPU version",
            r"please compile with TENSORRT first",
            r"PaddlePaddle is not compiled with CUDA",
        ),
        "this PaddlePaddle is a build for CPUs",
        PADDLE,
    ),
    Known(
        (r"no data transfer registered for copying tensors from Device:\[DeviceType:1",),
        "ONNX Runtime's session fell back to the CPU",
        f"install what the GPU needs: {ONNXRUNTIME}",
    ),
    Known(
        (r"fallback to CPU EP has been explicitly disabled", r"Conflicting session configuration"),
        "ONNX Runtime's provider for the GPU is not there",
        f"install what it needs: {ONNXRUNTIME}",
    ),
    Known(
        (r'Unknown provider option: "?\w+"?',),
        "this onnxruntime-gpu lacks an option that bench sets",
        "install a newer one: pip install --upgrade onnxruntime-gpu",
        Unsupported,
    ),
    Known(
        (r"could not deserialize engine from cache",),
        "ONNX Runtime can't read an engine that it keeps",
        "empty the folder onnxruntime_tensorrt in bench's cache, and try again",
        Failed,
    ),
)


def cause(text: str) -> Cause | None:
    """What is behind a runtime's words, from a log or an exception; None where they are not known."""
    for known in KNOWN:
        quotes = dict.fromkeys(match[0].strip(" ,:") for match in re.finditer("|".join(known.patterns), text))
        if quotes:
            return Cause(known.what, ", ".join(list(quotes)[:QUOTED]), known.do, known.error)
    return None


def explained(text: str, otherwise: BenchError) -> BenchError:
    """What to raise where a runtime said `text`: its cause, or `otherwise` where that is not known."""
    known = cause(text)
    return known.error(known.what, known.found, known.do) if known else otherwise
