"""Whether a call that should be synchronous is: whatever waits for its end must then have nothing left to wait for."""

from collections.abc import Callable, Iterable, Iterator
from statistics import median

from bench.schema import Validity
from bench.timing import Clock

TRIES = 5
# Waiting once more costs microseconds even where nothing is left, so it is done twice and the second taken off.
MOST_LEFT = 0.1
SLACK_NS = 20_000
# Of the check that time grows with work: bursts of one and of four inferences, the quickest of three. A sound runtime
# needs four times as long for the larger.
BURST = 4
BURSTS = 3
LEAST_GROWTH = 2.0


def unsynchronised(run: Callable[[], object], wait: Callable[[], object], clock: Clock) -> Iterator[Validity]:
    """A reason for distrust where work of `run` was still going on when it had returned, by what `wait` then took."""
    tries = [_spans(run, wait, clock) for _ in range(TRIES)]
    ran, waited, again = (median(column) for column in zip(*tries, strict=True))
    left = waited - again
    if left > max(MOST_LEFT * ran, SLACK_NS):
        yield Validity("unsynchronised", f"{left / 1e6:.3f} ms of work were left after a call of {ran / 1e6:.3f} ms")


def ungrown(burst_ms: Callable[[int], float]) -> Iterator[Validity]:
    """A reason for distrust where several inferences take hardly longer than one; `burst_ms(n)` is the time of n."""
    one, several = [min(burst_ms(count) for _ in range(BURSTS)) for count in (1, BURST)]
    if several < LEAST_GROWTH * one:
        yield Validity("unsynchronised", f"{BURST} inferences took {several:.3f} ms where one took {one:.3f} ms")


def sound_or(first: Iterable[Validity], then: Iterable[Validity]) -> Iterator[Validity]:
    """The doubts of a check, and where it has none those of another, which has the same causes."""
    found = list(first)
    yield from found or then


def by_host(enqueue: Callable[[], object], wait: Callable[[], object], clock: Clock) -> Callable[[int], float]:
    """The time of so many inferences, in ms by the host's clock, from the first to the end of waiting for the last."""

    def burst_ms(inferences: int) -> float:
        began_ns = clock()
        for _ in range(inferences):
            enqueue()
        wait()
        return (clock() - began_ns) / 1e6

    return burst_ms


def _spans(run: Callable[[], object], wait: Callable[[], object], clock: Clock) -> tuple[int, int, int]:
    began = clock()
    run()
    returned = clock()
    wait()
    done = clock()
    wait()
    return returned - began, done - returned, clock() - done
