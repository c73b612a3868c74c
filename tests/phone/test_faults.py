"""Each fault of a phone at each step of a session: no hang, the exact figures or none, one line, nothing left over."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from loopback import AdbServer, Daemon, Fault
from loopback.faults import GREETINGS, STATES
from on_phone import TIMED_NS, FakeTool, engine, image, output, setup_of

from bench import adb, cooling
from bench.backends import Setup
from bench.backends.paddle_lite import device
from bench.backends.paddle_lite.device import DeviceSession
from bench.errors import BenchError, Failed, Unavailable
from bench.schema import Settings

pytestmark = [pytest.mark.adb, pytest.mark.usefixtures("quick")]

#: steps in their order, by what faults see of them
STEPS = {
    "choose": "",
    "look": "^shell (?s:.*)getprop",
    "make folder": "^shell .*mkdir",
    "push tool": "^push .*/benchmark_bin",
    "help": "^shell .*--help",
    "push model": r"^push .*/model\.nb",
    "push input": "^push .*/input",
    "start for parity": "^shell .*--warmup=0 --repeats=1 ",
    "read result": "^shell .* cat [^ ]*/result",
    "pull output": "^pull .*/output",
    "condition": "^shell (?s:.*)dumpsys battery",
    "short start": "^shell .*--warmup=3 --repeats=3 ",
    "look at work": "^shell .*--warmup=0 --repeats=[0-9]{2}",
    "timed start": "^shell .*--warmup=10",
    "glance": "^shell (?!.*benchmark_bin)(?!(?s:.*)(dumpsys|getprop))(?s:.*)thermal_zone",
    "remove folder": "^shell .*rm -rf",
}
TRANSFERS = ("push tool", "push model", "push input", "pull output")
#: choosing is the server's affair, and what goes wrong when the folder is removed is left to the next sweep
ALWAYS = tuple(step for step in STEPS if step not in ("choose", "remove folder"))
UNTIL_TIMED = tuple(STEPS)[: tuple(STEPS).index("short start")]
#: limits of a call that nothing should ever reach, and such as have to be reached
PATIENCE_S, HANG_S, GONE_S = 20.0, 0.7, 0.4

Spoilt = dict[str, tuple[type[BenchError], str]]


def every(steps: tuple[str, ...], kind: type[BenchError], words: str) -> Spoilt:
    return dict.fromkeys(steps, (kind, words))


LOST = every(ALWAYS, adb.Lost, "lost the connection to")
OFFLINE = every(("choose",), Unavailable, "is offline")


class Trial(NamedTuple):
    """A fault, and the error and words that it comes to at the steps that it spoils. At others `doubts` are among the
    evidence that goes with the figures, as long as it strikes while there is something to measure."""

    fault: Fault
    spoilt: Spoilt = {}
    limit_s: float = PATIENCE_S
    reconnect_s: float = PATIENCE_S
    doubts: tuple[str, ...] = ()


TRIALS = {
    "slow": Trial(Fault("slow", seconds=0.05)),
    "hanging": Trial(Fault("hang"), every(ALWAYS, adb._Late, "no answer from"), limit_s=HANG_S),
    "no exit packet": Trial(Fault("no-exit")),
    "dropped once": Trial(Fault("drop", times=1, after_bytes=10)),
    "dropped twice": Trial(Fault("drop", times=2), LOST),
    "gone": Trial(Fault("drop", after_bytes=3), OFFLINE | LOST, reconnect_s=GONE_S),
    "offline": Trial(Fault("offline"), LOST, reconnect_s=GONE_S),
    "unauthorized": Trial(
        Fault("unauthorized"), every(("choose", *ALWAYS), Unavailable, "is unauthorized"), reconnect_s=GONE_S
    ),
    "no shell_v2": Trial(Fault("no-shell-v2", times=1)),
    "disk full": Trial(
        Fault("disk-full", after_bytes=10),
        every(("push tool", "push model", "push input"), Failed, "No space left on device; make"),
    ),
    "read-only": Trial(Fault("read-only"), every(("choose", *ALWAYS), Failed, "Read-only file system")),
    "overheating": Trial(Fault("overheat"), doubts=("the CPU had 95.0 °C", "thermal status 3 (severe)", "was held to")),
    "cores offline": Trial(
        Fault("cores-offline"),
        every(UNTIL_TIMED, Unavailable, "cpu7 is offline; let it cool, wake it, or restart it"),
        doubts=("cores 5,7 were offline",),
    ),
    "damaged": Trial(Fault("corrupt", after_bytes=3), every(TRANSFERS, Failed, "the copy is damaged")),
}
#: choosing asks adb's server alone, so only what it sees can matter there, and it takes ten seconds to see that a phone
#: is silent, for which tests/test_adb_faults.py waits; some faults are of transfers
CASES = [
    (name, step)
    for name, trial in TRIALS.items()
    for step in STEPS
    if (step != "choose" or name == "gone" or trial.fault.kind in (*GREETINGS, *STATES))
    and (name, step) != ("offline", "choose")
    and (trial.fault.kind not in ("disk-full", "corrupt") or step in TRANSFERS)
]


@pytest.fixture(scope="module")
def setup(served, server, tmp_path_factory) -> Setup:
    """Planned while all was well."""
    server.connect(served)
    return setup_of(FakeTool(tmp_path_factory.mktemp("tools") / "tool"))


@pytest.fixture
def limits(monkeypatch):
    """Takes those of a trial; two starts are as good as three, and one look at work."""
    monkeypatch.setattr(device, "STARTS", 2)
    monkeypatch.setattr(cooling, "LEAST_GLANCES", 1)

    def limit(trial: Trial) -> None:
        for name in ("ASK_S", "COPY_S", "RUN_S"):
            monkeypatch.setattr(device, name, trial.limit_s)
        monkeypatch.setattr(adb.Adb, "reconnect_s", trial.reconnect_s)

    return limit


def strike(daemon: Daemon, server: AdbServer, name: str, step: str) -> None:
    """Arms the fault for that step; one for the first step is there at once."""
    fault = TRIALS[name].fault
    if step != "choose":
        daemon.arm(dataclasses.replace(fault, command=STEPS[step]))
    elif name == "gone":
        daemon.arm(fault)
        server.adb("-s", daemon.serial, "shell", "echo long enough")
        server.wait(daemon.serial, "offline")
    else:
        daemon.arm(fault)
        server.connect(daemon, fault.kind if fault.kind in ("offline", "unauthorized") else "device")


class Measured(NamedTuple):
    """What a session came to: its error and line, or latencies and the evidence against them."""

    error: type[BenchError] | None = None
    line: str = ""
    samples_ns: tuple[int, ...] = ()
    doubts: str = ""


def measured(folder: Path, setup: Setup) -> Measured:
    """All that a worker does with a phone. Where it comes to an end, outputs were the right ones."""
    try:
        with contextlib.closing(DeviceSession(engine(folder), setup)) as session:
            session.feed([image()])
            session.run()
            np.testing.assert_array_equal(session.fetch()[0], output())
            session.effective()
            samples = session.measure(Settings(iterations=20, timeout_s=2 * device.RUN_S)).intervals["compute"]
            assert samples.loops == 20
            return Measured(None, "", samples.samples_ns, str([each.evidence for each in session.account().validity]))
    except BenchError as error:
        return Measured(type(error), str(error))


def sweep_as_another(serial: str) -> None:
    """As the next worker does, for which this process is one that has been killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adb.os, "getpid", lambda: 2**22 + 1)
        patch.setattr(adb, "_is_alive", lambda pid: False)
        with adb.Adb(serial).folder():
            pass


@pytest.mark.parametrize(("name", "step"), CASES)
def test_a_fault_gives_the_right_figures_or_one_line(daemon, server, setup, limits, tmp_path, name, step):
    trial = TRIALS[name]
    limits(trial)
    Path(setup.options["tool"]).with_name("starts").unlink(missing_ok=True)
    strike(daemon, server, name, step)
    start = time.monotonic()
    found = measured(tmp_path, setup)
    assert time.monotonic() - start < PATIENCE_S

    error, words = trial.spoilt.get(step, (None, ""))
    assert found.error is error, found.line
    assert words in found.line
    assert found.line.isprintable()
    if error is None:  # a start that was made again is told by the tool as the next one
        assert len(found.samples_ns) == 2
        assert list(found.samples_ns) == sorted({*found.samples_ns} & {*TIMED_NS})
        assert step == "remove folder" or all(words in found.doubts for words in trial.doubts)

    daemon.lift()
    server.connect(daemon)
    sweep_as_another(daemon.serial)
    assert daemon.phone.leftovers() == []
    assert daemon.phone.running() == []


def test_the_page_says_how_many_combinations_are_tried():
    page = " ".join((Path(__file__).parents[2] / "docs/phone.md").read_text(encoding="utf-8").split())
    assert f"{len(TRIALS)} faults is tried at each of {len(STEPS)} steps of a session where it can strike" in page
    assert f"({len(CASES)} combinations, `tests/phone/test_faults.py`)" in page
