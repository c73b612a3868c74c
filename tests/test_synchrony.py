"""Calls that wait and calls that don't, on a clock that only they move."""

import pytest

from bench import synchrony
from bench.schema import Validity


class Posed:
    """A runtime whose work takes 1 ms each time, or where it doesn't grow once until somebody waits for it."""

    def __init__(self, grows):
        self.grows = grows
        self.now_ns, self.left_ns = 0, 0

    def clock(self):
        return self.now_ns

    def enqueue(self):
        self.now_ns += 10_000
        self.left_ns = self.left_ns + 1_000_000 if self.grows else 1_000_000

    def wait(self):
        self.now_ns += self.left_ns
        self.left_ns = 0

    def run(self):
        self.enqueue()
        self.wait()


@pytest.mark.parametrize(
    ("grows", "found"), [(True, []), (False, ["4 inferences took 1.040 ms where one took 1.010 ms"])]
)
def test_time_must_grow_with_work(grows, found):
    posed = Posed(grows)
    doubts = synchrony.ungrown(synchrony.by_host(posed.enqueue, posed.wait, posed.clock))
    assert [(doubt.reason, doubt.evidence) for doubt in doubts] == [("unsynchronised", words) for words in found]


@pytest.mark.parametrize(("calls", "found"), [([2.0] * 3 + [4.0] * 3, 0), ([2.0] * 3 + [9.0, 9.0, 3.99], 1)])
def test_the_quickest_burst_decides(calls, found):
    """The limit itself is sound."""
    answers = iter(calls)
    assert len(list(synchrony.ungrown(lambda _: next(answers)))) == found


@pytest.mark.parametrize(("call", "found"), [("run", 0), ("enqueue", 1)])
def test_what_is_left_after_a_call_is_found(call, found):
    posed = Posed(grows=True)
    assert len(list(synchrony.unsynchronised(getattr(posed, call), posed.wait, posed.clock))) == found


def test_a_second_check_is_made_where_the_first_finds_nothing():
    first, second = Validity("unsynchronised", "1"), Validity("unsynchronised", "2")
    assert list(synchrony.sound_or([], iter([second]))) == [second]
    unasked = iter([second])
    assert list(synchrony.sound_or([first], unasked)) == [first]
    assert list(unasked) == [second]
