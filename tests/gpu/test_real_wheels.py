"""The real wheels for GPUs on a machine without one: every case is unavailable, with a line that says what is missing.

Each wheel has an environment of its own: `nox -s gpu_wheels` makes them and runs the tests whose names begin with its.
What a GPU would compute is not tested. Of TensorRT there are the bindings alone, over empty libraries.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import surfaces

from bench import backends, catalog, environment
from bench.artifacts import Cache
from bench.backends import Setup
from bench.gpu.causes import cause
from bench.jobs import Build, Folder, Measure, Measured, Probe, Problem, Reference
from bench.prepare import Workshop
from bench.schema import Case, Settings

pytestmark = pytest.mark.slow

CARD = catalog.cards()["MobileNetV1_x0_25"]
T4, CPU = catalog.profile("t4"), catalog.profile("cpu")
FEW = Settings(intervals=("compute", "end_to_end"), warmup=1, iterations=3, timeout_s=120)
INSTALLED = {each.name.lower().replace("_", "-"): each.version for each in metadata.distributions()}
SHAPE = (3, 8, 8)

NO_CUDA = "the libraries of CUDA or cuDNN are not found"
NO_TENSORRT = "the libraries of TensorRT are not found"
NO_DRIVER = "no NVIDIA driver is installed"
OLD_DRIVER = "the NVIDIA driver is missing, or too old for this CUDA"
NO_GPU = "no GPU is visible to this process"
FOR_CPUS = "this PaddlePaddle is a build for CPUs"


@pytest.fixture(autouse=True)
def without_a_driver():
    if Path("/proc/driver/nvidia/version").exists():
        pytest.fail("there is a driver, and maybe a GPU; these tests are for machines without")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(Cache(tmp_path_factory.mktemp("cache")), FEW, environment.cpus_available(), print)


def setup_of(name, device=T4, shape=CARD.input_shape, precision="fp32", **options):
    case = Case("m", name, device.name, precision, 4, 1)
    return Setup(case, device, backends.settle(backends.get(name), options, device.kind), shape)


def asked(workshop, job, setup=None):
    """A worker's answer, in the environment that `bench run` gives it."""
    environ = backends.get(job.done_by).environment(setup.options) if setup else {}
    return workshop.ask(job, {**os.environ, **environ})


def assert_unavailable(answer, words):
    assert isinstance(answer, Problem), f"a time under the GPU's name: {answer}"
    assert (answer.status, answer.reason.startswith(words)) == ("unavailable", True), answer
    assert "\n" not in answer.reason
    assert len(answer.reason) < 400
    print(f"unavailable: {answer.reason}")


def said(statements):
    """What a fresh process writes to both streams, and the code that it ends with."""
    done = subprocess.run([sys.executable, "-c", statements], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, done.returncode


def assert_meaning(statements, what, code=1):
    """That a process ends with this code, 255 being one that nothing in it could catch, and what its words mean."""
    text, ended = said(statements)
    assert (ended, bool(cause(text))) == (code, True), text
    assert cause(text).what == what, text
    print(f"exit code {code}: {cause(text)[:3]}")


# ONNX Runtime


def what_onnxruntime_lacks():
    """The first thing that is missing: CUDA's libraries, else a driver, to whose library some releases are linked."""
    if not {"nvidia-cublas", "nvidia-cublas-cu12"} & INSTALLED.keys():
        return NO_CUDA
    return NO_DRIVER if INSTALLED["onnxruntime-gpu"].startswith("1.31.") else OLD_DRIVER


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((5, 3, 3, 3), np.float32), "w")
    shapes = (["n", *SHAPE], ["n", 5, 6, 6])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    file = tmp_path_factory.mktemp("model") / "m.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(made.SerializeToString())
    return file


@pytest.fixture(scope="module")
def expected(workshop, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    job = Reference("onnxruntime", str(model), SHAPE, 1, str(folder))
    assert isinstance(asked(workshop, job), Folder)
    return str(folder / "reference.npz")


def test_onnxruntime_computes_on_the_cpu(workshop, model, expected):
    """So what is refused below isn't refused for another reason."""
    setup = setup_of("onnxruntime", CPU, SHAPE)
    assert isinstance(asked(workshop, Measure(setup, FEW, str(model), expected), setup), Measured)


def test_onnxruntime_is_unavailable_when_probed(workshop):
    assert_unavailable(asked(workshop, Probe("onnxruntime", T4)), what_onnxruntime_lacks())


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_is_unavailable_when_measured(workshop, model, expected, provider, precision):
    setup = setup_of("onnxruntime", shape=SHAPE, precision=precision, provider=provider)
    job = Measure(setup, FEW, str(model), expected)
    assert_unavailable(asked(workshop, job, setup), what_onnxruntime_lacks())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_is_unavailable_when_an_engine_is_built(workshop, model, tmp_path, precision):
    setup = setup_of("onnxruntime", shape=SHAPE, precision=precision, provider="tensorrt")
    assert_unavailable(asked(workshop, Build(setup, str(model), str(tmp_path)), setup), what_onnxruntime_lacks())


OPEN = """
import numpy as np, onnxruntime as ort
def opened(model, providers, entries={}, **more):
    settings = ort.SessionOptions()
    for name, value in entries.items():
        settings.add_session_config_entry(name, value)
    session = ort.InferenceSession(model, settings, providers=providers, **more)
    print("on", *session.get_providers())
    return session
"""
#: of releases since 1.21
PRELOAD = f"{OPEN}\ngetattr(ort, 'preload_dlls', lambda: None)()"
WITHOUT_CPU = {"session.disable_cpu_ep_fallback": "1"}


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_onnxruntime_left_to_itself_goes_to_the_cpu(model, provider):
    """What all of this is about: no error, and a session on the CPU."""
    text, code = said(f"{PRELOAD}\nopened({str(model)!r}, [{provider!r}])")
    assert (code, "on CPUExecutionProvider" in text) == (0, True), text


def test_onnxruntimes_words_on_the_gpu_are_understood(model):
    lacks = what_onnxruntime_lacks()
    assert_meaning(f"{PRELOAD}\nort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), 'cuda', 0)", lacks)
    text, _ = said(f"{PRELOAD}\nopened({str(model)!r}, ['CUDAExecutionProvider'], enable_fallback=0)")
    assert cause(text).what == lacks, text
    text, code = said(f"{PRELOAD}\nopened({str(model)!r}, ['TensorrtExecutionProvider'], enable_fallback=0)")
    # 1.20 takes no notice of enable_fallback, so that bench has to look where the session is.
    refused = not INSTALLED["onnxruntime-gpu"].startswith("1.20.")
    # Where CUDA's libraries are missing, too, either may be what the loader comes to first.
    missing = {NO_TENSORRT} | ({NO_CUDA} & {lacks})
    assert (code, cause(text).what in missing) == (int(refused), True), text
    print(f"CUDA and TensorRT: {lacks}, {cause(text)[:3]}")


def test_onnxruntime_without_a_cpu_to_fall_back_to_opens_nothing(model):
    text, code = said(f"{PRELOAD}\nopened({str(model)!r}, ['CUDAExecutionProvider'], {WITHOUT_CPU}, enable_fallback=0)")
    assert (code, cause(text).what) == (1, what_onnxruntime_lacks()), text
    # Where the provider loads, it is CUDA that fails.
    assert ("has been explicitly disabled by the user" in text) is (what_onnxruntime_lacks() != OLD_DRIVER)


def test_onnxruntimes_words_on_a_session_that_fell_back_are_understood(model):
    opened = f"{OPEN}\nsession = opened({str(model)!r}, ['CPUExecutionProvider']"
    bind = "session.io_binding().bind_input('x', 'cuda', 0, np.float32, [1, 3, 8, 8], 0)"
    assert_meaning(f"{opened})\n{bind}", "ONNX Runtime's session fell back to the CPU")
    conflict = "ONNX Runtime's provider for the GPU is not there"
    assert_meaning(f"{opened}, {WITHOUT_CPU}, enable_fallback=0)", conflict)


# Paddle


@pytest.fixture(scope="module")
def program(workshop):
    return Path(workshop.model(CARD, "paddle").path).absolute()


def test_paddle_computes_on_the_cpu(workshop, program):
    setup = setup_of("paddle", CPU)
    answer = asked(workshop, Measure(setup, FEW, str(program), workshop.reference(CARD).path), setup)
    assert isinstance(answer, Measured), answer
    assert program.suffix == ".pdmodel"


@pytest.mark.parametrize("name", ["paddle", "paddle_tensorrt"])
def test_paddle_is_unavailable(workshop, program, name):
    setup = setup_of(name)
    for answer in (
        asked(workshop, Probe(name, T4)),
        asked(workshop, Measure(setup, FEW, str(program), workshop.reference(CARD).path), setup),
    ):
        assert_unavailable(answer, OLD_DRIVER)


def test_paddle_is_unavailable_when_an_engine_is_built(workshop, program, tmp_path):
    setup = setup_of("paddle_tensorrt")
    assert_unavailable(asked(workshop, Build(setup, str(program), str(tmp_path)), setup), OLD_DRIVER)


PREDICTOR = """
import paddle
from paddle import inference
def config():
    made = inference.Config({program!r}, {program!r}.rpartition(".")[0] + ".pdiparams")
    made.enable_use_gpu(100, 0)
    assert made.use_gpu()
    return made
"""
ROWS = {
    "a predictor": ("inference.create_predictor(config())", NO_GPU, 1),
    "a predictor with TensorRT": (
        "c = config(); c.enable_tensorrt_engine(use_calib_mode=False); inference.create_predictor(c)",
        NO_GPU,
        1,
    ),
    "set_device": ("paddle.set_device('gpu:0')", NO_GPU, 255),
    "a place": ("paddle.CUDAPlace(0)", NO_GPU, 255),
    "synchronize by name": ("paddle.device.synchronize('gpu:0')", NO_GPU, 255),
    "cuda.synchronize": ("paddle.device.cuda.synchronize()", OLD_DRIVER, 1),
    "capability": ("paddle.device.cuda.get_device_capability()", OLD_DRIVER, 1),
    "TensorRT's version": ("inference.get_trt_runtime_version()", NO_TENSORRT, 1),
    "a summary": ("c = config(); c.enable_tensorrt_engine(); c.summary()", NO_TENSORRT, 1),
}


@pytest.mark.parametrize("row", ROWS)
def test_paddles_words_are_understood(program, row):
    statements, what, code = ROWS[row]
    assert_meaning(f"{PREDICTOR.format(program=str(program))}\n{statements}", what, code)


def test_paddle_is_imported_with_a_warning_that_is_no_cause():
    text, code = said("import paddle")
    assert (code, "CPU device will be used by default" in text) == (0, True), text
    assert cause(text) is None


def test_paddle_lists_kernels_of_what_computes():
    """By which `paddle` tells that it computes them on the GPU."""
    names = ("conv2d", "depthwise_conv2d", "matmul_v2", "mul", "fc", "fused_conv2d_add_act")
    statements = f"from bench.paddle_inference import kernels_on_gpu; print(kernels_on_gpu({(*names, 'none')}))"
    text, code = said(statements)
    assert (code, str(dict.fromkeys(names, True)) in text.splitlines()) == (0, True), text


def test_paddle_has_what_the_fake_has():
    from fakes import paddle_gpu as fake

    likes = {
        "inference.Config": vars(fake.Config) | vars(fake.ConfigWithStream),
        "inference.Tensor": vars(fake.Handle),
        "inference.Predictor": vars(fake.Predictor),
        "device.cuda.Stream": {"cuda_stream", "synchronize"},
        "Tensor": {"data_ptr", "shape"},
    }
    for name, like in likes.items():
        wanted = {each for each in like if not each.startswith("_") and each != "executed"}
        text, _ = said(f"import paddle, paddle.inference; print(*dir(paddle.{name}))")
        assert wanted <= set(text.split()), name


# A Paddle for CPUs

ON_A_CPU = {
    "a place": ("paddle.set_device('gpu:0')", 1),
    "TensorRT": ("inference.Config().enable_tensorrt_engine()", 1),
    "a GPU": ("c = inference.Config(); c.enable_use_gpu(100, 0); assert not c.use_gpu()", 0),
}


@pytest.mark.parametrize("row", ON_A_CPU)
def test_cpu_paddles_words_are_understood(row):
    statements, code = ON_A_CPU[row]
    assert_meaning(f"import paddle\nfrom paddle import inference\n{statements}", FOR_CPUS, code)


def test_cpu_paddle_has_no_kernels_for_a_gpu():
    text, code = said("from bench.paddle_inference import kernels_on_gpu; print(kernels_on_gpu(['conv2d', 'matmul']))")
    assert (code, "{'conv2d': False, 'matmul': False}" in text.splitlines()) == (0, True), text


def test_cpu_paddle_knows_no_tensorrt():
    versions = "i.get_trt_compile_version(), i.get_trt_runtime_version()"
    text, code = said(f"from paddle import inference as i; print({versions})")
    assert (code, text.count("(0, 0, 0)")) == (0, 2), text


@pytest.mark.parametrize("name", ["paddle", "paddle_tensorrt"])
def test_cpu_paddle_is_unavailable_on_a_gpu(workshop, name):
    assert_unavailable(asked(workshop, Probe(name, T4)), "this PaddlePaddle (3.3.1) is a build for CPUs")


# CUDA and NVML

#: the package whose calls answer without a driver; those of the older cuda-python raise
IN_BINDINGS = "cuda-bindings" in INSTALLED


def test_cuda_is_unavailable():
    text, code = said("from bench import cuda; cuda.load().gpu()")
    assert (code, "Unavailable: no NVIDIA driver; " in text) == (1, True), text
    print(text.splitlines()[-1])


CALLS = "print(*(int(call()[0]) for call in (cuda.cudaGetDeviceCount, cuda.cudaDriverGetVersion)))"


def test_cuda_says_so_by_itself():
    """By what it returns: the number 35, and success for the driver's version, which is 0."""
    if IN_BINDINGS:
        assert said(f"from cuda.bindings import runtime as cuda; {CALLS}") == ("35 0\n", 0)
    else:
        assert_meaning(f"from cuda import cudart as cuda; {CALLS}", NO_DRIVER)


def test_cuda_driver_is_not_found():
    imported = "from cuda.bindings import driver as cuda" if IN_BINDINGS else "from cuda import cuda"
    assert_meaning(f"{imported}; cuda.cuInit(0)", NO_DRIVER)


def test_cuda_driver_is_missed_by_nvml():
    text, code = said("from bench.gpu import nvml\nwith nvml.opened(): pass")
    line = "no NVIDIA driver; NVML Shared Library Not Found; install one; nvidia-smi must then list the GPU"
    assert (code, text.splitlines()[-1].endswith(line)) == (1, True), text


# TensorRT


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """A folder with a package `tensorrt` as the real one is, which comes with the libraries."""
    folder = tmp_path_factory.mktemp("bindings")
    (folder / "tensorrt.py").write_text("from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n")
    return folder


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries")
    surfaces.empty_libraries(folder)
    return folder


def test_tensorrt_without_its_libraries_is_unavailable(workshop, bindings, monkeypatch):
    assert_meaning("import tensorrt_bindings", NO_TENSORRT)
    monkeypatch.setenv("PYTHONPATH", str(bindings))
    missing = "tensorrt does not load; libnvonnxparser.so.11: cannot open shared object file"
    assert_unavailable(asked(workshop, Probe("tensorrt", T4)), missing)


def test_tensorrt_without_a_driver_is_unavailable(workshop, bindings, libraries, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(bindings))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    setup = setup_of("tensorrt")
    for job in (
        Probe("tensorrt", T4),
        Build(setup, str(tmp_path / "m.onnx"), str(tmp_path)),
        Measure(setup, FEW, str(tmp_path / "m.plan"), ""),
    ):
        assert_unavailable(asked(workshop, job, setup), "no NVIDIA driver; libcuda.so.1 is not there")


@pytest.mark.parametrize("made", ["Builder", "Runtime"])
def test_tensorrt_that_makes_nothing_is_unavailable(bindings, libraries, monkeypatch, made):
    """The TypeError is that of the real bindings, whose library returns nothing, as it does where CUDA fails."""
    monkeypatch.setenv("PYTHONPATH", str(bindings))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    started = f"journal.started(tensorrt, tensorrt.{made})"
    text, code = said(f"import tensorrt\nfrom bench.backends.tensorrt import journal\n{started}")
    line = f"TensorRT {INSTALLED['tensorrt-cu13-bindings']} finds no GPU that it can use; pybind11::init(): factory "
    assert (code, line in text.splitlines()[-1]) == (1, True), text
    print(text.splitlines()[-1])
