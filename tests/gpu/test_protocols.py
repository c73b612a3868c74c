"""The Protocols of ONNX Runtime and Paddle name only what is there: in the fakes, and in the wheels for CPUs.

mypy checks the calls against the Protocols; these tests check the Protocols against what is called.
"""

import sys
from typing import Protocol

import pytest
from fakes import ort as fake_ort
from fakes import paddle_gpu as fake_paddle

from bench import ort_api, paddle_api

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
#: which the wheels for CPUs lack: the package paddle.tensorrt
IN_GPU_BUILDS = {paddle_api.Export, paddle_api.PrecisionModes}


class Empty(Protocol):
    nothing: int


def protocols(module):
    return {each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__}


def members(protocol):
    return (set(vars(protocol)) | set(protocol.__annotations__)) - set(vars(Empty))


def absent(things):
    """ "Protocol.member" of each that the thing behind a Protocol lacks."""
    return {
        f"{protocol.__name__}.{name}"
        for protocol, thing in things.items()
        for name in members(protocol)
        if not hasattr(thing, name)
    }


def test_members_are_methods_properties_and_annotations():
    assert members(ort_api.Levels) == {
        *("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL")
    }
    assert members(ort_api.Value) == {"shape", "numpy", "update_inplace"}
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
    }
    assert set(things) == protocols(paddle_api) - NOT_FAKED
    assert absent(things) == {each for each in ON_CPU if each.startswith(("Configuration.", "Paddle."))}


@pytest.mark.runtime
def test_onnxruntime_for_cpus_has_every_member():
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    things = {
        ort_api.Ort: onnxruntime,
        ort_api.Levels: onnxruntime.GraphOptimizationLevel,
        ort_api.Options: onnxruntime.SessionOptions,
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
    }
    assert set(things) == protocols(paddle_api) - IN_GPU_BUILDS
    assert absent(things) == set()
    assert not hasattr(paddle, "tensorrt"), "this is a build for GPUs"
    assert "paddle.tensorrt.export" not in sys.modules
