"""Where pairs are played: in real processes, or in none for a backend whose clock is virtual."""

import contextlib
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from bench import backends, runner
from bench.backends import Setup
from bench.duet import LiveWorker, Worker
from bench.live_worker import Compared, Done, LiveOrder, Ready, Warm, opened
from bench.pairs import SideName
from bench.prepare import thread_environment
from bench.subjects import Subject, Terms

PADDING_BYTES = 4096


class LiveStage:
    """Real processes, each attempt on other CPUs of `available`, with this process kept off them where it can be."""

    def __init__(
        self, key: str, a: Subject, b: Subject, terms: Terms, available: tuple[int, ...], folder: Path, number: int = 1
    ) -> None:
        self.key = key
        self.number = number
        self.outputs = terms.outputs
        self.cpu_clock = _cpu_clock(a) and _cpu_clock(b)
        self._subjects: dict[SideName, Subject] = {"A": a, "B": b}
        self._terms = terms
        self._available = available
        self._folder = folder

    def cpus(self, attempt: int) -> tuple[int, ...]:
        return runner.choose_cpus(self._available, self._subjects["A"].case.threads, attempt)

    @contextlib.contextmanager
    def worker(self, side: SideName, attempt: int) -> Iterator[Worker]:
        subject, cpus = self._subjects[side], self.cpus(attempt)
        folder = self._folder / f"{self.number}-{attempt}-{side}"
        order = _order(subject, self._terms, folder, cpus)
        try:
            with (
                away_from(cpus, self._available),
                LiveWorker(order, _environ(subject), self._terms.timeout_s, folder, subject.python) as worker,
            ):
                yield worker
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _cpu_clock(subject: Subject) -> bool:
    """Whether CPU time is a second opinion on wall time."""
    return subject.case.threads == 1 and subject.device.kind == "cpu" and backends.get(subject.case.backend).computes


def _order(subject: Subject, terms: Terms, folder: Path, cpus: tuple[int, ...]) -> LiveOrder:
    return LiveOrder(
        setup=Setup(subject.case, subject.device, subject.options, subject.input_shape),
        interval=terms.interval,
        source=subject.source,
        folder=str(folder),
        reference=subject.reference,
        build=subject.build,
        inject=subject.inject,
        cpus=cpus,
        memory_limit_bytes=terms.memory_limit_bytes,
    )


def _environ(subject: Subject) -> dict[str, str]:
    """With padding of random length: where the stack begins, which the environment decides, biases a whole process
    (Mytkowicz et al., "Producing wrong data without doing anything obviously wrong", ASPLOS 2009)."""
    padding = {"BENCH_PADDING": "." * random.randrange(PADDING_BYTES + 1)}
    own = backends.get(subject.case.backend).environment(subject.options)
    return thread_environment(subject.case.threads) | own | padding


@contextlib.contextmanager
def away_from(cpus: Sequence[int], available: Sequence[int]) -> Iterator[None]:
    """Keeps this process off `cpus`, if there are others that it may use."""
    rest = set(available) - set(cpus)
    if not rest or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, rest)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class SimulatedStage:
    """Pairs on a virtual clock and without processes, for `simulated` subjects: hundreds a second. Same `seed`, same
    pairs."""

    key = "simulated"
    number = 1
    cpu_clock = False
    outputs: Literal["same", "any"] = "same"

    def __init__(self, a: Subject, b: Subject, seed: int) -> None:
        self._subjects: dict[SideName, Subject] = {"A": a, "B": b}
        self._seed = seed

    def cpus(self, attempt: int) -> tuple[int, ...]:  # noqa: ARG002
        return ()

    @contextlib.contextmanager
    def worker(self, side: SideName, attempt: int) -> Iterator[Worker]:
        subject = self._subjects[side]
        seed = random.Random(f"{self._seed} {attempt} {side}").randrange(1, 2**31)
        options = {**subject.options, "seed": str(seed)}
        yield InProcess(_order(msgspec.structs.replace(subject, options=options), Terms(), Path(), ()))


class InProcess:
    """A worker that is no process, for backends that compute nothing."""

    def __init__(self, order: LiveOrder) -> None:
        self._order = order

    def open(self) -> Ready:
        self._player, ready = opened(self._order)
        return ready

    def compare_outputs(self, others: str) -> Compared:  # noqa: ARG002
        return Compared()

    def warm_up(self) -> Warm:
        return self._player.warm_up()

    def block(self, iterations: int, latency_ns: float) -> Done:  # noqa: ARG002
        return self._player.block(iterations)

    def snapshot(self) -> None:
        return None

    def spent_cpu_ns(self) -> None:
        return None
