"""A GPU looked at from the parent: at rest before and after, and while the worker is timed."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from bench.gpu import hygiene, nvml
from bench.gpu.hygiene import LIMITS, Look, Work
from bench.gpu.nvml import Nvml, Sampler, State
from bench.gpu.selection import Gpu
from bench.schema import Validity

Opened = Callable[[], AbstractContextManager[Nvml]]
#: NVML's utilisation is of the last 1/6 to 1 s (NVIDIA: nvmlUtilization_t), in which our own previous worker may have
#: computed: so long is waited for it to fall, with a look every so often
SETTLING_S, EVERY_S = 2.0, 0.1


class Span(NamedTuple):
    """Of the worker: when it sampled, on the monotonic clock, its process id, and whether it copied meanwhile.

    There is a window from start to end for each interval that was sampled: warm-up lies between them.
    """

    windows_ns: Sequence[tuple[int, int]]
    pid: int
    copies: bool


class Watch:
    """What was seen of a GPU. `judge` once watching has ended."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.before: Look | None = None
        self.after: Look | None = None
        self.states: list[State] = []
        self.failure = ""

    def judge(self, span: Span) -> tuple[dict[str, Any], tuple[Validity, ...]]:
        """What goes on record of the time that was sampled, and the reasons to distrust it."""
        if not self.before or not self.after:
            return {}, (Validity("unwatched", self.failure),)
        during = [state for start, end in span.windows_ns for state in hygiene.within(self.states, start, end)]
        work = Work(frozenset({span.pid}), span.copies, self.gpu.capability, self.failure)
        found = hygiene.deviations(self.before, during, self.after, LIMITS, work)
        return {"gpu": hygiene.summary(self.before, during, self.after)}, found


@contextlib.contextmanager
def watching(
    gpu: Gpu,
    opened: Opened = nvml.opened,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Watch]:
    """Samples until the block ends, once the GPU is at rest or won't come to it.

    A driver that stops answering ends the watching, not the measurement.
    """
    watch = Watch(gpu)
    with contextlib.ExitStack() as stack:
        try:
            library = stack.enter_context(opened())
            handle = library.handle(gpu)
            watch.before = Look(library.facts(handle), _settled(lambda: library.state(handle), clock, sleep))
        except Exception as error:
            watch.failure = f"the GPU could not be watched: {error}"
            yield watch
            return
        with Sampler(lambda: library.state(handle)) as sampler:
            yield watch
        watch.states, watch.failure = sampler.states, sampler.failure
        if watch.failure:
            stack.pop_all()  # a driver that hangs would hang at its end, too
            return
        try:
            watch.after = Look(library.facts(handle), library.state(handle))
        except Exception as error:
            watch.failure = f"the GPU could not be watched: {error}"


def _settled(look: Callable[[], State], clock: Callable[[], float], sleep: Callable[[float], object]) -> State:
    """The first state in which the GPU is no busier than the limit, or the last one of the time to wait for it."""
    until = clock() + SETTLING_S
    state = look()
    while (state.utilisation_percent or 0) > LIMITS.utilisation_percent and clock() < until:
        sleep(EVERY_S)
        state = look()
    return state


def advice(gpu: Gpu, opened: Opened = nvml.opened) -> tuple[str, ...]:
    """What would make the numbers of this GPU quieter, from a look at it now."""
    with opened() as library:
        handle = library.handle(gpu)
        return hygiene.advice(gpu, Look(library.facts(handle), library.state(handle)))
