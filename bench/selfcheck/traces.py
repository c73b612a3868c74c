"""Recorded processes: a MobileNet-like network under ONNX Runtime, one thread, on a shared virtual machine.

A *unit* is one process measured alone or two measured together, under a setting (what ran besides). A condition is a
mode and a setting. Units are numbered from 1 within their condition: what is tuned is tuned on the odd ones, and
what is quoted is measured on the even ones.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from bench.errors import Unavailable
from bench.verdict import Pair, Side, pair

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as missing:
    raise Unavailable("bench selfcheck reads arrays", "NumPy is not installed", "pip install numpy") from missing

Array = NDArray[np.float64]
Mode = Literal["solo", "live", "pinned", "concurrent", "slower"]

WARMUP, BLOCK = 50, 5
MODES: dict[str, Mode] = {"solo": "solo", "pair": "live", "pin": "pinned", "conc": "concurrent", "real": "slower"}


class Process(NamedTuple):
    """The timed iterations of one process, in nanoseconds; `probe` is a small matrix product beside each."""

    wall: Array
    cpu: Array
    switches: Array
    probe: Array


@dataclass(frozen=True)
class Unit:
    """`number` counts from 1 within mode and setting; `seconds` is the whole of its wall time, start-up included.

    `live` pairs alternate in blocks A B B A and may sit on two CPUs, `pinned` ones share a CPU, `concurrent` ones run
    at the same time. In `slower` the second side has one more layer.
    """

    mode: Mode
    setting: str
    number: int
    processes: tuple[Process, ...]
    seconds: float

    @property
    def condition(self) -> str:
        return f"{self.mode} {self.setting}"

    @property
    def even(self) -> bool:
        return self.number % 2 == 0


@cache
def load() -> tuple[Unit, ...]:
    """All recorded units, in the order of recording."""
    with files("bench.selfcheck").joinpath("traces.npz").open("rb") as file, np.load(file) as archive:
        samples, described = archive["A"], json.loads(archive["meta"].tobytes())
    counts: dict[tuple[str, str], int] = {}
    units = []
    for meta in described:
        key = meta["mode"], meta["setting"]
        counts[key] = counts.get(key, 0) + 1
        units.append(_unit(meta, counts[key], samples))
    return tuple(units)


def _unit(meta: dict[str, Any], number: int, samples: Any) -> Unit:
    return Unit(
        mode=MODES[meta["mode"]],
        setting=meta["setting"],
        number=number,
        processes=tuple(_process(samples[index, WARMUP:].astype(float)) for index in meta["idx"]),
        seconds=meta["dur"] + sum(meta["setup_s"]),
    )


def _process(table: Array) -> Process:
    _, wall, cpu, switches, _, probe, _ = table.T
    return Process(wall, cpu, switches, probe)


def chosen(units: Iterable[Unit], *modes: Mode, even: bool = True) -> dict[str, list[Unit]]:
    """Even (or odd) units of these modes, by condition."""
    found: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.mode in modes and unit.even == even:
            found.setdefault(unit.condition, []).append(unit)
    return found


def side(process: Process) -> Side:
    """A process in blocks, as `bench compare` records it: one probe shot a block, the one after its last iteration."""
    return Side(
        wall_ns=process.wall.astype(int).reshape(-1, BLOCK).tolist(),
        cpu_ns=process.cpu.astype(int).reshape(-1, BLOCK).tolist(),
        probe_ns=process.probe.astype(int)[BLOCK - 1 :: BLOCK].tolist(),
    )


def measured(unit: Unit) -> Pair:
    """The production log-ratios of a unit of two processes."""
    baseline, contender = unit.processes
    return pair(side(baseline), side(contender))
