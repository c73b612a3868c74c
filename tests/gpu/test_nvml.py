"""NVML through a fake of pynvml: every field, every way to fail, the sampler; and the fake is like the real one."""

import itertools
import sys
import threading
import types
from types import SimpleNamespace

import pytest
from fakes import nvml as fake

from bench.errors import Unavailable
from bench.gpu import nvml
from bench.gpu.nvml import FACTS, OTHERWISE, STATES, Facts, Nvml, Sampler, State
from bench.gpu.selection import Gpu

FAILURES = ("NotSupported", "NoPermission", "FunctionNotFound", "GpuIsLost", "Unknown")
QUERIES = {**FACTS, **STATES}


def called(name):
    """The functions of NVML that are called for a field."""
    library = fake.Nvml(nvmlDeviceGetMigMode=[0, 0])
    for queries in (QUERIES, OTHERWISE):
        if name in queries:
            queries[name](library, fake.T4)
    return set(library.asked)


FUNCTIONS = {name: called(name) for name in QUERIES}


def reader(library=None, clock=lambda: 7):
    return Nvml(library or fake.Nvml(), clock)


def identified(**answers):
    return reader(fake.Nvml(**answers)).gpus()


# Identity


def test_both_gpus_are_described():
    (t4, v100), broken = identified()
    assert broken == []
    assert t4 == Gpu(
        index=0,
        name="Tesla T4",
        uuid=fake.T4,
        pci_bus_id="00000000:00:1E.0",
        capability=(7, 5),
        memory_bytes=16 * 2**30,
        driver="535.183.01",
        cuda_driver=(12, 2),
    )
    assert (v100.index, v100.name, v100.capability) == (1, "Tesla V100-SXM2-16GB", (7, 0))


def test_mig_is_seen():
    assert [gpu.mig for gpu in identified(nvmlDeviceGetMigMode=[1, 1])[0]] == [True, True]
    assert [gpu.mig for gpu in identified(nvmlDeviceGetMigMode=[0, 1])[0]] == [False, False]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("function", "field", "unknown"),
    [
        ("nvmlDeviceGetName", "name", "NVIDIA GPU of unknown name"),
        ("nvmlDeviceGetUUID", "uuid", ""),
        ("nvmlDeviceGetPciInfo", "pci_bus_id", ""),
        ("nvmlDeviceGetCudaComputeCapability", "capability", None),
        ("nvmlDeviceGetMemoryInfo", "memory_bytes", None),
        ("nvmlDeviceGetMigMode", "mig", False),
        ("nvmlSystemGetDriverVersion", "driver", ""),
    ],
)
def test_what_a_gpu_does_not_tell_of_itself_is_unknown(function, field, unknown, failure):
    library = fake.Nvml(nvmlDeviceGetMigMode=[1, 1])
    library.answers[function] = library.error(failure)
    gpus, broken = reader(library).gpus()
    assert broken == []
    assert getattr(gpus[0], field) == unknown
    del library.answers[function]  # so old is the package
    assert getattr(reader(library).gpus()[0][0], field) == unknown


def test_a_lost_gpu_does_not_hide_the_others():
    library = fake.Nvml()

    def by_index(index):
        if index == 0:
            raise library.error("GpuIsLost")
        return fake.V100

    library.answers["nvmlDeviceGetHandleByIndex"] = by_index
    gpus, broken = reader(library).gpus()
    assert [gpu.index for gpu in gpus] == [1]
    assert broken == ["GPU 0: GpuIsLost: GPU is lost"]


def test_a_driver_that_counts_nothing_says_why():
    library = fake.Nvml()
    library.answers["nvmlDeviceGetCount"] = library.error("Unknown")
    assert reader(library).gpus() == ([], ["GPUs: Unknown: Unknown Error"])
    assert identified(nvmlDeviceGetCount=0) == ([], [])


def test_an_older_driver_names_its_cuda_by_the_older_function():
    library = fake.Nvml(nvmlSystemGetCudaDriverVersion=11040)
    library.answers["nvmlSystemGetCudaDriverVersion_v2"] = library.error("FunctionNotFound")
    assert reader(library).gpus()[0][0].cuda_driver == (11, 4)
    del library.answers["nvmlSystemGetCudaDriverVersion_v2"]
    assert reader(library).gpus()[0][0].cuda_driver == (11, 4)


def test_a_gpu_is_opened_by_uuid_and_never_by_index():
    library = fake.Nvml()
    moved = Gpu(index=5, name="Tesla V100", uuid=fake.V100, pci_bus_id="00000000:00:1F.0")
    assert reader(library).handle(moved) == fake.V100
    assert library.asked == ["nvmlDeviceGetHandleByUUID"]
    library.answers["nvmlDeviceGetHandleByUUID"] = library.error("NotSupported")
    assert reader(library).handle(moved) == fake.V100
    assert library.asked[1:] == ["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId"]


def test_a_gpu_that_is_gone():
    library = fake.Nvml()
    library.answers["nvmlDeviceGetHandleByUUID"] = library.error("GpuIsLost")
    with pytest.raises(Unavailable, match=r"cannot open GPU 0: T4 \(GPU-x\); GpuIsLost: GPU is lost; list them"):
        reader(library).handle(Gpu(index=0, name="T4", uuid="GPU-x"))
    with pytest.raises(Unavailable, match="it has neither UUID nor PCI bus id"):
        reader().handle(Gpu(index=0, name="T4"))


# Fields


def test_facts():
    assert reader().facts(fake.T4) == Facts(
        architecture=6,
        vbios="90.04.38.00.03",
        max_sm_clock_mhz=1590,
        max_memory_clock_mhz=5001,
        application_sm_clock_mhz=585,
        application_memory_clock_mhz=5001,
        default_sm_clock_mhz=585,
        customer_boost_mhz=1590,
        supported_events=0x1FF,
        enforced_power_limit_mw=70000,
        power_limit_mw=70000,
        default_power_limit_mw=70000,
        least_power_limit_mw=60000,
        most_power_limit_mw=70000,
        slowdown_c=93,
        ecc=1,
        ecc_pending=1,
        uncorrected_errors=0,
        persistence=1,
        compute_mode=0,
        virtualisation=0,
        display_active=0,
        max_pcie_generation=3,
        max_pcie_width=16,
        nvml="12.535.183.01",
        missing={"mig": "NotSupported: Not Supported", "mig_pending": "NotSupported: Not Supported"},
    )


def test_state():
    library = fake.Nvml(
        nvmlDeviceGetCurrentClocksEventReasons=0x24,
        nvmlDeviceGetComputeRunningProcesses=[fake.process(9), fake.process(3)],
        nvmlDeviceGetGraphicsRunningProcesses=[fake.process(4)],
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=99, memory=40),
    )
    state = reader(library, clock=lambda: 123).state(fake.T4)
    assert state == State(
        monotonic_ns=123,
        sm_clock_mhz=1590,
        memory_clock_mhz=5000,
        events=0x24,
        power_mw=65000,
        temperature_c=55,
        performance_state=0,
        pcie_generation=3,
        pcie_width=16,
        utilisation_percent=99,
        memory_used_bytes=300 * 2**20,
        compute_pids=(3, 9),
        graphics_pids=(4,),
        mps_pids=(),
    )
    assert state.pids == {3, 4, 9}


def test_every_field_has_its_query():
    assert {*FACTS, "nvml", "missing"} == set(Facts.__struct_fields__)
    assert {*STATES, "monotonic_ns", "missing", "lost"} == set(State.__struct_fields__)
    assert set(OTHERWISE) < set(QUERIES)
    assert not set(FACTS) & set(STATES)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", QUERIES)
def test_a_field_that_fails_is_null_with_its_reason(name, failure):
    library, fact = fake.Nvml(nvmlDeviceGetMigMode=[0, 0]), name in FACTS
    for function in FUNCTIONS[name]:
        library.answers[function] = library.error(failure)
    read = reader(library)
    found = read.facts(fake.T4) if fact else read.state(fake.T4)
    assert getattr(found, name) is None
    assert found.missing[name] == f"{failure}: {fake.WORDS[failure]}"
    # Nothing else is lost but what the same call gives.
    same = {other for other, functions in FUNCTIONS.items() if functions & FUNCTIONS[name]}
    assert set(found.missing) <= same
    assert getattr(found, "lost", False) is (failure == "GpuIsLost" and not fact)


@pytest.mark.parametrize(
    ("newer", "older", "field", "value"),
    [
        ("CurrentClocksEventReasons", "CurrentClocksThrottleReasons", "events", 0x8),
        ("Temperature", "TemperatureV", "temperature_c", 56),
    ],
)
@pytest.mark.parametrize("where", ["driver", "package"])
def test_the_other_name_of_a_function_is_tried(newer, older, field, value, where):
    library = fake.Nvml(**{f"nvmlDeviceGet{older}": value})
    if where == "driver":
        library.answers[f"nvmlDeviceGet{newer}"] = library.error("FunctionNotFound")
    else:
        del library.answers[f"nvmlDeviceGet{newer}"]
    assert getattr(reader(library).state(fake.T4), field) == value


def test_the_other_name_is_not_tried_where_the_gpu_cannot():
    library = fake.Nvml()
    library.answers["nvmlDeviceGetCurrentClocksEventReasons"] = library.error("NotSupported")
    assert reader(library).state(fake.T4).events is None
    assert "nvmlDeviceGetCurrentClocksThrottleReasons" not in library.asked


def test_an_older_package_is_said_to_be_one():
    library = fake.Nvml()
    del library.answers["nvmlDeviceGetArchitecture"]
    missing = reader(library).facts(fake.T4).missing
    assert missing["architecture"] == "FunctionNotFound: this nvidia-ml-py has no nvmlDeviceGetArchitecture"


def test_an_older_package_may_lack_a_constant(monkeypatch):
    monkeypatch.delattr(fake.Nvml, "NVML_CLOCK_MEM")
    state = reader().state(fake.T4)
    assert (state.sm_clock_mhz, state.memory_clock_mhz) == (1590, None)
    assert state.missing == {"memory_clock_mhz": "FunctionNotFound: this nvidia-ml-py has no NVML_CLOCK_MEM"}


def test_a_mistake_of_ours_is_no_older_package():
    with pytest.raises(AttributeError, match="used"):
        reader(fake.Nvml(nvmlDeviceGetMemoryInfo=SimpleNamespace(total=1))).state(fake.T4)


# Opening


def test_nvml_is_shut_down_whatever_happens():
    library = fake.Nvml()
    with pytest.raises(ZeroDivisionError), nvml.opened(lambda: library):
        raise ZeroDivisionError
    assert library.asked == ["nvmlInit", "nvmlShutdown"]
    library.answers["nvmlShutdown"] = library.error("GpuIsLost")
    with nvml.opened(lambda: library):
        pass


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (
            "LibraryNotFound",
            "no NVIDIA driver; NVML Shared Library Not Found; install one; nvidia-smi must then list the GPU",
        ),
        ("DriverNotLoaded", "the NVIDIA driver is not loaded; Driver Not Loaded; as root: modprobe nvidia"),
        (
            "LibRmVersionMismatch",
            "the NVIDIA driver was updated while it was loaded; RM has detected an NVML/RM version mismatch.; "
            "reboot this machine",
        ),
        ("Unknown", "the NVIDIA driver does not answer; Unknown Error; look at what nvidia-smi says"),
    ],
)
def test_no_driver(failure, line):
    library = fake.Nvml()
    library.answers["nvmlInit"] = library.error(failure)
    with pytest.raises(Unavailable) as error, nvml.opened(lambda: library):
        pass
    assert str(error.value) == line


def test_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unavailable) as error, nvml.opened():
        pass
    assert str(error.value).startswith("cannot ask the NVIDIA driver; there is no module pynvml (")
    assert str(error.value).endswith("); pip install nvidia-ml-py")


def test_the_wrong_package(monkeypatch):
    other = types.ModuleType("pynvml")
    other.__path__ = ["somewhere/pynvml"]
    monkeypatch.setitem(sys.modules, "pynvml", other)
    with pytest.raises(Unavailable) as error, nvml.opened():
        pass
    assert "of the distribution pynvml, not of nvidia-ml-py" in str(error.value)
    assert str(error.value).endswith("pip uninstall --yes pynvml && pip install --force-reinstall nvidia-ml-py")


# The real module


def real():
    import pynvml

    return pynvml


def test_the_fake_is_like_the_real_one():
    module, library = real(), fake.Nvml()
    for name, code in fake.CODES.items():
        error = getattr(module, f"NVMLError_{name}")
        assert issubclass(error, module.NVMLError)
        assert error().value == code
        assert str(error()) == fake.WORDS[name]
    assert sorted(name for name in library.answers if not hasattr(module, name)) == []
    constants = [name for name in vars(fake.Nvml) if name.startswith("NVML_")]
    assert {name: getattr(module, name) for name in constants} == {name: getattr(library, name) for name in constants}


def test_without_a_driver_the_real_module_gives_the_clear_line(monkeypatch):
    module = real()

    def missing(*_):
        raise OSError("libnvidia-ml.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(module, "CDLL", missing)
    monkeypatch.setattr(module, "nvmlLib", None)
    with (
        pytest.raises(Unavailable, match=r"^no NVIDIA driver; NVML Shared Library Not Found; install one"),
        nvml.opened(),
    ):
        pass


# Sampling


class Time:
    """A virtual clock; waiting moves it on, and after `samples` waits it is time to stop."""

    def __init__(self, samples, spent_ns=0):
        self.now_ns, self.left, self.waits, self._spent_ns = 1000, samples, [], spent_ns

    def read(self):
        """A read that takes its time."""
        state = State(monotonic_ns=self.now_ns)
        self.now_ns += self._spent_ns
        return state

    def clock(self):
        return self.now_ns

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now_ns += round(seconds * 1e9)
        self.left -= 1
        return self.left == 0


def sampled(time_, rate_hz=20):
    sampler = Sampler(time_.read, rate_hz, time_.clock, time_.wait)
    sampler.run()
    return [state.monotonic_ns - 1000 for state in sampler.states]


def test_samples_come_at_the_rate_however_long_a_read_takes():
    at_50_ms = [0, 50_000_000, 100_000_000, 150_000_000]
    assert sampled(Time(4)) == at_50_ms
    assert sampled(Time(4, spent_ns=30_000_000)) == at_50_ms


def test_a_slow_read_misses_samples_and_bunches_none():
    assert sampled(Time(3, spent_ns=120_000_000)) == [0, 150_000_000, 300_000_000]


def test_the_rate_is_between_10_and_20_hz():
    assert 10 <= nvml.RATE_HZ <= 20


def test_the_thread_ends_with_the_block():
    seen = threading.Event()
    ticks = itertools.count()

    def read():
        seen.set()
        return State(monotonic_ns=next(ticks))

    with Sampler(read, rate_hz=0.001) as sampler:
        assert seen.wait(5)
        names = [thread.name for thread in threading.enumerate()]
    assert "nvml" in names
    # Sixteen minutes to the next sample, and it ended at once.
    assert "nvml" not in [thread.name for thread in threading.enumerate()]
    assert (len(sampler.states), sampler.failure) == (1, "")


def test_an_exception_ends_the_sampling_and_nothing_else():
    ticks = iter([State(monotonic_ns=1), State(monotonic_ns=2)])
    time_ = Time(9)
    sampler = Sampler(lambda: next(ticks), 20, time_.clock, time_.wait)
    sampler.run()
    assert [state.monotonic_ns for state in sampler.states] == [1, 2]
    assert sampler.failure.startswith("reading NVML failed: ")


def test_a_lost_gpu_is_the_last_sample():
    library, time_ = fake.Nvml(), Time(9)
    read = reader(library, time_.clock)

    def state():
        found = read.state(fake.T4)
        for name in library.answers:
            library.answers[name] = library.error("GpuIsLost")
        return found

    sampler = Sampler(state, 20, time_.clock, time_.wait)
    sampler.run()
    assert [found.lost for found in sampler.states] == [False, True]
    assert sampler.states[1].missing["sm_clock_mhz"] == "GpuIsLost: GPU is lost"
    assert sampler.failure == "the GPU is lost: the driver no longer reaches it"


def test_a_driver_that_hangs_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(nvml, "PATIENCE_S", 0.01)
    released = threading.Event()

    def read():
        released.wait(10)
        return State(monotonic_ns=0)

    with Sampler(read) as sampler:
        pass
    assert sampler.failure == "NVML did not answer within 0.01 s"
    released.set()
