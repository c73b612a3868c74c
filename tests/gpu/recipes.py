"""Whether what the recipes of docs/gpu.md install goes together: `python tests/gpu/recipes.py`, which installs nothing.

Each recipe is resolved as a whole, for Python 3.11 on Linux x86-64, wheels alone. Two things are on no public index:
TensorRT's libraries, which its packages fetch from NVIDIA while they install, so its bindings of that release are
resolved in their place; and Paddle 3 for GPUs, which is left out.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from bench.gpu.matrix import RECIPES

ROOT = Path(__file__).parents[2]
RESOLVE = [
    *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-progress"),
    *("--only-binary", ":all:", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
]
ELSEWHERE = " --index-url INDEX"


def asked(lines, elsewhere=False):
    """What a recipe asks pip for, in order; with `elsewhere` also what is on the index of its maker alone."""
    typed = [line.partition("/bin/pip install ")[2] for line in lines]
    kept = [words.removesuffix(ELSEWHERE) for words in typed if elsewhere or not words.endswith(ELSEWHERE)]
    return [word for words in kept for word in shlex.split(words)]


def public(requirement):
    """The part of it that a public index has: of TensorRT the bindings."""
    return re.sub(r"^(tensorrt-cu\d+)==", r"\1-bindings==", requirement)


def resolve(requirements):
    """What would be installed, as pip prints it, and why nothing would be."""
    extras = [match[1] for each in requirements if (match := re.fullmatch(r"\.\[(\w+)\]", each))]
    sources = [str(ROOT / "pyproject.toml"), *(word for extra in extras for word in ("--extra", extra)), "-"]
    named = "\n".join(public(each) for each in requirements if not each.startswith("."))
    done = subprocess.run([*RESOLVE, *sources], input=named, capture_output=True, text=True, check=False)
    return done.stdout.split(), done.stderr.strip() if done.returncode else ""


def main():
    wanted = {}
    for family, recipes in RECIPES.items():
        for runtime, lines in recipes.items():
            wanted.setdefault(tuple(asked(lines)), []).append(f"{family} {runtime}")
    failed = False
    for requirements, names in wanted.items():
        found, why = resolve(requirements)
        print(f"{', '.join(names)}: {why or f'{len(found)} packages'}")
        failed |= bool(why)
    sys.exit(failed)


if __name__ == "__main__":
    main()
