"""The linter: each rule on a table that breaks it and on one that doesn't, and its quality on all published figures."""

import contextlib
import json
from collections import Counter
from pathlib import Path

import lint_quality
import msgspec
import pytest
import stored
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import lint, published, report
from bench.errors import UsageError
from bench.lint import columns, rules, sources, tables
from bench.lint.columns import Context

DATA = Path(__file__).resolve().parent / "data" / "lint"


def found(tmp_path, text, suffix=".md"):
    """Rule and line of each finding that is not for information, and of those that are."""
    path = tmp_path / f"table{suffix}"
    path.write_text(text, encoding="utf-8")
    findings, _ = lint.files([path])
    doubts = [(each.rule, each.line) for each in findings if each.severity != "info"]
    return doubts, [(each.rule, each.line) for each in findings if each.severity == "info"]


def table(*lines, heading="## V100, fp32"):
    header, *rest = lines
    return "\n".join([heading, "", header, "|---" * (header.count("|") - 1) + "|", *rest, ""])


BATCHES = "| Models | bs=1 (ms) | bs=4 (ms) | bs=8 (ms) |"
THREADS = "| Models | bs=1, thread=1 (ms) | bs=1, thread=2 (ms) | bs=1, thread=4 (ms) |"
PHONE = "## SD855, fp32"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (table(BATCHES, "| a | 1.0 | 1.9 | 3.1 |"), []),
        (table(BATCHES, "| a | 1.0 | 1.9 | 1.7 |", "| b | 1.0 | 1.9 | 1.88 |"), [("batch-faster", 5)]),
        (table(BATCHES, "| a | 1.0 | 5.3 | 9.0 |", "| b | 1.0 | 5.1 | 9.0 |"), [("batch-excess", 5)]),
        (table(THREADS, "| a | 8.0 | 4.1 | 2.2 |", heading=PHONE), []),
        (table(THREADS, "| a | 8.0 | 4.1 | 4.3 |", heading=PHONE), [("threads-slower", 5)]),
        (table(THREADS, "| a | 9.5 | 4.1 | 3.3 |", heading=PHONE), [("threads-superlinear", 5)]),
        (table("| Models | min, ms | median, ms | p90, ms | p99, ms |", "| a | 1.1 | 1.2 | 1.3 | 1.4 |"), []),
        (table("| Models | min, ms | median, ms | p90, ms |", "| a | 1.3 | 1.2 | 1.3 |"), [("order", 5)]),
        (table("| Models | median, ms | p90, ms | p99, ms |", "| a | 1.2 | 1.5 | 1.4 |"), [("order", 5)]),
        (table("| Models | min, ms | mean, ms | max, ms |", "| a | 1.0 | 2.5 | 2.0 |"), [("order", 5)]),
        (table("| Models | min, ms | mean, ms | max, ms |", "| a | 1.0 | 1.9 | 2.0 |"), []),
        (
            table("| Models | bs=1 (ms) |", "| a | 0 |", "| b | -1 |", "| c | 70000 |"),
            [("impossible", 5 + n) for n in range(3)],
        ),
        (table("| Models | Top1 |", "| a | 0.71 |", "| b | 77.04 |", "| c | 0.72 |"), [("accuracy", 6)]),
        (table("| Models | Top-1(%) |", "| a | 71.0 |", "| b | 0.77 |", "| c | 72.0 |"), [("accuracy", 6)]),
        (table("| Models | Top1 |", "| a | 71.0 |", "| b | 77.04% |", "| c | 72.0 |"), []),
        (table("| Models | FLOPs(G) |", "| DPN68 | 2330 |", "| DPN92 | 6.5 |"), [("flops-unit", 5)]),
        (table("| Models | FLOPs(G) |", "| DPN68 | 9.9 |", "| DPN92 | 6.5 |"), [("flops-count", 5)]),
        (
            table("| Models | FLOPs(G) |", "| DPN92 | 13 |", "| ResNet50 | 4.1 |", "| VGG16 | 15.4 |"),
            [("flops-mixed", 5)],
        ),
        (table("| Models | FLOPs(G) |", "| DPN92 | 6.5 |", "| ResNet50 | 4.1 |"), []),
        (table("| Models | Params(M) |", "| DPN92 | 36.29 |", "| ResNet50 | 25.6 |"), [("params-count", 5)]),
        (
            table(BATCHES, "| ResNet50 | 1.01 | 1.44 | 1.92 |", "| ResNet50_ssld | 1.01 | 1.44 | 1.92 |"),
            [],
        ),
        (table(BATCHES, "| ResNet50 | 1.01 | 1.44 | 1.92 |", "| VGG16 | 1.01 | 1.44 | 1.92 |"), [("same-values", 6)]),
        (table(BATCHES, "| a | 1 | 2 |", "| b | 1 | 2 | 3 |"), [("broken-row", 5)]),
        (table(BATCHES, "| a | 1 | 2 | 3 | 4 |", "| b | 1 | 2 | 3 | 4 |"), [("header-count", 3)]),
        (table(BATCHES, "| a | 1 | quick | 3 |"), [("no-number", 5)]),
        (table("| Models | Latency bs=1 |", "| a | 1 |"), [("no-unit", 3)]),
        (table("| Models | Latency bs=1 |", "| a | 1 ms |", "| b | – |"), []),
    ],
)
def test_a_rule_finds_what_it_is_for_and_nothing_else(tmp_path, text, expected):
    assert found(tmp_path, text)[0] == expected


def test_half_precision_and_doubled_macs_are_for_information(tmp_path):
    text = table("| Models | FP16 bs=1 (ms) | FP32 bs=1 (ms) | FLOPs(G) |", "| DPN92 | 1.3 | 1.2 | 13.0 |")
    assert found(tmp_path, text) == ([], [("fp16-slower", 5), ("flops-twice", 5)])


def test_two_documents_disagree(tmp_path):
    for name, value in (("a.md", "10.30"), ("b.md", "10.9"), ("c.md", "10.2")):
        (tmp_path / name).write_text(table("| Models | bs=1 (ms) |", f"| net | {value} |"), encoding="utf-8")
    near, _ = lint.files([tmp_path / "a.md", tmp_path / "c.md"])
    assert [(each.rule, each.severity) for each in near] == [("documents-disagree", "info")]
    far, _ = lint.files([tmp_path / "a.md", tmp_path / "b.md"])
    assert [(each.rule, each.severity, each.values) for each in far] == [
        ("documents-disagree", "warning", f"10.3 ms, 10.9 ms at {tmp_path / 'b.md'}:5: +5.8%")
    ]


def test_rounding_is_no_disagreement(tmp_path):
    for name, value in (("a.md", "1.61785"), ("b.md", "1.62")):
        (tmp_path / name).write_text(table("| Models | bs=1 (ms) |", f"| net | {value} |"), encoding="utf-8")
    assert lint.files([tmp_path / "a.md", tmp_path / "b.md"])[0] == []


def test_a_number_of_another_device(tmp_path):
    xeon, v100 = "## Xeon Gold 6148, fp32, 10 threads", "## V100, fp32"
    places = [("a.md", xeon, 1.74), ("b.md", xeon, 1.75), ("c.md", xeon, 0.44), ("d.md", v100, 0.72)]
    for name, heading, value in places:
        text = table("| Models | bs=1 (ms) |", f"| net | {value} |", heading=heading)
        (tmp_path / name).write_text(text, encoding="utf-8")
    findings, _ = lint.files([tmp_path / name for name, *_ in places])
    assert [(each.rule, Path(each.document).name) for each in findings if each.severity != "info"] == [
        ("other-device", "c.md")
    ]


# Headers


@pytest.mark.parametrize(
    ("header", "field", "context"),
    [
        ("SD855 time(ms)<br/>bs=1, thread=2", "latency", Context("sd855", "", "", 1, 2)),
        ("FP32<br/>Batch Size=4<br/>(ms)", "latency", Context("", "", "fp32", 4, 0)),
        ("骁龙855 延时(ms), 线程=4", "latency", Context("sd855", "", "", 0, 4)),
        ("T4 FP16 bs=8 (ms)", "latency", Context("t4", "", "fp16", 8, 0)),
        ("bs1 t4, ms", "latency", Context("", "", "", 1, 4)),
        ("onnxruntime, ms", "latency", Context("", "onnxruntime", "", 0, 0)),
        ("latency_ms", "latency", Context()),
        ("first, ms", "", Context()),
        ("ci_low_ms", "", Context()),
        ("published params, M", "", Context()),
        ("参数量(M)", "params_m", Context()),
        ("模型", "model", Context()),
        ("Reference<br>top1", "ref_top1", Context()),
        ("Storage Size(M)", "storage_mb", Context()),
    ],
)
def test_what_a_header_means(header, field, context):
    understood = columns.column(header)
    assert (understood.field, understood.context) == (field, context)


@pytest.mark.parametrize(
    ("header", "scale"),
    [("Time (s)", 1e3), ("延时(毫秒)", 1.0), ("latency_us", 1e-3), ("Latency", None), ("FLOPs(M)", 1e-3)],
)
def test_units(header, scale):
    assert columns.column(header).scale == scale


# Excerpts of pages


def test_three_headers_over_six_values():
    (finding,), _ = lint.files([DATA / "dpn_t4.md"])
    assert (finding.rule, finding.line, len(finding.cells)) == ("header-count", 6, 5)
    assert finding.values == "5 headers over 8 cells in each of 5 lines"


def test_tables_without_pipes_at_their_ends():
    read = tables.read(DATA / "pplcnet_v2.md")
    assert [len(each.rows) for each in read.tables] == [2, 4]
    assert {
        (cell.device, cell.backend, cell.precision, cell.threads) for cell in read.cells if cell.table[-2:] == ":8"
    } == {("xeon-6271c", "openvino", "", 0)}
    findings, _ = lint.files([DATA / "pplcnet_v2.md"])
    assert [(each.rule, each.row) for each in findings if each.severity != "info"] == [
        ("flops-mixed", "MobileNetV3_Large_x1_25")
    ]
    assert Counter(each.values.split(":")[0] for each in findings if each.severity == "info") == {
        "precision": 2,
        "batch size": 2,
        "threads": 2,
    }


@settings(max_examples=150, deadline=None)
@given(
    header=st.lists(st.sampled_from(["Model", "bs=1 (ms)", "bs=4, ms", "Params(M)", "FLOPs(G)", "Top1", "threads"])),
    lines=st.lists(st.lists(st.text("0123456789.,e-+|%[] \\msDPN6", max_size=12) | st.just("DPN68"), max_size=6)),
)
def test_no_table_breaks_the_reader(tmp_path_factory, header, lines):
    folder = tmp_path_factory.mktemp("tables")
    page, sheet = folder / "a.md", folder / "a.csv"
    page.write_text("\n".join(" | ".join(line) for line in [header, ["---"] * len(header), *lines]), encoding="utf-8")
    sheet.write_text("\n".join(",".join(line) for line in [header, *lines]), encoding="utf-8")
    for path in (page, sheet):
        with contextlib.suppress(UsageError):
            for each in lint.files([path])[0]:
                assert each.why


# Published figures


def test_quality_on_published_figures():
    quality = lint_quality.quality()
    assert quality.recall >= 0.92
    assert quality.precision >= 0.88
    exact = {
        tag: tally.share for tag, tally in quality.tags.items() if tag not in ("precision_assumed", "threads_inferred")
    }
    assert min(exact.values()) >= 0.98
    assert min(tally.share for tally in quality.conflicts.values()) >= 0.98


def test_what_documents_do_not_say_is_found_once_it_is_blank():
    assert [tally.share for tally in lint_quality.restored(published.latencies()).values()] == [1.0, 1.0]


def test_halves_of_the_lines_are_judged_alike():
    odd, even = lint_quality.quality(1), lint_quality.quality(0)
    assert odd.recall == pytest.approx(even.recall, abs=0.04)
    assert odd.precision == pytest.approx(even.precision, abs=0.04)


def test_published_tags_are_not_read():
    latencies, figures = published.latencies(), published.figures()
    bare = [
        msgspec.structs.replace(each, qc="", notes="", canonical=number % 3 == 0, doc_kind="")
        for number, each in enumerate(latencies)
    ]
    plain = [
        msgspec.structs.replace(each, notes="", flops_convention="", ratio_to_reference_macs=None) for each in figures
    ]
    whole = lint.check([*sources.of_latencies(latencies), *sources.of_figures(figures)])
    assert lint.check([*sources.of_latencies(bare), *sources.of_figures(plain)]) == whole


def test_the_order_of_lines_decides_nothing():
    cells = [*sources.of_latencies(published.latencies()), *sources.of_figures(published.figures())]
    backwards = cells[::-1]
    assert Counter(map(kind, lint.check(backwards))) == Counter(map(kind, lint.check(cells)))


def kind(finding):
    return (
        finding.rule,
        finding.severity,
        frozenset(finding.cells) if finding.rule != "other-device" else finding.place,
    )


def test_one_device_is_judged_beside_all():
    findings = lint.published_figures({"device": "sd855"})
    assert Counter(each.rule for each in findings if each.severity != "info") == {
        "other-device": 8,
        "threads-slower": 4,
        "threads-superlinear": 4,
        "documents-disagree": 2,
    }


# The command line


def test_exit_codes_and_lines(tmp_path):
    good, bad, empty = (tmp_path / name for name in ("good.md", "bad.md", "empty.md"))
    good.write_text(table(BATCHES, "| a | 1.0 | 1.9 | 3.1 |"), encoding="utf-8")
    bad.write_text(table(BATCHES, "| a | 1.0 | 0.9 | 3.1 |"), encoding="utf-8")
    empty.write_text("# nothing\n", encoding="utf-8")
    assert stored.bench("lint", good) == (0, "nothing wrong\n", "")
    assert stored.bench("lint", bad) == (
        1,
        f"{bad}:5: warning: a, bs=4 (ms): bs=1 1 ms, bs=4 0.9 ms; "
        "a larger batch takes longer than a smaller one, or as long [batch-faster]\nwarnings: 1\n",
        "",
    )
    other = tmp_path / "other.md"
    other.write_text("| colour | taste |\n|---|---|\n| red | 3 |\n", encoding="utf-8")
    assert stored.bench("lint", other) == (
        0,
        "nothing wrong\n",
        f"bench: {other}: no column of its tables is one that can be checked\n",
    )
    assert stored.bench("lint", good, empty) == (0, "nothing wrong\n", f"bench: {empty}: no table in it\n")
    code, out, err = stored.bench("lint", empty)
    assert (code, out) == (2, "")
    assert err.startswith(f"bench: no table to check; {empty}: no table in it;")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.md", b"\xff\xfe|", "not UTF-8 at byte 0"),
        ("a.csv", b'model,latency_ms\n"a,1\n', "unexpected end of data"),
        ("none.csv", None, "No such file"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = stored.bench("lint", tmp_path / name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_json_has_every_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("model,device,batch_size,threads,latency_ms\na,cpu,1,1,2.0\na,cpu,4,1,1.0\n", encoding="utf-8")
    code, out, _ = stored.bench("lint", path, "--format", "json")
    (doubt,) = [each for each in json.loads(out) if each["severity"] == "warning"]
    assert code == 1
    assert (doubt["rule"], doubt["row"], doubt["line"]) == ("batch-faster", "a", 3)
    assert doubt["places"] == [f"{path}:3", f"{path}:2"]


@pytest.mark.parametrize("name", ["markdown", "csv"])
def test_our_own_report_is_clean(tmp_path, name):
    stored.runs(tmp_path / "results", [22.3, 22.4])
    stored.run(tmp_path / "results", 2, stored.session(41.0), case=stored.OTHER)
    format_ = report.get(name)
    path = tmp_path / f"report{format_.suffix}"
    path.write_text(format_.render(report.build(tmp_path / "results")), encoding="utf-8")
    findings, empty = lint.files([path])
    assert [each for each in findings if each.severity != "info"] == []
    assert empty == []
    assert sum(cell.field == "latency" for cell in tables.read(path).cells) >= 2


def test_measured_rows_are_checked(tmp_path):
    for number, (batch_size, ms) in enumerate([(1, 9.0), (4, 5.0)]):
        case = msgspec.structs.replace(stored.CASE, batch_size=batch_size)
        stored.run(tmp_path, 0 if number == 0 else 1, stored.session(ms), case=case)
    assert stored.bench("report", "--lint", "--results", tmp_path)[:2] == (0, "nothing wrong\n")
    found = lint.check(
        [
            msgspec.structs.replace(cell, record="one run", document="one run")
            for cell in sources.of_rows(report.build(tmp_path).rows)
        ]
    )
    assert {each.rule for each in found} == {"batch-faster"}


def test_report_lint_refuses_what_it_cannot_do(tmp_path):
    code, _, err = stored.bench("report", "--lint", "--source", "published", "--format", "csv")
    assert (code, err) == (2, "bench: no format of --lint 'csv'; known: text, json; name one of these with --format\n")
    assert stored.bench("report", "--lint", "--source", "published", "--output", tmp_path)[0] == 2
    assert stored.bench("report", "--lint", "--source", "published", "--device", "abacus")[0] == 2


def test_report_lint_checks_published_figures():
    code, out, _ = stored.bench("report", "--lint", "--source", "published", "--model", "AlexNet", "--device", "v100")
    assert code == 1
    assert "README.md:519: warning: AlexNet, v100 fp32 bs=4: bs=1 0.64 ms, bs=4 8.88 ms: 13.9 times" in out


def test_every_rule_is_explained_in_the_documents():
    page = (Path(__file__).resolve().parents[1] / "docs" / "lint.md").read_text(encoding="utf-8")
    kinds = (tables.COUNTS, tables.BROKEN, tables.NO_NUMBER, tables.NO_UNIT)
    for name in [*(rule.name for rule in rules.RULES), *(kind[0] for kind in kinds)]:
        assert f"| `{name}` |" in page
    assert lint_quality.page() in page
