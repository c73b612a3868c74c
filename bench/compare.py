"""`bench compare A B`: live pairs until their difference, or its absence, is proved; then the verdict.

A *subject* is what one side runs, a *match* two of them, a *contest* the pairs of a match and what they say.
"""

import contextlib
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bench import __version__, admission, backends, calibration, catalog, environment, process, runner, store, verdict
from bench.artifacts import Cache, default_root
from bench.compared import Comparison, Manner, PairRecord, SideRecord
from bench.errors import BenchError, Failed
from bench.live_worker import Injection
from bench.pairs import Attempt, NoRoom, Sampling, Stage, play
from bench.prepare import Workshop
from bench.runner import Progress
from bench.schema import Case, Settings, Validity
from bench.stages import LiveStage, SimulatedStage
from bench.store import Header, RunFile
from bench.subjects import Asked, Match, Subject, Terms, matches
from bench.verdict import MOST_DROPPED, Rule, Shift, Verdict

# So many workers may be lost, or pairs dropped, before their share counts: one bad pair of two is no evidence.
MOST_LOST = 2
HOPELESS = 3
LEAST_PAIRS = min(verdict.LOOKS)


class Contest:
    """The pairs of one match, one after the other, until their verdict is known or the budget is spent.

    `keep` gets the record of each attempt as soon as there is one. `sd` is what `calibration` knows.
    """

    def __init__(
        self,
        stage: Stage,
        terms: Terms,
        sd: float = Rule.sd,
        keep: Callable[[PairRecord], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage = stage
        self.terms = terms
        self.manner: Manner = "live pairs"
        self.attempts: list[Attempt] = []
        self.rule = terms.rule(verdict.LONG_NS, sd)
        self._numbers = itertools.count()
        self._sd = sd
        self._keep = keep
        self._clock = clock
        self._started = clock()
        self._plan: Sampling | None = None

    @property
    def sound(self) -> int:
        return sum(attempt.pair.sound for attempt in self.attempts)

    @property
    def dropped(self) -> int:
        return len(self.attempts) - self.sound

    def run(self) -> Verdict:
        """Plays pairs until the verdict. Raises the BenchError of a runtime, and Failed where workers keep dying."""
        while True:
            self._add(self._attempt())
            known = self.verdict()
            if known.outcome != "INCONCLUSIVE" or not known.needed or self.sound >= self.rule.pairs or self._hopeless():
                return known
            if self._spent_s() + self.pair_s() > self.terms.budget_s:
                return self.cut_short()

    def _attempt(self) -> Attempt:
        try:
            return play(self.stage, next(self._numbers), self._plan, self.manner)
        except NoRoom:
            self._separate()
            return play(self.stage, next(self._numbers), self._plan, self.manner)

    def _separate(self) -> None:
        """From now on one process at a time. What live pairs there were is of another kind, and does not count."""
        self.manner = "alternating processes"
        self.attempts = []
        self._plan = None

    def _add(self, attempt: Attempt) -> None:
        self._keep(attempt.record)
        self.attempts.append(attempt)
        if attempt.sampling and not self._plan:
            self._plan = attempt.sampling
            self.rule = self.terms.rule(attempt.latency_ns, self._sd, self.manner)
        self._judge_losses([attempt for attempt in self.attempts if attempt.lost])

    def _judge_losses(self, lost: Sequence[Attempt]) -> None:
        """A worker lost now and then is bad luck; more of them are a failure, or tell of too little memory for two."""
        if len(lost) < MOST_LOST or len(lost) <= MOST_DROPPED * len(self.attempts):
            return
        if self.manner == "alternating processes" or not all(attempt.killed for attempt in lost):
            found = f"{len(lost)} of {len(self.attempts)} pairs ended like that"
            raise Failed(lost[-1].record.dropped, found, log=lost[-1].log)
        self._separate()

    def verdict(self) -> Verdict:
        """What the pairs so far say."""
        return self._decided(self.rule)

    def cut_short(self) -> Verdict:
        """The verdict where no further pair will be measured: the last look spends all the error that is left."""
        if self.sound < LEAST_PAIRS:
            return self.verdict()
        return self._decided(replace(self.rule, pairs=min(self.sound, self.rule.pairs)))

    def _decided(self, rule: Rule) -> Verdict:
        return self._explained(verdict.decide([attempt.pair for attempt in self.attempts], rule))

    def _explained(self, known: Verdict) -> Verdict:
        """With the reasons for which pairs were dropped, where that is why there is no verdict."""
        if known.outcome != "INCONCLUSIVE" or self.dropped <= MOST_DROPPED * len(self.attempts):
            return known
        return replace(
            known, reason=f"unfit: {self.dropped} of {len(self.attempts)} pairs were dropped: {self.drops()[-1]}"
        )

    def drops(self) -> list[str]:
        return [attempt.record.dropped for attempt in self.attempts if not attempt.pair.sound]

    def _hopeless(self) -> bool:
        return self.dropped >= HOPELESS and self.dropped > MOST_DROPPED * len(self.attempts)

    def _spent_s(self) -> float:
        return self._clock() - self._started

    def pair_s(self) -> float:
        """What a pair takes, dropped ones included; 0 as long as there is none."""
        if not self.attempts:
            return 0.0
        return statistics.median(attempt.record.spent_s for attempt in self.attempts)


# What a contest comes to


def comparison(match: Match, contest: Contest, known: Verdict, spent_s: float) -> Comparison:
    """The verdict with everything that a reader may want to know about it."""
    records = [attempt.record for attempt in contest.attempts if attempt.pair.sound]
    sides = [[side for record in records if (side := getattr(record, name))] for name in ("a", "b")]
    blank = _blank(match, spent_s)
    medians = [_paired_ms(side) for side in sides]
    last = [side[-1] if side else None for side in sides]
    return msgspec.structs.replace(
        blank,
        outcome=known.outcome,
        reason=known.reason,
        ratio=known.ratio if known.pairs else None,
        low=known.low if known.pairs else None,
        high=_finite(known.high),
        cpu_ratio=known.cpu_ratio,
        margin=contest.rule.margin,
        tolerance=contest.rule.tolerance,
        error=contest.rule.error,
        sampling=contest.manner,
        statistic=contest.rule.statistic,
        sd=contest.rule.sd,
        pairs=contest.sound,
        dropped=contest.dropped,
        drops=tuple(contest.drops()),
        detectable=_finite(known.detectable),
        needed=known.needed,
        paired_median_a_ms=medians[0],
        paired_median_b_ms=medians[1],
        pair_s=round(contest.pair_s(), 3),
        version_a=last[0].version if last[0] else "",
        version_b=last[1].version if last[1] else "",
        parity_a=last[0].parity if last[0] else None,
        parity_b=last[1].parity if last[1] else None,
        same=records[-1].same if records else None,
        validity=_validity(records),
        evidence=_evidence(records),
    )


def _blank(match: Match, spent_s: float) -> Comparison:
    """What is known of a match before, or without, a verdict."""
    return Comparison(
        key=match.key,
        label_a=match.label_a,
        label_b=match.label_b,
        case_a=match.case_a,
        case_b=match.case_b,
        spent_s=round(spent_s, 1),
        settings_a=match.a.options if match.a else {},
        settings_b=match.b.options if match.b else {},
        artifact_a=match.a.artifact if match.a else None,
        artifact_b=match.b.artifact if match.b else None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _paired_ms(side: Sequence[SideRecord]) -> float | None:
    return statistics.median(each.median_ns for each in side) / 1e6 if side else None


def _validity(records: Sequence[PairRecord]) -> tuple[Validity, ...]:
    """Each reason once, with the number of pairs that it holds for and the evidence of the last of them."""
    found = {each.reason: each.evidence for record in records for each in record.validity}
    counts = Counter(each.reason for record in records for each in record.validity)
    return tuple(
        Validity(reason, f"in {counts[reason]} of {len(records)} pairs; in the last of them {evidence}")
        for reason, evidence in found.items()
    )


FACTS = ("others_cores", "stolen_cores", "steal_share", "pressure_share", "frequency_mean_khz", "clocksource")


def _evidence(records: Sequence[PairRecord]) -> dict[str, Any]:
    """What else the machine did meanwhile: medians over the pairs, shares of 1."""
    found: dict[str, Any] = {}
    for name in FACTS:
        values = [record.facts[name] for record in records if name in record.facts]
        if values:
            found[name] = values[-1] if isinstance(values[-1], str) else statistics.median(values)
    for side, other in (("a", "b"), ("b", "a")):
        shares = [share for record in records if (share := idle_share(record, side, other)) is not None]
        if shares:
            found[f"idle_cpu_share_{side}"] = round(statistics.median(shares), 4)
    guards = [abs(record.guard) for record in records if record.guard is not None]
    if guards:
        found["probe_difference_max"] = round(max(guards), 4)
    found["cpus"] = sorted({cpu for record in records for cpu in record.cpus})
    return found


def idle_share(record: PairRecord, side: str, other: str) -> float | None:
    """How much of a CPU the side took while the other was timed; None where that is not known."""
    idle, timed = getattr(record, side), getattr(record, other)
    if idle.idle_cpu_ns is None:
        return None
    return float(idle.idle_cpu_ns / max(1, sum(timed.block_median_ns) * record.iterations))


def settle(match: Match, contest: Contest, first: Verdict | None = None) -> tuple[Comparison, Verdict | None]:
    """Plays a contest to its end; what a runtime or a worker raises is a result, too.

    `first` is the verdict that fresh pairs are to confirm. Interrupted, it raises with what is known so far.
    """
    start = time.monotonic()
    try:
        known = contest.run()
    except BenchError as error:
        status = runner.status_of(error)
        blank = _blank(match, time.monotonic() - start)
        return msgspec.structs.replace(blank, status=status, reason=str(error), log=error.log), None
    except KeyboardInterrupt:
        raise Interrupted(_interim(match, contest, time.monotonic() - start)) from None
    final = verdict.confirmed(first, known) if first else known
    found = comparison(match, contest, final, time.monotonic() - start)
    return msgspec.structs.replace(found, repeated=bool(first) and final.outcome == "REGRESSION"), final


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what the pairs until then say."""

    def __init__(self, known: Comparison) -> None:
        super().__init__()
        self.known = known


def _interim(match: Match, contest: Contest, spent_s: float) -> Comparison:
    if not contest.attempts:
        blank = _blank(match, spent_s)
        return msgspec.structs.replace(
            blank, outcome="INCONCLUSIVE", reason="interrupted before the first pair was done"
        )
    known = contest.verdict()
    reason = f"interrupted after {contest.sound} {'pair' if contest.sound == 1 else 'pairs'}"
    return comparison(match, contest, replace(known, outcome="INCONCLUSIVE", reason=reason), spent_s)


# Several matches


class Suite:
    """All matches of a command: each to its verdict, a REGRESSION among several twice, records on disk meanwhile.

    `comparisons` has what is known at any time, also after an interruption; `shift` is what all cases have in common.
    """

    def __init__(
        self, found: Sequence[Match], terms: Terms, workshop: Workshop, machine_class: str, file: RunFile, run_id: str
    ) -> None:
        self.matches = found
        self.comparisons: dict[str, Comparison] = {}
        self.shift: Shift | None = None
        self.path = file.path
        self._terms = terms
        self._workshop = workshop
        self._calibrated = calibration.load(workshop.cache.root, machine_class)
        self._file = file
        self._run_id = run_id
        self._verdicts: dict[str, Verdict] = {}

    def run(self, progress: Progress) -> None:
        """Measures all; what is known is on disk afterwards, also after an interruption."""
        progress.begin(len(self.matches) * EXPECTED_PAIRS)
        admission.wait((match.case_a for match in self.matches if match.a), progress.say)
        try:
            with process.job_folder(self._workshop.cache.root / "tmp") as folder:
                self._measure(folder, progress)
            self.shift = verdict.global_shift(self._verdicts.values())
        finally:
            for found in self.comparisons.values():
                self._file.keep(msgspec.structs.replace(found, run_id=self._run_id))

    def _measure(self, folder: Path, progress: Progress) -> None:
        for match in self.matches:
            self._settle(match, folder, progress)
        # Of one case, the error is what was agreed; of many, each suspect must repeat.
        suspects = set(verdict.suspects(self._verdicts)) if len(self.matches) > 1 else set()
        for match in self.matches:
            if match.key in suspects:
                self._settle(match, folder, progress, first=self._verdicts[match.key])

    def _settle(self, match: Match, folder: Path, progress: Progress, first: Verdict | None = None) -> None:
        if not (match.a and match.b):
            blank = _blank(match, 0.0)
            self.comparisons[match.key] = msgspec.structs.replace(
                blank, status=match.status, reason=match.reason, log=match.log
            )
            return
        before = self.comparisons.get(match.key)
        stage = LiveStage(
            match.key, match.a, match.b, self._terms, self._workshop.cpus, folder, number=2 if first else 1
        )
        contest = Contest(stage, self._terms, self._sd(match), self._kept(match, progress))
        try:
            found, final = settle(match, contest, first)
        except Interrupted as error:
            self.comparisons[match.key] = error.known
            raise
        if final:
            self._verdicts[match.key] = final
        spent_s = found.spent_s + (before.spent_s if before else 0.0)
        self.comparisons[match.key] = msgspec.structs.replace(found, spent_s=round(spent_s, 1))

    def _sd(self, match: Match) -> float:
        return calibration.sd(self._calibrated, match.case_a.threads, match.case_a.backend, match.case_b.backend)

    def _kept(self, match: Match, progress: Progress) -> Callable[[PairRecord], None]:
        def keep(record: PairRecord) -> None:
            self._file.keep(msgspec.structs.replace(record, run_id=self._run_id))
            said = f"dropped, {record.dropped}" if record.dropped else f"{math.expm1(record.fastest or 0.0):+.1%}"
            progress.step(f"{match.key}, pair {record.attempt + 1}: {said}")

        return keep


EXPECTED_PAIRS = 4


@contextlib.contextmanager
def prepared(asked: Asked, results: Path, command: tuple[str, ...], progress: Progress) -> Iterator[Suite]:
    """A suite ready to run, its file of records open. Raises UsageError and Unavailable before anything is written."""
    asked.terms.rule(verdict.LONG_NS)  # refuses margins that contradict each other
    description = environment.describe()
    settings = Settings(
        weights=asked.weights, timeout_s=asked.terms.timeout_s, memory_limit_bytes=asked.terms.memory_limit_bytes
    )
    workshop = Workshop(Cache(default_root()), settings, environment.cpus_available(), progress.say)
    found = matches(asked, description, workshop)
    header = Header(
        run_id=store.new_run_id(),
        started_at=store.now(),
        bench_version=__version__,
        command=command,
        commit=environment.git_commit(),
        environment_id=environment.environment_id(description),
        environment=description,
    )
    with RunFile.create(results / asked.device, header) as file:
        yield Suite(found, asked.terms, workshop, environment.machine_class(description), file, header.run_id)


def compare(asked: Asked, results: Path, command: tuple[str, ...], progress: Progress) -> Suite:
    """The whole of `bench compare`, for callers that need nothing in between."""
    with prepared(asked, results, command, progress) as suite:
        suite.run(progress)
    return suite


# Without processes


def simulated(options: Mapping[str, str], label: str = "simulated") -> Subject:
    """A subject of the backend whose latencies come from a known distribution; options as of `bench list backends`."""
    case = Case(model="simulated", backend="simulated", device="cpu", precision="fp32", batch_size=1, threads=1)
    settled = backends.settle(backends.get("simulated"), options)
    return Subject(label=label, case=case, device=catalog.profile("cpu"), options=settled, input_shape=())


def slower(subject: Subject, inject: Injection) -> Subject:
    """The subject, slowed down on purpose; on a virtual clock by its known median."""
    if backends.get(subject.case.backend).computes:
        return msgspec.structs.replace(subject, inject=inject)
    median_us = float(subject.options["median_us"]) * (1 + inject.share)
    return msgspec.structs.replace(subject, options={**subject.options, "median_us": repr(median_us)})


def simulate_pairs(
    baseline: Mapping[str, str], contender: Mapping[str, str], terms: Terms | None = None, seed: int = 0
) -> Contest:
    """A contest of two simulated subjects, finished: the real code on a virtual clock. Same seed, same verdict."""
    stage = SimulatedStage(simulated(baseline), simulated(contender), seed)
    contest = Contest(stage, terms or Terms(), clock=lambda: 0.0)
    contest.run()
    return contest
