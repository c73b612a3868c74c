"""What the tools print, read strictly: the figures that were printed, all of them, or Failed.

A report cut short, run together with another or disturbed by anything is never half read. Digits have no witness in
`benchmark_bin`'s text but the copy of it that the tool writes to `--result_path`; `bench_lite` adds a checksum.
"""

import re
import zlib
from pathlib import PurePosixPath
from typing import Any, NoReturn

import msgspec

from bench.backends.paddle_lite.tool import OURS, UPSTREAM, Asked
from bench.errors import Failed
from bench.schema import Frozen

COUNT = r"(0|[1-9][0-9]*)"
PHONE = ("Brand", "Device", "Model", "Android Version", "Android API Level")
TIMES = ("init  =", "first =", "min   =", "max   =", "avg   =")
#: glog's prefix, and the title of the tables that a profile build prints
LOGGED = re.compile(r"^\[[IWEF] +[0-9]+/ *[0-9]+ |Profiler Summary", re.MULTILINE)
#: what two threads print across each other before the report where memory is watched
WATCHING = r"(?:st(?:art|op) monitoring memory!|cpu usage ratio: |[0-9]+(?:\.[0-9]+)?%|\n)*"
OPTIMISING = (
    r"(?:Delete previous optimized model: [^\n]+\n)?\n======= Opt Info =======\n"
    r"Load paddle model from [^\n]+\nSave optimized model to [^\n]+\n"
)
BEFORE = re.compile(f"(?:{OPTIMISING})?{WATCHING}")
START = re.compile(r"\n======= (?:Device|Model) Info =======\n")


class Output(Frozen, frozen=True):
    """One output tensor, read as float32; `deviation` is of the population."""

    shape: tuple[int, ...]
    elements: int
    mean: float
    deviation: float


class Memory(Frozen, frozen=True):
    """What the tool saw of its own memory, to a thousandth of a MiB."""

    init_bytes: int
    peak_bytes: int


class Report(Frozen, frozen=True, kw_only=True):
    """What `benchmark_bin` measured, in integer nanoseconds, and what it says that it ran; None is not reported.

    `first_ns` is the first run, warm-up or not. `avg_ns` is an arithmetic mean that was summed in float32.
    """

    name: str
    min_ns: int
    max_ns: int
    avg_ns: int
    init_ns: int | None = None
    first_ns: int | None = None
    model: str | None = None
    version: str | None = None
    threads: int | None = None
    power_mode: int | None = None
    warmup: int | None = None
    repeats: int | None = None
    input_data: str | None = None
    input_shape: str | None = None
    result_path: str | None = None
    backend: str | None = None
    precision: str | None = None
    outputs: tuple[Output, ...] = ()
    phone: dict[str, str] = {}
    memory: Memory | None = None


class Row(Frozen, frozen=True):
    """A line of the result file of 2.9 and before; a heading above it, if any, gives the counts."""

    name: str
    min_ns: int
    max_ns: int
    avg_ns: int
    threads: int | None = None
    warmup: int | None = None
    repeats: int | None = None


class Task(Frozen, frozen=True):
    """A thread of `bench_lite`: the CPU it last ran on, those it may run on, and its CPU time in clock ticks."""

    id: int
    cpu: int
    allowed: str
    ticks: int


class Statistics(Frozen, frozen=True):
    """One output of `bench_lite`; None where its elements are not all finite."""

    shape: tuple[int, ...]
    elements: int
    mean: float | None
    deviation: float | None


class Run(Frozen, frozen=True, kw_only=True):
    """The line of `bench_lite`. Latencies are of single inferences, in integer nanoseconds.

    The first inference (`first_ns`) is neither a warm-up nor a sample. Tasks were read after the last sample.
    """

    bench_lite: int
    lite_version: str
    model: str
    input_shape: str
    threads: int
    power_mode: int
    warmup: int
    iterations: int
    load_ns: int
    first_ns: int
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    ticks_per_s: int
    tasks: tuple[Task, ...]
    outputs: tuple[Statistics, ...]


class Lines:
    """A text taken line by line, each as it must be. Raises Failed at the first that isn't."""

    def __init__(self, text: str) -> None:
        self.text, self.lines, self.at = text, text.split("\n"), 0

    def take(self, pattern: str) -> "re.Match[str]":
        found = re.fullmatch(pattern, self.lines[self.at], re.ASCII) if self.at < len(self.lines) else None
        if found is None:
            due = re.split(r"(?<!\\)[(\[]", pattern)[0].replace("\\", "")
            self.refuse(f"where {due!r} is due" if due else "where a line of another form is due")
        self.at += 1
        return found

    def peek(self, ahead: int = 0) -> str:
        """A line that isn't taken; "" after the end."""
        return self.lines[self.at + ahead] if self.at + ahead < len(self.lines) else ""

    def head(self, name: str) -> None:
        self.take("")
        self.take(f"======= {name} =======")

    def end(self) -> None:
        if self.at != len(self.lines):
            self.refuse("after the end")

    def refuse(self, why: str) -> NoReturn:
        line = repr(self.lines[self.at][:80]) if self.at < len(self.lines) else "missing"
        misread(f"line {self.at + 1} is {line}, {why}", self.text)


def misread(found: str, log: str, tool: str = UPSTREAM) -> NoReturn:
    raise Failed(f"{tool}'s output is not understood", found, log=log)


def parse(stdout: str, result_file: str | None = None, stderr: str = "") -> Report:
    """The report of 2.10 and later. `stdout` is all of it, with its last, empty line; `result_file` the copy, if any.

    Raises Failed for any other text, where the copy is not the same, and for a build that logs or profiles.
    """
    if START.search(unix(stdout)) and (LOGGED.search(stdout) or LOGGED.search(stderr)):
        raise Failed("this is a profile build", "its times are not those of the plain tool", "build it without profile")
    report = _region(stdout)
    if result_file is not None and _region(result_file) + "\n" != report:
        misread("what it printed and its result file differ", stdout)
    lines = Lines(unix(stdout))
    lines.at = len(lines.lines) - report.count("\n")  # past the blank line that the report begins with
    return _report(lines)


def _region(text: str) -> str:
    """The report from its first blank line on; before it stands only what is known to."""
    text = unix(text)
    start = START.search(text)
    if start is None:
        printed = text.strip().splitlines()[:1] or ["nothing"]
        misread(f"there is no report, it printed {printed[0][:80]!r}", text)
    if BEFORE.fullmatch(text[: start.start()]) is None:
        misread("unknown text stands before the report", text)
    return text[start.start() :]


def unix(text: str) -> str:
    """Without the carriage returns that a terminal puts before every line feed; some and not others are left."""
    return text.replace("\r\n", "\n") if text.count("\n") == text.count("\r\n") else text


def _report(lines: Lines) -> Report:
    phone = _phone(lines) if lines.peek() == "======= Device Info =======" else {}
    lines.take("======= Model Info =======")
    model = lines.take(r"optimized_model_file: ([ -~]+)")[1]
    facts: dict[str, Any] = {
        "name": PurePosixPath(model).stem,
        "model": model,
        "phone": phone,
        "input_data": lines.take(r"input_data_path: ([ -~]+)")[1],
        "input_shape": lines.take(r"input_shape: ([0-9,:]+)")[1],
        "outputs": _outputs(lines),
        **_runtime(lines),
        **_times(lines),
    }
    memory = _memory(lines)
    lines.take("")
    lines.take("")
    lines.end()
    report = Report(**facts, memory=memory)
    _credible(report, lines.text, unit_ns=1000)
    _first_is_counted(report, lines.text)
    return report


def _phone(lines: Lines) -> dict[str, str]:
    lines.take("======= Device Info =======")
    facts = {name: lines.take(f"{name}: (.*)")[1] for name in PHONE}
    lines.take("")
    return facts


def _outputs(lines: Lines) -> tuple[Output, ...]:
    count = int(lines.take("output tensor num: ([1-9][0-9]*)")[1])
    return tuple(_output(lines, index) for index in range(count))


def _output(lines: Lines, index: int) -> Output:
    lines.take(f"--- output tensor {index} ---")
    shape = tuple(map(int, lines.take(r"output shape\(NCHW\): ((?:[1-9][0-9]* )+)")[1].split()))
    number = r"(-?[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?)"
    output = Output(
        shape,
        elements=int(lines.take(f"output tensor {index} elem num: {COUNT}")[1]),
        mean=float(lines.take(f"output tensor {index} mean value: {number}")[1]),
        deviation=float(lines.take(f"output tensor {index} standard deviation: {number}")[1]),
    )
    if output.elements != _product(shape) or output.deviation < 0:
        misread(f"output {index} has {output.elements} elements in {list(shape)}", lines.text)
    return output


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _runtime(lines: Lines) -> dict[str, Any]:
    lines.head("Runtime Info")
    facts: dict[str, Any] = {"version": lines.take(r"benchmark_bin version: (\S*)")[1]}
    for name in ("threads", "power_mode", "warmup", "repeats"):
        facts[name] = int(lines.take(f"{name}: {COUNT}")[1])
    if lines.peek().startswith("run_delay(sec): "):
        lines.take(r"run_delay\(sec\): [0-9.e+-]+")
    facts["result_path"] = lines.take("result_path: ([ -~]*)")[1]
    lines.head("Backend Info")
    facts["backend"] = lines.take("backend: ([a-z0-9_]+)")[1]
    facts["precision"] = lines.take("cpu precision: (fp32|fp16)")[1]
    return facts


def _times(lines: Lines) -> dict[str, int]:
    lines.head("Perf Info")
    lines.take(r"Time\(unit: ms\):")
    return {f"{name.split()[0]}_ns": _ns(_padded(lines, name)) for name in TIMES}


def _memory(lines: Lines) -> Memory | None:
    """Of 2.12 and later; 2.10 and 2.11 have the section and say that they can't fill it."""
    if lines.peek(1) == "Memory Usage(unit: kB):":
        for pattern in ("", ".*", "init  = Not supported yet", "avg   = Not supported yet"):
            lines.take(pattern)
        return None
    if lines.peek(1) != "Memory Usage(unit: MB):":
        return None
    lines.take("")
    lines.take(".*")
    init, peak = (int(_padded(lines, name).replace(".", "")) * 2**20 // 1000 for name in ("init  =", "peak  ="))
    return Memory(init, peak)


def _padded(lines: Lines, name: str) -> str:
    """A figure, which fills twelve columns: one whose digit got lost doesn't."""
    found = lines.take(rf"{name} (((?:0|[1-9][0-9]*)\.[0-9]{{3}}) *)")
    if len(found[1]) != max(12, len(found[2])):
        lines.at -= 1
        lines.refuse("not as wide as it is printed")
    return found[2]


def _ns(milliseconds: str) -> int:
    """Exactly, of a decimal fraction with at most six places."""
    whole, places = milliseconds.split(".")
    return int(whole + places + "0" * (6 - len(places)))


def _credible(row: "Report | Row", text: str, unit_ns: int) -> None:
    """Raises Failed for figures that no n runs have: with one minimum and one maximum among them the mean keeps a
    distance of an n-th of their difference from both. Summing n floats loses up to n · 2⁻²⁴ of the mean."""
    runs = row.repeats or 2**62
    slack = unit_ns + row.avg_ns * (row.repeats or 1000) // 2**24
    away = (row.max_ns - row.min_ns) // runs - slack
    if not 0 < row.min_ns <= row.max_ns or not row.min_ns + away <= row.avg_ns <= row.max_ns - away:
        figures = f"min {row.min_ns}, avg {row.avg_ns}, max {row.max_ns} ns"
        misread(f"{figures} can't be of {row.repeats or 'any'} runs", text)


def _first_is_counted(report: Report, text: str) -> None:
    """Without a warm-up, the first run is one of those that have the minimum and the maximum."""
    if report.warmup == 0 and not report.min_ns <= (report.first_ns or 0) <= report.max_ns:
        misread(f"the first of the counted runs took {report.first_ns} ns, not between min and max", text)


def parse_result_file(text: str, swapped: bool) -> tuple[Row, ...]:
    """The result file of 2.9 and before, with the headings that `benchmark.sh` of PaddleClas writes, or without.

    `swapped`: up to 2.8, `min = ` is the largest (`Dialect.swapped`). Raises Failed for any other text.
    """
    lines = Lines(unix(text))
    rows: list[Row] = []
    counts: dict[str, int] = {}
    if lines.peek() == "PaddleLite Benchmark":
        lines.take(".*")
    while lines.at < len(lines.lines) - 1:
        if lines.peek().startswith("Threads="):
            found = lines.take(f"Threads={COUNT} Warmup={COUNT} Repeats={COUNT}")
            counts = dict(zip(("threads", "warmup", "repeats"), map(int, found.groups()), strict=True))
        elif rows and lines.peek() == "":
            lines.take("")
        else:
            rows.append(_row(lines, swapped, counts))
    lines.take("")
    if not rows:
        misread("the result file is empty", text)
    return tuple(rows)


def _row(lines: Lines, swapped: bool, counts: dict[str, int]) -> Row:
    figure = r"((?:0|[1-9][0-9]*)\.[0-9]{5}) *"
    found = lines.take(
        rf"(\S+) *min = (?=.{{12}}max){figure}max = (?=.{{12}}average){figure}average = (?=.{{12}}$){figure}"
    )
    first, second, average = map(_ns, found.groups()[1:])
    low, high = (second, first) if swapped else (first, second)
    row = Row(found[1], low, high, average, **counts)
    _credible(row, lines.text, unit_ns=10)
    return row


def parse_older(result_file: str, swapped: bool, log: str = "") -> Report:
    """The report of one run of 2.9 or before, with a result file of its own; `log` is what 2.9 wrote to stderr.

    Raises Failed for other texts, and where the log's average is not the file's.
    """
    rows = parse_result_file(result_file, swapped)
    if len(rows) != 1:
        misread(f"the result file has {len(rows)} lines, one run makes one", result_file)
    row = rows[0]
    if swapped:
        return Report(name=row.name, min_ns=row.min_ns, max_ns=row.max_ns, avg_ns=row.avg_ns)
    facts = _summary(log)
    latency_ms = float(facts.pop("latency"))
    if facts["name"] != row.name or abs(latency_ms - row.avg_ns / 1e6) > 1e-5 * max(1, latency_ms):
        misread(f"the log says {facts['name']}, {latency_ms} ms, the result file {row.name}, {row.avg_ns} ns", log)
    report = Report(**facts, min_ns=row.min_ns, max_ns=row.max_ns, avg_ns=row.avg_ns)
    _credible(report, result_file, unit_ns=10)
    return report


def _summary(log: str) -> dict[str, Any]:
    """The end of the log of 2.9; 2.9.1 puts a semicolon after each shape."""
    prefix = r"\[I [^\]]*\] "
    lines = Lines(unix(log))
    lines.at = next((n for n, line in enumerate(lines.lines) if "Summary information" in line), 0)
    lines.take(f"{prefix}--------Summary information--------")
    facts: dict[str, Any] = {
        name: lines.take(f"{prefix}model_{key}: ([ -~]+)")[1] for name, key in (("model", "path"), ("name", "name"))
    }
    for name in ("threads", "power_mode"):
        facts[name] = int(lines.take(f"{prefix}{name}: {COUNT}")[1])
    facts["input_data"] = lines.take(f"{prefix}input_data_path: ([ -~]*)")[1] or "All 1.f"
    facts["input_shape"] = lines.take(f"{prefix}input_shape: ([0-9,;]+?);?")[1].replace(";", ":")
    for name in ("warmup", "repeats"):
        facts[name] = int(lines.take(f"{prefix}{name}: {COUNT}")[1])
    facts["result_path"] = lines.take(f"{prefix}result_path: ([ -~]*)")[1]
    facts["latency"] = lines.take(rf"{prefix}latency\(ms\): ([0-9]+(?:\.[0-9]+)?)")[1]
    lines.take("")
    lines.end()
    return facts


def parse_samples(text: str) -> Run:
    """The line that `bench_lite` printed. Raises Failed for any other text, as its checksum and its counts tell."""
    found = re.fullmatch(r'(\{[^\r\n]*),"crc32":"([0-9a-f]{8})"\}\r?\n', text)
    if found is None:
        misread(f"it is not one whole line but {text[:40]!r}…", text, OURS)
    if f"{zlib.crc32(found[1].encode()):08x}" != found[2]:
        misread("its checksum is of another text", text, OURS)
    try:
        run = msgspec.json.decode(found[1] + "}", type=Run)
    except msgspec.DecodeError as error:
        misread(str(error), text, OURS)
    if wrong := _doubts(run):
        misread(", ".join(wrong), text, OURS)
    return run


def _doubts(run: Run) -> list[str]:
    times = (run.load_ns, run.first_ns, *run.warmup_ns, *run.samples_ns)
    doubts = {
        f"its schema is {run.bench_lite}, 1 is known": run.bench_lite != 1,
        f"{len(run.samples_ns)} samples of {run.iterations}": len(run.samples_ns) != run.iterations,
        f"{len(run.warmup_ns)} warm-ups of {run.warmup}": len(run.warmup_ns) != run.warmup,
        "a time is not positive": min(times) <= 0,
        "no thread or no output": not (run.tasks and run.outputs),
        "an output is not finite": any(output.mean is None or output.deviation is None for output in run.outputs),
        "an output's elements are not its shape's": any(o.elements != _product(o.shape) for o in run.outputs),
    }
    return [doubt for doubt, holds in doubts.items() if holds]


def check(report: Report, asked: Asked) -> None:
    """Raises Failed where `benchmark_bin` says that it ran something else; what it doesn't say is not compared."""
    _compare(
        UPSTREAM,
        ("model", asked.model, report.model),
        ("model", PurePosixPath(asked.model).stem, report.name),
        ("input shape", asked.shape, report.input_shape),
        ("input", asked.input_path or "All 1.f", report.input_data),
        ("threads", asked.threads, report.threads),
        ("power mode", asked.power_mode, report.power_mode),
        ("warm-ups", asked.warmup, report.warmup),
        ("repeats", asked.repeats, report.repeats),
        ("backend", asked.backend, report.backend),
        ("result file", asked.result_path or "", report.result_path),
    )


def check_samples(run: Run, asked: Asked) -> None:
    """Raises Failed where `bench_lite` says that it ran something else."""
    _compare(
        OURS,
        ("model", asked.model, run.model),
        ("input shape", asked.shape, run.input_shape),
        ("threads", asked.threads, run.threads),
        ("power mode", asked.power_mode, run.power_mode),
        ("warm-ups", asked.warmup, run.warmup),
        ("samples", asked.repeats, run.iterations),
    )


def _compare(tool: str, *pairs: tuple[str, object, object]) -> None:
    wrong = [f"{what} {found}, not {asked}" for what, asked, found in pairs if found is not None and found != asked]
    if wrong:
        raise Failed(f"{tool} ran something else than it was asked to", ", ".join(wrong))
