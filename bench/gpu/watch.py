"""A GPU looked at from the parent: at rest before and after, and while the worker is timed."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple, TypeVar

from bench.errors import GPU_LOST, Unavailable
from bench.gpu import hygiene, nvml
from bench.gpu.hygiene import LIMITS, Look, Work
from bench.gpu.nvml import Nvml, Sampler, State
from bench.gpu.nvml_api import Handle
from bench.gpu.selection import Gpu
from bench.schema import Validity

Opened = Callable[[], AbstractContextManager[Nvml]]
#: NVML's utilisation is of the last 1/6 to 1 s (NVIDIA: nvmlUtilization_t), in which our own previous worker may have
#: computed: so long is waited for it to fall, with a look every so often
SETTLING_S, EVERY_S = 2.0, 0.1
#: for the first answers: without persistence mode the driver starts each GPU anew for us, which takes it seconds
FIRST_PATIENCE_S = 20.0

Answer = TypeVar("Answer")


class Hung(Unavailable):
    """NVML was asked and says nothing."""


def promptly(ask: Callable[[], Answer], patience_s: float) -> Answer:
    """The answer of the driver. Raises Hung after `patience_s`: a call into a hung driver never returns, so that its
    thread is left behind."""
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="nvml", daemon=True).start()
    try:
        return answer.result(patience_s)
    except TimeoutError as error:
        found = f"NVML said nothing for {patience_s:g} s"
        raise Hung("the NVIDIA driver does not answer", found, "look at what nvidia-smi says") from error


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

    @property
    def lost(self) -> bool:
        """Whether the driver lost the GPU meanwhile."""
        last = [self.after.state] if self.after else []
        return any(state.lost for state in (*self.states, *last))

    def judge(self, span: Span) -> tuple[dict[str, Any], tuple[Validity, ...]]:
        """What goes on record of the time that was sampled, and the reasons to distrust it."""
        if not self.before or not self.after:
            lost = (Validity("unreliable", GPU_LOST),) if self.lost else ()
            return {}, (Validity("unwatched", self.failure), *lost)
        during = [state for start, end in span.windows_ns for state in hygiene.within(self.states, start, end)]
        work = Work(frozenset({span.pid}), span.copies, self.gpu.capability, self.failure)
        found = hygiene.deviations(self.before, during, self.after, LIMITS, work)
        return {"gpu": hygiene.summary(self.before, during, self.after, work.own)}, found


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
    with ExitStack() as stack:

        def first() -> tuple[Nvml, Handle, Look]:
            library = stack.enter_context(opened())
            handle = library.handle(gpu)
            return library, handle, Look(library.facts(handle), _settled(lambda: library.state(handle), clock, sleep))

        try:
            library, handle, watch.before = promptly(first, FIRST_PATIENCE_S)
        except Exception as error:
            _give_up(watch, error, stack)
            yield watch
            return
        with Sampler(lambda: library.state(handle)) as sampler:
            yield watch
        watch.states, watch.failure = sampler.states, sampler.failure
        if watch.failure:
            _abandon(stack)
            return
        try:
            watch.after = promptly(lambda: Look(library.facts(handle), library.state(handle)), nvml.PATIENCE_S)
        except Exception as error:
            _give_up(watch, error, stack)


def _give_up(watch: Watch, error: Exception, stack: ExitStack) -> None:
    watch.failure = f"the GPU could not be watched: {error}"
    if isinstance(error, Hung):
        _abandon(stack)


def _abandon(stack: ExitStack) -> None:
    """Ends the use of a driver that hangs, for which nobody waits: it may hang then, too."""
    threading.Thread(target=stack.pop_all().close, name="nvml", daemon=True).start()


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

    def look() -> Look:
        with opened() as library:
            handle = library.handle(gpu)
            return Look(library.facts(handle), library.state(handle))

    return hygiene.advice(gpu, promptly(look, FIRST_PATIENCE_S))
