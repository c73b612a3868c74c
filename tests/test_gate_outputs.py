"""What a gate prints: each format as its reader parses it, whatever the names hold; and the exit codes."""

import json
import string
from itertools import chain, combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from markdown_it import MarkdownIt

from bench import cli_gate, formats, gate
from bench.errors import UsageError
from bench.gate import Gate, GateResult

SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "data" / "junit.xsd"))
OUTCOMES = gate.WORST_FIRST
HOSTILE = [
    "a|b\\|c",
    "```\n# heading\n<script>alert(1)</script>",
    "]]><!-- &amp; & 'quoted' \"twice\" -->",
    "::error title=x::y",
    "##[add-mask]secret",
    "%0A%25,title=z:w",
    "line\r\nbreak\ttab\x00nul\x1b[31mred\x7f",
    "\ud800 lone surrogate \ufffe\uffff",
    "__init__ _x_ a_b *bold* ~~struck~~ [link](http://x) ![image](y) $x$ &lt;",
    "\u202egnirts desrever\u2028new line\u0085",
    "画像分類 🚀",
    "- item",
    "1. item",
    "",
]


def examples(count):
    """Without hypothesis's own clocks: other work on the machine must not fail a test."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def result(case="DPN68/onnxruntime/cpu/fp32/bs1/t1 compute", outcome="PASS", **fields):
    numbers = {"ratio": 1.083, "low": 1.056, "high": 1.11} if outcome in ("PASS", "IMPROVED", "REGRESSION") else {}
    said = {"says": "It takes 8.3% more time.", "do": "use bench compare", "took_s": 12.5}
    return GateResult(**{"case": case, "outcome": outcome, **numbers, **said, **fields})


def made(*results, **fields):
    return Gate(command="bench check", results=results, **fields)


ALL = made(*(result(f"case {outcome}", outcome) for outcome in OUTCOMES), notes=("a note",))
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(alphabet=st.characters(), max_size=30), st.text(string.punctuation))
RATIOS = st.one_of(st.none(), st.floats(0.01, 100))
HOSTILE_RESULTS = st.builds(
    GateResult,
    case=TEXTS,
    outcome=st.sampled_from(OUTCOMES),
    says=TEXTS,
    do=TEXTS,
    ratio=RATIOS,
    low=RATIOS,
    high=st.one_of(st.none(), st.floats(1, float("inf"))),
    details=st.lists(TEXTS, max_size=2).map(tuple),
    evidence=st.dictionaries(TEXTS, st.one_of(TEXTS, st.floats()), max_size=2),
    took_s=st.floats(0, 1e6),
)
GATES = st.builds(
    Gate,
    command=st.just("bench check"),
    results=st.lists(HOSTILE_RESULTS, max_size=4).map(tuple),
    shift=TEXTS.map(formats.one_line),
    notes=st.lists(TEXTS, max_size=2).map(tuple),
    place=TEXTS,
)


def rendered(name, found):
    return gate.get(name).render(found)


# The formats that there are


def test_command_line_offers_the_files_that_render():
    assert list(cli_gate.FORMATS) == gate.formats()


def test_unknown_format_names_the_known_ones():
    with pytest.raises(UsageError, match=r"no format 'junitt'; closest: junit;"):
        gate.get("junitt")


@pytest.mark.parametrize("name", gate.formats())
@given(found=GATES)
@examples(25)
def test_hostile_words_break_no_format(name, found):
    rendered(name, found).encode("utf-8")


@pytest.mark.parametrize("name", gate.formats())
def test_same_results_same_bytes(name):
    assert rendered(name, ALL) == rendered(name, ALL)
    assert gate.get(name).suffix.startswith(".")


# Exit codes: 2 > 1 > 3 > 4 > 0, the first of which is an error and never gets here


def expected(outcomes, inconclusive):
    if {"FAILED", "REGRESSION"} & outcomes:
        return 1
    unknown = "INCONCLUSIVE" in outcomes or not outcomes
    if unknown and inconclusive == "fail":
        return 1
    if "UNAVAILABLE" in outcomes:
        return 3
    return 4 if unknown and inconclusive is None else 0


@pytest.mark.parametrize("inconclusive", [None, "pass", "fail"])
def test_exit_code_of_every_mixture(inconclusive):
    for outcomes in chain.from_iterable(combinations(OUTCOMES, count) for count in range(len(OUTCOMES) + 1)):
        found = made(*(result(outcome=outcome) for outcome in outcomes))
        assert found.exit_code(inconclusive) == expected(set(outcomes), inconclusive), outcomes


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["PASS", "IMPROVED"], 0),
        (["PASS", "REGRESSION", "INCONCLUSIVE", "UNAVAILABLE"], 1),
        (["PASS", "FAILED"], 1),
        (["PASS", "UNAVAILABLE", "INCONCLUSIVE"], 3),
        (["PASS", "INCONCLUSIVE"], 4),
        ([], 4),
    ],
)
def test_exit_codes_are_the_contracts(outcomes, code):
    assert made(*(result(outcome=outcome) for outcome in outcomes)).exit_code() == code


def test_headline_counts_worst_first():
    assert ALL.headline == "6 cases: 1 FAILED, 1 REGRESSION, 1 UNAVAILABLE, 1 INCONCLUSIVE, 1 IMPROVED, 1 PASS"
    assert made(result()).headline == "1 case: 1 PASS"
    assert made().headline == "0 cases: nothing was judged"


# Words


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.083, "8.3% more time"), (0.98, "2.0% less time"), (1.0, "0.0% more time")]
)
def test_time_taken(ratio, words):
    assert gate.time_taken(ratio) == words


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.083, "+8.30%"), (0.9951, "-0.49%"), (1.25, "+25.0%"), (1e9, "unknown")]
)
def test_signed(ratio, words):
    assert gate.signed(ratio) == words


@given(TEXTS)
@examples(100)
def test_one_line_is_one_printable_line(text):
    line = formats.one_line(text)
    assert line.isprintable()
    assert line == " ".join(line.split())


# Text


def test_text_is_a_line_a_case_and_explains_what_is_no_pass():
    lines = rendered("text", made(result("quick"), result("slow", "REGRESSION"))).splitlines()
    assert lines == [
        "PASS          quick  +8.30% (+5.60% to +11.0%)",
        "REGRESSION    slow  +8.30% (+5.60% to +11.0%)",
        "              It takes 8.3% more time.",
        "              What to do: use bench compare",
        "The change is that of the time an inference takes; in brackets, where the true change very likely lies.",
        "2 cases: 1 REGRESSION, 1 PASS",
    ]


def test_a_common_shift_is_explained_once_and_not_for_each_case():
    slow = [result(f"case {number}", "REGRESSION") for number in range(6)]
    text = rendered("text", made(*slow, shift="All cases moved together"))
    assert text.count("What to do") == 0
    assert text.count("All cases moved together") == 1
    for name, alarm in (("github", "::error"), ("gitlab", "fingerprint")):
        assert rendered(name, made(*slow, shift="All cases moved together")).count(alarm) == 1


# Markdown


def cells_of(markdown):
    """The plain text of each table cell, as a reader would see it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    inside = [tokens[index + 1] for index, token in enumerate(tokens) if token.type in ("td_open", "th_open")]
    return ["".join(child.content for child in token.children or ()) for token in inside], tokens


@given(found=GATES)
@examples(80)
def test_markdown_shows_every_name_as_it_is(found):
    cells, tokens = cells_of(rendered("markdown", found))
    names = [cell for index, cell in enumerate(cells) if index % 5 == 0][1:]
    assert names == [formats.one_line(one.case) for one in found.results]
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    assert not {token.type for token in tokens} & {"html_block", "fence", "code_block", "hr", "blockquote_open"}


def test_markdown_tells_what_to_do_about_alarms_only():
    text = rendered("markdown", ALL)
    assert text.startswith("### bench check: 6 cases: 1 FAILED")
    assert [line for line in text.splitlines() if line.startswith("- **")] == [
        "- **FAILED** case FAILED",
        "- **REGRESSION** case REGRESSION",
        "- **UNAVAILABLE** case UNAVAILABLE",
        "- **INCONCLUSIVE** case INCONCLUSIVE",
    ]


# JUnit


@given(found=GATES)
@examples(80)
def test_junit_obeys_its_schema_and_keeps_the_names(found):
    root = etree.fromstring(rendered("junit", found).encode())
    SCHEMA.assertValid(root)
    assert [case.get("name") for case in root.iter("testcase")] == [formats.one_line(one.case) for one in found.results]


@pytest.mark.parametrize(
    ("outcome", "element"),
    [
        ("PASS", None),
        ("IMPROVED", None),
        ("REGRESSION", "failure"),
        ("FAILED", "failure"),
        ("INCONCLUSIVE", "skipped"),
        ("UNAVAILABLE", "skipped"),
    ],
)
def test_junit_outcomes(outcome, element):
    root = etree.fromstring(rendered("junit", made(result(outcome=outcome))).encode())
    found = [child.tag for child in root.find("testsuite/testcase")]
    assert found == [element or "system-out"]
    suite = root.find("testsuite")
    assert (suite.get("failures"), suite.get("skipped")) == (
        str(int(element == "failure")),
        str(int(element == "skipped")),
    )
    if element:
        trouble = root.find(f"testsuite/testcase/{element}")
        assert trouble.get("message") == "It takes 8.3% more time."
        assert "What to do: use bench compare" in trouble.text


# GitHub: its runner's own way of reading a line (actions/runner, ActionCommand.TryParseV2 and TryParse)


def command_of(line):
    text = line.lstrip()
    if text.startswith("::") and "::" in text[2:]:
        info, _, data = text[2:].partition("::")
        name, _, properties = info.partition(" ")
        pairs = dict(pair.split("=", 1) for pair in properties.split(",") if "=" in pair)
        return name, {key: unescaped(value, {"%3A": ":", "%2C": ","}) for key, value in pairs.items()}, unescaped(data)
    assert "##[" not in line
    return None


def unescaped(text, more=None):
    for code, character in {"%0D": "\r", "%0A": "\n", **(more or {})}.items():
        text = text.replace(code, character)
    return text.replace("%25", "%")


@given(found=GATES)
@examples(80)
def test_github_reads_our_commands_and_no_others(found):
    commands = [command for line in rendered("github", found).split("\n") if (command := command_of(line))]
    alarms = gate.alarms(found)
    assert len(commands) == len(alarms) + bool(found.shift)
    for (name, properties, message), one in zip(commands[bool(found.shift) :], alarms, strict=True):
        assert name == ("error" if one.outcome in gate.BAD else "warning")
        assert set(properties) == {"title"} | ({"file"} if formats.one_line(found.place) else set())
        assert properties["title"].endswith(formats.one_line(one.case))
        assert message == "\n".join(gate.sentences(one))


def test_github_escapes():
    found = made(result("a,b:c%d", "REGRESSION", says="50% and\nmore"), place="ci/base.json")
    assert rendered("github", found).splitlines()[-1] == (
        "::error file=ci/base.json,title=REGRESSION +8.30%25%3A a%2Cb%3Ac%25d::"
        "50%25 and more%0AWhat to do: use bench compare"
    )


# GitLab


@given(found=GATES)
@examples(50)
def test_gitlab_findings_have_what_gitlab_asks_for(found):
    findings = json.loads(rendered("gitlab", found))
    assert len(findings) == len(gate.alarms(found)) + bool(found.shift)
    for finding in findings:
        assert finding.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert finding["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert len(finding["fingerprint"]) == 64
        assert finding["location"]["path"]
        assert finding["location"]["lines"] == {"begin": 1}


def test_gitlab_knows_a_finding_again_when_its_numbers_differ():
    before, after = (made(result(outcome="REGRESSION", ratio=ratio, says=str(ratio))) for ratio in (1.1, 1.2))
    other = made(result("another case", "REGRESSION"))
    marks = [json.loads(rendered("gitlab", one))[0]["fingerprint"] for one in (before, after, other)]
    assert marks[0] == marks[1] != marks[2]


# JSON


@given(found=GATES)
@examples(50)
def test_json_has_everything_in_plain_json(found):
    def refuse(constant):
        raise AssertionError(constant)

    data = json.loads(rendered("json", found), parse_constant=refuse)
    assert data["headline"] == found.headline
    assert [one["case"] for one in data["results"]] == [one.case for one in found.results]
    assert all(one.keys() == set(GateResult.__struct_fields__) for one in data["results"])


def test_benchmark_action_gets_ratios_of_what_was_measured():
    assert json.loads(rendered("github_action_benchmark", ALL)) == [
        {
            "name": f"case {outcome}",
            "unit": "x baseline",
            "value": 1.083,
            "range": "1.0560 to 1.1100",
            "extra": f"{outcome}\nIt takes 8.3% more time.\nWhat to do: use bench compare",
        }
        for outcome in ("REGRESSION", "IMPROVED", "PASS")
    ]


# Files


def test_outputs_are_written_beside(tmp_path):
    gate.write(ALL, [f"junit={tmp_path}/deep/bench.xml", f"json={tmp_path}/bench.json"], {})
    assert (tmp_path / "deep" / "bench.xml").read_text() == rendered("junit", ALL)
    gate.write(ALL, [f"json={tmp_path}/bench.json"], {})
    assert (tmp_path / "bench.json").read_text() == rendered("json", ALL)


def test_the_job_summary_is_appended_to(tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("of another step\n")
    environ = {"GITHUB_STEP_SUMMARY": str(summary)}
    gate.summarise(ALL, environ)
    gate.write(ALL, [f"markdown={summary}"], environ)
    assert summary.read_text() == "of another step\n" + 2 * rendered("markdown", ALL)
    gate.summarise(ALL, {})


@pytest.mark.parametrize("output", ["junit", "junit=", "=x.xml", ""])
def test_unreadable_output(output):
    with pytest.raises(UsageError, match=r"cannot read --output|no format ''"):
        gate.asked(output)


def test_output_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*Is a directory"):
        gate.write(ALL, [f"json={tmp_path}"], {})
