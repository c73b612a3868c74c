"""Waiting for a calm machine: by a clock and a load that only the tests move."""

import pytest

from bench import admission
from bench.schema import Case

REAL = Case("M", "onnxruntime", "cpu", "fp32", 1, 1)
SIMULATED = Case("M", "simulated", "cpu", "fp32", 1, 1)


class Machine:
    """Others use what `cores` says, one after the other and then the last; each look takes half a second."""

    def __init__(self, *cores):
        self.cores = list(cores)
        self.looks = 0
        self.said = []

    def look(self):
        self.looks += 1
        return {"busy_cores": self.cores.pop(0) if len(self.cores) > 1 else self.cores[0]}

    def clock(self):
        return self.looks * 0.5

    def wait(self, *cases):
        admission.wait(cases, self.said.append, self.look, self.clock)
        return self


@pytest.fixture(autouse=True)
def waiting(monkeypatch):
    monkeypatch.delenv(admission.VARIABLE)


@pytest.mark.parametrize("cores", [0.0, 0.24, None])
def test_a_calm_machine_is_looked_at_once(cores):
    machine = Machine(cores).wait(REAL)
    assert (machine.looks, machine.said) == (1, [])


def test_it_waits_until_others_are_done():
    machine = Machine(1.0, 0.9, 0.3, 0.1).wait(SIMULATED, REAL)
    assert machine.looks == 4
    assert machine.said == ["others use 1.0 cores (limit 0.25); waiting up to 60 s for them to end", "calm after 2 s"]


def test_it_goes_on_after_a_minute():
    machine = Machine(2.0, 1.5).wait(REAL)
    assert machine.clock() == 60
    assert machine.said[1:] == ["others still use 1.5 cores after 60 s; measuring all the same"]


@pytest.mark.parametrize("cases", [(), (SIMULATED,)])
def test_what_computes_nothing_need_not_wait(cases):
    assert Machine(2.0).wait(*cases).looks == 0


@pytest.mark.parametrize(("value", "looks"), [("1", 0), ("yes", 0), ("0", 1), ("", 1)])
def test_the_environment_can_say_no(monkeypatch, value, looks):
    monkeypatch.setenv(admission.VARIABLE, value)
    assert Machine(0.0).wait(REAL).looks == looks


def test_the_real_look_sees_this_machine():
    assert admission._look()["busy_cores"] >= 0
