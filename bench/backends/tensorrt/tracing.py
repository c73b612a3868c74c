"""Queries as trtexec runs them: several in flight, three streams that hand over by events, and a span of each part.

After `Iteration` and `inferenceLoop` of samples/common/sampleInference.cpp in NVIDIA/TensorRT, releases 8.5 to 11.1.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.cuda import Cuda, Handle
from bench.timing import Clock
from bench.trtexec.definitions import Defaults, Spans

Action = Callable[[Handle], object]


class Work(NamedTuple):
    """What a query consists of; the copies are given their stream, `enqueue` uses `stream`."""

    copy_in: Action
    enqueue: Callable[[], object]
    copy_out: Action
    stream: Handle


class Flight(NamedTuple):
    """A query under way: six events, start and end of each part in turn, and the host's clock around enqueuing."""

    events: Sequence[Handle]
    enqueue_ns: tuple[int, int]


class Landed(NamedTuple):
    """A query that is over, in ms since the zero event."""

    enqueue_ns: tuple[int, int]
    h2d_ms: tuple[float, float]
    compute_ms: tuple[float, float]
    d2h_ms: tuple[float, float]


def trace(cuda: Cuda, work: Work, defaults: Defaults, clock: Clock) -> Spans:
    """The spans of all queries, warm-up included, until both the number and the duration of `defaults` are reached."""
    landed: list[Landed] = []
    with ExitStack() as owner:
        streams = (cuda.stream(owner), work.stream, cuda.stream(owner))
        sleeps = not defaults.spin_wait
        slots = [[cuda.event(owner, sleeps) for _ in range(6)] for _ in range(defaults.queries_in_flight)]
        zero = cuda.event(owner)
        cuda.record(zero, work.stream)
        cuda.synchronise(work.stream)
        zero_ns = clock()
        flying: deque[Flight] = deque()
        until_ms = defaults.warmup_ms + defaults.duration_s * 1e3
        number = 0
        while number < defaults.iterations or not landed or landed[-1].d2h_ms[1] < until_ms:
            flying.append(_start(cuda, work, streams, slots[number % len(slots)], defaults.transfers, clock))
            number += 1
            if len(flying) == len(slots):
                landed.append(_land(cuda, zero, flying.popleft()))
        landed += [_land(cuda, zero, flight) for flight in flying]
    return Spans(
        zero_ns=zero_ns,
        enqueue_ns=tuple(query.enqueue_ns for query in landed),
        compute_ms=tuple(query.compute_ms for query in landed),
        h2d_ms=tuple(query.h2d_ms for query in landed) if defaults.transfers else (),
        d2h_ms=tuple(query.d2h_ms for query in landed) if defaults.transfers else (),
    )


def _start(
    cuda: Cuda, work: Work, streams: Sequence[Handle], events: Sequence[Handle], transfers: bool, clock: Clock
) -> Flight:
    source, compute, sink = streams
    cuda.record(events[0], source)
    if transfers:
        work.copy_in(source)
    cuda.record(events[1], source)
    cuda.hold(compute, events[1])
    cuda.record(events[2], compute)
    before_ns = clock()
    work.enqueue()
    after_ns = clock()
    cuda.record(events[3], compute)
    cuda.hold(sink, events[3])
    cuda.record(events[4], sink)
    if transfers:
        work.copy_out(sink)
    cuda.record(events[5], sink)
    return Flight(events, (before_ns, after_ns))


def _land(cuda: Cuda, zero: Handle, flight: Flight) -> Landed:
    cuda.wait(flight.events[5])
    at = [cuda.elapsed_ms(zero, event) for event in flight.events]
    return Landed(flight.enqueue_ns, (at[0], at[1]), (at[2], at[3]), (at[4], at[5]))
