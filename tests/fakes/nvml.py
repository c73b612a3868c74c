"""A stand-in for the module pynvml: two GPUs whose every answer a test can change, and make fail field by field."""

from types import SimpleNamespace

#: NVML's error codes
CODES = {
    "NotSupported": 3,
    "NoPermission": 4,
    "DriverNotLoaded": 9,
    "LibraryNotFound": 12,
    "FunctionNotFound": 13,
    "GpuIsLost": 15,
    "LibRmVersionMismatch": 18,
    "Unknown": 999,
}
WORDS = {
    "NotSupported": "Not Supported",
    "NoPermission": "Insufficient Permissions",
    "DriverNotLoaded": "Driver Not Loaded",
    "LibraryNotFound": "NVML Shared Library Not Found",
    "FunctionNotFound": "Function Not Found",
    "GpuIsLost": "GPU is lost",
    "LibRmVersionMismatch": "RM has detected an NVML/RM version mismatch.",
    "Unknown": "Unknown Error",
}
T4 = "GPU-aaaa1111-0000-0000-0000-000000000001"
V100 = "GPU-bbbb2222-0000-0000-0000-000000000002"


def process(pid):
    return SimpleNamespace(pid=pid, usedGpuMemory=None)


class Nvml:
    """`answers` maps a function to what it returns, or to what is called or raised instead."""

    class NVMLError(Exception):
        pass

    # The values of the real module.
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1, 2, 0, 1
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0

    def __init__(self, **answers):
        for name in CODES:
            setattr(self, f"NVMLError_{name}", type(f"NVMLError_{name}", (self.NVMLError,), {}))
        self.asked = []
        self.answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "535.183.01",
            "nvmlSystemGetNVMLVersion": "12.535.183.01",
            "nvmlSystemGetCudaDriverVersion_v2": 12020,
            "nvmlSystemGetCudaDriverVersion": 12020,
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByIndex": lambda index: (T4, V100)[index],
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetHandleByPciBusId": lambda bus: {"00000000:00:1E.0": T4, "00000000:00:1F.0": V100}[bus],
            "nvmlDeviceGetName": lambda handle: {T4: "Tesla T4", V100: "Tesla V100-SXM2-16GB"}[handle],
            "nvmlDeviceGetUUID": lambda handle: handle,
            "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(
                busId={T4: "00000000:00:1E.0", V100: "00000000:00:1F.0"}[handle]
            ),
            "nvmlDeviceGetCudaComputeCapability": lambda handle: {T4: (7, 5), V100: (7, 0)}[handle],
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=16 * 2**30, used=300 * 2**20),
            "nvmlDeviceGetMigMode": self.error("NotSupported"),
            "nvmlDeviceGetArchitecture": 6,
            "nvmlDeviceGetVbiosVersion": "90.04.38.00.03",
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: {1: 1590, 2: 5001}[clock],
            "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1590, 2: 5000}[clock],
            "nvmlDeviceGetApplicationsClock": lambda handle, clock: {1: 585, 2: 5001}[clock],
            "nvmlDeviceGetDefaultApplicationsClock": lambda handle, clock: {1: 585, 2: 5001}[clock],
            "nvmlDeviceGetMaxCustomerBoostClock": lambda handle, clock: {1: 1590, 2: 5001}[clock],
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
            "nvmlDeviceGetSupportedClocksEventReasons": 0x1FF,
            "nvmlDeviceGetSupportedClocksThrottleReasons": 0x1FF,
            "nvmlDeviceGetPowerUsage": 65000,
            "nvmlDeviceGetEnforcedPowerLimit": 70000,
            "nvmlDeviceGetPowerManagementLimit": 70000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 70000,
            "nvmlDeviceGetPowerManagementLimitConstraints": (60000, 70000),
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetTemperatureV": 56,
            "nvmlDeviceGetTemperatureThreshold": 93,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetTotalEccErrors": 0,
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetComputeMode": 0,
            "nvmlDeviceGetVirtualizationMode": 0,
            "nvmlDeviceGetDisplayActive": 0,
            "nvmlDeviceGetCurrPcieLinkGeneration": 3,
            "nvmlDeviceGetMaxPcieLinkGeneration": 3,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetGraphicsRunningProcesses": [],
            "nvmlDeviceGetMPSComputeRunningProcesses": [],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
            "nvmlDeviceGetPerformanceState": 0,
            **answers,
        }

    def error(self, name):
        return getattr(self, f"NVMLError_{name}")(WORDS[name])

    def __getattr__(self, function):
        """As an older package does, it has no attribute for what it doesn't know."""
        if function not in self.__dict__.get("answers", {}):
            raise AttributeError(function)

        def call(*arguments):
            self.asked.append(function)
            answer = self.answers[function]
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return call
