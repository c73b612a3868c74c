"""Each format against its golden file, and against strings that mean harm.

After an intended change: BENCH_UPDATE_GOLDEN=1 python -m pytest tests/report/test_formats.py, then read the diff.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import catalog, formats, report
from bench.errors import UsageError
from bench.report import Report, Table, markdown
from bench.report.rows import Row, rows
from bench.schema import Artifact
from bench.store import Run

from . import CARDS, ENGINE, bad, case, header, measurement, ok, write

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ENGINE_FILE = Artifact("openvino", "model.xml", "cd" * 32, 2_058_520, ENGINE)
BOTH = ("compute", "end_to_end")


def results(folder):
    """Two runs: every status, two intervals, doubts, a superseded case, a foreign name, a damaged line."""
    small, large = "MobileNetV1_x0_25", "DPN92"
    write(folder, [ok(case(small), i, 9.0) for i in range(3)])
    five = range(5)
    newer = [
        *(ok(case(small), i, 0.5 + 0.01 * i, day=2, intervals=BOTH, options={"spinning": "on"}) for i in five),
        *(ok(case(small, batch_size=4), i, 1.9, 1, 2, ("contended",) if i > 2 else ()) for i in five),
        *(ok(case(small, "openvino"), i, 0.53, 2, 2, artifact=ENGINE_FILE) for i in five),
        *(ok(case(small, "openvino", 4), i, 1.5, 3, 2, artifact=ENGINE_FILE, wanted=1) for i in range(1)),
        *(ok(case(large), i, 57.0 + i, 4, 2, measurement=measurement(57.0 + i, count=20)) for i in five),
        bad(case(large, batch_size=4), "failed", "out of memory", 5, 2),
        bad(case(large, "openvino"), "failed", "output differs from paddle; maximum error 3.2e-02 of its range", 6, 2),
        bad(case(small, "tensorrt"), "unavailable", "tensorrt is not in this bench; a later bench will have it", 7, 2),
        bad(case(large, precision="fp16"), "unsupported", "onnxruntime runs fp32 on a cpu, not fp16", 8, 2),
        *(ok(case("我的|model"), i, 1234.5, 9, 2) for i in range(3)),
    ]
    path = write(folder, newer, header(2))
    with path.open("ab") as file:
        file.write(b'{"kind":"record","run_id":"ru')
    return folder


@pytest.fixture
def built(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "cards", lambda: CARDS)
    monkeypatch.chdir(tmp_path)
    return report.build(results(Path("results")))


# The HTML page holds its libraries: test_html.py and tests/browser look at the rest of it.
@pytest.mark.parametrize("name", [name for name in report.formats() if name != "html"])
def test_a_format_writes_its_golden_file(built, name):
    format_ = report.get(name)
    text, golden = format_.render(built), GOLDEN / f"report{format_.suffix}"
    if os.environ.get("BENCH_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", report.formats())
def test_the_same_records_give_the_same_bytes(built, name):
    again = report.build(Path("results"))
    assert report.get(name).render(again) == report.get(name).render(built)


def test_the_formats_are_the_files_that_render():
    assert report.formats() == ["csv", "html", "json", "latex", "markdown", "text"]
    with pytest.raises(UsageError, match="no format 'markdwn'; closest: markdown"):
        report.get("markdwn")
    with pytest.raises(UsageError, match="no format 'rows'"):
        report.get("rows")


def test_json_is_the_array_of_the_contract(built):
    found = json.loads(report.get("json").render(built))
    assert [list(each) for each in found] == [list(Row.__struct_fields__)] * len(built.rows)
    assert found[0]["latency_ms"] == built.rows[0].latency_ms
    assert {each["status"] for each in found} == {"ok", "failed", "unsupported", "unavailable"}


def test_csv_has_the_same_columns_and_numbers_in_full(built):
    found = list(csv.DictReader(io.StringIO(report.get("csv").render(built))))
    assert list(found[0]) == list(Row.__struct_fields__)
    assert [float(each["latency_ms"] or "nan") for each in found] == pytest.approx(
        [row.latency_ms or float("nan") for row in built.rows], nan_ok=True, rel=0
    )
    assert json.loads(found[0]["options"]) == {"spinning": "on"}


# Through pandas and back

NUMBER = re.compile("int|float")
LISTS = [name for name, kind in Row.__annotations__.items() if kind in (tuple[str, ...], dict[str, str])]
WORDS = [name for name, kind in Row.__annotations__.items() if name not in LISTS and not NUMBER.search(str(kind))]
NUMBERS = [name for name in Row.__struct_fields__ if name not in {*LISTS, *WORDS}]


def from_csv(text):
    frame = pandas.read_csv(io.StringIO(text), dtype=dict.fromkeys(WORDS, str))
    frame[WORDS] = frame[WORDS].fillna("")
    for name in LISTS:
        frame[name] = frame[name].map(json.loads)
    return frame


def from_json(text):
    return pandas.read_json(io.StringIO(text), dtype=False)


@pytest.mark.parametrize(("name", "read"), [("csv", from_csv), ("json", from_json)])
@pytest.mark.parametrize("source", ["measured", "published", "both"])
def test_pandas_reads_the_rows_as_they_were(built, name, read, source):
    quoted = report.build(Path("results"), source="published", family="dpn").rows
    page = Report({"measured": built.rows, "published": quoted, "both": [*built.rows, *quoted]}[source], CARDS)
    frame = read(report.get(name).render(page))
    assert list(frame.columns) == list(Row.__struct_fields__)
    assert all(pandas.api.types.is_numeric_dtype(frame[each]) or frame[each].isna().all() for each in NUMBERS)
    frame[NUMBERS] = frame[NUMBERS].astype(object).where(frame[NUMBERS].notna(), None)
    for known, row in zip(frame.to_dict("records"), page.rows, strict=True):
        found = msgspec.structs.asdict(msgspec.convert(known, Row))
        wanted = msgspec.structs.asdict(row)
        for each in NUMBERS:
            number, exact = found.pop(each), wanted.pop(each)
            assert number == (exact if exact is None else pytest.approx(exact, rel=1e-12)), each
        assert found == wanted


# Two processes

RENDER = """
import hashlib, json, sys
from pathlib import Path
from bench import report
found = {}
for options in (dict(source="both", family="MobileNetV1"), dict(source="published", layout="paddleclas", family="DPN")):
    for name in report.formats():
        text = report.get(name).render(report.build(Path("results"), **options))
        found[f"{name} {options['source']}"] = hashlib.sha256(text.encode()).hexdigest()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The hashes of what two processes make of the same records, strings hashing otherwise in each."""
    folder = tmp_path_factory.mktemp("two")
    results(folder / "results")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RENDER],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    return [json.loads(process.communicate(timeout=100)[0]) for process in started]


@pytest.mark.parametrize("source", ["both", "published"])
@pytest.mark.parametrize("name", report.formats())
def test_two_processes_write_the_same_bytes(two_processes, name, source):
    one, other = two_processes
    assert one[f"{name} {source}"] == other[f"{name} {source}"]


def test_markdown_ends_with_where_and_how(built):
    lines = report.get("markdown").render(built).splitlines()
    assert lines[-1] == "    bench report --format markdown"
    assert any(line.startswith("- AMD EPYC, 2 usable CPUs, virtual machine (kvm)") for line in lines)
    assert "**0.520**" in "".join(lines)


def test_terminal_columns_stand_below_each_other(built):
    """Counted in columns of a terminal, where 我 takes two."""
    lines = report.get("text").render(built).splitlines()
    header_ = next(line for line in lines if line.startswith("model"))
    foreign = next(line for line in lines if "我" in line)
    end = header_.index("backend")
    assert report.width(foreign[: foreign.index("onnxruntime")]) == end


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("我的", 4), ("é", 1), ("e\u0301", 1), ("Ａ", 2), ("5.9–6", 5)]
)
def test_width(text, columns):
    assert report.width(text) == columns


# Strings from elsewhere


FOREIGN = st.text(max_size=30) | st.text(alphabet="|\\`*_<>[]()&#\n\r\t\x00\x1b\u2028\u202e\u0085 a", max_size=30)
EVIL = "a|b\n| c \\| <script>`*x*`\x1b[31m\u202e\r\n\n# d"


def foreign_report(model, reason):
    records = (
        ok(case(model)),
        ok(case(model, "paddle"), validity=(reason,)),
        bad(case(model, batch_size=4), reason=reason),
    )
    run = Run(path=Path("a.jsonl"), headers=(header(),), records=records)
    return Report(rows([run], CARDS), CARDS, notes=(reason,), environment=(model,), command=f"bench report {reason}")


@settings(deadline=None)
@given(FOREIGN, FOREIGN)
@example(EVIL, EVIL)
@example("", "")
@example("\\", "\\")
def test_no_string_breaks_a_format(model, reason):
    harmless, foreign = foreign_report("a", "b"), foreign_report(model, reason)
    for name in ("csv", "markdown", "text"):
        plain, odd = (report.get(name).render(each) for each in (harmless, foreign))
        assert all(char.isprintable() or char == "\n" for char in odd), name
        assert odd.count("\n") == plain.count("\n"), name
    assert json.loads(report.get("json").render(foreign))[0]["model"] == model
    found = list(csv.reader(io.StringIO(report.get("csv").render(foreign))))
    assert {len(line) for line in found} == {len(Row.__struct_fields__)}


@settings(deadline=None)
@given(FOREIGN)
@example(EVIL)
@example("\\")
@example("![](http://x) [a](b) www.a.b <a@b.c> &lt; ~~x~~ _y_ __z__ a_b")
def test_a_markdown_reader_sees_the_cells_as_they_were(text):
    """Parsed by the library that rich brings along, as GitHub would."""
    markdown_it = pytest.importorskip("markdown_it")
    table = Table(text, ("a", text), ((text, "b"), ("c", text)), "lr", (text,), frozenset({(0, 1)}))
    page = Report([], {}, notes=(text,), command=text)
    page.__dict__["tables"] = [table]
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown.render(page))
    seen = [token for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in token.children) for token in seen]
    line = formats.one_line(text)
    assert shown == [
        "Latency report",
        *[line] * bool(line),
        line,
        "a",
        line,
        line,
        "b",
        "c",
        line,
        *[line] * bool(line),
        *ENDING,
    ]
    marks = {child.type for token in seen for child in token.children}
    assert marks <= {"text", "text_special", "strong_open", "strong_close"}


ENDING = ["Environment", "How to make this page again"]
