"""Paddle Lite on this machine: the fix-up of programs, what a .nb says of itself, and the outputs of real models."""

import struct
from pathlib import Path

import pytest
from absent import absent

from bench import backends, catalog, environment, homes, parity
from bench.artifacts import Cache, file_sha256
from bench.backends import Setup
from bench.backends.paddle_lite import convert, nb
from bench.errors import Failed, Unsupported
from bench.jobs import Build, Folder, Measure, Measured, Problem
from bench.prepare import Workshop, thread_environment
from bench.progress import Quiet
from bench.schema import Case, Settings

BACKEND = backends.get("paddle_lite")
CPU = catalog.profile("cpu")
PHONE = next(profile for profile in catalog.profiles().values() if profile.kind == "phone")
CARD = catalog.cards()["MobileNetV1_x0_25"]
ONCE = Settings(warmup=0, iterations=1, repetitions=1, timeout_s=120)
MODELS = (
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3_large_x1_0",
    "MobileNetV3_small_x1_0",
    "PPLCNet_x1_0",
    "PPLCNetV2_base",
    "MobileOne_S0",
    "DPN68",
    "DenseNet121",
)


def setup_of(card=CARD, profile=CPU, precision="fp32", batch_size=4):
    case = Case(card.name, BACKEND.name, profile.name, precision, batch_size, threads=1)
    return Setup(case, profile, backends.settle(BACKEND, {}), card.input_shape)


# What a .nb says of itself


def nb_bytes(kernels=(b"conv2d/def/2/1/1", b"feed/def/1/4/2"), tensors=(b"weights", b"", b"more weights"), layout=2):
    program = b"flat" + b"".join(struct.pack("<I", len(kernel)) + kernel + b"\0" for kernel in kernels)
    counts = struct.pack("<HHHHI", 0, 0, 6, len(tensors), max(map(len, tensors), default=0))
    each = b"".join(struct.pack("<II", 4 + len(tensor), 4) + tensor for tensor in tensors)
    return struct.pack("<H16sQ", layout, b"v2.13-rc\0\x95\x91", len(program)) + program + counts + each


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.nb"


def fault_of(file, content):
    """The one line that says what is wrong with such a file."""
    file.write_bytes(content)
    with pytest.raises(Failed) as caught:
        nb.read(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.nb ")
    return str(caught.value)


def test_a_whole_file_tells_its_converter_and_kernels(file):
    file.write_bytes(nb_bytes())
    assert nb.read(file) == nb.Nb("v2.13-rc", (nb.Kernel("conv2d", "x86", "fp32"), nb.Kernel("feed", "host", "other")))


@pytest.mark.parametrize(
    ("kernels", "targets", "precisions"),
    [
        ([b"conv2d/def/4/5/1", b"calib/fp32_to_fp16/4/5/1", b"fetch/def/1/4/2"], {"arm"}, ["fp16"]),
        ([b"conv2d/def/4/5/1", b"fc/def/4/1/1", b"relu/def/4/2/1"], {"arm"}, ["fp16", "fp32"]),
        ([b"conv2d/def/2/1/1", b"fc/image2d/5/5/4"], {"x86", "opencl"}, ["fp16", "fp32"]),
        ([b"feed/def/1/4/2"], set(), []),
        ([b"matmul_v2/def/17/99/1"], {"other"}, ["other"]),
    ],
)
def test_targets_are_of_all_kernels_and_precisions_of_computing_ones(file, kernels, targets, precisions):
    file.write_bytes(nb_bytes(kernels))
    found = nb.read(file)
    assert (found.targets, found.precisions) == (targets, precisions)


def test_a_file_cut_anywhere_is_damaged(file):
    whole = nb_bytes()
    for length in range(2, len(whole)):
        assert fault_of(file, whole[:length]) == "model.nb is damaged; it ends too early"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "ends too early"),
        (nb_bytes() + b"x", "1 bytes follow its last tensor"),
        (nb_bytes(layout=1), "says 1, known is 2"),
        (nb_bytes(kernels=[]), "names no kernel"),
        (struct.pack("<H16sQ", 2, b"v2.13", 2**63) + bytes(100), "ends too early"),
        (nb_bytes()[:-12] + b"\xff\xff\xff\xff", "ends too early"),
        (bytes(range(256)), "says 256, known is 2"),
    ],
)
def test_what_is_wrong_is_said(file, content, fault):
    assert fault in fault_of(file, content)


def test_a_file_that_is_not_there_is_named(file):
    with pytest.raises(Failed, match=r"cannot read model\.nb; No such file"):
        nb.read(file)


# The backend, without its runtime


def test_an_engine_depends_on_target_and_precision_alone():
    variants = [
        BACKEND.variant(setup_of(profile=profile, precision=precision, batch_size=size))
        for profile, precision, size in [(CPU, "fp32", 1), (CPU, "fp32", 8), (PHONE, "fp32", 1), (PHONE, "fp16", 1)]
    ]
    assert variants[0] == variants[1] == {"target": "x86", "precision": "fp32"}
    assert variants[2:] == [{"target": "arm", "precision": "fp32"}, {"target": "arm", "precision": "fp16"}]


@pytest.mark.parametrize("profile", [CPU, PHONE], ids=["cpu", "phone"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_without_kernels_is_neither_built_nor_opened(tmp_path, profile, precision):
    if (profile, precision) == (PHONE, "fp16"):
        BACKEND.refuse(setup_of(profile=PHONE, precision="fp16"))
        return
    setup = setup_of(profile=profile, precision=precision)
    for verb in (
        lambda: BACKEND.build(tmp_path / "no.pdmodel", tmp_path, setup),
        lambda: BACKEND.open(tmp_path, setup),
    ):
        with pytest.raises(Unsupported, match=f"paddle_lite runs .*fp32.*; .*no.* {precision}"):
            verb()


def test_a_program_of_paddle_3_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(Unsupported, match=r"\.pdmodel; found inference\.json; .*FLAGS_enable_pir_api=0"):
        convert.read_program(tmp_path / "inference.json")


# The fix-up of programs


@pytest.fixture(scope="module")
def framework():
    return convert.framework()


def program_of(framework, kind, outputs=(), attributes=(), shape=(-1, 24, 7, 7), read="x"):
    """One operator of that kind, whose input X is the variable named `read`; there is one that is called x."""
    program = framework.ProgramDesc()
    block = program.blocks.add(idx=0, parent_idx=-1)
    variable = block.vars.add(name="x", persistable=True)
    variable.type.type = framework.VarType.Type.Value("DENSE_TENSOR")
    variable.type.dense_tensor.tensor.data_type = framework.VarType.FP32
    variable.type.dense_tensor.tensor.dims.extend(shape)
    operator = block.ops.add(type=kind)
    operator.inputs.add(parameter="X", arguments=[read])
    for parameter, arguments in outputs:
        operator.outputs.add(parameter=parameter, arguments=arguments)
    for name, value in attributes:
        operator.attrs.add(name=name, type=framework.FLOAT, f=value)
    return program


def outputs_of(program):
    """The outputs of the operator by name, each with the shape of the variable that it goes to."""
    (block,) = program.blocks
    shapes = {variable.name: list(variable.type.dense_tensor.tensor.dims) for variable in block.vars}
    assert len(shapes) == len(block.vars)
    found = {output.parameter: [shapes[name] for name in output.arguments] for output in block.ops[0].outputs}
    assert len(found) == len(block.ops[0].outputs)
    return found


@pytest.mark.runtime
@pytest.mark.parametrize("kind", sorted(convert.RESHAPING))
@pytest.mark.parametrize("outputs", [(), [("XShape", [])]], ids=["absent", "empty"])
def test_reshaping_operators_get_their_xshape(framework, kind, outputs):
    program = program_of(framework, kind, outputs)
    convert.fix(program)
    assert outputs_of(program) == {"XShape": [[0, -1, 24, 7, 7]]}
    assert [variable.persistable for variable in program.blocks[0].vars] == [True, False]


@pytest.mark.runtime
def test_instance_norm_gets_a_place_for_what_it_saves(framework):
    program = program_of(framework, "instance_norm", [("SavedMean", [])])
    convert.fix(program)
    assert outputs_of(program) == {"SavedMean": [[24]], "SavedVariance": [[24]]}


@pytest.mark.runtime
@pytest.mark.parametrize(("kind", "name", "value"), [("relu6", "threshold", 6.0), ("swish", "beta", 1.0)])
def test_activations_get_the_attribute_that_they_lack(framework, kind, name, value):
    program = program_of(framework, kind)
    convert.fix(program)
    (attribute,) = program.blocks[0].ops[0].attrs
    assert (attribute.name, attribute.type, attribute.f) == (name, framework.FLOAT, value)


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("kind", "outputs", "attributes"),
    [
        ("relu6", [], [("threshold", 4.5)]),
        ("swish", [], [("beta", 2.0)]),
        ("reshape2", [("XShape", ["x"])], []),
        ("instance_norm", [("SavedMean", ["x"]), ("SavedVariance", ["x"])], []),
        ("conv2d", [], []),
        ("relu", [], []),
    ],
)
def test_what_is_whole_stays_as_it_is(framework, kind, outputs, attributes):
    program = program_of(framework, kind, outputs, attributes)
    before = program.SerializeToString()
    convert.fix(program)
    assert program.SerializeToString() == before


@pytest.mark.runtime
@pytest.mark.parametrize("kind", ["reshape2", "instance_norm"])
def test_an_operator_without_its_input_is_named(framework, kind):
    with pytest.raises(Failed, match=f"{kind}, operator 0, has no input X"):
        convert.fix(program_of(framework, kind, read="elsewhere"))


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("content", "fault"), [(b"", "it has no operators"), (b"\xff\xff{}", "is no Paddle program; ")]
)
def test_a_file_that_is_no_program_is_named(tmp_path, content, fault):
    source = tmp_path / "broken.pdmodel"
    source.write_bytes(content)
    with pytest.raises(Failed, match=rf"broken\.pdmodel is no Paddle program.*{fault}|{fault}"):
        convert.read_program(source)


# Real models


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    if reason := homes.missing(BACKEND):
        absent(reason)
    return Workshop(Cache(tmp_path_factory.mktemp("cache")), ONCE, environment.cpus_available(), Quiet().say)


def measured(workshop, card, engine, setup):
    environ = thread_environment(1) | BACKEND.environment(setup.options)
    job = Measure(setup=setup, settings=ONCE, engine=engine.path, reference=workshop.reference(card).path)
    return workshop.ask(job, environ, workshop.cpus[:1])


@pytest.mark.lite
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_paddle(workshop, name):
    card = catalog.cards()[name]
    setup = setup_of(card)
    answer = measured(workshop, card, workshop.engine(card, setup), setup)
    assert isinstance(answer, Measured), answer
    assert answer.parity.reference.startswith("paddle 3")
    assert parity.fault(answer.parity) == ""
    assert (answer.effective["precision"], answer.effective["threads"]) == ("fp32", 1)


@pytest.mark.lite
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_it_converts_for_phones(workshop, name, precision):
    card = catalog.cards()[name]
    engine = workshop.engine(card, setup_of(card, PHONE, precision))
    found = nb.read(Path(engine.path))
    assert (found.targets, found.precisions) == ({"arm"}, [precision])


@pytest.mark.lite
def test_a_phones_engine_is_refused_on_this_cpu(workshop):
    answer = measured(workshop, CARD, workshop.engine(CARD, setup_of(profile=PHONE)), setup_of())
    assert isinstance(answer, Problem)
    assert (answer.status, answer.reason) == (
        "failed",
        "model.nb can't run on this CPU; it is made for arm, not for x86",
    )


@pytest.mark.lite
def test_a_real_engine_cut_anywhere_is_damaged(workshop, tmp_path):
    whole = Path(workshop.engine(CARD, setup_of()).path).read_bytes()
    cut = tmp_path / "model.nb"
    for length in (*range(2, len(whole), len(whole) // 50), len(whole) - 1):
        assert fault_of(cut, whole[:length]) == "model.nb is damaged; it ends too early"


@pytest.mark.lite
def test_a_converter_that_aborts_is_a_failure_with_its_last_words(workshop, tmp_path):
    source = workshop.source(CARD, BACKEND)
    path = tmp_path / "inference.pdmodel"
    path.write_bytes(Path(source.path).read_bytes().replace(b"conv2d", b"konv2d"))
    path.with_suffix(".pdiparams").symlink_to(Path(source.path).with_suffix(".pdiparams"))
    answer = workshop.ask(Build(setup=setup_of(), source=str(path), folder=str(tmp_path)), thread_environment(1))
    assert isinstance(answer, Problem)
    assert answer.status == "failed"
    assert "SIGABRT" in answer.reason
    assert "konv2d" in answer.log


@pytest.mark.lite
def test_a_conversion_leaves_the_engine_alone_and_always_the_same(workshop, tmp_path):
    source = workshop.source(CARD, BACKEND).path
    answer = workshop.ask(Build(setup=setup_of(), source=source, folder=str(tmp_path)), thread_environment(1))
    assert isinstance(answer, Folder), answer
    assert [file.name for file in tmp_path.iterdir()] == [answer.made.file] == ["model.nb"]
    assert file_sha256(tmp_path / "model.nb") == file_sha256(Path(workshop.engine(CARD, setup_of()).path))
