"""A CUDA runtime on a clock of its own: a GPU whose streams each work off what they are given, piece after piece.

Calls return what those of `cuda.bindings.runtime` 12.9 do: `(error, value)`, of a call without a value `(error,)`.
Memory is this process's own, so that pointers are real. Work of a stream is done when the GPU's time for it has come
and somebody has waited for that stream, or for one that waits for it; it is seen by nobody before. Stream 0 is refused.
"""

import ctypes
import enum
from types import SimpleNamespace

CALL_NS = 1000
NAMES = {
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    35: ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    46: ("cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    600: ("cudaErrorNotReady", "device not ready"),
    700: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
    214: ("cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"),
    719: ("cudaErrorLaunchFailure", "unspecified launch failure"),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    999: ("cudaErrorUnknown", "unknown error"),
}
STICKY = {700, 719, 999}
#: calls that have no value
VOID = {
    "cudaSetDeviceFlags", "cudaSetDevice", "cudaFree", "cudaFreeHost", "cudaMemsetAsync", "cudaMemcpyAsync",
    "cudaStreamSynchronize", "cudaStreamWaitEvent", "cudaStreamDestroy", "cudaStreamBeginCapture", "cudaEventRecord",
    "cudaEventQuery", "cudaEventSynchronize", "cudaEventDestroy", "cudaGraphLaunch", "cudaGraphExecDestroy",
    "cudaGraphDestroy", "cudaGetLastError", "cudaDeviceSynchronize",
}  # fmt: skip


class Handle:
    """A stream, an event or a graph; `int` takes it, as it takes theirs."""

    def __init__(self, number, **facts):
        self.number = number
        self.__dict__.update(facts)

    def __int__(self):
        return self.number


class Broken(Exception):
    """What makes a call return this error."""


class FakeCuda:
    """`errors` maps a call to the error that it returns; after a sticky one all calls return that."""

    cudaStreamNonBlocking = 1
    cudaEventDefault = 0
    cudaEventBlockingSync = 1
    cudaDeviceScheduleSpin = 1
    cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})

    def __init__(self, driver=12040, runtime=12090, name="Tesla T4", capability=(7, 5), errors=None, waits=True):
        self.driver, self.runtime = driver, runtime
        self.properties = SimpleNamespace(
            name=name.encode(), major=capability[0], minor=capability[1], totalGlobalMem=16 << 30
        )
        self.errors = errors or {}
        self.waits = waits  # else synchronising returns at once
        self.copy_ns = 10_000
        self.now_ns = 0
        self.sticky = 0
        self.calls = []
        self.alive = {}
        self.captured = None
        self._streams = {}
        self._numbers = iter(range(1, 1 << 30))

    def clock(self):
        """The host's clock, which moves with calls and with waiting alone."""
        return self.now_ns

    # What the GPU does

    def give(self, stream, took_ns, action=lambda: None):
        """Work for a stream; in a capture, for the graph."""
        queue = self._queue(stream)
        if self.captured is not None:
            self.captured.append((took_ns, action))
            return
        queue.free_at_ns = max(self.now_ns, queue.free_at_ns) + took_ns
        queue.todo.append((queue.free_at_ns, action))

    def _queue(self, stream):
        assert int(stream) != 0, "stream 0 waits for all others, and they for it"
        return self._streams[int(stream)]

    def _work(self, stream, until_ns):
        """What this stream has done by then, each piece once; of the others only what it waits for."""
        todo = self._queue(stream).todo
        while todo and todo[0][0] <= until_ns:
            todo.pop(0)[1]()

    # What calls return

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, arguments)

    def _call(self, name, arguments):
        self.calls.append(name)
        self.now_ns += CALL_NS
        error = self.sticky or self.errors.get(name, 0)
        value = None
        if name in ("cudaGetErrorName", "cudaGetErrorString"):
            return self.text(name, *arguments)
        if not error:
            try:
                value = getattr(self, f"_{name}")(*arguments)
            except Broken as broken:
                error = broken.args[0]
        self.sticky = error if error in STICKY else self.sticky
        return (error,) if name in VOID else (error, value)

    def text(self, name, error):
        known = NAMES.get(int(error))
        return (0, known[name.endswith("String")].encode()) if known else (0, b"unrecognized error code")

    def _made(self, what, **facts):
        handle = Handle(next(self._numbers), **facts)
        self.alive[handle.number] = what
        return handle

    def _gone(self, handle):
        del self.alive[int(handle)]

    def _cudaDriverGetVersion(self):
        return self.driver

    def _cudaRuntimeGetVersion(self):
        return self.runtime

    def _cudaGetLastError(self):
        pass

    def _cudaGetDeviceCount(self):
        return 1

    def _cudaGetDeviceProperties(self, device):
        return self.properties

    def _cudaSetDeviceFlags(self, flags):
        assert flags == self.cudaDeviceScheduleSpin

    def _cudaSetDevice(self, device):
        assert device == 0

    def _allocate(self, size, what):
        memory = ctypes.create_string_buffer(b"\xff" * size, size)
        address = ctypes.addressof(memory)
        self.alive[address] = (what, memory)
        return address

    def _cudaMalloc(self, size):
        return self._allocate(size, "device memory")

    def _cudaMallocHost(self, size):
        return self._allocate(size, "pinned memory")

    def _cudaFree(self, address):
        if address:  # 0 makes the context, and frees nothing
            self._gone(address)

    _cudaFreeHost = _gone

    def _cudaMemsetAsync(self, pointer, value, size, stream):
        self.give(stream, 0, lambda: ctypes.memset(pointer, value, size))

    def _cudaMemcpyAsync(self, target, source, size, kind, stream):
        self.give(stream, self.copy_ns, lambda: ctypes.memmove(target, source, size))

    def _cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        stream = self._made("stream")
        self._streams[stream.number] = SimpleNamespace(free_at_ns=0, todo=[])
        return stream

    def _cudaStreamSynchronize(self, stream):
        if self.captured is not None:
            raise Broken(900)
        if self.waits:
            self.now_ns = max(self.now_ns, self._queue(stream).free_at_ns)
        self._work(stream, self.now_ns)

    def _cudaDeviceSynchronize(self):
        self.now_ns = max([self.now_ns, *(queue.free_at_ns for queue in self._streams.values())])
        while busy := [queue for queue in self._streams.values() if queue.todo]:
            earliest = min(busy, key=lambda queue: queue.todo[0][0])
            earliest.todo.pop(0)[1]()

    def _cudaStreamWaitEvent(self, stream, event, flags):
        queue = self._queue(stream)
        queue.free_at_ns = max(queue.free_at_ns, event.at_ns)
        queue.todo.append((queue.free_at_ns, lambda of=event.stream, at_ns=event.at_ns: self._work(of, at_ns)))

    _cudaStreamDestroy = _gone

    def _cudaEventCreateWithFlags(self, flags):
        return self._made("event", at_ns=None, flags=flags)

    def _cudaEventRecord(self, event, stream):
        event.stream = stream
        event.at_ns = max(self.now_ns, self._queue(stream).free_at_ns)

    def _cudaEventQuery(self, event):
        if event.at_ns > self.now_ns:
            raise Broken(600)

    def _cudaEventSynchronize(self, event):
        if self.waits:
            self.now_ns = max(self.now_ns, event.at_ns)
        self._work(event.stream, min(event.at_ns, self.now_ns))

    def _cudaEventElapsedTime(self, start, end):
        self._cudaEventQuery(end)
        return (end.at_ns - start.at_ns) / 1e6

    _cudaEventDestroy = _gone

    def _cudaStreamBeginCapture(self, stream, mode):
        self.captured = []

    def _cudaStreamEndCapture(self, stream):
        work, self.captured = self.captured, None
        return self._made("graph", work=work)

    def _cudaGraphInstantiateWithFlags(self, graph, flags):
        return self._made("executable graph", work=graph.work)

    def _cudaGraphLaunch(self, graph, stream):
        for took_ns, action in graph.work:
            self.give(stream, took_ns, action)

    _cudaGraphExecDestroy = _cudaGraphDestroy = _gone
