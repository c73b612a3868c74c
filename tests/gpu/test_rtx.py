"""Our build code against a real builder: that of TensorRT-RTX, which parses and builds without a GPU or a driver.

Its API is that of TensorRT 11 but for what says which GPU to build for. `nox -s rtx` runs this.
"""

import json
import re
from types import ModuleType

import pytest
import surfaces
from fakes.cuda import FakeCuda

from bench import backends, catalog, cuda, environment, worker
from bench.artifacts import Cache, default_root, file_sha256
from bench.backends import Setup
from bench.backends.tensorrt import api, building, journal, plan, session
from bench.cuda import Gpu
from bench.errors import Failed, Unavailable, Unsupported
from bench.jobs import Build, Folder, Measure, Problem
from bench.prepare import Workshop
from bench.schema import Case, Settings

pytestmark = [
    pytest.mark.rtx,
    # of its timing cache, which does nothing, and of Python's own deletion of its objects
    pytest.mark.filterwarnings("ignore:Use :DeprecationWarning"),
]

FAMILIES = ("MobileNetV1", "MobileNetV2", "MobileNetV3", "PP-LCNet", "PP-LCNetV2", "DPN", "DenseNet", "MobileOne")
CARDS = [card.name for card in catalog.cards().values() if card.family in FAMILIES and card.network]
SMALL = "MobileNetV1_x0_25"
NO_DRIVER = "cudaError 35: CUDA driver version is insufficient for CUDA runtime version"
GPU = Gpu("NVIDIA RTX A4000", "8.6", driver="", runtime="")


@pytest.fixture(scope="session")
def rtx():
    """TensorRT-RTX whose configurations are for GPUs of compute capability 8.6, as there is none to ask."""
    return rtx_for("SM86")


def rtx_for(architecture):
    import tensorrt_rtx

    class Builder:
        def __init__(self, logger):
            self._builder = tensorrt_rtx.Builder(logger)

        def __getattr__(self, name):
            return getattr(self._builder, name)

        def create_builder_config(self):
            config = self._builder.create_builder_config()
            config.num_compute_capabilities = 1
            assert config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, architecture), 0)
            return config

    module = ModuleType("tensorrt_rtx_there")
    vars(module).update(vars(tensorrt_rtx) | {"Builder": Builder})
    return module


@pytest.fixture(scope="session")
def workshop():
    return Workshop(Cache(default_root()), Settings(), environment.cpus_available(), print)


@pytest.fixture
def model(workshop):
    """The ONNX file of a card, exported as `bench run` does."""
    from pathlib import Path

    return lambda name: Path(workshop.model(catalog.cards()[name], "onnx").path)


@pytest.fixture(autouse=True)
def own_timings(monkeypatch, tmp_path):
    monkeypatch.setattr(building, "default_root", lambda: tmp_path)


def setup(name=SMALL, precision="fp32", batch_size=1, input_shape=None):
    case = Case(name, "tensorrt", "t4", precision, batch_size, 1)
    options = backends.settle(backends.get("tensorrt"), {})
    return Setup(case, catalog.profile("t4"), options, input_shape or catalog.cards()[name].input_shape)


def build(rtx, source, folder, wanted):
    return building.Build(rtx, GPU, source, wanted).make(folder)


def test_it_has_the_names_that_are_used(rtx):
    import tensorrt_rtx

    used = surfaces.used()
    missing = [name for name in used.pop("Trt") if not hasattr(tensorrt_rtx, name)]
    for name, wanted in used.items():
        missing += [each for each in wanted if not hasattr(getattr(tensorrt_rtx, name), each)]
    assert missing == []
    assert not api.types_by_itself(rtx)


@pytest.mark.parametrize("name", CARDS)
def test_every_card_becomes_a_plan(rtx, model, tmp_path, name):
    source = model(name)
    made = build(rtx, source, tmp_path, setup(name, batch_size=4))
    content, facts = plan.load(made, rtx, GPU, setup(name, batch_size=4))
    # Without weights the kernels and the graph take 0.3 to 2.5 MB.
    assert len(content) > 0.9 * source.stat().st_size
    assert list(facts.input_shapes.values()) == [(4, *catalog.cards()[name].input_shape)]
    assert (facts.typing, facts.tf32, facts.tensorrt) == ("strong", False, rtx.__version__)


def test_a_plan_without_a_gpu_is_unavailable_and_says_why(rtx, model, tmp_path):
    content = build(rtx, model(SMALL), tmp_path, setup()).read_bytes()
    with pytest.raises(Unavailable, match="TensorRT finds no NVIDIA driver that it can use") as raised:
        session.load(rtx, content)
    assert NO_DRIVER in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("half", "the file is cut off"),
        ("empty", "the file is cut off"),
        ("random", "the file is no engine of TensorRT"),
    ],
)
def test_a_damaged_plan_is_named(rtx, model, tmp_path, damage, reason):
    content = build(rtx, model(SMALL), tmp_path, setup()).read_bytes()
    spoilt = {"half": content[: len(content) // 2], "empty": b"", "random": bytes(range(256)) * 64}[damage]
    with pytest.raises(Failed, match=rf"^model\.plan: {reason}; "):
        session.load(rtx, spoilt)


@pytest.mark.parametrize("damage", ["half", "random"])
def test_a_damaged_model_is_named(rtx, model, tmp_path, damage):
    content = model(SMALL).read_bytes()
    source = tmp_path / "model.onnx"
    source.write_bytes({"half": content[: len(content) // 2], "random": b"\xff" * 4096}[damage])
    with pytest.raises(
        Failed, match=r"^TensorRT cannot read model\.onnx; .*ParseFromCodedStream.*; export the model again"
    ):
        build(rtx, source, tmp_path, setup())


def test_an_empty_model_builds_nothing(rtx, tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(b"")
    with pytest.raises(Failed, match=r"^TensorRT built no engine from model\.onnx; .*at least one output"):
        build(rtx, source, tmp_path, setup())


@pytest.mark.parametrize("shape", [(3, 224), (1, 224, 224)])
def test_another_shape_than_the_models_is_unsupported(rtx, model, tmp_path, shape):
    with pytest.raises(Unsupported, match=r"^model\.onnx takes inputs of -1x3x224x224; not of 1x"):
        build(rtx, model(SMALL), tmp_path, setup(input_shape=shape))


def test_precisions_that_the_model_does_not_hold_are_unsupported(rtx, model, tmp_path):
    for precision, tool in (("fp16", "autocast"), ("int8", "quantization")):
        with pytest.raises(Unsupported, match=f"as docs/gpu.md says: python -m modelopt.onnx.{tool}"):
            build(rtx, model(SMALL), tmp_path, setup(precision=precision))


def test_a_missing_profile_is_what_the_builder_says(rtx, model, monkeypatch, tmp_path):
    monkeypatch.setattr(building.Build, "narrow", lambda *_: None)
    with pytest.raises(Failed, match="no optimization profile has been defined"):
        build(rtx, model(SMALL), tmp_path, setup())


def test_a_bad_profile_is_rejected(rtx, model, monkeypatch, tmp_path):
    negative = lambda *_: {"x": (-4, 3, 224, 224)}  # noqa: E731
    monkeypatch.setattr(building.Build, "shapes", negative)
    with pytest.raises(Failed, match=r"^TensorRT rejects the profile for -4x3x224x224; "):
        build(rtx, model(SMALL), tmp_path, setup())


def test_half_precision_in_the_model_is_found(rtx, model, tmp_path):
    """A model of ours with its weights and sums in fp16, inputs and outputs in fp32."""
    import onnx
    from onnx import TensorProto, helper

    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=half),
        helper.make_node("Conv", ["narrow", "weights"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=full),
    ]
    weights = helper.make_tensor("weights", half, [8, 3, 3, 3], [0.5] * 216)
    x, y = (helper.make_tensor_value_info(name, full, None) for name in "xy")
    x = helper.make_tensor_value_info("x", full, [1, 3, 32, 32])
    graph = helper.make_graph(nodes, "half", [x], [y], [weights])
    source = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    made = build(rtx, source, tmp_path, setup(precision="fp16", input_shape=(3, 32, 32)))
    assert json.loads(made.with_suffix(".json").read_text())["precision"] == "fp16"
    with pytest.raises(Unsupported, match=r"fp32 takes a model without other types; model\.onnx holds fp16"):
        build(rtx, source, tmp_path, setup(input_shape=(3, 32, 32)))


def test_what_the_builder_cannot_do_is_a_reason(model, tmp_path):
    """TensorRT-RTX has no matrix products in fp32 for Turing, which a T4 is."""
    with pytest.raises(Failed, match=r"^TensorRT built no engine from model\.onnx; .*FP32 GEMM is not supported"):
        build(rtx_for("SM75"), model(SMALL), tmp_path, setup())


# What a worker answers, which is what goes on record


@pytest.fixture
def ask(rtx, monkeypatch):
    """Answers of a worker whose TensorRT is TensorRT-RTX; the GPU that its engines are for is there by name alone."""
    api = FakeCuda(name=GPU.name, capability=(8, 6))
    monkeypatch.setattr(type(backends.get("tensorrt")), "runtime", lambda *_: rtx)
    monkeypatch.setattr(cuda, "load", lambda: cuda.Cuda(api))
    return worker.answer_to


def damaged_model(content, monkeypatch):
    return content[: len(content) // 2]


def bad_profile(content, monkeypatch):
    monkeypatch.setattr(building.Build, "shapes", lambda *_: {"x": (-4, 3, 224, 224)})
    return content


def no_profile(content, monkeypatch):
    monkeypatch.setattr(building.Build, "narrow", lambda *_: None)
    return content


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        (damaged_model, r"TensorRT cannot read model\.onnx; .*ParseFromCodedStream.*; export the model again, .*"),
        (bad_profile, r"TensorRT rejects the profile for -4x3x224x224; .*"),
        (no_profile, r"TensorRT built no engine from model\.onnx; .*no optimization profile has been defined.*"),
    ],
    ids=["parser error", "bad profile", "no profile"],
)
def test_a_worker_answers_that_a_build_failed_and_why(ask, model, monkeypatch, tmp_path, mistake, reason):
    source = tmp_path / "model.onnx"
    source.write_bytes(mistake(model(SMALL).read_bytes(), monkeypatch))
    answer = ask(Build(setup(), str(source), str(tmp_path)))
    assert isinstance(answer, Problem)
    assert answer.status == "failed"
    assert re.fullmatch(reason, answer.reason)


@pytest.mark.parametrize(
    ("damage", "status", "reason"),
    [
        ("none", "unavailable", rf"model\.plan: TensorRT finds no NVIDIA driver that it can use; .*{NO_DRIVER}.*"),
        ("half", "stale", r"model\.plan: the file is cut off; .*"),
        ("random", "stale", r"model\.plan: the file is no engine of TensorRT; .*"),
        ("not ours", "stale", r"model\.plan .*the next run builds it again"),
    ],
)
def test_a_worker_answers_what_is_wrong_with_a_plan(ask, model, tmp_path, damage, status, reason):
    """Of one whose facts are right TensorRT itself finds out. A stale one is built again, once; then it is failed."""
    answer = ask(Build(setup(), str(model(SMALL)), str(tmp_path)))
    assert isinstance(answer, Folder)
    file = tmp_path / answer.made.file
    content = file.read_bytes()
    spoilt = {"none": content, "half": content[: len(content) // 2]}.get(damage, bytes(range(256)) * 64)
    file.write_bytes(spoilt)
    if damage != "not ours":
        facts = json.loads(file.with_suffix(".json").read_text())
        file.with_suffix(".json").write_text(json.dumps({**facts, "plan_sha256": file_sha256(file)}))
    answer = ask(Measure(setup(), Settings(), str(file), ""))
    assert (type(answer), answer.status) == (Problem, status)
    assert re.fullmatch(reason, answer.reason)


def test_a_process_keeps_one_logger(rtx):
    assert journal.of(rtx) is journal.of(rtx)
