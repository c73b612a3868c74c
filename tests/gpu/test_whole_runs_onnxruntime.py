"""Whole commands on a machine that poses as one with onnxruntime-gpu: the CUDA provider, and that of TensorRT."""

import re

import pytest
from posed_gpu import COPY_NS, SLACK_NS, SPAN_NS, V100, WAKING_NS, reasons, samples

pytestmark = pytest.mark.runtime

RUN = (
    *("run", "--model", "./net.onnx", "--backend", "onnxruntime", "--precision", "fp32", "--batch-size", "1"),
    *("--warmup", "2", "--iterations", "40", "--repetitions", "1", "--quiet"),
)
ON_T4 = ("--device", "t4")
BY_TENSORRT = ("--set", "onnxruntime.provider=tensorrt")
INTERVALS = ("--interval", "compute,end_to_end,device")
LOST = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize"


@pytest.fixture
def pose_ort(pose):
    return lambda **ort: pose(onnxruntime="1.26.0", ort=ort)


def test_the_intervals_hold_the_time_that_the_gpu_took(pose_ort):
    (record,) = pose_ort().measured(*RUN, *INTERVALS, *ON_T4)
    assert reasons(record) == {}
    for interval, more_ns in (("device", 0), ("compute", WAKING_NS), ("end_to_end", WAKING_NS + 2 * COPY_NS)):
        taken = samples(record, interval)
        assert len(taken) == 40
        assert SPAN_NS + more_ns <= min(taken) < SPAN_NS + more_ns + SLACK_NS
    assert record.parity.max_error < 1e-6
    assert record.effective["compute_nodes"] == {"CUDAExecutionProvider": 1}
    assert record.telemetry["gpu"]["sm_clock_mhz_median"] == 1590


def test_the_doctor_judges_both_providers(pose_ort):
    lines = pose_ort().bench("doctor", *ON_T4).stdout.splitlines()
    assert "backend onnxruntime: yes, version 1.26.0" in lines
    place = lines.index(next(line for line in lines if line.startswith("backend onnxruntime with provider=tensorrt: ")))
    assert lines[place].endswith(": its versions fit; whether its libraries load shows when an engine is built")
    assert not lines[place + 1].startswith(" "), "there is nothing to install"


def test_tensorrt_inside_is_built_thrice_and_never_again(pose_ort, tmp_path):
    machine = pose_ort()
    words = (*RUN, *BY_TENSORRT, *INTERVALS, *ON_T4)
    found = machine.measured(*words, "--repetitions", "3")
    assert [(record.status, record.requested["build"]) for record in found] == [("ok", each) for each in "123"]
    assert len({record.artifact.path for record in found}) == len({record.artifact.sha256 for record in found}) == 3
    assert all(record.measurement.build_ns > 0 for record in found)
    assert found[0].effective["compute_nodes"] == {"TensorrtExecutionProvider": 1}
    assert machine.builds() == 3
    (again,) = machine.measured(*words)
    assert again.artifact == found[0].artifact
    assert machine.builds() == 3


@pytest.mark.parametrize(
    ("ort", "words", "code", "status", "reason"),
    [
        ({"cuda": "unloadable"}, (), 3, "unavailable", r"the libraries of CUDA or cuDNN are not found; .*"),
        ({"cuda": "no driver"}, (), 3, "unavailable", r"the NVIDIA driver is missing, or too old .*"),
        ({"silent": True}, (), 3, "unavailable", r"ONNX Runtime left CUDAExecutionProvider out; it has CPU.*"),
        ({"tensorrt": False}, BY_TENSORRT, 3, "unavailable", r"the libraries of TensorRT are not found; .*"),
        ({"ignores": True}, (), 1, "failed", r"output differs from onnxruntime .*"),
        ({"faults": {"20": LOST}}, (), 1, "failed", r"the GPU broke off a kernel, .* CUDA failure 700: .*"),
    ],
    ids=["no CUDA", "no driver", "silently on the CPU", "no TensorRT", "another stream", "broken off"],
)
def test_what_is_not_there_or_breaks_is_no_number(pose_ort, ort, words, code, status, reason):
    (record,) = pose_ort(**ort).measured(*RUN, *words, *ON_T4, code=code)
    assert (record.status, record.measurement) == (status, None)
    assert re.fullmatch(reason, record.reason)


def test_a_computing_node_on_the_cpu_is_a_reason_for_distrust(pose_ort):
    (record,) = pose_ort(on_cpu=["MatMul"]).measured(*RUN, *ON_T4)
    assert reasons(record)["misconfigured"] == "1 MatMul on CPUExecutionProvider, not CUDAExecutionProvider"


def test_a_v100_and_a_release_without_code_for_it_are_refused(pose):
    machine = pose(onnxruntime="1.31.1", gpus=[V100])
    (record,) = machine.measured(*RUN, "--device", "v100", code=3)
    assert (record.status, record.reason) == (
        "unavailable",
        "Tesla V100-SXM2-16GB has compute capability 7.0; onnxruntime-gpu 1.31.1 supports 7.5 and newer; "
        "install onnxruntime-gpu==1.26.0",
    )
