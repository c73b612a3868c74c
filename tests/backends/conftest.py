"""Runs the suite over every backend of the folder, and holds it to the exceptions that tests name.

A test that takes `backend` is run for each of them. `@never("name", reason=…)` says that it fails for that one by the
nature of the thing, `@notyet("name", reason=…)` that it need not stay so. Both are strict: such a test must fail by an
assertion, and is an error once it passes.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import inside
import msgspec
import pytest

import bench
from bench import __version__, backends, catalog, environment, plan, store
from bench.artifacts import Cache, model_files
from bench.backends import Setup
from bench.jobs import Measure, Probe, Problem
from bench.plan import Request
from bench.prepare import REFERENCES, Workshop, thread_environment
from bench.progress import Quiet
from bench.runner import Runner
from bench.schema import Case, Precision, Settings
from bench.session import why_missing
from bench.store import Header, RunFile

CARD = catalog.cards()["MobileNetV1_x0_25"]
FEW = Settings(intervals=inside.BOTH, warmup=1, iterations=5, repetitions=1, timeout_s=120)
REASONS = {"never": "never: {}", "notyet": "not yet: {}"}
DAMAGES = ("half", "empty", "random")


def pytest_configure(config):
    config.addinivalue_line("markers", "never(*backends, reason): the test fails for these by the nature of the thing")
    config.addinivalue_line("markers", "notyet(*backends, reason): the test still fails for these")


def pytest_generate_tests(metafunc):
    """A test that takes `backend` is run for each, and where it takes `claimed`, `refused` or `choice` for each of its
    precisions, of the others, or of the options' values."""
    if "backend" not in metafunc.fixturenames:
        return
    facts = {"claimed": claimed, "refused": refused, "choice": choices}
    asked = [name for name in facts if name in metafunc.fixturenames]
    rows = [
        pytest.param(name, *values, id="-".join([name, *map(str, values)]), marks=marks(name, metafunc.fixturenames))
        for name in backends.names()
        for values in ([(value,) for value in facts[asked[0]](name)] if asked else [()])
    ]
    metafunc.parametrize(["backend", *asked], rows, indirect=["backend"])


def claimed(name):
    return sorted(backends.get(name).precisions)


def refused(name):
    return sorted(set(get_args(Precision)) - backends.get(name).precisions)


def choices(name):
    """Every `option=value`. Those of a backend that computes nothing are faults to simulate, not ways to run."""
    backend = backends.get(name)
    several = {option: values for option, values in backend.options.items() if isinstance(values, tuple)}
    return [f"{option}={value}" for option, values in several.items() for value in values] if backend.computes else []


def marks(name, fixtures):
    needs_runtime = backends.get(name).requires or {"reference", "damaged"} & set(fixtures)
    return [pytest.mark.runtime] if needs_runtime and "without_runtime" not in fixtures else []


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers():
            if mark.name in REASONS:
                expect_failure(item, mark)


def expect_failure(item, mark):
    strangers = set(mark.args) - set(backends.names())
    if strangers or not mark.args or not mark.kwargs.get("reason"):
        raise pytest.UsageError(f"{item.nodeid}: @{mark.name} takes names of backends and a reason, not {mark.args}")
    if item.callspec.params["backend"] in mark.args:
        reason = REASONS[mark.name].format(mark.kwargs["reason"])
        item.add_marker(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    return Workshop(Cache(tmp_path_factory.mktemp("cache")), FEW, environment.cpus_available(), Quiet().say)


@pytest.fixture(scope="session")
def backend(request):
    return backends.get(request.param)


@pytest.fixture
def without_runtime():
    """For tests that must pass whether or not the backend's runtime is installed."""


@pytest.fixture(scope="session")
def stand(backend, workshop):
    """The backend with a real model. Skips where its runtime can't serve any device here."""
    if absent := why_missing(backend, [CARD]):
        pytest.skip(absent)
    stand = Stand(backend, workshop)
    if isinstance(stand.probed, Problem) and stand.probed.status == "unavailable":
        pytest.skip(stand.probed.reason)
    return stand


@pytest.fixture(scope="session")
def reference(workshop):
    """What outputs are compared with, and inputs come from. Skips where what makes it is not installed."""
    if absent := why_missing(backends.get(REFERENCES["paddle"]), [CARD]):
        pytest.skip(absent)
    return workshop.reference(CARD)


class Stand:
    """A backend, a real model, and fresh processes in which to look at the two. What was seen once is kept."""

    def __init__(self, backend, workshop):
        self.backend = backend
        self.workshop = workshop
        profiles = catalog.profiles().values()
        self.profile = next(profile for profile in profiles if profile.kind in backend.kinds)
        self.measured = functools.cache(self.measure)
        self.look = functools.cache(self._look)

    @functools.cached_property
    def probed(self):
        return self.workshop.ask(Probe(self.backend.name, self.profile), thread_environment(1))

    @functools.cached_property
    def engine(self):
        return self.workshop.engine(CARD, self.backend.name)

    @functools.cached_property
    def reference(self):
        return self.workshop.reference(CARD)

    def setup(self, precision="fp32", batch_size=4, threads=1, choice=""):
        option, _, value = choice.partition("=")
        options = backends.settle(self.backend, {option: value} if choice else {})
        case = Case(CARD.name, self.backend.name, self.profile.name, precision, batch_size, threads)
        return Setup(case, self.profile, options, CARD.input_shape)

    def environ(self, setup):
        return thread_environment(setup.case.threads) | self.backend.environment(setup.options)

    def measure(self, precision="fp32", batch_size=4, threads=1, choice="", settings=FEW, **variables):
        """The worker's answer, as `bench run` asks for it."""
        setup = self.setup(precision, batch_size, threads, choice)
        reference = self.reference.path if self.backend.computes else ""
        job = Measure(setup=setup, settings=settings, engine=self.engine.path, reference=reference)
        return self.workshop.ask(job, self.environ(setup) | variables, self.workshop.cpus[:threads])

    def _look(self, function):
        setup = self.setup()
        task = inside.Task(
            backend=self.backend.name,
            cpus=self.workshop.cpus[:1],
            setup=setup,
            engine=self.engine.path,
            reference=self.reference.path,
        )
        return look(function, task, self.workshop.cache.root / "tmp", self.environ(setup))


def look(function, task, folder, environ=None):
    """What a function of inside.py says in a fresh process."""
    task_file, answer_file = folder / "task.json", folder / "answer.json"
    answer_file.unlink(missing_ok=True)
    task_file.write_bytes(msgspec.json.encode(task))
    done = subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", inside.__file__, function, str(task_file), str(answer_file)],
        env={**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1]), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    assert answer_file.exists(), f"exit code {done.returncode}: {done.stderr[-2000:]}"
    answer = msgspec.json.decode(answer_file.read_bytes())
    assert "error" not in answer, answer["error"]
    return answer


def run(workshop, backend, profile, cards, folder, **request):
    """`bench run` of these cards without its command line: the records, and the file that they went to."""
    asked = Request(device=profile.name, backends=(backend.name,), batch_sizes=(4,), threads=(1,), **request)
    cases = plan.make(
        asked, cards, profile, {backend.name: backend}, {backend.name: backends.missing(backend)}, len(workshop.cpus)
    )
    header = Header(run_id=store.new_run_id(), started_at=store.now(), bench_version=__version__)
    with RunFile.create(folder, header) as file:
        options = {backend.name: backends.settle(backend, {})}
        runner = Runner(cases, workshop.settings, options, workshop, file, header, Quiet())
        return runner.run(), file.path


@pytest.fixture(scope="session")
def ran(stand, tmp_path_factory):
    """A run of one batch size in every precision there is, and its file."""
    folder = tmp_path_factory.mktemp("results")
    return run(stand.workshop, stand.backend, stand.profile, [CARD], folder, precisions=get_args(Precision))


class Sabotage(Workshop):
    """Hands out engines that are damaged as the name of the card says, and the sound model's reference for all."""

    def __init__(self, sound, folder):
        super().__init__(sound.cache, FEW, sound.cpus, sound.say)
        self.folder = folder
        self.tiny = look("exporting", inside.Task("paddle", folder=str(folder)), folder)

    def engine(self, card, name):
        if card.name in self.tiny:
            return super().engine(catalog.from_file(Path(self.tiny[card.name])), name)
        engine = super().engine(CARD, name)
        if card.name == CARD.name:
            return engine
        how, _, number = card.name.partition("_")
        copies = self.folder / name / card.name
        copies.mkdir(parents=True)
        for index, file in enumerate(model_files(Path(engine.path))):
            content = file.read_bytes()
            spoilt = {"half": content[: len(content) // 2], "empty": b"", "random": os.urandom(len(content))}
            (copies / file.name).write_bytes(spoilt[how] if index == int(number) else content)
        return msgspec.structs.replace(engine, path=str(copies / Path(engine.path).name))

    def reference(self, card):
        return super().reference(CARD)


def damages(engine):
    """How a card is called whose engine is damaged so: `half_0` is half of the first of its files."""
    files = len(model_files(Path(engine.path))) if engine.path else 0
    return [f"{how}_{number}" for number in range(files) for how in DAMAGES]


@pytest.fixture(scope="session")
def damaged(stand, tmp_path_factory):
    """The records by name of a run over damaged engines, with the sound one as the last."""
    folder = tmp_path_factory.mktemp("damaged")
    names = [*damages(stand.engine), "nan", "ten", CARD.name]
    cards = [msgspec.structs.replace(CARD, name=name) for name in names]
    sabotage = Sabotage(stand.workshop, folder)
    records, _ = run(sabotage, stand.backend, stand.profile, cards, folder, precisions=("fp32",))
    return {record.case.model: record for record in records}
