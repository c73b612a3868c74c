"""`bench_lite`, our own program for the phone, compiled and run here: against a Paddle Lite that only pretends, and
inside a Python that has loaded the real one."""

import array
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from absent import absent

from bench import homes
from bench.backends.paddle_lite import report, tool
from bench.errors import Unavailable

TESTS = Path(__file__).parent
SOURCE = Path(tool.__file__).parent / "runner" / "bench_lite.cc"
HEADERS = TESTS / "lite_api"
NB = TESTS / "data" / "tiny_x86.nb"
STRICT = ["-std=c++11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{HEADERS}"]

# Both run in the Python of Paddle Lite: main() of bench_lite, and the same inference through the Python API.
RUN_IN_PYTHON = """
import ctypes, os, sys
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
import paddlelite.lite
words = [word.encode() for word in sys.argv[2:]]
main = ctypes.CDLL(sys.argv[1])._Z15bench_lite_mainiPPc
sys.exit(main(len(words), (ctypes.c_char_p * (len(words) + 1))(*words, None)))
"""
RUN_PYTHON_API = """
import sys
import numpy as np
from paddlelite.lite import MobileConfig, create_paddle_predictor
config = MobileConfig()
config.set_model_from_file(sys.argv[1])
predictor = create_paddle_predictor(config)
predictor.get_input(0).from_numpy(np.fromfile(sys.argv[2], np.float32).reshape(1, 3, 32, 32))
predictor.run()
predictor.get_output(0).numpy().tofile(sys.argv[3])
"""


def need(there, what):
    """In CI all of this must run; elsewhere not everyone has a compiler."""
    if not there:
        absent(f"no {what}")


def compiled(compiler, target, *arguments):
    done = subprocess.run([compiler, *STRICT, "-o", target, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return target


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    need(shutil.which("g++"), "g++")
    return compiled("g++", tmp_path_factory.mktemp("runner") / "bench_lite", SOURCE, HEADERS / "fake.cc")


@pytest.fixture
def run(program, tmp_path):
    """Starts it on a model file that holds `words`; gives return code, standard output and error."""

    def start(*arguments, words="", shape="1,3,2,2", model="m.nb"):
        (tmp_path / "m.nb").write_text(words)
        line = [program, f"--model={model}", f"--input-shape={shape}", "--warmup=2", "--iterations=4", *arguments]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return start


@pytest.fixture(scope="session")
def lite_python():
    """The Python that Paddle Lite is set up in."""
    try:
        return homes.python("paddle_lite")
    except Unavailable as missing:
        need(False, str(missing))


def floats(*values):
    return array.array("f", values).tobytes()


def read(code, out, error):
    assert (code, error) == (0, "")
    return report.parse_samples(out)


def test_clang_finds_nothing_to_warn_of_either(tmp_path):
    if not shutil.which("clang++"):
        pytest.skip("no clang++, which is not asked for")
    compiled("clang++", tmp_path / "bench_lite", SOURCE, HEADERS / "fake.cc")


def test_every_inference_is_a_sample(run):
    found = read(*run("--threads=3", "--power-mode=1"))
    assert (found.model, found.input_shape, found.threads, found.power_mode) == ("m.nb", "1,3,2,2", 3, 1)
    assert (len(found.warmup_ns), len(found.samples_ns)) == (2, 4)
    assert min(found.first_ns, *found.warmup_ns, *found.samples_ns) >= 1_000_000  # it sleeps a millisecond
    assert found.lite_version == 'fake "1"'  # the mode that the library was given


def test_every_thread_is_there_with_the_cpus_it_may_use(run):
    found = read(*run("--threads=3"))
    assert len({task.id for task in found.tasks}) == len(found.tasks) == 3
    status = Path("/proc/self/status").read_text()
    assert {f"Cpus_allowed_list:\t{task.allowed}\n" in status for task in found.tasks} == {True}
    assert all(task.cpu in os.sched_getaffinity(0) and task.ticks >= 0 for task in found.tasks)
    assert found.ticks_per_s == os.sysconf("SC_CLK_TCK")


def test_without_an_input_file_every_element_is_one(run):
    (output,) = read(*run()).outputs
    assert (output.shape, output.elements, output.mean) == ((1, 3), 3, 24)  # of 12, 24 and 36
    assert output.deviation == pytest.approx(96**0.5, rel=1e-8)


def test_inputs_and_outputs_go_through_files(run, tmp_path):
    (tmp_path / "in").write_bytes(floats(*range(12), 0.5, 0.25))
    found = read(*run("--input=in", "--output=out", words="inputs=2 outputs=2", shape="1,3,2,2:2"))
    assert (tmp_path / "out").read_bytes() == floats(66.75, 133.5, 200.25, 67.75, 134.5, 201.25)
    assert [output.mean for output in found.outputs] == [133.5, 134.5]


def test_a_name_with_quotes_stays_readable(run, tmp_path):
    name = 'a "b"\\\n.nb'
    (tmp_path / name).write_text("")
    assert read(*run(model=name)).model == name


@pytest.mark.parametrize(
    ("words", "arguments", "code", "said"),
    [
        ("", ["--model=absent.nb"], 3, "cannot read the model absent.nb"),
        ("throw_at_load", [], 3, "Paddle Lite failed: the model is damaged"),
        ("null", [], 3, "Paddle Lite does not load m.nb"),
        ("inputs=2", [], 4, "the model has another number of inputs than --input-shape"),
        ("", ["--input=absent"], 4, "cannot read enough float32 from absent"),
        ("", ["--input=short"], 4, "cannot read enough float32 from short"),
        ("", ["--input=long"], 4, "there is more in long than the input takes"),
        ("throw_at_run", [], 5, "Paddle Lite failed: a kernel gave up"),
        ("int64", [], 6, "an output is not of float32"),
        ("", ["--output=absent/out"], 6, "cannot write absent/out"),
        ("", ["--threads=0"], 2, "there must be a thread and an iteration at least, and a power mode from 0 to 5"),
        ("", ["--iterations=0"], 2, "there must be a thread and an iteration at least, and a power mode from 0 to 5"),
        ("", ["--power-mode=6"], 2, "there must be a thread and an iteration at least, and a power mode from 0 to 5"),
        ("", ["--warmup=-1"], 2, "--warmup is a whole number, not '-1'"),
        ("", ["--warmup=1e3"], 2, "--warmup is a whole number, not '1e3'"),
        ("", ["--warmup"], 2, "--warmup is a whole number, not ''"),
        ("", ["--input-shape=1,,3"], 2, "a dimension is a whole number, not ''"),
        ("", ["--input-shape=1,0"], 2, "a dimension is 1 at least, not 0"),
        ("", ["--nosuch=1"], 2, "'--nosuch=1' is not understood; give --model=FILE --input-shape=N,C,H,W and,"),
        ("", ["stray"], 2, "'stray' is not understood; give"),
        ("", ["--"], 2, "'--' is not understood; give"),
    ],
)
def test_what_goes_wrong_has_a_code_and_a_line(run, tmp_path, words, arguments, code, said):
    (tmp_path / "short").write_bytes(floats(*range(11)))
    (tmp_path / "long").write_bytes(floats(*range(12)) + b"\0")
    returned, out, error = run(*arguments, words=words)
    assert (returned, out) == (code, "")
    assert error.startswith(f"bench_lite, a runner of bench: {said}")
    assert error.count("\n") == 1


def test_a_full_disk_is_noticed(program, tmp_path):
    (tmp_path / "m.nb").write_text("")
    with Path("/dev/full").open("w") as full:
        line = [program, "--model=m.nb", "--input-shape=1,1", "--iterations=1"]
        done = subprocess.run(line, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (6, "bench_lite, a runner of bench: cannot write to standard output\n")


def test_an_output_that_is_no_number_reaches_no_record(run):
    code, out, _ = run(words="nan")
    assert (code, '"mean":null' in out) == (0, True)
    with pytest.raises(Exception, match=r"^bench_lite's output is not understood; an output is not finite$"):
        report.parse_samples(out)


def test_the_command_line_that_we_write_is_the_one_it_takes(run, tmp_path):
    (tmp_path / "in").write_bytes(floats(*range(12)))
    asked = tool.Asked(
        "m.nb", (1, 3, 2, 2), threads=2, warmup=3, repeats=5, power_mode=3, input_path="in", output_path="o"
    )
    ours = tool.Tool("bench_lite", "bench_lite", "arm64-v8a", "", 0)
    report.check_samples(read(*run(*tool.arguments(ours, asked))), asked)
    assert (tmp_path / "o").stat().st_size == 12


def test_its_version_and_its_mark_are_those_that_we_look_for(program):
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert tool.version(done.stdout) == "1"
    assert tool.MARK in program.read_bytes()


def test_cmake_builds_it_with_the_library_beside_it(tmp_path):
    """As for a phone, with the compiler of this machine: a folder of Paddle Lite with the pretended library."""
    need(shutil.which("cmake") and shutil.which("g++"), "cmake and g++")
    library = tmp_path / "lite" / "cxx" / "lib" / "libpaddle_light_api_shared.so"
    include = tmp_path / "lite" / "cxx" / "include"
    library.parent.mkdir(parents=True)
    shutil.copytree(HEADERS, include)
    compiled("g++", library, "-shared", "-fPIC", HEADERS / "fake.cc")
    quiet = {"check": True, "capture_output": True}
    build = tmp_path / "build"
    subprocess.run(
        ["cmake", "-S", SOURCE.parent, "-B", build, f"-DPADDLE_LITE_DIR={tmp_path / 'lite'}"], **quiet, timeout=60
    )
    subprocess.run(["cmake", "--build", build], **quiet, timeout=60)
    elf = tool.read_elf((build / "bench_lite").read_bytes(), build / "bench_lite")
    assert library.name in elf.needed
    (tmp_path / "m.nb").write_text("")
    library.unlink()
    line = [build / "bench_lite", f"--model={tmp_path / 'm.nb'}", "--input-shape=1,1", "--iterations=1"]
    assert read(0, subprocess.run(line, check=True, capture_output=True, text=True).stdout, "").iterations == 1


@pytest.mark.runtime
def test_inside_paddle_lite_it_computes_what_the_python_api_does(lite_python, tmp_path):
    """tiny_x86.nb is a depthwise-separable network for 32 pixels, of random weights (Paddle 2.6.2, opt 2.13rc0)."""
    need(shutil.which("g++"), "g++")
    library = compiled("g++", tmp_path / "bench_lite.so", "-shared", "-fPIC", "-Dmain=bench_lite_main", SOURCE)
    image = tmp_path / "in"
    image.write_bytes(floats(*itertools.islice(itertools.cycle((-1.5, -0.25, 0.5, 1.0, 1.75, -0.75, 0.125)), 3072)))
    words = [
        f"--model={NB}",
        "--input-shape=1,3,32,32",
        "--power-mode=3",
        f"--input={image}",
        f"--output={tmp_path}/out",
    ]
    done = subprocess.run(
        [lite_python, "-c", RUN_IN_PYTHON, library, "bench_lite", *words, "--warmup=3", "--iterations=20"],
        capture_output=True,
        text=True,
    )
    found = read(done.returncode, done.stdout, "")
    subprocess.run([lite_python, "-c", RUN_PYTHON_API, NB, image, tmp_path / "api"], check=True, capture_output=True)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "api").read_bytes()
    logits = array.array("f", (tmp_path / "out").read_bytes())
    assert (found.lite_version, len(found.samples_ns), len(found.warmup_ns)) == ("v2.13-rc", 20, 3)
    assert [output.shape for output in found.outputs] == [(1, 10)]
    assert found.outputs[0].mean == pytest.approx(sum(logits) / 10, rel=1e-6)
    assert found.outputs[0].deviation > 0.1
