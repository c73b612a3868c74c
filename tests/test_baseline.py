"""Stored records as sessions, sessions as a baseline, and the file that a baseline is."""

import json
import math
import shutil
import statistics

import pytest
import stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored import CASE, HERE, process, session, validity

from bench import baseline, environment, verdict
from bench.baseline import Baseline, Quantity, Reading
from bench.errors import UsageError
from bench.schema import Artifact, Case, Settings

CLASS = environment.machine_class(HERE)
QUANTITY = Quantity(case=CASE, interval="compute", options=(("threads", "1"),))


def sessions(folder):
    return baseline.sessions(Reading(folder).runs())


def one_session(folder, processes, **fields):
    stored.run(folder, 0, processes, **fields)
    (found,) = sessions(folder)
    return found


# Sessions


def test_a_session_is_the_median_of_its_processes(tmp_path):
    found = one_session(tmp_path, [process(ms, seed=seed) for seed, ms in enumerate((5, 7, 6, 9, 8))])
    samples = [
        process(ms, seed=seed)["measurement"].intervals["compute"].samples_ns for seed, ms in enumerate((5, 7, 6, 9, 8))
    ]
    assert found.raw == tuple(math.log(statistics.median(each)) for each in samples)
    assert found.value("raw") == statistics.median(found.raw)
    assert found.normalised == ()
    assert found.value("normalised") is None
    assert (found.quantity, found.machine, found.run_id) == (QUANTITY, CLASS, "00000000")
    assert (found.started_at, found.commit, found.spent_s) == (stored.day(0), "0" * 39 + "1", 10.0)
    assert found.words == "Example CPU 7, 2 usable CPUs, virtual machine (kvm)"
    assert found.software == {"python": "CPython 3.11.9", "kernel": "6.1.0", "onnxruntime": "1.20.0"}


def test_the_probe_normalises(tmp_path):
    found = one_session(tmp_path, session(6.0, probe_ms=0.3))
    record = Reading(tmp_path).runs().__next__().records[0]
    samples, shots = record.measurement.intervals["compute"].samples_ns, record.telemetry["probe_ns"]["compute"]
    assert (len(samples), len(shots)) == (40, 10)
    beside = [shots[index // 4] for index in range(40)]
    assert found.normalised[0] == verdict.process_value(samples, beside)
    assert found.raw[0] == verdict.process_value(samples)
    assert found.probe == pytest.approx(math.log(0.3e6), abs=0.003)


@pytest.mark.parametrize(
    "kept", [None, [], [1] * 40, {"end_to_end": [1] * 40}, {"compute": []}, {"compute": [0] * 40}, {"compute": ["1"]}]
)
def test_without_a_sound_probe_a_number_is_raw(tmp_path, kept):
    processes = [process(6.0, telemetry={"probe_ns": kept}) for _ in range(5)]
    found = one_session(tmp_path, processes)
    assert (len(found.raw), found.normalised) == (5, ())


@pytest.mark.parametrize("reason", sorted(baseline.UNFIT))
def test_unfit_processes_do_not_count(tmp_path, reason):
    found = one_session(
        tmp_path, [*session(6.0, probe_ms=0.3), process(9.0, 0.3, validity=validity(reason, "contended"))]
    )
    assert (len(found.raw), len(found.normalised)) == (5, 5)
    assert found.left_out == (reason,)
    assert found.doubts == {reason: 1, "contended": 1}


def test_processes_that_are_only_disturbed_count(tmp_path):
    found = one_session(tmp_path, session(6.0, validity=validity("contended", "faulting")))
    assert (len(found.raw), found.left_out) == (5, ())


def test_preempted_processes_need_a_probe(tmp_path):
    marked = validity("preempted")
    bare = one_session(tmp_path / "bare", session(6.0, validity=marked))
    assert (bare.raw, bare.left_out) == ((), ("preempted, and it has no probe",) * 5)
    probed = one_session(tmp_path / "probed", session(6.0, probe_ms=0.3, validity=marked))
    assert (len(probed.normalised), probed.raw, probed.left_out, probed.probe) == (5, (), (), None)


def columns(threads):
    """Every iteration preempted, and half of its time spent waiting."""
    return {"cpu_ns": (3_000_000,) * 40, "involuntary_switches": (1,) * 40, "threads": threads}


@pytest.mark.parametrize(("threads", "device", "by_cpu"), [(1, "cpu", True), (2, "cpu", False), (1, "t4", False)])
def test_cpu_time_stands_in_where_it_means_something(tmp_path, threads, device, by_cpu):
    counters = {name: value for name, value in columns(threads).items() if name != "threads"}
    case = Case("DPN68", "onnxruntime", device, "fp32", 1, threads)
    found = one_session(tmp_path, session(6.0, probe_ms=0.3, **counters), case=case)
    ms = math.exp(found.value("normalised") + 0.8 * math.log(0.3e6)) / 1e6
    assert ms == pytest.approx(3.0 if by_cpu else 6.0, rel=0.02)


@pytest.mark.parametrize("counters", [{"cpu_ns": (1,)}, {"involuntary_switches": (1,) * 39}])
def test_damaged_columns_do_not_count(tmp_path, counters):
    found = one_session(tmp_path, session(6.0, probe_ms=0.3, **counters))
    assert (found.raw, found.left_out[0]) == ((), "its columns differ in length")


def test_samples_of_nothing_do_not_count(tmp_path):
    found = one_session(tmp_path, [process(6.0, iterations=0), process(0.0), *session(6.0)])
    assert found.left_out == ("it holds no usable samples",) * 2
    assert len(found.raw) == 5


def test_a_copied_run_is_one_session(tmp_path):
    path = stored.run(tmp_path, 0, session(6.0))
    shutil.copy(path, path.with_name("copy.jsonl"))
    (found,) = sessions(tmp_path)
    assert len(found.raw) == 5


def test_of_a_repetition_the_last_try_counts(tmp_path):
    path = stored.run(tmp_path, 0, session(6.0))
    lines = path.read_text().splitlines()
    again = json.loads(lines[1]) | {"started_at": stored.day(1)}
    again["measurement"]["intervals"]["compute"]["samples_ns"] = [9_000_000] * 40
    path.write_text("\n".join([lines[0], json.dumps(again), *lines[1:]]) + "\n")
    (found,) = sessions(tmp_path)
    assert found.raw[0] == math.log(9e6)


def test_a_machine_nobody_knows_is_no_machine(tmp_path):
    stored.run(tmp_path, 0, session(6.0), description={})
    assert sessions(tmp_path) == []


def test_what_is_measured_apart_is_a_session_apart(tmp_path):
    stored.run(tmp_path, 0, session(6.0, intervals=("compute", "end_to_end")))
    stored.run(tmp_path, 1, session(6.0), settings=Settings(options={"threads": "2"}))
    stored.run(tmp_path, 2, session(6.0), settings=Settings(options={"threads": "1"}, weights="pretrained"))
    stored.run(tmp_path, 3, session(6.0), description=stored.ELSEWHERE)
    found = {
        (each.quantity.interval, each.quantity.weights, each.quantity.options, each.machine)
        for each in sessions(tmp_path)
    }
    assert len(found) == 5


def test_files_that_hold_no_run_are_left_out_with_a_warning(tmp_path):
    path = stored.run(tmp_path, 0, session(6.0))
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "cpu" / "odd.jsonl").write_text("{")
    reading = Reading(tmp_path)
    assert len(list(reading.runs())) == len(list(reading.runs())) == 1
    assert len(reading.warnings) == 2
    with pytest.raises(UsageError, match=r"holds no run"):
        list(Reading(tmp_path / "cpu" / "odd.jsonl").runs())


@pytest.mark.parametrize(("name", "found"), [(".", "it holds no run"), ("nowhere", "there is no such file")])
def test_no_results(tmp_path, name, found):
    with pytest.raises(UsageError, match=f"no results in .*; {found}"):
        Reading(tmp_path / name)


# Beta


@pytest.mark.parametrize(("count", "beta"), [(9, baseline.BETA), (10, 0.7), (14, 0.7)])
def test_beta_is_fitted_from_ten_sessions_on(tmp_path, count, beta):
    speeds = [1 + 0.02 * (number % 5) for number in range(count)]
    for number, speed in enumerate(speeds):
        for case, ms, first in ((CASE, 6.0, 0), (stored.OTHER, 20.0, 500)):
            stored.run(
                tmp_path, number + first, [process(ms * speed**0.7, 0.3 * speed, seed=n) for n in range(5)], case=case
            )
    found, machines = baseline.all_sessions(Reading(tmp_path))
    assert machines[CLASS].beta == pytest.approx(beta, abs=0.01)
    values = [each.value("normalised") for each in found if each.quantity.case == CASE]
    assert (statistics.pstdev(values) < 0.001) == (count >= 10)


# A baseline


def make(folder, **fields):
    return baseline.from_records(Reading(folder), **fields)


def test_a_baseline_is_a_line_of_numbers_for_each_case(tmp_path):
    stored.runs(tmp_path, [6.0, 6.1, 6.2, 5.9, 6.0], probe_ms=0.3)
    stored.run(tmp_path, 9, session(6.0, count=3))
    made = make(tmp_path)
    (entry,) = made.cases
    assert entry.quantity == QUANTITY
    assert (entry.runs, entry.processes) == (
        tuple(f"{number:08x}" for number in (0, 1, 2, 3, 4, 9)),
        (5, 5, 5, 5, 5, 3),
    )
    assert entry.raw[-1] is entry.normalised[-1] is entry.ms[-1] is None
    assert [round(math.exp(value) / 1e6, 3) for value in entry.values("raw")] == pytest.approx(entry.ms[:5], rel=1e-3)
    assert len(entry.values("normalised", without="00000002")) == 4
    assert made.software[entry.software]["onnxruntime"] == "1.20.0"
    assert made.runs["00000003"].commit == f"{4:040x}"
    assert made.requests == (stored.REQUEST,)
    assert make(tmp_path, without=["00000009", "00000000"]).cases[0].runs == tuple(
        f"{number:08x}" for number in range(1, 5)
    )


def test_across_an_upgrade_only_the_newest_runtimes_count(tmp_path):
    newer = HERE | {"packages": {"onnxruntime": "1.21.0"}}
    stored.runs(tmp_path, [6.0] * 3)
    stored.runs(tmp_path, [5.0] * 2, first=3, description=newer)
    (entry,) = make(tmp_path).cases
    assert entry.runs == ("00000003", "00000004")


def test_the_newest_whole_sessions_are_kept(tmp_path):
    stored.runs(tmp_path, [6.0] * 6)
    stored.run(tmp_path, 7, session(6.0, count=2))
    (entry,) = make(tmp_path, most=4).cases
    assert entry.runs == ("00000002", "00000003", "00000004", "00000005")


def test_a_baseline_says_what_it_lacks(tmp_path):
    stored.runs(tmp_path, [6.0] * 4)
    (warning,) = make(tmp_path).warnings
    assert warning.startswith("1 of 1 cases have fewer than 5 sessions of 4 processes")
    stored.runs(tmp_path, [6.0], first=4)
    assert make(tmp_path).warnings == []


def test_a_baseline_of_one_hour_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "day", lambda number: f"2026-09-01T03:{number:02}:00.000000Z")
    stored.runs(tmp_path, [6.0] * 5)
    assert make(tmp_path).warnings == [
        "all sessions are of one hour; a machine's speed changes over days, so add some of other days"
    ]


def test_nothing_sound_makes_no_baseline(tmp_path):
    stored.run(tmp_path, 0, [{"status": "failed", "reason": "it broke"}])
    with pytest.raises(UsageError, match=r"no baseline in .*; no run in it has sound measurements"):
        make(tmp_path)


@pytest.mark.parametrize("model", ["DPN68", "models/my net.onnx", "/a/b/c/d/e/f.onnx", ""])
def test_the_case_of_a_key(model):
    case = Case(model, "openvino", "xeon-6148", "int8", 16, 4)
    assert baseline.case_of(case.key) == case


# The file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    stored.runs(folder, [6.0, 6.1, 6.2, 5.9, 6.0], probe_ms=0.3)
    stored.runs(folder, [9.0] * 5, first=10, case=stored.OTHER, description=stored.ELSEWHERE)
    path = folder / "base.json"
    baseline.save(make(folder), path)
    return path


def test_a_saved_baseline_is_read_back(saved):
    read = baseline.load(saved)
    assert isinstance(read, Baseline)
    assert baseline.text_of(read) == saved.read_text()
    assert len(read.machines) == 2


def test_a_person_can_read_it_in_a_diff(saved):
    lines = saved.read_text().splitlines()
    (line,) = [line for line in lines if '"DPN68/' in line]
    entry = json.loads(line.rstrip(","))
    assert list(entry) == ["case", *sorted(set(entry) - {"case"})]
    assert entry["ms"] == pytest.approx([6.0, 6.1, 6.2, 5.9, 6.0], rel=0.01)
    assert '"words": "Example CPU 7, 2 usable CPUs, virtual machine (kvm)"' in saved.read_text()
    assert sum(line.startswith('{"case"') for line in lines) == 2


def test_layout_may_change_but_not_content(saved, tmp_path):
    data = json.loads(saved.read_text())
    path = tmp_path / "base.json"
    path.write_text(json.dumps(data, indent=4))
    assert baseline.load(path) == baseline.load(saved)


def leaves(value, path=()):
    """Every number and text in the file, by where it stands."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def put(data, path, value):
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def test_any_edit_is_refused(saved, tmp_path):
    path = tmp_path / "base.json"
    for place, value in leaves(json.loads(saved.read_text())):
        data = json.loads(saved.read_text())
        put(data, place, value + 1e-6 if isinstance(value, int | float) else f"{value}x")
        path.write_text(json.dumps(data))
        with pytest.raises(UsageError, match=r"was changed after it was saved|is no baseline|by a newer bench"):
            baseline.load(path)


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_file_cut_off_anywhere_is_refused(saved, tmp_path_factory, cut):
    data = saved.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(data[: int(cut * (len(data) - 2))])
    with pytest.raises(UsageError, match=r"is no baseline; it is (cut off|empty)"):
        baseline.load(path)


@given(
    st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from([b"[]", b"1", b"[" * 100_000, b'{"cases": 1}']))
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_other_file_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"is no baseline"):
        baseline.load(path)


@pytest.mark.parametrize("format_", [2, 99])
def test_a_newer_format_is_refused_by_name(saved, tmp_path, format_):
    path = tmp_path / "base.json"
    path.write_text(json.dumps(json.loads(saved.read_text()) | {"bench_baseline": format_}))
    with pytest.raises(UsageError, match=f"by a newer bench; baseline format {format_}, this bench reads up to 1"):
        baseline.load(path)


def test_a_hash_that_fits_does_not_excuse_the_contents(saved, tmp_path):
    data = json.loads(saved.read_text())
    data["cases"][0]["raw"][0] = "fast"
    rest = {name: value for name, value in data.items() if name not in ("bench_baseline", "content_hash")}
    path = tmp_path / "base.json"
    path.write_text(json.dumps(data | {"content_hash": baseline._hash(rest)}))
    with pytest.raises(UsageError, match=r"is no baseline; Expected `float \\| null`, got `str`"):
        baseline.load(path)


def test_saving(saved, tmp_path):
    made = baseline.load(saved)
    with pytest.raises(UsageError, match=r"is called like a file of records"):
        baseline.save(made, tmp_path / "base.jsonl")
    with pytest.raises(UsageError, match=r"cannot write .*Is a directory"):
        baseline.save(made, tmp_path)
    baseline.save(made, tmp_path / "deep" / "base.json")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["base.json"]


def test_absent_file():
    with pytest.raises(UsageError, match=r"cannot read nowhere.json; No such file"):
        baseline.read(baseline.Path("nowhere.json"))


def test_builds_of_one_model_are_no_other_models():
    """An engine of TensorRT is another file after each build."""
    made_by = {"backend": "tensorrt", "source": "5" * 64}
    engines = [Artifact("tensorrt", "model.plan", digit * 64, 1, made_by) for digit in "12"]
    assert {engine.model for engine in engines} == {"5" * 64}
    exported = Artifact("onnx", "model.onnx", "1" * 64, 1, {"source": "5" * 64})
    assert (exported.model, exported.origin) == ("1" * 64, "5" * 64)
