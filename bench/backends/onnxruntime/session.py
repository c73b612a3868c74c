"""A session on the GPU: inputs and outputs lie there at addresses that stay, and every node's place is read back.

Where NVIDIA's `cuda-bindings` is installed, all work is on a stream of ours (`streamed.py`), else on the one that ONNX
Runtime makes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import ort_api
from bench.backends import Session, Setup, complaint
from bench.backends.onnxruntime import opening
from bench.errors import BenchError, Failed, Unavailable, Unsupported
from bench.gpu import causes
from bench.schema import Interval, Validity
from bench.stats import STEADY_GPU_NS
from bench.streams import INFERENCE, REPLAY
from bench.synchrony import by_host, sound_or, ungrown, unsynchronised

if TYPE_CHECKING:
    from bench.backends import Arrays

#: the first version of TensorRT whose networks ONNX Runtime types strongly, and the first that has no others
STRONG, ONLY_STRONG = 10, 11
#: operators that make up the time of a network; others, such as those about shapes, belong on the CPU
COMPUTING = ("Conv", "Gemm", "MatMul", "Attention", "LSTM", "GRU", "Pool", "Normalization")


class Opened(NamedTuple):
    """A session of ONNX Runtime and what it was opened for. `placement()` is asked once, after opening, since it may
    take as long; `place` is ONNX Runtime's name for the kind of memory."""

    session: ort_api.Session
    engine: Path
    setup: Setup
    placement: Callable[[], opening.Placement]
    place: str = "cuda"


class OrtGpuSession(Session):
    """On ONNX Runtime's own stream, for whose end it waits itself; copies from and to arrays as they are."""

    steady_ns = STEADY_GPU_NS

    def __init__(self, opened: Opened, why: Unavailable | None = None) -> None:
        """`why` there is no stream of ours."""
        self._opened = opened
        self._why = why
        self._session = opened.session
        self._binding = opened.session.io_binding()
        self._feeds: dict[str, Any] = {}
        self._inputs: dict[str, ort_api.Value] = {}
        self._outputs: list[ort_api.Value] = []
        self._replays = opened.setup.options["cuda_graph"] == "on"

    @cached_property
    def _nodes(self) -> opening.Placement:
        return self._opened.placement()

    # Inference

    def feed(self, inputs: "Arrays") -> None:
        names = [node.name for node in self._session.get_inputs()]
        self._feeds = dict(zip(names, inputs, strict=True))
        with self._explained():
            if not self._fits():
                self._bind()
            self._copy_in()
            self._arrived()

    def _fits(self) -> bool:
        """Whether what was bound before is of the shapes that are fed."""
        bound = {name: list(value.shape()) for name, value in self._inputs.items()}
        return bound == {name: list(array.shape) for name, array in self._feeds.items()}

    def _bind(self) -> None:
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._inputs = {name: self._value(array.shape, array.dtype.type) for name, array in self._feeds.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._outputs = []
        for node in self._session.get_outputs():
            shape = _shape(node.shape, self._opened.setup.case.batch_size)
            self._outputs.append(self._value(shape, numpy_type(node.type)))
            self._binding.bind_ortvalue_output(node.name, self._outputs[-1])

    def _value(self, shape: Sequence[int], type_: Any) -> ort_api.Value:
        make = opening.ort().OrtValue.ortvalue_from_shape_and_type
        return make(shape, type_, self._opened.place, opening.GPU)

    def _copy_in(self) -> None:
        for name, array in self._feeds.items():
            self._inputs[name].update_inplace(array)

    def _arrived(self) -> None:
        """Waits for the copies."""
        self._binding.synchronize_inputs()

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise self._broken_off(error) from error

    def fetch(self) -> "Arrays":
        return [value.numpy() for value in self._outputs]

    def end_to_end(self) -> "Arrays":
        with self._explained():
            if not self._replays:
                return list(self._session.run(None, self._feeds))
            # Its copies would have no fixed addresses, which a graph that was captured needs.
            self._copy_in()
            self._session.run_with_iobinding(self._binding)
            return self.fetch()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BenchError:
            raise
        except Exception as error:  # its exceptions share no base class of their own
            raise self._broken_off(error) from error

    def _broken_off(self, error: Exception) -> BenchError:
        otherwise = Failed("ONNX Runtime broke off the inference", complaint(error, self._opened.engine))
        return causes.explained(str(error), otherwise)

    # Measurement

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {**super().intervals(), "device": self._device}

    def _device(self) -> None:
        """One inference, for the interval `device`."""
        self._refuse_device()

    def _refuse_device(self) -> None:
        """Raises the reason why there are no right spans between events here."""
        what = "the interval device takes a stream and events of CUDA's runtime for Python"
        raise Unavailable(what, str(self._why or "")) from self._why

    def prepare(self, intervals: Sequence[Interval]) -> None:
        if "device" in intervals:
            self._refuse_device()

    def validity(self) -> tuple[Validity, ...]:
        wanted = opening.wanted(self._opened.setup)
        found = [Validity("misconfigured", misplaced) for misplaced in _misplaced(self._nodes, wanted)]
        return (*found, *self._unproven(), *self._unfinished())

    def _unproven(self) -> Iterator[Validity]:
        setup = self._opened.setup
        by_itself = opening.wanted(setup) == opening.TENSORRT and self._typing != "strong"
        if by_itself and setup.case.precision == "fp16":
            yield Validity("unwatched", "ONNX Runtime doesn't tell which layers TensorRT computes in fp16, if any")

    def _unfinished(self) -> Iterator[Validity]:
        """Whether the GPU was done whenever it was said to be, and more work took longer."""
        wait = self._binding.synchronize_outputs
        return sound_or(unsynchronised(self.run, wait, self.clock), ungrown(by_host(self.run, wait, self.clock)))

    def semantics(self) -> dict[str, str]:
        """Copies are of the arrays as they are, which lie in pageable memory; and a graph that is replayed is another
        experiment than launching kernel by kernel."""
        return self._meanings("from pageable memory", "to it")

    def _meanings(self, source: str, target: str) -> dict[str, str]:
        what = REPLAY if self._replays else INFERENCE
        meanings = {"end_to_end": f"copy the inputs in {source}, {what}, copy the outputs out {target}"}
        return {**meanings, **({"compute": f"{REPLAY}, inputs and outputs on the GPU"} if self._replays else {})}

    def effective(self) -> dict[str, Any]:
        """Where nodes are computed as the graph was divided up; options as the provider gives them back.

        The TensorRT provider doesn't tell in which precision it computes where it may take fp16 (`trt_fp16_enable`),
        nor do its engines, which are built without the details of their layers.
        """
        wanted = opening.wanted(self._opened.setup)
        given_back = self._session.get_provider_options().get(wanted, {})
        facts: dict[str, Any] = {
            "providers": dict(Counter(provider for provider, _ in self._nodes)),
            "compute_nodes": dict(Counter(provider for provider, operator in self._nodes if _computes(operator))),
            "provider_options": {name: given_back[name] for name in _told(wanted) if name in given_back},
        }
        graph = "enable_cuda_graph" if wanted == opening.CUDA else "trt_cuda_graph_enable"
        facts["cuda_graph"] = given_back.get(graph) in ("1", "True")
        if wanted == opening.CUDA:
            facts["tf32"] = given_back.get("use_tf32") not in ("0", None)
            return facts | self._precision()
        version, typing = opening.tensorrt_version(), self._typing
        facts |= {"tensorrt": ".".join(map(str, version))} if version else {}
        facts |= {"typing": typing} if typing else {}
        return facts | (self._precision() if typing == "strong" else {})

    @cached_property
    def _typing(self) -> str:
        """Who chose the types of a network in TensorRT: "weak" where that did by itself, "strong" where the graph; ""
        where that is not known.

        ONNX Runtime types strongly unless it is allowed a precision (microsoft/onnxruntime#18707).
        """
        version = opening.tensorrt_version()
        options = self._session.get_provider_options().get(opening.TENSORRT, {})
        if options.get("trt_fp16_enable") in ("1", "True") and version[:1] < (ONLY_STRONG,):
            return "weak"
        return ("strong" if version >= (STRONG,) else "weak") if version else ""

    def _precision(self) -> dict[str, str]:
        """The graph's own; nothing where that is not known."""
        half = opening.carries_fp16(self._opened.engine)
        if half is None:
            return {}
        return {"precision": "fp16" if half else opening.precision(self._session, self._nodes)}

    def close(self) -> None:
        del self._binding, self._opened, self._session
        self._feeds, self._inputs, self._outputs = {}, {}, []


def _computes(operator: str) -> bool:
    return any(mark in operator for mark in COMPUTING)


def _misplaced(nodes: opening.Placement, wanted: str) -> list[str]:
    """What should have been computed by `wanted`, as "3 Conv on CPUExecutionProvider, not CUDAExecutionProvider"."""
    counted = Counter((provider, kind) for provider, kind in nodes if provider != wanted and _computes(kind))
    return [f"{count} {kind} on {provider}, not {wanted}" for (provider, kind), count in sorted(counted.items())]


def _shape(shape: Sequence[int | str | None], batch_size: int) -> list[int]:
    """An output's, with the batch where it is open. Raises Unsupported for one that leaves more than that open."""
    first, *rest = [size if isinstance(size, int) and size > 0 else None for size in shape] or [None]
    if None in rest:
        raise Unsupported("an output's shape is not known before it is computed", f"it is {shape}")
    return [first or batch_size, *(size for size in rest if size)]


def numpy_type(type_: str) -> Any:
    """ONNX Runtime's "tensor(float)" as NumPy's."""
    import numpy as np

    name = type_.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name)).type


def _told(provider: str) -> list[str]:
    """The options to put on record: not the folders, since records get published."""
    cuda = ["device_id", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "use_tf32", "enable_cuda_graph"]
    tensorrt = ["device_id", "trt_fp16_enable", "trt_max_workspace_size", "trt_cuda_graph_enable"]
    return cuda if provider == opening.CUDA else [*tensorrt, "trt_profile_opt_shapes"]
