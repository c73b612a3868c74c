"""Killed, interrupted, resumed, run beside itself: what is finished is saved, and nothing is measured twice."""

import collections
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from functools import partial

import msgspec
import psutil
import pytest
from command import QUICK, bench, complaint, start, tiny_onnx

from bench import environment, session, store
from bench.plan import Request
from bench.progress import Quiet
from bench.schema import Settings

MODELS = ("DPN68", "DPN92")
REPETITIONS = 3
PLAN = ("run", *(word for model in MODELS for word in ("--model", model)), *QUICK, "--repetitions", str(REPETITIONS))
HANG = ("run", "--model", "DPN68", *QUICK, "--set", "simulated.fault=hang")
WHOLE = {(model, number): 1 for model in MODELS for number in range(REPETITIONS)}
PATIENCE_S = 60


class Place:
    """A cache and a results folder, and `bench` in them."""

    def __init__(self, folder):
        self.folder, self.cache, self.results = folder, folder / "cache", folder / "results"

    def bench(self, *words, **options):
        return bench(self.cache, *words, "--results", str(self.results), **options)

    def start(self, *words, **options):
        return start(self.cache, *words, "--results", str(self.results), **options)

    def runs(self):
        """Every run, the latest one last; all of them can be read."""
        return list(store.read_all(self.results))

    def workers(self):
        """Processes that live and are ours, the runner's own left out."""
        found = []
        for running in psutil.process_iter():
            try:
                if str(self.cache) in " ".join(running.cmdline()) and running.status() != psutil.STATUS_ZOMBIE:
                    found.append(running)
            except psutil.Error:
                continue
        return found

    def tidy(self):
        """Whether nothing lives, and nothing lies about."""
        return not self.workers() and {path.name for path in (self.cache / "tmp").iterdir()} <= {"gate"}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def eventually(happens):
    deadline = time.monotonic() + PATIENCE_S
    while not (result := happens()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    return result


def tally(run, status="ok"):
    """How often each repetition of each model is on record."""
    wanted = [record for record in run.records if record.status == status]
    return collections.Counter((record.case.model, record.repetition) for record in wanted)


def wait_for_step(process, number):
    """Returns once the run says that it begins its step of that number, from 1 on."""
    for line in process.stderr:
        number -= ", repetition " in line
        if not number:
            return
    raise AssertionError("it never came that far")


# Killed


def kill_at_random(place, count, seed):
    """Starts or resumes runs, kills each at a random moment, and looks at what it left behind."""
    chance = random.Random(seed)
    began = time.monotonic()
    assert place.bench(*PLAN).returncode == 0
    usual_s = time.monotonic() - began
    kills = resumed = 0
    while kills < count:
        runs = place.runs()
        incomplete = bool(runs) and tally(runs[-1]) != WHOLE
        before = tally(runs[-1]) if incomplete else collections.Counter()
        process = place.start(*(("run", "--resume") if incomplete else PLAN))
        time.sleep(chance.uniform(0, usual_s))
        process.kill()
        _, said = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        resumed += incomplete
        assert "Traceback" not in said, said
        finished = max(0, said.count(", repetition ") - 1)
        began_one = len(place.runs()) > len(runs)
        after = tally(place.runs()[-1]) if incomplete or began_one else collections.Counter()
        assert sum((after - before).values()) >= finished, "a finished repetition is lost"
        assert not before - after, "a repetition that was saved is lost"
        assert max(after.values(), default=1) == 1, "a repetition was measured twice"
    if tally(place.runs()[-1]) != WHOLE:
        last = place.bench("run", "--resume")
        assert last.returncode == 0, last.stderr
    for run in place.runs():
        assert max(tally(run).values(), default=1) == 1
    assert tally(place.runs()[-1]) == WHOLE
    eventually(lambda: not place.workers())
    assert place.bench("run", "--resume").returncode == 0
    assert place.tidy()
    return resumed


def test_killed_at_random_moments(place):
    assert kill_at_random(place, count=12, seed=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_fifty_random_moments(place):
    assert kill_at_random(place, count=50, seed=None) > 10


STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "subprocess.Popen", "fcntl.flock", "shutil.rmtree"}


def die_before(step, place, work):
    """Forks; the child does `work` and kills itself before its step of that number: a file opened, renamed, locked…

    Returns whether it came that far.
    """
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    left = [step]

    def count(event, arguments):
        if event in STEPS and (str(arguments[0]).startswith(str(place.folder)) or event == "fcntl.flock"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    synced = os.fsync
    os.fsync = lambda descriptor: (count("open", [place.folder]), synced(descriptor), count("open", [place.folder]))
    sys.addaudithook(count)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def test_killed_between_any_two_steps(tmp_path, monkeypatch):
    """Where random moments seldom fall: before each file that the runner opens, locks, syncs, renames or removes."""
    settings = Settings(warmup=1, iterations=5, repetitions=1)
    request = Request(models=("DPN68",), backends=("simulated",), batch_sizes=(1,), settings=settings)
    step, alive = 0, False
    while not alive:
        place = Place(tmp_path / str(step))
        monkeypatch.setenv("BENCH_CACHE", str(place.cache))
        alive = not die_before(step, place, partial(session.start, request, place.results, (), Quiet()))
        runs = place.runs()
        assert sum(run.damaged for run in runs) == 0
        if runs:
            session.resume(session.find_run(place.results, "latest"), (), Quiet())
        else:
            session.start(request, place.results, (), Quiet())
        (run,) = place.runs()
        assert tally(run) == {("DPN68", 0): 1}, step
        assert place.tidy(), step
        step += 1
    assert 30 < step < 100


# Interrupted


def interrupt(process):
    """Ctrl-C at a terminal: the signal is to the runner and all that share its session."""
    os.killpg(process.pid, signal.SIGINT)
    printed, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert printed == ""
    assert "Traceback" not in said
    *_, last = said.splitlines()
    assert last == "bench: interrupted; finished repetitions are saved; go on with: bench run --resume"


def test_ctrl_c_ends_a_worker_that_hangs(place):
    with place.start(*HANG, start_new_session=True) as process:
        eventually(lambda: "hanging" in "".join(log.read_text() for log in place.cache.glob("tmp/job-*/log")))
        interrupt(process)
    assert place.tidy()
    (run,) = place.runs()
    assert run.records == ()
    assert len(run.headers) == 1


def test_ctrl_c_saves_what_is_finished(place):
    with place.start(*PLAN, start_new_session=True) as process:
        wait_for_step(process, 4)
        interrupt(process)
    (run,) = place.runs()
    assert sum(tally(run).values()) >= 3
    assert len(run.records) == sum(tally(run).values()), "an interruption is no failure"
    assert eventually(place.tidy)
    assert place.bench("run", "--resume").returncode == 0
    assert tally(place.runs()[0]) == WHOLE


# Resumed


@pytest.fixture
def finished(place):
    process = place.bench(*PLAN)
    assert process.returncode == 0, process.stderr
    return place


def test_a_finished_run_measures_nothing(finished):
    (before,) = finished.runs()
    again = finished.bench("run", "--resume")
    assert again.returncode == 0, again.stderr
    assert re.fullmatch(r"bench: nothing was left to do; records: .*\.jsonl\n", again.stderr)
    (after,) = finished.runs()
    assert after.records == before.records
    assert len(after.headers) == 2
    assert after.run_id == before.run_id


def test_only_what_is_lost_is_measured_again(finished):
    """A torn record, and one that somebody took out."""
    (run,) = finished.runs()
    lines = run.path.read_bytes().splitlines(keepends=True)
    del lines[2]
    run.path.write_bytes(b"".join(lines)[:-7])
    again = finished.bench("run", "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(", repetition ") == 2
    (run,) = finished.runs()
    assert run.damaged == 1
    assert sum(tally(run).values()) == len(WHOLE)


def test_the_command_of_each_session_is_on_record(finished):
    finished.bench("run", "--resume")
    (run,) = finished.runs()
    first, second = (header.command for header in run.headers)
    assert first[:3] == ("bench", "run", "--model")
    assert second[:3] == ("bench", "run", "--resume")


def test_what_failed_is_tried_again(place, tmp_path):
    """The fault is of the environment, so that it can go away."""
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(
        "import os, sys\nif 'bench.worker' in sys.orig_argv:\n    os._exit(9)\n"
    )
    failed = place.bench(*PLAN, PYTHONPATH=str(tmp_path / "fault"))
    assert failed.returncode == 1
    (run,) = place.runs()
    assert tally(run, "failed") == {(model, 0): 1 for model in MODELS}, "a failed case is not repeated"
    assert {record.reason for record in run.records} == {"the worker exited with code 9 and no answer"}
    again = place.bench("run", "--resume")
    assert again.returncode == 0, again.stderr
    (run,) = place.runs()
    assert tally(run) == WHOLE
    assert {record.status for record in store.latest(run.records)} == {"ok"}


def test_what_fails_still_is_said_again(place):
    command = ("run", "--model", "DPN68", *QUICK, "--set", "simulated.fault=exit3")
    assert [place.bench(*command).returncode, place.bench("run", "--resume").returncode] == [1, 1]
    (run,) = place.runs()
    assert tally(run, "failed") == {("DPN68", 0): 2}


def test_a_run_that_goes_on_is_not_resumed(place):
    with place.start(*HANG) as process:
        wait_for_step(process, 1)
        message = complaint(place.bench("run", "--resume"), 2)
        assert re.fullmatch(r"run [0-9a-f]{8} is still going; .*\.jsonl; wait for it, or stop it", message)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    (run,) = place.runs()
    assert len(run.headers) == 1
    assert place.tidy()


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "DPN92"),
        ("--family", "DPN"),
        ("--device", "cpu"),
        ("--backend", "paddle"),
        ("--precision", "fp32"),
        ("--batch-size", "1"),
        ("--threads", "1"),
        ("--budget", "20s"),
        ("--repetitions", "3"),
        ("--set", "simulated.fault=none"),
        ("--weights", "random"),
        ("--memory-limit", "1GiB"),
        ("--dry-run",),
    ],
    ids=lambda words: words[0],
)
def test_a_resumed_run_takes_no_other_plan(tmp_path, words):
    """Refused before it looks for a run: there is none here."""
    message = complaint(bench(tmp_path, "run", "--resume", *words), 2)
    assert message.startswith("--resume goes on with the run as it was asked for; also given: --")
    assert message.endswith("leave them out, or start a new run without --resume")


# Which run


@pytest.fixture
def three(place):
    """Three runs, finished; all but the identifiers and times are the same."""
    settings = Settings(warmup=1, iterations=5, repetitions=1)
    request = Request(models=("DPN68",), backends=("simulated",), batch_sizes=(1,), settings=settings)
    description = environment.describe()
    for number, run_id in enumerate(["aa00", "ab00", "b000"]):
        header = session.header_for(request, description, (), run_id)
        header = msgspec.structs.replace(header, started_at=f"2026-11-2{number}T00:00:00.000000Z")
        store.RunFile.create(place.results / "cpu", header).close()
    return place


@pytest.mark.parametrize(
    ("run_id", "found"), [("latest", "b000"), ("aa00", "aa00"), ("b", "b000"), ("20261121T000000Z-ab00", "ab00")]
)
def test_a_run_is_found_by_its_id(three, run_id, found):
    assert session.find_run(three.results, run_id).run_id == found


def test_a_run_that_is_named_is_resumed(three):
    again = three.bench("run", "--resume", "aa")
    assert again.returncode == 0, again.stderr
    assert [len(run.records) for run in three.runs()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("run_id", "message"),
    [
        ("a", r"2 runs in .* are called a; 20261120T000000Z-aa00, 20261121T000000Z-ab00; give more of the ID"),
        ("c", r"no run to resume in .*; none is c; see: bench list results"),
        ("2026", r"no run to resume in .*; none is 2026; see: bench list results"),
    ],
)
def test_a_run_that_is_not_found_is_said(three, run_id, message):
    assert re.fullmatch(message, complaint(three.bench("run", "--resume", run_id), 2))


def test_nothing_to_resume_is_said(place):
    assert "there is none" in complaint(place.bench("run", "--resume"), 2)
    assert not place.results.exists()


def test_the_latest_run_is_not_hidden_by_what_never_began(three):
    (three.results / "cpu" / "20261130T000000Z-dead.jsonl").touch()
    (three.results / "cpu" / "20261130T000000Z-beef.jsonl").write_text('{"kind":"hea')
    assert session.find_run(three.results, "latest").run_id == "b000"


def test_the_latest_run_is_told_by_its_start_not_by_its_name(three):
    (_, _, last) = three.runs()
    last.path.rename(three.results / "cpu" / "0.jsonl")
    assert session.find_run(three.results, "latest").run_id == "b000"


def change_header(run, **changes):
    first, *rest = run.path.read_text().splitlines()
    run.path.write_text("\n".join([json.dumps({**json.loads(first), **changes}), *rest]) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": {}}, "run b000 was started on another machine; class .*, this one is .*; start a new run"),
        ({"request": {"models": 3}}, "cannot go on with run b000; in the request of its header: .*; start a new run"),
        ({"request": {"colour": "red"}}, "cannot go on with run b000; .*colour.*; start a new run"),
        ({"request": {"models": ["DPN69"]}}, "no model 'DPN69'; closest: .*DPN68.*"),
        ({"request": {}}, "no model was named; .*"),
        ({"schema": 99}, r".*b000\.jsonl:1 was written by a newer bench; schema 99, this bench reads up to 1; .*"),
    ],
    ids=["machine", "type", "field", "model", "empty", "newer"],
)
def test_a_run_that_cannot_go_on_is_said(three, changes, message):
    last = three.runs()[-1]
    change_header(last, **changes)
    before = last.path.read_bytes()
    assert re.fullmatch(message, complaint(three.bench("run", "--resume", "b"), 2))
    assert last.path.read_bytes() == before


def test_a_copy_of_several_runs_goes_on_with_its_first(three):
    merged = three.results / "merged.jsonl"
    merged.write_bytes(b"".join(run.path.read_bytes() for run in three.runs()))
    again = three.bench("run", "--resume", "merged")
    assert again.returncode == 0, again.stderr
    assert [record.run_id for record in store.read(merged).records] == ["aa00"]


# Beside itself


def test_two_runs_at_once_do_not_meet(place):
    processes = [place.start(*PLAN) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    one, other = place.runs()
    assert one.run_id != other.run_id
    assert tally(one) == tally(other) == WHOLE
    assert place.tidy()


def test_a_new_run_does_not_disturb_one_that_goes_on(place):
    with place.start(*HANG) as process:
        wait_for_step(process, 1)
        (worker,) = eventually(lambda: [found for found in place.workers() if found.pid != process.pid])
        assert place.bench(*PLAN).returncode == 0
        assert worker.is_running()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert place.tidy()


# A user's own file, changed meanwhile


@pytest.mark.runtime
def test_a_file_that_was_replaced_is_another_model(place, tmp_path):
    model = tmp_path / "net.onnx"
    model.write_bytes(tiny_onnx(seed=0))
    command = ("run", "--model", str(model), "--backend", "onnxruntime", "--batch-size", "1", "--warmup", "1")
    with place.start(*command, "--iterations", "5", "--repetitions", "4") as process:
        wait_for_step(process, 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    model.write_bytes(tiny_onnx(seed=1))
    message = complaint(place.bench("run", "--resume", "--quiet"), 2)
    assert message.startswith("net is not the model that run ")
    model.write_bytes(tiny_onnx(seed=0))
    again = place.bench("run", "--resume")
    assert again.returncode == 0, again.stderr
    assert tally(place.runs()[0]) == {("net", number): 1 for number in range(4)}
    model.unlink()
    assert "no model file" in complaint(place.bench("run", "--resume"), 2)
