"""trtexec's percentiles, warnings and figures, reproduced to the last bit; and the import of its files."""

import itertools
import json
import math
import random

import msgspec
import numpy as np
import pytest
from stored import CASE, HERE, bench, process, run
from trtexec_trace import FILES, FOLDER, WARMUP_MS, exported, measured, timeline

from bench import baseline, report, store
from bench.errors import UsageError
from bench.report.rows import INTERVALS
from bench.schema import Case, Validity
from bench.selfcheck import traces
from bench.trtexec import definitions, records, times
from bench.trtexec.definitions import Query, Span, Spans, Version, single

V8, V10, V11 = Version(8, 6), Version(10, 13), Version(11, 1)
PERCENTS = (0, 50, 90, 95, 99, 99.9, 100)
#: the number of values, and the ranks from 0 of the percentiles, as a C++ program of single precision has them
RANKS = {
    1: (0, 0, 0, 0, 0, 0, 0),
    2: (0, 0, 1, 1, 1, 1, 1),
    3: (0, 1, 2, 2, 2, 2, 2),
    10: (0, 4, 8, 9, 9, 9, 9),
    100: (0, 49, 89, 94, 99, 99, 99),
    1000: (0, 499, 899, 949, 990, 999, 999),
    12345: (0, 6172, 11110, 11727, 12221, 12332, 12344),
}


def query(h2d=0.0, compute=1.0, d2h=0.0, enqueue=0.01, start=0.0):
    """Spans of these lengths, one after the other."""
    ends = list(itertools.accumulate((start, h2d, compute, d2h)))
    return Query(Span(start, start + enqueue), *(Span(*ends) for ends in itertools.pairwise(ends)))


def queries_of(rows):
    return [Query(*(Span(*map(single, row[at : at + 2])) for at in range(0, 8, 2))) for row in rows]


def reasons(found):
    return [doubt.reason for doubt in found]


# Arithmetic


@pytest.mark.parametrize("count", RANKS)
def test_percentiles_are_at_the_index_that_trtexec_takes(count):
    assert tuple(definitions.percentile(range(count), percent) for percent in PERCENTS) == RANKS[count]


def test_percentiles_of_nothing_and_beyond_are_refused():
    for values, percent in (([], 50), ([1.0], -1), ([1.0], 100.5), ([1.0], math.nan)):
        with pytest.raises(ValueError, match="percentile"):
            definitions.percentile(values, percent)
    for nothing in (definitions.median, lambda values: definitions.metric(values, ())):
        with pytest.raises(ValueError, match="no values"):
            nothing([])


def test_figures_of_four_values_by_hand():
    found = definitions.metric([4.0, 1.0, 3.0, 2.0], (50, 90))
    assert (found.min, found.max, found.mean, found.median) == (1, 4, 2.5, 2.5)
    assert found.percentiles == ((50, 2.0), (90, 4.0))
    assert found.variation_percent == single(single(single(math.sqrt(1.25)) / 2.5) * 100)  # not sqrt(5 / 3): population
    assert definitions.metric([3.0], ()).variation_percent == 0
    assert definitions.metric([0.0, 0.0], ()).variation_percent == math.inf


def test_single_precision_rounds_ties_to_even_and_overflows():
    assert single(0.1) == 0.100000001490116119384765625
    assert [single(2**24 + extra) for extra in (0, 1, 2, 3)] == [2**24, 2**24, 2**24 + 2, 2**24 + 4]
    assert (single(1e39), single(-1e39)) == (math.inf, -math.inf)


def test_sums_are_rounded_at_each_step_from_the_least_value_up():
    # 1 + 1 + 1 + 2^24 = 2^24 + 3, which rounds to 2^24 + 4; from the largest value down it would be 2^24.
    assert definitions.metric([2.0**24, 1.0, 1.0, 1.0], ()).mean == (2**24 + 4) / 4
    # Each 2^-25 alone is lost beside 1; the two of them together, 2^-24, are half of its last bit, and lost as well.
    assert definitions.median([1.0, 1 + 2**-23]) == 1.0


def oracle(values, percents):
    """The same from NumPy's single precision, whose `accumulate` adds one after the other."""
    ordered = np.sort(np.asarray(values, dtype=np.float32))
    count, middle = np.float32(len(ordered)), len(ordered) // 2
    mean = np.add.accumulate(ordered, dtype=np.float32)[-1] / count
    squares = np.add.accumulate((ordered - mean) * (ordered - mean), dtype=np.float32)[-1] / count
    halves = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / np.float32(2)
    ranks = [len(ordered) - 1 - int((np.float32(1) - np.float32(p) / np.float32(100)) * count) for p in percents]
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "median": halves,
        "percentiles": [(percent, ordered[max(rank, 0)]) for percent, rank in zip(percents, ranks, strict=True)],
        "variation_percent": np.sqrt(squares) / mean * np.float32(100) if mean else np.inf,
    }


@pytest.mark.parametrize("condition", ["solo quiet", "solo busy"])
def test_figures_of_recorded_processes_to_the_last_bit(condition):
    units = [unit for unit in traces.load() if unit.condition == condition]
    assert len(units) > 5
    for unit in units:
        spans_ms = [single(wall / 1e6) for wall in unit.processes[0].wall.tolist()]
        expected = {name: _plain(value) for name, value in oracle(spans_ms, PERCENTS).items()}
        assert msgspec.structs.asdict(definitions.metric(spans_ms, PERCENTS)) == expected


def _plain(value):
    return tuple((percent, float(one)) for percent, one in value) if isinstance(value, list) else float(value)


# Warm-up, walltime, throughput


def test_warm_up_ends_with_the_first_query_that_computes_at_its_end():
    before = math.nextafter(200.0, 0)
    rows = [query(start=start) for start in (0.0, single(before - 1), 200.0, 199.0, 300.0)]
    # What starts later in the list stays, even if it computes earlier: only the front is dropped.
    assert definitions.select(rows, 200.0) == rows[2:]
    assert definitions.select(rows, 200.1) == rows[4:]
    assert definitions.select(rows, 0) == rows
    assert definitions.select(rows, 301) == []


def test_latency_is_a_sum_of_spans_and_no_wall_time():
    apart = Query(Span(0.0, 0.5), Span(0.0, 1.0), Span(5.0, 7.0), Span(10.0, 14.0))
    assert definitions.timing(apart) == (0.5, 1.0, 2.0, 4.0, 7.0)
    assert definitions.walltime_ms([apart]) == 14.0


@pytest.mark.parametrize(("batch", "qps"), [(1, 400.0), (8, 3200.0)])
def test_throughput_counts_queries_on_the_clock_of_the_events(batch, qps):
    rows = [query(start=200 + 2.5 * index, compute=2.0, d2h=0.5) for index in range(4)]
    found = definitions.summary(rows, V10, batch)
    assert (found.throughput_qps, found.walltime_s, found.compute_s) == (qps, single(0.01), single(0.008))
    assert (found.queries, found.latency.median, found.compute.median) == (4, 2.5, 2.0)


def test_no_queries_have_no_figures():
    with pytest.raises(ValueError, match="no queries"):
        definitions.summary([], V10)


# Warnings


def of(median, values=()):
    return definitions.metric(values or [median], ())


def warned(enqueue=0.1, h2d=0.0, compute=1.0, d2h=0.0, release=V10):
    return reasons(definitions.warnings(of(enqueue), of(h2d), of(compute), of(d2h), release))


def above(value):
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def below(value):
    return float(np.nextafter(np.float32(value), np.float32(0)))


@pytest.mark.parametrize("compute", [1.0, 0.3, 7.77])
def test_enqueue_bounds_above_four_fifths_of_the_compute_time(compute):
    limit = single(single(0.8) * single(compute))
    assert warned(enqueue=limit, compute=single(compute)) == []
    assert warned(enqueue=above(limit), compute=single(compute)) == ["enqueue_bound"]


@pytest.mark.parametrize("copies", ["h2d", "d2h"])
def test_transfers_bound_from_the_compute_time_on(copies):
    assert warned(**{copies: below(1.0)}) == []
    assert warned(**{copies: 1.0}) == ["transfer_bound"]
    (doubt,) = definitions.warnings(of(0.1), of(1.0), of(1.0), of(2.0), V10)
    assert doubt == Validity("transfer_bound", "median H2D 1 ms, median D2H 2 ms; GPU compute 1 ms")


@pytest.mark.parametrize(
    ("release", "limit"),
    [(V8, 1), (V10, 1), (Version(10, 14), 2.5), (Version(11, 0), 2.5), (V11, 2.5)],
)
def test_compute_is_unstable_above_the_limit_of_its_release(release, limit):
    level = of(0, [100.0 - limit, 100.0 + limit])
    assert level.variation_percent == limit
    assert list(definitions.warnings(of(1.0), of(0.0), level, of(0.0), release)) == []
    beyond = of(0, [100.0 - limit, 100.01 + limit])
    assert reasons(definitions.warnings(of(1.0), of(0.0), beyond, of(0.0), release)) == ["unstable"]


def test_spans_of_several_streams_are_pointed_out():
    alone = [query(start=index) for index in range(3)]
    assert definitions.summary(alone, V10).warnings == ()
    (doubt,) = definitions.summary([*alone, query(start=below(3.0))], V10).warnings
    assert doubt == Validity("parallel_streams", "1 of 4 queries compute while the one before does")


# Releases


@pytest.mark.parametrize(
    ("text", "release"),
    [("8.6", (8, 6)), ("8.6.1", (8, 6)), ("10.13.3.9", (10, 13)), ("v11.1", (11, 1)), ("8.5", (8, 5)), ("9.3", (9, 3))],
)
def test_versions(text, release):
    assert definitions.version(text) == release


@pytest.mark.parametrize("text", ["", "10", "ten", "8.4", "7.2.1", "12.0", "10.x", "10.13.", "10.13\n", "١٠.١", "-8.6"])
def test_versions_of_other_definitions_are_refused(text):
    with pytest.raises(UsageError, match="trtexec"):
        definitions.version(text)


def test_three_defaults_flipped_in_11_and_the_others_stayed():
    old, mid, new = (definitions.defaults(release) for release in (V8, Version(10, 16), V11))
    assert (old.transfers, old.spin_wait, old.cuda_graph) == (True, False, False)
    assert msgspec.structs.replace(old, unstable_percent=2.5) == mid
    assert (new.transfers, new.spin_wait, new.cuda_graph) == (False, True, True)
    for each in (old, mid, new):
        assert (each.warmup_ms, each.duration_s, each.iterations, each.averaged) == (200, 3, 10, 10)
        assert (each.percentiles, each.queries_in_flight) == ((90, 95, 99), 2)


# Loops of ours


def spans_of(rows, transfers=True):
    """As a loop of ours records them, whose clock is elsewhere."""
    pairs = [[(row[at], row[at + 1]) for row in rows] for at in range(2, 8, 2)]
    return Spans(
        zero_ns=10**12,
        enqueue_ns=tuple(tuple(10**12 + round(reading * 1e6) for reading in row[:2]) for row in rows),
        h2d_ms=tuple(pairs[0]) if transfers else (),
        compute_ms=tuple(pairs[1]),
        d2h_ms=tuple(pairs[2]) if transfers else (),
    )


@pytest.mark.parametrize("transfers", [True, False])
def test_a_loop_of_ours_has_the_figures_of_the_same_spans(transfers):
    rows = timeline(1.5, 0.2 if transfers else 0.0, 0.1, 50)
    found = definitions.queries(spans_of(rows, transfers))
    assert [definitions.timing(one)[1:] for one in found] == [definitions.timing(one)[1:] for one in queries_of(rows)]
    assert definitions.timing(found[7]).enqueue == pytest.approx(rows[7][1] - rows[7][0], abs=2e-5)
    assert msgspec.json.decode(msgspec.json.encode(spans_of(rows, transfers)), type=Spans) == spans_of(rows, transfers)


def test_one_call_at_a_time_takes_longer_than_its_spans():
    rows = timeline(1.5, 0.2, 0.1, 50, depth=1)
    serial = definitions.summary(definitions.queries(spans_of(rows)), V10)
    end_to_end = [row[7] - row[0] for row in rows]
    assert all(
        whole > sum(row[at + 1] - row[at] for at in (2, 4, 6)) for whole, row in zip(end_to_end, rows, strict=True)
    )
    assert min(end_to_end) > serial.latency.min
    overlapped = definitions.summary(definitions.queries(spans_of(timeline(1.5, 0.2, 0.1, 50))), V10)
    assert overlapped.throughput_qps > 1.2 * serial.throughput_qps
    assert overlapped.latency.median == pytest.approx(serial.latency.median, rel=0.01)


def test_columns_of_unlike_lengths_are_refused():
    whole = spans_of(timeline(1.5, 0.2, 0.1, 5))
    with pytest.raises(ValueError, match="shorter"):
        definitions.queries(msgspec.structs.replace(whole, d2h_ms=whole.d2h_ms[1:]))


def test_host_times_are_rounded_twice_like_those_of_chrono():
    spans = Spans(zero_ns=0, enqueue_ns=((16_777_217, 3_200_000_123),), compute_ms=((0.0, 1.0),))
    # As g++ 12 has them: float(ns) / 1e6f.
    expected = (float(np.float32(16_777_217) / np.float32(1e6)), float(np.float32(3_200_000_123) / np.float32(1e6)))
    assert definitions.queries(spans)[0].enqueue == expected


# Files


@pytest.mark.parametrize("release", FILES)
def test_the_files_are_those_that_the_program_makes(release):
    assert (FOLDER / f"{release}.json").read_text() == exported(measured(*_made_of(release)))


def _made_of(release):
    return FILES[release]


@pytest.mark.parametrize("release", FILES)
def test_a_file_has_the_figures_that_trtexec_printed(release):
    version = definitions.version(release)
    rows = queries_of(timeline(*_made_of(release)))
    expected = definitions.summary(definitions.select(rows, WARMUP_MS), version)
    found = times.read(FOLDER / f"{release}.json")
    figures = found.summary(version)
    assert found.transfers is (release != "11.1")
    assert reasons(figures.warnings) == reasons(expected.warnings) == []
    said, printed = (
        dict(line.split(": ", 1) for line in definitions.text(one).splitlines()) for one in (figures, expected)
    )
    for name in ("Latency", "H2D Latency", "GPU Compute Time", "D2H Latency"):
        for one, other in zip(said[name].split(", "), printed[name].split(", "), strict=True):
            if one.startswith(("mean", "median")):  # of printed values, so that the last digit may differ
                assert float(one.split()[2]) == pytest.approx(float(other.split()[2]), rel=1.1e-5)
            else:
                assert one == other
    assert figures.throughput_qps == pytest.approx(expected.throughput_qps, rel=3e-5)
    assert figures.walltime_s == pytest.approx(expected.walltime_s, rel=3e-5)
    assert figures.enqueue.median == pytest.approx(expected.enqueue.median, abs=found.enqueue_step_ms)
    assert found.enqueue_step_ms == pytest.approx(0.01 if release == "8.6" else 0.001)


def test_lengths_count_as_they_are_written_and_not_from_rounded_ends():
    last = times.read(FOLDER / "8.6.json").entries[-1]
    assert last.timing.compute == single(last.compute)
    assert last.end_compute - last.start_compute != pytest.approx(last.compute, abs=1e-3)


GOOD = json.loads((FOLDER / "10.13.json").read_text())


def changed(number=3, **values):
    return [entry | values if index == number else entry for index, entry in enumerate(GOOD)]


BROKEN = {
    "nothing": "",
    "an empty list": "[\n]\n",
    "an object": "{}",
    "no JSON": "Average on 10 runs - GPU latency: 1.9 ms",
    "cut off": (FOLDER / "10.13.json").read_text()[:-300],
    "a field less": json.dumps([{k: v for k, v in GOOD[0].items() if k != "latencyMs"}]),
    "a field more": json.dumps(changed(endToEndMs=2.0)),
    "text for a number": json.dumps(changed(computeMs="1.9")),
    "null": json.dumps(changed(computeMs=None)),
    "NaN": json.dumps(changed(computeMs=math.nan)),
    "infinity": json.dumps(changed(latencyMs=math.inf)),
    "beyond a double": (FOLDER / "10.13.json").read_text().replace("1.90625", "1e999"),
    "beyond all measure": json.dumps(changed(startEnqMs=1e10, endEnqMs=1e10)),
    "negative": json.dumps(changed(startEnqMs=-1)),
    "an end before its start": json.dumps(changed(endEnqMs=GOOD[3]["startEnqMs"] - 0.01)),
    "compute before its inputs": json.dumps(changed(endH2dMs=GOOD[3]["startComputeMs"] + 1)),
    "another length": json.dumps(changed(computeMs=GOOD[3]["computeMs"] + 0.01)),
    "another latency": json.dumps(changed(latencyMs=GOOD[3]["latencyMs"] * 1.001)),
    "queries out of order": json.dumps([GOOD[1], GOOD[0]]),
    "no compute time": json.dumps(
        [dict.fromkeys(GOOD[0], 1.0) | dict.fromkeys(("h2dMs", "computeMs", "d2hMs", "latencyMs"), 0)]
    ),
    "brackets": "[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_anything_else_is_refused_in_a_line(tmp_path, text):
    file = tmp_path / "times.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"holds no times of trtexec; .+; give the file") as caught:
        times.read(file)
    assert "\n" not in str(caught.value)


def test_other_bytes_and_files_that_are_not_there_are_refused(tmp_path):
    file = tmp_path / "times.json"
    file.write_bytes(b'[{"\xff\xfe": 1}]')
    with pytest.raises(UsageError, match="holds no times"):
        times.read(file)
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(UsageError, match="cannot read"):
            times.read(path)


def mutated(data, draw):
    """The bytes with one to three changes: a byte, a stretch taken out or doubled, an end cut off."""
    for _ in range(draw.choice((1, 1, 1, 3))):
        at, to = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        to = min(to, at + draw.choice((1, 3, 30, 400)))
        digit = draw.choice(b'0123456789.-e,:{}[]"nN \x00\xff').to_bytes(1, "big")
        data = draw.choice(
            (data[:at] + digit + data[at + 1 :], data[:at] + data[to:], data[:to] + data[at:], data[:to])
        )
    return data


def test_a_damaged_file_is_refused_or_says_what_it_says(tmp_path):
    draw = random.Random(7)
    file = tmp_path / "times.json"
    outcomes = {"refused": 0, "read": 0}
    for _ in range(400):
        data = mutated((FOLDER / f"{draw.choice(list(FILES))}.json").read_bytes(), draw)
        file.write_bytes(data)
        try:
            figures = times.read(file).summary(V10)
        except UsageError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        entries = json.loads(data)
        for name in ("h2d", "compute", "d2h", "latency"):
            lengths = [entry[f"{name}Ms"] for entry in entries]
            expected = {each: _plain(value) for each, value in oracle(lengths, (90, 95, 99)).items()}
            assert msgspec.structs.asdict(getattr(figures, name)) == expected
        assert all(math.isfinite(value) and value > 0 for value in (figures.compute.min, figures.latency.min))
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 10


# Records

WORDS = ("--model", "MobileNetV2", "--device", "t4", "--precision", "fp16", "--batch-size", "4")


def imported(folder, release="10.13", *more):
    words = (FOLDER / f"{release}.json", *WORDS, "--trtexec-version", release, "--results", folder, *more)
    return bench("import", "trtexec", *words)


@pytest.mark.parametrize("release", FILES)
def test_import_leaves_a_run_of_one_record(tmp_path, release):
    code, out, err = imported(tmp_path, release)
    assert code == 0
    file = FOLDER / f"{release}.json"
    found = times.read(file)
    assert out == definitions.text(found.summary(definitions.version(release)))
    (path,) = store.paths(tmp_path)
    assert f"bench: MobileNetV2/trtexec/t4/fp16/bs4/t1; records: {path}\n" in err
    kept = store.read(path)
    (record,) = kept.records
    assert record.case == Case("MobileNetV2", "trtexec", "t4", "fp16", 4, 1)
    assert (record.status, reasons(record.validity)) == ("ok", ["imported"])
    assert list(record.measurement.intervals) == list(record.semantics) == ["device"]
    assert record.semantics["device"].startswith(f"trtexec {release}, GPU Compute Time: ")
    assert record.measurement.intervals["device"].samples_ns == tuple(
        round(each.compute * 1e6) for each in found.entries
    )
    assert record.measurement.timer == "trtexec"
    assert record.effective == {
        "source": {"file": file.name, "sha256": found.sha256, "size_bytes": file.stat().st_size},
        "transfers": release != "11.1",
    }
    assert record.telemetry["trtexec"]["summary"]["latency"]["median"] == found.summary(V10).latency.median
    assert record.telemetry["trtexec"]["latency_ns"] == [round(each.latency * 1e6) for each in found.entries]
    assert kept.headers[0].environment == {"packages": {"trtexec": release}}
    assert baseline.sessions([kept]) == []


def test_warnings_of_trtexec_are_reasons_of_the_record(tmp_path):
    file = tmp_path / "times.json"
    file.write_text(exported(measured(1.0, 1.2, 0.9, 300)))
    asked = records.Asked("MobileNetV2", "t4", "fp16", 1, "10.13")
    saved = records.save(file, asked, tmp_path / "results", ("bench",))
    assert reasons(saved.record.validity) == ["imported", "enqueue_bound", "transfer_bound"]


def test_a_report_lists_it_and_mixes_it_with_nothing(tmp_path):
    imported(tmp_path)
    own = {"semantics": {"compute": "ours"}, "intervals": ("compute", "end_to_end", "device")}
    case = msgspec.structs.replace(Case("MobileNetV2", "trtexec", "t4", "fp16", 4, 1), backend="tensorrt")
    run(tmp_path, 3, [process(9.0, **own)] * 2, case=case, description=HERE)
    built = report.build(tmp_path)
    rows = {(row.backend, row.interval): row for row in built.rows}
    assert set(rows) == {("trtexec", "device"), *(("tensorrt", interval) for interval in INTERVALS)}
    row = rows["trtexec", "device"]
    assert row.latency_ms == pytest.approx(1.9, rel=0.01)
    assert (row.first_ms, row.load_ms, row.top1, row.storage_mb, row.validity) == (
        None,
        None,
        None,
        None,
        ("imported 1/1",),
    )
    shown = 0
    for table in built.tables:
        for line in table.rows:
            if "trtexec" in line:
                shown += 1
                assert "device" in line or "device" in table.title
                assert not {"compute", "end_to_end"} & set(line)
    assert shown
    (alone,) = report.build(tmp_path, backend="trtexec", interval="device").rows
    assert alone == row


def test_a_case_of_ours_is_not_replaced_by_an_imported_one(tmp_path):
    run(tmp_path, 1, [process(2.0)], case=msgspec.structs.replace(CASE, model="MobileNetV2", device="t4"))
    before = report.build(tmp_path).rows
    imported(tmp_path)
    assert [row for row in report.build(tmp_path).rows if row.backend != "trtexec"] == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cpu"), "trtexec measures GPUs, and cpu is none; GPUs: t4, v100"),
        (("--device", "t5"), "no device 't5'"),
        (("--model", "MobileNetv9"), "no model 'MobileNetv9'"),
        (("--model", "all"), "'all' is not one model"),
        (("--trtexec-version", "12.0"), "the definitions of trtexec 12.0 are not known here; known are 8.5 to 11.x"),
        (("--batch-size", "0"), "--batch-size"),
        (("--precision", "fp8"), "--precision"),
    ],
)
def test_wrong_words_are_refused_and_leave_nothing(tmp_path, words, said):
    code, out, err = imported(tmp_path, "10.13", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []
