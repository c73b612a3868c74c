"""Every rule on the state of a GPU, on and off; what it says, what it advises, and that it changes nothing."""

import ast
import inspect

import msgspec
import pytest

from bench.gpu import hygiene, nvml, nvml_api, selection
from bench.gpu.hygiene import Limits, Look, Work, advice, deviations, neighbours, summary, within
from bench.gpu.nvml import Facts, State
from bench.gpu.selection import Gpu

FACTS = Facts(
    max_sm_clock_mhz=1590,
    application_sm_clock_mhz=585,
    application_memory_clock_mhz=5001,
    default_sm_clock_mhz=585,
    power_limit_mw=70000,
    default_power_limit_mw=70000,
    slowdown_c=93,
    ecc=1,
    ecc_pending=1,
    uncorrected_errors=0,
    persistence=1,
    virtualisation=0,
    display_active=0,
    max_pcie_generation=3,
    max_pcie_width=16,
)
STATE = State(
    monotonic_ns=0,
    sm_clock_mhz=1590,
    memory_clock_mhz=5000,
    events=0,
    power_mw=65000,
    temperature_c=60,
    performance_state=0,
    pcie_generation=3,
    pcie_width=16,
    utilisation_percent=0,
    compute_pids=(),
    graphics_pids=(),
    mps_pids=(),
)
REST = Look(FACTS, STATE)
GPU = Gpu(index=1, name="Tesla T4", uuid="GPU-1", capability=(7, 5))
OURS = 4711


def replaced(what, **fields):
    return msgspec.structs.replace(what, **fields)


def load(*rows, **fields):
    """States under load with our own process on the GPU, one for each row of changes (four without any)."""
    rows = rows or ({},) * 4
    return [
        replaced(STATE, **{"monotonic_ns": at, "compute_pids": (OURS,), **fields, **row}) for at, row in enumerate(rows)
    ]


def judged(during=None, before=REST, after=REST, **work):
    work = {"own": frozenset({OURS}), "capability": (7, 5), **work}
    found = deviations(before, load() if during is None else during, after, Limits(), Work(**work))
    return {each.reason: each.evidence for each in found}


def at_rest(facts=None, state=None):
    return Look(replaced(FACTS, **(facts or {})), replaced(STATE, **(state or {})))


def test_a_quiet_gpu_has_nothing_against_it():
    assert judged() == {}
    assert judged(copies=True) == {}


def test_what_nvml_does_not_tell_is_not_judged_but_said():
    silent = Look(Facts(), State(monotonic_ns=0))
    missing = {"sm_clock_mhz": "NotSupported: Not Supported"}
    assert judged([State(monotonic_ns=0, missing=missing)], silent, silent, copies=True) == {
        "unwatched": "nothing is known of the GPU's clocks while it was timed: NotSupported: Not Supported"
    }


# Clock events


@pytest.mark.parametrize(("bit", "name"), hygiene.SLOWED.items())
def test_slowed_down(bit, name):
    assert judged(load({}, {"events": bit}, {"events": bit | 1}, {})) == {
        "throttled": f"the GPU slowed down for {name} in 2 of 4 samples"
    }
    assert judged(before=at_rest(state={"events": bit}), after=at_rest(state={"events": bit})) == {}


def test_all_bits_of_the_reference_are_judged():
    assert set(hygiene.SLOWED) | {hygiene.POWER_CAP} == {0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x200, 0x400}
    import pynvml

    for bit, name in hygiene.EVENTS.items():
        assert getattr(pynvml, f"nvmlClocksThrottleReason{name}") == bit


def test_the_power_limit_held_the_clocks():
    assert judged(load({"events": 4}, {})) == {"power_capped": "the power limit held the clocks in 1 of 2 samples"}


@pytest.mark.parametrize("bit", [0x1, 0x2, 0x100])
def test_normal_events(bit):
    assert judged(load(events=bit)) == {}


def test_several_events_are_one_reason():
    assert judged(load(events=0x48)) == {
        "throttled": "the GPU slowed down for HwSlowdown in 4 of 4 samples; "
        "the GPU slowed down for HwThermalSlowdown in 4 of 4 samples"
    }


# Clocks


def clocks(*values):
    return load(*({"sm_clock_mhz": value} for value in values))


def test_a_clock_that_moves():
    assert judged(clocks(1590, 1500, 1530, 1560)) == {
        "drifting": "the SM clock moved between 1500 and 1590 MHz, 5.8% (limit 3%)"
    }
    assert judged(clocks(1590, 1575, 1560)) == {}


def test_a_clock_far_below_the_highest():
    assert judged(clocks(1400, 1405, 1410)) == {
        "drifting": "the SM clock, not locked, was 1405 MHz in the median, the GPU has 1590 MHz"
    }
    assert judged(clocks(1440, 1440, 1455)) == {}


def test_a_locked_clock_may_be_low():
    assert judged(clocks(900, 900, 900)) == {}
    assert summary(REST, clocks(900, 900), REST)["sm_clock"] == "constant"
    assert summary(REST, clocks(900, 905), REST)["sm_clock"] == "varying"
    assert summary(REST, [], REST)["sm_clock"] is None


def test_only_the_timed_window_is_judged():
    states = [replaced(STATE, monotonic_ns=at, sm_clock_mhz=mhz) for at, mhz in ((0, 300), (10, 1590), (20, 1590))]
    assert [state.monotonic_ns for state in within(states, 10, 20)] == [10, 20]
    assert [state.monotonic_ns for state in within(states, 11, 19)] == []


# Settings


@pytest.mark.parametrize(
    ("facts", "reason", "evidence"),
    [
        ({"power_limit_mw": 60000}, "misconfigured", "the power limit is 60 W, by default 70 W"),
        ({"ecc_pending": 0}, "misconfigured", "ECC is on and will be off after a reboot"),
        ({"ecc": 0}, "misconfigured", "ECC is off and will be on after a reboot"),
        ({"uncorrected_errors": 2}, "unreliable", "2 uncorrected memory errors since the driver was loaded"),
        ({"mig": 1}, "misconfigured", "MIG is enabled: a slice of a GPU is not the GPU"),
        (
            {"persistence": 0},
            "misconfigured",
            "persistence mode is off, so the driver forgets its state between processes",
        ),
        ({"virtualisation": 1}, "passed_through", "the whole GPU is passed through to a virtual machine"),
        ({"virtualisation": 2}, "misconfigured", "the GPU is a vGPU"),
        ({"virtualisation": 9}, "misconfigured", "the GPU is virtual"),
        ({"display_active": 1}, "misconfigured", "a display is active on the GPU"),
    ],
)
def test_settings(facts, reason, evidence):
    look = at_rest(facts)
    assert judged(before=look, after=look) == {reason: evidence}
    unknown = at_rest(dict.fromkeys(facts))
    assert judged(before=unknown, after=unknown) == {}


def test_errors_that_came_while_it_was_measured_count():
    assert "unreliable" in judged(after=at_rest({"uncorrected_errors": 1}))


@pytest.mark.parametrize(("hottest", "found"), [(87, False), (88, True), (93, True)])
def test_heat(hottest, found):
    said = judged(load({}, {"temperature_c": hottest}, {}))
    assert said == ({"hot": f"the GPU reached {hottest} °C and slows down at 93 °C"} if found else {})


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_performance_state(capability):
    assert judged(load({}, {"performance_state": 2}), capability=capability) == {
        "misconfigured": "the GPU was in performance state P2, not P0, under load"
    }


def test_newer_gpus_compute_in_p2():
    assert judged(load(performance_state=2), capability=(8, 6)) == {}
    assert judged(load(performance_state=2), capability=None) == {}


def test_the_link_is_judged_under_load_where_copies_are_timed():
    narrow = load({"pcie_width": 8, "pcie_generation": 1}, {"pcie_width": 8, "pcie_generation": 2})
    assert judged(narrow) == {}
    assert judged(narrow, copies=True) == {
        "misconfigured": "the PCIe link had generation 2 under load, it can have 3; "
        "the PCIe link had width 8 under load, it can have 16"
    }
    # An idle link drops its generation, between two inferences as well.
    assert judged(load({"pcie_generation": 1}, {}), copies=True) == {}


# Neighbours


@pytest.mark.parametrize("field", ["compute_pids", "graphics_pids", "mps_pids"])
def test_other_processes(field):
    during = load({}, {field: (12, OURS)})
    assert judged(during) == {"contended": "other processes were on the GPU: 12"}


def test_a_neighbour_that_left_counts_too():
    assert judged(before=at_rest(state={"compute_pids": (12,)})) == {"contended": "other processes were on the GPU: 12"}


def test_in_a_container_processes_have_other_numbers():
    before, hidden = STATE, load(compute_pids=(90210,))
    assert judged(hidden) == {}
    assert neighbours(before, hidden, frozenset({OURS})) == frozenset()
    assert neighbours(before, load(compute_pids=(90210, 90211)), frozenset({OURS})) == {90210, 90211}
    guest = replaced(before, compute_pids=(12,))
    assert neighbours(guest, load(compute_pids=(12, 90210)), frozenset({OURS})) == {12}


@pytest.mark.parametrize(("busy", "found"), [(5, False), (6, True)])
def test_busy_before(busy, found):
    said = judged(before=at_rest(state={"utilisation_percent": busy}))
    assert said == ({"contended": "the GPU was 6% busy before the worker was started (limit 5%)"} if found else {})
    assert judged(load(utilisation_percent=99)) == {}


# Watching


def test_no_sample_at_all():
    assert judged([]) == {
        "unwatched": "nothing is known of the GPU's clocks while it was timed: no sample is of that time"
    }


def test_a_lost_gpu():
    during = [*load(), State(monotonic_ns=9, lost=True)]
    assert judged(during, failure="the GPU is lost: the driver no longer reaches it") == {
        "unwatched": "the GPU is lost: the driver no longer reaches it",
        "unreliable": "the GPU was lost",
    }


def test_limits_are_arguments():
    moving = clocks(1590, 1500)
    assert deviations(REST, moving, REST, Limits(clock_spread=0.1), Work(own=frozenset({OURS}))) == ()


def test_summary():
    found = summary(REST, load({"events": 4, "power_mw": 69000}, {"temperature_c": 70}, {"events": 0x24}), REST)
    assert found["samples"] == 3
    assert (found["power_mw_min"], found["power_mw_median"], found["power_mw_max"]) == (65000, 65000, 69000)
    assert found["temperature_c_max"] == 70
    assert (found["memory_used_bytes_before"], found["memory_used_bytes_max"]) == (None, None)
    during = load({"memory_used_bytes": 7}, {"memory_used_bytes": 5})
    grown = summary(at_rest(state={"memory_used_bytes": 1}), during, REST)
    assert (grown["memory_used_bytes_before"], grown["memory_used_bytes_max"]) == (1, 7)
    assert {name: times for name, times in found["events"].items() if times} == {
        "SwPowerCap": 2,
        "SwThermalSlowdown": 1,
    }
    assert summary(REST, [], REST)["power_mw_max"] is None
    lost = [State(monotonic_ns=0, missing={"power_mw": "NoPermission: Insufficient Permissions"})]
    assert summary(REST, lost, REST)["missing"] == {"power_mw": "NoPermission: Insufficient Permissions"}
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_settings_are_on_record_beside_what_was_seen():
    after = at_rest({"uncorrected_errors": 2})
    found = summary(at_rest(state={"utilisation_percent": 3}), load({"pcie_width": 8}, {"pcie_generation": 1}), after)
    assert found["facts"].keys() == {field.name for field in msgspec.structs.fields(Facts)} - {"missing"}
    assert {name: value for name, value in found["facts"].items() if value is not None} == {
        name: value for name, value in msgspec.structs.asdict(FACTS).items() if value is not None and name != "missing"
    }
    assert (found["pcie_generation"], found["pcie_width"]) == (3, 16)
    assert (found["facts"]["uncorrected_errors"], found["uncorrected_errors_after"]) == (0, 2)
    assert found["utilisation_percent_before"] == 3
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_what_is_not_known_of_it_has_a_reason():
    facts = Facts(missing={"ecc": "NotSupported: Not Supported"})
    state = State(monotonic_ns=0, missing={"utilisation_percent": "Unknown: Unknown Error"})
    found = summary(Look(facts, state), [replaced(state, missing={})], Look(facts, state))
    assert set(found["facts"].values()) == {None}
    unknown = ("neighbours", "pcie_generation", "pcie_width", "utilisation_percent_before", "uncorrected_errors_after")
    assert [found[name] for name in unknown] == [None] * 5
    assert found["missing"] == facts.missing | state.missing


def test_neighbours_are_counted_and_not_listed():
    during = load({"compute_pids": (OURS, 90210)}, {"graphics_pids": (90211,)})
    before = at_rest(state={"mps_pids": (90212,)})
    assert summary(before, during, REST, frozenset({OURS}))["neighbours"] == 3
    assert summary(REST, load(), REST, frozenset({OURS}))["neighbours"] == 0
    assert "9021" not in str(summary(before, during, REST, frozenset({OURS})))


# Advice


def test_advice_names_the_gpu_and_how_to_undo_it():
    look = at_rest({"persistence": 0, "power_limit_mw": 60000, "ecc_pending": 0})
    assert advice(GPU, look, clocks(1590, 1410, 1500)) == (
        "keep the driver loaded between processes: nvidia-smi -i GPU-1 -pm 1 (as root)",
        "set the power limit back: nvidia-smi -i GPU-1 -pl 70 (as root)",
        "reboot, so that ECC is what was asked; or take that back: nvidia-smi -i GPU-1 -e 1 (as root)",
        "lock the SM clock below what power and heat allow: nvidia-smi -i GPU-1 -lgc 1410,1410 (as root; undo: -rgc)",
        "or set application clocks: nvidia-smi -i GPU-1 -ac 5001,1410 (as root; undo: -rac)",
    )


def test_advice_for_neighbours():
    look = at_rest({"mig": 1, "display_active": 1}, {"compute_pids": (12, 9)})
    assert advice(GPU, look, clocks(900, 900)) == (
        "measure the whole GPU: as root: nvidia-smi -i GPU-1 -mig 0",
        "measure on a GPU without a display",
        "end what else is on the GPU: processes 9, 12",
    )


def test_advice_before_anything_ran():
    assert advice(GPU, REST) == (
        "lock the SM clock below what power and heat allow: nvidia-smi -i GPU-1 -lgc 585,585 (as root; undo: -rgc)",
        "or set application clocks: nvidia-smi -i GPU-1 -ac 5001,585 (as root; undo: -rac)",
    )
    assert advice(GPU, Look(Facts(), STATE)) == ()


def test_nothing_is_ever_changed_or_started():
    for module in (hygiene, nvml, nvml_api, selection):
        tree = ast.parse(inspect.getsource(module))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"subprocess", "os", "pty", "shutil"}
        assert "Set" not in "".join(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        assert "nvmlDeviceSet" not in inspect.getsource(module)
    functions = {name for name in vars(nvml_api.Pynvml) if name.startswith("nvml")} - {"nvmlInit", "nvmlShutdown"}
    assert all(name.startswith(("nvmlDeviceGet", "nvmlSystemGet")) for name in functions)
