"""Everything that is checked: `nox` runs what CI runs, `nox -l` lists the rest."""

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True

CI = os.environ.get("CI") == "true"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIGHT = "not runtime and not lite and not adb and not rtx and not slow and not browser"
#: arithmetic, pictures, compilers and virtual environments
ONCE = (
    "tests/test_selfcheck.py",
    "tests/test_selfcheck_record.py",
    "tests/report/test_plots.py",
    "tests/test_lite_runner.py",
    "tests/test_homes.py",
)
#: real runtimes, but no threads are counted, and nothing is timed but posed GPUs, which only wait: two at once don't
#: disturb each other
UNTIMED = (
    "tests/test_every_card.py",
    "tests/test_weights.py",
    "tests/test_networks.py",
    "tests/test_fusing.py",
    "tests/gpu",
)
SUPPORTED = ("3.11", "3.12", "3.13")


def interpreters() -> list[str]:
    """The supported versions that this machine has; those that pyenv keeps to itself are put on the path."""
    found = []
    for version in SUPPORTED:
        kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        for candidate in (shutil.which(f"python{version}"), *map(str, kept)):
            if candidate and _runs(candidate):
                os.environ["PATH"] = os.pathsep.join([str(Path(candidate).parent), os.environ["PATH"]])
                found.append(version)
                break
    return found


def _runs(python: str) -> bool:
    # A pyenv shim is on the path whether or not a Python stands behind it.
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


PYTHONS = interpreters()
#: what holds on the oldest and on the newest holds between them; `nox -s tests` runs all
TESTS = dict.fromkeys(f"tests-{python}" for python in (*PYTHONS[:1], *PYTHONS[-1:])) or ("tests",)
nox.options.sessions = ["lint", *TESTS, "backends", "phones", "docs", "stale", "wheel"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and the layers of the code."""
    session.install(".[report,dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("python", "tests/gpu/mistyped.py")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All that needs no runtime, on each Python found; what is long and the same on all, on the first alone."""
    session.install("-e", ".[report,test]")
    left_out = [] if session.python == PYTHONS[0] else [f"--ignore={path}" for path in ONCE]
    # Two processes on any machine: a file's tests share fixtures that take long, so they stay together.
    spread = ["-n", "2", "--dist", "loadfile"]
    session.run("pytest", "-m", LIGHT, *spread, *left_out, *session.posargs)


@nox.session(python=PYTHONS[:1])
def coverage(session: nox.Session) -> None:
    """Which lines and branches the tests of `tests` reach; twice as slow as those."""
    session.install("-e", ".[report,test]")
    measured = ["--cov", "--cov-report=term:skip-covered"]
    session.run("pytest", "-m", LIGHT, *measured, *session.posargs)


@nox.session(python=PYTHONS[:1])
def backends(session: nox.Session) -> None:
    """Real runtimes: the conformance suite, networks, exports and the command line; one card a family."""
    session.install("-e", ".[cpu,report,test]")
    set_up_paddle_lite(session)
    marks = ["-m", "runtime and not lite and not adb and not slow"]
    session.run("pytest", *marks, "-n", "2", *UNTIMED, *session.posargs)
    session.run("pytest", *marks, *(f"--ignore={path}" for path in UNTIMED), *session.posargs)


@nox.session(python=PYTHONS[:1])
def phones(session: nox.Session) -> None:
    """Real Paddle Lite, and the real adb client against a loopback phone with each of its faults at each step."""
    session.install("-e", ".[cpu,report,test]")
    if CI:
        needed(session, "adb", ("adb",))
    set_up_paddle_lite(session)
    session.run("pytest", "-m", "(adb or lite) and not slow", "-n", "2", "--dist", "loadfile", *session.posargs)


def set_up_paddle_lite(session: nox.Session) -> None:
    """Without a CPython 3.10 its tests are skipped; in CI there must be one."""
    session.run("bench", "setup", "paddle_lite", success_codes=[0] if CI else [0, 3])


@nox.session(python=PYTHONS[1:])
def newer(session: nox.Session) -> None:
    """The tests of `backends` on the other Pythons."""
    backends(session)


@nox.session(python=PYTHONS[:1])
def browser(session: nox.Session) -> None:
    """The HTML page in headless Chromium, opened from disk: plot, tables, foreign names, no network."""
    session.install("-e", ".[report,test,browser]")
    found = {"BENCH_CHROMIUM": needed(session, "chromium", BROWSERS)}
    session.run("pytest", "-m", "browser", "tests/browser", *session.posargs, env=found)


def needed(session: nox.Session, package: str, programs: tuple[str, ...]) -> str:
    """Where one of `programs` is. CI installs Debian's package if need be; elsewhere nobody's system is changed."""

    def found() -> str | None:
        return next(filter(None, map(shutil.which, programs)), None)

    if not found() and CI and os.geteuid() == 0 and shutil.which("apt-get"):
        session.run("apt-get", "update", "-q", external=True)
        session.run("apt-get", "install", "-q", "-y", "--no-install-recommends", package, external=True)
    return found() or session.error(
        f"none of {', '.join(programs)} is on the path; install it, as with: apt-get install {package}"
    )


@nox.session
def docs(session: nox.Session) -> None:
    """That the generated blocks of README.md and docs/ are what the commands print now."""
    session.install("-e", ".[report]")
    session.run("python", "docs/generate.py", "--check")


@nox.session
def reports(session: nox.Session) -> None:
    """Makes what stands in reports/ anew."""
    generate(session)


def generate(session: nox.Session, *words: str) -> None:
    """With the versions of requirements.txt, since plots depend on them."""
    session.install("-e", ".", "-r", "reports/requirements.txt")
    session.run("python", "reports/generate.py", *words, *session.posargs)


@nox.session
def stale(session: nox.Session) -> None:
    """Whether what stands in reports/ is what would be made now."""
    generate(session, "--check")


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds the wheel, installs it alone in an empty environment elsewhere, and lists what travels in it."""
    session.install("build")
    folder = Path(session.create_tmp())
    session.run("python", "-m", "build", "--wheel", "--outdir", str(folder), ".")
    built = max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.run("python", "tests/check_wheel.py", str(built))


@nox.session
def models(session: nox.Session) -> None:
    """Every card: builds, exports and passes parity on every runtime at batch 1 (about an hour)."""
    session.install("-e", ".[cpu,report,test]")
    set_up_paddle_lite(session)
    session.run("pytest", "-m", "slow", "tests/test_every_card.py", "--timeout=1200", *session.posargs)


@nox.session
def kill(session: nox.Session) -> None:
    """Kills `bench run` at 50 random moments and resumes it."""
    session.install("-e", ".[report,test]")
    session.run("pytest", "-m", "slow", "tests/test_resume.py", *session.posargs)


@nox.session
def compare(session: nox.Session) -> None:
    """5,000 simulated comparisons with a known truth: false alarms and power as promised."""
    session.install("-e", ".[report,test]")
    session.run("pytest", "-m", "slow", "tests/test_compare.py", "-s", *session.posargs)


#: by the beginning of the names of their tests
GPU_WHEELS = {
    "onnxruntime": ["onnxruntime-gpu==1.31.1", "numpy==2.4.6"],
    "onnxruntime 1.20": ["onnxruntime-gpu==1.20.2", "numpy==2.4.6"],
    "onnxruntime with CUDA 13": [
        "onnxruntime-gpu==1.31.1",
        "numpy==2.4.6",
        "nvidia-cublas==13.10.0.20",
        "nvidia-cuda-runtime==13.5.37",
        "nvidia-curand==10.4.5.25",
    ],
    "onnxruntime with CUDA 12": [
        "onnxruntime-gpu==1.26.0",
        "numpy==2.4.6",
        "nvidia-cublas-cu12==12.1.3.1",
        "nvidia-cuda-runtime-cu12==12.9.79",
        "nvidia-cudnn-cu12==9.1.0.70",
        "nvidia-cufft-cu12==11.0.2.54",
        "nvidia-curand-cu12==10.3.2.106",
    ],
    "paddle": ["paddlepaddle-gpu==2.6.2", "numpy==1.26.4", "setuptools==84.2.1"],
    "cpu paddle": ["paddlepaddle==3.3.1", "numpy==2.4.6", "setuptools==84.2.1"],
    "tensorrt": ["tensorrt-cu13-bindings==11.4.0.106", "cuda-bindings==13.4.4", "numpy==2.4.6"],
    "cuda 13": ["cuda-bindings==13.4.4", "numpy==2.4.6"],
    "cuda 12.9": ["cuda-bindings==12.9.10", "numpy==2.4.6"],
    "cuda 12.6": ["cuda-python==12.6.2.post1", "numpy==2.4.6"],
}


@nox.session(python=PYTHONS[:1])
@nox.parametrize("wheel", list(GPU_WHEELS), ids=[name.replace(" ", "-") for name in GPU_WHEELS])
def gpu_wheels(session: nox.Session, wheel: str) -> None:
    """Real wheels for GPUs on a machine without one: what is missing is said, nothing is timed (docs/gpu.md; 8 GB)."""
    session.install("-e", ".[test]", "onnx==1.23.2", "protobuf==7.36.2", *GPU_WHEELS[wheel])
    named = f"test_{wheel.partition(' ')[0]}"
    session.run("pytest", "-m", "slow", "tests/gpu/test_real_wheels.py", "-k", named, *session.posargs)


@nox.session
def recipes(session: nox.Session) -> None:
    """Whether what docs/gpu.md tells to install goes together, asked of the package index; installs none of it."""
    session.install("-e", ".", "uv")
    session.run("python", "tests/gpu/recipes.py", *session.posargs)


@nox.session
def fidelity(session: nox.Session) -> None:
    """Our medians against OpenVINO's benchmark_app and bare loops over ONNX Runtime and Paddle, interleaved."""
    session.install("-e", ".[cpu,report]")
    session.run("python", "tests/fidelity.py", *session.posargs)


@nox.session
def startup(session: nox.Session) -> None:
    """How long `bench --help` and `bench list models` take, median of 20."""
    session.install("-e", ".")
    session.run("python", "tests/startup.py", *session.posargs)


@nox.session
def scale(session: nox.Session) -> None:
    """Time and memory of `bench report` over 10,000, 100,000 and 1,000,000 records; fails beyond the limits."""
    session.install("-e", ".[report]")
    session.run("python", "tests/scale.py", *session.posargs)


@nox.session(python=PYTHONS[:1])
def rtx(session: nox.Session) -> None:
    """Our build code against a real builder, TensorRT-RTX's, which needs no GPU: cards of eight families (minutes)."""
    session.install("-e", ".[cpu,rtx,test]")
    session.run("pytest", "-m", "rtx", "--timeout=1200", "tests/gpu/test_rtx.py", *session.posargs)


@nox.session(python=PYTHONS[:1])
def surfaces(session: nox.Session) -> None:
    """Whether the bindings of TensorRT, 8.6 to 11.4, and of CUDA have the names that we use; needs a C compiler."""
    session.install("pip", "-e", ".")
    session.run("python", "tests/gpu/surfaces.py", *session.posargs)


@nox.session
def latex(session: nox.Session) -> None:
    """Compiles pages in LaTeX and foreign strings with the pdflatex of this machine."""
    session.install("-e", ".[report,test]")
    session.run("pytest", "-m", "slow", "tests/report/test_latex.py", *session.posargs)
