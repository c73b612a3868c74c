"""ONNX Runtime on a GPU, through a fake that goes back to the CPU in every way that the real one was seen to."""

import os
import re
import sys
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
from fakes import ort as fake
from fakes.cuda import CALL_NS, FakeCuda
from filelock import FileLock, Timeout

from bench import backends, catalog, cuda, parity, worker
from bench.artifacts import Cache, Made
from bench.backends import Setup
from bench.backends import onnxruntime as subject
from bench.backends.onnxruntime import engines, gpu, opening, streamed
from bench.backends.onnxruntime.session import Opened, OrtGpuSession
from bench.backends.onnxruntime.streamed import Lane, StreamSession
from bench.errors import Failed, Stale, Unavailable, Unsupported, UsageError
from bench.jobs import Build, Folder, Measure, Measured, Probe, Problem, Version
from bench.schema import Case, Settings, Validity

T4 = catalog.profile("t4")
SHAPE = (3, 8, 8)
BOTH = ("compute", "end_to_end")
ALL = Settings(intervals=(*BOTH, "device"), warmup=2, iterations=5)
FEW = Settings(intervals=BOTH, warmup=2, iterations=5)
FACTS = {"name": "Tesla T4", "capability": [7, 5], "driver": "535.104"}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Puts a fake with some behaviour in place of the module, on a fake GPU, and a model where one is wanted.

    Without `bindings` no CUDA runtime for Python is installed.
    """
    (tmp_path / "m.onnx").write_bytes(b"weights")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "carries_fp16", lambda model: b"half" in model.read_bytes())
    load = cuda.load

    def install(bindings=True, **behaviour):
        made = fake.Behaviour(**({"gpu": FakeCuda()} if bindings else {}) | behaviour)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake.module(made))
        monkeypatch.setattr(cuda, "load", lambda: cuda.Cuda(made.gpu) if bindings else load(["no.such.module"]))
        monkeypatch.setattr(backends.Session, "clock", staticmethod(made.clock))
        return made

    install.model = tmp_path / "m.onnx"
    return install


def setup_of(precision="fp32", batch_size=4, device=T4, found=None, **options):
    case = Case("m", "onnxruntime", device.name, precision, batch_size, 1)
    settled = backends.settle(subject.Backend(), options, device.kind)
    return Setup(case, device, settled, SHAPE, {"gpu": FACTS} if found is None else found)


def built(installed, folder="built", **options):
    """The engine, in a folder of that name."""
    place = installed.model.parent / folder
    place.mkdir(exist_ok=folder != "built" or not place.exists())
    return subject.Backend().build(installed.model, place, setup_of(**options))


def opened(installed, engine=None, **options):
    folder = f"built{len(list(installed.model.parent.iterdir()))}"
    return subject.Backend().open(engine or built(installed, folder, **options), setup_of(**options))


def images(count=4, seed=0):
    import numpy as np

    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def measured(installed, tmp_path, settings=FEW, **options):
    """The worker's own answer, in this process."""
    inputs = images(10)
    parity.save(tmp_path / "reference.npz", inputs, [fake.computed(inputs)], "the fake")
    setup = setup_of(**options)
    return worker.answer_to(Measure(setup, settings, str(installed.model), str(tmp_path / "reference.npz")))


def evidence(session, reason="unsynchronised"):
    return [found.evidence for found in session.validity() if found.reason == reason]


# What it takes to be let in


def test_the_version_is_that_of_a_runtime_that_reached_the_gpu(installed):
    installed()
    assert worker.answer_to(Probe("onnxruntime", T4)) == Version(version="1.31.1")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"available": ("AzureExecutionProvider", fake.CPU)}, "ONNX Runtime 1.31.1 has no CUDAExecutionProvider"),
        ({"cuda": "unloadable"}, "the libraries of CUDA or cuDNN are not found; libcublasLt.so.13"),
        ({"cuda": "no driver"}, "the NVIDIA driver is missing, or too old for this CUDA"),
    ],
    ids=["a build for CPUs", "no libraries", "no driver"],
)
def test_what_is_missing_makes_it_unavailable(installed, tmp_path, capfd, behaviour, words):
    installed(**behaviour)
    for answer in (worker.answer_to(Probe("onnxruntime", T4)), measured(installed, tmp_path)):
        assert isinstance(answer, Problem)
        assert answer.status == "unavailable"
        assert answer.reason.startswith(words)
        assert "\n" not in answer.reason


@pytest.mark.parametrize(
    ("behaviour", "provider", "error", "words"),
    [
        ({"silent": True}, "cuda", Unavailable, "ONNX Runtime left CUDAExecutionProvider out; it has CPUExecutionProv"),
        ({"silent": True}, "tensorrt", Unavailable, "ONNX Runtime left TensorrtExecutionProvider out"),
        ({"tensorrt": False}, "tensorrt", Unavailable, "the libraries of TensorRT are not found"),
        ({"unknown_options": ("use_tf32",)}, "cuda", Unsupported, 'Unknown provider option: "use_tf32"'),
    ],
    ids=["silently on the CPU", "TensorRT silently out", "no TensorRT", "an older release"],
)
def test_no_session_falls_back(installed, capfd, behaviour, provider, error, words):
    made = installed(**behaviour)
    with pytest.raises(error) as raised:
        opened(installed, provider=provider)
    assert words in str(raised.value)
    assert made.inferences == 0
    assert "EP Error" not in capfd.readouterr().out


def test_the_fake_does_fall_back_where_nothing_is_shut(installed, capfd):
    """So that the tests above would fail without what they test."""
    installed(cuda="no driver")
    session = sys.modules["onnxruntime"].InferenceSession(installed.model, providers=[fake.CUDA])
    assert session.get_providers() == [fake.CPU]
    assert "EP Error" in capfd.readouterr().out
    made = installed(faults={1: "CUDA failure 700"})
    session = sys.modules["onnxruntime"].InferenceSession(installed.model, providers=[fake.CUDA])
    session.run(None, {"x": images()})
    assert session.get_providers() == [fake.CPU]
    assert made.inferences == 1


def test_a_damaged_model_fails_as_on_a_cpu(installed, monkeypatch, tmp_path):
    installed()
    with pytest.raises(Failed, match=r"ONNX Runtime cannot open gone\.onnx"):
        subject.Backend().open(tmp_path / "gone.onnx", setup_of())


# Where nodes are computed


def test_all_that_computes_on_the_gpu_is_sound(installed):
    installed()
    session = opened(installed)
    session.feed([images()])
    assert session.effective()["providers"] == {fake.CUDA: 55, fake.CPU: 1}
    assert session.effective()["compute_nodes"] == {fake.CUDA: 28}
    assert session.validity() == ()


@pytest.mark.parametrize("tells", [True, False], ids=["as the session tells", "by a profile of an older release"])
def test_what_computes_on_the_cpu_is_misconfigured(installed, tells, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.tempfile, "mkdtemp", lambda: str(tmp_path / "profile"))
    (tmp_path / "profile").mkdir()
    made = installed(on_cpu=("Shape", "Conv", "Gemm"), tells=tells)
    session = opened(installed)
    session.feed([images()])
    assert len(made.sessions) == 1, "the one for the profile is no part of opening"
    assert session.effective()["compute_nodes"] == {fake.CPU: 28}
    assert len(made.sessions) == (1 if tells else 2)
    assert [(found.reason, found.evidence) for found in session.validity()] == [
        ("misconfigured", "27 Conv on CPUExecutionProvider, not CUDAExecutionProvider"),
        ("misconfigured", "1 Gemm on CPUExecutionProvider, not CUDAExecutionProvider"),
    ]
    assert not made.sessions[0].options.enable_profiling
    assert not list((tmp_path / "profile").glob("*")) if (tmp_path / "profile").exists() else True


def test_no_graph_is_captured_for_the_profile(installed):
    """Its inference takes NumPy's arrays, whose copies no graph can hold."""
    made = installed(tells=False)
    session = opened(installed, cuda_graph="on")
    session.feed([images()])
    assert session.effective()["cuda_graph"] is True
    timed, profiled = made.sessions
    assert profiled.options.enable_profiling
    assert [each.get_provider_options()[fake.CUDA]["enable_cuda_graph"] for each in (timed, profiled)] == ["1", "0"]


def test_what_tensorrt_leaves_to_cuda_is_told(installed):
    installed(left_by_tensorrt=("Gemm",))
    session = opened(installed, provider="tensorrt")
    session.feed([images()])
    assert session.effective()["compute_nodes"] == {fake.TENSORRT: 27, fake.CUDA: 1}
    assert [found.evidence for found in session.validity()] == [
        "1 Gemm on CUDAExecutionProvider, not TensorrtExecutionProvider"
    ]


# Options


def test_cuda_gets_fixed_options_and_gives_them_back(installed):
    made = installed()
    session = opened(installed)
    assert list(made.sessions[0].get_provider_options()) == [fake.CUDA, fake.CPU]
    effective = session.effective()
    assert effective["provider_options"] == {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "0",
        "enable_cuda_graph": "0",
    }
    assert (effective["tf32"], effective["cuda_graph"], effective["precision"]) == (False, False, "fp32")
    assert backends.deviations(setup_of().case, setup_of().options, effective) == ()


def test_an_option_that_is_not_in_effect_deviates(installed):
    made = installed()
    session = opened(installed, tf32="off")
    made.sessions[0].get_provider_options()[fake.CUDA]["use_tf32"] = "1"
    setup = setup_of(tf32="off")
    assert backends.deviations(setup.case, setup.options, session.effective()) == ("tf32: off asked, on in effect",)


def test_switches_of_tensorrt_are_words(installed):
    installed()
    effective = opened(installed, provider="tensorrt", cuda_graph="on").effective()
    assert effective["cuda_graph"] is True
    session = sys.modules["onnxruntime"].InferenceSession
    with pytest.raises(RuntimeError, match="The value for the key 'trt_fp16_enable'"):
        session(installed.model, providers=[(fake.TENSORRT, {"trt_fp16_enable": "1"})], enable_fallback=0)


@pytest.mark.parametrize(
    ("options", "environ"),
    [
        ({"provider": "tensorrt"}, {"NVIDIA_TF32_OVERRIDE": "0"}),
        ({"provider": "tensorrt", "tf32": "on"}, {}),
        ({"provider": "cuda"}, {}),
    ],
)
def test_tensorrt_is_kept_from_tf32_by_the_environment(options, environ):
    assert subject.Backend().environment(setup_of(**options).options) == environ


def test_a_cpu_has_none_of_the_options_of_a_gpu():
    cpu = catalog.profile("cpu")
    options = setup_of(device=cpu).options
    assert options == {"optimization": "all", "spinning": "on"}
    backend = subject.Backend()
    assert backend.environment(options) == {}
    assert (backend.engine_with(options), backend.builds_with(options), backend.variant(setup_of(device=cpu))) == (
        *("", 1),
        {},
    )
    assert backend.intervals_on("cpu") == set(BOTH)
    with pytest.raises(Exception, match=r"onnxruntime\.tf32 means nothing here; the device is a cpu"):
        setup_of(device=cpu, tf32="on")


def test_the_matrix_knows_the_runtime_by_its_provider():
    stacks = [subject.Backend().stack(setup_of(provider=provider).options) for provider in ("cuda", "tensorrt")]
    assert stacks == ["onnxruntime", "onnxruntime_tensorrt"]


# Precision


def test_fp16_is_the_models_or_tensorrts(installed):
    installed()
    with pytest.raises(
        Unsupported, match=r"m\.onnx is not known to have fp16 weights; .*onnxruntime\.provider=tensorrt"
    ):
        opened(installed, precision="fp16")
    assert "precision" not in opened(installed, precision="fp16", provider="tensorrt").effective()
    installed.model.write_bytes(b"half")
    assert opened(installed, precision="fp16").effective()["precision"] == "fp16"


def test_without_onnx_the_precision_is_not_claimed(installed, monkeypatch):
    installed()
    monkeypatch.setattr(opening, "carries_fp16", lambda model: None)
    assert "precision" not in opened(installed).effective()


def test_a_model_of_fp16_weights_is_no_fp32(installed):
    installed()
    installed.model.write_bytes(b"half")
    setup = setup_of()
    found = backends.deviations(setup.case, setup.options, opened(installed).effective())
    assert found == ("precision: fp32 asked, fp16 in effect",)


def test_fp16_is_refused_on_a_cpu(installed):
    installed()
    with pytest.raises(Unsupported, match="onnxruntime runs fp32 on a cpu; not fp16"):
        opened(installed, precision="fp16", device=catalog.profile("cpu"))


# Latencies


PINNED_NS = CALL_NS + 2 * FakeCuda().copy_ns + fake.COMPUTE_NS - fake.ENQUEUE_NS
PAGEABLE_NS = fake.COMPUTE_NS + 2 * fake.COPY_NS


@pytest.mark.parametrize(
    ("bindings", "cuda_graph", "compute_ns", "end_to_end_ns", "memory"),
    [
        (True, "off", fake.COMPUTE_NS, PINNED_NS, "in by pinned memory"),
        # ONNX Runtime has waited by itself when ours begins, so its call comes on top.
        (True, "on", fake.COMPUTE_NS + CALL_NS, PINNED_NS + CALL_NS, "in by pinned memory"),
        (False, "off", fake.COMPUTE_NS, PAGEABLE_NS, "in from pageable memory"),
        (False, "on", fake.COMPUTE_NS, PAGEABLE_NS, "in from pageable memory"),
    ],
)
def test_latencies_are_those_of_the_clock(installed, bindings, cuda_graph, compute_ns, end_to_end_ns, memory):
    made = installed(bindings=bindings)
    session = opened(installed, cuda_graph=cuda_graph)
    session.feed([images()])
    measurement = session.measure(FEW, clock=made.clock)
    assert measurement.intervals["compute"].samples_ns == (compute_ns,) * 5
    assert measurement.intervals["end_to_end"].samples_ns == (end_to_end_ns,) * 5
    assert memory in session.semantics()["end_to_end"]


def test_spans_are_those_between_events(installed):
    installed()
    assert "device" in subject.Backend().intervals_on("gpu")
    session = opened(installed)
    session.feed([images()])
    assert session.measure(ALL).intervals["device"].samples_ns == (fake.COMPUTE_NS,) * 5
    assert session.validity() == ()


@pytest.mark.parametrize("bindings", [True, False])
def test_inputs_have_arrived_before_anything_is_timed(installed, bindings):
    made = installed(bindings=bindings)
    session = opened(installed)
    session.feed([images()])
    began = made.clock.now
    session.run()
    assert made.clock.now - began == fake.COMPUTE_NS


@pytest.mark.parametrize(("synchronous", "reasons"), [(True, []), (False, ["unsynchronised"])])
def test_a_run_that_does_not_wait_is_found_out(installed, synchronous, reasons):
    installed(bindings=False, synchronous=synchronous)
    session = opened(installed)
    session.feed([images()])
    found = session.validity()
    assert [each.reason for each in found] == reasons
    if found:
        assert found[0].evidence == "0.990 ms of work were left after a call of 0.010 ms"


# A stream of ours


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_every_provider_gets_the_one_stream(installed, provider):
    made = installed()
    session = opened(installed, provider=provider)
    asked = made.sessions[-1].asked
    assert {options["user_compute_stream"] for options in asked.values()} == {str(int(session._stream))}
    assert list(asked) == list(opening.ON_GPU[provider])
    assert made.sessions[-1]._stream == int(session._stream)


def test_a_provider_that_says_it_has_another_stream_is_refused(installed):
    made = installed(another=True)
    with pytest.raises(Failed, match="did not take the stream that it was given; CUDAExecutionProvider has another"):
        opened(installed)
    ours = [what for what in made.gpu.alive.values() if what != "stream"]
    assert ours == []
    assert "cudaStreamDestroy" in made.gpu.calls


def test_work_on_another_stream_is_found_out(installed):
    installed(ignores=True)
    session = opened(installed)
    session.feed([images()])
    (found,) = evidence(session)
    assert re.fullmatch(r"0\.98\d ms of work were left after a call of 0\.01\d ms", found)


def test_work_on_another_stream_has_no_span_however_short_it_is(installed, monkeypatch):
    """So short that nothing would be left to wait for."""
    monkeypatch.setattr(fake, "COMPUTE_NS", fake.ENQUEUE_NS + 100)
    installed(ignores=True)
    session = opened(installed)
    session.feed([images()])
    assert session.validity() == ()
    with pytest.raises(Failed, match=r"^ONNX Runtime computes on another stream than the one that it was given$"):
        session.measure(ALL)


def test_a_runtime_that_waits_whatever_it_is_told_has_no_span(installed):
    installed(waits_inside=True)
    session = opened(installed)
    session.feed([images()])
    with pytest.raises(Unsupported, match=r"^ONNX Runtime waits for the GPU before a run returns; a span between ev"):
        session.measure(ALL)
    assert session.measure(FEW).intervals.keys() == set(BOTH)


def test_waiting_that_does_not_wait_is_found_out(installed):
    installed(gpu=FakeCuda(waits=False))
    session = opened(installed)
    session.feed([images()])
    assert len(evidence(session)) == 1
    with pytest.raises(Failed, match="CUDA's events tell no time of the inference"):
        session.measure(ALL)


def test_work_that_does_not_grow_is_found_out(installed):
    installed(grows=False)
    session = opened(installed)
    session.feed([images()])
    session.measure(ALL)
    assert evidence(session) == ["4 inferences took 1.000 ms where one took 1.000 ms"]


@pytest.mark.parametrize(("bindings", "said"), [(True, "1.000 ms"), (False, r"1\.0\d\d ms")])
def test_compute_must_grow_with_work(installed, bindings, said):
    """Without `device`, too: by events, or without a stream of ours by the host's clock."""
    made = installed(bindings=bindings)
    session = opened(installed)
    session.feed([images()])
    session.measure(FEW)
    assert session.validity() == ()
    made.grows = False
    (found,) = evidence(session)
    assert re.fullmatch(f"4 inferences took {said} where one took {said}", found)
    assert not made.gpu or "cudaEventElapsedTime" in made.gpu.calls


@pytest.mark.parametrize(
    ("behaviour", "options"), [({}, {"cuda_graph": "on"}), ({"left_by_tensorrt": ("Relu",)}, {"provider": "tensorrt"})]
)
def test_growth_is_by_the_hosts_clock_where_onnxruntime_waits_inside(installed, monkeypatch, behaviour, options):
    made = installed(**behaviour)
    session = opened(installed, **options)
    session.feed([images()])
    assert session.validity() == ()
    assert "cudaEventElapsedTime" not in made.gpu.calls
    monkeypatch.setattr(streamed, "ungrown", lambda burst_ms: [Validity("unsynchronised", f"{burst_ms(4):.3f} ms")])
    assert evidence(session) == ["4.001 ms"]


# What TensorRT was allowed


TYPES = {
    ("fp32", ()): ("", None),
    ("fp32", (8, 6, 1)): ("weak", None),
    ("fp32", (10, 4, 0)): ("strong", "fp32"),
    ("fp16", ()): ("weak", None),
    ("fp16", (10, 16, 1)): ("weak", None),
    ("fp16", (11, 0, 0)): ("strong", "fp32"),
}


@pytest.mark.parametrize(("precision", "version"), TYPES)
def test_who_chose_types_is_on_record(installed, monkeypatch, precision, version):
    installed()
    monkeypatch.setattr(opening, "tensorrt_version", lambda: version)
    session = opened(installed, provider="tensorrt", precision=precision)
    session.feed([images()])
    effective = session.effective()
    assert (effective.get("typing", ""), effective.get("precision")) == TYPES[precision, version]
    assert effective.get("tensorrt", "") == ".".join(map(str, version))
    doubts = ["ONNX Runtime doesn't tell which layers TensorRT computes in fp16, if any"]
    assert evidence(session, "unwatched") == (doubts if precision == "fp16" and version < (11,) else [])


@pytest.mark.parametrize(("number", "version"), [(8601, (8, 6, 1)), (101601, (10, 16, 1)), (110400, (11, 4, 0))])
def test_tensorrts_version_is_that_of_the_library_that_is_loaded(tmp_path, monkeypatch, number, version):
    maps = tmp_path / "maps"
    monkeypatch.setattr(opening, "MAPS", maps)
    libraries = {"/opt/TensorRT 10/lib/libnvinfer.so.10.16.1": number}
    load = lambda path: SimpleNamespace(getInferLibVersion=lambda: libraries[path])  # noqa: E731
    monkeypatch.setattr(opening.ctypes, "CDLL", load)
    assert opening.tensorrt_version() == ()
    maps.write_text("7f0-7f1 r-xp 0 08:01 7  /opt/TensorRT 10/lib/libnvinfer_plugin.so.10\n")
    assert opening.tensorrt_version() == ()
    with maps.open("a") as file:
        file.write("7f2-7f3 r-xp 0 08:01 8      /opt/TensorRT 10/lib/libnvinfer.so.10.16.1\n")
    assert opening.tensorrt_version() == version


def test_a_library_without_a_version_has_none(tmp_path, monkeypatch):
    (tmp_path / "maps").write_text(f"7f2-7f3 r-xp 0 08:01 8      {tmp_path}/libnvinfer.so.10\n")
    monkeypatch.setattr(opening, "MAPS", tmp_path / "maps")
    assert opening.tensorrt_version() == ()


def test_nothing_is_there_before_it_was_waited_for(installed):
    """Of the fake: else the tests of what is computed would prove nothing."""
    made = installed()
    session = opened(installed)
    fed = images()
    session.feed([fed])
    session._enqueue()
    assert made.gpu._streams[int(session._stream)].todo
    assert (session._outputs[0].array != fake.computed(fed)).any()
    session._arrived()
    assert (session._outputs[0].array == fake.computed(fed)).all()


def test_the_replay_of_a_graph_has_no_span(installed):
    made = installed()
    session = opened(installed, cuda_graph="on")
    session.feed([images()])
    with pytest.raises(Unsupported, match=r"waits for the replay of a CUDA graph by itself; .* leave out the inte"):
        session.measure(ALL)
    assert made.inferences == 0


@pytest.mark.parametrize("tells", [True, False])
def test_parts_of_a_graph_in_tensorrt_have_no_span(installed, tells):
    installed(tells=tells, left_by_tensorrt=("Gemm",))
    session = opened(installed, provider="tensorrt")
    session.feed([images()])
    with pytest.raises(Unsupported, match="TensorRT did not take whole; elsewhere are Gemm, Shape, and a span"):
        session.measure(ALL)


def test_a_graph_that_tensorrt_took_whole_has_one(installed):
    installed(on_cpu=())
    session = opened(installed, provider="tensorrt")
    session.feed([images()])
    assert session.measure(ALL).intervals["device"].samples_ns == (fake.COMPUTE_NS,) * 5
    assert session.validity() == ()


def test_without_a_cuda_runtime_the_interval_device_says_what_to_install(installed):
    made = installed(bindings=False)
    session = opened(installed)
    session.feed([images()])
    said = r"^the interval device takes a stream and .*; the CUDA runtime is not installed; .* pip install 'cuda-b"
    for ask in (lambda: session.measure(ALL), session.intervals()["device"]):
        with pytest.raises(Unavailable, match=said) as raised:
            ask()
        assert "\n" not in str(raised.value)
    assert made.inferences == 0
    assert "user_compute_stream" not in made.sessions[0].asked[fake.CUDA]


@pytest.mark.parametrize(
    ("runtime", "said"),
    [(12090, "cudaErrorInsufficientDriver"), (13040, "the NVIDIA driver serves CUDA 12.4, cuda-bindings is for 13.4")],
)
def test_a_cuda_runtime_that_the_driver_does_not_serve_is_as_good_as_none(installed, runtime, said):
    made = installed(gpu=FakeCuda(runtime=runtime, errors={"cudaSetDevice": 35}))
    assert worker.answer_to(Probe("onnxruntime", T4)) == Version(version="1.31.1")
    session = opened(installed)
    assert "pageable" in session.semantics()["end_to_end"]
    with pytest.raises(Unavailable, match=said):
        session.measure(ALL)
    assert made.gpu.alive.keys() == {made.sessions[0]._stream}


def test_a_closed_session_leaves_nothing(installed):
    made = installed()
    session = opened(installed)
    session.feed([images()])
    session.run()
    assert set(map(str, made.gpu.alive.values())) > {"stream", "event"}
    session.close()
    assert made.gpu.alive == {}


def test_a_session_that_does_not_open_leaves_no_stream(installed):
    made = installed(silent=True)
    with pytest.raises(Unavailable):
        subject.Backend().open(installed.model, setup_of())
    assert made.gpu.alive.keys() <= {session._stream for session in made.sessions}


def test_other_shapes_get_memory_of_their_own(installed):
    made = installed()
    session = opened(installed)
    session.feed([images(4)])
    before = len(made.gpu.alive)
    session.feed([images(4, seed=3)])
    assert made.gpu.calls.count("cudaMallocHost") == 2
    session._opened = session._opened._replace(setup=setup_of(batch_size=2))
    session.feed([images(2)])
    session.run()
    assert (session.fetch()[0] == fake.computed(images(2))).all()
    assert (made.gpu.calls.count("cudaMallocHost"), len(made.gpu.alive)) == (4, before)


@pytest.mark.parametrize("call", ["cudaStreamSynchronize", "cudaMemcpyAsync"])
def test_an_error_of_the_gpu_is_its_reason(installed, call):
    made = installed()
    session = opened(installed)
    session.feed([images()])
    made.gpu.errors = {call: 700}
    with pytest.raises(Failed, match=r"^the GPU broke off its work: cudaErrorIllegalAddress \(700\)"):
        session.end_to_end()


def test_probing_takes_the_gpu_before_onnxruntime_does(installed):
    made = installed()
    worker.answer_to(Probe("onnxruntime", T4))
    assert made.gpu.calls[:2] == ["cudaSetDeviceFlags", "cudaSetDevice"]


def test_opening_does_not_repeat_what_probing_did(installed, monkeypatch):
    installed()
    monkeypatch.setattr(opening, "require_cuda", lambda _: pytest.fail("once more"))
    monkeypatch.setattr(opening, "inputs", lambda _: pytest.fail("another session"))
    opened(installed)
    monkeypatch.undo()


# Engines of TensorRT


def test_tensorrt_gets_the_batch_as_its_only_shape(installed, tmp_path):
    made = installed()
    engine = built(installed, provider="tensorrt", precision="fp16", batch_size=8)
    (options,) = made.built
    assert {name: options[name] for name in fake.SWITCHES} == {
        "trt_fp16_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_cuda_graph_enable": "False",
    }
    assert {options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")} == {"x:8x3x8x8"}
    assert Path(options["trt_engine_cache_path"]) == engine.parent / "engines"
    assert Path(options["trt_timing_cache_path"]).is_relative_to(tmp_path / "cache")
    assert (engine.name, engine.read_bytes()) == ("m.onnx", b"weights")
    assert sorted(path.suffix for path in (engine.parent / "engines").iterdir()) == [".engine", ".profile"]


def test_what_is_missing_is_said_before_anything_is_built(installed):
    made = installed(available=(fake.CPU,))
    with pytest.raises(Unavailable, match=r"ONNX Runtime 1\.31\.1 has no CUDAExecutionProvider"):
        built(installed, provider="tensorrt")
    assert made.sessions == []


def test_external_weights_travel_with_the_model(installed):
    installed()
    installed.model.with_name("m.onnx.data").write_bytes(b"more weights")
    engine = built(installed, provider="tensorrt")
    assert engine.with_name("m.onnx.data").read_bytes() == b"more weights"


def test_what_was_built_is_opened_as_it_is(installed):
    made = installed()
    engine = built(installed, provider="tensorrt")
    before = {path: path.stat().st_mtime_ns for path in engine.parent.rglob("*")}
    session = opened(installed, engine, provider="tensorrt")
    assert list(made.sessions[-1].get_provider_options()) == [fake.TENSORRT, fake.CUDA, fake.CPU]
    assert len(made.built) == 1
    assert {path: path.stat().st_mtime_ns for path in engine.parent.rglob("*")} == before
    assert made.sessions[-1].asked[fake.TENSORRT]["trt_timing_cache_enable"] == "False"
    session.feed([images()])
    session.run()
    assert (session.fetch()[0] == fake.computed(images())).all()


def first_engine(engine):
    (file,) = (engine.parent / "engines").glob("*.engine")
    return file


STALE = {
    "cut off": (lambda engine: first_engine(engine).write_bytes(b"half an eng"), "can't read its engine; could not"),
    "gone": (lambda engine: first_engine(engine).unlink(), "the folder engines beside it holds none"),
    "without facts": (lambda engine: (engine.parent / engines.FACTS).unlink(), "engines.json beside it is missing"),
    "damaged facts": (lambda engine: (engine.parent / engines.FACTS).write_bytes(b"\xff{"), "is missing or damaged"),
}


@pytest.mark.parametrize("how", STALE)
def test_engines_that_are_damaged_are_stale(installed, tmp_path, how):
    installed()
    engine = built(installed, provider="tensorrt")
    damage, said = STALE[how]
    damage(engine)
    with pytest.raises(Stale, match=re.escape(said)) as raised:
        opened(installed, engine, provider="tensorrt")
    assert str(tmp_path) not in str(raised.value)
    assert str(raised.value).endswith("the next run builds it again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "fp16"}, "built for precision fp32; here it is fp16"),
        ({"batch_size": 8}, "built for batches of 4; here it is 8"),
        ({}, "built for ONNX Runtime 1.31.1; here it is 1.26.0"),
    ],
)
def test_engines_of_something_else_are_stale(installed, change, said):
    installed()
    engine = built(installed, provider="tensorrt")
    if not change:
        sys.modules["onnxruntime"].__version__ = "1.26.0"
    with pytest.raises(Stale, match=re.escape(said)):
        opened(installed, engine, provider="tensorrt", **change)


def test_engines_of_another_tensorrt_are_stale(installed, monkeypatch):
    """Though ONNX Runtime should take them."""
    installed()
    monkeypatch.setattr(opening, "tensorrt_version", lambda: (10, 4, 0))
    engine = built(installed, provider="tensorrt")
    opened(installed, engine, provider="tensorrt")
    for version, said in (((10, 16, 1), "10.16.1"), ((), "unknown")):
        monkeypatch.setattr(opening, "tensorrt_version", lambda version=version: version)
        with pytest.raises(Stale, match=rf"^the engines were built by TensorRT 10\.4\.0; here it is {said}; "):
            opened(installed, engine, provider="tensorrt")


@pytest.mark.parametrize("beside", [True, False], ids=["under another name", "in its place"])
def test_an_engine_that_is_made_anew_while_opening_is_stale(installed, tmp_path, beside):
    made = installed()
    engine = built(installed, provider="tensorrt")
    if beside:
        file = first_engine(engine)
        file.rename(file.with_name("another.engine"))
    else:
        made.rebuilds = True
    with pytest.raises(Stale, match=r"did not take its engines as they were; changed: .*sm75\.engine") as raised:
        opened(installed, engine, provider="tensorrt")
    assert str(tmp_path) not in str(raised.value)


def test_the_session_that_is_profiled_must_take_them_too(installed):
    made = installed(tells=False)
    session = opened(installed, provider="tensorrt")
    made.rebuilds = True
    with pytest.raises(Stale, match="did not take its engines as they were"):
        session.effective()


def test_a_model_that_tensorrt_takes_nothing_of_has_no_engine(installed):
    installed(takes_nothing=True)
    with pytest.raises(Failed, match=r"^TensorRT takes no part of m\.onnx; ONNX Runtime wrote no engine of it$"):
        built(installed, provider="tensorrt")


def test_reasons_name_no_folder(installed, tmp_path, monkeypatch):
    installed()

    def fail(_, options, model):
        raise OSError(f"{options['trt_engine_cache_path']}/a, {options['trt_timing_cache_path']}/b: no space")

    monkeypatch.setattr(fake, "make_engine", fail)
    with pytest.raises(Failed, match=r"^ONNX Runtime cannot open m\.onnx; engines/a, [0-9a-f]{32}\.timings/b: no s"):
        built(installed, provider="tensorrt")


def test_builds_are_numbered_and_each_can_be_repeated(installed):
    """By the timings that are kept for its number."""
    made = installed()
    numbers = ("1", "2", "3", "1", "2", "3")
    contents = [
        first_engine(built(installed, f"b{index}", provider="tensorrt", build=number)).read_bytes()
        for index, number in enumerate(numbers)
    ]
    assert len(made.built) == 6
    assert len(set(contents)) == 3
    assert contents[:3] == contents[3:]


def test_builds_may_differ_in_speed_and_are_told_apart(installed, tmp_path):
    installed(on_cpu=(), span_ns=(1_000_000, 1_200_000))
    backend, cache = subject.Backend(), Cache(tmp_path / "cache")
    medians, artifacts = [], []
    for number in ("1", "2"):
        setup = setup_of(provider="tensorrt", build=number)

        def make(folder, setup=setup):
            return Made(format=engines.FORMAT, file=backend.build(installed.model, folder, setup).name)

        artifacts.append(cache.get(engines.FORMAT, backend.variant(setup), make))
        session = backend.open(Path(artifacts[-1].path), setup)
        session.feed([images()])
        medians.append(median(session.measure(FEW).intervals["compute"].samples_ns))
        session.close()
    assert medians == [1_000_000, 1_200_000]
    assert len({artifact.sha256 for artifact in artifacts}) == 2


def test_timings_of_one_batch_serve_the_next_but_not_another_gpu(installed):
    made = installed()
    other = {"gpu": {**FACTS, "name": "Tesla V100"}}
    for index, change in enumerate(({}, {"batch_size": 8}, {"found": other}, {"precision": "fp16"}, {"tf32": "on"})):
        built(installed, f"b{index}", provider="tensorrt", **change)
    folders = [options["trt_timing_cache_path"] for options in made.built]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_timings_that_tensorrt_does_not_take_are_forgotten(installed):
    made = installed()
    built(installed, "b1", provider="tensorrt")
    (file,) = Path(made.built[0]["trt_timing_cache_path"]).iterdir()
    file.write_bytes(b"cut")
    engine = built(installed, "b2", provider="tensorrt")
    assert file.read_bytes() in first_engine(engine).read_bytes()


def test_one_build_at_a_time_has_the_timings(installed, monkeypatch):
    installed()
    seen = []

    def make(_, options, model):
        folder = Path(options["trt_timing_cache_path"])
        with pytest.raises(Timeout):
            FileLock(folder.with_suffix(".lock"), timeout=0).acquire()
        (Path(options["trt_engine_cache_path"]) / "a.engine").write_bytes(b"")
        seen.append(folder)

    monkeypatch.setattr(fake, "make_engine", make)
    built(installed, provider="tensorrt")
    with FileLock(seen[0].with_suffix(".lock"), timeout=0):
        pass


def test_no_two_engines_share_a_key():
    backend = subject.Backend()

    def variant(**change):
        return tuple(sorted(backend.variant(setup_of(provider="tensorrt", **change)).items()))

    plain = variant()
    others = [
        variant(precision="fp16"),
        variant(batch_size=8),
        variant(tf32="on"),
        variant(optimization="off"),
        variant(build="2"),
        variant(found={"gpu": {**FACTS, "name": "Tesla V100"}}),
        variant(found={"gpu": {**FACTS, "driver": "550.54"}}),
        variant(found={"gpu": {**FACTS, "capability": [8, 0]}}),
    ]
    assert len({plain, *others}) == 1 + len(others)
    assert variant() == variant(cuda_graph="on") == variant(spinning="off") == plain
    assert backend.variant(setup_of(provider="cuda")) == {}


def test_builds_are_of_tensorrt_alone(installed):
    backend = subject.Backend()
    options = {provider: setup_of(provider=provider).options for provider in ("cuda", "tensorrt")}
    assert [backend.engine_with(each) for each in options.values()] == ["", "onnxruntime_tensorrt"]
    assert [backend.builds_with(each) for each in options.values()] == [1, 3]
    with pytest.raises(
        UsageError, match=r"\.build means nothing here; engines are built with onnxruntime\.provider=tensorrt"
    ):
        backend.engine_with(setup_of(provider="cuda", build="2").options)
    with pytest.raises(UsageError, match=r"onnxruntime\.build takes a whole number; found '1\.5'"):
        backend.builds_with(setup_of(provider="tensorrt", build="1.5").options)
    installed()
    assert backend.build(installed.model, installed.model.parent, setup_of()) == installed.model


def test_a_sealed_entry_is_opened_and_a_changed_one_made_again(installed, tmp_path):
    made = installed()
    cache = Cache(tmp_path / "cache")
    setup = setup_of(provider="tensorrt")

    def make(folder):
        return Made(format=engines.FORMAT, file=subject.Backend().build(installed.model, folder, setup).name)

    def engine():
        return Path(cache.get(engines.FORMAT, {"setup": "this"}, make).path)

    opened(installed, engine(), provider="tensorrt")
    opened(installed, engine(), provider="tensorrt")
    assert len(made.built) == 1
    first_engine(engine()).write_bytes(b"an engine by somebody else")
    opened(installed, engine(), provider="tensorrt")
    assert len(made.built) == 2


# Outputs


@pytest.mark.parametrize("bindings", [True, False])
@pytest.mark.parametrize("cuda_graph", ["off", "on"])
def test_outputs_are_those_of_what_was_fed(installed, cuda_graph, bindings):
    installed(bindings=bindings)
    session = opened(installed, cuda_graph=cuda_graph)
    first, second = images(seed=1), images(seed=2)
    session.feed([first])
    addresses = [id(value) for value in (*session._inputs.values(), *session._outputs)]
    session.run()
    held = session.fetch()
    session.feed([second])
    assert [id(value) for value in (*session._inputs.values(), *session._outputs)] == addresses
    session.run()
    assert (held[0] == fake.computed(first)).all()
    assert (session.fetch()[0] == fake.computed(second)).all()
    session.feed([first])
    first[:] = second  # which end_to_end copies in
    assert (session.end_to_end()[0] == fake.computed(second)).all()
    session.close()


def test_an_output_of_unknown_shape_is_unsupported(installed):
    installed(outputs=("batch", "boxes", 4))
    session = opened(installed)
    with pytest.raises(Unsupported, match=r"^an output's shape is not known before it is computed; it is"):
        session.feed([images()])


# Faults


def test_a_sound_case_is_measured(installed, tmp_path):
    installed()
    answer = measured(installed, tmp_path)
    assert isinstance(answer, Measured), answer
    assert answer.parity.max_error == 0
    assert answer.effective["compute_nodes"] == {fake.CUDA: 28}
    assert answer.semantics.keys() == {"end_to_end"}
    assert "by pinned memory" in answer.semantics["end_to_end"]
    assert not {"misconfigured", "unsynchronised"} & {found.reason for found in answer.validity}


def test_all_intervals_of_a_sound_case_are_measured(installed, tmp_path, monkeypatch):
    installed()
    answer = measured(installed, tmp_path, ALL)
    assert isinstance(answer, Measured), answer
    assert answer.measurement.intervals["device"].samples_ns == (fake.COMPUTE_NS,) * 5
    assert not {"misconfigured", "unsynchronised"} & {found.reason for found in answer.validity}


def test_a_worker_builds_and_tells_what_is_stale(installed, tmp_path):
    installed()
    (tmp_path / "entry").mkdir()
    setup = setup_of(provider="tensorrt", build="2")
    answer = worker.answer_to(Build(setup, str(installed.model), str(tmp_path / "entry")))
    assert isinstance(answer, Folder), answer
    assert (answer.made.format, answer.made.file) == ("onnxruntime_tensorrt", "m.onnx")
    engine = tmp_path / "entry" / answer.made.file
    first_engine(engine).write_bytes(b"half an eng")
    answer = worker.answer_to(Measure(setup, FEW, str(engine), ""))
    assert isinstance(answer, Problem)
    assert answer.status == "stale"


def test_a_misplaced_node_is_a_doubt_of_the_answer(installed, tmp_path):
    installed(on_cpu=("Conv",))
    found = measured(installed, tmp_path).validity
    assert ("misconfigured", "27 Conv on CPUExecutionProvider, not CUDAExecutionProvider") in [
        (each.reason, each.evidence) for each in found
    ]


def test_a_replayed_graph_says_so(installed, tmp_path):
    installed()
    semantics = measured(installed, tmp_path, cuda_graph="on").semantics
    assert semantics.keys() == set(FEW.intervals)
    assert all("one replay of a CUDA graph" in words for words in semantics.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Failed to allocate memory for requested buffer of size 83886", "out of memory on the GPU; Failed to all"),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", "the GPU broke off a kernel"),
        ("CUDA failure 999: GPU is lost ; GPU=0", "the GPU was lost"),
        ("something that nobody has seen yet", "ONNX Runtime broke off the inference; something that nobody has seen"),
    ],
)
@pytest.mark.parametrize("inference", [1, 4, 7, 13])
def test_a_fault_at_any_time_fails_the_case_and_never_moves_it_to_the_cpu(installed, tmp_path, text, words, inference):
    made = installed(faults={inference: text})
    answer = measured(installed, tmp_path)
    assert isinstance(answer, Problem)
    assert answer.status == "failed"
    assert answer.reason.startswith(words)
    assert {session.get_providers()[0] for session in made.sessions} == {fake.CUDA}


def test_wrong_outputs_fail_parity(installed, tmp_path, monkeypatch):
    installed()
    inputs = images(10)
    parity.save(tmp_path / "reference.npz", inputs, [fake.computed(inputs) + 1], "another network")
    setup = setup_of()
    answer = worker.answer_to(Measure(setup, FEW, str(installed.model), str(tmp_path / "reference.npz")))
    assert answer.status == "failed"
    assert answer.reason.startswith("output differs from another network")


# The real wheel for CPUs

NAMES = {
    "SessionOptions": ["add_session_config_entry", "enable_profiling", "profile_file_prefix"],
    "RunOptions": ["add_run_config_entry"],
    "InferenceSession": [name for name in vars(fake.OlderSession) if not name.startswith("_") and name != "placed"],
    "OrtValue": ["ortvalue_from_numpy", "ortvalue_from_shape_and_type", "update_inplace", "shape", "numpy", "data_ptr"],
    "IOBinding": [name for name in vars(fake.IOBinding) if not name.startswith("_")],
}


@pytest.mark.runtime
@pytest.mark.parametrize("name", NAMES)
def test_the_real_module_has_what_the_fake_has(name):
    import onnxruntime

    assert [each for each in NAMES[name] if each != "behaviour" and not hasattr(getattr(onnxruntime, name), each)] == []


class Prompt(FakeCuda):
    """Does all work when it is given, as the real runtime for CPUs does."""

    def give(self, stream, took_ns, action=lambda: None):
        action()


@pytest.mark.runtime
@pytest.mark.parametrize("streamed", [True, False], ids=["by pinned memory", "by ONNX Runtime"])
def test_the_path_of_a_gpu_computes_the_same_on_a_cpu(tmp_path, monkeypatch, streamed):
    """Bound inputs and outputs of the real runtime, in memory of the kind "cpu"."""
    import numpy as np
    import onnxruntime

    model = tmp_path / "m.onnx"
    model.write_bytes(small_model())
    session = onnxruntime.InferenceSession(model, providers=[fake.CPU])
    facts = Opened(session, model, setup_of(), list, "cpu")
    monkeypatch.setattr(cuda, "load", lambda: cuda.Cuda(Prompt()))
    run = StreamSession(facts, Lane.make()) if streamed else OrtGpuSession(facts)
    for seed in (1, 2):
        fed = images(seed=seed)
        run.feed([fed])
        run.run()
        assert np.allclose(run.fetch()[0], session.run(None, {"x": fed})[0])
        fed[:] = images(seed=seed + 2)
        assert np.allclose(run.end_to_end()[0], session.run(None, {"x": fed})[0])
        assert np.allclose(run.end_to_end()[0], run.fetch()[0]) or not streamed
    assert opening.carries_fp16(model) is False
    assert streamed or run.validity() == (), "events of the fake GPU see nothing of what the CPU computes"
    run.close()
    model.write_bytes(small_model(half=True))
    assert opening.carries_fp16(model) is True


def small_model(half=False):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((5, 3, 3, 3), np.float32), "w")
    spare = numpy_helper.from_array(np.ones(2, np.float16 if half else np.float32), "spare")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    shapes = (["n", *SHAPE], ["n", 5, 6, 6])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, spare])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@pytest.mark.runtime
@pytest.mark.parametrize("job", ["probe", "measure"])
def test_the_real_wheel_for_cpus_is_refused_a_gpu(tmp_path, job):
    """In a worker, as `bench run` asks; nothing of a time under the GPU's name comes back."""
    from bench import environment
    from bench.artifacts import Cache
    from bench.prepare import Workshop

    model = tmp_path / "m.onnx"
    model.write_bytes(small_model())
    workshop = Workshop(Cache(tmp_path / "cache"), FEW, environment.cpus_available(), print)
    jobs = {"probe": Probe("onnxruntime", T4), "measure": Measure(setup_of(), FEW, str(model), "")}
    answer = workshop.ask(jobs[job], dict(os.environ))
    assert isinstance(answer, Problem)
    assert answer.status == "unavailable"
    assert "has no CUDAExecutionProvider; it has " in answer.reason
    assert "onnxruntime-gpu" in answer.reason
