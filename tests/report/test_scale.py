"""What many records come to; how long that takes is measured by `nox -s scale`."""

import sys
import weakref

import pytest
import synthetic_records

from bench import report, store
from bench.report import Reading, rows
from bench.schema import Case

from . import case, header, ok, write

SAMPLES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """5,000 records of 400 cases: two runs and a half of all of them, five processes each."""
    made = tmp_path_factory.mktemp("many")
    synthetic_records.write(made, 5000, different=400, samples=SAMPLES)
    return made


def test_five_thousand_records(folder):
    built = report.build(folder)
    assert sum(len(store.read(path).records) for path in store.paths(folder)) == 5000
    assert len(built.rows) == 400
    assert {(row.repetitions, row.samples, row.status) for row in built.rows} == {(5, 5 * SAMPLES, "ok")}
    assert built.warnings == ()
    for name in ("csv", "json", "markdown", "latex", "text"):
        assert report.get(name).render(built).count("model_") >= sum(row.family == "own" for row in built.rows)


def test_the_latest_run_of_a_case_counts(tmp_path):
    synthetic_records.write(
        tmp_path, 5 * (synthetic_records.CASES_A_RUN + 10), different=synthetic_records.CASES_A_RUN, samples=2
    )
    found = report.build(tmp_path).rows
    assert sorted(row.run_id for row in found).count("00000001") == 10
    assert len(found) == synthetic_records.CASES_A_RUN


def test_the_generator_is_seeded(folder, tmp_path):
    synthetic_records.write(tmp_path, 5000, different=400, samples=SAMPLES)
    assert [path.read_bytes() for path in store.paths(tmp_path)] == [path.read_bytes() for path in store.paths(folder)]


def test_cases_of_the_generator_differ():
    found = synthetic_records.cases(10_000)
    assert len(set(found)) == 10_000
    assert isinstance(found[0], Case)


def test_superseded_samples_are_let_go(tmp_path):
    """While the third run is read, nothing of the first is in memory."""
    for day in (1, 2, 3):
        write(tmp_path, [ok(case(), i, day=day) for i in range(3)], header(day))
    samples = []

    def watched(runs):
        for run in runs:
            samples.append(weakref.ref(run.records[0].measurement.intervals["compute"].samples_ns))
            yield run
        assert samples[0]() is None

    (row,) = rows.rows(watched(Reading({}, {}).runs(tmp_path)), {})
    assert (row.run_id, len(samples)) == ("run3", 3)


def test_a_record_is_kept_lean():
    found = rows.lean(ok(case(), log="x" * 10**6, effective={"a": 1}))
    samples = found.measurement.intervals["compute"]
    assert (found.log, found.effective, samples.warmup_ns, samples.telemetry.cpu_ns) == ("", {}, (), ())
    assert sys.getsizeof(samples.samples_ns) < 10 * len(samples.samples_ns) + 100
    assert list(samples.samples_ns) == list(ok(case()).measurement.intervals["compute"].samples_ns)
