"""Predictors of Paddle Inference on a GPU: the stream that they compute on, its events as a clock, and copies by it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import cuda
from bench.cuda import Cuda, Handle
from bench.errors import BenchError, Unavailable, Unsupported
from bench.gpu import causes
from bench.paddle_api import Configuration, Paddle, Predictor, Stream, Tensor
from bench.paddle_inference import GPU, PLACE, broken_off, said, use_gpu
from bench.schema import Interval, Validity
from bench.streams import Buffer, Events, pinned
from bench.synchrony import unsynchronised
from bench.timing import Clock

if TYPE_CHECKING:
    import numpy as np

    Arrays = list[np.ndarray[Any, Any]]

# Of the check that inferences come after what the stream was given before them: it is kept busy by copies, first by so
# many, then by more, until it still is when an inference is enqueued.
HOLD_BYTES = 8 << 20
HOLDS = (8, 64, 512)
TRIES = 3
ELSEWHERE = "Paddle computed before its stream had come to the inference: the events are on another than the work"


def take_gpu(paddle: Paddle) -> None:
    """Makes the context of the GPU, which a process does once; opening a model comes after it.

    Waiting does that, and no tensor: memory is first taken when a predictor has set how. Raises Unavailable.
    """
    try:
        paddle.device.synchronize(PLACE)
    except Exception as error:  # it raises what its C++ side throws
        raise causes.explained(str(error), Unavailable("Paddle can't use the GPU", said(error, Path("-")))) from error


#: Paddle crashes where a stream goes before its predictor does, so none ever goes
STREAMS: list[Stream] = []


class Lane:
    """The stream on the GPU that predictors of a configuration compute on, and how inputs are copied to it.

    It is Paddle's object, since configurations take no other; `stream` is None where the build takes none at all, so
    that nobody knows which one it is.
    """

    stream: Stream | None = None

    def __init__(self, config: Configuration, copies: str) -> None:
        """`copies` is "pageable" or "pinned". Raises Unavailable where Paddle takes no notice of the GPU, and for
        pinned ones what `enter` raises."""
        import paddle

        module: Paddle = paddle  # of an attribute mypy believes what it is given here, which is Any
        self.paddle = module
        self.by_pinned = copies == "pinned"
        self._cuda: Cuda | None = None
        use_gpu(config)
        if hasattr(config, "set_exec_stream"):
            self.stream = self.paddle.device.cuda.Stream(GPU)
            STREAMS.append(self.stream)
            config.set_exec_stream(self.stream)
        if self.by_pinned:
            self.enter()

    def wait(self) -> None:
        """For the stream, or for the whole GPU where that is Paddle's own."""
        if self.stream is None:
            self.wait_for_all()
        else:
            self.stream.synchronize()

    def wait_for_all(self) -> None:
        # By name: without it Paddle waits for the current place, which may be the CPU.
        self.paddle.device.synchronize(PLACE)

    def enter(self) -> tuple[Cuda, Handle]:
        """The CUDA runtime and the stream, to enqueue there what Paddle doesn't.

        Raises Unsupported where Paddle takes no stream, Unavailable with what to install for the CUDA runtime.
        """
        if self.stream is None:
            raise Unsupported(
                "the interval device and copies=pinned take a stream that Paddle computes on",
                f"PaddlePaddle {self.paddle.__version__} takes none (set_exec_stream)",
                "leave them out",
            )
        if self._cuda is None:
            self._cuda = self._bindings()
        return self._cuda, self.stream.cuda_stream

    def _bindings(self) -> Cuda:
        major = str(self.paddle.version.cuda()).partition(".")[0]
        try:
            runtime = cuda.load()
        except Unavailable as error:
            raise Unavailable(
                "the interval device and copies=pinned take NVIDIA's cuda-bindings",
                "they are not installed, or do not load",
                f"install them with: pip install 'cuda-bindings=={major}.*'",
            ) from error
        runtime.gpu()
        return runtime


class Timed(NamedTuple):
    """What events on the stream need, and the copies that keep it busy."""

    events: Events
    hold: Buffer
    held: Handle


class GpuPredictor:
    """A predictor on the GPU, to be mixed into a Session; `lane` is the one that its configuration was given.

    Paddle's `run` and `copy_from_cpu` only enqueue, so `run` here ends with waiting for the GPU, while `end_to_end`
    ends with copying out, which waits too. The inputs of `run` are tensors on the GPU that the predictor shares.
    """

    clock: Clock

    def __init__(self, predictor: Predictor, engine: Path, lane: Lane) -> None:
        self._lane = lane
        self._paddle = lane.paddle
        self._predictor = predictor
        self._engine = engine
        self._inputs = [predictor.get_input_handle(name) for name in predictor.get_input_names()]
        self._outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]
        self._arrays: Arrays = []
        self._tensors: list[Tensor] = []
        self._copy_in = self._copy_by_pinned if lane.by_pinned else self._copy_from_pageable
        self._staged: list[Buffer] = []
        self._timed: Timed | None = None
        self._owner = ExitStack()

    def feed(self, inputs: "Arrays") -> None:
        place = self._paddle.CUDAPlace(GPU)
        self._arrays = inputs
        try:
            self._tensors = [self._paddle.to_tensor(array, place=place) for array in inputs]
            for handle, tensor in zip(self._inputs, self._tensors, strict=True):
                handle.reshape(list(tensor.shape))
                handle.share_external_data(tensor)
            self._lane.wait_for_all()
        except Exception as error:  # it raises what its C++ side throws
            raise broken_off(error, self._engine) from error
        if self._lane.by_pinned:
            self._stage()

    def _stage(self) -> None:
        """Pinned memory for the inputs, beside the addresses of the tensors that the predictor shares."""
        runtime, _ = self._lane.enter()
        arrays = [buffer.array for buffer in self._staged]
        if [array.shape for array in arrays] != [array.shape for array in self._arrays]:
            arrays = [pinned(runtime, array.shape, array.dtype, self._owner) for array in self._arrays]
        tensors = zip(self._tensors, arrays, strict=True)
        self._staged = [Buffer(tensor.data_ptr(), array) for tensor, array in tensors]

    def run(self) -> None:
        try:
            self._predictor.run()
            self._lane.wait()
        except Exception as error:
            raise broken_off(error, self._engine) from error

    def _enqueue(self) -> None:
        try:
            self._predictor.run()
        except Exception as error:
            raise broken_off(error, self._engine) from error

    def fetch(self) -> "Arrays":
        return [handle.copy_to_cpu() for handle in self._outputs]

    def end_to_end(self) -> "Arrays":
        try:
            self._copy_in()
            self._predictor.run()
            return self.fetch()
        except BenchError:
            raise
        except Exception as error:
            raise broken_off(error, self._engine) from error

    def _copy_from_pageable(self) -> None:
        for handle, array in zip(self._inputs, self._arrays, strict=True):
            handle.copy_from_cpu(array)

    def _copy_by_pinned(self) -> None:
        import numpy as np

        runtime, stream = self._lane.enter()
        for buffer, array in zip(self._staged, self._arrays, strict=True):
            np.copyto(buffer.array, array, casting="same_kind")
            buffer.copy_in(runtime, stream)

    # Measurement

    def prepare(self, intervals: Sequence[Interval]) -> None:
        """Comes before a measurement. Raises what keeps `device` from being timed, where it is among the intervals."""
        self._timed = (self._timed or self._made_timed()) if "device" in intervals else None

    def _made_timed(self) -> Timed:
        import numpy as np

        runtime, stream = self._lane.enter()
        events = Events(runtime, stream, self._enqueue, self._owner)
        hold = pinned(runtime, (HOLD_BYTES,), np.uint8, self._owner)
        return Timed(events, Buffer(runtime.memory(HOLD_BYTES, self._owner), hold), runtime.event(self._owner))

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {"compute": self.run, "end_to_end": self.end_to_end, "device": self._device}

    def _device(self) -> None:
        """One inference, for the interval `device`."""
        self._timed = self._timed or self._made_timed()
        self._timed.events.run()

    def clocks(self) -> dict[Interval, Clock]:
        return {"device": self._timed.events} if self._timed else {}

    def semantics(self) -> dict[str, str]:
        """The address of an output is not to be had, so those are always copied to pageable memory."""
        inference = "one inference of the whole batch, copy the outputs out to"
        if self._lane.by_pinned:
            return {"end_to_end": f"copy the inputs in by pinned memory, {inference} pageable memory"}
        return {"end_to_end": f"copy the inputs in from pageable memory, {inference} it"}

    def validity(self) -> tuple[Validity, ...]:
        compute = unsynchronised(self.run, self._finish, self.clock)
        return (*compute, *(self._doubts_of_events(self._timed) if self._timed else ()))

    def _finish(self) -> None:
        """Waits for the whole GPU, whatever stream the work is on, in two ways of which one will do."""
        self._lane.wait_for_all()
        self.fetch()

    def _doubts_of_events(self, timed: Timed) -> Iterator[Validity]:
        """Whether there is other work than that between the events: none may begin before them or be left after."""
        yield from timed.events.unsynchronised(self.clock)
        yield from unsynchronised(timed.events.run, self._finish, self.clock)
        if not self._follows_its_stream(timed):
            yield Validity("unsynchronised", ELSEWHERE)

    def _follows_its_stream(self, timed: Timed) -> bool:
        """Whether an inference waits for what the stream was given before it: for inputs that come behind long copies.

        Where it does not, it computes on zeros, of which the inputs' place is full until then.
        """
        self.feed(self._arrays)
        self._stage()
        self.run()
        expected = self.fetch()
        self._blank()
        self.run()
        blank = self.fetch()
        found = [self._behind(timed) for _ in range(TRIES)]
        return all(outputs and _apart(outputs, expected) < _apart(outputs, blank) for outputs in found)

    def _behind(self, timed: Timed) -> "Arrays":
        """The outputs of inputs that arrive behind long copies; none where these can't be made long enough."""
        runtime, stream = self._lane.enter()
        for copies in HOLDS:
            self._blank()
            for _ in range(copies):
                timed.hold.copy_in(runtime, stream)
            runtime.record(timed.held, stream)
            self._copy_by_pinned()
            if runtime.done(timed.held):
                continue
            self._enqueue()
            self._lane.wait_for_all()
            return self.fetch()
        return []

    def _blank(self) -> None:
        runtime, stream = self._lane.enter()
        for buffer in self._staged:
            runtime.clear(buffer.pointer, buffer.array.nbytes, stream)
        runtime.synchronise(stream)

    def close(self) -> None:
        del self._inputs, self._outputs, self._predictor
        self._arrays, self._tensors, self._staged, self._timed = [], [], [], None
        self._owner.close()


def _apart(one: "Arrays", other: "Arrays") -> float:
    """The largest absolute difference."""
    import numpy as np

    pairs = zip(one, other, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)
