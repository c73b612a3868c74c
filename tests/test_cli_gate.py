"""`bench check`, `bench baseline save` and `bench history` as a user types them: words in, exit code and lines out."""

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import stored
from lxml import etree
from stored import CASE, ELSEWHERE, OTHER, bench, session

from bench import cli_gate, environment, pythons, store
from bench.baseline import Quantity
from bench.check import Suspect
from bench.errors import Unavailable, UsageError
from bench.gate import GateResult
from bench.schema import Case, Settings

STORED = [5.9, 5.95, 5.92, 5.88, 5.93, 5.9]
NAME = f"{CASE.key} compute"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return stored.runs(tmp_path_factory.mktemp("records"), STORED, probe_ms=0.3)


@pytest.fixture(scope="module")
def saved(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "base.json"
    assert bench("baseline", "save", "--results", records, "--output", path) == (0, f"{path}\n", "")
    return path


@pytest.fixture
def new(tmp_path):
    """A folder with a run as fast as the baseline."""
    stored.run(tmp_path / "new", 50, session(5.9, probe_ms=0.3))
    return tmp_path / "new"


@pytest.fixture
def slow(tmp_path):
    stored.run(tmp_path / "slow", 50, session(6.7, probe_ms=0.3))
    return tmp_path / "slow"


def complaint(found, code):
    """The one line of an error: no verdict, nothing on standard output."""
    assert found[0] == code, found
    assert found[1] == ""
    assert found[2].startswith("bench: ")
    assert found[2].count("\n") == 1, found[2]
    return found[2]


# Verdicts


def test_pass(saved, new):
    code, out, err = bench("check", "--baseline", saved, "--results", new)
    assert (code, err) == (0, "")
    assert out.startswith(f"PASS          {NAME}  ")
    assert out.endswith("1 case: 1 PASS\n")


def test_regression(saved, slow):
    code, out, _ = bench("check", "--baseline", saved, "--results", slow)
    assert code == 1
    assert out.startswith(f"REGRESSION    {NAME}  +1")
    assert "What to do: make sure that it is the change" in out


def test_records_as_baseline(records, new):
    assert bench("check", "--baseline", records, "--results", new)[0] == 0
    assert bench("check", "--baseline", records, "--results", records)[0] == 0


def test_one_file_of_records_as_contender(saved, slow):
    (path,) = store.paths(slow)
    assert bench("check", "--baseline", saved, "--results", path)[0] == 1


def test_a_wider_margin(saved, slow):
    assert bench("check", "--baseline", saved, "--results", slow, "--margin", "15%")[0] == 0


@pytest.mark.parametrize(("words", "code"), [((), 4), (("--inconclusive", "pass"), 0), (("--inconclusive", "fail"), 1)])
def test_what_cannot_be_told(tmp_path, new, words, code):
    stored.runs(tmp_path / "base", STORED[:3], probe_ms=0.3)
    found = bench("check", "--baseline", tmp_path / "base", "--results", new, *words)
    assert found[0] == code
    assert found[1].startswith(f"INCONCLUSIVE  {NAME}\n")
    assert "2 more are missing" in found[1]


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("unavailable", 3)])
def test_a_case_that_went_wrong(saved, tmp_path, status, code):
    stored.run(tmp_path, 50, [{"status": status, "reason": "why"}])
    assert bench("check", "--baseline", saved, "--results", tmp_path)[0] == code


def test_formats_and_outputs(saved, slow, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    junit, everything = tmp_path / "bench.xml", tmp_path / "bench.json"
    words = ("--format", "github", "--output", f"junit={junit}", "--output", f"json={everything}")
    code, out, _ = bench("check", "--baseline", saved, "--results", slow, *words)
    assert code == 1
    assert out.splitlines()[-1].startswith("::error title=REGRESSION +1")
    assert summary.read_text().startswith("### bench check: 1 case: 1 REGRESSION")
    assert etree.parse(junit).getroot().find("testsuite").get("failures") == "1"
    assert json.loads(everything.read_text())["results"][0]["outcome"] == "REGRESSION"


def test_the_baseline_in_the_repository_is_where_annotations_point(saved, slow, tmp_path, monkeypatch):
    shutil.copy(saved, tmp_path / "base.json")
    monkeypatch.chdir(tmp_path)
    out = bench("check", "--baseline", "base.json", "--results", slow, "--format", "gitlab")[1]
    assert json.loads(out)[0]["location"]["path"] == "base.json"
    out = bench("check", "--baseline", saved, "--results", slow, "--format", "gitlab")[1]
    assert json.loads(out)[0]["location"]["path"] == ".gitlab-ci.yml"


# Never a verdict


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def emptied(path):
    path.write_text("")


def cut(path):
    path.write_bytes(path.read_bytes()[:700])


def merged(path):
    text = path.read_text()
    path.write_text(text.replace('"cases": [', '<<<<<<< ours\n"cases": [\n=======\n"cases": [\n>>>>>>> theirs'))


def faster(path):
    path.write_text(path.read_text().replace('"raw": [15.5', '"raw": [15.9', 1))


def newer(path):
    edited(path, bench_baseline=2)


def no_text(path):
    path.write_bytes(b"\xff\xfe\x00")


def a_folder(path):
    path.unlink()
    path.mkdir()


BAD_FILES = {
    emptied: "base.json is no baseline; it is empty; make it again with: bench baseline save",
    cut: "base.json is no baseline; it is cut off, or was edited or merged by hand",
    merged: "base.json is no baseline; it is cut off, or was edited or merged by hand",
    faster: "base.json was changed after it was saved; its contents don't match their hash",
    newer: "base.json was saved by a newer bench; baseline format 2, this bench reads up to 1; upgrade bench",
    no_text: "base.json is no baseline; it isn't text",
    a_folder: "no results in ",
    Path.unlink: "cannot read ",
}


@pytest.mark.parametrize("spoil", BAD_FILES, ids=lambda spoil: spoil.__name__)
def test_an_unusable_file_is_refused(saved, new, tmp_path, spoil):
    path = tmp_path / "base.json"
    shutil.copy(saved, path)
    spoil(path)
    assert BAD_FILES[spoil] in complaint(bench("check", "--baseline", path, "--results", new), 2)


def newer_records(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line.replace('"schema":1', '"schema":2') for line in lines[1:])]) + "\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (newer_records, "was written by a newer bench; schema 2, this bench reads up to 1; upgrade bench"),
        (emptied, "no baseline in"),
        (Path.unlink, "no results in"),
    ],
)
def test_unusable_records_are_refused(tmp_path, new, spoil, words):
    path = stored.run(tmp_path / "base", 0, session(5.9, probe_ms=0.3))
    spoil(path)
    found = bench("check", "--baseline", tmp_path / "base", "--results", new, "--quiet")
    assert words in complaint(found, 2)


OTHER_THINGS = {
    "machine": ({"description": ELSEWHERE}, "no baseline for this machine: it is Other CPU 9"),
    "threads": ({"case": msgspec.structs.replace(CASE, threads=2)}, "threads 1 there, 2 here"),
    "batch size": ({"case": msgspec.structs.replace(CASE, batch_size=8)}, "batch_size 1 there, 8 here"),
    "weights": ({"settings": Settings(options={"threads": "1"}, weights="w.pdparams")}, "weights random there"),
    "options": ({"settings": Settings(options={"threads": "1", "x": "y"})}, "option x absent there, y here"),
    "model": ({"case": OTHER}, "the baseline doesn't have MobileNetV2"),
}


@pytest.mark.parametrize("name", OTHER_THINGS)
@pytest.mark.parametrize("kind", ["file", "records"])
def test_something_else_has_no_baseline(saved, records, tmp_path, name, kind):
    fields, words = OTHER_THINGS[name]
    stored.run(tmp_path, 50, session(9.0, probe_ms=0.3), **fields)
    place = saved if kind == "file" else records
    line = complaint(bench("check", "--baseline", place, "--results", tmp_path), 4)
    assert words in line
    assert "nothing was judged" in line


def test_another_interval_has_no_baseline(saved, tmp_path):
    stored.run(tmp_path, 50, session(9.0, probe_ms=0.3, intervals=("end_to_end",)))
    found = bench("check", "--baseline", saved, "--results", tmp_path)
    assert "interval compute there, end_to_end here" in complaint(found, 4)


@pytest.mark.parametrize(("treatment", "code"), [("pass", 0), ("fail", 1)])
def test_no_baseline_may_count_as_pass_or_failure(saved, tmp_path, treatment, code):
    stored.run(tmp_path, 50, session(9.0), description=ELSEWHERE)
    complaint(bench("check", "--baseline", saved, "--results", tmp_path, "--inconclusive", treatment), code)


def test_no_baseline_is_a_skipped_test_for_a_machine(saved, tmp_path):
    stored.run(tmp_path / "new", 50, session(9.0), description=ELSEWHERE)
    beside = tmp_path / "bench.xml"
    words = ("--results", tmp_path / "new", "--output", f"junit={beside}")
    complaint(bench("check", "--baseline", saved, *words), 4)
    code, out, _ = bench("check", "--baseline", saved, *words, "--format", "junit")
    assert (code, out) == (4, beside.read_text())
    assert etree.fromstring(out.encode()).find("testsuite/testcase/skipped") is not None


@pytest.mark.parametrize("margin", ["2%", "0.049", "4.9%"])
def test_a_margin_too_fine_for_stored_numbers(saved, new, margin):
    found = bench("check", "--baseline", saved, "--results", new, "--margin", margin)
    assert "use bench compare" in complaint(found, 2)


@pytest.mark.parametrize(
    "words",
    [
        ("--margin", "fast"),
        ("--margin", "0"),
        ("--margin", "-5%"),
        ("--margin", "nan"),
        ("--output", "junit"),
        ("--output", "junitt=x"),
        ("--format", "xml"),
        ("--inconclusive", "maybe"),
    ],
)
def test_unreadable_words(saved, new, words):
    complaint(bench("check", "--baseline", saved, "--results", new, *words), 2)


def test_no_results(saved, tmp_path):
    found = bench("check", "--baseline", saved, "--results", tmp_path)
    assert "measure with: bench run --repetitions 5" in complaint(found, 2)


# Fresh


HERE_AND_NOW = Case("DPN68", "simulated", "cpu", "fp32", 1, 1)
OPTIONS = {"median_us": "900", "seed": "7"}


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A baseline of this very machine, as `bench run` of a simulated case would have left it."""
    from bench import backends

    description = environment.describe()
    request = {
        "models": ["DPN68"],
        "backends": ["simulated"],
        "device": "cpu",
        "batch_sizes": [1],
        "threads": [1],
        "settings": {"repetitions": 2, "warmup": 1, "iterations": 20},
        "options": {"simulated": OPTIONS},
    }
    monkeypatch.setattr(stored, "REQUEST", request)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    settings = Settings(options=backends.settle(backends.get("simulated"), OPTIONS))
    common = {"case": HERE_AND_NOW, "description": description, "settings": settings}
    stored.runs(tmp_path / "base", [0.9] * 6, **common)
    bench("baseline", "save", "--results", "base", "--output", "base.json")
    return common


def test_check_measures_what_the_baseline_measured(simulated):
    code, out, err = bench("check", "--baseline", "base.json", "--run", "--quiet")
    assert (code, err) == (0, ""), out
    assert out.startswith(f"PASS          {HERE_AND_NOW.key} compute  ")
    (path,) = store.paths(Path("results"))
    assert len(store.read(path).records) == cli_gate.REPETITIONS


def test_nothing_is_measured_on_another_machine(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = complaint(bench("check", "--baseline", saved, "--run"), 4)
    assert "no baseline for this machine" in line
    assert "nothing was measured" in line
    assert not Path("results").exists()


# Confirmation


def suspect(**fields):
    packages = cli_gate.packages_under(sys.executable)
    facts = {
        "quantity": Quantity(case=CASE, interval="compute", options=(("threads", "1"),)),
        "machine": environment.machine_class(environment.describe()),
    }
    return Suspect(**{**facts, "ratio": 1.1, "margin": 0.05, "then": packages, "now": packages, **fields})


def test_confirm_needs_the_baselines_python(saved, slow):
    code, out, _ = bench("check", "--baseline", saved, "--results", slow, "--confirm")
    assert code == 1
    assert "not confirmed side by side: the baseline's environment is not known; name its Python" in " ".join(
        out.split()
    )


def test_confirm_asks_compare(saved, slow, monkeypatch):
    asked = []

    def by_compare(python, results, quiet):
        def confirm(suspect):
            asked.append((python, results, suspect.quantity.case))
            return GateResult(case="theirs", outcome="PASS", says="B takes 0.1% more time than A", ratio=1.001)

        return confirm

    monkeypatch.setattr(cli_gate, "by_compare", by_compare)
    code, out, _ = bench("check", "--baseline", saved, "--results", slow, "--confirm", "base/bin/python")
    assert (code, asked) == (0, [("base/bin/python", slow, CASE)])
    assert out.startswith(f"PASS          {NAME}  +0.10%")


def test_a_suspect_as_a_comparison():
    asked = cli_gate.asked_of(suspect(), "base/bin/python")
    assert (asked.models, asked.backends, asked.threads, asked.batch_sizes) == (
        ("DPN68",),
        ("onnxruntime",),
        (1,),
        (1,),
    )
    assert (asked.python_a, asked.python_b) == ("base/bin/python", "")
    assert asked.options == {"onnxruntime": {"threads": "1"}}
    assert (asked.terms.margin, asked.terms.interval) == (0.05, "compute")


def test_the_runtimes_of_a_python_are_those_of_a_record():
    here = cli_gate.packages_under(sys.executable)
    assert here == {name: version for name, version in environment.packages().items() if version}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"then": {"onnxruntime": "0.1"}}, r"is not the baseline's environment; .*onnxruntime 0\.1 → "),
        (
            {"now": {"onnxruntime": "0.1"}},
            r"this Python is not what the suspect was measured with; .*onnxruntime 0\.1 → ",
        ),
        ({"machine": "0" * 12}, "this is not the machine that the baseline is of"),
    ],
)
def test_another_comparison_is_not_made(tmp_path, fields, words):
    """Other runtimes or another machine would clear, or condemn, something else."""
    confirm = cli_gate.by_compare(sys.executable, tmp_path, quiet=True)
    with pytest.raises(Unavailable, match=words):
        confirm(suspect(**fields))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("python", ["/bin/false", "nowhere/bin/python"])
def test_no_python(python):
    with pytest.raises(UsageError, match=r"does not work as a Python|no Python nowhere"):
        cli_gate.packages_under(python)
    assert pythons.absolute(sys.executable)


def test_fresh_pairs_clear_a_suspect(simulated, tmp_path):
    """Stored numbers of another hour say a fifth slower; side by side both run the same."""
    stored.run(tmp_path / "new", 50, session(1.1), **simulated)
    words = ("--baseline", "base.json", "--results", "new", "--quiet")
    assert bench("check", *words)[0] == 1
    code, out, err = bench("check", *words, "--confirm", sys.executable, "--output", "json=all.json")
    assert (code, err) == (0, ""), out
    (found,) = json.loads(Path("all.json").read_text())["results"]
    assert (found["outcome"], found["ratio"]) == ("PASS", 1.0)
    assert found["details"][0].startswith("stored numbers said +2")
    assert found["details"][1].startswith(f"A is what {sys.executable} runs, the baseline's environment")


# bench baseline save


def test_save_warns_of_what_is_missing(tmp_path):
    stored.runs(tmp_path / "base", STORED[:2])
    code, out, err = bench("baseline", "save", "--results", tmp_path / "base", "--output", tmp_path / "base.json")
    assert (code, out) == (0, f"{tmp_path}/base.json\n")
    assert err.startswith("bench: 1 of 1 cases have fewer than 5 sessions of 4 processes")
    assert (
        bench("baseline", "save", "--results", tmp_path / "base", "--output", tmp_path / "b.json", "--quiet")[2] == ""
    )


def test_save_keeps_so_many_sessions(records, tmp_path):
    bench("baseline", "save", "--results", records, "--output", tmp_path / "base.json", "--sessions", "5")
    assert len(json.loads((tmp_path / "base.json").read_text())["cases"][0]["runs"]) == 5


def test_save_has_nothing_to_save(tmp_path):
    complaint(bench("baseline", "save", "--results", tmp_path, "--output", tmp_path / "base.json"), 2)
    assert list(tmp_path.iterdir()) == []


def test_saving_again_gives_the_same_bytes(records, saved, tmp_path):
    bench("baseline", "save", "--results", records, "--output", tmp_path / "base.json")
    assert (tmp_path / "base.json").read_bytes() == saved.read_bytes()


# bench history


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    return stored.runs(tmp_path_factory.mktemp("nights"), [6.0] * 15 + [6.5] * 5)


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--alarm",), 1)])
def test_history(nights, words, code):
    found = bench("history", "--results", nights, *words)
    assert (found[0], found[2]) == (code, "")
    assert found[1].startswith(f"{NAME}: raw latency on Example CPU 7")
    assert "more time since 2026-09-16" in found[1]


def test_a_confirmed_step_alarms_no_more(tmp_path):
    stored.runs(tmp_path, [6.0] * 15 + [6.5] * 12)
    assert bench("history", "--results", tmp_path, "--alarm")[0] == 0


@pytest.mark.parametrize(("format_", "start"), [("json", "[\n  {"), ("markdown", "# Latency history\n")])
def test_history_formats(nights, format_, start):
    assert bench("history", "--results", nights, "--format", format_)[1].startswith(start)


def test_history_for_otava(nights, tmp_path):
    words = ("--export", "otava-csv", "--output", tmp_path / "otava")
    code, out, _ = bench("history", "--results", nights, *words)
    assert code == 0
    assert [Path(line).suffix for line in out.splitlines()] == [".csv", ".yaml"]
    assert all(Path(line).is_file() for line in out.splitlines())


def test_history_of_nothing(tmp_path, nights):
    complaint(bench("history", "--results", tmp_path), 2)
    complaint(bench("history", "--results", nights, "--case", "VGG"), 2)


def test_damaged_records_are_warned_of(saved, new):
    (path,) = store.paths(new)
    path.write_bytes(path.read_bytes()[:-9])
    code, out, err = bench("check", "--baseline", saved, "--results", new)
    assert code == 0
    assert "1 line left out; damaged, or cut off in the middle" in err
    assert bench("check", "--baseline", saved, "--results", new, "--quiet") == (0, out, "")
