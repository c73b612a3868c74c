"""What the published TensorRT bindings have of the names that bench uses: `python tests/gpu/surfaces.py [--write]`.

Downloads the bindings alone (about 1 MB each; neither libraries nor a GPU are needed) and imports them over empty
libraries that the C compiler makes. Compares what it finds with tests/data/tensorrt/surfaces.json, or writes that.
Those of the CUDA runtime (7 MB each) load anywhere, and must have all that bench uses, with the same arguments.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import get_args

from protocols import members as members_of

from bench.backends.tensorrt import api

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/data/tensorrt/surfaces.json"
WHEELS = {
    "8.6": "tensorrt-bindings==8.6.1",
    "10.4": "tensorrt-cu12-bindings==10.4.0",
    "10.16": "tensorrt-cu12-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
#: the releases of cuda-bindings that the extras name
CUDA = sorted(set(re.findall(r'"cuda-bindings==([\d.]+)"', (ROOT / "pyproject.toml").read_text())))
#: what each Protocol of bench/backends/tensorrt/api.py is called by TensorRT
CLASSES = {
    "Tensor": "ITensor",
    "Layer": "ILayer",
    "Network": "INetworkDefinition",
    "ParserError": "ParserError",
    "Parser": "OnnxParser",
    "Profile": "IOptimizationProfile",
    "TimingCache": "ITimingCache",
    "Config": "IBuilderConfig",
    "Builder": "Builder",
    "Context": "IExecutionContext",
    "Inspector": "EngineInspector",
    "Engine": "ICudaEngine",
    "Runtime": "Runtime",
}
#: enumerations, each a Protocol of that name, and the members that the fakes have beside those that bench uses
ENUMERATIONS = {
    "BuilderFlag": [],
    "NetworkDefinitionCreationFlag": [],
    "MemoryPoolType": [],
    "ProfilingVerbosity": [],
    "LayerInformationFormat": [],
    "LayerType": ["CONVOLUTION"],
    "DataType": ["FLOAT", "INT8"],
    "TensorIOMode": [],
    "TensorLocation": ["HOST"],
}
SEVERITIES = ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
# Functions of the libraries that the bindings want when they are loaded; the last four are of 8.6 alone.
FUNCTIONS = [
    "createInferBuilder_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "getBuilderPluginRegistry",
    "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")

# Runs in a process of its own for each generation.
LOOK = """
import importlib, json, sys
module, names, members, severities = json.loads(sys.argv[1])
trt = importlib.import_module(module)
class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, text):
        pass
try:
    trt.Builder(Logger())
    refusal = ""
except Exception as error:
    refusal = f"{type(error).__name__}: {error}"
print(json.dumps({
    "version": trt.__version__,
    "without_gpu": refusal,
    "module": [name for name in names.pop("Trt") if hasattr(trt, name)],
    "classes": {name: [each for each in wanted if hasattr(getattr(trt, name), each)] for name, wanted in names.items()},
    "enumerations": {
        name: {each: int(getattr(getattr(trt, name), each)) for each in wanted if hasattr(getattr(trt, name), each)}
        for name, wanted in members.items()
    },
    "severities": [name for name in severities if getattr(trt.ILogger, name).name == name],
}))
"""

LOOK_AT_CUDA = """
from cuda.bindings import runtime
from bench import cuda
from protocols import absent, misfits, protocols
things = {
    cuda.Api: runtime,
    cuda.CaptureModes: runtime.cudaStreamCaptureMode,
    cuda.CopyKinds: runtime.cudaMemcpyKind,
    cuda.Handle: runtime.cudaStream_t,
    cuda.Properties: runtime.cudaDeviceProp,
}
assert set(things) == protocols(cuda)
print(*sorted(absent(things) | misfits(cuda.Api, runtime)))
"""


def names(protocol):
    return sorted(name for name in members_of(protocol) if not name.startswith("_") or name == "__version__")


def used():
    """The names that bench uses, by TensorRT's name of the class; "Trt" is the module itself."""
    return {"Trt": names(api.Trt), **{real: names(getattr(api, name)) for name, real in CLASSES.items()}}


def members():
    """Of enumerations: those of every generation, those that are looked up by name, and those of the fakes."""
    by_name = {"BuilderFlag": get_args(api.TypeFlag), "DataType": get_args(api.TypeName)}
    return {
        name: [*names(getattr(api, name)), *by_name.get(name, ()), *others] for name, others in ENUMERATIONS.items()
    }


def surface(module, environ):
    """What a module has, imported in a fresh process."""
    wanted = json.dumps([module, used(), members(), SEVERITIES])
    done = subprocess.run(
        [sys.executable, "-c", LOOK, wanted], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{module} does not load: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def empty_libraries(folder):
    """Libraries whose every function returns nothing: enough to import the bindings, and for them to find no GPU."""
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for major in (8, 10, 11):
        for name in LIBRARIES:
            subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / f"lib{name}.so.{major}", source], check=True)


def look(folder):
    empty_libraries(folder)
    found = {}
    for generation, wheel in WHEELS.items():
        place = folder / generation
        download = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            place,
            wheel,
        ]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(place.glob("*.whl"))) as file:
            file.extractall(place)
        environ = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(place)}
        found[generation] = surface("tensorrt_bindings", environ)
    return found


def lacking_in_cuda(release, folder):
    """The names that a release of cuda-bindings lacks, or whose arguments are others."""
    place = folder / f"cuda-{release}"
    install = ["install", "-q", "--only-binary", ":all:", "--target", place, f"cuda-bindings=={release}"]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", LOOK_AT_CUDA], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"cuda-bindings {release} can't be looked at: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    with tempfile.TemporaryDirectory() as folder:
        found = look(Path(folder))
        lacking = {release: lacking_in_cuda(release, Path(folder)) for release in CUDA}
    for generation, names in found.items():
        print(f"{generation}: TensorRT {names['version']}; without a GPU: {names['without_gpu']}")
    for release, missing in lacking.items():
        print(f"cuda-bindings {release}: {missing or 'all there'}")
    if any(lacking.values()):
        sys.exit("the CUDA runtime's bindings are not what bench/cuda.py says")
    if parser.parse_args().write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    elif found != json.loads(KEPT.read_text()):
        sys.exit(f"{KEPT.name} is not what the published bindings have; write it anew with --write")


if __name__ == "__main__":
    main()
