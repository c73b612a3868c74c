"""What every child process does: give itself its limits, feed an engine, and put what went wrong into words.

It imports little, since the live worker of a comparison runs in Python environments that hold little.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from bench import parity
from bench.errors import BenchError, Failed, Stale, Unavailable, Unsupported, UsageError
from bench.formats import without_home
from bench.lifeline import die_with_parent
from bench.schema import PARENT_VARIABLE, Case, Parity, Precision

if TYPE_CHECKING:
    from bench.backends import Arrays, Session

OUT_OF_MEMORY = "out of memory"
TroubleStatus = Literal["failed", "stale", "unsupported", "unavailable", "refused"]
STATUSES: dict[type[BaseException], TroubleStatus] = {
    Unavailable: "unavailable",
    Unsupported: "unsupported",
    UsageError: "refused",
    Stale: "stale",
}


class Limits(Protocol):
    """What must hold in a process before a runtime is imported."""

    @property
    def cpus(self) -> tuple[int, ...]: ...
    @property
    def memory_limit_bytes(self) -> int | None: ...


def confine(limits: Limits) -> None:
    """Affinity and memory limit, and no life after the parent's."""
    if limits.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, limits.cpus)
    if limits.memory_limit_bytes:
        import resource

        # Data, not address space: runtimes reserve tens of gigabytes that they never touch.
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_limit_bytes, limits.memory_limit_bytes))
    die_with_parent()
    # The signal comes only for a death from now on.
    if sys.platform == "linux" and os.environ.get(PARENT_VARIABLE) not in (None, str(os.getppid())):
        os._exit(1)


class Trouble(NamedTuple):
    """Why a job could not be done; `reason` is one line."""

    status: TroubleStatus
    reason: str
    log: str


def trouble(error: Exception) -> Trouble:
    """An exception as a result; call it where the exception is handled, as the log is its traceback."""
    log = _public(traceback.format_exc())
    if isinstance(error, MemoryError):
        return Trouble("failed", OUT_OF_MEMORY, log)
    if isinstance(error, BenchError):
        return Trouble(STATUSES.get(type(error), "failed"), str(error), log)
    return Trouble("failed", f"{type(error).__name__}: {error}".strip().splitlines()[0], log)


def _public(log: str) -> str:
    """A log without the folders of this machine, as records get published."""
    package = str(Path(__file__).resolve().parents[1])
    return without_home(log.replace(package + os.sep, "").replace(sys.prefix + os.sep, ""))


class First(NamedTuple):
    """How long the first inference took; the outputs for the reference's inputs, and how far off they are."""

    took_ns: int
    outputs: "Arrays"
    parity: Parity | None


def first_inferences(session: "Session", case: Case, reference: str, rounding: Precision) -> First:
    """Runs an engine that was just opened on the inputs of `reference`, or once where that is "".

    Raises Failed where the outputs are not the reference's, within what `rounding` is allowed.
    """
    if not reference:
        return First(_timed(session), [], None)
    inputs, expected, made_by = parity.load(Path(reference))
    session.feed([parity.batches(inputs, case.batch_size)[0]])
    took_ns = _timed(session)
    outputs = infer(session, inputs, case.batch_size)
    checked = parity.compare(outputs, expected, rounding, made_by)
    if fault := parity.fault(checked):
        raise Failed(f"output differs from {checked.reference}", fault)
    return First(took_ns, outputs, checked)


def _timed(session: "Session") -> int:
    start = session.clock()
    session.run()
    return session.clock() - start


def infer(session: "Session", inputs: Any, batch_size: int) -> "Arrays":
    """The outputs for all of `inputs`, run in batches; arrays of (images, …)."""
    import numpy as np

    parts = []
    for batch in parity.batches(inputs, batch_size):
        session.feed([batch])
        session.run()
        parts.append(session.fetch())
    return [np.concatenate(column)[: len(inputs)] for column in zip(*parts, strict=True)]


def cpus_of_threads() -> tuple[int, ...]:
    """A runtime may pin its threads by itself, so each one is asked."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    found = set(os.sched_getaffinity(0))
    for thread in Path("/proc/self/task").glob("[0-9]*"):
        try:
            found |= os.sched_getaffinity(int(thread.name))
        except ProcessLookupError:  # it has just ended
            continue
    return tuple(sorted(found))


def peak_memory_bytes() -> int | None:
    """The largest resident set of this process so far, in bytes."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
