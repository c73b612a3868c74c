"""Whole commands with real workers on a machine that poses as one with GPUs: files, exit codes and what is said."""

import json
import re
import resource
import signal
import time
import zipfile
from pathlib import Path

import pytest
from command import complaint, tiny_onnx
from posed_gpu import COPY_NS, SLACK_NS, SPAN_NS, T4, V100, WAKING_NS, PosedMachine, reasons, samples

from bench import artifacts, store

pytestmark = pytest.mark.runtime

CASE = ("--model", "./net.onnx", "--backend", "tensorrt", "--precision", "fp32", "--batch-size", "1")
QUICK = ("--warmup", "2", "--iterations", "10", "--repetitions", "1")
RUN = ("run", *CASE, *QUICK, "--set", "tensorrt.build=1", "--quiet")
#: long enough for NVML to be read several times meanwhile
WATCHED = (*RUN, "--iterations", "150")
ON_T4 = ("--device", "t4")
ALL = ("compute", "end_to_end", "device")
OTHER_T4 = {**T4, "uuid": "GPU-cccc3333-0000-4000-8000-000000000003", "bus": "00000000:00:20.0"}
OTHER_V100 = {**V100, "name": "Tesla V100-PCIE-32GB", "uuid": "GPU-dddd4444-0000-4000-8000-000000000004"}
PATIENCE_S = 60


# A run, and what is made of it


@pytest.fixture(scope="module")
def ran(tmp_path_factory, engines):
    """A machine on which two cases were measured three times each."""
    machine = PosedMachine(tmp_path_factory.mktemp("ran"), engines)
    (machine.folder / "net.onnx").write_bytes(tiny_onnx())
    intervals = ("--interval", ",".join(ALL))
    words = ("run", *CASE[:-1], "1,4", *QUICK, "--iterations", "40", "--repetitions", "3", *intervals, *ON_T4)
    machine.finished = machine.bench(*words)
    assert machine.finished.returncode == 0, machine.finished.stderr
    return machine


def test_each_case_is_measured_with_three_builds_in_turn(ran):
    assert ran.finished.stderr.splitlines()[-1].startswith("bench: 2 ok; records: results/t4/")
    found = {(record.case.batch_size, record.repetition): record for record in ran.records()}
    assert {record.status for record in found.values()} == {"ok"}
    builds = {key: record.requested["build"] for key, record in found.items()}
    assert builds == {(batch, number): str(number + 1) for batch in (1, 4) for number in range(3)}
    assert ran.builds() == 6
    assert len({record.artifact.path for record in found.values()}) == 6
    assert all(record.measurement.build_ns > 0 for record in found.values())


def test_the_intervals_hold_the_time_that_the_gpu_took(ran):
    """An image takes 2 ms, four take 5."""
    for record in ran.records():
        inference_ns = SPAN_NS * (1 + record.case.batch_size) // 2
        taken = {interval: samples(record, interval) for interval in ALL}
        for interval, more_ns in (("device", 0), ("compute", WAKING_NS), ("end_to_end", WAKING_NS + 2 * COPY_NS)):
            assert len(taken[interval]) == 40
            assert inference_ns + more_ns <= min(taken[interval]) < inference_ns + more_ns + SLACK_NS
        shortest = [min(taken[interval]) for interval in ("device", "compute", "end_to_end")]
        assert shortest == sorted(shortest)


def test_a_record_tells_what_the_engine_is(ran):
    record = ran.records()[0]
    told = {
        name: record.effective[name] for name in ("gpu", "capability", "driver_cuda", "typing", "tf32", "precision")
    }
    assert told == {
        "gpu": "Tesla T4",
        "capability": "7.5",
        "driver_cuda": "12.4",
        "typing": "weak",
        "tf32": False,
        "precision": "fp32",
    }
    assert record.parity.reference.startswith("onnxruntime ")
    assert record.parity.max_error < 1e-6
    assert record.artifact.made_by["runtime"] == "10.16.1.11"
    entry = ran.cache / Path(record.artifact.path).parent
    assert {path.name for path in entry.iterdir()} == {"artifact.json", "model.plan", "model.json"}
    assert artifacts.Cache(ran.cache)._read(entry).sha256 == record.artifact.sha256


def test_the_gpu_was_watched_while_it_was_timed(ran):
    """At rest it has 300 MHz, and our own worker is no stranger."""
    for record in ran.records():
        seen = record.telemetry["gpu"]
        assert seen["samples"] > 0
        assert (seen["sm_clock"], seen["sm_clock_mhz_median"], seen["sm_clock_mhz_before"]) == ("constant", 1590, 300)
        assert (seen["facts"]["ecc"], seen["facts"]["power_limit_mw"], seen["facts"]["vbios"]) == (
            *(1, 70_000),
            "90.04.38.00.03",
        )
        assert (seen["pcie_generation"], seen["facts"]["max_pcie_generation"], seen["neighbours"]) == (3, 3, 0)
        assert reasons(record) == {}


def test_a_second_run_builds_nothing(ran, pose):
    machine = pose()
    (record,) = machine.measured(*RUN, *ON_T4)
    assert machine.builds() == 0
    assert record.artifact in [each.artifact for each in ran.records()]


def test_no_file_tells_which_gpu_of_the_world_it_was(ran):
    for file in ran.results.rglob("*.jsonl"):
        assert T4["uuid"] not in file.read_text()
        assert T4["bus"] not in file.read_text()


def test_reports_show_the_three_intervals(ran):
    told = json.loads(ran.bench("report", *ON_T4, "--format", "json").stdout)
    rows = [row for row in told if row["batch_size"] == 4]
    assert [(row["interval"], row["status"], row["repetitions"]) for row in rows] == [(name, "ok", 3) for name in ALL]
    assert all(row["latency_ms"] >= 5 and row["build_ms"] > 0 for row in rows)
    page = ran.bench("report", *ON_T4, "--format", "markdown").stdout
    assert re.search(r"^\| net \| tensorrt \| 4 \| 1 \| device \| \d+\.\d+ ", page, re.MULTILINE)


def test_results_are_listed(ran):
    runs = json.loads(ran.bench("list", "results", "--format", "json").stdout)
    assert [{name: run[name] for name in ("cases", "ok", "failed", "repetitions")} for run in runs] == [
        {"cases": 2, "ok": 2, "failed": 0, "repetitions": 6}
    ]


def test_it_serves_as_a_baseline(ran):
    saved = ran.bench("baseline", "save", "--output", "base.json")
    assert saved.returncode == 0, saved.stderr
    judged = ran.bench("check", "--baseline", "base.json", "--format", "json")
    assert judged.returncode == 4, judged.stderr  # three processes are too few for a verdict


@pytest.mark.parametrize(("generation", "version"), [("8.6", "8.6.1"), ("10.16", "10.16.1.11")])
def test_the_doctor_finds_the_gpu_and_tensorrt(pose, generation, version):
    told = pose(generation=generation).bench("doctor", *ON_T4)
    assert told.returncode == 0, told.stderr
    wanted = {"device t4: yes", f"0: Tesla T4 ({T4['uuid']})", f"backend tensorrt: yes, version {version}"}
    assert wanted <= set(told.stdout.splitlines())


def test_the_doctor_says_which_device_a_gpu_is(pose):
    a10 = {**T4, "name": "NVIDIA A10", "capability": [8, 6], "uuid": "GPU-a10", "bus": "00000000:AF:00.0"}
    lines = pose(gpus=[T4, a10]).bench("doctor").stdout.splitlines()
    assert f"GPU 0: Tesla T4 ({T4['uuid']}): measure it with --device t4" in lines
    (other,) = [line for line in lines if line.startswith("GPU 1: NVIDIA A10 (GPU-a10): no device is of that name; ")]
    assert 'capability = "8.6"' in other
    assert other.endswith("then type: bench doctor --device NAME")


def test_what_is_packed_names_neither_this_gpu_nor_its_owner(ran, tmp_path):
    ran.install("nvidia-smi", f"Serial Number : 1320620041234\nGPU UUID : {T4['uuid']}\nProduct Name : Tesla T4")
    home = str(ran.folder.parent)
    packed = ran.bench("doctor", *ON_T4, "--pack", "x.zip", HOME=home)
    assert packed.returncode == 0, packed.stderr
    with zipfile.ZipFile(ran.folder / "x.zip") as whole:
        texts = {name: whole.read(name).decode() for name in whole.namelist()}
    assert "Product Name : Tesla T4" in texts["nvidia-smi.txt"]
    assert any(name.startswith("results/") for name in texts)
    assert "tensorrt-cu12==10.16.1.11" in texts["packages.txt"]
    for text in texts.values():
        assert not any(word in text for word in (T4["uuid"], "1320620041234", home))


def test_a_run_killed_while_the_gpu_worked_is_gone_on_with(pose):
    machine = pose()
    words = ("run", *CASE, *QUICK, "--iterations", "100", "--repetitions", "3", *ON_T4)
    with machine.start(*words) as process:
        for line in process.stderr:
            if "repetition 2" in line:
                break
        eventually(lambda: len(machine.workers()) == 1)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not machine.workers())
    assert [record.repetition for record in machine.records()] == [0]
    built = machine.builds()
    again = machine.bench("run", "--resume", "--quiet")
    assert again.returncode == 0, again.stderr
    (run,) = store.read_all(machine.results)
    assert sorted((record.repetition, record.requested["build"]) for record in run.records) == [
        (0, "1"),
        (1, "2"),
        (2, "3"),
    ]
    assert machine.builds() == built


def eventually(happens):
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("traits", "found"),
    [
        ({"driver": "555.42.06"}, "GPU driver 550.163.01 then, 555.42.06 now"),
        ({"generation": "10.4"}, "tensorrt-cu12 10.16.1.11 then, 10.4.0 now, GPU driver .*"),
        ({"gpus": [OTHER_T4, T4]}, "GPU index 0 then, 1 now"),
    ],
    ids=["driver", "tensorrt", "gpu"],
)
def test_what_was_begun_elsewhere_is_not_gone_on_with(ran, pose, traits, found):
    machine = pose(**traits)
    refused = machine.bench("run", "--resume", "--results", str(ran.results), "--gpu", T4["uuid"])
    message = r"run \w+ was started with other packages; " + found + "; start a new run"
    assert re.fullmatch(message, complaint(refused, 2))


# The generations


@pytest.mark.parametrize(("generation", "cuda"), [("8.6", "12.2"), ("10.16", "12.4")])
def test_weakly_typed_a_generation_may_choose_fp16(pose, generation, cuda):
    words = (*RUN, "--precision", "fp16", "--interval", ",".join(ALL), *ON_T4)
    found = {record.case.precision: record for record in pose(generation=generation).measured(*words)}
    assert {precision: record.status for precision, record in found.items()} == {"fp32": "ok", "fp16": "ok"}
    for precision, record in found.items():
        told = (record.effective["precision"], record.effective["typing"], record.effective["driver_cuda"])
        assert told == (precision, "weak", cuda)
    assert found["fp32"].parity.max_error < 1e-6 < found["fp16"].parity.max_error < 2e-2


def test_strongly_typed_fp16_is_the_models(pose):
    found = {
        record.case.precision: record
        for record in pose(generation="11.4").measured(*RUN, "--precision", "fp16", *ON_T4)
    }
    assert (found["fp32"].status, found["fp32"].effective["typing"]) == ("ok", "strong")
    assert found["fp16"].status == "unsupported"
    assert re.fullmatch(
        r"strongly typed, TensorRT 11\.4\S* takes fp16 from the model alone; net\.onnx has none of it; make .*",
        found["fp16"].reason,
    )


# What goes wrong

OOM = "IExecutionContext::createExecutionContext: Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)"


@pytest.mark.parametrize(
    ("traits", "build", "reason"),
    [
        ({"says": {"build_serialized_network": [None, OOM]}}, 9, r"out of memory on the GPU; .*"),
        ({"says": {"create_execution_context": [None, OOM]}}, 1, r"out of memory on the GPU; .*"),
        ({"errors": {"cudaMalloc": 2}}, 1, r"out of memory on the GPU; cudaErrorMemoryAllocation \(2\); .*"),
        ({"breaks": {"40": 700}}, 1, r"the GPU broke off its work: cudaErrorIllegalAddress \(700\), .*"),
        ({"forgets": 0}, 1, r"output differs from onnxruntime .*"),
    ],
    ids=["memory at the build", "memory for a context", "memory", "sticky error", "never waits"],
)
def test_what_breaks_is_a_failure_with_its_reason(pose, traits, build, reason):
    machine = pose(**traits)
    (record,) = machine.measured(*RUN, "--set", f"tensorrt.build={build}", *ON_T4, code=1)
    assert (record.status, record.measurement) == ("failed", None)
    assert re.fullmatch(reason, record.reason)


def test_what_hangs_is_ended(pose):
    (record,) = pose(breaks={"40": "hang"}).measured(*RUN, "--timeout", "2s", *ON_T4, code=1)
    assert (record.status, record.reason) == ("failed", "no answer within 2 s")


def test_libraries_that_are_not_there_are_said(pose):
    missing = "libnvinfer.so.10: cannot open shared object file: No such file or directory"
    (record,) = pose(broken={"tensorrt": missing}).measured(*RUN, *ON_T4, code=3)
    assert record.status == "unavailable"
    assert record.reason.startswith(f"tensorrt does not load; {missing}; mend it with: pip install ")


@pytest.mark.parametrize(
    ("error", "name"), [(46, "cudaErrorDevicesUnavailable"), (999, "cudaErrorUnknown")], ids=["46", "999"]
)
def test_a_lost_gpu_ends_what_needs_it(pose, error, name):
    machine = pose(breaks={"40": error})
    first, second = machine.measured(*RUN, "--batch-size", "4", *ON_T4, code=1)
    assert (first.status, second.status) == ("failed", "unavailable")
    assert first.reason.startswith(f"the GPU was lost; {name} ({error}), ")
    assert first.reason.count("the GPU was lost") == 1
    assert second.reason.startswith("no GPU that CUDA can use; ")
    assert "GpuIsLost: GPU is lost" in complaint(machine.bench(*RUN, *ON_T4), 3)


def test_waiting_that_stops_to_wait_is_found_out(pose):
    """The clock of the host then shows nothing of the work; that of the GPU, which is asked in time, nothing at all."""
    machine = pose(forgets=60)
    (record,) = machine.measured(*RUN, "--iterations", "100", *ON_T4)
    assert min(samples(record, "compute")) < SPAN_NS
    assert reasons(record)["unsynchronised"] == "the GPU still computed after cudaStreamSynchronize had returned"
    assert "unsynchronised" in machine.bench("report", *ON_T4).stdout
    (record,) = machine.measured(*RUN, "--iterations", "100", "--interval", "device", *ON_T4, code=1)
    assert record.reason == "CUDA's events tell no time of the inference; 0 ns, finished: False"


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        ({}, {}),
        (
            {
                "busy": {
                    "nvmlDeviceGetCurrentClocksEventReasons": 0x40,
                    "nvmlDeviceGetClockInfo": {"cycle": [1590, 1200]},
                }
            },
            {
                "throttled": r"the GPU slowed down for HwThermalSlowdown in (\d+) of \1 samples",
                "drifting": r"the SM clock moved between 1200 and 1590 MHz, \d+\.\d% \(limit 3%\).*",
            },
        ),
        (
            {"busy": {"nvmlDeviceGetCurrentClocksEventReasons": 0x4}},
            {"power_capped": r"the power limit held the clocks in (\d+) of \1 samples"},
        ),
        (
            {"nvml": {"nvmlDeviceGetPowerManagementLimit": 60_000}},
            {"misconfigured": r"the power limit is 60 W, by default 70 W"},
        ),
        ({"pid_offset": 1_000_000}, {}),
        (
            {"pid_offset": 1_000_000, "strangers": [4242]},
            {"contended": r".*other processes were on the GPU: 4242.*"},
        ),
        (
            {"busy": {"nvmlDeviceGetPowerUsage": {"hang_s": 3600}}},
            {"unwatched": r"NVML did not answer within 2 s"},
        ),
        ({"strangers": [4242]}, {"contended": r".*other processes were on the GPU: 4242.*"}),
        (
            {
                "busy": {
                    name: {"error": "Unknown"}
                    for name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons")
                }
            },
            {"unwatched": r"nothing is known of the GPU's clocks while it was timed: Unknown: Unknown Error"},
        ),
    ],
    ids=[
        "in order",
        "heat",
        "power limit reached",
        "power limit set",
        "container",
        "shared container",
        "NVML hangs",
        "shared",
        "unwatched",
    ],
)
def test_a_gpu_in_disorder_is_a_reason_for_distrust(pose, traits, expected):
    (record,) = pose(**traits).measured(*WATCHED, *ON_T4)
    found = reasons(record)
    assert record.status == "ok"
    assert found.keys() == expected.keys()
    assert all(re.fullmatch(expected[reason], evidence) for reason, evidence in found.items()), found


def test_a_precision_that_the_builder_did_not_take_is_found_out(pose):
    layers = [{"LayerType": "CaskConvolution", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]}]
    machine = pose(says={"get_engine_information": [json.dumps({"Layers": layers}), ""]})
    found = {record.case.precision: record for record in machine.measured(*RUN, "--precision", "fp16", *ON_T4)}
    assert reasons(found["fp16"])["misconfigured"] == "precision: fp16 asked, fp32 in effect"
    assert "misconfigured" not in reasons(found["fp32"])


# Builds


def test_builds_that_differ_show_in_the_answer(pose, tmp_path):
    machine = pose(cache=tmp_path / "cache", span_ns=[2_000_000, 2_200_000, 2_100_000])
    found = machine.measured("run", *CASE, *QUICK, "--repetitions", "3", "--interval", "device", *ON_T4)
    least = {record.requested["build"]: min(samples(record, "device")) for record in found}
    assert [round(least[build] / 1e6, 1) for build in ("1", "2", "3")] == [2.0, 2.2, 2.1]
    (row,) = json.loads(machine.bench("report", *ON_T4, "--format", "json").stdout)
    assert row["ci_high_ms"] - row["ci_low_ms"] > 0.15


def other_version(entry):
    """The facts say another TensorRT."""
    change(entry / "model.json", tensorrt="10.4.0")


def other_plan(entry):
    """TensorRT itself finds out."""
    plan = json.loads((entry / "model.plan").read_bytes())
    rewrite(entry, json.dumps({**plan, "version": "10.4.0"}).encode())


def cut_off(entry):
    rewrite(entry, (entry / "model.plan").read_bytes()[:-100])


def rewrite(entry, plan):
    (entry / "model.plan").write_bytes(plan)
    change(entry / "model.json", plan_sha256=artifacts.file_sha256(entry / "model.plan"))


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "sealed", "said"),
    [
        (cut_off, False, None),
        (other_version, True, "model.plan was built for TensorRT 10.4.0; here it is 10.16.1.11\n"),
        (other_plan, True, "model.plan: the engine is of another TensorRT "),
        (cut_off, True, "model.plan: the file is cut off; "),
    ],
    ids=["as found", "other facts", "other TensorRT", "cut off"],
)
def test_a_stale_engine_is_made_again(ran, pose, damage, sealed, said):
    """The cache knows an entry that isn't what was sealed, and TensorRT or the facts one that was made elsewhere."""
    machine = pose()
    made = next(record for record in ran.records() if record.requested["build"] == "1")
    entry = machine.cache / Path(made.artifact.path).parent
    good = (entry / "model.plan").read_bytes()
    damage(entry)
    if sealed:
        change(entry / "artifact.json", sha256=artifacts._sealed(entry, artifacts._contents(entry)))
    again = machine.bench(*RUN[:-1], *ON_T4)
    assert again.returncode == 0, again.stderr
    assert "Traceback" not in again.stderr
    assert ("the engine is made again" in again.stderr) == sealed
    assert not said or f"the engine is made again, since {said}" in again.stderr
    (record,) = machine.records()
    assert (record.status, record.artifact.path) == ("ok", made.artifact.path)
    assert machine.builds() == 1
    assert (entry / "model.plan").read_bytes() == good


def test_another_tensorrt_has_engines_of_its_own(pose, tmp_path):
    machine = pose(cache=tmp_path / "cache")
    (first,) = machine.measured(*RUN, *ON_T4)
    machine.become(generation="10.4")
    (second,) = machine.measured(*RUN, *ON_T4)
    assert machine.builds() == 2
    assert [record.artifact.made_by["runtime"] for record in (first, second)] == ["10.16.1.11", "10.4.0"]


def test_two_runs_at_once_share_a_build(pose, tmp_path):
    machine = pose(cache=tmp_path / "cache", build_s=0.3)
    processes = [machine.start(*RUN, *ON_T4) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    one, other = (run.records for run in store.read_all(machine.results))
    assert machine.builds() == 1
    assert {record.status for record in (*one, *other)} == {"ok"}
    assert one[0].artifact == other[0].artifact


# Which GPU, and whether it will do


def test_a_v100_and_tensorrt_11_are_refused_at_once(pose):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    machine = pose(generation="11.4", gpus=[V100])
    (record,) = machine.measured(*RUN, "--device", "v100", code=3)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert record.status == "unavailable"
    assert re.fullmatch(
        r"Tesla V100-SXM2-16GB has compute capability 7\.0; TensorRT 11\.4\S* supports 7\.5 and newer; "
        r"install tensorrt\S*==10\.4\.0 or .*==8\.6\.1",
        record.reason,
    )
    assert machine.builds() == 0


@pytest.mark.parametrize(
    ("traits", "variables", "code", "message"),
    [
        ({"gpus": [{**T4, "mig": True}]}, {}, 3, r"MIG is enabled on 0: Tesla T4 .* -mig 0"),
        ({"gpus": []}, {}, 3, r"looked for a GPU named like NVIDIA Tesla T4 for device t4; found none; .*--device cpu"),
        ({"gpus": [V100]}, {}, 3, r"looked for a GPU .* found 0: Tesla V100-SXM2-16GB .*"),
        ({"gpus": [T4, OTHER_T4]}, {}, 2, r"several GPUs, and none was named; 0: Tesla T4 .*, 1: Tesla T4 .*"),
        ({"gpus": [T4, OTHER_T4]}, {"BENCH_GPU": "tesla"}, 2, r"'tesla' means several GPUs; .*"),
        ({"gpus": [T4, OTHER_T4]}, {"BENCH_GPU": "7"}, 3, r"no GPU '7'; there are 0: Tesla T4 .*"),
        ({"nvml": {"nvmlInit": {"error": "LibraryNotFound"}}}, {}, 3, r".*--device cpu"),
    ],
    ids=["MIG", "no GPU", "another GPU", "several", "several of a name", "no such", "no driver"],
)
def test_a_gpu_that_will_not_do_is_one_line(pose, traits, variables, code, message):
    machine = pose(**traits)
    assert re.fullmatch(message, complaint(machine.bench(*RUN, *ON_T4, **variables), code))
    assert not machine.results.exists()


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("--gpu", "1"), {}),
        (("--gpu", OTHER_V100["uuid"][:10]), {}),
        (("--gpu", "pcie"), {}),
        ((), {"CUDA_VISIBLE_DEVICES": "1"}),
    ],
    ids=["index", "uuid", "name", "scheduler"],
)
def test_the_gpu_that_was_named_is_measured_and_watched(pose, words, variables):
    """The other one idles at 300 MHz."""
    machine = pose(generation="10.4", gpus=[V100, OTHER_V100])
    (record,) = machine.measured(*WATCHED, "--device", "v100", *words, **variables)
    assert record.effective["gpu"] == OTHER_V100["name"]
    assert record.artifact.made_by["gpu"] == OTHER_V100["name"]
    assert record.telemetry["gpu"]["sm_clock_mhz_median"] == 1590
    assert reasons(record) == {}
    (file,) = machine.results.rglob("*.jsonl")
    assert OTHER_V100["uuid"][:10] not in file.read_text()
