"""What runs on which GPU, as data: every row with where it is known from, and nothing that a release didn't show.

Sources: "wheel" is what the published package was seen to hold (its ELF dependencies, its code for each architecture,
its Python tags), "NVIDIA", "ONNX Runtime" and "Paddle" are their pages, by title, "TensorRT a.b" is a file of
that branch of github.com/NVIDIA/TensorRT.
"""

from typing import Literal

from bench.gpu.selection import Capability
from bench.schema import Frozen

Component = Literal["tensorrt", "tensorrt_rtx", "cuda", "cudnn", "onnxruntime", "paddle", "driver"]
Runtime = Literal["tensorrt", "onnxruntime", "onnxruntime_tensorrt", "paddle", "paddle_tensorrt"]

WORDS: dict[Component, str] = {
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "onnxruntime": "onnxruntime-gpu",
    "paddle": "paddlepaddle-gpu",
    "driver": "driver",
}
#: the component that a runtime is, and whether TensorRT works below it
MAIN: dict[Runtime, Component] = {
    "tensorrt": "tensorrt",
    "onnxruntime": "onnxruntime",
    "onnxruntime_tensorrt": "onnxruntime",
    "paddle": "paddle",
    "paddle_tensorrt": "paddle",
}
WITH_TENSORRT: frozenset[Runtime] = frozenset({"onnxruntime_tensorrt", "paddle_tensorrt"})
ANY: Capability = (0, 0)
VOLTA: Capability = (7, 0)
TURING: Capability = (7, 5)


class Support(Frozen, frozen=True):
    """Releases `first` to `last` of a component run on compute capabilities from `least` to `most`.

    Both ends count, "10.4" means all of 10.4.x, and "" is open. `least` of (0, 0) says that no limit is on record.
    `install` is what to type for them.
    """

    component: Component
    first: str
    last: str
    least: Capability
    source: str
    install: str = ""
    most: Capability | None = None


MATRIX = (
    Support(
        "tensorrt",
        "8.6",
        "8.6",
        (5, 3),
        "TensorRT 8.6: CMakeLists.txt lists 53 60 61 70 75 80 86; NVIDIA: TensorRT 8.6.1 Support Matrix",
        install="tensorrt==8.6.1",
    ),
    Support(
        "tensorrt",
        "10.0",
        "10.4",
        VOLTA,
        "TensorRT 10.4: CMakeLists.txt begins at 70; NVIDIA: TensorRT 10.1.0 Support Matrix, SM 7.0 or higher",
        install="tensorrt==10.4.0",
    ),
    Support(
        "tensorrt",
        "10.5",
        "10",
        TURING,
        "TensorRT 10.5: CMakeLists.txt no longer lists 70; NVIDIA/TensorRT-LLM#2400",
        install="tensorrt-cu12==10.16.1.11",
    ),
    Support(
        "tensorrt",
        "11.0",
        "",
        TURING,
        "TensorRT 11.1: CMakeLists.txt; NVIDIA: TensorRT 11.4.0 Prerequisites, Turing or later",
        install="tensorrt-cu13==11.4.0.106",
    ),
    # On 7.5 it builds no FP32 matrix product ("FP32 GEMM is not supported").
    Support("tensorrt_rtx", "1", "", TURING, "tensorrt-rtx 1.7.1.116 wheel: SM75 SM80 SM86 SM89 SM120 SM121"),
    Support(
        "cuda",
        "",
        "12",
        ANY,
        "nvidia-cublas-cu12 12.9.3 wheel: has sm_70; deprecated from 12.8 on",
        install="the packages for CUDA 12",
    ),
    Support(
        "cuda",
        "13",
        "",
        TURING,
        "CUDA 12.9 notes, quoted in pytorch/pytorch#157517; NVIDIA/cuDecomp#97",
        install="the packages for CUDA 13",
    ),
    Support(
        "cudnn",
        "",
        "9.10",
        ANY,
        "nvidia-cudnn-cu12 9.10.2.21 wheel: libcudnn_ops has sm_70; NVIDIA: cuDNN 9.10.2 Support Matrix",
        install="nvidia-cudnn-cu12==9.10.2.21",
    ),
    Support(
        "cudnn",
        "9.11",
        "",
        TURING,
        "nvidia-cudnn-cu12 9.11.0.98 and 9.28.0.42 wheels: libcudnn_ops begins at sm_75",
        install="nvidia-cudnn-cu{cuda}==9.28.0.42",
    ),
    Support(
        "onnxruntime",
        "",
        "1.26",
        ANY,
        "onnxruntime-gpu 1.17.1 to 1.26.0 wheels: sm_70 and sm_75",
        install="onnxruntime-gpu==1.26.0",
    ),
    Support(
        "onnxruntime",
        "1.27",
        "",
        TURING,
        "onnxruntime-gpu 1.27.0 and 1.31.1 wheels: no sm_70",
        install="onnxruntime-gpu==1.31.1",
    ),
    # Code for 8.6 also runs on 8.9; on 9.0 it says "no kernel image is available".
    Support(
        "paddle",
        "2.6.2",
        "2.6.2",
        (6, 1),
        "paddlepaddle-gpu 2.6.2 wheel: libphi has sm_61 70 75 80 86; PaddlePaddle/PaddleX#4682",
        install="paddlepaddle-gpu==2.6.2",
        most=(8, 9),
    ),
    # What the wheels of Paddle 3 hold for each architecture nobody looked at yet, so they have no row here.
    Support(
        "driver", "", "580", ANY, "R580 is LTS until June 2028; NVIDIA: Supported Drivers and CUDA Toolkit Versions"
    ),
    Support("driver", "581", "", TURING, "legacy_580 is Maxwell to Volta: second-hand, of the NixOS wiki"),
)


class Pairing(Frozen, frozen=True):
    """What releases `first` to `last` of a runtime were linked against: majors of CUDA and cuDNN, a TensorRT release.

    A wheel loads `libnvinfer.so.<major of tensorrt>` and no other. `pin` and `tensorrt_pin` are what to install.
    """

    component: Component
    first: str
    last: str
    cuda: str
    cudnn: str
    tensorrt: str
    source: str
    pin: str = ""
    tensorrt_pin: str = ""


_ORT = "ONNX Runtime: TensorRT Execution Provider, requirements"
_PADDLE = "Paddle: Paddle-Inference-Demo, docs-official/guides/install/python_install.md"
PAIRINGS = (
    Pairing("onnxruntime", "1.17", "1.17", "11", "8", "8.6", f"onnxruntime-gpu 1.17.1 wheel; {_ORT}"),
    Pairing("onnxruntime", "1.18", "1.18", "11", "8", "10.0", f"onnxruntime-gpu 1.18.1 wheel; {_ORT}"),
    Pairing("onnxruntime", "1.19", "1.19", "12", "9", "10.2", f"onnxruntime-gpu 1.19.2 wheel; {_ORT}"),
    Pairing(
        "onnxruntime",
        "1.20",
        "1.20",
        "12",
        "9",
        "10.4",
        f"onnxruntime-gpu 1.20.2 wheel; {_ORT}",
        pin="onnxruntime-gpu==1.20.2",
        tensorrt_pin="tensorrt==10.4.0",
    ),
    Pairing("onnxruntime", "1.21", "1.21", "12", "9", "10.8", f"onnxruntime-gpu 1.21.1 wheel; {_ORT}"),
    Pairing(
        "onnxruntime",
        "1.22",
        "1.26",
        "12",
        "9",
        "10.9",
        f"onnxruntime-gpu 1.22.0 to 1.26.0 wheels; {_ORT}",
        pin="onnxruntime-gpu[cuda,cudnn]==1.26.0",
        tensorrt_pin="tensorrt-cu12==10.16.1.11",
    ),
    # NVIDIA says that TensorRT 11 works, but the wheels still ask for libnvinfer.so.10.
    Pairing(
        "onnxruntime",
        "1.27",
        "",
        "13",
        "9",
        "10.16",
        "onnxruntime-gpu 1.27.0 and 1.31.1 wheels; NVIDIA: Removed C++ APIs and Replacements",
        pin="onnxruntime-gpu[cuda,cudnn]==1.31.1",
        tensorrt_pin="tensorrt-cu13==10.16.1.11",
    ),
    Pairing(
        "paddle",
        "2.6.2",
        "2.6.2",
        "11.8",
        "8.6",
        "8.5.3",
        "paddlepaddle-gpu 2.6.2 wheel: paddle.version.cuda, .cudnn, get_trt_compile_version()",
        pin="paddlepaddle-gpu==2.6.2",
        tensorrt_pin="TensorRT 8.5.3",
    ),
    Pairing(
        "paddle",
        "3",
        "3",
        "11.8",
        "8.9.7",
        "8.6.1.6",
        _PADDLE,
        pin="paddlepaddle-gpu 3 for CUDA 11.8",
        tensorrt_pin="TensorRT 8.6.1.6",
    ),
    Pairing(
        "paddle",
        "3",
        "3",
        "12.6",
        "9.5.1",
        "10.5.0.18",
        _PADDLE,
        pin="paddlepaddle-gpu 3 for CUDA 12.6",
        tensorrt_pin="TensorRT 10.5.0.18",
    ),
    Pairing(
        "paddle",
        "3",
        "3",
        "12.9",
        "9.9.0",
        "10.5.0.18",
        _PADDLE,
        pin="paddlepaddle-gpu 3 for CUDA 12.9",
        tensorrt_pin="TensorRT 10.5.0.18",
    ),
)


class Wheels(Frozen, frozen=True):
    """The Pythons that releases `first` to `last` of a component have wheels for, both ends included."""

    component: Component
    first: str
    last: str
    oldest: str
    newest: str
    source: str


PYTHONS = (
    Wheels("tensorrt", "8.6.1", "8.6.1", "3.6", "3.11", "tensorrt-bindings 8.6.1: no cp312"),
    Wheels("tensorrt", "10.4.0", "10.4.0", "3.8", "3.12", "tensorrt-cu12-bindings 10.4.0: cp38 to cp312"),
    Wheels("tensorrt", "10.16.1", "10.16.1", "3.9", "3.13", "tensorrt-cu12-bindings 10.16.1: cp39 to cp313"),
    Wheels("tensorrt", "11.4", "11.4", "3.9", "3.14", "tensorrt-cu12-bindings 11.4: cp39 to cp314"),
    Wheels("paddle", "2.6.2", "2.6.2", "3.8", "3.12", "paddlepaddle-gpu 2.6.2: no cp313"),
    Wheels("onnxruntime", "1.20.2", "1.20.2", "3.10", "3.13", "onnxruntime-gpu 1.20.2: cp310 to cp313"),
    Wheels("onnxruntime", "1.26.0", "1.26.0", "3.11", "3.14", "onnxruntime-gpu 1.26.0: Python >= 3.11, cp314 there"),
    Wheels("onnxruntime", "1.31.1", "1.31.1", "3.11", "3.14", "onnxruntime-gpu 1.31.1: Python >= 3.11, cp314 there"),
)


class Floor(Frozen, frozen=True):
    """The oldest driver for a major of CUDA; with a component named, for its releases from `first` on."""

    cuda: int
    driver: str
    source: str
    component: Component = "cuda"
    first: str = ""


_PREREQUISITES = "NVIDIA: TensorRT 11.4.0 Prerequisites"
DRIVERS = (
    Floor(11, "450.80.02", "NVIDIA: cuDNN 9 Support Matrix, CUDA 11.8"),
    Floor(12, "525.60.13", "NVIDIA: cuDNN 9 Support Matrix"),
    Floor(13, "580", _PREREQUISITES),
    Floor(12, "535", _PREREQUISITES, component="tensorrt", first="10.16"),
)

Family = Literal["v100", "t4", "newer"]
#: the first compute capability of each family, newest first
FAMILIES: tuple[tuple[Capability, Family], ...] = (((8, 0), "newer"), (TURING, "t4"), (VOLTA, "v100"))


def _environment(name: str, *packages: str) -> tuple[str, ...]:
    """An environment of its own. Python 3.11 has wheels of every release here."""
    installs = (f".venv-{name}/bin/pip install {each}" for each in packages)
    return (f"python3.11 -m venv .venv-{name}", *installs)


def _packages(name: str) -> str:
    return f'"$PWD"/.venv-{name}/lib/python3.11/site-packages'


def _libraries(name: str) -> str:
    """TensorRT and CUDA packages keep their libraries where the loader doesn't look."""
    return f"export LD_LIBRARY_PATH=$(printf '%s:' {_packages(name)}/nvidia/*/lib {_packages(name)}/tensorrt_libs)"


def _unversioned(name: str, folders: str) -> tuple[str, ...]:
    """Names as development packages have them, by which Paddle loads: Paddle, paddle/phi/backends/dynload."""
    return (
        "# Paddle asks for names without a version, such as libnvinfer.so, and the packages have those with one alone",
        f'for file in {_packages(name)}/{folders}/lib*.so.*; do ln -sf "$file" "${{file%%.so.*}}.so"; done',
    )


def _doctor(name: str, device: str) -> str:
    """Without a device it says how to make one of the GPU that it finds."""
    return f".venv-{name}/bin/bench doctor" + (f" --device {device}" if device else "")


TENSORRT_NOTE = "# the next one fetches its libraries from NVIDIA's own index while it installs"


def _tensorrt(name: str, extra: str, tensorrt: str, device: str) -> tuple[str, ...]:
    first, *installs = _environment(name, f"'.[{extra}]'", tensorrt)
    return (first, installs[0], TENSORRT_NOTE, installs[1], _libraries(name), _doctor(name, device))


def _onnxruntime(name: str, extra: str, device: str) -> tuple[str, ...]:
    return (*_environment(name, f"'.[{extra}]'"), _libraries(name), _doctor(name, device))


def _paddle(family: str, *notes: str) -> tuple[str, ...]:
    name = f"{family}-paddle"
    first = _environment(name, "'.[paddle2]'")
    return (*first, *_unversioned(name, "nvidia/*/lib"), _libraries(name), *notes, _doctor(name, family))


ARCHIVE = "# and TensorRT 8.5.3 of NVIDIA's archives, for no index has it: its lib folder in LD_LIBRARY_PATH, too"
# The newest release that the public index has for CPUs; that Paddle's index has it, too, is known from others' recipes.
PADDLE_3 = (
    "# Paddle 3 for GPUs is on Paddle's own index, one for each CUDA: take the address for CUDA 12.6 from its "
    "installation page for INDEX",
    *_environment(
        "newer-paddle",
        "'.[gpu]' cuda-bindings==12.9.10 numpy==2.4.6 protobuf==7.36.2 setuptools==84.2.1",
        "paddlepaddle-gpu==3.3.1 --index-url INDEX",
    ),
)
#: what to type in a clone, in order; CUDA 11 and 12 don't fit one environment, and neither do two TensorRTs
RECIPES: dict[Family, dict[Runtime, tuple[str, ...]]] = {
    "v100": {
        "tensorrt": _tensorrt("v100", "v100", "tensorrt-cu12==10.4.0", "v100"),
        "onnxruntime": _onnxruntime("v100", "v100", "v100"),
        "onnxruntime_tensorrt": _tensorrt("v100", "v100", "tensorrt-cu12==10.4.0", "v100"),
        "paddle": _paddle("v100"),
        "paddle_tensorrt": _paddle("v100", ARCHIVE),
    },
    "t4": {
        "tensorrt": _tensorrt("t4", "t4", "tensorrt-cu12==10.16.1.11", "t4"),
        "onnxruntime": _onnxruntime("t4", "t4", "t4"),
        "onnxruntime_tensorrt": _tensorrt("t4", "t4", "tensorrt-cu12==10.16.1.11", "t4"),
        "paddle": _paddle("t4"),
        "paddle_tensorrt": _paddle("t4", ARCHIVE),
    },
    "newer": {
        "tensorrt": _tensorrt("newer", "newer", "tensorrt-cu13==11.4.0.106", ""),
        "onnxruntime": _onnxruntime("newer", "newer", ""),
        "onnxruntime_tensorrt": _tensorrt("newer-onnxruntime", "newer", "tensorrt-cu13==10.16.1.11", ""),
        "paddle": (*PADDLE_3, _doctor("newer-paddle", "")),
        "paddle_tensorrt": (
            *PADDLE_3,
            TENSORRT_NOTE,
            ".venv-newer-paddle/bin/pip install tensorrt-cu12==10.5.0",
            *_unversioned("newer-paddle", "tensorrt_libs"),
            _libraries("newer-paddle"),
            _doctor("newer-paddle", ""),
        ),
    },
}
