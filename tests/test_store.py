"""Records on disk: complete, each on its own, whatever is cut, damaged, full or written at once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from command import little_room
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import store
from bench.errors import BenchError, UsageError
from bench.schema import (
    SCHEMA,
    Artifact,
    Case,
    Measurement,
    Parity,
    Record,
    Samples,
    Settings,
    Telemetry,
    Validity,
)
from bench.store import Header, NoRun, RunFile

CASE = Case("DPN92", "tensorrt", "t4", "fp16", 4, 2)
HEADER = Header(run_id="00c0ffee", started_at="2026-11-22T01:02:03.456789Z", bench_version="0.1.0")
FULL_HEADER = Header(
    run_id="00c0ffee",
    started_at="2026-11-22T01:02:03.456789Z",
    bench_version="0.1.0",
    command=("bench", "run", "--model", "模型 1.onnx\n"),
    request={"models": ["模型 1.onnx\n"], "settings": {"budget_s": 0.1}},
    commit="0" * 40,
    environment_id="0123456789ab",
    environment={"hardware": {"cpu": {"name": None}}, "variables": {}},
)
FULL = Record(
    run_id="00c0ffee",
    case=CASE,
    repetition=3,
    started_at="2026-11-22T01:02:04.000001Z",
    status="ok",
    reason="naïve; 原因",
    log="line\nline\r\n\u2028\x85\0\x1b[31m",
    validity=(Validity("noisy", "1.7 cores"), Validity("throttled", "3 periods")),
    settings=Settings(
        intervals=("end_to_end", "compute"),
        warmup=1,
        iterations=2,
        repetitions=3,
        budget_s=4.5,
        precision_target=0.1,
        timeout_s=1e3,
        memory_limit_bytes=2**40,
        weights="pretrained",
        options={"onednn": "off"},
    ),
    semantics={"compute": "one inference"},
    measurement=Measurement(
        intervals={
            "compute": Samples(
                samples_ns=(2**62, 1),
                warmup_ns=(3,),
                steady=False,
                loops=2,
                telemetry=Telemetry(
                    cpu_ns=(1, 2), involuntary_switches=(0, 1), minor_faults=(5, 0), major_faults=(0, 7)
                ),
            )
        },
        load_ns=1,
        first_ns=2,
        build_ns=3,
        peak_memory_bytes=4,
        timer="device",
    ),
    parity=Parity(
        max_error=1e-300, cosine=0.1 + 0.2, top1_agreement=1.0, tolerance=1e-3, reference="x", images=8, denormals=2
    ),
    artifact=Artifact(format="onnx", path="a/b.onnx", sha256="ab", size_bytes=5, made_by={"from": {"opset": 17}}),
    requested={"threads": 2, "cpus": [1, 2]},
    effective={"threads": 1, "provider": None},
    telemetry={"spent_ns": 12},
    environment_id="0123456789ab",
)


def record(number=0, **changes):
    plain = Record(
        run_id="00c0ffee", case=CASE, repetition=number, started_at="2026-11-22T01:02:04Z", status="failed", reason="x"
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture
def quick(monkeypatch):
    """Without waiting for the disk, where a test does not look at that."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def run(tmp_path):
    """A finished run of three records."""
    with RunFile.create(tmp_path, HEADER) as file:
        for number in range(3):
            file.append(record(number))
    return file.path


def parts_at_their_default(thing):
    """The names of fields, of the struct or of those in it, that a test of all fields would not notice."""
    if isinstance(thing, msgspec.Struct):
        for field in msgspec.structs.fields(thing):
            value = getattr(thing, field.name)
            if value == field.default and field.name != "schema":
                yield field.name
            yield from parts_at_their_default(value)
    elif isinstance(thing, dict | tuple):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from parts_at_their_default(part)


# What is written


@pytest.mark.parametrize("thing", [FULL, FULL_HEADER], ids=["record", "header"])
def test_the_examples_leave_no_field_out(thing):
    assert not list(parts_at_their_default(thing))


def test_every_field_comes_back(tmp_path):
    with RunFile.create(tmp_path, FULL_HEADER) as file:
        file.append(FULL)
        file.append(record())
    run = store.read(file.path)
    assert run.headers == (FULL_HEADER,)
    assert run.records == (FULL, record())
    assert run.damaged == 0
    assert run.run_id == "00c0ffee"


def test_a_line_holds_all_that_the_contract_names(run):
    """Also what has its default: a reader of tomorrow has other ones, and one in another language none."""
    header, *lines = map(json.loads, run.read_text().splitlines())
    assert header["kind"] == "header"
    assert header["schema"] == SCHEMA
    assert {"command", "environment"} <= set(header)
    for line in lines:
        assert set(line) == {"kind"} | set(Record.__struct_fields__)
        assert line["kind"] == "record"
        assert line["schema"] == SCHEMA
        assert line["validity"] == []
        assert line["measurement"] is None


def test_the_file_is_named_by_start_and_run(run, tmp_path):
    assert run == tmp_path / "20261122T010203Z-00c0ffee.jsonl"
    assert list(tmp_path.iterdir()) == [run]


def test_a_record_is_on_the_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    with RunFile.create(tmp_path, HEADER) as file:
        for number in range(3):
            file.append(record(number))
            assert synced[-1] == file.path.stat().st_size
            assert len(store.read(file.path).records) == number + 1
    assert len(synced) == 4


def test_times_are_utc_and_sort_as_they_happened():
    first, second = store.now(), store.now()
    assert first.endswith("Z")
    assert len(first) == len("2026-11-22T01:02:03.456789Z")
    assert first <= second


def test_run_ids_differ():
    assert len({store.new_run_id() for _ in range(100)}) == 100


# Torn and damaged lines


def test_a_cut_anywhere_in_the_last_line_loses_that_line_only(run, quick):
    whole = run.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    earlier = (record(0), record(1))
    for end in range(start, len(whole) + 1):
        run.write_bytes(whole[:end])
        found = store.read(run)
        complete = end >= len(whole) - 1
        assert found.records == ((*earlier, record(2)) if complete else earlier), end
        assert found.damaged == (not complete and end > start)
        with RunFile.reopen(run, HEADER) as file:
            file.append(record(7))
        assert store.read(run).records == (*found.records, record(7)), end
        assert store.read(run).damaged == found.damaged
        assert len(store.read(run).headers) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        b"{}",
        b"null",
        b'{"kind": "record"}',
        b'{"kind": "other", "schema": 1}',
        b"\0" * 4096,
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"kind": "record", "requested": ' + b'{"a":' * 100_000,
        b'{"schema": "2.0"}',
        b'{"schema": 1e999}',
        b'{"kind": "record", "run_id": "\xff"}',
        b'{"kind": "header", "schema": 1',
    ],
    ids=lambda garbage: repr(garbage[:24]),
)
def test_damaged_lines_are_counted_and_cost_no_other(run, garbage):
    lines = run.read_bytes().splitlines()
    run.write_bytes(b"\n".join([lines[0], lines[1], garbage, lines[2], b"", garbage, lines[3]]) + b"\n")
    found = store.read(run)
    assert found.records == (record(0), record(1), record(2))
    assert found.damaged == 2


def test_windows_line_ends_and_blank_lines_are_none(run):
    run.write_bytes(run.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert len(store.read(run).records) == 3
    assert store.read(run).damaged == 0


@pytest.mark.parametrize("content", [b"", b"\n\n", b"garbage\n", b'{"kind": "hea'])
def test_a_file_without_a_header_is_refused(tmp_path, content):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(NoRun, match=r"run\.jsonl holds no run; no header line can be read") as caught:
        store.read(path)
    assert caught.value.exit_code == 2


def test_records_without_their_header_are_refused(run):
    run.write_bytes(b"".join(run.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(NoRun):
        store.read(run)


@pytest.mark.parametrize("path", ["none.jsonl", ".", "x" * 300])
def test_a_file_that_cannot_be_read_is_said(tmp_path, path):
    with pytest.raises(UsageError, match="cannot read"):
        store.read(tmp_path / path)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_no_bytes_raise_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.jsonl"
    path.write_bytes(data)
    with pytest.raises(UsageError):
        store.read(path)


LINES = [msgspec.json.encode(store.Line(**msgspec.structs.asdict(FULL))), msgspec.json.encode(FULL_HEADER)]


@settings(deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES) | st.binary(max_size=40), max_size=6),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
)
def test_no_edit_raises_anything_else(tmp_path_factory, lines, edits):
    data = bytearray(b"\n".join(lines))
    for place, value in edits:
        if data:
            data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "edited.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(UsageError):
        found = store.read(path)
        assert found.headers
        assert found.damaged <= len(bytes(data).splitlines())


# Other versions


@pytest.mark.parametrize("number", [1, 2, 4], ids=["header", "record", "last"])
@pytest.mark.parametrize("change", [{}, {"unheard_of": [1]}, {"status": "postponed"}], ids=["same", "more", "other"])
def test_a_newer_schema_is_refused_by_name(run, number, change):
    lines = run.read_text().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **change, "schema": SCHEMA + 1})
    run.write_text("\n".join(lines))
    with pytest.raises(UsageError) as caught:
        store.read(run)
    assert str(caught.value) == (
        f"{run}:{number} was written by a newer bench; "
        f"schema {SCHEMA + 1}, this bench reads up to {SCHEMA}; upgrade bench"
    )


def test_a_record_of_schema_1_is_read(tmp_path):
    """As the first bench wrote it, which left out what had its default."""
    path = tmp_path / "old.jsonl"
    path.write_text(
        '{"kind":"header","run_id":"a","started_at":"2026-11-21T00:00:00Z","bench_version":"0.1.0"}\n'
        '{"kind":"record","run_id":"a","case":{"model":"m","backend":"paddle","device":"cpu","precision":"fp32",'
        '"batch_size":1,"threads":1},"repetition":0,"started_at":"2026-11-21T00:00:01Z","status":"unsupported",'
        '"reason":"why"}\n'
    )
    (found,) = store.read(path).records
    assert found.case.key == "m/paddle/cpu/fp32/bs1/t1"
    assert found.reason == "why"


# Several writers


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with RunFile.create(tmp_path, HEADER) as file:
        with pytest.raises(UsageError, match=f"run 00c0ffee is still going; {file.path}; wait for it, or stop it"):
            RunFile.reopen(file.path, HEADER)
        assert len(store.read(file.path).headers) == 1
    with RunFile.reopen(file.path, HEADER) as again:
        again.append(record())
    assert len(store.read(file.path).headers) == 2


HOLD = """
import os, signal, sys
from pathlib import Path
from bench.store import Header, RunFile

file = RunFile.create(Path(sys.argv[1]), Header(run_id="a", started_at="2026-11-22T01:02:03Z", bench_version=""))
print(file.path, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_is_gone_with_its_holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        path = Path(process.stdout.readline().rstrip("\n"))
        with pytest.raises(UsageError, match="still going"):
            RunFile.reopen(path, HEADER)
        process.stdin.close()
        assert process.wait(30) == -signal.SIGKILL
    RunFile.reopen(path, HEADER).close()


def test_reading_does_not_wait_for_the_writer(tmp_path):
    with RunFile.create(tmp_path, HEADER) as file:
        file.append(record())
        assert store.read(file.path).records == (record(),)


# Several files


@pytest.fixture
def two(tmp_path):
    """Two runs, of two devices."""
    for device, run_id, day in (("t4", "b", "02"), ("cpu", "a", "01")):
        header = msgspec.structs.replace(HEADER, run_id=run_id, started_at=f"2026-11-{day}T00:00:00Z")
        with RunFile.create(tmp_path / device, header) as file:
            file.append(record(0, run_id=run_id))
            file.append(record(1, run_id=run_id))
    return tmp_path


def test_all_runs_are_found_oldest_first(two):
    assert [run.run_id for run in store.read_all(two)] == ["a", "b"]


def test_one_file_is_a_run_too(two):
    path = store.paths(two)[1]
    assert store.paths(path) == [path]
    assert [run.run_id for run in store.read_all(path)] == ["b"]


def test_only_files_are_runs(two):
    (two / "folder.jsonl").mkdir()
    (two / "broken.jsonl").symlink_to("nowhere")
    os.mkfifo(two / "pipe.jsonl")
    assert len(store.paths(two)) == 2
    assert store.paths(two / "nowhere") == []


def test_copies_merge(two):
    merged = two / "all.jsonl"
    merged.write_bytes(b"".join(path.read_bytes() for path in store.paths(two)))
    found = store.read(merged)
    assert [header.run_id for header in found.headers] == ["a", "b"]
    assert [(kept.run_id, kept.repetition) for kept in found.records] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert found.damaged == 0


def test_a_cut_file_merges_with_the_next(two):
    """`cat` glues a torn line to the header that follows: that header is lost with it, and no other line."""
    first, second = (path.read_bytes() for path in store.paths(two))
    (two / "all.jsonl").write_bytes(first[:-3] + second)
    found = store.read(two / "all.jsonl")
    assert [(kept.run_id, kept.repetition) for kept in found.records] == [("a", 0), ("b", 0), ("b", 1)]
    assert found.damaged == 1


def test_the_latest_attempt_counts():
    other = msgspec.structs.replace(CASE, batch_size=8)
    failed, ok = record(0), record(0, status="ok", reason="")
    second, elsewhere = record(1), record(0, case=other)
    assert store.latest((failed, second, elsewhere, ok)) == [ok, second, elsewhere]
    assert store.latest(iter((ok, failed))) == [failed]
    assert store.latest(()) == []


def test_the_latest_attempt_is_the_last_written_whatever_the_clock_said():
    first, second = record(0, started_at="2026-11-22T02:00:00Z"), record(0, started_at="2026-11-22T01:00:00Z")
    assert store.latest([first, second]) == [second]


# A full disk, and others that cannot be written


@pytest.fixture
def room(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with little_room(folder, 1 << 14) as room:
        yield room


def fill(file):
    """Appends records until one is refused; their number, and the error."""
    for number in range(1000):
        try:
            file.append(record(number, log="x" * 1000))
        except BenchError as error:
            return number, error
    raise AssertionError("the disk was never full")


def test_a_full_disk_is_said_and_leaves_no_piece_of_a_line(room):
    with RunFile.create(room.folder, HEADER) as file:
        saved, error = fill(file)
        assert saved > 3
        assert error.exit_code == 1
        assert str(error) == (
            f"cannot save a record of {CASE.key} to {file.path}; {os.strerror(room.error)}; "
            "make room, then go on with: bench run --resume"
        )
        assert file.path.read_bytes().endswith(b"\n")
        room.relieve()
        file.append(record(saved))
        found = store.read(file.path)
        assert [kept.repetition for kept in found.records] == list(range(saved + 1))
        assert found.damaged == 0


def test_a_run_goes_on_once_there_is_room_again(room):
    with RunFile.create(room.folder, HEADER) as file:
        saved, _ = fill(file)
    room.relieve()
    with RunFile.reopen(file.path, HEADER) as file:
        file.append(record(saved))
    found = store.read(file.path)
    assert [kept.repetition for kept in found.records] == list(range(saved + 1))
    assert found.damaged == 0


def test_no_file_is_begun_on_a_full_disk(room):
    header = msgspec.structs.replace(HEADER, environment={"much": "x" * (1 << 15)})
    with pytest.raises(UsageError, match="name another with --results DIR"):
        RunFile.create(room.folder, header)
    assert list(room.folder.iterdir()) == []


@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), OSError(122, "Disk quota exceeded")], ids=repr)
def test_a_record_that_cannot_be_synced_is_not_saved(tmp_path, monkeypatch, trouble):
    def fail(descriptor):
        raise trouble

    with RunFile.create(tmp_path, HEADER) as file:
        file.append(record(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(BenchError, match=trouble.strerror):
                file.append(record(1))
        file.append(record(2))
    assert [kept.repetition for kept in store.read(file.path).records] == [0, 2]


@pytest.mark.parametrize("folder", ["file/results", "/proc/results", "/dev/null/results"])
def test_a_folder_that_cannot_be_written_is_said(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"cannot write results to {tmp_path / folder}"):
        RunFile.create(tmp_path / folder, HEADER)


def test_a_run_that_cannot_be_written_to_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot write"):
        RunFile.reopen(tmp_path / "gone" / "run.jsonl", HEADER)
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="No space left on device"):
        RunFile.reopen(tmp_path / "full.jsonl", HEADER)


def test_a_name_that_is_no_utf8_is_said(tmp_path):
    with pytest.raises(UsageError, match="not valid UTF-8"):
        RunFile.create(tmp_path, msgspec.structs.replace(HEADER, command=("bench", "run", "--results", "\udcff")))
    assert list(tmp_path.glob("**/*.jsonl")) == []


def test_what_could_not_be_read_again_is_not_saved(tmp_path):
    """JSON has no infinity: the line would be a damaged one."""
    with RunFile.create(tmp_path, HEADER) as file:
        with pytest.raises(BenchError, match="cannot save what could not be read again"):
            file.append(record(0, settings=Settings(budget_s=float("inf"))))
        file.append(record(1))
    assert store.read(file.path).records == (record(1),)
    assert store.read(file.path).damaged == 0


def test_a_discarded_run_leaves_nothing(tmp_path):
    with RunFile.create(tmp_path, HEADER) as file:
        file.discard()
    assert list(tmp_path.iterdir()) == []
