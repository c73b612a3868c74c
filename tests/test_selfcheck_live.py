"""The detector on this machine: what is tried, in which order, what is kept, and what it comes to."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import BENCH, environ

from bench import calibration, environment, verdict
from bench.artifacts import default_root
from bench.errors import UsageError
from bench.progress import Quiet
from bench.selfcheck import live
from bench.selfcheck.live import Cell, Trial, Wanted

HERE = "0123456789ab"
SAME = Cell("M", "paddle", 1, "none")


def trial(cell=SAME, outcome="PASS", machine=HERE, **fields):
    usual = {"started_at": "2026-01-01T00:00:00Z", "ratio": 1.0, "pairs": 3, "spent_s": 15.0}
    return Trial(cell=cell, outcome=outcome, machine_class=machine, **{**usual, **fields})


# What is tried


def test_acceptance_counts_what_the_file_has():
    wanted = live.acceptance("M", ("paddle",), 1, ("none", "busy"), 3, {0.03: 2})
    slow = Cell("M", "paddle", 1, "none", "spin", 0.03)
    before = [trial(), trial(), trial(cell=slow), trial(cell=Cell("Other", "paddle", 1, "none"))]
    left = list(live.order(wanted, before))
    assert left.count(SAME) == 1
    assert left.count(slow) == 1
    assert len(left) == (3 + 2) * 2 - 3
    assert list(live.order(wanted, [*before, *(trial(cell=cell) for cell in left)])) == []


def test_a_file_from_elsewhere_is_reported_unless_it_is_of_several_machines():
    here, there = trial(), trial(machine="f" * 12)
    assert live.shown_machine([], HERE) == HERE
    assert live.shown_machine([here, there], HERE) == HERE
    assert live.shown_machine([there], HERE) == "f" * 12
    with pytest.raises(UsageError, match="of eeeeeeeeeeee, ffffffffffff"):
        live.shown_machine([there, trial(machine="e" * 12)], HERE)


def test_cells_take_turns():
    wanted = live.acceptance("M", ("paddle", "openvino"), 1, ("none",), 2, {0.03: 2})
    first = list(live.order(wanted, ()))[:4]
    assert len(set(first)) == 4


def test_mixture_goes_on_for_ever_and_has_every_load_and_every_injection():
    wanted = live.mixture("M", ("paddle",), 2, 600.0)
    some = list(itertools.islice(live.order(wanted, ()), 2 * len(wanted.cells)))
    assert {cell.load for cell in some} == {"none", "busy", "burst"}
    assert {cell.kind for cell in some} == {"same", "spin", "sleep"}
    assert sum(cell.kind == "same" for cell in some) >= len(some) / 2
    assert {cell.threads for cell in some} == {2}


def test_only_onnx_graphs_get_a_layer_more():
    cells = live.mixture("M", ("paddle", "onnxruntime", "openvino"), 1, 600.0).cells
    assert [cell.backend for cell in cells if cell.kind == "layer"] == ["onnxruntime", "openvino"]
    assert sum(cell.kind == "same" for cell in cells) == len(cells) / 2
    slow = live.acceptance("M", ("openvino",), 1, ("none",), 0, {0.03: 2}, "layer")
    assert set(live.order(slow, ())) == {Cell("M", "openvino", 1, "none", "layer", 0.03)}


@pytest.mark.parametrize("load", live.LOADS)
def test_loads_run_and_end(load):
    def children():
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

    before = children()
    with live.loaded(load):
        started = set(children()) - set(before)
        assert len(started) == len(live.LOADS[load])
        if load == "busy":
            (pid,) = started
            time.sleep(0.3)
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            assert int(stat[11]) > 0
    assert not set(children()) - set(before)


def test_loads_end_with_their_parent():
    script = "import time\nfrom bench.selfcheck import live\nwith live.loaded('busy'):\n    "
    script += "print('ready', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        parent.stdout.readline()
        (pid,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        time.sleep(0.3)  # until it is tied to its parent
        parent.kill()
    deadline = time.monotonic() + 10
    while (
        Path(f"/proc/{pid}/stat").exists()
        and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What is kept


def test_trials_survive_the_file_and_a_torn_line_does_not(tmp_path):
    file = tmp_path / "deep" / "trials.jsonl"
    found = [trial(log_ratios=(0.001, -0.002)), trial(outcome="INCONCLUSIVE", ratio=None)]
    for each in found:
        live.append(file, each)
    with file.open("ab") as out:
        out.write(b'{"schema": 1, "cell"')
    assert live.read(file) == found
    assert live.read(tmp_path / "none") == []


def test_run_stops_when_the_time_is_spent(tmp_path, monkeypatch):
    ticks = itertools.count(step=10)
    monkeypatch.setattr(live.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(live.Bench, "trial", lambda self, cell: trial(cell=cell, machine=self.machine_class))
    file = tmp_path / "trials.jsonl"
    live.run(Wanted(cells=(SAME,), budget_s=100), file, Quiet())
    assert 2 <= len(live.read(file)) <= 5


# What it comes to


def test_rows_tell_false_alarms_and_power():
    slow = Cell("M", "paddle", 1, "none", "spin", 0.03)
    trials = [trial()] * 29 + [trial(outcome="INCONCLUSIVE")] + [trial(cell=slow, outcome="REGRESSION")] * 20
    same, found = live.rows([*trials, trial(machine="elsewhere")], HERE)
    assert (same["jobs"], same["regression"], same["pass"], same["inconclusive"]) == (30, 0, 29, 1)
    assert same["rate_95"] == "≤ 9.5%"  # 1 - 0.05^(1/30)
    assert same["pass_s"] == 15.0
    assert (found["jobs"], found["regression"], found["rate_95"]) == (20, 20, "≥ 86.1%")
    assert (same["tried"], found["tried"]) == ("identical", "B 3.0% slower (spin)")


@pytest.mark.parametrize(("alarms", "jobs", "bad"), [(0, 30, False), (1, 30, False), (1, 300, False), (9, 300, True)])
def test_too_many_alarms_are_told(alarms, jobs, bad):
    trials = [trial(outcome="REGRESSION")] * alarms + [trial()] * (jobs - alarms)
    assert live.too_many_alarms(trials, HERE) is bad
    assert not live.too_many_alarms(trials, "elsewhere")


def test_calibration_is_that_of_the_worst_load(tmp_path):
    calm, noisy = (0.001, -0.001, 0.002), (0.03, -0.03, 0.02)
    busy = Cell("M", "paddle", 1, "busy")
    trials = [trial(log_ratios=calm)] * 4 + [trial(cell=busy, log_ratios=noisy)] * 4
    trials.append(trial(cell=Cell("M", "openvino", 1, "none"), log_ratios=calm))  # too few
    (entry,) = live.spreads(trials, HERE)
    assert calibration.load(tmp_path, HERE) == ()
    live.calibrate(trials, HERE, tmp_path)
    assert entry.sd == pytest.approx(verdict.floor_sd(noisy * 4), abs=1e-5)
    assert calibration.sd(calibration.load(tmp_path, HERE), 1, "paddle") == entry.sd
    assert "paddle, 1 thread: pairs differ by" in live.reach(entry, live.pair_seconds(trials, entry))


def test_slowdowns_do_not_calibrate():
    trials = [trial(cell=Cell("M", "paddle", 1, "none", "spin", 0.03), log_ratios=(0.03,) * 12)]
    assert live.spreads(trials, HERE) == []


def test_more_pairs_see_less():
    seen = [live.smallest(0.006, pairs) for pairs in live.LOOK_AT]
    assert seen == sorted(seen, reverse=True)
    assert 0.005 < seen[-1] < seen[0] < 0.03


# As a user runs it


@pytest.fixture
def selfcheck(tmp_path):
    def run(*words, cache=tmp_path / "cache"):
        return subprocess.run(
            [*BENCH, "selfcheck", "live", "--file", "trials.jsonl", *words],
            cwd=tmp_path,
            env=environ(cache),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_command_counts_resumes_and_reports(selfcheck, tmp_path):
    words = ("--backend", "simulated", "--aa", "2", "--slow", "5%:1", "--load", "none", "--load", "busy")
    done = selfcheck(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["load"], row["tried"], row["jobs"]) for row in rows] == [
        (load, tried, jobs)
        for load in ("busy", "none")
        for tried, jobs in (("identical", 2), ("B 5.0% slower (spin)", 1))
    ]
    assert [row["regression"] for row in rows] == [0, 1, 0, 1]
    assert calibrations(tmp_path)
    before = (tmp_path / "trials.jsonl").read_bytes()
    assert selfcheck(*words).returncode == 0
    assert (tmp_path / "trials.jsonl").read_bytes() == before


@pytest.mark.parametrize("format_", ["text", "json", "markdown"])
def test_a_report_changes_nothing(selfcheck, tmp_path, format_):
    machine_class = environment.machine_class(environment.describe())
    for _ in range(4):
        live.append(tmp_path / "trials.jsonl", trial(machine=machine_class, log_ratios=(0.001, -0.001)))
    reported = selfcheck("--report", "--format", format_)
    assert reported.returncode == 0, reported.stderr
    assert "paddle" in reported.stdout
    assert ("paddle, 1 thread: pairs differ by" in reported.stdout) == (format_ != "json")
    assert calibrations(tmp_path) == []


def calibrations(folder):
    return list((folder / "cache" / "calibration").glob("*.json"))


def test_command_spends_its_budget(selfcheck):
    start = time.monotonic()
    done = selfcheck("--backend", "simulated", "--budget", "2s")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 30
    assert "identical" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--slow", "3%"), 2, "write it as 3%:20"),
        (("--slow", "x:3"), 2, "x"),
        (("--load", "busy"), 2, "--load goes with --aa or --slow"),
        (("--backend", "tensorrt", "--aa", "1"), 3, "cannot try"),
        (("--backend", "simulated", "--slow", "3%:1", "--inject", "layer"), 1, "it runs no ONNX graph"),
        (("--model", "NoSuchNet", "--backend", "simulated", "--aa", "1"), 2, "no model 'NoSuchNet'"),
    ],
)
def test_wrong_words_are_one_line(selfcheck, words, code, said):
    done = selfcheck(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.runtime
def test_real_runtime_with_and_without_a_slowdown(selfcheck, tmp_path):
    """That a comparison is made at all and kept; what it says depends on the machine."""
    words = ("--backend", "onnxruntime", "--model", "MobileNetV1_x0_25", "--slow", "30%:1", "--load", "busy")
    done = selfcheck(*words, cache=default_root())  # which may have the model exported already
    assert done.returncode == 0, done.stderr
    (kept,) = live.read(tmp_path / "trials.jsonl")
    assert kept.cell == Cell("MobileNetV1_x0_25", "onnxruntime", 1, "busy", "spin", 0.3)
    assert len(kept.log_ratios) == kept.pairs
    assert kept.runtime_version
