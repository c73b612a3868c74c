"""Where a backend stands while it is tested: a real model, fresh processes, and engines that are broken on purpose."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import inside
import msgspec

import bench
from bench import backends, catalog, homes, plan, pythons, store
from bench.artifacts import model_files
from bench.backends import Setup
from bench.jobs import Measure, Probe
from bench.plan import Request
from bench.prepare import Workshop, thread_environment
from bench.progress import Quiet
from bench.runner import Runner
from bench.schema import Case, Precision, Settings
from bench.store import Header, RunFile

CARD = catalog.cards()["MobileNetV1_x0_25"]
FEW = Settings(intervals=inside.BOTH, warmup=1, iterations=5, repetitions=1, timeout_s=120)
DAMAGES = ("half", "empty", "random")


class Stand:
    """A backend, a real model, and fresh processes in which to look at the two. What was seen once is kept."""

    def __init__(self, backend, workshop, folder):
        self.backend = backend
        self.workshop = workshop
        self.folder = folder
        profiles = catalog.profiles().values()
        self.profile = next(profile for profile in profiles if profile.kind in backend.kinds)
        self.measured = functools.cache(self.measure)
        self.look = functools.cache(self._look)

    @functools.cached_property
    def probed(self):
        return self.workshop.ask(Probe(self.backend.name, self.profile), thread_environment(1))

    @functools.cached_property
    def engine(self):
        return self.workshop.engine(CARD, self.setup())

    @functools.cached_property
    def reference(self):
        return self.workshop.reference(CARD)

    def setup(self, precision="fp32", batch_size=4, threads=1, choice=""):
        option, _, value = choice.partition("=")
        options = backends.settle(self.backend, {option: value} if choice else {}, self.profile.kind)
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
        return look(function, task, self.folder, self.environ(setup), homes.python(self.backend.name))

    @functools.cached_property
    def ran(self):
        """The records, and the file, of a run of one batch size in every precision there is."""
        return run(self.workshop, self, [CARD], precisions=get_args(Precision))

    @functools.cached_property
    def damaged(self):
        """The records, by the name of the damage, of a run over broken engines with the sound one as the last."""
        names = [*damages(self.engine), "nan", "ten", CARD.name]
        cards = [msgspec.structs.replace(CARD, name=name) for name in names]
        sabotage = Sabotage(self.workshop, self.folder, homes.python(self.backend.name))
        records, _ = run(sabotage, self, cards, precisions=("fp32",))
        return {record.case.model: record for record in records}


def look(function, task, folder, environ=None, python=""):
    """What a function of inside.py says in a fresh process, under our Python or another."""
    task_file, answer_file = folder / "task.json", folder / "answer.json"
    answer_file.unlink(missing_ok=True)
    task_file.write_bytes(msgspec.json.encode(task))
    done = subprocess.run(
        [python or sys.executable, "-X", "faulthandler", inside.__file__, function, str(task_file), str(answer_file)],
        env={**pythons.own_environment(), "PYTHONPATH": str(Path(bench.__file__).parents[1]), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    if not answer_file.exists():
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    answer = msgspec.json.decode(answer_file.read_bytes())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def run(workshop, stand, cards, **request):
    """`bench run` of these cards without its command line: the records, and the file that they went to."""
    name, backend = stand.backend.name, stand.backend
    asked = Request(device=stand.profile.name, backends=(name,), batch_sizes=(4,), threads=(1,), **request)
    missing = {name: homes.missing(backend)}
    cases = plan.make(asked, cards, stand.profile, {name: backend}, missing, len(workshop.cpus))
    header = Header(run_id=store.new_run_id(), started_at=store.now(), bench_version=bench.__version__)
    with RunFile.create(stand.folder, header) as file:
        options = {name: backends.settle(backend, {}, stand.profile.kind)}
        runner = Runner(cases, workshop.settings, options, workshop, file, header, Quiet())
        return runner.run(), file.path


class Sabotage(Workshop):
    """Hands out engines that are damaged as the name of the card says, and the sound model's reference for all."""

    def __init__(self, sound, folder, python):
        super().__init__(sound.cache, FEW, sound.cpus, sound.say)
        self.folder = folder
        self.tiny = look("exporting", inside.Task("paddle", folder=str(folder)), folder, python=python)

    def engine(self, card, setup):
        if card.name in self.tiny:
            return super().engine(catalog.from_file(Path(self.tiny[card.name])), setup)
        engine = super().engine(CARD, setup)
        if card.name == CARD.name:
            return engine
        how, _, number = card.name.partition("_")
        copies = self.folder / setup.case.backend / card.name
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
