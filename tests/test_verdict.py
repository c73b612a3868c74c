"""Exact small cases, properties, and error rates by simulation with fixed seeds."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import verdict
from bench.errors import UsageError
from bench.verdict import Pair, Rule, Side, decide

BLOCKS = st.lists(st.lists(st.integers(10**5, 10**8), min_size=5, max_size=5), min_size=3, max_size=12)


def alike(slowdown: float, count: int, cpu: float | None = None, guard: float = 0.0) -> list[Pair]:
    """Pairs without noise."""
    log = math.log1p(slowdown)
    return [Pair(log, log, log if cpu is None else math.log1p(cpu), guard)] * count


def noisy(slowdown: float, count: int, source: random.Random, sd: float = 0.006) -> list[Pair]:
    log = math.log1p(slowdown)
    return [Pair(value, value) for value in (log + source.gauss(0, sd) for _ in range(count))]


# A pair


def test_pair_takes_the_median_over_adjacent_blocks_without_first_iterations():
    baseline = Side([[999, 100, 110, 120], [999, 200, 210, 220], [999, 50, 60, 70]])
    contender = Side([[1, 101, 121, 110], [1, 204, 240, 210], [1, 50, 60, 90]])
    found = verdict.pair(baseline, contender)
    assert found.fastest == pytest.approx(math.log(1.01))
    assert found.middle == pytest.approx(0)
    assert found.cpu is found.guard is None


def test_short_blocks_keep_their_first_iteration():
    assert verdict.pair(Side([[100, 200]]), Side([[110, 300]])).fastest == pytest.approx(math.log(1.1))
    assert verdict.pair(Side([[9, 100, 200]]), Side([[1, 110, 300]])).fastest == pytest.approx(math.log(1.1))


def test_guard_and_cpu_time():
    baseline = Side([[1, 100, 100]] * 2, [[1, 90, 92]] * 2, [1000, 1000])
    contender = Side([[1, 100, 100]] * 2, [[1, 91, 91]] * 2, [1060, 1060])
    found = verdict.pair(baseline, contender)
    assert found.cpu == pytest.approx(0)
    assert found.guard == pytest.approx(math.log(1.06))
    assert not found.sound
    assert Pair(0, 0, guard=-0.05).sound
    assert Pair(0, 0).sound


@pytest.mark.parametrize(("baseline", "contender"), [([], []), ([[1, 2]], [])])
def test_blocks_come_in_pairs(baseline, contender):
    with pytest.raises(ValueError, match="blocks beside"):
        verdict.pair(Side(baseline), Side(contender))


@given(BLOCKS, st.integers(2, 50), st.randoms(use_true_random=False))
def test_pair_is_antisymmetric_and_knows_no_unit(blocks, factor, source):
    other = [[source.randint(10**5, 10**8) for _ in block] for block in blocks]
    ahead, back = verdict.pair(Side(blocks), Side(other)), verdict.pair(Side(other), Side(blocks))
    assert (ahead.fastest, ahead.middle) == (pytest.approx(-back.fastest), pytest.approx(-back.middle))
    scaled = [Side([[factor * value for value in block] for block in side]) for side in (blocks, other)]
    assert verdict.pair(*scaled).fastest == pytest.approx(ahead.fastest)


@given(BLOCKS, st.floats(1.001, 2))
def test_a_slowdown_adds_its_logarithm(blocks, factor):
    slower = [[factor * value for value in block] for block in blocks]
    assert verdict.pair(Side(blocks), Side(slower)).fastest == pytest.approx(math.log(factor))


# The rule


@pytest.mark.parametrize("pairs", [3, 4, 5, 12, 16, 30])
def test_looks_spend_the_error_and_no_more(pairs):
    looks = Rule(pairs=pairs).looks()
    assert sum(error for _, error in looks) == pytest.approx(0.01)
    assert looks[-1][0] == pairs
    assert all(error > 0 for _, error in looks)


@pytest.mark.parametrize("wrong", [{"tolerance": 0.019}, {"margin": 0.01}, {"pairs": 2}])
def test_rules_that_cannot_work_are_refused(wrong):
    with pytest.raises(UsageError):
        Rule(**wrong)


def test_long_iterations_take_block_medians():
    assert verdict.statistic_for(50e6) == "fastest"
    assert verdict.statistic_for(51e6) == "middle"
    assert [verdict.tolerance_for(latency) for latency in (0.9e6, 1e6)] == [0.03, 0.02]


def test_interval_is_the_moderated_t():
    known = verdict.interval([0.01, 0.02, 0.03], 0.01, sd=0.005, df=8)
    half = 2.7637694581126957 * math.sqrt((8 * 0.005**2 + 2 * 0.01**2) / 10 / 3)
    assert (known.centre, known.lower, known.upper) == pytest.approx((0.02, 0.02 - half, 0.02 + half))


@pytest.mark.parametrize("count", [3, 4, 8, 16])
def test_interval_covers_at_the_floor(count):
    source = random.Random(count)
    beyond = sum(
        verdict.interval([source.gauss(0, 0.006) for _ in range(count)], 0.05, 0.006, 12).lower > 0 for _ in range(4000)
    )
    assert beyond / 4000 == pytest.approx(0.05, abs=0.015)


def test_floor_sd_is_an_upper_limit():
    source = random.Random(1)
    limits = [verdict.floor_sd([source.gauss(0, 0.01) for _ in range(20)]) for _ in range(1000)]
    assert sum(limit > 0.01 for limit in limits) / 1000 == pytest.approx(0.8, abs=0.04)
    assert verdict.floor_sd([0.5, -0.5]) == Rule.sd
    assert verdict.floor_sd([1e-5 * i for i in range(10)]) == Rule.sd


# Deciding


@pytest.mark.parametrize(
    ("slowdown", "outcome"), [(0, "PASS"), (0.03, "REGRESSION"), (-0.03, "IMPROVED"), (0.5, "REGRESSION")]
)
def test_clear_cases_end_after_three_pairs(slowdown, outcome):
    found = decide(alike(slowdown, 16))
    assert (found.outcome, found.pairs, found.needed, found.reason) == (outcome, 3, 0, "")
    assert found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(1 + slowdown)
    assert found.cpu_ratio == pytest.approx(1 + slowdown)


def test_a_doubtful_pass_waits_for_the_last_look():
    assert decide(alike(0.006, 3)).outcome == "INCONCLUSIVE"
    assert decide(alike(0.006, 16)).outcome == "PASS"
    assert decide(alike(0.006, 16)).pairs == 16
    assert decide(alike(0.006, 4), Rule(pairs=4)).outcome == "PASS"


def test_too_few_pairs_say_how_many_it_takes():
    nothing = decide([])
    assert (nothing.outcome, nothing.needed, nothing.pairs) == ("INCONCLUSIVE", 3, 0)
    two = decide(alike(0.1, 2))
    assert (two.outcome, two.pairs) == ("INCONCLUSIVE", 2)
    assert two.needed > 2
    assert "needs 3" in two.reason


def test_inconclusive_says_how_many_pairs_it_would_take():
    found = decide([Pair(value, value) for value in (0.00, 0.03, -0.01, 0.04)])
    assert found.outcome == "INCONCLUSIVE"
    assert found.needed > 16
    assert found.detectable > 0.03


def test_unsound_pairs_are_dropped():
    found = decide([*alike(0, 2), *alike(0.34, 1, guard=0.38), *alike(0, 1)])
    assert (found.outcome, found.pairs, found.dropped) == ("PASS", 3, 1)


def test_two_machines_are_no_evidence():
    found = decide([*alike(0.34, 2, guard=0.38), *alike(0.1, 3)])
    assert found.outcome == "INCONCLUSIVE"
    assert found.reason.startswith("unfit: 2 of 5")


def test_clocks_that_contradict_each_other():
    found = decide(alike(0.05, 16, cpu=0.0))
    assert (found.outcome, found.needed, found.pairs) == ("INCONCLUSIVE", 0, 3)
    assert "wall time +5.0% contradicts CPU time +0.0%" in found.reason
    assert "sleep" in found.reason
    assert decide(alike(0.05, 16, cpu=0.0), Rule(trust="wall")).outcome == "REGRESSION"
    hidden = decide(alike(0.0, 16, cpu=0.05))
    assert hidden.outcome == "INCONCLUSIVE"
    assert "CPU time that wall hides" in hidden.reason


def test_statistic_chooses_what_is_judged():
    pairs = [Pair(fastest=0.0, middle=0.05)] * 3
    assert decide(pairs).outcome == "PASS"
    assert decide(pairs, Rule(statistic="middle")).outcome == "REGRESSION"


def test_a_plan_cut_short_spends_the_rest():
    pairs = alike(0.0145, 4)
    assert decide(pairs).outcome == "INCONCLUSIVE"
    assert decide(pairs, replace(Rule(), pairs=4)).outcome == "REGRESSION"


@pytest.mark.parametrize(("slowdown", "wrong"), [(Rule.margin, "REGRESSION"), (Rule.tolerance, "PASS")])
@pytest.mark.parametrize("pairs", [4, 16])
def test_errors_stay_below_one_in_a_hundred(slowdown, wrong, pairs):
    source = random.Random(pairs)
    outcomes = [decide(noisy(slowdown, pairs, source), Rule(pairs=pairs)).outcome for _ in range(3000)]
    assert outcomes.count(wrong) / 3000 <= 0.01 + 0.004


@pytest.mark.parametrize("sd", [0.006, 0.02, 0.05, 0.3])
def test_identical_programs_seldom_alarm_however_far_their_pairs_scatter(sd):
    """The rule expects 0.6 %; binomial slack on 600 jobs of the promised 1 % a direction."""
    source = random.Random(7)
    jobs = [noisy(0.0, 16, source, sd) for _ in range(600)]
    outcomes = [decide(job).outcome for job in jobs]
    assert outcomes.count("REGRESSION") <= 12
    assert outcomes.count("IMPROVED") <= 12


def test_pairs_far_apart_leave_the_expected_spread_behind():
    near, far = [0.027, 0.03, 0.033], [-0.04, 0.06, 0.07]
    assert verdict.believed(near, 0.01, Rule()) == verdict.interval(near, 0.01, Rule.sd, Rule.df)
    assert verdict.believed(far, 0.01, Rule()) == verdict.interval(far, 0.01, Rule.sd, 0)


def test_detectable_allows_for_both_intervals():
    """Of three pairs the own interval is the wider one by far, unless they agree."""
    even, odd = ([Pair(value, value) for value in values] for values in ([0.0, 0.0, 0.0], [-0.006, 0.0, 0.006]))
    assert decide(even, Rule(pairs=3)).detectable < 0.03
    own = verdict.interval([-0.006, 0.0, 0.006], verdict.OWN_SHARE * 0.01, Rule.sd, 0)
    assert decide(odd, Rule(pairs=3)).detectable > own.upper + Rule.margin


def test_a_change_must_stand_in_the_pairs_own_spread_but_a_pass_need_not():
    values = [0.012, 0.02, 0.028]
    shrunk, held = verdict.interval(values, 0.0005, Rule.sd, Rule.df), verdict.believed(values, 0.0005, Rule())
    assert held.lower == 0 < shrunk.lower
    assert held.upper == shrunk.upper


@given(st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=3), st.floats(0, 0.1), st.permutations(range(3)))
def test_slower_never_looks_better(values, slowdown, order):
    rule = Rule(pairs=3)
    ranks = {"IMPROVED": 0, "PASS": 1, "INCONCLUSIVE": 2, "REGRESSION": 3}
    pairs = [Pair(value, value) for value in values]
    slower = [Pair(value + slowdown, value + slowdown) for value in values]
    before, after = decide(pairs, rule), decide(slower, rule)
    if before.outcome != "INCONCLUSIVE":
        assert ranks[before.outcome] <= ranks[after.outcome]
    assert before.low <= after.low + 1e-12
    assert decide([pairs[index] for index in order], rule).outcome == before.outcome


# A suite


def test_a_regression_must_repeat():
    slow, same = decide(alike(0.03, 3)), decide(alike(0, 3))
    assert verdict.suspects({"a": slow, "b": same}) == ["a"]
    assert verdict.confirmed(slow, slow) == slow
    cleared = verdict.confirmed(slow, same)
    assert cleared.outcome == "PASS"
    assert "first measurement said +3.0%" in cleared.reason


def test_global_shift_is_one_finding():
    def of(slowdown):
        return decide(alike(slowdown, 3))

    together = verdict.global_shift([of(0.02)] * 5 + [of(-0.001)])
    assert together is not None
    assert (together.ratio, together.share, together.cases) == pytest.approx((1.02, 5 / 6, 6))
    assert verdict.global_shift([of(0.02)] * 4) is None
    assert verdict.global_shift([of(0.002)] * 9) is None
    assert verdict.global_shift([of(0.02)] * 5 + [of(-0.02)] * 3) is None


# Stored baselines


def test_process_value_divides_by_the_local_probe():
    wall = [100 * (1 + i // 50) for i in range(100)]
    probe = [10 * (1 + i // 50) for i in range(100)]
    exact = verdict.process_value(wall, probe, beta=1.0)
    assert exact == pytest.approx(math.log(10))
    assert verdict.process_value([100, 110, 120]) == pytest.approx(math.log(110))


def test_process_value_of_a_preempted_process():
    wall, probe, cpu = [100, 200, 300, 400] * 10, [10, 20, 30, 40] * 10, [100] * 40
    assert verdict.process_value(wall, probe, cpu, [1] * 40, beta=0.5) == pytest.approx(math.log(100 / math.sqrt(25)))
    assert verdict.process_value(wall, probe, (), [1] * 40, beta=0.5) == pytest.approx(math.log(100 / math.sqrt(10)))
    calm = verdict.process_value(wall, probe, cpu, [1] * 8 + [0] * 32, beta=0.5)
    assert calm == verdict.process_value(wall, probe, (), (), beta=0.5)


def test_fitted_beta_stays_within_reason():
    probes = [0.0, 0.1, 0.2, 0.3]
    assert verdict.fitted_beta([0.7 * value for value in probes], probes) == pytest.approx(0.7)
    assert verdict.fitted_beta([2 * value for value in probes], probes) == 1
    assert verdict.fitted_beta([-value for value in probes], probes) == 0.5
    assert verdict.fitted_beta([1, 2], [1, 2]) == 0.8
    assert verdict.fitted_beta([1, 2, 3], [1, 1, 1]) == 0.8


def test_stored_baseline():
    baseline = [0.0, 0.005, -0.005, 0.002, -0.002]
    assert verdict.check_stored(baseline, 0.01).outcome == "PASS"
    assert verdict.check_stored(baseline, 0.06).outcome == "REGRESSION"
    assert verdict.check_stored(baseline, -0.06).outcome == "IMPROVED"
    assert verdict.check_stored(baseline, 0.06, margin=0.1).outcome == "PASS"
    few = verdict.check_stored(baseline[:4], 1.0)
    assert few.outcome == "INCONCLUSIVE"
    assert "needs 5" in few.reason
    scattered = verdict.check_stored([0.0, 0.1, -0.1, 0.05, -0.05], 0.01)
    assert scattered.outcome == "INCONCLUSIVE"
    assert "bench compare" in scattered.reason


# Histories


def series(count: int, seed: int, **steps: float) -> list[float]:
    """Noise of 1 %, with steps such as `at40=0.05` that last."""
    source = random.Random(seed)
    sizes = {int(name.removeprefix("at")): size for name, size in steps.items()}
    return [source.gauss(0, 0.01) + sum(size for at, size in sizes.items() if i >= at) for i in range(count)]


def test_a_step_is_seen_placed_and_confirmed():
    (found,) = verdict.changes(series(60, 1, at40=0.06))
    assert found.index == 40
    assert 41 <= found.seen <= 45
    assert found.shift == pytest.approx(0.06, abs=0.015)
    assert found.state == "confirmed"


@pytest.mark.parametrize("size", [0.03, -0.03])
@pytest.mark.parametrize("later", [5, 12])
def test_a_step_of_three_sds_is_placed_right_on_average(size, later):
    """With five points after it most are still open, with twelve most are confirmed."""
    found = [verdict.changes(series(30 + later, seed, at30=size)) for seed in range(1000, 1200)]
    errors = [one.index - 30 for changes in found for one in changes if one.shift * size > 0 and one.seen >= 30]
    assert len(errors) >= (0.75 if later == 5 else 0.98) * len(found)
    assert statistics.mode(errors) == 0
    assert abs(statistics.fmean(errors)) < 0.5
    assert statistics.fmean(map(abs, errors)) < 0.5


@pytest.mark.parametrize("later", [4, 12])
def test_a_large_step_is_placed_exactly(later):
    """It alarms a point early, when two of the last three are beyond it, and is then moved."""
    for seed in range(50):
        found = next(one for one in verdict.changes(series(30 + later, seed, at30=0.1)) if one.seen >= 30)
        assert found.index == 30
        assert found.shift == pytest.approx(0.1, abs=0.02)


def test_nothing_is_seen_before_it_happened():
    """A step that grows moves on with the points that show it."""
    for seed in range(60):
        for change in verdict.changes(series(60, seed, at30=0.015, at33=0.03, at36=0.03)):
            assert change.index <= change.seen


def test_a_wild_point_does_not_draw_a_step_to_it():
    logs = series(45, 9, at40=0.06)
    logs[44] = 0.5
    (found,) = verdict.changes(logs)
    assert found.index == 40


def test_steps_are_followed_both_ways():
    found = verdict.changes(series(100, 2, at40=0.08, at70=-0.08))
    assert [change.shift > 0 for change in found] == [True, False]
    assert [change.state for change in found] == ["confirmed", "confirmed"]


def test_what_goes_away_is_said_to():
    logs = series(60, 3)
    logs[40:44] = [0.10, 0.11, 0.10, 0.105]
    (found,) = verdict.changes(logs)
    assert found.state == "went away"


def test_a_fresh_step_is_open():
    (found,) = verdict.changes(series(44, 4, at40=0.08))
    assert found.state == "open"


def test_no_history_no_alarm():
    assert verdict.changes([]) == []
    assert verdict.changes(series(10, 5, at5=0.5)) == []
    assert verdict.changes([1.0] * 60) == []


def test_a_wild_point_is_no_step():
    logs = series(60, 6)
    logs[30] = 0.5
    assert verdict.changes(logs) == []


def test_two_wild_points_go_away():
    logs = series(60, 6)
    logs[30], logs[31] = 0.5, 0.6
    assert [found.state for found in verdict.changes(logs)] == ["went away"]


def test_false_alarms_are_rare():
    alarms = sum(len(verdict.changes(series(60, seed))) for seed in range(100, 140))
    assert alarms / (40 * 50) <= 0.004


@given(st.lists(st.floats(-0.1, 0.1), min_size=11, max_size=30), st.floats(-20, 20))
def test_units_do_not_matter(logs, offset):
    moved = verdict.changes([value + offset for value in logs])
    assert [(one.index, one.seen) for one in moved] == [(one.index, one.seen) for one in verdict.changes(logs)]
