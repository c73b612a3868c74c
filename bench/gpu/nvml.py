"""The state of a GPU through NVML: facts that stay, states that change, and a thread that samples them.

The package is nvidia-ml-py, its module pynvml. What a driver or a GPU doesn't tell is None, with the reason beside it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from bench.errors import Unavailable
from bench.gpu.selection import LIST_GPUS, Gpu
from bench.schema import Frozen

Handle = Any
INSTALL = "pip install nvidia-ml-py"
#: samples a second; the rate at which drivers renew most of these figures themselves
RATE_HZ = 15.0
#: a call into a hung driver never returns; nobody waits longer than this for it
PATIENCE_S = 2.0


class Library(Protocol):
    """What we call by name of the module pynvml; the getters are named in FACTS and STATES."""

    NVMLError: type[Exception]
    NVMLError_DriverNotLoaded: type[Exception]
    NVMLError_LibRmVersionMismatch: type[Exception]
    NVMLError_LibraryNotFound: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle: ...  # noqa: N802
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle: ...  # noqa: N802
    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> Handle: ...  # noqa: N802, N803


class Query(Frozen, frozen=True):
    """How one field is read: the first of `functions` that the driver has, with constants of NVML as arguments."""

    functions: tuple[str, ...]
    constants: tuple[str, ...] = ()
    pick: Callable[[Any], Any] | None = None


def _query(*functions: str, constants: Sequence[str] = (), pick: Callable[[Any], Any] | None = None) -> Query:
    return Query(tuple(f"nvmlDeviceGet{function}" for function in functions), tuple(constants), pick)


def _first(pair: Sequence[int]) -> int:
    return pair[0]


def _second(pair: Sequence[int]) -> int:
    return pair[1]


def _pids(processes: Iterable[Any]) -> tuple[int, ...]:
    return tuple(sorted({int(process.pid) for process in processes}))


UNCORRECTED = ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC")
FACTS = {
    "architecture": _query("Architecture"),
    "vbios": _query("VbiosVersion"),
    "max_sm_clock_mhz": _query("MaxClockInfo", constants=["NVML_CLOCK_SM"]),
    "max_memory_clock_mhz": _query("MaxClockInfo", constants=["NVML_CLOCK_MEM"]),
    "application_sm_clock_mhz": _query("ApplicationsClock", constants=["NVML_CLOCK_SM"]),
    "application_memory_clock_mhz": _query("ApplicationsClock", constants=["NVML_CLOCK_MEM"]),
    "default_sm_clock_mhz": _query("DefaultApplicationsClock", constants=["NVML_CLOCK_SM"]),
    "customer_boost_mhz": _query("MaxCustomerBoostClock", constants=["NVML_CLOCK_SM"]),
    "supported_events": _query("SupportedClocksEventReasons", "SupportedClocksThrottleReasons"),
    "enforced_power_limit_mw": _query("EnforcedPowerLimit"),
    "power_limit_mw": _query("PowerManagementLimit"),
    "default_power_limit_mw": _query("PowerManagementDefaultLimit"),
    "least_power_limit_mw": _query("PowerManagementLimitConstraints", pick=_first),
    "most_power_limit_mw": _query("PowerManagementLimitConstraints", pick=_second),
    "slowdown_c": _query("TemperatureThreshold", constants=["NVML_TEMPERATURE_THRESHOLD_SLOWDOWN"]),
    "ecc": _query("EccMode", pick=_first),
    "ecc_pending": _query("EccMode", pick=_second),
    "uncorrected_errors": _query("TotalEccErrors", constants=UNCORRECTED),
    "mig": _query("MigMode", pick=_first),
    "mig_pending": _query("MigMode", pick=_second),
    "persistence": _query("PersistenceMode"),
    "compute_mode": _query("ComputeMode"),
    "virtualisation": _query("VirtualizationMode"),
    "display_active": _query("DisplayActive"),
    "max_pcie_generation": _query("MaxPcieLinkGeneration"),
    "max_pcie_width": _query("MaxPcieLinkWidth"),
}
STATES = {
    "sm_clock_mhz": _query("ClockInfo", constants=["NVML_CLOCK_SM"]),
    "memory_clock_mhz": _query("ClockInfo", constants=["NVML_CLOCK_MEM"]),
    "events": _query("CurrentClocksEventReasons", "CurrentClocksThrottleReasons"),
    "power_mw": _query("PowerUsage"),
    "temperature_c": _query("Temperature", "TemperatureV", constants=["NVML_TEMPERATURE_GPU"]),
    "performance_state": _query("PerformanceState"),
    "pcie_generation": _query("CurrPcieLinkGeneration"),
    "pcie_width": _query("CurrPcieLinkWidth"),
    "utilisation_percent": _query("UtilizationRates", pick=lambda rates: rates.gpu),
    "memory_used_bytes": _query("MemoryInfo", pick=lambda memory: memory.used),
    "compute_pids": _query("ComputeRunningProcesses", pick=_pids),
    "graphics_pids": _query("GraphicsRunningProcesses", pick=_pids),
    "mps_pids": _query("MPSComputeRunningProcesses", pick=_pids),
}


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

    def __init__(self, library: Library, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._library, self._clock = library, clock

    def gpus(self) -> tuple[list[Gpu], list[str]]:
        """The GPUs that the driver lists, and a line for each that it can't open."""
        found, broken = [], []
        count, why = self._call("nvmlDeviceGetCount")
        for index in range(count or 0):
            handle, why = self._call("nvmlDeviceGetHandleByIndex", index)
            if why:
                broken.append(f"GPU {index}: {why}")
            else:
                found.append(self._identity(handle, index))
        return found, broken if count is not None else [f"GPUs: {why}"]

    def _identity(self, handle: Handle, index: int) -> Gpu:
        asked = {name: self._call(f"nvmlDeviceGet{name}", handle)[0] for name in IDENTITY}
        cuda, _ = self._first_of(("nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"))
        mig, memory, pci = asked["MigMode"], asked["MemoryInfo"], asked["PciInfo"]
        return Gpu(
            index=index,
            name=asked["Name"] or "NVIDIA GPU of unknown name",
            uuid=asked["UUID"] or "",
            pci_bus_id=str(pci.busId) if pci else "",
            capability=asked["CudaComputeCapability"],
            memory_bytes=memory.total if memory else None,
            driver=self._call("nvmlSystemGetDriverVersion")[0] or "",
            cuda_driver=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            mig=bool(mig and mig[0]),
        )

    def handle(self, gpu: Gpu) -> Handle:
        """By UUID or else PCI bus id, since an index moves when a GPU falls off. Raises Unavailable if it is gone."""
        by_uuid = ("nvmlDeviceGetHandleByUUID", gpu.uuid)
        by_bus = ("nvmlDeviceGetHandleByPciBusId", gpu.pci_bus_id)
        why = "it has neither UUID nor PCI bus id"
        for function, name in (by_uuid, by_bus):
            if name:
                handle, why = self._call(function, name)
                if not why:
                    return handle
        raise Unavailable(f"cannot open GPU {gpu}", why, LIST_GPUS)

    def facts(self, handle: Handle) -> Facts:
        fields, missing = self._read(FACTS, handle)
        fields["nvml"], why = self._call("nvmlSystemGetNVMLVersion")
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
            constants = [getattr(self._library, constant, None) for constant in query.constants]
            value, why = self._first_of(query.functions, handle, *constants)
            if why:
                missing[name] = why
            else:
                fields[name] = query.pick(value) if query.pick else value
        return fields, missing

    def _first_of(self, functions: Sequence[str], *arguments: Any) -> tuple[Any, str]:
        """As `_call`; the next function is asked only where an old driver or package lacks this one."""
        value, why = None, "nothing to ask"
        for function in functions:
            value, why = self._call(function, *arguments)
            if not why.startswith("FunctionNotFound"):
                break
        return value, why

    def _call(self, function: str, *arguments: Any) -> tuple[Any, str]:
        """The answer and "", or None and why there is none: the name of NVML's error and what it says of itself."""
        library = self._library
        ask = getattr(library, function, None)
        if ask is None:
            return None, f"FunctionNotFound: this nvidia-ml-py has no {function}"
        try:
            return ask(*arguments), ""
        except library.NVMLError as error:  # whichever: a GPU is watched as far as it lets itself be watched
            return None, f"{type(error).__name__.removeprefix('NVMLError_')}: {error}"


IDENTITY = ("Name", "UUID", "PciInfo", "CudaComputeCapability", "MemoryInfo", "MigMode")


def _load() -> Library:
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
    library: Library = pynvml
    return library


@contextlib.contextmanager
def opened(load: Callable[[], Library] = _load, clock: Callable[[], int] = time.monotonic_ns) -> Iterator[Nvml]:
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


def _no_driver(library: Library, error: Exception) -> Unavailable:
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
