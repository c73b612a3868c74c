"""A plan → records: prepares what its models need, then measures, repetition by repetition.

Repetitions are fresh processes and the outer loop, so that drift spreads over cases instead of hiding in one.
"""

import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench import admission, backends, cooling, stats, store
from bench.backends import Setup
from bench.errors import BUILD_AGAIN, GPU_LOST, BenchError, Stale, Unavailable, Unsupported, UsageError
from bench.formats import without_home
from bench.gpu.selection import Gpu
from bench.gpu.watch import Span, Watch, watching
from bench.jobs import AnyAnswer, Measure, Measured, Problem
from bench.plan import Plan
from bench.prepare import Workshop, thread_environment
from bench.schema import Artifact, Case, Measurement, Record, Settings, Status, Validity
from bench.store import Header, RunFile

EXPECTED_REPETITIONS = stats.LEAST_PROCESSES
# The machine changed its speed meanwhile, or the process never was warm: as much as makes a live pair unsound.
MOST_DRIFT = 0.05
SEMANTICS = {
    "compute": "one synchronous inference of the whole batch, inputs and outputs where the runtime wants them",
    "device": "one inference of the whole batch between two events on the device's stream, without copies",
    "end_to_end": "copy the inputs in, one synchronous inference of the whole batch, copy the outputs out",
}


class Progress(Protocol):
    """Whatever shows how far a run is."""

    def begin(self, steps: int) -> None: ...
    def step(self, what: str) -> None: ...
    def say(self, line: str) -> None: ...


class Engine(msgspec.Struct, frozen=True):
    """What a case is measured with. `path` and `reference` are absolute, which `artifact.path` is not."""

    artifact: Artifact
    path: str
    reference: str
    setup: Setup


#: of one case; repetitions take turns with them
Builds = list[Engine]


class Tally:
    """What is known of a case so far, from this session and those it resumes."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records = [record for record in store.latest(records) if record.status == "ok"]
        self.given_up = False

    def add(self, record: Record) -> None:
        if record.status == "ok":
            self.records.append(record)
        else:
            self.given_up = True

    @property
    def next_repetition(self) -> int:
        return max((record.repetition for record in self.records), default=-1) + 1

    def finished(self, settings: Settings) -> bool:
        """Whether another repetition is not wanted: asked number, precision or budget reached, or a failure."""
        medians = [stats.median(_main_samples(record)) for record in self.records]
        spent_s = sum(record.telemetry.get("spent_ns", 0) for record in self.records) / 1e9
        return self.given_up or bool(stats.stop_reason(medians, spent_s, settings))


def _main_samples(record: Record) -> tuple[int, ...]:
    assert record.measurement is not None
    return next(iter(record.measurement.intervals.values())).samples_ns


class Runner:
    """Runs a plan into a file of records, each on disk before the next repetition starts."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        options: Mapping[str, dict[str, str]],
        workshop: Workshop,
        file: RunFile,
        header: Header,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.options = options
        self.workshop = workshop
        self.file = file
        self.header = header
        self.progress = progress
        self.records: list[Record] = []
        self._troubles: dict[tuple[str, ...], BenchError] = {}

    def run(self, earlier: Iterable[Record] = ()) -> list[Record]:
        """Measures what `earlier` records of the run leave to do; returns this session's records.

        Raises UsageError, before it measures anything, where a model is not the one that they are of.
        """
        earlier = [record for record in earlier if record.run_id == self.header.run_id]
        self._leave_out({record.case for record in earlier})
        tallies = {case: Tally(record for record in earlier if record.case == case) for case in self.plan.cases}
        todo = [case for case in self.plan.cases if not tallies[case].finished(self.settings)]
        self.progress.begin(len(todo) * (self.settings.repetitions or EXPECTED_REPETITIONS))
        engines = {case: builds for case in todo if (builds := self._prepare(case, tallies[case].next_repetition))}
        for case, builds in engines.items():
            _refuse_another_model(case, builds[0].artifact, tallies[case].records)
        admission.wait(engines, self.progress.say)
        chance = random.Random(self.header.run_id) if self.plan.profile.fanless else None
        for case in rounds(list(engines), lambda case: tallies[case].finished(self.settings), chance):
            self._step(case, tallies[case], engines[case])
        if self.plan.profile.fanless:
            self._look_for_drift(tallies, engines)
        return self.records

    def _step(self, case: Case, tally: Tally, builds: Builds) -> Record:
        repetition = tally.next_repetition
        self.progress.step(f"{case.key}, repetition {repetition + 1}")
        record = self._save(self._measured(case, repetition, builds))
        tally.add(record)
        return record

    def _measured(self, case: Case, repetition: int, builds: Builds) -> Record:
        """A repetition with the engine whose turn it is; one that is stale is made again, once."""
        turn = repetition % len(builds)
        try:
            return self._repeat(case, repetition, builds[turn])
        except Stale as stale:
            why = str(stale).removesuffix(f"; {BUILD_AGAIN}")
            self.progress.say(f"{case.key}: the engine is made again, since {why}")
        try:
            self.workshop.discard(builds[turn].path)
            builds[turn] = self._engine(builds[turn].setup)
            return self._repeat(case, repetition, builds[turn])
        except BenchError as error:
            return self._without(case, repetition, error)

    def _without(self, case: Case, repetition: int, error: BenchError) -> Record:
        return self._record(case, repetition=repetition, status=status_of(error), reason=str(error), log=error.log)

    def _look_for_drift(self, tallies: Mapping[Case, Tally], engines: Mapping[Case, Builds]) -> None:
        """Measures the first case once more, last. Where its latency has changed, no record of the session is sound."""
        done = [record for record in self.records if record.status == "ok" and record.case in engines]
        if len(done) < 2:
            return
        case = done[0].case
        again = self._step(case, tallies[case], engines[case])
        if again.status != "ok":
            return
        if drift := cooling.drift(_main_samples(done[0]), _main_samples(again)):
            amended = {
                id(record): msgspec.structs.replace(record, validity=(*record.validity, drift))
                for record in (*done, again)
            }
            for record in amended.values():
                self.file.append(record)
            self.records = [amended.get(id(record), record) for record in self.records]

    def _save(self, record: Record) -> Record:
        self.file.append(record)
        self.records.append(record)
        return record

    def _leave_out(self, known: Collection[Case]) -> None:
        for left in self.plan.left_out:
            if left.case not in known:
                self._save(self._record(left.case, status=left.status, reason=left.reason))

    def _record(self, case: Case, **fields: Any) -> Record:
        started = {"started_at": store.now(), "repetition": 0, "settings": self.settings}
        return Record(
            run_id=self.header.run_id, case=case, environment_id=self.header.environment_id, **{**started, **fields}
        )

    def _prepare(self, case: Case, repetition: int) -> Builds:
        """The case's engines; none where there can't be one, which is then on record with its reason.

        `repetition` is the next one: the record must not take the place of one that went well.
        """
        setup = self._setup(case)
        kind = (case.model, case.backend, *backends.get(case.backend).variant(setup).values())
        try:
            if kind in self._troubles:
                raise self._troubles[kind]
            return list(map(self._engine, _builds(setup)))
        except UsageError:
            raise
        except BenchError as error:
            if not isinstance(error, BatchFixed):
                self._troubles[kind] = error
            self._save(self._without(case, repetition, error))
            return []

    def _setup(self, case: Case) -> Setup:
        card, options = self.plan.cards[case.model], self.options[case.backend]
        return Setup(case, self.plan.profile, options, card.input_shape, self.plan.found)

    def _engine(self, setup: Setup) -> Engine:
        case = setup.case
        card = self.plan.cards[case.model]
        fixed = self.workshop.fixed_batch(card)
        if fixed not in (None, case.batch_size):
            raise BatchFixed(f"{Path(card.file).name} takes batches of {fixed} only")
        setup = msgspec.structs.replace(setup, input_shape=self.workshop.input_shape(card))
        artifact = self.workshop.engine(card, setup)
        computes = backends.get(case.backend).computes
        return Engine(
            artifact=self.workshop.public(artifact),
            path=artifact.path,
            reference=self.workshop.reference(card).path if computes else "",
            setup=setup,
        )

    def _repeat(self, case: Case, repetition: int, engine: Engine) -> Record:
        """One repetition in a fresh worker, pinned to as many CPUs as it has threads, or for a GPU to those of its
        socket. Raises Stale where the engine is to be made again first."""
        started_at, start = store.now(), time.perf_counter_ns()
        options, asked = engine.setup.options, self.options[case.backend]
        near = tuple(self.plan.found.get("cpus", ()))
        cpus = choose_cpus(self.workshop.cpus, case.threads, repetition) if self.plan.profile.here else near
        backend = backends.get(case.backend)
        environ = thread_environment(case.threads) | backend.environment(options)
        job = Measure(setup=engine.setup, settings=self.settings, engine=engine.path, reference=engine.reference)
        with self._watching() as watch:
            answer = _unnamed(self.workshop.ask(job, environ, cpus), self.plan.found.get("serial", ""))
        if isinstance(answer, Problem) and answer.status == "stale":
            raise Stale(answer.reason, log=answer.log)
        record = self._record(
            case,
            status="ok",
            repetition=repetition,
            started_at=started_at,
            settings=msgspec.structs.replace(self.settings, options=backends.as_published(backend, asked)),
            artifact=engine.artifact,
            requested={
                "threads": case.threads,
                "precision": case.precision,
                "cpus": list(cpus),
                "environ": environ,
                **({"build": options["build"]} if backend.builds_with(options) > 1 else {}),
            },
            telemetry={"spent_ns": time.perf_counter_ns() - start},
        )
        record = _with_answer(record, answer)
        return _watched(record, watch) if watch else record

    def _watching(self) -> AbstractContextManager[Watch | None]:
        """A GPU is looked at from here, since the worker had better do nothing else meanwhile."""
        gpu = self.plan.found.get("gpu")
        return watching(msgspec.convert(gpu, Gpu)) if gpu else contextlib.nullcontext()


def _watched(record: Record, watch: Watch) -> Record:
    """With what was seen of the GPU, or, of a repetition that went wrong, whether it was lost."""
    if record.status != "ok":
        unsaid = watch.lost and GPU_LOST not in record.reason
        return msgspec.structs.replace(record, reason=f"{record.reason}; {GPU_LOST}" if unsaid else record.reason)
    copies = "end_to_end" in record.settings.intervals
    seen, reasons = watch.judge(Span(record.telemetry["windows_ns"], record.telemetry["pid"], copies))
    return msgspec.structs.replace(record, telemetry=record.telemetry | seen, validity=(*record.validity, *reasons))


def _builds(setup: Setup) -> Iterator[Setup]:
    """One for each engine that is made of the case, numbered from 1; a number that the user gave is the only one."""
    count = backends.get(setup.case.backend).builds_with(setup.options)
    if count == 1 or setup.options["build"] != "0":
        yield setup
        return
    for number in range(1, count + 1):
        yield msgspec.structs.replace(setup, options={**setup.options, "build": str(number)})


def rounds(cases: list[Case], finished: Callable[[Case], bool], chance: random.Random | None = None) -> Iterator[Case]:
    """Case after case, again and again until all are finished; against drift, every other round backwards or, with
    `chance`, each in another order."""
    backwards = False
    while todo := [case for case in cases if not finished(case)]:
        if chance:
            chance.shuffle(todo)
        yield from reversed(todo) if backwards else todo
        backwards = not backwards


def _refuse_another_model(case: Case, artifact: Artifact, records: Iterable[Record]) -> None:
    for record in records:
        if record.artifact and record.artifact.origin != artifact.origin:
            raise UsageError(
                f"{case.model} is not the model that run {record.run_id} started with",
                "its file, its weights or what exports it has changed",
                "start a new run, without --resume",
            )


class BatchFixed(Unsupported):
    """A user's file takes another batch size than the case's."""


def status_of(error: BenchError) -> Status:
    if isinstance(error, Unsupported):
        return "unsupported"
    return "unavailable" if isinstance(error, Unavailable) else "failed"


def choose_cpus(available: tuple[int, ...], threads: int, repetition: int) -> tuple[int, ...]:
    """As many CPUs as threads, other ones each repetition: cores of one machine differ in speed.

    CPU 0, where most interrupts go, is left out where there are more than two to choose from.
    """
    choice = [cpu for cpu in available if cpu != 0] if len(available) > max(2, threads) else list(available)
    start = repetition * threads % len(choice)
    return tuple(sorted((choice[start:] + choice[:start])[:threads]))


def _unnamed(answer: AnyAnswer, serial: str) -> AnyAnswer:
    """A failure without the user's home folder and a phone's serial number: records get published."""
    if not isinstance(answer, Problem):
        return answer
    reason, log = (
        text.replace(serial, "…") if serial else text for text in map(without_home, (answer.reason, answer.log))
    )
    return msgspec.structs.replace(answer, reason=reason, log=log)


def _with_answer(record: Record, answer: AnyAnswer) -> Record:
    if isinstance(answer, Problem):
        assert answer.status != "stale", "whose engine is made again"
        status: Status = "failed" if answer.status == "refused" else answer.status
        return msgspec.structs.replace(record, status=status, reason=answer.reason, log=answer.log)
    assert isinstance(answer, Measured), f"a measurement was answered by {type(answer).__name__}"
    assert record.artifact is not None
    built = record.artifact.made_by.get("took_ns") if record.artifact.engine else None
    return msgspec.structs.replace(
        record,
        measurement=msgspec.structs.replace(answer.measurement, build_ns=built),
        parity=answer.parity,
        effective=answer.effective,
        telemetry=record.telemetry | answer.telemetry,
        requested=record.requested | answer.requested,
        validity=(*answer.validity, *_deviations(record, answer), *_unsteady(answer.measurement)),
        semantics={name: (SEMANTICS | answer.semantics)[name] for name in answer.measurement.intervals},
    )


def _deviations(record: Record, answer: Measured) -> tuple[Validity, ...]:
    """Where the runtime did something else than it was asked to."""
    asked, effective = record.requested | answer.requested, answer.effective
    strange = backends.deviations(record.case, record.settings.options, effective)
    found = [Validity("misconfigured", deviation) for deviation in strange]
    if asked["cpus"] and (strays := sorted(set(effective.get("cpus", ())) - set(asked["cpus"]))):
        found.append(Validity("misconfigured", f"CPUs: {asked['cpus']} asked, threads may also run on {strays}"))
    if (cpus := effective.get("cpus")) and len(cpus) < record.case.threads:
        found.append(Validity("misconfigured", f"CPUs: {record.case.threads} threads may run on {cpus} alone"))
    return tuple(found)


def _unsteady(measurement: Measurement) -> Iterator[Validity]:
    for name, samples in measurement.intervals.items():
        if not samples.steady:
            yield Validity("no_steady_state", f"{name} was still changing when warm-up was given up")
        enough = len(samples.samples_ns) >= stats.STEADY_ITERATIONS
        if enough and abs(drift := stats.drift(samples.samples_ns)) > MOST_DRIFT:
            half = f"{name}: the second half of the samples is {abs(drift):.1%} {'slower' if drift > 0 else 'faster'}"
            yield Validity("drifting", f"{half} than the first (limit {MOST_DRIFT:.0%})")
