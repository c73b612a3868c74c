"""Each fault of a phone at each step of a session: no hang, no wrong answer, one line, and nothing left in the end."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback import AdbServer, Daemon, Fault, Phone, serving
from loopback.faults import GREETINGS, STATES

from bench import adb
from bench.errors import BenchError, Failed, Unavailable

pytestmark = pytest.mark.adb

CONTENT = bytes(range(256)) * 600  # three packets of a transfer
SCRIPT = "echo started; echo beside >&2; wc -c <{}/file; printf 'avg = 12.5'"
ANSWER = adb.Answer(0, f"started\n{len(CONTENT)}\navg = 12.5", "beside\n")
MERGED = adb.Answer(0, ANSWER.out.replace("started\n", "started\nbeside\n"), "")
#: steps, by what faults see of them
STEPS = {
    "choose": "",
    "sweep": "^shell .*ls /data",
    "make folder": "^shell .*mkdir",
    "read properties": "^shell .*getprop",
    "push": "^push",
    "hash what was pushed": r"^shell .*sha256sum <\S+[^/]/file",
    "shell": "^shell .*started",
    "hash what to pull": r"^shell .*sha256sum <\S+//file",
    "pull": "^pull",
    "remove folder": "^shell .*rm -rf",
}
BEFORE_PUSHED = ("choose", "sweep", "make folder", "read properties", "push")
TRANSFERS = ("push", "pull")
RETRIED = ("sweep", "make folder", "read properties", "push", "hash what was pushed", "hash what to pull", "pull")
#: limits of a call and of connecting anew that nothing should ever reach, and such as have to be reached
PATIENCE_S, HANG_S, GONE_S = 20.0, 1.0, 0.4

Spoilt = dict[str, tuple[type[BenchError], str]]


def every(steps: tuple[str, ...], kind: type[BenchError], words: str) -> Spoilt:
    return dict.fromkeys(steps, (kind, words))


LOST = every(("shell",), adb.Lost, "lost the connection to")
ALWAYS_LOST = every(RETRIED, adb.Lost, "lost the connection to") | LOST
OFFLINE = every(("choose",), Unavailable, "is offline")


class Trial(NamedTuple):
    """A fault, and what it comes to at the steps that it spoils: the error, and some words of its line.

    Removing the folder never raises: what couldn't be removed is swept later.
    """

    fault: Fault
    spoilt: Spoilt
    timeout_s: float = PATIENCE_S
    reconnect_s: float = PATIENCE_S


TRIALS = {
    "slow": Trial(Fault("slow", seconds=0.05), {}),
    "hanging": Trial(Fault("hang"), every((*RETRIED, "shell"), adb._Late, "no answer from"), timeout_s=HANG_S),
    "no exit packet": Trial(Fault("no-exit"), {}),
    "dropped once at the start": Trial(Fault("drop", times=1), LOST),
    "dropped once in the middle": Trial(Fault("drop", times=1, after_bytes=10), LOST),
    "dropped once late": Trial(Fault("drop", times=1, after_bytes=100_000), {}),
    "dropped twice": Trial(Fault("drop", times=2), ALWAYS_LOST),
    "gone": Trial(Fault("drop", after_bytes=3), OFFLINE | ALWAYS_LOST, reconnect_s=GONE_S),
    "offline": Trial(Fault("offline"), OFFLINE | ALWAYS_LOST, reconnect_s=GONE_S),
    "unauthorized": Trial(
        Fault("unauthorized"), every(("choose", *RETRIED), Unavailable, "is unauthorized") | LOST, reconnect_s=GONE_S
    ),
    "no shell_v2": Trial(Fault("no-shell-v2", times=1), LOST),
    "disk full": Trial(
        Fault("disk-full", after_bytes=70_000), every(("push",), Failed, "No space left on device; make")
    ),
    "read-only": Trial(Fault("read-only"), every(BEFORE_PUSHED, Failed, "Read-only file system")),
    "overheating": Trial(Fault("overheat"), {}),
    "cores offline": Trial(Fault("cores-offline"), {}),
    "damaged": Trial(Fault("corrupt", after_bytes=70_000), every(TRANSFERS, Failed, "the copy is damaged")),
}
#: choosing asks adb's server alone, so only what it sees can matter there
CASES = [
    (name, step)
    for name, trial in TRIALS.items()
    for step in STEPS
    if step != "choose" or trial.fault.kind in (*GREETINGS, *STATES) or name == "gone"
]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[AdbServer]:
    with serving(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory, server) -> Iterator[Daemon]:
    with Phone(tmp_path_factory.mktemp("phone")) as phone, Daemon(phone) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared, server) -> Daemon:
    shared.lift()
    if server.state(shared.serial) != "device":
        server.connect(shared)
    return shared


def strike(daemon: Daemon, server: AdbServer, name: str, step: str) -> None:
    """Arms the fault for that step; one for the first step is there at once."""
    fault = TRIALS[name].fault
    if step != "choose":
        daemon.arm(dataclasses.replace(fault, command=STEPS[step]))
    elif name == "gone":
        daemon.arm(fault)
        server.adb("-s", daemon.serial, "shell", "echo long enough")
        server.wait(daemon.serial, "offline")
    elif name == "offline":
        daemon.arm(fault)
        server.wait(daemon.serial, "offline")
    else:
        daemon.arm(fault)
        server.connect(daemon, "unauthorized" if name == "unauthorized" else "device")


def session(serial: str, folder: Path, trial: Trial) -> None:
    """All that a measurement does with a phone, each answer checked."""
    device = adb.choose(serial, trial.timeout_s)
    device.reconnect_s = trial.reconnect_s
    (folder / "file").write_bytes(CONTENT)
    with device.folder(trial.timeout_s) as there:
        assert device.read(["getprop", "ro.soc.model"], trial.timeout_s) == "SM8150\n"
        device.push(folder / "file", f"{there}/file", trial.timeout_s)
        assert device.shell(SCRIPT.format(there), trial.timeout_s) in (ANSWER, MERGED)
        device.pull(f"{there}//file", folder / "back", trial.timeout_s)
        assert (folder / "back").read_bytes() == CONTENT


def raised(call: Callable[..., None], *arguments: object) -> BenchError | None:
    try:
        call(*arguments)
    except BenchError as error:
        return error
    return None


@pytest.mark.parametrize(("name", "step"), CASES)
def test_a_fault_spoils_only_what_it_must_and_leaves_nothing(daemon, server, tmp_path, name, step):
    trial = TRIALS[name]
    strike(daemon, server, name, step)
    start = time.monotonic()
    error = raised(session, daemon.serial, tmp_path, trial)
    assert time.monotonic() - start < PATIENCE_S

    expected, words = trial.spoilt.get(step, (type(None), ""))
    assert type(error) is expected, error
    assert words in str(error)
    assert str(error).isprintable()
    assert {file.name for file in tmp_path.iterdir()} <= {"file", "back"}

    daemon.lift()
    server.connect(daemon)
    with adb.Adb(daemon.serial).folder() as there:
        assert daemon.phone.leftovers() == [there.rpartition("/")[2]]
    assert daemon.phone.leftovers() == []
    assert daemon.phone.running() == []


def test_a_connection_that_drops_at_any_byte_gives_no_answer(daemon, server):
    device = adb.Adb(daemon.serial)
    mark = f"\n{adb._name()}=3\n"
    size = len("avg = 12.5beside") + 2 * len(mark)
    for after_bytes in (0, 1, *range(2, size, 5), size - 1, size):
        device._left.clear()
        daemon.arm(Fault("drop", command="avg", times=1, after_bytes=after_bytes))
        error = raised(device.shell, "printf 'avg = 12.5'; printf beside >&2; exit 3")
        assert type(error) is (type(None) if after_bytes == size else adb.Lost)
        daemon.lift()
        server.connect(daemon)


def test_what_a_lost_connection_left_running_is_ended_before_anything_else_runs(daemon):
    device = adb.Adb(daemon.serial)
    daemon.arm(Fault("drop", command="sleep", times=1, after_bytes=1))
    with pytest.raises(adb.Lost):
        device.shell("sleep 600 & sleep 601 & echo begun; sleep 602")
    while "sleep 602" not in daemon.phone.running():  # pytest's limit ends this
        pass
    assert device.read("echo next") == "next\n"
    assert daemon.phone.running() == []


def test_a_fault_of_the_phone_begins_at_its_step(daemon):
    device = adb.Adb(daemon.serial)
    daemon.arm(Fault("overheat", command="benchmark"))
    daemon.arm(Fault("cores-offline", at=3))
    both = "cat /sys/devices/system/cpu/online; dumpsys thermalservice | grep Status:"
    assert device.read(both) == "0-7\nThermal Status: 0\n"
    device.read("echo benchmark")
    assert device.read(both) == "0-4,6\nThermal Status: 3\n"
    daemon.lift()
    assert device.read(both) == "0-7\nThermal Status: 0\n"


def test_a_shell_may_be_run_twice_where_that_does_no_harm(daemon):
    device = adb.Adb(daemon.serial)
    daemon.arm(Fault("drop", command="twice", times=1))
    assert device.shell("echo twice; exit 4", retry=True) == adb.Answer(4, "twice\n", "")


def test_a_phone_that_comes_back_late_is_waited_for(daemon, server):
    device = adb.Adb(daemon.serial)
    daemon.arm(Fault("offline"))
    with pytest.raises(adb.Lost) as lost:
        device.reconnect(0.3)
    assert str(lost.value) == (
        f"lost the connection to {daemon.serial}; adb lists it as offline; "
        "check its cable or network and run this again"
    )
    server.adb("disconnect", daemon.serial)
    with pytest.raises(adb.Lost, match=r"adb lists it (as offline|no longer)"):
        device.reconnect(0.3)
    daemon.lift()
    device.reconnect(PATIENCE_S)
    assert device.read("echo back") == "back\n"


def test_the_page_says_how_many_combinations_are_tried():
    page = " ".join((Path(__file__).parents[1] / "docs/phone.md").read_text(encoding="utf-8").split())
    assert f"{len(TRIALS)} faults at each of {len(STEPS)} steps of the transport ({len(CASES)} combinations" in page
