"""Rounding, footnotes and the tables of the default layout, on rows with known numbers."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import published
from bench.catalog import Published
from bench.errors import UsageError
from bench.report import Report, build, tables
from bench.report.rows import quoted as quote
from bench.report.rows import rows
from bench.schema import Artifact
from bench.store import Run

from . import CARDS, bad, case, header, ok, write


def rows_of(*records):
    return rows([Run(path=Path("a.jsonl"), headers=(header(),), records=records)], CARDS)


def column(table, name):
    return [line[table.columns.index(name)] for line in table.rows]


# Rounding


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.512345, "0.512"),
        (5.914, "5.91"),
        (42.34, "42.3"),
        (123.4, "123"),
        (1234.4, "1234"),
        (0.0410302, "0.0410"),
        (0.0, "0"),
        (None, "–"),
    ],
)
def test_three_significant_digits_at_least(value, shown):
    assert tables.figure(value) == shown


def test_an_interval_has_the_decimals_of_its_median():
    row = msgspec.structs.replace(rows_of(ok(case()))[0], latency_ms=5.912, ci_low_ms=5.8777, ci_high_ms=16.02)
    assert tables.with_interval(row) == "5.91 [5.88, 16.02]"
    assert tables.with_interval(msgspec.structs.replace(row, ci_low_ms=None)) == "5.91"


def test_published_figures_keep_their_digits():
    assert [tables.printed(value) for value in (12.54, 0.07, 4.0, None)] == ["12.54", "0.07", "4", "–"]


def test_levels_are_what_five_and_three_processes_give():
    assert [tables.percent(level) for level in (0.9375, 0.75, 0.96875, None)] == ["93.75%", "75%", "96.88%", "–"]


# Footnotes


def test_the_same_reason_has_one_footnote():
    (table,) = tables.by_batch(
        rows_of(
            bad(case("DPN92", "openvino"), reason="no memory"),
            bad(case("DPN92", "openvino", 4), reason="no memory"),
            bad(case("DPN92", "openvino", 8), "unsupported", reason="not in fp16"),
            bad(case("DPN92", "paddle"), "unavailable", reason=""),
        )
    )
    assert table.rows == (
        ("DPN92", "paddle", "compute", "unavailable [1]", "–", "–"),
        ("DPN92", "openvino", "compute", "failed [2]", "failed [2]", "unsupported [3]"),
    )
    assert table.notes[:4] == ("[1] no reason is on record", "[2] no memory", "[3] not in fp16", "– not measured")


def test_a_doubtful_number_says_why():
    (table,) = tables.by_batch(rows_of(ok(case(), 0, validity=("throttled", "contended")), ok(case(), 1)))
    assert table.rows[0][-1] == "5.00 [1]"
    assert table.notes[0] == "[1] contended 1/2, throttled 1/2 repetitions"


def test_a_full_table_of_sound_numbers_needs_no_legend():
    (table,) = tables.by_batch(rows_of(ok(case())))
    assert table.notes == ("compute: one synchronous inference, inputs and outputs where the runtime wants them",)


# Wide tables


def test_latency_by_batch_size_and_threads():
    (table,) = tables.by_batch(
        rows_of(
            ok(case("mine", batch_size=16), ms=80),
            ok(case("DPN92", threads=2), ms=3),
            ok(case("DPN92", batch_size=4), ms=20),
            ok(case("DPN92"), ms=5, intervals=("compute", "end_to_end")),
        )
    )
    assert table.title == "Latency by batch size and threads: cpu, fp32, compute and end_to_end"
    assert table.columns == ("model", "backend", "interval", "bs1 t1, ms", "bs1 t2, ms", "bs4 t1, ms", "bs16 t1, ms")
    assert table.rows == (
        ("DPN92", "onnxruntime", "compute", "5.00", "3.00", "20.0", "–"),
        ("DPN92", "onnxruntime", "end_to_end", "5.50", "–", "–", "–"),
        ("mine", "onnxruntime", "compute", "–", "–", "–", "80.0"),
    )


def test_devices_and_precisions_never_share_a_table():
    found = rows_of(ok(case()), ok(case(precision="int8")), ok(case(device="t4")))
    words = ["cpu, fp32, compute", "cpu, int8, compute", "t4, fp32, compute"]
    assert [table.title.partition(": ")[2] for table in tables.by_batch(found)] == words
    assert [table.title.partition(": ")[2] for table in tables.everything(found)] == words


def test_backends_side_by_side():
    (table,) = tables.by_backend(
        rows_of(
            *(ok(case(backend="paddle"), i, ms) for i, ms in enumerate((7.4, 7.5, 7.6))),
            *(ok(case(backend="onnxruntime"), i, ms) for i, ms in enumerate((5.0, 5.1, 5.3))),
            *(ok(case(backend="openvino"), i, ms) for i, ms in enumerate((4.9, 5.0, 5.1))),
            ok(case(backend="paddle", batch_size=4), ms=20),
            bad(case(backend="openvino", batch_size=4)),
        )
    )
    assert table.columns[4:] == ("paddle, ms", "ratio", "onnxruntime, ms", "ratio", "openvino, ms", "ratio")
    assert table.rows == (
        ("MobileNetV1_x0_25", "1", "1", "compute", "7.50", "1.50", "5.10", "1.02 [1]", "5.00", "1.00"),
        ("MobileNetV1_x0_25", "4", "1", "compute", "20.0", "–", "–", "–", "failed [2]", "–"),
    )
    assert table.bold == {(0, 8)}
    assert table.notes[0].startswith("[1] no clear winner: intervals overlap")


def test_one_backend_has_nobody_beside_it():
    assert tables.by_backend(rows_of(ok(case()))) == []


def test_simulated_latencies_win_nothing_and_are_labelled():
    found = rows_of(ok(case(backend="simulated"), ms=1), ok(case(), ms=5))
    assert tables.by_backend(found) == []
    for table in (*tables.by_batch(found), *tables.latency(found), *tables.everything(found)):
        assert "simulated: no runtime; its latencies are made up" in table.notes


def test_a_line_without_any_number_has_no_winner():
    (table,) = tables.by_backend(rows_of(bad(case()), bad(case(backend="paddle"))))
    assert not table.bold


# What to decide from


def front_of(*records):
    (table,) = tables.fronts(rows_of(*records))
    return table


def five(case_, ms, step=0.1, **fields):
    """Five processes whose interval is four steps wide."""
    return [ok(case_, i, ms + step * i, **fields) for i in range(5)]


def test_the_front_stands_before_all_the_rest():
    found = rows_of(ok(case()), ok(case(device="t4")))
    kinds = [table.title.partition(":")[0] for table in tables.default(found, CARDS)]
    assert kinds[:5] == ["Pareto front", "All", "Pareto front", "All", "Latency by batch size and threads"]


def test_a_front_is_in_order_of_latency_and_holds_what_none_surely_beats():
    slow, fast = case("MobileNetV1_x0_25", "paddle"), case("MobileNetV1_x0_25", "openvino")
    table = front_of(*five(case("DPN92"), 50), *five(slow, 9), *five(fast, 5))
    assert column(table, "model") == ["MobileNetV1_x0_25", "DPN92"]
    assert column(table, "backend") == ["openvino", "onnxruntime"]
    assert table.title == "Pareto front: cpu, fp32, compute, batch 1, 1 thread"


def test_intervals_that_overlap_decide_nothing():
    close = [*five(case(backend="paddle"), 5.0, 0.1), *five(case(backend="openvino"), 5.3, 0.1)]
    apart = [*five(case(backend="paddle"), 5.0, 0.1), *five(case(backend="openvino"), 5.5, 0.1)]
    assert column(front_of(*close), "backend") == ["paddle", "openvino"]
    assert column(front_of(*apart), "backend") == ["paddle"]


def test_a_front_is_of_the_smallest_batch_and_then_the_fewest_threads():
    table = front_of(
        ok(case(threads=4, batch_size=2), ms=5),
        ok(case(threads=2, batch_size=2), ms=9),
        ok(case("DPN92", threads=1, batch_size=8), ms=99),
    )
    assert table.title.endswith("batch 2, 2 threads")
    assert column(table, "median, ms") == ["9.00"]
    assert "not compared, for want of an accuracy or of a sound latency at this point: DPN92" in table.notes


def test_precisions_intervals_devices_and_sources_have_fronts_of_their_own():
    found = rows_of(ok(case(), intervals=("compute", "end_to_end")), ok(case(precision="int8")), ok(case(device="t4")))
    quoted = msgspec.structs.replace(found[0], source="published", document="a.md:7")
    titles = [table.title for table in tables.fronts([*found, quoted])]
    assert titles == [
        "Pareto front: cpu, fp32, compute, batch 1, 1 thread",
        "Pareto front: cpu, fp32, end_to_end, batch 1, 1 thread",
        "Pareto front: cpu, int8, compute, batch 1, 1 thread",
        "Pareto front: t4, fp32, compute, batch 1, 1 thread",
        "Pareto front: cpu, fp32, compute, batch 1, 1 thread, published",
    ]


def test_what_measures_nothing_or_has_no_accuracy_is_on_no_front():
    assert tables.fronts(rows_of(ok(case(backend="simulated")), ok(case("mine")), bad(case("DPN92")))) == []


def test_a_doubtful_number_on_the_front_has_its_footnote():
    table = front_of(*five(case(), 5, validity=("throttled",)))
    assert column(table, "median, ms") == ["5.20 [5.00, 5.40] [1]"]
    assert table.notes[0] == "[1] throttled 5/5 repetitions"


# Published figures


def quoted(**changes):
    latency = next(each for each in published.latencies() if each.canonical and each.device == changes["device"])
    return quote([msgspec.structs.replace(latency, **changes)])[0]


def test_every_tag_of_the_published_figures_has_words():
    tags = {tag for latency in published.latencies() for tag in latency.tags}
    assert tags == set(tables.QUALITY)


def test_a_published_figure_is_shown_as_printed_with_its_doubts_in_words():
    row = quoted(device="sd855", latency_ms=30.24, qc="differs_within_2pct;threads_inferred", source="a.md:7")
    (table,) = tables.everything([row])
    assert table.title == "All: sd855, fp32, compute, published"
    assert column(table, "latency, ms") == ["30.24 [1]"]
    assert column(table, "from") == ["a.md:7"]
    assert table.notes[0] == (
        "[1] another document gives a slightly different value; the number of threads is inferred, not printed"
    )
    assert not {"p90, ms", "first, ms", "samples"} & set(table.columns)


def test_threads_of_a_gpu_are_a_dash_and_no_part_of_a_column_s_name():
    row = quoted(device="t4", batch_size=4)
    (wide,) = tables.by_batch([row])
    assert wide.columns[-1] == "bs4, ms"
    (long,) = tables.latency([row, msgspec.structs.replace(row, threads=2)])
    assert column(long, "threads") == ["–", "2"]
    assert tables.fronts([row])[0].title.endswith("batch 4, published")


def test_published_and_measured_are_never_in_one_line():
    measured = rows_of(ok(case(), ms=3), ok(case(backend="openvino"), ms=2))
    both = [*measured, *(msgspec.structs.replace(row, source="published", document="a.md:7") for row in measured)]
    for table in (*tables.by_batch(both), *tables.by_backend(both), *tables.latency(both), *tables.everything(both)):
        assert sorted(set(column(table, "source"))) == ["measured", "published"]
        assert table.title.endswith(", measured and published")
    (beside,) = tables.by_backend(both)
    assert [line[-4:] for line in beside.rows] == [
        ("3.00", "1.50 [1]", "2.00", "1.00"),
        ("2.9997", "1.50 [1]", "1.9998", "1.00"),
    ]


def test_one_backend_of_each_source_is_no_comparison():
    row = rows_of(ok(case()))[0]
    assert tables.by_backend([row, msgspec.structs.replace(row, source="published", backend="openvino")]) == []


def test_campaigns_are_told_apart_where_there_are_several():
    one, other = quoted(device="v100", campaign="v100-gen1"), quoted(device="v100", campaign="v100-gen2", batch_size=4)
    (table,) = tables.everything([one, other])
    assert column(table, "campaign") == ["v100-gen1", "v100-gen2"]
    assert "campaign" not in tables.everything([one])[0].columns
    beside = msgspec.structs.replace(other, model="DPN92", batch_size=1, latency_ms=99.0, top1=0.9)
    (front,) = tables.fronts([one, beside])
    assert "of several campaigns: one was measured with newer software than another, see Environment" in front.notes


def test_a_figure_that_is_known_to_be_wrong_beats_nobody():
    wrong = quoted(device="v100", model="DPN92", latency_ms=0.1, qc="transcription_error")
    (front,) = tables.fronts([wrong, quoted(device="v100", model="DPN68", latency_ms=2.82, qc="")])
    assert column(front, "model") == ["DPN68"]
    assert "not compared, for want of an accuracy or of a sound latency at this point: DPN92" in front.notes
    assert tables.fronts([wrong]) == []


def test_with_provenance_each_figure_says_where_it_is_from():
    row = quoted(device="sd855", source="a.md:7", qc="")
    (table,) = tables.by_batch([row, *rows_of(ok(case(device="sd855")))], provenance=True)
    assert {"from a.md:7", "from run1"} <= {note.partition("] ")[2] for note in table.notes}


def test_a_published_model_without_a_card_has_its_published_metrics():
    row = quoted(device="sd855", model="MobileNetV2")
    (table,) = tables.metrics([row], {})
    assert (column(table, "published params, M"), column(table, "top-1")) == (["3.44"], ["0.722"])


# Metrics


def test_metrics_hold_counted_and_published_figures_apart():
    engine = Artifact("openvino", "model.xml", "cd" * 32, 2_058_520)
    (table,) = tables.metrics(
        rows_of(ok(case()), ok(case(backend="openvino"), artifact=engine), bad(case("DPN92"), "unavailable")), CARDS
    )
    assert table.rows[0] == (
        "MobileNetV1_x0_25", "0.514", "0.755", "0.0410", "0.0821", "0.470",
        "0.07 (2xMACs) [1]", "0.46", "1.93–2.06", "1.9", "MobileNetV1.md:49",
    )  # fmt: skip
    assert table.rows[1][6:9] == ("12.54 (2xMACs) [1]", "36.29 [1]", "–")
    assert table.notes[0] == "[1] more than 3% from our count, in the convention named"
    assert "latency is measured with random weights: accuracy is the published one of the same network" in table.notes


def test_a_convention_nobody_knows_is_not_judged():
    card = msgspec.structs.replace(CARDS["DPN92"], published=Published(flops_g=1.0, flops_convention="unclear"))
    (table,) = tables.metrics(rows_of(ok(case("DPN92"))), {"DPN92": card})
    assert column(table, "published GFLOPs") == ["1 (unclear)"]


def test_a_model_of_ones_own_and_weights_of_ones_own():
    (table,) = tables.metrics(rows_of(ok(case("mine")), ok(case("DPN92"), weights="/home/me/tuned.pdparams")), CARDS)
    assert column(table, "model") == ["DPN92", "mine"]
    assert column(table, "top-1") == ["–", "–"]
    assert "weights of tuned.pdparams have no published accuracy" in table.notes
    assert not any("random" in note for note in table.notes)


def test_a_model_on_two_devices_is_one_line():
    (table,) = tables.metrics(rows_of(ok(case("DPN92")), ok(case()), ok(case("DPN92", device="t4"))), CARDS)
    assert column(table, "model") == ["MobileNetV1_x0_25", "DPN92"]


def test_the_file_is_that_which_was_measured_and_published_rows_have_no_weights():
    printed = quoted(device="sd855", model="MobileNetV1_x0_25")
    assert printed.storage_mb == 1.9
    own = rows_of(ok(case(), weights="/home/me/tuned.pdparams"))
    (table,) = tables.metrics([*own, printed], CARDS)
    assert column(table, "file, MB") == ["1.93"]
    assert "weights of tuned.pdparams have no published accuracy" in table.notes
    (table,) = tables.metrics([printed], CARDS)
    assert (column(table, "file, MB"), column(table, "published file, MB")) == (["–"], ["1.9"])


def test_a_model_that_nobody_counted_has_no_count():
    row = quoted(device="sd855", model="RegNetX_4GF")
    assert (row.gmacs, row.params_m) == (3.99, 22.2)
    (table,) = tables.metrics([row], {})
    assert [column(table, name) for name in ("GMACs", "GFLOPs", "params, M")] == [["–"]] * 3
    assert column(table, "published params, M") == ["22.2"]


# Several machines


TWO = {("cpu", "e1"): "run1", ("cpu", "e2"): "run2"}


def test_a_machine_is_no_rival_of_another_of_its_name():
    here, there = five(case(), 9), five(case("DPN92"), 5, day=2, environment_id="e2")
    found = rows_of(*here, *there)
    assert [column(table, "model") for table in tables.fronts(found)] == [["DPN92"]]
    one, other = tables.fronts(found, TWO)
    assert (column(one, "model"), column(other, "model")) == (["MobileNetV1_x0_25"], ["DPN92"])
    assert one.title == "Pareto front: cpu (machine of run1), fp32, compute, batch 1, 1 thread"


def test_backends_of_two_machines_are_not_side_by_side():
    found = rows_of(ok(case(), ms=5), ok(case(backend="paddle"), ms=9, day=2, environment_id="e2"))
    assert tables.by_backend(found)
    assert tables.by_backend(found, TWO) == []
    for named in (tables.everything, tables.latency):
        titles = [table.title.partition(": ")[2] for table in named(found, machines=TWO)]
        assert titles == ["cpu (machine of run2), fp32, compute", "cpu (machine of run1), fp32, compute"]


def test_a_report_tells_machines_of_one_name_apart(tmp_path):
    other = {"hardware": {"cpu": {"name": "Xeon"}}}
    write(tmp_path, [ok(case("DPN92"))])
    write(tmp_path, [ok(case(), day=2, environment_id="e2")], header(2, other, "e2"))
    built = build(tmp_path)
    fronts = [table.title for table in built.tables if table.title.startswith("Pareto front")]
    assert sorted(title.partition(", ")[0].partition(": ")[2] for title in fronts) == [
        "cpu (machine of run1)",
        "cpu (machine of run2)",
    ]
    assert len(built.latency) == 2


# Long tables


def test_details_of_a_sound_and_of_a_failed_case():
    sound = [
        ok(case(), i, 5 + i / 10, validity=("contended",) if i else (), options={"spinning": "on"}) for i in range(5)
    ]
    (table,) = tables.everything(rows_of(*sound, bad(case(backend="openvino"))))
    one, other = (dict(zip(table.columns, line, strict=True)) for line in table.rows)
    assert one["median, ms"] == "5.20 [5.00, 5.40] [1]"
    assert (one["level"], one["samples"], one["stopped by"]) == ("93.75%", "500 in 5", "budget")
    assert (one["parity error"], one["from"]) == ("2.5e-06", "run1")
    assert (one["export, ms"], one["memory, MB"], one["top-1"], one["file, MB"]) == ("2000", "100", "0.514", "1.93")
    assert other["median, ms"] == "failed [2]"
    assert {other[name] for name in table.columns[7:-1]} == {"–"}
    assert table.notes[:2] == ("[1] contended 4/5 repetitions", "[2] it crashed")
    assert "known of none of these: build" in table.notes
    assert "median: of the processes' medians; [low, high] covers it with 93.75% from 5 processes" in table.notes
    assert "onnxruntime ran with spinning=on" in table.notes
    assert len(table.align) == len(table.columns)


def test_every_table_is_rectangular_and_names_its_interval():
    found = rows_of(ok(case(), intervals=("compute", "end_to_end")), bad(case(backend="paddle")), ok(case(device="t4")))
    for table in (*tables.default(found, CARDS), *tables.latency(found)):
        assert {len(line) for line in table.rows} == {len(table.columns)} == {len(table.align)}
        assert table.title == "Metrics" or "compute" in table.title or "end_to_end" in table.title


def test_only_the_wide_tables_need_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    report = Report(rows_of(ok(case())), CARDS)
    assert report.latency[0].rows
    with pytest.raises(UsageError, match=r"pandas is not installed.*pip install pandas"):
        _ = report.tables


def test_pandas_is_not_loaded_before_it_is_needed():
    code = (
        "import sys, bench.report; bench.report.formats(); sys.exit('pandas' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
