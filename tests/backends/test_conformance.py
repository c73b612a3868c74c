"""What every backend owes: a new file of bench/backends is held to it unasked. Exceptions stand beside their test."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import inside
import msgspec
import pytest
from stand import CARD, FEW, damages, look

from bench import backends, parity, store
from bench.artifacts import model_files
from bench.jobs import Build, Measured, Problem, Version
from bench.prepare import Workshop
from bench.schema import Precision, Settings

never, notyet = pytest.mark.never, pytest.mark.notyet
nothing = never("simulated", reason="it computes nothing")

ROOT = Path(backends.__file__).parents[2]
RUNTIMES = {module for name in backends.names() for module in backends.get(name).requires}
HEAVY = RUNTIMES | {"numpy", "pandas", "matplotlib", "onnx", "paddle2onnx", "torch"}
LINE = re.compile(r"[^\n]{10,400}")
ENOUGH = Settings(warmup=5, iterations=40, timeout_s=120)
# As on a CPU without AVX-512 and bf16, whatever this one has. OpenVINO and oneDNN read a variable each.
OLD_CPU = {"OV_CPU_MAX_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def declared(backend):
    """What pyproject.toml and the backend's hint install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    return " ".join([backend.install, *extras, *(backend.home.packages if backend.home else ())])


def array(outputs):
    import numpy as np

    return np.array(outputs)


def alike(outputs, others):
    """Whether two lists of arrays are the same but for the order of summation."""
    pairs = list(zip(map(array, outputs), map(array, others), strict=True))
    return bool(pairs) and all(abs(one - two).max() <= 1e-5 * abs(two).max() for one, two in pairs)


# Facts


def test_the_name_is_that_of_the_file(backend, without_runtime):
    assert type(backend).__module__ == f"bench.backends.{backend.name}"
    assert backend.name in backends.KNOWN


def test_the_facts_are_of_the_contract(backend, without_runtime):
    assert backend.precisions <= set(get_args(Precision))
    assert backend.precisions
    assert backend.kinds <= {"cpu", "gpu", "phone"}
    assert backend.kinds
    assert backend.source in ("", "paddle", "onnx", "pdmodel")
    assert backend.source != "pdmodel" or backend.home
    each = [{}, *({name: value} for name, its in backend.options.items() if isinstance(its, tuple) for value in its)]
    engines = {backend.engine_with(backends.settle(backend, options)) for options in each}
    assert bool(engines - {""}) == ("build" in vars(type(backend)))
    assert backends.settle(backend, backend.plain).keys() == backend.options.keys()


def test_what_installs_the_runtime_is_written_down(backend, without_runtime):
    assert bool(backend.requires) == bool(backend.install) == bool(backend.distributions)
    assert not backend.requires or any(name in declared(backend) for name in backend.distributions)


def test_environment_variables_are_strings_whatever_the_options(backend, without_runtime):
    for option, values in backend.options.items():
        for value in values if isinstance(values, tuple) else (values,):
            environ = backend.environment(backends.settle(backend, {option: str(value)}))
            assert all(isinstance(word, str) for pair in environ.items() for word in pair)


# Installed or not


def test_importing_its_file_loads_no_runtime(backend, without_runtime, tmp_path):
    modules = look("importing", inside.Task(backend.name), tmp_path)["modules"]
    assert f"bench.backends.{backend.name}" in modules
    assert not HEAVY & {module.partition(".")[0] for module in modules}


def test_probe_gives_the_version(stand):
    assert isinstance(stand.probed, Version), stand.probed.reason
    assert LINE.fullmatch(f"version {stand.probed.version}")


@never("simulated", reason="it has no runtime that could be absent")
@pytest.mark.parametrize("who", ["missing", "probe"])
def test_an_absent_runtime_is_named_with_what_installs_it(backend, without_runtime, tmp_path, who):
    said = look("hidden", inside.Task(backend.name), tmp_path)[who]
    assert LINE.fullmatch(said)
    assert all(name in said for name in backend.requires)
    assert backend.install in said


@never("simulated", reason="it has no runtime that could be broken")
def test_a_runtime_that_does_not_load_is_unavailable_with_the_cause(backend, without_runtime, tmp_path):
    said = look("unloadable", inside.Task(backend.name), tmp_path)["probe"]
    assert LINE.fullmatch(said)
    assert "libgone.so.1" in said
    assert backend.install in said


def test_a_kind_of_device_that_it_does_not_serve_is_refused(backend, without_runtime, tmp_path):
    for error, reason in look("other_kind", inside.Task(backend.name), tmp_path)["raised"]:
        assert error == "Unsupported", reason
        assert LINE.fullmatch(reason)


# Right outputs


@nothing
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_outputs_equal_the_reference(stand, reference, claimed, batch_size):
    answer = stand.measured(claimed, batch_size)
    if isinstance(answer, Problem) and claimed != "fp32":
        assert answer.status == "unsupported", "a precision that this CPU lacks is refused, and nothing else is"
        assert claimed in answer.reason
        return
    assert isinstance(answer, Measured), answer
    assert answer.parity is not None
    assert parity.fault(answer.parity) == ""
    assert answer.effective.get("precision", claimed) == claimed


@nothing
def test_every_choice_of_an_option_computes_the_same(stand, reference, choice):
    answer = stand.measured(choice=choice)
    assert isinstance(answer, Measured), answer
    assert parity.fault(answer.parity) == ""
    option, _, value = choice.partition("=")
    read_back = answer.effective.get(option, value)
    assert read_back in (value, "unknown") or read_back is (value == "on")


SAME = {
    "first_again": "first",
    "first_after_overwriting": "first",
    "first_run_thrice_more": "first",
    "first_end_to_end": "first",
    "second_end_to_end": "second",
    "second_after_end_to_end": "second",
    "changed_array_fed_anew": "second",
    "fed_array_changed_end_to_end": "second",  # it copies in each time
}
HELD = {"first_held": "first_then", "first_end_to_end_held": "first_end_to_end"}


@nothing
@pytest.mark.parametrize("situation", SAME)
def test_an_input_gives_its_output_whatever_went_before(stand, reference, situation):
    outputs = stand.look("inferring")["outputs"]
    assert alike(outputs[situation], outputs[SAME[situation]])


@nothing
def test_another_input_gives_another_output(stand, reference):
    outputs = stand.look("inferring")["outputs"]
    assert outputs["first"]
    assert not alike(outputs["first"], outputs["second"])


@nothing
@pytest.mark.parametrize("situation", HELD)
def test_outputs_once_fetched_stay_as_they_are(stand, reference, situation):
    outputs = stand.look("inferring")["outputs"]
    assert outputs[situation]
    assert outputs[situation] == outputs[HELD[situation]]


def test_inputs_are_not_written_to(stand, reference):
    assert stand.look("inferring")["fed"] is False


# Measuring


def test_there_is_a_sample_for_each_iteration(stand):
    answer = stand.measured()
    assert isinstance(answer, Measured), answer
    assert tuple(answer.measurement.intervals) == inside.BOTH
    for samples in answer.measurement.intervals.values():
        assert len(samples.samples_ns) == FEW.iterations
        assert len(samples.warmup_ns) == FEW.warmup
        assert all(type(each) is int and each > 0 for each in samples.samples_ns + samples.warmup_ns)
    assert answer.measurement.load_ns > 0
    assert answer.measurement.first_ns > 0


def test_a_sample_is_the_time_between_two_ticks(stand, reference):
    ticks = stand.look("ticking")
    assert ticks == {"compute": [[10] * 2, [10] * 5], "end_to_end": [[10] * 2, [10] * 5]}


def test_an_interval_that_it_lacks_is_refused(stand, reference):
    seen = stand.look("unknown_interval")
    if "device" in seen["known"]:
        pytest.skip("it has them all")
    assert seen["raised"] == "Unsupported"
    assert "device" in seen["reason"]
    assert all(name in seen["reason"] for name in seen["known"])


@never("simulated", reason="it uses no threads, whatever is asked")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_asked_are_threads_used(stand, reference, threads):
    if len(stand.workshop.cpus) < threads:
        pytest.skip(f"{threads} CPUs are needed")
    # With a pool that steals work, one thread may do it all while a neighbour keeps the other CPU busy; never more.
    for _ in range(3):
        answer = stand.measure(batch_size=8, threads=threads, settings=ENOUGH)
        assert isinstance(answer, Measured), answer
        assert answer.effective.get("threads", threads) == threads
        if answer.effective.get("threads_used") == threads:
            break
    assert answer.effective.get("threads_used") == threads


@nothing
def test_what_is_in_effect_is_read_back(stand, reference):
    """Threads and precision, if not by the runtime's word then by what was seen of it."""
    effective = stand.measured().effective
    assert effective.get("threads_used") == 1
    assert effective.get("precision") == "fp32"


# Other machines, other engines


def test_another_precision_is_refused(stand, refused):
    answer = stand.measured(refused)
    assert isinstance(answer, Problem)
    assert answer.status == "unsupported"
    assert refused in answer.reason
    assert LINE.fullmatch(answer.reason)


def test_on_an_old_cpu_it_computes_the_same_or_refuses(stand, claimed):
    answer = stand.measured(claimed, **OLD_CPU)
    if isinstance(answer, Measured):
        assert answer.parity is None or not parity.fault(answer.parity)
        assert answer.effective.get("precision", claimed) == claimed
    else:
        assert claimed != "fp32"
        assert (answer.status, bool(LINE.fullmatch(answer.reason))) == ("unsupported", True), answer


def test_a_run_records_each_precision_as_measured_or_refused(stand):
    records, _ = stand.ran
    found = {record.case.precision: record for record in records}
    assert found.keys() == set(get_args(Precision))
    assert found["fp32"].status == "ok"
    for record in records:
        assert record.status in ("ok", "unsupported")
        assert bool(record.measurement) == (record.status == "ok")
        assert record.status == "ok" or LINE.fullmatch(record.reason)
        assert "misconfigured" not in {found.reason for found in record.validity}


def test_its_records_survive_writing_and_reading(stand):
    records, path = stand.ran
    back = store.read(path)
    assert back.damaged == 0
    assert list(map(msgspec.structs.asdict, back.records)) == list(map(msgspec.structs.asdict, records))
    assert any(record.measurement for record in back.records)


class Counting(Workshop):
    """Takes the source from another workshop, and counts the jobs that its own engines cost."""

    def __init__(self, other, cache):
        super().__init__(cache, other.settings, other.cpus, other.say)
        self.other = other
        self.jobs = []

    def source(self, *what):
        return self.other.source(*what)

    def ask(self, job, *rest):
        self.jobs.append(type(job))
        return super().ask(job, *rest)


def test_the_second_engine_comes_from_the_cache(stand, tmp_path):
    counting = Counting(stand.workshop, type(stand.workshop.cache)(tmp_path))
    first = counting.engine(CARD, stand.setup())
    assert counting.jobs == ([Build] if stand.backend.engine else [])
    assert counting.engine(CARD, stand.setup()) == first
    assert len(counting.jobs) <= 1


def test_a_session_can_be_opened_again_and_closing_frees_its_memory(stand, reference):
    seen = stand.look("reopening")
    resident = seen["resident"]
    # The first cycles fill pools that are kept, and these vary. A session that is not freed costs at least the weights.
    lost = min(resident[10:]) - min(resident[3:10])
    assert lost < 7 * max(stand.engine.size_bytes, 1 << 20) / 2, resident


@nothing
def test_sessions_give_the_same_one_after_another_and_side_by_side(stand, reference):
    assert stand.look("reopening")["same"]


# Broken engines


@never("simulated", reason="it has no engine that could be damaged")
def test_a_damaged_engine_fails_with_a_reason(stand, reference):
    records = stand.damaged
    names = damages(stand.engine)
    files = [file.name for file in model_files(Path(stand.engine.path))]
    assert names
    for name in names:
        assert records[name].status == "failed", (name, records[name].reason)
        assert LINE.fullmatch(records[name].reason), (name, records[name].reason)
        assert str(stand.folder) not in records[name].reason
        assert any(word in records[name].reason for word in [*files, "output"])
        assert records[name].measurement is None


@nothing
@pytest.mark.parametrize(("model", "reason"), [("nan", "not finite"), ("ten", "shape")])
def test_outputs_that_cannot_be_right_fail(stand, reference, model, reason):
    record = stand.damaged[model]
    assert record.status == "failed"
    assert reason in record.reason
    assert record.measurement is None


def test_the_run_goes_on_after_a_broken_engine(stand, reference):
    records = stand.damaged
    assert list(records)[-1] == CARD.name
    assert records[CARD.name].status == "ok"


# The marks themselves


def outcome(folder, test):
    """What pytest says of one test under our conftest."""
    for file in ("conftest.py", "inside.py", "stand.py"):
        shutil.copy(Path(__file__).with_name(file), folder)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra --strict-markers\nmarkers = runtime\n")
    (folder / "test_one.py").write_text(f"import pytest\n\n{test}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "simulated"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("assert False", "1 xfailed"),
        ("pass", "[XPASS(strict)] never: it is so"),
        ("raise RuntimeError", "1 failed"),
    ],
)
def test_a_mark_asks_for_a_failing_assertion(tmp_path, body, says):
    test = f'@pytest.mark.never("simulated", reason="it is so")\ndef test_one(backend):\n    {body}'
    assert says in outcome(tmp_path, test)


@pytest.mark.parametrize("words", ['"simulatd", reason="it is so"', '"simulated"', 'reason="it is so"'])
def test_a_mark_names_backends_and_a_reason(tmp_path, words):
    test = f"@pytest.mark.never({words})\ndef test_one(backend):\n    pass"
    assert "names of backends and a reason" in outcome(tmp_path, test)
