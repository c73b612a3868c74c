"""The sync service: stat, list, push and pull."""

import contextlib
import os
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from loopback.faults import Fault
from loopback.phone import Phone
from loopback.wire import Dropped, Stream

MOST_DATA = 64 << 10
STAT_V2 = struct.Struct("<IQQIIIIQqqq")


class Sync:
    """One session of it. `strike` says which faults hit a step."""

    def __init__(self, stream: Stream, phone: Phone, strike: Callable[[str], Mapping[str, Fault]]) -> None:
        self._stream, self._phone, self._strike = stream, phone, strike
        self._operations: dict[bytes, tuple[str, Callable[[str, _Wire], None]]] = {
            b"STAT": ("stat", self._stat),
            b"STA2": ("stat", self._stat_v2),
            b"LST2": ("stat", self._lstat_v2),
            b"LIST": ("list", self._list),
            b"LIS2": ("list", self._list_v2),
            b"RECV": ("pull", self._receive),
            b"SEND": ("push", self._send),
        }

    def serve(self) -> None:
        with contextlib.suppress(Dropped):
            while True:
                word, size = self._request()
                if word == b"QUIT":
                    return
                path = self._stream.read(size).decode("utf-8", "surrogateescape")
                name, operation = self._operations[word]
                operation(path, _Wire(self._stream, self._strike(f"{name} {path}")))

    def _request(self) -> tuple[bytes, int]:
        word, size = struct.unpack("<4sI", self._stream.read(8))
        return word, size

    def _fail(self, text: str) -> None:
        self._stream.write(b"FAIL" + struct.pack("<I", len(text.encode())) + text.encode())

    def _stat(self, path: str, wire: "_Wire") -> None:
        found = _status(self._phone.path(path), follow=False)[0]
        self._stream.write(b"STAT" + struct.pack("<3I", *_short(found)))

    def _stat_v2(self, path: str, wire: "_Wire") -> None:
        self._stream.write(b"STA2" + _long(*_status(self._phone.path(path), follow=True)))

    def _lstat_v2(self, path: str, wire: "_Wire") -> None:
        self._stream.write(b"LST2" + _long(*_status(self._phone.path(path), follow=False)))

    def _list(self, path: str, wire: "_Wire") -> None:
        for entry in self._entries(path):
            name = os.fsencode(entry.name)
            found = _status(entry, follow=False)[0]
            self._stream.write(b"DENT" + struct.pack("<4I", *_short(found), len(name)) + name)
        self._stream.write(b"DONE" + bytes(16))

    def _list_v2(self, path: str, wire: "_Wire") -> None:
        for entry in self._entries(path):
            name = os.fsencode(entry.name)
            found = _long(*_status(entry, follow=False))
            self._stream.write(b"DNT2" + found + struct.pack("<I", len(name)) + name)
        self._stream.write(b"DONE" + bytes(72))

    def _entries(self, path: str) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(self._phone.path(path).iterdir())
        return []

    def _receive(self, path: str, wire: "_Wire") -> None:
        try:
            with self._phone.path(path).open("rb") as file:
                while part := file.read(MOST_DATA):
                    part = wire.passed(part)
                    self._stream.write(b"DATA" + struct.pack("<I", len(part)) + part)
        except OSError as error:
            self._fail(f"read failed: {error.strerror}")
        else:
            self._stream.write(b"DONE" + bytes(4))

    def _send(self, request: str, wire: "_Wire") -> None:
        """Where it fails, the rest of the file has to be read all the same."""
        path, _, mode = request.rpartition(",")
        pushed = _Pushed(self._phone, self._phone.path(path), int(mode))
        while (head := self._request())[0] == b"DATA":
            part = wire.passed(self._stream.read(head[1]))
            if wire.is_full:
                pushed.fail("write failed: No space left on device")
            pushed.write(part)
        failure = pushed.finish(modified=head[1])
        if failure:
            self._fail(failure)
        else:
            self._stream.write(b"OKAY" + bytes(4))


class _Wire:
    """The bytes of one transfer, and what befalls them."""

    def __init__(self, stream: Stream, struck: Mapping[str, Fault]) -> None:
        self._connection, self._struck = stream.connection, struck
        self._count = 0
        if "hang" in struck:
            stream.wait_until_closed()
            raise Dropped

    @property
    def is_full(self) -> bool:
        return "disk-full" in self._struck and self._count > self._struck["disk-full"].after_bytes

    def passed(self, part: bytes) -> bytes:
        start, self._count = self._count, self._count + len(part)
        if "drop" in self._struck and self._count > self._struck["drop"].after_bytes:
            self._connection.drop()
            raise Dropped
        if "corrupt" in self._struck:
            place = self._struck["corrupt"].after_bytes - start
            if 0 <= place < len(part):
                return part[:place] + bytes([part[place] ^ 1]) + part[place + 1 :]
        return part


class _Pushed:
    """A file that is being written; it is taken away where that fails."""

    def __init__(self, phone: Phone, path: Path, mode: int) -> None:
        self._path, self._mode, self._failure = path, mode, ""
        self._is_link = stat.S_ISLNK(mode)
        self._data = bytearray()
        if phone.is_read_only:
            self._failure = "couldn't create file: Read-only file system"
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory")
        except OSError as error:
            self._failure = f"couldn't create file: {error.strerror}"

    def fail(self, failure: str) -> None:
        self._failure = self._failure or failure

    def write(self, part: bytes) -> None:
        self._data += part

    def finish(self, modified: int) -> str:
        """Why there is no file now, or ""."""
        if not self._failure and self._is_link:
            self._path.unlink(missing_ok=True)
            self._path.symlink_to(os.fsdecode(bytes(self._data).rstrip(b"\0")))
        elif not self._failure:
            self._path.write_bytes(self._data)
            owner = self._mode & 0o700
            self._path.chmod(self._mode & 0o777 | owner >> 3 | owner >> 6)  # as adbd does
            os.utime(self._path, (modified, modified))
        return self._failure


def _status(path: Path, *, follow: bool) -> tuple[os.stat_result | None, int]:
    try:
        return path.stat(follow_symlinks=follow), 0
    except OSError as error:
        return None, error.errno or 5


def _short(found: os.stat_result | None) -> tuple[int, int, int]:
    return (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)) if found else (0, 0, 0)


def _long(found: os.stat_result | None, error: int) -> bytes:
    if found is None:
        return STAT_V2.pack(error, *[0] * 10)
    numbers = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size)
    return STAT_V2.pack(0, *numbers, int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
