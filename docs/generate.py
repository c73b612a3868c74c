"""Writes what commands print, and the recipes for GPUs, into the marked blocks of README.md and of docs/.

`python docs/generate.py`; with `--check` it only compares.
A block stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from bench import catalog
from bench.catalog import ModelCard
from bench.gpu import matrix

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "detector.md", ROOT / "docs" / "gpu.md"]


def output(*arguments: str) -> str:
    """What `bench` writes to standard output on a terminal of 100 columns, run in the root of the checkout."""
    command = [sys.executable, "-m", "bench.cli", *arguments]
    environ = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.replace("python -m bench.cli", "bench").rstrip()


def printed(*arguments: str) -> str:
    """A command and its output, as a block of code."""
    return f"```\n$ bench {' '.join(arguments)}\n{output(*arguments)}\n```"


def families() -> str:
    """A row a family: how many cards, and the span of their sizes."""
    lines = ["| family | cards | parameters, M | GMACs |", "|---|---|---|---|"]
    for family, group in itertools.groupby(catalog.cards().values(), key=lambda card: card.family):
        cards = list(group)
        lines.append(f"| {family} | {len(cards)} | {_span(cards, 'params', 1e6)} | {_span(cards, 'macs', 1e9)} |")
    return "\n".join(lines)


def _span(cards: Iterable[ModelCard], field: str, unit: float) -> str:
    counts = sorted(count / unit for card in cards if (count := getattr(card, field)))
    return f"{counts[0]:.3g} – {counts[-1]:.3g}"


RUNTIMES = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime", "paddle": "Paddle"}


def recipes(family: matrix.Family) -> str:
    """What to type for each runtime, those with the same commands together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for runtime, lines in matrix.RECIPES[family].items():
        alike.setdefault(lines, []).append(" with ".join(RUNTIMES[name] for name in runtime.split("_")))
    blocks = ("{}:\n\n```sh\n{}\n```".format(", ".join(names), "\n".join(lines)) for lines, names in alike.items())
    return "\n\n".join(blocks)


LIVE = "selfcheck live --report --format markdown --file docs/selfcheck-live.jsonl"
BLOCKS = {
    "help": lambda: printed("--help"),
    "run-help": lambda: printed("run", "--help"),
    "families": families,
    "live": lambda: output(*LIVE.split()),
    **{f"recipes-{family}": partial(recipes, family) for family in matrix.RECIPES},
}


def regenerated(text: str) -> str:
    """The page with every block made anew. Raises KeyError for a block that nobody makes."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- begin {name} -->\n{BLOCKS[name]()}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", block, text, flags=re.DOTALL)


def main() -> None:
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = regenerated(text)
        if new != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(stale)}: not what the commands print now; run: python docs/generate.py")


if __name__ == "__main__":
    main()
