"""Whether mypy catches what a vendor's API lacks: `python tests/gpu/mistyped.py`.

No installed package tells mypy of these names: the Protocols do, unless somewhere an Any has got in between. So wrong
uses are put beside right ones, and then every vendor's name in bench is misspelt where it is used.
"""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from protocols import members, protocols

from bench import cuda, onnx_api, ort_api, paddle_api
from bench.backends.tensorrt import api
from bench.gpu import nvml_api

ROOT = Path(__file__).parents[2]
MODULES = (api, cuda, nvml_api, onnx_api, ort_api, paddle_api)
#: Paddle's networks, makers of ONNX models and phones' runtimes: Python without types, or of our own
UNTYPED = ("bench/export.py", "bench/weights.py", "bench/selfcheck/layer.py", "bench/backends/paddle_lite/")
HEAD = """
from pathlib import Path

from bench import cuda, onnx_api, ort_api, paddle_api
from bench.backends.tensorrt import api, session
from bench.gpu import nvml, nvml_api


def uses(
    trt: api.Trt,
    config: api.Config,
    context: api.Context,
    engine: api.Engine,
    layer: api.Layer,
    opened: session.TensorRtSession,
    runtime: cuda.Cuda,
    cudart: cuda.Api,
    stream: cuda.Handle,
    pynvml: nvml_api.Pynvml,
    gpu: nvml_api.Handle,
    ort: ort_api.Ort,
    inference: ort_api.Session,
    binding: ort_api.Binding,
    paddle: paddle_api.Paddle,
    configuration: paddle_api.Configuration,
    predictor: paddle_api.Predictor,
    onnx: onnx_api.Onnx,
    shapes: onnx_api.Inference,
    model: onnx_api.Model,
    paddle2onnx: onnx_api.Paddle2Onnx,
) -> None:
"""
#: what is right, and what mypy must not let pass
PAIRS = [
    # TensorRT: members of enumerations, methods, arguments, what None may come of
    ("trt.BuilderFlag.TF32", "trt.BuilderFlag.FP17"),
    ("trt.LayerType.QUANTIZE", "trt.LayerType.QUANTISE"),
    ("config.set_flag(trt.BuilderFlag.TF32)", "config.set_flag(trt.LayerType.QUANTIZE)"),
    ("api.flag(trt, 'FP16')", "api.flag(trt, 'FP17')"),
    ("api.data_type(trt, 'HALF')", "api.data_type(trt, 'FP16')"),
    ("layer.type == trt.LayerType.QUANTIZE", "layer.type == trt.MemoryPoolType.WORKSPACE"),
    ("context.execute_async_v3(int(stream))", "context.execute_async_v2(int(stream))"),
    ("context.execute_async_v3(int(stream))", "context.execute_async_v3(stream)"),
    ("engine.get_tensor_name(0)", "engine.get_binding_name(0)"),
    ("config.builder_optimization_level = 3", "config.max_workspace_size = 3"),
    ("opened._insist('', context.set_input_shape, 'x', (1,))", "opened._insist('', context.set_input_shape, 'x', 1)"),
    # the CUDA runtime
    ("cudart.cudaEventElapsedTime(stream, stream)", "cudart.cudaEventElapsedTime_v2(stream, stream)"),
    ("cudart.cudaMemcpyKind.cudaMemcpyHostToDevice", "cudart.cudaMemcpyKind.cudaMemcpyHostToDevise"),
    (
        "cudart.cudaStreamBeginCapture(stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)",
        "cudart.cudaStreamBeginCapture(stream, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)",
    ),
    ("cudart.cudaStreamNonBlocking", "cudart.cudaStreamNonBlocked"),
    ("runtime.check(cudart.cudaGetDeviceProperties(0)).major", "cudart.cudaGetDeviceProperties(0).major"),
    ("runtime.check(cudart.cudaMallocHost(1))", "runtime.check(cudart.cudaHostMalloc(1))"),
    # NVML: getters, constants, errors, handles, results
    ("pynvml.nvmlDeviceGetPowerUsage(gpu)", "pynvml.nvmlDeviceGetPowerUse(gpu)"),
    (
        "pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM)",
        "pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SMS)",
    ),
    ("pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM)", "pynvml.nvmlDeviceGetClockInfo(gpu)"),
    ("pynvml.NVMLError_LibraryNotFound", "pynvml.NVMLError_LibraryMissing"),
    ("pynvml.nvmlDeviceGetName(gpu)", "pynvml.nvmlDeviceGetName(0)"),
    ("pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu", "pynvml.nvmlDeviceGetUtilizationRates(gpu).cpu"),
    (
        "nvml.FACTS['vbios'] = lambda nvml, gpu: nvml.nvmlDeviceGetVbiosVersion(gpu)",
        "nvml.FACTS['vbios'] = lambda nvml, gpu: nvml.nvmlDeviceGetBiosVersion(gpu)",
    ),
    (
        "nvml.STATES['power_mw'] = lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu)",
        "nvml.STATES['power_mw'] = lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu)",
    ),
    # ONNX Runtime
    ("inference.run_with_iobinding(binding)", "inference.run_with_io_binding(binding)"),
    ("ort.GraphOptimizationLevel.ORT_ENABLE_ALL", "ort.GraphOptimizationLevel.ORT_ENABLE_NONE"),
    ("ort.get_available_providers()", "ort.available_providers()"),
    # Paddle
    ("predictor.get_input_handle('x')", "predictor.get_input_tensor('x')"),
    ("configuration.enable_use_gpu(100, 0)", "configuration.enable_gpu(100, 0)"),
    ("paddle.device.cuda.device_count()", "paddle.device.cuda.devices_count()"),
    # ONNX and Paddle2ONNX
    ("onnx.load(Path('m.onnx')).graph.node[0].op_type", "onnx.load(Path('m.onnx')).graph.node[0].operator"),
    ("shapes.infer_shapes(model, data_prop=True)", "shapes.infer_shapes(model, data_propagation=True)"),
    (
        "paddle2onnx.export('', '', '', opset_version=13, optimize_tool='None')",
        "paddle2onnx.export('', '', '', opset_version=13, optimise_tool='None')",
    ),
]


class Site(NamedTuple):
    """Where a name is used: the line on which its expression begins, and the line and column, in bytes, after it."""

    file: str
    line: int
    name: str
    last: int
    end: int


def mypy(folder, *arguments):
    """(file, line, message) of each error."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        sys.exit(f"mypy ended with {done.returncode}: {done.stdout}{done.stderr}")
    found = re.findall(r"^(.+?):(\d+): error: (.*)", done.stdout, re.MULTILINE)
    return [(file, int(line), message) for file, line, message in found]


def mistaken():
    """Of the pairs what mypy lets pass, or rejects for nothing."""
    lines = [line for pair in PAIRS for line in pair]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(HEAD + "".join(f"    {line}\n" for line in lines))
        errors = {line - HEAD.count("\n") - 1: message for _, line, message in mypy(ROOT, str(program))}
    passed = [f"mypy lets pass: {line}" for index, line in enumerate(lines) if index % 2 and index not in errors]
    rejected = [f"mypy rejects: {errors[index]}" for index in errors if index not in range(1, len(lines), 2)]
    return passed + rejected


def vendor_names():
    """The members of Protocols, but for words that others use, too."""
    found = set().union(*(members(protocol) for module in MODULES for protocol in protocols(module)))
    return {name for name in found if not name.startswith("_") and ("_" in name or not name.islower())}


def sources():
    """What is in each file of bench that uses a vendor's API by Protocols."""
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in ROOT.glob("bench/**/*.py")}
    return {file: content for file, content in files.items() if not file.startswith(UNTYPED)}


def sites(contents):
    names = vendor_names()
    for file, content in contents.items():
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Attribute) and node.attr in names:
                yield Site(file, node.lineno, node.attr, node.end_lineno, node.end_col_offset)


def misspelt(content, at):
    lines = content.split(b"\n")
    for site in sorted(at, key=lambda site: site.end, reverse=True):
        line = lines[site.last - 1]
        lines[site.last - 1] = line[: site.end] + b"_x" + line[site.end :]
    return b"\n".join(lines)


def unchecked(contents, wanted):
    """Those of the sites at which mypy lets a misspelt name pass.

    What such a name gives has no type, so mypy says nothing of the names after it: those have their turn once it is
    mended.
    """
    left = set(wanted)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "bench", folder / "bench")
        shutil.copy(ROOT / "pyproject.toml", folder)
        while left:
            for file, content in contents.items():
                (folder / file).write_bytes(misspelt(content, [site for site in left if site.file == file]))
            named = ((file, line, re.search(r'"(\w+)_x"', message)) for file, line, message in mypy(folder))
            told = {(file, line, name[1]) for file, line, name in named if name}
            caught = {site for site in left if site[:3] in told}
            if not caught:
                break
            left -= caught
    return sorted(left)


def main():
    contents = sources()
    wanted = list(sites(contents))
    passed = [f"mypy lets pass: {site.file}:{site.line}: {site.name}" for site in unchecked(contents, wanted)]
    if wrong := [*mistaken(), *passed]:
        sys.exit("\n".join(wrong))
    print(f"mypy tells {len(PAIRS)} wrong uses from right ones, and misspelt names at {len(wanted)} places of bench")


if __name__ == "__main__":
    main()
