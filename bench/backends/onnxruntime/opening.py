"""How a session of ONNX Runtime comes to be, and what it says of its nodes: the CPU's and both of a GPU's alike."""

import contextlib
import ctypes
import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from bench import cuda, ort_api
from bench.backends import Setup, complaint
from bench.errors import Failed, Unavailable
from bench.gpu import causes
from bench.onnx_api import Onnx
from bench.ort_api import Ort
from bench.overhear import standard_error
from bench.schema import Input

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
#: the option `provider` → what must compute, and what may compute the nodes that it leaves; CPU alone is never named
ON_GPU = {"cuda": (CUDA,), "tensorrt": (TENSORRT, CUDA)}
#: workers are shown the GPU that is meant and no other
GPU = 0
FLOAT16 = 10  # onnx.TensorProto.FLOAT16
#: where the kernel lists the files that this process has mapped
MAPS = Path("/proc/self/maps")
QUANTISED = ("QLinear", "Quantize", "Integer", "NBits")

#: a provider and its options
Named = tuple[str, dict[str, str]]
#: (provider, operator) of each node of a graph
Placement = list[tuple[str, str]]


def ort() -> Ort:
    import onnxruntime

    module: Ort = onnxruntime
    return module


def wanted(setup: Setup) -> str:
    """The provider that must compute on the GPU."""
    return ON_GPU[setup.options["provider"]][0]


def settings(setup: Setup) -> ort_api.Options:
    onnxruntime = ort()
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = setup.case.threads
    made.inter_op_num_threads = 1
    made.log_severity_level = 3
    made.graph_optimization_level = {
        "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[setup.options["optimization"]]
    spinning = "1" if setup.options["spinning"] == "on" else "0"
    made.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    made.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return made


def on_gpu(
    engine: Path, made: ort_api.Options, providers: Sequence[Named], folders: Sequence[Path] = ()
) -> ort_api.Session:
    """Raises Unavailable, or what else is behind it, where anything but the first of `providers` would compute.

    Reasons name neither the model's folder nor where `folders` lie: records get published.
    """
    onnxruntime = ort()
    first = providers[0][0]
    error: Exception | None = None
    with standard_error() as log:
        try:
            # Without enable_fallback=0 it would print a banner, try again on the CPU and succeed.
            session = onnxruntime.InferenceSession(engine, made, providers=providers, enable_fallback=0)
            session.disable_fallback()  # nor may a run that fails rebuild it
        except Exception as raised:  # its exceptions share no base class of their own
            error = raised
    if error is not None:
        said = complaint(error, engine)
        for folder in folders:
            said = said.replace(str(folder), folder.name)
        otherwise = Failed(f"ONNX Runtime cannot open {engine.name}", said)
        raise causes.explained(f"{log.text}\n{error}", otherwise) from error
    if (there := session.get_providers())[:1] != [first]:
        left_out = Unavailable(f"ONNX Runtime left {first} out", f"it has {', '.join(there)}", "see: bench doctor")
        raise causes.explained(log.text, left_out)
    return session


def inputs(source: Path) -> tuple[Input, ...]:
    session = ort().InferenceSession(source, providers=[CPU])
    return tuple(
        Input(
            name=node.name,
            shape=tuple(size if isinstance(size, int) else None for size in node.shape),
            type={"tensor(float)": "float32"}.get(node.type, node.type),
        )
        for node in session.get_inputs()
    )


def nodes(session: ort_api.Session) -> Placement:
    """As the graph was divided up; empty where ONNX Runtime is too old to say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def precision(session: ort_api.Session, placement: Placement) -> str:
    """Providers keep to the graph's types, except that the CPU's has hardly a kernel for fp16 and computes in fp32."""
    if any(mark in operator for _, operator in placement for mark in QUANTISED):
        return "int8"
    types = {node.type for node in session.get_inputs()}
    return "fp32" if types == {"tensor(float)"} else ", ".join(sorted(types))


def carries_fp16(model: Path) -> bool | None:
    """Whether weights of an ONNX model are fp16, whose inputs may be fp32 none the less (`keep_io`); None without
    ONNX's own package to read it with."""
    try:
        import onnx
    except ImportError:
        return None
    reader: Onnx = onnx
    graph = reader.load(model, load_external_data=False).graph
    return any(weight.data_type == FLOAT16 for weight in graph.initializer)


def _load_libraries(onnxruntime: Ort) -> None:
    """Those of CUDA, cuDNN and TensorRT that came as Python packages, which lie where no loader looks."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if importlib.util.find_spec("tensorrt_libs"):
        with contextlib.suppress(OSError, ImportError):  # whatever misses them says so better
            importlib.import_module("tensorrt_libs")


def tensorrt_version() -> tuple[int, ...]:
    """Of the library that the TensorRT provider has loaded, which need not be a package; () where none is."""
    try:
        loaded = re.search(r"/.*/libnvinfer\.so\.\d.*", MAPS.read_text(encoding="utf-8", errors="replace"))
        number = int(ctypes.CDLL(loaded[0]).getInferLibVersion()) if loaded else 0
    except (OSError, AttributeError):
        return ()
    # 8.6.1 is 8601, and 10.16.1 is 101601.
    first = 10_000 if number >= 10_000 else 1000
    return (number // first, number % first // 100, number % 100) if number else ()


def started() -> cuda.Cuda:
    """The CUDA runtime for Python, with the GPU taken. Raises Unavailable where it is not installed, or for another
    driver."""
    runtime = cuda.load()
    try:
        runtime.start()
    except (Unavailable, RuntimeError):
        runtime.gpu()  # which takes longer, and says more
        raise
    return runtime


def require_cuda(onnxruntime: Ort) -> None:
    """Raises the cause where one number can't be brought to the GPU, which takes CUDA, a driver and the GPU."""
    import numpy as np

    with contextlib.suppress(Unavailable):  # where it can be had, before ONNX Runtime takes the GPU its own way
        started()
    with standard_error() as log:
        _load_libraries(onnxruntime)
        try:
            onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", GPU)
            return
        except Exception as raised:  # its exceptions share no base class of their own
            error = raised
    otherwise = Unavailable("ONNX Runtime can't use CUDA here", complaint(error, Path("-")), "see: bench doctor")
    raise causes.explained(f"{log.text}\n{error}", otherwise) from error
