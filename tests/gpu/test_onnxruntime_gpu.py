"""ONNX Runtime on a GPU, through a fake that goes back to the CPU in every way that the real one was seen to."""

import os
import sys
from pathlib import Path

import pytest
from fakes import ort as fake
from filelock import FileLock, Timeout

from bench import backends, catalog, parity, worker
from bench.backends import Setup
from bench.backends import onnxruntime as subject
from bench.errors import Failed, Unavailable, Unsupported
from bench.jobs import Measure, Measured, Probe, Problem, Version
from bench.schema import Case, Settings

T4 = catalog.profile("t4")
SHAPE = (3, 8, 8)
BOTH = ("compute", "end_to_end")
FEW = Settings(intervals=BOTH, warmup=2, iterations=5)
FACTS = {"name": "Tesla T4", "capability": [7, 5], "driver": "535.104"}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Puts a fake with some behaviour in place of the module, and a model where one is wanted."""
    (tmp_path / "m.onnx").write_bytes(b"weights")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subject, "carries_fp16", lambda model: b"half" in model.read_bytes())

    def install(**behaviour):
        made = fake.Behaviour(**behaviour)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake.module(made))
        return made

    install.model = tmp_path / "m.onnx"
    return install


def setup_of(precision="fp32", batch_size=4, device=T4, found=None, **options):
    case = Case("m", "onnxruntime", device.name, precision, batch_size, 1)
    settled = backends.settle(subject.Backend(), options, device.kind)
    return Setup(case, device, settled, SHAPE, {"gpu": FACTS} if found is None else found)


def opened(installed, **options):
    return subject.Backend().open(installed.model, setup_of(**options))


def images(count=4, seed=0):
    import numpy as np

    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def measured(installed, tmp_path, settings=FEW, **options):
    """The worker's own answer, in this process."""
    inputs = images(10)
    parity.save(tmp_path / "reference.npz", inputs, [fake.computed(inputs)], "the fake")
    setup = setup_of(**options)
    return worker.answer_to(Measure(setup, settings, str(installed.model), str(tmp_path / "reference.npz")))


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
    monkeypatch.setattr(subject.tempfile, "mkdtemp", lambda: str(tmp_path / "profile"))
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


def test_tensorrt_gets_the_batch_as_its_only_shape_and_caches_of_its_own(installed, tmp_path):
    made = installed()
    opened(installed, provider="tensorrt", precision="fp16", batch_size=8)
    given = made.sessions[-1].get_provider_options()
    assert list(given) == [fake.TENSORRT, fake.CUDA, fake.CPU]
    options = given[fake.TENSORRT]
    assert {name: made.sessions[-1].asked[fake.TENSORRT][name] for name in fake.SWITCHES} == {
        "trt_fp16_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_cuda_graph_enable": "False",
    }
    assert {options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")} == {"x:8x3x8x8"}
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"]
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert Path(options["trt_engine_cache_path"]).is_relative_to(tmp_path / "cache")


def test_switches_of_tensorrt_are_words(installed):
    installed()
    effective = opened(installed, provider="tensorrt", cuda_graph="on").effective()
    assert effective["cuda_graph"] is True
    session = sys.modules["onnxruntime"].InferenceSession
    with pytest.raises(RuntimeError, match="The value for the key 'trt_fp16_enable'"):
        session(installed.model, providers=[(fake.TENSORRT, {"trt_fp16_enable": "1"})], enable_fallback=0)


def cache_of(tmp_path):
    (folder,) = (each for each in (tmp_path / "cache/onnxruntime_tensorrt").iterdir() if each.is_dir())
    return folder


def test_an_engine_that_tensorrt_cannot_read_is_made_anew(installed, tmp_path):
    installed()
    opened(installed, provider="tensorrt")
    (file,) = cache_of(tmp_path).iterdir()
    file.write_bytes(b"half an eng")
    (cache_of(tmp_path) / "old.timing").write_bytes(b"")
    opened(installed, provider="tensorrt")
    assert [(each.name, each.read_bytes()) for each in cache_of(tmp_path).iterdir()] == [(file.name, b"an engine")]


def test_one_that_it_never_can_read_is_a_reason_without_a_path(installed, tmp_path):
    installed(unreadable=True)
    with pytest.raises(Failed, match=r"^ONNX Runtime can't read an engine that it keeps; could not des") as raised:
        opened(installed, provider="tensorrt")
    assert str(tmp_path) not in str(raised.value)


def test_other_reasons_do_not_name_the_cache_either(installed, tmp_path, monkeypatch):
    installed()
    monkeypatch.setattr(fake, "make_engine", lambda _, cache: (_ for _ in ()).throw(OSError(f"{cache}/a: no space")))
    with pytest.raises(Failed, match=r"^ONNX Runtime cannot open m\.onnx; the cache/a: no space"):
        opened(installed, provider="tensorrt")


def test_one_process_at_a_time_has_a_cache(installed, tmp_path, monkeypatch):
    installed()
    seen = []

    def make(_, cache):
        with pytest.raises(Timeout):
            FileLock(cache.with_suffix(".lock"), timeout=0).acquire()
        seen.append(cache)

    monkeypatch.setattr(fake, "make_engine", make)
    opened(installed, provider="tensorrt")
    assert seen == [cache_of(tmp_path)]
    with FileLock(seen[0].with_suffix(".lock"), timeout=0):
        pass


def test_no_two_engines_share_a_cache(installed):
    made = installed()

    def cache(content=b"weights", version="1.31.1", beside=b"", **options):
        installed.model.write_bytes(content)
        installed.model.with_name("m.onnx.data").write_bytes(beside)
        sys.modules["onnxruntime"].__version__ = version
        opened(installed, provider="tensorrt", **options)
        return made.sessions[-1].get_provider_options()[fake.TENSORRT]["trt_engine_cache_path"]

    plain = cache()
    other_gpu = {"gpu": {**FACTS, "name": "Tesla V100"}}
    other_driver = {"gpu": {**FACTS, "driver": "550.54"}}
    others = [
        cache(b"other weights"),
        cache(beside=b"weights that the model names"),
        cache(version="1.26.0"),
        cache(precision="fp16"),
        cache(batch_size=8),
        cache(tf32="on"),
        cache(found=other_gpu),
        cache(found=other_driver),
    ]
    assert len({plain, *others}) == 1 + len(others)
    assert cache() == plain


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
    assert setup_of(device=cpu).options == {"optimization": "all", "spinning": "on"}
    assert subject.Backend().environment(setup_of(device=cpu).options) == {}
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
    monkeypatch.setattr(subject, "carries_fp16", lambda model: None)
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


@pytest.mark.parametrize(
    ("options", "compute_ns", "end_to_end_ns"),
    [
        ({}, fake.COMPUTE_NS, fake.COMPUTE_NS + 2 * fake.COPY_NS),
        ({"cuda_graph": "on"}, fake.COMPUTE_NS, fake.COMPUTE_NS + 2 * fake.COPY_NS),
    ],
    ids=["plain", "CUDA graph"],
)
def test_latencies_are_those_of_the_clock(installed, options, compute_ns, end_to_end_ns):
    made = installed()
    session = opened(installed, **options)
    session.feed([images()])
    measurement = session.measure(FEW, clock=made.clock)
    assert measurement.intervals["compute"].samples_ns == (compute_ns,) * 5
    assert measurement.intervals["end_to_end"].samples_ns == (end_to_end_ns,) * 5


def test_inputs_have_arrived_before_anything_is_timed(installed):
    made = installed()
    session = opened(installed)
    session.feed([images()])
    began = made.clock.now
    session.run()
    assert made.clock.now - began == fake.COMPUTE_NS


@pytest.mark.parametrize(("synchronous", "reasons"), [(True, []), (False, ["unsynchronised"])])
def test_a_run_that_does_not_wait_is_found_out(installed, synchronous, reasons):
    made = installed(synchronous=synchronous)
    session = opened(installed)
    session.clock = made.clock
    session.feed([images()])
    found = session.validity()
    assert [each.reason for each in found] == reasons
    if found:
        assert found[0].evidence == "0.990 ms of work were left after a call of 0.010 ms"


@pytest.mark.parametrize("cuda_graph", ["off", "on"])
def test_outputs_are_those_of_what_was_fed(installed, cuda_graph):
    installed()
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
    with pytest.raises(Failed, match="ONNX Runtime broke off the inference; an output's shape is not known"):
        session.feed([images()])


# Faults


def test_a_sound_case_is_measured(installed, tmp_path):
    installed()
    answer = measured(installed, tmp_path)
    assert isinstance(answer, Measured), answer
    assert answer.parity.max_error == 0
    assert answer.effective["compute_nodes"] == {fake.CUDA: 28}
    assert answer.semantics.keys() == {"end_to_end"}
    assert "pageable memory" in answer.semantics["end_to_end"]
    assert not {"misconfigured", "unsynchronised"} & {found.reason for found in answer.validity}


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
    "InferenceSession": [name for name in vars(fake.OlderSession) if not name.startswith("_") and name != "placed"],
    "OrtValue": ["ortvalue_from_numpy", "ortvalue_from_shape_and_type", "update_inplace", "shape", "numpy"],
    "IOBinding": [name for name in vars(fake.IOBinding) if not name.startswith("_")],
}


@pytest.mark.runtime
@pytest.mark.parametrize("name", NAMES)
def test_the_real_module_has_what_the_fake_has(name):
    import onnxruntime

    assert [each for each in NAMES[name] if each != "behaviour" and not hasattr(getattr(onnxruntime, name), each)] == []


@pytest.mark.runtime
def test_the_path_of_a_gpu_computes_the_same_on_a_cpu(tmp_path):
    """Bound inputs and outputs of the real runtime, in memory of the kind "cpu"."""
    import numpy as np
    import onnxruntime

    model = tmp_path / "m.onnx"
    model.write_bytes(small_model())
    session = onnxruntime.InferenceSession(model, providers=[fake.CPU])
    run = subject.OrtGpuSession(session, model, setup_of(), list, "cpu")
    for seed in (1, 2):
        fed = images(seed=seed)
        run.feed([fed])
        run.run()
        assert np.allclose(run.fetch()[0], session.run(None, {"x": fed})[0])
        assert np.allclose(run.end_to_end()[0], run.fetch()[0])
    assert subject.carries_fp16(model) is False
    assert run.validity() == ()
    model.write_bytes(small_model(half=True))
    assert subject.carries_fp16(model) is True


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
