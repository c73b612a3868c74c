"""The transport protocol of adb: packets over a socket, and the streams of the services opened in it."""

import contextlib
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

CNXN, OPEN, OKAY, WRTE, CLSE, AUTH = (
    int.from_bytes(word, "little") for word in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"AUTH")
)
TOKEN, PUBLIC_KEY = 1, 3
VERSION = 0x01000001  # from which on nobody checks sums
MAX_PAYLOAD = 1 << 20


class Dropped(Exception):
    """The connection is gone, or the host has closed the stream."""


class Greeting(NamedTuple):
    """How the phone answers a host: with its banner, with a question for a key, or with silence."""

    banner: str
    authorized: bool = True
    silent: bool = False


class Stream:
    """One opened service. Each write waits until the host has taken it."""

    def __init__(self, connection: "Connection", local: int, remote: int) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self._arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._taken = threading.Semaphore(0)
        self._closed = False
        self._rest = b""

    def accept(self) -> None:
        self.connection.send(OKAY, self.local, self.remote)

    def write(self, data: bytes) -> None:
        size = self.connection.max_payload
        for start in range(0, len(data), size):
            if self._closed:
                raise Dropped
            self.connection.send(WRTE, self.local, self.remote, data[start : start + size])
            self._taken.acquire()

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            chunk = self._arrived.get()
            if chunk is None:
                raise Dropped
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def wait_until_closed(self) -> None:
        while self._arrived.get() is not None:
            pass

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.connection.send(CLSE, self.local, self.remote)

    def arrived(self, data: bytes) -> None:
        self._arrived.put(data)

    def taken(self) -> None:
        self._taken.release()

    def closed_by_host(self) -> None:
        self._closed = True
        self._arrived.put(None)
        self._taken.release()


class Connection(threading.Thread):
    """One adb server that is connected. `serve` runs a service in a thread of its own; KeyError means there is none."""

    def __init__(self, sock: socket.socket, greeting: Greeting, serve: Callable[[Stream, str], None]) -> None:
        super().__init__(daemon=True)
        self.max_payload = 4096
        self._sock, self._greeting, self._serve = sock, greeting, serve
        self._streams: dict[int, Stream] = {}
        self._sends = threading.Lock()
        self._last = 0
        self._checked = True  # whether packets have a sum, as they do until versions are known
        self._host = (0, 0)

    def run(self) -> None:
        with contextlib.suppress(Dropped, OSError):
            while True:
                command, first, second, size, _, magic = struct.unpack("<6I", self._receive(24))
                if magic != command ^ 0xFFFFFFFF or size > MAX_PAYLOAD:
                    break
                self._arrived(command, first, second, self._receive(size))
        self._sock.close()
        for stream in list(self._streams.values()):
            stream.closed_by_host()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        check = sum(data) & 0xFFFFFFFF if self._checked else 0
        head = struct.pack("<6I", command, first, second, len(data), check, command ^ 0xFFFFFFFF)
        with self._sends:
            try:
                self._sock.sendall(head + data)
            except OSError as error:
                raise Dropped from error

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._sock.recv(size - len(data))
            if not part:
                raise Dropped
            data += part
        return data

    def _arrived(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (CNXN, AUTH):
            self._greet(command, first, second)
        elif command == OPEN:
            self._open(first, data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
        elif stream := self._streams.get(second):
            self._of_stream(command, stream, data)

    def _greet(self, command: int, first: int, second: int) -> None:
        if command == CNXN:
            self._host = (first, second)
        if self._greeting.silent:
            return
        if not self._greeting.authorized:  # the host tries its keys one by one, and last sends its public one
            if (command, first) != (AUTH, PUBLIC_KEY):
                self.send(AUTH, TOKEN, 0, os.urandom(20))
            return
        self.send(CNXN, VERSION, MAX_PAYLOAD, self._greeting.banner.encode())
        version, max_payload = self._host
        self._checked = version < VERSION
        self.max_payload = min(MAX_PAYLOAD, max_payload)

    def _open(self, remote: int, name: str) -> None:
        self._last += 1
        stream = self._streams[self._last] = Stream(self, self._last, remote)
        threading.Thread(target=self._service, args=(stream, name), daemon=True).start()

    def _service(self, stream: Stream, name: str) -> None:
        try:
            self._serve(stream, name)
            stream.close()
        except KeyError:
            with contextlib.suppress(Dropped):
                self.send(CLSE, 0, stream.remote)
        except (Dropped, OSError):
            stream.closed_by_host()
        finally:
            self._streams.pop(stream.local, None)

    def _of_stream(self, command: int, stream: Stream, data: bytes) -> None:
        if command == WRTE:
            stream.arrived(data)
            self.send(OKAY, stream.local, stream.remote)
        elif command == OKAY:
            stream.taken()
        elif command == CLSE:
            self._streams.pop(stream.local, None)
            stream.closed_by_host()
