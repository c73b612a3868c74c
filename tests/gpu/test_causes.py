"""Every text that a runtime was seen to leave on a machine without a GPU, and what a user is told instead."""

import pytest
from fakes import ort

from bench.errors import Failed, Unavailable, Unsupported
from bench.gpu.causes import cause, explained

NO_DRIVER = "no NVIDIA driver is installed"
OLD_DRIVER = "the NVIDIA driver is missing, or too old for this CUDA"
NO_GPU = "no GPU is visible to this process"
NO_CUDA = "the libraries of CUDA or cuDNN are not found"
NO_TENSORRT = "the libraries of TensorRT are not found"
FOR_CPUS = "this PaddlePaddle is a build for CPUs"
MEMORY = "out of memory on the GPU"
KERNEL = "the GPU broke off a kernel, after which its process can do no more"
NO_PROVIDER = "ONNX Runtime's provider for the GPU is not there"

TEXTS = [
    (
        "ImportError: libnvonnxparser.so.11: cannot open shared object file: No such file or directory",
        NO_TENSORRT,
        "libnvonnxparser.so.11: cannot open shared object file",
    ),
    (
        "TypeError: pybind11::init(): factory function returned nullptr",
        "TensorRT can use no driver or no GPU",
        "factory function returned nullptr",
    ),
    (
        "CUDA initialization failure with error: 35",
        OLD_DRIVER,
        "CUDA initialization failure with error: 35",
    ),
    ("RuntimeError: Failed to dlopen libcuda.so.1", NO_DRIVER, "Failed to dlopen libcuda.so.1"),
    (
        'DynamicLibNotFoundError: "cuda" is an NVIDIA driver library and can only be found via system search.',
        NO_DRIVER,
        '"cuda" is an NVIDIA driver library',
    ),
    ("NVMLError_LibraryNotFound: NVML Shared Library Not Found", NO_DRIVER, "NVML Shared Library Not Found"),
    (
        ort.UNLOADABLE,
        NO_CUDA,
        "libcublasLt.so.13: cannot open shared object file, Require cuDNN 9.* and CUDA 13.",
    ),
    (
        ort.NO_DRIVER,
        OLD_DRIVER,
        "CUDA driver version is insufficient for CUDA runtime version",
    ),
    (ort.NO_TENSORRT, NO_TENSORRT, "Please install TensorRT libraries"),
    (
        "Failed to load library /v/libonnxruntime_providers_tensorrt.so with error: libnvinfer.so.10: cannot open "
        f"shared object file: No such file or directory\n{ort.NO_TENSORRT}",
        NO_TENSORRT,
        "libnvinfer.so.10: cannot open shared object file",
    ),
    (
        "Failed to load library /v/libonnxruntime_providers_tensorrt.so with error: libcublas.so.13: cannot open "
        f"shared object file: No such file or directory\n{ort.NO_TENSORRT}",
        NO_CUDA,
        "libcublas.so.13: cannot open shared object file",
    ),
    (
        "Failed to load library /v/libonnxruntime_providers_cuda.so with error: libcuda.so.1: cannot open shared "
        "object file: No such file or directory",
        NO_DRIVER,
        "libcuda.so.1: cannot open shared object file",
    ),
    (ort.NO_INTERFACE, NO_CUDA, "CUDA Provider not available"),
    (
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; expr=cudaGetDeviceCount",
        OLD_DRIVER,
        "CUDA driver version is insufficient for CUDA runtime version",
    ),
    (
        ort.NO_TRANSFER,
        "ONNX Runtime's session fell back to the CPU",
        "no data transfer registered for copying tensors from Device:[DeviceType:1",
    ),
    (
        "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP, "
        "but fallback to CPU EP has been explicitly disabled by the user.",
        NO_PROVIDER,
        "fallback to CPU EP has been explicitly disabled",
    ),
    (
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Conflicting session configuration: explicitly added the CPU EP to "
        "the session, but also disabled fallback to the CPU EP via session configuration options.",
        NO_PROVIDER,
        "Conflicting session configuration",
    ),
    (
        "E1122 06:28:30.386829 23540 analysis_config.cc:169] Please use PaddlePaddle with GPU version.",
        FOR_CPUS,
        "Please use PaddlePaddle with GPU version",
    ),
    (
        "(PreconditionNotMet) To use Paddle-TensorRT, please compile with TENSORRT first. (at /paddle/fluid/x.cc:8)",
        FOR_CPUS,
        "please compile with TENSORRT first",
    ),
    (
        "ValueError: The device should not be <re.Match object; span=(0, 5), match='gpu:0'>, since PaddlePaddle is not "
        "compiled with CUDA",
        FOR_CPUS,
        "PaddlePaddle is not compiled with CUDA",
    ),
    (
        "(InvalidArgument) Device id must be less than GPU count, but received id is: 0. GPU count is: 0.\n"
        "  [Hint: Expected id < GetGPUDeviceCount(), but received id:0 >= GetGPUDeviceCount():0.]",
        NO_GPU,
        "GPU count is: 0",
    ),
    (
        "E1122 06:28:02.644220 23129 place.cc:333] Cannot use GPU because there is no GPU detected on your machine.",
        NO_GPU,
        "there is no GPU detected on your machine",
    ),
    (
        "(NotFound) TensorRT is needed, but TensorRT dynamic library is not found.\n  Suggestions:\n  1. Check if",
        NO_TENSORRT,
        "TensorRT dynamic library is not found",
    ),
    (
        "(External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime version. \n"
        "  [Hint: 'cudaErrorInsufficientDriver'. This indicates that the installed NVIDIA CUDA driver is older",
        OLD_DRIVER,
        "CUDA driver version is insufficient for CUDA runtime version, cudaErrorInsufficientDriver",
    ),
    (
        "The GPU compute capability in your current machine is 90, which is not supported by Paddle",
        "this release has no code for this GPU",
        "compute capability in your current machine is 90, which is not supported by Paddle",
    ),
    (
        "CUDA error(209), no kernel image is available for execution on the device.",
        "this release has no code for this GPU",
        "no kernel image is available",
    ),
]


@pytest.mark.parametrize(("text", "what", "found"), TEXTS, ids=[text[:50] for text, _, _ in TEXTS])
def test_what_is_missing_is_said_in_one_line(text, what, found):
    known = cause(text)
    assert (known.what, known.found, known.error) == (what, found, Unavailable)
    assert known.do
    line = str(explained(text, Failed("otherwise")))
    assert line == f"{what}; {found}; {known.do}"
    assert "\n" not in line
    assert len(line) < 400
    assert "/venv" not in line
    assert ".cc:" not in line


FAULTS = [
    ("Out of memory error on GPU 0. Cannot allocate 98.000244MB memory on GPU 0, 6.0GB memory has been", MEMORY),
    ("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 8388608000", MEMORY),
    ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaStreamCreateWithFlags", MEMORY),
    ("(External) CUDA error(700), an illegal memory access was encountered.", KERNEL),
    ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h", KERNEL),
    ("CUDA failure 719: unspecified launch failure ; GPU=0", KERNEL),
    ("NVMLError_GpuIsLost: GPU is lost", "the GPU was lost"),
    ("CUDA failure 46: all CUDA-capable devices are busy or unavailable ; GPU=0", "the GPU was lost"),
    ("CUDA failure 999: unknown error ; GPU=0 ; hostname=h", "the GPU was lost"),
]


@pytest.mark.parametrize(("text", "what"), FAULTS)
def test_what_breaks_is_a_failure(text, what):
    assert (cause(text).what, cause(text).error) == (what, Failed)


def test_an_option_that_a_release_lacks_is_unsupported():
    known = cause('/x/cuda_execution_provider_info.cc:79 Unknown provider option: "nosuch".')
    assert (known.found, known.error) == ('Unknown provider option: "nosuch"', Unsupported)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UserWarning: You are using GPU version Paddle, but your CUDA device is not set properly. CPU device will be",
        "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from m.onnx failed:Protobuf parsing failed.",
    ],
)
def test_other_words_are_left_as_they_are(text):
    assert cause(text) is None
    assert str(explained(text, Failed("otherwise"))) == "otherwise"


def test_of_several_faults_in_a_log_the_first_to_mend_is_told():
    """Without a driver everything else complains, too."""
    assert cause(f"{ort.NO_TENSORRT}\nlibcuda.so.1: cannot open shared object file\n{ort.NO_DRIVER}").what == NO_DRIVER
