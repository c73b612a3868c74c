"""What the posed modules, in whatever process, know of the machine: its file, and what processes tell each other by.

The environment variable `POSED_GPU` names a folder with `machine.json`. In it lie also `builds`, a line for each engine
that was built; `busy/<UUID>/`, a file for each process that has taken that GPU; and `lost`, once a GPU was.
"""

import json
import os
from pathlib import Path

FOLDER = Path(os.environ["POSED_GPU"])
MACHINE = json.loads((FOLDER / "machine.json").read_text())
GPUS = MACHINE["gpus"]
LOST = FOLDER / "lost"
BUILDS = FOLDER / "builds"


def visible():
    """The GPUs that CUDA shows this process, in the order of CUDA_VISIBLE_DEVICES."""
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return GPUS
    words = [word for word in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if word]
    numbered = [(str(index), gpu) for index, gpu in enumerate(GPUS)]
    return [gpu for word in words for index, gpu in numbered if word == index or gpu["uuid"].startswith(word)]


def take(gpu):
    """Notes that this process is on the GPU; it never says when it goes."""
    folder = FOLDER / "busy" / gpu["uuid"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(os.getpid())).touch()


def users(gpu):
    """The processes on the GPU that live."""
    folder = FOLDER / "busy" / gpu["uuid"]
    return [int(file.name) for file in folder.glob("*") if _lives(file.name)]


def _lives(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def next_build():
    """How many engines were built before this one."""
    with BUILDS.open("a+") as file:
        file.write(f"{os.getpid()}\n")
        file.flush()
        file.seek(0)
        return len(file.readlines()) - 1


def load(module):
    """Raises ImportError where the machine has that module without the libraries that it needs."""
    if text := MACHINE["broken"].get(module):
        raise ImportError(text)
