"""A session on the GPU whose work is all on one stream of ours: copies by pinned memory, and time between two events.

Both providers take a stream (`user_compute_stream`, microsoft/onnxruntime#19229 and #20168) and give its address back,
and with it neither waits where a run is told not to, but for two cases: after the replay of a CUDA graph
(`CUDAGraphManager::Replay` in core/providers/cuda/cuda_graph.cc), and, with TensorRT, between the parts of a graph that
it did not take whole (`sync_stream_after_enqueue_` in core/providers/tensorrt/tensorrt_execution_provider.cc). There a
span between events would hold the host's waking up, so it is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import ort_api
from bench.backends.onnxruntime import opening
from bench.backends.onnxruntime.session import Opened, OrtGpuSession, numpy_type
from bench.cuda import Cuda, Handle
from bench.errors import Failed, Unsupported
from bench.schema import Interval, Validity
from bench.streams import Buffer, Events, Inference, insist_on_order, pinned, stage
from bench.synchrony import by_host, sound_or, ungrown, unsynchronised
from bench.timing import Clock

if TYPE_CHECKING:
    from bench.backends import Arrays

STREAM = "user_compute_stream"
WITHOUT_WAITING = "disable_synchronize_execution_providers"


class Lane(NamedTuple):
    """A stream of ours, which lives as long as `owner`."""

    cuda: Cuda
    stream: Handle
    owner: ExitStack

    @classmethod
    def make(cls) -> "Lane":
        """Raises Unavailable without a CUDA runtime for Python that the driver serves."""
        runtime = opening.started()
        with ExitStack() as owner:
            return cls(runtime, runtime.stream(owner), owner.pop_all())

    def options(self) -> dict[str, str]:
        """Those of a provider; that it has a stream follows by itself."""
        return {STREAM: str(int(self.stream))}


class StreamSession(OrtGpuSession):
    """Nothing is timed that was not waited for: `run` enqueues on the stream and waits for it."""

    def __init__(self, opened: Opened, lane: Lane) -> None:
        super().__init__(opened)
        _insist(opened, lane)
        self._cuda, self._stream, self._owner = lane
        self._memory = ExitStack()
        self._sources: list[Buffer] = []
        self._targets: list[Buffer] = []
        self._events = Events(self._cuda, self._stream, self._enqueue, self._owner)
        self._between_events = False
        self._without_waiting = opening.ort().RunOptions()
        self._without_waiting.add_run_config_entry(WITHOUT_WAITING, "1")

    # Inference

    def _bind(self) -> None:
        super()._bind()
        self._memory.close()
        types = [numpy_type(node.type) for node in self._session.get_outputs()]
        fed = zip(self._inputs.values(), self._feeds.values(), strict=True)
        self._sources = [self._buffer(value, array.dtype) for value, array in fed]
        self._targets = [self._buffer(value, type_) for value, type_ in zip(self._outputs, types, strict=True)]

    def _buffer(self, value: ort_api.Value, type_: Any) -> Buffer:
        return Buffer(value.data_ptr(), pinned(self._cuda, tuple(value.shape()), type_, self._memory))

    def _copy_in(self) -> None:
        stage(self._cuda, self._stream, self._sources, self._feeds.values())

    def _arrived(self) -> None:
        self._cuda.synchronise(self._stream)

    def _enqueue(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._without_waiting)
        except Exception as error:  # its exceptions share no base class of their own
            raise self._broken_off(error) from error

    def run(self) -> None:
        self._enqueue()
        self._cuda.synchronise(self._stream)

    def fetch(self) -> "Arrays":
        for buffer in self._targets:
            buffer.copy_out(self._cuda, self._stream)
        self._cuda.synchronise(self._stream)
        return [buffer.array.copy() for buffer in self._targets]

    def end_to_end(self) -> "Arrays":
        """From the caller's arrays by pinned memory to the GPU, and back: one wait for all of it."""
        self._copy_in()
        self._enqueue()
        return self.fetch()

    # Measurement

    def _device(self) -> None:
        self._events.run()

    def _waits_inside(self) -> bool:
        return self._replays or bool(self._apart())

    def _apart(self) -> set[str]:
        """The operators that TensorRT did not take, where it was to take them."""
        if opening.wanted(self._opened.setup) != opening.TENSORRT:
            return set()
        return {kind for provider, kind in self._nodes if provider != opening.TENSORRT}

    def _refuse_device(self) -> None:
        if self._replays:
            raise Unsupported(
                "ONNX Runtime waits for the replay of a CUDA graph by itself",
                "a span between events would hold that, too",
                "leave out the interval device, or onnxruntime.cuda_graph=on",
            )
        if apart := self._apart():
            raise Unsupported(
                "ONNX Runtime waits between the parts of a graph that TensorRT did not take whole",
                f"elsewhere are {', '.join(sorted(apart))}, and a span between events would hold that, too",
                "leave out the interval device",
            )

    def _blank(self) -> None:
        """Zeros on the GPU, in place of the inputs."""
        for buffer in self._sources:
            buffer.clear(self._cuda, self._stream)

    def prepare(self, intervals: Sequence[Interval]) -> None:
        super().prepare(intervals)
        self._between_events = "device" in intervals
        if self._between_events:
            inference = Inference(self._copy_in, self._blank, self._enqueue, self.fetch)
            insist_on_order(self._cuda, self._stream, inference, "ONNX Runtime")

    def clocks(self) -> dict[Interval, Clock]:
        return {"device": self._events}

    def _unfinished(self) -> Iterator[Validity]:
        """Nothing may be left to wait for on all of the GPU: work on another stream than ours would be."""
        if not self._between_events:
            left = unsynchronised(self.run, self._cuda.finish, self.clock)
            yield from sound_or(left, self._ungrown())
            return
        yield from unsynchronised(self._events.run, self._cuda.finish, self.clock)
        yield from self._events.unsynchronised(self.clock)

    def _ungrown(self) -> Iterator[Validity]:
        """Whether more work took longer: by events, but where ONNX Runtime waits inside of what they span."""
        if self._waits_inside():
            return ungrown(by_host(self._enqueue, self._arrived, self.clock))
        return self._events.unsynchronised(self.clock)

    def semantics(self) -> dict[str, str]:
        return self._meanings("by pinned memory", "by it")

    def close(self) -> None:
        """What a broken GPU says to it is of no interest any more."""
        super().close()
        self._sources, self._targets = [], []
        self._memory.close()
        self._owner.close()


def _insist(opened: Opened, lane: Lane) -> None:
    """Raises Failed where a provider says that it has another stream."""
    for provider, options in opened.session.get_provider_options().items():
        if options.get(STREAM, ours := str(int(lane.stream))) != ours:
            raise Failed("ONNX Runtime did not take the stream that it was given", f"{provider} has another")
