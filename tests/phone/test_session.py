"""A session on a phone: the figures that its tool printed, all of them, or one line that says why there are none."""

import contextlib
import hashlib

import msgspec
import numpy as np
import pytest
from loopback import Daemon, Fault, Phone
from on_phone import BACKEND, MODEL, SD855, TIMED_NS, image, open_session, output, setup_of

from bench import adb, catalog, devices, phone
from bench.backends.paddle_lite import device
from bench.child import trouble
from bench.errors import BenchError, Failed, Unavailable, Unsupported
from bench.jobs import Problem
from bench.plan import Request, make
from bench.schema import Case, Settings

pytestmark = [pytest.mark.adb, pytest.mark.usefixtures("daemon", "quick")]

ONE_LINE = 400


@pytest.fixture
def opened(tmp_path):
    """Sessions that are closed at the end."""
    with contextlib.ExitStack() as closing:

        def begin(used, threads=1, **options):
            session = open_session(tmp_path, setup_of(used, threads, **options))
            closing.callback(session.close)
            return session

        yield begin


def checked(session, value=0.25):
    """Parity, as a worker looks after it."""
    session.feed([image(value)])
    session.run()
    (found,) = session.fetch()
    return found


def reasons(session):
    return [each.reason for each in session.account().validity]


def evidence(session, reason):
    return [each.evidence for each in session.account().validity if each.reason == reason]


# Figures


def test_the_figures_are_the_ones_that_were_printed(opened, benchmark_bin, daemon):
    session = opened(benchmark_bin)
    np.testing.assert_array_equal(checked(session), output())
    measurement = session.measure(Settings())
    assert measurement.timer == "device"
    assert measurement.load_ns == 30_000_000
    assert measurement.first_ns == 40_000_000
    samples = measurement.intervals["compute"]
    assert samples.samples_ns == TIMED_NS
    assert samples.loops == 33  # a third of a tenth of 20 s, at 20 ms each
    assert samples.warmup_ns == ()
    told = session.account().telemetry["phone"]
    assert [(start["min_ns"], start["avg_ns"], start["max_ns"]) for start in told["starts"]] == [
        (latency_ns - 500_000, latency_ns, latency_ns + 500_000) for latency_ns in TIMED_NS
    ]
    assert {(start["init_ns"], start["first_ns"], start["loops"]) for start in told["starts"]} == {
        (30_000_000, 40_000_000, 33)
    }
    assert session.account().telemetry["phone"]["connection_losses"] == 0
    session.close()
    assert (daemon.phone.leftovers(), daemon.phone.running()) == ([], [])


def test_every_start_is_told_all_that_matters(opened, benchmark_bin):
    session = opened(benchmark_bin, threads=2, power_mode="1")
    checked(session)
    session.measure(Settings(warmup=3, iterations=7))
    starts = benchmark_bin.starts("timed")
    assert len(starts) == device.STARTS
    folder = starts[0]["optimized_model_file"].removesuffix("/model.nb")
    for start in starts:
        assert {name: value for name, value in start.items() if name not in ("pid", "step")} == {
            "optimized_model_file": f"{folder}/model.nb",
            "input_shape": "1,3,8,8",
            "threads": "2",
            "power_mode": "1",
            "warmup": "3",
            "repeats": "7",
            "backend": "x86",
            "input_data_path": f"{folder}/input",
            "result_path": f"{folder}/result",
        }
    assert benchmark_bin.starts("parity")[0]["output_data_path"] == f"{folder}/output"


def test_our_own_tool_gives_every_sample_and_its_threads(opened, bench_lite):
    session = opened(bench_lite, threads=2)
    np.testing.assert_array_equal(checked(session), output())
    samples = session.measure(Settings(warmup=4, iterations=3)).intervals["compute"]
    assert samples.samples_ns == tuple(latency + index for latency in TIMED_NS for index in range(3))
    assert samples.warmup_ns == tuple(latency for latency in TIMED_NS for _ in range(4))
    assert samples.loops == 1
    account = session.account()
    assert account.effective["affinity"] == {"812": [6, 7], "813": [6, 7]}
    assert account.effective["tasks"][1] == {"id": 813, "cpu": 7, "allowed": "6-7", "ticks": 5}
    assert account.effective["lite_version"] == "v2.13-fake"
    assert account.requested == {"cpus": [6, 7], "power_mode": 0}
    assert reasons(session) == ["emulated"]


def test_threads_that_wander_are_no_such_case(opened, bench_lite):
    bench_lite.behave(allowed="0-7")
    session = opened(bench_lite, threads=4)
    checked(session)
    session.measure(Settings(iterations=3))
    assert evidence(session, "misconfigured") == [
        "threads: 4 on cores 4,5,6,7 asked, 0 of 4 may run there alone, others on 0,1,2,3,4,5,6,7"
    ]


@pytest.mark.parametrize(
    ("short_ms", "budget_s", "repeats"),
    [(20, 20, 33), (20, 60, 100), (0.5, 20, 1000), (500, 20, 30), (5, 6, 40), (6.25, 0.3, 30)],
)
def test_repeats_fill_their_share_of_the_budget(opened, benchmark_bin, short_ms, budget_s, repeats):
    """By a start of its own that is warm: the one for parity takes 90 ms."""
    benchmark_bin.behave(short_ms=short_ms)
    session = opened(benchmark_bin)
    checked(session)
    assert session.measure(Settings(budget_s=budget_s)).intervals["compute"].loops == repeats
    assert benchmark_bin.starts("timed")[0]["warmup"] == "10"


def test_what_was_seen_at_work_is_of_the_tool_itself(opened, benchmark_bin):
    """Not of a shell above it, whose threads may run anywhere."""
    session = opened(benchmark_bin)
    checked(session)
    session.measure(Settings())
    (look,) = benchmark_bin.starts("look")
    assert list(session.account().effective["affinity"]) == [str(look["pid"])]
    assert int(look["repeats"]) == 3000  # a minute, of which it is given a second


def test_clocks_between_starts_are_not_those_at_work(opened, benchmark_bin):
    session = opened(benchmark_bin)
    checked(session)
    session.measure(Settings())
    seen = [bool(look["khz"]) for look in session.account().telemetry["phone"]["during"]]
    assert seen == [True] * 3 + [False] * 3


def test_a_tool_that_ended_before_it_was_looked_at_was_not_watched(opened, benchmark_bin):
    benchmark_bin.behave(look="brief")
    session = opened(benchmark_bin)
    checked(session)
    device.PAUSE_S = 0.3  # put back by `quick`
    assert session.measure(Settings()).intervals["compute"].samples_ns == TIMED_NS
    assert evidence(session, "unwatched") == ["on which cores the threads ran could not be read"]


def test_the_same_input_is_copied_once(opened, benchmark_bin, daemon):
    session = opened(benchmark_bin)
    checked(session)
    daemon.arm(Fault("corrupt", command="^push .*input"))
    np.testing.assert_array_equal(checked(session), output())
    with pytest.raises(Failed, match="the copy is damaged"):
        session.feed([image(0.5)])
    daemon.lift()
    np.testing.assert_array_equal(checked(session, 0.5), output(0.5))


def test_numbers_cross_as_they_are(opened, benchmark_bin, bench_lite):
    """Every float32 has a text of nine digits that is read as the same."""
    value = float(np.float32(1 / 3))
    for used in (benchmark_bin, bench_lite):
        np.testing.assert_allclose(checked(opened(used), value), output(value), rtol=1e-7)


# What is in doubt


PARITY = {
    "exit": "benchmark_bin ended with exit code 1 on the phone; it went wrong",
    "abort": "benchmark_bin died of SIGABRT on the phone",
    "segv": "benchmark_bin died of SIGSEGV on the phone; ",
    "cut": "benchmark_bin's output is not understood",
    "garbage": "benchmark_bin's output is not understood; there is no report",
    "threads": "benchmark_bin ran something else than it was asked to; threads 8, not 1",
    "nan": "benchmark_bin's output is not understood",
    "nan output": "benchmark_bin's output is not understood",
    "profile": "this is a profile build",
    "no result": "No such file",
    "differing": "what it printed and its result file differ",
    "empty": "there is no report, it printed 'nothing'",
}
OUTPUT = {"no output": "No such file", "two": "the model has 2 outputs"}
TIMED = {
    "statistics": "what was timed gave another output than what was checked; mean 5.75 and deviation 2.87",
    "two": "what was timed has other outputs than what was checked; 2, not 1",
}


def line_of(error: BenchError) -> str:
    """Its one line; that a record can hold it and its log."""
    line = str(error)
    assert line.isprintable()
    assert len(line) < ONE_LINE
    try:
        raise error
    except BenchError as raised:
        msgspec.json.encode(Problem(**trouble(raised)._asdict()))
    return line


@pytest.mark.parametrize("kind", [*PARITY, *OUTPUT])
def test_what_is_in_doubt_at_parity_is_no_output(opened, benchmark_bin, kind):
    session = opened(benchmark_bin)
    checked(session)
    benchmark_bin.behave(parity=kind)
    with pytest.raises(BenchError) as caught:
        checked(session)
    assert (PARITY | OUTPUT)[kind] in line_of(caught.value)


@pytest.mark.parametrize("kind", [*PARITY, *TIMED])
def test_what_is_in_doubt_when_timed_is_no_number(opened, benchmark_bin, daemon, kind):
    benchmark_bin.behave(timed=kind)
    session = opened(benchmark_bin)
    checked(session)
    with pytest.raises(Failed) as caught:
        session.measure(Settings())
    assert (PARITY | TIMED)[kind] in line_of(caught.value)
    session.close()
    assert (daemon.phone.leftovers(), daemon.phone.running()) == ([], [])


OURS = {
    "exit": "bench_lite ended with exit code 1 on the phone; it went wrong",
    "segv": "bench_lite died of SIGSEGV on the phone; ",
    "cut": "bench_lite's output is not understood; it is not one whole line",
    "garbage": "bench_lite's output is not understood; it is not one whole line",
    "checksum": "bench_lite's output is not understood; its checksum is of another text",
    "threads": "bench_lite ran something else than it was asked to; threads 8, not 1",
    "statistics": "what was timed gave another output than what was checked",
}


@pytest.mark.parametrize("kind", OURS)
def test_what_is_in_doubt_of_our_own_tool_is_no_number(opened, bench_lite, kind):
    bench_lite.behave(timed=kind)
    session = opened(bench_lite)
    checked(session)
    with pytest.raises(Failed) as caught:
        session.measure(Settings())
    assert OURS[kind] in line_of(caught.value)


@pytest.mark.parametrize("kind", ["letters", "empty", "cut"])
def test_an_output_that_is_no_numbers_of_its_shape_is_refused(opened, bench_lite, kind):
    session = opened(bench_lite)
    session.feed([image()])
    session.run()
    file = {"letters": b"x\n", "empty": b"", "cut": b"1234"}[kind]
    (place,) = session._adb.read(["ls", f"{session._folder}/output"]).split()
    session._adb.shell(f"printf '{file.decode()}' >{place}")
    with pytest.raises(Failed, match="the output of bench_lite cannot be read"):
        session.fetch()


def test_an_output_in_letters_is_refused(opened, benchmark_bin):
    session = opened(benchmark_bin)
    session.feed([image()])
    session.run()
    session._adb.shell(f"echo nothing that counts >{session._folder}/output")
    with pytest.raises(Failed, match="the output of benchmark_bin cannot be read"):
        session.fetch()


def test_a_tool_that_hangs_is_ended(opened, benchmark_bin, daemon, monkeypatch):
    benchmark_bin.behave(timed="hang")
    monkeypatch.setattr(device, "RUN_S", 0.5)
    session = opened(benchmark_bin)
    checked(session)
    with pytest.raises(Failed, match=r"no answer from 127\.0\.0\.1:\d+ within 0\.5 s; 'rm -f /data"):
        session.measure(Settings(timeout_s=1))
    assert daemon.phone.running() == []


def test_a_slow_model_is_given_its_share_of_the_time_limit(opened, benchmark_bin, monkeypatch):
    monkeypatch.setattr(device, "RUN_S", 0.001)
    session = opened(benchmark_bin)
    session.feed([image()])
    with pytest.raises(Failed, match="no answer"):
        session.run()
    monkeypatch.setattr(device, "RUN_S", 20.0)
    checked(session)
    asked = []
    start = session._start

    def noted(warmup, repeats, limit_s):
        asked.append(limit_s)
        return start(warmup, repeats, limit_s)

    monkeypatch.setattr(session, "_start", noted)
    session.measure(Settings(timeout_s=600))
    assert asked == [200.0] * 4  # a short one first


# Tools


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ("2.10", "benchmark_bin of Paddle Lite 2.10 can't write its output; use a newer build"),
        ("2.9", "benchmark_bin of Paddle Lite 2.9 can't read an input; use a newer build"),
        ("2.6", "benchmark_bin of Paddle Lite 2.6 can't write its output; use a newer build"),
    ],
)
def test_a_tool_whose_output_cannot_be_checked_is_refused(opened, benchmark_bin, generation, words):
    benchmark_bin.behave(generation=generation)
    session = opened(benchmark_bin)
    with pytest.raises(Unsupported) as caught:
        checked(session)
    assert line_of(caught.value) == words


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"generation": "3.0"}, "benchmark_bin has flags of no known version; its help names input_shape, model,"),
        ({"help": "linker"}, 'benchmark_bin does not start on the phone; CANNOT LINK EXECUTABLE "benchmark_bin":'),
        ({"help": "abort"}, "benchmark_bin does not start on the phone"),
    ],
)
def test_a_tool_that_is_none_is_refused_and_taken_away(tmp_path, benchmark_bin, daemon, behaviour, words):
    benchmark_bin.behave(**behaviour)
    setup = setup_of(benchmark_bin)
    with pytest.raises(Failed) as caught:
        open_session(tmp_path, setup)
    assert line_of(caught.value).startswith(words)
    assert daemon.phone.leftovers() == []


def test_what_is_effective_names_the_tool(opened, benchmark_bin, bench_lite):
    told = opened(benchmark_bin).effective()
    assert told == {
        "tool": "benchmark_bin",
        "tool_sha256": device.tool.hashlib.sha256(benchmark_bin.path.read_bytes()).hexdigest(),
        "tool_version": "v2.13-fake",
        "libraries_sha256": {},
    }
    assert opened(bench_lite).effective()["tool"] == "bench_lite"


def test_what_is_effective_names_the_libraries(opened, benchmark_bin, monkeypatch):
    library = benchmark_bin.folder / "libc++_shared.so"
    library.write_bytes(b"a library")
    found = device.find_tool
    monkeypatch.setattr(
        device,
        "find_tool",
        lambda *words: msgspec.structs.replace(found(*words), libraries=(str(library),)),
    )
    assert opened(benchmark_bin).effective()["libraries_sha256"] == {
        "libc++_shared.so": hashlib.sha256(b"a library").hexdigest()
    }


@pytest.mark.parametrize("kind", ["benchmark_bin", "bench_lite"])
@pytest.mark.parametrize(("lite", "differs"), [("v2.12", True), ("v2.13.1", False), ("cd09a8e010", False)])
def test_a_model_by_another_paddle_lite_than_the_tools_is_said(opened, request, kind, lite, differs):
    used = request.getfixturevalue(kind)
    used.behave(lite=lite)
    session = opened(used)
    checked(session)
    session.measure(Settings(iterations=3))
    words = f"the model was converted by Paddle Lite v2.13-rc, the tool is of {lite}"
    assert [line for line in evidence(session, "misconfigured") if "converted" in line] == [words] * differs


def test_only_compute_is_timed_on_a_phone(opened, benchmark_bin):
    session = opened(benchmark_bin)
    checked(session)
    with pytest.raises(Unsupported, match="benchmark_bin times compute alone; asked for end_to_end"):
        session.measure(Settings(intervals=("end_to_end",)))


# How the phone fares


def measured(session) -> list[str]:
    """The reasons to distrust a measurement; that its figures are the ones printed all the same."""
    assert session.measure(Settings(iterations=3)).intervals["compute"].samples_ns[0] == TIMED_NS[0]
    return [reason for reason in reasons(session) if reason != "emulated"]


def test_a_phone_that_overheats_meanwhile_is_said_to(opened, bench_lite, daemon):
    session = opened(bench_lite)
    checked(session)
    daemon.arm(Fault("overheat", command="warmup=10"))
    assert sorted(set(measured(session))) == ["hot", "throttled"]
    assert evidence(session, "throttled") == [
        "thermal status 3 (severe) after the measurement (limit 0)",
        "cpu7 was held to 1400.0 MHz of 2841.6 MHz after the measurement",
    ]
    assert evidence(session, "hot") == ["the CPU had 95.0 °C during the measurement (limit 90 °C)"]


def test_a_phone_that_stays_hot_is_measured_in_the_end_and_said_to(opened, bench_lite, daemon):
    session = opened(bench_lite)
    checked(session)
    daemon.phone.set_temperature(45.0)
    assert measured(session) == ["hot"]
    (line,) = evidence(session, "hot")
    assert line.endswith("the CPU had 45.0 °C, +14.0 °C against the start (limit 3 °C)")


def test_a_phone_that_was_hot_when_it_was_planned_is_not_cool_as_it_is(opened, bench_lite, daemon):
    daemon.phone.set_temperature(60.0)
    session = opened(bench_lite)
    checked(session)
    assert measured(session) == ["hot"]
    (line,) = evidence(session, "hot")
    assert line.endswith("the CPU had 60.0 °C at rest (limit 50 °C)")


def test_cores_that_go_offline_meanwhile_are_missed(opened, bench_lite, daemon):
    session = opened(bench_lite, threads=4)
    checked(session)
    daemon.arm(Fault("cores-offline", command="warmup=10"))
    assert "misconfigured" in measured(session)
    assert "cores 5,7 were offline during the measurement" in evidence(session, "misconfigured")


@pytest.mark.parametrize(
    ("threads", "mode", "words"),
    [
        (1, "0", "1 threads asked, to be bound to cpu7 or else to none: cpu7 is offline; let it cool"),
        (2, "0", "2 threads asked, to be bound to cpu6, cpu7 or else to none: cpu7 is offline; let it cool"),
        (4, "0", "4 threads asked, 2 big cores are online (not cpu5, cpu7); let it cool"),
        (4, "1", ""),
        (4, "3", ""),
    ],
)
def test_cores_that_went_offline_since_the_plan_leave_no_such_case(opened, benchmark_bin, daemon, threads, mode, words):
    session = opened(benchmark_bin, threads, power_mode=mode)
    daemon.phone.offline(5, 7)
    checked(session)
    if words:
        with pytest.raises(Unavailable) as caught:
            session.measure(Settings())
        assert line_of(caught.value).startswith(words)
        assert benchmark_bin.starts("timed") == []
    else:
        assert session.measure(Settings()).intervals["compute"].samples_ns == TIMED_NS


@pytest.mark.parametrize(("mode", "left_out"), [("0", [8]), ("1", [8]), ("2", []), ("3", [])])
def test_more_threads_than_cores_of_their_kind_are_left_out_of_the_plan(daemon, mode, left_out):
    card = catalog.cards()["MobileNetV1_x0_25"]
    request = Request(threads=(1, 4, 8), options={"paddle_lite": {"power_mode": mode}})
    found = devices.find(SD855, {})
    plan = make(request, [card], SD855, {"paddle_lite": BACKEND}, {"paddle_lite": ""}, found.cpus, found.found)
    assert [left.case.threads for left in plan.left_out] == left_out
    for left in plan.left_out:
        kind = "big cores (cpu4, cpu5" if mode == "0" else "little cores (cpu0, cpu1"
        assert left.status == "unavailable"
        assert left.reason.startswith(f"8 threads asked, the phone has 4 {kind}")


def test_cores_that_were_offline_when_it_was_planned_are_not_taken_for_little_ones(daemon):
    """A core that is offline has no clock to be read."""
    daemon.phone.offline(5, 7)
    found = devices.find(SD855, {}).found
    seen = msgspec.convert(found["phone"], phone.Phone, strict=False)
    assert [core.number for core in seen.cores if core.max_khz is None] == [5, 7]
    assert phone.big_and_little(seen) == ((4, 5, 6, 7), (0, 1, 2, 3))
    case = Case("Net", "paddle_lite", "sd855", "fp32", 1, threads=4)
    assert BACKEND.obstacle(case, {"power_mode": "0"}, found) == (
        "4 threads asked, 2 big cores are online (not cpu5, cpu7)"
    )


def test_battery_and_screen_are_said(opened, bench_lite, daemon):
    session = opened(bench_lite)
    checked(session)
    daemon.phone.set_battery(30, celsius=43.0, charging=True)
    daemon.phone.set_dumpsys("power", "  mWakefulness=Awake\n")
    assert measured(session) == ["hot", "battery", "battery", "screen_on"]
    assert evidence(session, "battery") == ["at 30 % (limit 50 %)", "charging from USB, which heats the phone"]


# The connection, and which phone it leads to


def test_a_timed_start_that_the_connection_was_lost_in_counts_once_and_whole(opened, benchmark_bin, daemon):
    session = opened(benchmark_bin)
    checked(session)
    daemon.arm(Fault("drop", command="warmup=10", times=1, after_bytes=100))
    samples = session.measure(Settings()).intervals["compute"].samples_ns
    assert samples == (TIMED_NS[1], TIMED_NS[2], TIMED_NS[0])  # the first start's figures are gone
    assert session.account().telemetry["phone"]["connection_losses"] == 1


def test_the_phone_of_the_plan_is_kept_where_another_is_connected_later(
    opened, benchmark_bin, daemon, server, tmp_path
):
    setup = setup_of(benchmark_bin)
    (tmp_path / "other").mkdir()
    with Phone(tmp_path / "other") as other, Daemon(other) as second:
        server.connect(second)
        session = open_session(tmp_path, setup)
        np.testing.assert_array_equal(checked(session), output())
        session.close()
        server.adb("disconnect", daemon.serial)
        with pytest.raises(Unavailable) as caught:
            open_session(tmp_path, setup)
        assert line_of(caught.value).startswith(f"no phone '{daemon.serial}'; there is {second.serial}")
        server.adb("disconnect", second.serial)


def test_another_phone_of_that_address_is_refused(benchmark_bin, daemon, tmp_path):
    setup = setup_of(benchmark_bin)
    daemon.phone.set_property("ro.boot.serialno", "another")
    try:
        with pytest.raises(Unavailable) as caught:
            open_session(tmp_path, setup)
    finally:
        daemon.phone.set_property("ro.boot.serialno", "1234567890")
    assert line_of(caught.value) == (
        "another phone is connected; Loopback Loopback 855 where Loopback Loopback 855 was; connect that one again"
    )


def test_what_a_phone_says_that_is_no_text_can_be_on_record(opened, benchmark_bin, daemon):
    daemon.phone.tool("uname", "printf '4.14-\\377\\n'")
    try:
        found = devices.find(SD855, {})
        assert found.description["device"]["hardware"]["kernel"] == "4.14-\N{REPLACEMENT CHARACTER}"
        msgspec.json.encode(found)
        np.testing.assert_array_equal(checked(opened(benchmark_bin)), output())
    finally:
        daemon.phone.path("/system/bin/uname").unlink()


# One run at a time


def test_a_phone_is_held_by_one_run_alone(daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    found = devices.find(SD855, {})
    with devices.held(found):
        with pytest.raises(Unavailable) as caught, devices.held(found):
            pass
        assert str(caught.value) == (
            "Loopback Loopback 855 is busy; another run of bench measures on it; wait for its end"
        )
    with devices.held(found):
        pass
    assert "1234567890" not in " ".join(path.name for path in tmp_path.rglob("*"))


def test_whoever_held_a_phone_tidies_up(daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    found = devices.find(SD855, {})
    stale = adb._name()
    with devices.held(found):
        daemon.phone.path(f"/data/local/tmp/{stale}").mkdir()
    assert daemon.phone.leftovers() == []


def test_an_engine_for_another_cpu_than_the_tools_is_refused(benchmark_bin, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "target_of", lambda abi: "arm")
    with pytest.raises(Failed, match=r"model\.nb is for x86; the tool computes on arm"):
        open_session(tmp_path, setup_of(benchmark_bin))


def test_a_damaged_engine_is_not_pushed(benchmark_bin, tmp_path, monkeypatch):
    monkeypatch.setattr("on_phone.MODEL", MODEL[:200])
    with pytest.raises(Failed, match=r"model\.nb is damaged"):
        open_session(tmp_path, setup_of(benchmark_bin))
