"""The child of a comparison: holds one engine open, and times a block of iterations whenever it is told to.

`python -m bench.live_worker order.json 5` reads commands from the inherited socket 5 and answers on it, a line of JSON
each; standard output belongs to whatever the runtime prints. Where the socket ends, so does the process.

Of third parties it needs msgspec, NumPy, psutil and the runtime alone, as it also runs in Python environments that hold
little else (`bench.pythons` looks for them there).
"""

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec

from bench import backends, parity, stats, timing
from bench.backends import Setup
from bench.child import TroubleStatus, confine, cpus_of_threads, first_inferences, peak_memory_bytes, trouble
from bench.errors import Failed, Unsupported
from bench.schema import Frozen, Interval, Parity, Precision, Settings, Telemetry

if TYPE_CHECKING:
    from bench.backends import Arrays, BaseBackend, Session
    from bench.timing import Clock, Run

# What is said over the socket


class Injection(Frozen, frozen=True):
    """A slowdown made on purpose, as a share of each iteration: a busy loop or a sleep inside the timed region."""

    kind: Literal["spin", "sleep"]
    share: float


class LiveOrder(Frozen, frozen=True):
    """What a live worker opens. `source` is the engine, or with `build` what an engine is first made from in `folder`.

    The outputs for the reference's inputs are left in `folder`; `reference` is "" for a backend that computes nothing.
    With `rest` the process stops itself (SIGSTOP) after each answer, and the next command comes with a SIGCONT.
    """

    setup: Setup
    interval: Interval
    source: str
    folder: str
    reference: str = ""
    build: bool = False
    inject: Injection | None = None
    rest: bool = False
    cpus: tuple[int, ...] = ()
    memory_limit_bytes: int | None = None


class CompareOutputs(Frozen, frozen=True, tag_field="kind", tag="compare_outputs"):
    """Compare your outputs with those that the other side left in a file."""

    others: str


class WarmUp(Frozen, frozen=True, tag_field="kind", tag="warm_up"):
    """Run until the latency is steady."""


class Block(Frozen, frozen=True, tag_field="kind", tag="block"):
    """Time so many iterations, then fire one shot of the probe."""

    iterations: int


class Ready(Frozen, frozen=True, tag_field="kind", tag="ready"):
    """The engine is open, and its outputs, if it computes any, are right and lie in the file `outputs`.

    `deviations` says where the runtime does something else than it was asked to, `probe` what computes the probe.
    """

    version: str
    load_ns: int
    first_ns: int
    effective: dict[str, Any]
    parity: Parity | None = None
    outputs: str = ""
    peak_memory_bytes: int | None = None
    deviations: tuple[str, ...] = ()
    probe: str = ""


class Compared(Frozen, frozen=True, tag_field="kind", tag="compared"):
    """How far the outputs are from the other side's, and in words what is wrong with them, "" if nothing is.

    `same` is None where they are not even of one shape, and for a backend that computes nothing.
    """

    same: Parity | None = None
    differs: str = ""


class Warm(Frozen, frozen=True, tag_field="kind", tag="warm"):
    """`latency_ns` is the median of the last window; `cpus` are those that the threads may run on, all together."""

    warmup_ns: tuple[int, ...]
    steady: bool
    latency_ns: float
    cpus: tuple[int, ...] = ()


class Done(Frozen, frozen=True, tag_field="kind", tag="done"):
    """A block: the latency of each iteration, the counters beside it, and the shot after them."""

    wall_ns: tuple[int, ...]
    telemetry: Telemetry
    probe_ns: int | None = None


class Stuck(Frozen, frozen=True, tag_field="kind", tag="stuck"):
    """The runtime said no, or the outputs are wrong: there is nothing to compare."""

    status: TroubleStatus
    reason: str
    log: str = ""


AnyCommand = CompareOutputs | WarmUp | Block
AnyReply = Ready | Compared | Warm | Done | Stuck


# What it does


class Player:
    """Times what it is given, a block at a time. `shoot` fires the compute probe, where there is one."""

    def __init__(
        self, run: "Run", clock: "Clock", shoot: Callable[[], int] | None = None, steady_ns: float = stats.STEADY_NS
    ) -> None:
        self.run = run
        self.clock = clock
        self.steady_ns = steady_ns
        self.shoot = shoot

    def warm_up(self) -> Warm:
        samples, steady = timing.warm_up(self.run, Settings(), self.clock, self.steady_ns)
        latency_ns = stats.median(samples[-stats.window(samples) :])
        return Warm(warmup_ns=tuple(samples), steady=steady, latency_ns=latency_ns, cpus=cpus_of_threads())

    def block(self, iterations: int) -> Done:
        samples, counted = timing.sample(self.run, self.clock, lambda calls, _: calls >= iterations)
        return Done(wall_ns=tuple(samples), telemetry=counted, probe_ns=self.shoot() if self.shoot else None)


def slowed(run: "Run", clock: "Clock", inject: Injection) -> "Run":
    """`run`, and then as much more as `inject` says of the time that it took."""

    def spin() -> None:
        start = clock()
        run()
        now = clock()
        until = now + (now - start) * inject.share
        while clock() < until:
            pass

    def sleep() -> None:
        start = clock()
        run()
        time.sleep((clock() - start) * inject.share / 1e9)

    return {"spin": spin, "sleep": sleep}[inject.kind]


OUTPUTS = "outputs.npz"


def open_session(order: LiveOrder, backend: "BaseBackend") -> tuple["Session", Ready]:
    """Opens the engine and runs it: its output must be right before its time counts."""
    version = backend.probe(order.setup.device)
    start = time.perf_counter_ns()
    source, case = Path(order.source), order.setup.case
    engine = backend.build(source, Path(order.folder), order.setup) if order.build else source
    session = backend.open(engine, order.setup)
    load_ns = time.perf_counter_ns() - start
    first = first_inferences(session, case, order.reference, backend.rounding(order.setup))
    effective = session.effective()
    return session, Ready(
        version=version,
        load_ns=load_ns,
        first_ns=first.took_ns,
        effective=effective,
        parity=first.parity,
        outputs=_kept(first.outputs, Path(order.folder)),
        peak_memory_bytes=peak_memory_bytes(),
        deviations=backends.deviations(case, order.setup.options, effective),
    )


def _kept(outputs: "Arrays", folder: Path) -> str:
    """The outputs in a file that the other side can read; "" where there are none."""
    if not outputs:
        return ""
    file = folder / OUTPUTS
    parity.save(file, outputs[0][:0], outputs, "the other side")
    return str(file)


def compare_outputs(mine: str, others: str, precision: Precision) -> Compared:
    """One file of outputs against another."""
    if not mine or not others:
        return Compared()
    (_, got, _), (_, expected, made_by) = parity.load(Path(mine)), parity.load(Path(others))
    try:
        same = parity.compare(got, expected, precision, made_by)
    except Failed as error:
        return Compared(None, str(error))
    return Compared(same, parity.fault(same))


def opened(order: LiveOrder) -> tuple[Player, Ready]:
    """A player for the order. Raises what stands in its way."""
    backend = backends.get(order.setup.case.backend)
    session, ready = open_session(order, backend)
    session.prepare((order.interval,))
    if doubts := [doubt.evidence for doubt in session.validity() if doubt.reason == "unsynchronised"]:
        raise Failed(f"{backend.name} does not wait for the end of an inference", "; ".join(doubts))
    run, clocks = session.intervals()[order.interval], session.clocks()
    if order.inject and (not backend.computes or order.interval in clocks):
        what = f"nothing can be injected into {order.interval} of {backend.name}"
        raise Unsupported(what, "its clock is not the machine's")
    clock = clocks.get(order.interval, session.clock)
    shoot = None
    if backend.computes:
        from bench import probe

        shoot = probe.make()
        ready = msgspec.structs.replace(ready, probe=probe.program())
    played = slowed(run, clock, order.inject) if order.inject else run
    return Player(played, clock, shoot, session.steady_ns), ready


# The process

_commands = msgspec.json.Decoder(AnyCommand)
_encode = msgspec.json.Encoder().encode


def serve(order: LiveOrder, commands: Iterable[bytes], answers: BinaryIO) -> None:
    """Opens, then obeys until the commands end. Whatever is raised is said, and ends it."""
    try:
        confine(order)
        player, ready = opened(order)
        # Nothing is collected while the clock runs.
        gc.collect()
        gc.disable()
        _say(answers, ready)
        _rest(order)
        for line in commands:
            _say(answers, _done(_commands.decode(line), order, player, ready))
            _rest(order)
    except Exception as error:  # a vendor's bug is a result, too
        _say(answers, Stuck(**trouble(error)._asdict()))


def _done(command: AnyCommand, order: LiveOrder, player: Player, ready: Ready) -> AnyReply:
    if isinstance(command, Block):
        return player.block(command.iterations)
    if isinstance(command, CompareOutputs):
        return compare_outputs(ready.outputs, command.others, order.setup.case.precision)
    return player.warm_up()


def _say(answers: BinaryIO, reply: AnyReply) -> None:
    answers.write(_encode(reply) + b"\n")
    answers.flush()


def _rest(order: LiveOrder) -> None:
    """Stops all threads. By ourselves: on a busy machine milliseconds pass until the parent gets a CPU to do it, and
    a spinning pool would burn them."""
    if order.rest:
        os.killpg(os.getpgrp(), signal.SIGSTOP)


def main() -> None:
    order_file, wire = sys.argv[1:]
    order = msgspec.json.decode(Path(order_file).read_bytes(), type=LiveOrder)
    with socket.socket(fileno=int(wire)) as parent, parent.makefile("rb") as hears, parent.makefile("wb") as says:
        serve(order, hears, says)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # runtimes have been seen to crash while they are torn down


if __name__ == "__main__":
    main()
