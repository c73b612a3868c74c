"""What TensorRT logs, kept to tell why it returned None, and the reasons that are known by their texts."""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from bench.backends.tensorrt.api import Logger, Severity, Trt
from bench.errors import (
    BUILD_AGAIN,
    GPU_LOST,
    RESET_GPU,
    SMALLER_BATCH,
    BenchError,
    Failed,
    Stale,
    Unavailable,
    Unsupported,
)

KEPT = {"INTERNAL_ERROR", "ERROR", "WARNING"}
ERRORS = KEPT - {"WARNING"}
LONGEST = 300

Made = TypeVar("Made")


class Entry(NamedTuple):
    severity: str
    text: str


class Journal:
    """The one logger of a process: TensorRT ignores all but the first, so nobody makes another."""

    def __init__(self, trt: Trt) -> None:
        self.entries: list[Entry] = []
        entries, base = self.entries, trt.ILogger

        class Recorder(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Severity, text: str) -> None:
                if severity.name in KEPT:
                    entries.append(Entry(severity.name, text))

        self.logger: Logger = Recorder()

    @contextmanager
    def part(self) -> Iterator[list[Entry]]:
        """What is logged in the block; complete once it is left."""
        start = len(self.entries)
        mine: list[Entry] = []
        try:
            yield mine
        finally:
            mine += self.entries[start:]


@functools.cache
def of(trt: Trt) -> Journal:
    return Journal(trt)


def said(entries: list[Entry]) -> str:
    """The first error, which is the cause of those after it, in one line; "" without any."""
    texts = [entry.text for entry in entries if entry.severity in ERRORS]
    return " ".join(texts[0].split())[:LONGEST] if texts else ""


def started(trt: Trt, make: Callable[[Logger], Made]) -> Made:
    """A builder or a runtime. Where CUDA can't be used, for which the bindings raise a TypeError: Unavailable."""
    log = of(trt)
    with log.part() as entries:
        try:
            return make(log.logger)
        except TypeError as error:
            cause = error
    what = f"TensorRT {trt.__version__} finds no GPU that it can use"
    raise Unavailable(what, said(entries) or str(cause), "see: nvidia-smi") from cause


class Known(NamedTuple):
    """A text that TensorRT is known to log, what it means, and what to type."""

    pattern: str
    error: type[BenchError]
    what: str
    do: str


KNOWN = (
    Known(
        r"Target GPU SM (?P<sm>\d+) is not supported",
        Unsupported,
        "this TensorRT has no code for GPUs of SM {sm}",
        "for a V100 install TensorRT 10.4 or older: pip install tensorrt-cu12==10.4.0",
    ),
    Known(
        r"expecting compute (?P<there>\d+\.\d+) got compute (?P<here>\d+\.\d+)",
        Stale,
        "the engine was built for compute capability {there}, this GPU has {here}",
        BUILD_AGAIN,
    ),
    Known(
        r"Current Version: (?P<here>\d+), Serialized Engine Version: (?P<there>\d+)",
        Stale,
        "the engine is of another TensorRT (its format is {there}, that of this one {here})",
        BUILD_AGAIN,
    ),
    Known(r"(?i)magic.?tag", Stale, "the file is no engine of TensorRT", BUILD_AGAIN),
    Known(r"header\.size == blobSize|empty memory buffer", Stale, "the file is cut off", BUILD_AGAIN),
    Known(
        r"CUDA initialization failure with error: (?P<number>\d+)",
        Unavailable,
        "TensorRT finds no GPU that it can use (CUDA error {number})",
        "see: nvidia-smi",
    ),
    Known(r"\bcudaError 35\b", Unavailable, "TensorRT finds no NVIDIA driver that it can use", "see: nvidia-smi"),
    Known(r"\bcudaError (?:46|63|214|999)\b", Failed, GPU_LOST, RESET_GPU),
    Known(
        r"[Oo]ut [Oo]f [Mm]emory|OutOfMemory",
        Failed,
        "out of memory on the GPU",
        SMALLER_BATCH,
    ),
)


def trouble(what: str, text: str, file: str = "") -> BenchError:
    """What to raise where TensorRT failed to do `what` and logged `text`; `file` is named where there is one."""
    for known in KNOWN:
        if found := re.search(known.pattern, text):
            meaning = known.what.format(**found.groupdict())
            return known.error(f"{file}: {meaning}" if file else meaning, text, known.do)
    return Failed(what, text or "TensorRT logged no error")
