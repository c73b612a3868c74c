"""For tests: a tool for the phone whose figures are known, and a session with it as a worker opens one."""

import json
import sys
from pathlib import Path
from typing import Any

import lite_tool
import numpy as np

from bench import backends, catalog, devices
from bench.backends import Setup
from bench.backends.paddle_lite import tool
from bench.backends.paddle_lite.device import DeviceSession
from bench.schema import Case

BACKEND = backends.get("paddle_lite")
SD855 = catalog.profile("sd855")
#: what it runs are programs of this machine
PROPERTIES = {"ro.product.cpu.abilist": "x86_64", "ro.product.cpu.abi": "x86_64"}
MAIN = Path(__file__).with_name("fake_tool_main.py")
MODEL = Path(__file__).parents[1].joinpath("data/tiny_x86.nb").read_bytes()
SHAPE = (1, 3, 8, 8)
#: latencies that the tool prints for its timed starts, one after the other
TIMED_NS = (12_500_000, 13_500_000, 14_500_000)
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
        """What it does at `help`, `version`, `parity`, `short`, `look` and `timed`; by default, what it should."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def starts(self, step: str) -> list[dict[str, Any]]:
        """Of each start at that step, its flags and its process."""
        lines = (self.folder / "starts").read_text().splitlines()
        return [start for line in lines if (start := json.loads(line))["step"] == step]


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
