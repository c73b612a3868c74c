"""One file to send when a number looks wrong: what the doctor said, machine, packages, driver, and the last run."""

import io
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from bench import environment, store
from bench.catalog import HardwareProfile
from bench.errors import UsageError
from bench.formats import without_home

#: what names one device of the world, in what vendors' tools print; phones' serial numbers are not asked for at all
NAMES_ONE = re.compile(r"(?im)^([^:\n]*(?:serial number|uuid|pdi|guid|board id)[^:\n]*:).*$")
UUID = re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}[0-9a-f/-]*")
HOME = re.compile(r"/home/[^/\s\"']+")
TIMEOUT_S = 60


def pack(file: Path, lines: Sequence[str], profile: HardwareProfile, results: Path) -> None:
    """Writes a zip of text files. Home folders and serial numbers are taken out; read it before you send it.

    Raises UsageError where `file` is there already or can't be written.
    """
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in _parts(lines, profile, results):
            out.writestr(name, _public(text))
    try:
        with file.open("xb") as stream:
            stream.write(whole.getvalue())
    except OSError as error:
        found = "it is there already" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise UsageError(f"cannot write {file}", found, "name another with --pack FILE") from error


def _parts(lines: Sequence[str], profile: HardwareProfile, results: Path) -> Iterator[tuple[str, str]]:
    yield "doctor.txt", "\n".join(lines) + "\n"
    yield "environment.json", _json(environment.describe())
    yield "packages.txt", "".join(sorted(f"{each.name}=={each.version}\n" for each in metadata.distributions()))
    yield "system.txt", f"{platform.platform()}\n"
    if profile.kind == "gpu":
        yield "nvidia-smi.txt", _told(["nvidia-smi", "-q"])
    if run := _last_run(results / profile.name):
        yield f"results/{run.name}", run.read_text(encoding="utf-8", errors="replace")


def _last_run(folder: Path) -> Path | None:
    """The file that was written to last."""
    return max(store.paths(folder), key=lambda path: path.stat().st_mtime, default=None)


def _told(command: list[str]) -> str:
    """What a program prints, or why it doesn't."""
    if not shutil.which(command[0]):
        return f"there is no {command[0]}\n"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not answer within {TIMEOUT_S} s\n"
    return done.stdout.decode(errors="replace")


def _json(data: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(data)).decode() + "\n"


def _public(text: str) -> str:
    without = UUID.sub(r"\1-…", NAMES_ONE.sub(r"\1 …", text))
    return HOME.sub("~", without_home(without))
