"""What a side of a comparison times, in this process, with a runtime whose intervals have clocks of their own."""

import pytest

from bench import backends, catalog
from bench.backends import BaseBackend, Session, Setup
from bench.errors import Failed, Unsupported
from bench.live_worker import Injection, LiveOrder, opened
from bench.schema import Case, Validity

#: by the clock of the GPU, an inference
SPAN_NS = 5_000_000


class Events(Session):
    """`device` is timed by a clock that moves with its inferences alone."""

    def __init__(self, doubts=()):
        self.spent_ns = 0
        self.doubts = doubts
        self.prepared = ()

    def run(self):
        pass

    def prepare(self, intervals):
        self.prepared = intervals

    def intervals(self):
        return {"compute": self.run, "device": self.device}

    def device(self):
        self.spent_ns += SPAN_NS

    def clocks(self):
        return {"device": lambda: self.spent_ns}

    def validity(self):
        return tuple(self.doubts)


@pytest.fixture
def opening(monkeypatch):
    """Opens the side of an order for an interval; `session` is what the runtime gives."""

    def open_(session, interval, inject=None):
        class Posed(BaseBackend):
            name = "posed"
            computes = False

            def probe(self, device):
                return "1"

            def open(self, engine, setup):
                return session

        Posed.computes = inject is not None
        monkeypatch.setattr(backends, "get", lambda name: Posed())
        case = Case("m", "posed", "cpu", "fp32", 1, 1)
        setup = Setup(case, catalog.profile("cpu"), {}, (3, 8, 8))
        return opened(LiveOrder(setup=setup, interval=interval, source="", folder="", cpus=(0,), inject=inject))[0]

    return open_


def test_device_is_timed_by_its_own_clock(opening):
    session = Events()
    player = opening(session, "device")
    assert player.block(3).wall_ns == (SPAN_NS,) * 3
    assert session.prepared == ("device",)


def test_compute_is_timed_by_the_machines(opening):
    assert min(opening(Events(), "compute").block(3).wall_ns) < SPAN_NS


def test_a_side_that_does_not_wait_is_refused(opening):
    doubts = [Validity("misconfigured", "one thing"), Validity("unsynchronised", "0.9 ms of work were left")]
    with pytest.raises(Failed, match=r"^posed does not wait for the end of an inference; 0\.9 ms of work were left$"):
        opening(Events(doubts), "compute")


def test_nothing_is_injected_where_the_clock_stands_still(opening):
    with pytest.raises(Unsupported, match="nothing can be injected into device of posed"):
        opening(Events(), "device", Injection(kind="spin", share=0.1))
