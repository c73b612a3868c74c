"""One live pair: two fresh processes on the same CPUs, timed in turn, block after block, A B B A.

Where both don't fit into memory at once, the processes of a pair run one after the other, which sees less. A pair may
turn out to be of no use, because a process died or the machine was not the same for both. It is then dropped, with the
reason on record, and measured anew.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from bench import stats, store, telemetry, verdict
from bench.child import OUT_OF_MEMORY
from bench.compared import Manner, PairRecord, SideRecord
from bench.duet import Lost, Worker
from bench.errors import Failed
from bench.live_worker import Compared, Done, Ready, Warm
from bench.schema import Validity
from bench.telemetry import Snapshot
from bench.verdict import Pair, Side

SideName = Literal["A", "B"]
OTHER: dict[SideName, SideName] = {"A": "B", "B": "A"}
BLOCK_NS, LONGEST_BLOCK_NS = 25e6, 250e6
LEAST_BLOCKS, MOST_BLOCKS = 24, 1000
MOST_ITERATIONS = 5000
LEAST_PAIR_NS = 3e9
# Where both sides together take longer than this to start, a pair lasts longer, by the root of it: Kalibera and Jones,
# "Rigorous benchmarking in reasonable time" (ISMM 2013).
LONG_START_NS = 6e9
#: what happens to a machine, rather than to a side, and makes a pair worthless
WORTHLESS = telemetry.UNFIT | {"suspended", "clock_step"}
SMALLER = "take a smaller batch, or allow more with --memory-limit"
LOST = Pair(fastest=0.0, middle=0.0, guard=math.inf)


@dataclass(frozen=True)
class Sampling:
    """How a pair is sampled: an even number of blocks of each side, at least so many and until all iterations together
    have lasted `span_ns`, with so many iterations in each block."""

    iterations: int
    blocks: int = LEAST_BLOCKS
    span_ns: float = LEAST_PAIR_NS

    def enough(self, blocks: int, spent_ns: float) -> bool:
        """Whether that will do. The clock may end a pair, as it knows nothing of the ratio."""
        return blocks % 2 == 0 and blocks >= self.blocks and (spent_ns >= self.span_ns or blocks >= MOST_BLOCKS)


@dataclass(frozen=True)
class Attempt:
    """One try at a pair. `pair` counts as unsound where it was dropped; `lost` says that a worker died or hung, and
    `killed` that it did as where memory runs out."""

    pair: Pair
    record: PairRecord
    latency_ns: float = 0.0
    sampling: Sampling | None = None
    lost: bool = False
    killed: bool = False
    log: str = ""


class NoRoom(Failed):
    """A and B don't fit into memory at once. One at a time they may."""


class Stage(Protocol):
    """Where pairs are played: it starts the workers of an attempt. `cpu_clock`: CPU time means what wall time does."""

    key: str
    number: int
    cpu_clock: bool
    outputs: Literal["same", "any"]

    def cpus(self, attempt: int) -> tuple[int, ...]: ...
    def worker(self, side: SideName, attempt: int) -> AbstractContextManager[Worker]: ...


def sampling(latency_ns: float, startup_ns: float = 0.0) -> Sampling:
    """The plan for iterations of `latency_ns`: blocks of 25 ms and of 5 iterations at least, below 250 ms; 24 of them
    or more, for 3 s."""
    if latency_ns <= verdict.LONG_NS:
        iterations = min(max(5, math.ceil(BLOCK_NS / max(latency_ns, 1))), MOST_ITERATIONS)
    else:
        iterations = 3 if 3 * latency_ns <= LONGEST_BLOCK_NS else 2
    return Sampling(iterations, LEAST_BLOCKS, LEAST_PAIR_NS * max(1.0, math.sqrt(startup_ns / LONG_START_NS)))


def leader(attempt: int) -> SideName:
    """Which side starts and leads the blocks: A B B A over the attempts, so that on two CPUs, which take turns, each
    side leads on each."""
    return "B" if (attempt + attempt // 2) % 2 else "A"


def play(stage: Stage, attempt: int, plan: Sampling | None = None, manner: Manner = "live pairs") -> Attempt:
    """One attempt at a pair. What it raises is final: a runtime's BenchError, Failed where outputs differ, NoRoom."""
    started_at, start = store.now(), time.perf_counter()
    first = leader(attempt)
    game = GAMES[manner](stage, attempt, first, plan)
    lost = None
    try:
        game.play()
    except Lost as error:
        lost = error
    blank = PairRecord(
        key=stage.key,
        stage=stage.number,
        attempt=attempt,
        started_at=started_at,
        spent_s=round(time.perf_counter() - start, 3),
        first=first,
        sampling=manner,
        cpus=stage.cpus(attempt),
        dropped=str(lost) if lost else "",
    )
    if lost:
        return Attempt(pair=LOST, record=blank, lost=True, killed=lost.killed, log=lost.log)
    return game.attempt(blank)


class _Game:
    """A pair under way."""

    def __init__(self, stage: Stage, attempt: int, first: SideName, plan: Sampling | None) -> None:
        self.stage = stage
        self.number = attempt
        self.order: tuple[SideName, SideName] = (first, OTHER[first])
        self.plan = plan
        self.ready: dict[SideName, Ready] = {}
        self.warm: dict[SideName, Warm] = {}
        self.done: dict[SideName, list[Done]] = {"A": [], "B": []}
        self.idle_cpu_ns: dict[SideName, int | None] = {"A": None, "B": None}
        #: what the machine did while which blocks ran
        self.windows: list[tuple[dict[str, Any], list[Done]]] = []
        self.compared = Compared()

    def play(self) -> None:
        """Fills all of the above. Raises Lost where the pair may be tried again."""
        raise NotImplementedError

    def pair(self) -> Pair:
        """What the finished pair says."""
        raise NotImplementedError

    def _open(self, worker: Worker, side: SideName) -> None:
        try:
            self.ready[side] = worker.open()
        except Lost as error:
            raise error.at(f"side {side}") from error
        except Failed as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            raise self._no_room(side, error) from error

    def _no_room(self, side: SideName, error: Failed) -> Failed:
        raise NotImplementedError

    def _compare_outputs(self, worker: Worker, others: str) -> None:
        """`others` is the file with the outputs of the other side, or ""."""
        self.compared = worker.compare_outputs(others)
        if self.compared.differs and self.stage.outputs == "same":
            what, do = "the outputs of A and B differ", "mend B, or use --outputs any if they are meant to differ"
            raise Failed(what, self.compared.differs, do)

    def _block(self, worker: Worker, side: SideName, plan: Sampling) -> int:
        """Times a block, and says how long it took, in ns."""
        try:
            done = worker.block(plan.iterations, self.latency_ns)
        except Lost as error:
            raise error.at(f"side {side}, block {len(self.done[side]) + 1}") from error
        self.done[side].append(done)
        return sum(done.wall_ns)

    @property
    def latency_ns(self) -> float:
        """The geometric mean of what the sides showed in warm-up, as far as they are warm."""
        return math.prod(warm.latency_ns for warm in self.warm.values()) ** (1 / len(self.warm))

    def attempt(self, blank: PairRecord) -> Attempt:
        """What the finished pair comes to."""
        assert self.plan
        pair = self.pair()
        validity = self._machine() + self._configuration()
        dropped = why_dropped(pair, validity)
        record = msgspec.structs.replace(
            blank,
            dropped=dropped,
            blocks=len(self.done["A"]),
            iterations=self.plan.iterations,
            fastest=pair.fastest,
            middle=pair.middle,
            cpu=pair.cpu,
            guard=pair.guard,
            a=self._side_record("A"),
            b=self._side_record("B"),
            same=self.compared.same,
            facts=_compact(self.windows[-1][0]),
            validity=validity,
        )
        sound = replace(pair, guard=math.inf) if dropped else pair
        return Attempt(pair=sound, record=record, latency_ns=self.latency_ns, sampling=self.plan)

    def _side_record(self, side: SideName) -> SideRecord:
        record = _side_record(self.ready[side], self.warm[side], self.done[side])
        return msgspec.structs.replace(record, idle_cpu_ns=self.idle_cpu_ns[side])

    def _machine(self) -> tuple[Validity, ...]:
        """Each reason to distrust the machine once."""
        found = [each for facts, blocks in self.windows for each in telemetry.validity(facts, _counts(blocks))]
        return tuple({each.reason: each for each in found}.values())

    def _configuration(self) -> tuple[Validity, ...]:
        """Where a side was not warm, not as asked or on other CPUs than both should be, and where the machine's speed
        wavered."""
        found = [
            Validity("no_steady_state", f"side {side} was still changing when warm-up was given up")
            for side, warm in self.warm.items()
            if not warm.steady
        ]
        found += [
            Validity("misconfigured", f"side {side}, {deviation}")
            for side, ready in self.ready.items()
            for deviation in ready.deviations
        ]
        if self.probes_differ:
            named = ", ".join(f"side {side} {ready.probe}" for side, ready in self.ready.items())
            found.append(Validity("unguarded", f"the compute probe is another program on each side: {named}"))
        for side in self.order:
            shots = [block.probe_ns for block in self.done[side] if block.probe_ns is not None]
            found += [Validity(reason, f"side {side}: {words}") for reason, words in telemetry.wavered(shots)]
        here = {side: warm.cpus for side, warm in self.warm.items()}
        if here["A"] != here["B"]:
            found.append(Validity("other_cpus", f"A may run on CPUs {_list(here['A'])}, B on {_list(here['B'])}"))
        return tuple(found)

    @property
    def probes_differ(self) -> bool:
        """Whether the sides' Pythons have different NumPys, whose speeds say nothing of the machine."""
        return len({ready.probe for ready in self.ready.values()}) > 1


class _LivePair(_Game):
    """Both processes alive, block by block in turn."""

    def play(self) -> None:
        with ExitStack() as stack:
            start = time.perf_counter_ns()
            # Both load at the same time, so that they get memory of the same kind: of two processes that load one after
            # the other, the first gets the pages that the last pair left scattered, and was 2 % slower for it (Paddle).
            workers = {side: stack.enter_context(self.stage.worker(side, self.number)) for side in self.order}
            for side in self.order:
                self._open(workers[side], side)
            self._compare_outputs(workers["B"], self.ready["A"].outputs)
            startup_ns = time.perf_counter_ns() - start
            for side in self.order:
                self.warm[side] = workers[side].warm_up()
            self.plan = self.plan or sampling(self.latency_ns, startup_ns)
            before = _snapshots(workers.values())
            self._alternate(workers, self.plan)
            facts = _facts(before, _snapshots(workers.values()))
        self.windows = [(facts, self.done["A"] + self.done["B"])]

    def _no_room(self, side: SideName, error: Failed) -> Failed:
        return NoRoom("A and B don't fit into memory at once", f"side {side}: {error}", SMALLER)

    def _alternate(self, workers: Mapping[SideName, Worker], plan: Sampling) -> None:
        """A B B A: what changes slowly, and the block before, weigh on both sides alike."""
        blocks, spent_ns = 0, 0
        while not plan.enough(blocks, spent_ns):
            for side in self.order if blocks % 2 == 0 else self.order[::-1]:
                before = workers[OTHER[side]].spent_cpu_ns()
                spent_ns += self._block(workers[side], side, plan)
                self._count_idle(OTHER[side], before, workers[OTHER[side]].spent_cpu_ns())
            blocks += 1

    def _count_idle(self, side: SideName, before: int | None, after: int | None) -> None:
        if before is not None and after is not None:
            self.idle_cpu_ns[side] = (self.idle_cpu_ns[side] or 0) + after - before

    def pair(self) -> Pair:
        pair = verdict.pair(*(_side(self.done[side], self.stage.cpu_clock) for side in ("A", "B")))
        return replace(pair, guard=None) if self.probes_differ else pair


class _OneAtATime(_Game):
    """One process after the other, A B, B A over the attempts; each is gone before the next one starts."""

    def play(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for side in self.order:
                start = time.perf_counter_ns()
                with self.stage.worker(side, self.number) as worker:
                    self._open(worker, side)
                    self._exchange_outputs(worker, side, Path(folder) / "outputs.npz")
                    startup_ns = time.perf_counter_ns() - start
                    self.warm[side] = worker.warm_up()
                    self.plan = self.plan or sampling(self.latency_ns, 2 * startup_ns)
                    before = _snapshots([worker])
                    self._time(worker, side, self.plan)
                    facts = _facts(before, _snapshots([worker]))
                self.windows.append((facts, self.done[side]))

    def _no_room(self, side: SideName, error: Failed) -> Failed:
        return Failed(f"side {side} does not fit into memory, even alone", str(error), SMALLER)

    def _exchange_outputs(self, worker: Worker, side: SideName, kept: Path) -> None:
        """The first worker's outputs are kept, as its folder goes with it, for the second to compare its own with."""
        outputs = self.ready[side].outputs
        if side == self.order[1]:
            self._compare_outputs(worker, str(kept) if outputs else "")
        elif outputs:
            shutil.copyfile(outputs, kept)

    def _time(self, worker: Worker, side: SideName, plan: Sampling) -> None:
        """Half of the plan's time for the first, and as many blocks for the second."""
        spent_ns, other = 0, self.done[OTHER[side]]
        while not (len(self.done[side]) == len(other) if other else plan.enough(len(self.done[side]), 2 * spent_ns)):
            spent_ns += self._block(worker, side, plan)

    def pair(self) -> Pair:
        """Minima and medians over all blocks, as none of them has a neighbour on the other side.

        The probe does not judge it. Between recorded processes that ran one after the other it differs by over 5 % four
        times in ten; that is a part of the scatter that the rule reckons with.
        """
        sides = [_side(self.done[side], self.stage.cpu_clock) for side in ("A", "B")]
        return replace(verdict.pair(*map(_whole, sides)), guard=None)


GAMES: dict[Manner, type[_Game]] = {"live pairs": _LivePair, "alternating processes": _OneAtATime}


def _whole(side: Side) -> Side:
    """As if all blocks were one."""
    wall_ns, cpu_ns = ([*chain.from_iterable(map(verdict.settled, blocks))] for blocks in (side.wall_ns, side.cpu_ns))
    return Side([wall_ns], [cpu_ns] if cpu_ns else (), side.probe_ns)


def why_dropped(pair: Pair, validity: Sequence[Validity]) -> str:
    """Why a measured pair does not count, or ""."""
    reasons = [f"{each.reason}: {each.evidence}" for each in validity if each.reason in WORTHLESS | {"other_cpus"}]
    if not pair.sound and pair.guard is not None:
        slower = "B" if pair.guard > 0 else "A"
        reasons.insert(
            0, f"the machine was {math.expm1(abs(pair.guard)):.1%} slower for {slower}, by the compute probe"
        )
    return "; ".join(reasons)


def _facts(before: Snapshot | None, after: Snapshot | None) -> dict[str, Any]:
    return telemetry.between(before, after) if before and after else {}


def _snapshots(workers: Iterable[Worker]) -> Snapshot | None:
    """None for workers that are no processes."""
    known = [each for worker in workers if (each := worker.snapshot()) is not None]
    return together(telemetry.snapshot(), known) if known else None


def together(own: Snapshot, known: Sequence[Snapshot]) -> Snapshot:
    """The machine as this process sees it, and the work of the others as if it were that of one process.

    CPU time is that of all, this one's too, so that the rest of what the machine did is not ours. Clocks and heat are
    those of the CPUs that the others run on.
    """
    threads = dict(chain.from_iterable(each.threads.items() for each in known))
    return msgspec.structs.replace(
        own,
        threads=threads,
        frequencies_khz=known[0].frequencies_khz,
        thermal_throttles=known[0].thermal_throttles,
        cpu_ns=_sum([own.cpu_ns, *(each.cpu_ns for each in known)]),
        voluntary_switches=_sum([each.voluntary_switches for each in known]),
        involuntary_switches=_sum([each.involuntary_switches for each in known]),
        minor_faults=_sum([each.minor_faults for each in known]),
        major_faults=_sum([each.major_faults for each in known]),
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _side(blocks: Sequence[Done], cpu_clock: bool) -> Side:
    shots = [block.probe_ns for block in blocks if block.probe_ns is not None]
    return Side(
        wall_ns=[block.wall_ns for block in blocks],
        cpu_ns=[block.telemetry.cpu_ns for block in blocks] if cpu_clock else (),
        probe_ns=shots,
    )


COUNTED = ("involuntary_switches", "minor_faults", "major_faults")


def _counts(blocks: Sequence[Done]) -> dict[str, list[int]]:
    """The counters of all iterations; a block without any has an empty column."""
    return {
        name: [count for block in blocks for count in getattr(block.telemetry, name) or [0] * len(block.wall_ns)]
        for name in COUNTED
    }


def _side_record(ready: Ready, warm: Warm, blocks: Sequence[Done]) -> SideRecord:
    settled = [verdict.settled(block.wall_ns) for block in blocks]
    cpu = [verdict.settled(block.telemetry.cpu_ns) for block in blocks if block.telemetry.cpu_ns]
    counts = {name: sum(values) for name, values in _counts(blocks).items()}
    return SideRecord(
        load_ns=ready.load_ns,
        first_ns=ready.first_ns,
        warmup_ns=warm.warmup_ns,
        steady=warm.steady,
        block_min_ns=tuple(min(block) for block in settled),
        block_median_ns=tuple(round(stats.median(block)) for block in settled),
        probe_ns=tuple(block.probe_ns for block in blocks if block.probe_ns is not None),
        median_ns=_median(settled),
        median_cpu_ns=_median(cpu) if cpu else 0,
        peak_memory_bytes=ready.peak_memory_bytes,
        version=ready.version,
        effective=ready.effective,
        parity=ready.parity,
        **counts,
    )


def _median(blocks: Sequence[Sequence[int]]) -> int:
    return round(stats.median(list(chain.from_iterable(blocks))))


def _compact(facts: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if value is not None}


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "unknown"
