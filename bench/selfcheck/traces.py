"""Recorded processes: a MobileNet-like network under ONNX Runtime, one thread, on a shared virtual machine.

A *unit* is one process measured alone or two measured together, under a setting (what ran besides). A condition is a
mode and a setting. Units are numbered from 1 within their condition: what is tuned is tuned on the odd ones, and
what is quoted is measured on the even ones.

A file of traces is an .npz of two arrays. `A` is int32 of (processes, 350 iterations, 7 columns); the first 50
iterations are warm-up. Its columns are the start in µs, wall and CPU time in ns, involuntary switches, minor faults,
and two probes in ns, a matrix product and a copy of memory. `meta` is JSON in bytes, an object for each unit with at
least its `mode`, its `setting`, the seconds that it and its start-up took (`dur`, `setup_s`) and the rows of its
processes in `A` (`idx`).
"""

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from bench.errors import Unavailable, UsageError
from bench.verdict import Pair, Side, pair

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as missing:
    raise Unavailable("bench selfcheck reads arrays", "NumPy is not installed", "pip install numpy") from missing

Array = NDArray[np.float64]
Mode = Literal["solo", "live", "pinned", "concurrent", "slower"]

WARMUP, BLOCK = 50, 5
SHAPE = (350, 7)
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
    with files("bench.selfcheck").joinpath("traces.npz").open("rb") as file:
        return _units(*_archive(file))


def read(file: Path) -> tuple[Unit, ...]:
    """The units of another file, in the order of recording.

    Raises UsageError for what is no file of traces, and for those of several programs, whose times can't be pooled.
    """
    samples, described = contents(file)
    programs = sorted({f"{meta.get('model')} on {meta.get('backend')}" for meta in described})
    if len(programs) > 1:
        do = "record each into a file of its own, with --backend and --output"
        raise UsageError(f"{file} holds several programs", ", ".join(programs), do)
    return _units(samples, described)


Samples = NDArray[np.int32]
Described = list[dict[str, Any]]


def contents(file: Path) -> tuple[Samples, Described]:
    """A file's two arrays, the second decoded. Raises UsageError for what is no file of traces."""
    do = "name one that bench selfcheck record wrote"
    try:
        with file.open("rb") as opened:
            samples, described = _archive(opened)
        fault = _fault(samples, described)
    except OSError as error:
        raise UsageError(f"cannot read {file}", error.strerror or str(error), do) from error
    except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{file} is no file of traces", "it is no .npz with the arrays A and meta", do) from error
    if fault:
        raise UsageError(f"{file} is no file of traces", fault, do)
    return samples, described


def _archive(file: IO[bytes]) -> tuple[Samples, Described]:
    with np.load(file) as archive:
        return archive["A"], json.loads(archive["meta"].tobytes())


def _fault(samples: Any, described: Any) -> str:
    """What keeps the arrays from being traces, "" if nothing does."""
    if samples.shape[1:] != SHAPE or samples.dtype.kind != "i":
        return f"A holds {samples.dtype} of {samples.shape}, not integers of (processes, {SHAPE[0]}, {SHAPE[1]})"
    rows = range(len(samples))
    whole = isinstance(described, list) and all(isinstance(meta, dict) and _whole(meta, rows) for meta in described)
    return "" if whole else "meta does not describe each unit"


def _whole(meta: dict[str, Any], rows: range) -> bool:
    seconds = [meta.get("dur"), *(meta.get("setup_s") or [None])]
    processes = meta.get("idx") or [None]
    return (
        meta.get("mode") in MODES
        and isinstance(meta.get("setting"), str)
        and all(isinstance(value, int | float) for value in seconds)
        and all(isinstance(row, int) and row in rows for row in processes)
        and len(processes) == (1 if meta["mode"] == "solo" else 2)
    )


def _units(samples: Samples, described: Described) -> tuple[Unit, ...]:
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


def chosen(units: Iterable[Unit], *modes: Mode, even: bool | None = True) -> dict[str, list[Unit]]:
    """Even (or odd, or for None all) units of these modes, by condition."""
    found: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.mode in modes and even in (None, unit.even):
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
