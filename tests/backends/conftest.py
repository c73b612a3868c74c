"""Runs the suite over every backend of the folder, and holds it to the exceptions that tests name.

A test that takes `backend` is run for each of them. `@never("name", reason=…)` says that it fails for that one by the
nature of the thing, `@notyet("name", reason=…)` that it need not stay so. Both are strict: such a test must fail by an
assertion, and is an error once it passes.
"""

import os
from typing import get_args

import pytest
from stand import CARD, FEW, Stand

from bench import backends, environment, homes
from bench.artifacts import Cache
from bench.jobs import Problem
from bench.prepare import REFERENCES, Workshop
from bench.progress import Quiet
from bench.schema import Precision
from bench.session import why_missing

REASONS = {"never": "never: {}", "notyet": "not yet: {}"}


def pytest_configure(config):
    config.addinivalue_line("markers", "never(*backends, reason): the test fails for these by the nature of the thing")
    config.addinivalue_line("markers", "notyet(*backends, reason): the test still fails for these")


def pytest_generate_tests(metafunc):
    """A test that takes `backend` is run for each, and where it takes `claimed`, `refused` or `choice` for each of its
    precisions, of the others, or of the options' values."""
    if "backend" not in metafunc.fixturenames:
        return
    facts = {"claimed": claimed, "refused": refused, "choice": choices}
    asked = [name for name in facts if name in metafunc.fixturenames]
    rows = [
        pytest.param(name, *values, id="-".join([name, *map(str, values)]), marks=marks(name, metafunc.fixturenames))
        for name in backends.names()
        for values in ([(value,) for value in facts[asked[0]](name)] if asked else [()])
    ]
    metafunc.parametrize(["backend", *asked], rows, indirect=["backend"])


def claimed(name):
    return sorted(able(name))


def refused(name):
    return sorted(set(get_args(Precision)) - able(name))


def able(name):
    """The precisions on the kind of device that the suite takes it to."""
    backend = backends.get(name)
    return backend.precisions_on(kind_of(backend))


def kind_of(backend):
    return "cpu" if "cpu" in backend.kinds else min(backend.kinds)


def choices(name):
    """Every `option=value`. Those of a backend that computes nothing are faults to simulate, not ways to run."""
    backend = backends.get(name)
    kind = kind_of(backend)
    here = {option: values for option, values in backend.options.items() if backend.only.get(option, kind) == kind}
    several = {option: values for option, values in here.items() if isinstance(values, tuple)}
    return [f"{option}={value}" for option, values in several.items() for value in values] if backend.computes else []


def marks(name, fixtures):
    needed = "reference" in fixtures or (backends.get(name).requires and "without_runtime" not in fixtures)
    return [pytest.mark.runtime] if needed else []


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers():
            if mark.name in REASONS:
                expect_failure(item, mark)


def expect_failure(item, mark):
    strangers = set(mark.args) - set(backends.names())
    if strangers or not mark.args or not mark.kwargs.get("reason"):
        raise pytest.UsageError(f"{item.nodeid}: @{mark.name} takes names of backends and a reason, not {mark.args}")
    if "backend" not in item.fixturenames:
        raise pytest.UsageError(f"{item.nodeid}: @{mark.name} is for tests that take backend or stand")
    if item.callspec.params["backend"] in mark.args:
        reason = REASONS[mark.name].format(mark.kwargs["reason"])
        item.add_marker(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    return Workshop(Cache(tmp_path_factory.mktemp("cache")), FEW, environment.cpus_available(), Quiet().say)


@pytest.fixture
def backend(request):
    return backends.get(request.param)


@pytest.fixture
def without_runtime():
    """For tests that must pass whether or not the backend's runtime is installed."""


@pytest.fixture(scope="session")
def stands(workshop, tmp_path_factory):
    return {name: Stand(backends.get(name), workshop, tmp_path_factory.mktemp(name)) for name in backends.names()}


@pytest.fixture
def stand(backend, stands):
    """The backend with a real model. A runtime that can't serve a device here fails: who runs these tests wants it.

    Of a backend for GPUs alone the tests that need one are left to machines with a GPU. One with a home that isn't set
    up, as there may be no such Python, is left out everywhere but in CI.
    """
    homeless = backend.home and homes.missing(backend) and os.environ.get("CI") != "true"
    refuse = pytest.skip if homeless or backend.kinds == {"gpu"} else pytest.fail
    if absent := why_missing(backend, [CARD]):
        refuse(absent)
    probed = stands[backend.name].probed
    if isinstance(probed, Problem) and probed.status == "unavailable":
        refuse(probed.reason)
    return stands[backend.name]


@pytest.fixture(scope="session")
def reference(workshop):
    """What outputs are compared with, and inputs come from."""
    if absent := why_missing(backends.get(REFERENCES["paddle"]), [CARD]):
        pytest.fail(absent)
    return workshop.reference(CARD)
