"""Starts a worker, waits for it without waking, and turns whatever happens to it into an answer."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from filelock import FileLock

from bench import pythons
from bench.jobs import AnyAnswer, Order, Problem
from bench.schema import PARENT_VARIABLE

LOG_TAIL_BYTES = 2000
LONGEST_POLL_MS = 2**31 - 1  # 24 days
_answer = msgspec.json.Decoder(AnyAnswer)


@contextlib.contextmanager
def job_folder(scratch: Path) -> Iterator[Path]:
    """A folder for one job below `scratch`, locked while we live: an ID would be another process's in time, and is
    another one in each container that shares the cache."""
    with FileLock(scratch / "gate"):
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=scratch))
        alive = FileLock(folder / "alive")
        alive.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        alive.release()


def sweep(scratch: Path) -> None:
    """Removes the folders of jobs whose runner no longer lives."""
    with FileLock(scratch / "gate"):
        for left in scratch.glob("job-*"):
            with contextlib.suppress(OSError), FileLock(left / "alive", timeout=0):
                shutil.rmtree(left, ignore_errors=True)


def ask(order: Order, environ: Mapping[str, str], timeout_s: float, scratch: Path, python: str = "") -> AnyAnswer:
    """Has a fresh process do `order` with `environ` on top of ours, under `python` or, for "", our own.

    It is dead when this returns or raises.
    """
    try:
        with job_folder(scratch) as folder:
            return _ask(order, environ, timeout_s, folder, python)
    except OSError as error:
        return Problem(status="failed", reason=f"cannot give a job to a worker: {error.strerror or error}")
    except UnicodeEncodeError as error:
        return Problem(status="refused", reason=f"a name is not valid UTF-8; found in {error.object!r}; rename it")


def _ask(order: Order, environ: Mapping[str, str], timeout_s: float, folder: Path, python: str) -> AnyAnswer:
    order_file, answer_file, log_file = folder / "order.json", folder / "answer.json", folder / "log"
    order_file.write_bytes(msgspec.json.encode(order))
    with log_file.open("wb") as log:
        worker = subprocess.Popen(
            [*_interpreter(python), "-X", "faulthandler", "-m", "bench.worker", str(order_file), str(answer_file)],
            env={**pythons.variables(folder), **environ} if python else worker_environment(environ),
            cwd=folder if python else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            in_time = _wait(worker, timeout_s)
        finally:
            kill_session(worker)
    if not in_time:
        return Problem(status="failed", reason=f"no answer within {timeout_s:g} s", log=log_tail(log_file))
    try:
        answer: AnyAnswer = _answer.decode(answer_file.read_bytes())
    except FileNotFoundError:
        cause = cause_of_death(worker.returncode, order.memory_limit_bytes)
        return Problem(status="failed", reason=cause, log=log_tail(log_file))
    except msgspec.DecodeError as error:
        return Problem(status="failed", reason=f"the worker's answer cannot be read: {error}", log=log_tail(log_file))
    return answer


def _interpreter(python: str) -> list[str]:
    """Without the current folder on its path, where a `bench` may lie that is not ours.

    Python 3.10 has no -P, so others than ours work in the job's own folder.
    """
    return [python] if python else [sys.executable, "-P"]


def worker_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, with the package's own parent first, so that a worker runs the code that asks it whatever the folder.

    An empty entry of the user's path would mean that folder.
    """
    users = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *users])
    return {**os.environ, "PYTHONPATH": path, PARENT_VARIABLE: str(os.getpid()), **extra}


def _wait(worker: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Whether the worker ended in time. `Popen.wait` would look twenty times a second; this sleeps."""
    if not hasattr(os, "pidfd_open"):
        try:
            worker.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True
    descriptor = os.pidfd_open(worker.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(min(timeout_s * 1000, LONGEST_POLL_MS)))
    finally:
        os.close(descriptor)


def kill_session(worker: "subprocess.Popen[bytes]") -> None:
    """Nothing of the worker's session outlives it, children included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def cause_of_death(returncode: int, memory_limit_bytes: int | None) -> str:
    """In words how a worker ended that gave no answer."""
    note = f" (memory limit {memory_limit_bytes / 2**30:.2g} GiB)" if memory_limit_bytes else ""
    if returncode >= 0:
        return f"the worker exited with code {returncode} and no answer{note}"
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-returncode, f"signal {-returncode}")
    hint = ", as when the kernel runs out of memory" if name == "SIGKILL" else ""
    return f"the worker died of {name}{hint}{note}"


def log_tail(log: Path) -> str:
    """The last lines of a worker's log; "" where it is gone."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:  # whoever cleared the cache took it away
        return ""
