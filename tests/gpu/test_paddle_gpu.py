"""Paddle on a GPU, without and with TensorRT, through a fake of Paddle 2.6 and 3 in builds for GPUs and for CPUs."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pytest
from fakes import paddle_gpu as fake

from bench import backends, catalog, cuda, overhear, parity, worker
from bench.artifacts import Cache, Made
from bench.backends import Setup, paddle_tensorrt
from bench.errors import Failed, Stale, Unavailable, Unsupported, UsageError
from bench.jobs import Build, Folder, Measure, Measured, Probe, Problem, Version
from bench.schema import Case, Settings

T4 = catalog.profile("t4")
SHAPE = (3, 4, 4)
FEW = Settings(intervals=("compute", "end_to_end"), warmup=2, iterations=5)
DEVICE = Settings(intervals=("device",), warmup=2, iterations=5)
BOTH = ["paddle", "paddle_tensorrt"]
GPU = {"gpu": {"name": "Tesla T4", "capability": [7, 5], "driver": "535.104"}}
IN_3 = {"conv2d": 9, "matmul": 1, "relu": 9, "softmax": 1}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Puts a fake with some behaviour in place of the modules; `source` is a model in the format that it reads.

    The CUDA runtime has the same GPU.
    """
    monkeypatch.setenv("HOME", str(tmp_path))

    def install(**behaviour):
        made = fake.Behaviour(**behaviour)
        monkeypatch.setattr(cuda, "load", lambda: cuda.Cuda(made.gpu))
        monkeypatch.setattr(backends.Session, "clock", staticmethod(made.clock))
        for name in [name for name in sys.modules if name.partition(".")[0] == "paddle"]:
            monkeypatch.delitem(sys.modules, name)
        for name, module in fake.modules(made).items():
            monkeypatch.setitem(sys.modules, name, module)
        newer = made.version[0] == "3"
        install.source = tmp_path / ("inference.json" if newer else "inference.pdmodel")
        install.source.write_text(fake.program(IN_3) if newer else "a program")
        install.source.with_suffix(".pdiparams").write_bytes(b"")
        return made

    return install


@pytest.fixture
def tensorrt(monkeypatch):
    """TensorRT's Python package, which Paddle 3 converts with."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake.modules(fake.Behaviour())["paddle"])


def setup_of(name, precision="fp32", batch_size=4, found=GPU, **options):
    case = Case("m", name, "t4", precision, batch_size, 1)
    return Setup(case, T4, backends.settle(backends.get(name), options, "gpu"), SHAPE, found)


def engine_of(installed, tmp_path, setup):
    """What `open` gets: for TensorRT an engine that was built."""
    if setup.case.backend == "paddle":
        return installed.source
    folder = tmp_path / "engine"
    folder.mkdir()
    return backends.get(setup.case.backend).build(installed.source, folder, setup)


def opened(installed, tmp_path, name="paddle_tensorrt", **options):
    setup = setup_of(name, **options)
    return backends.get(name).open(engine_of(installed, tmp_path, setup), setup)


def images(count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def measured(installed, tmp_path, name, settings=FEW, **options):
    inputs = images(10)
    parity.save(tmp_path / "reference.npz", inputs, [fake.computed(inputs)], "the fake")
    setup = setup_of(name, **options)
    if name == "paddle":
        engine = installed.source
    else:
        (tmp_path / "built").mkdir()
        answer = worker.answer_to(Build(setup, str(installed.source), str(tmp_path / "built")))
        if isinstance(answer, Problem):
            return answer
        engine = tmp_path / "built" / answer.made.file
    return worker.answer_to(Measure(setup, settings, str(engine), str(tmp_path / "reference.npz")))


# What it takes to be let in


@pytest.mark.parametrize(
    ("name", "version"), [("paddle", "2.6.2"), ("paddle_tensorrt", "2.6.2 for CUDA 11.8 with TensorRT 8.5.3")]
)
def test_the_version_is_that_of_a_paddle_with_a_gpu(installed, name, version):
    installed()
    assert worker.answer_to(Probe(name, T4)) == Version(version=version)


@pytest.mark.parametrize("name", BOTH)
def test_the_context_is_made_before_a_model_is_opened(installed, monkeypatch, name):
    made = installed()
    waited = []
    monkeypatch.setattr(sys.modules["paddle"].device, "synchronize", waited.append)
    backends.get(name).probe(T4)
    assert waited == ["gpu:0"]
    assert made.configs == []


@pytest.mark.parametrize("name", BOTH)
def test_a_context_that_is_not_made_says_why(installed, monkeypatch, name):
    installed()

    def synchronize(place):
        raise OSError("(External) CUDA error(2), out of memory. (at /phi/cuda_info.cc:266)")

    monkeypatch.setattr(sys.modules["paddle"].device, "synchronize", synchronize)
    answer = worker.answer_to(Probe(name, T4))
    assert answer.reason.startswith("out of memory on the GPU; CUDA error(2)")


CPU_BUILD = {"cuda": False, "gpus": 0, "version": "3.3.1", "compiled": (0, 0, 0), "running": (0, 0, 0)}
MISSING = [
    (CPU_BUILD, "this PaddlePaddle (3.3.1) is a build for CPUs; install one for GPUs"),
    ({"gpus": 0, "driver": False}, "the NVIDIA driver is missing, or too old for this CUDA; CUDA driver version is in"),
    ({"gpus": 0}, "no GPU is visible to this process; GPU count is: 0; see nvidia-smi"),
]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("behaviour", "words"), MISSING, ids=["a build for CPUs", "no driver", "no GPU"])
def test_what_is_missing_makes_it_unavailable(installed, tmp_path, name, behaviour, words):
    """By an answer: not by the end of the process, nor by a time of the CPU."""
    made = installed(**behaviour)
    for answer in (worker.answer_to(Probe(name, T4)), measured(installed, tmp_path, name)):
        assert isinstance(answer, Problem)
        assert answer.status == "unavailable"
        assert answer.reason.startswith(words)
        assert "\n" not in answer.reason
    assert made.inferences == 0


@pytest.mark.parametrize("behaviour", [row[0] for row in MISSING], ids=["a build for CPUs", "no driver", "no GPU"])
def test_open_asks_by_itself(installed, behaviour):
    installed(**behaviour)
    with pytest.raises(Unavailable):
        backends.get("paddle").open(installed.source, setup_of("paddle"))


def test_a_paddle_that_takes_no_notice_of_the_gpu_is_unavailable(installed, monkeypatch):
    installed()
    monkeypatch.setattr(sys.modules["paddle.inference"].Config, "use_gpu", lambda self: False)
    with pytest.raises(Unavailable, match="enable_use_gpu had no effect"):
        backends.get("paddle").open(installed.source, setup_of("paddle"))


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"running": None}, "the libraries of TensorRT are not found; TensorRT dynamic library is not found"),
        ({"compiled": (0, 0, 0), "running": (0, 0, 0)}, "this PaddlePaddle (2.6.2) was built without TensorRT"),
        (
            {"version": "3.0.0", "compiled": (8, 6, 1)},
            "Paddle 3.0.0 converts programs with TensorRT's Python package, which is not installed; it was built with "
            "TensorRT 8.6.1",
        ),
    ],
    ids=["no libraries", "a build without", "no Python package"],
)
def test_without_tensorrt_only_paddle_works(installed, tmp_path, behaviour, words):
    installed(**behaviour)
    assert isinstance(worker.answer_to(Probe("paddle", T4)), Version)
    for answer in (worker.answer_to(Probe("paddle_tensorrt", T4)), measured(installed, tmp_path, "paddle_tensorrt")):
        assert (answer.status, answer.reason.startswith(words)) == ("unavailable", True), answer.reason


def test_the_traps_of_the_fake_are_open(installed):
    """So that the tests above would fail without what they test."""
    installed(gpus=0)
    with pytest.raises(fake.Exit255):
        sys.modules["paddle"].device.synchronize("gpu:0")
    with pytest.raises(fake.Exit255):
        sys.modules["paddle"].CUDAPlace(0)
    made = installed(**CPU_BUILD)
    config = sys.modules["paddle.inference"].Config("m.json", "m.pdiparams")
    config.enable_use_gpu(100, 0)
    predictor = fake.Predictor(config)
    predictor.input.reshape((4, *SHAPE))
    predictor.input.copy_from_cpu(images())
    predictor.run()
    assert made.clock() == fake.COPY_IN_NS + fake.ON_CPU_NS


# Latencies


@pytest.mark.parametrize("name", BOTH)
def test_latencies_hold_all_of_the_gpus_work(installed, tmp_path, name):
    made = installed()
    session = opened(installed, tmp_path, name)
    session.feed([images()])
    measurement = session.measure(FEW, clock=made.clock)
    compute_ns = fake.ENQUEUE_NS + fake.COMPUTE_NS
    assert measurement.intervals["compute"].samples_ns == (compute_ns,) * 5
    assert measurement.intervals["end_to_end"].samples_ns == (fake.COPY_IN_NS + compute_ns + fake.COPY_OUT_NS,) * 5


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("waits", "reasons"), [(True, []), (False, ["unsynchronised"])])
def test_a_wait_that_does_not_wait_is_found_out(installed, tmp_path, name, waits, reasons):
    installed(waits=waits)
    session = opened(installed, tmp_path, name)
    session.feed([images()])
    assert [found.reason for found in session.validity()] == reasons


@pytest.mark.parametrize("name", BOTH)
def test_a_build_that_takes_no_stream_is_waited_for_as_a_whole(installed, tmp_path, name):
    made = installed(takes=False)
    session = opened(installed, tmp_path, name)
    session.feed([images()])
    measurement = session.measure(FEW, clock=made.clock)
    assert measurement.intervals["compute"].samples_ns == (fake.ENQUEUE_NS + fake.COMPUTE_NS,) * 5
    assert session.validity() == ()
    assert session.effective()["own_stream"] is False


@pytest.mark.parametrize("name", BOTH)
def test_work_beside_the_stream_is_left_over(installed, tmp_path, name):
    """As `compute` waits for the stream alone."""
    installed(obeys=False)
    session = opened(installed, tmp_path, name)
    session.feed([images()])
    assert [(found.reason, found.evidence) for found in session.validity()] == [
        ("unsynchronised", "1.000 ms of work were left after a call of 0.010 ms")
    ]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("copies", ["pageable", "pinned"])
def test_outputs_are_those_of_what_was_fed(installed, tmp_path, name, copies):
    installed()
    session = opened(installed, tmp_path, name, copies=copies)
    first, second = images(seed=1), images(seed=2)
    session.feed([first])
    session.run()
    held = session.fetch()
    session.feed([second])
    session.run()
    assert (held[0] == fake.computed(first)).all()
    assert (session.fetch()[0] == fake.computed(second)).all()
    session.feed([first])
    first[:] = second  # which end_to_end copies in
    assert (session.end_to_end()[0] == fake.computed(second)).all()
    session.close()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("bindings", [True, False], ids=["by events", "by the host's clock"])
@pytest.mark.parametrize("takes", [True, False], ids=["our stream", "another"])
def test_compute_must_grow_with_work(installed, tmp_path, monkeypatch, name, bindings, takes):
    made = installed(takes=takes)
    if not bindings:
        monkeypatch.setattr(cuda, "load", no_bindings)
    session = opened(installed, tmp_path, name)
    session.feed([images()])
    session.measure(FEW)
    assert session.validity() == ()
    made.grows = False
    (found,) = session.validity()
    assert (found.reason, found.evidence) == ("unsynchronised", "4 inferences took 1.010 ms where one took 1.010 ms")
    assert ("cudaEventElapsedTime" in made.gpu.calls) is (bindings and takes)
    session.close()


# Where it computes


def test_operators_that_compute_are_proved_to_have_kernels_for_the_gpu(installed, tmp_path):
    installed()
    session = opened(installed, tmp_path, "paddle")
    session.feed([images()])
    assert session.effective()["compute_operators"] == {"conv2d": 1}
    assert session.validity() == ()


@pytest.mark.parametrize(
    ("behaviour", "reason", "evidence"),
    [
        (
            {"kernels": {"conv2d": ("cpu",), "softmax": ("cpu",)}},
            "misconfigured",
            "computed on the CPU, for want of kernels for a GPU: 1 conv2d",
        ),
        ({"kernels": {}}, "unwatched", "Paddle doesn't tell whether all that computes is on the GPU"),
        ({"profiles": False}, "unwatched", "Paddle doesn't tell whether all that computes is on the GPU"),
    ],
    ids=["none for the GPU", "not listed", "no profile"],
)
def test_what_may_compute_on_the_cpu_is_a_doubt(installed, tmp_path, behaviour, reason, evidence):
    installed(**behaviour)
    session = opened(installed, tmp_path, "paddle")
    session.feed([images()])
    assert [(found.reason, found.evidence) for found in session.validity()] == [(reason, evidence)]


def test_a_paddle_without_a_list_of_kernels_is_a_doubt(installed, tmp_path, monkeypatch):
    installed()
    monkeypatch.delattr(sys.modules["paddle"].base, "core")
    session = opened(installed, tmp_path, "paddle")
    session.feed([images()])
    assert [found.reason for found in session.validity()] == ["unwatched"]


# The interval `device`


def timed_by_events(installed, tmp_path, name, **behaviour):
    installed(**behaviour)
    session = opened(installed, tmp_path, name)
    session.feed([images()])
    return session


@pytest.mark.parametrize("name", BOTH)
def test_device_is_the_time_between_two_events(installed, tmp_path, name):
    assert "device" in backends.get(name).intervals_on("gpu")
    session = timed_by_events(installed, tmp_path, name)
    measurement = session.measure(DEVICE)
    assert measurement.intervals["device"].samples_ns == (fake.ENQUEUE_NS + fake.COMPUTE_NS,) * 5
    assert session.validity() == ()
    assert session.effective()["own_stream"] is True
    session.close()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("behaviour", "error", "reason"),
    [
        ({"obeys": False}, Failed, "Paddle computes on another stream than the one that it was given"),
        ({"over_at_once": True}, Unsupported, "Paddle waits for the GPU before a run returns; "),
        ({"obeys": False, "over_at_once": True}, Unsupported, "Paddle waits for the GPU before a run returns; "),
    ],
    ids=["another stream", "waited for", "another stream, waited for"],
)
def test_no_span_is_told_of_work_that_is_not_between_the_events(installed, tmp_path, name, behaviour, error, reason):
    session = timed_by_events(installed, tmp_path, name, **behaviour)
    with pytest.raises(error) as raised:
        session.measure(DEVICE)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize("name", BOTH)
def test_work_on_another_stream_is_found_out_without_events(installed, tmp_path, name):
    session = timed_by_events(installed, tmp_path, name, obeys=False)
    session.measure(FEW)
    (found,) = session.validity()
    assert (found.reason, found.evidence) == ("unsynchronised", "1.000 ms of work were left after a call of 0.010 ms")


@pytest.mark.parametrize("name", BOTH)
def test_work_that_does_not_grow_is_found_out(installed, tmp_path, name):
    session = timed_by_events(installed, tmp_path, name, grows=False)
    session.measure(DEVICE)
    (found,) = session.validity()
    assert (found.reason, found.evidence) == ("unsynchronised", "4 inferences took 1.010 ms where one took 1.010 ms")


@pytest.mark.parametrize("name", BOTH)
def test_events_that_are_not_waited_for_are_a_failure(installed, tmp_path, name):
    session = timed_by_events(installed, tmp_path, name, waits=False)
    with pytest.raises(Failed, match="CUDA's events tell no time of the inference"):
        session.measure(DEVICE)


NEEDS = "the interval device and copies=pinned take"


def no_bindings():
    raise Unavailable("the CUDA runtime is not installed")


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("settings", "options"), [(DEVICE, {}), (FEW, {"copies": "pinned"})])
def test_what_the_stream_is_needed_for_says_what_is_missing(installed, tmp_path, monkeypatch, name, settings, options):
    made = installed(takes=False)
    answer = measured(installed, tmp_path, name, settings, **options)
    assert answer.status == "unsupported"
    assert answer.reason == (
        f"{NEEDS} a stream that Paddle computes on; PaddlePaddle 2.6.2 takes none (set_exec_stream); leave them out"
    )
    made = installed()
    monkeypatch.setattr(cuda, "load", no_bindings)
    (tmp_path / "again").mkdir()
    answer = measured(installed, tmp_path / "again", name, settings, **options)
    assert answer.status == "unavailable"
    assert answer.reason == (
        f"{NEEDS} NVIDIA's cuda-bindings; they are not installed, or do not load; "
        "install them with: pip install 'cuda-bindings==11.*'"
    )
    made = installed(gpu=fake.FakeCuda(driver=11080))
    (tmp_path / "newer").mkdir()
    answer = measured(installed, tmp_path / "newer", name, settings, **options)
    assert answer.reason == (
        "the NVIDIA driver serves CUDA 11.8, cuda-bindings is for 12.9; install a newer driver, or 'cuda-bindings<12'"
    )
    assert made.gpu.alive.keys() >= {int(made.own)}


@pytest.mark.parametrize("name", BOTH)
def test_the_rest_needs_no_bindings(installed, tmp_path, monkeypatch, name):
    installed()
    monkeypatch.setattr(cuda, "load", no_bindings)
    assert isinstance(measured(installed, tmp_path, name), Measured)


# Copies


@pytest.mark.parametrize("name", BOTH)
def test_inputs_go_by_pinned_memory_where_that_is_asked_for(installed, tmp_path, name):
    made = installed()
    session = opened(installed, tmp_path, name, copies="pinned")
    session.feed([images()])
    session.feed([images(seed=1)])
    assert made.gpu.calls.count("cudaMallocHost") == 1, "inputs of one shape share it"
    latencies = session.measure(FEW, clock=made.clock).intervals
    enqueued_ns = made.gpu.copy_ns + fake.COMPUTE_NS
    assert latencies["end_to_end"].samples_ns == (enqueued_ns + 1000 + fake.COPY_OUT_NS,) * 5
    assert session.semantics() == {
        "end_to_end": "copy the inputs in by pinned memory, one inference of the whole batch, copy the outputs out to "
        "pageable memory"
    }
    session.close()
    assert {what for what in made.gpu.alive.values() if what != "stream"} == set()


# What TensorRT does


def test_an_engine_is_built_once_and_loaded_each_time(installed, tmp_path):
    made = installed()
    session = opened(installed, tmp_path)
    session.feed([images()])
    effective = session.effective()
    assert effective["tensorrt_nodes"] == [60, 40]
    assert effective["operators_left"] == {"softmax": 1, "pool2d": 1}
    assert effective["tensorrt_share"] == round(100 / 102, 3)
    assert (effective["tensorrt"], effective["tensorrt_compiled"]) == ("8.5.3", "8.5.3")
    assert (effective["built_with_cuda"], effective["precision"]) == ("11.8", "fp32")
    assert session.validity() == ()
    for config in made.configs:
        assert config.tensorrt == {
            "workspace_size": 1 << 30,
            "max_batch_size": 4,
            "min_subgraph_size": 30,
            "precision_mode": "Float32",
            "use_static": True,
            "use_calib_mode": False,
            "use_cuda_graph": False,
        }
        assert config.cache == tmp_path / "engine" / "engines"


@pytest.mark.parametrize(("profiles", "share"), [(True, 1.0), (False, None)])
def test_a_share_of_one_takes_a_profile_to_tell(installed, tmp_path, profiles, share):
    installed(left={}, profiles=profiles)
    session = opened(installed, tmp_path)
    session.feed([images()])
    assert session.effective().get("tensorrt_share") == share
    doubts = [("unwatched", "Paddle doesn't tell which operators it computes outside of TensorRT")]
    assert [(found.reason, found.evidence) for found in session.validity()] == ([] if profiles else doubts)


@pytest.mark.parametrize("version", ["2.6.2", "3.0.0"])
def test_what_computes_outside_of_tensorrt_is_misconfigured(installed, tensorrt, tmp_path, version):
    left = {"softmax": 1, "depthwise_conv2d": 2, "multiply": 3, "elementwise_mul": 1, "fc": 1, "matmul_v2": 1}
    installed(left=left, version=version)
    session = opened(installed, tmp_path)
    session.feed([images()])
    assert [(found.reason, found.evidence) for found in session.validity()] == [
        ("misconfigured", "computed outside of TensorRT: 2 depthwise_conv2d, 1 fc, 1 matmul_v2")
    ]


def test_engines_that_paddle_makes_again_are_stale(installed, tmp_path):
    installed()
    setup = setup_of("paddle_tensorrt")
    engine = engine_of(installed, tmp_path, setup)
    for file in (engine.parent / "engines").iterdir():
        file.unlink()
    with pytest.raises(Stale, match=r"^the engines of TensorRT beside inference\.pdmodel are not for what is here; "):
        backends.get("paddle_tensorrt").open(engine, setup)


def test_a_folder_that_opening_changed_is_stale(installed, tmp_path, monkeypatch):
    installed()
    setup = setup_of("paddle_tensorrt")
    engine = engine_of(installed, tmp_path, setup)
    make = fake.Predictor._make_engines

    def make_and_write(self, config):
        make(self, config)
        (config.cache / "trt_serialized_0").write_bytes(b"another engine")

    monkeypatch.setattr(fake.Predictor, "_make_engines", make_and_write)
    with pytest.raises(Stale, match="Paddle made new ones"):
        backends.get("paddle_tensorrt").open(engine, setup)


@pytest.mark.parametrize("version", ["2.6.2", "3.0.0"])
def test_opening_leaves_the_entry_as_it_was_where_it_is_now(installed, tensorrt, tmp_path, version):
    """Entries are made in another folder than they are kept in."""
    made = installed(version=version)
    setup = setup_of("paddle_tensorrt")
    entry = engine_of(installed, tmp_path, setup).parent.rename(tmp_path / "entry")
    before = backends.contents(entry)
    session = backends.get("paddle_tensorrt").open(entry / installed.source.name, setup)
    session.feed([images()])
    session.run()
    assert backends.contents(entry) == before
    config = made.configs[-1]
    assert config.cache == (entry / "engines" if version == "2.6.2" else None)
    session.close()


def test_engines_that_are_kept_elsewhere_are_a_failure(installed, tensorrt, tmp_path, monkeypatch):
    installed(version="3.0.0")
    text = fake.program({"tensorrt_engine": 1}, [tmp_path / "elsewhere/engine_0.trt"])
    convert = sys.modules["paddle.tensorrt.export"].convert

    def convert_elsewhere(prefix, config):
        convert(prefix, config)
        Path(f"{config.save_model_dir}.json").write_text(text)

    monkeypatch.setattr(sys.modules["paddle.tensorrt.export"], "convert", convert_elsewhere)
    with pytest.raises(Failed, match="Paddle keeps the engines of TensorRT elsewhere than beside the program"):
        opened(installed, tmp_path)


def test_three_engines_are_made_of_a_case():
    backend = backends.get("paddle_tensorrt")
    assert backend.builds_with(setup_of("paddle_tensorrt").options) == 3
    assert setup_of("paddle_tensorrt").options["build"] == "0"
    with pytest.raises(UsageError, match=r"build takes a whole number; found '1\.5'"):
        backend.variant(setup_of("paddle_tensorrt", build="1.5"))


@pytest.mark.parametrize("version", ["2.6.2", "3.0.0"])
def test_builds_may_differ_in_speed_and_are_told_apart(installed, tensorrt, tmp_path, version):
    installed(version=version, span_ns=(1_000_000, 1_200_000))
    backend, cache = backends.get("paddle_tensorrt"), Cache(tmp_path / "cache")
    medians, engines = [], []
    for number in ("0", "1"):
        setup = setup_of("paddle_tensorrt", build=number)

        def make(folder, setup=setup):
            return Made(format=backend.engine, file=backend.build(installed.source, folder, setup).name)

        engines.append(cache.get(backend.engine, backend.variant(setup), make))
        session = backend.open(Path(engines[-1].path), setup)
        session.feed([images()])
        medians.append(median(session.measure(FEW).intervals["compute"].samples_ns))
        session.close()
    assert medians == [fake.ENQUEUE_NS + 1_000_000, fake.ENQUEUE_NS + 1_200_000]
    assert len({engine.sha256 for engine in engines}) == 2


# CUDA graphs


def replaying(installed, tmp_path, **behaviour):
    made = installed(**{"left": {}} | behaviour)
    return made, opened(installed, tmp_path, cuda_graph="on")


@pytest.mark.parametrize("version", ["2.6.2", "3.3.0"])
def test_a_graph_is_captured_once_and_replayed_from_where_it_was(installed, tensorrt, tmp_path, version):
    made, session = replaying(installed, tmp_path, version=version)
    assert made.inferences == (1 if version == "2.6.2" else 0)
    for seed in (1, 2):
        session.feed([images(seed=seed)])
        session.run()
        assert (session.fetch()[0] == fake.computed(images(seed=seed))).all()
    setup = setup_of("paddle_tensorrt", cuda_graph="on")
    assert session.effective()["cuda_graph"] is True
    assert backends.deviations(setup.case, setup.options, session.effective()) == ()
    assert set(session.semantics()) == {"compute", "end_to_end", "device"}
    assert all("one replay of a CUDA graph" in meaning for meaning in session.semantics().values())
    assert session.measure(DEVICE).intervals["device"].samples_ns == (fake.ENQUEUE_NS + fake.COMPUTE_NS,) * 5
    session.close()


@pytest.mark.parametrize("version", ["2.6.2", "3.3.0"])
@pytest.mark.parametrize("behaviour", [{"left": {"softmax": 1}}, {"captures": False}], ids=["not whole", "refused"])
def test_a_graph_that_is_not_captured_is_told(installed, tensorrt, tmp_path, version, behaviour):
    _, session = replaying(installed, tmp_path, version=version, **behaviour)
    session.feed([images()])
    setup = setup_of("paddle_tensorrt", cuda_graph="on")
    deviations = backends.deviations(setup.case, setup.options, session.effective())
    assert deviations == ("cuda_graph: on asked, off in effect",)
    assert set(session.semantics()) == {"end_to_end"}


def test_a_gpu_that_breaks_while_a_graph_is_fed_says_so(installed, tmp_path, monkeypatch):
    _, session = replaying(installed, tmp_path)
    session.feed([images()])

    def copy(self, array):
        raise OSError(FAULTS[1][0])

    monkeypatch.setattr(fake.Handle, "copy_from_cpu", copy)
    with pytest.raises(Failed, match=FAULTS[1][1]):
        session.feed([images(seed=1)])


def test_no_graph_is_replayed_unasked(installed, tmp_path):
    installed(left={})
    session = opened(installed, tmp_path)
    session.feed([images()])
    assert session.effective()["cuda_graph"] is False


def test_a_paddle_that_converts_without_graphs_says_so(installed, tensorrt, tmp_path):
    with pytest.raises(Unsupported, match=r"this Paddle converts programs without CUDA graphs; .*'use_cuda_graph'"):
        replaying(installed, tmp_path, version="3.0.0", graphs=False)


NOTHING = "TensorRT took no part of the network; none has 30 nodes that it can compute; try smaller ones: --set paddle"


@pytest.mark.parametrize("version", ["2.6.2", "3.0.0"])
@pytest.mark.parametrize("engines", [(), (29, 5)])
def test_no_part_for_tensorrt_is_a_failure(installed, tensorrt, tmp_path, version, engines):
    installed(engines=engines, version=version)
    answer = measured(installed, tmp_path, "paddle_tensorrt")
    assert isinstance(answer, Problem)
    assert (answer.status, answer.reason.startswith(NOTHING)) == ("failed", True), answer.reason


def test_smaller_parts_can_be_asked_for(installed, tmp_path):
    installed(engines=(29, 5))
    session = opened(installed, tmp_path, min_subgraph_size="5")
    session.feed([images()])
    assert session.effective()["tensorrt_nodes"] == [29, 5]


@pytest.mark.parametrize(("half", "effective"), [(True, "fp16"), (False, "fp32")])
def test_fp16_is_what_the_log_says_of_it(installed, tmp_path, half, effective):
    made = installed(half=half)
    session = opened(installed, tmp_path, precision="fp16")
    session.feed([images()])
    assert {config.tensorrt["precision_mode"] for config in made.configs} == {"Half"}
    found = session.effective()
    assert found["precision"] == effective
    setup = setup_of("paddle_tensorrt", precision="fp16")
    deviations = backends.deviations(setup.case, setup.options, found)
    assert deviations == (() if half else ("precision: fp16 asked, fp32 in effect",))


@pytest.mark.parametrize(
    ("precision", "half", "effective", "doubts"),
    [
        ("fp32", True, "fp32", []),
        ("fp16", True, "fp16", []),
        ("fp16", False, "fp32", []),
        ("fp16", None, None, ["Paddle doesn't tell whether TensorRT took fp16"]),
    ],
    ids=["not asked", "taken", "not taken", "silent"],
)
def test_fp16_of_paddle_3_is_what_its_converter_says(installed, tensorrt, tmp_path, precision, half, effective, doubts):
    installed(version="3.0.0", half=half)
    session = opened(installed, tmp_path, precision=precision)
    session.feed([images()])
    found = session.effective()
    assert (found.get("precision"), found["typing"]) == (effective, "weak")
    assert [doubt.evidence for doubt in session.validity() if doubt.reason == "unwatched"] == doubts


def test_another_tensorrt_than_paddle_was_built_with_is_a_doubt(installed, tmp_path):
    installed(running=(8, 6, 1))
    session = opened(installed, tmp_path)
    session.feed([images()])
    assert [(found.reason, found.evidence) for found in session.validity()] == [
        ("misconfigured", "TensorRT 8.6.1 found, Paddle was built with 8.5.3")
    ]


def test_ranges_of_shapes_are_collected_first(installed, tmp_path):
    made = installed()
    session = opened(installed, tmp_path, shapes="dynamic")
    collecting, *others = made.configs
    assert collecting.tensorrt is None
    assert collecting.shapes == tmp_path / "engine" / "shapes.pbtxt"
    assert {config.calls["shapes"] for config in others} == {str(collecting.shapes)}
    session.close()


def test_tensorrt_10_needs_ranges_of_shapes(installed, tmp_path):
    installed(compiled=(10, 5, 0), running=(10, 5, 0))
    with pytest.raises(Unsupported, match=r"TensorRT 10\.5\.0 .*--set paddle_tensorrt\.shapes=dynamic"):
        opened(installed, tmp_path)


def test_paddle_3_converts_the_program(installed, tensorrt, tmp_path):
    made = installed(version="3.0.0", left={"softmax": 1, "matmul": 1})
    session = opened(installed, tmp_path, precision="fp16", batch_size=8)
    (prefix, config), *more = made.converted
    assert more == []
    assert prefix == str(installed.source.with_suffix(""))
    assert (config.precision_mode, config.min_subgraph_size) == ("FP16", 30)
    assert [vars(given) for given in config.inputs] == [
        dict.fromkeys(("min_input_shape", "optim_input_shape", "max_input_shape"), (8, *SHAPE))
    ]
    assert made.homes == [str(tmp_path / "engine")], "or engines of several cases would share a folder"
    assert made.configs[-1].calls["enable_new_ir"] == (True,)
    session.feed([images(8)])
    effective = session.effective()
    assert effective["operators_left"] == {"softmax": 1, "matmul": 1}
    assert effective["tensorrt_share"] == 0.9


def test_operators_of_a_program_are_counted(tmp_path):
    file = tmp_path / "m.json"
    file.write_text(fake.program({"conv2d": 2, "tensorrt_engine": 1, "full_int_array": 3}))
    assert paddle_tensorrt.operators(file) == {"conv2d": 2, "tensorrt_engine": 1}
    for text in ("", "{", "{}", '{"program": 3}'):
        file.write_text(text)
        with pytest.raises(Failed, match=r"m\.json is no program of Paddle 3"):
            paddle_tensorrt.operators(file)


def test_a_model_that_was_not_built_here_fails(installed):
    installed()
    with pytest.raises(Failed, match=r"inference\.pdmodel is no engine of bench; tensorrt\.json beside it is missing"):
        backends.get("paddle_tensorrt").open(installed.source, setup_of("paddle_tensorrt"))


def test_an_engine_depends_on_all_that_paddles_cache_overlooks():
    backend = paddle_tensorrt.Backend()
    variants = [
        setup_of("paddle_tensorrt"),
        setup_of("paddle_tensorrt", precision="fp16"),
        setup_of("paddle_tensorrt", batch_size=8),
        setup_of("paddle_tensorrt", min_subgraph_size="3"),
        setup_of("paddle_tensorrt", tf32="on"),
        setup_of("paddle_tensorrt", cuda_graph="on"),
        setup_of("paddle_tensorrt", build="2"),
        setup_of("paddle_tensorrt", found={"gpu": {**GPU["gpu"], "name": "Tesla V100"}}),
        setup_of("paddle_tensorrt", found={"gpu": {**GPU["gpu"], "driver": "550.54"}}),
        msgspec.structs.replace(setup_of("paddle_tensorrt"), input_shape=(3, 5, 5)),
    ]
    assert len({msgspec.json.encode(backend.variant(setup)) for setup in variants}) == len(variants)
    pinned = setup_of("paddle_tensorrt", copies="pinned")
    assert backend.variant(pinned) == backend.variant(variants[0])


# Options


@pytest.mark.parametrize(
    ("name", "options", "environ"),
    [
        ("paddle", {}, {"NVIDIA_TF32_OVERRIDE": "0"}),
        ("paddle", {"tf32": "on"}, {}),
        ("paddle_tensorrt", {}, {"NVIDIA_TF32_OVERRIDE": "0"}),
        ("paddle_tensorrt", {"tf32": "on"}, {}),
    ],
)
def test_tf32_is_off_unless_asked_for(name, options, environ):
    assert backends.get(name).environment(setup_of(name, **options).options) == environ


def test_a_cpu_keeps_its_own_options():
    backend = backends.get("paddle")
    options = backends.settle(backend, {}, "cpu")
    assert options == {"onednn": "on", "eager_delete": "off", "memory_optim": "on"}
    assert backend.environment(options) == {"FLAGS_eager_delete_tensor_gb": "-1"}


# Faults


@pytest.mark.parametrize("name", BOTH)
def test_a_sound_case_is_measured(installed, tmp_path, name):
    installed()
    answer = measured(installed, tmp_path, name)
    assert isinstance(answer, Measured), answer
    assert answer.parity.max_error == 0
    assert answer.effective["place"] == "gpu:0"
    assert "pageable memory" in answer.semantics["end_to_end"]


FAULTS = [
    ("Out of memory error on GPU 0. Cannot allocate 98.000244MB memory on GPU 0", "out of memory on the GPU; Out of"),
    ("(External) CUDA error(700), an illegal memory access was encountered.", "the GPU broke off a kernel"),
    ("(External) CUDA error(999), unknown error: GPU is lost", "the GPU was lost"),
    ("(Fatal) something that nobody has seen yet", "Paddle broke off the inference; (Fatal) something that nobody"),
]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("inference", [3, 8, 16])
@pytest.mark.parametrize(("text", "words"), FAULTS)
def test_a_fault_at_any_time_fails_the_case(installed, tmp_path, name, text, words, inference):
    made = installed(faults={inference: text})
    answer = measured(installed, tmp_path, name)
    assert isinstance(answer, Problem)
    assert (answer.status, answer.reason.startswith(words)) == ("failed", True), answer.reason
    assert made.inferences == inference


@pytest.mark.parametrize("name", BOTH)
def test_a_predictor_that_is_not_made_says_why(installed, tmp_path, name):
    installed(opening="(External) CUDA error(209), no kernel image is available for execution on the device.")
    answer = measured(installed, tmp_path, name)
    assert answer.status == "unavailable"
    assert answer.reason.startswith("this release has no code for this GPU; no kernel image is available")


# The log


def test_standard_error_is_read_and_still_arrives(capfd):
    with overhear.standard_error() as heard:
        os.write(2, b"words\n")
    assert heard.text == "words\n"
    assert capfd.readouterr().err == "words\n"


def test_a_pipe_is_overheard_too():
    reading, writing = os.pipe()
    with overhear.redirected(2, writing):
        os.write(2, b"before\n")
        with overhear.standard_error() as heard:
            os.write(2, b"words\n")
    os.close(writing)
    assert heard.text == "words\n"
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "before\nwords\n"


# The real wheel for CPUs

NAMES = {
    "Config": [
        "disable_glog_info",
        "enable_memory_optim",
        "set_cpu_math_library_num_threads",
        *(name for name in vars(fake.Config) if not name.startswith("_")),
    ],
    "Tensor": [name for name in vars(fake.Handle) if not name.startswith("_")],
    "Predictor": [name for name in vars(fake.Predictor) if not name.startswith("_") and name != "executed"],
}


@pytest.mark.runtime
@pytest.mark.parametrize("name", NAMES)
def test_the_real_module_has_what_the_fake_has(name):
    """In a process of its own: Paddle and other runtimes clash when they share one."""
    script = f"from paddle import inference; print(*dir(inference.{name}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(NAMES[name]) - set(done.stdout.split()) == set()


@pytest.mark.runtime
@pytest.mark.parametrize("name", BOTH)
def test_the_real_wheel_for_cpus_is_refused_a_gpu(tmp_path, name):
    """In workers, as `bench run` asks; nothing of a time under the GPU's name comes back."""
    from bench import environment
    from bench.artifacts import Cache
    from bench.prepare import Workshop

    workshop = Workshop(Cache(tmp_path / "cache"), FEW, environment.cpus_available(), print)
    artifact = workshop.model(catalog.cards()["MobileNetV1_x0_25"], "paddle")
    setup = msgspec.structs.replace(setup_of(name), input_shape=(3, 224, 224))
    jobs = [Probe(name, T4), Measure(setup, FEW, str(Path(artifact.path).absolute()), "")]
    if name == "paddle_tensorrt":
        jobs.append(Build(setup, artifact.path, str(tmp_path)))
    for job in jobs:
        answer = workshop.ask(job, dict(os.environ))
        assert not isinstance(answer, Measured | Folder | Version)
        assert answer.status == "unavailable"
        assert "is a build for CPUs; install one for GPUs" in answer.reason
