"""Predictors of Paddle Inference on a GPU: the stream that they compute on, its events as a clock, and copies by it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cuda
from bench.cuda import Cuda, Handle
from bench.errors import BenchError, Unavailable, Unsupported
from bench.gpu import causes
from bench.paddle_api import Configuration, Paddle, Predictor, Stream, Tensor
from bench.paddle_inference import GPU, PLACE, broken_off, said, use_gpu
from bench.schema import Interval, Validity
from bench.stats import STEADY_GPU_NS
from bench.streams import INFERENCE, Buffer, Events, Inference, insist_on_order, pinned, stage
from bench.synchrony import by_host, sound_or, ungrown, unsynchronised
from bench.timing import Clock

if TYPE_CHECKING:
    import numpy as np

    Arrays = list[np.ndarray[Any, Any]]


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


class GpuPredictor:
    """A predictor on the GPU, to be mixed into a Session; `lane` is the one that its configuration was given.

    Paddle's `run` and `copy_from_cpu` only enqueue, so `run` here ends with waiting for the GPU, while `end_to_end`
    ends with copying out, which waits too. The inputs of `run` are tensors on the GPU that the predictor shares.
    """

    clock: Clock
    steady_ns = STEADY_GPU_NS

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
        self._events: Events | None = None
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
        stage(*self._lane.enter(), self._staged, self._arrays)

    # Measurement

    def prepare(self, intervals: Sequence[Interval]) -> None:
        """Raises what keeps `device` from being timed, where it is among the intervals."""
        self._events = None
        if "device" not in intervals:
            return
        runtime, stream = self._lane.enter()
        self._stage()
        inference = Inference(self._copy_by_pinned, self._blank, self._enqueue, self.fetch)
        insist_on_order(runtime, stream, inference, "Paddle")
        self._events = Events(runtime, stream, self._enqueue, self._owner)

    def _blank(self) -> None:
        """Zeros on the GPU, in place of the inputs."""
        runtime, stream = self._lane.enter()
        for buffer in self._staged:
            buffer.clear(runtime, stream)

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {"compute": self.run, "end_to_end": self.end_to_end, "device": self._device}

    def _device(self) -> None:
        """One inference, for the interval `device`, which was prepared for."""
        assert self._events
        self._events.run()

    def clocks(self) -> dict[Interval, Clock]:
        return {"device": self._events} if self._events else {}

    def semantics(self) -> dict[str, str]:
        """The address of an output is not to be had, so those are always copied to pageable memory."""
        then = f"{INFERENCE}, copy the outputs out to"
        if self._lane.by_pinned:
            return {"end_to_end": f"copy the inputs in by pinned memory, {then} pageable memory"}
        return {"end_to_end": f"copy the inputs in from pageable memory, {then} it"}

    def validity(self) -> tuple[Validity, ...]:
        left = unsynchronised(self.run, self._finish, self.clock)
        if self._events:
            return (*left, *self._doubts_of(self._events))
        return tuple(sound_or(left, self._ungrown()))

    def _ungrown(self) -> Iterator[Validity]:
        """Whether more work took longer: by events, or without a stream or the CUDA runtime by the host's clock."""
        try:
            runtime, stream = self._lane.enter()
        except (Unavailable, Unsupported):
            return ungrown(by_host(self._enqueue, self._lane.wait, self.clock))
        return Events(runtime, stream, self._enqueue, self._owner).unsynchronised(self.clock)

    def _finish(self) -> None:
        """Waits for the whole GPU, whatever stream the work is on, in two ways of which one will do."""
        self._lane.wait_for_all()
        self.fetch()

    def _doubts_of(self, events: Events) -> Iterator[Validity]:
        """Whether there is other work than that between the events, and whether waiting waits."""
        yield from events.unsynchronised(self.clock)
        yield from unsynchronised(events.run, self._finish, self.clock)

    def close(self) -> None:
        del self._inputs, self._outputs, self._predictor
        self._arrays, self._tensors, self._staged, self._events = [], [], [], None
        self._owner.close()
