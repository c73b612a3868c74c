"""A plan → records: in which order, how often, and what each of them holds."""

import itertools
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import backends, cli, environment, runner, session, stats, store
from bench.catalog import HardwareProfile, ModelCard
from bench.errors import BUILD_AGAIN, BenchError, Failed, Unavailable, Unsupported, UsageError
from bench.jobs import Measured, Problem
from bench.plan import LeftOut, Plan, Request
from bench.progress import Quiet
from bench.runner import Runner, Tally, choose_cpus, rounds
from bench.schema import Artifact, Case, Measurement, Record, Samples, Settings, Validity
from bench.store import Header, RunFile

PROFILE = HardwareProfile(
    name="cpu",
    label="a CPU",
    kind="cpu",
    backends=("simulated",),
    precisions=("fp32",),
    batch_sizes=(1,),
    threads=(1,),
)
HEADER = Header(run_id="a", started_at="2026-11-22T00:00:00Z", bench_version="0", environment_id="e")
ENGINE = Artifact(format="onnx", path="model.onnx", sha256="1", size_bytes=1)


def case(model, **changes):
    return msgspec.structs.replace(Case(model, "simulated", "cpu", "fp32", 1, 1), **changes)


def measured(median_ns=1000, effective=None, steady=True, intervals=("compute",)):
    samples = Samples(samples_ns=(median_ns,) * 3, steady=steady)
    return Measured(
        measurement=Measurement(intervals=dict.fromkeys(intervals, samples), load_ns=1, first_ns=2),
        parity=None,
        effective=effective or {},
        telemetry={"wall_ns": 5},
        validity=(),
    )


def done(number, median_ns=1000, spent_s=0.0, **changes):
    """A repetition that went well."""
    record = Record(
        run_id="a",
        case=case("A"),
        repetition=number,
        started_at="2026-11-22T00:00:00Z",
        status="ok",
        measurement=measured(median_ns).measurement,
        telemetry={"spent_ns": round(spent_s * 1e9)},
        artifact=ENGINE,
    )
    return msgspec.structs.replace(record, **changes)


class Workshop:
    """Answers as it is told; an exception among the answers or engines is raised."""

    cpus = (0, 1, 2, 3)

    def __init__(self, answers=None, engines=None, fixed_batch=None):
        self.answers = answers or {}
        self.engines = engines or {}
        self.batch = fixed_batch
        self.asked = []
        self.prepared = []
        self.discarded = []

    def ask(self, job, environ, cpus):
        key = job.setup.case.model
        number = sum(model == key for model, *_ in self.asked)
        self.asked.append((key, cpus, environ, job))
        given = self.answers.get(key, measured())
        answer = given[number] if isinstance(given, list) else given
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def discard(self, engine):
        self.discarded.append(engine)

    def engine(self, card, setup):
        self.prepared.append(card.name)
        engine = self.engines.get(card.name, ENGINE)
        if isinstance(engine, BaseException):
            raise engine
        return engine

    def fixed_batch(self, card):
        return self.batch

    def input_shape(self, card):
        return (3, 8, 8)

    def public(self, artifact):
        return artifact

    def reference(self, card):
        return Artifact(format="reference", path="reference.npz", sha256="2", size_bytes=2)


class Steps(Quiet):
    def __init__(self):
        self.steps, self.lines = 0, []

    def begin(self, steps):
        self.steps = steps

    def step(self, what):
        self.lines.append(what)

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def execute(tmp_path):
    """Runs cases with a workshop and returns the runner; records are in `runner.file.path`."""

    def run(cases, workshop, earlier=(), left_out=(), progress=None, options=None, **settings):
        names = {case.model for case in cases}
        cards = {name: ModelCard(name, "F", file=f"/{name}.onnx", format="onnx") for name in names}
        settled = {"simulated": backends.settle(backends.get("simulated"), options or {})}
        planned = Plan(profile=PROFILE, cards=cards, cases=tuple(cases), left_out=tuple(left_out))
        with RunFile.create(tmp_path, HEADER) as file:
            running = Runner(planned, Settings(**settings), settled, workshop, file, HEADER, progress or Quiet())
            try:
                running.run(earlier)
            finally:
                assert store.read(file.path).records == tuple(running.records), "what is known is on the disk"
        return running

    return run


def outcome(records):
    return [(record.case.model, record.repetition, record.status) for record in records]


# The order


@pytest.mark.parametrize("count", range(1, 5))
def test_repetitions_are_the_outer_loop_and_alternate(execute, count):
    running = execute([case("A"), case("B"), case("C")], Workshop(), repetitions=count)
    forth = ["A", "B", "C"]
    expected = itertools.chain.from_iterable(forth[:: -1 if number % 2 else 1] for number in range(count))
    assert [record.case.model for record in running.records] == list(expected)
    assert [record.repetition for record in running.records] == [number for number in range(count) for _ in forth]


def test_cases_that_are_finished_leave_the_rounds():
    wanted = {"A": 1, "B": 3, "C": 2}
    seen = []

    def finished(name):
        return seen.count(name) >= wanted[name]

    for name in rounds(["A", "B", "C"], finished):
        seen += [name]
    assert seen == ["A", "B", "C", "C", "B", "B"]


def test_no_cases_are_no_rounds():
    assert list(rounds([], pytest.fail)) == []


def test_every_step_is_shown_before_it_is_done(execute):
    steps = Steps()
    execute([case("A"), case("B")], Workshop(), progress=steps, repetitions=2)
    assert steps.steps == 4
    forth_and_back = (("A", 1), ("B", 1), ("B", 2), ("A", 2))
    assert steps.lines == [f"{case(name).key}, repetition {number}" for name, number in forth_and_back]


# When a case is finished


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_number_asked_is_the_number_measured(count):
    settings = Settings(repetitions=count, budget_s=1e-9, precision_target=1.0)
    for number in range(count):
        assert not Tally(done(k, spent_s=100) for k in range(number)).finished(settings)
    assert Tally(done(k) for k in range(count)).finished(settings)


def test_fewer_than_the_least_are_never_enough():
    settings = Settings(budget_s=1e-9, precision_target=1e9)
    for number in range(stats.LEAST_REPETITIONS):
        assert not Tally(done(k, spent_s=100) for k in range(number)).finished(settings)


def test_the_budget_ends_a_case_that_has_the_least():
    records = [done(k, median_ns=1000 * (k + 1), spent_s=2.5) for k in range(4)]
    assert not Tally(records[:3]).finished(Settings(budget_s=7.6))
    assert Tally(records[:3]).finished(Settings(budget_s=7.5))
    assert not Tally(records).finished(Settings(budget_s=10.1))
    assert Tally(records).finished(Settings(budget_s=10.0))


def test_precision_ends_a_case_from_five_processes_on():
    settings = Settings(budget_s=1e9, precision_target=0.01)
    assert not Tally(done(k) for k in range(4)).finished(settings)
    assert Tally(done(k) for k in range(5)).finished(settings)
    assert not Tally(done(k, median_ns=1000 + 30 * k) for k in range(5)).finished(settings)
    wide = Settings(budget_s=1e9, precision_target=0.1)
    assert Tally(done(k, median_ns=1000 + 30 * k) for k in range(5)).finished(wide)


def test_the_most_are_enough():
    settings = Settings(budget_s=1e9, precision_target=1e-9)
    scattered = [done(k, median_ns=1000 * (k + 1)) for k in range(stats.MOST_REPETITIONS)]
    assert not Tally(scattered[:-1]).finished(settings)
    assert Tally(scattered).finished(settings)


@pytest.mark.parametrize("status", ["failed", "unsupported", "unavailable"])
def test_a_failure_ends_a_case(status):
    tally = Tally([done(0)])
    tally.add(done(1, status=status, measurement=None))
    assert tally.finished(Settings(repetitions=9))
    assert tally.finished(Settings())


def test_an_earlier_failure_does_not():
    tally = Tally([done(0), done(1, status="failed", measurement=None)])
    assert not tally.finished(Settings(repetitions=2))
    assert tally.next_repetition == 1


def test_a_repetition_that_is_there_twice_counts_once():
    """As when files were copied together that share records."""
    tally = Tally([done(0), done(1), done(0), done(1)])
    assert not tally.finished(Settings(repetitions=3))
    assert tally.next_repetition == 2


def test_a_case_stops_by_itself(execute):
    running = execute([case("A"), case("B")], Workshop(), budget_s=1e9)
    assert len(running.records) == 2 * 5


# Failures


@pytest.mark.parametrize(
    ("status", "recorded"),
    [("failed", "failed"), ("unsupported", "unsupported"), ("unavailable", "unavailable"), ("refused", "failed")],
)
def test_a_problem_goes_on_record_once_and_the_run_goes_on(execute, status, recorded):
    problem = Problem(status=status, reason="the worker died of SIGSEGV", log="its last words")
    running = execute([case("A"), case("B")], Workshop({"A": problem}), repetitions=2)
    assert outcome(running.records) == [("A", 0, recorded), ("B", 0, "ok"), ("B", 1, "ok")]
    failed = running.records[0]
    assert (failed.reason, failed.log) == ("the worker died of SIGSEGV", "its last words")
    assert failed.measurement is None
    assert failed.requested["threads"] == 1
    assert failed.artifact == ENGINE


def test_a_case_that_fails_late_keeps_what_it_has(execute):
    answers = {"A": [measured(), measured(), Problem(status="failed", reason="x")]}
    running = execute([case("A"), case("B")], Workshop(answers), repetitions=4)
    assert [entry for entry in outcome(running.records) if entry[0] == "A"] == [
        ("A", 0, "ok"),
        ("A", 1, "ok"),
        ("A", 2, "failed"),
    ]
    assert len(running.records) == 3 + 4


@pytest.mark.parametrize(
    ("error", "status"),
    [(Failed("f", log="l"), "failed"), (Unsupported("u"), "unsupported"), (Unavailable("v"), "unavailable")],
    ids=["failed", "unsupported", "unavailable"],
)
def test_what_cannot_be_prepared_is_on_record_for_each_case(execute, error, status):
    workshop = Workshop(engines={"A": error})
    cases = [case("A"), case("A", batch_size=4), case("B")]
    running = execute(cases, workshop, repetitions=1)
    assert outcome(running.records) == [("A", 0, status), ("A", 0, status), ("B", 0, "ok")]
    assert [record.case for record in running.records] == cases
    assert {record.reason for record in running.records[:2]} == {str(error)}
    assert {record.log for record in running.records[:2]} == {error.log}
    assert workshop.prepared == ["A", "B"], "what cannot be made is tried once"


def test_a_file_of_a_fixed_batch_is_measured_at_that_batch(execute):
    running = execute([case("A"), case("A", batch_size=4)], Workshop(fixed_batch=4), repetitions=1)
    assert outcome(running.records) == [("A", 0, "unsupported"), ("A", 0, "ok")]
    assert running.records[0].reason == "A.onnx takes batches of 4 only"
    assert running.records[1].case.batch_size == 4


@pytest.mark.parametrize("error", [UsageError("gone"), KeyboardInterrupt()], ids=["usage", "interrupt"])
def test_unusable_input_and_interruptions_end_the_run(execute, error):
    with pytest.raises(type(error)):
        execute([case("A")], Workshop(engines={"A": error}))


def test_an_interruption_keeps_what_is_finished(execute, tmp_path):
    workshop = Workshop({"B": [measured(), KeyboardInterrupt()]})
    with pytest.raises(KeyboardInterrupt):
        execute([case("A"), case("B")], workshop, repetitions=3)
    (found,) = store.read_all(tmp_path)
    assert outcome(found.records) == [("A", 0, "ok"), ("B", 0, "ok")]
    assert found.damaged == 0


def test_a_full_disk_ends_the_run(execute, monkeypatch):
    real = RunFile.append

    def append(file, record):
        if record.repetition == 1:
            raise BenchError("cannot save a record")
        real(file, record)

    monkeypatch.setattr(RunFile, "append", append)
    workshop = Workshop()
    with pytest.raises(BenchError, match="cannot save a record"):
        execute([case("A"), case("B")], workshop, repetitions=3)
    assert len(workshop.asked) == 3


# Left out


def test_what_is_left_out_is_on_record(execute):
    left = [LeftOut(case("X"), "unsupported", "can't be"), LeftOut(case("Y"), "unavailable", "not here")]
    running = execute([case("A")], Workshop(), left_out=left, repetitions=1)
    assert outcome(running.records) == [("X", 0, "unsupported"), ("Y", 0, "unavailable"), ("A", 0, "ok")]
    assert [record.reason for record in running.records] == ["can't be", "not here", ""]


def test_what_is_left_out_is_on_record_once(execute):
    left = [LeftOut(case("X"), "unsupported", "can't be")]
    earlier = [done(0, case=case("X"), status="unsupported", measurement=None, artifact=None)]
    assert execute([], Workshop(), earlier, left).records == []


# Resuming


def test_only_what_is_missing_is_measured(execute):
    earlier = [done(0), done(1), done(0, case=case("B"))]
    steps = Steps()
    running = execute([case("A"), case("B"), case("C")], Workshop(), earlier, repetitions=2, progress=steps)
    assert outcome(running.records) == [("B", 1, "ok"), ("C", 0, "ok"), ("C", 1, "ok")]
    assert steps.steps == 4


def test_nothing_is_prepared_where_nothing_is_missing(execute):
    workshop = Workshop()
    assert execute([case("A")], workshop, [done(0), done(1)], repetitions=2).records == []
    assert workshop.prepared == workshop.asked == []


@pytest.mark.parametrize("status", ["failed", "unsupported", "unavailable"])
def test_what_went_wrong_is_tried_again(execute, status):
    earlier = [done(0), done(1, status=status, measurement=None)]
    assert outcome(execute([case("A")], Workshop(), earlier, repetitions=3).records) == [("A", 1, "ok"), ("A", 2, "ok")]


def test_records_of_other_runs_are_not_ours(execute):
    """As in files that were copied together."""
    earlier = [done(number, run_id="b") for number in range(3)]
    assert len(execute([case("A")], Workshop(), earlier, repetitions=3).records) == 3


def test_a_later_failure_does_not_take_the_place_of_a_measurement(execute):
    earlier = [done(0), done(1)]
    running = execute([case("A")], Workshop(engines={"A": Failed("no room")}), earlier, repetitions=3)
    assert outcome(running.records) == [("A", 2, "failed")]
    latest = store.latest([*earlier, *running.records])
    assert outcome(latest) == [("A", 0, "ok"), ("A", 1, "ok"), ("A", 2, "failed")]


@pytest.mark.parametrize(
    ("engine", "same"),
    [
        (ENGINE, True),
        (msgspec.structs.replace(ENGINE, path="elsewhere/model.onnx"), True),
        (msgspec.structs.replace(ENGINE, sha256="3"), False),
        (msgspec.structs.replace(ENGINE, sha256="3", made_by={"source": "1"}), True),
        (msgspec.structs.replace(ENGINE, made_by={"source": "4"}), False),
    ],
    ids=["same", "moved", "another file", "built anew from the same", "built from another"],
)
def test_two_models_do_not_share_a_run(execute, engine, same):
    workshop = Workshop(engines={"A": engine})
    if same:
        assert len(execute([case("A")], workshop, [done(0)], repetitions=2).records) == 1
        return
    with pytest.raises(UsageError, match=r"^A is not the model that run a started with; .*; start a new run"):
        execute([case("A"), case("B")], workshop, [done(0)], repetitions=2)
    assert workshop.asked == []


# Before the first measurement


def test_the_machine_is_given_time_to_calm_down_once_when_everything_is_prepared(execute, monkeypatch):
    waited, workshop = [], Workshop()

    def wait(cases, say):
        waited.append((list(cases), [*workshop.prepared], [*workshop.asked]))

    monkeypatch.setattr(runner.admission, "wait", wait)
    execute([case("A"), case("B")], workshop, repetitions=3)
    assert waited == [([case("A"), case("B")], ["A", "B"], [])]


# What a worker is given


def test_a_worker_gets_its_threads_and_its_cpus(execute):
    workshop = Workshop()
    execute([case("A", threads=2)], workshop, repetitions=3)
    cpus = [cpus for _, cpus, *_ in workshop.asked]
    assert all(len(chosen) == 2 and 0 not in chosen for chosen in cpus)
    assert len(set(cpus)) > 1
    for _, _, environ, job in workshop.asked:
        assert {environ[name] for name in environ if name.endswith("_NUM_THREADS")} == {"2"}
        assert job.setup.case.threads == 2
        assert job.engine == "model.onnx"
        assert job.reference == "", "a simulation computes nothing that could be compared"


CPUS = st.sets(st.integers(0, 70), min_size=1, max_size=24).map(lambda cpus: tuple(sorted(cpus)))


@settings(deadline=None)
@given(available=CPUS, data=st.data(), repetition=st.integers(0, 40))
def test_cpus_are_as_many_as_threads_and_among_those_available(available, data, repetition):
    threads = data.draw(st.integers(1, len(available)))
    chosen = choose_cpus(available, threads, repetition)
    assert len(chosen) == len(set(chosen)) == threads
    assert set(chosen) <= set(available)
    assert list(chosen) == sorted(chosen)
    assert chosen == choose_cpus(available, threads, repetition)
    if len(available) > max(2, threads):
        assert 0 not in chosen


@settings(deadline=None)
@given(available=CPUS, data=st.data())
def test_cpus_rotate_until_all_have_had_their_turn(available, data):
    threads = data.draw(st.integers(1, len(available)))
    choice = set(available) - ({0} if len(available) > max(2, threads) else set())
    turns = [choose_cpus(available, threads, number) for number in range(len(choice))]
    assert set().union(*turns) == choice
    if len(choice) > threads:
        assert all(one != other for one, other in itertools.pairwise(turns))


# What a record holds


def asked(options=None):
    """A record of what two threads on two CPUs were asked for."""
    return Record(
        run_id="r",
        case=case("A", threads=2),
        repetition=0,
        started_at="",
        status="ok",
        requested={"threads": 2, "precision": "fp32", "cpus": [0, 1]},
        settings=Settings(options=options or {}),
    )


def test_a_difference_between_asked_and_effective_is_said():
    def deviations(**effective):
        return runner._deviations(
            asked({"onednn": "on", "pinning": "off", "hint": "none"}), measured(effective=effective)
        )

    assert deviations(threads=2, threads_used=2, precision="fp32", cpus=[0, 1], onednn=True, pinning=False) == ()
    assert deviations(providers=["CPU"], onednn="unknown", hint="latency") == ()
    assert deviations(onednn=False, pinning=True, cpus=[0, 1, 3]) == (
        Validity("misconfigured", "onednn: on asked, off in effect"),
        Validity("misconfigured", "pinning: off asked, on in effect"),
        Validity("misconfigured", "CPUs: [0, 1] asked, threads may also run on [3]"),
    )
    assert deviations(threads=1, threads_used=3, precision="bf16") == (
        Validity("misconfigured", "threads: 2 asked, 1 in effect"),
        Validity("misconfigured", "threads: 2 asked, 3 in effect"),
        Validity("misconfigured", "precision: fp32 asked, bf16 in effect"),
    )


def test_an_unsteady_interval_is_said():
    answer = measured(steady=False, intervals=("compute", "end_to_end"))
    assert list(runner._unsteady(answer.measurement)) == [
        Validity("no_steady_state", "compute was still changing when warm-up was given up"),
        Validity("no_steady_state", "end_to_end was still changing when warm-up was given up"),
    ]


@pytest.mark.parametrize(
    ("later", "evidence"),
    [
        (1040, []),
        (1060, ["compute: the second half of the samples is 6.0% slower than the first (limit 5%)"]),
        (940, ["compute: the second half of the samples is 6.0% faster than the first (limit 5%)"]),
    ],
)
def test_a_process_that_changes_its_speed_is_said_to_drift(later, evidence):
    samples = {"compute": Samples(samples_ns=(1000,) * 5 + (later,) * 5)}
    found = list(runner._unsteady(Measurement(intervals=samples, load_ns=1, first_ns=2)))
    assert found == [Validity("drifting", words) for words in evidence]


def test_a_few_samples_cannot_drift():
    samples = {"compute": Samples(samples_ns=(1000,) * 4 + (2000,) * 5)}
    assert list(runner._unsteady(Measurement(intervals=samples, load_ns=1, first_ns=2))) == []


def test_fewer_cpus_than_threads_are_said():
    assert runner._deviations(asked(), measured(effective={"cpus": [1]})) == (
        Validity("misconfigured", "CPUs: 2 threads may run on [1] alone"),
    )
    assert runner._deviations(asked(), measured(effective={"cpus": []})) == (), "nobody knows"


def test_deviations_are_on_record_with_the_workers_own_findings(execute):
    answer = msgspec.structs.replace(measured(effective={"threads": 4}), validity=(Validity("noisy", "x"),))
    (record,) = execute([case("A")], Workshop({"A": answer}), repetitions=1).records
    assert [validity.reason for validity in record.validity] == ["noisy", "misconfigured"]
    assert record.requested["threads"] == 1
    assert record.effective == {"threads": 4}


def test_the_build_time_is_that_of_the_engine(execute):
    built = msgspec.structs.replace(ENGINE, made_by={"backend": "openvino", "took_ns": 77})
    exported = msgspec.structs.replace(ENGINE, made_by={"took_ns": 88})
    running = execute([case("A"), case("B")], Workshop(engines={"A": built, "B": exported}), repetitions=1)
    assert [record.measurement.build_ns for record in running.records] == [77, None]


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A run of the command's own kind, with workers, of what can and what cannot be measured."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    request = Request(
        models=("DPN68",),
        backends=("simulated", "tensorrt"),
        batch_sizes=(1, 4),
        settings=Settings(intervals=("compute", "end_to_end"), warmup=2, iterations=5, repetitions=2),
        options={"simulated": {"median_us": "500", "sigma": "0"}},
    )
    return session.start(request, tmp_path / "results", ("bench", "run"), Quiet())


def test_records_are_complete(real):
    found = store.read(real.path)
    assert found.records == tuple(real.records)
    (header,) = found.headers
    assert header.command == ("bench", "run")
    assert header.environment == environment.describe()
    assert msgspec.convert(header.request, Request).models == ("DPN68",)
    assert real.path.parent.name == "cpu"
    named = (
        "schema run_id case repetition started_at status reason validity settings semantics measurement parity artifact"
        " requested effective telemetry environment_id"
    )
    for line in real.path.read_text().splitlines()[1:]:
        assert set(named.split()) <= set(json.loads(line))
    assert [record.started_at for record in found.records] == sorted(record.started_at for record in found.records)
    for record in found.records:
        assert record.run_id == header.run_id == real.run_id
        assert record.environment_id == header.environment_id == environment.environment_id(header.environment)
        assert (record.status == "ok") == (record.reason == "")


def test_a_measurement_is_complete(real):
    ok = [record for record in real.records if record.status == "ok"]
    assert [(record.case.batch_size, record.repetition) for record in ok] == [(1, 0), (4, 0), (4, 1), (1, 1)]
    for record in ok:
        assert set(record.semantics) == {"compute", "end_to_end"} == set(record.measurement.intervals)
        for samples in record.measurement.intervals.values():
            assert samples.samples_ns == (500_000 * record.case.batch_size,) * 5
            assert len(samples.warmup_ns) == 2
        assert record.measurement.first_ns == 500_000 * record.case.batch_size
        assert record.measurement.load_ns > 0
        assert record.measurement.peak_memory_bytes > 1 << 20
        assert record.telemetry["spent_ns"] > record.telemetry["wall_ns"] > 0
        assert record.settings.options == backends.settle(
            backends.get("simulated"), {"median_us": "500", "sigma": "0"}
        ), "all options, as they took effect"
        assert record.requested["threads"] == 1
        assert record.requested["precision"] == "fp32"
        assert len(record.requested["cpus"]) == 1
        assert record.effective == {"simulated": True, "cpus": record.requested["cpus"]}


def test_what_cannot_be_measured_is_complete_too(real):
    left = [record for record in real.records if record.case.backend == "tensorrt"]
    assert [record.status for record in left] == ["unsupported"] * 2
    assert {record.reason for record in left} == {"tensorrt here runs on gpu, not on a cpu"}


# What a run comes to


@pytest.mark.parametrize(
    ("statuses", "code", "line"),
    [
        ((), 0, "nothing was left to do"),
        (("ok", "ok"), 0, "2 ok"),
        (("ok", "unsupported", "unavailable"), 0, "1 ok, 1 unsupported, 1 unavailable"),
        (("ok", "failed"), 1, "1 ok, 1 failed"),
        (("failed", "unavailable"), 1, "1 failed, 1 unavailable"),
        (("unavailable", "unsupported"), 3, "1 unavailable, 1 unsupported"),
    ],
)
def test_the_exit_code_says_what_a_run_came_to(statuses, code, line):
    records = [done(0, case=case(f"M{number}"), status=status) for number, status in enumerate(statuses)]
    assert cli.exit_code(records) == code
    assert cli.tally(records) == line


# Engines that differ from build to build


class Differing(type(backends.get("simulated"))):
    """As `simulated`, but of each case three engines are made."""

    options = {**backends.get("simulated").options, "build": "0"}

    def builds_with(self, options):
        return 3


@pytest.mark.parametrize(("asked", "built"), [("0", ["1", "2", "3", "1", "2"]), ("7", ["7"] * 5)])
def test_repetitions_take_turns_with_the_builds_of_a_case(execute, monkeypatch, asked, built):
    monkeypatch.setattr(backends, "get", lambda name: Differing())
    workshop = Workshop()
    execute([case("A")], workshop, options={"build": asked}, repetitions=5)
    assert [job.setup.options["build"] for *_, job in workshop.asked] == built
    assert len(workshop.prepared) == len(set(built))


WHY = "model.plan was built for TensorRT 10.4.0; here it is 10.16.1"
STALE = Problem(status="stale", reason=f"{WHY}; {BUILD_AGAIN}", log="log")


def test_a_stale_engine_is_made_again_and_measured(execute):
    workshop, steps = Workshop({"A": [measured(), STALE, measured(), measured()]}), Steps()
    found = execute([case("A")], workshop, progress=steps, repetitions=3).records
    assert [(record.status, record.repetition) for record in found] == [("ok", 0), ("ok", 1), ("ok", 2)]
    assert workshop.discarded == [ENGINE.path]
    assert len(workshop.prepared) == 2
    assert f"{case('A').key}: the engine is made again, since {WHY}" in steps.lines


def test_an_engine_that_stays_stale_is_a_failure(execute):
    workshop = Workshop({"A": [STALE, STALE, measured()]})
    (record,) = execute([case("A")], workshop, repetitions=3).records
    assert (record.status, record.reason, record.log) == ("failed", STALE.reason, "log")
    assert len(workshop.asked) == 2


def test_an_engine_that_cannot_be_made_again_says_why(execute):
    workshop = Workshop({"A": [measured(), STALE]})
    workshop.discard = lambda engine: workshop.engines.update(A=Failed("TensorRT built no engine"))
    found = execute([case("A")], workshop, repetitions=3).records
    assert [(record.status, record.repetition) for record in found] == [("ok", 0), ("failed", 1)]
    assert found[1].reason == "TensorRT built no engine"


def test_of_several_builds_only_the_stale_one_is_made_again(execute, monkeypatch):
    monkeypatch.setattr(backends, "get", lambda name: Differing())
    workshop = Workshop({"A": [measured(), STALE, *[measured()] * 3]})
    execute([case("A")], workshop, options={"build": "0"}, repetitions=4)
    assert [job.setup.options["build"] for *_, job in workshop.asked] == ["1", "2", "2", "3", "1"]
    assert len(workshop.prepared) == 3 + 1


# Phones: the order is drawn, and drift is looked for


PHONE = msgspec.structs.replace(PROFILE, kind="phone")


def on_a_phone(execute, monkeypatch, medians_ns):
    """Records of three cases, one repetition each; the last of A's medians is of its second one."""
    monkeypatch.setitem(globals(), "PROFILE", PHONE)
    answers = {name: [measured(median) for median in given] for name, given in medians_ns.items()}
    running = execute([case(name) for name in medians_ns], Workshop(answers), repetitions=1)
    return running, store.read(running.file.path)


def test_the_first_case_is_measured_again_at_the_end(execute, monkeypatch):
    _, run = on_a_phone(execute, monkeypatch, {name: [1000, 1000] for name in "ABC"})
    names = [record.case.model for record in run.records]
    assert sorted(names[:3]) == ["A", "B", "C"]
    assert names[3] == names[0]
    assert [record.repetition for record in run.records] == [0, 0, 0, 1]
    assert not any(record.validity for record in run.records)


def test_where_it_is_slower_then_all_records_of_the_session_say_so(execute, monkeypatch):
    _, run = on_a_phone(execute, monkeypatch, {name: [1000, 1200] for name in "ABC"})
    assert len(run.records) == 4
    for record in run.records:
        assert [each.reason for each in record.validity] == ["drifting"]
        assert "20.0% slower" in record.validity[0].evidence


def test_the_order_is_drawn_by_the_run(execute, monkeypatch):
    _, run = on_a_phone(execute, monkeypatch, {name: [1000, 1000] for name in "ABCDEFGH"})
    names = [record.case.model for record in run.records][:8]
    assert names != sorted(names)
    _, again = on_a_phone(execute, monkeypatch, {name: [1000, 1000] for name in "ABCDEFGH"})
    assert [record.case.model for record in again.records][:8] == names


def test_where_it_fails_then_nothing_is_said_of_the_others(execute, monkeypatch):
    again = Problem(status="failed", reason="lost the connection")
    monkeypatch.setitem(globals(), "PROFILE", PHONE)
    workshop = Workshop({name: [measured(), again] for name in "AB"})
    running = execute([case(name) for name in "AB"], workshop, repetitions=1)
    assert [record.status for record in running.records] == ["ok", "ok", "failed"]
    assert not any(record.validity for record in running.records)


def test_what_went_wrong_on_a_phone_names_neither_it_nor_its_owner(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    trouble = Problem(status="failed", reason="can't copy '/home/me/model.nb' to f1a2b3c4", log="adb -s f1a2b3c4 push")
    cards = {"A": ModelCard("A", "F", file="/A.onnx", format="onnx")}
    planned = Plan(profile=PHONE, cards=cards, cases=(case("A"),), left_out=(), found={"serial": "f1a2b3c4"})
    settled = {"simulated": backends.settle(backends.get("simulated"), {})}
    with RunFile.create(tmp_path, HEADER) as file:
        running = Runner(planned, Settings(), settled, Workshop({"A": trouble}), file, HEADER, Quiet())
        (record,) = running.run()
    assert (record.status, record.reason, record.log) == ("failed", "can't copy '~/model.nb' to …", "adb -s … push")
