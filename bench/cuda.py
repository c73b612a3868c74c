"""The CUDA runtime by NVIDIA's `cuda-bindings`, as typed calls that raise: GPU, memory, streams, events and graphs.

Each call of theirs returns `(error, *values)`. Here an error is an exception with a reason in one line.
"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NewType, Protocol, SupportsInt, TypeVar, overload

from bench.errors import GPU_LOST, RESET_GPU, SMALLER_BATCH, BenchError, Failed, Unavailable, last_line
from bench.schema import Frozen

INSTALL = "pip install 'cuda-bindings>=12.9,<13' (CUDA 12), or: pip install 'cuda-bindings>=13,<14' (CUDA 13)"
SEE = "see: nvidia-smi"
#: where the calls are: since cuda-bindings 12.6.2, and before
MODULES = ("cuda.bindings.runtime", "cuda.cudart")

# Numbers of driver_types.h; these groups are all that needs another answer than "it failed".
OUT_OF_MEMORY = 2
NOT_READY = 600
ALREADY_ACTIVE = 708
#: no driver that serves, no GPU, or none that lets us in
ABSENT = frozenset({3, 34, 35, 36, 46, 100, 101, 802, 803, 804, 805})
#: in the middle of work the GPU fell off, or its driver gave it up; the first of them, at the start, is of `ABSENT`
LOST = frozenset({46, 63, 214, 999})
#: after these every call of the process fails, until it ends
STICKY = LOST | {220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721}

Value = TypeVar("Value")
#: a member of `cudaError_t`, or its number
Error = SupportsInt
#: what a call returns: an error code, and its value if it has any, which after an error is None; `check` tells
Done = tuple[Error]
Valued = tuple[Error, Value]
#: members of enumerations, which are only handed on
CopyKind = NewType("CopyKind", object)
CaptureMode = NewType("CaptureMode", object)


class Handle(Protocol):
    """A stream, an event, a graph: opaque objects of the binding, of which `int` gives the address."""

    def __int__(self) -> int: ...


class Properties(Protocol):
    """Some of a `cudaDeviceProp`."""

    name: bytes
    major: int
    minor: int


class CopyKinds(Protocol):
    """The enumeration `cudaMemcpyKind`."""

    cudaMemcpyHostToDevice: CopyKind
    cudaMemcpyDeviceToHost: CopyKind


class CaptureModes(Protocol):
    """The enumeration `cudaStreamCaptureMode`."""

    cudaStreamCaptureModeThreadLocal: CaptureMode


class Api(Protocol):
    """What is used of `cuda.bindings.runtime`, whose wheels hold no types; names and arguments are NVIDIA's."""

    cudaStreamNonBlocking: int
    cudaEventDefault: int
    cudaEventBlockingSync: int
    cudaDeviceScheduleSpin: int

    @property
    def cudaMemcpyKind(self) -> CopyKinds: ...
    @property
    def cudaStreamCaptureMode(self) -> CaptureModes: ...
    def cudaDriverGetVersion(self) -> Valued[int]: ...
    def cudaRuntimeGetVersion(self) -> Valued[int]: ...
    def cudaGetErrorName(self, error: Error, /) -> Valued[bytes | str]: ...
    def cudaGetErrorString(self, error: Error, /) -> Valued[bytes | str]: ...
    def cudaGetLastError(self) -> Done: ...
    def cudaGetDeviceCount(self) -> Valued[int]: ...
    def cudaGetDeviceProperties(self, device: int, /) -> Valued[Properties]: ...
    def cudaSetDeviceFlags(self, flags: int, /) -> Done: ...
    def cudaSetDevice(self, device: int, /) -> Done: ...
    def cudaDeviceSynchronize(self) -> Done: ...
    def cudaMalloc(self, size: int, /) -> Valued[SupportsInt]: ...
    def cudaFree(self, pointer: int, /) -> Done: ...
    def cudaMallocHost(self, size: int, /) -> Valued[SupportsInt]: ...
    def cudaFreeHost(self, pointer: int, /) -> Done: ...
    def cudaMemsetAsync(self, pointer: int, value: int, size: int, stream: Handle, /) -> Done: ...
    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: CopyKind, stream: Handle, /) -> Done: ...
    def cudaStreamCreateWithFlags(self, flags: int, /) -> Valued[Handle]: ...
    def cudaStreamSynchronize(self, stream: Handle, /) -> Done: ...
    def cudaStreamWaitEvent(self, stream: Handle, event: Handle, flags: int, /) -> Done: ...
    def cudaStreamDestroy(self, stream: Handle, /) -> Done: ...
    def cudaStreamBeginCapture(self, stream: Handle, mode: CaptureMode, /) -> Done: ...
    def cudaStreamEndCapture(self, stream: Handle, /) -> Valued[Handle]: ...
    def cudaEventCreateWithFlags(self, flags: int, /) -> Valued[Handle]: ...
    def cudaEventRecord(self, event: Handle, stream: Handle, /) -> Done: ...
    def cudaEventQuery(self, event: Handle, /) -> Done: ...
    def cudaEventSynchronize(self, event: Handle, /) -> Done: ...
    def cudaEventElapsedTime(self, start: Handle, end: Handle, /) -> Valued[float]: ...
    def cudaEventDestroy(self, event: Handle, /) -> Done: ...
    def cudaGraphInstantiateWithFlags(self, graph: Handle, flags: int, /) -> Valued[Handle]: ...
    def cudaGraphLaunch(self, graph: Handle, stream: Handle, /) -> Done: ...
    def cudaGraphExecDestroy(self, graph: Handle, /) -> Done: ...
    def cudaGraphDestroy(self, graph: Handle, /) -> Done: ...


class CudaError(Failed):
    """A call that went wrong. `number` is CUDA's; after a `sticky` one nothing works until the process ends."""

    def __init__(self, number: int, name: str, text: str) -> None:
        self.number = number
        self.sticky = number in STICKY
        if number == OUT_OF_MEMORY:
            super().__init__("out of memory on the GPU", f"{name} ({number})", SMALLER_BATCH)
        elif number in LOST:
            super().__init__(GPU_LOST, f"{name} ({number}), {text}", RESET_GPU)
        elif self.sticky:
            super().__init__(f"the GPU broke off its work: {name} ({number}), {text}", "", f"if it goes on, {SEE}")
        else:
            super().__init__(f"CUDA call failed: {name} ({number}), {text}")


class Gpu(Frozen, frozen=True):
    """The GPU of this process. `driver` and `runtime` are the CUDA versions of the two, `capability` such as "7.5"."""

    name: str
    capability: str
    driver: str
    runtime: str


class Cuda:
    """The calls, each of which raises CudaError, or Unavailable where there is no GPU to be had."""

    def __init__(self, api: Api) -> None:
        self.api = api

    @overload
    def check(self, returned: Done, at_work: bool = True) -> None: ...
    @overload
    def check(self, returned: Valued[Value], at_work: bool = True) -> Value: ...
    def check(self, returned: tuple[Any, ...], at_work: bool = True) -> Any:
        """The value that a call returned; None where it has none. Before we are `at_work`, a GPU that is not to be had
        is not lost: somebody else has it."""
        error, *values = returned
        if int(error):
            raise self._trouble(error, at_work)
        return values[0] if values else None

    def _trouble(self, error: Error, at_work: bool) -> CudaError | Unavailable:
        number = int(error)
        name, text = _text(self.api.cudaGetErrorName(error)), _text(self.api.cudaGetErrorString(error))
        if number in ABSENT and not (at_work and number in LOST):
            return Unavailable("no GPU that CUDA can use", f"{name} ({number}), {text}", SEE)
        return CudaError(number, name, text)

    def gpu(self) -> Gpu:
        """The first GPU that this process may see, without touching it. Raises Unavailable without one."""
        driver = self._driver()
        self.check(self.api.cudaGetDeviceCount(), at_work=False)
        found = self.check(self.api.cudaGetDeviceProperties(0), at_work=False)
        return Gpu(
            name=found.name.decode(errors="replace").rstrip("\0"),
            capability=f"{found.major}.{found.minor}",
            driver=_version(driver),
            runtime=_version(self.check(self.api.cudaRuntimeGetVersion())),
        )

    def _driver(self) -> int:
        """The newest CUDA that the driver serves, as 1000 · major + 10 · minor."""
        try:
            driver = int(self.check(self.api.cudaDriverGetVersion()))
        except RuntimeError as error:  # so says cuda-python before 12.9 where libcuda is absent
            raise Unavailable("no NVIDIA driver", last_line(error), f"install one, then {SEE}") from error
        runtime = int(self.check(self.api.cudaRuntimeGetVersion()))
        if not driver:
            raise Unavailable("no NVIDIA driver", "libcuda.so.1 is not there", f"install one, then {SEE}")
        if driver // 1000 < runtime // 1000:
            found = f"the NVIDIA driver serves CUDA {_version(driver)}, cuda-bindings is for {_version(runtime)}"
            raise Unavailable(found, "", f"install a newer driver, or 'cuda-bindings<{driver // 1000 + 1}'")
        return driver

    def start(self) -> None:
        """Takes the GPU, to wait for it by spinning: a sleeping thread would add its waking up to each latency.

        Its context, which takes a process long and once, is made here and now, so that no engine's loading counts it.
        """
        error, *_ = self.api.cudaSetDeviceFlags(self.api.cudaDeviceScheduleSpin)
        if int(error) not in (0, ALREADY_ACTIVE):
            raise self._trouble(error, at_work=False)
        self.check(self.api.cudaSetDevice(0), at_work=False)
        self.check(self.api.cudaFree(0), at_work=False)

    def stream(self, owner: ExitStack) -> Handle:
        """A stream that waits for no other. Streams, events and memory live as long as `owner`."""
        stream = self.check(self.api.cudaStreamCreateWithFlags(self.api.cudaStreamNonBlocking))
        owner.callback(self.api.cudaStreamDestroy, stream)
        return stream

    def event(self, owner: ExitStack, sleeps: bool = False) -> Handle:
        """An event; with `sleeps`, whoever waits for it sleeps instead of spinning."""
        flags = self.api.cudaEventBlockingSync if sleeps else self.api.cudaEventDefault
        event = self.check(self.api.cudaEventCreateWithFlags(flags))
        owner.callback(self.api.cudaEventDestroy, event)
        return event

    def memory(self, size: int, owner: ExitStack) -> int:
        """The address of `size` bytes on the GPU."""
        pointer = int(self.check(self.api.cudaMalloc(size)))
        owner.callback(self.api.cudaFree, pointer)
        return pointer

    def pinned(self, size: int, owner: ExitStack) -> int:
        """The address of `size` bytes of this machine's memory that the GPU copies from and to by itself."""
        pointer = int(self.check(self.api.cudaMallocHost(size)))
        owner.callback(self.api.cudaFreeHost, pointer)
        return pointer

    def clear(self, pointer: int, size: int, stream: Handle) -> None:
        self.check(self.api.cudaMemsetAsync(pointer, 0, size, stream))

    def copy_in(self, device: int, host: int, size: int, stream: Handle) -> None:
        self.check(self.api.cudaMemcpyAsync(device, host, size, self.api.cudaMemcpyKind.cudaMemcpyHostToDevice, stream))

    def copy_out(self, host: int, device: int, size: int, stream: Handle) -> None:
        self.check(self.api.cudaMemcpyAsync(host, device, size, self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream))

    def synchronise(self, stream: Handle) -> None:
        """Waits until all work of the stream is done."""
        self.check(self.api.cudaStreamSynchronize(stream))

    def finish(self) -> None:
        """Waits until all work of the GPU is done, on whatever stream."""
        self.check(self.api.cudaDeviceSynchronize())

    def record(self, event: Handle, stream: Handle) -> None:
        self.check(self.api.cudaEventRecord(event, stream))

    def hold(self, stream: Handle, event: Handle) -> None:
        """Work that the stream is given from now on waits for the event."""
        self.check(self.api.cudaStreamWaitEvent(stream, event, 0))

    def wait(self, event: Handle) -> None:
        self.check(self.api.cudaEventSynchronize(event))

    def done(self, event: Handle) -> bool:
        """Whether the GPU has come to the event."""
        error, *_ = self.api.cudaEventQuery(event)
        if int(error) == NOT_READY:
            return False
        self.check((error,))
        return True

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """The time between two events on the GPU, in ms, to about half a microsecond."""
        return float(self.check(self.api.cudaEventElapsedTime(start, end)))

    def capture(self, stream: Handle, enqueue: Callable[[], object], owner: ExitStack) -> Handle | None:
        """What `enqueue()` gives the stream, as a graph to `launch`; None where it can't be captured."""
        self.check(
            self.api.cudaStreamBeginCapture(stream, self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        try:
            enqueue()
            taken = True
        except BenchError:  # of whatever kind: what TensorRT logs may be known to mean Unsupported or Unavailable
            taken = False
        error, *values = self.api.cudaStreamEndCapture(stream)
        graph = values[0] if values and not int(error) else None
        if taken and graph is not None:
            return self._executable(graph, owner)
        if graph is not None:
            self.api.cudaGraphDestroy(graph)
        self.api.cudaGetLastError()  # which forgets the error of the capture
        return None

    def _executable(self, graph: Handle, owner: ExitStack) -> Handle | None:
        # cudaGraphInstantiate takes other arguments in CUDA 11; this one takes the same in all.
        error, *values = self.api.cudaGraphInstantiateWithFlags(graph, 0)
        self.api.cudaGraphDestroy(graph)
        if int(error):
            self.api.cudaGetLastError()
            return None
        owner.callback(self.api.cudaGraphExecDestroy, values[0])
        return values[0]

    def launch(self, graph: Handle, stream: Handle) -> None:
        self.check(self.api.cudaGraphLaunch(graph, stream))


def load(modules: Sequence[str] = MODULES) -> Cuda:
    """The CUDA runtime of this Python. Raises Unavailable where it isn't installed or does not load."""
    for name in modules:
        try:
            return Cuda(importlib.import_module(name))
        except ModuleNotFoundError:
            continue
        except Exception as error:
            raise Unavailable(f"{name} does not load", last_line(error), f"mend it with: {INSTALL}") from error
    raise Unavailable(
        "the CUDA runtime is not installed", f"none of {', '.join(modules)}", f"install it with: {INSTALL}"
    )


def _text(returned: Sequence[object]) -> str:
    """Names and texts come as bytes; an error that the installed release doesn't know has none."""
    text = returned[1] if len(returned) > 1 else b""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text or "unknown error")


def _version(number: int) -> str:
    """12090 → "12.9"."""
    return f"{number // 1000}.{number % 1000 // 10}"
