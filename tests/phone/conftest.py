"""A phone that is served here and passes for a Snapdragon 855, and a tool whose figures are known."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lite_tool
import numpy as np
import pytest
from loopback import AdbServer, Daemon, Phone, serving

from bench import backends, catalog, cooling, devices
from bench.backends import Setup
from bench.backends.paddle_lite import device, tool
from bench.backends.paddle_lite.device import DeviceSession
from bench.schema import Case

BACKEND = backends.get("paddle_lite")
SD855 = catalog.profile("sd855")
#: what it runs are programs of this machine
PROPERTIES = {"ro.product.cpu.abilist": "x86_64", "ro.product.cpu.abi": "x86_64"}
MAIN = Path(__file__).with_name("fake_tool_main.py")
MODEL = b"a model that nobody reads" * 1000
SHAPE = (1, 3, 8, 8)
#: in place of half a second between looks at the tool at work
PAUSE_S = 0.01


class FakeTool:
    """What is pushed starts a script in `folder`, under this Python without its packages."""

    def __init__(self, folder: Path, kind: str = tool.UPSTREAM) -> None:
        folder.mkdir()
        self.folder, self.path = folder, folder / kind
        script = folder / "main"
        script.write_text(f"#!{sys.executable} -IS\n{MAIN.read_text()}")
        script.chmod(0o755)
        mark = tool.MARK if kind == tool.OURS else b""
        self.path.write_bytes(lite_tool.elf(lite_tool.CODE + str(script).encode() + b"\0" + mark))
        self.behave()

    def behave(self, **behaviour: Any) -> None:
        """What it does at `help`, `version`, `parity`, `look` and `timed`; by default, what it should."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def starts(self, step: str) -> list[dict[str, Any]]:
        """Of each start at that step, its flags and its process."""
        lines = (self.folder / "starts").read_text().splitlines()
        return [start for line in lines if (start := json.loads(line))["step"] == step]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    with serving(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, server: AdbServer) -> Iterator[Daemon]:
    with Phone(tmp_path_factory.mktemp("phone"), PROPERTIES) as phone, Daemon(phone) as daemon:
        yield daemon
        server.adb("disconnect", daemon.serial)


@pytest.fixture
def daemon(served: Daemon, server: AdbServer) -> Daemon:
    """Its phone lies in good order: cool, charged, not charging, dark."""
    served.lift()
    server.connect(served)
    served.phone.set_battery(90, charging=False)
    served.phone.set_dumpsys("power", "  mWakefulness=Asleep\n")
    return served


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience for real phones."""
    monkeypatch.setattr(device, "PAUSE_S", PAUSE_S)
    monkeypatch.setattr(device, "MOST_WAIT_S", 0.05)
    monkeypatch.setattr(cooling, "LEAST_WAIT_S", 0.0)
    monkeypatch.setattr(cooling, "LOOK_EVERY_S", 0.01)


@pytest.fixture
def benchmark_bin(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path / "tool")


@pytest.fixture
def bench_lite(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path / "ours", tool.OURS)


def setup_of(used: FakeTool, threads: int = 1, **options: str) -> Setup:
    """For the phone as it is now."""
    case = Case("Net", "paddle_lite", "sd855", "fp32", 1, threads)
    settled = backends.settle(BACKEND, {"tool": str(used.path), **options})
    return Setup(case, SD855, settled, SHAPE[1:], devices.find(SD855, {}).found)


def engine(folder: Path) -> Path:
    file = folder / "model.nb"
    file.write_bytes(MODEL)
    return file


def open_session(folder: Path, setup: Setup) -> DeviceSession:
    """Opened as a worker does, with a model that was converted for it."""
    return DeviceSession(engine(folder), setup)


def image(value: float = 0.25) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def output(value: float = 0.25) -> np.ndarray:
    """What the tool makes of `image(value)`."""
    return np.float32([[value + index for index in range(10)]])
