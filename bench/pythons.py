"""Other Python environments, each with a runtime of its own: whether a live worker can run there, and what it needs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from bench.backends import BaseBackend
from bench.errors import Unavailable, UsageError
from bench.schema import PARENT_VARIABLE

LEAST = (3, 11)
#: third parties that a live worker imports besides its runtime
NEEDED = ("msgspec", "numpy", "psutil")
TIMEOUT_S = 60.0
EXAMPLE = "name one such as old/bin/python"
#: what would let one environment's packages into another
LEAKS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
LOOK = """
import importlib.util, json, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps([list(sys.version_info[:2]), missing]))
"""


def absolute(python: str) -> str:
    """The interpreter's absolute path; not resolved, since in a virtual environment it is a link to another one."""
    found = shutil.which(python)
    if not found:
        raise UsageError(f"no Python {python}", "there is no such program", EXAMPLE)
    return str(Path(found).absolute())


def own_environment() -> dict[str, str]:
    """Our variables without those that lead to packages: an environment holds what its own interpreter finds."""
    return {name: value for name, value in os.environ.items() if name not in LEAKS}


def require(python: str, backend: BaseBackend) -> None:
    """Raises Unavailable, naming what to install, where a live worker on `backend` can't run under `python`."""
    found, missing = _look(python, (*NEEDED, *backend.requires))
    if found < LEAST:
        raise Unavailable(
            f"{python} is Python {'.'.join(map(str, found))}",
            "the worker needs 3.11",
            "make the environment with a newer one",
        )
    if missing:
        packages = [_package(name, backend) for name in missing]
        raise Unavailable(
            f"{python} lacks {', '.join(missing)}",
            f"a worker on {backend.name} imports them there",
            f"{python} -m pip install {' '.join(packages)}",
        )


def _package(module: str, backend: BaseBackend) -> str:
    return backend.install.rpartition(" ")[2] if module in backend.requires else module


def version(python: str) -> tuple[int, ...]:
    """(major, minor) of an interpreter. Raises UsageError for what is none."""
    return _look(python, ())[0]


def _look(python: str, modules: tuple[str, ...]) -> tuple[tuple[int, ...], list[str]]:
    try:
        done = subprocess.run(
            [python, "-c", LOOK, *modules],
            env=own_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        found, missing = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"{python} does not work as a Python", _said(error), "name one such as old/bin/python"
        ) from error
    return tuple(found), missing


def _said(error: Exception) -> str:
    """The last line that the program printed, or what else became of it."""
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return str(lines[-1]) if lines else type(error).__name__


def variables(folder: Path) -> dict[str, str]:
    """What a worker under another Python has: nothing that leads to our packages, but this one by way of `folder`."""
    ours = {"PYTHONPATH": str(code_folder(folder)), PARENT_VARIABLE: str(os.getpid())}
    return {**own_environment(), **ours}


def code_folder(folder: Path) -> Path:
    """A folder with nothing but this package in it, made below `folder`: to be put on another Python's path.

    The package's own parent won't do. Where bench is installed, that holds our runtimes, too.
    """
    place = folder / "code"
    place.mkdir(exist_ok=True)
    link = place / "bench"
    if not link.is_symlink():
        link.symlink_to(Path(__file__).resolve().parent, target_is_directory=True)
    return place
