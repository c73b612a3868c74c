"""A stand-in for Paddle 2.6 and 3 in builds for GPUs and for CPUs, as they were seen to behave with and without a GPU.

A predictor computes two numbers an image, on a stream of a fake CUDA runtime (`Behaviour.gpu`), whose clock moves only
once somebody waits. What ends the real process with code 255 raises `Exit255`, which nothing catches.
"""

import importlib.machinery
import json
import os
import re
import types
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fakes.cuda import FakeCuda

COMPUTE_NS, ENQUEUE_NS, COPY_IN_NS, COPY_OUT_NS = 1_000_000, 10_000, 100_000, 50_000
ON_CPU_NS = 40_000_000

NO_GPU = (
    "(InvalidArgument) Device id must be less than GPU count, but received id is: 0. GPU count is: 0.\n  [Hint: "
    "Expected id < GetGPUDeviceCount(), but received id:0 >= GetGPUDeviceCount():0.] (at /phi/cuda_info.cc:255)\n"
)
NO_DRIVER = (
    "(External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime version. \n  [Hint: "
    "'cudaErrorInsufficientDriver'. This indicates that the installed NVIDIA CUDA driver is older than the CUDA "
    "runtime library.] (at /paddle/paddle/phi/backends/gpu/cuda/cuda_info.cc:178)\n"
)
NO_TENSORRT = (
    "(NotFound) TensorRT is needed, but TensorRT dynamic library is not found.\n  Suggestions:\n  1. Check if the "
    "TensorRT is installed correctly and its version is matched with paddlepaddle you installed.\n  [Hint: dso_handle "
    "should not be null.] (at /paddle/paddle/fluid/platform/dynload/tensorrt.cc:57)\n"
)
FOR_CPUS = "E1122 06:28:30.386829 23540 analysis_config.cc:169] Please use PaddlePaddle with GPU version.\n"
NO_COMPILED_TENSORRT = (
    "(PreconditionNotMet) To use Paddle-TensorRT, please compile with TENSORRT first. (at /paddle/config.cc:811)"
)


class Exit255(BaseException):
    """The real process would be gone, with this on standard error."""


@dataclass
class Behaviour:
    """`engines` are the nodes of each part that TensorRT finds in the model, `left` what it can't compute; `faults` are
    texts that the n-th inference is broken off with.

    `span_ns` gives the time of an inference for each build of engines in turn: near-equal tactics are decided by noise.
    `kernels` are the places that operators have some for. A Paddle may know no CUDA `graphs`, and TensorRT none that it
    `captures`.

    A build `takes` a stream or has no such method, and `obeys` it or computes on its own; inferences may be over when
    `run` returns, and where time does not grow, those that are enqueued behind another take none.
    """

    version: str = "2.6.2"
    cuda: bool = True
    gpus: int = 1
    driver: bool = True
    compiled: tuple = (8, 5, 3)
    running: tuple = (8, 5, 3)
    engines: tuple = (60, 40)
    left: dict = field(default_factory=lambda: {"softmax": 1, "pool2d": 1})
    half: bool = True
    captures: bool = True
    graphs: bool = True
    span_ns: tuple = (COMPUTE_NS,)
    builds: int = 0
    kernels: dict = field(default_factory=lambda: {"conv2d": ("cpu", "gpu:0"), "softmax": ("cpu", "gpu:0")})
    profiles: bool = True
    waits: bool = True
    takes: bool = True
    obeys: bool = True
    over_at_once: bool = False
    grows: bool = True
    faults: dict = field(default_factory=dict)
    opening: str = ""
    gpu: FakeCuda = field(default_factory=FakeCuda)
    configs: list = field(default_factory=list)
    predictors: list = field(default_factory=list)
    converted: list = field(default_factory=list)
    inferences: int = 0
    homes: list = field(default_factory=list)

    def __post_init__(self):
        self.gpu.waits = self.waits
        self.own = self.gpu._cudaStreamCreateWithFlags(FakeCuda.cudaStreamNonBlocking)

    @property
    def clock(self):
        return self.gpu.clock

    def passes(self, took_ns):
        self.gpu.now_ns += took_ns

    def synchronise(self, streams):
        """All their work is done, that of several in the order of time."""
        queues = [self.gpu._streams[int(stream)] for stream in streams]
        self.gpu.now_ns = max(self.gpu.now_ns, *(queue.free_at_ns for queue in queues))
        while busy := [queue for queue in queues if queue.todo]:
            min(busy, key=lambda queue: queue.todo[0][0]).todo.pop(0)[1]()


def computed(images):
    return np.ascontiguousarray(images.reshape(len(images), -1)[:, :2] * 2)


class Config:
    behaviour: Behaviour

    def __init__(self, model, parameters):
        self.model = Path(model)
        self.calls = {}
        self.on_gpu = False
        self.tensorrt = None
        self.cache = None
        self.shapes = None
        self.behaviour.configs.append(self)

    def __getattr__(self, name):
        """The switches that only need to be remembered."""
        if name not in {*SWITCHES, *(SWITCHES_OF_3 if self.behaviour.version[0] == "3" else ())}:
            raise AttributeError(name)
        return lambda *values: self.calls.__setitem__(name, values)

    def enable_use_gpu(self, megabytes, device_id=0, precision=None):
        if not self.behaviour.cuda:
            os.write(2, FOR_CPUS.encode())
            return
        self.on_gpu = True

    def use_gpu(self):
        return self.on_gpu

    def enable_tensorrt_engine(self, **options):
        if not any(self.behaviour.compiled):
            raise RuntimeError(NO_COMPILED_TENSORRT)
        self.tensorrt = options

    def set_optim_cache_dir(self, folder):
        self.cache = Path(folder)

    def collect_shape_range_info(self, file):
        self.shapes = Path(file)

    def enable_tuned_tensorrt_dynamic_shape(self, file, build_at_run_time):
        assert Path(file).is_file()
        self.calls["shapes"] = file


class ConfigWithStream(Config):
    """Of a build for GPUs."""

    _stream = None

    def set_exec_stream(self, stream):
        self._stream = stream


class Stream:
    def __init__(self, behaviour, device):
        assert device == 0
        self.behaviour = behaviour
        self.cuda_stream = int(behaviour.gpu._cudaStreamCreateWithFlags(FakeCuda.cudaStreamNonBlocking))

    def synchronize(self):
        if self.behaviour.waits:
            self.behaviour.synchronise([self.cuda_stream])


SWITCHES = ("disable_glog_info", "enable_memory_optim", "set_cpu_math_library_num_threads", "enable_mkldnn")
SWITCHES_OF_3 = ("enable_new_ir", "enable_new_executor")


class Handle:
    def __init__(self, predictor):
        self.predictor = predictor
        self.array = None

    def reshape(self, shape):
        self.wanted = tuple(shape)

    def copy_from_cpu(self, array):
        assert self.wanted == array.shape
        self.predictor.behaviour.passes(COPY_IN_NS)
        if self.array is None:
            self.array = array.copy()
        else:
            self.array[...] = array

    def share_external_data(self, tensor):
        assert self.wanted == tensor.array.shape
        self.array = tensor.array

    def copy_to_cpu(self):
        if self.predictor.config.on_gpu:
            self.predictor.behaviour.synchronise([self.predictor.stream])
        self.predictor.behaviour.passes(COPY_OUT_NS)
        return self.array.copy()


class Predictor:
    def __init__(self, config):
        behaviour = self.behaviour = config.behaviour
        self.config = config
        self.input, self.output = Handle(self), Handle(self)
        self.captured = None
        self.took_ns = COMPUTE_NS
        self.replays = self.wanted = False
        if config.on_gpu and not behaviour.gpus:
            raise ValueError(NO_GPU)
        if behaviour.opening:
            raise RuntimeError(behaviour.opening)
        if config.tensorrt:
            self._make_engines(config)
        if config.on_gpu and config.model.suffix == ".json":
            for engine in re.findall(r'"([^"]+\.trt)"', config.model.read_text()):
                assert Path(engine).is_file(), "Paddle looks elsewhere, too, but nobody knows where"
                self.took_ns = span_of(Path(engine))
            self.wanted = '"D": true' in config.model.read_text()
            self.replays = self.wanted and behaviour.captures
        stream = config._stream if behaviour.takes and behaviour.cuda else None
        self.stream = stream.cuda_stream if stream and behaviour.obeys else int(behaviour.own)
        behaviour.predictors.append(self)

    def _make_engines(self, config):
        least = config.tensorrt["min_subgraph_size"]
        self.behaviour.builds += not list(config.cache.iterdir())
        for number, nodes in enumerate(nodes for nodes in self.behaviour.engines if nodes >= least):
            log(f"I1122 06:28:28.1 23507 tensorrt_subgraph_pass.cc:210] ---  detect a sub-graph with {nodes} nodes")
            file = config.cache / f"trt_serialized_{number}"
            if file.is_file():
                self.took_ns = span_of(file)
                log(f"I1122 06:28:28.2 23507 tensorrt_subgraph_pass.cc:500] Load TRT Optimized Info from {file}")
                continue
            log("I1122 06:28:28.3 23507 x.cc:600] Prepare TRT engine (Optimize model structure, Select OP kernel etc).")
            if config.tensorrt["precision_mode"] == "Half":
                words = "Run Paddle-TRT FP16 mode" if self.behaviour.half else NO_HALF
                log(f"I1122 06:28:28.4 23507 engine.cc:302] {words}")
            file.write_bytes(engine(self.behaviour))
            self.took_ns = span_of(file)
        if not self.behaviour.left:
            log("I1122 06:28:28.5 23507 tensorrt_subgraph_pass.cc:300] The entire graph is offloaded to TensorRT.")
        elif config.tensorrt["use_cuda_graph"]:
            log(f"W1122 06:28:28.6 23507 tensorrt_subgraph_pass.cc:303] {NOT_WHOLE}")
        self.replays = config.tensorrt["use_cuda_graph"] and not self.behaviour.left and self.behaviour.captures
        self.wanted = config.tensorrt["use_cuda_graph"] and not self.behaviour.left

    def get_input_names(self):
        return ["x"]

    def get_output_names(self):
        return ["y"]

    def get_input_handle(self, name):
        return self.input

    def get_output_handle(self, name):
        return self.output

    def run(self):
        behaviour = self.behaviour
        behaviour.inferences += 1
        if text := behaviour.faults.get(behaviour.inferences):
            raise OSError(text)
        if self.config.on_gpu:
            behaviour.passes(ENQUEUE_NS)
            self._enqueue(behaviour)
        else:
            behaviour.passes(ON_CPU_NS)
            self.output.array = computed(self.input.array)
        if self.config.shapes:
            self.config.shapes.write_text("shapes")

    def _enqueue(self, behaviour):
        """Inputs are read when the stream comes to the inference, outputs are there when it is over."""
        idle = behaviour.gpu._streams[self.stream].free_at_ns <= behaviour.gpu.now_ns
        read = []
        source = self._source()
        behaviour.gpu.give(self.stream, 0, lambda: read.append(source.copy()))
        took_ns = self.took_ns if idle or behaviour.grows else 0
        behaviour.gpu.give(self.stream, took_ns, lambda: setattr(self.output, "array", computed(read[0])))
        if behaviour.over_at_once:
            behaviour.synchronise([self.stream])

    def _source(self):
        """The input's memory; of a graph that is replayed that which it was captured with."""
        if self.captured is None and self.wanted and not self.replays:
            log(f"W1122 06:28:29.1 23507 engine.cc:150] {NOT_CAPTURED}")
        if self.captured is None or not self.replays:
            self.captured = self.input.array
        return self.captured

    def executed(self):
        """The operators of an inference, as the profiler tells them."""
        if self.config.tensorrt:
            return ["tensorrt_engine"] * len(self.behaviour.engines) + expanded(self.behaviour.left)
        return ["conv2d", "softmax"]


NOT_WHOLE = "You have enabled CudaGraph, but not the entire graph offload to trt, now return to normal mode."
NOT_CAPTURED = (
    "The built TensorRT engine contains operations that are not permitted under CUDA graph capture mode. The specified "
    "UseCudaGraph flag has been ignored. The inference will be launched without using CUDA graph launch."
)
NO_HALF_IN_3 = "Hardware does not support FP16. Continuing in FP32 mode."
NO_HALF = "You specify FP16 mode, but the hardware do not support FP16 speed up, use FP32 instead."


def engine(behaviour):
    return f"an engine of {behaviour.span_ns[(behaviour.builds - 1) % len(behaviour.span_ns)]} ns".encode()


def span_of(file):
    return int(file.read_bytes().split()[-2])


def expanded(counts):
    return [name for name, count in counts.items() for _ in range(count)]


def log(line):
    os.write(2, f"{line}\n".encode())


def program(counts, engines=(), graph=False):
    """A program of Paddle 3, as far as its operators are concerned, and the files of its engines."""
    flag = {"N": "use_cuda_graph", "AT": {"#": "0.a_bool", "D": graph}}
    operators = [
        {"#": f"1.{name}", "A": [flag] if name == "tensorrt_engine" else []}
        for name in expanded({"data": 1, **counts, "fetch": 1})
    ]
    operators.insert(0, {"#": "p", "A": []})
    files = [{"N": "engine_serialized_data", "AT": {"#": "0.a_str", "D": str(engine)}} for engine in engines]
    regions = [{"blocks": [{"ops": operators, "files": files}]}]
    return json.dumps({"base_code": {"magic": "pir"}, "program": {"regions": regions}})


def modules(behaviour):
    """By name, what `import paddle` and its parts find once they are in sys.modules."""

    def made(name):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        return module

    paddle, inference, profiler = made("paddle"), made("paddle.inference"), made("paddle.profiler")
    paddle.__version__ = behaviour.version
    paddle.inference, paddle.profiler = inference, profiler
    paddle.base = made("paddle.base")
    paddle.base.core = SimpleNamespace(_get_all_register_op_kernels=lambda: _registered(behaviour))
    paddle.is_compiled_with_cuda = lambda: behaviour.cuda
    paddle.version = SimpleNamespace(cuda=lambda: "11.8", cudnn=lambda: "8.6.0")
    paddle.CUDAPlace = lambda number: _place(behaviour, number)
    paddle.to_tensor = lambda array, place: _tensor(behaviour, array)
    paddle.device = SimpleNamespace(
        synchronize=lambda place: _synchronize(behaviour, place),
        cuda=SimpleNamespace(
            device_count=lambda: behaviour.gpus,
            get_device_capability=lambda: _capability(behaviour),
            Stream=lambda device: Stream(behaviour, device),
        ),
    )
    config = ConfigWithStream if behaviour.cuda and behaviour.takes else Config
    inference.Config = type("Config", (config,), {"behaviour": behaviour})
    inference.create_predictor = Predictor
    inference.PrecisionType = SimpleNamespace(Half="Half", Float32="Float32")
    inference.get_trt_compile_version = lambda: behaviour.compiled
    inference.get_trt_runtime_version = lambda: _running(behaviour)
    profiler.ProfilerTarget = SimpleNamespace(CPU="CPU")
    profiler.Profiler = lambda targets, on_trace_ready: Profiler(behaviour)
    found = {"paddle": paddle, "paddle.inference": inference, "paddle.profiler": profiler, "paddle.base": paddle.base}
    if behaviour.version[0] == "3" and behaviour.cuda:
        export = made("paddle.tensorrt.export")
        export.Input = lambda **shapes: SimpleNamespace(**shapes)
        export.PrecisionMode = SimpleNamespace(FP16="FP16", FP32="FP32")
        export.TensorRTConfig = lambda **options: _configured(behaviour, **options)
        export.convert = lambda prefix, config: _convert(behaviour, prefix, config)
        found |= {"paddle.tensorrt": made("paddle.tensorrt"), "paddle.tensorrt.export": export}
    return found


def _registered(behaviour):
    return {
        name: [
            f"{{data_type[float]; data_layout[Undefined(AnyLayout)]; place[Place({place})]; library_type[PLAIN]}}"
            for place in places
        ]
        for name, places in behaviour.kernels.items()
    }


def _configured(behaviour, **options):
    if "use_cuda_graph" in options and not behaviour.graphs:
        raise TypeError("TensorRTConfig.__init__() got an unexpected keyword argument 'use_cuda_graph'")
    return SimpleNamespace(**{"use_cuda_graph": False} | options)


def _place(behaviour, number):
    if not behaviour.gpus:
        raise Exit255("Cannot use GPU because there is no GPU detected on your machine.")
    return f"gpu:{number}"


def _tensor(behaviour, array):
    behaviour.passes(COPY_IN_NS)
    there = array.copy()
    return SimpleNamespace(array=there, shape=list(array.shape), data_ptr=lambda: there.ctypes.data)


def _synchronize(behaviour, place):
    assert place == "gpu:0", "without a name Paddle waits for the current place"
    if not behaviour.gpus:
        raise Exit255("Cannot use GPU because there is no GPU detected on your machine.")
    if behaviour.waits:
        behaviour.synchronise(behaviour.gpu._streams)


def _capability(behaviour):
    if not behaviour.driver:
        raise OSError(NO_DRIVER)
    if not behaviour.gpus:
        raise ValueError(NO_GPU)
    return (7, 5)


def _running(behaviour):
    if behaviour.running is None:
        raise RuntimeError(NO_TENSORRT)
    return behaviour.running


class Profiler:
    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.profiler_result = None

    def start(self):
        if not self.behaviour.profiles:
            raise OSError(NO_DRIVER)

    def stop(self):
        def event(name, kind, children=()):
            return SimpleNamespace(name=name, type=f"TracerEventType.{kind}", children_node=list(children))

        kernel = event("conv2d kernel launch", "StaticKernelLaunch")
        names = self.behaviour.predictors[-1].executed()
        step = event("ProfileStep#0", "ProfileStep", [event(f"pd_op.{name}", "Operator", [kernel]) for name in names])
        self.profiler_result = SimpleNamespace(get_data=lambda: {1: event("root", "UserDefined", [step])})


def _convert(behaviour, prefix, config):
    behaviour.converted.append((prefix, config))
    behaviour.homes.append(os.environ["HOME"])
    engines = [nodes for nodes in behaviour.engines if nodes >= config.min_subgraph_size]
    folder = Path(os.environ["HOME"], ".pp_trt_cache")
    folder.mkdir()
    files = [folder / f"engine_{number}.trt" for number, _ in enumerate(engines)]
    behaviour.builds += 1
    for file in files:
        file.write_bytes(engine(behaviour))
    if config.precision_mode == "FP16" and behaviour.half is not None:
        log("Run Paddle-TRT FP16 mode" if behaviour.half else NO_HALF_IN_3)
    graph = config.use_cuda_graph and not behaviour.left
    left = program({"tensorrt_engine": len(engines), **behaviour.left}, files, graph)
    Path(f"{config.save_model_dir}.json").write_text(left)
    Path(f"{config.save_model_dir}.pdiparams").write_bytes(b"")
