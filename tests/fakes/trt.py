"""TensorRT 8.6, 10 and 11 as far as bench knows them: each has the names that its published bindings have, no other.

A model is a file of JSON: inputs, outputs, layers. An engine gives for each image its sum times 1, 2, 3 … Where the
real one returns None or False, so does this one, and logs why.
"""

import ctypes
import enum
import json
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SURFACES = json.loads((Path(__file__).parents[1] / "data/tensorrt/surfaces.json").read_text())
GENERATIONS = tuple(SURFACES)
MAGIC = "ptrt"
SIZES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8}


def only(generation, real, thing):
    """`thing` with the names alone that the class `real` has in that generation."""
    allowed = set(SURFACES[generation]["classes"][real])

    class Only:
        def __getattribute__(self, name):
            if name in allowed or name.startswith("__"):
                return getattr(thing, name)
            if name == "thing":  # for the fakes themselves
                return thing
            raise AttributeError(f"TensorRT {generation} has no {real}.{name}")

        def __setattr__(self, name, value):
            if name not in allowed:
                raise AttributeError(f"TensorRT {generation} has no {real}.{name}")
            setattr(thing, name, value)

        def __bytes__(self):
            return bytes(thing)

    return Only()


class FakeTrt:
    """The module. `says` maps a method to what it returns instead, with the error that it logs: `(value, text)`.

    `span_ns` gives the GPU's time of an inference for each build in turn: near-equal tactics are decided by noise.
    """

    def __init__(self, generation, gpu, says=None, span_ns=(1_000_000,)):
        self.generation, self.gpu = generation, gpu
        self.__version__ = SURFACES[generation]["version"]
        self.says = says or {}
        self.spans = list(span_ns)
        self.loggers = []
        self.builds = []
        self.loaded = []
        for name, members in SURFACES[generation]["enumerations"].items():
            setattr(self, name, enum.IntEnum(name, members))
        severities = enum.Enum("Severity", SURFACES[generation]["severities"])

        class ILogger:
            pass

        for severity in severities:
            setattr(ILogger, severity.name, severity)
        self.ILogger = ILogger
        self.severities = severities

    def log(self, text, severity="ERROR"):
        # The real one heeds the first logger of the process alone.
        self.loggers[0].log(self.severities[severity], text)

    def answer(self, method, value):
        """What a method returns: `value`, unless it was told otherwise."""
        if method not in self.says:
            return value
        other, text = self.says[method]
        if text:
            self.log(text)
        return other

    def wrap(self, real, thing):
        return only(self.generation, real, thing)

    # What tests/posed_gpu does otherwise

    def read(self, path):
        """The model in a file. Raises ValueError for none."""
        return json.loads(path.read_text())

    def span(self, network, config):
        """The GPU's time, in ns, of an inference with the engine that is being built."""
        return self.spans[(len(self.builds) - 1) % len(self.spans)]

    def unpacked(self, plan):
        """What a plan holds, and "" or why it can't be loaded."""
        try:
            made = json.loads(plan)
        except ValueError:
            made = {}
        good = made.get("magic") == MAGIC
        return made, "" if good else "assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match"

    def infer(self, made, images, outputs):
        """Fills the arrays `outputs`, by name, for `images`."""
        sums = sum(array.astype(np.float64).reshape(len(array), -1).sum(axis=1) for array in images.values())
        for out in outputs.values():
            out[:] = sums[:, None] * np.arange(1, out.shape[1] + 1)

    # The module's names

    def init_libnvinfer_plugins(self, logger, namespace):
        self.loggers.append(logger)
        return True

    def _start(self, real, logger, thing):
        self.loggers.append(logger)
        if self.answer(real, thing) is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self.wrap(real, thing)

    def Builder(self, logger):
        return self._start("Builder", logger, Builder(self))

    def Runtime(self, logger):
        return self._start("Runtime", logger, Runtime(self))

    def OnnxParser(self, network, logger):
        return self.wrap("OnnxParser", Parser(self, network.thing))


class Parser:
    def __init__(self, trt, network):
        self.trt, self.network, self.errors = trt, network, []

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.trt.wrap("ParserError", SimpleNamespace(desc=lambda: self.errors[index]))

    def parse_from_file(self, path):
        try:
            self.network.model = self.trt.read(Path(path))
        except ValueError:
            self.errors.append(
                "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to parse the ONNX model."
            )
            self.trt.log(f"(deserializeOnnxModel): MODEL_DESERIALIZE_FAILED: {self.errors[0]}")
            return False
        return True


class Network:
    def __init__(self, trt, flags):
        self.trt, self.flags, self.model = trt, flags, {}

    @property
    def num_inputs(self):
        return len(self.model["inputs"])

    def get_input(self, index):
        name, shape = list(self.model["inputs"].items())[index]
        return self._tensor(name, shape, "FLOAT")

    @property
    def num_layers(self):
        return len(self.model["layers"])

    def get_layer(self, index):
        kind, type_ = self.model["layers"][index]
        layer = SimpleNamespace(
            type=getattr(self.trt.LayerType, kind), num_outputs=1, get_output=lambda _: self._tensor("", (), type_)
        )
        return self.trt.wrap("ILayer", layer)

    def _tensor(self, name, shape, type_):
        tensor = SimpleNamespace(name=name, shape=tuple(shape), dtype=getattr(self.trt.DataType, type_))
        return self.trt.wrap("ITensor", tensor)


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, usual, most):
        assert least == usual == most
        self.shapes[name] = least


class Config:
    """As the builder gives it: TF32 is on."""

    def __init__(self, trt):
        self.trt = trt
        self.flags = {trt.BuilderFlag.TF32}
        self.limits, self.profiles = {}, []
        self.builder_optimization_level = 3
        self.profiling_verbosity = None
        self.timings = None

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool.name] = size

    def set_flag(self, flag):
        self.flags.add(self.trt.BuilderFlag(flag))

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def get_flag(self, flag):
        return flag in self.flags

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.thing.shapes)
        return self.trt.answer("add_optimization_profile", len(self.profiles) - 1)

    def create_timing_cache(self, saved):
        return self.trt.answer("create_timing_cache", self.trt.wrap("ITimingCache", Timings(saved)))

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if cache.thing.content and not cache.thing.content.startswith(b"timings"):
            return False
        self.timings = cache.thing
        return self.trt.answer("set_timing_cache", True)

    def get_timing_cache(self):
        return self.trt.answer("get_timing_cache", self.timings and self.trt.wrap("ITimingCache", self.timings))


class Timings:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b"timings of one build;"


class Builder:
    def __init__(self, trt):
        self.trt = trt

    def create_network(self, flags):
        kinds = self.trt.NetworkDefinitionCreationFlag
        assert flags == (1 << kinds.EXPLICIT_BATCH if self.trt.generation == "8.6" else flags)
        return self.trt.wrap("INetworkDefinition", Network(self.trt, flags))

    def create_builder_config(self):
        return self.trt.wrap("IBuilderConfig", Config(self.trt))

    def create_optimization_profile(self):
        return self.trt.wrap("IOptimizationProfile", Profile())

    def build_serialized_network(self, network, config):
        network, config = network.thing, config.thing
        self.trt.builds.append((network, config))
        inputs = network.model["inputs"]
        if any(-1 in shape for shape in inputs.values()) and not config.profiles:
            self.trt.log("Network has dynamic or shape inputs, but no optimization profile has been defined.")
            return None
        made = {
            "magic": MAGIC,
            "version": self.trt.__version__,
            "model": network.model,
            "span_ns": self.trt.span(network, config),
            "flags": sorted(flag.name for flag in config.flags),
        }
        return self.trt.answer("build_serialized_network", json.dumps(made).encode())


class Runtime:
    def __init__(self, trt):
        self.trt = trt

    def deserialize_cuda_engine(self, plan):
        made, fault = self.trt.unpacked(plan)
        if fault:
            self.trt.log(f"Error Code 1: Serialization ({fault})")
            return None
        self.trt.loaded.append(made)
        return self.trt.answer("deserialize_cuda_engine", self.trt.wrap("ICudaEngine", Engine(self.trt, made)))


class Engine:
    def __init__(self, trt, made):
        self.trt, self.made = trt, made
        self.model = made["model"]
        self.names = [*self.model["inputs"], *self.model["outputs"]]

    @property
    def num_io_tensors(self):
        return len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return self.trt.TensorIOMode.INPUT if name in self.model["inputs"] else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return getattr(self.trt.DataType, self.model.get("types", {}).get(name, "FLOAT"))

    def get_tensor_location(self, name):
        return self.trt.answer("get_tensor_location", self.trt.TensorLocation.DEVICE)

    def create_execution_context(self):
        context = self.trt.wrap("IExecutionContext", Context(self.trt, self))
        return self.trt.answer("create_execution_context", context)

    def create_engine_inspector(self):
        return self.trt.wrap("EngineInspector", Inspector(self))


class Inspector:
    """Layers of open shapes have no types until it has a context."""

    def __init__(self, engine):
        self.engine = engine
        self.execution_context = None

    def get_engine_information(self, format_):
        assert format_ is self.engine.trt.LayerInformationFormat.JSON
        half = "FP16" in self.engine.made["flags"] or "HALF" in (type_ for _, type_ in self.engine.model["layers"])
        said = "Channel major FP16 format where channel % 8 == 0" if half else "Row major linear FP32"
        said = said if self.execution_context else "N/A due to dynamic shapes"
        layers = [{"LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Row major Int8 format"}]}]
        layers += [{"LayerType": "CaskConvolution", "Outputs": [{"Format/Datatype": said}]}] * 2
        return self.engine.trt.answer("get_engine_information", json.dumps({"Layers": layers, "Bindings": []}))


class Context:
    def __init__(self, trt, engine):
        self.trt, self.engine = trt, engine
        self.profile = None
        self.shapes, self.addresses = {}, {}
        self.enqueued = 0

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return self.trt.answer("set_optimization_profile_async", True)

    def set_input_shape(self, name, shape):
        assert self.profile == 0
        fixed = self.engine.model["inputs"][name]
        if any(size not in (-1, asked) for size, asked in zip(fixed, shape, strict=True)):
            self.trt.log(f"IExecutionContext::setInputShape: Error Code 3: static dimension mismatch of {name}")
            return False
        self.shapes[name] = tuple(shape)
        return self.trt.answer("set_input_shape", True)

    def infer_shapes(self):
        missing = [name for name in self.engine.model["inputs"] if name not in self.shapes]
        return self.trt.answer("infer_shapes", missing)

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        batch = next(iter(self.shapes.values()))[0]
        shape = self.engine.model["outputs"][name]
        return (batch, *shape[1:]) if shape[0] == -1 else tuple(shape)

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer
        return self.trt.answer("set_tensor_address", True)

    def execute_async_v3(self, stream):
        assert stream != 0, "TensorRT synchronises the whole device on stream 0"
        self.enqueued += 1
        refuse = self.trt.says.get("execute_async_v3")
        if refuse and (self.trt.gpu.captured is not None or refuse[1] != "cannot be captured"):
            return self.trt.answer("execute_async_v3", True)
        self.trt.gpu.now_ns += 5_000
        self.trt.gpu.give(stream, self.engine.made["span_ns"], self._compute)
        return True

    def _array(self, name):
        type_ = np.dtype(SIZES[self.engine.get_tensor_dtype(name).name])
        shape = self.get_tensor_shape(name)
        memory = (ctypes.c_byte * (prod(shape) * type_.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(memory, type_).reshape(shape)

    def _compute(self):
        images = {name: self._array(name) for name in self.engine.model["inputs"]}
        outputs = {name: self._array(name) for name in self.engine.model["outputs"]}
        self.trt.infer(self.engine.made, images, outputs)
