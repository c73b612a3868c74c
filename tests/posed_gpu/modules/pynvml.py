"""NVML of the posed machine. Under load its GPUs run at full clocks; at rest they idle."""

import sys
import time
from types import SimpleNamespace

from fakes.nvml import Nvml, process
from posed import GPUS, LOST, MACHINE, load, users

load("pynvml")

#: what differs between a GPU at rest and one that computes
STATES = {
    "nvmlDeviceGetClockInfo": ({1: 300, 2: 405}, {1: 1590, 2: 5000}),
    "nvmlDeviceGetCurrentClocksEventReasons": (0x1, 0x0),
    "nvmlDeviceGetPerformanceState": (8, 0),
    "nvmlDeviceGetPowerUsage": (10_000, 65_000),
    "nvmlDeviceGetCurrPcieLinkGeneration": (1, 3),
    "nvmlDeviceGetUtilizationRates": (SimpleNamespace(gpu=0, memory=0), SimpleNamespace(gpu=97, memory=40)),
}


class PosedNvml(Nvml):
    """`machine.json` has under `nvml` answers that hold always, under `busy` those while a worker is on the GPU: a
    value, {"error": name}, {"hang_s": time}, or {"cycle": values} that change every 100 ms."""

    def __init__(self):
        super().__init__(
            nvmlSystemGetDriverVersion=MACHINE["driver"],
            nvmlSystemGetCudaDriverVersion_v2=MACHINE["cuda"],
            nvmlDeviceGetCount=len(GPUS),
            nvmlDeviceGetHandleByIndex=lambda index: GPUS[index],
            nvmlDeviceGetHandleByUUID=lambda uuid: self._one("uuid", uuid),
            nvmlDeviceGetHandleByPciBusId=lambda bus: self._one("bus", bus),
            nvmlDeviceGetName=lambda gpu: gpu["name"],
            nvmlDeviceGetUUID=lambda gpu: gpu["uuid"],
            nvmlDeviceGetPciInfo=lambda gpu: SimpleNamespace(busId=gpu["bus"]),
            nvmlDeviceGetCudaComputeCapability=lambda gpu: tuple(gpu["capability"]),
            nvmlDeviceGetMigMode=self._mig,
            nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=gpu["memory_bytes"], used=300 << 20),
            nvmlDeviceGetComputeRunningProcesses=lambda gpu: list(map(process, self._pids(gpu))),
        )
        for name, states in STATES.items():
            self.answers[name] = lambda gpu, *which, states=states: self._told(states[bool(users(gpu))], which)
        for name, answer in MACHINE["nvml"].items():
            self.answers[name] = lambda *arguments, answer=answer: self._told(answer, arguments[1:])
        for name, answer in MACHINE["busy"].items():
            rest = self.answers[name]
            self.answers[name] = lambda gpu, *which, answer=answer, rest=rest: (
                self._told(answer, which) if users(gpu) else rest(gpu, *which) if callable(rest) else rest
            )

    def __getattr__(self, function):
        if function.startswith("nvmlDevice") and function != "nvmlDeviceGetCount" and LOST.exists():
            return self._lost
        return super().__getattr__(function)

    def _lost(self, *arguments):
        raise self.error("GpuIsLost")

    def _one(self, field, value):
        found = [gpu for gpu in GPUS if gpu[field] == value]
        if not found:
            raise self.error("Unknown")
        return found[0]

    def _pids(self, gpu):
        """In a container they are the host's, which counts processes otherwise."""
        return [*(pid + MACHINE["pid_offset"] for pid in users(gpu)), *MACHINE["strangers"]]

    def _mig(self, gpu):
        if gpu["mig"]:
            return [1, 1]
        raise self.error("NotSupported")

    def _told(self, answer, which):
        if not isinstance(answer, dict):
            return answer
        if "hang_s" in answer:
            time.sleep(answer["hang_s"])
            return 0
        if "error" in answer:
            raise self.error(answer["error"])
        if "cycle" in answer:
            values = answer["cycle"]
            return values[time.monotonic_ns() // 100_000_000 % len(values)]
        return answer[which[0]]


library = PosedNvml()
library.__spec__ = __spec__
sys.modules[__name__] = library
