"""How pairs are played and judged: with workers that only pretend, and on the virtual clock of `simulated`."""

import contextlib
import itertools
import json
import math
import os
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from bench import calibration, compare, pairs, stages, store, telemetry, wording
from bench.backends import deviations
from bench.compare import Contest, simulate_pairs
from bench.compared import Comparison, PairRecord
from bench.duet import Lost
from bench.errors import Failed, UsageError
from bench.gate import Gate
from bench.live_worker import Compared, Done, Injection, Ready, Warm
from bench.pairs import Sampling, leader, play, sampling
from bench.schema import Case, Parity, Telemetry, Validity
from bench.subjects import Asked, Match, Terms, key_of, sides
from bench.telemetry import Snapshot

MS = 1_000_000
QUIET = Snapshot(monotonic_ns=0, suspended_ns=0, realtime_offset_ns=0, clocksource="tsc", throttled_periods=0)


class Pretender:
    """A worker that answers from a script: `wall_ns` an iteration, and what else a test wants to happen."""

    def __init__(
        self, log, side, *, wall_ns=10 * MS, cpu_ns=None, probe_ns=300_000, cpus=(1,), lost_at=None, differs=""
    ):
        self.log, self.side = log, side
        self.wall_ns, self.cpu_ns, self.probe_ns = wall_ns, cpu_ns or wall_ns, probe_ns
        self.cpus, self.lost_at, self.differs = cpus, lost_at, differs
        self.blocks = self.spent_ns = 0

    def open(self):
        self.log.append(f"{self.side} opens")
        if self.lost_at == 0:
            raise Lost("the worker died of SIGSEGV", "its last words")
        return Ready("1.0", 1, 1, {"threads": 1})

    def compare_outputs(self, others):
        return Compared(None, self.differs)

    def warm_up(self):
        return Warm(warmup_ns=(self.wall_ns,) * 10, steady=True, latency_ns=float(self.wall_ns), cpus=self.cpus)

    def block(self, iterations, latency_ns):
        self.log.append(self.side)
        self.blocks += 1
        if self.blocks == self.lost_at:
            raise Lost("no answer within 20 s")
        counted = Telemetry(cpu_ns=(self.cpu_ns,) * iterations)
        return Done((self.wall_ns,) * iterations, counted, self.probe_ns)

    def snapshot(self):
        return QUIET

    def spent_cpu_ns(self):
        """A microsecond more each time that it is asked."""
        self.spent_ns += 1000
        return self.spent_ns


class Pretence:
    """A stage of pretenders. `script` maps (side, attempt) to what is special about that worker."""

    key, number, cpu_clock = "M/b/cpu/fp32/bs1/t1", 1, True

    def __init__(self, script=None, outputs="same", **b):
        self.script, self.outputs, self.b = script or {}, outputs, b
        self.log = []

    def cpus(self, attempt):
        return (1,)

    @contextlib.contextmanager
    def worker(self, side, attempt):
        usual = self.b if side == "B" else {}
        yield Pretender(self.log, side, **{**usual, **self.script.get((side, attempt), {})})
        self.log.append(f"{side} ends")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Nothing happens to the machine, except what a test says: a list of snapshots, the last of which repeats."""
    shown = [QUIET]
    monkeypatch.setattr(telemetry, "snapshot", lambda *_: shown.pop(0) if len(shown) > 1 else shown[0])
    return shown


def contest(stage, terms=None, **more):
    played = Contest(stage, terms or Terms(), clock=lambda: 0.0, **more)
    return played, played.run()


# One pair


def test_blocks_go_a_b_b_a():
    stage = Pretence()
    found = play(stage, 0, Sampling(5, 4, 0))
    assert stage.log == ["A opens", "B opens", *"ABBAABBA", "B ends", "A ends"]
    assert found.record.blocks == 4
    assert found.record.a.block_min_ns == (10 * MS,) * 4
    assert not found.record.dropped


def test_each_side_leads_on_each_of_two_cpus():
    led = Counter((leader(attempt), attempt % 2) for attempt in range(16))
    assert set(led.values()) == {4}


@pytest.mark.parametrize(
    ("latency_ms", "iterations"),
    [(0.1, 250), (1, 25), (5.5, 5), (10, 5), (50, 5), (51, 3), (83, 3), (90, 2), (1000, 2)],
)
def test_iterations_of_a_block(latency_ms, iterations):
    assert sampling(latency_ms * 1e6).iterations == iterations


@pytest.mark.parametrize(("startup_s", "span_s"), [(0, 3), (6, 3), (24, 6)])
def test_a_slow_start_wants_a_longer_pair(startup_s, span_s):
    assert sampling(1e7, startup_s * 1e9).span_ns == span_s * 1e9


@pytest.mark.parametrize("latency_ms", [0.1, 1, 7, 10, 49, 60, 300])
def test_blocks_are_even_and_last_three_seconds(latency_ms):
    record = play(Pretence({("A", 0): {"wall_ns": round(latency_ms * MS)}}, wall_ns=round(latency_ms * MS)), 0).record
    assert record.blocks % 2 == 0
    assert record.blocks >= 24
    assert 2 * record.blocks * record.iterations * latency_ms >= 3000
    assert record.blocks == 24 or 2 * (record.blocks - 2) * record.iterations * latency_ms < 3000


def test_a_machine_slower_than_in_warm_up_does_not_stretch_the_pair(monkeypatch):
    monkeypatch.setattr(Pretender, "warm_up", lambda self: Warm((MS,), True, float(MS), (1,)))
    record = play(Pretence({("A", 0): {"wall_ns": 4 * MS}}, wall_ns=4 * MS), 0).record
    assert (record.blocks, record.iterations) == (24, 25)


def test_pair_records_what_happened():
    record = play(Pretence(wall_ns=11 * MS), 1, Sampling(5, 24, 0)).record
    assert record.first == "B"
    assert record.fastest == pytest.approx(math.log(1.1))
    assert record.cpu == pytest.approx(math.log(1.1))
    assert record.guard == 0
    assert record.a.idle_cpu_ns == record.b.idle_cpu_ns == 24 * 1000  # a microsecond for each block of the other
    assert compare.idle_share(record, "b", "a") == pytest.approx(24_000 / (24 * 5 * 10 * MS))
    assert record.facts["clocksource"] == "tsc"
    assert msgspec.json.decode(msgspec.json.encode(record), type=PairRecord) == record


@pytest.mark.parametrize("slower", ["A", "B"])
def test_pair_on_two_machines_is_dropped(slower):
    found = play(Pretence({(slower, 0): {"probe_ns": 318_000}}), 0)
    assert not found.pair.sound
    assert found.record.dropped == f"the machine was 6.0% slower for {slower}, by the compute probe"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suspended_ns": 5_000_000_000}, "suspended: the machine was suspended for 5.000 s"),
        ({"realtime_offset_ns": 3_000_000_000}, "clock_step"),
        ({"realtime_offset_ns": -3_000_000_000}, "clock_step"),
        ({"throttled_periods": 3}, "throttled"),
        ({"swap_ins": 3}, "swapping"),
        ({"clocksource": "hpet"}, "coarse_clock"),
    ],
)
def test_what_happens_to_the_machine_drops_the_pair(machine, change, said):
    zeros = msgspec.structs.replace(QUIET, **{name: 0 for name in change if name != "clocksource"})
    machine[:] = [zeros, msgspec.structs.replace(QUIET, **change)]
    found = play(Pretence(), 0)
    assert said in found.record.dropped
    assert not found.pair.sound


def test_pair_on_different_cpus_is_dropped():
    found = play(Pretence({("B", 0): {"cpus": (0, 1)}}), 0)
    assert "A may run on CPUs 1, B on 0, 1" in found.record.dropped


def test_a_side_that_never_became_steady_is_said_to(monkeypatch):
    monkeypatch.setattr(Pretender, "warm_up", lambda self: Warm((MS,), False, float(MS), (1,)))
    assert [each.reason for each in play(Pretence(), 0).record.validity] == ["no_steady_state"] * 2


def test_what_is_not_as_asked_is_said(monkeypatch):
    ready = Ready("1", 1, 1, {}, deviations=("threads: 1 asked, 2 in effect",))
    monkeypatch.setattr(Pretender, "open", lambda self: ready)
    found = play(Pretence(), 0)
    assert {each.evidence for each in found.record.validity} == {
        f"side {side}, threads: 1 asked, 2 in effect" for side in "AB"
    }
    assert found.pair.sound


def test_probes_of_different_programs_judge_nothing(monkeypatch):
    """Two Pythons may hold two NumPys: one 8 % slower for B says nothing of the machine."""
    opened = Pretender.open
    names = {"A": "NumPy 1.26.4", "B": "NumPy 2.4.6"}
    monkeypatch.setattr(Pretender, "open", lambda self: msgspec.structs.replace(opened(self), probe=names[self.side]))
    stage = Pretence({("B", 0): {"probe_ns": 324_000}})
    found = play(stage, 0)
    assert (found.pair.guard, found.pair.sound) == (None, True)
    (doubt,) = found.record.validity
    assert doubt.reason == "unguarded"
    assert "side A NumPy 1.26.4" in doubt.evidence
    monkeypatch.setattr(Pretender, "open", opened)
    assert not play(stage, 0).pair.sound


def test_heat_of_the_pairs_own_cpus_drops_it(monkeypatch):
    """The coordinator keeps off them, so what it sees of its own says nothing."""
    counts = itertools.chain([0, 0], itertools.repeat(3))
    snapshot = lambda _: msgspec.structs.replace(QUIET, thermal_throttles=next(counts))  # noqa: E731
    monkeypatch.setattr(Pretender, "snapshot", snapshot)
    assert "slowed down for heat or power 3 times" in play(Pretence(), 0).record.dropped


def test_a_probe_that_varies_is_said(monkeypatch):
    wavering = itertools.cycle([300_000, 330_000, 360_000])
    block = Pretender.block
    monkeypatch.setattr(
        Pretender, "block", lambda *words: msgspec.structs.replace(block(*words), probe_ns=next(wavering))
    )
    assert "noisy" in [each.reason for each in play(Pretence(), 0).record.validity]


def test_deviations_of_a_runtime():
    case, options = Case("M", "paddle", "cpu", "fp32", 1, 2), {"onednn": "on", "x": "1"}
    assert deviations(case, options, {"threads": 2, "precision": "fp32", "onednn": True, "x": "2"}) == ()
    assert deviations(case, options, {"threads": 1, "threads_used": 3, "precision": "bf16", "onednn": False}) == (
        "threads: 2 asked, 1 in effect",
        "threads: 2 asked, 3 in effect",
        "precision: fp32 asked, bf16 in effect",
        "onednn: on asked, off in effect",
    )


def test_different_outputs_end_it():
    script = {("B", 0): {"differs": "maximum error 3.0e-01 of its range, 1e-04 is admissible"}}
    with pytest.raises(Failed, match="the outputs of A and B differ; maximum error"):
        play(Pretence(script), 0)
    assert play(Pretence(script, outputs="any"), 0).pair.sound


def test_others_are_neither_us_nor_the_workers():
    own = Snapshot(monotonic_ns=10**9, cpu_ns=5, busy_ticks=7, involuntary_switches=1000)
    workers = [
        Snapshot(monotonic_ns=0, cpu_ns=20, threads={1: (5, 1)}, involuntary_switches=2, busy_ticks=100),
        Snapshot(monotonic_ns=0, cpu_ns=30, threads={2: (6, 2)}, involuntary_switches=3),
    ]
    found = pairs.together(own, workers)
    assert (found.cpu_ns, found.involuntary_switches, found.busy_ticks) == (55, 5, 7)
    assert found.threads == {1: (5, 1), 2: (6, 2)}
    assert pairs.together(own, [*workers, Snapshot(monotonic_ns=0)]).cpu_ns is None


# Pair after pair


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [(0.0, "PASS"), (0.004, "PASS"), (0.03, "REGRESSION"), (0.1, "REGRESSION"), (-0.05, "IMPROVED")],
)
def test_verdict_after_three_equal_pairs(shift, outcome):
    played, known = contest(Pretence(wall_ns=round(10 * MS * (1 + shift))))
    assert known.outcome == outcome
    assert played.sound == 3
    assert known.ratio == pytest.approx(1 + shift)


def test_a_lost_worker_costs_a_pair_and_nothing_else():
    kept = []
    played, known = contest(Pretence({("B", 1): {"lost_at": 3}}), keep=kept.append)
    assert known.outcome == "PASS"
    assert (played.sound, played.dropped) == (3, 1)
    assert [record.dropped for record in kept] == ["", "side B, block 3: no answer within 20 s", "", ""]
    assert [record.attempt for record in kept] == [0, 1, 2, 3]


def test_a_first_pair_that_is_lost_is_played_again():
    played, known = contest(Pretence({("A", 0): {"lost_at": 0}}))
    assert known.outcome == "PASS"
    assert played.drops() == ["side A: the worker died of SIGSEGV"]


def test_workers_that_keep_dying_are_a_failure():
    with pytest.raises(Failed, match="side B: the worker died of SIGSEGV; 2 of 2 pairs ended like that") as raised:
        contest(Pretence(lost_at=0))
    assert raised.value.log == "its last words"


def test_two_deaths_among_many_pairs_are_bad_luck():
    script = {("B", 1): {"lost_at": 3}, ("A", 6): {"lost_at": 5}}
    played, _ = contest(noisy(script, spread=0.02))
    assert played.sound > 4
    assert played.dropped == 2


def noisy(script=None, spread=0.0, **b):
    """Pairs whose log-ratios alternate by `spread`."""
    other = {("B", attempt): {"wall_ns": round(10 * MS * (1 + spread * (-1) ** attempt))} for attempt in range(40)}
    for place, special in (script or {}).items():
        other[place] = {**other.get(place, {}), **special}
    return Pretence(other, **b)


def test_unfit_machine_gives_no_verdict():
    script = {("B", attempt): {"probe_ns": 400_000} for attempt in range(40)}
    played, known = contest(Pretence(script, wall_ns=12 * MS))
    assert known.outcome == "INCONCLUSIVE"
    assert known.reason.startswith("unfit: 3 of 3 pairs were dropped: the machine was 33.3% slower for B")
    assert len(played.attempts) == 3


@pytest.mark.parametrize("bad", [{0}, {2}, {0, 1}, {0, 2, 4}, {1, 3, 5, 6}])
@pytest.mark.parametrize("shift", [0.0, 0.03])
def test_dropped_pairs_never_turn_a_verdict(bad, shift):
    """What unsound pairs measured, here half the time, does not count."""
    script = {("B", attempt): {"probe_ns": 150_000, "wall_ns": 5 * MS} for attempt in bad}
    _, known = contest(Pretence(script, wall_ns=round(10 * MS * (1 + shift))))
    assert known.outcome in {"INCONCLUSIVE", "REGRESSION" if shift else "PASS"}


def test_two_dropped_pairs_of_five_need_further_ones():
    script = {("B", attempt): {"probe_ns": 400_000} for attempt in (0, 1)}
    played, known = contest(Pretence(script))
    assert known.outcome == "PASS"
    assert (played.sound, played.dropped) == (6, 2)


def test_noise_ends_inconclusive_with_the_pairs_that_it_would_take():
    played, known = contest(noisy(spread=0.06))
    assert known.outcome == "INCONCLUSIVE"
    assert played.sound == 16
    assert known.needed > 16


def test_budget_ends_it_and_the_last_look_spends_the_rest():
    ticks = itertools.count(step=10)
    played = Contest(noisy(spread=0.06), Terms(budget_s=45), clock=lambda: float(next(ticks)))
    known = played.run()
    assert known.outcome == "INCONCLUSIVE"
    assert played.sound == 5
    assert known.pairs == 5  # 5 is no look of the full plan


def test_budget_below_three_pairs_says_so():
    ticks = itertools.count(step=10)
    played = Contest(Pretence(), Terms(budget_s=5), clock=lambda: float(next(ticks)))
    known = played.run()
    assert known.outcome == "INCONCLUSIVE"
    assert known.reason == "1 sound pairs of 1, and a verdict needs 3"


def test_time_spent_asleep_contradicts_cpu_time():
    stage = {"wall_ns": round(10.5 * MS), "cpu_ns": 10 * MS}
    _, known = contest(Pretence(**stage))
    assert known.outcome == "INCONCLUSIVE"
    assert "time spent waiting" in known.reason
    _, known = contest(Pretence(**stage), Terms(trust="wall"))
    assert known.outcome == "REGRESSION"


def test_several_threads_have_no_second_clock():
    stage = Pretence(wall_ns=round(10.5 * MS), cpu_ns=10 * MS)
    stage.cpu_clock = False
    assert contest(stage)[1].outcome == "REGRESSION"


def test_rule_follows_latency_and_calibration():
    assert Terms().rule(2e6).tolerance == 0.02
    assert Terms().rule(0.5e6).tolerance == 0.03
    assert Terms(margin=0.03).rule(2e6).tolerance == pytest.approx(0.045)
    assert Terms(tolerance=0.05).rule(0.5e6).tolerance == 0.05
    assert (Terms().rule(40e6).statistic, Terms().rule(60e6).statistic) == ("fastest", "middle")
    assert Terms().rule(1e6, sd=0.02).sd == 0.02
    assert Terms().rule(1e6, sd=0.0).sd == 0.006
    with pytest.raises(UsageError, match="too close"):
        Terms(margin=0.02, tolerance=0.02).rule(2e6)


def test_calibration_is_kept_by_runtime_and_threads(tmp_path):
    first, second = calibration.Entry("paddle", 1, 0.01, 30), calibration.Entry("paddle", 2, 0.03, 12)
    for entry in (first, second, calibration.Entry("paddle", 1, 0.012, 60)):
        calibration.save(tmp_path, "abc", entry)
    known = calibration.load(tmp_path, "abc")
    assert calibration.sd(known, 1, "onnxruntime", "paddle") == 0.012
    assert calibration.sd(known, 2, "paddle", "paddle") == 0.03
    assert calibration.sd(known, 4, "paddle", "paddle") == 0.006
    assert calibration.load(tmp_path, "other") == ()
    (tmp_path / "calibration" / "abc.json").write_text("garbage")
    assert calibration.load(tmp_path, "abc") == ()


# One at a time, where memory is too small for both


class Cramped(Pretence):
    """A machine that has room for one worker: a second one runs out of memory, or the kernel kills it."""

    def __init__(self, how, **more):
        super().__init__(**more)
        self.how, self.alive, self.most_alive = how, 0, 0

    @contextlib.contextmanager
    def worker(self, side, attempt):
        with super().worker(side, attempt) as worker:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
            if self.alive > 1:
                worker.open = self.fail
            try:
                yield worker
            finally:
                self.alive -= 1

    def fail(self):
        if self.how == "raised":
            raise Failed("out of memory")
        raise Lost("the worker died of SIGKILL, as when the kernel runs out of memory", killed=True)


@pytest.mark.parametrize("how", ["raised", "killed"])
@pytest.mark.parametrize(("slower", "outcome"), [(0.0, "PASS"), (0.1, "REGRESSION"), (-0.2, "IMPROVED")])
def test_what_does_not_fit_together_runs_one_at_a_time(how, slower, outcome):
    stage, kept = Cramped(how, wall_ns=round(10 * MS * (1 + slower))), []
    played, known = contest(stage, keep=kept.append)
    assert known.outcome == outcome
    assert known.ratio == pytest.approx(1 + slower)
    assert played.manner == "alternating processes"
    alternating = [record for record in kept if record.sampling == "alternating processes"]
    assert len(alternating) == played.sound == len(played.attempts) >= 3
    assert [record.dropped for record in alternating] == [""] * played.sound
    assert all(record.blocks >= 24 for record in alternating)
    assert len({record.attempt for record in kept}) == len(kept)


def test_one_at_a_time_no_two_are_alive():
    stage = Cramped("raised")
    found = [play(stage, attempt, manner="alternating processes") for attempt in range(4)]
    assert stage.most_alive == 1
    order = [line for line in stage.log if line.endswith(("opens", "ends"))]
    assert order == [f"{side} {what}" for side in "ABBABAAB" for what in ("opens", "ends")]
    assert {(len(each.record.a.block_min_ns), len(each.record.b.block_min_ns)) for each in found} == {(30, 30)}


def test_one_at_a_time_compares_the_fastest_iterations_of_all():
    """Blocks have no neighbours, so one good block of A is what B is compared with."""
    stage = Pretence(wall_ns=11 * MS)
    walls = itertools.chain([12 * MS, 10 * MS], itertools.repeat(13 * MS))
    script = {("A", 0): {}}
    stage.script = script
    block = Pretender.block

    def wavering(worker, iterations, latency_ns):
        if worker.side == "A":
            worker.wall_ns = next(walls)
        return block(worker, iterations, latency_ns)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Pretender, "block", wavering)
        found = play(stage, 0, Sampling(5, 24, 0), manner="alternating processes")
    assert found.pair.fastest == pytest.approx(math.log(1.1))
    assert found.pair.middle == pytest.approx(math.log(11 / 13))


def test_one_at_a_time_the_probe_does_not_judge():
    stage = Pretence({("B", 0): {"probe_ns": 400_000}})
    found = play(stage, 0, manner="alternating processes")
    assert found.pair.sound
    assert not play(stage, 0).pair.sound


def test_one_at_a_time_outputs_are_compared_all_the_same(tmp_path, monkeypatch):
    """The first worker's file is gone with it; the second one gets a copy."""
    texts = []

    class Writer(Pretender):
        def open(self):
            file = tmp_path / f"{self.side}.npz"
            file.write_text(f"outputs of {self.side}")
            return Ready("1.0", 1, 1, {}, outputs=str(file))

        def compare_outputs(self, others):
            texts.append((self.side, Path(others).read_text()))
            return super().compare_outputs(others)

        def warm_up(self):
            (tmp_path / f"{self.side}.npz").unlink()
            return super().warm_up()

    monkeypatch.setattr(sys.modules[__name__], "Pretender", Writer)
    script = {("B", 0): {"differs": "maximum error 3.0e-01"}}
    for attempt in (0, 1):
        play(Pretence(), attempt, manner="alternating processes")
    assert texts == [("B", "outputs of A"), ("A", "outputs of B")]
    with pytest.raises(Failed, match="the outputs of A and B differ"):
        play(Pretence(script), 0, manner="alternating processes")


def test_what_does_not_fit_alone_is_a_failure():
    class Tiny(Pretence):
        @contextlib.contextmanager
        def worker(self, side, attempt):
            with super().worker(side, attempt) as worker:
                worker.open = self.fail
                yield worker

        def fail(self):
            raise Failed("out of memory")

    with pytest.raises(Failed, match="side B does not fit into memory, even alone; out of memory"):
        contest(Tiny())


def test_one_kill_is_an_accident():
    script = {("B", 1): {"lost_at": 3}}
    played, known = contest(Pretence(script))
    assert (known.outcome, played.manner) == ("PASS", "live pairs")


def test_the_idle_sides_cpu_time_is_evidence_that_is_said():
    played, known = contest(Pretence())
    case = Case("M", "b", "cpu", "fp32", 1, 1)
    match = Match(key=case.key, label_a="a", label_b="b", case_a=case, case_b=case)
    found = compare.comparison(match, played, known, 1.0)
    assert found.evidence["idle_cpu_share_a"] == found.evidence["idle_cpu_share_b"] == 0.0
    louder = msgspec.structs.replace(found, evidence={"idle_cpu_share_a": 0.0, "idle_cpu_share_b": 0.081})
    (result,) = wording.gate([louder]).results
    assert "While one was timed, the other took 8.1% of a CPU at most." in " ".join(result.details)
    assert result.evidence["evidence"]["idle_cpu_share_b"] == 0.081
    apart, known = contest(Cramped("raised"))
    found = compare.comparison(match, apart, known, 1.0)
    assert "idle_cpu_share_a" not in found.evidence
    assert found.sampling == "alternating processes"


def test_one_at_a_time_promises_less():
    usual, alternating = Terms().rule(5e6), Terms().rule(5e6, manner="alternating processes")
    assert (usual.sd, usual.tolerance) == (0.006, 0.02)
    assert (alternating.sd, alternating.tolerance) == (0.03, 0.04)
    assert Terms(tolerance=0.02).rule(5e6, manner="alternating processes").tolerance == 0.02
    coarse = comparison(sampling="alternating processes", detectable=0.038)
    (result,) = wording.gate([coarse]).results
    assert "A and B did not fit into memory together, so they ran one at a time" in result.says
    assert "slowdowns from about 4% only" in result.says
    assert any("one at a time" in note for note in wording.gate([coarse]).notes)
    assert not any("one at a time" in note for note in wording.gate([comparison()]).notes)


def test_simulated_processes_one_at_a_time_find_ten_percent():
    """Processes as they scatter on a shared machine, 2 %."""
    options = {"median_us": "25000", "process_sigma": "0.014"}

    def outcomes(shift):
        slower = {**options, "median_us": repr(25_000 * (1 + shift))}
        for seed in range(20):
            stage = stages.SimulatedStage(compare.simulated(options), compare.simulated(slower), seed)
            played = Contest(stage, Terms(), clock=lambda: 0.0)
            played.manner = "alternating processes"
            yield played.run().outcome

    assert Counter(outcomes(0.10)) == {"REGRESSION": 20}
    assert "REGRESSION" not in Counter(outcomes(0.0))


# What A and B may be


def test_two_models():
    a, b = sides(Asked(sides=("old/m.onnx", "new/n.onnx"), backends=("onnxruntime",)))
    assert (a.models, b.models) == (("old/m.onnx",), ("new/n.onnx",))
    assert (a.label, b.label) == ("m.onnx", "n.onnx")
    a, b = sides(Asked(sides=("old/m.onnx", "new/m.onnx"), backends=("onnxruntime",)))
    assert (a.label, b.label) == ("old/m.onnx", "new/m.onnx")


def test_two_backends():
    a, b = sides(Asked(sides=("onnxruntime", "openvino"), models=("MobileNetV2",)))
    assert (a.backends, b.backends, a.models) == (("onnxruntime",), ("openvino",), ("MobileNetV2",))


def test_two_settings():
    asked = Asked(
        models=("X",),
        backends=("paddle",),
        options_a={"paddle": {"onednn": "on"}},
        options_b={"paddle": {"onednn": "off"}},
    )
    a, b = sides(asked)
    assert (a.label, b.label) == ("paddle.onednn=on", "paddle.onednn=off")
    assert b.options == {"paddle": {"onednn": "off"}}
    a, _ = sides(Asked(models=("X",), backends=("paddle",), options_b={"paddle": {"onednn": "off"}}))
    assert a.label == "as it is"


def test_two_pythons():
    a, b = sides(Asked(models=("X",), backends=("paddle",), python_b=sys.executable))
    assert (a.python, b.python) == ("", sys.executable)
    assert b.label == sys.executable


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(), "nothing tells A and B apart"),
        (Asked(models=("X",), backends=("paddle",)), "nothing tells A and B apart"),
        (Asked(sides=("X",)), "two sides are needed"),
        (Asked(sides=("X", "Y", "Z")), "two sides are needed"),
        (Asked(sides=("paddle", "X")), "not of a kind"),
        (Asked(sides=("X", "Y")), "no backend was named"),
        (Asked(sides=("X", "Y"), models=("Z",)), "A and B are models already"),
        (Asked(sides=("paddle", "openvino")), "no model was named"),
        (Asked(sides=("paddle", "openvino"), models=("X",), backends=("paddle",)), "A and B are backends already"),
        (Asked(models=("X",), backends=("paddle",), python_a="/nowhere/python"), "no Python /nowhere/python"),
    ],
)
def test_what_cannot_be_compared_is_refused(asked, said):
    with pytest.raises(UsageError, match=said):
        sides(asked)


def test_key_names_what_differs():
    one, other = Case("M", "onnxruntime", "cpu", "fp32", 1, 1), Case("M", "openvino", "cpu", "fp32", 1, 1)
    assert key_of(one, one) == "M/onnxruntime/cpu/fp32/bs1/t1"
    assert key_of(one, other) == "M/onnxruntime..openvino/cpu/fp32/bs1/t1"
    hashed = msgspec.structs.replace(one, model="M@4825c2d3")
    assert key_of(one, hashed) == one.key


def test_coordinator_keeps_off_the_cpus_of_a_pair():
    own = tuple(sorted(os.sched_getaffinity(0)))
    with stages.away_from(own[:1], own):
        assert os.sched_getaffinity(0) == set(own[1:] or own)
    assert os.sched_getaffinity(0) == set(own)
    with stages.away_from(own, own):
        assert os.sched_getaffinity(0) == set(own)


def test_padding_differs_from_process_to_process():
    subject = compare.simulated({})
    lengths = {len(stages._environ(subject)["BENCH_PADDING"]) for _ in range(20)}
    assert len(lengths) > 10
    assert max(lengths) <= 4096


# In words


def comparison(**fields):
    case = Case("M", "b", "cpu", "fp32", 1, 1)
    usual = {"key": case.key, "label_a": "old.onnx", "label_b": "new.onnx", "case_a": case, "case_b": case}
    known = {
        "outcome": "PASS",
        "ratio": 1.001,
        "low": 0.99,
        "high": 1.012,
        "pairs": 3,
        "margin": 0.005,
        "tolerance": 0.02,
    }
    return Comparison(**{**usual, **known, **fields})


@pytest.mark.parametrize(
    ("fields", "outcome", "said", "do"),
    [
        (
            {},
            "PASS",
            "B takes 0.1% more time than A; very likely between 1.0% less time and 1.2% more time: "
            "a slowdown of 2.0% is ruled out.",
            "",
        ),
        (
            {"outcome": "REGRESSION", "ratio": 1.03},
            "REGRESSION",
            "more than the 0.5% that don't matter",
            "look for what made B slower",
        ),
        ({"outcome": "IMPROVED", "ratio": 0.9}, "IMPROVED", "B takes 10.0% less time", ""),
        (
            {"outcome": "INCONCLUSIVE", "reason": "noise", "needed": 24, "pair_s": 5.0},
            "INCONCLUSIVE",
            "It can't be told",
            "--pairs 24 --budget 150s",
        ),
        ({"outcome": "INCONCLUSIVE", "reason": "noise", "needed": 999}, "INCONCLUSIVE", "noise", "about 999 pairs"),
        ({"outcome": "INCONCLUSIVE", "reason": "unfit: 3 of 3"}, "INCONCLUSIVE", "unfit", "bench doctor"),
        (
            {"outcome": "INCONCLUSIVE", "ratio": None, "low": None, "high": None, "reason": "none"},
            "INCONCLUSIVE",
            "told",
            "settle",
        ),
        (
            {"outcome": None, "status": "failed", "reason": "the outputs of A and B differ"},
            "FAILED",
            "outputs",
            "make B work",
        ),
        (
            {"outcome": None, "status": "unavailable", "reason": "no runtime"},
            "UNAVAILABLE",
            "no runtime",
            "leave the case out",
        ),
        (
            {"outcome": None, "status": "unsupported", "reason": "no int8"},
            "UNAVAILABLE",
            "no int8",
            "leave the case out",
        ),
    ],
)
def test_words(fields, outcome, said, do):
    found = wording.result(comparison(**fields))
    assert found.outcome == outcome
    assert said in found.says
    assert do in found.do
    assert bool(do) == bool(found.do)


def test_details_have_what_a_doubter_asks_for():
    found = wording.result(
        comparison(
            repeated=True,
            cpu_ratio=1.02,
            drops=("the machine was slower",),
            validity=(Validity("contended", "others"),),
            detectable=0.018,
            paired_median_a_ms=1.0,
            paired_median_b_ms=2.0,
        )
    )
    text = "\n".join(found.details)
    for part in (
        "measured twice",
        "CPU time",
        "dropped and measured anew: the machine was slower",
        "contended",
        "1.8%",
        "B 2.000 ms",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("found", "treatment", "code"),
    [
        ([{}], None, 0),
        ([{"outcome": "IMPROVED"}], None, 0),
        ([{}, {"outcome": "REGRESSION"}], None, 1),
        ([{}, {"outcome": None, "status": "failed", "reason": "x"}], None, 1),
        ([{}, {"outcome": "INCONCLUSIVE", "reason": "x"}], None, 4),
        ([{}, {"outcome": "INCONCLUSIVE", "reason": "x"}], "pass", 0),
        ([{}, {"outcome": "INCONCLUSIVE", "reason": "x"}], "fail", 1),
        (
            [{"outcome": "INCONCLUSIVE", "reason": "x"}, {"outcome": None, "status": "unavailable", "reason": "x"}],
            None,
            3,
        ),
        ([], None, 4),
    ],
)
def test_exit_codes(found, treatment, code):
    assert wording.gate([comparison(**fields) for fields in found]).exit_code(treatment) == code


def test_labels_are_said_once():
    gate = wording.gate([comparison(version_a="1.0"), comparison(version_a="1.0", outcome="IMPROVED")])
    assert isinstance(gate, Gate)
    assert gate.notes == ("A is old.onnx (1.0), B is new.onnx.",)


# On disk


def test_pairs_and_verdicts_survive_the_file(tmp_path):
    header = store.Header(run_id="0123abcd", started_at=store.now(), bench_version="1")
    record = play(Pretence(), 0, Sampling(5, 24, 0)).record
    verdict = comparison(run_id="0123abcd", same=Parity(0.0, 1.0, 1.0, 1e-4, "A", 8))
    with store.RunFile.create(tmp_path, header) as file:
        file.keep(record)
        file.keep(verdict)
    run = store.read(file.path)
    assert (run.pairs, run.comparisons, run.records, run.damaged) == ((record,), (verdict,), (), 0)
    kinds = [json.loads(line)["kind"] for line in file.path.read_text().splitlines()]
    assert kinds == ["header", "pair", "comparison"]


def test_a_torn_pair_loses_itself_only(tmp_path):
    header = store.Header(run_id="0123abcd", started_at=store.now(), bench_version="1")
    with store.RunFile.create(tmp_path, header) as file:
        for attempt in range(3):
            file.keep(play(Pretence(), attempt, Sampling(5, 24, 0)).record)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-100])
    run = store.read(file.path)
    assert (len(run.pairs), run.damaged) == (2, 1)


# Known truth, virtual clock


TRUTH = {"median_us": "25000", "sigma": "0.01", "process_sigma": "0.003"}
KINDS = {
    "plain": {},
    "drift": {"drift": "0.3"},
    "bimodal": {"mode_share": "0.3", "mode_shift": "0.15"},
    "heavy tails": {"tail_share": "0.05"},
    "noisy": {"sigma": "0.05"},
}
SHIFTS = (-0.10, -0.03, -0.01, 0.0, 0.02, 0.03, 0.05, 0.10)


def outcomes(kind, shift, seeds):
    """How many of the jobs ended in which verdict, with a process SD of 0.3 % as on the recorded quiet machine."""
    baseline = {**TRUTH, **KINDS[kind]}
    contender = {**baseline, "median_us": repr(25_000 * (1 + shift))}
    return Counter(simulate_pairs(baseline, contender, seed=seed).verdict().outcome for seed in seeds)


def as_promised(kind, found, shift):
    """Wrong verdicts at most 1 %; power 90 % at 2 %, 99 % from 3 % on; no slowdown is a PASS, or better if it is less.

    Bounds are three SDs of the binomial wide.
    """
    jobs, context = found.total(), (kind, shift, found)
    slack = 3 * math.sqrt(jobs * 0.01 * 0.99)
    wrong = {"REGRESSION"} if shift < 0 else {"REGRESSION", "IMPROVED"} if shift == 0 else {"PASS", "IMPROVED"}
    assert sum(found[outcome] for outcome in wrong) <= 0.01 * jobs + slack, context
    if shift > 0:
        assert found["REGRESSION"] >= (0.90 if shift < 0.03 else 0.99) * jobs - slack, context
    else:
        assert found["PASS"] + found["IMPROVED"] >= 0.97 * jobs - slack, context
    if shift <= -0.10:  # a PASS is right as well, and may come first where pairs scatter
        assert found["IMPROVED"] >= 0.8 * jobs, context


@pytest.mark.parametrize("kind", KINDS)
def test_known_shifts(kind):
    for shift in (-0.10, 0.0, 0.03):
        as_promised(kind, outcomes(kind, shift, range(20)), shift)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_five_thousand_known_jobs(kind):
    for shift in SHIFTS:
        found = outcomes(kind, shift, range(5000 // len(KINDS) // len(SHIFTS)))
        print(f"{kind}, {shift:+.0%}: {dict(found)}")
        as_promised(kind, found, shift)


def test_same_seed_same_verdict():
    one, other = (simulate_pairs(TRUTH, TRUTH, seed=7).verdict() for _ in range(2))
    assert one == other
    assert simulate_pairs(TRUTH, TRUTH, seed=8).verdict() != one


def test_injections():
    subject = compare.slower(compare.simulated({"median_us": "1000"}), Injection("spin", 0.03))
    assert float(subject.options["median_us"]) == pytest.approx(1030)
    real = msgspec.structs.replace(subject, case=Case("M", "paddle", "cpu", "fp32", 1, 1))
    assert compare.slower(real, Injection("sleep", 0.05)).inject == Injection("sleep", 0.05)
