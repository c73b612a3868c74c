"""Environments of their own, for backends whose packages can't live beside ours: made once by `bench setup`, and kept.

A home lies in the cache under a key of all that it is made from, and counts only once it is sealed: what a setup leaves
that was killed, or ran out of disk, is cleared away by the next. Once made it is used offline.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from bench import backends, pythons
from bench.artifacts import default_root, key_of
from bench.backends import BaseBackend, Home
from bench.errors import Failed, Unavailable, UsageError
from bench.lifeline import die_with_parent
from bench.schema import Frozen

#: what our worker imports besides the backend's packages
NEEDED = ("filelock>=3.16", "msgspec>=0.19", "platformdirs>=4.3", "psutil>=6")
SEAL = "home.json"
OFFLINE = re.compile(r"(?i)connection|timed out|name resolution|network is unreachable|dns error")
FREEZE = """
import importlib.metadata, json, sys
packages = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "packages": packages}))
"""


class Sealed(Frozen, frozen=True):
    """What a home turned out to hold: the Python's full version, and that of each package by its name."""

    python: str
    packages: dict[str, str]


def place(home: Home) -> Path:
    """Where a home lies, whether or not it is there."""
    key = key_of({"python": home.python, "packages": home.packages, "needed": NEEDED})
    return default_root() / "homes" / key[:16]


def python(name: str) -> str:
    """The interpreter for workers of the backend of that name; "" for our own.

    Raises Unavailable where it isn't set up.
    """
    backend = backends.get(name) if name else None
    if backend is None or backend.home is None:
        return ""
    if sealed(backend.home) is None:
        raise Unavailable(missing(backend))
    return str(_program(backend.home))


def missing(backend: BaseBackend) -> str:
    """Why the backend can't work here, or "": its packages must be found in this Python, or in its home."""
    if backend.home is None:
        return backends.missing(backend)
    if sealed(backend.home):
        return ""
    wants = f"{backend.name} works in an environment of its own (CPython {backend.home.python}), which is not set up"
    if _interpreter(backend.home.python):
        return f"{wants}; type: bench setup {backend.name}"
    return f"{wants}; no CPython {backend.home.python} was found to make it with; {_get(backend, backend.home)}"


def versions(home: Home) -> dict[str, str]:
    """The versions of what a home was asked to hold."""
    return {name: version for name, version in contents(home).items() if name != "python"}


def contents(home: Home) -> dict[str, str]:
    """For the environment of a record: the home's Python, and what it was asked to hold; nothing of one not set up."""
    seal = sealed(home)
    if seal is None:
        return {}
    asked = {requirement.partition("=")[0].partition("<")[0].partition(">")[0] for requirement in home.packages}
    held = {name: version for name, version in sorted(seal.packages.items()) if name in asked}
    return {"python": seal.python, **held}


def sealed(home: Home) -> Sealed | None:
    """What is in a home that is ready; None for one that isn't, or has lost the Python that it was made with."""
    try:
        seal = msgspec.json.decode((place(home) / SEAL).read_bytes(), type=Sealed)
    except (OSError, msgspec.DecodeError):
        return None
    return seal if os.access(_program(home), os.X_OK) else None


def set_up(name: str, say: Callable[[str], None]) -> Path:
    """Makes the home of a backend unless it is there; returns its folder.

    Raises UsageError for a backend that needs none, Unavailable without an interpreter, Failed where its packages can't
    be installed or don't load.
    """
    backend = backends.get(name)
    if backend.home is None:
        do = f"install it with: {backend.install}" if backend.install else "there is nothing to set up"
        raise UsageError(f"{name} needs no environment of its own", "it works in this Python", do)
    folder = place(backend.home)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                pass
        except Timeout:
            say(f"another setup of {name} is at work; waiting for it")
        with lock:
            if sealed(backend.home) is None:
                _make(backend, backend.home, folder, say)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}", error.strerror or str(error), "make room, or set BENCH_CACHE to another folder"
        ) from error
    return folder


def _get(backend: BaseBackend, home: Home) -> str:
    return f"install one, as with: uv python install {home.python}; then: bench setup {backend.name}"


def _make(backend: BaseBackend, home: Home, folder: Path, say: Callable[[str], None]) -> None:
    base = _interpreter(home.python)
    if not base:
        raise Unavailable(
            f"no CPython {home.python}, which the packages of {backend.name} need",
            f"neither python{home.python} on the path nor pyenv nor uv has one",
            _get(backend, home),
        )
    shutil.rmtree(folder, ignore_errors=True)  # nobody sealed it, and we hold the lock
    try:
        say(f"making an environment with {base}")
        _run(backend, [base, "-m", "venv", *_without_pip(), str(folder)])
        say(f"installing {', '.join(home.packages)}")
        _run(backend, [*_installer(_program(home)), *NEEDED, *home.packages])
        found = _run(backend, [str(_program(home)), "-c", FREEZE])
        _run(backend, [str(_program(home)), "-c", f"import {', '.join(backend.requires)}"])
        (folder / SEAL).write_text(found.splitlines()[-1], encoding="utf-8")
    finally:
        if not (folder / SEAL).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _program(home: Home) -> Path:
    return place(home) / "bin" / "python"


def _without_pip() -> list[str]:
    return ["--without-pip"] if shutil.which("uv") else []


def _installer(program: Path) -> list[str]:
    """uv is many times faster; pip is there always."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", str(program)]
    return [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _interpreter(version: str) -> str:
    """A CPython of that version on this machine, or ""."""
    return next(filter(lambda candidate: _is(candidate, version), _candidates(version)), "")


def _candidates(version: str) -> Iterator[str]:
    yield from filter(None, [shutil.which(f"python{version}")])
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from map(str, sorted(kept.glob(f"{version}.*/bin/python{version}"), reverse=True))
    if uv := shutil.which("uv"):
        command = [uv, "python", "find", "--no-python-downloads", "--system", version]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        yield from done.stdout.split("\n")[:1] if done.returncode == 0 else []


def _is(candidate: str, version: str) -> bool:
    """A shim of pyenv is on the path whether or not a Python stands behind it."""
    try:
        return pythons.version(candidate) == tuple(map(int, version.split(".")))
    except UsageError:
        return False


def _run(backend: BaseBackend, command: list[str]) -> str:
    done = subprocess.run(
        command,
        env=pythons.own_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,  # else pip would go on filling a folder that the next setup clears away
        check=False,
    )
    if done.returncode:
        said = _cause(done.stderr or done.stdout) or f"exit code {done.returncode}"
        raise Failed(f"cannot set up {backend.name}", said, "mend that, and type the same again", log=done.stderr)
    return done.stdout


def _cause(text: str) -> str:
    """The last line, or an earlier one on the network: pip ends by saying that there are no such packages."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if OFFLINE.search(line)), lines[-1] if lines else "")
