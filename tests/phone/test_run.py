"""`bench run --device sd855` as a user types it, on a phone that is served here; its inference is Paddle Lite's own."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import lite_tool
import pytest
from absent import absent
from command import bench, complaint, start
from loopback import AdbServer, Daemon, Fault, Phone
from on_phone import PROPERTIES, FakeTool

from bench import homes, store
from bench.artifacts import default_root
from bench.errors import Unavailable

pytestmark = pytest.mark.adb


def in_home(test):
    """Asks whether Paddle Lite's own Python is there."""
    return pytest.mark.lite(pytest.mark.usefixtures("lite_home")(test))


def real(test):
    """Converts and computes: with Paddle here, and Paddle Lite in its own Python."""
    return pytest.mark.lite(pytest.mark.runtime(test))


MODEL = "MobileNetV1_x0_25"
THREADS = (1, 2, 4)
#: found before any test changes HOME
HOMES = default_root() / "homes"
PATIENCE_S = 100
SERIAL = "1234567890"


class Bench:
    """The command with a cache and a results folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.results = folder / "cache", folder / "results"
        self.cache.mkdir()
        (self.cache / "homes").symlink_to(HOMES)
        self.tool = ""

    def plan(self, *words: str) -> tuple[str, ...]:
        return ("run", "--model", MODEL, "--device", "sd855", "--results", str(self.results), *words)

    def run(self, *words: str, **variables: str):
        return bench(self.cache, *self.plan(*words), **{"BENCH_PADDLE_LITE": self.tool, **variables})

    def start(self, *words: str):
        os.environ["BENCH_PADDLE_LITE"] = self.tool
        try:
            return start(self.cache, *self.plan(*words))
        finally:
            del os.environ["BENCH_PADDLE_LITE"]

    def files(self) -> list[Path]:
        return sorted(self.results.rglob("*.jsonl"))


@pytest.fixture
def place(tmp_path: Path) -> Bench:
    found = Bench(tmp_path)
    found.tool = str(FakeTool(tmp_path / "tool").path)
    return found


# What is refused


@pytest.fixture
def refused(place: Bench):
    """The one line that a run was refused with; nothing was measured or written."""

    def refuse(*words: str, code: int = 3, **variables: str) -> str:
        line = complaint(place.run(*words, **variables), code)
        assert place.files() == []
        return line

    return refuse


def test_without_adb_there_is_no_phone(refused):
    assert refused(PATH="/nowhere") == (
        "no adb to talk to the phone with; it is not on PATH; install it, as with: apt-get install adb"
    )


def test_without_a_phone(server, refused):
    assert refused().startswith("no phone; adb lists none; connect one with USB debugging on")


def test_of_two_phones_one_must_be_named(daemon, server, refused, tmp_path):
    (tmp_path / "other").mkdir()
    with Phone(tmp_path / "other", PROPERTIES) as other, Daemon(other) as second:
        server.connect(second)
        line = refused(code=2)
        assert line.startswith("2 phones and none chosen; there is 127.0.0.1:")
        assert line.endswith("choose with: --serial SERIAL or ANDROID_SERIAL")
        server.adb("disconnect", second.serial)


@pytest.mark.parametrize("state", ["unauthorized", "offline"])
def test_a_phone_that_is_not_ready(daemon, server, refused, state):
    daemon.arm(Fault(state))
    server.connect(daemon, state)
    assert refused().startswith(f"phone {daemon.serial} is {state}; ")


def test_another_phone_than_the_one_asked_for(daemon, refused):
    try:
        daemon.phone.set_property("ro.soc.model", "SM8250")
        assert refused() == (
            "looked for a phone with Qualcomm Snapdragon 855 (SM8150|SDM855 of at most 2841.6 MHz) for device sd855; "
            "found Loopback Loopback 855, SoC SM8250, at most 2841.6 MHz; "
            "connect such a phone, or choose another device; list them with: bench list devices"
        )
    finally:
        daemon.phone.set_property("ro.soc.model", "SM8150")


# What is left out


def left_out(place: Bench, **variables: str) -> str:
    """The one reason why no case could be measured, as records and the table have it."""
    done = place.run(**variables)
    assert done.returncode == 3
    assert done.stderr.startswith("bench: 3 unavailable; records: ")
    assert done.stderr.count("\n") == 1
    (run,) = store.read_all(place.results)
    assert {record.status for record in run.records} == {"unavailable"}
    (reason,) = {record.reason for record in run.records}
    assert f"[1] {reason}\n" in done.stdout
    assert SERIAL not in place.files()[0].read_text()
    return reason


@pytest.fixture
def lite_home() -> None:
    """In CI it must be there."""
    _python()


def _python() -> str:
    """The Python of Paddle Lite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(HOMES.parent))
        try:
            return homes.python("paddle_lite")
        except Unavailable as missing:
            absent(str(missing))


@in_home
def test_without_a_tool(daemon, place):
    place.tool = ""
    assert left_out(place) == (
        "no benchmark_bin to run on the phone; none is named; "
        "name the tool, or Paddle Lite's folder, with --set paddle_lite.tool=PATH or BENCH_PADDLE_LITE"
    )


@in_home
def test_a_tool_that_is_not_there_is_named_without_the_home(daemon, place):
    place.tool = f"{os.environ['HOME']}/Paddle-Lite"
    assert left_out(place).startswith("the benchmark tool is not there; no ~/Paddle-Lite; ")
    assert os.environ["HOME"] not in place.files()[0].read_text()


@in_home
def test_a_tool_for_another_processor(daemon, place):
    program = Path(place.tool).read_bytes()
    Path(place.tool).write_bytes(program[:18] + (183).to_bytes(2, "little") + program[20:])
    assert left_out(place).startswith("benchmark_bin is for arm64-v8a; the phone runs x86_64; ")


def test_without_an_environment_for_the_converter(daemon, place, tmp_path):
    (place.cache / "homes").unlink()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "adb").symlink_to(shutil.which("adb"))
    reason = left_out(place, PATH=str(tmp_path / "bin"), PYENV_ROOT=str(tmp_path))
    assert reason.startswith(
        "paddle_lite works in an environment of its own (CPython 3.10), which is not set up; "
        "no CPython 3.10 was found to make it with; "
    )
    assert reason.endswith(": bench setup paddle_lite")


# What is there


@in_home
def test_a_plan_names_the_cases_and_what_stands_in_the_way(daemon, place):
    done = place.run("--threads", "2,8", "--dry-run")
    assert (done.returncode, done.stderr, place.files()) == (0, "", [])
    assert done.stdout.splitlines()[:2] == [
        f"{MODEL}/paddle_lite/sd855/fp32/bs1/t2",
        f"{MODEL}/paddle_lite/sd855/fp32/bs1/t8  unavailable: "
        "8 threads asked, the phone has 4 big cores (cpu4, cpu5, cpu6, cpu7)",
    ]
    assert daemon.phone.leftovers() == []


@in_home
def test_the_doctor_looks_at_the_phone(daemon, place):
    daemon.phone.set_battery(30)
    done = bench(place.cache, "doctor", "--device", "sd855", BENCH_PADDLE_LITE=place.tool)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "device sd855: yes" in lines
    assert "Loopback Loopback 855: SoC SM8150, Android 12, x86_64" in lines
    assert "prime: cpu7, 2841.6 MHz" in lines
    assert any(line.startswith("backend paddle_lite: yes, version v2.13") for line in lines)
    assert "  - it calls itself SM8150, yet computes as x86_64" in lines
    assert "  - the battery is at 30 %; charge it above 50 %" in lines
    assert SERIAL not in done.stdout


def test_devices_are_listed_with_the_phone(daemon, place):
    done = bench(place.cache, "list", "devices", "--format", "json")
    here = {row["name"]: row["here"] for row in json.loads(done.stdout)}
    assert here["sd855"] == "yes"


# A real run


@pytest.fixture(scope="module")
def lite(tmp_path_factory) -> Bench:
    """With a tool that computes, by Paddle Lite's own runtime."""
    python = _python()
    folder = tmp_path_factory.mktemp("lite")
    found = Bench(folder)
    found.tool = str(lite_tool.make(folder / "tool", python))
    return found


@pytest.fixture(scope="module")
def done(lite, served: Daemon, server: AdbServer) -> Iterator:
    """A run of three cases, the first of which is repeated at the end."""
    served.lift()
    server.connect(served)
    served.phone.set_battery(90, charging=False)
    served.phone.set_dumpsys("power", "  mWakefulness=Asleep\n")
    yield lite.run("--repetitions", "1", "--budget", "2s")
    shutil.rmtree(lite.results)


def records(lite: Bench):
    (file,) = lite.files()
    return store.read(file).records


@real
def test_every_case_is_measured(done, lite, served):
    assert done.returncode == 0, done.stderr
    assert (served.phone.leftovers(), served.phone.running()) == ([], [])
    found = records(lite)
    assert sorted({record.case.threads for record in found}) == [*THREADS]
    for record in found:
        assert record.status == "ok", record.reason
        assert record.measurement.timer == "device"
        samples = record.measurement.intervals["compute"]
        assert len(samples.samples_ns) == 3
        assert samples.loops >= 30
        for each in record.telemetry["phone"]["starts"]:
            assert 0 < each["min_ns"] <= each["avg_ns"] <= each["max_ns"]
            assert each["loops"] == samples.loops
        assert min(samples.samples_ns) > 0
        assert record.parity.max_error < 1e-4
        assert record.parity.images == 8
        assert record.parity.reference.startswith("paddle 3")
        assert record.validity[0].reason == "emulated"
        assert record.validity[0].evidence == "it calls itself SM8150, yet computes as x86_64"
        assert record.artifact.made_by["target"] == "x86"
        assert record.artifact.made_by["from"]["network"] == "models.mobilenet_v1:MobileNetV1_x0_25"
        assert record.effective["tool"] == "benchmark_bin"
        assert record.effective["tool_version"] == "v2.13-stand-in"
        assert record.effective["affinity"]
        assert record.requested["cpus"] == {1: [7], 2: [6, 7], 4: [4, 5, 6, 7]}[record.case.threads]
    first = [record for record in found if record.case == found[0].case]
    assert len({record.repetition for record in first}) == 2
    assert {record.repetition for record in found if record.case != found[0].case} == {0}


@real
def test_its_file_names_the_phone_and_nobody(done, lite, served):
    (file,) = lite.files()
    text = file.read_text()
    (header,) = store.read(file).headers
    seen = header.environment["device"]["hardware"]
    assert (seen["manufacturer"], seen["model"], seen["soc"]) == ("Loopback", "Loopback 855", "SM8150")
    assert SERIAL not in text
    assert served.serial not in text
    assert lite.tool not in text
    for home in (os.environ["HOME"], str(HOMES)):
        assert home not in text.replace(str(lite.results), "")


@real
def test_reports_mark_its_figures(done, lite):
    assert "emulated 1/1" in done.stdout
    of_it = ("--source", "measured", "--device", "sd855", "--results", str(lite.results))
    plain = bench(lite.cache, "report", *of_it)
    assert plain.returncode == 0, plain.stderr
    zoo = bench(lite.cache, "report", "--layout", "paddleclas", *of_it)
    assert zoo.returncode == 0, zoo.stderr
    for text in (plain.stdout, zoo.stdout):
        (row, *_) = [line for line in text.splitlines() if MODEL in line]
        assert "[1]" in row
        assert "emulated" in text


def begun(daemon: Daemon) -> None:
    """Returns once the tool is at work on the phone."""
    end = time.monotonic() + PATIENCE_S
    while not any("--warmup=" in command for command in daemon.phone.running()):
        assert time.monotonic() < end
        time.sleep(0.02)


@real
def test_a_run_that_is_interrupted_leaves_nothing_and_keeps_others_out(done, lite, daemon):
    running = lite.start("--repetitions", "2", "--threads", "1")
    try:
        begun(daemon)
        assert complaint(lite.run("--threads", "1"), 3) == (
            "Loopback Loopback 855 is busy; another run of bench measures on it; wait for its end"
        )
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=PATIENCE_S)
    finally:
        running.kill()
    assert running.returncode == 130
    assert told.splitlines()[-1].startswith("bench: interrupted; finished repetitions are saved; go on with:")
    assert (daemon.phone.leftovers(), daemon.phone.running()) == ([], [])


@real
def test_a_run_that_was_killed_is_gone_on_with(done, lite, daemon):
    running = lite.start("--repetitions", "1", "--threads", "1", "--budget", "2s")
    begun(daemon)
    running.kill()
    running.communicate()
    assert len(daemon.phone.leftovers()) == 1
    command = ("run", "--resume", "--results", str(lite.results))
    resumed = bench(lite.cache, *command, BENCH_PADDLE_LITE=lite.tool)
    assert resumed.returncode == 0, resumed.stderr
    assert (daemon.phone.leftovers(), daemon.phone.running()) == ([], [])
    (run,) = [run for run in store.read_all(lite.results) if len(run.headers) == 2]
    assert [(record.repetition, record.status) for record in run.records] == [(0, "ok")]
