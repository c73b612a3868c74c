"""ONNX Runtime. The execution provider follows from the device kind, and on a GPU from an option, too.

There it goes back to the CPU by itself, in many places and at most with a line in a log. So each of these is shut: the
providers named, the retry in Python, the retry in the middle of a run; and where each node is computed is read back.
"""

import contextlib
import importlib
import importlib.util
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench import ort_api
from bench.backends import BaseBackend, Session, Setup, complaint
from bench.catalog import HardwareProfile
from bench.errors import EXPORT_AGAIN, Failed, Unavailable, Unsupported, UsageError
from bench.gpu import causes
from bench.ort_api import Ort
from bench.overhear import standard_error
from bench.schema import Input, Validity
from bench.synchrony import unsynchronised

if TYPE_CHECKING:
    from bench.backends import Arrays

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "gpu": CUDA}
#: the option `provider` → what must compute, and what may compute the nodes that it leaves; CPU alone is never named
ON_GPU = {"cuda": (CUDA,), "tensorrt": (TENSORRT, CUDA)}
#: workers are shown the GPU that is meant and no other
GPU = 0
WORKSPACE_BYTES = 1 << 30
QUANTISED = ("QLinear", "Quantize", "Integer", "NBits")
#: operators that make up the time of a network; others, such as those about shapes, belong on the CPU
COMPUTING = ("Conv", "Gemm", "MatMul", "Attention", "LSTM", "GRU", "Pool", "Normalization")
FLOAT16 = 10  # onnx.TensorProto.FLOAT16
#: with which the TensorRT provider refuses an engine of its own cache: cut off, or of another TensorRT
DAMAGED_CACHE = "could not deserialize engine from cache"


def _ort() -> Ort:
    import onnxruntime

    module: Ort = onnxruntime
    return module


class OrtSession(Session):
    """Inputs and outputs are bound once; `run` is `run_with_iobinding`. The input is the fed array's own memory."""

    def __init__(self, session: ort_api.Session, threads: int) -> None:
        self._session = session
        self._threads = threads
        self._binding = session.io_binding()
        self._feeds: dict[str, Any] = {}

    def feed(self, inputs: "Arrays") -> None:
        values = _ort().OrtValue
        names = [node.name for node in self._session.get_inputs()]
        self._feeds = dict(zip(names, inputs, strict=True))
        for name, array in self._feeds.items():
            self._binding.bind_ortvalue_input(name, values.ortvalue_from_numpy(array))
        for node in self._session.get_outputs():
            self._binding.bind_output(node.name)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def fetch(self) -> "Arrays":
        return list(self._binding.copy_outputs_to_cpu())

    def end_to_end(self) -> "Arrays":
        return list(self._session.run(None, self._feeds))

    def effective(self) -> dict[str, Any]:
        """Threads by counting those that the session started; `intra_op_num_threads` only echoes what was set."""
        nodes = _nodes(self._session)
        return {
            "threads": self._threads,
            "providers": dict(Counter(provider for provider, _ in nodes)) or self._session.get_providers(),
            "precision": _precision(self._session, [operator for _, operator in nodes]),
        }

    def close(self) -> None:
        del self._binding, self._session
        self._feeds = {}


def _nodes(session: ort_api.Session) -> list[tuple[str, str]]:
    """(provider, operator) of each node as the graph was divided up; empty where ONNX Runtime is too old to say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def _precision(session: ort_api.Session, operators: list[str]) -> str:
    """The CPU provider keeps to the graph's types, except that it has hardly a kernel for fp16 and computes in fp32."""
    if any(mark in operator for operator in operators for mark in QUANTISED):
        return "int8"
    types = {node.type for node in session.get_inputs()}
    return "fp32" if types == {"tensor(float)"} else ", ".join(sorted(types))


class OrtGpuSession(Session):
    """Inputs and outputs lie on the GPU at addresses that stay. Both ways to run return when the GPU is done: ONNX
    Runtime waits for its stream at the end of each, unless it is told not to, which it isn't.

    `placement()` gives (provider, operator) of each node and is asked once, after opening, since it may take as long;
    `place` is ONNX Runtime's name for the kind of memory.
    """

    def __init__(
        self,
        session: ort_api.Session,
        engine: Path,
        setup: Setup,
        placement: Callable[[], list[tuple[str, str]]],
        place: str,
    ) -> None:
        self._session = session
        self._engine = engine
        self._setup = setup
        self._placement = placement
        self._place = place
        self._binding = session.io_binding()
        self._feeds: dict[str, Any] = {}
        self._inputs: dict[str, ort_api.Value] = {}
        self._outputs: list[ort_api.Value] = []
        # The copies of `Session.run` have no fixed addresses, which a graph that was captured needs.
        self._replays = setup.options["cuda_graph"] == "on"

    @cached_property
    def _nodes(self) -> list[tuple[str, str]]:
        return self._placement()

    def feed(self, inputs: "Arrays") -> None:
        names = [node.name for node in self._session.get_inputs()]
        self._feeds = dict(zip(names, inputs, strict=True))
        try:
            if self._inputs and all(
                list(self._inputs[name].shape()) == list(each.shape) for name, each in self._feeds.items()
            ):
                self._copy_in()
            else:
                self._bind()
            self._binding.synchronize_inputs()
        except Exception as error:  # its exceptions share no base class of their own
            raise self._broken_off(error) from error

    def _bind(self) -> None:
        values = _ort().OrtValue
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._inputs = {
            name: values.ortvalue_from_numpy(array, self._place, GPU) for name, array in self._feeds.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._outputs = []
        for node in self._session.get_outputs():
            shape = _shape(node.shape, self._setup.case.batch_size)
            value = values.ortvalue_from_shape_and_type(shape, _numpy_type(node.type), self._place, GPU)
            self._binding.bind_ortvalue_output(node.name, value)
            self._outputs.append(value)

    def _copy_in(self) -> None:
        for name, array in self._feeds.items():
            self._inputs[name].update_inplace(array)

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise self._broken_off(error) from error

    def fetch(self) -> "Arrays":
        return [value.numpy() for value in self._outputs]

    def end_to_end(self) -> "Arrays":
        try:
            if not self._replays:
                return list(self._session.run(None, self._feeds))
            self._copy_in()
            self._session.run_with_iobinding(self._binding)
            return self.fetch()
        except Exception as error:
            raise self._broken_off(error) from error

    def _broken_off(self, error: Exception) -> Exception:
        otherwise = Failed("ONNX Runtime broke off the inference", complaint(error, self._engine))
        return causes.explained(str(error), otherwise)

    def validity(self) -> tuple[Validity, ...]:
        found = [Validity("misconfigured", misplaced) for misplaced in _misplaced(self._nodes, _wanted(self._setup))]
        return (*found, *unsynchronised(self.run, self._binding.synchronize_outputs, self.clock))

    def semantics(self) -> dict[str, str]:
        """Copies are of the arrays as they are, which lie in pageable memory; and a graph that is replayed is another
        experiment than launching kernel by kernel."""
        if not self._replays:
            inference = "one synchronous inference of the whole batch"
            return {"end_to_end": f"copy the inputs in from pageable memory, {inference}, copy the outputs out to it"}
        replay = "one replay of a CUDA graph of the whole batch's inference"
        return {
            "compute": f"{replay}, inputs and outputs on the GPU",
            "end_to_end": f"copy the inputs in from pageable memory, {replay}, copy the outputs out to it",
        }

    def effective(self) -> dict[str, Any]:
        """Where nodes are computed as the graph was divided up; options as the provider gives them back.

        The TensorRT provider doesn't tell in which precision it computes; `trt_fp16_enable` is all that is on record.
        """
        wanted = _wanted(self._setup)
        given_back = self._session.get_provider_options().get(wanted, {})
        told = {name: given_back[name] for name in _told(self._setup) if name in given_back}
        facts: dict[str, Any] = {
            "providers": dict(Counter(provider for provider, _ in self._nodes)),
            "compute_nodes": dict(Counter(provider for provider, operator in self._nodes if _computes(operator))),
            "provider_options": told,
        }
        graph = "enable_cuda_graph" if wanted == CUDA else "trt_cuda_graph_enable"
        facts["cuda_graph"] = given_back.get(graph) in ("1", "True")
        if wanted == CUDA:
            facts["tf32"] = given_back.get("use_tf32") not in ("0", None)
            half = carries_fp16(self._engine)
            if half is not None:
                facts["precision"] = "fp16" if half else _precision(self._session, self._operators)
        return facts

    @property
    def _operators(self) -> list[str]:
        return [operator for _, operator in self._nodes]

    def close(self) -> None:
        del self._binding, self._placement, self._session
        self._feeds, self._inputs, self._outputs = {}, {}, []


def _wanted(setup: Setup) -> str:
    return ON_GPU[setup.options["provider"]][0]


def _computes(operator: str) -> bool:
    return any(mark in operator for mark in COMPUTING)


def _misplaced(nodes: list[tuple[str, str]], wanted: str) -> list[str]:
    """What should have been computed by `wanted`, as "3 Conv on CPUExecutionProvider, not CUDAExecutionProvider"."""
    counted = Counter((provider, kind) for provider, kind in nodes if provider != wanted and _computes(kind))
    return [f"{count} {kind} on {provider}, not {wanted}" for (provider, kind), count in sorted(counted.items())]


def _shape(shape: Sequence[int | str | None], batch_size: int) -> list[int]:
    """An output's, with the batch where it is open. Raises Unsupported for one that leaves more than that open."""
    first, *rest = [size if isinstance(size, int) and size > 0 else None for size in shape] or [None]
    if None in rest:
        raise Unsupported("an output's shape is not known before it is computed", f"it is {shape}")
    return [first or batch_size, *(size for size in rest if size)]


def _numpy_type(type_: str) -> Any:
    """ONNX Runtime's "tensor(float)" as NumPy's."""
    import numpy as np

    name = type_.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name)).type


def carries_fp16(model: Path) -> bool | None:
    """Whether weights of an ONNX model are fp16, whose inputs may be fp32 none the less (`keep_io`); None without
    ONNX's own package to read it with."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(model, load_external_data=False).graph
    return any(weight.data_type == FLOAT16 for weight in graph.initializer)


def _cuda_options(setup: Setup) -> dict[str, str]:
    options = setup.options
    return {
        "device_id": str(GPU),
        "cudnn_conv_algo_search": options["conv_search"].upper(),
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": _flag(options["tf32"]),
        "enable_cuda_graph": _flag(options["cuda_graph"] if options["provider"] == "cuda" else "off"),
    }


def _tensorrt_options(engine: Path, setup: Setup, cache: Path) -> dict[str, str]:
    """One fixed shape, so that the engine is made for the very batch; its caches are of this case alone.

    This provider takes True and False where that of CUDA takes 1 and 0, and refuses the other pair.
    """
    shapes = _fixed_shapes(engine, setup)
    return {
        "device_id": str(GPU),
        "trt_fp16_enable": str(setup.case.precision == "fp16"),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
        "trt_cuda_graph_enable": str(setup.options["cuda_graph"] == "on"),
        **({f"trt_profile_{which}_shapes": shapes for which in ("min", "opt", "max")} if shapes else {}),
    }


def _flag(choice: str) -> str:
    return "1" if choice == "on" else "0"


def _told(setup: Setup) -> list[str]:
    """The options to put on record: not the folders, since records get published."""
    cuda = ["device_id", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "use_tf32", "enable_cuda_graph"]
    tensorrt = ["device_id", "trt_fp16_enable", "trt_max_workspace_size", "trt_cuda_graph_enable"]
    return cuda if _wanted(setup) == CUDA else [*tensorrt, "trt_profile_opt_shapes"]


def _engine_cache(engine: Path, setup: Setup) -> Path:
    """A folder for all that an engine of TensorRT depends on: its own names in there cover neither weights nor GPU."""
    # with packages that other Pythons may lack
    from bench.artifacts import default_root, files_sha256, key_of, model_files

    gpu = setup.found.get("gpu", {})
    parts = {
        "model": files_sha256(*model_files(engine)),
        "onnxruntime": _ort().__version__,
        "gpu": [str(gpu.get(name, "")) for name in ("name", "capability", "driver")],
        "case": [setup.device.name, setup.case.precision, setup.case.batch_size, setup.options],
    }
    return default_root() / "onnxruntime_tensorrt" / key_of(parts)[:32]


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder, which one process at a time has."""
    from filelock import FileLock  # which other Pythons may lack

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield


def _fixed_shapes(engine: Path, setup: Setup) -> str:
    """ "x:4x3x224x224" for each input that leaves a size open; "" where none does."""
    found = []
    for given in _inputs(engine):
        if None in given.shape:
            sizes = [setup.case.batch_size, *setup.input_shape]
            found.append(f"{given.name}:{'x'.join(map(str, sizes))}")
    return ",".join(found)


def _inputs(source: Path) -> tuple[Input, ...]:
    session = _ort().InferenceSession(source, providers=[CPU])
    return tuple(
        Input(
            name=node.name,
            shape=tuple(size if isinstance(size, int) else None for size in node.shape),
            type={"tensor(float)": "float32"}.get(node.type, node.type),
        )
        for node in session.get_inputs()
    )


def _load_libraries(onnxruntime: Ort) -> None:
    """Those of CUDA, cuDNN and TensorRT that came as Python packages, which lie where no loader looks."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if importlib.util.find_spec("tensorrt_libs"):
        with contextlib.suppress(OSError, ImportError):  # whatever misses them says so better
            importlib.import_module("tensorrt_libs")


def _require_cuda(onnxruntime: Ort) -> None:
    """Raises the cause where one number can't be brought to the GPU, which takes CUDA, a driver and the GPU."""
    import numpy as np

    with standard_error() as log:
        _load_libraries(onnxruntime)
        try:
            onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", GPU)
            return
        except Exception as raised:  # its exceptions share no base class of their own
            error = raised
    otherwise = Unavailable("ONNX Runtime can't use CUDA here", complaint(error, Path("-")), "see: bench doctor")
    raise causes.explained(f"{log.text}\n{error}", otherwise) from error


class Backend(BaseBackend):
    name = "onnxruntime"
    requires = ("onnxruntime",)
    install = "pip install onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu")
    source = "onnx"
    kinds = frozenset(PROVIDERS)
    precisions = frozenset({"fp32", "fp16"})
    options = {
        "optimization": ("all", "extended", "basic", "off"),
        "spinning": ("on", "off"),
        "provider": ("cuda", "tensorrt"),
        "tf32": ("off", "on"),
        "conv_search": ("exhaustive", "heuristic", "default"),
        "cuda_graph": ("off", "on"),
    }
    only = {"provider": "gpu", "tf32": "gpu", "conv_search": "gpu", "cuda_graph": "gpu"}
    plain = {"optimization": "off"}

    def environment(self, options: Mapping[str, str]) -> dict[str, str]:
        """The TensorRT provider has no option against TF32, only what NVIDIA's libraries read when they are loaded."""
        without = options.get("provider") == "tensorrt" and options.get("tf32") == "off"
        return {"NVIDIA_TF32_OVERRIDE": "0"} if without else {}

    def stack(self, options: Mapping[str, str]) -> str:
        return "onnxruntime_tensorrt" if options.get("provider") == "tensorrt" else self.name

    def precisions_on(self, kind: str) -> frozenset[str]:
        return frozenset({"fp32"}) if kind == "cpu" else self.precisions

    def probe(self, device: HardwareProfile) -> str:
        onnxruntime: Ort = self.runtime(device)
        wanted, available = PROVIDERS[device.kind], onnxruntime.get_available_providers()
        if wanted not in available:
            raise Unavailable(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted}",
                f"it has {', '.join(available)}",
                f"install one that has: {self.install if device.here else causes.ONNXRUNTIME}",
            )
        if device.kind == "gpu":
            _require_cuda(onnxruntime)
        return onnxruntime.__version__

    def inspect(self, source: Path) -> tuple[Input, ...]:
        try:
            return _inputs(source)
        except Exception as error:  # its exceptions share no base class of their own
            raise UsageError(f"ONNX Runtime cannot read {source}", complaint(error, source), EXPORT_AGAIN) from error

    def open(self, engine: Path, setup: Setup) -> Session:
        if setup.case.precision not in (able := self.precisions_on(setup.device.kind)):
            can = ", ".join(sorted(able))
            raise Unsupported(f"onnxruntime runs {can} on a {setup.device.kind}", f"not {setup.case.precision}")
        settings = _settings(setup)
        if setup.device.kind == "gpu":
            return _open_on_gpu(engine, setup, settings)
        onnxruntime = _ort()
        process = psutil.Process()
        others = process.num_threads() - 1  # the calling thread works, too
        try:
            session = onnxruntime.InferenceSession(engine, settings, providers=[CPU])
        except Exception as error:  # its exceptions share no base class of their own
            raise Failed(f"ONNX Runtime cannot open {engine.name}", complaint(error, engine)) from error
        return OrtSession(session, process.num_threads() - others)


def _refuse_types(engine: Path, setup: Setup) -> None:
    """fp16 is the TensorRT provider's own, or the model's: the CUDA provider keeps to the graph's types."""
    if _wanted(setup) == CUDA and setup.case.precision == "fp16" and not carries_fp16(engine):
        raise Unsupported(
            "ONNX Runtime's CUDA provider computes in the types of the graph",
            f"{engine.name} is not known to have fp16 weights",
            "give a model converted to fp16 with fp32 inputs, or type: --set onnxruntime.provider=tensorrt",
        )


def _settings(setup: Setup) -> ort_api.Options:
    onnxruntime = _ort()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = setup.case.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.graph_optimization_level = {
        "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[setup.options["optimization"]]
    spinning = "1" if setup.options["spinning"] == "on" else "0"
    settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return settings


def _open_on_gpu(engine: Path, setup: Setup, settings: ort_api.Options) -> Session:
    # Besides the session itself, the time of opening holds these: whether CUDA works, whether weights are fp16, and for
    # TensorRT the hash of the model's files and its inputs, all of which are needed before there can be a session.
    _refuse_types(engine, setup)
    _require_cuda(_ort())
    opener = _opener(engine, setup)
    session = opener(settings)

    def placement() -> list[tuple[str, str]]:
        # An older one tells it of a session that is profiled, which therefore can't be the one that is timed.
        return _nodes(session) or _profiled(lambda: opener(_profiling(setup)), setup)

    return OrtGpuSession(session, engine, setup, placement, "cuda")


def _opener(engine: Path, setup: Setup) -> Callable[[ort_api.Options], ort_api.Session]:
    """What makes a session of some settings on the provider asked for."""
    cuda = (CUDA, _cuda_options(setup))
    if _wanted(setup) == CUDA:
        return lambda settings: _session(engine, settings, [cuda])
    cache = _engine_cache(engine, setup)
    providers = [(TENSORRT, _tensorrt_options(engine, setup, cache)), cuda]
    return lambda settings: _cached_session(engine, settings, providers, cache)


def _cached_session(
    engine: Path, settings: ort_api.Options, providers: list[tuple[str, dict[str, str]]], cache: Path
) -> ort_api.Session:
    """As `_session`, with engines of TensorRT in a folder. One that it can't read is thrown away, and made once more.

    All engines are made and read while a session is made, as all shapes are fixed.
    """
    with _alone_in(cache):
        try:
            return _session(engine, settings, providers, cache)
        except Failed as error:
            if DAMAGED_CACHE not in str(error):
                raise
        shutil.rmtree(cache)
        cache.mkdir()
        return _session(engine, settings, providers, cache)


def _session(
    engine: Path, settings: ort_api.Options, providers: list[tuple[str, dict[str, str]]], cache: Path | None = None
) -> ort_api.Session:
    """Raises Unavailable, or what else is behind it, where anything but the first of `providers` would compute.

    Reasons name neither the model's folder nor `cache`: records get published.
    """
    onnxruntime = _ort()
    wanted = providers[0][0]
    error: Exception | None = None
    with standard_error() as log:
        try:
            # Without enable_fallback=0 it would print a banner, try again on the CPU and succeed.
            session = onnxruntime.InferenceSession(engine, settings, providers=providers, enable_fallback=0)
            session.disable_fallback()  # nor may a run that fails rebuild it
        except Exception as raised:  # its exceptions share no base class of their own
            error = raised
    if error is not None:
        said = complaint(error, engine).replace(str(cache), "the cache") if cache else complaint(error, engine)
        damaged = Failed(f"ONNX Runtime cannot open {engine.name}", said)
        raise causes.explained(f"{log.text}\n{error}", damaged) from error
    if (there := session.get_providers())[:1] != [wanted]:
        left_out = Unavailable(f"ONNX Runtime left {wanted} out", f"it has {', '.join(there)}", "see: bench doctor")
        raise causes.explained(log.text, left_out)
    return session


def _profiling(setup: Setup) -> ort_api.Options:
    settings = _settings(setup)
    settings.enable_profiling = True
    settings.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "nodes")
    return settings


def _profiled(opened: Callable[[], ort_api.Session], setup: Setup) -> list[tuple[str, str]]:
    """(provider, operator) of each node that one inference of a profiled session executes."""
    import numpy as np

    session = opened()
    image = np.zeros([setup.case.batch_size, *setup.input_shape], np.float32)
    session.run(None, {node.name: image for node in session.get_inputs()})
    file = Path(session.end_profiling())
    events = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    file.parent.rmdir()
    facts = [event.get("args", {}) for event in events if event.get("cat") == "Node"]
    return [(each["provider"], each["op_name"]) for each in facts if "provider" in each and "op_name" in each]
