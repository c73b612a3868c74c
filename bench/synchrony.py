"""Whether a call that should be synchronous is: whatever waits for its end must then have nothing left to wait for."""

from collections.abc import Callable, Iterator
from statistics import median

from bench.schema import Validity
from bench.timing import Clock

TRIES = 5
# Waiting once more costs microseconds even where nothing is left, so it is done twice and the second taken off.
MOST_LEFT = 0.1
SLACK_NS = 20_000


def unsynchronised(run: Callable[[], object], wait: Callable[[], object], clock: Clock) -> Iterator[Validity]:
    """A reason for distrust where work of `run` was still going on when it had returned, by what `wait` then took."""
    tries = [_spans(run, wait, clock) for _ in range(TRIES)]
    ran, waited, again = (median(column) for column in zip(*tries, strict=True))
    left = waited - again
    if left > max(MOST_LEFT * ran, SLACK_NS):
        yield Validity("unsynchronised", f"{left / 1e6:.3f} ms of work were left after a call of {ran / 1e6:.3f} ms")


def _spans(run: Callable[[], object], wait: Callable[[], object], clock: Clock) -> tuple[int, int, int]:
    began = clock()
    run()
    returned = clock()
    wait()
    done = clock()
    wait()
    return returned - began, done - returned, clock() - done
