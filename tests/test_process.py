"""Whatever a worker does, one answer comes of it, and nothing of the worker stays."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import psutil
import pytest
from command import little_room

from bench import backends, catalog, process
from bench.jobs import Measure, Measured, Order, Problem
from bench.schema import Case, Settings

MARK = "BENCH_TEST_WORKER"
PATIENCE_S = 60


def order(fault="none", iterations=3, memory_limit_bytes=None, **options):
    """One repetition with the simulated backend."""
    backend = backends.get("simulated")
    setup = backends.Setup(
        case=Case("Net", "simulated", "cpu", "fp32", 1, 1),
        device=catalog.profile("cpu"),
        options=backends.settle(backend, {"fault": fault, **options}),
        input_shape=(3, 8, 8),
    )
    settings = Settings(warmup=1, iterations=iterations)
    return Order(Measure(setup, settings, engine="", reference=""), memory_limit_bytes=memory_limit_bytes)


def marked(mark):
    """Living processes that were started with our mark, their children and children's children included."""
    found = []
    for running in psutil.process_iter():
        try:
            if running.environ().get(MARK) == mark and running.status() != psutil.STATUS_ZOMBIE:
                found.append(running)
        except psutil.Error:
            continue
    return [running for running in found if running.pid != os.getpid()]


def eventually(happens):
    """Waits until `happens()` is true, and returns what it is."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := happens()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    return result


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a core would be dumped
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def mark(request, scratch):
    return f"{request.node.name} {scratch}"


@pytest.fixture
def ask(scratch, mark):
    """Asks a worker, and sees to it that nothing stays of it."""

    def asked(order, timeout_s=PATIENCE_S, **environ):
        answer = process.ask(order, {MARK: mark, **environ}, timeout_s, scratch)
        assert eventually(lambda: not marked(mark))
        assert jobs(scratch) == []
        return answer

    return asked


def jobs(scratch):
    return list(scratch.glob("job-*"))


def log_of(scratch):
    return "".join(log.read_text() for log in scratch.glob("job-*/log"))


@pytest.fixture
def impostor(tmp_path, monkeypatch):
    """Has a shell script do the worker's work; its last two arguments are order and answer."""

    def install(text):
        script = tmp_path / "impostor"
        script.write_text(f'#!/bin/sh\nshift $(($# - 2))\norder="$1" answer="$2"\n{text}\n')
        script.chmod(0o755)
        monkeypatch.setattr(process.sys, "executable", str(script))

    return install


# What a worker may do


def test_a_sound_worker_gives_its_answer(ask):
    answer = ask(order(median_us="7", sigma="0"))
    assert isinstance(answer, Measured)
    assert answer.measurement.intervals["compute"].samples_ns == (7000, 7000, 7000)


@pytest.mark.parametrize(
    ("fault", "reason", "log"),
    [
        ("segfault", "the worker died of SIGSEGV", "Fatal Python error: Segmentation fault"),
        ("exit", "the worker exited with code 0 and no answer", ""),
        ("exit3", "the worker exited with code 3 and no answer", ""),
        ("raise", "RuntimeError: simulated fault", "Traceback (most recent call last):"),
        ("flood", "the simulated worker printed four megabytes; option fault=flood", "Traceback"),
    ],
)
def test_a_fault_is_one_problem_with_its_cause_and_log(ask, fault, reason, log):
    answer = ask(order(fault))
    assert isinstance(answer, Problem)
    assert (answer.status, answer.reason) == ("failed", reason)
    assert log in answer.log


def test_memory_without_bound_ends_at_the_limit(ask):
    answer = ask(order("allocate", memory_limit_bytes=300 << 20))
    assert isinstance(answer, Problem)
    assert (answer.status, answer.reason) == ("failed", "out of memory")
    assert "MemoryError" in answer.log


def test_a_limit_that_nothing_can_live_with_is_a_problem(ask):
    answer = ask(order(memory_limit_bytes=4096))
    assert isinstance(answer, Problem)
    assert answer.status == "failed"
    assert answer.reason


def test_a_worker_that_hangs_is_ended_in_time(ask):
    start = time.monotonic()
    answer = ask(order("hang"), timeout_s=0.5)
    assert answer == Problem(status="failed", reason="no answer within 0.5 s", log=answer.log)
    assert 0.5 <= time.monotonic() - start < PATIENCE_S


def test_a_worker_that_ignores_signals_is_ended_too(ask, scratch, monkeypatch):
    """As if its time were up the moment it has become deaf."""
    monkeypatch.setattr(process, "_wait", lambda worker, timeout_s: not eventually(lambda: log_of(scratch)))
    answer = ask(order("ignore_signals"))
    assert answer == Problem(status="failed", reason="no answer within 60 s", log="hanging\n")


def test_grandchildren_do_not_outlive_the_answer(ask):
    assert isinstance(ask(order("fork")), Measured)


def test_grandchildren_do_not_outlive_a_worker_that_dies(ask, impostor):
    impostor("sleep 600 &\nkill -SEGV $$")
    assert ask(order()).reason == "the worker died of SIGSEGV"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("KILL", "the worker died of SIGKILL, as when the kernel runs out of memory (memory limit 8 GiB)"),
        ("ABRT", "the worker died of SIGABRT (memory limit 8 GiB)"),
        ("40", "the worker died of signal 40 (memory limit 8 GiB)"),
    ],
)
def test_every_signal_has_a_name(ask, impostor, name, reason):
    impostor(f"kill -{name} $$")
    assert ask(order(memory_limit_bytes=8 << 30)).reason == reason


def test_the_log_is_the_end_of_what_was_printed(ask, impostor):
    impostor("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i + 1)); done; printf '\\377 last' >&2; exit 1")
    answer = ask(order())
    assert answer.log.endswith("line 4999\n\ufffd last")
    assert len(answer.log) <= process.LOG_TAIL_BYTES


@pytest.mark.parametrize("text", ["", "null", '{"kind": "measured"}', "\\377", '{"kind": "problem", "status": "odd"}'])
def test_an_answer_that_cannot_be_read_is_a_problem(ask, impostor, text):
    impostor(f"""echo said; printf '{text}' > "$answer" """)
    answer = ask(order())
    assert answer.status == "failed"
    assert answer.reason.startswith("the worker's answer cannot be read: ")
    assert answer.log == "said\n"


def test_a_worker_that_crashes_after_its_answer_has_answered(ask, impostor):
    impostor("""printf '{"kind": "version", "version": "1"}' > "$answer"; kill -SEGV $$""")
    assert ask(order()).version == "1"


def test_a_worker_that_removes_its_folder_is_a_problem(ask, impostor):
    impostor('rm -r "${answer%/*}"; exit 5')
    answer = ask(order())
    assert answer == Problem(status="failed", reason="the worker exited with code 5 and no answer")


# What may be in the way


def test_the_users_folder_does_not_disturb_a_worker(ask, tmp_path, monkeypatch):
    folder = tmp_path / "users"
    (folder / "models").mkdir(parents=True)
    for name in ("paddle", "bench", "json", "numpy", "msgspec", "sitecustomize", "models/__init__", "backends"):
        (folder / f"{name}.py").write_text("raise SystemExit('disturbed')")
    monkeypatch.chdir(folder)
    for path in ("", ":", "elsewhere::"):
        monkeypatch.setenv("PYTHONPATH", path)
        assert isinstance(ask(order()), Measured), path


def test_a_runs_own_variables_win(ask, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr(process, "cause_of_death", lambda returncode, memory_limit_bytes: "")
    script = 'import os; print(os.environ["OMP_NUM_THREADS"])'
    monkeypatch.setattr(process.subprocess, "Popen", printing(script))
    assert ask(order(), OMP_NUM_THREADS="2").log == "2\n"


def printing(script):
    real = subprocess.Popen
    return lambda command, **options: real([command[0], "-c", script], **options)


def test_a_timeout_longer_than_poll_takes_is_one(ask):
    assert isinstance(ask(order(), timeout_s=1e9), Measured)


def test_a_python_without_pidfd_waits_too(ask, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    assert isinstance(ask(order()), Measured)
    assert ask(order("hang"), timeout_s=0.2).reason == "no answer within 0.2 s"


def test_a_worker_that_cannot_be_started_is_a_problem(ask, monkeypatch):
    answer = ask(order(), TOO_LONG="x" * (1 << 20))
    assert answer == Problem(status="failed", reason="cannot give a job to a worker: Argument list too long")
    monkeypatch.setattr(process.sys, "executable", "/nowhere/python")
    answer = ask(order())
    assert answer == Problem(status="failed", reason="cannot give a job to a worker: No such file or directory")


def test_a_name_that_is_no_utf8_is_refused(ask):
    answer = ask(Order(Measure(order().job.setup, Settings(), engine="/\udcff.onnx", reference="")))
    assert answer.status == "refused"
    assert "is not valid UTF-8" in answer.reason


def test_a_scratch_folder_that_is_gone_comes_back(ask, scratch):
    """A user may clear the cache while a run goes on."""
    scratch.rmdir()
    assert isinstance(ask(order()), Measured)


def test_a_full_disk_is_a_problem(tmp_path, scratch):
    with little_room(scratch, 1 << 8):
        answer = process.ask(order(), {}, PATIENCE_S, scratch)
        assert jobs(scratch) == []
    assert isinstance(answer, Problem)
    assert answer.status == "failed"


@pytest.mark.parametrize("name", ["a b", "模型", "line\nbreak", "x" * 200, "'\"$(exit 1)"])
def test_a_scratch_folder_of_any_name(tmp_path, name):
    scratch = tmp_path / name
    scratch.mkdir()
    assert isinstance(process.ask(order(), {}, PATIENCE_S, scratch), Measured)


# What may happen to the runner


RUNNER = """
import sys
from pathlib import Path
import msgspec
from bench import process
from bench.jobs import Order

order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
process.ask(order, {}, 600, Path(sys.argv[1]))
"""


def test_a_worker_dies_with_its_runner(scratch, mark):
    command = [sys.executable, "-c", RUNNER, str(scratch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, MARK: mark}) as runner:
        runner.stdin.write(msgspec.json.encode(order("ignore_signals")))
        runner.stdin.close()
        eventually(lambda: log_of(scratch))
        assert len(marked(mark)) == 2
        runner.kill()
    assert eventually(lambda: not marked(mark))
    assert len(jobs(scratch)) == 1
    process.sweep(scratch)
    assert jobs(scratch) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_the_worker(scratch, mark, monkeypatch, interruption):
    def interrupt(worker, timeout_s):
        eventually(lambda: log_of(scratch))
        raise interruption

    monkeypatch.setattr(process, "_wait", interrupt)
    with pytest.raises(interruption):
        process.ask(order("ignore_signals"), {MARK: mark}, PATIENCE_S, scratch)
    assert eventually(lambda: not marked(mark))
    assert jobs(scratch) == []


def test_ctrl_c_at_the_terminal_reaches_the_runner_alone(scratch, mark, monkeypatch):
    """The worker has a session of its own, so the terminal's signal does not tear it out of a system call."""
    seen = []
    real = process._wait

    def look(worker, timeout_s):
        seen.append(os.getsid(worker.pid))
        return real(worker, timeout_s)

    monkeypatch.setattr(process, "_wait", look)
    process.ask(order(), {MARK: mark}, PATIENCE_S, scratch)
    assert seen[0] != os.getsid(0)


# What killed runs leave behind


@pytest.mark.parametrize(
    "name", ["job-", "job-x", pytest.param(f"job-{os.getpid()}-abc", id="ours"), "job-1-abc", "job-a b\n"]
)
def test_what_nobody_holds_is_swept_away(scratch, name):
    """Whatever process has the ID by now."""
    (scratch / name).mkdir()
    (scratch / name / "answer.json").touch()
    process.sweep(scratch)
    assert jobs(scratch) == []


def test_what_somebody_holds_is_let_alone(scratch):
    """Also somebody in another container, whose ID means nothing here."""
    with process.job_folder(scratch) as folder:
        process.sweep(scratch)
        assert folder.is_dir()
    assert jobs(scratch) == []


def test_sweeping_touches_nothing_else(scratch):
    (scratch / "job-file").touch()
    (scratch / "entry").mkdir()
    process.sweep(scratch)
    assert {path.name for path in scratch.iterdir()} >= {"entry", "job-file"}


def test_signals_of_this_system_are_known_by_name():
    assert process.cause_of_death(-signal.SIGBUS, None) == "the worker died of SIGBUS"
