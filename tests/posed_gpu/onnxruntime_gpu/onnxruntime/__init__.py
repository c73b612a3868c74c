"""onnxruntime-gpu of the posed machine: the real package, and in front of it what its CUDA and TensorRT providers do.

Sessions on the CPU are the real ones. Those on the GPU are the fake of tests/fakes, computed by a real one on the CPU.
"""

import importlib.machinery
import importlib.util
import sys
from collections import Counter
from pathlib import Path

from cuda.bindings import runtime
from fakes import ort as fake
from posed import MACHINE, load, next_build

load("onnxruntime")


def real():
    """The package that lies behind this one on the path, under the name that it knows itself by."""
    elsewhere = [place for place in sys.path if Path(place) != Path(__file__).parents[1]]
    spec = importlib.machinery.PathFinder.find_spec("onnxruntime", elsewhere)
    module = importlib.util.module_from_spec(spec)
    sys.modules["onnxruntime"] = module
    spec.loader.exec_module(module)
    return module


onnxruntime = real()
traits = dict(MACHINE["ort"])
traits["faults"] = {int(number): text for number, text in traits.get("faults", {}).items()}
behaviour = fake.Behaviour(version=MACHINE["onnxruntime"], gpu=runtime, **traits)


class SessionOptions(onnxruntime.SessionOptions):
    def __init__(self):
        super().__init__()
        self.entries = {}

    def add_session_config_entry(self, name, value):
        super().add_session_config_entry(name, value)
        self.entries[name] = value


class RunOptions(onnxruntime.RunOptions):
    def __init__(self):
        super().__init__()
        self.entries = {}

    def add_run_config_entry(self, name, value):
        super().add_run_config_entry(name, value)
        self.entries[name] = value


class Session(fake.InferenceSession):
    """Of any model with one input and one output."""

    behaviour = behaviour

    def __init__(self, path, sess_options=None, providers=None, **kwargs):
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self.on_cpu = Real(path, settings, providers=[fake.CPU])
        parts = self.on_cpu.get_provider_graph_assignment_info()
        behaviour.graph = Counter(node.op_type for part in parts for node in part.get_nodes())
        built = len(behaviour.built)
        super().__init__(path, sess_options, providers, **kwargs)
        if len(behaviour.built) > built:
            next_build()

    def get_inputs(self):
        return self.on_cpu.get_inputs()

    def get_outputs(self):
        return self.on_cpu.get_outputs()

    def run(self, names, feeds, run_options=None):
        raise NotImplementedError("what copies by itself has no stream of ours")

    def _enqueue(self, binding, run_options):
        self._count()
        (name, given), (made,) = *binding.inputs.items(), binding.outputs.values()
        taken = []  # is read as the work begins
        runtime.give(self._stream, 0, lambda: taken.append(given.array.copy()))
        took_ns = MACHINE["span_ns"][0] * (1 + len(given.array)) // 2

        def compute():
            made.array[...] = self.on_cpu.run(None, {name: taken[0]})[0]

        runtime.give(self._stream, took_ns, compute)
        waits = not run_options or run_options.entries.get("disable_synchronize_execution_providers") != "1"
        if waits or self._waits_inside():
            runtime._cudaStreamSynchronize(self._stream)


class Value(fake.OrtValue):
    behaviour = behaviour


class OrtValue(onnxruntime.OrtValue):
    """Makes real ones on the CPU."""

    @classmethod
    def ortvalue_from_numpy(cls, array, device_type="cpu", device_id=0):
        make = super() if device_type == "cpu" else Value
        return make.ortvalue_from_numpy(array, device_type, device_id)

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape, element_type, device_type="cpu", device_id=0):
        make = super() if device_type == "cpu" else Value
        return make.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id)


def opened(path, sess_options=None, providers=None, **kwargs):
    """The class InferenceSession."""
    make = Real if providers == [fake.CPU] else Session
    return make(path, sess_options, providers=providers, **kwargs)


Real = onnxruntime.InferenceSession
onnxruntime.__version__ = MACHINE["onnxruntime"]
onnxruntime.get_available_providers = lambda: list(behaviour.available)
onnxruntime.preload_dlls = lambda: None
onnxruntime.SessionOptions, onnxruntime.RunOptions = SessionOptions, RunOptions
onnxruntime.InferenceSession, onnxruntime.OrtValue = opened, OrtValue
