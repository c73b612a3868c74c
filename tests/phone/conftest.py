"""A phone that is served here and passes for a Snapdragon 855."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from absent import absent
from loopback import AdbServer, Daemon, Phone, serving
from loopback.namespace import Mounted
from on_phone import PAUSE_S, PROPERTIES, FakeTool

from bench import cooling
from bench.backends.paddle_lite import device, tool


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    with serving(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, server: AdbServer) -> Iterator[Daemon]:
    with Phone(tmp_path_factory.mktemp("phone"), PROPERTIES) as phone, Daemon(phone) as daemon:
        _need_mounts(phone)
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


def _need_mounts(phone: Phone) -> None:
    """Without them a tool is told this machine's paths, and says so. In CI they have to be there."""
    if isinstance(phone._namespace, Mounted):
        return
    absent("only root may mount a phone's folders in place of this machine's")
