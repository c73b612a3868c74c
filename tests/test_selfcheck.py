"""The recordings, the rules of others, and the targets on the recordings: every one, under every condition."""

import pytest

np = pytest.importorskip("numpy")

from bench import verdict  # noqa: E402
from bench.selfcheck import anchors, replay, targets, traces  # noqa: E402
from bench.verdict import Pair, Side  # noqa: E402


@pytest.fixture(scope="module")
def checked():
    return targets.check(replay.replay())


# The recordings


def test_the_recordings_are_whole():
    units = traces.load()
    assert len(units) == 321
    assert sum(len(unit.processes) for unit in units) == 499
    assert all(len(process.wall) == 300 for unit in units for process in unit.processes)


def test_units_are_numbered_within_their_condition_and_halved():
    units = [unit for unit in traces.load() if unit.condition == "pinned quiet"]
    assert [unit.number for unit in units] == list(range(1, 13))
    even, odd = (traces.chosen(traces.load(), "pinned", even=half)["pinned quiet"] for half in (True, False))
    assert [unit.number for unit in even] == [2, 4, 6, 8, 10, 12]
    assert not {id(unit) for unit in even} & {id(unit) for unit in odd}


def test_slowing_a_pair_is_slowing_its_samples():
    unit = next(unit for unit in traces.load() if unit.mode == "pinned")
    baseline, contender = map(traces.side, unit.processes)
    slower = Side(
        [[1.03 * value for value in block] for block in contender.wall_ns],
        [[1.03 * value for value in block] for block in contender.cpu_ns],
        contender.probe_ns,
    )
    expected, found = verdict.pair(baseline, slower), replay.slowed(traces.measured(unit), 0.03)
    assert (found.fastest, found.middle, found.cpu) == pytest.approx((expected.fastest, expected.middle, expected.cpu))
    assert found.guard == expected.guard


def test_turning_a_pair_is_exchanging_its_sides():
    unit = next(unit for unit in traces.load() if unit.mode == "live")
    baseline, contender = map(traces.side, unit.processes)
    back, turned = verdict.pair(contender, baseline), replay.turned(traces.measured(unit))
    assert (turned.fastest, turned.middle, turned.guard) == pytest.approx((back.fastest, back.middle, back.guard))


def test_a_job_uses_every_pair_before_one_again():
    pool = [Pair(float(i), 0.0, guard=0.1 if i == 2 else 0.0) for i in range(1, 6)]
    drawn = replay.job(pool, 8, np.random.default_rng(0))
    assert sum(one.sound for one in drawn) == 8
    assert sorted(abs(one.fastest) for one in drawn[:5]) == [1, 2, 3, 4, 5]


# The rules of others


OLD = np.array([1.1, 2.2, 3.3, 4.4, 5.0, 6.1])
NEW = np.array([2.0, 3.1, 5.5, 7.3, 8.8, 9.4, 10.2])


def test_tests_agree_with_scipy():
    """SciPy 1.17: mannwhitneyu(method="asymptotic"), ttest_ind, ttest_ind(equal_var=False)."""
    assert anchors.mann_whitney(OLD, NEW) == pytest.approx(0.13361440253771614)
    assert anchors.student(OLD, NEW) == pytest.approx(0.07324399974538293)
    assert 2 * anchors.welch(OLD, NEW) == pytest.approx(0.06643264581863689)


def test_kolmogorov_smirnov_has_its_size():
    source = np.random.default_rng(1)
    hits = sum(anchors.kolmogorov_smirnov(*source.normal(size=(2, 100))) < 0.05 for _ in range(1000))
    assert hits / 1000 == pytest.approx(0.045, abs=0.02)


@pytest.mark.parametrize("anchor", anchors.ANCHORS, ids=lambda anchor: anchor.name)
def test_anchors_see_what_is_plain_and_nothing_in_the_same(anchor):
    source = np.random.default_rng(2)
    old, same = (list(5e6 * (1 + 0.01 * source.normal(size=(anchor.processes, 300)))) for _ in range(2))
    assert not anchor.slower(old, old)
    assert anchor.slower(old, [2.5 * one for one in same])
    assert not anchor.slower(old, [0.4 * one for one in same])


@pytest.mark.parametrize("name", anchors.DETECTORS)
def test_detectors_see_a_plain_step_up(name):
    logs = 0.01 * np.random.default_rng(3).normal(size=60)
    stepped = logs + np.where(np.arange(60) >= 40, 0.2, 0.0)
    assert any(abs(index - 40) <= 2 for index in anchors.DETECTORS[name](stepped))
    if "bencher" not in name:  # it tests each point at 1 % and reports about every hundredth
        assert anchors.DETECTORS[name](logs) == []
        assert all(index < 40 for index in anchors.DETECTORS[name](-stepped))


# The replay


def test_same_seed_same_numbers():
    small = {"seed": 3, "jobs": 10}
    assert replay.replay.__wrapped__(**small) == replay.replay.__wrapped__(**small)


def test_targets(checked):
    """Missed exactly where `KNOWN` says, so that a cure shows as well as a relapse."""
    missed = {target.name: set(target.missed) for target in checked}
    assert missed == {target.name: set(targets.KNOWN.get(target.name, ())) for target in checked}, checked


def test_every_known_miss_belongs_to_a_target(checked):
    assert set(targets.KNOWN) <= {target.name for target in checked}


def test_pinned_pairs_miss_nothing(checked):
    assert not [name for target in checked for name in target.missed if name.startswith("pinned")]


def test_unexpected_misses_are_named():
    assert targets.unexpected(replay.replay()) == []


def test_the_default_plan_sees_two_percent_everywhere():
    assert min(one.power_default for one in replay.replay().pairs) >= 0.98


def test_a_real_slowdown_is_seen():
    real = {one.setting: one for one in replay.replay().real if one.pairs >= replay.LEAST_UNITS}
    assert real
    for one in real.values():
        assert one.outcome == "REGRESSION"
        assert one.low < 0.037 < one.high


def test_no_anchor_has_both_few_alarms_and_our_power():
    for one in replay.replay().anchors:
        assert one.alarms[0.0] > 0.01 or one.alarms[0.02] < 0.5, one


def test_worst_is_named_on_the_right_side():
    low = targets.Target("power", 90, False, {"a": 95.0, "b": 80.0}, {})
    assert (low.worst, low.missed) == ("b", ("b",))
    high = targets.Target("alarms", 1, True, {"a": 0.5, "b": 1.0}, {})
    assert (high.worst, high.missed) == ("b", ())


def test_render_shows_every_target_condition_and_anchor(checked):
    found = replay.replay()
    text = targets.render(found)
    names = [target.name for target in checked] + [one.condition for one in found.pairs] + [*found.skipped]
    names += [one.anchor for one in found.anchors] + list(anchors.DETECTORS)
    assert [name for name in names if name not in text] == []
    assert max(map(len, text.splitlines())) < 200
