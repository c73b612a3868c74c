"""A live worker as the comparison sees it: started, told what to do over a socket, stopped while the other is timed.

The spinning thread pools of an idle worker would burn a third of a CPU, so a worker stops itself (SIGSTOP) after each
block and is continued for the next. While a block runs we sleep in a blocking wait.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from bench import process, pythons, telemetry
from bench.errors import BenchError, Failed
from bench.live_worker import (
    AnyCommand,
    AnyReply,
    Block,
    Compared,
    CompareOutputs,
    Done,
    LiveOrder,
    Ready,
    Stuck,
    Warm,
    WarmUp,
)
from bench.prepare import ERRORS
from bench.telemetry import Snapshot

CHUNK_BYTES = 1 << 16
LONGEST_REPLY_BYTES = 1 << 26
# Blocks take milliseconds; a machine busy with other things may stretch them a hundredfold, a hang does so for ever.
LEAST_PATIENCE_S = 20.0
REST_POLL_S = 1e-4
DYING_S = 1.0
# Linux's clock of another process, which C gets from clock_getcpuclockid(3): the inverted id above these bits.
CPU_CLOCK = 2
# A stopped worker that outlived us would be stopped for ever, and only Linux lets it die with us.
CAN_REST = sys.platform == "linux" and hasattr(os, "waitid")

ReplyT = TypeVar("ReplyT", Ready, Compared, Warm, Done)
_reply = msgspec.json.Decoder(AnyReply)


class Lost(Exception):
    """A worker died, hung or talked nonsense. What it measured is of no use, but another one may do better.

    `killed`: by SIGKILL, as the kernel does where memory runs out.
    """

    def __init__(self, reason: str, log: str = "", killed: bool = False) -> None:
        super().__init__(reason)
        self.log = log
        self.killed = killed

    def at(self, place: str) -> "Lost":
        """The same, with where it happened."""
        return Lost(f"{place}: {self}", self.log, self.killed)


class Worker(Protocol):
    """One side of a pair: a process, or what stands in for one. Verbs raise Lost, or the BenchError of a runtime."""

    def open(self) -> Ready: ...
    def compare_outputs(self, others: str) -> Compared: ...
    def warm_up(self) -> Warm: ...
    def block(self, iterations: int, latency_ns: float) -> Done: ...
    def snapshot(self) -> Snapshot | None: ...
    def spent_cpu_ns(self) -> int | None: ...


class LiveWorker:
    """A process that runs `bench.live_worker`, under `python` or, for "", ours. It is dead after the `with` block.

    Between verbs it is stopped, where the system can (Linux). `environ` comes on top of our variables, or of those that
    another Python may have.
    """

    def __init__(
        self, order: LiveOrder, environ: Mapping[str, str], timeout_s: float, folder: Path, python: str = ""
    ) -> None:
        self.order = msgspec.structs.replace(order, rest=CAN_REST)
        self.environ = environ
        self.timeout_s = timeout_s
        self.folder = folder
        self.python = python
        self._log = folder / "log"
        self._heard = bytearray()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._start(theirs.fileno())
            except BaseException:
                self._socket.close()
                raise
        # Children of the worker may hold its end of the socket open, so its death is watched apart.
        self._death = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        self._poll = select.poll()
        for watched in (self._socket, self._death):
            if watched is not None:
                self._poll.register(watched, select.POLLIN)
        return self

    def _start(self, wire: int) -> "subprocess.Popen[bytes]":
        order_file = self.folder / "order.json"
        order_file.write_bytes(msgspec.json.encode(self.order))
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [
                    *(self.python or sys.executable, "-P", "-X", "faulthandler"),
                    *("-m", "bench.live_worker", str(order_file), str(wire)),
                ],
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(wire,),
                start_new_session=True,
            )

    def _variables(self) -> dict[str, str]:
        """Under our Python what we have ourselves; under another one nothing that leads to our packages."""
        if not self.python:
            return process.worker_environment(self.environ)
        return {**pythons.variables(self.folder), **self.environ}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process.kill_session(self._process)  # SIGKILL needs no SIGCONT first
        self._socket.close()
        if self._death is not None:
            os.close(self._death)

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self) -> Ready:
        """Waits until the engine is open and its outputs are checked."""
        return self._hear(Ready, self.timeout_s)

    def compare_outputs(self, others: str) -> Compared:
        """Compares the outputs with the file that the other side left."""
        return self._ask(CompareOutputs(others), Compared, self.timeout_s)

    def warm_up(self) -> Warm:
        return self._ask(WarmUp(), Warm, self.timeout_s)

    def block(self, iterations: int, latency_ns: float) -> Done:
        """A block of so many iterations, which take about `latency_ns` each."""
        patience_s = LEAST_PATIENCE_S + 100 * iterations * latency_ns / 1e9
        return self._ask(Block(iterations), Done, min(self.timeout_s, patience_s))

    def snapshot(self) -> Snapshot:
        return telemetry.snapshot(self.pid)

    def spent_cpu_ns(self) -> int | None:
        """The CPU time of all its threads so far, for a microsecond of ours; None where the system can't tell."""
        if sys.platform != "linux":
            return None
        try:
            return time.clock_gettime_ns(~self.pid << 3 | CPU_CLOCK)
        except OSError:  # it has just died
            return None

    def _ask(self, command: AnyCommand, expected: type[ReplyT], timeout_s: float) -> ReplyT:
        try:
            self._socket.sendall(msgspec.json.encode(command) + b"\n")
            if self.order.rest:
                os.killpg(self.pid, signal.SIGCONT)
        except (OSError, ProcessLookupError):
            raise self._lost() from None
        return self._hear(expected, timeout_s)

    def _await_rest(self) -> None:
        """Returns when all threads of the worker have stopped: it does that by itself right after its answer."""
        deadline = time.monotonic() + LEAST_PATIENCE_S
        # WNOWAIT leaves a death for `Popen.wait` to see.
        while not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if time.monotonic() > deadline:
                raise Lost(f"it did not stop within {LEAST_PATIENCE_S:g} s after its answer", self._tail())
            time.sleep(REST_POLL_S)

    def _hear(self, expected: type[ReplyT], timeout_s: float) -> ReplyT:
        line = self._line(timeout_s)
        try:
            reply = _reply.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Lost(f"the worker's answer cannot be read: {error}", self._tail()) from error
        if isinstance(reply, Stuck):
            raise _error(reply, self._tail())
        if not isinstance(reply, expected):
            raise Lost(f"the worker answered {type(reply).__name__}, not {expected.__name__}", self._tail())
        if self.order.rest:
            self._await_rest()
        return reply

    def _line(self, timeout_s: float) -> bytes:
        """The next line from the worker. We sleep until there is something, or the worker has died."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._heard:
            left_ms = min(max(0.0, deadline - time.monotonic()) * 1000, process.LONGEST_POLL_MS)
            ready = [descriptor for descriptor, _ in self._poll.poll(left_ms)]
            if not ready:
                raise Lost(f"no answer within {timeout_s:g} s", self._tail())
            # A dead worker may have left an answer, which is read first.
            if self._socket.fileno() not in ready or not self._read():
                raise self._lost()
        line, _, rest = bytes(self._heard).partition(b"\n")
        self._heard = bytearray(rest)
        return line

    def _read(self) -> bool:
        """Whether there was anything to read."""
        try:
            chunk = self._socket.recv(CHUNK_BYTES)
        except ConnectionResetError:
            return False
        self._heard += chunk
        if len(self._heard) > LONGEST_REPLY_BYTES:
            raise Lost(f"the worker's answer is longer than {LONGEST_REPLY_BYTES} bytes", self._tail())
        return bool(chunk)

    def _lost(self) -> Lost:
        """How the worker ended. The socket of a dying process closes a moment before it can be waited for."""
        try:
            self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            return Lost("the worker hung up but went on", self._tail())
        code = self._process.returncode
        cause = process.cause_of_death(code, self.order.memory_limit_bytes)
        return Lost(cause, self._tail(), killed=code == -signal.SIGKILL)

    def _tail(self) -> str:
        return process.log_tail(self._log)


def _error(stuck: Stuck, log: str) -> BenchError:
    return ERRORS.get(stuck.status, Failed)(stuck.reason, log=stuck.log or log)
