"""An engine on the GPU: one stream, one set of buffers, and latencies by the host's clock and by CUDA's events."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVarTuple

import msgspec

from bench.backends import Session
from bench.backends.tensorrt import journal
from bench.backends.tensorrt.api import Context, Engine, Mode, Runtime, Trt
from bench.backends.tensorrt.plan import PLAN, Facts
from bench.backends.tensorrt.tracing import Work, trace
from bench.cuda import Cuda, Gpu, Handle
from bench.errors import Failed, Unsupported
from bench.schema import Interval, Measurement, Settings, Validity
from bench.stats import STEADY_GPU_NS
from bench.streams import INFERENCE, LEAST_BYTES, REPLAY, Buffer, Events, pinned, stage
from bench.timing import Clock
from bench.trtexec.definitions import Defaults, Spans, Version, defaults, queries, select, summary, text

if TYPE_CHECKING:
    import numpy as np

    from bench.backends import Arrays

    Array = np.ndarray[Any, Any]

#: TensorRT's types and NumPy's
NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
# What the inspector of engines says: "Row major linear FP32" or "Float", and so on.
WORDS = {
    "BF16": "bf16",
    "BFLOAT16": "bf16",
    "FP16": "fp16",
    "HALF": "fp16",
    "INT8": "int8",
    "FP32": "fp32",
    "FLOAT": "fp32",
}
NARROWEST_FIRST = ("int8", "fp16", "bf16", "fp32")
MOVING = {"Reformat", "NoOp", "Constant", "Shuffle", "Signal", "Wait"}
OPAQUE = ("ForeignNode", "Myelin")
NOT_CAPTURED = "No CUDA graph, though it is this trtexec's default: the engine can't be captured as one.\n"

#: what a method of TensorRT takes
Given = TypeVarTuple("Given")


class TensorRtSession(Session):
    """`run` enqueues on a stream of its own and waits for the stream; nothing is timed that was not waited for."""

    steady_ns = STEADY_GPU_NS

    def __init__(
        self, trt: Trt, cuda: Cuda, gpu: Gpu, plan: bytes, facts: Facts, graph: bool, release: Version | None = None
    ) -> None:
        """With `release`, trtexec's figures by the definitions of that one are taken, too.

        Raises Failed where TensorRT gives no engine or no context for `plan`, Unsupported for open output shapes.
        """
        self._release = release
        self._beside: dict[str, Any] = {}
        self._trt, self._cuda, self._gpu, self._facts = trt, cuda, gpu, facts
        self._log = journal.of(trt)
        self._runtime, self._engine, self._context = load(trt, plan)
        self._fed: Arrays = []
        self._graph: Handle | None = None
        self._graph_wanted = graph
        # What `run` calls: plain enqueuing at first, and from the second inference on the graph, if there is to be one.
        self._launch: Callable[[], None] = self._enqueue_first
        with ExitStack() as owner:  # which frees what there is, should anything fail before the last line
            self._stream = cuda.stream(owner)
            self._handle = int(self._stream)
            self._events = Events(cuda, self._stream, lambda: self._launch(), owner)
            self._inputs, self._outputs = self._shaped(owner)
            self._stack = owner.pop_all()

    def _names(self, mode: Mode) -> Iterator[str]:
        """The engine's inputs or outputs."""
        for name in map(self._engine.get_tensor_name, range(self._engine.num_io_tensors)):
            if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise Unsupported(
                    f"the engine wants {name} in the host's memory", "image classifiers have no such tensor"
                )
            if self._engine.get_tensor_mode(name) == mode:
                yield name

    def _shaped(self, owner: ExitStack) -> tuple[list[Buffer], list[Buffer]]:
        """Selects the one profile and sets every input's shape, then its memory and that of the outputs."""
        modes = self._trt.TensorIOMode
        inputs, outputs = list(self._names(modes.INPUT)), list(self._names(modes.OUTPUT))
        self._insist("select the optimisation profile", self._context.set_optimization_profile_async, 0, self._handle)
        self._cuda.synchronise(self._stream)
        for name in inputs:
            shape = self._facts.input_shapes.get(name)
            if shape is None:
                raise Failed(f"the engine has an input {name}", "its facts tell of none")
            self._insist(f"take {name} of {'x'.join(map(str, shape))}", self._context.set_input_shape, name, shape)
        if missing := list(self._context.infer_shapes()):
            raise Failed("TensorRT can't infer the shapes of the engine", f"those of {', '.join(missing)} are missing")
        return [self._buffer(name, owner) for name in inputs], [self._buffer(name, owner) for name in outputs]

    def _buffer(self, name: str, owner: ExitStack) -> Buffer:
        import numpy as np

        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise Unsupported(f"the shape of {name} depends on the data", "the outputs of image classifiers don't")
        member = self._engine.get_tensor_dtype(name).name
        if member not in NUMPY:
            raise Unsupported(f"{name} is of type {member}", f"there are {', '.join(NUMPY)}")
        type_ = np.dtype(NUMPY[member])
        array = pinned(self._cuda, shape, type_, owner)
        pointer = self._cuda.memory(max(array.nbytes, LEAST_BYTES), owner)
        self._cuda.clear(pointer, array.nbytes, self._stream)
        self._insist(f"take memory for {name}", self._context.set_tensor_address, name, pointer)
        return Buffer(pointer, array)

    def _insist(self, what: str, method: Callable[[*Given], bool], *arguments: *Given) -> None:
        """TensorRT says False rather than raise."""
        with self._log.part() as entries:
            good = method(*arguments)
        if not good:
            raise journal.trouble(f"TensorRT does not {what}", journal.said(entries))

    # Inference

    def feed(self, inputs: "Arrays") -> None:
        if len(inputs) != len(self._inputs):
            raise Unsupported(f"the engine has {len(self._inputs)} inputs", f"it was fed {len(inputs)}")
        self._fed = inputs
        self._copy_in()
        self._cuda.synchronise(self._stream)

    def _copy_in(self) -> None:
        stage(self._cuda, self._stream, self._inputs, self._fed)

    def _to_gpu(self, stream: Handle) -> None:
        for buffer in self._inputs:
            buffer.copy_in(self._cuda, stream)

    def _from_gpu(self, stream: Handle) -> None:
        for buffer in self._outputs:
            buffer.copy_out(self._cuda, stream)

    def run(self) -> None:
        self._launch()
        self._cuda.synchronise(self._stream)

    def fetch(self) -> "Arrays":
        self._from_gpu(self._stream)
        self._cuda.synchronise(self._stream)
        return [buffer.array.copy() for buffer in self._outputs]

    def end_to_end(self) -> "Arrays":
        """From the caller's arrays by pinned memory to the GPU, and back: one wait for all of it."""
        self._copy_in()
        self._launch()
        return self.fetch()

    def _enqueue(self) -> None:
        seen = len(self._log.entries)
        if not self._context.execute_async_v3(self._handle):
            raise journal.trouble("TensorRT does not enqueue the inference", journal.said(self._log.entries[seen:]))

    def _enqueue_first(self) -> None:
        """A context sets itself up in its first inference, which therefore can't be captured."""
        self._enqueue()
        self._launch = self._capture if self._graph_wanted else self._enqueue

    def _capture(self) -> None:
        self._cuda.synchronise(self._stream)
        self._graph = self._cuda.capture(self._stream, self._enqueue, self._stack)
        self._launch = self._replay(self._graph)
        self._launch()

    def _replay(self, graph: Handle | None) -> Callable[[], None]:
        """What launches the graph; without one, what enqueues layer by layer."""
        return self._enqueue if graph is None else partial(self._cuda.launch, graph, self._stream)

    # Measurement

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {**super().intervals(), "device": self._events.run}

    def clocks(self) -> dict[Interval, Clock]:
        return {"device": self._events}

    def measure(
        self, settings: Settings, clock: Clock | None = None, shoot: Callable[[Interval], object] | None = None
    ) -> Measurement:
        measured = super().measure(settings, clock, shoot)
        if self._release:
            self._beside = {"trtexec": self._by_trtexec(self._release)}
        return measured

    def validity(self) -> tuple[Validity, ...]:
        return tuple(self._events.unsynchronised(self.clock))

    def beside(self) -> dict[str, Any]:
        return self._beside

    def semantics(self) -> dict[str, str]:
        """Copies go by pinned memory."""
        if self._graph is None:
            return {"end_to_end": f"copy the inputs in by pinned memory, {INFERENCE}, copy the outputs out by it"}
        return {
            "compute": f"{REPLAY}, inputs and outputs on the GPU",
            "end_to_end": f"copy the inputs in by pinned memory, {REPLAY}, copy the outputs out by it",
            "device": f"{REPLAY}, between two events on its stream, without copies",
        }

    def _by_trtexec(self, release: Version) -> dict[str, Any]:
        """trtexec's figures of this engine, from queries run as it runs them; its own warnings are among them."""
        usual = defaults(release)
        spans, replayed = self.trace(usual)
        figures = summary(select(queries(spans), usual.warmup_ms), release)
        return {
            "version": f"{release.major}.{release.minor}",
            "defaults": msgspec.to_builtins(usual),
            "cuda_graph": replayed,
            "summary": msgspec.to_builtins(figures),
            "log": text(figures) + (NOT_CAPTURED if usual.cuda_graph and not replayed else ""),
        }

    def trace(self, defaults: Defaults) -> tuple[Spans, bool]:
        """What trtexec would record of this engine, of which `bench.trtexec` makes its figures, and whether it is of a
        CUDA graph. Inputs are fed before.

        The graph is one of its own, where `defaults` have one and it can be captured, whatever the session's option.
        """
        self.run()  # the first inference sets up the context, which can't be captured
        with ExitStack() as owner:
            graph = self._cuda.capture(self._stream, self._enqueue, owner) if defaults.cuda_graph else None
            work = Work(self._to_gpu, self._replay(graph), self._from_gpu, self._stream)
            return trace(self._cuda, work, defaults, self.clock), graph is not None

    def effective(self) -> dict[str, Any]:
        """Types from the engine's own list of layers; typing and TF32 as the builder's configuration had them."""
        layers = self._layers()
        types = Counter(filter(None, map(_type_of, layers)))
        facts: dict[str, Any] = {
            "gpu": self._gpu.name,
            "capability": self._gpu.capability,
            "driver_cuda": self._gpu.driver,
            "typing": self._facts.typing,
            "tf32": self._facts.tf32,
            "cuda_graph": self._graph is not None,
            "plan_sha256": self._facts.plan_sha256,
            "layer_types": dict(types),
        }
        narrowest = next((name for name in NARROWEST_FIRST if name in types), "")
        hidden = self._facts.precision not in types and any(_is_opaque(layer) for layer in layers)
        return facts | ({"precision": narrowest} if narrowest and not hidden else {})

    def _layers(self) -> list[Any]:
        """The layers of the engine as its inspector tells of them; none where it doesn't."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context  # or else layers of open shape have no types
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        with suppress(ValueError, LookupError, TypeError):
            return list(json.loads(text)["Layers"])
        return []

    def close(self) -> None:
        """What a broken GPU says to it is of no interest any more."""
        self._fed, self._inputs, self._outputs = [], [], []
        self._stack.close()
        del self._context, self._engine, self._runtime


class Loaded(NamedTuple):
    """Each needs the one before it."""

    runtime: Runtime
    engine: Engine
    context: Context


def load(trt: Trt, plan: bytes) -> Loaded:
    """An engine that can run. Raises Failed, or what is known of the text that TensorRT logs, where there is none."""
    log = journal.of(trt)
    runtime = journal.started(trt, trt.Runtime)
    with log.part() as entries:
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise journal.trouble(f"TensorRT cannot load {PLAN}", journal.said(entries), PLAN)
    with log.part() as entries:
        context = engine.create_execution_context()
    if context is None:
        raise journal.trouble("TensorRT gives no execution context", journal.said(entries))
    return Loaded(runtime, engine, context)


def _type_of(layer: Any) -> str:
    """The type of the numbers that a layer computes; "" for one that only moves them, or hides them."""
    if not isinstance(layer, dict) or layer.get("LayerType") in MOVING or _is_opaque(layer):
        return ""
    outputs = layer.get("Outputs") or [{}]
    words = str(outputs[0].get("Format/Datatype", "")).upper()
    return next((name for word, name in WORDS.items() if word in words), "")


def _is_opaque(layer: Any) -> bool:
    """Many operators in one, with types of its own inside."""
    return isinstance(layer, dict) and any(word in str(layer.get("LayerType", "")) for word in OPAQUE)
