"""Poses as benchmark_bin or bench_lite with figures that are known: no model is computed, and no time taken.

`behaviour.json` beside it says what to do otherwise, and at which of its starts; each start adds a line to `starts`.
"""

import array
import json
import math
import os
import signal
import sys
import time
import zlib
from pathlib import Path

HERE = Path(__file__).parent
#: of each generation, what its --help names
FLAGS = {
    "2.13": "optimized_model_file input_data_path output_data_path result_path backend",
    "2.10": "optimized_model_file input_data_path result_path backend",
    "2.9": "optimized_model_path input_data_path result_path",
    "2.6": "optimized_model_path input_img_path result_filename",
    "3.0": "model",
}
ALWAYS = "input_shape threads power_mode warmup repeats"
#: latencies of an inference alone, of a short start, and of the timed starts one after the other
PARITY_MS, SHORT_MS, TIMED_MS = 90.0, 20.0, (12.5, 13.5, 14.5)
#: warm-ups and repeats of a short start
SHORT = ("3", 3)
#: where Paddle Lite binds its threads on a Snapdragon 855, by their number
ALLOWED = {1: "7", 2: "6-7", 4: "4-7"}
ELEMENTS = 10
LITE = "v2.13-fake"


def main():
    given = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
    behaviour = json.loads((HERE / "behaviour.json").read_text())
    step = step_of(given)
    number = note(given, step)
    does = behaviour.get(step, "")
    if does == "exit":
        print("it went wrong", file=sys.stderr)
        sys.exit(1)
    if does == "abort":
        os.abort()
    if does == "hang":
        time.sleep(600)
    if does == "linker":
        print('CANNOT LINK EXECUTABLE "benchmark_bin": library "libx.so" not found', file=sys.stderr)
        sys.exit(1)
    if step == "help":
        flags = f"{ALWAYS} {FLAGS[behaviour.get('generation', '2.13')]}".split()
        print("\n".join(f'    -{flag} (...) type: string default: ""' for flag in flags))
        sys.exit(1)
    if step == "version":
        print(f"benchmark_bin version {behaviour.get('lite', LITE)}")
        return
    if step == "look" and does != "brief":
        time.sleep(60)
    print_text(does, report(given, behaviour, step, number, does))


def step_of(given):
    for name in ("help", "version"):
        if name in given:
            return name
    runs = int(given.get("repeats") or given["iterations"])
    if (given["warmup"], runs) == SHORT:
        return "short"
    if given["warmup"] != "0":
        return "timed"
    return "parity" if runs == 1 else "look"


def note(given, step):
    """How many starts there were before at this step."""
    file = HERE / "starts"
    earlier = [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []
    with file.open("a") as starts:
        starts.write(json.dumps({"step": step, "pid": os.getpid(), **given}) + "\n")
    return earlier.count(step)


def print_text(does, text):
    if does == "segv":
        sys.stdout.write(text[: len(text) // 2])
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if does == "cut":
        text = text[: len(text) // 2]
    if does == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe\x00 no report \x1b[2J\n")
        return
    sys.stdout.write(text)


def values_of(given):
    path = given.get("input") or given["input_data_path"]
    if "input" in given:
        numbers = array.array("f", Path(path).read_bytes())
    else:
        numbers = [float(word) for word in Path(path).read_text().split()]
    mean = math.fsum(numbers) / len(numbers)
    return [mean + index for index in range(ELEMENTS)]


def report(given, behaviour, step, number, does):
    values = values_of(given)
    if does == "statistics":
        values = [value + 1 for value in values]
    known = {"timed": TIMED_MS[number % 3], "short": behaviour.get("short_ms", SHORT_MS)}
    latency_ms = known.get(step, PARITY_MS)
    if "input" in given:
        write(given.get("output"), array.array("f", values).tobytes(), does)
        return line(given, values, latency_ms, behaviour, does)
    write(given.get("output_data_path"), "".join(f"{value:.9g}\n" for value in values).encode(), does)
    text = sections(given, values, latency_ms, behaviour, does)
    avg = f"avg   = {latency_ms:.3f}"
    other = text.replace(avg, f"avg   = {latency_ms + 0.1:.3f}") if does == "differing" else text
    write(given.get("result_path"), other.encode(), does)
    return text + "\n"


def write(path, content, does):
    if path and does != f"no {Path(path).name}":
        Path(path).write_bytes({"empty": b"", "letters": b"x\n"}.get(does, content))


def statistics(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def sections(given, values, latency_ms, behaviour, does):
    mean, deviation = statistics(values)
    threads = "8" if does == "threads" else given["threads"]
    spread = min(0.5, latency_ms / 2) if int(given["repeats"]) > 1 else 0.0
    times = {"init": 30.0, "first": 40.0 if spread else latency_ms, "min": latency_ms - spread}
    times |= {"max": latency_ms + spread, "avg": math.nan if does == "nan" else latency_ms}
    outputs = 2 if does == "two" else 1
    lines = [
        *(["[I 11/21 21: 8: 6.968 profiler.cc:51 Summary] x"] if does == "profile" else []),
        "",
        "======= Model Info =======",
        f"optimized_model_file: {given['optimized_model_file']}",
        f"input_data_path: {given['input_data_path']}",
        f"input_shape: {given['input_shape']}",
        f"output tensor num: {outputs}",
        *(
            line
            for index in range(outputs)
            for line in (
                f"--- output tensor {index} ---",
                f"output shape(NCHW): 1 {len(values)} ",
                f"output tensor {index} elem num: {len(values)}",
                f"output tensor {index} mean value: {'nan' if does == 'nan output' else f'{mean:.6g}'}",
                f"output tensor {index} standard deviation: {deviation:.6g}",
            )
        ),
        "",
        "======= Runtime Info =======",
        f"benchmark_bin version: {behaviour.get('lite', LITE)}",
        f"threads: {threads}",
        *(f"{name}: {given[name]}" for name in ("power_mode", "warmup", "repeats", "result_path")),
        "",
        "======= Backend Info =======",
        f"backend: {given['backend']}",
        "cpu precision: fp32",
        "",
        "======= Perf Info =======",
        "Time(unit: ms):",
        *(f"{name:<6}= {f'{value:.3f}':<12}" for name, value in times.items()),
        "",
    ]
    return "\n".join(lines)


def line(given, values, latency_ms, behaviour, does):
    mean, deviation = statistics(values)
    threads = int(given["threads"])
    allowed = behaviour.get("allowed", ALLOWED[threads])
    latency_ns = round(latency_ms * 1e6)
    facts = {
        "bench_lite": 1,
        "lite_version": behaviour.get("lite", LITE),
        "model": given["model"],
        "input_shape": given["input-shape"],
        "threads": 8 if does == "threads" else threads,
        "power_mode": int(given["power-mode"]),
        "warmup": int(given["warmup"]),
        "iterations": int(given["iterations"]),
        "load_ns": 30_000_000,
        "first_ns": 40_000_000,
        "warmup_ns": [latency_ns] * int(given["warmup"]),
        "samples_ns": [latency_ns + index for index in range(int(given["iterations"]))],
        "ticks_per_s": 100,
        "tasks": [{"id": 812 + index, "cpu": 7, "allowed": allowed, "ticks": 5} for index in range(threads)],
        "outputs": [{"shape": [1, len(values)], "elements": len(values), "mean": mean, "deviation": deviation}],
    }
    text = json.dumps(facts, separators=(",", ":"))[:-1]
    wrong = 1 if does == "checksum" else 0
    return f'{text},"crc32":"{zlib.crc32(text.encode()) ^ wrong:08x}"}}\n'


if __name__ == "__main__":
    main()
