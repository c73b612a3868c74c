"""Live workers, real processes all of them: they rest, they obey, and whatever becomes of one, the parent is told."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import venv
from pathlib import Path

import pytest

from bench import backends, catalog, duet, pythons
from bench.backends import Setup
from bench.duet import LiveWorker, Lost
from bench.errors import Failed, Unavailable, UsageError
from bench.live_worker import LiveOrder
from bench.schema import Case

CPU = min(os.sched_getaffinity(0))


def order(**options):
    backend = backends.get("simulated")
    case = Case("X", "simulated", "cpu", "fp32", 1, 1)
    setup = Setup(case, catalog.profile("cpu"), backends.settle(backend, options), (3, 224, 224))
    return LiveOrder(setup=setup, interval="compute", source="", folder="", cpus=(CPU,))


@pytest.fixture
def start(tmp_path):
    """Starts live workers on the simulated backend; they are gone after the test."""
    with contextlib.ExitStack() as stack:

        def start(python="", timeout_s=20.0, **options):
            return stack.enter_context(LiveWorker(order(**options), {}, timeout_s, tmp_path / "job", python))

        yield start


@pytest.fixture
def impostor(tmp_path, start):
    """Starts a program of ours in place of the worker; `wire` is its socket."""

    def begin(body, **more):
        script = tmp_path / "impostor"
        head = f"#!{sys.executable}\nimport os, signal, socket, sys, time\n"
        head += "wire = socket.socket(fileno=int(sys.argv[-1]))\n"
        script.write_text(head + textwrap.dedent(body))
        script.chmod(0o755)
        return start(python=str(script), **more)

    return begin


def state(pid):
    """What the kernel calls it: R runs, S sleeps, T is stopped, Z is dead."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def gone(pid):
    return not Path(f"/proc/{pid}").exists() or state(pid) == "Z"


def eventually(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_worker_obeys(start):
    worker = start(median_us="1000", sigma="0")
    assert worker.open().version == "simulated"
    warm = worker.warm_up()
    assert warm.steady
    assert warm.latency_ns == 1e6
    assert warm.cpus == (CPU,)
    for count in (5, 1, 25):
        assert worker.block(count, 1e6).wall_ns == (1_000_000,) * count


def test_worker_is_stopped_between_its_verbs(start):
    worker = start()
    worker.open()
    for verb in (worker.warm_up, lambda: worker.block(5, 1e6), lambda: worker.block(5, 1e6)):
        assert state(worker.pid) == "T"
        verb()
    assert state(worker.pid) == "T"
    before = worker.snapshot()
    time.sleep(0.05)
    after = worker.snapshot()
    assert after.threads == before.threads


def test_cpu_time_of_a_worker_stands_still_while_it_rests(start):
    worker = start()
    worker.open()
    before = worker.spent_cpu_ns()
    assert before > 1_000_000  # it has imported all that
    time.sleep(0.02)
    assert worker.spent_cpu_ns() == before
    worker.block(2000, 1e3)
    assert worker.spent_cpu_ns() > before
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: gone(worker.pid))
    assert worker.spent_cpu_ns() >= before


def test_nothing_is_left_of_a_stopped_worker(start, tmp_path):
    with LiveWorker(order(), {}, 20.0, tmp_path / "other") as worker:
        worker.open()
        pid = worker.pid
        assert state(pid) == "T"
    assert gone(pid)


def test_a_stopped_worker_dies_with_its_parent(tmp_path):
    script = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_duet import order
    from bench.duet import LiveWorker
    with LiveWorker(order(), {{}}, 20.0, Path({folder!r})) as worker:
        worker.open()
        print(worker.pid, flush=True)
        time.sleep(60)
    """
    text = textwrap.dedent(script).format(tests=str(Path(__file__).parent), folder=str(tmp_path / "job"))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert state(pid) == "T"
        parent.kill()
    eventually(lambda: gone(pid))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
def test_death_between_blocks(start, sent):
    worker = start()
    worker.open()
    worker.warm_up()
    worker.block(5, 1e6)
    os.kill(worker.pid, sent)
    if sent != signal.SIGKILL:  # other signals wait until the process is continued
        os.kill(worker.pid, signal.SIGCONT)
    with pytest.raises(Lost, match=sent.name):
        worker.block(5, 1e6)


def test_death_is_noticed_though_a_child_holds_the_socket_open(start):
    worker = start(fault="fork")
    worker.open()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(Lost, match="SIGKILL"):
        worker.block(5, 1e6)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("segfault", "SIGSEGV"), ("exit", "code 0"), ("exit3", "code 3")],
)
def test_death_at_the_first_inference(start, fault, said):
    with pytest.raises(Lost, match=said):
        start(fault=fault).open()


@pytest.mark.parametrize("fault", ["hang", "ignore_signals"])
def test_hang(start, fault):
    worker = start(fault=fault, timeout_s=1.0)
    with pytest.raises(Lost, match="no answer within 1 s"):
        worker.open()


def test_what_a_runtime_raises_is_final_and_keeps_its_log(start):
    with pytest.raises(Failed, match="simulated fault") as raised:
        start(fault="raise").open()
    assert "Traceback" in raised.value.log


def test_noise_on_standard_output_disturbs_nobody(start):
    with pytest.raises(Failed, match="four megabytes"):  # which is what the fault says when it has printed them
        start(fault="flood").open()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("wire.sendall(b'no JSON\\n'); time.sleep(60)", "cannot be read"),
        ("wire.sendall(b'\\xff\\xfe\\n'); time.sleep(60)", "cannot be read"),
        (
            'wire.sendall(b\'{"kind":"done","wall_ns":[],"telemetry":{}}\\n\'); time.sleep(60)',
            "answered Done, not Ready",
        ),
        ('wire.sendall(b\'{"kind":"rea\')', "exited with code 0"),
        ("wire.close(); time.sleep(60)", "hung up but went on"),
        ("print('x' * 2000)\nsys.exit(7)", "code 7"),
    ],
)
def test_nonsense_is_a_loss(impostor, body, said):
    with pytest.raises(Lost, match=said):
        impostor(body).open()


def test_an_endless_answer_is_cut_off(impostor, monkeypatch):
    monkeypatch.setattr(duet, "LONGEST_REPLY_BYTES", 1000)
    with pytest.raises(Lost, match="longer than 1000 bytes"):
        impostor("while True: wire.sendall(b'x' * 500)").open()


READY = 'wire.sendall(b\'{"kind":"ready","version":"1","load_ns":1,"first_ns":1,"effective":{}}\\n\')\n'


def test_an_answer_without_a_rest_is_a_loss(impostor, monkeypatch):
    monkeypatch.setattr(duet, "LEAST_PATIENCE_S", 0.2)
    with pytest.raises(Lost, match="did not stop"):
        impostor(READY + "time.sleep(60)").open()


def test_death_in_the_middle_of_a_block(impostor):
    rest = "os.kill(os.getpid(), signal.SIGSTOP)\n"
    worker = impostor(READY + rest + "wire.recv(100)\nos.abort()")
    worker.open()
    with pytest.raises(Lost, match="SIGABRT"):
        worker.block(5, 1e6)


def test_hang_in_the_middle_of_a_block(impostor, monkeypatch):
    monkeypatch.setattr(duet, "LEAST_PATIENCE_S", 0.2)
    worker = impostor(READY + "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)")
    worker.open()
    with pytest.raises(Lost, match=r"no answer within 0\.2"):
        worker.block(1, 0)


def test_the_tail_of_the_log_comes_with_a_loss(impostor):
    with pytest.raises(Lost) as raised:
        impostor("print('last words', flush=True)\nos.abort()").open()
    assert "last words" in raised.value.log


# Another Python


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """An environment of its own with nothing in it."""
    folder = tmp_path_factory.mktemp("environments") / "bare"
    venv.create(folder, with_pip=False)
    return str(folder / "bin" / "python")


def test_another_python_runs_our_code_without_our_packages(start, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    worker = start(python=pythons.absolute(sys.executable))
    assert worker.open().version == "simulated"
    variables = Path(f"/proc/{worker.pid}/environ").read_bytes().decode().split("\0")
    assert f"PYTHONPATH={tmp_path / 'job' / 'code'}" in variables
    assert [path.name for path in (tmp_path / "job" / "code").iterdir()] == ["bench"]


def test_a_python_that_lacks_something_is_told_what_to_install(bare_python):
    with pytest.raises(Unavailable) as raised:
        pythons.require(bare_python, backends.get("onnxruntime"))
    assert str(raised.value).endswith(f"; {bare_python} -m pip install msgspec numpy psutil onnxruntime")
    assert "lacks msgspec, numpy, psutil, onnxruntime" in str(raised.value)


def test_our_own_python_lacks_nothing():
    pythons.require(sys.executable, backends.get("simulated"))


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true", "/bin/false"])
def test_what_is_no_python_is_refused(python):
    with pytest.raises(UsageError, match="name one such as"):
        pythons.require(pythons.absolute(python), backends.get("simulated"))


def test_old_pythons_are_refused(monkeypatch):
    monkeypatch.setattr(pythons, "LEAST", (99, 0))
    with pytest.raises(Unavailable, match=r"the worker needs 3\.11"):
        pythons.require(sys.executable, backends.get("simulated"))


def test_a_worker_needs_no_more_than_is_asked_for():
    """Any other third party would be missing in an environment that holds a runtime and little else."""
    script = """
    import importlib.abc, sys
    from importlib.metadata import packages_distributions
    from bench.pythons import NEEDED

    class Refuse(importlib.abc.MetaPathFinder):
        installed = set(packages_distributions()) - {"bench", *NEEDED}

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in self.installed:
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Refuse())
    import bench.live_worker, bench.probe
    from bench import backends
    for name in ("onnxruntime", "openvino", "paddle", "simulated"):
        backends.get(name)
    bench.probe.make()()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
