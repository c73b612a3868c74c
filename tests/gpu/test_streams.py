"""Work behind copies that keep a stream busy, on the fake GPU."""

from contextlib import ExitStack

import pytest
from fakes.cuda import FakeCuda

from bench import cuda, streams

#: on the host, until the work is given: less than the copies take, less than the second time, and more than ever
QUICK_NS, SLOW_NS, WAITING_NS = 10_000, 200_000, 10_000_000


@pytest.mark.parametrize(
    ("takes_ns", "tries", "found"), [(QUICK_NS, 1, True), (SLOW_NS, 2, True), (WAITING_NS, 3, False)]
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
