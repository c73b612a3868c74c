"""`list`, `doctor`, `export` and `report` as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
from command import QUICK, bench, complaint

from bench import backends, catalog, published
from bench.store import Header, RunFile

COUNTED = list(csv.DictReader((Path(__file__).parent / "data" / "counted.csv").read_text().splitlines()))
FIELDS = ["name", "family", "input_shape", "params_m", "gmacs", "top1", "top5", "source", "measurable"]


@pytest.fixture
def run(tmp_path):
    return lambda *words, **variables: bench(tmp_path / "cache", *words, cwd=tmp_path, **variables)


def listed(run, what, *words):
    process = run("list", what, "--format", "json", *words)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_models_have_the_fields_of_the_contract(run):
    rows = listed(run, "models")
    measurable = [row for row in rows if row["measurable"]]
    assert [row["name"] for row in measurable] == list(catalog.cards())
    assert all(list(row) == FIELDS for row in rows)
    assert all(row["input_shape"] == [3, 224, 224] for row in measurable)


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["model"])
def test_models_are_listed_with_what_was_counted_elsewhere(row):
    from bench import listing

    (found,) = [model for model in listing.models() if model["name"] == row["model"]]
    decimals = len(row["params_m_counted"].partition(".")[2])
    assert f"{found['params_m']:.{decimals}f}" == row["params_m_counted"]
    assert found["gmacs"] == pytest.approx(float(row["gmacs_counted"]), rel=0.005)


def test_devices_say_why_they_are_not_here(run):
    here = {row["name"]: row["here"] for row in listed(run, "devices")}
    assert set(here) == set(catalog.profiles())
    assert here["cpu"] == "yes"
    assert here["sd855"].startswith(("no adb", "no phone"))
    assert here["t4"].startswith("looked for a GPU")


def test_backends_name_their_options_and_what_they_lack(run):
    rows = {row["name"]: row for row in listed(run, "backends")}
    assert list(rows) == list(backends.KNOWN)
    assert rows["paddle"]["options"]["onednn"] == ["on", "off"]
    assert rows["paddle_lite"]["options"]["tool"] == ["PATH"]
    assert rows["tensorrt"]["here"] != "yes"


def test_results_are_listed_oldest_first_and_damage_is_said(run, tmp_path):
    for _ in range(2):
        assert run("run", "--model", "DPN68", *QUICK, "--repetitions", "2").returncode == 0
    (tmp_path / "results" / "cpu" / "broken.jsonl").write_text("nothing\n")
    process = run("list", "results", "--format", "json")
    rows = json.loads(process.stdout)
    assert [row["repetitions"] for row in rows] == [2, 2]
    assert [row["ok"] for row in rows] == [1, 1]
    assert rows[0]["started_at"] < rows[1]["started_at"]
    assert "broken.jsonl" in process.stderr


def test_text_has_a_line_a_row(run):
    lines = run("list", "models").stdout.splitlines()
    assert lines[0].split()[:2] == ["name", "family"]
    assert len(lines) == 1 + len({*catalog.cards(), *published.models()})
    assert run("list", "results").stdout == "none\n"


def test_a_reader_that_leaves_early_changes_nothing(tmp_path):
    import subprocess
    import sys

    command = f"{sys.executable} -m bench.cli list models | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_doctor_names_what_is_missing_for_a_device(run):
    process = run("doctor", "--device", "t4")
    assert process.returncode == 3
    assert "device t4: looked for a GPU" in process.stdout
    assert "machine class" in process.stdout
    assert complaint(run("doctor", "--device", "t5"), 2).startswith("no device 't5'; closest: t4")


@pytest.mark.runtime
def test_the_doctor_finds_what_works(run):
    process = run("doctor")
    assert process.returncode == 0
    for name in ("paddle", "onnxruntime", "openvino"):
        assert f"backend {name}: yes, version " in process.stdout


@pytest.mark.runtime
def test_export_writes_each_format_and_makes_it_once(run, tmp_path):
    words = ("export", "--model", "MobileNetV1_x0_25", "--to", "paddle,onnx,openvino", "--output", "out")
    process = run(*words)
    assert process.returncode == 0, process.stderr
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.*")}
    names = ("inference.json", "inference.pdiparams", "model.onnx", "model.xml", "model.bin")
    assert written == {f"out/MobileNetV1_x0_25/{name}" for name in names}
    assert len(process.stdout.splitlines()) == 3
    assert "MobileNetV1_x0_25 to ONNX" in process.stderr
    assert run(*words).stderr == "", "nothing is exported again"


def test_export_to_what_is_not_here_is_one_line(run):
    assert "to tensorrt" in complaint(run("export", "--model", "DPN68", "--to", "tensorrt"), 3)
    assert "'gguf'" in complaint(run("export", "--model", "DPN68", "--to", "gguf"), 2)


def test_report_prints_or_writes_the_same(run, tmp_path):
    assert run("run", "--model", "DPN68", *QUICK, "--repetitions", "2").returncode == 0
    printed = run("report", "--format", "csv")
    assert printed.returncode == 0, printed.stderr
    written = run("report", "--format", "csv", "--output", "pages")
    first, *plots = written.stdout.splitlines()
    assert first == "pages/report.csv"
    assert all(path.startswith("pages/plots/") for path in plots)
    assert (tmp_path / "pages" / "report.csv").read_text() == printed.stdout
    assert "DPN68" in printed.stdout


def test_report_without_results_is_one_line(run):
    assert complaint(run("report"), 2).startswith("no results in results")
    assert "closest" in complaint(run("report", "--format", "markdwn"), 2)


def test_resume_passes_over_the_file_of_a_comparison(run, tmp_path):
    assert run("run", "--model", "DPN68", *QUICK, "--repetitions", "2").returncode == 0
    header = Header(run_id="c0ffee00", started_at="2999-01-01T00:00:00.000000Z", bench_version="0")
    RunFile.create(tmp_path / "results" / "cpu", header).close()
    process = run("run", "--resume")
    assert process.returncode == 0, process.stderr
    assert "nothing was left to do" in process.stderr
