"""A stand-in for the module onnxruntime of a GPU wheel, as 1.26 and 1.31 were seen to behave with and without a GPU.

Every way back to the CPU is there, and open unless whoever asks shuts it. Time passes on `Behaviour.clock` alone, which
is that of `Behaviour.gpu` where there is one: then work is given to its streams, and done when somebody has waited.
"""

import importlib.machinery
import json
import os
import types
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fakes.cuda import FakeCuda

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
COMPUTE_NS, ENQUEUE_NS, COPY_NS, WAIT_NS = 1_000_000, 10_000, 100_000, 2_000
#: the TensorRT provider's switches, which `onnxruntime_pybind_state.cc` reads as text
SWITCHES = ("trt_fp16_enable", "trt_engine_cache_enable", "trt_timing_cache_enable", "trt_cuda_graph_enable")
ON_CPU_NS = 40_000_000
STREAM = "user_compute_stream"

UNLOADABLE = (
    "[E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] /onnxruntime_src/onnxruntime/core/session/"
    "provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : "
    "FAIL : Failed to load library /venv/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: "
    "libcublasLt.so.13: cannot open shared object file: No such file or directory\n"
    "[W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295 CreateExecutionProviderFactoryInstance] Failed to create "
    "CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*. Please install all dependencies as mentioned in the GPU "
    "requirements page, make sure they're in the PATH, and that your GPU is supported.\n"
)
NO_INTERFACE = (
    "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2465 onnxruntime::ProviderInfo_CUDA& "
    "onnxruntime::GetProviderInfo_CUDA() CUDA Provider not available, can't get interface for it\n"
)
NO_DRIVER = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 CUDA failure 35: CUDA driver version is "
    "insufficient for CUDA runtime version ; GPU=-1 ; hostname=here ; file=cuda_execution_provider.cc ; line=282 ; "
    "expr=cudaSetDevice(info_.device_id);"
)
NO_TENSORRT = (
    "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
    "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please install "
    "TensorRT libraries as mentioned in the GPU requirements page, make sure they're in the PATH or LD_LIBRARY_PATH, "
    "and that your GPU is supported.\n"
)
NO_TRANSFER = (
    "Error when binding input: There's no data transfer registered for copying tensors from Device:[DeviceType:1 "
    "MemoryType:0 VendorId:4318 DeviceId:0 Alignment:0] to Device:[DeviceType:0 MemoryType:0 VendorId:0]"
)


class Clock:
    """The host's, which is that of a GPU where there is one."""

    def __init__(self, gpu=None):
        self._gpu = gpu or SimpleNamespace(now_ns=0)

    def __call__(self):
        return self.now

    @property
    def now(self):
        return self._gpu.now_ns

    @now.setter
    def now(self, now_ns):
        self._gpu.now_ns = now_ns


@dataclass
class Behaviour:
    """`cuda` is "works", "unloadable" or "no driver"; `graph` maps an operator to how often the model has it, and
    `on_cpu` are those that the GPU leaves; `faults` are texts that the n-th inference is broken off with.

    `unreadable` makes every engine that is kept so that TensorRT can't read it, `rebuilds` one that it makes anew, and
    with `takes_nothing` it makes none; `built` are the options of each session that made one. `span_ns` gives the time
    of an inference for each build in turn: near-equal tactics are decided by noise. Without it, all take COMPUTE_NS.

    `gpu` is a `FakeCuda`: the stream given is left aside where it `ignores` it, `another` is what it says it has; one
    that `waits_inside` does so whatever it is told, and work that doesn't grow takes as long for many inferences as for
    one.
    """

    version: str = "1.31.1"
    available: tuple = (TENSORRT, CUDA, CPU)
    cuda: str = "works"
    tensorrt: bool = True
    unreadable: bool = False
    rebuilds: bool = False
    takes_nothing: bool = False
    span_ns: tuple = ()
    silent: bool = False
    graph: dict = field(default_factory=lambda: {"Conv": 27, "Gemm": 1, "Relu": 27, "Shape": 1})
    on_cpu: tuple = ("Shape",)
    left_by_tensorrt: tuple = ()
    tells: bool = True
    unknown_options: tuple = ()
    faults: dict = field(default_factory=dict)
    synchronous: bool = True
    outputs: tuple = ("DynamicDimension.1", 10)
    gpu: FakeCuda | None = None
    ignores: bool = False
    another: bool = False
    grows: bool = True
    waits_inside: bool = False
    clock: Clock = field(init=False)
    sessions: list = field(default_factory=list)
    built: list = field(default_factory=list)
    inferences: int = 0
    pending_ns: int = 0
    copying_ns: int = 0
    exhausted: bool = False
    unwaited: int = 0

    def __post_init__(self):
        self.clock = Clock(self.gpu)


class EPFail(Exception):
    pass


def computed(images):
    """The network: ten logits an image, so that images and batches are told apart."""
    return np.ascontiguousarray(images.reshape(len(images), -1)[:, :10] * 2)


class SessionOptions:
    def __init__(self):
        self.entries = {}
        self.intra_op_num_threads = self.inter_op_num_threads = 0
        self.log_severity_level = 2
        self.graph_optimization_level = "ORT_ENABLE_ALL"
        self.enable_profiling = False
        self.profile_file_prefix = ""

    def add_session_config_entry(self, name, value):
        self.entries[name] = value


class RunOptions:
    def __init__(self):
        self.entries = {}

    def add_run_config_entry(self, name, value):
        self.entries[name] = value


def module(behaviour):
    """The module, which also is what `import onnxruntime` finds once it is in sys.modules."""
    made = types.ModuleType("onnxruntime")
    made.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
    made.__version__ = behaviour.version
    made.get_available_providers = lambda: list(behaviour.available)
    made.get_device = lambda: "GPU"
    made.preload_dlls = lambda: None
    made.SessionOptions = SessionOptions
    made.RunOptions = RunOptions
    levels = ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL")
    made.GraphOptimizationLevel = SimpleNamespace(**{level: level for level in levels})
    made.InferenceSession = type("InferenceSession", (InferenceSession,), {"behaviour": behaviour})
    if not behaviour.tells:
        made.InferenceSession = type("InferenceSession", (OlderSession,), {"behaviour": behaviour})
    made.OrtValue = type("OrtValue", (OrtValue,), {"behaviour": behaviour})
    return made


def require_cuda(behaviour, device):
    if device != "cuda":
        return
    if behaviour.cuda == "unloadable":
        os.write(2, UNLOADABLE.encode())
        raise RuntimeError(NO_INTERFACE)
    if behaviour.cuda == "no driver":
        raise RuntimeError(NO_DRIVER)


class OrtValue:
    behaviour: Behaviour

    def __init__(self, array, device):
        self.array = array
        self.device = device

    @classmethod
    def ortvalue_from_numpy(cls, array, device_type="cpu", device_id=0):
        require_cuda(cls.behaviour, device_type)
        return cls(array.copy() if device_type != "cpu" else array, device_type)

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape, element_type, device_type="cpu", device_id=0):
        require_cuda(cls.behaviour, device_type)
        return cls(np.zeros(shape, element_type), device_type)

    def update_inplace(self, array):
        self.behaviour.clock.now += COPY_NS
        self.array[...] = array

    def data_ptr(self):
        return self.array.ctypes.data

    def shape(self):
        return list(self.array.shape)

    def numpy(self):
        self.behaviour.clock.now += COPY_NS
        return self.array.copy()


class IOBinding:
    def __init__(self, session):
        self.session = session
        self.inputs, self.outputs = {}, {}

    def bind_ortvalue_input(self, name, value):
        if value.device != "cpu" and self.session.get_providers()[0] == CPU:
            raise RuntimeError(NO_TRANSFER)
        self.inputs[name] = value
        if value.device != "cpu":
            self.session.behaviour.copying_ns = COPY_NS

    def bind_ortvalue_output(self, name, value):
        self.outputs[name] = value

    def clear_binding_inputs(self):
        self.inputs = {}

    def clear_binding_outputs(self):
        self.outputs = {}

    def synchronize_inputs(self):
        behaviour = self.session.behaviour
        behaviour.clock.now += behaviour.copying_ns
        behaviour.copying_ns = 0

    def synchronize_outputs(self):
        behaviour = self.session.behaviour
        behaviour.clock.now += behaviour.pending_ns + WAIT_NS
        behaviour.pending_ns = behaviour.unwaited = 0


def refuse_switches(provider, options):
    for key in SWITCHES if provider == TENSORRT else ():
        if options.get(key, "False") not in ("True", "true", "False", "false"):
            raise RuntimeError(
                f"[ERROR] [TensorRT] The value for the key '{key}' should be 'True' or 'False'. "
                "Default value is 'False'."
            )
    for key in ("cudnn_conv_use_max_workspace", "use_tf32", "enable_cuda_graph") if provider == CUDA else ():
        assert options.get(key, "0") in ("0", "1")


def given_back(options, behaviour):
    """Switches as the provider prints them, and whether it has a stream of the user's."""
    printed = {name: {"True": "1", "False": "0"}.get(value, value) for name, value in options.items()}
    printed |= {"has_user_compute_stream": str(int(STREAM in options))}
    return printed | ({STREAM: "0", "has_user_compute_stream": "0"} if behaviour.another else {})


def make_engine(behaviour, options, model):
    """Makes the engine in the folder, or reads the one that is there; its name covers but that of the model."""
    cache = Path(options["trt_engine_cache_path"])
    file = cache / f"TensorrtExecutionProvider_TRTKernel_graph_g_{len(model.name)}_0_0_sm75.engine"
    if file.exists() and not behaviour.rebuilds:
        if behaviour.unreadable or not file.read_bytes().startswith(b"an engine"):
            raise EPFail(
                f"[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not deserialize engine from cache: {file}"
            )
        return
    behaviour.built.append(options)
    timings = take_timings(options)
    if behaviour.takes_nothing:
        return
    span_ns = behaviour.span_ns[(len(behaviour.built) - 1) % len(behaviour.span_ns)] if behaviour.span_ns else ""
    file.write_bytes(b"an engine by timings of " + timings + f"; {span_ns} ns".encode())
    file.with_suffix(".profile").write_bytes(options.get("trt_profile_opt_shapes", "").encode())


def span_of(cache):
    """The time of an inference with the engine there; None where that is as good as any other."""
    file = next(cache.glob("*.engine"), None) if cache else None
    return int(file.read_bytes().rpartition(b"; ")[2].partition(b" ")[0] or 0) if file else None


def take_timings(options):
    """The timing cache, made where there is none: another one each time."""
    if options["trt_timing_cache_enable"] == "False":
        return b"no cache"
    file = Path(options["trt_timing_cache_path"]) / "TensorrtExecutionProvider_cache_sm75.timing"
    if file.exists() and not file.read_bytes().startswith(b"timings"):
        raise EPFail(f"[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not create timing cache: {file}")
    if not file.exists():
        file.write_bytes(b"timings " + os.urandom(4).hex().encode())
    return file.read_bytes()


class OlderSession:
    """What InferenceSession does in Python, with what happens below it."""

    behaviour: Behaviour

    def __init__(self, path, sess_options=None, providers=None, **kwargs):
        self._enable_fallback = int(kwargs.get("enable_fallback", 1)) == 1
        self.options = sess_options or SessionOptions()
        self.path = Path(path)
        self.path.read_bytes()
        for provider in providers:
            name = provider if isinstance(provider, str) else provider[0]
            if name not in self.behaviour.available:
                warnings.warn(f"Specified provider '{name}' is not in available provider names.", stacklevel=2)
        try:
            self._create(providers)
        except (ValueError, RuntimeError) as error:
            if not self._enable_fallback:
                raise
            print(f"*************** EP Error ***************\nEP Error {error} when using {providers}")
            self._create([CPU])
            self.disable_fallback()
        self.behaviour.sessions.append(self)

    def _create(self, providers):
        given = dict(provider if isinstance(provider, tuple) else (provider, {}) for provider in providers)
        for name, options in given.items():
            if unknown := [each for each in options if each in self.behaviour.unknown_options]:
                raise RuntimeError(f'cuda_execution_provider_info.cc:79 Unknown provider option: "{unknown[0]}".')
            if name == TENSORRT and not self.behaviour.tensorrt:
                raise RuntimeError(NO_TENSORRT)
            refuse_switches(name, options)
        if CUDA in given and self.behaviour.cuda == "unloadable":
            os.write(2, UNLOADABLE.encode())
        if CUDA in given and self.behaviour.cuda == "no driver":
            raise RuntimeError(NO_DRIVER)
        broken = self.behaviour.silent or self.behaviour.cuda == "unloadable"
        if TENSORRT in given and not broken:
            make_engine(self.behaviour, given[TENSORRT], self.path)
        self.asked = given
        self._given = {
            name: given_back(options, self.behaviour) for name, options in given.items() if name == CPU or not broken
        }
        self._given.setdefault(CPU, {})
        self._stream = self._own_stream() if self.behaviour.gpu else None
        cache = Path(given[TENSORRT]["trt_engine_cache_path"]) if TENSORRT in self._given else None
        self.span_ns = span_of(cache)

    def _own_stream(self):
        """The number of the stream that the work goes to."""
        asked = {options[STREAM] for options in self.asked.values() if STREAM in options}
        assert len(asked) <= 1, "providers on streams of their own"
        if asked and not (self.behaviour.ignores or self.behaviour.another):
            return int(asked.pop())
        return int(self.behaviour.gpu._cudaStreamCreateWithFlags(1))

    def disable_fallback(self):
        self._enable_fallback = False

    def get_providers(self):
        return list(self._given)

    def get_provider_options(self):
        return self._given

    def get_inputs(self):
        return [SimpleNamespace(name="x", shape=["DynamicDimension.0", 3, 8, 8], type="tensor(float)")]

    def get_outputs(self):
        return [SimpleNamespace(name="y", shape=list(self.behaviour.outputs), type="tensor(float)")]

    def io_binding(self):
        return IOBinding(self)

    def placed(self):
        """(provider, operator) of each node."""
        first = self.get_providers()[0]
        on_cpu = self.behaviour.graph if first == CPU else self.behaviour.on_cpu
        left = self.behaviour.left_by_tensorrt if first == TENSORRT else ()
        where = {kind: CPU if kind in on_cpu else CUDA if kind in left else first for kind in self.behaviour.graph}
        return [(where[kind], kind) for kind, count in self.behaviour.graph.items() for _ in range(count)]

    def _compute(self, copies_ns=0):
        self._count()
        behaviour = self.behaviour
        cost = ON_CPU_NS if self.get_providers()[0] == CPU else self.span_ns or COMPUTE_NS
        if behaviour.unwaited and not behaviour.grows:
            cost = ENQUEUE_NS
        behaviour.unwaited += 1
        behaviour.clock.now += copies_ns
        if behaviour.synchronous or copies_ns:
            behaviour.clock.now += cost
        else:
            behaviour.clock.now += ENQUEUE_NS
            behaviour.pending_ns += cost - ENQUEUE_NS

    def _count(self):
        """One more inference, unless it is broken off."""
        behaviour = self.behaviour
        behaviour.inferences += 1
        if text := behaviour.faults.get(behaviour.inferences):
            behaviour.exhausted = behaviour.exhausted or "illegal memory access" in text or "lost" in text
            raise EPFail(text)
        if behaviour.exhausted:
            raise EPFail("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaMalloc")

    def run(self, names, feeds, run_options=None):
        try:
            self._compute(2 * COPY_NS)
        except EPFail:
            if not self._enable_fallback:
                raise
            self._given = {CPU: {}}
            self.disable_fallback()
        return [computed(next(iter(feeds.values())))]

    def run_with_iobinding(self, binding, run_options=None):
        if self.behaviour.gpu:
            self._enqueue(binding, run_options)
            return
        binding.synchronize_inputs()
        self._compute()
        binding.outputs["y"].array[...] = computed(binding.inputs["x"].array)

    def _enqueue(self, binding, run_options):
        """Gives the stream its work, and waits for it unless told otherwise."""
        behaviour, gpu = self.behaviour, self.behaviour.gpu
        self._count()
        gpu.now_ns += ENQUEUE_NS
        source, target = binding.inputs["x"].array, binding.outputs["y"].array

        took_ns = (self.span_ns or COMPUTE_NS) - ENQUEUE_NS
        if gpu._streams[self._stream].todo and not behaviour.grows:
            took_ns = 0
        given = []  # is read as the work begins
        gpu.give(self._stream, 0, lambda: given.append(source.copy()))
        gpu.give(self._stream, took_ns, lambda: target.__setitem__(..., computed(given[0])))
        waits = not run_options or run_options.entries.get("disable_synchronize_execution_providers") != "1"
        if (waits and behaviour.synchronous) or self._waits_inside():
            gpu._cudaStreamSynchronize(self._stream)

    def _waits_inside(self):
        """Whatever it was told: after the replay of a graph, and between the parts that TensorRT has taken."""
        first = self.get_providers()[0]
        graph = self._given[first].get("enable_cuda_graph", self._given[first].get("trt_cuda_graph_enable"))
        return (
            self.behaviour.waits_inside
            or graph == "1"
            or (first == TENSORRT and {where for where, _ in self.placed()} != {TENSORRT})
        )

    def end_profiling(self):
        assert self.options.enable_profiling
        nodes = [{"cat": "Node", "args": {"provider": provider, "op_name": kind}} for provider, kind in self.placed()]
        file = Path(self.options.profile_file_prefix + "_1.json")
        file.write_text(json.dumps([{"cat": "Session", "args": {}}, {"cat": "Node", "args": {}}, *nodes]))
        return str(file)


class InferenceSession(OlderSession):
    def get_provider_graph_assignment_info(self):
        if self.options.entries.get("session.record_ep_graph_assignment_info") != "1":
            raise RuntimeError("Session configuration entry is not enabled")
        return [
            SimpleNamespace(ep_name=provider, get_nodes=lambda kind=kind: [SimpleNamespace(op_type=kind)])
            for provider, kind in self.placed()
        ]
