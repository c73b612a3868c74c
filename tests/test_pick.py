"""`bench pick`: what one finds by hand in the published tables, limits at their edges, and nothing said silently."""

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest
from report import CARDS, bad, case, header, ok, write
from stored import bench

from bench import catalog
from bench.errors import BenchError, Unavailable, UsageError
from bench.report import pick as picking
from bench.report.pick import Wanted

PUBLISHED = Path(__file__).resolve().parents[1] / "models" / "published"
SMALL, LARGE = "MobileNetV1_x0_25", "DPN92"  # top-1 0.514 and 0.799


def table(name):
    with (PUBLISHED / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_hand(device, max_ms, min_top1):
    """(model, its lowest latency within the limit), most accurate first: plain reading of two CSV files."""
    top1 = {line["model"]: float(line["top1"]) for line in table("models.csv") if line["top1"]}
    fitting = {}
    for line in table("latency.csv"):
        model, ms = line["model"], float(line["latency_ms"])
        if line["device"] == device and line["canonical"] == "1" and ms <= max_ms and top1.get(model, 0) >= min_top1:
            fitting[model] = min(ms, fitting.get(model, ms))
    return sorted(fitting.items(), key=lambda each: (-top1[each[0]], each[1], each[0]))


def picked(*words, code=0):
    """The candidates that a command prints as JSON."""
    ended, out, _ = bench("pick", *words, "--format", "json")
    assert ended == code
    return json.loads(out)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A folder that records are written into; the cards are few."""
    monkeypatch.setattr(catalog, "cards", lambda: CARDS)
    return lambda *records: write(tmp_path, records).parent


def five(case_, ms, step=0.1, **fields):
    """Five processes: their interval runs from ms to ms + 4 steps."""
    return [ok(case_, i, ms + step * i, **fields) for i in range(5)]


def pick(results, **wanted):
    return picking.pick(results, Wanted(**{"device": "cpu", **wanted}))


def names(found):
    return [(each.row.model, each.row.backend, each.fits, each.pareto) for each in found.candidates]


# Published figures


@pytest.mark.parametrize(
    ("device", "ms", "top1"), [("sd855", 15, 0.72), ("sd855", 7, 0.5), ("t4", 5, 0.75), ("xeon-6148", 9, 0.6)]
)
def test_published_figures_give_what_one_finds_by_hand(device, ms, top1, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = picked("--device", device, "--max-latency", f"{ms}ms", "--min-top1", top1)
    hand = by_hand(device, ms, top1)
    assert len(hand) > 4
    assert [(each["model"], each["latency_ms"]) for each in found] == hand
    assert [each["rank"] for each in found] == list(range(1, len(hand) + 1))


def test_the_front_of_published_figures_is_what_one_finds_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = picked("--device", "sd855", "--max-latency", "15ms", "--min-top1", "0.72")
    points = [(each["latency_ms"], each["top1"]) for each in found]
    beaten = [any(a <= ms and b >= top1 and (a, b) != (ms, top1) for a, b in points) for ms, top1 in points]
    assert [each["pareto"] for each in found] == [not each for each in beaten]


def test_the_text_says_whose_figures_these_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = bench("pick", "--device", "sd855", "--max-latency", "15ms", "--min-top1", "72%")
    assert (code, err) == (0, "")
    assert out.startswith("Models for sd855, published figures, within 15 ms, with top-1 of 0.72 or more\n")
    assert "no latency of sd855 in results: these are published figures\n" in out
    assert "MobileNetV3_large_x1_0_ssld" in out


def test_a_figure_that_is_known_to_be_wrong_is_shown_and_beats_nobody(tmp_path):
    found = pick(tmp_path, device="v100", batch_size=1, every=True)
    wrong = [each for each in found.candidates if "transcription_error" in each.row.validity]
    assert wrong
    assert not any(each.pareto for each in wrong)
    assert "almost surely a typing or copying error of the document" in "".join(picking.table(found).notes)


@pytest.mark.parametrize(
    "words", [("15ms", "10M", "20MB"), ("0.015s", "10000k", "20000000"), ("15000us", "0.01G", "20MB")]
)
def test_units(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latency, params, size = words
    found = picked("--device", "sd855", "--max-latency", latency, "--max-params", params, "--max-size", size)
    assert found
    assert all(each["latency_ms"] <= 15 and each["params_m"] <= 10 and each["storage_mb"] <= 20 for each in found)
    assert found == picked("--device", "sd855", "--max-latency", "15ms", "--max-params", "10M", "--max-size", "20MB")


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--max-latency", "15", "15ms"),
        ("--min-top1", "72", "0.72"),
        ("--max-params", "-1M", "above 0"),
        ("--max-size", "x", ""),
    ],
)
def test_what_is_no_limit_is_refused(option, value, word):
    code, out, err = bench("pick", "--device", "sd855", option, value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert word in err


def test_a_limit_at_a_figure_lets_it_in(tmp_path):
    exact = pick(tmp_path, device="sd855", max_latency_ms=30.24, threads=1, source="published")
    assert "MobileNetV1" in {each.row.model for each in exact.candidates}
    below = pick(tmp_path, device="sd855", max_latency_ms=30.23, threads=1, source="published")
    assert "MobileNetV1" not in {each.row.model for each in below.candidates}


def test_filters_and_all_rows(tmp_path):
    found = pick(tmp_path, device="sd855", threads=1, every=True).candidates
    assert {each.row.threads for each in found} == {1}
    every = pick(tmp_path, device="sd855", every=True).candidates
    assert len({(each.row.model, each.row.threads) for each in every}) == len(every)
    fastest = pick(tmp_path, device="sd855").candidates
    assert len({each.row.model for each in fastest}) == len(fastest) < len(every)


def test_a_figure_that_is_not_known_keeps_no_limit(tmp_path):
    found = pick(tmp_path, device="sd855", max_size_mb=20)
    assert all(each.row.storage_mb for each in found.candidates)
    (note,) = [note for note in found.notes if "storage_mb" in note]
    assert note.startswith("left out for want of storage_mb: ")


# Measured figures


def test_records_of_the_device_come_before_published_figures(measured):
    results = measured(*five(case(SMALL, device="sd855"), 5), *five(case(LARGE, device="sd855"), 9))
    assert [each.row.source for each in pick(results, device="sd855").candidates] == ["measured"] * 2
    assert {each.row.source for each in pick(results, device="sd855", source="published").candidates} == {"published"}
    both = pick(results, device="sd855", source="both").candidates
    assert {each.row.source for each in both} == {"measured", "published"}


def test_each_source_has_a_front_of_its_own(measured):
    results = measured(*five(case(SMALL, device="sd855"), 99))
    both = pick(results, device="sd855", source="both")
    assert next(each for each in both.candidates if each.row.source == "measured").pareto
    assert "source" in picking.table(both).columns


def test_best_accuracy_comes_first_and_then_the_lower_latency(measured):
    results = measured(
        *five(case(SMALL, "paddle"), 5),
        *five(case(SMALL, "openvino"), 4),
        *five(case(LARGE), 50),
        *five(case("mine"), 1),
    )
    assert names(pick(results, every=True)) == [
        (LARGE, "onnxruntime", "yes", True),
        (SMALL, "openvino", "yes", True),
        (SMALL, "paddle", "yes", False),
        ("mine", "onnxruntime", "yes", False),
    ]
    assert [each.row.backend for each in pick(results).candidates] == ["onnxruntime", "openvino", "onnxruntime"]


def test_a_limit_inside_the_interval_is_a_maybe(measured):
    results = measured(*five(case(SMALL), 5.0), *five(case(LARGE), 5.5))
    assert [fits for _, _, fits, _ in names(pick(results, max_latency_ms=5.6))] == ["maybe", "yes"]
    assert [model for model, *_ in names(pick(results, max_latency_ms=5.45))] == [SMALL]
    assert [fits for _, _, fits, _ in names(pick(results, max_latency_ms=5.2))] == ["maybe"]


def test_a_row_that_surely_fits_stands_for_its_model(measured):
    results = measured(*five(case(SMALL, "openvino"), 4, step=0.6), *five(case(SMALL, "paddle"), 5.5, step=0.01))
    assert names(pick(results, max_latency_ms=6)) == [(SMALL, "paddle", "yes", True)]


def test_intervals_that_overlap_beat_nobody(measured):
    close = measured(*five(case(SMALL, "paddle"), 5.0), *five(case(SMALL, "openvino"), 5.3))
    assert [front for *_, front in names(pick(close, every=True))] == [True, True]


def test_two_intervals_are_never_ranked_together(measured):
    results = measured(*five(case(SMALL), 5, intervals=("compute", "end_to_end")), *five(case(LARGE), 9))
    found = pick(results)
    assert {each.row.interval for each in found.candidates} == {"compute"}
    assert (
        "latencies are of the interval compute; there are others, to be named with --interval: end_to_end"
        in found.notes
    )
    assert [each.row.model for each in pick(results, interval="end_to_end").candidates] == [SMALL]


def test_what_failed_is_named_and_what_measures_nothing_is_not_meant(measured):
    results = measured(*five(case(SMALL), 5), bad(case(LARGE)), *five(case(LARGE, "simulated"), 1))
    found = pick(results)
    assert names(found) == [(SMALL, "onnxruntime", "yes", True)]
    assert f"without a latency, since it failed or could not be tried: {LARGE}" in found.notes
    assert [each.row.model for each in pick(results, backend="simulated").candidates] == [LARGE]


def test_damage_is_a_warning(measured, tmp_path):
    results = measured(*five(case(SMALL), 5))
    with next(results.glob("*.jsonl")).open("ab") as file:
        file.write(b"{\n")
    code, out, err = bench("pick", "--device", "cpu", "--results", results)
    assert code == 0
    assert SMALL in out
    assert err.count("\n") == 1
    assert "1 line (7) left out" in err


def test_several_machines_get_a_note(measured, tmp_path):
    results = measured(*five(case(SMALL), 5))
    other = {"hardware": {"cpu": {"name": "Xeon"}}}
    write(tmp_path, [ok(case(LARGE), ms=1, day=2, environment_id="e2")], header(2, other, "e2"))
    found = pick(results)
    assert found.notes[0].startswith("cpu is 2 different machines here")
    assert [each.pareto for each in found.candidates] == [True, True]


def test_a_front_is_of_one_batch_size_and_notes_say_what_else_differs(measured):
    results = measured(
        *five(case(SMALL), 9), *five(case(LARGE, batch_size=4, threads=2), 5), *five(case("mine", precision="int8"), 3)
    )
    found = pick(results)
    front = {each.row.model: each.pareto for each in found.candidates}
    assert (front[SMALL], front[LARGE]) == (True, True)
    notes = "\n".join(picking.table(found).notes)
    for option in ("--batch-size", "--threads", "--precision"):
        assert f"name one with {option}" in notes
    assert "name one with" not in "".join(picking.table(pick(results, threads=1, precision="fp32")).notes)


# Nothing fits


def test_nothing_fits_names_what_came_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = bench("pick", "--device", "sd855", "--max-latency", "2ms", "--min-top1", "0.79")
    top1 = {line["model"]: line["top1"] for line in table("models.csv")}
    quickest, ms = min(by_hand("sd855", 1e9, 0.79), key=lambda each: each[1])
    best = by_hand("sd855", 2, 0)[0][0]
    assert (code, out) == (1, "")
    assert err == (
        f"bench: no model fits sd855; the fastest with top-1 of 0.79 or more is {quickest} with {ms:.10g} ms, "
        f"the most accurate within 2 ms is {best} with {float(top1[best]):.10g} top-1; loosen a limit\n"
    )
    assert picked("--device", "sd855", "--max-latency", "2ms", "--min-top1", "0.79", code=1) == []


def test_no_single_limit_in_the_way(measured):
    results = measured(*five(case(SMALL), 5))
    found = pick(results, max_latency_ms=1, min_top1=0.9)
    with pytest.raises(BenchError, match="no model fits cpu; no single limit is in the way"):
        raise found.nothing


def test_only_failures_fit_nothing(measured):
    found = pick(measured(bad(case(SMALL))))
    assert str(found.nothing).startswith("no model fits cpu; none of those tried has a latency")


# Other devices


def test_a_device_without_figures_is_refused_with_those_that_have(measured):
    results = measured(*five(case(SMALL), 5))
    with pytest.raises(Unavailable) as caught:
        pick(results, device="sdm888")
    assert str(caught.value) == (
        "no figures of sdm888; devices that have some: measured: cpu; published: iphone12pro, sd855, sdm865, t4, v100, "
        "xeon-6148, xeon-6271c; measure with: bench run --device sdm888, or rank by another device's figures "
        "with --from-device"
    )
    assert caught.value.exit_code == 3
    with pytest.raises(Unavailable, match="devices that have some: measured: cpu; measure with"):
        pick(results, device="t4", source="measured")


@pytest.mark.parametrize("format_", ["text", "markdown", "json", "csv"])
def test_what_is_extrapolated_says_so_in_the_output(format_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--device", "sdm888", "--from-device", "sd855", "--min-top1", "0.75", "--format", format_)
    code, out, _ = bench("pick", *words)
    assert code == 0
    if format_ == "json":
        assert {(each["device"], each["extrapolated_to"]) for each in json.loads(out)} == {("sd855", "sdm888")}
    elif format_ == "csv":
        found = csv.DictReader(io.StringIO(out))
        assert {(each["device"], each["extrapolated_to"]) for each in found} == {("sd855", "sdm888")}
    else:
        assert "Models for sdm888, EXTRAPOLATED from sd855" in out.splitlines()[0]
        assert "these are figures of sd855, not of sdm888" in out


def test_of_the_device_itself_nothing_is_extrapolated():
    found = picked("--device", "sd855", "--from-device", "sd855", "--source", "published")
    assert {each["extrapolated_to"] for each in found} == {""}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"threads": 3}, "no figures of threads 3; there are some of: 1, 2, 4; name another --threads"),
        ({"batch_size": 8}, "no figures of batch-size 8; there are some of: 1; name another --batch-size"),
        ({"backend": "openvino"}, "no figures of backend openvino; there are some of: paddle_lite; name"),
        ({"interval": "end_to_end"}, "no figures of interval end_to_end; there are some of: compute; name"),
    ],
)
def test_what_was_not_tried_is_refused(tmp_path, wanted, message):
    with pytest.raises(UsageError) as caught:
        pick(tmp_path, device="sd855", **wanted)
    assert str(caught.value).startswith(message)


def test_a_folder_that_is_not_there_is_refused():
    code, _, err = bench("pick", "--device", "sd855", "--results", "nowhere")
    assert (code, err.count("\n")) == (2, 1)


# Formats


def test_csv_and_json_say_the_same(tmp_path):
    found = pick(tmp_path, device="sd855", min_top1=0.75)
    fields = json.loads(picking.as_json(found))
    lines = list(csv.DictReader(io.StringIO(picking.as_csv(found))))
    assert [list(each) for each in fields] == [list(line) for line in lines]
    assert [(each["model"], str(each["rank"]), str(each["pareto"])) for each in fields] == [
        (line["model"], line["rank"], line["pareto"]) for line in lines
    ]
    assert set(msgspec.structs.asdict(found.candidates[0].row)) < set(fields[0])
