"""The Protocols of vendors' APIs name only what is there: in the fakes, and in the packages that need no GPU.

mypy checks the calls against the Protocols, as `mistyped.py` shows; these tests check the Protocols against what is
called. TensorRT's real bindings are looked at by `surfaces.py`.
"""

import json
import sys
from typing import Protocol, get_type_hints

import pytest
import surfaces
from fakes import nvml as fake_nvml
from fakes import ort as fake_ort
from fakes import paddle_gpu as fake_paddle
from fakes.cuda import VOID, FakeCuda
from fakes.trt import GENERATIONS, FakeTrt
from protocols import absent, functions, members, misfits, protocols

from bench import cuda, onnx_api, ort_api, paddle_api
from bench.backends.tensorrt import api as tensorrt_api
from bench.backends.tensorrt import journal
from bench.gpu import nvml_api

#: what is asked on a CPU alone, and so of no fake
ON_CPU = {
    "Binding.bind_output",
    "Binding.copy_outputs_to_cpu",
    "Configuration.cpu_math_library_num_threads",
    "Configuration.disable_mkldnn",
    "Paddle.__file__",
    "Paddle.jit",
}
#: Protocols of which the fakes have nothing: models loaded by `paddle.jit`, and programs as protobuf messages
NOT_FAKED = {
    *(paddle_api.Spec, paddle_api.Layer, paddle_api.Jit),
    *(paddle_api.Framework, paddle_api.VariableTypes, paddle_api.TypeNames, paddle_api.Description, paddle_api.Block),
    *(paddle_api.Variable, paddle_api.Operator, paddle_api.Argument, paddle_api.TensorDescription),
}
#: which the wheels for CPUs lack: the package paddle.tensorrt, and all of streams
IN_GPU_BUILDS = {paddle_api.Export, paddle_api.PrecisionModes, paddle_api.Stream}


def test_arguments_are_compared():
    class Api(Protocol):
        def one(self, x: int, /) -> None: ...
        def two(self, x: int, /, *, y: int) -> None: ...
        def three(self, x: int, /, *, y: int) -> None: ...

    class Module:
        one = staticmethod(lambda: None)
        two = staticmethod(lambda x, y=1: None)
        three = staticmethod(lambda x, z=1: None)

    assert misfits(Api, Module) == {"Api.one", "Api.three"}


def test_members_are_methods_properties_and_annotations():
    assert members(ort_api.Levels) == {
        *("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL")
    }
    assert members(ort_api.Node) == {"name", "shape", "type"}
    assert members(ort_api.AssignedSubgraph) == {"ep_name", "get_nodes"}
    assert members(paddle_api.Layer) == {"_input_spec"}
    assert {"__version__", "__file__", "jit", "to_tensor"} < members(paddle_api.Paddle)
    assert absent({ort_api.AssignedNode: object()}) == {"AssignedNode.op_type"}


def test_the_fake_of_onnxruntime_has_every_member(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"weights")
    ort = fake_ort.module(fake_ort.Behaviour())
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(tmp_path / "m.onnx", options, providers=[fake_ort.CPU])
    subgraph = session.get_provider_graph_assignment_info()[0]
    things = {
        ort_api.Ort: ort,
        ort_api.Levels: ort.GraphOptimizationLevel,
        ort_api.Options: options,
        ort_api.RunOptions: ort.RunOptions(),
        ort_api.Values: ort.OrtValue,
        ort_api.Value: ort.OrtValue,
        ort_api.Session: session,
        ort_api.Binding: session.io_binding(),
        ort_api.Node: session.get_inputs()[0],
        ort_api.AssignedSubgraph: subgraph,
        ort_api.AssignedNode: subgraph.get_nodes()[0],
    }
    assert set(things) == protocols(ort_api)
    assert absent(things) == {each for each in ON_CPU if each.startswith("Binding.")}


def test_the_fake_of_paddle_has_every_member(tmp_path):
    behaviour = fake_paddle.Behaviour(version="3.3.1")
    modules = fake_paddle.modules(behaviour)
    paddle, inference, profiler = (modules[name] for name in ("paddle", "paddle.inference", "paddle.profiler"))
    export = modules["paddle.tensorrt.export"]
    config = inference.Config("m.json", "m.pdiparams")
    predictor = inference.create_predictor(config)
    watch = profiler.Profiler(targets=[], on_trace_ready=print)
    watch.start()
    watch.stop()
    things = {
        paddle_api.Paddle: paddle,
        paddle_api.Devices: paddle.device,
        paddle_api.CudaDevices: paddle.device.cuda,
        paddle_api.Stream: paddle.device.cuda.Stream(0),
        paddle_api.Versions: paddle.version,
        paddle_api.Tensor: paddle.to_tensor(fake_paddle.np.zeros([1, 2]), place=paddle.CUDAPlace(0)),
        paddle_api.Inference: inference,
        paddle_api.Precisions: inference.PrecisionType,
        paddle_api.Configuration: config,
        paddle_api.Predictor: predictor,
        paddle_api.Handle: predictor.get_input_handle("x"),
        paddle_api.Profiling: profiler,
        paddle_api.Targets: profiler.ProfilerTarget,
        paddle_api.Watch: watch,
        paddle_api.Profile: watch.profiler_result,
        paddle_api.Event: watch.profiler_result.get_data()[1],
        paddle_api.Export: export,
        paddle_api.PrecisionModes: export.PrecisionMode,
        paddle_api.Registry: paddle.base.core,
    }
    assert set(things) == protocols(paddle_api) - NOT_FAKED
    assert absent(things) == {each for each in ON_CPU if each.startswith(("Configuration.", "Paddle."))}


MODEL = {"inputs": {"x": [-1, 3, 4, 4]}, "outputs": {"y": [-1, 5]}, "layers": [["CONVOLUTION", "FLOAT"]]}
#: members of enumerations that a generation of TensorRT lacks; they are asked of the others alone
LACKING = {
    "8.6": {"NetworkDefinitionCreationFlag.STRONGLY_TYPED"},
    "11.4": {"NetworkDefinitionCreationFlag.EXPLICIT_BATCH"},
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_fake_of_tensorrt_has_every_member(generation, tmp_path):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_text(json.dumps(MODEL))
    bad.write_text("{")
    trt = FakeTrt(generation, FakeCuda())
    logger = journal.Journal(trt).logger
    builder = trt.Builder(logger)
    network, config = builder.create_network(1), builder.create_builder_config()
    parser = trt.OnnxParser(network, logger)
    parser.parse_from_file(str(bad))
    parser.parse_from_file(str(good))
    profile = builder.create_optimization_profile()
    config.add_optimization_profile(profile)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(builder.build_serialized_network(network, config))
    things = {
        tensorrt_api.Trt: trt,
        tensorrt_api.Logger: logger,
        tensorrt_api.Builder: builder,
        tensorrt_api.Network: network,
        tensorrt_api.Layer: network.get_layer(0),
        tensorrt_api.Tensor: network.get_input(0),
        tensorrt_api.Parser: parser,
        tensorrt_api.ParserError: parser.get_error(0),
        tensorrt_api.Profile: profile,
        tensorrt_api.Config: config,
        tensorrt_api.TimingCache: config.create_timing_cache(b""),
        tensorrt_api.Runtime: runtime,
        tensorrt_api.Engine: engine,
        tensorrt_api.Context: engine.create_execution_context(),
        tensorrt_api.Inspector: engine.create_engine_inspector(),
        **{getattr(tensorrt_api, name): getattr(trt, name) for name in surfaces.ENUMERATIONS},
    }
    # The fake's memory is bytes, which are asked for no method before Python 3.12.
    assert set(things) == protocols(tensorrt_api) - {tensorrt_api.Memory}
    assert absent(things) == LACKING.get(generation, set())
    classes = {protocol: thing for protocol, thing in things.items() if protocol.__name__ in surfaces.CLASSES}
    assert set().union(*(misfits(protocol, thing) for protocol, thing in classes.items())) == set()


def test_what_is_looked_up_by_name_is_in_some_generation():
    for name, wanted in surfaces.members().items():
        there = {generation: vars(FakeTrt(generation, None))[name].__members__ for generation in GENERATIONS}
        assert set(wanted) == set().union(*there.values())
    assert all(tensorrt_api.flag(FakeTrt("11.4", None), name) is None for name in ("FP16", "BF16", "INT8"))
    assert tensorrt_api.data_type(FakeTrt("8.6", None), "BF16") is None
    assert tensorrt_api.data_type(FakeTrt("8.6", None), "HALF").name == "HALF"


def test_the_fake_of_cuda_has_every_member():
    api = FakeCuda()
    fake = {**vars(FakeCuda), "_cudaGetErrorName": api.text, "_cudaGetErrorString": api.text}
    calls = functions(cuda.Api)
    assert {name for name in calls if f"_{name}" not in fake} == set()
    assert {name for name in members(cuda.Api) - calls if name not in fake} == set()
    returned = {name: get_type_hints(getattr(cuda.Api, name))["return"] for name in calls}
    assert {name for name, each in returned.items() if each == cuda.Done} == VOID
    stream = cuda.Cuda(api).check(api.cudaStreamCreateWithFlags(api.cudaStreamNonBlocking))
    things = {
        cuda.CopyKinds: api.cudaMemcpyKind,
        cuda.CaptureModes: api.cudaStreamCaptureMode,
        cuda.Properties: api.properties,
        cuda.Handle: stream,
    }
    assert {cuda.Api, *things} == protocols(cuda)
    assert absent(things) == set()


def test_the_fake_of_nvml_has_every_member():
    library = fake_nvml.Nvml()
    things = {
        nvml_api.Pynvml: library,
        nvml_api.Pci: library.nvmlDeviceGetPciInfo(fake_nvml.T4),
        nvml_api.Memory: library.nvmlDeviceGetMemoryInfo(fake_nvml.T4),
        nvml_api.Utilisation: library.nvmlDeviceGetUtilizationRates(fake_nvml.T4),
        nvml_api.Process: fake_nvml.process(1),
    }
    assert set(things) == protocols(nvml_api)
    assert absent(things) == set()
    assert functions(nvml_api.Pynvml) == set(library.answers)


def test_nvidia_ml_py_has_every_member():
    import pynvml

    things = {
        nvml_api.Pynvml: pynvml,
        nvml_api.Pci: pynvml.nvmlPciInfo_t,
        nvml_api.Memory: pynvml.c_nvmlMemory_t,
        nvml_api.Utilisation: pynvml.c_nvmlUtilization_t,
        nvml_api.Process: pynvml.c_nvmlProcessInfo_t,
    }
    assert set(things) == protocols(nvml_api)
    assert absent(things) == set()
    assert misfits(nvml_api.Pynvml, pynvml) == set()
    hints = nvml_api.Pynvml.__annotations__
    assert {name for name, type_ in hints.items() if type_ is int} == {each for each in hints if each[4] == "_"}
    assert all(isinstance(getattr(pynvml, name), int) for name, type_ in hints.items() if type_ is int)
    assert all(issubclass(getattr(pynvml, name), pynvml.NVMLError) for name in hints if name.startswith("NVMLError"))


@pytest.mark.runtime
def test_onnx_and_paddle2onnx_have_every_member():
    import onnx
    import paddle2onnx

    things = {
        onnx_api.Onnx: onnx,
        onnx_api.Inference: onnx.shape_inference,
        onnx_api.Model: onnx.ModelProto(),
        onnx_api.Graph: onnx.GraphProto(),
        onnx_api.Node: onnx.NodeProto(),
        onnx_api.Tensor: onnx.TensorProto(),
        onnx_api.Value: onnx.ValueInfoProto(),
        onnx_api.Type: onnx.TypeProto(),
        onnx_api.TensorType: onnx.TypeProto.Tensor(),
        onnx_api.Shape: onnx.TensorShapeProto(),
        onnx_api.Dimension: onnx.TensorShapeProto.Dimension(),
        onnx_api.Paddle2Onnx: paddle2onnx,
    }
    assert set(things) == protocols(onnx_api)
    assert absent(things) == set()
    modules = {onnx_api.Onnx, onnx_api.Inference, onnx_api.Paddle2Onnx}
    assert set().union(*(misfits(protocol, things[protocol]) for protocol in modules)) == set()


@pytest.mark.runtime
def test_onnxruntime_for_cpus_has_every_member():
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    things = {
        ort_api.Ort: onnxruntime,
        ort_api.Levels: onnxruntime.GraphOptimizationLevel,
        ort_api.Options: onnxruntime.SessionOptions,
        ort_api.RunOptions: onnxruntime.RunOptions,
        ort_api.Values: onnxruntime.OrtValue,
        ort_api.Value: onnxruntime.OrtValue,
        ort_api.Session: onnxruntime.InferenceSession,
        ort_api.Binding: onnxruntime.IOBinding,
        ort_api.Node: onnxruntime.NodeArg,
        ort_api.AssignedSubgraph: native.OrtEpAssignedSubgraph,
        ort_api.AssignedNode: native.OrtEpAssignedNode,
    }
    assert set(things) == protocols(ort_api)
    assert absent(things) == set()


@pytest.mark.runtime
def test_paddle_for_cpus_has_every_member():
    import paddle
    from paddle import inference, profiler
    from paddle.base.proto import framework_pb2

    types, operator = framework_pb2.VarType, framework_pb2.OpDesc
    watch = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
    watch.start()
    watch.stop()
    things = {
        paddle_api.Paddle: paddle,
        paddle_api.Devices: paddle.device,
        paddle_api.CudaDevices: paddle.device.cuda,
        paddle_api.Versions: paddle.version,
        paddle_api.Tensor: paddle.Tensor,
        paddle_api.Inference: inference,
        paddle_api.Precisions: inference.PrecisionType,
        paddle_api.Configuration: inference.Config,
        paddle_api.Predictor: inference.Predictor,
        paddle_api.Handle: inference.Tensor,
        paddle_api.Profiling: profiler,
        paddle_api.Targets: profiler.ProfilerTarget,
        paddle_api.Watch: watch,
        paddle_api.Profile: watch.profiler_result,
        paddle_api.Event: next(iter(watch.profiler_result.get_data().values())),
        paddle_api.Jit: paddle.jit,
        paddle_api.Layer: paddle.jit.TranslatedLayer,
        paddle_api.Spec: paddle.static.InputSpec([1], name="x"),
        paddle_api.Framework: framework_pb2,
        paddle_api.VariableTypes: types,
        paddle_api.TypeNames: types.Type,
        paddle_api.TensorDescription: types.TensorDesc(),
        paddle_api.Description: framework_pb2.ProgramDesc(),
        paddle_api.Block: framework_pb2.BlockDesc(),
        paddle_api.Variable: framework_pb2.VarDesc(),
        paddle_api.Operator: operator(),
        paddle_api.Argument: operator.Var(),
        paddle_api.Registry: paddle.base.core,
    }
    assert set(things) == protocols(paddle_api) - IN_GPU_BUILDS
    assert absent(things) == {"Configuration.set_exec_stream"}
    assert not hasattr(paddle, "tensorrt"), "this is a build for GPUs"
    assert "paddle.tensorrt.export" not in sys.modules
