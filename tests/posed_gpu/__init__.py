"""A machine with NVIDIA GPUs that aren't there, for whole runs of `bench` with real workers.

Modules and metadata of `pynvml`, `cuda.bindings.runtime` and `tensorrt`, if asked also of `onnxruntime-gpu`, lie in
front on PYTHONPATH. They are the fakes of tests/fakes in real time. What an engine computes is computed for real, by
ONNX Runtime on the CPU.
"""

import json
import os
import shutil
from pathlib import Path

import psutil
from command import bench, start

from bench import store

TESTS = Path(__file__).resolve().parents[1]
MODULES = TESTS / "posed_gpu" / "modules"
T4 = {
    "name": "Tesla T4",
    "uuid": "GPU-aaaa1111-0000-4000-8000-000000000001",
    "bus": "00000000:00:1E.0",
    "capability": (7, 5),
    "memory_bytes": 16 << 30,
    "mig": False,
}
V100 = {
    **T4,
    "name": "Tesla V100-SXM2-16GB",
    "uuid": "GPU-bbbb2222-0000-4000-8000-000000000002",
    "bus": "00000000:00:1F.0",
    "capability": (7, 0),
}
#: of each generation what pip would have installed, with the driver and the CUDA of its time
STACKS = {
    "8.6": {"dists": {"tensorrt": "8.6.1", "cuda-bindings": "12.9.9"}, "driver": "535.183.01", "cuda": 12020},
    "10.4": {"dists": {"tensorrt-cu12": "10.4.0", "cuda-bindings": "12.9.9"}, "driver": "535.183.01", "cuda": 12020},
    "10.16": {
        "dists": {"tensorrt-cu12": "10.16.1.11", "cuda-bindings": "12.9.9"},
        "driver": "550.163.01",
        "cuda": 12040,
    },
    "11.4": {"dists": {"tensorrt-cu13": "11.4.0.106", "cuda-bindings": "13.0.3"}, "driver": "580.95.05", "cuda": 13000},
}
#: how long an inference of one image takes, how much later the host comes to know of its end, and how long a copy takes
SPAN_NS, WAKING_NS, COPY_NS = 2_000_000, 150_000, 100_000
#: by how much the shortest of 40 is longer at most, on a test machine that has other things to do
SLACK_NS = 2_000_000
OF_THIS_MACHINE = ("preempted", "no_steady_state", "swapping")


class PosedMachine:
    """One with a T4 and TensorRT 10.16, where nothing else is said; `become` changes it.

    `span_ns` is the time that an inference of one image takes the GPU, of one build after the other. What else it can
    be told stands in the modules.
    """

    def __init__(self, folder, cache, **traits):
        self.folder, self.cache, self.results = folder, cache, folder / "results"
        self.site = folder / "site"
        self.become(**traits)

    def become(self, generation="10.16", **traits):
        """It is another machine from now on: a number of build goes on, all else begins anew."""
        stack = STACKS[generation]
        about = {
            "generation": generation,
            "driver": stack["driver"],
            "cuda": stack["cuda"],
            "runtime": stack["cuda"] // 1000 * 1000,
            "gpus": [T4],
            "span_ns": [SPAN_NS],
            "waking_ns": WAKING_NS,
            "copy_ns": COPY_NS,
            "build_s": 0,
            "strangers": [],
            "forgets": None,
            "pid_offset": 0,
            "onnxruntime": "",
            "ort": {},
            **{name: {} for name in ("broken", "says", "errors", "breaks", "nvml", "busy")},
        }
        assert traits.keys() <= about.keys()
        self.traits = {**about, **traits}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "machine.json").write_text(json.dumps(self.traits))
        shutil.rmtree(self.site, ignore_errors=True)
        with_ort = {"onnxruntime-gpu": self.traits["onnxruntime"], "nvidia-cudnn-cu12": "9.10.2.21"}
        dists = {**stack["dists"], "nvidia-ml-py": "13.615.71", **(with_ort if self.traits["onnxruntime"] else {})}
        for name, version in dists.items():
            place = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
            place.mkdir(parents=True, exist_ok=True)
            (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    @property
    def variables(self):
        path = [
            *([MODULES.with_name("onnxruntime_gpu")] if self.traits["onnxruntime"] else []),
            MODULES,
            self.site,
            TESTS,
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        return {
            "POSED_GPU": str(self.folder),
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]]),
        }

    def install(self, program, prints):
        """A program that prints something."""
        file = self.folder / "bin" / program
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\n")
        file.chmod(0o755)

    def bench(self, *words, **variables):
        """What `bench` with these words came to, in the machine's folder."""
        return bench(self.cache, *words, cwd=self.folder, **{**self.variables, **variables})

    def start(self, *words, **options):
        """`bench` with these words, left running."""
        return start(self.cache, *words, variables=self.variables, cwd=self.folder, **options)

    def builds(self):
        """How many engines were built here."""
        file = self.folder / "builds"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def workers(self):
        """The processes on its GPUs that live."""
        noted = {int(file.name) for file in self.folder.glob("busy/*/*")}
        return [pid for pid in noted if psutil.pid_exists(pid)]

    def records(self):
        """Those of the last run, each repetition as it was last said."""
        run = max(store.read_all(self.results), key=lambda run: run.headers[0].started_at)
        assert run.damaged == 0
        return list(store.latest(run.records))

    def measured(self, *words, code=0, **variables):
        """The records of a run that ends with that exit code and shows no traceback."""
        process = self.bench(*words, **variables)
        assert process.returncode == code, process.stderr
        assert "Traceback" not in process.stderr + process.stdout
        return self.records()


def reasons(record):
    """The reasons of distrust, but for those that a busy test machine gives by itself."""
    return {each.reason: each.evidence for each in record.validity if not _of_this_machine(each)}


def _of_this_machine(found):
    of_gpus = "GPU" in found.evidence or "SM clock" in found.evidence
    return found.reason in OF_THIS_MACHINE or (found.reason in ("contended", "drifting") and not of_gpus)


def samples(record, interval):
    return record.measurement.intervals[interval].samples_ns
