"""A private adb server for tests, which sees no phone of this machine and is stopped at the end."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absent import absent

from bench.artifacts import default_root
from loopback.daemon import Daemon

CALL_S = 20.0


class AdbServer:
    """With its port, key and log in `folder`; `environ` is what a client of it needs."""

    def __init__(self, folder: Path) -> None:
        self.program = _needed()
        folder.mkdir(parents=True, exist_ok=True)
        self.environ = {
            "ANDROID_ADB_SERVER_PORT": str(_free_port()),
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",  # else it would look for emulators
            "ADB_MDNS": "0",
            "ADB_USB": "0",
            "HOME": str(folder),
            "TMPDIR": str(folder),
        }

    def __enter__(self) -> "AdbServer":
        self.adb("start-server")
        return self

    def __exit__(self, *_: object) -> None:
        self.adb("kill-server")

    def adb(self, *words: str) -> str:
        """What a client of this server with these words says."""
        environ = {name: value for name, value in os.environ.items() if name != "ANDROID_SERIAL"} | self.environ
        done = subprocess.run(
            [self.program, *words],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CALL_S,
            check=False,
        )
        return done.stdout.decode(errors="replace").strip()

    def connect(self, daemon: Daemon, state: str = "device") -> str:
        """Connects anew, waits until the phone is in this state, and returns its serial number."""
        self.adb("disconnect", daemon.serial)
        self._wait(daemon.serial, state, lambda: self.adb("connect", daemon.serial))
        return daemon.serial

    def wait(self, serial: str, state: str) -> None:
        """Until adb lists the phone in this state."""
        self._wait(serial, state, lambda: time.sleep(0.01))

    def _wait(self, serial: str, state: str, meanwhile: Callable[[], object]) -> None:
        end = time.monotonic() + CALL_S
        while (found := self.state(serial)) != state:
            assert time.monotonic() < end, f"{serial} is {found or 'not listed'} instead of {state}"
            meanwhile()

    def state(self, serial: str) -> str:
        """As `adb devices` lists it; "" if it doesn't."""
        lines = [line.split("\t") for line in self.adb("devices").splitlines()]
        return next((line[1] for line in lines if line[0] == serial), "")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[AdbServer]:
    """A server whose clients are all that this process starts meanwhile; bench's cache stays where it is."""
    cache = str(default_root())
    with pytest.MonkeyPatch.context() as patch, AdbServer(folder) as server:
        patch.delenv("ANDROID_SERIAL", raising=False)
        for name, value in server.environ.items():
            patch.setenv(name, value)
        patch.setenv("BENCH_CACHE", cache)
        yield server


def _needed() -> str:
    """The path of adb. Without it tests are skipped, but fail in CI, which has to have it."""
    return shutil.which("adb") or absent("no adb on PATH: install it, as with apt-get install adb")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
