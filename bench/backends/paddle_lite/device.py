"""A phone: the tool is pushed to it and times there; what it prints counts once nothing of it is in doubt."""

import contextlib
import os
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench import adb, cooling, phone
from bench.backends import Account, Session, Setup
from bench.backends.paddle_lite import report, tool
from bench.backends.paddle_lite.tool import Asked, Tool
from bench.errors import Failed, Unavailable, Unsupported, last_line
from bench.phone import Condition
from bench.schema import Interval, Measurement, Samples, Settings
from bench.timing import Clock

if TYPE_CHECKING:
    from bench.backends import Arrays

#: the environment variable that names the tool, or a folder of Paddle Lite that it lies in
PLACE_VARIABLE = "BENCH_PADDLE_LITE"
# A report holds one mean, so the tool is started several times for a repetition: their spread is all that is seen.
STARTS = 3
# What PaddleClas's published phone tables were made with (deploy/lite/benchmark/benchmark.sh: warm-up 10, repeats 30).
WARMUP = 10
LEAST_REPEATS, MOST_REPEATS = 10, 1000
SHARE_OF_BUDGET = 0.1
RUN_TIMEOUT_S = 120.0
MOST_WAIT_S = 180.0
# Enough for the looks of `_look_at_work`, after which it is ended.
LOOK_S, PAUSE_S = 20.0, 0.4
NEXT = "@@@ next"
# Of the mean and deviation that the tool prints with six digits.
OUTPUT_TOLERANCE = 1e-4
NO_TOOL = f"name the tool, or Paddle Lite's folder, with --set paddle_lite.tool=PATH or {PLACE_VARIABLE}"


#: of each output its shape, mean and deviation
Outputs = tuple[tuple[tuple[int, ...], float, float], ...]


class Start(NamedTuple):
    """What one start of the tool came to; times in nanoseconds."""

    load_ns: int
    first_ns: int
    samples_ns: tuple[int, ...]
    loops: int
    warmup_ns: tuple[int, ...]
    outputs: Outputs


def find_tool(options: dict[str, str], abis: Sequence[str]) -> Tool:
    """The tool that the options or the environment name. Raises Unavailable without one that runs on such a phone."""
    place = options["tool"] or os.environ.get(PLACE_VARIABLE, "")
    if not place:
        raise Unavailable(f"no {tool.UPSTREAM} to run on the phone", "none is named", NO_TOOL)
    return tool.find(Path(place), ",".join(abis))


class DeviceSession(Session):
    """The tool and the model in a folder of their own on the phone, both gone again after `close`."""

    def __init__(self, engine: Path, setup: Setup) -> None:
        self._setup = setup
        self._losses = 0
        self._account = Account()
        with contextlib.ExitStack() as opening:
            self._scratch = Path(opening.enter_context(tempfile.TemporaryDirectory()))
            self._adb = adb.choose()
            self._phone = phone.look(self._read)
            _refuse_another(self._phone, setup.found)
            self._folder = opening.enter_context(self._adb.folder())
            self._tool = self._push_tool(find_tool(setup.options, self._phone.abis))
            self._model = f"{self._folder}/{engine.name}"
            self._adb.push(engine, self._model)
            self._closing = opening.pop_all()

    def _read(self, script: str) -> str:
        """What a script prints; "" where it fails, as files of a phone may be denied."""
        return self._adb.shell(script, retry=True).out

    def _push_tool(self, found: Tool) -> Tool:
        self._program = f"{self._folder}/{found.kind}"
        for file in (found.path, *found.libraries):
            to = self._program if file == found.path else f"{self._folder}/{Path(file).name}"
            self._adb.push(Path(file), to)
        self._adb.read(["chmod", "755", self._program])
        if found.kind == tool.OURS:
            return found
        return tool.speaking(found, self._adb.shell(self._command(["--help"]), retry=True).out)

    def _command(self, arguments: Sequence[str]) -> str:
        words = shlex.join([self._program, *arguments])
        return f"cd {shlex.quote(self._folder)} && LD_LIBRARY_PATH={shlex.quote(self._folder)} {words}"

    def feed(self, inputs: "Arrays") -> None:
        import numpy as np

        file = self._scratch / "input"
        (array,) = inputs
        if self._tool.kind == tool.OURS:
            array.astype(np.float32).tofile(file)
        else:
            np.savetxt(file, array.reshape(1, -1), fmt="%.9g")  # as many digits as tell any two of float32 apart
        self._shape = array.shape
        self._adb.push(file, f"{self._folder}/input")

    def run(self) -> None:
        self._last = self._start(warmup=0, repeats=1, output=True)

    def fetch(self) -> "Arrays":
        import numpy as np

        if len(self._last.outputs) != 1:
            raise Unsupported(f"the model has {len(self._last.outputs)} outputs", "one can be checked on a phone")
        file = self._scratch / "output"
        self._adb.pull(f"{self._folder}/output", file)
        try:
            binary = self._tool.kind == tool.OURS
            values = np.fromfile(file, np.float32) if binary else np.loadtxt(file, np.float32, ndmin=1)
            return [values.reshape(self._last.outputs[0][0])]
        except ValueError as error:
            raise Failed(f"the output of {self._tool.kind} cannot be read", last_line(error)) from error

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {"compute": self.run}

    def effective(self) -> dict[str, Any]:
        """The tool, by its hash and version, and the cores that its threads were seen to be bound to."""
        return {"tool": self._tool.kind, "tool_sha256": self._tool.sha256, "tool_version": self._version()}

    def _version(self) -> str:
        return tool.version(self._adb.shell(self._command(["--version"]), retry=True).out)

    def measure(
        self,
        settings: Settings,
        clock: Clock | None = None,  # noqa: ARG002 - the phone's own is what counts
        shoot: Callable[[Interval], object] | None = None,  # noqa: ARG002 - the probe would run on another machine
    ) -> Measurement:
        """Several starts of the tool on the last input fed, with looks at the phone before, between and after."""
        if settings.intervals != ("compute",):
            raise Unsupported(f"{self._tool.kind} times compute alone", f"asked for {', '.join(settings.intervals)}")
        expected = self._last.outputs
        warmup = WARMUP if settings.warmup is None else settings.warmup
        repeats = settings.iterations or self._repeats(settings)
        waited = self._cooled(settings)
        before = phone.condition(self._read)
        affinity, during = self._look_at_work(self._last.samples_ns[0])
        starts = []
        for _ in range(STARTS):
            starts.append(self._start(warmup, repeats))
            _require_same(starts[-1].outputs, expected)
            during.append(phone.glance(self._read))
        after = phone.condition(self._read)
        self._account = self._account_of(before, during, after, waited, affinity)
        samples = Samples(
            samples_ns=tuple(sample for start in starts for sample in start.samples_ns),
            warmup_ns=tuple(sample for start in starts for sample in start.warmup_ns),
            loops=starts[0].loops,
        )
        return Measurement({"compute": samples}, starts[0].load_ns, starts[0].first_ns, timer="device")

    def account(self) -> Account | None:
        return self._account

    def close(self) -> None:
        self._closing.close()

    def _repeats(self, settings: Settings) -> int:
        """As many as fill a repetition's share of the budget, by the inference that was run last."""
        wanted = settings.budget_s * SHARE_OF_BUDGET / STARTS * 1e9 / self._last.samples_ns[0]
        return max(LEAST_REPEATS, min(MOST_REPEATS, round(wanted)))

    def _cooled(self, settings: Settings) -> cooling.Waited:
        start = msgspec.convert(self._setup.found["start"], Condition, strict=False)
        limit_s = min(MOST_WAIT_S, settings.timeout_s / 3)
        return cooling.wait_until_cool(lambda: phone.condition(self._read), start, limit_s, time.sleep, time.monotonic)

    def _look_at_work(self, latency_ns: int) -> tuple[dict[int, tuple[int, ...]], list[Condition]]:
        """Where its threads may run, and clocks and heat, while a start that isn't timed is at work."""
        repeats = max(1, round(LOOK_S * 1e9 / latency_ns))
        looking = "; ".join(f"sleep {PAUSE_S}; echo '{NEXT}'; {phone.GLANCE}" for _ in range(cooling.LEAST_GLANCES))
        script = (
            f"{self._command(tool.arguments(self._tool, self._asked(0, repeats)))} >/dev/null 2>&1 & p=$!; "
            f"{looking}; echo '{NEXT}'; cat /proc/$p/task/*/status; kill $p; wait $p"
        )
        _, *parts = self._shell(script).out.split(NEXT + "\n")
        return phone.affinity(parts[-1]), [phone.glance(partial(_text, part)) for part in parts[:-1]]

    def _account_of(
        self,
        before: Condition,
        during: list[Condition],
        after: Condition,
        waited: cooling.Waited,
        affinity: dict[int, tuple[int, ...]],
    ) -> Account:
        case = self._setup.case
        cores = phone.cores_for(self._phone, before, case.threads, self._power_mode)
        work = cooling.Work(threads=case.threads, cores=cores, affinity=affinity)
        told = {
            "before": phone.facts(before),
            "during": [phone.facts(each) for each in during],
            "after": phone.facts(after),
            "waited_s": waited.seconds,
            "affinity": {str(thread): list(cpus) for thread, cpus in affinity.items()},
            "connection_losses": self._losses,
        }
        each = "each inference" if self._tool.kind == tool.OURS else "a mean of as many as its loops say"
        return Account(
            semantics={
                "compute": f"a synchronous inference of the whole batch on the phone, timed there by {self._tool.kind}: "
                f"{each}, the input set once"
            },
            requested={"cpus": list(cores), "power_mode": self._power_mode},
            telemetry={"phone": told},
            validity=cooling.deviations(self._phone, work, before, during, after, waited),
        )

    @property
    def _power_mode(self) -> int:
        return int(self._setup.options["power_mode"])

    def _asked(self, warmup: int, repeats: int, output: bool = False) -> Asked:
        return Asked(
            model=self._model,
            input_shape=self._shape,
            threads=self._setup.case.threads,
            warmup=warmup,
            repeats=repeats,
            power_mode=self._power_mode,
            backend=target_of(self._tool.abi),
            input_path=f"{self._folder}/input",
            output_path=f"{self._folder}/output" if output else None,
            result_path=f"{self._folder}/result" if self._tool.dialect.result else None,
        )

    def _start(self, warmup: int, repeats: int, output: bool = False) -> Start:
        """One start, and what it printed. Raises Failed for anything in doubt."""
        asked = self._asked(warmup, repeats, output)
        command = self._command(tool.arguments(self._tool, asked))
        answer = self._shell(f"rm -f {shlex.quote(self._folder)}/result; {command}")
        if answer.code:
            raise Failed(
                f"{self._tool.kind} {_end(answer.code)}", _last(answer.err or answer.out), log=answer.out + answer.err
            )
        if self._tool.kind == tool.OURS:
            run = report.parse_samples(answer.out)
            report.check_samples(run, asked)
            return _of_run(run)
        copy = self._adb.read(["cat", f"{self._folder}/result"])
        printed = report.parse(answer.out, copy, answer.err)
        report.check(printed, asked)
        return _of_report(printed, repeats)

    def _shell(self, script: str) -> adb.Answer:
        """A start that the connection was lost in is made once more, whole: nothing of the first counts."""
        try:
            return self._adb.shell(script, RUN_TIMEOUT_S)
        except adb.Lost:
            self._losses += 1
            self._adb.reconnect()
            return self._adb.shell(script, RUN_TIMEOUT_S)


def _refuse_another(seen: phone.Phone, found: dict[str, Any]) -> None:
    """That it is the phone which the run was planned for."""
    planned = msgspec.convert(found["phone"], phone.Phone, strict=False)
    if (seen.serial_sha256, seen.fingerprint) != (planned.serial_sha256, planned.fingerprint):
        raise Unavailable(
            "another phone is connected", f"{seen.name} where {planned.name} was", "connect that one again"
        )


def target_of(abi: str) -> str:
    """What opt converts for, and the tool is told, for a phone's ABI."""
    return tool.TARGETS[abi]


def _of_run(run: report.Run) -> Start:
    outputs = tuple((each.shape, each.mean or 0.0, each.deviation or 0.0) for each in run.outputs)
    return Start(run.load_ns, run.first_ns, run.samples_ns, 1, run.warmup_ns, outputs)


def _of_report(printed: report.Report, repeats: int) -> Start:
    if printed.init_ns is None or printed.first_ns is None:
        raise Failed(
            f"{tool.UPSTREAM} says no times of loading and of the first run", "", "use a build of 2.10 or newer"
        )
    outputs = tuple((each.shape, each.mean, each.deviation) for each in printed.outputs)
    return Start(printed.init_ns, printed.first_ns, (printed.avg_ns,), repeats, (), outputs)


def _require_same(outputs: Outputs, expected: Outputs) -> None:
    """That what was timed computes what was checked: shape, mean and deviation of each output."""
    for (shape, mean, deviation), (right_shape, right_mean, right_deviation) in zip(outputs, expected, strict=True):
        off = max(abs(mean - right_mean), abs(deviation - right_deviation))
        if shape != right_shape or off > OUTPUT_TOLERANCE * max(abs(right_mean), right_deviation):
            raise Failed(
                "what was timed gave another output than what was checked",
                f"mean {mean:g} and deviation {deviation:g}, not {right_mean:g} and {right_deviation:g}",
            )


def _end(code: int) -> str:
    """How a program ended: a shell says 128 and the signal's number for one that was killed."""
    names = {128 + number.value: number.name for number in signal.Signals}
    return f"died of {names[code]} on the phone" if code in names else f"ended with exit code {code} on the phone"


def _text(text: str, _: str) -> str:
    """For a reader of the phone that has read already."""
    return text


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"
