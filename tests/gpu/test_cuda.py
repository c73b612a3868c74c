"""The CUDA runtime's calls against a fake: values, errors in words, and nothing left behind."""

import sys
from contextlib import ExitStack
from types import ModuleType

import pytest
from fakes.cuda import FakeCuda

from bench import cuda
from bench.cuda import Cuda, CudaError, Gpu
from bench.errors import Failed, Unavailable
from bench.gpu.causes import cause


def test_the_gpu_is_described_without_being_touched():
    api = FakeCuda()
    assert Cuda(api).gpu() == Gpu("Tesla T4", "7.5", driver="12.4", runtime="12.9")
    assert not {"cudaSetDevice", "cudaMalloc", "cudaStreamCreateWithFlags"} & set(api.calls)


def test_waiting_spins():
    api = FakeCuda()
    Cuda(api).start()
    assert api.calls == ["cudaSetDeviceFlags", "cudaSetDevice", "cudaFree"]


def test_a_gpu_that_already_works_is_taken_as_it_is():
    api = FakeCuda(errors={"cudaSetDeviceFlags": 708})
    Cuda(api).start()
    assert api.calls[-2:] == ["cudaSetDevice", "cudaFree"]


@pytest.mark.parametrize(
    ("api", "reason"),
    [
        (FakeCuda(driver=0), "no NVIDIA driver; libcuda.so.1 is not there; install one, then see: nvidia-smi"),
        (
            FakeCuda(driver=12040, runtime=13040),
            "the NVIDIA driver serves CUDA 12.4, cuda-bindings is for 13.4; "
            "install a newer driver, or 'cuda-bindings<13'",
        ),
        (
            FakeCuda(errors={"cudaGetDeviceCount": 35}),
            "no GPU that CUDA can use; cudaErrorInsufficientDriver (35), "
            "CUDA driver version is insufficient for CUDA runtime version; see: nvidia-smi",
        ),
        (
            FakeCuda(errors={"cudaGetDeviceCount": 100}),
            "no GPU that CUDA can use; cudaErrorNoDevice (100), no CUDA-capable device is detected; see: nvidia-smi",
        ),
        (
            FakeCuda(errors={"cudaGetDeviceProperties": 46}),
            "no GPU that CUDA can use; cudaErrorDevicesUnavailable (46), "
            "CUDA-capable device(s) is/are busy or unavailable; see: nvidia-smi",
        ),
    ],
)
def test_without_a_gpu_it_says_why(api, reason):
    with pytest.raises(Unavailable) as raised:
        Cuda(api).gpu()
    assert str(raised.value) == reason


@pytest.mark.parametrize("call", ["cudaSetDeviceFlags", "cudaSetDevice", "cudaFree"])
def test_a_gpu_that_somebody_else_has_is_not_lost(call):
    with pytest.raises(Unavailable, match=r"^no GPU that CUDA can use; cudaErrorDevicesUnavailable \(46\), "):
        Cuda(FakeCuda(errors={call: 46})).start()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (46, "cudaErrorDevicesUnavailable (46), CUDA-capable device(s) is/are busy or unavailable"),
        (63, "unrecognized error code (63), unrecognized error code"),
        (214, "cudaErrorECCUncorrectable (214), uncorrectable ECC error encountered"),
        (999, "cudaErrorUnknown (999), unknown error"),
    ],
)
def test_a_gpu_lost_at_work_is_said_in_the_words_of_all_runtimes(number, words):
    api = FakeCuda()
    calls = Cuda(api)
    calls.gpu()
    calls.start()
    with ExitStack() as owner:
        stream = calls.stream(owner)
        api.errors = {"cudaStreamSynchronize": number}
        with pytest.raises(CudaError) as raised:
            calls.synchronise(stream)
    known = cause(f"CUDA failure {number}: {words} ; GPU=0")
    assert known.error is Failed
    assert str(raised.value) == f"{known.what}; {words}; {known.do}"
    assert str(raised.value).startswith("the GPU was lost; ")
    assert raised.value.sticky


def test_all_numbers_of_a_lost_gpu_are_the_same_for_all_runtimes():
    lost = {number for number in range(1000) if (known := cause(f"CUDA failure {number}: x")) and "lost" in known.what}
    assert lost == cuda.LOST


def test_a_gpu_that_is_not_there_is_unavailable_at_work_too():
    api = FakeCuda()
    calls = Cuda(api)
    with ExitStack() as owner:
        api.errors = {"cudaStreamCreateWithFlags": 100}
        with pytest.raises(Unavailable):
            calls.stream(owner)


def test_older_bindings_raise_where_the_driver_is_missing():
    class Old(FakeCuda):
        def _cudaDriverGetVersion(self):  # noqa: N802
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(Unavailable, match=r"^no NVIDIA driver; Failed to dlopen libcuda\.so\.1; "):
        Cuda(Old()).gpu()


def test_out_of_memory_says_so_and_is_not_for_ever():
    api = FakeCuda(errors={"cudaMalloc": 2})
    with ExitStack() as owner, pytest.raises(CudaError) as raised:
        Cuda(api).memory(1 << 40, owner)
    assert str(raised.value).startswith("out of memory on the GPU; cudaErrorMemoryAllocation (2); ")
    assert not raised.value.sticky


def test_a_sticky_error_breaks_all_later_calls_and_names_itself():
    api = FakeCuda(errors={"cudaStreamSynchronize": 700})
    calls = Cuda(api)
    with ExitStack() as owner:
        stream = calls.stream(owner)
        for call in (lambda: calls.synchronise(stream), lambda: calls.memory(8, owner)):
            with pytest.raises(CudaError) as raised:
                call()
            assert raised.value.sticky
            assert raised.value.number == 700
            assert "cudaErrorIllegalAddress (700), an illegal memory access was encountered" in str(raised.value)


def test_an_error_that_nobody_knows_still_has_its_number():
    with pytest.raises(CudaError, match=r"^CUDA call failed: .* \(12345\), "):
        Cuda(FakeCuda(errors={"cudaSetDevice": 12345})).start()


def test_the_owner_frees_all_and_ignores_what_is_broken():
    api = FakeCuda()
    calls = Cuda(api)
    with ExitStack() as owner:
        stream = calls.stream(owner)
        calls.event(owner), calls.memory(8, owner), calls.pinned(8, owner)
        assert calls.capture(stream, lambda: api.give(stream, 5), owner)
        assert len(api.alive) == 5
    assert api.alive == {}
    with ExitStack() as owner:
        calls.stream(owner)
        api.sticky = 719


def test_events_tell_the_gpus_time_and_whether_it_has_come_to_them():
    api = FakeCuda()
    calls = Cuda(api)
    with ExitStack() as owner:
        stream, start, end = calls.stream(owner), calls.event(owner), calls.event(owner)
        calls.record(start, stream)
        api.give(stream, 2_500_000)
        calls.record(end, stream)
        assert not calls.done(end)
        calls.synchronise(stream)
        assert calls.done(end)
        assert calls.elapsed_ms(start, end) == 2.5


def test_work_waits_for_an_event():
    api = FakeCuda()
    calls = Cuda(api)
    done = []
    with ExitStack() as owner:
        first, second, event = calls.stream(owner), calls.stream(owner), calls.event(owner)
        api.give(first, 1_000_000, lambda: done.append("first"))
        calls.record(event, first)
        calls.hold(second, event)
        api.give(second, 500_000, lambda: done.append("second"))
        calls.synchronise(second)
        assert done == ["first", "second"]
        assert api.now_ns >= 1_500_000


def test_waiting_for_one_stream_finishes_no_other():
    api = FakeCuda()
    calls = Cuda(api)
    done = []
    with ExitStack() as owner:
        first, second = calls.stream(owner), calls.stream(owner)
        api.give(first, 1_000_000, lambda: done.append("first"))
        calls.synchronise(second)
        assert done == []
        assert api.now_ns < 1_000_000
        with pytest.raises(AssertionError, match="stream 0"):
            calls.synchronise(0)


def test_who_waits_for_an_event_spins_unless_told_otherwise():
    api = FakeCuda()
    calls = Cuda(api)
    with ExitStack() as owner:
        assert [calls.event(owner, *sleeps).flags for sleeps in ((), (False,), (True,))] == [0, 0, 1]


@pytest.mark.parametrize("fault", ["enqueue", "no driver", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_what_cannot_be_captured_leaves_nothing(fault):
    refused = {"enqueue": Failed("refused"), "no driver": Unavailable("refused")}
    api = FakeCuda(errors={} if fault in refused else {fault: 900})
    calls = Cuda(api)

    def enqueue():
        if fault in refused:
            raise refused[fault]

    with ExitStack() as owner:
        stream = calls.stream(owner)
        assert calls.capture(stream, enqueue, owner) is None
        assert "cudaGetLastError" in api.calls
        assert set(api.alive.values()) == {"stream"}


def test_bindings_that_are_absent_or_broken_are_told_apart(monkeypatch):
    with pytest.raises(
        Unavailable, match=r"^the CUDA runtime is not installed; none of no\.such, no_such; install it with: pip"
    ):
        cuda.load(("no.such", "no_such"))

    class Finder:
        def find_spec(self, name, *_):
            if name == "broken_bindings":
                raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(Unavailable, match=r"^broken_bindings does not load; libcudart\.so\.12: cannot open"):
        cuda.load(("broken_bindings",))


def test_the_newer_name_of_the_bindings_goes_first(monkeypatch):
    newer, older = ModuleType("newer"), ModuleType("older")
    monkeypatch.setitem(sys.modules, "newer", newer)
    monkeypatch.setitem(sys.modules, "older", older)
    assert cuda.load(("newer", "older")).api is newer
    assert cuda.load(("no_such", "older")).api is older
