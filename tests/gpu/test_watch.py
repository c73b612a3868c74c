"""A GPU as the parent sees it around a worker: what goes on record, and what stands against the number."""

import contextlib
import gc
import re
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from fakes import nvml as fake

from bench.errors import Unavailable
from bench.gpu import nvml, watch
from bench.gpu.selection import Gpu
from bench.gpu.watch import Span, watching

GPU = Gpu(index=0, name="Tesla T4", uuid=fake.T4, capability=(7, 5))
PID = 4242


def opened(**answers):
    busy = {"nvmlDeviceGetComputeRunningProcesses": [fake.process(PID)]}
    return partial(nvml.opened, lambda: fake.Nvml(**{**busy, **answers}))


def judged(**answers):
    """What was found while a worker of this id was timed for as long as a few samples take."""
    start_ns = time.monotonic_ns()
    with watching(GPU, opened(**answers)) as seen:
        time.sleep(0.3)
        end_ns = time.monotonic_ns()
    return seen.judge(Span([(start_ns, end_ns)], PID, copies=False))


def reasons(found):
    return {each.reason for each in found[1]}


def test_a_quiet_gpu_has_nothing_against_it_and_is_on_record():
    told, found = judged()
    assert found == ()
    assert told["gpu"]["samples"] >= 2
    assert told["gpu"]["sm_clock"] == "constant"
    assert told["gpu"]["sm_clock_mhz_median"] == 1590
    assert told["gpu"]["memory_used_bytes_before"] == told["gpu"]["memory_used_bytes_max"] == 300 * 2**20
    assert (told["gpu"]["neighbours"], told["gpu"]["utilisation_percent_before"]) == (0, 0)


def test_the_settings_of_the_gpu_are_on_record_without_what_names_it():
    told, _ = judged()
    assert told["gpu"]["facts"] == {
        "architecture": 6,
        "vbios": "90.04.38.00.03",
        "nvml": "12.535.183.01",
        "max_sm_clock_mhz": 1590,
        "max_memory_clock_mhz": 5001,
        "application_sm_clock_mhz": 585,
        "application_memory_clock_mhz": 5001,
        "default_sm_clock_mhz": 585,
        "customer_boost_mhz": 1590,
        "supported_events": 0x1FF,
        "enforced_power_limit_mw": 70000,
        "power_limit_mw": 70000,
        "default_power_limit_mw": 70000,
        "least_power_limit_mw": 60000,
        "most_power_limit_mw": 70000,
        "slowdown_c": 93,
        "ecc": 1,
        "ecc_pending": 1,
        "uncorrected_errors": 0,
        "mig": None,
        "mig_pending": None,
        "persistence": 1,
        "compute_mode": 0,
        "virtualisation": 0,
        "display_active": 0,
        "max_pcie_generation": 3,
        "max_pcie_width": 16,
    }
    assert told["gpu"]["missing"] == dict.fromkeys(("mig", "mig_pending"), "NotSupported: Not Supported")
    assert "GPU-" not in str(told)


def test_other_processes_are_counted():
    told, _ = judged(nvmlDeviceGetComputeRunningProcesses=[fake.process(PID), fake.process(7), fake.process(8)])
    assert told["gpu"]["neighbours"] == 2


class Time:
    """Passes by sleeping alone."""

    now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def busy_until(moment, passed):
    return lambda _: SimpleNamespace(gpu=90 if passed.now < moment else 3, memory=0)


def test_what_our_own_previous_worker_did_is_waited_for():
    passed = Time()
    answers = {"nvmlDeviceGetUtilizationRates": busy_until(0.75, passed)}
    with watching(GPU, opened(**answers), passed, passed.sleep) as seen:
        pass
    assert passed.now == pytest.approx(0.8)
    assert seen.before.state.utilisation_percent == 3
    _, found = seen.judge(Span([(0, time.monotonic_ns())], PID, copies=False))
    assert "contended" not in {each.reason for each in found}


def test_others_who_go_on_are_not_waited_for():
    passed = Time()
    answers = {"nvmlDeviceGetUtilizationRates": busy_until(60, passed)}
    with watching(GPU, opened(**answers), passed, passed.sleep) as seen:
        passed.now = 60
    assert seen.before.state.utilisation_percent == 90
    _, found = seen.judge(Span([(0, time.monotonic_ns())], PID, copies=False))
    assert "contended" in {each.reason for each in found}


def test_a_quiet_gpu_is_not_waited_for():
    passed = Time()
    with watching(GPU, opened(), passed, passed.sleep):
        pass
    assert passed.now == 0


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x20}, "throttled"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x4}, "power_capped"),
        ({"nvmlDeviceGetComputeRunningProcesses": [fake.process(PID), fake.process(7)]}, "contended"),
        ({"nvmlDeviceGetPowerManagementLimit": 60000}, "misconfigured"),
        ({"nvmlDeviceGetTemperature": 90}, "hot"),
    ],
)
def test_what_the_driver_says_stands_against_the_number(answers, reason):
    assert reasons(judged(**answers)) == {reason}


def test_states_outside_the_timed_window_are_not_judged():
    with watching(GPU, opened(nvmlDeviceGetCurrentClocksEventReasons=0x20)) as seen:
        time.sleep(0.1)
    _, found = seen.judge(Span([(1, 2)], PID, copies=False))
    assert {each.reason for each in found} == {"unwatched"}


def test_without_nvml_the_number_is_unwatched():
    @contextlib.contextmanager
    def absent():
        raise Unavailable("no nvidia-ml-py", "", "pip install nvidia-ml-py")
        yield

    with watching(GPU, absent) as seen:
        pass
    told, found = seen.judge(Span([(0, 1)], PID, copies=False))
    assert told == {}
    assert [(each.reason, each.evidence) for each in found] == [
        ("unwatched", "the GPU could not be watched: no nvidia-ml-py; pip install nvidia-ml-py")
    ]


@pytest.mark.parametrize("when", ["at first", "meanwhile", "at last"])
def test_a_driver_that_hangs_is_never_waited_for(monkeypatch, when):
    """Neither at rest nor under load, nor when it is told that we are done."""
    monkeypatch.setattr(nvml, "PATIENCE_S", 0.1)
    monkeypatch.setattr(watch, "FIRST_PATIENCE_S", 0.1)
    answers, now = threading.Event(), "at first"
    asked = "nvmlDeviceGetPowerUsage" if when == "meanwhile" else "nvmlDeviceGetEnforcedPowerLimit"
    hangs = {asked: lambda _: answers.wait(5) if now == when else 65000, "nvmlShutdown": lambda: answers.wait(5)}
    began = time.monotonic()
    with watching(GPU, opened(**hangs)) as seen:
        now = "meanwhile"
        time.sleep(0.1)
        now = "at last" if when == "at last" else now
    gc.collect()
    assert time.monotonic() - began < 4
    answers.set()
    (reason,) = seen.judge(Span([(0, 1)], PID, copies=False))[1]
    assert reason.reason == "unwatched"
    assert re.search(r"NVML (said nothing for|did not answer within) 0\.1 s", reason.evidence)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_odd_error_of_nvml_ends_the_watching_and_not_the_run(when):
    calls = []

    def odd(*_):
        calls.append(1)
        if when == "before" or len(calls) > 1:
            raise ValueError("odd")
        return [1, 1]

    with watching(GPU, opened(nvmlDeviceGetEccMode=odd)) as seen:
        pass
    _, found = seen.judge(Span([(0, 1)], PID, copies=False))
    assert [each.evidence for each in found] == ["the GPU could not be watched: odd"]


def test_an_error_of_the_measurement_passes_through():
    with pytest.raises(KeyboardInterrupt), watching(GPU, opened()):
        raise KeyboardInterrupt


def test_advice_is_of_the_gpu_as_it_is():
    assert watch.advice(GPU, opened(nvmlDeviceGetComputeRunningProcesses=[])) == watch.advice(
        GPU, opened(nvmlDeviceGetComputeRunningProcesses=[])
    )
    assert any("-pm 1" in line for line in watch.advice(GPU, opened(nvmlDeviceGetPersistenceMode=0)))


def test_what_happened_between_two_intervals_is_not_judged():
    """The second one's warm-up, when clocks may still climb."""
    events, over = iter([0, 0, 0x20, 0x20, 0, 0]), threading.Event()

    def state(*_):
        event = next(events, None)
        if event is None:
            over.set()
        return event or 0

    with watching(GPU, opened(nvmlDeviceGetCurrentClocksEventReasons=state)) as seen:
        assert over.wait(20)
    slow = [each.monotonic_ns for each in seen.states if each.events]
    assert slow
    quiet = [(0, slow[0] - 1), (slow[-1] + 1, time.monotonic_ns())]
    assert seen.judge(Span(quiet, PID, copies=False))[1] == ()
    assert reasons(seen.judge(Span([(0, time.monotonic_ns())], PID, copies=False))) == {"throttled"}


def test_a_gpu_that_is_lost_is_unreliable():
    library = fake.Nvml(nvmlDeviceGetComputeRunningProcesses=[fake.process(PID)])
    with watching(GPU, partial(nvml.opened, lambda: library)) as seen:
        library.answers["nvmlDeviceGetPowerUsage"] = library.error("GpuIsLost")
        time.sleep(0.3)
    assert seen.lost
    found = seen.judge(Span([(0, time.monotonic_ns())], PID, copies=False))
    assert reasons(found) == {"unwatched", "unreliable"}
