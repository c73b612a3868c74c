"""A phone: the tool is pushed to it and times there; what it prints counts once nothing of it is in doubt."""

import contextlib
import hashlib
import os
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench import adb, cooling, phone
from bench.backends import Account, Session, Setup
from bench.backends.paddle_lite import nb, report, tool
from bench.backends.paddle_lite.report import Task
from bench.backends.paddle_lite.tool import Asked, Tool
from bench.environment import cpu_list
from bench.errors import Failed, Unavailable, Unsupported, last_line
from bench.phone import Condition
from bench.schema import Interval, Measurement, Samples, Settings, Validity
from bench.timing import Clock

if TYPE_CHECKING:
    from bench.backends import Arrays

#: the environment variable that names the tool, or a folder of Paddle Lite that it lies in
PLACE_VARIABLE = "BENCH_PADDLE_LITE"
# A report holds one mean, so the tool is started several times for a repetition: their spread is all that is seen.
STARTS = 3
# What PaddleClas's published phone tables were made with (deploy/lite/benchmark/benchmark.sh: warm-up 10, repeats 30).
WARMUP = 10
LEAST_REPEATS, MOST_REPEATS = 30, 1000
# A short start by which the repeats are reckoned: the first inferences are up to ten times as slow as later ones.
SHORT_WARMUP, SHORT_REPEATS = 3, 3
SHARE_OF_BUDGET = 0.1
# Limits of one call: a question, a copy, a start of the tool.
ASK_S, COPY_S, RUN_S = 30.0, 300.0, 120.0
MOST_WAIT_S = 180.0
# Enough for the looks of `_look_at_work`, after which it is ended.
LOOK_S, PAUSE_S = 60.0, 0.4
NEXT = "@@@ next"
# Of the mean and deviation that the tool prints with six digits.
OUTPUT_TOLERANCE = 1e-4
NO_TOOL = f"name the tool, or Paddle Lite's folder, with --set paddle_lite.tool=PATH or {PLACE_VARIABLE}"


#: of each output its shape, mean and deviation
Outputs = tuple[tuple[tuple[int, ...], float, float], ...]


class Start(NamedTuple):
    """What one start of the tool came to; times in nanoseconds. Our own tool also tells of threads.

    `least_ns` and `most_ns` are of single inferences, which upstream's tool tells of with its mean, the only sample.
    """

    load_ns: int
    first_ns: int
    least_ns: int
    most_ns: int
    samples_ns: tuple[int, ...]
    loops: int
    warmup_ns: tuple[int, ...]
    outputs: Outputs
    tasks: tuple[Task, ...] = ()
    lite_version: str = ""

    @property
    def mean_ns(self) -> int:
        return round(sum(self.samples_ns) / len(self.samples_ns))

    def told(self) -> dict[str, int]:
        """For a record, `loops` being the number of inferences."""
        return {
            "min_ns": self.least_ns,
            "max_ns": self.most_ns,
            "avg_ns": self.mean_ns,
            "init_ns": self.load_ns,
            "first_ns": self.first_ns,
            "loops": self.loops * len(self.samples_ns),
        }


def find_tool(options: Mapping[str, str], abis: Sequence[str]) -> Tool:
    """The tool that the options or the environment name. Raises Unavailable without one that runs on such a phone."""
    place = options["tool"] or os.environ.get(PLACE_VARIABLE, "")
    if not place:
        raise Unavailable(f"no {tool.UPSTREAM} to run on the phone", "none is named", NO_TOOL)
    return tool.find(Path(place).expanduser(), ",".join(abis))


class DeviceSession(Session):
    """The tool and the model in a folder of their own on the phone, both gone again after `close`."""

    def __init__(self, engine: Path, setup: Setup) -> None:
        self._setup = setup
        self._losses = 0
        self._account = Account()
        self._fed = b""
        with contextlib.ExitStack() as opening:
            self._scratch = Path(opening.enter_context(tempfile.TemporaryDirectory()))
            self._adb = adb.choose(setup.found.get("serial", ""), ASK_S)
            self._phone = _planned(setup.found, phone.look(self._read))
            self._folder = opening.enter_context(self._adb.folder(ASK_S))
            self._tool = self._push_tool(find_tool(setup.options, self._phone.abis))
            self._opt = _checked(engine, target_of(self._tool.abi)).opt
            self._model = f"{self._folder}/{engine.name}"
            self._adb.push(engine, self._model, COPY_S)
            self._closing = opening.pop_all()

    def _read(self, script: str) -> str:
        """What a script prints; "" where it fails, as files of a phone may be denied."""
        return self._adb.shell(script, ASK_S, retry=True).out

    def _push_tool(self, found: Tool) -> Tool:
        self._program = f"{self._folder}/{found.kind}"
        for file in (found.path, *found.libraries):
            to = self._program if file == found.path else f"{self._folder}/{Path(file).name}"
            self._adb.push(Path(file), to, COPY_S)
        self._libraries = {Path(file).name: _sha256(Path(file)) for file in found.libraries}
        self._adb.read(["chmod", "755", self._program], ASK_S)
        if found.kind == tool.OURS:
            return found
        answer = self._adb.shell(self._command(["--help"]), ASK_S, retry=True)
        if not answer.out.strip():  # of a library that it lacks, the phone's linker says so on the other stream
            raise Failed(f"{found.kind} does not start on the phone", _last(answer.err), log=_readable(answer.err))
        return tool.speaking(found, _readable(answer.out))

    def _command(self, arguments: Sequence[str]) -> str:
        """In place of the shell that is told it, so that a job's process is the tool's, not that of a shell above."""
        folder = shlex.quote(self._folder)
        return f"cd {folder} && export LD_LIBRARY_PATH={folder} && exec {shlex.join([self._program, *arguments])}"

    def feed(self, inputs: "Arrays") -> None:
        import numpy as np

        (array,) = inputs
        if (content := array.tobytes()) == self._fed:
            return
        file = self._scratch / "input"
        if self._tool.kind == tool.OURS:
            array.astype(np.float32).tofile(file)
        else:
            np.savetxt(file, array.reshape(1, -1), fmt="%.9g")  # as many digits as tell any two of float32 apart
        self._shape, self._fed = array.shape, b""
        self._adb.push(file, f"{self._folder}/input", COPY_S)
        self._fed = content

    def run(self) -> None:
        self._last = self._start(0, 1, RUN_S, output=True)

    def fetch(self) -> "Arrays":
        import numpy as np

        if len(self._last.outputs) != 1:
            raise Unsupported(f"the model has {len(self._last.outputs)} outputs", "one can be checked on a phone")
        file = self._scratch / "output"
        self._adb.pull(f"{self._folder}/output", file, COPY_S)
        try:
            binary = self._tool.kind == tool.OURS
            values = np.fromfile(file, np.float32) if binary else np.array(file.read_text().split(), np.float32)
            return [values.reshape(self._last.outputs[0][0])]
        except ValueError as error:
            raise Failed(f"the output of {self._tool.kind} cannot be read", last_line(error)) from error

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {"compute": self.run}

    def effective(self) -> dict[str, Any]:
        """The tool and its libraries, by hash and version; what its threads did is known after `measure`."""
        return {
            "tool": self._tool.kind,
            "tool_sha256": self._tool.sha256,
            "tool_version": self._version(),
            "libraries_sha256": self._libraries,
        }

    def _version(self) -> str:
        return tool.version(_readable(self._read(self._command(["--version"]))))

    def measure(
        self,
        settings: Settings,
        clock: Clock | None = None,  # noqa: ARG002 - the phone's own is what counts
        shoot: Callable[[Interval], object] | None = None,  # noqa: ARG002 - the probe would run on another machine
    ) -> Measurement:
        """Several starts of the tool on the last input fed, with looks at the phone before, between and after."""
        if settings.intervals != ("compute",):
            raise Unsupported(f"{self._tool.kind} times compute alone", f"asked for {', '.join(settings.intervals)}")
        warmup = WARMUP if settings.warmup is None else settings.warmup
        limit_s = max(RUN_S, settings.timeout_s / STARTS)
        waited = self._cooled(settings)
        before = phone.condition(self._read)
        self._refuse_fewer_cores(before)
        latency_ns = self._start(SHORT_WARMUP, SHORT_REPEATS, limit_s).mean_ns
        repeats = settings.iterations or _repeats(settings, latency_ns)
        affinity, during = self._look_at_work(latency_ns)
        starts = []
        for _ in range(STARTS):
            starts.append(self._start(warmup, repeats, limit_s))
            _require_same(starts[-1].outputs, self._last.outputs)
            during.append(self._rest())
        after = phone.condition(self._read)
        self._account = self._account_of(before, during, after, waited, affinity, starts)
        return _measurement(starts)

    def account(self) -> Account | None:
        return self._account

    def semantics(self) -> dict[str, str]:
        each = "each inference" if self._tool.kind == tool.OURS else "a mean of as many as its loops say"
        return {
            "compute": "a synchronous inference of the whole batch on the phone, timed there by "
            f"{self._tool.kind}: {each}, the input set once"
        }

    def close(self) -> None:
        self._closing.close()

    def _cooled(self, settings: Settings) -> cooling.Waited:
        _, start = phone.planned(self._setup.found)
        limit_s = min(MOST_WAIT_S, settings.timeout_s / 3)
        return cooling.wait_until_cool(lambda: phone.condition(self._read), start, limit_s, time.sleep, time.monotonic)

    def _refuse_fewer_cores(self, before: Condition) -> None:
        threads = self._setup.case.threads
        if obstacle := phone.obstacle(self._phone, before, threads, self._power_mode):
            raise Unavailable(obstacle, "", "let it cool, wake it, or restart it")

    def _rest(self) -> Condition:
        """A glance between two starts: at heat and caps, as clocks are low again in milliseconds and say nothing."""
        return msgspec.structs.replace(phone.glance(self._read), khz={})

    def _look_at_work(self, latency_ns: int) -> tuple[dict[int, tuple[int, ...]], list[Condition]]:
        """Where its threads may run, and clocks and heat, while a start that isn't timed is at work."""
        repeats = max(1, round(LOOK_S * 1e9 / latency_ns))
        looking = "; ".join(f"sleep {PAUSE_S}; echo '{NEXT}'; {phone.GLANCE}" for _ in range(cooling.LEAST_GLANCES))
        script = (
            f"{{ {self._command(tool.arguments(self._tool, self._asked(0, repeats)))}; }} >/dev/null 2>&1 & p=$!; "
            f"{looking}; echo '{NEXT}'; cat /proc/$p/task/*/status; kill -KILL $p; wait $p; :"
        )
        _, *parts = self._shell(script, RUN_S).out.split(NEXT + "\n")
        threads = parts.pop() if parts else ""
        if "State:\tZ" in threads:  # it has ended, and only its parent doesn't know yet
            return {}, []
        return phone.affinity(threads), [phone.glance(_said(part)) for part in parts]

    def _account_of(
        self,
        before: Condition,
        during: list[Condition],
        after: Condition,
        waited: cooling.Waited,
        seen: dict[int, tuple[int, ...]],
        starts: Sequence[Start],
    ) -> Account:
        """What the tool told of its threads when it was timed goes before `seen`, which was of a start beside it."""
        case, last = self._setup.case, starts[-1]
        affinity = {task.id: cpus for task in last.tasks if (cpus := cpu_list(task.allowed))} or seen
        cores = phone.cores_for(self._phone, before, case.threads, self._power_mode)
        work = cooling.Work(threads=case.threads, cores=cores, affinity=affinity)
        told = {
            "before": phone.facts(before),
            "during": [phone.facts(each) for each in during],
            "after": phone.facts(after),
            "starts": [start.told() for start in starts],
            "waited_s": waited.seconds,
            "connection_losses": self._losses,
        }
        bound = {"affinity": {str(thread): list(cpus) for thread, cpus in affinity.items()}}
        told_of = {"tasks": msgspec.to_builtins(last.tasks), "lite_version": last.lite_version} if last.tasks else {}
        return Account(
            requested={"cpus": list(cores), "power_mode": self._power_mode},
            effective=bound | told_of,
            telemetry={"phone": told},
            validity=(
                *cooling.deviations(self._phone, work, before, during, after, waited),
                *_mixed(self._opt, last.lite_version),
            ),
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

    def _start(self, warmup: int, repeats: int, limit_s: float, output: bool = False) -> Start:
        """One start, and what it printed, in files of its own. Raises Failed for anything in doubt."""
        asked = self._asked(warmup, repeats, output)
        old = shlex.join(["rm", "-f", f"{self._folder}/result", f"{self._folder}/output"])
        answer = self._shell(f"{old}; {self._command(tool.arguments(self._tool, asked))}", limit_s)
        if answer.code:
            raise Failed(
                f"{self._tool.kind} {_end(answer.code)}", _last(answer.err or answer.out), log=answer.out + answer.err
            )
        if self._tool.kind == tool.OURS:
            run = report.parse_samples(answer.out)
            report.check_samples(run, asked)
            return _of_run(run)
        copy = _readable(self._adb.read(["cat", f"{self._folder}/result"], ASK_S))
        printed = report.parse(answer.out, copy, answer.err)
        report.check(printed, asked)
        return _of_report(printed, repeats)

    def _shell(self, script: str, limit_s: float) -> adb.Answer:
        """A start that the connection was lost in is made once more, whole: nothing of the first counts."""
        try:
            answer = self._adb.shell(script, limit_s)
        except adb.Lost:
            self._losses += 1
            self._adb.reconnect(self._adb.reconnect_s)
            answer = self._adb.shell(script, limit_s)
        return adb.Answer(answer.code, _readable(answer.out), _readable(answer.err))


def _planned(found: dict[str, Any], seen: phone.Phone) -> phone.Phone:
    """The phone that the run was planned for, when more of its cores may have been online. Raises Unavailable where
    another one is seen."""
    planned, _ = phone.planned(found)
    if (seen.serial_sha256, seen.fingerprint) != (planned.serial_sha256, planned.fingerprint):
        raise Unavailable(
            "another phone is connected", f"{seen.name} where {planned.name} was", "connect that one again"
        )
    return planned


def _repeats(settings: Settings, latency_ns: int) -> int:
    """As many as fill a repetition's share of the budget."""
    wanted = settings.budget_s * SHARE_OF_BUDGET / STARTS * 1e9 / latency_ns
    return max(LEAST_REPEATS, min(MOST_REPEATS, round(wanted)))


def _checked(engine: Path, target: str) -> nb.Nb:
    """What it says of itself. Raises Failed for one that is damaged or for another CPU, of which some tools would make
    garbage."""
    facts = nb.read(engine)
    if facts.targets != {target}:
        found = ", ".join(sorted(facts.targets)) or "no CPU"
        raise Failed(f"{engine.name} is for {found}", f"the tool computes on {target}")
    return facts


def _mixed(opt: str, lite: str) -> tuple[Validity, ...]:
    """Whether the model was converted by another Paddle Lite than the tool is of, whose kernels may differ."""
    if not tool.versions_differ(opt, lite):
        return ()
    return (Validity("misconfigured", f"the model was converted by Paddle Lite {opt}, the tool is of {lite}"),)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def target_of(abi: str) -> str:
    """What opt converts for, and the tool is told, for a phone's ABI."""
    return tool.TARGETS[abi]


def _of_run(run: report.Run) -> Start:
    outputs = tuple((each.shape, each.mean or 0.0, each.deviation or 0.0) for each in run.outputs)
    return Start(
        load_ns=run.load_ns,
        first_ns=run.first_ns,
        least_ns=min(run.samples_ns),
        most_ns=max(run.samples_ns),
        samples_ns=run.samples_ns,
        loops=1,
        warmup_ns=run.warmup_ns,
        outputs=outputs,
        tasks=run.tasks,
        lite_version=run.lite_version,
    )


def _of_report(printed: report.Report, repeats: int) -> Start:
    if printed.init_ns is None or printed.first_ns is None:
        raise Failed(
            f"{tool.UPSTREAM} says no times of loading and of the first run", "", "use a build of 2.10 or newer"
        )
    outputs = tuple((each.shape, each.mean, each.deviation) for each in printed.outputs)
    return Start(
        load_ns=printed.init_ns,
        first_ns=printed.first_ns,
        least_ns=printed.min_ns,
        most_ns=printed.max_ns,
        samples_ns=(printed.avg_ns,),
        loops=repeats,
        warmup_ns=(),
        outputs=outputs,
        lite_version=printed.version or "",
    )


def _measurement(starts: Sequence[Start]) -> Measurement:
    """The samples of all starts as those of one repetition; load and first inference are the first start's."""
    samples = Samples(
        samples_ns=tuple(sample for start in starts for sample in start.samples_ns),
        warmup_ns=tuple(sample for start in starts for sample in start.warmup_ns),
        loops=starts[0].loops,
    )
    return Measurement({"compute": samples}, starts[0].load_ns, starts[0].first_ns, timer="device")


def _require_same(outputs: Outputs, expected: Outputs) -> None:
    """That what was timed computes what was checked: shape, mean and deviation of each output."""
    if len(outputs) != len(expected):
        raise Failed("what was timed has other outputs than what was checked", f"{len(outputs)}, not {len(expected)}")
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


def _said(text: str) -> phone.Read:
    """A reader of the phone that has read already."""
    return lambda _: text


def _readable(text: str) -> str:
    """Without bytes that are no UTF-8, which no record could hold."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _last(text: str) -> str:
    """The last line, for a message."""
    lines = _readable(text).strip().splitlines()
    return "".join(char if char.isprintable() else "?" for char in lines[-1].strip()) if lines else "it printed nothing"
