"""`bench run` at the command line: what is refused, in one line and with the contract's exit code, and what is left."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import BENCH, QUICK, bench, complaint, environ, little_room, start, tiny_onnx

from bench import catalog, environment, store

ON_ORT = ("--backend", "onnxruntime", "--batch-size", "1", "--warmup", "1", "--iterations", "5", "--repetitions", "1")
SIMULATED = ("--model", "DPN68", *QUICK, "--repetitions", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's folder, empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(here, tmp_path):
    return lambda *words, **options: bench(tmp_path / "cache", "run", *words, cwd=here, **options)


@pytest.fixture
def refused(run, here):
    """The one line that a command was refused with; nothing was measured, and nothing is left of it."""

    def refuse(*words, code=2, **options):
        before = files(here)
        message = complaint(run(*words, **options), code)
        assert files(here) == before
        return message

    return refuse


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def usage(value):
    """An identifier of words for a test."""
    return " ".join(value)[:40] if isinstance(value, tuple) else ""


# Names that nothing bears


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "DPN29"), r"no model 'DPN29'; closest: .*DPN92.*; list them with: bench list models"),
        (("--model", "DPN9*x"), r"no model 'DPN9\*x'; .*; list them with: bench list models"),
        (("--model", "DPN92", "--model", "resnet"), r"no model 'resnet'; .*bench list models"),
        (("--model", "naïve 模型"), r"no model 'naïve 模型'; .*"),
        (("--model", "line\nbreak"), r"no model 'line\\nbreak'; .*"),
        (("--model", "x" * 5000), r"no model 'x+'; .*"),
        (("--family", "MobileNet"), r"no family 'MobileNet'; closest: .*MobileNetV\d.*; list them with: .*"),
        (("--model", "DPN92", "--device", "sd865"), r"no device 'sd865'; closest: sd855; list them with: .*"),
        (("--model", "DPN92", "--device", "../cpu"), r"no device '\.\./cpu'; closest: cpu; .*"),
        (("--model", "DPN92", "--backend", "onnx"), r"no backend 'onnx'; closest: .*onnxruntime.*"),
        (("--model", "DPN92", "--backend", "simulated,abacus"), r"no backend 'abacus'; known: .*; list them with: .*"),
        (("--model", "DPN92", "--precision", "fp64"), r".*'fp64'.*choose from fp32, fp16, bf16, int8.*"),
        (("--model", "DPN92", "--interval", "warm"), r".*'warm'.*choose from compute, end_to_end.*"),
        (("--model", "DPN92", "--format", "pdf"), r".*'pdf'.*"),
        (("--model", "DPN92", "--colour"), r"No such option.*--colour.*"),
        ((), r"no model was named; name one with --model or --family; see: bench list models"),
        (("DPN92",), r".*unexpected extra argument.*DPN92.*"),
    ],
    ids=usage,
)
def test_an_unknown_name_is_one_line(refused, words, message):
    assert re.fullmatch(message, refused(*words))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("simulated.falt=none", "no option of simulated 'falt'; closest: .*fault.*; see: bench list backends"),
        ("simulated.fault=explode", "simulated.fault cannot be 'explode'; it takes none, segfault, .*; correct --set"),
        ("simulated.median_us=fast", "simulated.median_us cannot be 'fast'; it takes a number; correct --set"),
        ("paddle.onednn=off", "no backend in this plan 'paddle'; .*simulated.*; --set takes BACKEND.OPTION=VALUE"),
        ("simulated.fault", "cannot read --set 'simulated.fault'; write it as BACKEND.OPTION=VALUE"),
        ("fault=none", "cannot read --set 'fault=none'; .*"),
        ("=", "cannot read --set '='; .*"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_an_unknown_option_is_one_line(refused, assignment, message, more):
    assert re.fullmatch(message, refused(*SIMULATED, "--set", assignment, *more))


# Values that cannot be


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--batch-size", ["0", "-1", "1.5", "", "1,", ",1", "1,,4", "1;4", "four", "1 4", "²", "1e3"]),
        ("--threads", ["0", "-1", "-4,1", "1,0", "all"]),
        ("--budget", ["0", "-1s", "0s", "nan", "inf", "1e999", "20 parsecs", "", "s"]),
        ("--precision-target", ["0", "0%", "-1%", "%", "nan"]),
        ("--repetitions", ["0", "-1", "1.5", "many"]),
        ("--warmup", ["0", "x"]),
        ("--iterations", ["0", "x"]),
        ("--timeout", ["0", "-1s", "never"]),
        ("--memory-limit", ["0", "-1GiB", "lots", "GiB"]),
        ("--input-shape", ["3,0,224", "3x224x224", ""]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_cannot_be_is_one_line(here, tmp_path, option, values):
    command = ("run", *SIMULATED)
    processes = [start(tmp_path / "cache", *command, f"{option}={value}", cwd=here) for value in values]
    for value, process in zip(values, processes, strict=True):
        printed, said = process.communicate()
        message = complaint(subprocess.CompletedProcess(process.args, process.returncode, printed, said), 2)
        assert option in message
        assert repr(value) in message, "says what was found"
    assert not files(here)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--batch-size", "1, 4 ,8"), 3),
        (("--batch-size", "1,1", "--batch-size", "1"), 1),
        (("--batch-size", "1", "--precision", "fp32,fp16", "--precision", "fp32"), 2),
        (("--batch-size", "8", "--model", "DPN68", "--family", "d-p-n"), 5),
        (("--batch-size", "4", "--backend", "simulated,simulated"), 1),
    ],
    ids=usage,
)
def test_a_list_holds_each_value_once(run, words, count):
    asked = run("--model", "DPN68", "--backend", "simulated", *words, "--dry-run", "--format", "json")
    assert asked.returncode == 0, asked.stderr
    assert len(json.loads(asked.stdout)["cases"]) == count


def test_what_cannot_be_here_is_on_record_and_exits_3(run, here):
    """Threads beyond the machine's: nothing was measured, and why is to be seen in every table."""
    process = run(*SIMULATED, "--threads", "100000")
    assert process.returncode == 3
    (found,) = store.read_all(here / "results")
    (record,) = found.records
    assert record.status == "unavailable"
    assert record.reason == f"100000 threads asked, {environment.usable_cpus()} CPUs may be used here"
    assert "Traceback" not in process.stderr


def test_what_can_be_is_measured_beside_what_cannot(run, here):
    process = run(*SIMULATED, "--threads", "1,100000", "--backend", "tensorrt", "--precision", "fp32")
    assert process.returncode == 0, process.stderr
    (found,) = store.read_all(here / "results")
    statuses = {(record.case.backend, record.case.threads): record.status for record in found.records}
    assert statuses == {
        ("simulated", 1): "ok",
        ("simulated", 100000): "unavailable",
        ("tensorrt", 1): "unsupported",
        ("tensorrt", 100000): "unsupported",
    }
    tally = process.stderr.splitlines()[-1].removeprefix("bench: ").partition(";")[0]
    assert sorted(tally.split(", ")) == ["1 ok", "1 unavailable", "2 unsupported"]


# Another device


@pytest.mark.parametrize("device", ["t4", "v100", "xeon-6148", "xeon-6271c"])
def test_a_device_that_this_machine_is_not_exits_3(refused, monkeypatch, device):
    profile = catalog.profile(device)
    hardware = environment.describe()["hardware"]
    if profile.match.cpu and re.search(profile.match.cpu, hardware["cpu"]["name"] or ""):
        return  # it is
    for more in ((), ("--dry-run",), ("--backend", "simulated")):
        what, found, do = refused("--model", "DPN68", "--device", device, *more, code=3).split("; ")
        assert profile.label in what
        assert device in what
        assert what.startswith("looked for ")
        assert found.startswith("found ")
        assert str(hardware["cpu"]["name"] or "unknown") in found
        assert "--device cpu" in do


def test_without_adb_a_phone_exits_3(refused, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    for more in ((), ("--dry-run",)):
        message = refused("--model", "DPN68", "--device", "sd855", *more, code=3)
        assert (
            message == "no adb to talk to the phone with; it is not on PATH; install it, as with: apt-get install adb"
        )


# Files that are no model


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        ([], "net.onnx", "no model file net.onnx; there is no such file; check the path"),
        ([], "./no/where", "cannot tell what model no/where is; .*"),
        (["net.json"], "net.json", "no parameters for net.json; net.pdiparams is not beside it; put it there"),
        (["net.pdmodel"], "net.pdmodel", "no parameters for net.pdmodel; .*"),
        (["empty.onnx"], "empty.onnx", "no model in empty.onnx; the file is empty; export the model again, or name.*"),
        (["net.pt"], "./net.pt", "cannot tell what model net.pt is; its suffix is '.pt'; give one of .onnx, .*"),
        (["a/x.onnx", "a/y.onnx"], "a", "no single inference model in a; found: x.onnx, y.onnx; name the file itself"),
        (["a\nb.onnx"], "a\nb.onnx", r"cannot name a model 'a\\nb'; it holds a control character; rename it"),
        ([], f"{'x' * 5000}.onnx", "cannot read x+.onnx; File name too long; check the path"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_path_that_leads_to_no_model_is_one_line(refused, here, files, asked, message):
    for name in files:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("" if "empty" in name else "{}")
    assert re.fullmatch(message, refused("--model", asked))


@pytest.fixture(scope="module")
def broken():
    """Contents of an .onnx file that no runtime can read, by what is wrong with them."""
    whole = tiny_onnx()
    return {
        "garbage": b"\x93\xff\x00not a model" * 50,
        "truncated": whole[: len(whole) // 2],
        "cut short": whole[:-1],
        "text": b'{"ir_version": 8}',
    }


@pytest.mark.runtime
@pytest.mark.parametrize("what", ["garbage", "truncated", "cut short", "text"])
def test_an_unreadable_model_is_one_line(refused, here, broken, what):
    (here / "net.onnx").write_bytes(broken[what])
    message = refused("--model", "net.onnx", "--backend", "onnxruntime")
    assert message.startswith(f"ONNX Runtime cannot read {here / 'net.onnx'}; ")
    assert message.endswith("export the model again, or name another file")


@pytest.mark.runtime
@pytest.mark.parametrize(("suffix", "content"), [(".json", b"{}"), (".json", b"\xff"), (".pdmodel", b"{}")], ids=str)
def test_an_unreadable_paddle_model_is_one_line(refused, here, suffix, content):
    (here / f"net{suffix}").write_bytes(content)
    (here / "net.pdiparams").write_bytes(b"")
    message = refused("--model", f"net{suffix}", "--backend", "paddle", "--input-shape", "3,8,8")
    assert "net" in message


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"inputs": 2}, "is no image classifier; it has 2 inputs: x0, x1"),
        ({"kind": "double"}, "is no image classifier"),
    ],
    ids=["two inputs", "double"],
)
def test_a_model_that_is_no_classifier_is_unsupported(run, here, model, reason):
    """Readable, but not to be measured here: that goes on record."""
    (here / "net.onnx").write_bytes(tiny_onnx(**model))
    process = run("--model", "net.onnx", "--backend", "onnxruntime", "--batch-size", "1", "--quiet")
    assert process.returncode == 3, process.stderr
    assert "Traceback" not in process.stderr
    (found,) = store.read_all(here / "results")
    (record,) = found.records
    assert record.status == "unsupported"
    assert reason in record.reason


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["a b.onnx", "模型 ñ.onnx", f"{'x' * 240}.onnx", "DPN68.onnx", "--help.onnx"])
def test_a_model_of_any_name_is_measured(run, here, name):
    (here / name).write_bytes(tiny_onnx())
    process = run("--model", f"./{name}", *ON_ORT)
    assert process.returncode == 0, process.stderr
    (found,) = store.read_all(here / "results")
    (record,) = found.records
    assert record.status == "ok"
    assert record.case.model.partition("@")[0] == name.removesuffix(".onnx")
    assert record.artifact.path == name
    assert record.parity.reference.startswith("onnxruntime")


@pytest.mark.runtime
def test_a_model_behind_a_link_is_measured(run, here, tmp_path):
    blob = tmp_path / "0123abcd"
    blob.write_bytes(tiny_onnx())
    (here / "net.onnx").symlink_to(blob)
    assert run("--model", "net.onnx", *ON_ORT).returncode == 0


@pytest.mark.runtime
@pytest.mark.parametrize("place", [b"\xff", b"a\nb"], ids=repr)
def test_a_model_in_a_folder_of_any_name(run, here, place):
    """What is no UTF-8 cannot stand in a job or a record; a line break can."""
    folder = here / os.fsdecode(place)
    folder.mkdir()
    (folder / "net.onnx").write_bytes(tiny_onnx())
    process = run("--model", f"{folder}/net.onnx", *ON_ORT)
    if place == b"\xff":
        assert "not valid UTF-8" in complaint(process, 2)
        assert not (here / "results").exists()
    else:
        assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("weights", ["nowhere.pdparams", "."])
@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_weights_that_are_not_there_are_one_line(refused, weights, more):
    message = refused("--model", "DPN68", "--weights", weights, *more)
    assert message.startswith(f"cannot read the weights {weights}; ")
    assert message.endswith("; --weights takes random, pretrained or a file")


@pytest.mark.runtime
def test_weights_that_are_none_leave_no_results(refused, here):
    (here / "net.pdparams").write_bytes(b"garbage")
    assert "net.pdparams" in refused("--model", "MobileNetV1_x0_25", "--weights", "net.pdparams", "--quiet")


# Folders that cannot be written


@pytest.mark.parametrize("results", ["file/results", "/proc/results", "/dev/null/results", "file", "x" * 300])
def test_results_that_cannot_be_written_are_one_line(run, here, results):
    (here / "file").write_text("")
    message = complaint(run(*SIMULATED, "--results", results), 2)
    assert re.fullmatch(rf"cannot write results to {results}/cpu; .*; name another with --results DIR", message)
    assert files(here) == {here / "file"}


@pytest.mark.parametrize("cache", ["file/cache", "/proc/cache"])
def test_a_cache_that_cannot_be_written_is_one_line(refused, here, cache):
    (here / "file").write_text("")
    message = refused(*SIMULATED, BENCH_CACHE=cache)
    assert re.fullmatch(rf"cannot write the cache {cache}; .*; set BENCH_CACHE to a folder you own", message)


def test_a_disk_that_fills_up_is_one_line(here, tmp_path, run):
    """What was saved before stays; the run goes on once there is room."""
    with little_room(here, 1 << 15) as room:
        filler = here / "filler"
        filler.write_bytes(bytes(1 << 14))
        process = run("--model", "DPN68", *QUICK, "--iterations", "400", "--repetitions", "9", "--results", str(here))
        assert process.returncode == 1, process.stderr
        *steps, last = process.stderr.splitlines()
        assert last.startswith("bench: cannot save a record of DPN68/simulated/cpu/fp32/bs1/t1 to ")
        assert last.endswith(f"{os.strerror(room.error)}; make room, then go on with: bench run --resume")
        assert process.stdout == ""
        (found,) = store.read_all(here)
        assert len(found.records) == len(steps) - 1
        assert found.damaged == 0
        room.relieve()
        again = run("--resume", "--results", str(here))
        assert again.returncode == 0, again.stderr
        (found,) = store.read_all(here)
        assert [record.repetition for record in found.records] == list(range(9))


@pytest.mark.parametrize("name", ["a b", "naïve 模型", "x" * 200, "line\nbreak"])
def test_results_of_any_name(run, here, name):
    process = run(*SIMULATED, "--results", name)
    assert process.returncode == 0, process.stderr
    (found,) = store.read_all(here / name)
    assert len(found.records) == 1
    assert run("--resume", "--results", name).returncode == 0


def test_results_behind_a_link(run, here, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (here / "results").symlink_to(tmp_path / "elsewhere")
    assert run(*SIMULATED).returncode == 0
    assert len(list(store.read_all(tmp_path / "elsewhere"))) == 1


# What a log may do


def run_with(tmp_path, here, **streams):
    words = [*BENCH, "run", *SIMULATED]
    return subprocess.run(words, env=environ(tmp_path / "cache"), cwd=here, check=False, text=True, **streams)


def test_a_log_on_a_full_disk_does_not_end_a_run(here, tmp_path):
    with Path("/dev/full").open("w") as full:
        process = run_with(tmp_path, here, stdout=subprocess.PIPE, stderr=full)
    (found,) = store.read_all(here / "results")
    assert [record.status for record in found.records] == ["ok"]
    assert "DPN68" in process.stdout


def test_a_log_whose_reader_has_gone_does_not_end_a_run(here, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    process = run_with(tmp_path, here, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    (found,) = store.read_all(here / "results")
    assert [record.status for record in found.records] == ["ok"]
    assert "DPN68" in process.stdout


def test_quiet_says_no_steps(run, here):
    process = run(*SIMULATED, "--quiet")
    assert process.returncode == 0
    assert ", repetition " not in process.stderr
    assert "\x1b" not in process.stderr + process.stdout


# The plan alone


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_plan_of_everything_is_quick_and_writes_nothing(run, here, tmp_path, format_):
    start = time.monotonic()
    process = run("--model", "all", "--dry-run", "--format", format_)
    took_s = time.monotonic() - start
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert took_s < 2
    assert not files(here)
    assert not (tmp_path / "cache").exists()
    expected = len(catalog.cards()) * 9
    if format_ == "json":
        plan = json.loads(process.stdout)
        assert len(plan["cases"]) + len(plan["left_out"]) == expected
        assert (plan["estimate_s"] > 0) == bool(plan["cases"])
        for left in plan["left_out"]:
            assert left["reason"]
    else:
        *lines, last = process.stdout.splitlines()
        assert len(lines) == expected
        assert re.fullmatch(r"\d+ cases to measure, \d+ left out; about \d+ minutes at most", last)


def test_a_plan_says_what_is_left_out_and_why(run):
    process = run("--model", "DPN68", "--backend", "simulated,tensorrt", "--batch-size", "1", "--dry-run")
    assert process.returncode == 0
    assert process.stdout.splitlines()[:2] == [
        "DPN68/simulated/cpu/fp32/bs1/t1",
        "DPN68/tensorrt/cpu/fp32/bs1/t1  unsupported: tensorrt here runs on gpu, not on a cpu",
    ]


# What comes of a run


def test_a_run_prints_its_table_and_says_where_its_records_are(run, here):
    process = run(*SIMULATED)
    assert process.returncode == 0, process.stderr
    assert "DPN68" in process.stdout
    (path,) = (here / "results" / "cpu").iterdir()
    assert process.stderr.splitlines() == [
        "bench: DPN68/simulated/cpu/fp32/bs1/t1, repetition 1",
        f"bench: 1 ok; records: results/cpu/{path.name}",
    ]


def test_json_is_an_array_of_cases(run):
    process = run(*SIMULATED, "--format", "json")
    assert process.returncode == 0, process.stderr
    (row,) = json.loads(process.stdout)
    assert (row["model"], row["backend"], row["status"]) == ("DPN68", "simulated", "ok")


@pytest.mark.parametrize("fault", ["segfault", "exit", "exit3", "raise", "flood"])
def test_a_case_that_fails_exits_1_with_a_reason_on_record(run, here, fault):
    process = run(*SIMULATED, "--set", f"simulated.fault={fault}")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "1 failed" in process.stderr
    (found,) = store.read_all(here / "results")
    (record,) = found.records
    assert record.status == "failed"
    assert record.reason
    assert "DPN68" in process.stdout, "a failed case is not dropped from the table"


@pytest.mark.parametrize(
    "words",
    [
        ("--timeout", "1000h"),
        ("--timeout", "1e9"),
        ("--budget", "1e18"),
        ("--repetitions", "1", "--precision-target", "1e-300"),
        ("--memory-limit", "1e18"),
    ],
    ids=usage,
)
def test_values_beyond_all_measure_are_taken(run, words):
    process = run(*SIMULATED, *words)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    "assignment",
    ["median_us=nan", "median_us=inf", "median_us=-1", "sigma=1e6", "sigma=nan", "seed=inf", "seed=1.5", "drift=-1e9"],
)
def test_a_simulation_of_nonsense_is_a_result(run, here, assignment):
    """Never a traceback, and never a run without a record."""
    process = run(*SIMULATED, "--set", f"simulated.{assignment}")
    assert process.returncode in (0, 1)
    assert "Traceback" not in process.stderr
    (found,) = store.read_all(here / "results")
    assert [record.status for record in found.records] == [["ok"], ["failed"]][process.returncode]


@pytest.mark.runtime
def test_a_runtime_that_crashes_on_a_model_is_a_result(run, here, tmp_path):
    """Of reading it, before any case; the parent goes on, and the table says so."""
    (here / "net.onnx").write_bytes(tiny_onnx())
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif 'bench.worker' in sys.orig_argv:\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    process = run("--model", "net.onnx", *ON_ORT, PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    (found,) = store.read_all(here / "results")
    assert [(record.status, record.reason) for record in found.records] == [("failed", "the worker died of SIGSEGV")]


def test_a_run_without_standard_error_is_one(here, tmp_path):
    command = " ".join([*BENCH, "run", *SIMULATED]) + " 2>&-"
    process = subprocess.run(["sh", "-c", command], env=environ(tmp_path / "cache"), cwd=here, capture_output=True)
    assert process.returncode == 0
    (found,) = store.read_all(here / "results")
    assert len(found.records) == 1
    assert found.damaged == 0


def test_definitions_of_another_tool_need_a_backend_that_has_them(refused):
    message = refused("--model", "DPN68", "--semantics", "trtexec-10", "--backend", "simulated,openvino")
    what = "--semantics trtexec-10 is not for this plan"
    assert message == f"{what}; its backends are simulated, openvino; it is for --backend tensorrt"
