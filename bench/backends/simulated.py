"""No runtime: latencies drawn from a known distribution on a clock of its own, to test what stands above.

Its numbers measure nothing, so it is never in a default plan and every record of it says so.
"""

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import BaseBackend, Session, Setup
from bench.catalog import HardwareProfile
from bench.errors import Failed
from bench.schema import Case

if TYPE_CHECKING:
    from bench.backends import Arrays


class Simulation(Session):
    """Log-normal latency about `median_us` times the batch; optional are drift, a second speed mode, a heavy tail."""

    def __init__(self, case: Case, options: Mapping[str, str]) -> None:
        self._options = {name: float(value) for name, value in options.items() if name != "fault"}
        self._fault = options["fault"]
        # Every process draws differently unless it is told its seed, as real processes do.
        self._random = random.Random(int(self._options["seed"]) or None)
        self._median_ns = self._options["median_us"] * 1e3 * case.batch_size / case.threads
        self._median_ns *= math.exp(self._random.gauss(0, self._options["process_sigma"]))
        self._now = 0
        self._calls = 0
        self.clock = self._read_clock

    def _read_clock(self) -> int:
        return self._now

    def feed(self, inputs: "Arrays") -> None:
        pass

    def run(self) -> None:
        FAULTS[self._fault]()
        self._now += max(1, round(self._median_ns * self._factor()))
        self._calls += 1

    def end_to_end(self) -> "Arrays":
        self.run()
        return self.fetch()

    def _factor(self) -> float:
        draw, options = self._random, self._options
        factor = math.exp(draw.gauss(0, options["sigma"])) * (1 + options["drift"] * self._calls / 1000)
        if draw.random() < options["mode_share"]:
            factor *= 1 + options["mode_shift"]
        if draw.random() < options["tail_share"]:
            factor *= 1 + draw.paretovariate(1.5)
        return factor

    def fetch(self) -> "Arrays":
        return []

    def effective(self) -> dict[str, Any]:
        return {"simulated": True}


def _flood() -> None:
    for _ in range(4096):
        print("noise " * 170)
    raise Failed("the simulated worker printed four megabytes", "option fault=flood")


def _allocate() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))


def _raise() -> None:
    raise RuntimeError("simulated fault")


def _hang() -> None:
    print("hanging", flush=True)
    while True:
        time.sleep(3600)


def _exit(code: int) -> None:
    sys.stdout.flush()
    os._exit(code)


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _hang()


def _fork() -> None:
    if not os.fork():
        _hang()


FAULTS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: _exit(0),
    "exit3": lambda: _exit(3),
    "flood": _flood,
    "allocate": _allocate,
    "raise": _raise,
    "hang": _hang,
    "ignore_signals": _ignore_signals,
    "fork": _fork,
}


class Backend(BaseBackend):
    name = "simulated"
    kinds = frozenset({"cpu", "gpu", "phone"})
    precisions = frozenset({"fp32", "fp16", "bf16", "int8"})
    default = False
    computes = False
    options = {
        "median_us": "1000",
        "sigma": "0.01",
        "process_sigma": "0",
        "drift": "0",
        "mode_share": "0",
        "mode_shift": "0",
        "tail_share": "0",
        "seed": "0",
        "fault": tuple(FAULTS),
    }

    def probe(self, device: HardwareProfile) -> str:  # noqa: ARG002 - it needs none
        return "simulated"

    def open(self, engine: Path, setup: Setup) -> Session:  # noqa: ARG002 - it has none
        self.refuse_precision(setup.case)
        return Simulation(setup.case, setup.options)
