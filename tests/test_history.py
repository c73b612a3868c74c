"""Series through time: steps with their commits, in plain words, and the files for Otava."""

import csv
import json
import math
import random

import pytest
import stored
from stored import CASE, HERE, OTHER, process, session, validity

from bench import environment, history, verdict
from bench.baseline import Reading
from bench.compared import Comparison
from bench.errors import UsageError
from bench.history import Point, Series
from bench.store import Header, RunFile

NAME = f"{CASE.key} compute"


def point(number, ms, **fields):
    facts = {"started_at": stored.day(number), "run_id": f"{number:08x}", "commit": f"{number:040x}"}
    return Point(**{**facts, "log": math.log(ms * 1e6), "value": ms, **fields})


def series(latencies, **fields):
    points = tuple(point(number, ms, **fields) for number, ms in enumerate(latencies))
    facts = {"name": NAME, "machine": "0" * 12, "words": "Example CPU 7", "kind": "raw latency", "unit": "ms"}
    return Series(**facts, points=points, steps=history.steps(points))


def noisy(*parts, seed=0):
    """Levels with how many points each has, 0.2 % of noise upon them."""
    draw = random.Random(seed)
    return [ms * math.exp(draw.gauss(0, 0.002)) for ms, count in parts for _ in range(count)]


def text(one):
    return history.as_text([one])


# Steps


def test_steps_are_those_of_the_core():
    latencies = noisy((6.0, 20), (6.3, 12), (6.0, 12))
    found = series(latencies).steps
    known = verdict.changes([math.log(ms * 1e6) for ms in latencies])
    assert len(found) == len(known) == 2
    for step, change in zip(found, known, strict=True):
        assert step.seen.run_id == f"{change.seen:08x}"
        assert (step.z, step.state) == (change.z, change.state)
        assert (step.ratio > 1) == (change.shift > 0)


@pytest.mark.parametrize("later", [4, 8, 20])
@pytest.mark.parametrize("ratio", [1.03, 1.05, 1.2, 0.95])
def test_a_step_lies_between_the_right_commits(ratio, later):
    """The culprit's commit must be in the range."""
    for seed in range(20):
        (step,) = series(noisy((6.0, 20), (6.0 * ratio, later), seed=seed)).steps
        assert (step.before.run_id, step.after.run_id) == (f"{19:08x}", f"{20:08x}")
        assert step.ratio == pytest.approx(ratio, abs=0.003)


def test_a_confirmed_step_has_its_commits_and_the_series_starts_anew():
    found = series(noisy((6.0, 20), (6.3, 12), (6.6, 12)))
    assert [step.state for step in found.steps] == ["confirmed", "confirmed"]
    assert [round(step.ratio, 2) for step in found.steps] == [1.05, 1.05]
    line = text(found).splitlines()[1]
    assert line.startswith(("  4.9%", "  5."))
    assert line.endswith(
        "more time since 2026-09-21, and it stayed: later steps are judged against the new level. "
        "The cause is among: git log 000000000000..000000000000"
    )
    assert [(step.before.run_id, step.after.run_id) for step in found.steps] == [
        (f"{number - 1:08x}", f"{number:08x}") for number in (20, 32)
    ]
    assert not found.alarming


def test_a_step_that_goes_away_is_said_to():
    found = series(noisy((6.0, 20), (6.4, 4), (6.0, 12)))
    assert "but it went away again" in text(found)
    assert not found.alarming


@pytest.mark.parametrize(("ms", "alarming"), [(6.4, True), (5.6, False)])
def test_an_open_step_to_slower_alarms(ms, alarming):
    found = series(noisy((6.0, 20), (ms, 4)))
    assert [step.state for step in found.steps] == ["open"]
    assert "seen on 2026-09-2" in text(found)
    assert "it may still go away" in text(found)
    assert found.alarming == alarming


def test_a_steady_series():
    assert text(series(noisy((6.0, 30)))).splitlines() == [
        f"{NAME}: raw latency on Example CPU 7; 30 runs from 2026-09-01 to 2026-09-30, now 6.000 ms".replace(
            "6.000", f"{noisy((6.0, 30))[-1]:.4g}"
        ),
        "  steady: no step of 1% or more",
    ]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_too_few_runs_to_tell(count):
    assert f"too few runs to tell: {count}, and a step needs 8 before it and 3 after" in text(series([6.0] * count))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("a" * 40, "b" * 40, "The cause is among: git log aaaaaaaaaaaa..bbbbbbbbbbbb"),
        ("a" * 40 + "-dirty", "b" * 40, "The cause is among: git log aaaaaaaaaaaa..bbbbbbbbbbbb"),
        ("a" * 40, "a" * 40, "Both runs are of commit aaaaaaaaaaaa: look at the machine and its software."),
        (None, "b" * 40, "Between run 00000000 and run 00000001, whose commits are not on record."),
    ],
)
def test_where_to_look(before, after, words):
    step = history.Step(
        before=point(0, 6.0, commit=before, software={"onnxruntime": "1.20.0"}),
        after=point(1, 6.3, commit=after, software={"onnxruntime": "1.20.0"}),
        seen=point(3, 6.3),
        ratio=1.05,
        z=9.0,
        state="open",
    )
    assert history.describe(step).endswith(words)


def test_software_that_changed_with_a_step_is_named():
    step = history.Step(
        before=point(0, 6.0, software={"onnxruntime": "1.20.0", "kernel": "6.1"}),
        after=point(1, 6.3, software={"onnxruntime": "1.21.0", "kernel": "6.1"}),
        seen=point(3, 6.3),
        ratio=1.05,
        z=9.0,
        state="confirmed",
    )
    assert history.describe(step).endswith(". Changed with it: onnxruntime 1.20.0 → 1.21.0.")


# From records


def test_series_from_records(tmp_path):
    latencies = noisy((6.0, 14), (6.4, 6))
    stored.runs(tmp_path, latencies)
    stored.runs(tmp_path, [9.0] * 3, first=40, case=OTHER)
    stored.runs(tmp_path, [9.0] * 2, first=50, case=OTHER, description=stored.ELSEWHERE)
    found = history.history(Reading(tmp_path))
    assert [(one.name, len(one.points)) for one in found] == [
        (NAME, 20),
        (f"{OTHER.key} compute", 3),
        (f"{OTHER.key} compute", 2),
    ]
    (step,) = found[0].steps
    assert (step.before.run_id, step.after.run_id) == ("0000000d", "0000000e")
    assert (step.before.commit, step.after.commit) == (f"{14:040x}", f"{15:040x}")
    assert [one.value for one in found[0].points] == pytest.approx(latencies, rel=0.01)


def test_the_probe_takes_the_machine_out_of_a_series(tmp_path):
    """The machine slows down for a week; by the raw numbers that is a step."""
    for number in range(20):
        speed = 1.2 if number >= 12 else 1.0
        stored.run(tmp_path, number, session(6.0 * speed**0.8, 0.3 * speed, seed=number))
    (found,) = history.history(Reading(tmp_path))
    assert (found.kind, found.steps) == ("probe-normalised latency", ())
    assert found.points[-1].value == pytest.approx(6.0, rel=0.02)


def test_runs_without_a_probe_are_no_part_of_a_normalised_series(tmp_path):
    stored.runs(tmp_path, [6.0] * 4)
    stored.runs(tmp_path, [6.0] * 12, first=4, probe_ms=0.3)
    (found,) = history.history(Reading(tmp_path))
    assert (len(found.points), found.left_out) == (12, 4)
    assert "4 runs are left out: fewer than 3 of their processes count" in text(found)


def test_runs_with_too_few_sound_processes_are_left_out(tmp_path):
    stored.run(tmp_path, 0, session(6.0, count=3))
    stored.run(tmp_path, 1, session(6.0, count=2))
    stored.run(tmp_path, 2, [*session(6.0, count=2), process(9.0, validity=validity("throttled"))])
    (found,) = history.history(Reading(tmp_path))
    assert (len(found.points), found.left_out) == (1, 2)


def test_a_case_by_a_part_of_its_name(tmp_path):
    stored.runs(tmp_path, [6.0])
    stored.runs(tmp_path, [6.0], first=9, case=OTHER)
    assert [one.name for one in history.history(Reading(tmp_path), "DPN")] == [NAME]
    with pytest.raises(UsageError, match=r"no case whose name holds 'VGG' in"):
        history.history(Reading(tmp_path), "VGG")


# Ratios to a reference


def compared(folder, number, ratio, **fields):
    header = Header(
        run_id=f"{number:08x}",
        started_at=stored.day(number),
        bench_version="0.1.0",
        commit=f"{number + 1:040x}",
        environment_id=environment.environment_id(HERE),
        environment=HERE,
    )
    facts = {"label_a": "reference/bin/python", "label_b": "as it is", "version_a": "1.18.0", "version_b": "1.20.0"}
    with RunFile.create(folder / "cpu", header) as file:
        file.keep(
            Comparison(
                **{
                    "run_id": header.run_id,
                    "key": CASE.key,
                    "case_a": CASE,
                    "case_b": CASE,
                    "pairs": 3,
                    **facts,
                    **fields,
                },
                outcome="PASS",
                ratio=ratio,
            )
        )


def test_comparisons_with_a_reference_are_a_series(tmp_path):
    for number, ratio in enumerate(noisy((0.9, 12), (0.927, 5))):
        compared(tmp_path, number, ratio)
    (found,) = history.history(Reading(tmp_path))
    assert (found.name, found.unit) == (CASE.key, "x")
    assert found.kind == "time of as it is against reference/bin/python (1.18.0)"
    (step,) = found.steps
    assert step.after.run_id == "0000000c"
    assert step.ratio == pytest.approx(1.03, abs=0.005)
    assert found.points[0].value == pytest.approx(0.9, rel=0.01)


def test_another_reference_is_another_series(tmp_path):
    compared(tmp_path, 0, 1.0)
    compared(tmp_path, 1, 1.0, version_a="1.19.0")
    compared(tmp_path, 2, 1.0, settings_a={"threads": "2"})
    compared(tmp_path, 3, 1.0, pairs=2)
    compared(tmp_path, 4, None)
    assert [len(one.points) for one in history.history(Reading(tmp_path))] == [1, 1, 1]


# Forms


def test_json_has_points_and_steps():
    found = series(noisy((6.0, 20), (6.3, 12)))
    (data,) = json.loads(history.render([found], "json"))
    assert data["enough"] is True
    assert len(data["points"]) == 32
    assert data["steps"][0]["after"]["run_id"] == "00000014"


def test_markdown_escapes_names():
    found = series([6.0])
    hostile = Series(**{name: getattr(found, name) for name in found.__struct_fields__} | {"name": "a|<b>\n# c"})
    assert history.render([hostile], "markdown").startswith("# Latency history\n\n## a\\|\\<b\\> \\# c\n\n- a\\|")


# Otava


def test_otava_files(tmp_path):
    found = series(noisy((6.0, 3)))
    paths = history.otava([found], tmp_path / "otava")
    assert [path.name for path in paths] == ["DPN68-onnxruntime-cpu-fp32-bs1-t1-compute.csv", "otava.yaml"]
    rows = list(csv.reader(paths[0].read_text().splitlines()))
    assert rows[0] == ["time", "run", "commit", "latency_ms"]
    assert rows[1] == [stored.day(0), "00000000", "0" * 40, f"{found.points[0].value:.6g}"]
    config = json.loads(paths[1].read_text())
    assert config["tests"][NAME] == {
        "type": "csv",
        "file": str(paths[0]),
        "time_column": "time",
        "attributes": ["run", "commit"],
        "metrics": {"latency_ms": {"column": "latency_ms", "direction": -1}},
    }


def test_otava_names_never_collide(tmp_path):
    found = series([6.0])
    names = ["a/b", "a b", "a/b", "../../etc", "../../etc", "", "é/è", "\n"]
    many = [
        Series(**{name: getattr(found, name) for name in found.__struct_fields__} | {"name": name}) for name in names
    ]
    paths = history.otava(many, tmp_path)
    assert len(set(paths)) == len(names) + 1
    assert {path.parent for path in paths} == {tmp_path}
    assert len(json.loads((tmp_path / "otava.yaml").read_text())["tests"]) == len(names)


def test_otava_files_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*; name another --output"):
        history.otava([series([6.0])], tmp_path / "file")
