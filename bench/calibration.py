"""How far identical programs lie apart on this machine: what `bench selfcheck live` measured, and `bench compare` uses.

One JSON file for each class of machine, in the cache. Without one, the design's figure stands.
"""

import contextlib
from pathlib import Path

import msgspec

from bench.schema import Frozen
from bench.verdict import Rule


class Entry(Frozen, frozen=True):
    """`sd` is the least SD of log-ratios between pairs that may be believed, from so many A/A `pairs`."""

    backend: str
    threads: int
    sd: float
    pairs: int
    measured_at: str = ""


def _path(root: Path, machine_class: str) -> Path:
    return root / "calibration" / f"{machine_class}.json"


def load(root: Path, machine_class: str) -> tuple[Entry, ...]:
    """Nothing where there is no file, or none that can be read: calibrating again mends it."""
    try:
        return msgspec.json.decode(_path(root, machine_class).read_bytes(), type=tuple[Entry, ...])
    except (OSError, ValueError):
        return ()


def save(root: Path, machine_class: str, entry: Entry) -> Path:
    """Adds `entry` in place of the one for the same backend and number of threads."""
    path = _path(root, machine_class)
    others = [
        each for each in load(root, machine_class) if (each.backend, each.threads) != (entry.backend, entry.threads)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode([*others, entry])) + b"\n")
    unfinished.rename(path)
    return path


def sd(entries: tuple[Entry, ...], threads: int, *backends: str) -> float:
    """The SD to reckon with when any of the backends takes part, never below the design's."""
    known = [entry.sd for entry in entries if entry.backend in backends and entry.threads == threads]
    return max([Rule.sd, *known])
