"""The TensorRT backend against its three generations and a GPU on a clock of its own: exact numbers, or a reason."""

import itertools
import json
import sys

import msgspec
import numpy as np
import pytest
import surfaces
from fakes.cuda import FakeCuda
from fakes.trt import GENERATIONS, SURFACES, FakeTrt

from bench import backends, cuda
from bench.artifacts import model_files
from bench.backends import Setup
from bench.backends.tensorrt import journal
from bench.catalog import profile
from bench.errors import Failed, Stale, Unavailable, Unsupported, UsageError
from bench.schema import Case, Settings
from bench.trtexec import definitions

WEAK = [name for name in GENERATIONS if "FP16" in SURFACES[name]["enumerations"]["BuilderFlag"]]
STRONG = [name for name in GENERATIONS if name not in WEAK]
MODEL = {"inputs": {"x": [-1, 3, 4, 4]}, "outputs": {"y": [-1, 5]}, "layers": [["CONVOLUTION", "FLOAT"]]}
HALF = {**MODEL, "layers": [["CONVOLUTION", "HALF"]]}
QUANTISED = {**MODEL, "layers": [["QUANTIZE", "INT8"], ["CONVOLUTION", "FLOAT"]]}
ALL = ("compute", "end_to_end", "device")


class Bench:
    """The backend with a fake TensorRT and a fake GPU."""

    def __init__(self, monkeypatch, folder, generation, says=None, span_ns=(1_000_000,), **gpu):
        self.monkeypatch, self.folder = monkeypatch, folder
        self.says, self.span_ns = says, span_ns
        self.api = FakeCuda(**gpu)
        self.backend = backends.get("tensorrt")
        monkeypatch.setenv("BENCH_CACHE", str(folder / "cache"))
        self.use(generation)

    def use(self, generation, **gpu):
        """From now on this TensorRT, and this GPU."""
        if gpu:
            self.api = FakeCuda(**gpu)
        self.trt = FakeTrt(generation, self.api, self.says, self.span_ns)
        self.monkeypatch.setattr(type(self.backend), "runtime", lambda *_: self.trt)
        self.monkeypatch.setattr(cuda, "load", lambda: cuda.Cuda(self.api))

    def setup(self, precision="fp32", batch_size=2, **options):
        case = Case("model", "tensorrt", "t4", precision, batch_size, 1)
        return Setup(case, profile("t4"), backends.settle(self.backend, options), (3, 4, 4))

    def build(self, setup=None, model=MODEL):
        source = self.folder / "model.onnx"
        source.write_text(model if isinstance(model, str) else json.dumps(model))
        return self.backend.build(source, self.folder, setup or self.setup())

    def open(self, setup=None, model=MODEL):
        setup = setup or self.setup()
        session = self.backend.open(self.build(setup, model), setup)
        session.clock = self.api.clock
        return session

    @property
    def config(self):
        return self.trt.builds[-1][1]


@pytest.fixture
def make(monkeypatch, tmp_path):
    return lambda *words, **facts: Bench(monkeypatch, tmp_path, *words, **facts)


@pytest.fixture(params=GENERATIONS)
def bench(make, request):
    return make(request.param)


def images(seed=0, batch_size=2):
    return np.random.default_rng(seed).standard_normal((batch_size, 3, 4, 4), dtype=np.float32)


def expected(array):
    sums = array.astype(np.float64).reshape(len(array), -1).sum(axis=1)
    return (sums[:, None] * np.arange(1, 6)).astype(np.float32)


def measured(session, *intervals, warmup=2, iterations=5):
    settings = Settings(intervals=intervals, warmup=warmup, iterations=iterations)
    return session.measure(settings).intervals


# Names


def test_every_published_release_has_every_name_that_is_used():
    used = surfaces.used()
    module = used.pop("Trt")
    for generation, names in SURFACES.items():
        assert names["module"] == module, generation
        assert names["classes"] == used, generation
        assert names["severities"] == surfaces.SEVERITIES


def test_what_is_looked_up_by_name_differs_as_the_adapter_thinks():
    flags = {name: names["enumerations"]["BuilderFlag"].keys() for name, names in SURFACES.items()}
    assert {name for name, there in flags.items() if "FP16" in there} == {"8.6", "10.4", "10.16"}
    typed = {
        name: "STRONGLY_TYPED" in names["enumerations"]["NetworkDefinitionCreationFlag"]
        for name, names in SURFACES.items()
    }
    assert typed == {"8.6": False, "10.4": True, "10.16": True, "11.4": True}


# Outputs


def test_outputs_are_those_of_the_inputs_fed(bench):
    session = bench.open()
    first, second = images(1), images(2)
    session.feed([first])
    session.run()
    held = session.fetch()[0]
    np.testing.assert_array_equal(held, expected(first))
    session.feed([second])
    session.run()
    np.testing.assert_array_equal(session.fetch()[0], expected(second))
    np.testing.assert_array_equal(held, expected(first))
    second[:] = first
    np.testing.assert_array_equal(session.end_to_end()[0], expected(first))


def test_closing_frees_all(bench):
    session = bench.open(bench.setup(cuda_graph="on"))
    session.feed([images()])
    for _ in range(3):
        session.run()
    assert bench.api.alive
    session.close()
    assert bench.api.alive == {}


def test_the_stream_is_never_the_default_one(bench):
    bench.open().run()  # the fake asserts it
    assert bench.api.calls.count("cudaStreamCreateWithFlags") == 1


def test_static_models_need_no_profile(bench):
    static = {**MODEL, "inputs": {"x": [2, 3, 4, 4]}, "outputs": {"y": [2, 5]}}
    session = bench.open(model=static)
    assert bench.config.profiles == []
    session.feed([images()])
    session.run()
    np.testing.assert_array_equal(session.fetch()[0], expected(images()))


def test_open_sizes_get_one_profile_of_one_shape(bench):
    bench.build(bench.setup(batch_size=8))
    assert bench.config.profiles == [{"x": (8, 3, 4, 4)}]


# Latencies


def test_device_samples_are_the_spans_on_the_gpu(bench):
    session = bench.open()
    session.feed([images()])
    samples = measured(session, "device")["device"]
    # The first event is over at once; then the host enqueues for 5 µs, and only then has the GPU work, for 1 ms.
    assert samples.samples_ns == (1_005_000,) * 5
    assert samples.warmup_ns == (1_005_000,) * 2


def test_all_intervals_come_in_the_order_asked_for(bench):
    session = bench.open()
    session.feed([images()])
    found = measured(session, "device", "end_to_end", "compute")
    assert list(found) == ["device", "end_to_end", "compute"]
    # enqueue 5, work 1000, one call to wait
    assert found["compute"].samples_ns == (1_005_000,) * 5
    # besides it a call and 10 µs for each copy; the calls for the copy in and the enqueuing hide behind its 10 µs
    assert found["end_to_end"].samples_ns == (1_021_000,) * 5


def test_device_warms_up_by_the_rules_of_all_intervals(bench, make):
    session = bench.open()
    session.feed([images()])
    samples = session.measure(Settings(intervals=("device",), budget_s=1)).intervals["device"]
    assert samples.steady
    assert len(samples.warmup_ns) >= 10
    assert sum(samples.warmup_ns) >= 0.3e9
    assert len(samples.samples_ns) == 100  # a tenth of the budget in inferences of 1 ms


def test_an_unknown_interval_is_refused(bench):
    with pytest.raises(Unsupported, match="no interval wall here; there are compute, end_to_end, device"):
        bench.open().measure(msgspec.structs.replace(Settings(), intervals=("wall",)))


def test_a_sound_runtime_is_not_distrusted(bench):
    session = bench.open()
    session.feed([images()])
    measured(session, *ALL)
    assert session.validity() == ()


def test_a_runtime_that_does_not_wait_is_found_out(bench):
    session = bench.open()
    session.feed([images()])
    bench.api.waits = False
    found = measured(session, "compute")
    assert max(found["compute"].samples_ns) < 100_000  # of work that takes a millisecond
    evidence = "the GPU still computed after cudaStreamSynchronize had returned"
    assert [(each.reason, each.evidence) for each in session.validity()] == [("unsynchronised", evidence)]


def test_no_device_latency_comes_of_events_that_are_not_over(bench):
    session = bench.open()
    bench.api.waits = False
    with pytest.raises(Failed, match="CUDA's events tell no time of the inference"):
        measured(session, "device")


def test_work_that_does_not_grow_is_found_out(bench, monkeypatch):
    session = bench.open()
    session.run()
    launches = itertools.count()
    enqueue = session._launch
    # Of the six bursts of the check each enqueues once, whatever it was asked for.
    first = {0, 1, 2, 3, 7, 11}
    monkeypatch.setattr(session, "_launch", lambda: enqueue() if next(launches) in first else None)
    evidence = "4 inferences took 1.005 ms where one took 1.005 ms"
    assert [each.evidence for each in session._events.unsynchronised(session.clock)] == [evidence]


def test_a_host_clock_behind_the_gpus_is_found_out(bench):
    session = bench.open()
    session.feed([images()])
    session.clock = lambda: bench.api.now_ns // 2
    measured(session, "compute")
    found = session.validity()
    assert {each.reason for each in found} == {"unsynchronised"}
    assert "the host waited" in found[0].evidence


def test_builds_may_differ_in_speed_and_are_told_apart(make):
    bench = make("10.16", span_ns=(1_000_000, 1_200_000))
    medians, plans = [], []
    for number in ("0", "1"):
        setup = bench.setup(build=number)
        session = bench.open(setup)
        session.feed([images()])
        medians.append(measured(session, "device")["device"].samples_ns[0])
        plans.append(session.effective()["plan_sha256"])
        session.close()
    assert medians == [1_005_000, 1_205_000]
    assert plans[0] != plans[1]
    variants = [bench.backend.variant(bench.setup(build=number)) for number in ("0", "1")]
    assert variants[0] != variants[1]


# trtexec


@pytest.mark.parametrize("transfers", [True, False])
def test_a_trace_gives_trtexecs_figures(bench, transfers):
    session = bench.open()
    session.feed([images()])
    defaults = definitions.Defaults(
        transfers=transfers,
        spin_wait=True,
        cuda_graph=False,
        unstable_percent=1,
        warmup_ms=5,
        duration_s=0.02,
        queries_in_flight=1,
    )
    spans, _ = session.trace(defaults)
    found = definitions.queries(spans)
    assert found[-1].d2h.end >= 25 > found[-2].d2h.end
    kept = definitions.select(found, defaults.warmup_ms)
    figures = definitions.summary(kept, definitions.version("10.13"))
    # The call that enqueues takes 5 µs, work 1 ms, a copy 10 µs, of which the first is given a call of 1 µs after its
    # event; what the GPU has to do hides the calls that follow.
    assert figures.enqueue.median == pytest.approx(0.005, abs=1e-6)
    assert figures.compute.median == pytest.approx(1.0 if transfers else 1.005, abs=1e-4)
    assert figures.h2d.median == pytest.approx(0.011 if transfers else 0, abs=1e-4)
    assert figures.d2h.median == pytest.approx(0.010 if transfers else 0, abs=1e-4)
    np.testing.assert_array_equal(session.fetch()[0], expected(images()))
    session.close()
    assert bench.api.alive == {}


def test_queries_in_flight_hide_the_hosts_work(bench):
    session = bench.open()
    session.feed([images()])
    release = definitions.version(bench.trt.__version__ if bench.trt.generation != "8.6" else "8.6")
    session.trace(definitions.Defaults(False, True, False, 1, warmup_ms=0, duration_s=0, iterations=2))
    spans, _ = session.trace(definitions.Defaults(False, True, False, 1, warmup_ms=0, duration_s=0, iterations=10))
    figures = definitions.summary(definitions.queries(spans), release)
    assert figures.queries >= 10
    assert figures.compute.median == pytest.approx(1.0, abs=1e-4)  # with one in flight it holds the enqueue call


# CUDA graphs


def test_a_graph_is_captured_after_the_first_inference_and_computes_the_same(bench):
    session = bench.open(bench.setup(cuda_graph="on"))
    session.feed([images(1)])
    session.run()
    assert session.effective()["cuda_graph"] is False
    session.run()
    session.run()
    assert session.effective()["cuda_graph"] is True
    assert bench.api.calls.count("cudaGraphLaunch") == 2
    np.testing.assert_array_equal(session.fetch()[0], expected(images(1)))
    session.feed([images(2)])
    np.testing.assert_array_equal(session.end_to_end()[0], expected(images(2)))
    assert measured(session, "device")["device"].samples_ns == (1_001_000,) * 5


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_cannot_be_captured_runs_without_and_says_so(make, generation):
    bench = make(generation, says={"execute_async_v3": (False, "cannot be captured")})
    setup = bench.setup(cuda_graph="on")
    session = bench.open(setup)
    session.feed([images()])
    for _ in range(3):
        session.run()
    np.testing.assert_array_equal(session.fetch()[0], expected(images()))
    effective = session.effective()
    assert effective["cuda_graph"] is False
    deviations = backends.deviations(setup.case, setup.options, effective)
    assert deviations == ("cuda_graph: on asked, off in effect",)


# Precisions


@pytest.mark.parametrize("generation", WEAK)
def test_weak_typing_takes_fp16_by_a_flag(make, generation):
    bench = make(generation)
    session = bench.open(bench.setup("fp16"))
    assert {flag.name for flag in bench.config.flags} == {"FP16"}
    assert (session.effective()["typing"], session.effective()["precision"]) == ("weak", "fp16")
    assert session.effective()["layer_types"] == {"fp16": 2}


@pytest.mark.parametrize("generation", STRONG)
def test_strong_typing_takes_fp16_from_the_model_alone(make, generation):
    bench = make(generation)
    with pytest.raises(Unsupported) as raised:
        bench.build(bench.setup("fp16"))
    assert str(raised.value) == (
        f"strongly typed, TensorRT {bench.trt.__version__} takes fp16 from the model alone; model.onnx has none of it; "
        "make one from an exported model, as docs/gpu.md says: python -m modelopt.onnx.autocast "
        "--onnx_path model.onnx --low_precision_type fp16 --keep_io_types"
    )
    session = bench.open(bench.setup("fp16"), HALF)
    assert bench.config.flags == set()
    assert (session.effective()["typing"], session.effective()["precision"]) == ("strong", "fp16")


@pytest.mark.parametrize("generation", ["10.4", "10.16"])
def test_strong_typing_is_there_for_the_asking(make, generation):
    bench = make(generation)
    bench.build(bench.setup("fp16", strong_typing="on"), HALF)
    network, config = bench.trt.builds[-1]
    assert network.flags == 1 << bench.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert config.flags == set()
    bench.build(bench.setup("fp16"))
    assert bench.trt.builds[-1][0].flags == 0


def test_strong_typing_is_refused_where_there_is_none(make):
    bench = make("8.6")
    with pytest.raises(Unsupported, match=r"strong typing came with TensorRT 10; this is 8\.6\.1"):
        bench.build(bench.setup(strong_typing="on"))


def test_fp32_is_no_tf32_unless_asked(bench):
    session = bench.open(bench.setup())
    assert bench.config.flags == set()
    assert session.effective()["tf32"] is False
    session = bench.open(bench.setup(tf32="on"))
    assert {flag.name for flag in bench.config.flags} == {"TF32"}
    assert session.effective()["tf32"] is True


@pytest.mark.parametrize(
    ("precision", "model", "holds"), [("fp32", HALF, "fp16"), ("fp32", QUANTISED, "int8"), ("fp16", QUANTISED, "int8")]
)
def test_a_model_of_another_type_is_refused(make, precision, model, holds):
    bench = make("10.16")
    with pytest.raises(
        Unsupported, match=f"^{precision} takes a model without other types; model.onnx holds {holds}; "
    ):
        bench.build(bench.setup(precision), model)


def test_int8_takes_a_quantised_model(bench):
    with pytest.raises(
        Unsupported, match=r"^int8 takes a quantised model; model\.onnx has no QuantizeLinear; make one"
    ):
        bench.build(bench.setup("int8"))
    bench.build(bench.setup("int8"), QUANTISED)
    names = {flag.name for flag in bench.config.flags}
    assert names == ({"INT8"} if bench.trt.generation in WEAK else set())


def test_another_precision_is_refused(bench):
    with pytest.raises(Unsupported, match="not bf16"):
        bench.build(bench.setup("bf16"))


def test_a_precision_that_did_not_take_effect_is_told(make):
    layers = [{"LayerType": "CaskConvolution", "Outputs": [{"Format/Datatype": "Float"}]}]
    bench = make("10.16", says={"get_engine_information": (json.dumps({"Layers": layers}), "")})
    setup = bench.setup("fp16")
    effective = bench.open(setup).effective()
    assert effective["precision"] == "fp32"
    assert backends.deviations(setup.case, setup.options, effective) == ("precision: fp16 asked, fp32 in effect",)


@pytest.mark.parametrize(
    ("said", "types"),
    [
        ("no JSON", {}),
        ("{}", {}),
        (json.dumps({"Layers": ["conv1", "conv2"]}), {}),
        (
            json.dumps({"Layers": [{"LayerType": "{ForeignNode[a...b]}", "Outputs": [{"Format/Datatype": "Float"}]}]}),
            {},
        ),
    ],
)
def test_what_the_inspector_does_not_tell_is_left_out(make, said, types):
    bench = make("10.16", says={"get_engine_information": (said, "")})
    effective = bench.open(bench.setup("fp16")).effective()
    assert effective["layer_types"] == types
    assert "precision" not in effective


def test_options_reach_the_builder(bench):
    bench.build(bench.setup(level="5", workspace_mib="256"))
    assert bench.config.builder_optimization_level == 5
    assert bench.config.limits == {"WORKSPACE": 256 << 20}
    bench.build()
    assert bench.config.limits == {}


# Refusals: whatever returns None or False becomes a reason


REFUSALS = {
    "Builder": (None, "CUDA initialization failure with error: 35"),
    "add_optimization_profile": (-1, "Profile 0 is not valid"),
    "build_serialized_network": (None, "Error Code 10: Internal Error (Could not find any implementation for node)"),
    "Runtime": (None, "CUDA initialization failure with error: 100"),
    "deserialize_cuda_engine": (None, "Error Code 1: Serialization (…)"),
    "create_execution_context": (None, "Error Code 2: OutOfMemory (Requested size was 1 bytes.)"),
    "set_optimization_profile_async": (False, "profile 0 is taken"),
    "set_input_shape": (False, "static dimension mismatch"),
    "set_tensor_address": (False, "misaligned address"),
    "execute_async_v3": (False, "Error Code 1: Cask (Cask convolution execution)"),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("method", REFUSALS)
def test_what_tensorrt_refuses_is_a_reason_in_its_words(make, generation, method):
    bench = make(generation, says={method: REFUSALS[method]})
    with pytest.raises((Failed, Unavailable)) as raised:
        bench.open().run()
    text = REFUSALS[method][1]
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, Unavailable) == ("CUDA init" in text)


@pytest.mark.parametrize("method", ["set_input_shape", "set_tensor_address", "set_optimization_profile_async"])
def test_a_session_that_does_not_open_leaves_nothing(make, method):
    bench = make("10.16", says={method: (False, "")})
    with pytest.raises(Failed, match="TensorRT logged no error"):
        bench.open()
    assert bench.api.alive == {}


def test_names_still_missing_are_named(make):
    bench = make("11.4", says={"infer_shapes": (["x"], "")})
    with pytest.raises(Failed, match="those of x are missing"):
        bench.open()


def test_shapes_that_depend_on_the_data_are_unsupported(bench):
    with pytest.raises(Unsupported, match="the shape of y depends on the data"):
        bench.open(model={**MODEL, "outputs": {"y": [2, -1]}})


def test_tensors_in_host_memory_are_unsupported(make):
    bench = make("10.16", says={"get_tensor_location": (1, "")})
    with pytest.raises(Unsupported, match="the engine wants x in the host's memory"):
        bench.open()


def test_types_that_numpy_lacks_are_unsupported(make):
    bench = make("11.4")
    with pytest.raises(Unsupported, match="y is of type BF16"):
        bench.open(model={**MODEL, "types": {"y": "BF16"}})


def test_half_inputs_are_fed_as_such(bench):
    session = bench.open(model={**MODEL, "types": {"x": "HALF", "y": "HALF"}})
    session.feed([images()])
    session.run()
    out = session.fetch()[0]
    assert out.dtype == np.float16
    np.testing.assert_allclose(out, expected(images()), rtol=0.01, atol=0.05)


def test_another_input_shape_than_the_models_is_unsupported(bench):
    fixed = {**MODEL, "inputs": {"x": [1, 3, 4, 4]}}
    with pytest.raises(Unsupported, match=r"^model\.onnx takes inputs of 1x3x4x4; not of 2x3x4x4$"):
        bench.build(model=fixed)


def test_what_the_parser_says_is_the_reason(bench):
    with pytest.raises(Failed) as raised:
        bench.build(model="no model")
    assert str(raised.value) == (
        "TensorRT cannot read model.onnx; Assertion failed: model->ParseFromCodedStream(&codedInput): "
        "Failed to parse the ONNX model.; export the model again, or name another file"
    )


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        (
            "Error Code 6: The engine plan file is generated on an incompatible device, "
            "expecting compute 8.6 got compute 7.5, please rebuild.",
            Stale,
            "the engine was built for compute capability 8.6, this GPU has 7.5; ",
        ),
        (
            "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. "
            "Note: Current Version: 228, Serialized Engine Version: 239",
            Stale,
            "the engine is of another TensorRT (its format is 239, that of this one 228); ",
        ),
        ("magicTagRead == kMAGIC_TAG failed.Magic tag does not match", Stale, "the file is no engine of TensorRT; "),
        ("assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.", Stale, "the file is no engine of TensorRT; "),
        ("assertion plan.header.size == blobSize failed.", Stale, "the file is cut off; "),
        (
            "IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error "
            "(Target GPU SM 70 is not supported by this TensorRT release.)",
            Unsupported,
            "this TensorRT has no code for GPUs of SM 70; ",
        ),
        (
            "CUDA initialization failure with error: 35",
            Unavailable,
            "TensorRT finds no GPU that it can use (CUDA error 35); ",
        ),
        (
            "Cuda Runtime (cudaError 35: CUDA driver version is insufficient)",
            Unavailable,
            "TensorRT finds no NVIDIA driver",
        ),
        (
            "[defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
            Failed,
            "out of memory on the GPU; ",
        ),
        (
            "Error Code 1: Cuda Runtime (cudaError 46: CUDA-capable device(s) is/are busy or unavailable)",
            Failed,
            "the GPU was lost; ",
        ),
        ("something new", Failed, "it failed; something new"),
        ("", Failed, "it failed; TensorRT logged no error"),
    ],
)
def test_texts_that_are_known_are_put_into_words(text, error, reason):
    found = journal.trouble("it failed", text)
    assert type(found) is error
    assert str(found).startswith(reason)
    assert text in str(found)


def test_only_errors_of_the_operation_at_hand_are_reasons(make):
    bench = make("10.16")
    log = journal.of(bench.trt)
    bench.trt.loggers.append(log.logger)
    bench.trt.log("long ago")
    with log.part() as entries:
        bench.trt.log("beware", "WARNING")
        bench.trt.log("chatter", "INFO")
        bench.trt.log("the cause\n  of it")
        bench.trt.log("what it led to")
    assert journal.said(entries) == "the cause of it"
    assert [entry.severity for entry in entries] == ["WARNING", "ERROR", "ERROR"]


def test_a_process_has_one_logger(bench):
    bench.open()
    bench.open()
    assert len(set(map(id, bench.trt.loggers))) == 1


# CUDA's faults


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("cudaStreamSynchronize", 700, r"cudaErrorIllegalAddress \(700\)"),
        ("cudaStreamSynchronize", 719, r"cudaErrorLaunchFailure \(719\)"),
        ("cudaMemcpyAsync", 719, r"cudaErrorLaunchFailure \(719\)"),
        ("cudaMalloc", 2, r"^out of memory on the GPU; cudaErrorMemoryAllocation \(2\)"),
        ("cudaMallocHost", 2, r"^out of memory on the GPU"),
    ],
)
def test_a_gpu_that_fails_is_named_and_nothing_hides_it(bench, call, error, reason):
    setup = bench.setup()
    engine = bench.build(setup)
    bench.api.errors = {call: error}
    with pytest.raises(Failed, match=reason):  # noqa: PT012 - wherever it comes up
        session = bench.backend.open(engine, setup)
        try:
            session.feed([images()])
        finally:
            session.close()


@pytest.mark.parametrize("interval", ALL)
@pytest.mark.parametrize(
    ("error", "name"), [(46, "cudaErrorDevicesUnavailable"), (63, "unrecognized error code"), (999, "cudaErrorUnknown")]
)
def test_a_gpu_that_is_lost_while_it_measures_is_said_to_be(make, interval, error, name):
    bench = make("10.16")
    session = bench.open()
    session.feed([images()])
    session.run()
    bench.api.errors = {"cudaStreamSynchronize": error}
    words = rf"^the GPU was lost; {name} \({error}\), .*; reset the GPU or restart the machine, .*dmesg$"
    with pytest.raises(Failed, match=words):
        measured(session, interval)
    session.close()


def test_a_gpu_that_somebody_else_has_at_the_start_is_unavailable(bench):
    setup = bench.setup()
    engine = bench.build(setup)
    bench.api.errors = {"cudaSetDevice": 46}
    with pytest.raises(Unavailable, match=r"^no GPU that CUDA can use; cudaErrorDevicesUnavailable \(46\), "):
        bench.backend.open(engine, setup)


def test_a_kernel_that_breaks_while_it_measures_is_named(bench):
    session = bench.open()
    session.feed([images()])
    session.run()
    bench.api.errors = {"cudaStreamSynchronize": 719}
    with pytest.raises(Failed, match="the GPU broke off its work: cudaErrorLaunchFailure"):
        measured(session, "compute")
    session.close()


# Engines on disk


def test_facts_lie_beside_a_plan_and_travel_with_it(bench):
    plan = bench.build(bench.setup("fp16" if bench.trt.generation in WEAK else "fp32", batch_size=4))
    assert [file.name for file in model_files(plan)] == ["model.plan", "model.json"]
    facts = json.loads((plan.with_suffix(".json")).read_text())
    assert facts["tensorrt"] == bench.trt.__version__
    assert (facts["gpu"], facts["capability"], facts["driver"], facts["cuda"]) == ("Tesla T4", "7.5", "12.4", "12.9")
    assert facts["input_shapes"] == {"x": [4, 3, 4, 4]}
    assert facts["typing"] == ("weak" if bench.trt.generation in WEAK else "strong")
    assert len(facts["plan_sha256"]) == len(facts["source_sha256"]) == 64


@pytest.mark.parametrize("damage", ["half", "empty", "random", "no facts", "half facts", "random facts"])
def test_a_plan_that_is_not_ours_is_never_loaded(bench, damage):
    plan = bench.build()
    file = plan.with_suffix(".json") if "facts" in damage else plan
    content = file.read_bytes()
    if damage == "no facts":
        file.unlink()
    else:
        file.write_bytes({"h": content[: len(content) // 2], "e": b"", "r": b"\xff" * len(content)}[damage[0]])
    with pytest.raises(Stale, match=r"model\.plan .*the next run builds it again"):
        bench.backend.open(plan, bench.setup())
    assert bench.trt.loaded == []


def test_what_to_do_is_said_without_the_folder_of_the_cache(bench):
    plan = bench.build()
    entry = bench.folder / "cache/tensorrt/ab/abcd"
    entry.mkdir(parents=True)
    moved = plan.rename(entry / plan.name)
    with pytest.raises(Stale, match=r"; remove it from bench's cache \(BENCH_CACHE\); ") as raised:
        bench.backend.open(moved, bench.setup())
    assert str(bench.folder) not in str(raised.value)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"name": "Tesla V100-SXM2-16GB"}, "built for the GPU Tesla T4; here it is Tesla V100-SXM2-16GB"),
        ({"capability": (8, 6)}, "built for compute capability 7.5; here it is 8.6"),
    ],
)
def test_a_plan_for_another_gpu_is_never_loaded(make, other, reason):
    bench = make("10.16")
    plan = bench.build()
    bench.use("10.16", **other)
    with pytest.raises(Stale, match=reason):
        bench.backend.open(plan, bench.setup())
    assert bench.trt.loaded == []


def test_a_plan_for_another_tensorrt_or_case_is_never_loaded(make):
    bench = make("10.4")
    plan = bench.build()
    for setup, reason in (
        (bench.setup("fp16"), "built for precision fp32; here it is fp16"),
        (bench.setup(batch_size=4), "built for inputs of "),
    ):
        with pytest.raises(Stale, match=reason):
            bench.backend.open(plan, setup)
    bench.use("11.4")
    with pytest.raises(Stale, match=r"built for TensorRT 10\.4\.0; here it is 11\.4\.0\.106"):
        bench.backend.open(plan, bench.setup())
    assert bench.trt.loaded == []


def test_an_engine_is_of_all_that_decides_it(make):
    bench = make("10.16")

    def variant(found=(), **words):
        setup = msgspec.structs.replace(bench.setup(**words), found=dict(found))
        return msgspec.json.encode(bench.backend.variant(setup))

    gpu = {"name": "Tesla T4", "capability": [7, 5], "driver": "535.10"}
    same = variant({"gpu": gpu}), variant({"gpu": gpu}, cuda_graph="on")
    others = [
        variant(),
        variant({"gpu": {**gpu, "driver": "550.1"}}),
        variant({"gpu": {**gpu, "name": "A10"}}),
        variant({"gpu": {**gpu, "capability": [8, 6]}}),
        *(
            variant({"gpu": gpu}, **words)
            for words in (
                {"precision": "fp16"},
                {"batch_size": 4},
                {"tf32": "on"},
                {"strong_typing": "on"},
                {"level": "5"},
                {"workspace_mib": "64"},
                {"build": "1"},
            )
        ),
    ]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 1 + len(others)


@pytest.mark.parametrize("option", ["build", "workspace_mib"])
def test_what_is_counted_is_whole(bench, option):
    with pytest.raises(UsageError, match=rf"^tensorrt\.{option} takes a whole number; found '0\.5'; correct --set$"):
        bench.backend.variant(bench.setup(**{option: "0.5"}))


def timings(bench):
    return {file.read_bytes() for file in (bench.folder / "cache/tensorrt").glob("*.timings")}


def test_timings_are_kept_for_the_next_engine_of_one_build_number(make):
    bench = make("10.16")
    bench.build()
    assert bench.config.timings.content == b""
    bench.build()
    assert bench.config.timings.content == b"timings of one build;"
    assert timings(bench) == {b"timings of one build;" * 2}
    bench.build(bench.setup(build="1"))
    assert bench.config.timings.content == b""
    bench.build(bench.setup("fp16"))
    assert bench.config.timings.content == b""


def test_timings_that_are_not_taken_are_begun_anew(make):
    bench = make("10.16")
    plan = bench.build()
    for file in (bench.folder / "cache/tensorrt").glob("*.timings"):
        file.write_bytes(b"garbage")
    bench.build()
    assert bench.config.timings.content == b""
    assert json.loads(plan.with_suffix(".json").read_text())["timings_sha256"] == ""


@pytest.mark.parametrize("method", ["create_timing_cache", "get_timing_cache"])
def test_a_release_without_a_timing_cache_builds_all_the_same(make, method):
    bench = make("11.4", says={method: (None, "")})
    assert bench.build().exists()


# The way from the profile to the GPU


def test_probing_names_the_release_or_what_is_missing(bench):
    assert bench.backend.probe(profile("t4")) == bench.trt.__version__
    bench.api.driver = 0
    with pytest.raises(Unavailable, match="no NVIDIA driver"):
        bench.backend.probe(profile("t4"))


def test_it_runs_on_gpus_alone():
    with pytest.raises(Unsupported, match="tensorrt here runs on gpu; not on a cpu"):
        backends.get("tensorrt").probe(profile("cpu"))


def test_no_runtime_is_loaded_until_it_is_needed():
    backends.get("tensorrt")
    assert not {"tensorrt", "cuda"} & set(sys.modules)


@pytest.mark.parametrize(("semantics", "version"), [("trtexec-10", "10.13"), ("trtexec-11", "11.1")])
def test_trtexecs_figures_stand_beside_ours(bench, semantics, version):
    session = bench.open(bench.setup(semantics=semantics))
    session.feed([images()])
    ours = measured(session, "device")["device"]
    found = session.beside()["trtexec"]
    assert found["version"] == version
    assert found["log"].startswith("Throughput: ")
    assert found["summary"]["compute"]["median"] == pytest.approx(sorted(ours.samples_ns)[2] / 1e6, rel=0.01)
    assert found["summary"]["queries"] >= 10


@pytest.mark.parametrize(
    ("generation", "flags", "limit"), [("8.6", 1, 1), ("10.4", 1, 1), ("10.16", 1, 2.5), ("11.4", 0, 2.5)]
)
def test_trtexec_alone_is_that_of_the_tensorrt_at_hand(make, generation, flags, limit):
    """`flags` is cudaEventBlockingSync or nothing, `limit` the percentage from which it calls a run unstable."""
    bench = make(generation)
    session = bench.open(bench.setup(semantics="trtexec"))
    session.feed([images()])
    waited = set()
    wait = bench.api._cudaEventSynchronize
    bench.api._cudaEventSynchronize = lambda event: waited.add(event.flags) or wait(event)
    measured(session, "compute")
    assert session.beside()["trtexec"]["version"] == generation
    assert waited == {flags}
    assert definitions.defaults(definitions.version(generation)).unstable_percent == limit


def test_trtexec_of_a_tensorrt_that_nobody_knows_is_refused(make):
    bench = make("11.4")
    bench.trt.__version__ = "12.0.0.1"
    with pytest.raises(UsageError, match=r"of trtexec 12\.0 are not known here; known are 8\.5 to 11\.x"):
        bench.open(bench.setup(semantics="trtexec"))


def test_trtexecs_figures_leave_its_warm_up_out(make):
    bench = make("10.16")
    session = bench.open(bench.setup(semantics="trtexec-10"))
    session.feed([images()])
    session.run()
    trace, enqueue, engine = session.trace, session._enqueue, bench.trt.loaded[-1]

    def heating_up(defaults):
        warm_ns = bench.api.now_ns + 180_000_000

        def enqueued():
            engine["span_ns"] = 5_000_000 if bench.api.now_ns < warm_ns else 1_000_000
            enqueue()

        session._enqueue = enqueued
        return trace(defaults)

    session.trace = heating_up
    measured(session, "compute")
    figures = session.beside()["trtexec"]["summary"]
    assert figures["compute"]["max"] == pytest.approx(1.0, rel=0.01)
    assert 2.9 <= figures["walltime_s"] <= 3.1


@pytest.mark.parametrize(("semantics", "flags"), [("trtexec-10", 1), ("trtexec-11", 0)])
def test_waiting_is_as_in_that_trtexec(make, semantics, flags):
    """1 is cudaEventBlockingSync."""
    bench = make("10.16")
    session = bench.open(bench.setup(semantics=semantics))
    session.feed([images()])
    waited = set()
    wait = bench.api._cudaEventSynchronize
    bench.api._cudaEventSynchronize = lambda event: waited.add(event.flags) or wait(event)
    measured(session, "compute")
    assert waited == {flags}


@pytest.mark.parametrize("option", ["off", "on"])
@pytest.mark.parametrize(("semantics", "replayed"), [("trtexec-10", False), ("trtexec-11", True)])
def test_a_graph_is_replayed_where_that_trtexec_does_whatever_our_option(make, semantics, replayed, option):
    bench = make("10.16")
    session = bench.open(bench.setup(semantics=semantics, cuda_graph=option))
    session.feed([images()])
    measured(session, "compute")
    ours = bench.api.calls.count("cudaGraphInstantiateWithFlags")
    found = session.beside()["trtexec"]
    assert (found["cuda_graph"], found["defaults"]["cuda_graph"]) == (replayed, replayed)
    assert ours == (option == "on") + replayed
    # Launching a graph is a call of 1 µs, enqueuing takes 5; in single precision after 3 s to about 0.25 µs.
    assert found["summary"]["enqueue"]["median"] == pytest.approx(0.001 if replayed else 0.005, abs=5e-4)
    assert "CUDA graph" not in found["log"]
    assert session.effective()["cuda_graph"] is (option == "on")
    session.run()
    np.testing.assert_array_equal(session.fetch()[0], expected(images()))
    session.close()
    assert bench.api.alive == {}


@pytest.mark.parametrize(("semantics", "said"), [("trtexec-10", False), ("trtexec-11", True)])
def test_trtexecs_figures_of_what_cannot_be_captured_say_so(make, semantics, said):
    bench = make("10.16", says={"execute_async_v3": (False, "cannot be captured")})
    session = bench.open(bench.setup(semantics=semantics))
    session.feed([images()])
    measured(session, "compute")
    found = session.beside()["trtexec"]
    assert (found["cuda_graph"], found["defaults"]["cuda_graph"]) == (False, said)
    assert found["summary"]["compute"]["median"] == pytest.approx(1.0, rel=0.01)
    words = "No CUDA graph, though it is this trtexec's default: the engine can't be captured as one."
    assert (found["log"].splitlines()[-1] == words) is said


def test_they_are_taken_only_if_asked(bench):
    session = bench.open()
    session.feed([images()])
    measured(session, "compute")
    assert session.beside() == {}


def test_a_replayed_graph_says_that_it_is_one(bench):
    session = bench.open(bench.setup(cuda_graph="on"))
    session.feed([images()])
    assert session.semantics().keys() == {"end_to_end"}
    measured(session, *ALL)
    assert "pinned memory" in session.semantics()["end_to_end"]
    assert session.semantics().keys() == set(ALL)
    assert all("replay of a CUDA graph" in words for words in session.semantics().values())


def test_tf32_is_held_to_its_own_tolerance(bench):
    assert bench.backend.rounding(bench.setup()) == "fp32"
    assert bench.backend.rounding(bench.setup(tf32="on")) == "fp16"
    assert bench.backend.rounding(bench.setup("int8", tf32="on")) == "int8"
