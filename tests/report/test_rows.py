"""Which records make a row, what the row says, and what `build` refuses."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import catalog, report, runner
from bench.errors import UsageError
from bench.report import tables
from bench.report.rows import Row, rows
from bench.schema import Artifact, Measurement, Samples, Validity
from bench.store import Run

from . import CARDS, ENGINE, bad, case, header, measurement, ok, samples, write

CONTRACT = (
    "model family backend device precision batch_size threads interval status reason validity latency_ms ci_low_ms "
    "ci_high_ms p90_ms p99_ms min_ms samples repetitions throughput parity_max_error top1 top5 gmacs params_m "
    "storage_mb source"
)
NUMBERS = (
    "latency_ms ci_low_ms ci_high_ms ci_level p90_ms p99_ms min_ms mean_ms throughput "
    "first_ms load_ms build_ms export_ms peak_memory_mb parity_max_error"
)


def run(*records, day=1):
    return Run(path=Path("a.jsonl"), headers=(header(day),), records=records)


def only(*runs, **options):
    (row,) = rows(runs, CARDS, **options)
    return row


@pytest.fixture(autouse=True)
def few_cards(monkeypatch):
    monkeypatch.setattr(catalog, "cards", lambda: CARDS)


# One case


def test_the_fields_are_the_contracts_and_then_ours():
    contract = CONTRACT.split()
    assert list(Row.__struct_fields__[: len(contract)]) == contract


def test_five_processes_give_the_median_of_medians_and_their_range():
    row = only(run(*(ok(case(batch_size=4), i, ms) for i, ms in enumerate((5.2, 5.0, 5.1, 5.4, 5.3)))))
    assert (row.latency_ms, row.ci_low_ms, row.ci_high_ms) == pytest.approx((5.2, 5.0, 5.4), rel=1e-3)
    assert row.ci_level == 0.9375
    assert row.throughput == pytest.approx(4 / 5.2e-3, rel=1e-3)
    assert (row.samples, row.repetitions, row.status, row.source) == (500, 5, "ok", "measured")
    assert row.p90_ms == pytest.approx(5.4, rel=0.02)
    assert row.min_ms == pytest.approx(4.95, rel=1e-3)


def test_one_process_has_no_interval():
    row = only(run(ok(case())))
    assert (row.ci_low_ms, row.ci_high_ms, row.ci_level) == (None, None, None)


def test_a_percentile_needs_samples_that_support_it():
    row = only(run(ok(case(), measurement=measurement(count=100))))
    assert row.p90_ms is not None
    assert row.p99_ms is None


def test_what_was_measured_beside_the_latency():
    engine = Artifact("openvino", "model.xml", "cd" * 32, 2_058_520, ENGINE)
    records = [
        ok(case(backend="openvino"), i, artifact=engine, measurement=measurement(build_ns=250)) for i in range(3)
    ]
    row = only(run(*records))
    assert (row.first_ms, row.load_ms, row.build_ms) == (9.0, 20.0, 250e-6)
    assert row.export_ms == 2000.0  # to Paddle and on to ONNX; the engine's own quarter of a second is no export
    assert (row.peak_memory_mb, row.parity_max_error, row.storage_mb) == (100.0, 2.5e-6, 2.05852)


def test_a_model_without_a_card_is_described_by_its_conversions():
    row = only(run(ok(case(model="mine"))))
    assert (row.family, row.gmacs, row.params_m, row.top1, row.weights) == ("own", 0.041030272, 0.470072, None, "own")


def test_weights_of_ones_own_have_no_published_accuracy():
    assert only(run(ok(case(), weights="mine.pdparams"))).top1 is None
    assert only(run(ok(case(), weights="pretrained"))).top1 == 0.514
    assert only(run(ok(case(), weights="random"))).top1 == 0.514


def test_validity_counts_repetitions_not_mentions():
    twice = msgspec.structs.replace(
        ok(case(), 3), validity=(Validity("misconfigured", "1"), Validity("misconfigured", "2"))
    )
    flagged = [
        ok(case(), 0, validity=("contended",)),
        ok(case(), 1),
        ok(case(), 2, validity=("preempted", "contended")),
    ]
    row = only(run(*flagged, twice))
    assert row.validity == ("contended 2/4", "misconfigured 1/4", "preempted 1/4")
    assert row.evidence == ("contended: evidence of contended", "misconfigured: 2", "preempted: evidence of preempted")


def test_an_unsteady_interval_does_not_flag_the_other():
    intervals = {"compute": samples(5.0), "end_to_end": samples(6.0, steady=False)}
    record = ok(
        case(),
        measurement=Measurement(intervals=intervals, load_ns=1, first_ns=1),
        validity=("no_steady_state",),
        intervals=("compute", "end_to_end"),
    )
    compute, end_to_end = rows([run(record)], CARDS)
    assert compute.validity == ()
    assert end_to_end.validity == ("no_steady_state 1/1",)


@pytest.mark.parametrize("status", ["failed", "unsupported", "unavailable"])
def test_a_case_without_a_number_keeps_its_reason(status):
    row = only(run(bad(case(), status, "because")))
    assert (row.status, row.reason, row.samples, row.repetitions, row.stopped) == (status, "because", 0, 0, "")
    assert all(getattr(row, name) is None for name in NUMBERS.split())


@pytest.mark.parametrize("ns", [(), (0, 0)])
def test_a_record_without_samples_is_no_measurement(ns):
    record = ok(case(), measurement=Measurement(intervals={"compute": Samples(ns)}, load_ns=1, first_ns=1))
    assert only(run(record)).status == "failed"


@pytest.mark.parametrize(
    ("wanted", "spread", "spent_s", "count", "stopped"),
    [
        (3, 0.5, 1, 3, "repetitions"),
        (5, 0.5, 1, 3, "interrupted"),
        (None, 0.0, 1, 5, "precision"),
        (None, 0.5, 4, 5, "budget"),
        (None, 0.5, 1, 15, "repetitions"),
        (None, 0.5, 1, 4, "interrupted"),
        (None, 0.5, 30, 2, "interrupted"),
    ],
)
def test_why_it_stopped(wanted, spread, spent_s, count, stopped):
    spent = {"spent_ns": spent_s * 10**9}
    records = [ok(case(), i, 5.0 + spread * (i % 3), wanted=wanted, telemetry=spent) for i in range(count)]
    assert only(run(*records)).stopped == stopped
    tally = runner.Tally(records)
    assert tally.finished(records[0].settings) == (stopped != "interrupted")


# Which records count


def test_the_newest_run_that_has_a_case_wins():
    old = run(ok(case(), 0, 9.0), ok(case(), 1, 9.0), ok(case(batch_size=4), 0, 30.0, second=1))
    new = run(ok(case(), 0, 5.0, day=2), day=2)
    for runs in ([old, new], [new, old]):
        one, four = rows(runs, CARDS)
        assert (one.run_id, one.latency_ms, one.repetitions) == ("run2", pytest.approx(5.0, rel=1e-3), 1)
        assert (four.run_id, four.latency_ms) == ("run1", pytest.approx(30.0, rel=1e-3))


@pytest.mark.parametrize(("status", "shown"), [("unavailable", "run1"), ("unsupported", "run1"), ("failed", "run2")])
def test_a_number_is_superseded_by_a_failure_but_not_for_want_of_a_runtime(status, shown):
    old, new = run(ok(case())), run(bad(case(), status, day=2), day=2)
    assert [only(*runs).run_id for runs in ([old, new], [new, old])] == [shown, shown]


def test_runs_put_into_one_file_stay_apart():
    both = run(ok(case(), 0, 5.0, day=2), ok(case(), 1, 5.0, day=2), ok(case(), 2, 9.0, day=1))
    assert (only(both).run_id, only(both).repetitions) == ("run2", 2)


def test_a_run_copied_beside_itself_counts_once():
    first = run(*(ok(case(), i) for i in range(3)))
    assert only(first, first).repetitions == 3


def test_an_interval_is_superseded_on_its_own():
    old = run(ok(case(), intervals=("compute", "end_to_end")))
    new = run(ok(case(), day=2), day=2)
    assert [(row.interval, row.run_id) for row in rows([old, new], CARDS)] == [
        ("compute", "run2"),
        ("end_to_end", "run1"),
    ]


def test_a_failure_after_sound_repetitions_is_a_failure():
    row = only(run(ok(case(), 0), ok(case(), 1), bad(case(), reason="timeout", repetition=2)))
    assert (row.status, row.reason, row.latency_ms) == ("failed", "timeout", None)


def test_a_resumed_run_that_can_no_longer_prepare_is_a_failure():
    """Even where its record takes the place of a sound repetition."""
    row = only(run(ok(case(), 0), ok(case(), 1), bad(case(), reason="no export", second=9)))
    assert (row.status, row.reason) == ("failed", "no export")


def test_a_failure_that_was_made_good_is_forgotten():
    row = only(run(bad(case(), second=0), ok(case(), 0, second=9)))
    assert (row.status, row.repetitions) == ("ok", 1)


def test_other_options_are_not_pooled():
    records = [
        ok(case(), i, ms, options={"spinning": value})
        for i, (ms, value) in enumerate([(9, "off"), (5, "on"), (5, "on")])
    ]
    row = only(run(*records))
    assert (row.repetitions, row.options) == (2, {"spinning": "on"})
    assert row.ci_high_ms == pytest.approx(5.0, rel=1e-3)


def test_intervals_have_rows_of_their_own():
    both = run(ok(case(), intervals=("compute", "end_to_end")))
    assert [row.interval for row in rows([both], CARDS)] == ["compute", "end_to_end"]
    assert only(both, interval="end_to_end").latency_ms == pytest.approx(5.5, rel=1e-3)


def test_rows_are_in_the_order_of_the_catalog():
    cases = [
        case("zoo"),
        case("DPN92", "openvino"),
        case("DPN92", "paddle", 4),
        case("DPN92", "paddle", 1, 2),
        case("DPN92", "paddle", 1),
        case("DPN92", "another"),
        case("MobileNetV1_x0_25"),
    ]
    found = rows([run(*map(ok, cases))], CARDS)
    assert [row.model for row in found] == ["MobileNetV1_x0_25", *["DPN92"] * 5, "zoo"]
    assert [(row.backend, row.batch_size, row.threads) for row in found[1:4]] == [
        ("paddle", 1, 1),
        ("paddle", 1, 2),
        ("paddle", 4, 1),
    ]
    assert [row.backend for row in found[4:6]] == ["openvino", "another"]


# For any records

CASES = st.builds(
    case,
    model=st.sampled_from(["DPN92", "mine"]),
    backend=st.sampled_from(["paddle", "simulated", "unheard-of"]),
    batch_size=st.sampled_from([1, 4]),
)
INTERVALS = st.sampled_from([("compute",), ("end_to_end",), ("compute", "end_to_end")])


@st.composite
def attempts(draw):
    """Up to thirty attempts, each at a moment of its own, spread over three runs."""
    entries = draw(
        st.lists(st.tuples(CASES, st.integers(0, 3), st.integers(1, 3), INTERVALS, st.booleans()), max_size=30)
    )
    return [
        (ok if good else bad)(case_, repetition=repetition, day=day, second=second, intervals=intervals)
        for second, (case_, repetition, day, intervals, good) in enumerate(entries)
    ]


@settings(deadline=None)
@given(attempts(), st.randoms())
def test_every_case_has_one_row_and_only_a_sound_one_has_numbers(records, random):
    found = rows([run(*records)], CARDS)
    keys = [(row.model, row.backend, row.batch_size, row.interval) for row in found]
    tried = {(r.case.model, r.case.backend, r.case.batch_size, i) for r in records for i in r.settings.intervals}
    assert len(keys) == len(set(keys))
    assert set(keys) == tried
    for row in found:
        assert (row.latency_ms is not None) == (row.status == "ok")
        assert row.status == "ok" or not any(getattr(row, name) is not None for name in NUMBERS.split())
        assert row.status == "ok" or row.reason
    random.shuffle(records)
    assert rows([run(*records)], CARDS) == found, "the order of lines must not matter"


# Reading


def test_no_results_there(tmp_path):
    with pytest.raises(UsageError, match=r"no results in .*nowhere; there is no such file or folder; measure with"):
        report.build(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="it holds no run"):
        report.build(tmp_path)
    write(tmp_path, [])
    with pytest.raises(UsageError, match="no case in it has been tried yet"):
        report.build(tmp_path)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"model": "DPN68"}, "no results of model 'DPN68'; closest: DPN92"),
        ({"model": "Res*"}, "no results of model 'Res*'; known: DPN92, MobileNetV1_x0_25"),
        ({"device": "t4"}, "no results of device 't4'; known: cpu"),
        ({"backend": "paddle"}, "no results of backend 'paddle'; known: onnxruntime, openvino"),
        ({"run_id": "x"}, "no results of run 'x'; known: run1"),
        ({"interval": "device"}, "no results of interval 'device'; known: compute"),
        ({"family": "PP-LCNetV2"}, "no results of family 'PP-LCNetV2'; known: DPN, MobileNetV1"),
        ({"family": "Nonet"}, "no family 'Nonet'"),
        ({"model": "DPN92", "backend": "openvino"}, "no results of model DPN92, backend openvino together"),
    ],
)
def test_nothing_matches(tmp_path, filters, message):
    write(tmp_path, [ok(case("DPN92")), ok(case(backend="openvino"))])
    with pytest.raises(UsageError) as raised:
        report.build(tmp_path, **filters)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "filters",
    [
        {"model": "DPN92"},
        {"model": "DPN*"},
        {"family": "dpn"},
        {"backend": "openvino"},
        {"run_id": "run1"},
        {"device": "cpu"},
    ],
)
def test_filters_select(tmp_path, filters):
    write(tmp_path, [ok(case("DPN92", "openvino"))])
    write(tmp_path, [ok(case(device="t4"), day=2)], header(2))
    built = report.build(tmp_path, **filters)
    assert [row.model for row in built.rows] == ["DPN92"]
    assert "run1" in built.environment[0]
    assert "run2" not in built.environment[0]


def test_a_family_is_spelt_with_any_case_and_punctuation(tmp_path):
    write(tmp_path, [ok(case("PPLCNetV2_base")), ok(case("mine"))])
    assert [row.model for row in report.build(tmp_path, family="pplcnet_v2").rows] == ["PPLCNetV2_base"]
    assert [row.model for row in report.build(tmp_path, family="own").rows] == ["mine"]


def test_a_device_that_is_several_machines_gets_a_note(tmp_path):
    other = {"hardware": {"cpu": {"name": "Xeon"}}}
    write(tmp_path, [ok(case("DPN92"))])
    write(tmp_path, [ok(case(), day=2, environment_id="e2")], header(2, other, "e2"))
    (note,) = report.build(tmp_path).notes
    assert note.startswith("cpu is 2 different machines here (runs run1, run2)")
    assert len(report.build(tmp_path).environment) == 2


def test_the_command_says_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("results"), [ok(case())])
    assert report.build(Path("results")).command == "bench report"
    built = report.build(Path("results/cpu"), model="Mobile*", run_id="run1", interval="compute")
    assert built.command == "bench report --results results/cpu --model 'Mobile*' --run run1 --interval compute"


def of(samples_):
    return msgspec.structs.replace(measurement(), intervals={"compute": samples_})


def test_means_of_many_inferences_tell_nothing_of_single_ones():
    """Thirty processes of three means support a 90th percentile of means, which would pass for one of inferences."""
    found = []
    for loops in (1, 30):
        taken = Samples(samples_ns=(1_000_000, 1_100_000, 1_050_000), loops=loops)
        found.append(only(run(*(ok(case(), number, measurement=of(taken)) for number in range(30)))))
    single, mean = found
    assert (single.loops, mean.loops) == (1, 30)
    assert single.latency_ms == mean.latency_ms
    assert single.p90_ms is not None
    assert (mean.p90_ms, mean.p99_ms, mean.min_ms) == (None, None, None)
    assert tables.meanings([mean])[-1].endswith("samples are means of up to 30 inferences each, timed by its tool")
    assert not any("means of" in line for line in tables.meanings([single]))


ENGINES = [Artifact("plan", "x", str(number), 1, {"source": "model"}) for number in range(3)]


def test_builds_of_one_engine_are_one_case():
    assert only(run(*(ok(case(), number, artifact=ENGINES[number % 3]) for number in range(6)))).repetitions == 6


@pytest.mark.parametrize(("requested", "level"), [({}, 0.96875), ({"build": "1"}, 0.75)])
def test_the_interval_is_of_builds_where_they_differ(requested, level):
    """Six processes of three builds know no more of other builds than three."""
    records = [ok(case(), number, artifact=ENGINES[number % 3], requested=requested) for number in range(6)]
    row = only(run(*records))
    assert (row.repetitions, row.ci_level, row.builds) == (6, level, 3 if requested else 0)
    (told,) = [line for line in tables.everything([row])[0].notes if line.startswith("median: ")]
    assert told.endswith("75% from 3 builds of the engine" if requested else "96.88% from 6 processes")
    of_one_build = [msgspec.structs.replace(record, artifact=ENGINES[0]) for record in records]
    assert only(run(*of_one_build)).ci_level == 0.96875
