"""A request → cases in order, each once, and what was left out and why."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import backends, catalog, devices, plan
from bench.catalog import HardwareProfile, ModelCard
from bench.errors import Unavailable
from bench.plan import Request
from bench.schema import Case, Settings

CPU = HardwareProfile(
    name="cpu",
    label="a CPU",
    kind="cpu",
    backends=("paddle", "onnxruntime"),
    precisions=("fp32",),
    batch_sizes=(1, 4),
    threads=(1, 2),
)
NETWORK = ModelCard("Net", "Family", network="models.net:Net", input_shape=(3, 224, 224))
OTHER = ModelCard("Other", "Family", network="models.net:Other", input_shape=(3, 224, 224))
BACKENDS = {name: backends.get(name) for name in backends.names()}


def make(request=None, cards=(NETWORK,), profile=CPU, missing=None, cpus=4):
    nothing = dict.fromkeys(BACKENDS, "")
    return plan.make(request or Request(), cards, profile, BACKENDS, nothing | (missing or {}), cpus)


def keys(cases):
    return [case.key for case in cases]


# The matrix


def test_what_is_not_asked_comes_from_the_profile():
    assert keys(make().cases) == [
        f"Net/{backend}/cpu/fp32/bs{batch_size}/t{threads}"
        for backend in ("paddle", "onnxruntime")
        for batch_size in (1, 4)
        for threads in (1, 2)
    ]


def test_what_is_asked_takes_the_place_of_the_profile():
    request = Request(backends=("simulated",), precisions=("int8",), batch_sizes=(3,), threads=(4,))
    assert keys(make(request).cases) == ["Net/simulated/cpu/int8/bs3/t4"]


def test_the_order_is_that_of_the_command_line():
    request = Request(
        backends=("simulated", "onnxruntime"), precisions=("fp32", "fp16"), batch_sizes=(8, 1), threads=(2, 1)
    )
    planned = make(request, cards=(OTHER, NETWORK))
    wanted = itertools.product(("Other", "Net"), request.backends, request.precisions, (8, 1), (2, 1))
    every = [Case(model, backend, "cpu", *rest) for model, backend, *rest in wanted]
    left_out = {left.case for left in planned.left_out}
    assert list(planned.cases) == [case for case in every if case not in left_out]
    assert left_out == {case for case in every if (case.backend, case.precision) == ("onnxruntime", "fp16")}


@settings(deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(BACKENDS)), max_size=4),
    precisions=st.lists(st.sampled_from(["fp32", "fp16", "int8"]), max_size=4),
    batch_sizes=st.lists(st.integers(1, 3), max_size=4),
    threads=st.lists(st.integers(1, 6), max_size=4),
)
def test_every_case_is_planned_or_left_out_and_none_twice(names, precisions, batch_sizes, threads):
    request = Request(
        backends=tuple(names), precisions=tuple(precisions), batch_sizes=tuple(batch_sizes), threads=tuple(threads)
    )
    planned = make(request, cards=(NETWORK, OTHER, NETWORK))
    cases = [*planned.cases, *(left.case for left in planned.left_out)]
    axes = (
        {"Net", "Other"},
        set(names or CPU.backends),
        set(precisions or CPU.precisions),
        set(batch_sizes or CPU.batch_sizes),
        set(threads or CPU.threads),
    )
    wanted = {
        Case(model, backend, "cpu", precision, batch_size, count)
        for model, backend, precision, batch_size, count in itertools.product(*axes)
    }
    assert len(cases) == len(set(cases))
    assert set(cases) == wanted
    assert all(left.reason and left.status in ("unsupported", "unavailable") for left in planned.left_out)


def test_the_estimate_grows_with_cases_and_stays_an_upper_bound():
    planned = make()
    assert planned.estimate_s(Settings(budget_s=20)) == 8 * 20 + 10
    assert planned.estimate_s(Settings(repetitions=5)) == 8 * 5 * 4 + 10
    assert make(Request(threads=(99,))).estimate_s(Settings()) == 0


# What stands in the way


@pytest.mark.parametrize(
    ("request_", "options", "status", "reason"),
    [
        (
            Request(backends=("openvino",)),
            {"profile": catalog.profile("t4")},
            "unsupported",
            "openvino here runs on cpu, not on a gpu",
        ),
        (
            Request(backends=("openvino",), settings=Settings(intervals=("compute", "device"))),
            {},
            "unsupported",
            "openvino has no interval device on a cpu",
        ),
        (
            Request(backends=("onnxruntime",), precisions=("int8",)),
            {},
            "unsupported",
            "onnxruntime runs fp32 on a cpu, not int8",
        ),
        (
            Request(backends=("onnxruntime",)),
            {"cards": [ModelCard("Paper", "F")]},
            "unsupported",
            "only published figures of Paper are known, not its network",
        ),
        (
            Request(backends=("paddle",)),
            {"cards": [ModelCard("own", "own", file="/own.onnx", format="onnx")]},
            "unsupported",
            "paddle reads Paddle models, and nothing converts ONNX to Paddle",
        ),
        (
            Request(backends=("openvino",)),
            {"missing": {"openvino": "openvino is not installed; pip install openvino"}},
            "unavailable",
            "openvino is not installed; pip install openvino",
        ),
        (
            Request(backends=("simulated",), threads=(5,)),
            {"cpus": 4},
            "unavailable",
            "5 threads asked, 4 CPUs may be used here",
        ),
    ],
    ids=["kind", "interval", "precision", "published", "onnx", "missing", "threads"],
)
def test_a_case_is_left_out_with_its_reason(request_, options, status, reason):
    planned = make(request_, **options)
    assert planned.cases == ()
    assert planned.left_out
    for left in planned.left_out:
        assert (left.status, left.reason) == (status, reason)


def test_what_can_never_be_is_said_before_what_is_missing_here():
    request = Request(backends=("onnxruntime",), precisions=("int8",), threads=(99,))
    (left, _) = make(request, missing={"onnxruntime": "not installed"}).left_out
    assert left.status == "unsupported"


def test_as_many_threads_as_cpus_are_fine():
    planned = make(Request(backends=("simulated",), batch_sizes=(1,), threads=(1, 4, 5)), cpus=4)
    assert [case.threads for case in planned.cases] == [1, 4]


# Another machine than the one that was named


def machine(cpu="AMD EPYC 7B13", *gpus):
    return {"hardware": {"cpu": {"name": cpu}, "gpus": list(gpus)}}


XEON_6148 = "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"
XEON_6271C = "Intel(R) Xeon(R) Gold 6271C CPU @ 2.60GHz"


@pytest.mark.parametrize(
    ("device", "description"),
    [
        ("cpu", machine()),
        ("cpu", machine(None)),
        ("t4", machine(XEON_6148, "Tesla T4")),
        ("t4", machine(None, "NVIDIA A100-SXM4-40GB", "NVIDIA T4")),
        ("v100", machine(XEON_6148, "Tesla V100-SXM2-16GB")),
        ("v100", machine(XEON_6148, "Tesla V100-PCIE-32GB")),
        ("xeon-6148", machine(XEON_6148)),
        ("xeon-6271c", machine(XEON_6271C, "Tesla T4")),
    ],
)
def test_a_device_is_known_by_its_name(device, description):
    devices.refuse_stranger(catalog.profile(device), description)


@pytest.mark.parametrize(
    ("device", "description", "looked_for", "found"),
    [
        ("t4", machine(), "a GPU named like NVIDIA Tesla T4", "no NVIDIA GPU beside the CPU AMD EPYC 7B13"),
        ("t4", machine(None), "a GPU named like NVIDIA Tesla T4", "no NVIDIA GPU beside the CPU unknown"),
        ("t4", machine(XEON_6148, "NVIDIA T400"), "a GPU named like NVIDIA Tesla T4", "found NVIDIA T400 beside"),
        ("t4", machine(XEON_6148, "NVIDIA T4G"), "a GPU named like NVIDIA Tesla T4", "found NVIDIA T4G"),
        ("v100", machine(XEON_6148, "Tesla T4", "Tesla P4"), "NVIDIA Tesla V100", "found Tesla T4, Tesla P4 beside"),
        ("xeon-6148", machine(), "a CPU named like Intel Xeon Gold 6148", "found AMD EPYC 7B13"),
        ("xeon-6148", machine(XEON_6271C), "a CPU named like Intel Xeon Gold 6148", f"found {XEON_6271C}"),
        ("xeon-6148", machine("Intel Xeon Gold 6148F"), "Intel Xeon Gold 6148", "found Intel Xeon Gold 6148F"),
        ("xeon-6271c", machine(None), "a CPU named like Intel Xeon Gold 6271C", "found unknown"),
    ],
)
def test_another_machine_is_refused(device, description, looked_for, found):
    with pytest.raises(Unavailable) as caught:
        devices.refuse_stranger(catalog.profile(device), description)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert looked_for in message
    assert found in message
    assert "--device cpu" in message or "bench doctor" in message
    assert "\n" not in message


@pytest.mark.parametrize("device", ["t4", "v100", "xeon-6148", "xeon-6271c"])
def test_a_machine_that_says_nothing_is_no_named_device(device):
    with pytest.raises(Unavailable):
        devices.refuse_stranger(catalog.profile(device), machine(None))
