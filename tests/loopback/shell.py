"""The shell service: a command's streams in the packets of shell v2, or as they are where the phone is too old."""

import contextlib
import os
import struct
import subprocess
import threading
from collections.abc import Mapping
from typing import IO

from loopback.faults import Fault
from loopback.wire import Dropped, Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


class Shell:
    """One command. As with adbd, it is not killed when the host goes away: it ends at its next write."""

    def __init__(
        self, stream: Stream, process: "subprocess.Popen[bytes]", v2: bool, struck: Mapping[str, Fault]
    ) -> None:
        self._stream, self._process, self._v2 = stream, process, v2
        self._drop = struck.get("drop")
        self._exits = "no-exit" not in struck
        self._written = 0
        self._lock = threading.Lock()

    def serve(self) -> None:
        pipes = [(self._process.stdout, STDOUT), (self._process.stderr, STDERR)]
        threads = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in pipes if pair[0]]
        if self._drop and not self._drop.after_bytes:
            self._stream.connection.drop()
        threading.Thread(target=self._feed, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        code = self._process.wait()
        if self._v2 and self._exits:
            self._stream.write(struct.pack("<BIB", EXIT, 1, (128 - code if code < 0 else code) & 0xFF))

    def _pump(self, pipe: IO[bytes], number: int) -> None:
        with pipe, contextlib.suppress(Dropped, OSError, ValueError):  # the latter where the phone has been closed
            while part := os.read(pipe.fileno(), 16384):
                with self._lock:
                    self._write(number, part)

    def _write(self, number: int, part: bytes) -> None:
        room = self._drop.after_bytes - self._written if self._drop else len(part)
        whole, part = room >= len(part), part[: max(0, room)]
        self._written += len(part)
        if part:
            self._stream.write(struct.pack("<BI", number, len(part)) + part if self._v2 else part)
        if not whole:
            self._stream.connection.drop()
            raise Dropped

    def _feed(self) -> None:
        stdin = self._process.stdin
        assert stdin
        with stdin, contextlib.suppress(Dropped, OSError, ValueError):
            while True:
                kind, part = self._packet() if self._v2 else (STDIN, self._stream.read(1))
                if kind == CLOSE_STDIN:
                    break
                if kind == STDIN:
                    stdin.write(part)

    def _packet(self) -> tuple[int, bytes]:
        kind, size = struct.unpack("<BI", self._stream.read(5))
        return kind, self._stream.read(size)
