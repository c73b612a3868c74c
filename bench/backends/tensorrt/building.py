"""An ONNX model → a plan for one precision and one batch size, by TensorRT's builder on the GPU at hand."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from bench.artifacts import default_root, files_sha256, key_of, model_files
from bench.backends import Setup, system
from bench.backends.tensorrt import journal, plan
from bench.backends.tensorrt.api import (
    Builder,
    Config,
    Network,
    Parser,
    Trt,
    TypeFlag,
    TypeName,
    data_type,
    flag,
    network_flags,
    types_by_itself,
)
from bench.cuda import Gpu
from bench.errors import EXPORT_AGAIN, Failed, Unsupported
from bench.schema import Precision

MAKE = "make one from an exported model, as docs/gpu.md says"
CONVERT = "python -m modelopt.onnx.autocast --onnx_path {name} --low_precision_type fp16 --keep_io_types"
QUANTISE = "python -m modelopt.onnx.quantization --onnx_path {name} --quantize_mode int8"
#: types that a model may hold besides fp32, and what they are called in TensorRT's `DataType`
TYPES: dict[Precision, TypeName] = {"bf16": "BF16", "fp16": "HALF"}
FLAGS: dict[str, TypeFlag] = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}

Shapes = dict[str, tuple[int, ...]]


class Model(NamedTuple):
    """A model as TensorRT has read it. They are kept together: a parser keeps neither network nor builder alive."""

    builder: Builder
    network: Network
    parser: Parser

    def inputs(self) -> Shapes:
        """The shapes of the file, in which -1 is any size."""
        tensors = map(self.network.get_input, range(self.network.num_inputs))
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}


class Build:
    """One build. Each method raises Unsupported where this TensorRT or this model can't do the case, Failed where
    TensorRT gives up."""

    def __init__(self, trt: Trt, gpu: Gpu, source: Path, setup: Setup) -> None:
        self.trt = trt
        self.gpu = gpu
        self.source = source
        self.setup = setup
        self.precision = setup.case.precision
        self.log = journal.of(trt)
        self.strong = setup.options["strong_typing"] == "on" or not types_by_itself(trt)

    def make(self, folder: Path) -> Path:
        """The plan in `folder`, with its facts beside it."""
        model = self.read()
        carried = self.carried(model.network)
        self.refuse_types(carried)
        shapes = self.shapes(model)
        config = model.builder.create_builder_config()
        self.configure(config, carried)
        self.narrow(model, config, shapes)
        with Timings(self._timings()) as timings:
            began_with = timings.give(config)
            content = self.serialise(model, config)
            timings.keep(config)
        return plan.save(folder, content, self.facts(config, shapes, content, began_with))

    def read(self) -> Model:
        self.trt.init_libnvinfer_plugins(self.log.logger, "")
        builder = journal.started(self.trt, self.trt.Builder)
        network = builder.create_network(self._network_flags())
        parser = self.trt.OnnxParser(network, self.log.logger)
        with self.log.part() as entries:
            # By its path: external weights are looked for beside it.
            read = parser.parse_from_file(str(self.source))
        if not read:
            errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            said = " ".join((errors[0] if errors else journal.said(entries)).split())
            found = said.replace(str(self.source), self.source.name)[: journal.LONGEST]
            raise Failed(f"TensorRT cannot read {self.source.name}", found, EXPORT_AGAIN)
        return Model(builder, network, parser)

    def _network_flags(self) -> int:
        try:
            return network_flags(self.trt, self.strong)
        except LookupError:
            found = f"this is {self.trt.__version__}"
            raise Unsupported("strong typing came with TensorRT 10", found, "leave out strong_typing=on") from None

    def carried(self, network: Network) -> frozenset[Precision]:
        """The precisions besides fp32 that the model itself holds."""
        found: set[Precision] = set()
        quantised = (self.trt.LayerType.QUANTIZE, self.trt.LayerType.DEQUANTIZE)
        for layer in map(network.get_layer, range(network.num_layers)):
            if layer.type in quantised:
                found.add("int8")
            outputs = map(layer.get_output, range(layer.num_outputs))
            types = [output.dtype for output in outputs if output is not None]
            found |= {name for name, member in TYPES.items() if data_type(self.trt, member) in types}
        return frozenset(found)

    def refuse_types(self, carried: frozenset[Precision]) -> None:
        """A precision is either in the model, or TensorRT may choose it by itself; it is never pretended."""
        name, asked = self.source.name, self.precision
        if asked == "int8" and "int8" not in carried:
            found = f"{name} has no QuantizeLinear"
            raise Unsupported("int8 takes a quantised model", found, f"{MAKE}: {QUANTISE.format(name=name)}")
        if asked == "fp16" and self.strong and "fp16" not in carried:
            raise Unsupported(
                f"strongly typed, TensorRT {self.trt.__version__} takes fp16 from the model alone",
                f"{name} has none of it",
                f"{MAKE}: {CONVERT.format(name=name)}",
            )
        admitted = {"int8": {"int8", "fp16"}, "fp16": {"fp16"}}.get(asked, set())
        if strange := carried - admitted:
            found = f"{name} holds {', '.join(sorted(strange))}"
            raise Unsupported(f"{asked} takes a model without other types", found, "name a model without")

    def shapes(self, model: Model) -> Shapes:
        """The shape of each input, batch included. Raises Unsupported where the model takes another one."""
        asked = (self.setup.case.batch_size, *self.setup.input_shape)
        found = model.inputs()
        for shape in found.values():
            fits = len(shape) == len(asked) and all(size in (-1, want) for size, want in zip(shape, asked, strict=True))
            if not fits:
                raise Unsupported(f"{self.source.name} takes inputs of {_in_words(found)}", f"not of {_by(asked)}")
        return dict.fromkeys(found, asked)

    def configure(self, config: Config, carried: frozenset[Precision]) -> None:
        options, trt = self.setup.options, self.trt
        if limit := _workspace_bytes(self.setup):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
        config.builder_optimization_level = int(options["level"])
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the types of layers can be read back
        # On by default: what GPUs since Ampere call fp32 is then TF32.
        (config.set_flag if options["tf32"] == "on" else config.clear_flag)(trt.BuilderFlag.TF32)
        if not self.strong:
            for precision in sorted({*carried, self.precision} & FLAGS.keys()):
                switch = flag(trt, FLAGS[precision])
                assert switch is not None  # or else typing is strong
                config.set_flag(switch)

    def narrow(self, model: Model, config: Config, shapes: Shapes) -> None:
        """One profile of one shape, where the model leaves any size open."""
        if not any(-1 in shape for shape in model.inputs().values()):
            return
        profile = model.builder.create_optimization_profile()
        index, found = -1, ""
        with self.log.part() as entries:
            try:
                for name, shape in shapes.items():
                    profile.set_shape(name, shape, shape, shape)
                index = config.add_optimization_profile(profile)
            except RuntimeError as error:  # so `set_shape` refuses some shapes
                found = str(error)
        if index < 0:
            what = f"TensorRT rejects the profile for {_in_words(shapes)}"
            raise journal.trouble(what, journal.said(entries) or found)

    def serialise(self, model: Model, config: Config) -> bytes:
        with self.log.part() as entries:
            made = model.builder.build_serialized_network(model.network, config)
        if made is None:
            raise journal.trouble(f"TensorRT built no engine from {self.source.name}", journal.said(entries))
        return bytes(made)

    def _timings(self) -> Path:
        """Timings are of one GPU, driver and TensorRT, and of one build's number: the next number measures anew."""
        parts = {
            "tensorrt": self.trt.__version__,
            "gpu": (self.gpu.name, self.gpu.capability, self.gpu.driver, self.gpu.runtime),
            "build": self.setup.options["build"],
            "options": (self.precision, self.strong, *(self.setup.options[name] for name in ("tf32", "level"))),
        }
        return default_root() / "tensorrt" / f"{key_of(parts)[:32]}.timings"

    def facts(self, config: Config, shapes: Shapes, content: bytes, began_with: bytes) -> plan.Facts:
        return plan.Facts(
            plan_sha256=plan.digest(content),
            source_sha256=files_sha256(*model_files(self.source)),
            tensorrt=self.trt.__version__,
            cuda=self.gpu.runtime,
            driver=self.gpu.driver,
            gpu=self.gpu.name,
            capability=self.gpu.capability,
            system=system(),
            precision=self.precision,
            typing="strong" if self.strong else "weak",
            tf32=bool(config.get_flag(self.trt.BuilderFlag.TF32)),
            level=config.builder_optimization_level,
            workspace_bytes=_workspace_bytes(self.setup),
            input_shapes=shapes,
            build=int(self.setup.options["build"]),
            timings_sha256=plan.digest(began_with),
        )


class Timings:
    """TensorRT's timing cache in a file, which one build at a time has: how long each kernel took in earlier builds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._stack = ExitStack()

    def __enter__(self) -> "Timings":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(FileLock(self.file.with_suffix(".lock")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def give(self, config: Config) -> bytes:
        """Sets what is on file, or nothing where TensorRT doesn't take it; returns what it took."""
        saved = self.file.read_bytes() if self.file.exists() else b""
        for content in dict.fromkeys((saved, b"")):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return content
        return b""

    def keep(self, config: Config) -> None:
        cache = config.get_timing_cache()
        if cache is None:
            return
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_bytes(bytes(cache.serialize()))
        unfinished.replace(self.file)


def _workspace_bytes(setup: Setup) -> int:
    """0 leaves TensorRT its own limit, which is all of the GPU's memory."""
    return int(setup.options["workspace_mib"]) << 20


def _in_words(shapes: Shapes) -> str:
    return ", ".join(map(_by, shapes.values()))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
