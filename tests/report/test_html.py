"""The HTML page as a file: whole in itself, safe, always the same, and holding every row. Its life: tests/browser."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lxml.html
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import report as reports
from bench.errors import UsageError
from bench.formats import one_line
from bench.report import Report, Table, html
from bench.report.rows import Row, rows
from bench.store import Run

from . import CARDS, bad, case, header, ok

EVIL = "</script><script>alert(1)</script><!--\u2028]]>\"'&amp;\x00\u202e\n<b>"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(scope="module")
def published() -> Report:
    return reports.build(Path("nowhere"), source="published")


@pytest.fixture(scope="module")
def page(published) -> str:
    return html.render(published)


def foreign(text: str) -> Report:
    records = (*(ok(case(text), number, validity=(text or "x",)) for number in range(3)), bad(case(text, batch_size=4)))
    run = Run(path=Path("a.jsonl"), headers=(header(),), records=records)
    found = Report(rows([run], CARDS), CARDS, notes=(text,), environment=(text,), command=text)
    found.__dict__["tables"] = [
        Table(text, ("a", text), ((text, "b"), ("c", text)), "lr", (text,), frozenset({(0, 1)}))
    ]
    return found


def embedded(page: str) -> dict:
    return json.loads(lxml.html.document_fromstring(page).get_element_by_id("data").text)


def unpacked(page: str) -> list[Row]:
    fields = embedded(page)["fields"]
    columns = {name: [field["values"][place] for place in field["at"]] for name, field in fields.items()}
    return [msgspec.convert(dict(zip(columns, line, strict=True)), Row) for line in zip(*columns.values(), strict=True)]


def test_nothing_is_loaded_from_elsewhere(page):
    tree = lxml.html.document_fromstring(page)
    assert tree.xpath("//@src | //@srcset | //@action") == []
    assert tree.xpath("//link/@href") == ["data:,"]
    styles = "".join(tree.xpath("//style/text()"))
    assert "@import" not in styles
    assert not re.search(r"url\((?!['\"]?data:)", styles)
    assert "sourceMappingURL=tabulator.min.js" not in page


def test_the_policy_admits_these_scripts_and_no_network(page):
    tree = lxml.html.document_fromstring(page)
    policy = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 3
    assert rules == {
        "default-src": "'none'",
        "script-src": " ".join(f"'sha256-{each}'" for each in hashes),
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_rows_in_the_page_are_the_rows(published, page):
    assert unpacked(page) == published.rows


def test_all_that_was_published_stays_below_5_mb(page):
    assert len(page.encode()) < 5_000_000


def test_the_tables_of_the_layout_are_there(published, page):
    tree = lxml.html.document_fromstring(page)
    shown = [each.text_content() for each in tree.xpath("//main//summary")]
    assert shown == [one_line(table.title) for table in published.tables]
    first = tree.xpath("//main//details//table")[0]
    assert [each.text_content() for each in first.xpath(".//th")] == list(published.tables[0].columns)
    assert [[each.text_content().strip() for each in line.xpath(".//td")] for line in first.xpath(".//tbody/tr")] == [
        [one_line(cell) for cell in line] for line in published.tables[0].rows
    ]


def test_how_and_where_are_said(tmp_path):
    page = lxml.html.document_fromstring(html.render(foreign("Example CPU")))
    assert page.xpath("//pre/text()") == ["Example CPU --format html"]
    assert [each.strip() for each in page.xpath("//body/header//li/text()")] == ["Example CPU"] * 2
    assert page.xpath("//h1/text()") == ["Latency report"]
    assert page.xpath("//html/@lang") == ["en"]


def test_a_table_without_room_is_named(published, page, monkeypatch):
    monkeypatch.setattr(html, "LARGEST_BYTES", len(page.encode()) - 200_000)
    page = html.render(published)
    left_out = page.count(": left out to keep this page below 5 MB") - 1  # the words themselves are in the data
    assert 0 < left_out < len(published.tables)
    assert page.count("<summary>") == len(published.tables) - left_out + 1


def test_without_pandas_one_line_says_what_to_install(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        html.render(Report(published.rows, {}))


@settings(deadline=None, max_examples=30)
@given(TEXTS)
@example(EVIL)
@example("")
@example("$title ${plot} $$")
def test_no_text_leaves_its_place(text):
    page = html.render(foreign(text))
    tree = lxml.html.document_fromstring(page)
    assert tree.xpath("count(//script)") == 4
    assert tree.xpath("//h1/text()") == ["Latency report"]
    line = one_line(text)
    assert tree.xpath("string(//main//summary)") == line
    assert [each.text_content().rstrip("\n") for each in tree.xpath("//details//td")] == [line, "b", "c", line]
    assert {row.model for row in unpacked(page)} == {text}


def test_two_processes_write_the_same_bytes():
    command = [sys.executable, "-m", "bench.cli", "report", "--source", "published", "--device", "sd855"]
    pages = [
        subprocess.run(
            [*command, "--format", "html"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert pages[0] == pages[1]
    assert pages[0].startswith(b"<!DOCTYPE html>")


def test_every_language_has_the_same_words():
    words = json.loads((html.ASSETS / "labels.json").read_text(encoding="utf-8"))
    english = words["en"]
    for language in words.values():
        assert set(language) == set(english)
        for name in ("choices", "axes", "columns"):
            assert list(language[name]) == list(english[name])
        texts = [name for name, word in english.items() if isinstance(word, str)]
        assert all(placeholders(language[name]) == placeholders(english[name]) for name in texts)


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))


def test_the_libraries_are_those_that_the_list_names():
    listed = dict(re.findall(r"^\| `([^`]+)` .* `([0-9a-f]{64})` \|$", (html.ASSETS / "README.md").read_text(), re.M))
    assert set(listed) == {path.name for path in html.ASSETS.glob("*.min.*")}
    for name, sha256 in listed.items():
        library = (html.ASSETS / name).read_bytes()
        assert hashlib.sha256(library).hexdigest() == sha256
        assert not re.search(rb"</script|<!--|</style|\r", library), "it would end where the page holds it"
