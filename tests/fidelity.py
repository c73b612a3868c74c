"""Does `bench` time what the runtimes' own tools time? `nox -s fidelity` prints the answer.

For each model and runtime, our worker and the other tool run in turn, each in a fresh process on the same CPU with one
thread, several rounds, every other one in reverse order. Compared are the medians of `compute`. A model's ratio is
the median over rounds; the runtime's is the geometric mean over models, and must be within 2 %.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import backends, catalog
from bench.artifacts import Cache, default_root
from bench.jobs import Measure, Measured
from bench.prepare import Workshop, thread_environment
from bench.schema import Case, Settings

MODELS = ("MobileNetV2", "PPLCNet_x2_5", "ShuffleNetV2_x2_0", "MobileOne_S1", "DPN68")
SECONDS = 2
LIMIT = 0.02

BARE = {
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
call = lambda: session.run(None, {name: image})
""",
    "paddle": """
from paddle import inference
config = inference.Config(model, model.replace(".json", ".pdiparams"))
config.disable_glog_info()
config.set_cpu_math_library_num_threads(1)
config.enable_mkldnn()
config.enable_new_ir(True)
config.enable_new_executor(True)
config.enable_memory_optim()
predictor = inference.create_predictor(config)
handle = predictor.get_input_handle(predictor.get_input_names()[0])
handle.reshape(image.shape)
handle.copy_from_cpu(image)
call = predictor.run
""",
}
LOOP = """
import json, statistics, sys, time
import numpy
model, seconds = sys.argv[1], float(sys.argv[2])
image = numpy.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype="float32")
{open}
for _ in range(30):
    call()
samples, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    start = time.perf_counter()
    call()
    samples.append(time.perf_counter() - start)
print(json.dumps(statistics.median(samples) * 1e3))
"""


def ours(workshop: Workshop, model: str, backend_name: str) -> float:
    """Median `compute` latency in ms, as one repetition of `bench run` takes it."""
    backend, setup = backends.get(backend_name), setup_of(model, backend_name)
    job = Measure(
        setup=setup,
        settings=Settings(budget_s=SECONDS * 10),
        engine=engine_of(workshop, model, backend_name),
        reference=workshop.reference(catalog.cards()[model]).path,
    )
    answer = workshop.ask(job, thread_environment(1) | backend.environment(setup.options), cpus=_cpus())
    assert isinstance(answer, Measured), answer
    return statistics.median(answer.measurement.intervals["compute"].samples_ns) / 1e6


def setup_of(model: str, backend_name: str) -> backends.Setup:
    case = Case(model, backend_name, "cpu", "fp32", 1, 1)
    options = backends.settle(backends.get(backend_name), {})
    return backends.Setup(case, catalog.profile("cpu"), options, catalog.cards()[model].input_shape)


def engine_of(workshop: Workshop, model: str, backend_name: str) -> str:
    return workshop.engine(catalog.cards()[model], setup_of(model, backend_name)).path


def _cpus() -> tuple[int, ...]:
    return (max(os.sched_getaffinity(0)),)


def _run(command: list[str], extra: dict[str, str]) -> str:
    def pin() -> None:
        os.sched_setaffinity(0, _cpus())

    done = subprocess.run(
        command,
        env=os.environ | thread_environment(1) | extra,
        preexec_fn=pin,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def bare_loop(workshop: Workshop, model: str, backend_name: str) -> float:
    """Median in ms of a plain Python loop over the runtime's own API, on the same file."""
    backend = backends.get(backend_name)
    engine = engine_of(workshop, model, backend_name)
    script = LOOP.format(open=BARE[backend_name])
    printed = _run(
        [sys.executable, "-c", script, engine, str(SECONDS)], backend.environment(backends.settle(backend, {}))
    )
    return float(json.loads(printed.splitlines()[-1]))


def benchmark_app(workshop: Workshop, model: str, backend_name: str) -> float:
    """Median in ms as OpenVINO's own tool prints it, on the same intermediate representation."""
    engine = engine_of(workshop, model, backend_name)
    options = "-hint none -nstreams 1 -nireq 1 -api sync -nthreads 1 -infer_precision f32 -shape [1,3,224,224]"
    tool = Path(sys.executable).with_name("benchmark_app")
    printed = _run([str(tool), "-m", engine, "-d", "CPU", "-t", str(SECONDS), *options.split()], {})
    found = re.search(r"Median:\s+([\d.]+) ms", printed)
    assert found, printed
    return float(found[1])


THEIRS: dict[str, Callable[[Workshop, str, str], float]] = {
    "paddle": bare_loop,
    "onnxruntime": bare_loop,
    "openvino": benchmark_app,
}


def rounds(workshop: Workshop, model: str, backend: str, count: int) -> list[tuple[float, float]]:
    """(ours, theirs) in ms, round by round."""
    pairs = []
    for number in range(count):
        tools: list[tuple[str, Any]] = [("ours", ours), ("theirs", THEIRS[backend])]
        times = {name: tool(workshop, model, backend) for name, tool in (tools if number % 2 else reversed(tools))}
        pairs.append((times["ours"], times["theirs"]))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", action="append", choices=MODELS, help="only these")
    arguments = parser.parse_args()
    workshop = Workshop(Cache(default_root()), Settings(), (), lambda line: print(line, file=sys.stderr))
    print("| runtime | beside | model | ours ms | theirs ms | ratio |\n|---|---|---|---|---|---|")
    worst = 0.0
    for backend, theirs in THEIRS.items():
        ratios = []
        for model in arguments.model or MODELS:
            pairs = rounds(workshop, model, backend, arguments.rounds)
            ratios.append(statistics.median(mine / other for mine, other in pairs))
            mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"| {backend} | {theirs.__name__} | {model} | {mine:.3f} | {other:.3f} | {ratios[-1]:.3f} |", flush=True
            )
        mean = statistics.geometric_mean(ratios)
        worst = max(worst, abs(mean - 1))
        print(f"| {backend} | {theirs.__name__} | geometric mean | | | **{mean:.4f}** |", flush=True)
    sys.exit(f"fidelity: off by {worst:.1%}, more than {LIMIT:.0%}" if worst > LIMIT else 0)


if __name__ == "__main__":
    main()
