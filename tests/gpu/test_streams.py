"""Work behind copies that keep a stream busy, on the fake GPU."""

from contextlib import ExitStack

import numpy as np
import pytest
from fakes.cuda import FakeCuda

from bench import cuda, streams
from bench.errors import Failed, Unsupported

#: on the host, until the work is given: less than the copies take, less than the second time, and more than ever
QUICK_NS, SLOW_NS, WAITING_NS = 10_000, 200_000, 10_000_000


@pytest.mark.parametrize(
    ("takes_ns", "tries", "found"), [(QUICK_NS, 1, True), (SLOW_NS, 2, True), (WAITING_NS, 2, False)]
)
def test_a_stream_is_kept_busy_until_the_work_is_given(takes_ns, tries, found):
    gpu = FakeCuda()
    api, said = cuda.Cuda(gpu), []
    with ExitStack() as owner:
        stream = api.stream(owner)

        def enqueue():
            gpu.now_ns += takes_ns
            said.append("given")
            gpu.give(stream, 1000, lambda: said.append("done"))

        assert streams.held(api, stream, lambda: said.append("prepared"), enqueue) is found
        assert said == ["prepared", "given", "done"] * tries
        assert gpu._streams[int(stream)].todo == []
        assert gpu.calls.count("cudaMemcpyAsync") == sum(streams.HOLDS[:tries])
    assert gpu.alive == {}


WAITS = "^Posed waits for the GPU before a run returns; a span between events would hold that, too; leave out"
ELSEWHERE = "^Posed computes on another stream than the one that it was given$"


class Posed:
    """A runtime whose output is its input. With `elsewhere` it computes on a stream of its own, with `waits` a run ends
    when the GPU is done."""

    def __init__(self, gpu, api, owner, elsewhere=False, waits=False):
        self.gpu, self.api, self.waits = gpu, api, waits
        self.stream = api.stream(owner)
        self.works_on = api.stream(owner) if elsewhere else self.stream
        self.input, self.output = np.zeros(4), np.zeros(4)

    def copy_in(self):
        self.gpu.give(self.stream, 10_000, lambda: self.input.fill(7))

    def blank(self):
        self.gpu.give(self.stream, 0, lambda: self.input.fill(0))

    def enqueue(self):
        read = []
        self.gpu.give(self.works_on, 0, lambda: read.append(self.input.copy()))
        self.gpu.give(self.works_on, 1_000_000, lambda: np.copyto(self.output, read[0]))
        if self.waits:
            self.api.synchronise(self.works_on)

    def inference(self):
        return streams.Inference(self.copy_in, self.blank, self.enqueue, lambda: [self.output.copy()])


class Crowded(Posed):
    """A large network: the last of its kernels can be given only when the stream has come to the first."""

    def enqueue(self):
        super().enqueue()
        self.gpu.now_ns = max(self.gpu.now_ns, self.gpu._streams[int(self.stream)].free_at_ns - 900_000)


def test_a_network_of_many_kernels_is_in_order():
    gpu = FakeCuda()
    with ExitStack() as owner:
        posed = Crowded(gpu, api := cuda.Cuda(gpu), owner)
        streams.insist_on_order(api, posed.stream, posed.inference(), "Posed")
        assert (posed.output == 7).all()


def test_work_that_follows_its_stream_is_in_order():
    gpu = FakeCuda()
    with ExitStack() as owner:
        posed = Posed(gpu, api := cuda.Cuda(gpu), owner)
        streams.insist_on_order(api, posed.stream, posed.inference(), "Posed")
        assert (posed.output == 7).all()


@pytest.mark.parametrize(
    ("behaviour", "error", "reason"),
    [
        ({"elsewhere": True}, Failed, ELSEWHERE),
        ({"elsewhere": True, "waits": True}, Unsupported, WAITS),
        ({"waits": True}, Unsupported, WAITS),
    ],
    ids=["elsewhere", "elsewhere, waited for", "waits"],
)
def test_work_that_does_not_is_found_out(behaviour, error, reason):
    gpu = FakeCuda()
    with ExitStack() as owner:
        posed = Posed(gpu, api := cuda.Cuda(gpu), owner, **behaviour)
        with pytest.raises(error, match=reason):
            streams.insist_on_order(api, posed.stream, posed.inference(), "Posed")
