"""An ONNX model → a plan for one precision and one batch size, by TensorRT's builder on the GPU at hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from bench.artifacts import default_root, files_sha256, key_of, model_files
from bench.backends import Setup
from bench.backends.tensorrt import journal, plan
from bench.backends.tensorrt.api import Builder, Config, Network, Parser, Trt, flag, network_flags, types_by_itself
from bench.cuda import Gpu
from bench.errors import EXPORT_AGAIN, Failed, Unavailable, Unsupported
from bench.schema import Precision

CONVERT = "python -m modelopt.onnx.autocast --onnx_path {name} --low_precision_type fp16 --keep_io_types"
QUANTISE = "python -m modelopt.onnx.quantization --onnx_path {name} --quantize_mode int8"
#: numbers that a model may hold besides fp32, narrowest last
NARROW: dict[Precision, str] = {"bf16": "BF16", "fp16": "HALF"}
QUANTISED = ("QUANTIZE", "DEQUANTIZE")


class Open(NamedTuple):
    """A model as TensorRT reads it. They are kept together since the parser keeps neither network nor builder alive."""

    builder: Builder
    network: Network
    parser: Parser


def build(trt: Trt, gpu: Gpu, source: Path, folder: Path, setup: Setup) -> Path:
    """The plan in `folder`, with its facts beside it.

    Raises Unsupported where this TensorRT, GPU or model can't do the case, Failed where the builder gives up.
    """
    log = journal.of(trt)
    strong = setup.options["strong_typing"] == "on" or not types_by_itself(trt)
    model = _read(trt, log, source, strong)
    carried = _carried(trt, model.network)
    _refuse_types(trt, setup.case.precision, carried, strong, source)
    config = model.builder.create_builder_config()
    _configure(trt, config, setup, strong)
    shapes = _shapes(model.network, setup, source)
    with log.part() as entries:
        _profile(model, config, shapes)
    if said := journal.said(entries):
        raise journal.trouble(f"TensorRT takes no inputs of {_in_words(shapes)}", said)
    with _Timings(trt, gpu, setup, strong) as timings:
        began_with = timings.give(config)
        with log.part() as entries:
            made = model.builder.build_serialized_network(model.network, config)
        if made is None:
            raise journal.trouble(f"TensorRT built no engine from {source.name}", journal.said(entries))
        timings.keep(config)
    content = bytes(made)
    return plan.save(folder, content, _facts(trt, gpu, source, setup, config, strong, shapes, content, began_with))


def _facts(
    trt: Trt,
    gpu: Gpu,
    source: Path,
    setup: Setup,
    config: Config,
    strong: bool,
    shapes: dict[str, tuple[int, ...]],
    content: bytes,
    began_with: bytes,
) -> plan.Facts:
    return plan.Facts(
        plan_sha256=plan.digest(content),
        source_sha256=files_sha256(*model_files(source)),
        tensorrt=trt.__version__,
        cuda=gpu.runtime,
        driver=gpu.driver,
        gpu=gpu.name,
        capability=gpu.capability,
        system=plan.system(),
        precision=setup.case.precision,
        typing="strong" if strong else "weak",
        tf32=config.get_flag(trt.BuilderFlag.TF32),
        level=config.builder_optimization_level,
        workspace_bytes=_workspace_bytes(setup),
        input_shapes=shapes,
        build=_number(setup),
        timing_sha256=plan.digest(began_with),
    )


def _read(trt: Trt, log: journal.Journal, source: Path, strong: bool) -> Open:
    try:
        flags = network_flags(trt, strong)
    except LookupError:
        found = f"TensorRT {trt.__version__} has none"
        raise Unsupported("strong typing came with TensorRT 10", found, "leave out strong_typing=on") from None
    with log.part() as entries:
        trt.init_libnvinfer_plugins(log.logger, "")
        try:
            builder = trt.Builder(log.logger)
        except TypeError:  # "factory function returned nullptr": CUDA could not be initialised
            builder = None
    if builder is None:
        found = journal.said(entries) or "its builder does not start"
        raise Unavailable(f"TensorRT {trt.__version__} finds no GPU that it can use", found, "see: nvidia-smi")
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    with log.part() as entries:
        # By its path: external weights are looked for beside it.
        read = parser.parse_from_file(str(source))
    if not read:
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        said = " ".join((errors[0] if errors else journal.said(entries)).split())[: journal.LONGEST]
        raise Failed(f"TensorRT cannot read {source.name}", said.replace(str(source), source.name), EXPORT_AGAIN)
    return Open(builder, network, parser)


def _carried(trt: Trt, network: Network) -> frozenset[Precision]:
    """The precisions other than fp32 that the model itself holds."""
    found: set[Precision] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in [getattr(trt.LayerType, name) for name in QUANTISED]:
            found.add("int8")
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        types = [output.dtype for output in outputs if output is not None]
        found |= {name for name, member in NARROW.items() if getattr(trt.DataType, member, None) in types}
    return frozenset(found)


def _refuse_types(trt: Trt, precision: Precision, carried: frozenset[Precision], strong: bool, source: Path) -> None:
    """A precision is either in the model, or TensorRT may choose it by itself; it is never pretended."""
    if precision == "int8" and "int8" not in carried:
        found = f"{source.name} has no QuantizeLinear"
        raise Unsupported("int8 takes a quantised model", found, f"make one with: {QUANTISE.format(name=source.name)}")
    if precision == "fp16" and strong and "fp16" not in carried:
        raise Unsupported(
            f"TensorRT {trt.__version__} takes fp16 from the model alone",
            f"{source.name} has none of it",
            f"make one with: {CONVERT.format(name=source.name)}",
        )
    wider = carried - {precision} - ({"fp16"} if precision == "int8" else set())
    if wider:
        found = f"{source.name} holds {', '.join(sorted(wider))}"
        raise Unsupported(f"{precision} takes a model of that precision", found, "name a model that has it")


def _configure(trt: Trt, config: Config, setup: Setup, strong: bool) -> None:
    options = setup.options
    if limit := _workspace_bytes(setup):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    config.builder_optimization_level = int(options["level"])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the types of layers can be read back
    # It is on by default: what Ampere and newer call fp32 is then not.
    (config.set_flag if options["tf32"] == "on" else config.clear_flag)(trt.BuilderFlag.TF32)
    if not strong and setup.case.precision != "fp32":
        config.set_flag(flag(trt, "FP16"))
    if not strong and setup.case.precision == "int8":
        config.set_flag(flag(trt, "INT8"))


def _workspace_bytes(setup: Setup) -> int:
    """0 is TensorRT's own limit: all of the GPU's memory."""
    return int(float(setup.options["workspace_mib"]) * (1 << 20))


def _number(setup: Setup) -> int:
    return int(float(setup.options["build"]))


def _shapes(network: Network, setup: Setup, source: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each input, batch included. Raises Unsupported where the model takes another one."""
    asked = (setup.case.batch_size, *setup.input_shape)
    found = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    for shape in found.values():
        if len(shape) != len(asked) or any(size not in (-1, want) for size, want in zip(shape, asked, strict=True)):
            takes = _in_words(found)
            raise Unsupported(f"{source.name} takes inputs of {takes}", f"not of {_by(asked)}", "-1 stands for any size")
    return dict.fromkeys(found, asked)


def _in_words(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(map(_by, shapes.values()))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _profile(model: Open, config: Config, shapes: dict[str, tuple[int, ...]]) -> None:
    """One profile of one shape, where the model leaves any size open."""
    inputs = [model.network.get_input(index) for index in range(model.network.num_inputs)]
    if not any(-1 in tuple(tensor.shape) for tensor in inputs):
        return
    profile = model.builder.create_optimization_profile()
    for tensor in inputs:
        shape = shapes[tensor.name]
        profile.set_shape(tensor.name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise Failed(f"TensorRT takes no inputs of {_in_words(shapes)}", "it rejects the optimisation profile")
