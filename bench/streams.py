"""A stream of the GPU, as the backends share it: tensors copied by pinned memory, and time between two events."""

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.cuda import Cuda, Handle
from bench.errors import Failed, Unsupported
from bench.schema import Validity
from bench.synchrony import ungrown
from bench.timing import Clock

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = list[Array]

#: what is timed, in the words of records: a graph that is replayed is another experiment than launching its kernels
INFERENCE = "one inference of the whole batch"
REPLAY = "one replay of a CUDA graph of the whole batch's inference"
#: a copy takes nothing of no size, and TensorRT wants tensors at multiples of what cudaMalloc gives anyway
LEAST_BYTES = 256
# Of the check that work waits for what its stream was given before it: copies keep the stream busy, first so many, then
# more, until it still is when the work has been enqueued.
HOLD_BYTES = 8 << 20
HOLDS = (8, 64)
#: an idle GPU comes to an event within microseconds
IDLE_NS = 200_000
#: the resolution of events is half a microsecond, that of host clocks finer
SLACK_MS = 0.002


class Buffer(NamedTuple):
    """A tensor: at an address on the GPU, and as an array in memory that the GPU copies by itself."""

    pointer: int
    array: "Array"

    def copy_in(self, cuda: Cuda, stream: Handle) -> None:
        """Enqueues it."""
        cuda.copy_in(self.pointer, self.array.ctypes.data, self.array.nbytes, stream)

    def copy_out(self, cuda: Cuda, stream: Handle) -> None:
        cuda.copy_out(self.array.ctypes.data, self.pointer, self.array.nbytes, stream)

    def clear(self, cuda: Cuda, stream: Handle) -> None:
        """Zeros on the GPU alone."""
        cuda.clear(self.pointer, self.array.nbytes, stream)


def stage(cuda: Cuda, stream: Handle, buffers: Iterable[Buffer], arrays: "Iterable[Array]") -> None:
    """Enqueues the copies of arrays by the pinned memory of their buffers."""
    import numpy as np

    for buffer, array in zip(buffers, arrays, strict=True):
        np.copyto(buffer.array, array, casting="same_kind")
        buffer.copy_in(cuda, stream)


def pinned(cuda: Cuda, shape: tuple[int, ...], type_: Any, owner: ExitStack) -> "Array":
    """An array of zeros of NumPy's `type_` in memory that the GPU copies from and to by itself, as long as `owner`."""
    import numpy as np

    size = prod(shape) * np.dtype(type_).itemsize
    address = cuda.pinned(max(size, LEAST_BYTES), owner)
    array: Array = np.ctypeslib.as_array((ctypes.c_byte * size).from_address(address)).view(type_).reshape(shape)
    array.fill(0)
    return array


class Burst(NamedTuple):
    """Some inferences in one: how long the host waited, how long the GPU took, and whether it had finished then."""

    host_ms: float
    device_ms: float
    finished: bool


class Events:
    """Two events on a stream, around inferences that `enqueue` gives it. As a clock, in ns, it stands still but for
    `run`, which moves it by the span between the events: the samples of `device` are those spans."""

    def __init__(self, cuda: Cuda, stream: Handle, enqueue: Callable[[], object], owner: ExitStack) -> None:
        self._cuda = cuda
        self._stream = stream
        self._enqueue = enqueue
        self._start, self._end = cuda.event(owner), cuda.event(owner)
        self._spent_ns = 0

    def __call__(self) -> int:
        return self._spent_ns

    def run(self) -> None:
        """One inference. Raises Failed where the events tell no time of it."""
        self._between(1)
        finished = self._cuda.done(self._end)
        span_ns = round(self._span_ms() * 1e6) if finished else 0
        if span_ns <= 0:
            raise Failed("CUDA's events tell no time of the inference", f"{span_ns} ns, finished: {finished}")
        self._spent_ns += span_ns

    def _between(self, inferences: int) -> None:
        self._cuda.record(self._start, self._stream)
        for _ in range(inferences):
            self._enqueue()
        self._cuda.record(self._end, self._stream)
        self._cuda.synchronise(self._stream)

    def _span_ms(self) -> float:
        return self._cuda.elapsed_ms(self._start, self._end)

    def burst(self, inferences: int, clock: Clock) -> Burst:
        began_ns = clock()
        self._between(inferences)
        host_ns = clock() - began_ns
        finished = self._cuda.done(self._end)
        return Burst(host_ns / 1e6, self._span_ms() if finished else 0.0, finished)

    def unsynchronised(self, clock: Clock) -> Iterator[Validity]:
        """Whether waiting waits: then the GPU has finished, the host has waited as long, and more work takes longer."""
        bursts: list[Burst] = []

        def burst_ms(inferences: int) -> float:
            bursts.append(self.burst(inferences, clock))
            return bursts[-1].device_ms

        doubts = list(ungrown(burst_ms))
        if not all(burst.finished for burst in bursts):
            yield Validity("unsynchronised", "the GPU still computed after cudaStreamSynchronize had returned")
            return
        if short := [burst for burst in bursts if burst.host_ms < burst.device_ms - SLACK_MS]:
            evidence = f"the host waited {short[0].host_ms:.3f} ms for {short[0].device_ms:.3f} ms of the GPU's work"
            yield Validity("unsynchronised", evidence)
        yield from doubts


class Inference(NamedTuple):
    """Its parts, each of which is only enqueued: the inputs, or zeros in their place, and the work. `fetch` gives the
    outputs of what is done."""

    copy_in: Callable[[], object]
    blank: Callable[[], object]
    enqueue: Callable[[], object]
    fetch: Callable[[], "Arrays"]


def insist_on_order(cuda: Cuda, stream: Handle, inference: Inference, runtime: str) -> None:
    """An inference must wait for what its stream was given before it: for inputs that come behind long copies.

    One on another stream computes before they are there, on zeros. Raises Failed then, and Unsupported for one that
    waits for the GPU before it returns.
    """

    def outputs(prepare: Callable[[], object]) -> "Arrays":
        """Of an inference whose inputs are there, whatever stream the work is on."""
        prepare()
        cuda.finish()
        inference.enqueue()
        cuda.finish()
        return inference.fetch()

    def enqueue() -> None:
        inference.copy_in()
        inference.enqueue()

    expected, on_zeros = outputs(inference.copy_in), outputs(inference.blank)
    if not held(cuda, stream, inference.blank, enqueue):
        raise Unsupported(
            f"{runtime} waits for the GPU before a run returns",
            "a span between events would hold that, too",
            "leave out the interval device",
        )
    found = inference.fetch()
    if _apart(found, expected) > _apart(found, on_zeros):
        raise Failed(f"{runtime} computes on another stream than the one that it was given")


def _apart(one: "Arrays", other: "Arrays") -> float:
    """The largest absolute difference."""
    pairs = zip(one, other, strict=True)
    return max(float(abs(a.astype("float64") - b.astype("float64")).max()) for a, b in pairs)


def held(cuda: Cuda, stream: Handle, prepare: Callable[[], object], enqueue: Callable[[], object]) -> bool:
    """Whether what `enqueue` gives the stream was given before the stream was done with it, behind long copies.

    It is False where `enqueue` waits for the stream. Both may be called several times, `prepare` before the copies; all
    is done in the end. A stream takes about a thousand kernels before it lets nobody give it more, so that of large
    networks the end may be given when the copies are over; there the work itself still goes on.
    """
    import numpy as np

    with ExitStack() as owner:
        busy = Buffer(cuda.memory(HOLD_BYTES, owner), pinned(cuda, (HOLD_BYTES,), np.uint8, owner))
        over, done = cuda.event(owner), cuda.event(owner)
        for copies in HOLDS:
            prepare()
            cuda.finish()  # or work on another stream might still see what was there before
            for _ in range(copies):
                busy.copy_in(cuda, stream)
            cuda.record(over, stream)
            enqueue()
            cuda.record(done, stream)
            behind = not cuda.done(over) or not _at_once(cuda, done)
            cuda.finish()  # all of it, or the copies would outlive their memory
            if behind:
                return True
    return False


def _at_once(cuda: Cuda, event: Handle) -> bool:
    """Whether the GPU comes to the event as soon as an idle one does."""
    until_ns = time.perf_counter_ns() + IDLE_NS
    while not cuda.done(event):
        if time.perf_counter_ns() > until_ns:
            return False
    return True
