"""What Paddle alone needs: parameter files that are cut off, the log of oneDNN, complaints of many lines."""

import os
import struct
from pathlib import Path
from statistics import median

import pytest

from bench import paddle_inference
from bench.backends import paddle
from bench.errors import Failed
from bench.schema import Settings

LINES = """onednn_verbose,v1,info,oneDNN v3.6.2
onednn_verbose,v1,primitive,create:cache_miss,cpu,convolution,jit:avx512_core,forward_inference,src:f32::blocked:acdb
onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_inference,src:f32::blocked:acdb::f0 wei:f32:a
onednn_verbose,v1,primitive,exec,cpu,inner_product,brgemm:avx512_core_bf16,forward_inference,src:bf16:a:blocked:ab::f0
onednn_verbose,exec,cpu,matmul,gemm:jit,undef,src_s8::blocked:ab:f0 wei_s8::blocked:ab:f0,,,8x9
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abcd::f0 dst:bf16::blocked:acdb::f0
another line
"""


class Library:
    """As much of oneDNN as is asked: `run` prints its log where it is on."""

    def __init__(self, status=0):
        self.status = status
        self.verbose = []

    def dnnl_set_verbose(self, level):
        self.verbose.append(level)
        return self.status

    def run(self):
        assert self.verbose == [1]
        os.write(1, LINES.encode())


def session():
    """A session without a predictor."""

    class Nothing:
        def run(self):
            pass

        def cpu_math_library_num_threads(self):
            return 3

    made = paddle.PaddleSession.__new__(paddle.PaddleSession)
    made._predictor = made._config = Nothing()
    return made


def tensor(shape, kind=5, width=4):
    dimensions = b"".join(bytes([16, size & 127 | 128, size >> 7]) for size in shape)
    description = bytes([8, kind]) + dimensions
    values = b"v" * width
    for size in shape:
        values *= size
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + values


def test_primitives_are_read_from_the_log_which_is_switched_off_again(monkeypatch):
    library = Library()
    monkeypatch.setattr(paddle, "_onednn", lambda: library)
    assert paddle.onednn_primitives(library.run) == [
        ("convolution", "f32"),
        ("inner_product", "bf16"),
        ("matmul", "s8"),
        ("reorder", ""),
    ]
    assert library.verbose == [1, 0]


def test_the_log_is_switched_off_after_a_failure_too(monkeypatch):
    library = Library()
    monkeypatch.setattr(paddle, "_onednn", lambda: library)
    with pytest.raises(ZeroDivisionError):
        paddle.onednn_primitives(lambda: 1 / 0)
    assert library.verbose == [1, 0]


@pytest.mark.parametrize("library", [None, Library(status=5)], ids=["absent", "without its log"])
def test_without_a_library_to_ask_onednn_is_unknown(monkeypatch, library):
    monkeypatch.setattr(paddle, "_onednn", lambda: library)
    assert session().effective() == {"onednn": "unknown", "configuration": {"threads": 3}}


@pytest.mark.parametrize(
    ("primitives", "effective"),
    [
        ([], {"onednn": False, "onednn_primitives": {}}),
        (
            [("convolution", "f32"), ("reorder", ""), ("convolution", "f32")],
            {"onednn": True, "onednn_primitives": {"convolution": 2, "reorder": 1}, "precision": "fp32"},
        ),
        (
            [("convolution", "bf16"), ("matmul", "f32")],
            {"onednn": True, "onednn_primitives": {"convolution": 1, "matmul": 1}, "precision": "bf16, fp32"},
        ),
    ],
)
def test_onednn_and_precision_follow_from_what_was_executed(monkeypatch, primitives, effective):
    monkeypatch.setattr(paddle, "onednn_primitives", lambda _: primitives)
    assert session().effective() == {**effective, "configuration": {"threads": 3}}


def test_every_cut_through_a_tensor_is_found(tmp_path):
    file = tmp_path / "m.pdiparams"
    whole = tensor([3, 300]) + tensor([]) + tensor([5], kind=4, width=2)
    boundaries = {0, len(tensor([3, 300])), len(tensor([3, 300]) + tensor([])), len(whole)}
    for length in [*range(60), *range(len(whole) - 100, len(whole) + 1)]:
        file.write_bytes(whole[:length])
        if length in boundaries:
            paddle_inference.require_whole(file)
        else:
            with pytest.raises(Failed, match=f"its {length} bytes end inside a tensor"):
                paddle_inference.require_whole(file)


@pytest.mark.parametrize(
    "content",
    [b"\x01" * 40, tensor([5], kind=99) + b"more", struct.pack("<IQIi", 0, 0, 0, 4) + b"\x12\x02\x05\x05 and more"],
    ids=["another version", "another type", "packed dimensions"],
)
def test_a_layout_that_is_not_known_is_left_to_paddle(tmp_path, content):
    file = tmp_path / "m.pdiparams"
    file.write_bytes(content)
    paddle_inference.require_whole(file)


def test_absent_parameters_are_named(tmp_path):
    with pytest.raises(Failed, match=r"cannot read m\.pdiparams; No such file"):
        paddle_inference.require_whole(tmp_path / "m.pdiparams")


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (
            "\n\n----\nError Message Summary:\n----\n(Unavailable) Cannot read tensor desc size\n"
            "  [Hint: Expected is.good() == true.] (at /paddle/paddle/phi/core/tensor.cc:316)\n",
            "(Unavailable) Cannot read tensor desc size",
        ),
        (
            "(InvalidArgument) Invalid model file. (at /paddle/interface.cc:104)\n",
            "(InvalidArgument) Invalid model file.",
        ),
        ("(NotFound) Cannot open file /home/me/m.json\n", "(NotFound) Cannot open file m.json"),
        ("stack\nlast line", "last line"),
        ("", "RuntimeError"),
    ],
)
def test_of_a_complaint_the_line_that_says_what_was_wrong_is_kept(said, understood):
    assert paddle_inference.said(RuntimeError(said), Path("/home/me/m.json")) == understood


@pytest.mark.runtime
def test_tensors_freed_in_a_second_thread_show_as_a_reason_for_doubt(stands, reference):
    """What Paddle does unless told otherwise: its second thread takes the only CPU again and again."""
    stand, settings = stands["paddle"], Settings(warmup=10, iterations=50)
    choices = ("eager_delete=off", "eager_delete=on")
    found = {choice: stand.measure(batch_size=1, choice=choice, settings=settings) for choice in choices}
    per_call = {choice: median(_switches(answer)) for choice, answer in found.items()}
    assert per_call["eager_delete=on"] > 10 > per_call["eager_delete=off"]
    assert "preempted" in {doubt.reason for doubt in found["eager_delete=on"].validity}


def _switches(answer):
    return answer.measurement.intervals["compute"].telemetry.involuntary_switches or (0,)
