"""The core is light: commands that need no runtime load none, nor NumPy, pandas or matplotlib."""

import subprocess
import sys

import pytest

from bench import backends

HEAVY = {"paddle", "paddle2onnx", "onnx", "onnxruntime", "openvino", "pandas", "matplotlib", "numpy"}
SCRIPT = """
import sys
sys.argv = ["bench", *{words!r}]
from bench import cli
try:
    cli.main()
except SystemExit as end:
    assert end.code == 0, end.code
print("loaded", *sorted({heavy!r} & set(sys.modules)))
"""


def loaded_by(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(words=words, heavy=HEAVY)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("run", "--help"),
        ("list", "models"),
        ("list", "devices"),
        ("list", "backends"),
        ("list", "results"),
        ("run", "--model", "all", "--dry-run", "--backend", "simulated"),
        ("run", "--model", "DPN68", "--backend", "simulated", "--repetitions", "1", "--iterations", "5"),
    ],
)
def test_command_loads_nothing_heavy(words, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    assert loaded_by(*words, cwd=tmp_path) == []


@pytest.mark.parametrize("name", backends.names())
def test_backend_file_loads_no_runtime(name):
    script = f"import sys, bench.backends.{name}; print('loaded', *sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loaded"]
