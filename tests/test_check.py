"""Contender against baseline: verdicts that are those of the statistical core, and refusals where there can be none."""

import math
import random

import msgspec
import pytest
import stored
from stored import CASE, ELSEWHERE, HERE, OTHER, process, session, validity

from bench import baseline, check, environment, gate, verdict
from bench.baseline import Reading
from bench.check import NoBaseline
from bench.errors import Unavailable, UsageError
from bench.gate import GateResult
from bench.schema import Case, Settings
from bench.selfcheck import traces

STORED = [5.9, 5.95, 5.92, 5.88, 5.93, 5.9]


def against(base, new, **options):
    """The gate of the newest records in one folder against all in another."""
    reading = Reading(new)
    tries = check.last_tries(reading)
    made = baseline.from_records(Reading(base), without={one.record.run_id for one in tries})
    return check.check(made, check.contenders(reading, tries, made.machines), **options)


def one(found):
    (result,) = found.results
    return result


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    return stored.runs(tmp_path_factory.mktemp("probed"), STORED, probe_ms=0.3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return stored.runs(tmp_path_factory.mktemp("raw"), STORED)


# Verdicts


@pytest.mark.parametrize(
    ("ms", "outcome"),
    [(5.9, "PASS"), (6.15, "PASS"), (6.3, "REGRESSION"), (7.0, "REGRESSION"), (5.7, "PASS"), (5.5, "IMPROVED")],
)
def test_outcome_by_the_probe(probed, tmp_path, ms, outcome):
    stored.run(tmp_path, 50, session(ms, probe_ms=0.3))
    found = one(against(probed, tmp_path))
    assert found.outcome == outcome
    assert found.ratio == pytest.approx(ms / 5.913, rel=0.01)
    assert found.low < found.ratio < found.high
    assert (found.case, found.took_s) == (f"{CASE.key} compute", 10.0)


@pytest.mark.parametrize(("ms", "outcome"), [(6.3, "PASS"), (6.6, "REGRESSION"), (5.2, "IMPROVED")])
def test_outcome_of_raw_numbers(raw, tmp_path, ms, outcome):
    stored.run(tmp_path, 50, session(ms))
    found = one(against(raw, tmp_path))
    assert (found.outcome, found.evidence["margin"], found.evidence["by"]) == (outcome, 0.10, "the raw median")


def test_the_verdict_is_that_of_the_core(probed, tmp_path):
    stored.run(tmp_path, 50, session(6.3, probe_ms=0.3))
    found = one(against(probed, tmp_path, margin=0.06))
    known = verdict.check_stored(found.evidence["session_logs"], found.evidence["log"], 0.06, check.ERROR)
    assert (found.outcome, found.ratio) == (known.outcome, math.exp(known.shift))
    assert found.evidence["limit"] == math.expm1(known.limit)
    noise = verdict.check_stored(found.evidence["session_logs"], 0.0, 0.0, check.ERROR).limit
    assert found.high == pytest.approx(found.ratio * math.exp(noise), rel=1e-12)


def test_a_slow_hour_of_the_machine_is_no_regression(probed, tmp_path):
    stored.run(tmp_path, 50, session(5.9 * 1.2**0.8, probe_ms=0.3 * 1.2))
    assert one(against(probed, tmp_path)).outcome == "PASS"


def test_numbers_are_raw_where_either_side_lacks_a_probe(probed, raw, tmp_path):
    stored.run(tmp_path / "raw", 50, session(5.9))
    stored.run(tmp_path / "probed", 50, session(5.9, probe_ms=0.3))
    for base, new in ((probed, "raw"), (raw, "probed")):
        assert one(against(base, tmp_path / new)).evidence["by"] == "the raw median"


def test_a_run_is_not_compared_with_itself(raw):
    """A folder against itself: the newest run against the others."""
    found = one(against(raw, raw))
    assert (found.evidence["run"], found.evidence["sessions"]) == ("00000005", 5)


def test_saved_baselines_leave_the_contender_out_too(raw, tmp_path):
    made = baseline.from_records(Reading(raw))
    path = tmp_path / "base.json"
    baseline.save(made, path)
    tries = check.last_tries(Reading(raw))
    found = check.check(baseline.load(path), check.contenders(Reading(raw), tries, made.machines))
    assert one(found).evidence["sessions"] == 5


def test_words_for_a_reader_who_never_met_an_interval(probed, tmp_path):
    stored.run(tmp_path, 50, session(6.5, probe_ms=0.3))
    found = one(against(probed, tmp_path))
    assert found.says == (
        f"It takes {gate.time_taken(found.ratio)} than in the baseline "
        f"(5.906 ms then, {5.906 * found.ratio:.4g} ms now, the machine's speed allowed for). "
        "That is slower than allowed (5.0%) and no accident: "
        f"from run to run it moves by up to {found.high / found.ratio - 1:.1%} all by itself."
    )
    assert found.do.startswith("make sure that it is the change and not the machine: use bench compare")


def test_a_pass_says_what_it_would_have_noticed(raw, tmp_path):
    stored.run(tmp_path, 50, session(5.9))
    found = one(against(raw, tmp_path))
    assert f"A slowdown of {found.evidence['detectable']:.1%} would have been noticed nine times in ten." in found.says


def test_what_else_changed_is_told(probed, tmp_path):
    newer = HERE | {"packages": {"onnxruntime": "1.21.0"}, "variables": {"OMP_WAIT_POLICY": "passive"}}
    spoilt = [*session(5.9, probe_ms=0.3), process(5.9, 0.3, validity=validity("throttled"))]
    stored.run(tmp_path, 50, spoilt, description=newer, artifact="b" * 64)
    assert one(against(probed, tmp_path)).details == (
        "also changed since the baseline: OMP_WAIT_POLICY absent → passive, onnxruntime 1.20.0 → 1.21.0",
        "the model file is another one than in the baseline",
        "processes that were disturbed: throttled in 1 of 6",
    )


def test_simulated_numbers_are_called_that(tmp_path):
    case = Case("DPN68", "simulated", "cpu", "fp32", 1, 1)
    stored.runs(tmp_path, [6.0] * 7, case=case)
    assert "simulated: no runtime; its latencies are made up" in one(against(tmp_path, tmp_path)).details


# Margins


def matched(logs, kind="normalised"):
    return check.Matched(None, None, kind, 0.0, list(logs))


@pytest.mark.parametrize("count", [5, 8, 20])
@pytest.mark.parametrize("spread", [0.0, 0.004, 0.02])
def test_chance_is_the_limit_of_the_core(count, spread):
    draw = random.Random(count)
    logs = [draw.gauss(15, spread) for _ in range(count)]
    limit = verdict.check_stored(logs, 15.0, margin=0.0).limit
    assert check.chance(matched(logs)) == pytest.approx(limit, rel=1e-12)
    assert check.chance(matched(logs, "raw")) > check.chance(matched(logs))


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_the_detectable_slowdown_is_seen_nine_times_in_ten(margin):
    """Sessions of 0.9 % SD, as many as a baseline keeps, so that their own SD is well known."""
    draw = random.Random(1)
    seen = 0
    for _ in range(1000):
        logs = [draw.gauss(0, verdict.SESSION_SD) for _ in range(20)]
        slowdown = check.detectable(matched(logs), margin)
        shift = draw.gauss(math.log1p(slowdown), verdict.SESSION_SD)
        seen += verdict.check_stored(logs, shift, margin).outcome == "REGRESSION"
    assert 870 <= seen <= 930


@pytest.mark.parametrize(
    ("margin", "refused"), [(0.005, "5%"), (0.02, "5%"), (0.0499, "5%"), (0.05, ""), (0.08, ""), (0.3, "")]
)
def test_margins_by_the_probe(probed, tmp_path, margin, refused):
    stored.run(tmp_path, 50, session(5.9, probe_ms=0.3))
    if not refused:
        assert one(against(probed, tmp_path, margin=margin)).evidence["margin"] == margin
        return
    with pytest.raises(UsageError, match=f"finer than stored numbers can carry; .* needs {refused}; use bench compare"):
        against(probed, tmp_path, margin=margin)


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.099])
def test_raw_numbers_need_ten_percent(raw, tmp_path, margin):
    stored.run(tmp_path, 50, session(5.9))
    with pytest.raises(UsageError, match=r"needs 10%; use bench compare, .* or --margin 10%"):
        against(raw, tmp_path, margin=margin)
    assert one(against(raw, tmp_path, margin=0.10)).outcome == "PASS"


def test_a_long_quiet_baseline_carries_a_little_less_than_five_percent():
    assert check.finest(matched([15.0] * 5)) == 0.05
    assert 0.03 < check.finest(matched([15.0] * 20)) < 0.05
    assert check.finest(matched([15.0] * 20, "raw")) == 0.10


def test_a_scattering_baseline_gives_no_verdict(tmp_path):
    stored.runs(tmp_path / "base", [5.0, 6.0, 7.0, 5.2, 6.8], probe_ms=0.3)
    stored.run(tmp_path / "new", 50, session(6.0, probe_ms=0.3))
    found = one(against(tmp_path / "base", tmp_path / "new"))
    assert found.outcome == "INCONCLUSIVE"
    assert found.says.startswith("It can't be told whether it became slower")
    assert found.do.startswith("use bench compare")


def test_the_error_is_that_of_the_whole_suite(tmp_path):
    """Of many cases, each gets its share of 1 %, so a single one is less easily alarmed."""
    cases = [Case(f"M{number}", "onnxruntime", "cpu", "fp32", 1, 1) for number in range(20)]
    for number, case in enumerate(cases):
        stored.runs(tmp_path, STORED, first=number * 10, case=case, probe_ms=0.3)
    many = against(tmp_path, tmp_path).results
    assert len(many) == 20
    logs = many[0].evidence["session_logs"]
    noise = verdict.check_stored(logs, 0.0, 0.0, check.ERROR / 20).limit
    assert many[0].high == pytest.approx(many[0].ratio * math.exp(noise), rel=1e-12)


# Too little


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_sessions_say_how_many_are_missing(tmp_path, count):
    stored.runs(tmp_path / "base", STORED[:count])
    stored.run(tmp_path / "new", 50, session(9.0))
    found = one(against(tmp_path / "base", tmp_path / "new"))
    assert (found.outcome, found.ratio) == ("INCONCLUSIVE", None)
    assert found.says == (
        f"{count} sessions of 4 sound processes are stored, and a limit needs 5: {5 - count} more are missing"
    )


def test_sessions_of_too_few_processes_do_not_count(tmp_path):
    for number in range(8):
        stored.run(tmp_path / "base", number, session(5.9, count=5 if number < 4 else 3))
    stored.run(tmp_path / "new", 50, session(5.9))
    assert "4 sessions of 4 sound processes are stored" in one(against(tmp_path / "base", tmp_path / "new")).says


@pytest.mark.parametrize("reason", ["throttled", "swapping", "coarse_clock", "preempted"])
def test_too_few_processes_of_the_contender_say_why(raw, tmp_path, reason):
    spoilt = [process(12.0, validity=validity(reason)) for _ in range(2)]
    stored.run(tmp_path, 50, [*session(5.9, count=3), *spoilt])
    found = one(against(raw, tmp_path))
    assert found.outcome == "INCONCLUSIVE"
    assert found.says.startswith(f"3 processes of it count, and a verdict needs 4 (2 left out: {reason}")


def test_no_kind_of_number_in_common(raw, tmp_path):
    marked = validity("preempted")
    stored.run(tmp_path, 50, session(5.9, probe_ms=0.3, validity=marked))
    found = one(against(raw, tmp_path))
    assert (found.outcome, found.ratio) == ("INCONCLUSIVE", None)
    assert "no kind of number in common" in found.says


# No baseline


MISMATCHES = {
    "machine": (
        {"description": ELSEWHERE},
        "this machine: it is Other CPU 9, 2 usable CPUs, and the baseline was measured on Example CPU 7",
    ),
    "threads": ({"case": msgspec.structs.replace(CASE, threads=2)}, "no baseline for it: threads 1 there, 2 here"),
    "batch": ({"case": msgspec.structs.replace(CASE, batch_size=4)}, "no baseline for it: batch_size 1 there, 4 here"),
    "precision": ({"case": msgspec.structs.replace(CASE, precision="bf16")}, "precision fp32 there, bf16 here"),
    "backend": (
        {"case": msgspec.structs.replace(CASE, backend="openvino")},
        "backend onnxruntime there, openvino here",
    ),
    "model": ({"case": msgspec.structs.replace(CASE, model="DPN92")}, "the baseline doesn't have DPN92"),
    "weights": (
        {"settings": Settings(options={"threads": "1"}, weights="pretrained")},
        "weights random there, pretrained here",
    ),
    "option": ({"settings": Settings(options={"threads": "2"})}, "option threads 1 there, 2 here"),
    "other option": (
        {"settings": Settings(options={"threads": "1", "onednn": "off"})},
        "option onednn absent there, off here",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_differs_is_no_baseline(raw, tmp_path, name):
    fields, words = MISMATCHES[name]
    stored.run(tmp_path, 50, session(9.0), **fields)
    with pytest.raises(NoBaseline, match=words) as caught:
        against(raw, tmp_path)
    assert caught.value.exit_code == 4
    assert "nothing was judged" in str(caught.value)


def test_another_interval_is_no_baseline(raw, tmp_path):
    stored.run(tmp_path, 50, session(9.0, intervals=("end_to_end",)))
    with pytest.raises(NoBaseline, match=r"no baseline for it: interval compute there, end_to_end here"):
        against(raw, tmp_path)


def test_a_machine_that_nobody_knows_is_no_baseline(raw, tmp_path):
    stored.run(tmp_path, 50, session(9.0), description={})
    with pytest.raises(NoBaseline, match=r"no baseline for this machine"):
        against(raw, tmp_path)


def test_a_run_without_a_single_record(raw, tmp_path):
    stored.run(tmp_path, 50, [])
    with pytest.raises(NoBaseline, match=r"nothing was judged"):
        against(raw, tmp_path)


def test_one_stranger_among_cases_is_inconclusive(raw, tmp_path):
    stored.run(tmp_path, 50, session(5.9))
    stored.run(tmp_path, 51, session(9.9), case=OTHER)
    found = {result.case: result for result in against(raw, tmp_path).results}
    assert found[f"{CASE.key} compute"].outcome == "PASS"
    assert found[f"{OTHER.key} compute"].outcome == "INCONCLUSIVE"
    assert "the baseline doesn't have MobileNetV2" in found[f"{OTHER.key} compute"].says


def test_a_case_that_vanished_is_not_green(tmp_path):
    stored.runs(tmp_path / "base", STORED)
    stored.runs(tmp_path / "base", STORED, first=10, case=OTHER)
    stored.run(tmp_path / "new", 50, session(5.9))
    found = {result.case: result for result in against(tmp_path / "base", tmp_path / "new").results}
    assert found[f"{OTHER.key} compute"].outcome == "INCONCLUSIVE"
    assert found[f"{OTHER.key} compute"].says == "the baseline has it, and this run didn't measure it"


# Cases that went wrong

WRONG = [("failed", "FAILED", 1), ("unsupported", "FAILED", 1), ("unavailable", "UNAVAILABLE", 3)]


@pytest.mark.parametrize(("status", "outcome", "code"), WRONG)
def test_what_worked_for_the_baseline_and_does_not_now(raw, tmp_path, status, outcome, code):
    stored.run(tmp_path, 50, [*session(5.9), {"status": status, "reason": "signal 11"}])
    found = against(raw, tmp_path)
    assert (one(found).outcome, found.exit_code()) == (outcome, code)
    assert "signal 11" in one(found).says


@pytest.mark.parametrize(("status", "outcomes"), [("failed", ["FAILED"]), ("unsupported", []), ("unavailable", [])])
def test_what_the_baseline_never_had(raw, tmp_path, status, outcomes):
    stored.run(tmp_path, 50, session(5.9))
    stored.run(tmp_path, 51, [{"status": status, "reason": "why"}], case=OTHER)
    found = [result.outcome for result in against(raw, tmp_path).results if result.case.startswith("MobileNetV2")]
    assert found == outcomes


def test_the_newest_run_of_a_case_is_the_contender(raw, tmp_path):
    stored.run(tmp_path, 60, session(5.9))
    stored.run(tmp_path, 50, [{"status": "failed", "reason": "then"}])
    assert one(against(raw, tmp_path)).outcome == "PASS"


# All cases together


@pytest.mark.parametrize(("slower", "shifted"), [(5, True), (4, False)])
def test_a_shift_of_all_cases_is_told_once(tmp_path, slower, shifted):
    for number in range(6):
        case = Case(f"M{number}", "onnxruntime", "cpu", "fp32", 1, 1)
        stored.runs(tmp_path / "base", [6.0] * 5, first=number * 10, case=case, probe_ms=0.3)
        ms = 6.6 if number < slower else 5.9
        stored.run(tmp_path / "new", 100 + number, session(ms, probe_ms=0.3, seed=number), case=case)
    found = against(tmp_path / "base", tmp_path / "new")
    assert [result.outcome for result in found.results].count("REGRESSION") == slower
    assert found.shift.startswith("All cases moved together: 10." if shifted else "")
    assert bool(found.shift) == shifted
    assert found.exit_code() == 1


# Confirmation


def fresh(outcome, **fields):
    return GateResult(case="theirs", outcome=outcome, says="fresh pairs say so", took_s=15.0, **fields)


def confirmed(base, new, answer):
    asked = []

    def confirm(suspect):
        asked.append(suspect)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return against(base, new, confirm=confirm), asked


@pytest.mark.parametrize("outcome", ["PASS", "IMPROVED", "REGRESSION", "INCONCLUSIVE"])
def test_fresh_pairs_decide_about_a_suspect(probed, tmp_path, outcome):
    stored.run(tmp_path, 50, session(6.5, probe_ms=0.3))
    found, asked = confirmed(probed, tmp_path, fresh(outcome, ratio=1.001))
    result = one(found)
    assert (result.outcome, result.ratio, result.took_s) == (outcome, 1.001, 25.0)
    assert result.case == f"{CASE.key} compute"
    assert result.details[0].startswith("stored numbers said +")
    assert result.evidence["stored"]["sessions"] == 6
    (suspect,) = asked
    assert suspect.quantity.case == CASE
    assert (suspect.margin, suspect.machine) == (0.05, environment.machine_class(HERE))
    assert suspect.then == suspect.now == {"onnxruntime": "1.20.0"}
    assert suspect.commits == tuple(f"{number:040x}" for number in range(1, 7))


@pytest.mark.parametrize("answer", [Unavailable("no such Python"), fresh("FAILED"), fresh("UNAVAILABLE")])
def test_a_suspect_that_cannot_be_measured_again_stays_one(probed, tmp_path, answer):
    stored.run(tmp_path, 50, session(6.5, probe_ms=0.3))
    found, _ = confirmed(probed, tmp_path, answer)
    assert one(found).outcome == "REGRESSION"
    assert one(found).details[-1].startswith("not confirmed side by side: ")


def test_another_model_is_not_cleared_by_measuring_the_new_one_twice(probed, tmp_path):
    stored.run(tmp_path, 50, session(6.5, probe_ms=0.3), artifact="b" * 64)
    found, asked = confirmed(probed, tmp_path, fresh("PASS"))
    assert (one(found).outcome, asked) == ("REGRESSION", [])
    assert "name both files: bench compare OLD NEW" in one(found).details[-1]


def test_only_suspects_are_measured_again(probed, tmp_path):
    stored.run(tmp_path, 50, session(5.9, probe_ms=0.3))
    found, asked = confirmed(probed, tmp_path, Unavailable("not asked"))
    assert (one(found).outcome, asked) == ("PASS", [])


# Recorded processes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Calm recorded processes as runs of four, in the order of recording, and the values the core gives them."""
    folder, logs = tmp_path_factory.mktemp("recorded"), []
    units = [unit for unit in traces.load() if unit.mode == "solo" and unit.setting in ("quiet", "busy") and unit.even]
    for number, four in enumerate(zip(*[iter(units)] * 4, strict=False)):
        processes = []
        for unit in four:
            wall, cpu, switches, probe = (tuple(column.astype(int).tolist()) for column in unit.processes[0])
            made = process(1.0, cpu_ns=cpu, involuntary_switches=switches)
            samples = msgspec.structs.replace(made["measurement"].intervals["compute"], samples_ns=wall)
            made["measurement"] = msgspec.structs.replace(made["measurement"], intervals={"compute": samples})
            processes.append(made | {"telemetry": {"probe_ns": {"compute": probe}}})
        stored.run(folder, number, processes)
        logs.append(
            [
                verdict.process_value(
                    *(
                        column.astype(int).tolist()
                        for column in (
                            u.processes[0].wall,
                            u.processes[0].probe,
                            u.processes[0].cpu,
                            u.processes[0].switches,
                        )
                    )
                )
                for u in four
            ]
        )
    return folder, logs


def test_records_lose_nothing_that_the_core_needs(recorded):
    folder, logs = recorded
    found = baseline.sessions(Reading(folder).runs())
    assert len(found) == len(logs) >= 7
    assert [each.normalised for each in found] == [tuple(values) for values in logs]


def test_recorded_sessions_raise_no_alarm_and_a_slowdown_of_a_tenth_does(recorded, tmp_path):
    """Each recorded run against all others: an unchanged build under a busy loop and without one."""
    folder, _ = recorded
    made = baseline.from_records(Reading(folder))
    (entry,) = made.cases
    for session_ in baseline.sessions(Reading(folder).runs()):
        stored_values = entry.values("normalised", without=session_.run_id)
        value = session_.value("normalised")
        assert verdict.check_stored(stored_values, value).outcome == "PASS"
        assert verdict.check_stored(stored_values, value + math.log(1.1)).outcome == "REGRESSION"
