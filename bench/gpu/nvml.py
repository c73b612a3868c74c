"""The state of a GPU through NVML: facts that stay, states that change, and a thread that samples them.

The package is nvidia-ml-py, its module pynvml. What a driver or a GPU doesn't tell is None, with the reason beside it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from bench.errors import Unavailable
from bench.gpu.nvml_api import Handle, Process, Pynvml
from bench.gpu.selection import LIST_GPUS, Gpu
from bench.schema import Frozen

INSTALL = "pip install nvidia-ml-py"
#: samples a second; the rate at which drivers renew most of these figures themselves
RATE_HZ = 15.0
#: a call into a hung driver never returns; nobody waits longer than this for it
PATIENCE_S = 2.0

Answer = TypeVar("Answer")
#: how one field is read of a GPU
Query = Callable[[Pynvml, Handle], int | str | tuple[int, ...]]


def _pids(processes: Iterable[Process]) -> tuple[int, ...]:
    return tuple(sorted({int(process.pid) for process in processes}))


FACTS: dict[str, Query] = {
    "architecture": lambda nvml, gpu: nvml.nvmlDeviceGetArchitecture(gpu),
    "vbios": lambda nvml, gpu: nvml.nvmlDeviceGetVbiosVersion(gpu),
    "max_sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "max_memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "application_sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetApplicationsClock(gpu, nvml.NVML_CLOCK_SM),
    "application_memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetApplicationsClock(gpu, nvml.NVML_CLOCK_MEM),
    "default_sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetDefaultApplicationsClock(gpu, nvml.NVML_CLOCK_SM),
    "customer_boost_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxCustomerBoostClock(gpu, nvml.NVML_CLOCK_SM),
    "supported_events": lambda nvml, gpu: nvml.nvmlDeviceGetSupportedClocksEventReasons(gpu),
    "enforced_power_limit_mw": lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
    "power_limit_mw": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu),
    "default_power_limit_mw": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu),
    "least_power_limit_mw": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)[0],
    "most_power_limit_mw": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)[1],
    "slowdown_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperatureThreshold(
        gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    ),
    "ecc": lambda nvml, gpu: nvml.nvmlDeviceGetEccMode(gpu)[0],
    "ecc_pending": lambda nvml, gpu: nvml.nvmlDeviceGetEccMode(gpu)[1],
    "uncorrected_errors": lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(
        gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    ),
    "mig": lambda nvml, gpu: nvml.nvmlDeviceGetMigMode(gpu)[0],
    "mig_pending": lambda nvml, gpu: nvml.nvmlDeviceGetMigMode(gpu)[1],
    "persistence": lambda nvml, gpu: nvml.nvmlDeviceGetPersistenceMode(gpu),
    "compute_mode": lambda nvml, gpu: nvml.nvmlDeviceGetComputeMode(gpu),
    "virtualisation": lambda nvml, gpu: nvml.nvmlDeviceGetVirtualizationMode(gpu),
    "display_active": lambda nvml, gpu: nvml.nvmlDeviceGetDisplayActive(gpu),
    "max_pcie_generation": lambda nvml, gpu: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu),
    "max_pcie_width": lambda nvml, gpu: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu),
}
STATES: dict[str, Query] = {
    "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "events": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
    "power_mw": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    "performance_state": lambda nvml, gpu: nvml.nvmlDeviceGetPerformanceState(gpu),
    "pcie_generation": lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
    "pcie_width": lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
    "utilisation_percent": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_used_bytes": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "compute_pids": lambda nvml, gpu: _pids(nvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
    "graphics_pids": lambda nvml, gpu: _pids(nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu)),
    "mps_pids": lambda nvml, gpu: _pids(nvml.nvmlDeviceGetMPSComputeRunningProcesses(gpu)),
}
#: the same by another name, asked only where a driver or the package lacks the first
OTHERWISE: dict[str, Query] = {
    "supported_events": lambda nvml, gpu: nvml.nvmlDeviceGetSupportedClocksThrottleReasons(gpu),
    "events": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU),
}
LACKING = "FunctionNotFound"


class Facts(Frozen, frozen=True):
    """What stays the same while nobody changes a setting; `missing` says why a field is None.

    Modes are NVML's numbers: 1 is on, 0 is off; `virtualisation` 1 is pass-through, 2 a vGPU.
    """

    architecture: int | None = None
    vbios: str | None = None
    max_sm_clock_mhz: int | None = None
    max_memory_clock_mhz: int | None = None
    application_sm_clock_mhz: int | None = None
    application_memory_clock_mhz: int | None = None
    default_sm_clock_mhz: int | None = None
    customer_boost_mhz: int | None = None
    supported_events: int | None = None
    enforced_power_limit_mw: int | None = None
    power_limit_mw: int | None = None
    default_power_limit_mw: int | None = None
    least_power_limit_mw: int | None = None
    most_power_limit_mw: int | None = None
    slowdown_c: int | None = None
    ecc: int | None = None
    ecc_pending: int | None = None
    uncorrected_errors: int | None = None
    mig: int | None = None
    mig_pending: int | None = None
    persistence: int | None = None
    compute_mode: int | None = None
    virtualisation: int | None = None
    display_active: int | None = None
    max_pcie_generation: int | None = None
    max_pcie_width: int | None = None
    nvml: str | None = None
    missing: dict[str, str] = {}


class State(Frozen, frozen=True):
    """The GPU at one moment of the monotonic clock, which all processes of a machine share.

    `events` are the bits that say what holds the clocks; process ids are of the driver's own namespace.
    """

    monotonic_ns: int
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    events: int | None = None
    power_mw: int | None = None
    temperature_c: int | None = None
    performance_state: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    utilisation_percent: int | None = None
    memory_used_bytes: int | None = None
    compute_pids: tuple[int, ...] | None = None
    graphics_pids: tuple[int, ...] | None = None
    mps_pids: tuple[int, ...] | None = None
    missing: dict[str, str] = {}
    lost: bool = False

    @property
    def pids(self) -> frozenset[int]:
        """All processes seen on the GPU, of whatever kind."""
        kinds = (self.compute_pids, self.graphics_pids, self.mps_pids)
        return frozenset(pid for pids in kinds for pid in pids or ())


class Nvml:
    """Reads GPUs; `library` is the module pynvml, after nvmlInit."""

    def __init__(self, library: Pynvml, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._library, self._clock = library, clock

    def gpus(self) -> tuple[list[Gpu], list[str]]:
        """The GPUs that the driver lists, and a line for each that it can't open."""
        found, broken = [], []
        count, why = self._ask(lambda: self._library.nvmlDeviceGetCount())
        for index in range(count or 0):
            handle, why = self._by_index(index)
            if handle is None:
                broken.append(f"GPU {index}: {why}")
            else:
                found.append(self._identity(handle, index))
        return found, broken if count is not None else [f"GPUs: {why}"]

    def _by_index(self, index: int) -> tuple[Handle | None, str]:
        return self._ask(lambda: self._library.nvmlDeviceGetHandleByIndex(index))

    def _identity(self, gpu: Handle, index: int) -> Gpu:
        nvml = self._library
        cuda = self._told(
            lambda: nvml.nvmlSystemGetCudaDriverVersion_v2(), lambda: nvml.nvmlSystemGetCudaDriverVersion()
        )
        mig = self._told(lambda: nvml.nvmlDeviceGetMigMode(gpu))
        memory = self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))
        pci = self._told(lambda: nvml.nvmlDeviceGetPciInfo(gpu))
        return Gpu(
            index=index,
            name=self._told(lambda: nvml.nvmlDeviceGetName(gpu)) or "NVIDIA GPU of unknown name",
            uuid=self._told(lambda: nvml.nvmlDeviceGetUUID(gpu)) or "",
            pci_bus_id=pci.busId if pci else "",
            capability=self._told(lambda: nvml.nvmlDeviceGetCudaComputeCapability(gpu)),
            memory_bytes=memory.total if memory else None,
            driver=self._told(lambda: nvml.nvmlSystemGetDriverVersion()) or "",
            cuda_driver=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            mig=bool(mig and mig[0]),
        )

    def handle(self, gpu: Gpu) -> Handle:
        """By UUID or else PCI bus id, since an index moves when a GPU falls off. Raises Unavailable if it is gone."""
        nvml = self._library
        by_uuid = (gpu.uuid, lambda: nvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
        by_bus = (gpu.pci_bus_id, lambda: nvml.nvmlDeviceGetHandleByPciBusId(gpu.pci_bus_id))
        why = "it has neither UUID nor PCI bus id"
        for name, ask in (by_uuid, by_bus):
            if name:
                handle, why = self._ask(ask)
                if handle is not None:
                    return handle
        raise Unavailable(f"cannot open GPU {gpu}", why, LIST_GPUS)

    def facts(self, handle: Handle) -> Facts:
        fields, missing = self._read(FACTS, handle)
        fields["nvml"], why = self._ask(lambda: self._library.nvmlSystemGetNVMLVersion())
        return Facts(**fields, missing=missing | ({"nvml": why} if why else {}))

    def state(self, handle: Handle) -> State:
        now_ns = self._clock()
        fields, missing = self._read(STATES, handle)
        lost = any(why.startswith("GpuIsLost") for why in missing.values())
        return State(monotonic_ns=now_ns, **fields, missing=missing, lost=lost)

    def _read(self, queries: dict[str, Query], handle: Handle) -> tuple[dict[str, Any], dict[str, str]]:
        fields: dict[str, Any] = {}
        missing = {}
        for name, query in queries.items():
            names = [each for each in (query, OTHERWISE.get(name)) if each]
            value, why = self._ask(*(partial(each, self._library, handle) for each in names))
            if why:
                missing[name] = why
            else:
                fields[name] = value
        return fields, missing

    def _told(self, *asks: Callable[[], Answer]) -> Answer | None:
        return self._ask(*asks)[0]

    def _ask(self, *asks: Callable[[], Answer]) -> tuple[Answer | None, str]:
        """The answer and "", or None and why there is none; the next of `asks` only where the one before is lacking.

        They look up the names that they call, since the package may lack these, too.
        """
        why = ""
        for ask in asks:
            try:
                return ask(), ""
            except self._library.NVMLError as error:  # whichever: a GPU is watched as far as it lets itself be watched
                why = f"{type(error).__name__.removeprefix('NVMLError_')}: {error}"
            except AttributeError as error:
                if error.obj is not self._library:
                    raise
                why = f"{LACKING}: this nvidia-ml-py has no {error.name}"
            if not why.startswith(LACKING):
                break
        return None, why


def _load() -> Pynvml:
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable("cannot ask the NVIDIA driver", f"there is no module pynvml ({error})", INSTALL) from error
    # The distribution named pynvml had a package of that name up to 11; ours is one file.
    if hasattr(pynvml, "__path__"):
        raise Unavailable(
            "cannot ask the NVIDIA driver",
            "the module pynvml here is that of the distribution pynvml, not of nvidia-ml-py",
            f"pip uninstall --yes pynvml && pip install --force-reinstall {INSTALL.split()[-1]}",
        )
    library: Pynvml = pynvml
    return library


@contextlib.contextmanager
def opened(load: Callable[[], Pynvml] = _load, clock: Callable[[], int] = time.monotonic_ns) -> Iterator[Nvml]:
    """NVML between nvmlInit and nvmlShutdown. Raises Unavailable without its package or a driver that answers."""
    library = load()
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise _no_driver(library, error) from error
    try:
        yield Nvml(library, clock)
    finally:
        with contextlib.suppress(library.NVMLError):
            library.nvmlShutdown()


def _no_driver(library: Pynvml, error: Exception) -> Unavailable:
    found = str(error)
    if isinstance(error, library.NVMLError_LibraryNotFound):
        return Unavailable("no NVIDIA driver", found, "install one; nvidia-smi must then list the GPU")
    if isinstance(error, library.NVMLError_DriverNotLoaded):
        return Unavailable("the NVIDIA driver is not loaded", found, "as root: modprobe nvidia")
    if isinstance(error, library.NVMLError_LibRmVersionMismatch):
        return Unavailable("the NVIDIA driver was updated while it was loaded", found, "reboot this machine")
    return Unavailable("the NVIDIA driver does not answer", found, "look at what nvidia-smi says")


class Sampler:
    """Reads the state of a GPU from a thread of the parent, while the worker is timed in another process.

    `states` hold what was read, `failure` why it ended early. `wait` sleeps for some seconds and says whether to stop.
    """

    def __init__(
        self,
        read: Callable[[], State],
        rate_hz: float = RATE_HZ,
        clock: Callable[[], int] = time.monotonic_ns,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.states: list[State] = []
        self.failure = ""
        self._read, self._period_ns, self._clock = read, round(1e9 / rate_hz), clock
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._thread = threading.Thread(target=self.run, name="nvml", daemon=True)

    def run(self) -> None:
        """Samples until it is told to stop, at multiples of the period; those that a slow read missed are left out."""
        due_ns = self._clock()
        stopped = False
        while not stopped and self._sample():
            now_ns = self._clock()
            due_ns += self._period_ns * max(1, -((due_ns - now_ns) // self._period_ns))
            stopped = self._wait(max(0, due_ns - now_ns) / 1e9)

    def _sample(self) -> bool:
        """One state more; False at the end, which never is an exception: the measurement goes on without us."""
        try:
            state = self._read()
        except Exception as error:
            self.failure = f"reading NVML failed: {error}"
            return False
        self.states.append(state)
        if state.lost:
            self.failure = "the GPU is lost: the driver no longer reaches it"
        return not state.lost

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.failure = f"NVML did not answer within {PATIENCE_S:g} s"
