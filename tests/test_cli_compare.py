"""`bench compare` as a user runs it, on the simulated backend; and the mechanics of a pair on each real one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from command import BENCH, environ

from bench import catalog, compare, environment, pairs, stages, store
from bench.artifacts import Cache, default_root
from bench.errors import Failed
from bench.live_worker import Injection
from bench.prepare import Workshop
from bench.schema import Settings
from bench.selfcheck import layer
from bench.subjects import Asked, Terms, matches

AA = ("compare", "simulated", "simulated", "--model", "MobileNetV2")


@pytest.fixture
def bench(tmp_path):
    """Runs it in an empty folder, with a cache of its own."""

    def run(*words, **options):
        return subprocess.run(
            [*BENCH, *words],
            cwd=tmp_path,
            env=environ(tmp_path / "cache"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return run


def the_run(folder):
    (path,) = store.paths(folder / "results")
    return store.read(path)


@pytest.mark.parametrize(
    ("shift", "outcome", "code"), [("1000", "PASS", 0), ("1050", "REGRESSION", 1), ("900", "IMPROVED", 0)]
)
def test_verdict_and_exit_code(bench, shift, outcome, code, tmp_path):
    done = bench(*AA, "--set-b", f"simulated.median_us={shift}")
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(outcome)
    assert "Traceback" not in done.stderr
    run = the_run(tmp_path)
    assert [each.outcome for each in run.comparisons] == [outcome]
    assert len(run.pairs) == 3
    assert {pair.run_id for pair in run.pairs} == {run.run_id} == {run.comparisons[0].run_id}
    assert not run.damaged


def test_formats_and_outputs(bench, tmp_path):
    done = bench(*AA, "--format", "json", "--output", "junit=out/junit.xml", "--output", "markdown=out/summary.md")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["outcome"] == "PASS"
    assert result["evidence"]["pairs"] == 3
    assert (tmp_path / "out" / "junit.xml").read_text().startswith("<?xml")
    assert "PASS" in (tmp_path / "out" / "summary.md").read_text()


def test_several_cases_and_a_regression_measured_twice(bench, tmp_path):
    done = bench(*AA, "--batch-size", "1,4", "--set-b", "simulated.median_us=1100")
    assert done.returncode == 1
    run = the_run(tmp_path)
    assert [each.repeated for each in run.comparisons] == [True, True]
    assert [each.case_a.batch_size for each in run.comparisons] == [1, 4]
    assert sorted({(pair.key, pair.stage) for pair in run.pairs}) == [
        (f"MobileNetV2/simulated/cpu/fp32/bs{size}/t1", stage) for size in (1, 4) for stage in (1, 2)
    ]


def test_shift_of_all_cases_is_said_once(bench):
    done = bench(*AA, "--batch-size", "1,2,3,4,5", "--set-b", "simulated.median_us=1100")
    assert done.returncode == 1
    assert done.stdout.count("All cases moved together") == 1


def test_too_little_time_is_inconclusive_and_may_be_called_something_else(bench):
    hasty = ("--budget", "1ms")
    done = bench(*AA, *hasty)
    assert done.returncode == 4, done.stdout
    assert "It can't be told" in done.stdout
    assert bench(*AA, *hasty, "--inconclusive", "pass").returncode == 0
    assert bench(*AA, *hasty, "--inconclusive", "fail").returncode == 1


@pytest.mark.parametrize("fault", ["segfault", "exit3", "raise", "flood"])
def test_a_runtime_that_fails_is_failed(bench, fault, tmp_path):
    done = bench(*AA, "--set-b", f"simulated.fault={fault}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAILED")
    assert the_run(tmp_path).comparisons[0].status == "failed"


def test_a_hang_is_failed(bench):
    done = bench(*AA, "--set-b", "simulated.fault=hang", "--timeout", "1s")
    assert done.returncode == 1
    assert "no answer within 1 s" in done.stdout


def test_one_that_does_not_fit_into_memory(bench):
    done = bench(*AA, "--set-b", "simulated.fault=allocate", "--memory-limit", "400MiB")
    assert done.returncode == 1
    assert "side B does not fit into memory, even alone" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("compare",), 2, "nothing tells A and B apart"),
        (("compare", "A"), 2, "two sides are needed"),
        (("compare", "NoSuchNet", "NoSuchNet", "--backend", "simulated"), 2, "no model 'NoSuchNet'"),
        (("compare", "no.onnx", "no.onnx", "--backend", "simulated"), 2, "no model file"),
        (("compare", "MobileNetV1*", "MobileNetV2", "--backend", "simulated"), 2, "is not one model"),
        (("compare", "MobileNetV2", "MobileNetV2", "--backend", "nothing"), 2, "no backend 'nothing'"),
        ((*AA, "--device", "xeon-6148"), 3, "Xeon"),
        ((*AA, "--margin", "2%", "--tolerance", "2%"), 2, "too close"),
        ((*AA, "--pairs", "2"), 2, "can't carry a verdict"),
        ((*AA, "--set-b", "simulated.colour=red"), 2, "no option of simulated 'colour'"),
        ((*AA, "--set-b", "paddle.onednn=off"), 2, "no backend in this comparison 'paddle'"),
        ((*AA, "--output", "poem=x"), 2, "no format 'poem'"),
        ((*AA, "--margin", "nothing"), 2, "nothing"),
        ((*AA, "--python-a", "/nowhere/python"), 2, "no Python /nowhere/python"),
        ((*AA, "--results", "/proc/nowhere"), 2, "cannot write results"),
    ],
)
def test_wrong_words_are_one_line_and_measure_nothing(bench, words, code, said, tmp_path):
    done = bench(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "results").exists()


def test_what_is_not_here_is_unavailable(bench):
    done = bench("compare", "tensorrt", "simulated", "--model", "MobileNetV2")
    assert done.returncode == 3
    assert done.stdout.startswith("UNAVAILABLE")
    many = str(len(os.sched_getaffinity(0)) + 1)
    assert bench(*AA, "--threads", many).returncode == 3


def test_interruption_ends_the_workers_and_prints_what_is_known(tmp_path):
    words = (*AA, "--set", "simulated.process_sigma=0.2", "--set", "simulated.median_us=200", "--pairs", "1000")
    process = subprocess.Popen(
        [*BENCH, *words, "--budget", "1h"],
        cwd=tmp_path,
        env=environ(tmp_path / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(2):
        process.stderr.readline()  # a line a pair
    time.sleep(0.05)  # in the midst of the next
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted after" in said
    assert "Traceback" not in said
    assert not _workers(tmp_path)
    run = the_run(tmp_path)
    assert len(run.pairs) >= 2
    assert [each.outcome for each in run.comparisons] == ["INCONCLUSIVE"]


def _workers(folder):
    """Live workers whose order lies below the folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "bench.live_worker" in words and str(folder) in words:
            found.append(words)
    return found


def test_json_lines_are_what_the_types_say(bench, tmp_path):
    bench(*AA)
    (path,) = store.paths(tmp_path / "results")
    for line in path.read_bytes().splitlines()[1:]:
        assert "schema" in json.loads(line)
    pair = the_run(tmp_path).pairs[0]
    assert len(pair.a.block_min_ns) == len(pair.b.block_median_ns) == pair.blocks
    assert pair.a.warmup_ns
    assert pair.a.version == "simulated"


# Each runtime: mechanics, never times


@pytest.fixture(scope="module")
def workshop():
    return Workshop(Cache(default_root()), Settings(), environment.cpus_available(), lambda _: None)


@pytest.fixture
def match(workshop):
    def prepared(**asked):
        (found,) = matches(Asked(**asked), environment.describe(), workshop)
        assert found.status == "ok", found.reason
        return found

    return prepared


@pytest.fixture
def attempt(workshop, tmp_path, monkeypatch):
    """Plays one little pair of a match. `watch` is called with the other worker before and after each block."""
    monkeypatch.setattr(pairs, "LEAST_PAIR_NS", 0.1e9)

    def play(match, watch=None, **terms):
        stage = stages.LiveStage(match.key, match.a, match.b, Terms(**terms), workshop.cpus, tmp_path)
        if watch:
            stage = Watched(stage, watch)
        return pairs.play(stage, 0).record

    return play


class Watched:
    """A stage that lets a test look at the worker that should rest."""

    def __init__(self, stage, watch):
        self.stage, self.watch, self.workers = stage, watch, {}

    def __getattr__(self, name):
        return getattr(self.stage, name)

    @contextlib.contextmanager
    def worker(self, side, attempt):
        with self.stage.worker(side, attempt) as worker:
            self.workers[side] = worker
            timed = worker.block

            def block(*words):
                other = self.workers["B" if side == "A" else "A"]
                self.watch(other)
                done = timed(*words)
                self.watch(other)
                return done

            worker.block = block
            yield worker


@pytest.mark.runtime
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["paddle", "onnxruntime", "openvino"])
def test_mechanics(backend, threads, workshop, match, attempt):
    """Both sides on the same CPUs, all samples there, and the kernel says that the idle side stands still."""
    if threads > len(workshop.cpus):
        pytest.skip(f"{threads} CPUs are needed")
    seen = []
    record = attempt(
        match(sides=("MobileNetV1_x0_25",) * 2, backends=(backend,), threads=(threads,)),
        watch=lambda other: seen.append(other.snapshot().threads),
    )
    assert len(record.cpus) == threads
    assert "other_cpus" not in [each.reason for each in record.validity]
    assert record.same.max_error == 0
    for side in (record.a, record.b):
        assert len(side.block_min_ns) == len(side.probe_ns) == record.blocks >= 24
        assert side.parity.max_error <= side.parity.tolerance
        assert side.median_ns > 0
    before, after = seen[::2], seen[1::2]
    assert len(before) == 2 * record.blocks
    assert before == after
    assert compare.idle_share(record, "a", "b") <= 0.03
    assert compare.idle_share(record, "b", "a") <= 0.03


@pytest.mark.runtime
def test_different_networks_are_no_regression(match, attempt):
    both = match(sides=("MobileNetV1_x0_25", "MobileNetV1_x0_5"), backends=("onnxruntime",))
    with pytest.raises(Failed, match="the outputs of A and B differ"):
        attempt(both)
    assert attempt(both, outputs="any").same.max_error > 1e-4


@pytest.mark.runtime
def test_two_backends(match, attempt):
    record = attempt(match(sides=("onnxruntime", "openvino"), models=("MobileNetV1_x0_25",)))
    assert 0 < record.same.max_error <= record.same.tolerance
    assert record.a.version != record.b.version


@pytest.mark.runtime
def test_an_engine_is_made_by_the_python_that_runs_it(match, attempt, tmp_path):
    both = match(models=("MobileNetV1_x0_25",), backends=("openvino",), python_b=sys.executable)
    assert (both.a.build, both.b.build) == (False, True)
    assert both.b.artifact.format == "onnx"
    record = attempt(both)
    assert record.a.version == record.b.version
    assert list(tmp_path.iterdir()) == []


@pytest.mark.runtime
@pytest.mark.parametrize("kind", ["spin", "sleep"])
def test_an_injected_slowdown_is_really_there(match, attempt, kind):
    both = match(sides=("MobileNetV1_x0_25",) * 2, backends=("onnxruntime",))
    record = attempt(msgspec.structs.replace(both, b=compare.slower(both.b, Injection(kind, 1.0))))
    assert record.fastest > 0.3
    assert (record.cpu > 0.3) is (kind == "spin")


@pytest.mark.runtime
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_layer_more_is_executed_and_costs_time(match, attempt, workshop, backend):
    """Neither runtime sees through it: two convolutions more, the same outputs, and time in proportion."""
    (card,) = catalog.select(["MobileNetV1_x0_25"], ())
    slower = layer.slower_model(workshop, card, 1.0)
    assert slower.made_by["added"] == pytest.approx(1.0, rel=0.01)
    record = attempt(match(sides=(card.name, slower.path), backends=(backend,)))
    assert record.same.max_error <= record.same.tolerance
    executed = [_nodes(side.effective) for side in (record.a, record.b)]
    assert executed[1] - executed[0] == 2
    assert record.fastest > 0.2
    assert record.cpu > 0.2


def _nodes(effective):
    """How many nodes ONNX Runtime executes, or how many convolutions and matrix products OpenVINO."""
    return sum((effective.get("node_precisions") or effective["providers"]).values())
